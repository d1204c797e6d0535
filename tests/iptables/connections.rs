//! Real connections through the chains: who gets them, what they remember, and that none breaks.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_agent::intercept::iptables::apply::{apply, clean, stop_steering};
use mesh_agent::intercept::iptables::interpret::{Flow, Owner, Verdict, interpret};
use mesh_agent::intercept::iptables::options::{BackendChoice, InboundMode, Options};
use mesh_agent::intercept::iptables::render::render;
use mesh_agent::intercept::iptables::rule::{Hook, Protocol};
use mesh_agent::intercept::iptables::{Iptables, Settings};
use mesh_agent::intercept::{Interceptor, Mode, PodListeners, Target};
use mesh_agent::model::{CapturePolicy, PodId};
use mesh_agent::netns::NetNs;
use mesh_agent::sys::socket::{Reach, Source, listen, original_destination, upstream};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use socket2::{Domain, Socket, Type};

use super::namespace::{PEER4, PEER6, POD4, POD6, Pair, TOOLS, Tools, pair, run};
use super::{Test, forced, listing, sets};

const PATIENCE: Duration = Duration::from_secs(5);

/// The tests, by name.
pub fn tests() -> Vec<Test> {
    vec![
        ("iptables::connections_are_steered", connections_are_steered),
        ("iptables::proxy_is_exempt", proxy_is_exempt),
        (
            "iptables::open_connections_survive",
            open_connections_survive,
        ),
        ("iptables::enrolment", enrolment),
        ("iptables::interpreter_is_right", interpreter_is_right),
    ]
}

fn listeners(pod: &NetNs) -> Result<PodListeners> {
    Ok(listen(pod, Settings::default().listen())?)
}

/// Waits for a connection on a listener that does not block.
fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok((stream, peer));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(e).context("nobody came"),
        }
    }
}

fn serve(netns: &NetNs, address: impl Into<IpAddr>, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(address.into(), port);
    let listener = netns.run(|| TcpListener::bind(address))??;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn connect(netns: &NetNs, to: impl Into<IpAddr>, port: u16) -> Result<TcpStream> {
    let address = SocketAddr::new(to.into(), port);
    let stream = netns
        .run(|| TcpStream::connect_timeout(&address, PATIENCE))?
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Something in each direction, a few times.
fn talk(a: &mut TcpStream, b: &mut TcpStream) -> Result<()> {
    for round in 0..3_u8 {
        for turn in [0, 1] {
            let (from, to) = if turn == 0 {
                (&mut *a, &mut *b)
            } else {
                (&mut *b, &mut *a)
            };
            let sent = [round, turn, 7];
            from.write_all(&sent).context("writing")?;
            let mut got = [0; 3];
            to.read_exact(&mut got).context("reading")?;
            ensure!(sent == got);
        }
    }
    Ok(())
}

fn connections_are_steered() -> Result<()> {
    for tools in &TOOLS {
        let Pair { pod, peer } = pair()?;
        let proxy = listeners(&pod)?;
        apply(&pod, &forced(tools, &Options::default()))?;
        let outbound6 = proxy.outbound6.as_ref().context("no IPv6")?;
        let inbound6 = proxy.inbound6.as_ref().context("no IPv6")?;
        // Nobody needs to listen there: the proxy answers.
        for (to, port, listener) in [
            (IpAddr::from(PEER4), 80, &proxy.outbound4),
            (
                IpAddr::from(Ipv4Addr::new(203, 0, 113, 5)),
                9000,
                &proxy.outbound4,
            ),
            (IpAddr::from(PEER6), 80, outbound6),
            (
                IpAddr::from("2001:db8::5".parse::<Ipv6Addr>()?),
                9000,
                outbound6,
            ),
        ] {
            let mut client = connect(&pod, to, port)?;
            let (mut accepted, from) = accept(listener)?;
            ensure!(original_destination(&accepted)? == SocketAddr::new(to, port));
            ensure!(from == client.local_addr()?, "{from}");
            ensure!(client.peer_addr()? == SocketAddr::new(to, port));
            talk(&mut client, &mut accepted)?;
        }
        // IPv4 in IPv6 clothes.
        let _client = connect(&pod, PEER4.to_ipv6_mapped(), 80)?;
        let (accepted, _) = accept(&proxy.outbound4)?;
        ensure!(original_destination(&accepted)? == SocketAddr::new(PEER4.into(), 80));
        for (to, from, listener) in [
            (IpAddr::from(POD4), IpAddr::from(PEER4), &proxy.inbound4),
            (POD6.into(), PEER6.into(), inbound6),
        ] {
            let mut client = connect(&peer, to, 8080)?;
            let (mut accepted, source) = accept(listener)?;
            ensure!(original_destination(&accepted)? == SocketAddr::new(to, 8080));
            ensure!(source.ip() == from, "{source}");
            talk(&mut client, &mut accepted)?;
            // The proxy's own ports, and calls of the pod to itself, are left alone.
            let health = serve(&pod, to, 15021)?;
            let _client = connect(&peer, to, 15021)?;
            accept(&health)?;
            let app = serve(&pod, to, 8080)?;
            let _client = connect(&pod, to, 8080)?;
            accept(&app)?;
        }
        for loopback in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let app = serve(&pod, loopback, 8081)?;
            let _client = connect(&pod, loopback, 8081)?;
            accept(&app)?;
        }
        // Without an agent, connections are refused at once.
        drop(proxy);
        for to in [IpAddr::from(PEER4), PEER6.into()] {
            let error = connect(&pod, to, 80).err().context("connected to nobody")?;
            ensure!(format!("{error:#}").contains("refused"), "{error:#}");
        }
    }
    Ok(())
}

fn proxy_is_exempt() -> Result<()> {
    for tools in &TOOLS {
        let Pair { pod, peer } = pair()?;
        let proxy = listeners(&pod)?;
        apply(&pod, &forced(tools, &Options::default()))?;
        let open = |to: SocketAddr, source| -> Result<TcpStream> {
            let socket = upstream(&pod, to, source, Reach::Anywhere)?;
            socket.set_nonblocking(false)?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            Ok(socket.into())
        };
        let (inbound4, inbound6) = (&proxy.inbound4, proxy.inbound6.as_ref().context("no IPv6")?);
        for (own, other, sidecar, inbound) in [
            (
                IpAddr::from(POD4),
                IpAddr::from(PEER4),
                "127.0.0.6",
                inbound4,
            ),
            (POD6.into(), PEER6.into(), "::6", inbound6),
        ] {
            let server = serve(&peer, other, 80)?;
            let mut client = open(SocketAddr::new(other, 80), Source::Pod)?;
            let (mut accepted, _) = accept(&server)?;
            talk(&mut client, &mut accepted)?;
            let app = serve(&pod, own, 8080)?;
            let mut client = open(SocketAddr::new(own, 8080), Source::Sidecar)?;
            let (mut accepted, from) = accept(&app)?;
            ensure!(from.ip() == sidecar.parse::<IpAddr>()?, "{from}");
            talk(&mut client, &mut accepted)?;
            // Its calls to its own pod pass the inbound listener.
            let _client = open(SocketAddr::new(own, 8080), Source::Pod)?;
            let (accepted, _) = accept(inbound)?;
            ensure!(original_destination(&accepted)? == SocketAddr::new(own, 8080));
        }
    }
    Ok(())
}

fn open_connections_survive() -> Result<()> {
    for tools in &TOOLS {
        let Pair { pod, peer } = pair()?;
        let options = forced(tools, &Options::default());
        let proxy = listeners(&pod)?;
        let outbound6 = proxy.outbound6.as_ref().context("no IPv6")?;
        let mut direct = Vec::new();
        let mut servers = Vec::new();
        for (pod_address, peer_address) in [
            (IpAddr::from(POD4), IpAddr::from(PEER4)),
            (POD6.into(), PEER6.into()),
        ] {
            let server = serve(&peer, peer_address, 80)?;
            let app = serve(&pod, pod_address, 8080)?;
            // Some idle, some used, in both directions.
            for used in [false, true] {
                for (from, to, port, listener) in [
                    (&pod, peer_address, 80, &server),
                    (&peer, pod_address, 8080, &app),
                ] {
                    let mut client = connect(from, to, port)?;
                    let (mut accepted, _) = accept(listener)?;
                    if used {
                        talk(&mut client, &mut accepted)?;
                    }
                    direct.push((client, accepted));
                }
            }
            servers.push((peer_address, server, app));
        }
        let all_talk = |connections: &mut Vec<(TcpStream, TcpStream)>| {
            // Either side may be the first to speak after the change.
            connections
                .iter_mut()
                .try_for_each(|(a, b)| talk(b, a).and_then(|()| talk(a, b)))
        };
        apply(&pod, &options)?;
        all_talk(&mut direct).context("after the chains came")?;
        let mut steered = Vec::new();
        for (to, listener) in [
            (IpAddr::from(PEER4), &proxy.outbound4),
            (PEER6.into(), outbound6),
        ] {
            let client = connect(&pod, to, 80)?;
            let (accepted, _) = accept(listener)?;
            steered.push((client, accepted));
            let client = connect(&pod, to, 80)?;
            let (accepted, _) = accept(listener)?;
            steered.push((client, accepted));
        }
        all_talk(&mut steered)?;
        // A repair of everything does not touch them either.
        run(&pod, tools.iptables4, &["-t", "nat", "-F", "ISTIO_OUTPUT"])?;
        apply(&pod, &options)?;
        all_talk(&mut steered).context("after a repair")?;
        stop_steering(&pod, &options)?;
        all_talk(&mut steered).context("after steering stopped")?;
        all_talk(&mut direct).context("after steering stopped")?;
        for (to, server, _) in &servers {
            let client = connect(&pod, *to, 80)?;
            let (accepted, _) = accept(server)?;
            direct.push((client, accepted));
        }
        drop(steered);
        clean(&pod, &options)?;
        all_talk(&mut direct).context("after the chains went")?;
    }
    Ok(())
}

fn enrolment() -> Result<()> {
    for tools in &TOOLS {
        let Pair { pod, peer } = pair()?;
        let proxy = listeners(&pod)?;
        let id = PodId {
            namespace: "default".into(),
            name: "client".into(),
        };
        let policy = CapturePolicy::default();
        let target = Target {
            pod: &id,
            netns: &pod,
            addresses: &[POD4.into(), POD6.into()],
            policy: &policy,
            listeners: &proxy,
        };
        let run_dir = tempfile::tempdir()?;
        let settings = Settings {
            backend: BackendChoice::Forced(tools.backend),
            ..Settings::default()
        };
        let mode = Iptables::start(settings, run_dir.path())?;
        ensure!(mode.mode() == Mode::Iptables && !mode.listen().transparent);
        let before = super::namespace::surroundings(&pod)?;
        let steered = |is: bool| -> Result<()> {
            let server = serve(&peer, PEER4, 80)?;
            let _client = connect(&pod, PEER4, 80)?;
            accept(if is { &proxy.outbound4 } else { &server })?;
            Ok(())
        };
        let mut enrolment = mode.enrol(&target)?;
        steered(true)?;
        ensure!(!enrolment.repair()?, "repaired what was whole");
        run(
            &pod,
            tools.iptables4,
            &[
                "-t",
                "nat",
                "-D",
                "OUTPUT",
                "-p",
                "tcp",
                "-j",
                "ISTIO_OUTPUT",
            ],
        )?;
        steered(false)?;
        ensure!(enrolment.repair()?, "did not see the damage");
        steered(true)?;
        enrolment.stop_steering()?;
        enrolment.stop_steering()?;
        steered(false)?;
        ensure!(!enrolment.repair()?, "repaired what was stopped on purpose");
        steered(false)?;
        enrolment.withdraw()?;
        tools.expect_empty(&pod)?;
        ensure!(super::namespace::surroundings(&pod)? == before);

        // An agent that was killed leaves everything; the next one takes it over, and withdraws when it is dropped.
        std::mem::forget(mode.enrol(&target)?);
        run(&pod, tools.iptables6, &["-t", "nat", "-F", "ISTIO_OUTPUT"])?;
        let enrolment = mode.enrol(&target)?;
        steered(true)?;
        let rules = listing(&tools.save6(&pod)?);
        ensure!(rules.contains_key(&("nat".to_owned(), "ISTIO_OUTPUT".to_owned())));
        drop(enrolment);
        tools.expect_empty(&pod)?;
        ensure!(super::namespace::surroundings(&pod)? == before);
    }
    Ok(())
}

/// Listeners that say who they are, until dropped.
struct Signposts<'a> {
    stop: &'a AtomicBool,
}

impl Drop for Signposts<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

const PORTS: [u16; 12] = [
    53, 80, 443, 3306, 6379, 8080, 9090, 15008, 15020, 15021, 15090, 9999,
];

/// Listens on all of these ports in `netns`, and tells each client which it reached.
fn signposts(netns: &NetNs, ports: &[u16]) -> Result<Vec<(u16, TcpListener)>> {
    let mut result = Vec::new();
    for &port in ports {
        for (domain, any) in [
            (Domain::IPV4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        ] {
            let socket = netns.run(|| Socket::new(domain, Type::STREAM, None))??;
            socket.set_reuse_address(true)?;
            if domain == Domain::IPV6 {
                socket.set_only_v6(true)?;
            } else {
                // For TPROXY.
                socket.set_ip_transparent_v4(true)?;
            }
            socket.bind(&SocketAddr::new(any, port).into())?;
            socket.listen(16)?;
            socket.set_nonblocking(true)?;
            result.push((port, socket.into()));
        }
    }
    Ok(result)
}

fn answer(listeners: &[(u16, TcpListener)], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for (port, listener) in listeners {
            while let Ok((mut stream, _)) = listener.accept() {
                // A client that is gone has its answer already.
                let _ = stream.write_all(&port.to_be_bytes());
            }
        }
        thread::sleep(Duration::from_micros(300));
    }
}

/// The port of whoever answers in truth.
fn ask(netns: &NetNs, owner: Owner, from: Option<IpAddr>, to: SocketAddr) -> Result<u16> {
    let socket = thread::scope(|scope| {
        let made = scope.spawn(|| {
            netns.run(|| {
                // The group first: without root as its user the thread may no longer change it.
                setfsgid(Gid::from_raw(owner.gid));
                setfsuid(Uid::from_raw(owner.uid));
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None);
                setfsuid(Uid::from_raw(0));
                setfsgid(Gid::from_raw(0));
                socket
            })
        });
        made.join().map_err(|_| anyhow::anyhow!("panicked"))
    })???;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), PATIENCE)?;
    socket.set_linger(Some(Duration::ZERO))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut port = [0; 2];
    stream.read_exact(&mut port)?;
    Ok(u16::from_be_bytes(port))
}

/// Everything that the interpreter says of a new connection, the kernel does.
fn interpreter_is_right() -> Result<()> {
    let mut asked = 0;
    for (index, set) in sets()?.into_iter().enumerate() {
        let Pair { pod, peer } = pair()?;
        let outside = [
            "203.0.113.9",
            "10.96.0.1",
            "10.96.0.10",
            "10.100.3.4",
            "10.244.9.9",
            "169.254.169.254",
            "10.1.2.3",
            "2001:db8::9",
        ];
        for address in outside {
            run(&peer, "ip", &["addr", "add", address, "dev", "lo"])?;
        }
        let tools: &Tools = &TOOLS[index % 2];
        apply(&pod, &forced(tools, &set.options))?;
        let rules = render(&set.options);
        let proxy_ports = [15001, 15006, 15053];
        let in_pod = signposts(&pod, &[&PORTS[..], &proxy_ports].concat())?;
        let in_peer = signposts(&peer, &PORTS)?;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let _signposts = Signposts { stop: &stop };
            scope.spawn(|| answer(&in_pod, &stop));
            scope.spawn(|| answer(&in_peer, &stop));
            let mut flows = outbound_flows(&outside)?;
            // A transparent IPv6 listener takes an option that safe code cannot set.
            let ipv6 = set.options.mode == InboundMode::Redirect;
            flows.extend(inbound_flows(ipv6));
            for (flow, bind) in flows {
                let (netns, owner) = match flow.hook {
                    Hook::Output => (&pod, flow.owner.context("an owner")?),
                    Hook::Prerouting => (&peer, Owner { uid: 0, gid: 0 }),
                };
                let to = SocketAddr::new(flow.destination, flow.destination_port);
                let wanted = match interpret(&rules, &flow) {
                    Verdict::Redirect(port) => port,
                    Verdict::Accept => flow.destination_port,
                    Verdict::Drop => bail!("dropped: {flow:?}"),
                };
                if wanted == 15006 && to.is_ipv6() && !ipv6 {
                    continue;
                }
                let reached = ask(netns, owner, bind, to)
                    .with_context(|| format!("{} {} {flow:?}", set.name, tools.backend))?;
                ensure!(
                    reached == wanted,
                    "{} {}: {reached} answered instead of {wanted} for {flow:?}",
                    set.name,
                    tools.backend
                );
                asked += 1;
            }
            Ok(())
        })?;
    }
    ensure!(asked > 5000, "asked only {asked} times");
    Ok(())
}

fn outbound_flows(outside: &[&str]) -> Result<Vec<(Flow, Option<IpAddr>)>> {
    let mut flows = Vec::new();
    let mut destinations: Vec<IpAddr> = vec![
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 1, 2, 3).into(),
        Ipv6Addr::LOCALHOST.into(),
        POD4.into(),
        POD6.into(),
        PEER6.into(),
    ];
    for address in outside {
        destinations.push(address.parse()?);
    }
    let owners = [
        (0, 0),
        (1337, 1337),
        (1337, 0),
        (0, 1337),
        (1338, 0),
        (1000, 101),
        (1000, 888),
    ];
    for destination in destinations {
        for (uid, gid) in owners {
            for port in [53, 80, 3306, 15008, 9999] {
                flows.push((outbound(destination, port, Owner { uid, gid }), None));
            }
        }
    }
    for (own, sidecar) in [(IpAddr::from(POD4), "127.0.0.6"), (POD6.into(), "::6")] {
        let sidecar: IpAddr = sidecar.parse()?;
        for uid in [0, 1337] {
            let mut flow = outbound(own, 8080, Owner { uid, gid: uid });
            flow.source = sidecar;
            flows.push((flow, Some(sidecar)));
        }
    }
    Ok(flows)
}

fn outbound(destination: IpAddr, port: u16, owner: Owner) -> Flow {
    let own = [IpAddr::from(POD4), POD6.into()];
    let local = destination.is_loopback() || own.contains(&destination);
    let source = match destination {
        _ if own.contains(&destination) => destination,
        // The kernel takes a loopback destination for its own source.
        _ if destination.is_loopback() => destination,
        IpAddr::V4(_) => POD4.into(),
        IpAddr::V6(_) => POD6.into(),
    };
    Flow {
        hook: Hook::Output,
        protocol: Protocol::Tcp,
        source,
        destination,
        source_port: 40000,
        destination_port: port,
        in_interface: String::new(),
        out_interface: if local { "lo" } else { "eth0" }.to_owned(),
        owner: Some(owner),
        mark: 0,
    }
}

fn inbound_flows(ipv6: bool) -> Vec<(Flow, Option<IpAddr>)> {
    let mut flows = Vec::new();
    for (source, destination) in [
        (IpAddr::from(PEER4), IpAddr::from(POD4)),
        (PEER6.into(), POD6.into()),
    ] {
        if destination.is_ipv6() && !ipv6 {
            continue;
        }
        for port in PORTS {
            let flow = Flow {
                hook: Hook::Prerouting,
                protocol: Protocol::Tcp,
                source,
                destination,
                source_port: 40000,
                destination_port: port,
                in_interface: "eth0".to_owned(),
                out_interface: String::new(),
                owner: None,
                mark: 0,
            };
            flows.push((flow, None));
        }
    }
    flows
}
