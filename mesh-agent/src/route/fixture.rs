//! Requests for tests.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use http::HeaderMap;

use crate::route::Request;

/// A plain GET without any header.
pub fn get<'a>(authority: &'a str, path: &'a str) -> Request<'a> {
    static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
    Request {
        authority,
        path,
        query: None,
        method: "GET",
        scheme: "http",
        headers: &NONE,
        source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}
