//! What a route changes of a request, and the form in which the server's protocol wants its target.

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Uri};

use crate::model::{Forward, HeaderEdits};
use crate::proxy::connection::Connection;
use crate::proxy::http::edit::{self, Asked, Facts};
use crate::proxy::http::headers;
use crate::proxy::http::request::Arrived;
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
        // The edits below may well replace it.
        let scheme = headers::scheme(&arrived.head.headers).to_owned();
        let facts = Facts {
            connection: self.connection,
            version: arrived.head.version,
            began: arrived.began,
            route: self.route,
            cluster: Some(&self.forwarding.cluster.key),
            endpoint: None,
            request: Some(Asked {
                method: arrived.head.method.as_str(),
                scheme: &scheme,
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
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(authority.clone());
            head.version = http::Version::HTTP_2;
        }
    }
    head.uri = Uri::from_parts(uri).map_err(|_| Failure::BadRequest)?;
    head.extensions.clear();
    Ok(())
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
