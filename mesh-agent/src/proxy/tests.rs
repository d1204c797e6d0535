//! The proxy over loopback, byte by byte: real sockets on both sides, a hand-made world, no privilege.

mod fakes;

mod failures;
mod headers;
mod http;
mod http2;
mod life;
mod namespace;
mod tcp;
