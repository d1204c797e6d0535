//! Route tables as JSON, in Istio's own words.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::model::{
    Abort, ClientMatch, Cors, Destination, DirectResponse, Fault, Forward, HeaderEdits,
    HeaderMatch, Mirror, PathMatch, PathRewrite, QueryMatch, Redirect, RedirectPath, RedirectPort,
    Retry, Route, RouteAction, RouteMatch, RouteTable, Share, StreamMatch, StreamRoute,
    StreamTable, TextMatch, VirtualHost,
};

/// The virtual hosts of a table, by domain.
pub fn table(table: &RouteTable) -> Value {
    let mut exact: Vec<_> = table.exact.iter().collect();
    exact.sort_by(|a, b| a.0.cmp(b.0));
    let exact = exact
        .into_iter()
        .map(|(host, routes)| (host.to_string(), routes));
    let suffixes = table
        .suffixes
        .iter()
        .map(|(suffix, routes)| (format!("*{suffix}"), routes));
    let any = table.any.iter().map(|routes| ("*".to_owned(), routes));
    exact
        .chain(suffixes)
        .chain(any)
        .map(|(host, routes)| (host, virtual_host(routes)))
        .collect()
}

/// Where connections go that are not HTTP.
pub fn streams(table: &StreamTable) -> Value {
    let route = |route: &StreamRoute| {
        let StreamMatch {
            server_names,
            subnets,
            client,
        } = &route.when;
        let (object, rule) = route.origin.clone().unzip();
        compact([
            ("origin", json!(object)),
            ("rule", json!(rule)),
            ("sniHosts", json!(server_names)),
            ("destinationSubnets", json!(subnets)),
            ("client", self::client(client)),
            (
                "route",
                route.destinations.iter().map(destination).collect(),
            ),
        ])
    };
    table.routes.iter().map(route).collect()
}

fn virtual_host(host: &VirtualHost) -> Value {
    compact([
        ("name", json!(host.name)),
        ("httpsRedirect", flag(host.https_redirect)),
        (
            "routes",
            host.routes.iter().map(|route| self::route(route)).collect(),
        ),
        (
            "otherwise",
            host.next.as_deref().map_or(Value::Null, virtual_host),
        ),
    ])
}

fn route(route: &Route) -> Value {
    let Route {
        name,
        origin,
        when,
        action,
        cors,
    } = route;
    let (kind, action) = match action {
        RouteAction::Forward(forward) => ("forward", self::forward(forward)),
        RouteAction::Redirect(redirect) => ("redirect", self::redirect(redirect)),
        RouteAction::Respond(response) => ("directResponse", direct_response(response)),
    };
    compact([
        ("name", json!(name)),
        (
            "origin",
            json!(
                origin
                    .as_ref()
                    .map(|(object, rule)| format!("{object} http[{rule}]"))
            ),
        ),
        ("match", conditions(when)),
        (kind, action),
        ("corsPolicy", cors.as_ref().map_or(Value::Null, self::cors)),
    ])
}

fn conditions(when: &RouteMatch) -> Value {
    let RouteMatch {
        uri,
        scheme,
        method,
        authority,
        headers,
        query,
        client,
    } = when;
    let header = |header: &HeaderMatch| {
        compact([
            ("name", json!(header.subject.name())),
            ("value", text(&header.value)),
            ("without", flag(header.inverted)),
        ])
    };
    let parameter =
        |parameter: &QueryMatch| json!({ "name": parameter.name, "value": text(&parameter.value) });
    let one = |condition: &Option<TextMatch>| condition.as_ref().map_or(Value::Null, text);
    compact([
        ("uri", uri.as_ref().map_or(Value::Null, path)),
        ("scheme", one(scheme)),
        ("method", one(method)),
        ("authority", one(authority)),
        ("headers", headers.iter().map(header).collect()),
        ("queryParams", query.iter().map(parameter).collect()),
        ("client", self::client(client)),
    ])
}

fn client(client: &ClientMatch) -> Value {
    let ClientMatch {
        labels,
        namespace,
        exported_to,
    } = client;
    compact([
        ("sourceLabels", json!(labels)),
        ("sourceNamespace", json!(namespace)),
        ("exportTo", json!(exported_to)),
    ])
}

fn path(path: &PathMatch) -> Value {
    match path {
        PathMatch::Exact(text) => json!({ "exact": text }),
        PathMatch::Prefix(text) => json!({ "prefix": text }),
        PathMatch::ExactIgnoreCase(text) => json!({ "exact": text, "ignoreUriCase": true }),
        PathMatch::PrefixIgnoreCase(text) => json!({ "prefix": text, "ignoreUriCase": true }),
        PathMatch::Regex(regex) => json!({ "regex": regex.as_str() }),
    }
}

fn text(text: &TextMatch) -> Value {
    match text {
        TextMatch::Exact(text) => json!({ "exact": text }),
        TextMatch::Prefix(text) => json!({ "prefix": text }),
        TextMatch::Regex(regex) => json!({ "regex": regex.as_str() }),
        TextMatch::Present => json!({ "present": true }),
    }
}

fn forward(forward: &Forward) -> Value {
    let Forward {
        destinations,
        total_weight: _,
        rewrite_path,
        rewrite_authority,
        timeout,
        retry,
        fault,
        mirrors,
    } = forward;
    let mirror = |Mirror { cluster, share }: &Mirror| json!({ "cluster": cluster.to_string(), "percentage": percent(*share) });
    compact([
        ("route", destinations.iter().map(destination).collect()),
        (
            "rewrite",
            compact([
                (
                    "uri",
                    match rewrite_path {
                        None => Value::Null,
                        Some(PathRewrite::Matched(text)) => json!(text),
                        Some(PathRewrite::Regex(regex, with)) => {
                            json!({ "match": regex.as_str(), "rewrite": with })
                        }
                    },
                ),
                ("authority", json!(rewrite_authority)),
            ]),
        ),
        ("timeout", duration(*timeout)),
        ("retries", self::retry(retry)),
        ("fault", self::fault(fault)),
        ("mirrors", mirrors.iter().map(mirror).collect()),
    ])
}

fn destination(destination: &Destination) -> Value {
    let Destination {
        cluster,
        names_port: _,
        weight,
        request_headers,
        response_headers,
    } = destination;
    compact([
        ("cluster", json!(cluster.to_string())),
        ("weight", json!(weight)),
        ("requestHeaders", edits(request_headers)),
        ("responseHeaders", edits(response_headers)),
    ])
}

fn retry(retry: &Retry) -> Value {
    let Retry {
        attempts,
        on,
        statuses,
        per_try_timeout,
        backoff,
        avoid_previous,
        avoid_previous_priorities,
    } = retry;
    let statuses = statuses.iter().map(|status| status.as_u16());
    compact([
        ("attempts", json!(attempts)),
        ("retryOn", json!(on.to_string())),
        ("statuses", statuses.collect()),
        ("perTryTimeout", duration(*per_try_timeout)),
        ("backoff", duration(*backoff)),
        ("retryPreviousHosts", flag(!avoid_previous)),
        ("retryRemoteLocalities", flag(*avoid_previous_priorities)),
    ])
}

fn fault(fault: &Fault) -> Value {
    let Fault { delay, abort } = fault;
    let delay = delay.map(
        |delay| json!({ "fixedDelay": duration(Some(delay.duration)), "percentage": percent(delay.share) }),
    );
    let abort = abort.map(|(abort, share)| match abort {
        Abort::Http(status) => {
            json!({ "httpStatus": status.as_u16(), "percentage": percent(share) })
        }
        Abort::Grpc(status) => json!({ "grpcStatus": status, "percentage": percent(share) }),
    });
    compact([("delay", json!(delay)), ("abort", json!(abort))])
}

fn redirect(redirect: &Redirect) -> Value {
    let Redirect {
        status,
        scheme,
        authority,
        port,
        path,
        response_headers,
    } = redirect;
    let (uri, prefix) = match path {
        RedirectPath::Kept => (None, None),
        RedirectPath::Whole(uri) => (Some(uri), None),
        RedirectPath::Prefix(prefix) => (None, Some(prefix)),
    };
    compact([
        ("redirectCode", json!(status.as_u16())),
        ("scheme", json!(scheme)),
        ("authority", json!(authority)),
        (
            "port",
            match port {
                RedirectPort::Kept => Value::Null,
                RedirectPort::Number(number) => json!(number),
            },
        ),
        ("uri", json!(uri)),
        ("prefixRewrite", json!(prefix)),
        ("responseHeaders", edits(response_headers)),
    ])
}

fn direct_response(response: &DirectResponse) -> Value {
    let DirectResponse {
        status,
        body,
        response_headers,
    } = response;
    compact([
        ("status", json!(status.as_u16())),
        ("body", json!(String::from_utf8_lossy(body))),
        ("responseHeaders", edits(response_headers)),
    ])
}

fn cors(cors: &Cors) -> Value {
    let Cors {
        origins,
        methods,
        headers,
        expose,
        max_age,
        credentials,
        forward_unmatched,
    } = cors;
    compact([
        ("allowOrigins", origins.iter().map(text).collect()),
        ("allowMethods", json!(methods)),
        ("allowHeaders", json!(headers)),
        ("exposeHeaders", json!(expose)),
        ("maxAge", json!(max_age)),
        ("allowCredentials", flag(*credentials)),
        ("ignoreUnmatchedPreflights", flag(!forward_unmatched)),
    ])
}

fn edits(edits: &HeaderEdits) -> Value {
    let HeaderEdits {
        remove,
        edits,
        authority,
    } = edits;
    let removed = remove.iter().map(|name| name.as_str());
    let edit = |edit: &crate::model::HeaderEdit| {
        let verb = match edit.append {
            true => "add",
            false => "set",
        };
        json!({ verb: edit.name.as_str(), "value": edit.value.to_string() })
    };
    compact([
        ("remove", removed.collect()),
        ("edits", edits.iter().map(edit).collect()),
        (
            "authority",
            authority
                .as_ref()
                .map_or(Value::Null, |value| json!(value.to_string())),
        ),
    ])
}

fn percent(share: Share) -> Value {
    json!(f64::from(share.0) / 10_000.0)
}

/// A duration as Go writes it; `null` for none.
pub(super) fn duration(duration: Option<Duration>) -> Value {
    duration.map_or(Value::Null, |duration| {
        json!(format!("{}ms", duration.as_millis()))
    })
}

/// `true`, or nothing.
pub(super) fn flag(set: bool) -> Value {
    match set {
        true => Value::Bool(true),
        false => Value::Null,
    }
}

/// An object without what is empty.
pub(super) fn compact<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let filled = |value: &Value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    let fields: Map<_, _> = fields
        .into_iter()
        .filter(|(_, value)| filled(value))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Value::Object(fields)
}
