//! Measures the pure part of the agent: what a decision over a request costs in small and large worlds, and what it costs
//! to compile one. Prints JSON, for `cargo xtask bench`.

use std::fmt::Write;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http::HeaderMap;
use mesh_agent::config::compile::Compiler;
use mesh_agent::config::document::{Outcome, read_text};
use mesh_agent::config::{CompileOptions, Inputs, compile};
use mesh_agent::model::{Pod, PodId, Snapshot};
use mesh_agent::route::{Act, Client, Decision, HttpScope, Pick, Request, decide};
use serde_json::{Value, json};

/// How many VirtualServices the small, the middle and the large world have.
const SIZES: [usize; 3] = [1, 1_000, 10_000];

/// What the world that is compiled has.
const SERVICES: usize = 10_000;
const ENDPOINTS_EACH: usize = 10;
const VIRTUAL_SERVICES: usize = 5_000;

fn main() -> anyhow::Result<()> {
    let mut decisions = Vec::new();
    for shape in [Shape::Hosts, Shape::Exact, Shape::Prefix] {
        for size in SIZES {
            let nanoseconds = decision(shape, size)?;
            decisions
                .push(json!({"shape": shape.name(), "size": size, "nanoseconds": nanoseconds}));
        }
    }
    let report = json!({"decisions": decisions, "compile": compilation()?});
    println!("{report}");
    Ok(())
}

/// How the VirtualServices of a gateway differ.
#[derive(Clone, Copy)]
enum Shape {
    /// Each has a host of its own.
    Hosts,
    /// All have one host, and each an exact path.
    Exact,
    /// Likewise, and each a prefix.
    Prefix,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Exact => "exact paths",
            Self::Prefix => "prefix paths",
        }
    }

    fn host(self, number: usize) -> String {
        match self {
            Self::Hosts => format!("shop-{number}.example.com"),
            Self::Exact | Self::Prefix => "shop.example.com".to_owned(),
        }
    }

    fn rule(self, number: usize) -> String {
        match self {
            Self::Hosts => "uri: {prefix: /api/}".to_owned(),
            Self::Exact => format!("uri: {{exact: /api/v1/items/{number}/list}}"),
            Self::Prefix => format!("uri: {{prefix: /api/v1/items/{number}/}}"),
        }
    }

    fn path(self, number: usize) -> String {
        match self {
            Self::Hosts => "/api/list".to_owned(),
            Self::Exact => format!("/api/v1/items/{number}/list"),
            Self::Prefix => format!("/api/v1/items/{number}/list/of/things"),
        }
    }
}

const FIXTURE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  clusterIP: 10.96.0.1
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: gateway, labels: {app: gateway}}
status: {podIP: 10.0.0.1}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  selector: {app: gateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
";

/// The nanoseconds of a decision, over requests to all of `size` VirtualServices in a random order.
fn decision(shape: Shape, size: usize) -> anyhow::Result<f64> {
    let mut text = FIXTURE.to_owned();
    for number in 0..size {
        let (host, rule) = (shape.host(number), shape.rule(number));
        write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs-{number}}}\nspec:\n  \
             hosts: [{host}]\n  gateways: [gateway]\n  http:\n  - match: [{{{rule}}}]\n    route: [{{destination: {{host: shop}}}}]\n"
        )?;
    }
    let snapshot = world(&text)?;
    let pod = pod(&snapshot, "gateway")?;
    let client = Client::Gateway(&pod);
    let scope = HttpScope::Gateway {
        port: 80,
        server: None,
    };
    let mut chance = fastrand::Rng::with_seed(1);
    let mut asked: Vec<(String, String)> = (0..size)
        .map(|number| (shape.host(number), shape.path(number)))
        .collect();
    chance.shuffle(&mut asked);
    // As with a request that has just been read, the texts are where the processor expects them.
    let asked: Vec<(String, String)> = asked.to_vec();
    let headers = HeaderMap::new();
    let mut pick = Chance(chance);
    let mut ask = |(authority, path): &(String, String)| {
        let request = Request {
            authority,
            path,
            query: None,
            method: "GET",
            scheme: "http",
            headers: &headers,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        decide(&snapshot, &scope, &client, &request, &mut pick)
    };
    for asked in &asked {
        match ask(asked) {
            Decision::Routed(routed) if matches!(routed.act, Act::Forward(_)) => {}
            other => bail!("{asked:?} became {other:?}"),
        }
    }
    let rounds = 200_000_usize.div_ceil(size);
    let best = (0..5).map(|_| {
        let taken = spent(|| {
            for _ in 0..rounds {
                for asked in &asked {
                    black_box(ask(black_box(asked)));
                }
            }
        });
        taken.as_secs_f64() * 1e9 / (rounds * size) as f64
    });
    Ok(best.fold(f64::INFINITY, f64::min))
}

/// What it costs to compile a large world, whole and once more with one object changed.
fn compilation() -> anyhow::Result<Value> {
    let options = CompileOptions::default();
    let mut inputs = Inputs::default();
    let mut outcome = Ok(());
    let reading = spent(|| outcome = large(&mut inputs, &options));
    outcome?;
    let whole = timed(|| compile(&inputs, &options));
    let resident = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = resident.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    let sliced = [
        ("an EndpointSlice", [slice(7, 8080, 10), slice(7, 8080, 3)]),
        (
            "a Service's port",
            [
                service(7, 8080),
                service(7, 8080).replace("port: 80,", "port: 81,"),
            ],
        ),
        ("a DestinationRule", [rule(7, 1), rule(7, 2)]),
        (
            "a VirtualService's rules",
            [routes(7, 7, "/v2/"), routes(7, 7, "/v3/")],
        ),
        (
            "a VirtualService's hosts",
            [routes(7, 7, "/v2/"), routes(7, 9_007, "/v2/")],
        ),
    ];
    let mut changes = Changes::new(&inputs, &options);
    drop(inputs);
    for (what, versions) in &sliced {
        changes.measure(what, versions)?;
    }
    let mut found = changes.found;
    let mut inputs = Inputs::default();
    for number in 0..SERVICES {
        read(&selecting(number), &mut inputs, &options)?;
    }
    let by_selector = timed(|| compile(&inputs, &options));
    let mut changes = Changes::new(&inputs, &options);
    drop(inputs);
    let versions = ["True", "False"].map(|ready| pod_of(7, 3, ready));
    changes.measure("a Pod's readiness", &versions)?;
    found.append(&mut changes.found);
    let changed = found.iter().map(|(_, taken)| *taken).max();
    Ok(json!({
        "services": SERVICES,
        "endpoints": SERVICES * ENDPOINTS_EACH,
        "virtual_services": VIRTUAL_SERVICES,
        "read_milliseconds": milliseconds(reading),
        "whole_milliseconds": milliseconds(whole),
        "by_selector_milliseconds": milliseconds(by_selector),
        "changed_milliseconds": milliseconds(changed.unwrap_or_default()),
        "changes": found.iter().map(|(what, taken)| json!({"what": what, "milliseconds": milliseconds(*taken)})).collect::<Value>(),
        "resident_megabytes": pages.map(|pages| pages * 4096 / 1_000_000),
    }))
}

/// A world that one object after another changes in.
struct Changes<'o> {
    compiler: Compiler,
    options: &'o CompileOptions,
    found: Vec<(String, Duration)>,
}

impl<'o> Changes<'o> {
    fn new(inputs: &Inputs, options: &'o CompileOptions) -> Self {
        let mut compiler = Compiler::new(options.clone());
        for object in inputs.iter() {
            compiler.change(&object.id, Some(Arc::clone(object)));
        }
        compiler.world();
        compiler.prepare();
        Self {
            compiler,
            options,
            found: Vec::new(),
        }
    }

    /// The median of what it takes to go from one version of an object to the other and back, several times.
    fn measure(&mut self, what: &str, versions: &[String; 2]) -> anyhow::Result<()> {
        let mut taken = Vec::new();
        let mut current = None;
        for version in versions.iter().cycle().take(12) {
            let mut inputs = Inputs::default();
            read(version, &mut inputs, self.options)?;
            for object in inputs.iter() {
                self.compiler.change(&object.id, Some(Arc::clone(object)));
            }
            // The kernel's account of a thread is too coarse for so little; the median leaves out who was interrupted.
            let start = Instant::now();
            let made = Some(self.compiler.world());
            taken.push(start.elapsed());
            if !self.compiler.was_partial() {
                bail!("{what}: the whole world was made anew");
            }
            // The one before goes now, as in the agent.
            current = made;
        }
        drop(current);
        taken.sort_unstable();
        self.found.push((what.to_owned(), taken[taken.len() / 2]));
        Ok(())
    }
}

fn large(inputs: &mut Inputs, options: &CompileOptions) -> anyhow::Result<()> {
    for number in 0..SERVICES {
        let text = service(number, 8080) + "---\n" + &slice(number, 8080, ENDPOINTS_EACH);
        read(&text, inputs, options)?;
    }
    for number in 0..VIRTUAL_SERVICES {
        read(&routes(number, number, "/v2/"), inputs, options)?;
    }
    read(&rule(7, 1), inputs, options)
}

fn routes(number: usize, host: usize, prefix: &str) -> String {
    let other = (number + 1) % SERVICES;
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs-{number}}}\nspec:\n  hosts: [svc-{host}]\n  \
         http:\n  - match: [{{uri: {{prefix: {prefix}}}}}]\n    route: [{{destination: {{host: svc-{other}}}}}]\n  \
         - route: [{{destination: {{host: svc-{number}}}}}]\n"
    )
}

fn rule(number: usize, connections: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: dr-{number}}}\nspec:\n  host: svc-{number}\n  \
         trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {connections}}}}}}}\n"
    )
}

/// A Service with the Pods that it selects.
fn selecting(number: usize) -> String {
    let pods = (0..ENDPOINTS_EACH).map(|member| format!("---\n{}", pod_of(number, member, "True")));
    let service = service(number, 8080);
    format!(
        "{service}  selector: {{app: svc-{number}}}\n{}",
        pods.collect::<String>()
    )
}

fn pod_of(number: usize, member: usize, ready: &str) -> String {
    let (high, low) = (number / 250, number % 250 + 1);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: svc-{number}-{member}, labels: {{app: svc-{number}, version: v1}}}}\n\
         spec: {{nodeName: node-{}}}\nstatus: {{podIP: 10.{member}.{high}.{low}, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n",
        number % 100
    )
}

/// A Service.
fn service(number: usize, port: u16) -> String {
    let (high, low) = (number / 250, number % 250 + 1);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: svc-{number}}}\nspec:\n  clusterIP: 172.16.{high}.{low}\n  \
         ports: [{{name: http, port: 80, targetPort: {port}}}]\n"
    )
}

/// Its EndpointSlice.
fn slice(number: usize, port: u16, count: usize) -> String {
    let (high, low) = (number / 250, number % 250 + 1);
    let endpoints = (0..count).map(|member| {
        format!("- {{addresses: [10.{member}.{high}.{low}], conditions: {{ready: true}}}}\n")
    });
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: svc-{number}-a\n  \
         labels: {{kubernetes.io/service-name: svc-{number}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: {port}}}]\nendpoints:\n{}",
        endpoints.collect::<String>()
    )
}

fn world(text: &str) -> anyhow::Result<Snapshot> {
    let options = CompileOptions::default();
    let mut inputs = Inputs::default();
    read(text, &mut inputs, &options)?;
    Ok(compile(&inputs, &options).0)
}

fn read(text: &str, inputs: &mut Inputs, options: &CompileOptions) -> anyhow::Result<()> {
    let file: Arc<Path> = Path::new("bench.yaml").into();
    for document in read_text(text, &file, options) {
        match document.outcome {
            Outcome::Good(object) => {
                inputs.insert(object);
            }
            Outcome::Broken(_) | Outcome::Ignored(_) => {
                bail!("a manifest of the bench is broken: {:?}", document.rejected)
            }
        }
    }
    Ok(())
}

fn pod(snapshot: &Snapshot, name: &str) -> anyhow::Result<Arc<Pod>> {
    let id = PodId {
        namespace: "default".into(),
        name: name.into(),
    };
    snapshot.pods.get(&id).cloned().context("the pod is gone")
}

/// The best of three.
fn timed<T>(work: impl Fn() -> T) -> Duration {
    let times = (0..3).map(|_| {
        let mut made = None;
        let taken = spent(|| made = Some(work()));
        drop(made);
        taken
    });
    times.min().unwrap_or_default()
}

/// The processor time that something takes, so that others on the machine count for little; the time, where the kernel
/// does not tell.
fn spent(work: impl FnOnce()) -> Duration {
    let on_processor = || -> Option<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split(' ').next()?.parse().ok()
    };
    let (before, start) = (on_processor(), Instant::now());
    work();
    let elapsed = start.elapsed();
    let spent = on_processor()
        .zip(before)
        .map(|(after, before)| after - before);
    spent.map_or(elapsed, Duration::from_nanos)
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

struct Chance(fastrand::Rng);

impl Pick for Chance {
    fn pick(&mut self, below: u64) -> u64 {
        self.0.u64(..below)
    }
}
