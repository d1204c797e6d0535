//! A VirtualService: rules for the requests to a host.

use std::sync::Arc;
use std::time::Duration;

use crate::config::crd::StringMatch;
use crate::config::crd::virtual_service::{
    Destination, HttpMatch, HttpRoute, PortSelector, Retries, Rewrite, RouteDestination,
    VirtualServiceSpec,
};
use crate::config::object::name::{self, ExportTo, GatewayName};
use crate::config::object::{self, Context, duration, regex};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Labels, PathMatch, Retry};

mod reach;

/// A VirtualService.
#[derive(Debug)]
pub struct VirtualService {
    /// Fully qualified, lower case; never empty.
    pub hosts: Vec<Arc<str>>,
    /// Where it applies; never empty.
    pub gateways: Vec<GatewayName>,
    /// Whose clients it concerns.
    pub export: ExportTo,
    /// In written order.
    pub rules: Vec<Rule>,
}

/// One of `http[]`.
#[derive(Debug)]
pub struct Rule {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Of which one must match; never empty: a rule without `match` has one that always does.
    pub blocks: Vec<Block>,
    /// What is done.
    pub action: Action,
}

/// One of `http[].match[]`.
#[derive(Debug, Default)]
pub struct Block {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// The request's path.
    pub uri: Option<PathMatch>,
    /// The port that the request came in on.
    pub port: Option<u16>,
    /// The client pod's labels.
    pub client_labels: Labels,
    /// The client pod's namespace.
    pub client_namespace: Option<Arc<str>>,
    /// Instead of the two above: the gateways that the client is.
    pub gateways: Vec<GatewayName>,
}

/// What is done with a request.
#[derive(Debug)]
pub struct Action {
    /// Where it goes; never empty. Weights are above 0 where there are several.
    pub shares: Vec<Share>,
    /// `rewrite.uri`.
    pub rewrite_uri: Option<Arc<str>>,
    /// `rewrite.authority`.
    pub rewrite_authority: Option<Arc<str>>,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `retries`.
    pub retry: Retry,
}

/// One of `http[].route[]`.
#[derive(Debug)]
pub struct Share {
    /// Fully qualified.
    pub host: Arc<str>,
    /// Subset of the host.
    pub subset: Option<Arc<str>>,
    /// Port of the host, where written.
    pub port: Option<u16>,
    /// Its share.
    pub weight: u32,
    /// Where it was written.
    pub path: Path,
}

impl VirtualService {
    /// Reads `spec`.
    pub fn read(spec: VirtualServiceSpec, context: &Context<'_>, problems: &mut Problems) -> Self {
        let VirtualServiceSpec {
            hosts,
            gateways,
            http,
            tls,
            tcp,
            export_to,
        } = spec;
        let path = Path::of("spec");
        if http.is_empty() && tls.is_empty() && tcp.is_empty() {
            problems.error(
                &path,
                "a VirtualService needs http, tls or tcp",
                "add at least one rule",
            );
        }
        for (section, name) in [(&tls, "tls"), (&tcp, "tcp")] {
            if !section.is_empty() {
                problems.unsupported(
                    &path.key(name),
                    &format!("a VirtualService with {name} routes"),
                );
            }
        }
        let gateways = read_gateways(&gateways, context, &path.key("gateways"), problems);
        let hosts = read_hosts(&hosts, &gateways, context, &path.key("hosts"), problems);
        let rules: Vec<Rule> = http
            .into_iter()
            .enumerate()
            .filter_map(|(index, rule)| {
                read_rule(rule, context, &path.key("http").index(index), problems)
            })
            .collect();
        reach::check(&rules, &path.key("http"), problems);
        Self {
            hosts,
            gateways,
            export: ExportTo::read(&export_to, &path.key("exportTo"), problems),
            rules,
        }
    }
}

fn read_gateways(
    written: &[String],
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<GatewayName> {
    if written.is_empty() {
        return vec![GatewayName::Mesh];
    }
    written
        .iter()
        .enumerate()
        .filter_map(|(index, name)| {
            GatewayName::read(name, context.namespace, &path.index(index), problems)
        })
        .collect()
}

fn read_hosts(
    written: &[String],
    gateways: &[GatewayName],
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<Arc<str>> {
    if written.is_empty() {
        problems.error(
            path,
            "a VirtualService without hosts is a delegate, which is not supported yet",
            "add the hosts that it is for",
        );
    }
    let mut hosts: Vec<Arc<str>> = Vec::new();
    for (index, host) in written.iter().enumerate() {
        let path = path.index(index);
        if !name::is_host(host) {
            problems.error(
                &path,
                format!("\"{host}\" is no host"),
                "write a name, \"*.name\", \"*\" or an IP address",
            );
            continue;
        }
        if host == "*" && gateways.contains(&GatewayName::Mesh) {
            problems.error(
                &path,
                "the host \"*\" cannot be used in the mesh",
                "name hosts, or name gateways without \"mesh\"",
            );
        }
        let host = name::qualify(host, context.namespace, &context.options.cluster_domain);
        if let Some(other) = hosts
            .iter()
            .find(|other| name::intersection(other, &host).is_some())
        {
            problems.error(
                &path,
                format!("\"{host}\" overlaps with \"{other}\""),
                "keep one of them",
            );
        }
        hosts.push(host);
    }
    hosts
}

fn read_rule(
    rule: HttpRoute,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Rule> {
    check_rule(&rule, path, problems);
    let HttpRoute {
        name,
        r#match,
        route,
        rewrite,
        timeout,
        retries,
        // Checked above: none of them is there.
        redirect: _,
        direct_response: _,
        delegate: _,
        fault: _,
        mirror: _,
        mirrors: _,
        mirror_percent: _,
        mirror_percentage: _,
        cors_policy: _,
        headers: _,
    } = rule;
    let mut blocks: Vec<Block> = r#match
        .into_iter()
        .enumerate()
        .map(|(index, block)| read_block(block, context, &path.key("match").index(index), problems))
        .collect();
    if blocks.is_empty() {
        blocks.push(Block::default());
    }
    let shares = read_shares(route, context, &path.key("route"), problems);
    let (rewrite_uri, rewrite_authority) = match rewrite {
        Some(rewrite) => read_rewrite(rewrite, &path.key("rewrite"), problems),
        None => (None, None),
    };
    let timeout = timeout.and_then(|text| duration::read(&text, &path.key("timeout"), problems));
    let retry = match retries {
        Some(retries) => read_retries(&retries, &path.key("retries"), problems),
        None => Retry::default(),
    };
    (!shares.is_empty()).then(|| Rule {
        name: name.into(),
        blocks,
        action: Action {
            shares,
            rewrite_uri,
            rewrite_authority,
            timeout,
            retry,
        },
    })
}

/// What may not stand together, and what this version does not do.
fn check_rule(rule: &HttpRoute, path: &Path, problems: &mut Problems) {
    let actions = [
        (!rule.route.is_empty(), "route"),
        (rule.redirect.is_some(), "redirect"),
        (rule.direct_response.is_some(), "directResponse"),
        (rule.delegate.is_some(), "delegate"),
    ];
    let written: Vec<&str> = actions
        .iter()
        .filter_map(|(there, name)| there.then_some(*name))
        .collect();
    match written.as_slice() {
        [] => problems.error(
            path,
            "this rule does nothing",
            "add route, redirect or directResponse",
        ),
        [_] => {}
        [first, second, ..] => {
            problems.error(
                path,
                format!("{first} and {second} cannot stand in one rule"),
                "keep one of them",
            );
        }
    }
    let answers = rule.redirect.is_some() || rule.direct_response.is_some();
    if answers && (rule.fault.is_some() || rule.rewrite.is_some()) {
        let message = "fault and rewrite cannot stand beside redirect or directResponse";
        problems.error(path, message, "remove them");
    }
    if rule.mirror.is_some() && !rule.mirrors.is_empty() {
        problems.error(
            &path.key("mirrors"),
            "mirror and mirrors cannot stand in one rule",
            "keep mirrors",
        );
    }
    for (there, name) in [
        (rule.redirect.is_some(), "redirect"),
        (rule.direct_response.is_some(), "directResponse"),
        (rule.delegate.is_some(), "delegate"),
        (rule.fault.is_some(), "fault"),
        (rule.mirror.is_some(), "mirror"),
        (!rule.mirrors.is_empty(), "mirrors"),
        (rule.cors_policy.is_some(), "corsPolicy"),
        (rule.headers.is_some(), "headers"),
    ] {
        if there {
            problems.unsupported(&path.key(name), name);
        }
    }
    for (field, name) in [
        (rule.mirror_percent, "mirrorPercent"),
        (rule.mirror_percentage, "mirrorPercentage"),
    ] {
        if field.is_some() {
            problems.without_effect(&path.key(name), name);
        }
    }
}

fn read_block(
    block: HttpMatch,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Block {
    let HttpMatch {
        name,
        uri,
        scheme,
        method,
        authority,
        headers,
        without_headers,
        query_params,
        port,
        source_labels,
        source_namespace,
        gateways,
        ignore_uri_case,
        stat_prefix,
    } = block;
    for (there, name) in [
        (scheme.is_some(), "scheme"),
        (method.is_some(), "method"),
        (authority.is_some(), "authority"),
        (!headers.is_empty(), "headers"),
        (!without_headers.is_empty(), "withoutHeaders"),
        (!query_params.is_empty(), "queryParams"),
    ] {
        if there {
            problems.unsupported(&path.key(name), &format!("matching by {name}"));
        }
    }
    if !stat_prefix.is_empty() {
        problems.without_effect(&path.key("statPrefix"), "statPrefix");
    }
    let gateways_path = path.key("gateways");
    Block {
        name: name.into(),
        uri: uri.and_then(|uri| read_uri(uri, ignore_uri_case, &path.key("uri"), problems)),
        port: match port {
            Some(_) => object::port_number(port, &path.key("port"), problems),
            None => None,
        },
        client_labels: object::labels(&source_labels),
        client_namespace: (!source_namespace.is_empty()).then(|| source_namespace.into()),
        gateways: gateways
            .iter()
            .enumerate()
            .filter_map(|(index, name)| {
                GatewayName::read(
                    name,
                    context.namespace,
                    &gateways_path.index(index),
                    problems,
                )
            })
            .collect(),
    }
}

fn read_uri(
    uri: StringMatch,
    ignore_case: bool,
    path: &Path,
    problems: &mut Problems,
) -> Option<PathMatch> {
    match uri {
        StringMatch {
            exact: Some(text),
            prefix: None,
            regex: None,
        } => Some(if ignore_case {
            PathMatch::ExactIgnoreCase(text.into())
        } else {
            PathMatch::Exact(text.into())
        }),
        StringMatch {
            exact: None,
            prefix: Some(text),
            regex: None,
        } => Some(if ignore_case {
            PathMatch::PrefixIgnoreCase(text.into())
        } else {
            PathMatch::Prefix(text.into())
        }),
        StringMatch {
            exact: None,
            prefix: None,
            regex: Some(text),
        } => regex::read(&text, &path.key("regex"), problems).map(PathMatch::Regex),
        StringMatch {
            exact: None,
            prefix: None,
            regex: None,
        } => None,
        StringMatch { .. } => {
            problems.error(
                path,
                "exact, prefix and regex exclude each other",
                "keep one of them",
            );
            None
        }
    }
}

fn read_shares(
    route: Vec<RouteDestination>,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<Share> {
    let several = route.len() > 1;
    let before = problems.len();
    let mut shares: Vec<Share> = route
        .into_iter()
        .enumerate()
        .filter_map(|(index, share)| read_share(share, context, &path.index(index), problems))
        .collect();
    if !several || problems.len() > before {
        return shares;
    }
    shares.retain(|share| share.weight > 0);
    if shares.is_empty() {
        problems.error(
            path,
            "the weights of all destinations are 0",
            "give one of them a weight",
        );
    }
    shares
}

fn read_share(
    share: RouteDestination,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Share> {
    let RouteDestination {
        destination,
        weight,
        headers,
    } = share;
    if headers.is_some() {
        problems.unsupported(&path.key("headers"), "headers");
    }
    let weight = weight.map_or(0, |weight| weight.0);
    let Ok(weight) = u32::try_from(weight) else {
        problems.error(
            &path.key("weight"),
            format!("the weight {weight} is negative"),
            "write 0 or more",
        );
        return None;
    };
    let path = path.key("destination");
    let Some(destination) = destination else {
        problems.error(&path, "a route needs a destination", "add one with a host");
        return None;
    };
    let Destination { host, subset, port } = destination;
    if host.is_empty() || host.contains('*') || !name::is_host(&host) {
        let message = match host.as_str() {
            "" => "a destination needs a host".to_owned(),
            _ => format!("\"{host}\" is no host of a destination"),
        };
        problems.error(&path.key("host"), message, "name a Service");
        return None;
    }
    if !subset.is_empty() && !name::is_label(&subset) {
        let message = format!("\"{subset}\" is no name of a subset");
        problems.error(
            &path.key("subset"),
            message,
            "use letters, digits and hyphens, at most 63",
        );
    }
    let port = match port {
        None => None,
        Some(PortSelector { number }) => Some(object::port_number(
            number,
            &path.key("port").key("number"),
            problems,
        )?),
    };
    Some(Share {
        host: name::qualify(&host, context.namespace, &context.options.cluster_domain),
        subset: (!subset.is_empty()).then(|| subset.into()),
        port,
        weight,
        path,
    })
}

fn read_rewrite(
    rewrite: Rewrite,
    path: &Path,
    problems: &mut Problems,
) -> (Option<Arc<str>>, Option<Arc<str>>) {
    let Rewrite {
        uri,
        authority,
        uri_regex_rewrite,
    } = rewrite;
    if uri_regex_rewrite.is_some() {
        if uri.is_empty() {
            problems.unsupported(&path.key("uriRegexRewrite"), "uriRegexRewrite");
        } else {
            problems.error(
                path,
                "uri and uriRegexRewrite exclude each other",
                "keep one of them",
            );
        }
    } else if uri.is_empty() && authority.is_empty() {
        problems.error(
            path,
            "this rewrite rewrites nothing",
            "add uri or authority",
        );
    }
    let text = |text: String| (!text.is_empty()).then(|| text.into());
    (text(uri), text(authority))
}

fn read_retries(retries: &Retries, path: &Path, problems: &mut Problems) -> Retry {
    let Retries {
        attempts,
        per_try_timeout,
        retry_on,
        retry_remote_localities,
        retry_ignore_previous_hosts,
        backoff,
    } = retries;
    let others = [
        (per_try_timeout, "perTryTimeout"),
        (retry_on, "retryOn"),
        (retry_remote_localities, "retryRemoteLocalities"),
        (retry_ignore_previous_hosts, "retryIgnorePreviousHosts"),
        (backoff, "backoff"),
    ];
    let attempts = attempts.map_or(0, |attempts| attempts.0);
    for (field, name) in others {
        if field.is_some() && attempts == 0 {
            problems.error(
                &path.key(name),
                format!("{name} without attempts"),
                "set attempts above 0",
            );
        } else if field.is_some() {
            problems.unsupported(&path.key(name), name);
        }
    }
    match u32::try_from(attempts) {
        Ok(attempts) => Retry { attempts },
        Err(_) => {
            problems.error(
                &path.key("attempts"),
                format!("{attempts} attempts are fewer than none"),
                "write 0 or more",
            );
            Retry::default()
        }
    }
}
