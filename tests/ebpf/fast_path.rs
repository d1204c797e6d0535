//! The fast path: what is sent by either way arrives whole and in order, a slow reader holds its sender back, ends are ends,
//! and nobody gets what is another's.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_agent::intercept::ebpf::FastPathFor;
use mesh_agent::intercept::{Enrolment, Interceptor, PodListeners};
use mesh_agent::model::CapturePolicy;
use mesh_agent::sys::socket::{Reach, Source, listen, permit_fast_path, upstream};
use mesh_ebpf::pair::{Tally, WINDOW};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::world::{Agent, Net, PATIENCE, Test, World, addresses};

pub fn tests() -> Vec<Test> {
    vec![
        ("ebpf::fast_path::both_legs", both_legs),
        (
            "ebpf::fast_path::applications_keep_their_sockets",
            applications_keep_their_sockets,
        ),
        ("ebpf::fast_path::a_server_that_is_not_steered", not_steered),
        (
            "ebpf::fast_path::only_where_it_is_permitted",
            only_where_it_is_permitted,
        ),
        (
            "ebpf::fast_path::a_slow_reader_holds_its_sender_back",
            slow_reader,
        ),
        ("ebpf::fast_path::a_gigabyte_each_way", a_gigabyte_each_way),
        ("ebpf::fast_path::half_closed", half_closed),
        ("ebpf::fast_path::unread_at_close", unread_at_close),
        (
            "ebpf::fast_path::unread_at_the_agents_end",
            unread_at_the_agents_end,
        ),
        ("ebpf::fast_path::reset", reset),
        (
            "ebpf::fast_path::many_connections_leave_nothing",
            many_connections,
        ),
        (
            "ebpf::fast_path::equal_addresses_in_two_namespaces",
            equal_addresses,
        ),
        ("ebpf::fast_path::a_server_of_multipath_tcp", multipath),
        ("ebpf::fast_path::switched_off", switched_off),
    ]
}

/// A client's pod that is enrolled, with the test in the place of the proxy, and a server's pod that is not; or two
/// enrolled pods, for connections from the agent to itself.
struct Scene {
    agent: Agent,
    world: World,
    listeners: PodListeners,
    /// Of the server's pod, where it is enrolled.
    inbound: Option<PodListeners>,
    _enrolments: Vec<Box<dyn Enrolment>>,
}

/// Connections with an application at one end, and the agent's own, which do it by default.
const SCENES: [fn() -> Result<Scene>; 2] = [Scene::new, Scene::between_agents];

/// The two ends of a connection: an application's and the proxy's, or both the proxy's.
struct Ends {
    application: TcpStream,
    proxy: TcpStream,
}

const SERVICES: [&str; 2] = ["203.0.113.5:80", "[2001:db8::5]:80"];
/// Prime, so that whatever is lost or comes twice shows.
const PATTERN: usize = 65_521;

impl Scene {
    fn new() -> Result<Self> {
        Self::with(&CapturePolicy::default())
    }

    fn with(policy: &CapturePolicy) -> Result<Self> {
        let world = World::new(2)?;
        let agent = Agent::start()?;
        let listeners = listen(&world.pods[0].ns, agent.ebpf.listen())?;
        let enrolment = agent.enrol_with(&world.pods[0], &addresses(0), policy, &listeners)?;
        Ok(Self {
            agent,
            world,
            listeners,
            inbound: None,
            _enrolments: vec![enrolment],
        })
    }

    fn between_agents() -> Result<Self> {
        Self::between(FastPathFor::Agent, &CapturePolicy::default())
    }

    fn between(fast_path: FastPathFor, server: &CapturePolicy) -> Result<Self> {
        let world = World::new(2)?;
        let agent = Agent::start_for(fast_path)?;
        let mut listeners = Vec::new();
        let mut enrolments = Vec::new();
        for (number, policy) in [&CapturePolicy::default(), server].into_iter().enumerate() {
            let net = &world.pods[number];
            let own = listen(&net.ns, agent.ebpf.listen())?;
            enrolments.push(agent.enrol_with(net, &addresses(number), policy, &own)?);
            listeners.push(own);
        }
        Ok(Self {
            agent,
            world,
            inbound: listeners.pop(),
            listeners: listeners.pop().context("two pods")?,
            _enrolments: enrolments,
        })
    }

    /// What the pod opens, as the proxy finds it.
    fn client(&self, to: &str) -> Result<Ends> {
        match &self.inbound {
            Some(inbound) => self.agents(inbound, to.starts_with('[')),
            None => steered(&self.world.pods[0], &self.listeners, to),
        }
    }

    /// What the proxy of one pod opens to the other pod, as the proxy of that one finds it.
    fn agents(&self, inbound: &PodListeners, ipv6: bool) -> Result<Ends> {
        let to = SocketAddr::new(addresses(1)[usize::from(ipv6)], 80);
        let socket = upstream(&self.world.pods[0].ns, to, Source::Pod, Reach::Agent)?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        let listener = match ipv6 {
            false => &inbound.inbound4,
            true => inbound.inbound6.as_ref().context("no IPv6")?,
        };
        let (proxy, _) = listener.accept()?;
        Ends::new(socket.into(), proxy)
    }

    /// What the proxy opens to a server of the node.
    fn server(&self, ipv6: bool) -> Result<Ends> {
        if let Some(inbound) = &self.inbound {
            return self.agents(inbound, ipv6);
        }
        let net = &self.world.pods[1];
        let listener =
            net.in_here(|| TcpListener::bind((addresses(1)[usize::from(ipv6)], 0)))??;
        self.connect(&listener)
    }

    fn connect(&self, listener: &TcpListener) -> Result<Ends> {
        let to = listener.local_addr()?;
        let socket = upstream(&self.world.pods[0].ns, to, Source::Pod, Reach::Application)?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        let (application, _) = listener.accept()?;
        Ends::new(application, socket.into())
    }

    fn tally(&self, wanted: Tally) -> Result<u64> {
        tally(&self.agent, wanted)
    }
}

impl Ends {
    fn new(application: TcpStream, proxy: TcpStream) -> Result<Self> {
        for stream in [&application, &proxy] {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
        }
        Ok(Self { application, proxy })
    }

    fn permitted(self) -> Result<Self> {
        permit_fast_path(&self.proxy)?;
        Ok(self)
    }
}

fn steered(net: &Net, listeners: &PodListeners, to: &str) -> Result<Ends> {
    let to: SocketAddr = to.parse()?;
    let socket = net.in_here(|| Socket::new(Domain::for_address(to), Type::STREAM, None))??;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let listener = match to {
        SocketAddr::V4(_) => &listeners.outbound4,
        SocketAddr::V6(_) => listeners.outbound6.as_ref().context("no IPv6")?,
    };
    let (proxy, _) = listener.accept()?;
    Ends::new(socket.into(), proxy)
}

fn tally(agent: &Agent, wanted: Tally) -> Result<u64> {
    let tallies = agent.ebpf.tallies()?;
    let found = tallies.into_iter().find(|(tally, _)| *tally == wanted);
    Ok(found.context("no such tally")?.1)
}

fn say(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> Result<()> {
    from.write_all(text)?;
    let mut heard = vec![0; text.len()];
    to.read_exact(&mut heard).context("nothing was heard")?;
    ensure!(heard == text, "{heard:?}");
    Ok(())
}

/// So many bytes of the pattern, from an offset on.
fn pattern(offset: usize, length: usize) -> Vec<u8> {
    let byte = |at: usize| (at % PATTERN % 251) as u8;
    (offset..offset + length).map(byte).collect()
}

fn both_legs() -> Result<()> {
    SCENES
        .into_iter()
        .try_for_each(|scene| both_legs_in(&scene()?))
}

fn both_legs_in(scene: &Scene) -> Result<()> {
    let mut bytes = 0;
    for (ipv6, to) in [false, true].into_iter().zip(SERVICES) {
        for mut ends in [scene.client(to)?.permitted()?, scene.server(ipv6)?] {
            for round in 0..3 {
                let text = pattern(round, 1000);
                say(&mut ends.application, &mut ends.proxy, &text)?;
                say(&mut ends.proxy, &mut ends.application, &text)?;
                bytes += 2000;
            }
        }
    }
    ensure!(scene.tally(Tally::Joined)? == 4);
    ensure!(scene.tally(Tally::RedirectedBytes)? == bytes);
    ensure!(scene.tally(Tally::PlainBytes)? == 0);
    Ok(())
}

fn only_where_it_is_permitted() -> Result<()> {
    let scene = Scene::new()?;
    let mut ends = scene.client(SERVICES[0])?;
    say(&mut ends.application, &mut ends.proxy, b"hello")?;
    say(&mut ends.proxy, &mut ends.application, b"who are you?")?;
    ensure!(scene.tally(Tally::RedirectedBytes)? == 5);
    ensure!(scene.tally(Tally::PlainBytes)? == 12);
    // Once it is, and nothing is under way, the short way is taken.
    permit_fast_path(&ends.proxy)?;
    say(&mut ends.proxy, &mut ends.application, b"a browser")?;
    ensure!(scene.tally(Tally::RedirectedBytes)? == 14);
    // A server on another node, as far as the proxy knows.
    let net = &scene.world.pods[1];
    let listener = net.in_here(|| TcpListener::bind((addresses(1)[0], 0)))??;
    let to = listener.local_addr()?;
    let socket = upstream(&scene.world.pods[0].ns, to, Source::Pod, Reach::Anywhere)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut ends = Ends::new(listener.accept()?.0, socket.into())?;
    say(&mut ends.proxy, &mut ends.application, b"hello")?;
    ensure!(scene.tally(Tally::Joined)? == 1);
    ensure!(scene.tally(Tally::RedirectedBytes)? == 14);
    Ok(())
}

/// The sender is told to wait after what fits into the window and TCP's buffers, and all of it arrives in order. Then the
/// short way is taken again.
fn slow_reader() -> Result<()> {
    SCENES
        .into_iter()
        .try_for_each(|scene| slow_reader_in(&scene()?))
}

fn slow_reader_in(scene: &Scene) -> Result<()> {
    for (mut from, mut to) in [
        scene
            .client(SERVICES[0])?
            .permitted()
            .map(|e| (e.application, e.proxy))?,
        scene
            .client(SERVICES[1])?
            .permitted()
            .map(|e| (e.proxy, e.application))?,
        scene.server(false).map(|e| (e.application, e.proxy))?,
        scene.server(true).map(|e| (e.proxy, e.application))?,
    ] {
        let chunk = pattern(0, PATTERN);
        from.set_nonblocking(true)?;
        let mut sent = 0_usize;
        let mut idle = 0;
        while idle < 20 {
            let at = sent % PATTERN;
            match from.write(&chunk[at..]) {
                Ok(count) => {
                    sent += count;
                    idle = 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    idle += 1;
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
            ensure!(sent < 64 << 20, "nobody holds the sender back");
        }
        ensure!(sent as u64 > WINDOW, "only {sent} bytes were taken");
        println!("    a reader that does not read: {sent} bytes were taken");
        let mut heard = vec![0; PATTERN];
        let mut read = 0;
        while read < sent {
            let length = (sent - read).min(PATTERN - read % PATTERN);
            to.read_exact(&mut heard[..length])?;
            let at = read % PATTERN;
            ensure!(
                heard[..length] == chunk[at..at + length],
                "after {read} bytes"
            );
            read += length;
        }
        from.set_nonblocking(false)?;
        // After a message that TCP has taken in part the kernel sends the next one without asking; with the one after that
        // it is known what was sent.
        say(&mut from, &mut to, b"once")?;
        say(&mut from, &mut to, b"twice")?;
        let before = scene.tally(Tally::RedirectedBytes)?;
        say(&mut from, &mut to, b"again")?;
        ensure!(
            scene.tally(Tally::RedirectedBytes)? == before + 5,
            "it stays with TCP"
        );
    }
    ensure!(scene.tally(Tally::Slow)? >= 4);
    Ok(())
}

/// With chunks of random sizes, in both directions at once, on both legs.
fn a_gigabyte_each_way() -> Result<()> {
    SCENES
        .into_iter()
        .try_for_each(|scene| a_gigabyte_each_way_in(&scene()?))
}

fn a_gigabyte_each_way_in(scene: &Scene) -> Result<()> {
    const LENGTH: usize = 1 << 30;
    for ends in [
        scene.client(SERVICES[0])?.permitted()?,
        scene.server(false)?,
    ] {
        let (one, other) = (&ends.application, &ends.proxy);
        thread::scope(|scope| {
            let parts = [
                scope.spawn(|| send_random(one, LENGTH, 1)),
                scope.spawn(|| send_random(other, LENGTH, 2)),
                scope.spawn(|| receive_random(one, LENGTH, 3)),
                scope.spawn(|| receive_random(other, LENGTH, 4)),
            ];
            let ends = parts.map(|part| part.join());
            // What a reader has to say comes first: a writer fails because nobody reads.
            ends.into_iter()
                .rev()
                .try_for_each(|end| end.map_err(|_| anyhow::anyhow!("a thread panicked"))?)
        })?;
    }
    let (redirected, plain) = (
        scene.tally(Tally::RedirectedBytes)?,
        scene.tally(Tally::PlainBytes)?,
    );
    println!("    {redirected} bytes were handed over, {plain} went by TCP");
    ensure!(redirected + plain >= 4 * LENGTH as u64);
    ensure!(redirected > 0 && plain > 0);
    Ok(())
}

fn send_random(mut to: &TcpStream, length: usize, seed: u64) -> Result<()> {
    let mut sizes = fastrand::Rng::with_seed(seed);
    let text = pattern(0, 2 * PATTERN + 200_000);
    let mut sent = 0;
    while sent < length {
        let size = match sizes.u8(..4) {
            0 => sizes.usize(1..100),
            1 => sizes.usize(1..5_000),
            _ => sizes.usize(1..200_000),
        };
        let size = size.min(length - sent);
        let at = sent % PATTERN;
        to.write_all(&text[at..at + size])
            .with_context(|| format!("writing after {sent} bytes"))?;
        sent += size;
    }
    Ok(())
}

fn receive_random(mut from: &TcpStream, length: usize, seed: u64) -> Result<()> {
    let mut sizes = fastrand::Rng::with_seed(seed);
    let text = pattern(0, 2 * PATTERN + 200_000);
    let mut buffer = vec![0; 200_000];
    let mut read = 0;
    let mut patience = 1_000_000;
    while read < length {
        let wanted = sizes.usize(1..200_000).min(length - read);
        let count = match from.read(&mut buffer[..wanted]) {
            // On a socket of the fast path, a blocking reader beside a writer that waits is woken with the writer, and told
            // this at once (Linux 6.18).
            Err(error) if error.kind() == ErrorKind::WouldBlock && patience > 0 => {
                patience -= 1;
                continue;
            }
            count => count.context("reading")?,
        };
        ensure!(count > 0, "ended after {read} bytes");
        let at = read % PATTERN;
        ensure!(
            buffer[..count] == text[at..at + count],
            "after {read} bytes: at {:?} of {count} read of {wanted}",
            (0..count).find(|i| buffer[*i] != text[at + i])
        );
        read += count;
    }
    Ok(())
}

/// The client has said all it has to say, and then gets ten megabytes.
fn half_closed() -> Result<()> {
    SCENES
        .into_iter()
        .try_for_each(|scene| half_closed_in(&scene()?))
}

fn half_closed_in(scene: &Scene) -> Result<()> {
    const LENGTH: usize = 10 << 20;
    for (mut asks, mut answers) in [
        scene
            .client(SERVICES[0])?
            .permitted()
            .map(|e| (e.application, e.proxy))?,
        scene.server(false).map(|e| (e.proxy, e.application))?,
    ] {
        say(&mut asks, &mut answers, b"give me all")?;
        asks.shutdown(Shutdown::Write)?;
        let late = asks.write(b"and more");
        ensure!(late.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe));
        ensure!(answers.read(&mut [0; 8])? == 0);
        let text = pattern(0, LENGTH);
        let sending = text.clone();
        let sender = thread::spawn(move || -> Result<()> {
            answers.write_all(&sending)?;
            drop(answers);
            Ok(())
        });
        // Everything else is over by now, but for what waits to be read.
        thread::sleep(Duration::from_millis(100));
        let mut heard = Vec::new();
        asks.read_to_end(&mut heard)?;
        ensure!(heard == text, "{} bytes came", heard.len());
        sender
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    }
    Ok(())
}

fn unread_at_close() -> Result<()> {
    SCENES
        .into_iter()
        .try_for_each(|scene| unread_at_close_in(&scene()?))
}

fn unread_at_close_in(scene: &Scene) -> Result<()> {
    let text = pattern(0, 100_000);
    for (mut from, mut to) in [
        scene
            .client(SERVICES[0])?
            .permitted()
            .map(|e| (e.application, e.proxy))?,
        scene
            .client(SERVICES[1])?
            .permitted()
            .map(|e| (e.proxy, e.application))?,
        scene.server(false).map(|e| (e.application, e.proxy))?,
        scene.server(true).map(|e| (e.proxy, e.application))?,
    ] {
        from.write_all(&text)?;
        drop(from);
        // Also where the reader has said its own farewell, so that nothing keeps the connection.
        to.shutdown(Shutdown::Write)?;
        thread::sleep(Duration::from_millis(50));
        let mut heard = Vec::new();
        to.read_to_end(&mut heard)?;
        ensure!(heard == text, "{} bytes came", heard.len());
    }
    ensure!(scene.tally(Tally::RedirectedBytes)? == 400_000);
    Ok(())
}

/// The agent ends in good order while an application has yet to read its answer.
fn unread_at_the_agents_end() -> Result<()> {
    let scene = Scene::new()?;
    let mut ends = scene.client(SERVICES[0])?.permitted()?;
    let text = pattern(0, 100_000);
    ends.proxy.write_all(&text)?;
    ensure!(scene.tally(Tally::RedirectedBytes)? == 100_000);
    let Ends {
        mut application,
        proxy,
    } = ends;
    drop(proxy);
    let reader = thread::spawn(move || -> Result<Vec<u8>> {
        thread::sleep(Duration::from_millis(300));
        let mut heard = Vec::new();
        application.read_to_end(&mut heard)?;
        Ok(heard)
    });
    drop(scene);
    let heard = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    ensure!(heard == text, "{} bytes came", heard.len());
    Ok(())
}

fn reset() -> Result<()> {
    SCENES.into_iter().try_for_each(|scene| reset_in(&scene()?))
}

fn reset_in(scene: &Scene) -> Result<()> {
    for (mut from, mut to) in [
        scene
            .client(SERVICES[0])?
            .permitted()
            .map(|e| (e.application, e.proxy))?,
        scene
            .client(SERVICES[1])?
            .permitted()
            .map(|e| (e.proxy, e.application))?,
        scene.server(false).map(|e| (e.application, e.proxy))?,
        scene.server(true).map(|e| (e.proxy, e.application))?,
    ] {
        say(&mut from, &mut to, b"hello")?;
        SockRef::from(&from).set_linger(Some(Duration::ZERO))?;
        drop(from);
        let heard = to.read(&mut [0; 8]);
        ensure!(
            heard
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
            "{heard:?}"
        );
        let said = to.write(b"still there?");
        ensure!(
            said.as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::BrokenPipe),
            "{said:?}"
        );
    }
    ends_all(scene)
}

/// More connections than there is room for, one after the other, while others carry traffic: the room is given back.
fn many_connections() -> Result<()> {
    SCENES
        .into_iter()
        .try_for_each(|scene| many_connections_in(&scene()?))
}

fn many_connections_in(scene: &Scene) -> Result<()> {
    const CONNECTIONS: u64 = 36_000;
    let mut steady = scene.client(SERVICES[0])?.permitted()?;
    let done = AtomicBool::new(false);
    // What is closed by the side that opened it would use up its ports.
    let abrupt = |ends: Ends| -> Result<()> {
        SockRef::from(&ends.application).set_linger(Some(Duration::ZERO))?;
        Ok(())
    };
    thread::scope(|scope| -> Result<()> {
        let talking = scope.spawn(|| -> Result<u64> {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                say(&mut steady.application, &mut steady.proxy, b"ping")?;
                say(&mut steady.proxy, &mut steady.application, b"pong")?;
                rounds += 1;
            }
            Ok(rounds)
        });
        let opened = (|| -> Result<()> {
            for number in 0..CONNECTIONS {
                let mut ends = scene.client(SERVICES[(number % 2) as usize])?;
                if number % 16 == 0 {
                    say(&mut ends.application, &mut ends.proxy, b"hello")?;
                }
                abrupt(ends)?;
            }
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        let rounds = talking
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))??;
        ensure!(rounds > 0);
        opened
    })?;
    drop(steady);
    ensure!(scene.tally(Tally::Full)? == 0);
    ensure!(scene.tally(Tally::Joined)? == CONNECTIONS + 1);
    ends_all(scene)
}

/// Every pair has ended, and nothing is left in the maps.
fn ends_all(scene: &Scene) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (joined, ended) = (scene.tally(Tally::Joined)?, scene.tally(Tally::Ended)?);
        let left = scene.agent.ebpf.half_open_pairs()?;
        if joined == ended && left == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{joined} pairs began, {ended} ended, {left} entries are left");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two pods of one address each open a connection from one port to one destination.
fn equal_addresses() -> Result<()> {
    let agent = Agent::start()?;
    let worlds = [World::new(1)?, World::new(1)?];
    let mut pods = Vec::new();
    for world in &worlds {
        let net = &world.pods[0];
        let listeners = listen(&net.ns, agent.ebpf.listen())?;
        let policy = CapturePolicy::default();
        let enrolment = agent.enrol_with(net, &addresses(0), &policy, &listeners)?;
        pods.push((net, listeners, enrolment));
    }
    let to: SocketAddr = SERVICES[0].parse()?;
    let from = SocketAddr::new(IpAddr::from([10, 77, 0, 10]), 40_000);
    let mut sockets = Vec::new();
    for (net, _, _) in &pods {
        let socket = net.in_here(|| Socket::new(Domain::IPV4, Type::STREAM, None))??;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        sockets.push(socket);
    }
    let mut all = Vec::new();
    for ((_, listeners, _), socket) in pods.iter().zip(sockets) {
        let (proxy, peer) = listeners.outbound4.accept()?;
        ensure!(peer == from);
        all.push(Ends::new(socket.into(), proxy)?.permitted()?);
    }
    for (number, ends) in all.iter_mut().enumerate() {
        let text = format!("I am number {number}");
        say(&mut ends.application, &mut ends.proxy, text.as_bytes())?;
        say(&mut ends.proxy, &mut ends.application, text.as_bytes())?;
    }
    ensure!(tally(&agent, Tally::Joined)? == 2);
    ensure!(tally(&agent, Tally::PlainBytes)? == 0);
    Ok(())
}

/// As Go's servers do by default.
fn multipath() -> Result<()> {
    let scene = Scene::new()?;
    let net = &scene.world.pods[1];
    let open = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))?;
        socket.bind(&SocketAddr::new(addresses(1)[0], 0).into())?;
        socket.listen(8)?;
        Ok(socket.into())
    };
    let listener = match net.in_here(open)? {
        Ok(listener) => listener,
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
            println!("    this kernel has no MPTCP, so no server uses it");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let mut ends = scene.connect(&listener)?;
    for _ in 0..3 {
        say(&mut ends.proxy, &mut ends.application, b"hello")?;
        say(&mut ends.application, &mut ends.proxy, b"world")?;
    }
    Ok(())
}

fn switched_off() -> Result<()> {
    let policy = CapturePolicy {
        fast_path: false,
        ..CapturePolicy::default()
    };
    let scene = Scene::with(&policy)?;
    let mut ends = scene.client(SERVICES[0])?.permitted()?;
    say(&mut ends.application, &mut ends.proxy, b"hello")?;
    say(&mut ends.proxy, &mut ends.application, b"world")?;
    ensure!(scene.tally(Tally::Joined)? == 0);
    ensure!(scene.tally(Tally::RedirectedBytes)? == 0);
    Ok(())
}

/// As it is by default: what an application holds is not in the map, so that a thread of it that blocks is told of a reset,
/// and of nothing while another thread waits for room to write.
fn applications_keep_their_sockets() -> Result<()> {
    let scene = Scene {
        inbound: None,
        ..Scene::between_agents()?
    };
    let net = &scene.world.pods[0];
    for (to, address) in SERVICES.into_iter().zip(addresses(0)) {
        let listener = net.in_here(|| TcpListener::bind((address, 8080)))??;
        for writes in [false, true] {
            for mut ends in [scene.client(to)?.permitted()?, scene.connect(&listener)?] {
                say(&mut ends.application, &mut ends.proxy, b"hello")?;
                say(&mut ends.proxy, &mut ends.application, b"world")?;
                reset_while_blocked(ends, writes)
                    .with_context(|| format!("{to}, with a writer: {writes}"))?;
            }
        }
    }
    ensure!(scene.tally(Tally::Joined)? == 0);
    Ok(())
}

fn reset_while_blocked(ends: Ends, writes: bool) -> Result<()> {
    let Ends {
        mut application,
        mut proxy,
    } = ends;
    application.set_read_timeout(None)?;
    application.set_write_timeout(None)?;
    let writing = application.try_clone()?;
    let reader = thread::spawn(move || application.read(&mut [0; 8]));
    let writer = writes.then(|| thread::spawn(move || send_random(&writing, 1 << 30, 1)));
    if writer.is_some() {
        // The writer comes to wait for room, and gets some, again and again.
        let mut some = vec![0; 1 << 20];
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(10));
            proxy.read_exact(&mut some)?;
        }
    }
    thread::sleep(Duration::from_millis(50));
    ensure!(!reader.is_finished(), "the reader was told something");
    SockRef::from(&proxy).set_linger(Some(Duration::ZERO))?;
    drop(proxy);
    let heard = reader.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
    // Of two that wait, one is told of the reset, and the other that it is over.
    let is_told = match &heard {
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
        Ok(count) => writes && *count == 0,
    };
    ensure!(is_told, "{heard:?}");
    if let Some(writer) = writer {
        let said = writer.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
        ensure!(said.is_err(), "it has written a gigabyte");
    }
    Ok(())
}

/// The proxy believes that it speaks to itself, but the port is excluded, or the pod has said no.
fn not_steered() -> Result<()> {
    let excluded = CapturePolicy {
        exclude_inbound_ports: vec![8080],
        ..CapturePolicy::default()
    };
    let scene = Scene::between(FastPathFor::Agent, &excluded)?;
    let net = &scene.world.pods[1];
    for address in addresses(1) {
        let listener = net.in_here(|| TcpListener::bind((address, 8080)))??;
        let socket = upstream(
            &scene.world.pods[0].ns,
            listener.local_addr()?,
            Source::Pod,
            Reach::Agent,
        )?;
        socket.connect_timeout(&listener.local_addr()?.into(), PATIENCE)?;
        let mut ends = Ends::new(listener.accept()?.0, socket.into())?;
        say(&mut ends.application, &mut ends.proxy, b"hello")?;
        say(&mut ends.proxy, &mut ends.application, b"world")?;
    }
    ensure!(scene.tally(Tally::Joined)? == 0);
    let without = CapturePolicy {
        fast_path: false,
        ..CapturePolicy::default()
    };
    let scene = Scene::between(FastPathFor::Agent, &without)?;
    let mut ends = scene.server(false)?;
    say(&mut ends.application, &mut ends.proxy, b"hello")?;
    say(&mut ends.proxy, &mut ends.application, b"world")?;
    ensure!(scene.tally(Tally::Joined)? == 0);
    Ok(())
}
