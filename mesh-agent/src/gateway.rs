//! The ingress gateway: the same proxy, without privileges, listening where the gateway's Services lead.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tracing::{error, info};

use crate::cli::GatewayArgs;
use crate::config::Membership;
use crate::config::kube::{Viewer, Watched};
use crate::model::{CapturePolicy, PodId, Snapshot, Topology};
use crate::pod::Reports;
use crate::process::{Identity, Process, Standing};
use crate::proxy::{GatewayProxy, Handle, Settings, Workers};
use crate::ready::{NotReady, Ready};

/// `mesh-agent gateway`: serves until it is told to end.
pub fn run(args: &GatewayArgs) -> anyhow::Result<ExitCode> {
    let pod = parse_pod(&args.pod)?;
    let topology = Topology {
        trusted_proxies: args.trusted_proxies,
        ..Topology::default()
    };
    let settings = Settings {
        // An agent of this node may hand bytes over, and nobody here would know.
        splice: false,
        ..Settings::default()
    };
    let watched = Watched {
        viewer: Viewer::Gateway {
            namespace: Arc::clone(&pod.namespace),
            name: Arc::clone(&pod.name),
        },
        saved: args.process.state_dir.clone(),
        herald: None,
    };
    let standing = Standing {
        origin: args.process.origin(watched),
        membership: Membership::Placed,
        capture: CapturePolicy::default(),
        topology,
        settings,
    };
    let Some(process) = Process::start(&args.process, standing)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let gateway = Gateway {
        pod,
        bind: args.bind,
        workers: Arc::clone(&process.workers),
        not_ready: Some(process.ready.hold(NO_SERVERS)),
        ready: process.ready.clone(),
        serving: BTreeMap::new(),
        drain: args.process.drain,
    };
    let identity = Identity {
        role: "gateway",
        name: gateway.pod.to_string(),
        mode: None,
        pods: Reports::default(),
        tallies: Arc::new(Vec::new),
    };
    info!(pod = %gateway.pod, "mesh-agent {} as a gateway", env!("CARGO_PKG_VERSION"));
    let running = process.announce(identity);
    let mut snapshots = running.snapshots;
    running.runtime.block_on(async {
        let mut gateway = gateway;
        gateway
            .serve(&mut snapshots, running.shutdown.asked())
            .await;
        // Who sends connections here learns of the end by and by: until then they must not be refused.
        let _leaving = gateway.ready.hold(LEAVING);
        let last = tokio::time::sleep(args.keep_accepting());
        gateway.serve(&mut snapshots, last).await;
        gateway.drain().await;
    });
    Ok(ExitCode::SUCCESS)
}

/// How often ports that could not be listened on are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a gateway that serves nothing waits for.
const NO_SERVERS: &str =
    "a Gateway whose selector finds this pod, and ports that can be listened on";

/// What a gateway that is told to end waits for.
const LEAVING: &str = "nothing: it is told to end, and takes the connections that still come";

/// A gateway and its listeners.
struct Gateway {
    pod: PodId,
    bind: Option<IpAddr>,
    workers: Arc<Workers>,
    ready: Ready,
    not_ready: Option<NotReady>,
    serving: BTreeMap<Door, Open>,
    drain: Duration,
}

/// A port to listen on, and the port of the Gateways whose servers answer there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Door {
    at: Place,
    server: u16,
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    port: u16,
    /// `servers[].bind`; `None` is wherever the command line says.
    bind: Option<IpAddr>,
}

/// Who serves a door. The listeners are kept beside the workers' for when something else is to be served there.
struct Open {
    handle: Handle,
    listeners: Vec<TcpListener>,
}

impl Gateway {
    /// Serves whatever the newest snapshot asks for.
    async fn serve(&mut self, snapshots: &mut watch::Receiver<Arc<Snapshot>>, until: impl Future) {
        tokio::pin!(until);
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.follow(&snapshot);
            tokio::select! {
                _ = &mut until => break,
                changed = snapshots.changed() => if changed.is_err() { break },
                // A port that was taken may be free by now.
                () = tokio::time::sleep(RETRY), if self.not_ready.is_some() => {}
            }
        }
    }

    /// Opens the doors that the snapshot asks for, and closes the others; what goes through them is finished.
    fn follow(&mut self, snapshot: &Snapshot) {
        let wanted = doors(snapshot, &self.pod);
        let unwanted: Vec<_> = self
            .serving
            .keys()
            .filter(|door| !wanted.contains(door))
            .cloned()
            .collect();
        // A port that stays open changes hands, and is at no time closed.
        let mut closing = BTreeMap::new();
        for door in unwanted {
            if let Some(open) = self.serving.remove(&door) {
                closing.insert(door.at, open);
            }
        }
        let mut complete = !wanted.is_empty();
        for door in wanted {
            if self.serving.contains_key(&door) {
                continue;
            }
            match self.open(&door, closing.get(&door.at)) {
                Ok(open) => {
                    info!(port = door.at.port, server = door.server, "listening");
                    self.serving.insert(door, open);
                }
                Err(e) => {
                    error!(port = door.at.port, "{e:#}");
                    complete = false;
                }
            }
        }
        for (at, open) in closing {
            if !self.serving.keys().any(|door| door.at == at) {
                info!(port = at.port, "no longer listening");
            }
            tokio::spawn(open.handle.drain(self.drain));
        }
        match (complete, &self.not_ready) {
            (true, _) => self.not_ready = None,
            (false, None) => self.not_ready = Some(self.ready.hold(NO_SERVERS)),
            (false, Some(_)) => {}
        }
    }

    /// Opens a door, on the listeners of `before` where it takes over from another.
    fn open(&self, door: &Door, before: Option<&Open>) -> anyhow::Result<Open> {
        let listeners = match before {
            Some(before) => clones(&before.listeners)?,
            None => listen_on_all(door.at.bind.or(self.bind), door.at.port)?,
        };
        let proxy = GatewayProxy {
            listener: clones(&listeners)?,
            port: door.server,
            pod: self.pod.clone(),
        };
        let handle = self
            .workers
            .serve_gateway(proxy)
            .context("handing the listeners to the workers")?;
        Ok(Open { handle, listeners })
    }

    async fn drain(self) {
        let draining: Vec<_> = self
            .serving
            .into_values()
            .map(|open| tokio::spawn(open.handle.drain(self.drain)))
            .collect();
        for task in draining {
            if task.await.is_err() {
                error!("the connections of a port were cut");
            }
        }
    }
}

/// Where a gateway pod listens: for each port of the Gateways that select it, the `targetPort` of its Service, or the
/// port as it stands where no Service of the pod has it. Nothing while the pod is unknown. No two are in each other's way:
/// of servers that would be, the world has but one.
fn doors(snapshot: &Snapshot, pod: &PodId) -> Vec<Door> {
    let Some(pod) = snapshot.pods.get(pod) else {
        return Vec::new();
    };
    let Some(gateway) = snapshot.gateway(pod) else {
        return Vec::new();
    };
    let doors = gateway.ports.iter().map(|(number, port)| Door {
        at: Place {
            port: gateway.target(*number),
            bind: port.bind,
        },
        server: *number,
    });
    doors.collect()
}

fn clones(listeners: &[TcpListener]) -> anyhow::Result<Vec<TcpListener>> {
    let clones: std::io::Result<_> = listeners.iter().map(TcpListener::try_clone).collect();
    clones.context("duplicating the listeners")
}

/// Listens at `bind`, or at every address of both families.
fn listen_on_all(bind: Option<IpAddr>, port: u16) -> anyhow::Result<Vec<TcpListener>> {
    let addresses = match bind {
        Some(address) => vec![address],
        None => vec![
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ],
    };
    let mut listeners = Vec::new();
    for address in addresses {
        match listen(SocketAddr::new(address, port)) {
            Ok(listener) => listeners.push(listener),
            // No IPv6 here: IPv4 is what there is.
            Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) && !listeners.is_empty() => {}
            Err(e) => {
                let remedy = if e.kind() == std::io::ErrorKind::PermissionDenied {
                    "; give the process CAP_NET_BIND_SERVICE, or its Service a targetPort above 1023"
                } else {
                    ""
                };
                return Err(e).with_context(|| match bind {
                    None => format!("cannot listen on port {port}{remedy}"),
                    Some(address) => format!("cannot listen on port {port} of {address}{remedy}"),
                });
            }
        }
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn parse_pod(text: &str) -> anyhow::Result<PodId> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(PodId {
                namespace: namespace.into(),
                name: name.into(),
            })
        }
        _ => bail!(
            "{text:?} names no pod; write NAMESPACE/NAME, for example istio-system/istio-ingressgateway"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture::{istio, pod, service, world};

    fn check(manifests: &[String], expected: &[(&str, u16)]) {
        let ready = pod("edge/gw", "10.0.0.1", "app=gw") + &manifests.concat();
        // No gateway is ready before it listens.
        for text in [ready.replace("\"True\"", "\"False\""), ready] {
            check_one(&text, expected);
        }
    }

    fn check_one(text: &str, expected: &[(&str, u16)]) {
        let (snapshot, _) = world(text);
        let id = PodId {
            namespace: "edge".into(),
            name: "gw".into(),
        };
        let doors = doors(&snapshot, &id);
        let found: Vec<(String, u16)> = doors
            .iter()
            .map(|door| match door.at.bind {
                None => (door.at.port.to_string(), door.server),
                Some(address) => (format!("{address} {}", door.at.port), door.server),
            })
            .collect();
        let expected: Vec<(String, u16)> = expected
            .iter()
            .map(|(at, server)| ((*at).to_owned(), *server))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    fn gateway(servers: &str) -> String {
        istio(
            "Gateway",
            "gw",
            &format!("{{selector: {{app: gw}}, servers: [{servers}]}}"),
        )
    }

    fn server(port: u16, rest: &str) -> String {
        format!("{{port: {{number: {port}, name: p{port}, protocol: HTTP}}, hosts: ['*']{rest}}},")
    }

    #[test]
    fn a_gateway_listens_where_its_service_leads() {
        let http = server(80, "") + &server(8081, "");
        check(&[gateway(&http)], &[("80", 80), ("8081", 8081)]);
        let service = service("edge/gw", "10.1.0.1", &["http:80:8080"]);
        check(
            &[gateway(&http), service.clone()],
            &[("8080", 80), ("8081", 8081)],
        );
        check(
            &[
                gateway(&(server(80, "") + &server(8080, ""))),
                service.clone(),
            ],
            &[("8080", 80)],
        );
        let apart = server(80, ", bind: 10.0.0.1") + &server(8080, "");
        check(
            &[gateway(&apart), service.clone()],
            &[("10.0.0.1 8080", 80)],
        );
        // The older one stays, whatever its number is.
        let apart = server(8080, "") + &server(80, ", bind: 10.0.0.1");
        check(&[gateway(&apart), service.clone()], &[("8080", 8080)]);
        let apart = server(80, ", bind: 10.0.0.1") + &server(8080, ", bind: 10.0.0.2");
        check(
            &[gateway(&apart), service],
            &[("10.0.0.1 8080", 80), ("10.0.0.2 8080", 8080)],
        );
    }

    #[test]
    fn an_address_may_be_named() {
        let servers = server(80, ", bind: 10.0.0.1") + &server(81, ", bind: 'fd00::1'");
        check(
            &[gateway(&servers)],
            &[("10.0.0.1 80", 80), ("fd00::1 81", 81)],
        );
    }

    #[test]
    fn nobody_listens_for_what_goes_nowhere() {
        let tcp = "{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']},".to_owned();
        let routes = istio(
            "VirtualService",
            "vs",
            "{hosts: ['*'], gateways: [gw], tcp: [{route: [{destination: {host: a}}]}]}",
        );
        let both = server(80, "") + &tcp;
        check(&[gateway(&both)], &[("80", 80)]);
        check(&[gateway(&both), routes], &[("80", 80), ("9000", 9000)]);
    }
}
