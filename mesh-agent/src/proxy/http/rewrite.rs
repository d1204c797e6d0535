//! What a route changes of a request, and the form in which the server's protocol wants its target.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri};
use http_body::Body as _;

use crate::model::{Forward, HeaderEdits};
use crate::proxy::connection::Connection;
use crate::proxy::http::edit::{self, Asked, Facts};
use crate::proxy::http::headers::{self, RequestScheme};
use crate::proxy::http::request::Arrived;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::record::Flags;
use crate::proxy::respond::Failure;
use crate::proxy::upstream::pool::Version;
use crate::route::Forwarding;

/// What a route changes of a request before it is sent to a cluster.
#[derive(Clone, Copy)]
pub(super) struct Rewriting<'a> {
    pub(super) connection: &'a Connection,
    pub(super) forward: &'a Forward,
    pub(super) forwarding: &'a Forwarding,
    /// `http[].name`.
    pub(super) route: &'a str,
    pub(super) flags: Flags,
}

impl Rewriting<'_> {
    /// Edits the headers and gives the path to send, without query, where it is not the one that was sent, and the Host.
    pub(super) fn apply(
        &self,
        arrived: &mut Arrived,
    ) -> Result<(Option<String>, Authority), Failure> {
        let mut authority = match &self.forwarding.authority {
            Some(new) => {
                Some(Authority::try_from(new.as_bytes()).map_err(|_| Failure::BadRequest)?)
            }
            None => None,
        };
        if let Some(destination) = self.forward.destinations.get(self.forwarding.destination)
            && !destination.request_headers.is_empty()
        {
            let edited = self.edit(arrived, &destination.request_headers)?;
            // `rewrite.authority` is the stronger one.
            authority = authority.or(edited);
        }
        if authority.is_some() {
            headers::set_original_host(&mut arrived.head.headers, &arrived.authority);
        }
        if self.forwarding.path.is_some() {
            let original = with_query(arrived.path(), &arrived.head.uri);
            headers::set_original_path(&mut arrived.head.headers, &original);
        }
        let path = self.forwarding.path.clone();
        Ok((
            path.or_else(|| arrived.plain.clone()),
            authority.unwrap_or_else(|| arrived.authority.clone()),
        ))
    }

    /// Edits the headers, and gives the Host that they ask for. All values are made of the request as it came.
    fn edit(
        &self,
        arrived: &mut Arrived,
        edits: &HeaderEdits,
    ) -> Result<Option<Authority>, Failure> {
        let path = with_query(arrived.path(), &arrived.head.uri);
        let facts = Facts {
            connection: self.connection,
            client: arrived.facts.client(self.connection),
            version: arrived.head.version,
            began: arrived.began,
            route: self.route,
            cluster: Some(&self.forwarding.cluster.key),
            endpoint: None,
            request: Some(Asked {
                method: arrived.head.method.as_str(),
                scheme: arrived.facts.scheme.as_str(),
                authority: arrived.authority.as_str(),
                path: &path,
                headers: None,
            }),
            status: None,
            flags: self.flags,
        };
        let authority = edit::authority(&arrived.head.headers, edits, &facts);
        edit::edit_request(&mut arrived.head.headers, edits, &facts);
        match authority {
            None => Ok(None),
            Some(value) => Authority::try_from(value.as_bytes())
                .map(Some)
                .map_err(|_| Failure::BadRequest),
        }
    }
}

/// Gives the head the form that the server's protocol asks for: Host or `:authority`, path or whole address. Without `path`
/// that is as it was sent.
pub(super) fn address_head(
    head: &mut Parts,
    version: Version,
    scheme: RequestScheme,
    authority: &Authority,
    path: Option<&str>,
) -> Result<(), Failure> {
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(target(&head.uri, path)?);
    match version {
        Version::Http1 => {
            if !names(&head.headers, authority) {
                let host = HeaderValue::from_str(authority.as_str());
                let host = host.map_err(|_| Failure::BadRequest)?;
                head.headers.insert(HOST, host);
            }
            head.version = http::Version::HTTP_11;
        }
        Version::Http2 => {
            head.headers.remove(HOST);
            uri.scheme = Some(match scheme {
                RequestScheme::Http => Scheme::HTTP,
                RequestScheme::Https => Scheme::HTTPS,
            });
            uri.authority = Some(authority.clone());
            head.version = http::Version::HTTP_2;
        }
    }
    head.uri = Uri::from_parts(uri).map_err(|_| Failure::BadRequest)?;
    head.extensions.clear();
    Ok(())
}

/// Says in the head how long the body is, where the server's protocol wants it there and hyper would not: that of a GET
/// whose client does not know it, and that there is none where the method lets a server expect one.
pub(super) fn frame_head(head: &mut Parts, version: Version, body: &RequestBody) {
    let chunked = HeaderValue::from_static("chunked");
    let headers = &mut head.headers;
    let bodiless = matches!(
        head.method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE
    );
    match (version, body.size_hint().exact()) {
        (Version::Http2, _) => {
            headers.remove(TRANSFER_ENCODING);
        }
        (Version::Http1, None) => {
            headers.insert(TRANSFER_ENCODING, chunked);
        }
        (Version::Http1, Some(0)) if !bodiless => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        (Version::Http1, Some(_)) => {}
    }
}

/// Whether the Host says so, and nothing else.
fn names(headers: &HeaderMap, authority: &Authority) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let first = hosts.next();
    first.is_some_and(|host| host == authority.as_str()) && hosts.next().is_none()
}

/// A path with the query that was sent.
fn target(sent: &Uri, path: Option<&str>) -> Result<PathAndQuery, Failure> {
    let path = match (path, sent.path_and_query()) {
        (Some(path), _) => path,
        (None, Some(target)) if target.as_str().starts_with('/') => return Ok(target.clone()),
        (None, _) => "/",
    };
    let target = with_query(path, sent).into_bytes();
    PathAndQuery::try_from(target).map_err(|_| Failure::BadRequest)
}

fn with_query(path: &str, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}
