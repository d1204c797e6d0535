//! A request's target on its way out: what the route changes of it, and the form that the server's protocol asks for.

use std::time::Duration;

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Uri};

use crate::proxy::http::headers::{self, RouteMarks};
use crate::proxy::respond::Failure;
use crate::proxy::upstream::pool::Version;
use crate::route::Forwarding;

/// Applies what the route changes, and says so in headers. Gives the path without query, and the Host to send.
pub(super) fn rewrite(
    head: &mut Parts,
    forwarding: &Forwarding,
    timeout: Option<Duration>,
    path: &str,
    authority: Authority,
) -> Result<(String, Authority), Failure> {
    let key = &forwarding.cluster.key;
    let operation = format!("{}:{}/*", key.host, key.port);
    let original_path = forwarding
        .path
        .as_ref()
        .map(|_| with_query(path, &head.uri));
    headers::mark_request(
        &mut head.headers,
        RouteMarks {
            original_path: original_path.as_deref(),
            original_host: forwarding.authority.as_ref().map(|_| authority.as_str()),
            operation: Some(&operation),
            timeout,
        },
    );
    let authority = match &forwarding.authority {
        Some(new) => Authority::try_from(new.as_bytes()).map_err(|_| Failure::BadRequest)?,
        None => authority,
    };
    let path = match &forwarding.path {
        Some(new) => new.clone(),
        None => path.to_owned(),
    };
    Ok((path, authority))
}

/// Gives the head the form that the server's protocol asks for: Host or `:authority`, path or whole address.
pub(super) fn address_head(
    head: &mut Parts,
    version: Version,
    authority: &Authority,
    path: &str,
) -> Result<(), Failure> {
    let target = PathAndQuery::try_from(with_query(path, &head.uri).into_bytes())
        .map_err(|_| Failure::BadRequest)?;
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(target);
    match version {
        Version::Http1 => {
            let host =
                HeaderValue::from_str(authority.as_str()).map_err(|_| Failure::BadRequest)?;
            head.headers.insert(HOST, host);
            head.version = http::Version::HTTP_11;
        }
        Version::Http2 => {
            head.headers.remove(HOST);
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(authority.clone());
            head.version = http::Version::HTTP_2;
        }
    }
    head.uri = match (version, path) {
        // `OPTIONS *` has no path to put behind an authority.
        (Version::Http2, "*") if head.method == Method::OPTIONS => Uri::from_static("*"),
        (_, _) => Uri::from_parts(uri).map_err(|_| Failure::BadRequest)?,
    };
    head.extensions.clear();
    Ok(())
}

fn with_query(path: &str, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}
