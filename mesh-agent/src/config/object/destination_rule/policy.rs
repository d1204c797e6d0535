//! `trafficPolicy`: four blocks, again by port, and what stands beside them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::crd::Number;
use crate::config::crd::destination_rule::{
    ConnectionPool, LoadBalancer as WrittenBalancer, OutlierDetection as WrittenOutliers,
    PortPolicy, ProxyProtocol as WrittenProxyProtocol, RetryBudget, Tls as WrittenTls,
    TrafficPolicy, Tunnel as WrittenTunnel,
};
use crate::config::object::destination_rule::{
    LoadBalancer, Pool, Tls, balancer, outliers, pool, tls,
};
use crate::config::object::{self, duration, name};
use crate::config::path::Path;
use crate::config::problem::{Code, Problems};
use crate::model::{OutlierDetection, ProxyProtocol, Tunnel};

/// `trafficPolicy` of a rule or a subset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What it says of every port.
    pub blocks: Blocks,
    /// `portLevelSettings`; of two for one port the first holds.
    pub ports: BTreeMap<u16, Blocks>,
    /// `proxyProtocol`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `tunnel`.
    pub tunnel: Option<Tunnel>,
    /// `retryBudget`: percent of the active requests, and the least number.
    pub retry_budget: Option<(f64, u32)>,
}

/// The blocks that settings for a port replace as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blocks {
    /// `loadBalancer`.
    pub balancer: Option<Arc<LoadBalancer>>,
    /// `connectionPool`.
    pub pool: Option<Arc<Pool>>,
    /// `outlierDetection`.
    pub outliers: Option<Arc<OutlierDetection>>,
    /// `tls`.
    pub tls: Option<Arc<Tls>>,
}

/// The four blocks as written.
struct WrittenBlocks {
    load_balancer: Option<WrittenBalancer>,
    connection_pool: Option<ConnectionPool>,
    outlier_detection: Option<WrittenOutliers>,
    tls: Option<WrittenTls>,
}

impl Policy {
    /// The settings for a port, where there are any.
    pub fn port(&self, number: u16) -> Option<&Blocks> {
        self.ports.get(&number)
    }
}

/// Reads a policy. `for_some`: the rule has a `workloadSelector`.
pub(super) fn read(
    policy: TrafficPolicy,
    for_some: bool,
    path: &Path,
    problems: &mut Problems,
) -> Policy {
    let TrafficPolicy {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
        port_level_settings,
        tunnel,
        proxy_protocol,
        retry_budget,
    } = policy;
    let blocks = WrittenBlocks {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
    };
    let beside = tunnel.is_some() || proxy_protocol.is_some() || retry_budget.is_some();
    if blocks.is_empty() && port_level_settings.is_empty() && !beside {
        problems.error(
            path,
            "this traffic policy says nothing",
            "fill it, or remove it",
        );
    }
    if tunnel.is_some() && proxy_protocol.is_some() {
        problems.error(
            &path.key("proxyProtocol"),
            "tunnel and proxyProtocol cannot stand in one policy",
            "keep one of them",
        );
    }
    let tunnel = tunnel.and_then(|written| read_tunnel(&written, &path.key("tunnel"), problems));
    let blocks = read_blocks(blocks, for_some, Code::Ist0128, path, problems);
    let mut ports = BTreeMap::new();
    for (index, settings) in port_level_settings.into_iter().enumerate() {
        let path = path.key("portLevelSettings").index(index);
        if let Some((port, blocks)) = read_port(settings, for_some, &path, problems) {
            ports.entry(port).or_insert(blocks);
        }
    }
    Policy {
        blocks,
        ports,
        tunnel,
        proxy_protocol: proxy_protocol.and_then(|written| {
            read_proxy_protocol(&written, &path.key("proxyProtocol"), problems)
        }),
        retry_budget: retry_budget
            .map(|budget| read_retry_budget(budget, &path.key("retryBudget"), problems)),
    }
}

fn read_port(
    settings: PortPolicy,
    for_some: bool,
    path: &Path,
    problems: &mut Problems,
) -> Option<(u16, Blocks)> {
    let PortPolicy {
        port,
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
    } = settings;
    let blocks = WrittenBlocks {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
    };
    let number = port.as_ref().and_then(|port| port.number);
    let number = object::port_number(number, &path.key("port").key("number"), problems);
    if blocks.is_empty() {
        problems.error(
            path,
            "these settings say nothing",
            "fill them, or remove them",
        );
    }
    let blocks = read_blocks(blocks, for_some, Code::Ist0129, path, problems);
    Some((number?, blocks))
}

fn read_blocks(
    written: WrittenBlocks,
    for_some: bool,
    unverified: Code,
    path: &Path,
    problems: &mut Problems,
) -> Blocks {
    let WrittenBlocks {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
    } = written;
    let ejects = outlier_detection.is_some();
    Blocks {
        balancer: load_balancer.map(|written| {
            let path = path.key("loadBalancer");
            Arc::new(balancer::read(written, ejects, &path, problems))
        }),
        pool: connection_pool.map(|written| {
            let path = path.key("connectionPool");
            Arc::new(pool::read(written, &path, problems))
        }),
        outliers: outlier_detection.map(|written| {
            let path = path.key("outlierDetection");
            Arc::new(outliers::read(written, &path, problems))
        }),
        tls: tls.map(|written| {
            let path = path.key("tls");
            Arc::new(tls::read(written, for_some, unverified, &path, problems))
        }),
    }
}

impl WrittenBlocks {
    fn is_empty(&self) -> bool {
        self.load_balancer.is_none()
            && self.connection_pool.is_none()
            && self.outlier_detection.is_none()
            && self.tls.is_none()
    }
}

fn read_tunnel(written: &WrittenTunnel, path: &Path, problems: &mut Problems) -> Option<Tunnel> {
    let WrittenTunnel {
        protocol,
        target_host,
        target_port,
    } = written;
    match protocol.as_str() {
        "" | "CONNECT" => {}
        "POST" => problems.unsupported(&path.key("protocol"), "a tunnel by POST"),
        other => problems.error(
            &path.key("protocol"),
            format!("\"{other}\" is no protocol of a tunnel"),
            "write CONNECT or POST",
        ),
    }
    if target_host.contains('*') || !name::is_host(target_host) {
        problems.error(
            &path.key("targetHost"),
            format!("\"{target_host}\" is no host"),
            "write a fully qualified name or an IP address",
        );
    }
    let port = object::port_number(*target_port, &path.key("targetPort"), problems)?;
    let target = match target_host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Ok(IpAddr::V4(_)) | Err(_) => format!("{target_host}:{port}"),
    };
    Some(Tunnel {
        target: target.into(),
    })
}

fn read_proxy_protocol(
    written: &WrittenProxyProtocol,
    path: &Path,
    problems: &mut Problems,
) -> Option<ProxyProtocol> {
    let WrittenProxyProtocol { version } = written;
    match version.as_deref() {
        None | Some("V1") => Some(ProxyProtocol::V1),
        Some("V2") => Some(ProxyProtocol::V2),
        Some(other) => {
            problems.error(
                &path.key("version"),
                format!("\"{other}\" is no version of the PROXY protocol"),
                "write V1 or V2",
            );
            None
        }
    }
}

/// 20 percent and 3 by default.
fn read_retry_budget(budget: RetryBudget, path: &Path, problems: &mut Problems) -> (f64, u32) {
    let RetryBudget {
        percent,
        min_retry_concurrency,
        budget_interval,
    } = budget;
    let percent = percent.unwrap_or(20.0);
    if !(0.0..=100.0).contains(&percent) {
        problems.error(
            &path.key("percent"),
            format!("{percent} is no percentage"),
            "write a number between 0 and 100",
        );
    }
    if let Some(interval) = budget_interval {
        let path = path.key("budgetInterval");
        match duration::parse(&interval) {
            None => {
                problems.error(
                    &path,
                    format!("\"{interval}\" is no duration"),
                    "write for example \"1.5s\", \"200ms\" or \"1m\"",
                );
            }
            Some(interval) if !interval.is_zero() => {
                problems.without_effect(&path, "budgetInterval");
            }
            Some(_) => {}
        }
    }
    let least = min_retry_concurrency.map_or(0, |Number(least)| least);
    (percent, if least == 0 { 3 } else { least })
}
