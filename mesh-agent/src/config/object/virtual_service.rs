//! A VirtualService: rules for the requests and connections to a host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use ipnet::IpNet;

use crate::config::crd::virtual_service::VirtualServiceSpec;
use crate::config::object::Context;
use crate::config::object::name::{ExportTo, GatewayName};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{
    self, Cors, Fault, HeaderEdits, HeaderMatch, Labels, PathMatch, PathRewrite, RedirectPath,
    Retry, TextMatch,
};

pub(in crate::config::object) use crate::config::object::virtual_service::retry::read as read_retries;

mod answer;
mod block;
mod cors;
mod fault;
mod header;
mod mirror;
mod reach;
mod retry;
mod rewrite;
mod rule;
mod scope;
mod share;
mod stream;

/// A VirtualService.
#[derive(Debug)]
pub struct VirtualService {
    /// Fully qualified, lower case; empty for a delegate, which is of use only to those that name it.
    pub hosts: Vec<Arc<str>>,
    /// Where it applies; never empty.
    pub gateways: Vec<GatewayName>,
    /// Whose clients it concerns.
    pub export: ExportTo,
    /// `http`, in written order.
    pub rules: Vec<Rule>,
    /// Where its rules ask for claims of a token, which no request has.
    pub claims: Vec<Path>,
    /// `tls`, in written order.
    pub tls: Vec<StreamRule>,
    /// `tcp`, in written order.
    pub tcp: Vec<StreamRule>,
}

/// One of `http[]`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Of which one must match; without any, all requests do.
    pub blocks: Vec<Block>,
    /// What is done.
    pub action: Action,
    /// `rewrite`.
    pub rewrite: Option<Rewrite>,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `retries`.
    pub retry: Option<Retry>,
    /// `fault`. Boxed, as are those below that few rules have: a large world has many rules.
    pub fault: Option<Box<Fault>>,
    /// `mirror` and what belongs to it.
    pub mirrors: Mirrors,
    /// `corsPolicy`.
    pub cors: Option<Box<Cors>>,
    /// `headers`.
    pub headers: Option<Box<Headers>>,
}

/// One of `http[].match[]`: all of it must hold.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// `uri`.
    pub uri: Option<PathMatch>,
    /// `ignoreUriCase`, which `uri` is read with already.
    pub ignore_uri_case: bool,
    /// `scheme`.
    pub scheme: Option<TextMatch>,
    /// `method`.
    pub method: Option<TextMatch>,
    /// `authority`.
    pub authority: Option<TextMatch>,
    /// `headers`, by their names as written.
    pub headers: BTreeMap<Arc<str>, HeaderMatch>,
    /// `withoutHeaders`, likewise.
    pub without_headers: BTreeMap<Arc<str>, HeaderMatch>,
    /// `queryParams`.
    pub query: BTreeMap<Arc<str>, TextMatch>,
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
#[derive(Clone, Debug)]
pub enum Action {
    /// `route`: never empty. Weights are above 0 where there are several.
    Forward(Vec<Share>),
    /// `redirect`.
    Redirect(Redirect),
    /// `directResponse`.
    Respond(Response),
    /// `delegate`.
    Delegate(Delegate),
}

/// `redirect`.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// `redirectCode`.
    pub status: StatusCode,
    /// `scheme`.
    pub scheme: Option<Arc<str>>,
    /// `authority`.
    pub authority: Option<Arc<str>>,
    /// `port` and `derivePort`.
    pub port: RedirectPort,
    /// `uri` and `prefixRewrite`.
    pub path: RedirectPath,
}

/// The port of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// Nothing written, or `FROM_PROTOCOL_DEFAULT`.
    Kept,
    /// `port`.
    Number(u16),
    /// `FROM_REQUEST_PORT`: that of the listener.
    Listener,
}

/// `directResponse`.
#[derive(Clone, Debug)]
pub struct Response {
    /// `status`.
    pub status: StatusCode,
    /// `body`.
    pub body: Bytes,
}

/// `delegate`: the rules of another VirtualService take this one's place.
#[derive(Clone, Debug)]
pub struct Delegate {
    /// The other's namespace.
    pub namespace: Arc<str>,
    /// The other's name.
    pub name: Arc<str>,
    /// `directResponse` of this rule: what the other's rules answer that send requests somewhere.
    pub respond: Option<Response>,
}

/// `rewrite`.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// `uri` or `uriRegexRewrite`.
    pub path: Option<PathRewrite>,
    /// `authority`.
    pub authority: Option<Arc<str>>,
}

/// `mirror`, `mirrorPercentage`, `mirrorPercent` and `mirrors`, apart because a delegate inherits each for itself.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {
    /// `mirror`.
    pub target: Option<Target>,
    /// `mirrorPercentage`.
    pub percentage: Option<model::Share>,
    /// `mirrorPercent`, which counts where there is no `mirrorPercentage`.
    pub percent: Option<model::Share>,
    /// `mirrors`.
    pub list: Vec<(Target, model::Share)>,
}

/// `headers`, of a rule or a destination.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// `request`.
    pub request: HeaderEdits,
    /// `response`.
    pub response: HeaderEdits,
}

/// One of `tcp[]` or `tls[]`.
#[derive(Debug)]
pub struct StreamRule {
    /// Of which one must match; never empty.
    pub blocks: Vec<StreamBlock>,
    /// Where it goes; never empty. Weights are above 0 where there are several.
    pub shares: Vec<Share>,
}

/// One of `tcp[].match[]` or `tls[].match[]`: all of it must hold.
#[derive(Debug, Default)]
pub struct StreamBlock {
    /// `sniHosts`, lower case; empty for `tcp`.
    pub server_names: Vec<Arc<str>>,
    /// `destinationSubnets`.
    pub subnets: Vec<IpNet>,
    /// The port that the connection came in on.
    pub port: Option<u16>,
    /// The client pod's labels.
    pub client_labels: Labels,
    /// The client pod's namespace.
    pub client_namespace: Option<Arc<str>>,
    /// The gateways that the client is.
    pub gateways: Vec<GatewayName>,
}

/// One of `route[]`.
#[derive(Clone, Debug)]
pub struct Share {
    /// Whose it is.
    pub target: Target,
    /// Its share.
    pub weight: u32,
    /// `headers`; none for connections that are not HTTP.
    pub headers: Headers,
}

/// `destination`.
#[derive(Clone, Debug)]
pub struct Target {
    /// Fully qualified.
    pub host: Arc<str>,
    /// Subset of the host.
    pub subset: Option<Arc<str>>,
    /// Port of the host, where written.
    pub port: Option<u16>,
    /// Where it was written.
    pub path: Path,
}

impl VirtualService {
    /// Reads `spec`.
    pub fn read(spec: VirtualServiceSpec, context: &Context<'_>, problems: &mut Problems) -> Self {
        let path = Path::of("spec");
        scope::check_sections(&spec, &path, problems);
        let VirtualServiceSpec {
            hosts: written,
            gateways,
            http,
            tls,
            tcp,
            export_to,
        } = spec;
        let export_path = path.key("exportTo");
        scope::check_export(&export_to, context.namespace, &export_path, problems);
        let delegate = written.is_empty();
        let gateways = scope::read_gateways(&gateways, context, &path.key("gateways"), problems);
        let claims = scope::check_claims(&http, &gateways, &path.key("http"), problems);
        let hosts = scope::read_hosts(&written, &gateways, context, &path.key("hosts"), problems);
        let names: Vec<String> = written
            .iter()
            .map(|host| host.to_ascii_lowercase())
            .collect();
        let names: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .chain(hosts.iter().map(|host| &**host))
            .collect();
        let rules = compact(
            each(http, &path.key("http"))
                .filter_map(|(rule, path)| rule::read(rule, delegate, context, &path, problems)),
        );
        reach::check(&rules, &path.key("http"), problems);
        let tls = compact(
            each(tls, &path.key("tls"))
                .map(|(rule, path)| stream::read_tls(rule, &names, context, &path, problems)),
        );
        reach::check_streams(&tls, "tls", &path.key("tls"), problems);
        let tcp = compact(
            each(tcp, &path.key("tcp"))
                .map(|(rule, path)| stream::read_tcp(rule, context, &path, problems)),
        );
        reach::check_streams(&tcp, "tcp", &path.key("tcp"), problems);
        Self {
            hosts,
            gateways,
            export: ExportTo::read(&export_to, &export_path, problems),
            rules,
            claims,
            tls,
            tcp,
        }
    }

    /// Everyone that its rules send to.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let streams = self.tls.iter().chain(&self.tcp);
        self.rules
            .iter()
            .flat_map(Rule::targets)
            .chain(streams.flat_map(|rule| rule.shares.iter().map(|share| &share.target)))
    }
}

impl Rule {
    /// Everyone that it sends to, copies included.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let shares = match &self.action {
            Action::Forward(shares) => shares.as_slice(),
            Action::Redirect(_) | Action::Respond(_) | Action::Delegate(_) => &[],
        };
        let list = self.mirrors.list.iter().map(|(target, _)| target);
        shares
            .iter()
            .map(|share| &share.target)
            .chain(&self.mirrors.target)
            .chain(list)
    }
}

/// The items of a list with their paths.
/// A list without room for more: there are many, and all are kept.
fn compact<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut list: Vec<T> = items.collect();
    list.shrink_to_fit();
    list
}

fn each<T>(items: Vec<T>, path: &Path) -> impl Iterator<Item = (T, Path)> {
    let items = items.into_iter().enumerate();
    items.map(|(index, item)| (item, path.index(index)))
}

#[cfg(test)]
mod tests;
