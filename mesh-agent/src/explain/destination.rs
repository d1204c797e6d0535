//! A cluster, in words: who is in it, and how they are chosen and talked to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::explain::forward::{rounded, time};
use crate::explain::hosts::Drawn;
use crate::explain::{Destination, EndpointLine, Facts, Teller};
use crate::model::{
    Balancer, ClientTls, Cluster, ClusterKey, ConnectionPool, Discovery, Endpoint, Failover,
    HashKey, LocalityPolicy, Members, OutlierDetection, Plan, Protocol, ProxyProtocol, Ring,
    UpstreamHttp, Warmup,
};
use crate::route::{Client, Condition, Forwarding, Request, Tried, balance, endpoint, hash_of};

/// Endpoints of which nothing is known but that they are there.
struct Calm;

impl Condition for Calm {
    fn load(&self, _: SocketAddr) -> u32 {
        0
    }

    fn any_ejected(&self) -> bool {
        false
    }

    fn is_ejected(&self, _: SocketAddr) -> bool {
        false
    }

    fn age(&self, _: SocketAddr) -> Duration {
        Duration::MAX
    }

    fn turn(&self) -> u64 {
        0
    }
}

impl Teller<'_> {
    /// A cluster that takes a share. `gone` is what comes of it where it does not exist; `dialled` is where the client
    /// was headed.
    pub(super) fn destination(
        &self,
        percent: f64,
        key: &ClusterKey,
        cluster: Option<&Arc<Cluster>>,
        gone: &str,
        dialled: Option<SocketAddr>,
    ) -> Destination {
        let percent = rounded(percent);
        let Some(cluster) = cluster else {
            return Destination {
                percent,
                cluster: key.to_string(),
                problem: Some(format!("{gone}: {}", self.missing(key))),
                endpoints: Vec::new(),
                policy: Facts::default(),
            };
        };
        let mut policy = Facts::default();
        let by_dialling = match (&cluster.discovery, &self.client) {
            (Discovery::Original, _) | (Discovery::Headless, Client::Pod(_)) => {
                let to = dialled.map_or_else(
                    || "the address that was dialled".to_owned(),
                    |address| format!("{address}, which was dialled"),
                );
                policy.add("endpoint", to);
                true
            }
            (Discovery::Dns { names, .. }, _) => {
                for name in names {
                    policy.add(
                        "endpoint",
                        format!("what DNS answers for {}:{}", name.name, name.port),
                    );
                }
                true
            }
            (Discovery::Listed | Discovery::Headless, _) => false,
        };
        let plan = balance::plan(cluster, &cluster.endpoints, &self.client);
        facts(cluster, &mut policy);
        let unready = cluster.endpoints.unready().len();
        let empty = !by_dialling && cluster.endpoints.is_empty();
        let problem = empty.then(|| match unready {
            0 => format!("503, flag UH: {key} has no endpoint"),
            unready => format!("503, flag UH: none of the {unready} endpoints of {key} is ready"),
        });
        let endpoints = match by_dialling {
            true => Vec::new(),
            false => lines(cluster, plan),
        };
        Destination {
            percent,
            cluster: key.to_string(),
            problem,
            endpoints,
            policy,
        }
    }

    /// Why there is no such cluster.
    fn missing(&self, key: &ClusterKey) -> String {
        let host = &key.host;
        let Some(service) = self.world.snapshot.services.get(host) else {
            return format!("no Service is called {host}");
        };
        if !service.ports.iter().any(|port| port.number == key.port) {
            let ports: Vec<String> = service
                .ports
                .iter()
                .map(|port| port.number.to_string())
                .collect();
            return format!("{host} has no port {}, but {}", key.port, ports.join(", "));
        }
        match &key.subset {
            Some(subset) => {
                format!("no DestinationRule that this client gets gives {host} a subset {subset}")
            }
            None => format!("this client sees no {host}"),
        }
    }

    /// What a consistent hash says to a request.
    pub(super) fn hash(&self, forwarding: &Forwarding, request: &Request<'_>) -> Option<String> {
        let cluster = &forwarding.cluster;
        if !matches!(cluster.policy.balancer, Balancer::Hash { .. }) {
            return None;
        }
        if forwarding.hash.is_empty() {
            return Some(
                "of nothing: the key is that of a port, which the route would have to name"
                    .to_owned(),
            );
        }
        // Several destinations may want the same.
        let mut keys: Vec<String> = Vec::new();
        for key in forwarding.hash.iter().map(|key| hashed(key)) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let of = keys.join(" and ");
        let mut given = false;
        let hash = hash_of(&forwarding.hash, request, |_| {
            given = true;
            0
        });
        Some(match hash {
            None => format!("of {of}, which the request lacks: chance decides"),
            Some(_) if given => {
                format!("of {of}, which the request lacks: the response gives it one")
            }
            Some(hash) => match self.taken(cluster, hash) {
                Some(address) => format!("of {of}: always takes {address}"),
                None => format!("of {of}"),
            },
        })
    }

    /// The endpoint of a hash, while all are well.
    pub(super) fn taken(&self, cluster: &Cluster, hash: u64) -> Option<SocketAddr> {
        let endpoints = &cluster.endpoints;
        let mut drawn = Drawn(None);
        endpoint(
            cluster,
            endpoints,
            &self.client,
            Some(hash),
            Tried::default(),
            &Calm,
            &mut drawn,
        )
    }

    pub(super) fn source(&self) -> IpAddr {
        let own = self.client.pod().addresses.first().copied();
        match self.client {
            Client::Pod(_) => own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Client::Gateway(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }
}

fn lines(cluster: &Cluster, plan: &Plan) -> Vec<EndpointLine> {
    let mut lines = Vec::new();
    let several = plan.tiers.len() > 1;
    for ((number, tier), load) in (1..).zip(&plan.tiers).zip(&plan.loads) {
        let total: u64 = tier.groups.iter().map(|group| u64::from(group.share)).sum();
        for group in &tier.groups {
            let mut line = |endpoint: &Endpoint| {
                let mut remarks = Vec::new();
                if several {
                    remarks.push(format!("priority {number}, which takes {load} %"));
                }
                if tier.groups.len() > 1 {
                    let share = 100.0 * f64::from(group.share) / total.max(1) as f64;
                    remarks.push(format!("its place takes {} %", rounded(share)));
                }
                if !group.uniform {
                    remarks.push(format!("weight {}", endpoint.weight));
                }
                if let Some(place) = &endpoint.locality
                    && (several || tier.groups.len() > 1)
                {
                    remarks.push(place.to_string());
                }
                lines.push(EndpointLine {
                    address: endpoint.address,
                    pod: endpoint.pod.as_ref().map(ToString::to_string),
                    remarks,
                });
            };
            match &group.members {
                Members::All => cluster.endpoints.iter().for_each(&mut line),
                Members::Some(places) => places
                    .iter()
                    .for_each(|place| line(&cluster.endpoints[*place as usize])),
            }
        }
    }
    lines
}

fn facts(cluster: &Cluster, facts: &mut Facts) {
    let policy = &cluster.policy;
    if cluster.discovery != Discovery::Original {
        facts.add("loadBalancer", balancer(&policy.balancer));
        facts.add_some("loadBalancer", locality(&policy.locality));
        let local = policy
            .node_local
            .then_some("only endpoints on the client's own node");
        facts.add_some("internalTrafficPolicy", local.map(ToOwned::to_owned));
    }
    if !cluster.endpoints.unready().is_empty() {
        let unready = cluster.endpoints.unready().len();
        facts.add("endpoints", format!("{unready} more are not ready"));
    }
    let spoken = match (policy.http, cluster.protocol) {
        (UpstreamHttp::AsDeclared, Protocol::Http2) | (UpstreamHttp::Http2, _) => Some("HTTP/2"),
        (UpstreamHttp::AsClient, _) => Some("the HTTP that the client speaks"),
        (UpstreamHttp::AsDeclared, Protocol::Http | Protocol::Auto) => Some("HTTP/1.1"),
        (UpstreamHttp::AsDeclared, Protocol::Tls | Protocol::Tcp | Protocol::Udp) => None,
    };
    facts.add_some("protocol", spoken.map(ToOwned::to_owned));
    facts.add("connectionPool", pool(&policy.pool));
    let outliers = policy.outliers.as_ref().map(outliers);
    facts.add(
        "outlierDetection",
        outliers.unwrap_or_else(|| "none".to_owned()),
    );
    let tls = policy.tls.as_deref().map(tls);
    facts.add("tls", tls.unwrap_or_else(|| "none: plain text".to_owned()));
    let proxied = policy.proxy_protocol.map(|version| match version {
        ProxyProtocol::V1 => "V1".to_owned(),
        ProxyProtocol::V2 => "V2".to_owned(),
    });
    facts.add_some("proxyProtocol", proxied);
}

fn balancer(balancer: &Balancer) -> String {
    let warming = |warmup: &Option<Warmup>| {
        warmup.map_or_else(String::new, |warmup| {
            format!(
                ", the new warm up for {} from {} %",
                time(warmup.duration),
                warmup.minimum_percent
            )
        })
    };
    match balancer {
        Balancer::LeastRequest { warmup } => {
            format!(
                "LEAST_REQUEST: the less busy of two drawn by chance{}",
                warming(warmup)
            )
        }
        Balancer::RoundRobin { warmup } => format!("ROUND_ROBIN{}", warming(warmup)),
        Balancer::Random => "RANDOM".to_owned(),
        Balancer::Hash { key, ring } => {
            let ring = match ring {
                Ring::RingHash { minimum_size } => format!("ringHash of {minimum_size} points"),
                Ring::Maglev { table_size } => format!("maglev of {table_size} slots"),
            };
            format!("consistentHash of {}, {ring}", hashed(key))
        }
    }
}

fn hashed(key: &HashKey) -> String {
    match key {
        HashKey::Header(name) => format!("header {}", name.name()),
        HashKey::Cookie { name, .. } => format!("cookie {name}"),
        HashKey::SourceAddress => "the client's address".to_owned(),
        HashKey::QueryParameter(name) => format!("query parameter {name}"),
    }
}

fn locality(policy: &LocalityPolicy) -> Option<String> {
    match policy {
        LocalityPolicy::Off => None,
        LocalityPolicy::Failover(Failover::Regions(_)) => {
            Some("the nearest first, others where those fail".to_owned())
        }
        LocalityPolicy::Failover(Failover::Labels(labels)) => Some(priority(labels)),
        LocalityPolicy::Failover(Failover::LabelsThenRegions { labels, .. }) => {
            Some(format!("{}, and then the nearest first", priority(labels)))
        }
        LocalityPolicy::Distribute(_) => Some("distribute: each place has its share".to_owned()),
    }
}

fn priority(labels: &[(Arc<str>, Option<Arc<str>>)]) -> String {
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.to_string(),
        })
        .collect();
    format!("failoverPriority {}", labels.join(", "))
}

/// What differs from the defaults, and the time to connect.
fn pool(pool: &ConnectionPool) -> String {
    let usual = ConnectionPool::default();
    let mut parts = vec![format!("connects within {}", time(pool.connect_timeout))];
    let limits = [
        ("maxConnections", pool.max_connections),
        ("http1MaxPendingRequests", pool.max_pending_requests),
        ("http2MaxRequests", pool.max_requests),
        ("maxRetries", pool.max_retries),
        ("maxRequestsPerConnection", pool.max_requests_per_connection),
        ("maxConcurrentStreams", pool.max_concurrent_streams),
    ];
    for (name, limit) in limits {
        parts.extend(limit.map(|limit| format!("{name} {limit}")));
    }
    let times = [
        (
            "http idleTimeout",
            pool.http_idle_timeout,
            usual.http_idle_timeout,
        ),
        (
            "tcp idleTimeout",
            pool.tcp_idle_timeout,
            usual.tcp_idle_timeout,
        ),
    ];
    for (name, found, usual) in times {
        parts.extend((found != usual).then(|| format!("{name} {}", time(found))));
    }
    let longest = pool.max_connection_duration;
    parts.extend(longest.map(|longest| format!("maxConnectionDuration {}", time(longest))));
    parts.extend(pool.keepalive.map(|_| "tcpKeepalive".to_owned()));
    parts.extend(pool.http2_keepalive.map(|(interval, timeout)| {
        let (interval, timeout) = (time(interval), time(timeout));
        format!("http2KeepAlive every {interval}, {timeout} to answer")
    }));
    let budget = pool.retry_budget;
    parts.extend(
        budget.map(|(percent, least)| format!("retryBudget {percent} %, {least} at least")),
    );
    parts.join(", ")
}

fn outliers(outliers: &OutlierDetection) -> String {
    let errors = [
        ("5xx", outliers.consecutive_5xx),
        ("gateway errors", outliers.consecutive_gateway),
        ("failures to connect", outliers.consecutive_local),
    ];
    let errors: Vec<String> = errors
        .iter()
        .filter_map(|(what, count)| count.map(|count| format!("{count} {what} in a row")))
        .collect();
    let errors = match errors.as_slice() {
        [] => "nothing".to_owned(),
        errors => errors.join(" or "),
    };
    format!(
        "{errors} eject an endpoint for {} and longer each time, at most {} % of them",
        time(outliers.base_ejection_time),
        outliers.max_ejection_percent
    )
}

fn tls(tls: &ClientTls) -> String {
    let mode = match tls.certificate {
        Some(_) => "MUTUAL",
        None => "SIMPLE",
    };
    let name = tls.server_name.as_deref().unwrap_or("the Host");
    let verified = match &tls.verification {
        None => ", and believes whoever answers",
        Some(_) => "",
    };
    format!("{mode}, asks for {name}{verified}")
}
