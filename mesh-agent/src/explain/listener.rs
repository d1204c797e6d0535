//! Which listener takes a connection: what a name's address is, and who has it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::config::World;
use crate::explain::Leads;
use crate::explain::asked::{Asked, Asking};
use crate::intercept::capture::{self, Direct};
use crate::model::{ClusterKey, Credential, PodId, Protocol, ServerTls, Service};
use crate::route::{
    self, AtGateway, Client, HttpScope, Outbound, Secure, StreamScope, at_gateway, secure,
};

/// A listener.
pub(super) struct Listener {
    pub(super) destination: Option<SocketAddr>,
    pub(super) why: Vec<String>,
    pub(super) leads: Leads,
}

/// Finds it.
pub(super) fn find(
    world: &World,
    client: &Client<'_>,
    asked: &Asked,
    address: Option<SocketAddr>,
) -> Listener {
    match client {
        Client::Pod(_) => outbound(world, client, asked, address),
        Client::Gateway(_) => gateway(world, client, asked),
    }
}

fn outbound(
    world: &World,
    client: &Client<'_>,
    asked: &Asked,
    address: Option<SocketAddr>,
) -> Listener {
    let (address, mut why) = match address {
        Some(address) => (Some(address), Vec::new()),
        None => resolve(world, client, asked),
    };
    if let Some(reason) = past_the_mesh(world, client, address, asked.port) {
        why.push(reason);
        let to = address.map_or_else(
            || "wherever the name leads".to_owned(),
            |address| address.to_string(),
        );
        return Listener {
            destination: address,
            why,
            leads: Leads::Nowhere(format!("goes to {to} as it is, past the mesh")),
        };
    }
    // Whom nobody knows is nobody's, whatever the address.
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), asked.port);
    let to = address.unwrap_or(nobody);
    let outlook = world.snapshot.outlook(client.pod());
    let port = to.port();
    match route::owner(outlook, to) {
        Some((host, protocol)) => {
            let spoken = spoken(protocol);
            why.push(format!(
                "{to} is port {port} of {host}, where {spoken} is spoken"
            ));
        }
        None if address.is_some() => {
            why.push(format!("no Service that the pod knows has {to}"));
        }
        None => {}
    }
    let outbound = route::outbound(&world.snapshot, client, to);
    let leads = lead(outbound, asked, to, &mut why);
    Listener {
        destination: address,
        why,
        leads,
    }
}

/// Why a connection of the pod is none that the mesh carries.
fn past_the_mesh(
    world: &World,
    client: &Client<'_>,
    address: Option<SocketAddr>,
    port: u16,
) -> Option<String> {
    let pod = client.pod();
    let (enrolled, policy) = world.steering(&pod.id);
    if !enrolled {
        return Some(format!(
            "pod {} is not in the mesh: mesh-agent.io/enrol is \"false\"",
            pod.id
        ));
    }
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let to = address.unwrap_or(nobody);
    let direct = capture::direct(&policy, &pod.addresses, to)?;
    match (direct, address) {
        (Direct::PortExcluded, _) => Some(format!(
            "port {port} is one of the pod's excludeOutboundPorts"
        )),
        // The rest is about the address.
        (_, None) => None,
        (Direct::Own, Some(to)) => Some(format!(
            "{to} is the pod's own: what it says to itself stays within"
        )),
        (Direct::AddressExcluded, Some(to)) => Some(format!(
            "{} is in the pod's excludeOutboundIPRanges",
            to.ip()
        )),
        (Direct::NotIncluded, Some(to)) => Some(format!(
            "neither the pod's includeOutboundIPRanges nor its includeOutboundPorts have {to}"
        )),
    }
}

fn lead(outbound: Outbound, asked: &Asked, to: SocketAddr, why: &mut Vec<String>) -> Leads {
    let http = asked.protocol == Asking::Http;
    match outbound {
        Outbound::Http(scope) if http => {
            why.push(format!(
                "it is HTTP on an HTTP port of the mesh: {}",
                routed(&scope)
            ));
            Leads::Requests(scope)
        }
        Outbound::Http(_) => {
            why.push(format!(
                "port {} is an HTTP port of the mesh, and this is no HTTP: it is as what nobody knows",
                to.port()
            ));
            Leads::Stream(StreamScope::Unknown, to)
        }
        Outbound::Detect { scope, .. } if http => {
            let routed = routed(&scope);
            why.push(format!("the first bytes tell, and they are HTTP: {routed}"));
            Leads::Requests(scope)
        }
        Outbound::Detect { otherwise, .. } => {
            why.push("the first bytes tell, and they are no HTTP: it is relayed".to_owned());
            Leads::Stream(otherwise, to)
        }
        Outbound::Stream(scope) => {
            why.push(match &scope {
                StreamScope::Unknown => format!(
                    "nothing in the mesh is on port {}: it is relayed as it is, whatever is spoken",
                    to.port()
                ),
                StreamScope::Port(port) => format!(
                    "ServiceEntries without an address have the whole of port {port}: it is relayed, whatever is spoken"
                ),
                StreamScope::Service { .. } | StreamScope::Gateway { .. } => {
                    "it is relayed as it is, whatever is spoken".to_owned()
                }
            });
            Leads::Stream(scope, to)
        }
    }
}

fn routed(scope: &HttpScope) -> String {
    match scope {
        HttpScope::Mesh { port } => {
            format!(
                "the Host decides, in the mesh's table of port {port}, whichever address was dialled"
            )
        }
        HttpScope::Service { host, port } => {
            format!(
                "port {port} of {host} has a table of its own, where every Host is that Service"
            )
        }
        HttpScope::Gateway { port, server: None } => {
            format!("the Host decides, in the gateway's table of port {port}")
        }
        HttpScope::Gateway {
            server: Some(server),
            ..
        } => format!("the Host decides, in the table of server {server} alone"),
    }
}

fn spoken(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP/2",
        Protocol::Tls => "TLS",
        Protocol::Tcp => "TCP",
        Protocol::Auto => "nobody has declared what",
        Protocol::Udp => "UDP",
    }
}

/// The address of the URL's name, as DNS in the cluster would answer.
fn resolve(world: &World, client: &Client<'_>, asked: &Asked) -> (Option<SocketAddr>, Vec<String>) {
    let at = |address: IpAddr| SocketAddr::new(address, asked.port);
    let name = &asked.name;
    if let Ok(address) = name.parse::<IpAddr>() {
        return (Some(at(address)), Vec::new());
    }
    if name.eq_ignore_ascii_case("localhost") {
        let address = Ipv4Addr::LOCALHOST.into();
        return (Some(at(address)), vec![format!("{name} is {address}")]);
    }
    let namespace = &client.pod().id.namespace;
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let domain = &world.cluster_domain;
    // As a resolver searches: what is written, then below the namespaces that it could be short for.
    let forms = [
        name.clone(),
        format!("{name}.{namespace}.svc.{domain}"),
        format!("{name}.svc.{domain}"),
        format!("{name}.{domain}"),
    ];
    let services = &world.snapshot.services;
    let found = forms.iter().find_map(|form| services.get(&**form));
    if let Some(service) = found {
        return match service.addresses.first() {
            Some(address) => (
                Some(at(*address)),
                vec![format!("{name} is {}, at {address}", service.host)],
            ),
            None => without_address(world, client, service, asked.port),
        };
    }
    let of_pod = forms.iter().find_map(|form| {
        let (pod, host) = form.split_once('.')?;
        let service = services.get(host)?;
        let id = PodId {
            namespace: Arc::clone(&service.namespace),
            name: pod.into(),
        };
        world.snapshot.pods.get(&id)?.addresses.first().copied()
    });
    match of_pod {
        Some(address) => (
            Some(at(address)),
            vec![format!(
                "{name} is a pod of a headless Service, at {address}"
            )],
        ),
        None => (
            None,
            vec![format!(
                "no Service is called {name}, so its address is not known here (--address says one)"
            )],
        ),
    }
}

/// The first pod of a headless Service; nothing of a ServiceEntry that has no address.
fn without_address(
    world: &World,
    client: &Client<'_>,
    service: &Service,
    port: u16,
) -> (Option<SocketAddr>, Vec<String>) {
    let clusters = service.ports.iter().map(|declared| ClusterKey {
        host: Arc::clone(&service.host),
        port: declared.number,
        subset: None,
    });
    let mut endpoints = clusters.filter_map(|key| {
        let cluster = client.cluster(&world.snapshot, &key)?;
        cluster
            .endpoints
            .first()
            .map(|endpoint| endpoint.address.ip())
    });
    match endpoints.next() {
        Some(address) => (
            Some(SocketAddr::new(address, port)),
            vec![format!(
                "{} has no address of its own: clients dial its endpoints, and this one {address}",
                service.host
            )],
        ),
        None => (
            None,
            vec![format!(
                "{} has no address, so it does not matter here which one is dialled",
                service.host
            )],
        ),
    }
}

fn gateway(world: &World, client: &Client<'_>, asked: &Asked) -> Listener {
    let snapshot = &world.snapshot;
    let port = asked.port;
    let names: Vec<&str> = snapshot
        .gateway(client.pod())
        .into_iter()
        .flat_map(|gateway| gateway.names.iter().map(|name| &**name))
        .collect();
    let mut why = vec![match names.as_slice() {
        [] => "no Gateway selects this pod".to_owned(),
        names => format!("the pod serves Gateway {}", names.join(", ")),
    }];
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let https = asked.protocol == Asking::Https;
    let leads = match at_gateway(snapshot, client, port) {
        AtGateway::Nothing => {
            why.push(format!("none of its servers has port {port}"));
            Leads::Nowhere("connection refused: the gateway does not listen there".to_owned())
        }
        AtGateway::Http(_) if asked.protocol != Asking::Http => {
            why.push(format!("port {port} is HTTP in the clear"));
            Leads::Nowhere("400: this is no HTTP".to_owned())
        }
        AtGateway::Http(scope) => {
            why.push(format!(
                "port {port} is HTTP in the clear: {}",
                routed(&scope)
            ));
            Leads::Requests(scope)
        }
        AtGateway::Stream(scope) => {
            why.push(format!(
                "port {port} is relayed as it is, whatever is spoken"
            ));
            Leads::Stream(scope, nobody)
        }
        AtGateway::Secure if !https => {
            why.push(format!("port {port} is TLS"));
            Leads::Nowhere(
                "connection closed: the gateway waits for TLS; ask with https://".to_owned(),
            )
        }
        AtGateway::Secure => {
            let name = asked.server_name();
            let asks = name.map_or_else(|| "no name".to_owned(), ToOwned::to_owned);
            let opened = secure(snapshot, client, port, name);
            let server = opened.as_ref().map_or("no server", server_of);
            why.push(format!(
                "port {port} is TLS, and the client asks for {asks}: {server} has it"
            ));
            let lacking = match &opened {
                Some(Secure::Http(opening, _) | Secure::Stream(opening, _)) => {
                    missing(&opening.tls)
                }
                Some(Secure::Beyond(_)) | None => None,
            };
            match opened {
                _ if let Some(lacking) = lacking => {
                    why.push(format!("the gateway would open the TLS, but {lacking}"));
                    Leads::Nowhere(
                        "connection closed in the handshake: the server has no certificate"
                            .to_owned(),
                    )
                }
                None => Leads::Nowhere(
                    "connection closed in the handshake: no server has that name".to_owned(),
                ),
                Some(Secure::Http(_, scope)) => {
                    why.push(format!(
                        "the gateway opens the TLS, and within is HTTP: {}",
                        routed(&scope)
                    ));
                    Leads::Requests(scope)
                }
                Some(Secure::Stream(_, scope)) => {
                    why.push("the gateway opens the TLS, and relays what is within".to_owned());
                    Leads::Stream(scope, nobody)
                }
                Some(Secure::Beyond(scope)) => {
                    why.push("the TLS is relayed unopened: PASSTHROUGH".to_owned());
                    Leads::Stream(scope, nobody)
                }
            }
        }
    };
    Listener {
        destination: None,
        why,
        leads,
    }
}

/// What a server lacks to show a certificate.
fn missing(tls: &ServerTls) -> Option<Arc<str>> {
    tls.certificates
        .iter()
        .find_map(|certificate| match certificate {
            Credential::Missing(why) => Some(Arc::clone(why)),
            Credential::Given(_) | Credential::Files(_) => None,
        })
}

fn server_of(secure: &Secure) -> &str {
    match secure {
        Secure::Http(_, HttpScope::Gateway { server, .. })
        | Secure::Stream(_, StreamScope::Gateway { server, .. })
        | Secure::Beyond(StreamScope::Gateway { server, .. }) => {
            server.as_deref().unwrap_or("the port")
        }
        Secure::Http(..) | Secure::Stream(..) | Secure::Beyond(_) => "the port",
    }
}
