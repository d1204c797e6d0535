//! What the proxy's tests stand on: a world made by hand, servers that do as a test says, clients that speak bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::intercept::ListenSpec;
use crate::model::*;
use crate::proxy::record::{Flag, Hop, Stats};
use crate::proxy::site::Who;
use crate::proxy::upstream::Connector;
use crate::proxy::{Handle, Settings, Workers};

pub(super) const HOST: &str = "web.default.svc.cluster.local";

/// The address of the pod that is served; nothing listens there.
pub(super) const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 9));

/// A proxy with one listener, and the world it believes in.
pub(super) struct Mesh {
    pub(super) address: SocketAddr,
    pub(super) handle: Option<Handle>,
    world: Arc<ArcSwap<Snapshot>>,
    workers: Workers,
}

/// A world in the making.
pub(super) struct Plan {
    pub(super) hop: Hop,
    pub(super) protocol: Protocol,
    pub(super) cluster_protocol: Protocol,
    pub(super) endpoints: Vec<SocketAddr>,
    pub(super) subsets: Vec<(&'static str, Vec<SocketAddr>)>,
    /// What is spoken to the subsets, where it is something else.
    pub(super) subset_protocol: Option<Protocol>,
    pub(super) routes: Vec<Route>,
    pub(super) policy: TrafficPolicy,
    pub(super) discovery: Discovery,
    pub(super) unknown: Unknown,
    /// Where the pod's own app listens.
    pub(super) app: AppAddress,
    pub(super) https_redirect: bool,
    /// Where connections to the listener's own address really go.
    pub(super) original: Option<SocketAddr>,
    pub(super) moved: HashMap<SocketAddr, SocketAddr>,
    pub(super) known: bool,
    pub(super) workers: usize,
    /// What the gateway's port is instead of HTTP in the clear.
    pub(super) listener: Option<Box<dyn Fn() -> GatewayListener>>,
    /// Routes of what is not HTTP.
    pub(super) streams: Vec<StreamRoute>,
    pub(super) settings: Settings,
}

impl Plan {
    /// A pod that calls a Service of these endpoints.
    pub(super) fn outbound(protocol: Protocol, endpoints: &[SocketAddr]) -> Self {
        Self {
            hop: Hop::Outbound,
            protocol,
            cluster_protocol: protocol,
            endpoints: endpoints.to_vec(),
            subsets: Vec::new(),
            subset_protocol: None,
            routes: vec![forward_to(None)],
            policy: TrafficPolicy::default(),
            discovery: Discovery::Listed,
            unknown: Unknown::default(),
            app: AppAddress::Dialled,
            https_redirect: false,
            original: None,
            moved: HashMap::new(),
            known: true,
            workers: 1,
            listener: None,
            streams: Vec::new(),
            settings: Settings {
                header_timeout: Duration::from_millis(600),
                declared_silence: Duration::from_millis(200),
                retry_base: Duration::from_millis(1),
                ..Settings::default()
            },
        }
    }

    /// A pod whose app listens at `app`.
    pub(super) fn inbound(protocol: Protocol, app: SocketAddr) -> Self {
        Self {
            hop: Hop::Inbound,
            original: Some(app),
            ..Self::outbound(protocol, &[])
        }
    }

    /// A gateway in front of a Service of these endpoints.
    pub(super) fn gateway(endpoints: &[SocketAddr]) -> Self {
        Self {
            hop: Hop::Gateway,
            ..Self::outbound(Protocol::Http, endpoints)
        }
    }

    pub(super) fn start(self) -> Mesh {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.start_on(listener)
    }

    pub(super) fn start_on(mut self, listener: TcpListener) -> Mesh {
        let address = listener.local_addr().unwrap();
        let world = Arc::new(ArcSwap::from_pointee(self.snapshot(address)));
        let workers =
            Workers::start(self.workers, Arc::clone(&world), self.settings.clone()).unwrap();
        if let Some(original) = self.original {
            self.moved.insert(address, original);
        }
        let who = match self.hop {
            Hop::Outbound | Hop::Inbound => Who::Pod {
                pod: pod_id(),
                ports: ListenSpec {
                    transparent: false,
                    outbound_port: 15001,
                    inbound_port: 15006,
                },
                source: SourceMode::Sidecar,
            },
            Hop::Gateway => Who::Gateway {
                port: 80,
                pod: pod_id(),
            },
        };
        let moved = self.moved.clone();
        let handle = workers
            .serve(&[(listener, self.hop)], &who, || {
                Connector::Moved(moved.clone())
            })
            .unwrap();
        Mesh {
            address,
            handle: Some(handle),
            world,
            workers,
        }
    }

    fn snapshot(&self, listener: SocketAddr) -> Snapshot {
        let port = listener.port();
        let host: Arc<str> = HOST.into();
        let service = Arc::new(Service {
            host: Arc::clone(&host),
            namespace: "default".into(),
            name: "web".into(),
            addresses: vec![listener.ip()],
            ports: vec![ServicePort {
                number: port,
                name: "".into(),
                protocol: self.protocol,
            }],
        });
        let mut snapshot = Snapshot {
            generation: 1,
            ..Snapshot::default()
        };
        snapshot.common.unknown = self.unknown.clone();
        let mut clusters = vec![(None, &self.endpoints)];
        clusters.extend(self.subsets.iter().map(|(name, e)| (Some(*name), e)));
        for (subset, endpoints) in clusters {
            // Routes are written for port 80; the listener's own port serves undeclared and TCP ports.
            for port in [80, port] {
                let key = ClusterKey {
                    host: Arc::clone(&host),
                    port,
                    subset: subset.map(Arc::from),
                };
                let cluster = Cluster {
                    key: key.clone(),
                    protocol: match (subset, self.subset_protocol) {
                        (Some(_), Some(protocol)) => protocol,
                        (_, _) => self.cluster_protocol,
                    },
                    discovery: self.discovery.clone(),
                    endpoints: endpoints.iter().copied().map(Endpoint::at).collect(),
                    policy: Arc::new(self.policy.clone()),
                };
                snapshot.clusters.insert(key, Arc::new(cluster));
            }
        }
        if self.known {
            snapshot
                .common
                .addresses
                .insert(listener.ip(), Arc::clone(&service));
            snapshot.services.insert(host, service);
        }
        let table = || RouteTable {
            exact: SharedMap::from([("web".into(), self.virtual_host())]),
            ..RouteTable::default()
        };
        match self.hop {
            Hop::Gateway => snapshot.gateways.push(Arc::new(Gateway {
                names: vec!["default/gateway".into()],
                ports: BTreeMap::from([(
                    80,
                    GatewayPort {
                        bind: None,
                        listener: match &self.listener {
                            Some(listener) => listener(),
                            None => GatewayListener::Http(table()),
                        },
                    },
                )]),
                ..Gateway::default()
            })),
            Hop::Outbound | Hop::Inbound if self.known => {
                snapshot.common.mesh.insert(port, Arc::new(table()));
            }
            Hop::Outbound | Hop::Inbound => {}
        }
        if !self.streams.is_empty() {
            let table = StreamTable {
                routes: self.streams.clone(),
                next: None,
            };
            let ports = BTreeMap::from([(port, Arc::new(table))]);
            snapshot.common.streams.insert(HOST.into(), ports);
        }
        let private = BTreeMap::from([(port, self.virtual_host())]);
        snapshot.common.undeclared.insert(HOST.into(), private);
        let pod = Arc::new(self.pod(port));
        snapshot.pods.insert(pod_id(), Arc::clone(&pod));
        snapshot.pods_by_address.insert(POD, pod);
        snapshot
    }

    fn virtual_host(&self) -> Arc<VirtualHost> {
        Arc::new(VirtualHost {
            name: HOST.into(),
            next: None,
            https_redirect: self.https_redirect,
            routes: self.routes.iter().cloned().map(Arc::new).collect(),
        })
    }

    fn pod(&self, port: u16) -> Pod {
        let served = InboundPort {
            app: self.app,
            protocol: self.protocol,
            service: HOST.into(),
            pool: Arc::new(self.policy.pool.clone()),
            http: self.policy.http,
        };
        Pod {
            addresses: vec![POD],
            inbound: BTreeMap::from([(port, served.clone()), (8080, served)]),
            ..Pod::new(pod_id())
        }
    }
}

impl Mesh {
    pub(super) fn stats(&self) -> Stats {
        self.workers.stats()
    }

    /// Waits until the flag was counted: records are written when an exchange is over, a moment after its answer.
    pub(super) fn expect_flag(&self, flag: Flag) {
        eventually(|| self.stats().flags.contains(&(flag, 1)));
    }

    pub(super) fn replace(&self, plan: &Plan) {
        self.world.store(Arc::new(plan.snapshot(self.address)));
    }

    pub(super) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    pub(super) fn ask(&self, request: &str) -> String {
        let mut client = self.client();
        client.send(request);
        client.response()
    }
}

fn pod_id() -> PodId {
    PodId {
        namespace: "default".into(),
        name: "client".into(),
    }
}

/// The route that sends everything to one subset.
pub(super) fn forward_to(subset: Option<&str>) -> Route {
    split(&[(subset, 100)])
}

/// What a gateway's table has for the host `web`: this route.
pub(super) fn table_of(route: Route) -> RouteTable {
    let host = VirtualHost {
        name: HOST.into(),
        next: None,
        https_redirect: false,
        routes: [Arc::new(route)].into_iter().collect(),
    };
    RouteTable {
        exact: SharedMap::from([("web".into(), Arc::new(host))]),
        ..RouteTable::default()
    }
}

/// The route of connections that ask for one of these servers, or of all where there is none, to one subset.
pub(super) fn stream_to(server_names: &[&str], subset: Option<&str>) -> StreamRoute {
    let RouteAction::Forward(forward) = forward_to(subset).action else {
        unreachable!("it forwards");
    };
    StreamRoute {
        origin: None,
        when: StreamMatch {
            server_names: server_names.iter().map(|&name| name.into()).collect(),
            ..StreamMatch::default()
        },
        destinations: forward.destinations,
        total_weight: forward.total_weight,
    }
}

/// The route that splits requests.
pub(super) fn split(shares: &[(Option<&str>, u32)]) -> Route {
    let destinations: Vec<_> = shares
        .iter()
        .map(|(subset, weight)| Destination {
            cluster: ClusterKey {
                host: HOST.into(),
                port: 80,
                subset: subset.map(Arc::from),
            },
            names_port: true,
            weight: *weight,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        })
        .collect();
    Route {
        name: "test".into(),
        origin: None,
        cors: None,
        when: RouteMatch::default(),
        action: RouteAction::Forward(Forward {
            total_weight: destinations.iter().map(|d| u64::from(d.weight)).sum(),
            destinations,
            rewrite_path: None,
            rewrite_authority: None,
            timeout: None,
            retry: Retry::default(),
            fault: Fault::default(),
            mirrors: Vec::new(),
        }),
    }
}

/// Changes what a route does.
pub(super) fn with(mut route: Route, change: impl FnOnce(&mut RouteMatch, &mut Forward)) -> Route {
    let RouteAction::Forward(forward) = &mut route.action else {
        panic!("the route forwards nothing");
    };
    change(&mut route.when, forward);
    route
}

/// A route that answers by itself.
pub(super) fn acting(action: RouteAction) -> Route {
    let mut route = forward_to(None);
    route.action = action;
    route
}

/// An edit of a header: `set`, or `add` where it appends.
pub(super) fn edit(name: &'static str, pieces: Vec<Piece>, append: bool) -> HeaderEdit {
    let value = match pieces.as_slice() {
        [Piece::Text(text)] => Template::Fixed(text.parse().unwrap()),
        _ => Template::Pieces(pieces),
    };
    HeaderEdit {
        name: http::HeaderName::from_static(name),
        value,
        append,
    }
}

/// The headers of a message that begin with one of these, in alphabetical order.
pub(super) fn headers_of(message: &str, beginnings: &[&str]) -> Vec<String> {
    let head = message.split("\r\n\r\n").next().unwrap();
    let mut lines: Vec<_> = head
        .split("\r\n")
        .skip(1)
        .filter(|line| beginnings.iter().any(|start| line.starts_with(start)))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

/// A server that serves each connection on a thread of its own.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Does as `serve` says with the connection of each client.
    pub(super) fn start(serve: impl Fn(&mut Client) + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
    }

    fn start_on(
        listener: TcpListener,
        serve: impl Fn(&mut Client) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let accepted = Arc::<AtomicUsize>::default();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let (count, list, serve) = (Arc::clone(&accepted), Arc::clone(&heard), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                let mut client = Client::over(stream.unwrap());
                client.heard = Some(Arc::clone(&list));
                std::thread::spawn(move || serve(&mut client));
            }
        });
        Self {
            address,
            accepted,
            heard,
        }
    }

    /// Answers each request with `answer`, on as many connections as come.
    pub(super) fn answering(answer: &'static str) -> Self {
        Self::start(move |client| {
            while client.request().is_some() {
                client.send(answer);
            }
        })
    }

    /// Answers 200 with this body.
    pub(super) fn saying(body: &str) -> Self {
        Self::saying_on(TcpListener::bind("127.0.0.1:0").unwrap(), body)
    }

    /// Likewise at this address, unless it is taken.
    pub(super) fn try_start_at(address: SocketAddr, body: &str) -> Option<Self> {
        let listener = TcpListener::bind(address).ok()?;
        Some(Self::saying_on(listener, body))
    }

    fn saying_on(listener: TcpListener, body: &str) -> Self {
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self::start_on(listener, move |client| {
            while client.request().is_some() {
                client.send(&answer);
            }
        })
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The heads and sized bodies of all requests so far.
    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// An address that refuses connections.
pub(super) fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A connection, seen as bytes.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
    heard: Option<Arc<Mutex<Vec<String>>>>,
}

impl Client {
    pub(super) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub(super) fn over(stream: TcpStream) -> Self {
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            heard: None,
        }
    }

    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A peer that has gone is what some tests are about.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Reads up to and with `end`. `None` where the stream ends before.
    pub(super) fn until(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self
                .buffer
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let rest = self.buffer.split_off(at + end.len());
                let text = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8_lossy(&text).into_owned());
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    /// Reads so many bytes, or what there is before the end.
    pub(super) fn exactly(&mut self, n: usize) -> String {
        while self.buffer.len() < n && self.fill() > 0 {}
        let rest = self.buffer.split_off(n.min(self.buffer.len()));
        let text = std::mem::replace(&mut self.buffer, rest);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Everything up to the end.
    pub(super) fn rest(&mut self) -> Result<String, std::io::ErrorKind> {
        let mut bytes = std::mem::take(&mut self.buffer);
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Err(error.kind()),
        }
    }

    /// Remembers a text as heard.
    pub(super) fn note(&self, text: &str) {
        if let Some(heard) = &self.heard {
            heard.lock().unwrap().push(text.to_owned());
        }
    }

    /// A request with a sized body.
    pub(super) fn request(&mut self) -> Option<String> {
        let message = self.message()?;
        self.heard(&message);
        Some(message)
    }

    /// Writes down for the test what a server heard.
    pub(super) fn heard(&self, message: &str) {
        if let Some(heard) = &self.heard {
            heard.lock().unwrap().push(message.to_owned());
        }
    }

    /// A response with a sized body.
    pub(super) fn response(&mut self) -> String {
        self.message().expect("a response")
    }

    fn message(&mut self) -> Option<String> {
        let head = self.until("\r\n\r\n")?;
        let length = head
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned))
            .map_or(0, |value| value.parse().unwrap());
        let body = self.exactly(length);
        Some(head + &body)
    }

    fn fill(&mut self) -> usize {
        let mut space = [0; 16 * 1024];
        match self.stream.read(&mut space) {
            Ok(n) => {
                self.buffer.extend_from_slice(&space[..n]);
                n
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!(
                "nothing came: {error}; so far: {:?}",
                String::from_utf8_lossy(&self.buffer)
            ),
        }
    }
}

/// A message without the lines that are different each time.
pub(super) fn timeless(message: &str) -> String {
    message
        .split("\r\n")
        .map(|line| match line.split_once(": ") {
            Some(("date", _)) => "date: -".to_owned(),
            Some(("x-request-id", value)) if value.len() == 36 => "x-request-id: -".to_owned(),
            Some(("x-envoy-upstream-service-time", value)) if value.parse::<u64>().is_ok() => {
                "x-envoy-upstream-service-time: -".to_owned()
            }
            _ => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\r\n")
}

/// Waits up to 5 s for something to become true.
#[track_caller]
pub(super) fn eventually(holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "still not so after 5 s"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
