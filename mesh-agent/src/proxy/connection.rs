//! The life of one connection: where it was headed, whether it may, what is spoken, what is decided, where it goes,
//! and what is remembered of it.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use ::http::HeaderValue;
use ::http::uri::{Authority, InvalidUri};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::intercept::ListenSpec;
use crate::model::{Protocol, ProxyProtocol, Topology};
use crate::proxy::connection::relay::{Server, Target};
use crate::proxy::detect::{self, First, Patience};
use crate::proxy::http;
use crate::proxy::record::Hop;
use crate::proxy::site::{Site, Who};
use crate::proxy::stream::Stream;
use crate::proxy::tls::TlsFacts;
use crate::proxy::upstream::announce::announcement;
use crate::route::{AtGateway, HttpScope, Inbound, Outbound, StreamScope};
use crate::sys::socket;

mod announced;
mod relay;
mod secure;
mod way;

/// What is known of a connection once it is accepted.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) site: Rc<Site>,
    pub(super) hop: Hop,
    pub(super) peer: SocketAddr,
    /// Where the client meant to go.
    pub(super) destination: SocketAddr,
    /// What to do with its requests.
    pub(super) scope: Scope,
    /// What the client has shown, where its TLS was opened here.
    pub(super) tls: Option<TlsFacts>,
    /// How many proxies stand before this one whose word on the client counts.
    pub(super) trusted_proxies: u32,
    /// Whether servers were told of the client: connections that are kept to them are of no use to another.
    announced: Cell<bool>,
    /// What its last request was for: the next one is hardly ever for another.
    named: RefCell<Option<Authority>>,
    /// The address of `peer` as text, once a request has asked for it.
    peer_text: OnceCell<HeaderValue>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.announced.get() {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let announcement = announcement(version, self.peer, self.destination);
                self.site.pool.forget(&announcement);
            }
        }
    }
}

/// What is done with requests.
#[derive(Debug)]
pub(super) enum Scope {
    /// They are routed.
    Routed(HttpScope),
    /// They go to the pod's application, in this protocol.
    App(Protocol),
    /// There are none: the connection is relayed.
    Relayed,
}

/// What detection came to.
enum Spoken {
    Http(First),
    /// Not HTTP. There may be a connection to the server already.
    Other(Option<Server>),
    /// The client left without a word.
    Nothing,
}

/// Serves a connection that the pod opened.
pub(super) async fn outbound(site: Rc<Site>, accepted: TcpStream, peer: SocketAddr) {
    let Some(destination) = arrival(&site, &accepted, peer, Hop::Outbound) else {
        return;
    };
    let client = Stream::tcp(accepted);
    let connection = |scope| Connection {
        site: Rc::clone(&site),
        hop: Hop::Outbound,
        peer,
        destination,
        scope,
        tls: None,
        trusted_proxies: 0,
        announced: Cell::new(false),
        named: RefCell::default(),
        peer_text: OnceCell::new(),
    };
    match site.route_outbound(destination) {
        Outbound::Http(scope) => {
            let connection = connection(Scope::Routed(scope));
            let otherwise = connection.target(&StreamScope::Unknown, None);
            connection.detect_and_serve(client, otherwise, true).await;
        }
        Outbound::Detect { scope, otherwise } => {
            let connection = connection(Scope::Routed(scope));
            let otherwise = connection.target(&otherwise, None);
            connection.detect_and_serve(client, otherwise, false).await;
        }
        Outbound::Stream(scope) => {
            Box::pin(connection(Scope::Relayed).route_and_relay(client, &scope)).await;
        }
    }
}

/// Serves a connection that was opened to the pod.
pub(super) async fn inbound(site: Rc<Site>, accepted: TcpStream, peer: SocketAddr) {
    if let Some(destination) = arrival(&site, &accepted, peer, Hop::Inbound) {
        serve_inbound(site, Stream::tcp(accepted), peer, destination).await;
    }
}

/// Serves a connection to the pod that never left the process: from the pod itself, or from another one of this node.
/// Boxed: the way here leads through the outbound side, whose future would otherwise contain itself.
pub(super) fn inbound_within(
    site: Rc<Site>,
    client: Stream,
    peer: SocketAddr,
    address: SocketAddr,
) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(serve_inbound(site, client, peer, address))
}

/// Serves a client of a gateway.
pub(super) async fn gateway(site: Rc<Site>, mut accepted: TcpStream, peer: SocketAddr) {
    let Who::Gateway { port, .. } = site.who else {
        return;
    };
    let Ok(destination) = accepted.local_addr() else {
        return;
    };
    let Topology {
        trusted_proxies,
        proxy_protocol,
    } = site.topology();
    let (peer, destination) = match proxy_protocol {
        false => (peer, destination),
        // Boxed: it is over before anything else begins.
        true => match Box::pin(announced(&site, &mut accepted, (peer, destination))).await {
            Some(ends) => ends,
            None => return,
        },
    };
    let client = Stream::tcp(accepted);
    let decided = site.route_gateway(port);
    let connection = |scope| Connection {
        site,
        hop: Hop::Gateway,
        peer,
        destination: SocketAddr::new(destination.ip().to_canonical(), destination.port()),
        scope,
        tls: None,
        trusted_proxies,
        announced: Cell::new(false),
        named: RefCell::default(),
        peer_text: OnceCell::new(),
    };
    match decided {
        AtGateway::Http(scope) => connection(Scope::Routed(scope)).serve_http(client).await,
        AtGateway::Stream(scope) => {
            Box::pin(connection(Scope::Relayed).route_and_relay(client, &scope)).await;
        }
        // Boxed, so that connections without TLS are not as large as those with it.
        AtGateway::Secure => {
            Box::pin(connection(Scope::Relayed).serve_secure(client, port)).await;
        }
        // The port is about to be closed.
        AtGateway::Nothing => client.reset_on_close(),
    }
}

/// Both ends of a client's connection, as who stands before the gateway announces them. `None` where nobody has said
/// anything of use: it is reset then.
async fn announced(
    site: &Site,
    accepted: &mut TcpStream,
    own: (SocketAddr, SocketAddr),
) -> Option<(SocketAddr, SocketAddr)> {
    let limit = site.worker.settings.header_timeout;
    let heard = tokio::select! {
        biased;
        heard = timeout(limit, announced::read(accepted)) => heard,
        () = site.farewell() => return None,
    };
    let error = match heard {
        Ok(Ok(ends)) => return Some(ends.unwrap_or(own)),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    tracing::debug!(%error, peer = %own.0, "a connection did not begin with the PROXY protocol");
    let _ = socket2::SockRef::from(&*accepted).set_linger(Some(Duration::ZERO));
    None
}

async fn serve_inbound(site: Rc<Site>, client: Stream, peer: SocketAddr, destination: SocketAddr) {
    let decided = site.route_inbound(destination.port());
    let connection = Connection {
        site,
        hop: Hop::Inbound,
        peer,
        destination,
        scope: match decided {
            Inbound::Http(protocol) => Scope::App(protocol),
            Inbound::Tcp => Scope::Relayed,
        },
        tls: None,
        trusted_proxies: 0,
        announced: Cell::new(false),
        named: RefCell::default(),
        peer_text: OnceCell::new(),
    };
    match decided {
        Inbound::Http(Protocol::Auto) => {
            connection
                .detect_and_serve(client, Target::Original, false)
                .await;
        }
        Inbound::Http(_) => connection.serve_http(client).await,
        Inbound::Tcp => Box::pin(connection.relay(client, &Target::Original, None)).await,
    }
}

/// Finds out where a connection was headed. `None` where it must not go there; it is reset then.
fn arrival(site: &Site, accepted: &TcpStream, peer: SocketAddr, hop: Hop) -> Option<SocketAddr> {
    let refuse = |why: &str| {
        tracing::debug!(%peer, %hop, "refused a connection: {why}");
        let _ = socket2::SockRef::from(accepted).set_linger(Some(Duration::ZERO));
        None
    };
    let destination = match socket::original_destination(accepted) {
        Ok(destination) => destination,
        Err(error) => {
            return refuse(&format!("where it was headed cannot be told: {error}"));
        }
    };
    let ports = match &site.who {
        Who::Pod { ports, .. } => ports,
        Who::Gateway { .. } => return Some(destination),
    };
    let local = |address: IpAddr| address.is_loopback() || site.is_own(address);
    let arrival = Arrival {
        destination,
        // A pod may have more addresses than its manifest knows. What comes in is for one of them, and so is what no
        // rule has redirected: it was opened to this very listener.
        to_pod: hop == Hop::Inbound
            || local(destination.ip())
            || !ports.transparent && is_at(accepted, destination),
        from_pod: local(peer.ip()),
    };
    match arrival.refusal(ports) {
        Some(why) => refuse(why),
        None => Some(destination),
    }
}

fn is_at(accepted: &TcpStream, destination: SocketAddr) -> bool {
    accepted
        .local_addr()
        .is_ok_and(|local| SocketAddr::new(local.ip().to_canonical(), local.port()) == destination)
}

/// What decides over whether a connection may be carried to where it was headed.
struct Arrival {
    destination: SocketAddr,
    to_pod: bool,
    from_pod: bool,
}

impl Arrival {
    fn refusal(&self, ports: &ListenSpec) -> Option<&'static str> {
        let proxy = [ports.outbound_port, ports.inbound_port];
        if self.to_pod && proxy.contains(&self.destination.port()) {
            return Some("it was opened to the proxy itself, which would call itself for ever");
        }
        if self.destination.ip().is_loopback() && !self.from_pod {
            return Some("it comes from outside and was headed for the pod's loopback addresses");
        }
        None
    }
}

impl Connection {
    /// Whom a Host header names.
    pub(super) fn authority(&self, host: &HeaderValue) -> Result<Authority, InvalidUri> {
        let mut named = self.named.borrow_mut();
        match &*named {
            Some(known) if known.as_str().as_bytes() == host.as_bytes() => Ok(known.clone()),
            _ => {
                let authority = Authority::try_from(host.as_bytes())?;
                *named = Some(authority.clone());
                Ok(authority)
            }
        }
    }

    /// The address of the peer, as headers have it.
    pub(super) fn peer_text(&self) -> Option<HeaderValue> {
        let text = match self.peer_text.get() {
            Some(text) => text,
            None => {
                let text = self.peer.ip().to_canonical().to_string();
                let text = HeaderValue::try_from(text).ok()?;
                self.peer_text.get_or_init(|| text)
            }
        };
        Some(text.clone())
    }

    async fn detect_and_serve(self, mut client: Stream, otherwise: Target, declared: bool) {
        let limit = self.site.worker.settings.idle_timeout;
        let detected = Box::pin(self.detect(&mut client, &otherwise, declared));
        let spoken = tokio::select! {
            biased;
            spoken = timeout(limit, detected) => spoken,
            // A silent client of an undeclared port may well have a silent server, and all the time in the world.
            () = self.site.farewell(), if declared => Ok(Ok(Spoken::Nothing)),
        };
        match spoken {
            Ok(Ok(Spoken::Http(first))) => http::serve(Rc::new(self), client, first).await,
            Ok(Ok(Spoken::Other(upstream))) => {
                // Boxed, so that those who speak HTTP are not as large.
                Box::pin(self.relay(client, &otherwise, upstream)).await;
            }
            Ok(Ok(Spoken::Nothing)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %self.peer, destination = %self.destination, "a connection ended before it was known what it is");
                client.reset_on_close();
            }
        }
    }

    /// Serves requests without asking whether it is HTTP; what is not gets HTTP's answer to that.
    async fn serve_http(self, mut client: Stream) {
        let settings = &self.site.worker.settings;
        let patience = Patience {
            likely: settings.header_timeout,
            possible: settings.header_timeout,
        };
        let limit = settings.idle_timeout;
        let first = tokio::select! {
            biased;
            first = timeout(limit, detect::first(&mut client, patience)) => first,
            () = self.site.farewell() => Ok(Ok(First::Nothing)),
        };
        match first {
            Ok(Ok(First::Nothing)) | Err(_) | Ok(Err(_)) => {}
            Ok(Ok(first)) => http::serve(Rc::new(self), client, first).await,
        }
    }

    /// Finds out what is spoken. While the client is silent the server gets its chance to speak first; a client that
    /// then speaks HTTP after all is served as such, so that waiting is no way round the routes.
    async fn detect(
        &self,
        client: &mut Stream,
        otherwise: &Target,
        declared: bool,
    ) -> io::Result<Spoken> {
        let worker = &self.site.worker;
        let settings = &worker.settings;
        let patience = Patience {
            likely: settings.header_timeout,
            possible: settings.declared_silence.min(settings.header_timeout),
        };
        // There is no server that could speak first.
        if let Target::Nowhere = otherwise {
            let first = detect::first(client, patience).await?;
            return Ok(spoken(first, declared, None));
        }
        let wait = match declared {
            true => settings.declared_silence,
            false => settings.server_first_wait,
        };
        if !worker.speaks_first(self.destination)
            && let Ok(first) = timeout(wait, detect::first(client, patience)).await
        {
            return Ok(spoken(first?, declared, None));
        }
        if !client.seen().is_empty() {
            return Ok(spoken(
                detect::first(client, patience).await?,
                declared,
                None,
            ));
        }
        let connected = tokio::select! {
            biased;
            first = detect::first(client, patience) => return Ok(self.client_spoke(first?, declared, None)),
            connected = self.connect(otherwise) => connected,
        };
        let mut server = match connected {
            Ok(server) => server,
            // The server's own address may well lead nowhere on a port whose requests are routed by name.
            Err(_) if declared => {
                return Ok(spoken(
                    detect::first(client, patience).await?,
                    declared,
                    None,
                ));
            }
            Err(failure) => return Err(io::Error::other(format!("no server: {failure:?}"))),
        };
        let said = tokio::select! {
            biased;
            first = detect::first(client, patience) => {
                return Ok(self.client_spoke(first?, declared, Some(server)));
            }
            said = server.stream.look() => said,
        };
        match said {
            Ok(1..) => {
                worker.learn_speaks_first(self.destination, true);
                Ok(Spoken::Other(Some(server)))
            }
            // An HTTP server that tires of waiting says nothing about the client.
            Ok(0) | Err(_) if declared => {
                drop(server);
                Ok(spoken(
                    detect::first(client, patience).await?,
                    declared,
                    None,
                ))
            }
            Ok(0) | Err(_) => Ok(Spoken::Other(Some(server))),
        }
    }

    fn client_spoke(&self, first: First, declared: bool, server: Option<Server>) -> Spoken {
        let spoken = spoken(first, declared, server);
        if let Spoken::Http(_) = spoken {
            self.site.worker.learn_speaks_first(self.destination, false);
        }
        spoken
    }

    /// What Istio calls the cluster of a connection that goes where it was headed.
    pub(super) fn passthrough_name(&self) -> &'static str {
        match self.hop {
            Hop::Outbound | Hop::Gateway => "PassthroughCluster",
            Hop::Inbound => "InboundPassthroughCluster",
        }
    }
}

fn spoken(first: First, declared: bool, server: Option<Server>) -> Spoken {
    match first {
        First::Http1 | First::Http2 => Spoken::Http(first),
        // On a port declared as HTTP it gets 426, as from Istio; elsewhere it is nobody's business.
        First::Http10 if declared => Spoken::Http(first),
        First::Http10 | First::Other => Spoken::Other(server),
        First::Nothing if declared => Spoken::Nothing,
        First::Nothing => Spoken::Other(server),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_loops_nor_opens_the_loopback() {
        let ports = ListenSpec {
            transparent: true,
            outbound_port: 15001,
            inbound_port: 15006,
        };
        let check = |destination: &str, to_pod, from_pod, refused| {
            let destination = destination.parse().expect("a socket address");
            let arrival = Arrival {
                destination,
                to_pod,
                from_pod,
            };
            let why = arrival.refusal(&ports);
            assert_eq!(why.is_some(), refused, "{destination}: {why:?}");
        };
        check("10.0.0.9:80", false, true, false);
        check("10.0.0.7:80", true, false, false);
        check("10.0.0.7:15001", true, false, true);
        check("10.0.0.7:15006", true, true, true);
        check("[::1]:15006", true, true, true);
        // Another pod's proxy is that pod's business.
        check("10.0.0.9:15001", false, true, false);
        check("127.0.0.1:9000", true, false, true);
        check("[::1]:9000", true, false, true);
        check("127.0.0.1:9000", true, true, false);
    }
}
