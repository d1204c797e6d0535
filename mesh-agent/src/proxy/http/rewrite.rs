//! What a route changes of a request, and the form in which the server's protocol wants its target.

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

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
    /// Edits the headers and gives the path to send, without query, and the Host.
    pub(super) fn apply(&self, arrived: &mut Arrived) -> Result<(String, Authority), Failure> {
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
        let headers = &mut arrived.head.headers;
        if authority.is_some() {
            headers::set_original_host(headers, &arrived.authority);
        }
        if self.forwarding.path.is_some() {
            let original = with_query(&arrived.path, &arrived.head.uri);
            headers::set_original_path(headers, &original);
        }
        let path = self.forwarding.path.clone();
        Ok((
            path.unwrap_or_else(|| arrived.path.clone()),
            authority.unwrap_or_else(|| arrived.authority.clone()),
        ))
    }

    /// Edits the headers, and gives the Host that they ask for. All values are made of the request as it came.
    fn edit(
        &self,
        arrived: &mut Arrived,
        edits: &HeaderEdits,
    ) -> Result<Option<Authority>, Failure> {
        let path = with_query(&arrived.path, &arrived.head.uri);
        // The edits below may well replace it.
        let scheme = headers::scheme(&arrived.head.headers).to_owned();
        let facts = Facts {
            connection: self.connection,
            client: arrived.facts.client,
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
    head.uri = Uri::from_parts(uri).map_err(|_| Failure::BadRequest)?;
    head.extensions.clear();
    Ok(())
}

fn with_query(path: &str, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}
