//! Counts what a request costs in allocations, beside the least that hyper costs: what is ours must be none; and what a
//! connection holds that is kept and idle.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mesh_agent::config::document::{Outcome, read_text};
use mesh_agent::config::{CompileOptions, Inputs, compile};
use mesh_agent::model::{PodId, Snapshot};
use mesh_agent::proxy::{GatewayProxy, Handle, Settings, Workers};

use crate::counting::{Counting, allocations, held, traced};

#[path = "allocations/bare.rs"]
mod bare;
#[path = "allocations/counting.rs"]
mod counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// So many requests before it counts: connections are open then, and buffers as large as they need to be.
const BEFORE: usize = 200;

/// So many that count.
const COUNTED: u64 = 1000;

/// What a usual client says.
const REQUEST: &str = "GET /items/7?full=1 HTTP/1.1\r\nhost: shop.example.com\r\nuser-agent: test/1.0\r\n\
                       accept: */*\r\naccept-encoding: gzip\r\nx-tenant: blue\r\n\r\n";

/// What a usual server answers.
const RESPONSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\
                        date: Wed, 25 Nov 2026 12:00:00 GMT\r\nserver: test\r\n\
                        connection: keep-alive\r\n\r\n{\"id\": 700}";

/// How many connections are idle, and how many bytes each of them may hold.
const IDLE: i64 = 300;
const HELD: i64 = 3 * 1024;

/// What counts must be alone.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_connection_that_rests_holds_little() {
    let _alone = alone();
    let gateway = Gateway::start(serve(), "route: [{destination: {host: shop}}]");
    let open = || {
        let mut client = TcpStream::connect(gateway.address).expect("the proxy is there");
        ask(&mut client);
        client
    };
    let _first = open();
    let before = held();
    let mut clients: Vec<TcpStream> = (0..IDLE).map(|_| open()).collect();
    let busy = (held() - before) / IDLE;
    let each = || (held() - before) / IDLE;
    let deadline = Instant::now() + Duration::from_secs(10);
    while each() > HELD && Instant::now() < deadline {
        sleep(Duration::from_millis(100));
    }
    println!("{} bytes at rest, {busy} while there may be more", each());
    assert!(each() <= HELD, "{} bytes each", each());
    // They are as good as new.
    for client in &mut clients {
        ask(client);
    }
}

#[test]
fn a_request_costs_no_allocation_of_our_own() {
    let _alone = alone();
    let server = serve();
    let bare = Cost::of(bare::start(server));
    let plain = "route: [{destination: {host: shop}}]";
    let timed = "timeout: 10s\n    retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,reset'}\n    \
                 route: [{destination: {host: shop}}]";
    let mut failures = Vec::new();
    for (name, rule) in [("plain", plain), ("timed", timed)] {
        let gateway = Gateway::start(server, rule);
        let ours = Cost::of(gateway.address);
        println!(
            "{name}: {} allocations per request, hyper alone {}",
            ours.each, bare.each
        );
        if ours.each != bare.each {
            failures.push(format!(
                "{name}: {} instead of {}; ours:\n{}\n\nhyper alone:\n{}",
                ours.each,
                bare.each,
                ours.traces.join("\n"),
                bare.traces.join("\n")
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What requests cost.
struct Cost {
    /// Allocations for each.
    each: u64,
    /// Those of one request.
    traces: Vec<String>,
}

impl Cost {
    fn of(proxy: SocketAddr) -> Self {
        let mut client = TcpStream::connect(proxy).expect("the proxy is there");
        let mut ask = move || ask(&mut client);
        for _ in 0..BEFORE {
            ask();
        }
        let before = allocations();
        for _ in 0..COUNTED {
            ask();
        }
        let counted = allocations() - before;
        Self {
            // What comes now and then, such as a sweep of the pools, is no request's.
            each: counted / COUNTED,
            traces: traced(&mut ask),
        }
    }
}

/// One request, and its whole answer.
fn ask(client: &mut TcpStream) {
    client.write_all(REQUEST.as_bytes()).expect("it listens");
    let mut answer = [0; 4096];
    let mut length = 0;
    while !answer[..length].ends_with(b"{\"id\": 700}") {
        let read = client.read(&mut answer[length..]).expect("it answers");
        assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&answer));
        length += read;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

/// A server that allocates nothing once it has a client.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let mut length = 0;
                while let Ok(read @ 1..) = client.read(&mut request[length..]) {
                    length += read;
                    if request[..length].ends_with(b"\r\n\r\n") {
                        length = 0;
                        client.write_all(RESPONSE.as_bytes()).expect("it listens");
                    }
                }
            });
        }
    });
    address
}

/// A gateway with one route.
struct Gateway {
    address: SocketAddr,
    _handle: Handle,
    _workers: Workers,
}

impl Gateway {
    fn start(server: SocketAddr, rule: &str) -> Self {
        let world = Arc::new(ArcSwap::from_pointee(world(server, rule)));
        let workers = Workers::start(1, world, Settings::default()).expect("threads");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let handle = workers
            .serve_gateway(GatewayProxy {
                listener: vec![listener],
                port: 80,
                pod: PodId {
                    namespace: "default".into(),
                    name: "gateway".into(),
                },
            })
            .expect("it serves");
        Self {
            address,
            _handle: handle,
            _workers: workers,
        }
    }
}

fn world(server: SocketAddr, rule: &str) -> Snapshot {
    let port = server.port();
    let text = format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: shop}}
spec:
  clusterIP: 10.96.0.1
  ports: [{{name: http, port: 80, targetPort: {port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: shop-a, labels: {{kubernetes.io/service-name: shop}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: gateway, labels: {{app: gateway}}}}
status: {{podIP: 10.0.0.1}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  selector: {{app: gateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop}}
spec:
  hosts: [shop.example.com]
  gateways: [gateway]
  http:
  - match: [{{uri: {{prefix: /items/}}}}]
    {rule}
"
    );
    let options = CompileOptions::default();
    let mut inputs = Inputs::default();
    let file: Arc<Path> = Path::new("test.yaml").into();
    for document in read_text(&text, &file, &options) {
        match document.outcome {
            Outcome::Good(object) => {
                inputs.insert(object);
            }
            Outcome::Broken(_) | Outcome::Ignored(_) => panic!("{:?}", document.rejected),
        }
    }
    compile(&inputs, &options).0
}
