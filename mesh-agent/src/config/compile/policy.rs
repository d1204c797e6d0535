//! Traffic policies: what the levels of a DestinationRule make of one another for one port (`istio-routing.md` 2.2).

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Inputs;
use crate::config::compile::credentials::{Audience, client_tls};
use crate::config::compile::rules::{Merged, RuleId, Rules};
use crate::config::compile::secrets::Secrets;
use crate::config::compile::services::Registered;
use crate::config::object::DestinationRule;
use crate::config::object::destination_rule::{
    Blocks, LoadBalancer, LocalitySetting, Method, Policy, Pool, Tls,
};
use crate::config::object::node::{HOSTNAME, REGION, SUBZONE, ZONE};
use crate::config::object::service::Distribution;
use crate::model::{
    Balancer, ConnectionPool, Failover, LocalityPolicy, OutlierDetection, ProxyProtocol, RouteHash,
    TrafficPolicy, UpstreamHttp,
};

/// How a cluster's endpoints are talked to, and whether there is a choice of them.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) policy: Arc<TrafficPolicy>,
    /// `PASSTHROUGH`: the client has dialled the endpoint.
    pub(super) original: bool,
}

/// What the way from a server's proxy to its app takes from a DestinationRule.
#[derive(Clone, Default)]
pub(super) struct InboundManner {
    pub(super) pool: Arc<ConnectionPool>,
    pub(super) http: UpstreamHttp,
}

/// The policies that were made, each once.
pub(super) struct Policies<'a> {
    secrets: Secrets<'a>,
    known: HashMap<Key<'a>, Manner>,
    inbound: HashMap<(Option<RuleId>, Option<u16>), InboundManner>,
}

/// Everything that a policy depends on.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    rule: Option<RuleId>,
    subset: Option<usize>,
    /// The port, where one of the levels has settings for it.
    port: Option<u16>,
    audience: Audience<'a>,
    distribution: Distribution,
    node_local: bool,
    /// The names that the Service vouches for, for TLS.
    vouched: &'a [Arc<str>],
}

/// What is in force at one level, or at several laid over one another.
#[derive(Clone, Copy, Default)]
struct Layer<'p> {
    balancer: Option<&'p LoadBalancer>,
    pool: Option<&'p Pool>,
    outliers: Option<&'p OutlierDetection>,
    tls: Option<&'p Tls>,
    proxy_protocol: Option<ProxyProtocol>,
    retry_budget: Option<(f64, u32)>,
}

impl<'a> Policies<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        Self {
            secrets: Secrets::new(inputs),
            known: HashMap::new(),
            inbound: HashMap::new(),
        }
    }

    /// How clients of an audience, to whom `rule` applies, talk to a port of a Service, or to a subset of it by the
    /// subset's place in the rule.
    pub(super) fn outbound(
        &mut self,
        rules: &Rules<'_>,
        rule: Option<RuleId>,
        subset: Option<usize>,
        (service, port): (&Registered<'a>, u16),
        audience: Audience<'a>,
    ) -> Manner {
        let merged = rule.map(|id| rules.get(id));
        let top = merged.and_then(|merged| merged.policy);
        let own = merged
            .zip(subset)
            .and_then(|(merged, subset)| merged.subsets[subset].policy.as_ref());
        let by_port = |policy: &Policy| policy.port(port).is_some();
        let key = Key {
            rule,
            subset,
            port: (top.is_some_and(by_port) || own.is_some_and(by_port)).then_some(port),
            audience,
            distribution: service.distribution,
            node_local: service.node_local,
            vouched: service.vouched,
        };
        let made = self.known.entry(key).or_insert_with(|| {
            let layer = merge(top, own, port).unwrap_or_default();
            Manner {
                policy: Arc::new(TrafficPolicy {
                    hash: route_hash(top, own, port),
                    ..policy_of(&layer, service, &self.secrets, audience)
                }),
                original: is_original(top, own, port),
            }
        });
        made.clone()
    }

    /// What holds between a server's proxy and its app, on a Service's port.
    pub(super) fn inbound(
        &mut self,
        rules: &Rules<'_>,
        rule: Option<RuleId>,
        port: u16,
    ) -> InboundManner {
        let policy = rule.and_then(|id| rules.get(id).policy);
        let by_port = policy.and_then(|policy| policy.port(port)).map(|_| port);
        let made = self.inbound.entry((rule, by_port)).or_insert_with(|| {
            let layer = policy
                .map(|policy| layer(policy, port).0)
                .unwrap_or_default();
            InboundManner {
                pool: Arc::new(pool_of(&layer)),
                http: match layer.pool.map(|pool| pool.http) {
                    Some(UpstreamHttp::AsClient) => UpstreamHttp::AsClient,
                    Some(UpstreamHttp::AsDeclared | UpstreamHttp::Http2) | None => {
                        UpstreamHttp::AsDeclared
                    }
                },
            }
        });
        made.clone()
    }
}

impl Merged<'_> {
    /// Whether any part of the rule names a Secret, so that what it says depends on the client's namespace.
    pub(super) fn has_secret(&self) -> bool {
        let subsets = self
            .subsets
            .iter()
            .filter_map(|subset| subset.policy.as_ref());
        secrets(self.policy.into_iter().chain(subsets))
            .next()
            .is_some()
    }
}

impl DestinationRule {
    /// Whether any part of it names a Secret.
    pub(super) fn names_secret(&self) -> bool {
        self.secrets().next().is_some()
    }

    /// The Secrets that it names.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Arc<str>> {
        let subsets = self.subsets.iter();
        let subsets = subsets.filter_map(|subset| subset.policy.as_ref());
        secrets(self.policy.iter().chain(subsets))
    }
}

/// The Secrets that policies name.
fn secrets<'p>(policies: impl Iterator<Item = &'p Policy>) -> impl Iterator<Item = &'p Arc<str>> {
    let blocks =
        policies.flat_map(|policy| std::iter::once(&policy.blocks).chain(policy.ports.values()));
    blocks.filter_map(|blocks| blocks.tls.as_deref()?.secret())
}

/// A policy at a port. Settings for the port replace everything, and what they do not have is not inherited.
fn layer(policy: &Policy, port: u16) -> (Layer<'_>, bool) {
    match policy.port(port) {
        Some(blocks) => (Layer::of(blocks), true),
        None => {
            let layer = Layer {
                proxy_protocol: policy.proxy_protocol,
                retry_budget: policy.retry_budget,
                ..Layer::of(&policy.blocks)
            };
            (layer, false)
        }
    }
}

/// A rule's policy with a subset's laid over it: block by block, or all four where the subset has settings for the port.
fn merge<'p>(top: Option<&'p Policy>, own: Option<&'p Policy>, port: u16) -> Option<Layer<'p>> {
    let own = own.map(|policy| layer(policy, port));
    let Some((top, _)) = top.map(|policy| layer(policy, port)) else {
        return own.map(|(layer, _)| layer);
    };
    let Some((own, whole)) = own else {
        return Some(top);
    };
    let blocks = if whole { Layer::default() } else { top };
    Some(Layer {
        balancer: own.balancer.or(blocks.balancer),
        pool: own.pool.or(blocks.pool),
        outliers: own.outliers.or(blocks.outliers),
        tls: own.tls.or(blocks.tls),
        proxy_protocol: own.proxy_protocol.or(top.proxy_protocol),
        retry_budget: own.retry_budget.or(top.retry_budget),
    })
}

/// `PASSTHROUGH` of the rule holds for its subsets too, whatever they say; and a subset's for all its ports.
fn is_original(top: Option<&Policy>, own: Option<&Policy>, port: u16) -> bool {
    let passes = |balancer: Option<&LoadBalancer>| {
        balancer.is_some_and(|balancer| balancer.method == Method::Original)
    };
    passes(top.and_then(|policy| layer(policy, port).0.balancer))
        || passes(own.and_then(|policy| policy.blocks.balancer.as_deref()))
        || passes(merge(top, own, port).and_then(|layer| layer.balancer))
}

/// What routes hash. A block that has no hash hides none of another level: that is the balancer's affair.
fn route_hash(top: Option<&Policy>, own: Option<&Policy>, port: u16) -> RouteHash {
    let of = |blocks: Option<&Blocks>| match &blocks?.balancer.as_deref()?.method {
        Method::Balanced(Balancer::Hash { key, .. }) => Some(Arc::new(key.clone())),
        Method::Balanced(_) | Method::Original => None,
    };
    let at_port = |policy: Option<&Policy>| of(policy.and_then(|policy| policy.port(port)));
    let whole = |policy: Option<&Policy>| of(policy.map(|policy| &policy.blocks));
    RouteHash {
        at_port: at_port(own)
            .or_else(|| whole(own))
            .or_else(|| at_port(top))
            .or_else(|| whole(top)),
        at_any_port: whole(own).or_else(|| whole(top)),
    }
}

fn policy_of(
    layer: &Layer<'_>,
    service: &Registered<'_>,
    secrets: &Secrets<'_>,
    audience: Audience<'_>,
) -> TrafficPolicy {
    TrafficPolicy {
        balancer: match layer.balancer.map(|balancer| &balancer.method) {
            Some(Method::Balanced(balancer)) => balancer.clone(),
            Some(Method::Original) | None => Default::default(),
        },
        hash: RouteHash::default(),
        locality: locality(layer, service.distribution),
        node_local: service.node_local,
        pool: pool_of(layer),
        outliers: layer.outliers.map(|outliers| OutlierDetection {
            // Where the Service itself ranks endpoints, those that are not ready are known, and must not be picked.
            min_health_percent: match service.distribution {
                Distribution::Any => outliers.min_health_percent,
                Distribution::SameZone | Distribution::SameNode => 0,
            },
            ..outliers.clone()
        }),
        tls: layer
            .tls
            .and_then(|tls| client_tls(tls, service.vouched, secrets, audience)),
        proxy_protocol: layer.proxy_protocol,
        http: layer.pool.map(|pool| pool.http).unwrap_or_default(),
    }
}

fn pool_of(layer: &Layer<'_>) -> ConnectionPool {
    let limits = layer.pool.map(|pool| pool.limits.clone());
    ConnectionPool {
        retry_budget: layer.retry_budget,
        ..limits.unwrap_or_default()
    }
}

/// The rule's setting stands for all others; else the Service's; else the mesh's, which is to fail over.
///
/// A failover by anything but the Service's own word needs ejection: nothing else would ever tell that a place fails.
fn locality(layer: &Layer<'_>, distribution: Distribution) -> LocalityPolicy {
    let ejects = layer.outliers.is_some();
    let setting = layer
        .balancer
        .and_then(|balancer| balancer.locality.as_ref());
    match (setting, distribution) {
        (Some(LocalitySetting::Off), _) => LocalityPolicy::Off,
        (Some(LocalitySetting::Distribute(shares)), _) => {
            LocalityPolicy::Distribute(shares.clone())
        }
        (Some(LocalitySetting::Failover(failover)), _) if ejects => {
            LocalityPolicy::Failover(failover.clone())
        }
        (Some(LocalitySetting::Failover(_)), _) => LocalityPolicy::Off,
        (None, Distribution::SameZone) => by_labels(&[REGION, ZONE]),
        (None, Distribution::SameNode) => by_labels(&[REGION, ZONE, SUBZONE, HOSTNAME]),
        (None, Distribution::Any) if ejects => {
            LocalityPolicy::Failover(Failover::Regions(Vec::new()))
        }
        (None, Distribution::Any) => LocalityPolicy::Off,
    }
}

fn by_labels(labels: &[&str]) -> LocalityPolicy {
    let labels = labels.iter().map(|label| (Arc::from(*label), None));
    LocalityPolicy::Failover(Failover::Labels(labels.collect()))
}

impl<'p> Layer<'p> {
    fn of(blocks: &'p Blocks) -> Self {
        Self {
            balancer: blocks.balancer.as_deref(),
            pool: blocks.pool.as_deref(),
            outliers: blocks.outliers.as_deref(),
            tls: blocks.tls.as_deref(),
            proxy_protocol: None,
            retry_budget: None,
        }
    }
}

#[cfg(test)]
mod tests;
