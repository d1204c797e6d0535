//! The eBPF mode with real namespaces, programs and sockets.

mod fast_path;
mod loss;
mod world;

use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mesh_agent::intercept::ebpf::Ebpf;
use mesh_agent::intercept::{Interceptor, Target};
use mesh_agent::model::{CapturePolicy, CidrSet, PodId, PortSet};
use mesh_agent::sys::socket::{PROXY_MARK, Reach, Source, listen, upstream};
use mesh_ebpf::abi::CAPTURE_MARK;
use mesh_ebpf::decide::Reason;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use world::{Agent, Connection, Net, PATIENCE, Server, Test, World, addresses, check};

/// To be called first of all, before anything is isolated: in a process that one of the tests has started to play an
/// agent, it does so, and does not return.
pub use loss::play_agent_if_asked;

/// The tests, by name.
pub fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = vec![
        ("ebpf::probe", probe),
        ("ebpf::outbound", outbound),
        ("ebpf::inbound", inbound),
        ("ebpf::to_itself", to_itself),
        ("ebpf::preserved_source", preserved_source),
        ("ebpf::outbound_policy", outbound_policy),
        ("ebpf::inbound_policy", inbound_policy),
        ("ebpf::owners", owners),
        ("ebpf::interfaces", interfaces),
        ("ebpf::virtual_interface", virtual_interface),
        ("ebpf::two_pods_of_one_node", two_pods_of_one_node),
        ("ebpf::odd_sockets", odd_sockets),
        ("ebpf::without_ipv6", without_ipv6),
        ("ebpf::open_connections_survive", open_connections_survive),
        ("ebpf::update", update),
        ("ebpf::repair", repair),
        ("ebpf::failed_enrolment_leaves_nothing", failed_enrolment),
        ("ebpf::recreated_pod", recreated_pod),
        ("ebpf::nothing_is_left", nothing_is_left),
    ];
    tests.extend(fast_path::tests());
    tests.extend(loss::tests());
    tests
}

fn probe() -> Result<()> {
    let mut agent = Agent::start()?;
    // With log records, so that the verifier sees that part of the programs as well.
    agent.options.log_connections = true;
    Ebpf::probe(&agent.options)?;
    for program in agent.ebpf.programs() {
        let count = program.verified_instructions.context("no statistics")?;
        ensure!(count > 0 && count < 100_000, "{program:?}");
    }
    Ok(())
}

fn outbound() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _server4 = Server::start(&world.node, "203.0.113.5:80")?;
    let _server6 = Server::start(&world.node, "[2001:db8::5]:80")?;
    for to in ["203.0.113.5:80", "[2001:db8::5]:80"] {
        check(pod, to, "direct")?;
    }
    let _pod = agent.enrol(pod, 0, &CapturePolicy::default())?;
    for to in ["203.0.113.5:80", "[2001:db8::5]:80"] {
        check(pod, to, "out")?;
        let connection = Connection::open(pod, to)?;
        let seen = connection.stream().peer_addr()?;
        ensure!(seen.to_string() == to, "the app sees {seen}");
        let own = connection.stream().local_addr()?;
        ensure!(addresses(0).contains(&own.ip()), "the app is {own}");
        ensure!(
            own == connection.client,
            "the agent sees {}",
            connection.client
        );
    }
    // IPv4 through an IPv6 socket.
    Connection::open(pod, "[::ffff:203.0.113.5]:80")?.expect("out", "203.0.113.5:80")?;
    // Where nobody would answer, the agent does.
    check(pod, "198.51.100.7:443", "out")?;
    let steered = count(&agent, Reason::Steered)?;
    ensure!(steered == 6, "{steered} steered");
    ensure!(count(&agent, Reason::LookupOutbound)? == 6);
    ensure!(count(&agent, Reason::EstablishedActive)? >= 6);
    Ok(())
}

fn inbound() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _enrolled = agent.enrol(pod, 0, &CapturePolicy::default())?;
    let _servers = servers(pod, &[8080, 15008, 15020, 15021, 15090])?;
    for (to, client) in [("10.77.0.10", "10.77.0.1"), ("[fd77::10]", "fd77::1")] {
        let connection = Connection::open(&world.node, &format!("{to}:8080"))?
            .expect("in", &format!("{to}:8080"))?;
        let client: IpAddr = client.parse()?;
        ensure!(connection.client.ip() == client);
        ensure!(connection.client == connection.stream().local_addr()?);
        for port in [15008, 15020, 15021, 15090] {
            check(&world.node, &format!("{to}:{port}"), "direct")?;
        }
        // Nobody listens, but the agent is asked first.
        check(&world.node, &format!("{to}:81"), "in")?;
    }
    // An address that the pod was given after enrolment is inbound all the same.
    pod.ip("addr add 10.77.0.99/24 dev eth0")?;
    check(&world.node, "10.77.0.99:8080", "in")
}

fn to_itself() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _enrolled = agent.enrol(pod, 0, &CapturePolicy::default())?;
    let _servers = servers(pod, &[8080])?;
    for to in [
        "10.77.0.10:8080",
        "[fd77::10]:8080",
        "127.0.0.1:8080",
        "127.0.0.2:8080",
        "[::1]:8080",
    ] {
        check(pod, to, "direct")?;
    }
    Connection::open(pod, "0.0.0.0:8080")?.expect("direct", "127.0.0.1:8080")?;
    Connection::open(pod, "[::]:8080")?.expect("direct", "[::1]:8080")?;
    for (to, source) in [("10.77.0.10:8080", "127.0.0.6"), ("[fd77::10]:8080", "::6")] {
        let connection = open_upstream(pod, to, Source::Sidecar)?.expect("direct", to)?;
        ensure!(connection.client.ip() == source.parse::<IpAddr>()?);
    }
    Ok(())
}

fn preserved_source() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _enrolled = agent.enrol(pod, 0, &CapturePolicy::default())?;
    let _servers = servers(pod, &[8080])?;
    for (to, client) in [
        ("10.77.0.10", "10.77.0.1"),
        ("10.77.0.10", "198.51.100.9"),
        ("[fd77::10]", "fd77::1"),
        ("[fd77::10]", "2001:db8:9::9"),
    ] {
        let client: IpAddr = client.parse()?;
        let open = format!("{to}:8080");
        let mut connection =
            open_upstream(pod, &open, Source::Client(client))?.expect("direct", &open)?;
        ensure!(connection.client.ip() == client, "{}", connection.client);
        connection.echo()?;
        // A reset has to find its way back as well.
        let closed: SocketAddr = format!("{to}:81").parse()?;
        let socket = upstream(&pod.ns, closed, Source::Client(client), Reach::Anywhere)?;
        let start = Instant::now();
        let refused = socket.connect_timeout(&closed.into(), PATIENCE);
        ensure!(
            refused.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused),
            "{client} to a closed port, after {:?}",
            start.elapsed()
        );
    }
    Ok(())
}

fn outbound_policy() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    world.node.ip("addr add 203.0.113.6/32 dev lo")?;
    let _servers = servers(&world.node, &[80, 81, 3306])?;
    let all_but = CapturePolicy {
        exclude_outbound_ports: vec![3306],
        exclude_outbound_cidrs: vec!["203.0.113.6/32".parse()?, "2001:db8::/64".parse()?],
        ..CapturePolicy::default()
    };
    let enrolled = agent.enrol(pod, 0, &all_but)?;
    check(pod, "203.0.113.5:3306", "direct")?;
    check(pod, "203.0.113.6:80", "direct")?;
    check(pod, "[2001:db8::5]:80", "direct")?;
    check(pod, "203.0.113.5:80", "out")?;
    Connection::open(pod, "[::ffff:203.0.113.6]:80")?.expect("direct", "203.0.113.6:80")?;
    drop(enrolled);
    let only = CapturePolicy {
        outbound_cidrs: CidrSet::Only(vec!["203.0.113.0/24".parse()?, "::/0".parse()?]),
        exclude_outbound_cidrs: vec!["203.0.113.6/31".parse()?],
        include_outbound_ports: vec![81],
        ..CapturePolicy::default()
    };
    let _enrolled = agent.enrol(pod, 0, &only)?;
    check(pod, "203.0.113.5:80", "out")?;
    check(pod, "203.0.113.6:80", "direct")?;
    // An exclusion is stronger than an included port.
    check(pod, "203.0.113.6:81", "direct")?;
    check(pod, "10.77.0.1:80", "direct")?;
    check(pod, "10.77.0.1:81", "out")?;
    check(pod, "[2001:db8::5]:80", "out")
}

fn inbound_policy() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _servers = servers(pod, &[80, 81, 15008, 15021])?;
    let only = CapturePolicy {
        inbound_ports: PortSet::Only(vec![80, 15008]),
        exclude_inbound_ports: vec![80],
        ..CapturePolicy::default()
    };
    let enrolled = agent.enrol(pod, 0, &only)?;
    check(&world.node, "10.77.0.10:80", "in")?;
    check(&world.node, "10.77.0.10:81", "direct")?;
    check(&world.node, "[fd77::10]:81", "direct")?;
    check(&world.node, "10.77.0.10:15008", "direct")?;
    check(&world.node, "10.77.0.10:15021", "direct")?;
    drop(enrolled);
    let none = CapturePolicy {
        inbound_ports: PortSet::Only(Vec::new()),
        ..CapturePolicy::default()
    };
    let _enrolled = agent.enrol(pod, 0, &none)?;
    check(&world.node, "10.77.0.10:80", "direct")
}

fn owners() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _servers = servers(&world.node, &[80])?;
    let _enrolled = agent.enrol(pod, 0, &CapturePolicy::default())?;
    for (user, group, wanted) in [
        (1000, 1000, "out"),
        (1337, 1000, "direct"),
        (1000, 1337, "direct"),
    ] {
        let output = pod.in_here(|| {
            Command::new("bash")
                .args(["-c", "exec 3<>/dev/tcp/203.0.113.5/80 && head -n 1 <&3"])
                .uid(user)
                .gid(group)
                .output()
        })??;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.starts_with(wanted), "{user}:{group}: {said}");
    }
    // The proxy's mark, with other bits beside it.
    Connection::open_with(pod, "203.0.113.5:80", |socket| {
        socket.set_mark(PROXY_MARK | 0x10_0000)
    })?
    .expect("direct", "203.0.113.5:80")?;
    open_upstream(pod, "203.0.113.5:80", Source::Pod)?.expect("direct", "203.0.113.5:80")?;
    Ok(())
}

fn interfaces() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let storage = Net::new("storage")?;
    pod.ip(&format!(
        "link add net1 type veth peer name eth0 netns {}",
        storage.name
    ))?;
    pod.ip("addr add 10.88.0.2/24 dev net1")?;
    pod.ip("link set net1 up")?;
    pod.ip("route add 192.0.2.0/24 via 10.88.0.1")?;
    pod.ip("route add 192.0.2.64/26 via 10.77.0.1")?;
    storage.ip("addr add 10.88.0.1/24 dev eth0")?;
    storage.ip("addr add 192.0.2.1/32 dev lo")?;
    storage.ip("link set eth0 up")?;
    let _elsewhere = servers(&storage, &[80])?;
    let _servers = servers(pod, &[8080])?;
    let policy = CapturePolicy {
        exclude_interfaces: vec!["net1".to_owned(), "missing".to_owned()],
        ..CapturePolicy::default()
    };
    let _enrolled = agent.enrol(pod, 0, &policy)?;
    check(pod, "10.88.0.1:80", "direct")?;
    check(pod, "192.0.2.1:80", "direct")?;
    check(pod, "192.0.2.65:80", "out")?;
    check(pod, "203.0.113.5:80", "out")?;
    check(&storage, "10.88.0.2:8080", "direct")?;
    check(&world.node, "10.77.0.10:8080", "in")
}

fn virtual_interface() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let machine = Net::new("vm")?;
    pod.ip(&format!(
        "link add tap0 type veth peer name eth0 netns {}",
        machine.name
    ))?;
    pod.ip("addr add 10.99.0.1/24 dev tap0")?;
    pod.ip("addr add fd99::1/64 dev tap0 nodad")?;
    pod.ip("link set tap0 up")?;
    machine.ip("addr add 10.99.0.2/24 dev eth0")?;
    machine.ip("addr add fd99::2/64 dev eth0 nodad")?;
    machine.ip("link set eth0 up")?;
    machine.ip("route add default via 10.99.0.1")?;
    machine.ip("-6 route add default via fd99::1")?;
    let policy = CapturePolicy {
        virtual_interfaces: vec!["tap0".to_owned()],
        ..CapturePolicy::default()
    };
    let _enrolled = agent.enrol(pod, 0, &policy)?;
    for to in ["203.0.113.5:80", "[2001:db8::5]:80"] {
        let connection = Connection::open(&machine, to)?.expect("out", to)?;
        ensure!(connection.client == connection.stream().local_addr()?);
    }
    check(pod, "203.0.113.5:80", "out")
}

fn two_pods_of_one_node() -> Result<()> {
    let world = World::new(2)?;
    let agent = Agent::start()?;
    let policy = CapturePolicy::default();
    let _a = agent.enrol(&world.pods[0], 0, &policy)?;
    let _b = agent.enrol(&world.pods[1], 1, &policy)?;
    let _servers = servers(&world.pods[1], &[8080])?;
    for (to, client) in [
        ("10.77.0.11:8080", "10.77.0.10"),
        ("[fd77::11]:8080", "fd77::10"),
    ] {
        check(&world.pods[0], to, "out")?;
        // The agent, going on in A's name, arrives at B's inbound listener as A.
        let connection = open_upstream(&world.pods[0], to, Source::Pod)?.expect("in", to)?;
        ensure!(connection.client.ip() == client.parse::<IpAddr>()?);
        // And in B the agent reaches the app.
        open_upstream(&world.pods[1], to, Source::Sidecar)?.expect("direct", to)?;
    }
    Ok(())
}

fn odd_sockets() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let early = pod
        .ns
        .run(|| Socket::new(Domain::IPV4, Type::STREAM, None))??;
    let _enrolled = agent.enrol(pod, 0, &CapturePolicy::default())?;
    let (to4, to6) = ("203.0.113.5:80", "[2001:db8::5]:80");
    Connection::connect(early, to4.parse()?)?.expect("out", to4)?;
    for to in [to4, to6] {
        let connection = Connection::open_with(pod, to, |socket| socket.set_mark(0x1))?;
        let mark = SockRef::from(connection.stream()).mark()?;
        ensure!(mark == 0x1 | CAPTURE_MARK, "the mark is {mark:#x}");
        connection.expect("out", to)?;
        Connection::open_with(pod, to, |socket| socket.bind_device(Some(b"eth0")))
            .and_then(|connection| connection.expect("out", to))
            .context("bound to eth0")?;
    }
    for (bound, to) in [
        ("127.0.0.1:0", to4),
        ("[::1]:0", to6),
        ("10.77.0.10:4321", to4),
        ("[fd77::10]:4321", to6),
    ] {
        let bound: SocketAddr = bound.parse()?;
        let connection = Connection::open_with(pod, to, |socket| socket.bind(&bound.into()))
            .with_context(|| format!("bound to {bound}"))?
            .expect("out", to)?;
        ensure!(connection.client.ip() == bound.ip());
        ensure!(bound.port() == 0 || connection.client == bound);
    }
    for to in [to4, to6] {
        let to: SocketAddr = to.parse()?;
        mptcp(pod, to).context("MPTCP")?;
        fast_open(pod, to).context("TCP fast open")?;
    }
    Ok(())
}

fn mptcp(pod: &Net, to: SocketAddr) -> Result<()> {
    let socket = pod
        .ns
        .run(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP)))??;
    let mut connection = Connection::connect(socket, to)?.expect("out", &to.to_string())?;
    ensure!(connection.stream().peer_addr()? == to);
    connection.echo()
}

/// The data goes with the first packet, where there is a cookie, and once only in either case.
fn fast_open(pod: &Net, to: SocketAddr) -> Result<()> {
    for _ in 0..2 {
        let socket = pod
            .ns
            .run(|| Socket::new(Domain::for_address(to), Type::STREAM, None))??;
        let flags = nix::libc::MSG_FASTOPEN;
        socket.send_to_with_flags(b"early", &to.into(), flags)?;
        let mut connection = Connection::greeted(socket.into())?.expect("out", &to.to_string())?;
        let mut early = [0; 5];
        connection.read_exact(&mut early)?;
        ensure!(&early == b"early");
        connection.echo()?;
    }
    Ok(())
}

fn without_ipv6() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    pod.in_here(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))??;
    let listeners = listen(&pod.ns, agent.ebpf.listen())?;
    let only4 = &addresses(0)[..1];
    let enrolment = agent.enrol_with(pod, only4, &CapturePolicy::default(), &listeners)?;
    let _recorder = world::Recorder::start(listeners)?;
    check(pod, "203.0.113.5:80", "out")?;
    check(&world.node, "10.77.0.10:80", "in")?;
    enrolment.withdraw()?;
    Ok(())
}

fn open_connections_survive() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _beyond = servers(&world.node, &[80])?;
    let _own = servers(pod, &[8080])?;
    let mut before = vec![
        Connection::open(pod, "203.0.113.5:80")?.expect("direct", "203.0.113.5:80")?,
        Connection::open(pod, "[2001:db8::5]:80")?.expect("direct", "[2001:db8::5]:80")?,
        Connection::open(&world.node, "10.77.0.10:8080")?.expect("direct", "10.77.0.10:8080")?,
        Connection::open(&world.node, "[fd77::10]:8080")?.expect("direct", "[fd77::10]:8080")?,
    ];
    let mut enrolled = agent.enrol(pod, 0, &CapturePolicy::default())?;
    let mut steered = vec![
        Connection::open(pod, "203.0.113.5:80")?.expect("out", "203.0.113.5:80")?,
        Connection::open(pod, "[2001:db8::5]:80")?.expect("out", "[2001:db8::5]:80")?,
        Connection::open(&world.node, "10.77.0.10:8080")?.expect("in", "10.77.0.10:8080")?,
        Connection::open(&world.node, "[fd77::10]:8080")?.expect("in", "[fd77::10]:8080")?,
    ];
    let alive = |connections: &mut Vec<Connection>| {
        connections
            .iter_mut()
            .enumerate()
            .try_for_each(|(i, c)| c.echo().with_context(|| format!("connection {i}")))
    };
    alive(&mut before).context("opened before enrolment")?;
    alive(&mut steered)?;
    enrolled.enrolment.stop_steering()?;
    for (from, to) in [
        (pod, "203.0.113.5:80"),
        (pod, "[2001:db8::5]:80"),
        (&world.node, "10.77.0.10:8080"),
        (&world.node, "[fd77::10]:8080"),
    ] {
        check(from, to, "direct")?;
    }
    alive(&mut before).context("opened before enrolment, after the stop")?;
    alive(&mut steered).context("steered, after the stop")?;
    ensure!(!enrolled.enrolment.repair()?, "a stopped pod is complete");
    check(pod, "203.0.113.5:80", "direct").context("a repair does not start it again")?;
    enrolled.enrolment.withdraw()?;
    alive(&mut before).context("opened before enrolment, after withdrawal")
}

fn update() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _beyond = servers(&world.node, &[80, 81])?;
    let _own = servers(pod, &[8080])?;
    let mut enrolled = agent.enrol(pod, 0, &CapturePolicy::default())?;
    let mut steered = Connection::open(pod, "203.0.113.5:81")?.expect("out", "203.0.113.5:81")?;
    enrolled.enrolment.stop_steering()?;
    check(pod, "203.0.113.5:80", "direct")?;
    // Taken back, with another policy, a second address and other listeners.
    pod.ip("addr add 10.77.0.98/24 dev eth0")?;
    let mut addresses = addresses(0).to_vec();
    addresses.push("10.77.0.98".parse()?);
    let listeners = listen_elsewhere(pod)?;
    enrolled.enrolment.update(&Target {
        pod: &PodId {
            namespace: "default".into(),
            name: "pod".into(),
        },
        netns: &pod.ns,
        addresses: &addresses,
        policy: &CapturePolicy {
            exclude_outbound_ports: vec![81],
            ..CapturePolicy::default()
        },
        listeners: &listeners,
    })?;
    enrolled.recorder = None;
    let _recorder = world::Recorder::start(listeners)?;
    for to in ["203.0.113.5", "[2001:db8::5]"] {
        check(pod, &format!("{to}:80"), "out")?;
        check(pod, &format!("{to}:81"), "direct")?;
    }
    check(pod, "10.77.0.98:8080", "direct")?;
    check(&world.node, "10.77.0.98:8080", "in")?;
    ensure!(
        !enrolled.enrolment.repair()?,
        "an update leaves nothing to repair"
    );
    steered.echo().context("steered before the update")
}

fn repair() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let mut enrolled = agent.enrol(pod, 0, &CapturePolicy::default())?;
    ensure!(!enrolled.enrolment.repair()?, "nothing was broken");
    for damage in [
        "rule del priority 100",
        "-6 rule del priority 100",
        "rule del priority 101",
        "route flush table 101",
        "-6 route flush table 101",
        "-6 addr del ::6/128 dev lo",
    ] {
        pod.ip(damage)?;
        ensure!(enrolled.enrolment.repair()?, "{damage} was not seen");
        ensure!(!enrolled.enrolment.repair()?, "{damage} was not mended");
        check(pod, "203.0.113.5:80", "out").context(damage)?;
        check(pod, "[2001:db8::5]:80", "out").context(damage)?;
    }
    pod.in_here(|| std::fs::write("/proc/sys/net/ipv4/tcp_fwmark_accept", "0"))??;
    ensure!(enrolled.enrolment.repair()?);
    // A new address is known as the pod's own from the next repair on.
    pod.ip("addr add 10.77.0.98/24 dev eth0")?;
    let _server = Server::start(pod, "10.77.0.98:8080")?;
    ensure!(enrolled.enrolment.repair()?);
    check(pod, "10.77.0.98:8080", "direct")?;
    Ok(())
}

fn failed_enrolment() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _beyond = servers(&world.node, &[80])?;
    let before = traces(pod)?;
    // The pod does not have this address, so its policy route cannot be made.
    let listeners = listen_elsewhere(pod)?;
    let wrong: [IpAddr; 1] = ["10.77.0.200".parse()?];
    let error = agent
        .enrol_with(pod, &wrong, &CapturePolicy::default(), &listeners)
        .err()
        .context("it worked")?;
    ensure!(format!("{error:#}").contains("route"), "{error:#}");
    ensure!(traces(pod)? == before, "{}", traces(pod)?);
    check(pod, "203.0.113.5:80", "direct")?;
    // The index is free again, and a second enrolment does not hurt the first.
    let _enrolled = agent.enrol(pod, 0, &CapturePolicy::default())?;
    ensure!(
        agent
            .enrol_with(pod, &addresses(0), &CapturePolicy::default(), &listeners)
            .is_err()
    );
    check(pod, "203.0.113.5:80", "out")
}

fn recreated_pod() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let first = agent.enrol(&world.pods[0], 0, &CapturePolicy::default())?;
    check(&world.pods[0], "203.0.113.5:80", "out")?;
    // The same addresses in a new namespace, while the old one is still enrolled.
    let second = Net::new("again")?;
    world.connect(&second, 0)?;
    let _servers = servers(&second, &[8080])?;
    let policy = CapturePolicy {
        exclude_outbound_ports: vec![81],
        ..CapturePolicy::default()
    };
    let _enrolled = agent.enrol(&second, 0, &policy)?;
    first.enrolment.withdraw()?;
    check(&second, "203.0.113.5:80", "out")?;
    check(&second, "10.77.0.10:8080", "direct")?;
    check(&world.node, "10.77.0.10:8080", "in")
}

fn nothing_is_left() -> Result<()> {
    let world = World::new(2)?;
    let run = tempfile::tempdir()?;
    let before = [traces(&world.pods[0])?, traces(&world.pods[1])?];
    let agent = Agent::start_in(run.path())?;
    let policy = CapturePolicy {
        exclude_outbound_ports: vec![81],
        exclude_outbound_cidrs: vec!["192.0.2.0/24".parse()?],
        ..CapturePolicy::default()
    };
    let first = agent.enrol(&world.pods[0], 0, &policy)?;
    let second = agent.enrol(&world.pods[1], 1, &policy)?;
    ensure!(traces(&world.pods[0])? != before[0]);
    first.enrolment.withdraw()?;
    // Dropping does the same.
    drop(second);
    let after = [traces(&world.pods[0])?, traces(&world.pods[1])?];
    ensure!(after == before, "{after:#?}\nbefore: {before:#?}");
    drop(agent);
    let left: Vec<_> = walk(run.path());
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Everything that an enrolment touches in a namespace, as text.
pub(crate) fn traces(net: &Net) -> Result<String> {
    let mut text = String::new();
    for command in [
        "rule show",
        "-6 rule show",
        "route show table all",
        "-6 route show table all",
        "addr show dev lo",
    ] {
        text += &net.ip(command)?;
    }
    net.in_here(|| -> Result<String> {
        for name in [
            "ipv4/tcp_fwmark_accept",
            "ipv4/tcp_tw_reuse",
            "ipv4/fwmark_reflect",
            "ipv6/fwmark_reflect",
        ] {
            text += &std::fs::read_to_string(format!("/proc/sys/net/{name}"))?;
        }
        Ok(text)
    })?
}

/// Every file below a directory.
pub(crate) fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn servers(net: &Net, ports: &[u16]) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for port in ports {
        servers.push(Server::start(net, &format!("0.0.0.0:{port}"))?);
        servers.push(Server::start(net, &format!("[::]:{port}"))?);
    }
    Ok(servers)
}

fn listen_elsewhere(net: &Net) -> Result<mesh_agent::intercept::PodListeners> {
    Ok(listen(
        &net.ns,
        mesh_agent::intercept::ListenSpec {
            transparent: true,
            outbound_port: 16001,
            inbound_port: 16006,
        },
    )?)
}

/// Connects as the proxy does.
fn open_upstream(net: &Net, to: &str, source: Source) -> Result<Connection> {
    let to: SocketAddr = to.parse()?;
    let socket = upstream(&net.ns, to, source, Reach::Anywhere)?;
    Connection::connect(socket, to).with_context(|| format!("{source:?} to {to}"))
}

fn count(agent: &Agent, wanted: Reason) -> Result<u64> {
    let stats = agent.ebpf.stats()?;
    let found = stats.into_iter().find(|(reason, _)| *reason == wanted);
    Ok(found.context("no such counter")?.1)
}
