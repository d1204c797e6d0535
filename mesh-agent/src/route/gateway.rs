//! What becomes of a connection to a gateway's port, and which table routes what is on it: the port's own, or that of the
//! server that the client has asked for by name.

use std::sync::Arc;

use crate::model::{
    GatewayListener, GatewayPort, Inside, RouteTable, SecureServer, ServerTls, Snapshot,
    StreamTable, Termination,
};
use crate::route::{Client, HttpScope, StreamScope};

/// What is to be done with a connection to a gateway's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtGateway {
    /// Requests are routed by the scope.
    Http(HttpScope),
    /// Relayed, by [`crate::route::stream`].
    Stream(StreamScope),
    /// [`secure`] tells, once it is known which name the client asks for.
    Secure,
    /// Nobody serves this port, or not any more.
    Nothing,
}

/// What is to be done with TLS.
#[derive(Clone, Debug, PartialEq)]
pub enum Secure {
    /// It is opened; within are requests.
    Http(Opening, HttpScope),
    /// It is opened; within is anything.
    Stream(Opening, StreamScope),
    /// It is relayed as it is.
    Beyond(StreamScope),
}

/// How TLS is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// Whose settings they are: [`crate::model::SecureServer::name`].
    pub server: Arc<str>,
    /// The settings.
    pub tls: Arc<ServerTls>,
}

/// Decides over a connection to a gateway's port.
pub fn at_gateway(snapshot: &Snapshot, client: &Client<'_>, port: u16) -> AtGateway {
    let server = None;
    match find_port(snapshot, client, port).map(|port| &port.listener) {
        Some(GatewayListener::Http(_)) => AtGateway::Http(HttpScope::Gateway { port, server }),
        Some(GatewayListener::Tcp(_)) => AtGateway::Stream(StreamScope::Gateway { port, server }),
        Some(GatewayListener::Secure(_)) => AtGateway::Secure,
        None => AtGateway::Nothing,
    }
}

/// Decides over TLS on a gateway's port, by the name that the client asks for, in lower case. `None` where no server has
/// that name: the handshake fails.
pub fn secure(
    snapshot: &Snapshot,
    client: &Client<'_>,
    port: u16,
    server_name: Option<&str>,
) -> Option<Secure> {
    let GatewayListener::Secure(servers) = &find_port(snapshot, client, port)?.listener else {
        return None;
    };
    let SecureServer { name, tls, .. } = servers.asked_for(server_name)?;
    let server = Some(Arc::clone(name));
    let opening = |tls: &Arc<ServerTls>| Opening {
        server: Arc::clone(name),
        tls: Arc::clone(tls),
    };
    Some(match tls {
        Termination::Here(tls, Inside::Http(_)) => {
            Secure::Http(opening(tls), HttpScope::Gateway { port, server })
        }
        Termination::Here(tls, Inside::Tcp(_)) => {
            Secure::Stream(opening(tls), StreamScope::Gateway { port, server })
        }
        Termination::Beyond(_) => Secure::Beyond(StreamScope::Gateway { port, server }),
    })
}

/// The table that routes requests; `None` where there is none, or none any more.
pub(super) fn table<'a>(
    snapshot: &'a Snapshot,
    client: &Client<'_>,
    port: u16,
    server: Option<&str>,
) -> Option<&'a RouteTable> {
    match (&find_port(snapshot, client, port)?.listener, server) {
        (GatewayListener::Http(table), None) => Some(table),
        (GatewayListener::Secure(servers), Some(name)) => match &servers.named(name)?.tls {
            Termination::Here(_, Inside::Http(table)) => Some(table),
            Termination::Here(_, Inside::Tcp(_)) | Termination::Beyond(_) => None,
        },
        (GatewayListener::Http(_), Some(_))
        | (GatewayListener::Secure(_), None)
        | (GatewayListener::Tcp(_), _) => None,
    }
}

/// The table that routes connections; `None` where there is none, or none any more.
pub(super) fn stream_table<'a>(
    snapshot: &'a Snapshot,
    client: &Client<'_>,
    port: u16,
    server: Option<&str>,
) -> Option<&'a StreamTable> {
    match (&find_port(snapshot, client, port)?.listener, server) {
        (GatewayListener::Tcp(table), None) => Some(table),
        (GatewayListener::Secure(servers), Some(name)) => match &servers.named(name)?.tls {
            Termination::Here(_, Inside::Tcp(table)) | Termination::Beyond(table) => Some(table),
            Termination::Here(_, Inside::Http(_)) => None,
        },
        (GatewayListener::Tcp(_), Some(_))
        | (GatewayListener::Secure(_), None)
        | (GatewayListener::Http(_), _) => None,
    }
}

fn find_port<'a>(
    snapshot: &'a Snapshot,
    client: &Client<'_>,
    port: u16,
) -> Option<&'a GatewayPort> {
    snapshot.gateway(client.pod())?.port(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClientAuthentication, Gateway, Pod, PodId, SecureServer, TlsVersion};

    fn pod() -> Pod {
        Pod::new(PodId {
            namespace: "edge".into(),
            name: "gw".into(),
        })
    }

    fn server(name: &str, hosts: &[&str], inside: Option<Inside>) -> SecureServer {
        let tls = ServerTls {
            certificates: Vec::new(),
            clients: ClientAuthentication::None,
            any_client: false,
            min_version: TlsVersion::V1_2,
            max_version: TlsVersion::V1_3,
            cipher_suites: Vec::new(),
        };
        SecureServer {
            name: name.into(),
            hosts: hosts.iter().map(|&host| host.into()).collect(),
            tls: match inside {
                Some(inside) => Termination::Here(tls.into(), inside),
                None => Termination::Beyond(StreamTable::default()),
            },
        }
    }

    fn world(listeners: impl IntoIterator<Item = (u16, GatewayListener)>) -> Snapshot {
        let ports = listeners.into_iter().map(|(number, listener)| {
            (
                number,
                GatewayPort {
                    bind: None,
                    listener,
                },
            )
        });
        Snapshot {
            gateways: vec![Arc::new(Gateway {
                ports: ports.collect(),
                ..Gateway::default()
            })],
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_port_is_http_tls_or_anything() {
        let world = world([
            (80, GatewayListener::Http(RouteTable::default())),
            (81, GatewayListener::Tcp(StreamTable::default())),
            (443, GatewayListener::Secure(Vec::new().into())),
        ]);
        let pod = pod();
        let client = Client::Gateway(&pod);
        let (http, stream) = (
            HttpScope::Gateway {
                port: 80,
                server: None,
            },
            StreamScope::Gateway {
                port: 81,
                server: None,
            },
        );
        assert_eq!(at_gateway(&world, &client, 80), AtGateway::Http(http));
        assert_eq!(at_gateway(&world, &client, 81), AtGateway::Stream(stream));
        assert_eq!(at_gateway(&world, &client, 443), AtGateway::Secure);
        assert_eq!(at_gateway(&world, &client, 82), AtGateway::Nothing);
        assert_eq!(secure(&world, &client, 80, Some("a")), None);
        assert!(table(&world, &client, 80, None).is_some());
        assert!(table(&world, &client, 80, Some("x")).is_none());
        assert!(stream_table(&world, &client, 81, None).is_some());
        assert!(stream_table(&world, &client, 80, None).is_none());
    }

    #[test]
    fn the_server_is_the_one_that_is_asked_for_most_precisely() {
        let http = || Some(Inside::Http(RouteTable::default()));
        let tcp = || Some(Inside::Tcp(StreamTable::default()));
        let servers = vec![
            server("any-below-com", &["*.com"], http()),
            server("below-a", &["*.a.com", "b.com"], http()),
            server("just-x", &["x.a.com"], tcp()),
            server("late", &["b.com", "c.com"], http()),
            server("beyond", &["p.com"], None),
        ];
        let with_any = || server("any", &["*"], http());
        let pod = pod();
        let client = Client::Gateway(&pod);
        let found = |world: &Snapshot, name: Option<&str>| {
            let scope = match secure(world, &client, 443, name)? {
                Secure::Http(_, HttpScope::Gateway { server, .. }) => {
                    assert!(table(world, &client, 443, server.as_deref()).is_some());
                    server
                }
                Secure::Stream(_, StreamScope::Gateway { server, .. })
                | Secure::Beyond(StreamScope::Gateway { server, .. }) => {
                    assert!(stream_table(world, &client, 443, server.as_deref()).is_some());
                    server
                }
                _ => None,
            };
            scope.map(|name| name.to_string())
        };
        let cases = [
            (Some("x.a.com"), Some("just-x")),
            (Some("y.a.com"), Some("below-a")),
            (Some("z.y.a.com"), Some("below-a")),
            (Some("a.com"), Some("any-below-com")),
            (Some("b.com"), Some("below-a")),
            (Some("c.com"), Some("late")),
            (Some("p.com"), Some("beyond")),
            (Some("com"), None),
            (Some("a.org"), None),
            (Some(""), None),
            (None, None),
        ];
        let strict = world([(443, GatewayListener::Secure(servers.into()))]);
        for (name, expected) in cases {
            assert_eq!(found(&strict, name).as_deref(), expected, "{name:?}");
        }
        let any = world([(443, GatewayListener::Secure(vec![with_any()].into()))]);
        for name in [Some("a.org"), Some("com"), None] {
            assert_eq!(found(&any, name).as_deref(), Some("any"), "{name:?}");
        }
    }
}
