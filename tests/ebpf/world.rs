//! A node with pods, made of network namespaces, and the two ends of a connection in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_agent::intercept::ebpf::{Ebpf, FastPathFor, Options};
use mesh_agent::intercept::succession::{Places, Successor};
use mesh_agent::intercept::{Enrolment, Interceptor, PodListeners, Target};
use mesh_agent::model::{CapturePolicy, PodId};
use mesh_agent::netns::NetNs;
use mesh_agent::sys::socket::{listen, original_destination};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockRef, Socket, Type};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// A network namespace that goes when it is dropped.
pub struct Net {
    pub name: String,
    pub ns: NetNs,
}

/// A node's namespace with a bridge, the pods on it, and an address beyond it.
///
/// Node: 10.77.0.1, fd77::1; beyond: 203.0.113.5, 2001:db8::5; pod N: 10.77.0.(10+N), fd77::(10+N), interface `eth0`.
pub struct World {
    pub node: Net,
    pub pods: Vec<Net>,
}

impl Net {
    pub fn new(label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mesh-ebpf-{}-{number}-{label}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let ns = NetNs::open(&Path::new("/run/netns").join(&name))?;
        let net = Self { name, ns };
        net.ip("link set lo up")?;
        Ok(net)
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// A command that will run inside when started by `in_here`.
    pub fn in_here<T>(&self, action: impl FnOnce() -> T) -> Result<T> {
        Ok(self.ns.run(action)?)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
    }
}

impl World {
    pub fn new(pods: usize) -> Result<Self> {
        let node = Net::new("node")?;
        for command in [
            "link add br0 type bridge",
            "addr add 10.77.0.1/24 dev br0",
            "addr add fd77::1/64 dev br0 nodad",
            "link set br0 up",
            "addr add 203.0.113.5/32 dev lo",
            "addr add 2001:db8::5/128 dev lo nodad",
        ] {
            node.ip(command)?;
        }
        let mut world = Self {
            node,
            pods: Vec::new(),
        };
        for _ in 0..pods {
            let number = world.pods.len();
            let pod = Net::new(&format!("pod{number}"))?;
            world.connect(&pod, number)?;
            world.pods.push(pod);
        }
        Ok(world)
    }

    /// Gives a namespace the addresses of pod `number`.
    pub fn connect(&self, pod: &Net, number: usize) -> Result<()> {
        let (host, last) = (format!("v{number}"), 10 + number);
        let _ = self.node.ip(&format!("link del {host}"));
        self.node.ip(&format!(
            "link add {host} type veth peer name eth0 netns {}",
            pod.name
        ))?;
        self.node.ip(&format!("link set {host} master br0 up"))?;
        for command in [
            // A link-local address would come up later, in the middle of a test.
            "link set eth0 addrgenmode none".to_owned(),
            format!("addr add 10.77.0.{last}/24 dev eth0"),
            format!("addr add fd77::{last}/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            "route add default via 10.77.0.1".to_owned(),
            "-6 route add default via fd77::1".to_owned(),
        ] {
            pod.ip(&command)?;
        }
        Ok(())
    }
}

/// The addresses of pod `number`.
pub fn addresses(number: usize) -> [IpAddr; 2] {
    [
        format!("10.77.0.{}", 10 + number),
        format!("fd77::{}", 10 + number),
    ]
    .map(|text| text.parse().expect("an address"))
}

/// A test, by name.
pub type Test = (&'static str, fn() -> Result<()>);

/// An agent with its own directories, which go when it is dropped.
pub struct Agent {
    pub ebpf: Arc<Ebpf>,
    pub options: Options,
    _run: Option<tempfile::TempDir>,
}

impl Agent {
    pub fn start() -> Result<Self> {
        Self::start_for(FastPathFor::Applications)
    }

    pub fn start_for(fast_path: FastPathFor) -> Result<Self> {
        let run = tempfile::tempdir()?;
        let mut agent = Self::start_with(run.path(), fast_path)?;
        agent._run = Some(run);
        Ok(agent)
    }

    pub fn start_in(run: &Path) -> Result<Self> {
        Self::start_with(run, FastPathFor::Applications)
    }

    fn start_with(run: &Path, fast_path: FastPathFor) -> Result<Self> {
        let options = Options {
            pin_dir: None,
            run_dir: run.to_owned(),
            log_connections: false,
            fast_path,
            ..Options::default()
        };
        Ok(Self {
            ebpf: Arc::new(Ebpf::start(&options)?),
            options,
            _run: None,
        })
    }

    /// Clears away what agents that are gone have left, as the agent does once its pods are enrolled.
    pub fn sweep(&self) -> Result<()> {
        let places = Places {
            pin_dir: self.options.pin_dir.clone(),
            run_dir: self.options.run_dir.clone(),
        };
        let ebpf: Arc<dyn Interceptor> = Arc::<Ebpf>::clone(&self.ebpf);
        Ok(Successor::new(ebpf, places).sweep()?)
    }

    /// Enrols pod `number`, with a recorder in the place of the proxy.
    pub fn enrol(&self, net: &Net, number: usize, policy: &CapturePolicy) -> Result<Pod> {
        let listeners = listen(&net.ns, self.ebpf.listen())?;
        let enrolment = self.enrol_with(net, &addresses(number), policy, &listeners)?;
        Ok(Pod {
            enrolment,
            recorder: Some(Recorder::start(listeners)?),
        })
    }

    pub fn enrol_with(
        &self,
        net: &Net,
        addresses: &[IpAddr],
        policy: &CapturePolicy,
        listeners: &PodListeners,
    ) -> Result<Box<dyn Enrolment>> {
        Ok(self.ebpf.enrol(&Target {
            pod: &PodId {
                namespace: "default".into(),
                name: net.name.as_str().into(),
            },
            netns: &net.ns,
            addresses,
            policy,
            listeners,
        })?)
    }
}

/// An enrolled pod.
pub struct Pod {
    pub enrolment: Box<dyn Enrolment>,
    pub recorder: Option<Recorder>,
}

/// Accepts what is steered, says what it sees of it in one line, and then echoes.
pub struct Recorder {
    stop: Option<std::io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    pub fn start(listeners: PodListeners) -> Result<Self> {
        let (stopped, stop) = std::io::pipe()?;
        let thread = thread::spawn(move || {
            let mut all = vec![("out", listeners.outbound4), ("in", listeners.inbound4)];
            all.extend(listeners.outbound6.map(|listener| ("out", listener)));
            all.extend(listeners.inbound6.map(|listener| ("in", listener)));
            loop {
                let mut wanted: Vec<_> = all
                    .iter()
                    .map(|(_, listener)| PollFd::new(listener.as_fd(), PollFlags::POLLIN))
                    .collect();
                wanted.push(PollFd::new(stopped.as_fd(), PollFlags::POLLIN));
                let _ = poll(&mut wanted, PollTimeout::NONE);
                if wanted.last().and_then(PollFd::any).unwrap_or(true) {
                    return;
                }
                for (direction, listener) in &all {
                    if let Ok((stream, peer)) = listener.accept() {
                        answer(stream, direction, peer);
                    }
                }
            }
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server that says who is there, and echoes.
pub struct Server {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(net: &Net, address: &str) -> Result<Self> {
        let address: SocketAddr = address.parse()?;
        let open = || -> std::io::Result<TcpListener> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(64)?;
            Ok(socket.into())
        };
        let listener = net.ns.run(open)??;
        let accepting = listener.try_clone()?;
        let thread = thread::spawn(move || {
            while let Ok((stream, peer)) = accepting.accept() {
                answer(stream, "direct", peer);
            }
        });
        Ok(Self {
            listener,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, direction: &str, peer: SocketAddr) {
    let direction = direction.to_owned();
    thread::spawn(move || -> Result<()> {
        stream.set_nonblocking(false)?;
        let destination = original_destination(&stream)?;
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        writeln!(stream, "{direction} {destination} {peer}")?;
        let mut reading = stream.try_clone()?;
        std::io::copy(&mut reading, &mut stream)?;
        Ok(())
    });
}

/// A connection, and what the other end said of it.
pub struct Connection {
    reader: BufReader<TcpStream>,
    /// `out`, `in` or `direct`.
    pub direction: String,
    /// Where the other end believes it was headed.
    pub destination: SocketAddr,
    /// Who the other end believes to be talking to.
    pub client: SocketAddr,
}

impl Connection {
    /// Connects from inside `net`.
    pub fn open(net: &Net, to: &str) -> Result<Self> {
        Self::open_with(net, to, |_| Ok(()))
    }

    /// Connects with a socket that `prepare` has had in its hands.
    pub fn open_with(
        net: &Net,
        to: &str,
        prepare: impl FnOnce(&Socket) -> std::io::Result<()>,
    ) -> Result<Self> {
        let to: SocketAddr = to.parse()?;
        let socket = net
            .ns
            .run(|| Socket::new(Domain::for_address(to), Type::STREAM, None))??;
        prepare(&socket)?;
        Self::connect(socket, to)
    }

    /// Connects a socket.
    pub fn connect(socket: Socket, to: SocketAddr) -> Result<Self> {
        socket
            .connect_timeout(&to.into(), PATIENCE)
            .with_context(|| format!("connecting to {to}"))?;
        Self::greeted(socket.into())
    }

    /// Reads the other end's line.
    pub fn greeted(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).context("no greeting")?;
        let mut words = line.split_whitespace();
        let mut word = || words.next().context("a short greeting");
        Ok(Self {
            direction: word()?.to_owned(),
            destination: word()?.parse()?,
            client: word()?.parse()?,
            reader,
        })
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends something and gets it back.
    pub fn echo(&mut self) -> Result<()> {
        self.reader.get_mut().write_all(b"hello")?;
        let mut back = [0; 5];
        self.reader.read_exact(&mut back).context("no echo")?;
        ensure!(&back == b"hello");
        Ok(())
    }

    /// Reads what the other end sends next.
    pub fn read_exact(&mut self, into: &mut [u8]) -> Result<()> {
        Ok(self.reader.read_exact(into)?)
    }

    /// Checks what the other end said.
    pub fn expect(self, direction: &str, destination: &str) -> Result<Self> {
        let destination: SocketAddr = destination.parse()?;
        ensure!(
            self.direction == direction && self.destination == destination,
            "wanted {direction} {destination}, saw {} {}",
            self.direction,
            self.destination
        );
        Ok(self)
    }
}

/// Connects and expects; the most common test.
pub fn check(net: &Net, to: &str, direction: &str) -> Result<()> {
    Connection::open(net, to)
        .and_then(|connection| connection.expect(direction, to))
        .and_then(|mut connection| connection.echo())
        .with_context(|| format!("to {to}, wanted {direction}"))
}

/// The error of a connect that must fail.
pub fn failure(net: &Net, to: &str) -> Result<std::io::Error> {
    let to: SocketAddr = to.parse()?;
    let socket = net
        .ns
        .run(|| Socket::new(Domain::for_address(to), Type::STREAM, None))??;
    match socket.connect_timeout(&to.into(), Duration::from_millis(500)) {
        Ok(()) => anyhow::bail!("the connection to {to} was made"),
        Err(e) => Ok(e),
    }
}

fn ip(arguments: &str) -> Result<String> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
