//! Which table of a gateway routes a request: the port's own, or that of the server that opened the TLS.

use crate::model::{GatewayListener, Inside, RouteTable, Snapshot, Termination};
use crate::route::Client;

/// The table of a gateway's port; `None` where it has none, or none any more.
pub(super) fn table<'a>(
    snapshot: &'a Snapshot,
    client: &Client<'_>,
    port: u16,
    server: Option<&str>,
) -> Option<&'a RouteTable> {
    let port = snapshot.gateway(client.pod())?.ports.get(&port)?;
    match (&port.listener, server) {
        (GatewayListener::Http(table), None) => Some(table),
        (GatewayListener::Secure(servers), Some(name)) => {
            let server = servers.iter().find(|server| &*server.name == name)?;
            match &server.tls {
                Termination::Here(_, Inside::Http(table)) => Some(table),
                Termination::Here(_, Inside::Tcp(_)) | Termination::Beyond(_) => None,
            }
        }
        (GatewayListener::Http(_), Some(_))
        | (GatewayListener::Secure(_), None)
        | (GatewayListener::Tcp(_), _) => None,
    }
}
