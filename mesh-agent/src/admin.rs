//! What a running process tells about itself, over HTTP on loopback: administration, readiness and metrics, each on the
//! port where users of Istio look for it. Nothing here can hold up a request of the mesh: it runs on the control
//! runtime and reads what others publish.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tracing::{debug, warn};

use mesh_ebpf::pair::Tally;

use crate::config::Rejected;
use crate::log::LogFilter;
use crate::model::Snapshot;
use crate::pod::Reports;
use crate::proxy::Workers;
use crate::ready::Ready;

mod metrics;
pub mod view;

/// The longest body that anybody may post.
const BODY_LIMIT: usize = 4096;

/// How long a client may take over its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a dead predecessor may hold a port.
const LINGERING: Duration = Duration::from_secs(1);

/// The listeners, which say that the process begins until there is something to tell.
pub struct Endpoints {
    told: Arc<OnceLock<Admin>>,
}

/// Which of the faces a port shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// Everything.
    Admin,
    /// `/healthz/ready` alone.
    Health,
    /// Metrics and readiness.
    Metrics,
}

/// How much goes without TCP, and how much of what might have does not; empty where nothing can.
pub type Tallies = Arc<dyn Fn() -> Vec<(Tally, u64)> + Send + Sync>;

/// What is told, and where it is read from.
pub struct Admin {
    /// `agent` or `gateway`.
    pub role: &'static str,
    /// The node's or the gateway pod's name.
    pub name: String,
    /// The mode and why it was chosen; none for a gateway.
    pub mode: Option<(String, String)>,
    /// The world in force.
    pub world: Arc<ArcSwap<Snapshot>>,
    /// What of the manifests is not in force.
    pub rejected: Arc<ArcSwap<Vec<Rejected>>>,
    /// The pods of this node.
    pub pods: Reports,
    /// Asks how much goes without TCP.
    pub tallies: Tallies,
    /// Whether the process serves.
    pub ready: Ready,
    /// Who carries the traffic.
    pub workers: Arc<Workers>,
    /// What is logged.
    pub log: LogFilter,
}

impl Endpoints {
    /// Listens at every address, or says which one is taken and what to do.
    pub async fn open(addresses: &[(SocketAddr, Face, &str)]) -> anyhow::Result<Self> {
        let mut listeners = Vec::new();
        for (address, face, flag) in addresses {
            let listener = bind(*address).await.with_context(|| {
                format!("cannot listen on {address}; is another agent running here? Choose another address with {flag}")
            })?;
            listeners.push((listener, *face));
        }
        let told = Arc::default();
        for (listener, face) in listeners {
            tokio::spawn(accept(listener, face, Arc::clone(&told)));
        }
        Ok(Self { told })
    }

    /// Tells of this process from now on, until it ends.
    pub fn tell(self, admin: Admin) {
        // Whoever has `self` is the only one who tells.
        let _ = self.told.set(admin);
    }
}

/// A predecessor that was killed a moment ago may still hold the port, through a child that it was just starting.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let patience = Instant::now() + LINGERING;
    loop {
        match TcpListener::bind(address).await {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            result => return result,
        }
    }
}

async fn accept(listener: TcpListener, face: Face, told: Arc<OnceLock<Admin>>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                warn!(error = %e, "the administration could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let told = Arc::clone(&told);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let told = Arc::clone(&told);
                async move {
                    Ok::<_, Infallible>(match told.get() {
                        Some(admin) => answer(face, admin, request).await,
                        None => text(StatusCode::SERVICE_UNAVAILABLE, BEGINNING),
                    })
                }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(e) = served.await {
                debug!(error = %e, "a connection to the administration ended early");
            }
        });
    }
}

async fn answer(face: Face, admin: &Admin, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match (face, &method, path.as_str()) {
        (Face::Admin | Face::Metrics, &Method::GET, "/ready")
        | (_, &Method::GET, "/healthz/ready") => ready(admin),
        (Face::Admin | Face::Metrics, &Method::GET, "/metrics" | "/stats/prometheus") => {
            metrics(admin)
        }
        (Face::Admin, &Method::GET, "/") => text(StatusCode::OK, INDEX),
        (Face::Admin, &Method::GET, "/status") => json(&view::status(admin)),
        (Face::Admin, &Method::GET, "/stats") => json(&view::stats(admin)),
        (Face::Admin, &Method::GET, "/config_dump") => json(&view::config(&admin.world.load())),
        (Face::Admin, &Method::GET, "/clusters") => json(&view::clusters(&admin.world.load())),
        (Face::Admin, &Method::GET, "/logging") => {
            text(StatusCode::OK, format!("{}\n", admin.log.get()))
        }
        (Face::Admin, &Method::POST, "/logging") => set_log(admin, request).await,
        _ => text(
            StatusCode::NOT_FOUND,
            "not found; GET / on the administration's address lists what there is\n",
        ),
    }
}

const BEGINNING: &str = "waiting for the first configuration; the log says what is missing\n";

const INDEX: &str = "\
mesh-agent
  GET  /ready         200 when every pod of the node is in the mesh
  GET  /status        the mode and why, the pods, the rejected objects
  GET  /stats         connections and requests, by pod
  GET  /config_dump   the configuration in force
  GET  /clusters      the endpoints of every cluster
  GET  /metrics       for Prometheus
  GET  /logging       the log filter in force
  POST /logging       another filter, as the body
";

fn ready(admin: &Admin) -> Response<Full<Bytes>> {
    let waiting = admin.ready.waiting_for();
    if waiting.is_empty() {
        text(StatusCode::OK, "ready\n")
    } else {
        text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("waiting for {}\n", waiting.join(", ")),
        )
    }
}

async fn set_log(admin: &Admin, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let body = match Limited::new(request.into_body(), BODY_LIMIT)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(e) => return text(StatusCode::BAD_REQUEST, format!("{e}\n")),
    };
    match admin.log.set(String::from_utf8_lossy(&body).trim()) {
        Ok(()) => text(StatusCode::OK, format!("{}\n", admin.log.get())),
        Err(e) => text(StatusCode::BAD_REQUEST, format!("{e:#}\n")),
    }
}

fn metrics(admin: &Admin) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, metrics::render(admin));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    );
    response
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, format!("{value:#}\n"));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
