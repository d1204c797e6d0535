//! Whether the conditions of a route hold for a request, and if not, which one does not.
//!
//! There is one function for both questions, so what is explained is what happens. It borrows and never allocates, but
//! for a regex over `:path`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::HOST;
use ipnet::IpNet;

use crate::model::{
    ClientMatch, HeaderMatch, HeaderSubject, PathMatch, QueryMatch, RouteMatch, TextMatch,
};
use crate::route::{Client, Request, path};

/// The first condition of a route that a request, or a connection, does not meet.
#[derive(Clone, Copy, Debug)]
pub enum Mismatch<'a> {
    /// `exportTo`: the VirtualService is not for clients of this namespace.
    NotExported {
        /// The namespaces that it is for.
        to: &'a [Arc<str>],
        /// The client's.
        found: &'a str,
    },
    /// `sourceNamespace`.
    SourceNamespace {
        /// What is asked for.
        expected: &'a str,
        /// The client's.
        found: &'a str,
    },
    /// One of `sourceLabels`.
    SourceLabel {
        /// The label.
        key: &'a str,
        /// What is asked for.
        expected: &'a str,
        /// What the client has; `None` where it has none.
        found: Option<&'a str>,
    },
    /// `uri`.
    Path {
        /// What is asked for.
        expected: &'a PathMatch,
        /// The request's.
        found: &'a str,
    },
    /// `scheme`.
    Scheme {
        /// What is asked for.
        expected: &'a TextMatch,
        /// The request's.
        found: &'a str,
    },
    /// `method`.
    Method {
        /// What is asked for.
        expected: &'a TextMatch,
        /// The request's.
        found: &'a str,
    },
    /// `authority`.
    Authority {
        /// What is asked for.
        expected: &'a TextMatch,
        /// The request's, with its port.
        found: &'a str,
    },
    /// One of `headers` or `withoutHeaders`; what the request has is in its headers.
    Header {
        /// What is asked for.
        expected: &'a HeaderMatch,
    },
    /// One of `queryParams`.
    Query {
        /// What is asked for.
        expected: &'a QueryMatch,
        /// The value of the request's first parameter of that name; `None` where there is none.
        found: Option<&'a str>,
    },
    /// `destinationSubnets` of a route for connections.
    Subnet {
        /// One of these is asked for.
        expected: &'a [IpNet],
        /// Where the connection was headed.
        found: IpAddr,
    },
    /// The same: a narrower subnet of another route has the address.
    WiderSubnet {
        /// Where the connection was headed.
        found: IpAddr,
    },
    /// `sniHosts` of a route for connections.
    ServerName {
        /// One of these is asked for.
        expected: &'a [Arc<str>],
        /// The name that the client asks for in its TLS; `None` without TLS or a name.
        found: Option<&'a str>,
    },
}

/// Why a route is not for this request; `None` where it is.
pub fn mismatch<'a>(
    conditions: &'a RouteMatch,
    client: &Client<'a>,
    request: &Request<'a>,
) -> Option<Mismatch<'a>> {
    let RouteMatch {
        uri,
        scheme,
        method,
        authority,
        headers,
        query,
        client: audience,
    } = conditions;
    if let Some(stranger) = stranger(audience, client) {
        return Some(stranger);
    }
    if let Some(expected) = uri
        && !path::matches(Some(expected), request.path)
    {
        let found = request.path;
        return Some(Mismatch::Path { expected, found });
    }
    if let Some(expected) = method
        && !text(expected, request.method)
    {
        let found = request.method;
        return Some(Mismatch::Method { expected, found });
    }
    if let Some(expected) = scheme
        && !text(expected, request.scheme)
    {
        let found = request.scheme;
        return Some(Mismatch::Scheme { expected, found });
    }
    if let Some(expected) = authority
        && !text(expected, request.authority)
    {
        let found = request.authority;
        return Some(Mismatch::Authority { expected, found });
    }
    if let Some(expected) = headers.iter().find(|expected| !header(expected, request)) {
        return Some(Mismatch::Header { expected });
    }
    query.iter().find_map(|expected| {
        let found = parameter(request.query, &expected.name);
        let passes = found.is_some_and(|found| text(&expected.value, found));
        (!passes).then_some(Mismatch::Query { expected, found })
    })
}

/// Why a route is not for this client, whatever it asks for; `None` where it is.
pub fn stranger<'a>(conditions: &'a ClientMatch, client: &Client<'a>) -> Option<Mismatch<'a>> {
    let ClientMatch {
        labels,
        namespace,
        exported_to,
    } = conditions;
    let own = client.namespace();
    if let Some(to) = exported_to
        && !to.iter().any(|name| **name == *own)
    {
        return Some(Mismatch::NotExported { to, found: own });
    }
    if let Some(expected) = namespace
        && **expected != *own
    {
        return Some(Mismatch::SourceNamespace {
            expected,
            found: own,
        });
    }
    labels.iter().find_map(|(key, expected)| {
        let found = client.pod().labels.get(key).map(|value| &**value);
        (found != Some(expected)).then_some(Mismatch::SourceLabel {
            key,
            expected,
            found,
        })
    })
}

/// Whether a text passes.
pub(super) fn text(condition: &TextMatch, found: &str) -> bool {
    match condition {
        TextMatch::Exact(expected) => **expected == *found,
        TextMatch::Prefix(expected) => found.starts_with(&**expected),
        TextMatch::Regex(regex) => regex.is_match(found),
        TextMatch::Present => true,
    }
}

/// The value of the first query parameter of that name, as sent; empty where it has no `=`.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (key == name).then_some(value)
    })
}

/// Whether a condition on a header holds. A repeated header passes where one of its values does.
fn header(condition: &HeaderMatch, request: &Request<'_>) -> bool {
    let HeaderMatch {
        subject,
        value: expected,
        inverted,
    } = condition;
    let passes = match subject {
        HeaderSubject::Method => text(expected, request.method),
        HeaderSubject::Scheme => text(expected, request.scheme),
        HeaderSubject::Authority => text(expected, request.authority),
        HeaderSubject::Path => text(expected, &path_and_query(expected, request)),
        HeaderSubject::Claim(_) => false,
        // HTTP/2 has it as `:authority` alone, so both are one.
        HeaderSubject::Header(name) if *name == HOST => text(expected, request.authority),
        HeaderSubject::Header(name) => {
            let mut values = request.headers.get_all(name).iter().peekable();
            match values.peek() {
                Some(_) => values.any(|value| bytes(expected, value.as_bytes())),
                // Where presence is asked for, absence is absence; where a value is, it is the empty value, but only for
                // a condition that is turned round.
                None => *inverted && !matches!(expected, TextMatch::Present) && text(expected, ""),
            }
        }
    };
    passes != *inverted
}

/// As [`text`], for what need not be text: no regex matches what is not.
pub(super) fn bytes(condition: &TextMatch, found: &[u8]) -> bool {
    match condition {
        TextMatch::Exact(expected) => expected.as_bytes() == found,
        TextMatch::Prefix(expected) => found.starts_with(expected.as_bytes()),
        TextMatch::Regex(regex) => {
            std::str::from_utf8(found).is_ok_and(|found| regex.is_match(found))
        }
        TextMatch::Present => true,
    }
}

fn path_and_query<'a>(condition: &TextMatch, request: &Request<'a>) -> Cow<'a, str> {
    match condition {
        TextMatch::Exact(_) | TextMatch::Prefix(_) | TextMatch::Regex(_) => {
            request.path_and_query()
        }
        TextMatch::Present => request.path.into(),
    }
}

#[cfg(test)]
mod tests;
