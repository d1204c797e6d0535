//! The proxy over loopback, byte by byte: real sockets on both sides, a hand-made world, no privilege.

mod fakes;
mod secure;

mod actions;
mod bulk;
mod edits;
mod failures;
mod gateway_tls;
mod headers;
mod health;
mod http;
mod http2;
mod life;
mod limits;
mod mirrors;
mod names;
mod namespace;
mod relayed_tls;
mod retries;
mod tcp;
mod upstream_tls;

/// A forwarding that does nothing out of the ordinary.
pub(super) fn forwarding() -> crate::model::Forward {
    match fakes::forward_to(None).action {
        crate::model::RouteAction::Forward(forward) => forward,
        _ => unreachable!("it forwards"),
    }
}
