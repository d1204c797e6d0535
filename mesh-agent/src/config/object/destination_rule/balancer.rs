//! `loadBalancer`: how an endpoint is chosen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::config::crd::Number;
use crate::config::crd::destination_rule::{
    ConsistentHash, CookieAttribute, HttpCookie, LoadBalancer as Written, Maglev, RingHash,
    Warmup as WrittenWarmup,
};
use crate::config::object::destination_rule::{LocalitySetting, locality};
use crate::config::object::duration;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Balancer, HashKey, HeaderSubject, Ring, Warmup};

/// The ring that Envoy makes where nobody says otherwise.
const RING_SIZE: u64 = 1024;

/// The largest ring that Envoy makes.
const MAX_RING_SIZE: u64 = 8 * 1024 * 1024;

/// Envoy's tables of Maglev are smaller than this prime.
const MAX_TABLE_SIZE: u64 = 5_000_011;

/// `loadBalancer`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancer {
    /// How endpoints of the same rank are chosen among.
    pub method: Method,
    /// What ranks them by where they are; `None` leaves that to the Service and to what holds for the mesh.
    pub locality: Option<LocalitySetting>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// `PASSTHROUGH`: it is not, the client has dialled it.
    Original,
    /// By a balancer.
    Balanced(Balancer),
}

/// Reads a load balancer. `ejects`: `outlierDetection` stands beside it.
pub(super) fn read(
    written: Written,
    ejects: bool,
    path: &Path,
    problems: &mut Problems,
) -> LoadBalancer {
    let Written {
        simple,
        consistent_hash,
        locality_lb_setting,
        zone_aware_lb_setting,
        warmup_duration_secs,
        warmup,
    } = written;
    if simple.is_some() && consistent_hash.is_some() {
        problems.error(
            &path.key("consistentHash"),
            "simple and consistentHash cannot stand in one load balancer",
            "keep one of them",
        );
    }
    let warmup = read_warmup(warmup, warmup_duration_secs, path, problems);
    let warms = warmup.is_some();
    let method = match consistent_hash {
        None => read_simple(simple.as_deref(), warmup, &path.key("simple"), problems),
        Some(hash) => {
            let (key, ring) = read_hash(hash, &path.key("consistentHash"), problems);
            Method::Balanced(match key {
                Some(key) => Balancer::Hash { key, ring },
                // What was wrong with the key has been said.
                None => Balancer::default(),
            })
        }
    };
    let warmed = matches!(
        method,
        Method::Balanced(Balancer::LeastRequest { .. } | Balancer::RoundRobin { .. })
    );
    if warms && !warmed {
        problems.warning(
            &path.key("warmup"),
            "a warmup has no effect with this load balancer",
            "it is for LEAST_REQUEST and ROUND_ROBIN",
        );
    }
    LoadBalancer {
        method,
        locality: locality::read(
            locality_lb_setting,
            zone_aware_lb_setting,
            ejects,
            path,
            problems,
        ),
    }
}

fn read_simple(
    written: Option<&str>,
    warmup: Option<Warmup>,
    path: &Path,
    problems: &mut Problems,
) -> Method {
    let balancer = match written {
        None | Some("UNSPECIFIED" | "LEAST_REQUEST" | "LEAST_CONN") => {
            Balancer::LeastRequest { warmup }
        }
        Some("ROUND_ROBIN") => Balancer::RoundRobin { warmup },
        Some("RANDOM") => Balancer::Random,
        Some("PASSTHROUGH") => return Method::Original,
        Some(other) => {
            problems.error(
                path,
                format!("\"{other}\" is no load balancer"),
                "write LEAST_REQUEST, ROUND_ROBIN, RANDOM or PASSTHROUGH",
            );
            Balancer::default()
        }
    };
    Method::Balanced(balancer)
}

fn read_warmup(
    warmup: Option<WrittenWarmup>,
    seconds: Option<String>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Warmup> {
    if warmup.is_some() && seconds.is_some() {
        problems.error(
            &path.key("warmupDurationSecs"),
            "warmup and warmupDurationSecs cannot stand in one load balancer",
            "keep warmup",
        );
    }
    let Some(written) = warmup else {
        let duration = duration::read(&seconds?, &path.key("warmupDurationSecs"), problems)?;
        return Some(Warmup {
            duration,
            minimum_percent: 10.0,
            aggression: 1.0,
        });
    };
    let WrittenWarmup {
        duration,
        minimum_percent,
        aggression,
    } = written;
    let path = path.key("warmup");
    let minimum_percent = minimum_percent.unwrap_or(10.0);
    if !(0.0..=100.0).contains(&minimum_percent) {
        problems.error(
            &path.key("minimumPercent"),
            format!("{minimum_percent} is no percentage"),
            "write a number between 0 and 100",
        );
    }
    let aggression = aggression.unwrap_or(1.0);
    if !(aggression > 0.0 && aggression.is_finite()) {
        problems.error(
            &path.key("aggression"),
            "the aggression must be above 0",
            "write 1 for an even growth",
        );
    }
    let Some(duration) = duration else {
        problems.error(
            &path.key("duration"),
            "a warmup needs a duration",
            "add one",
        );
        return None;
    };
    let duration = duration::read(&duration, &path.key("duration"), problems)?;
    Some(Warmup {
        duration,
        minimum_percent,
        aggression,
    })
}

fn read_hash(
    hash: ConsistentHash,
    path: &Path,
    problems: &mut Problems,
) -> (Option<HashKey>, Ring) {
    let ConsistentHash {
        http_header_name,
        http_cookie,
        use_source_ip,
        http_query_parameter_name,
        ring_hash,
        maglev,
        minimum_ring_size,
    } = hash;
    let several = [
        http_header_name.is_some(),
        http_cookie.is_some(),
        use_source_ip == Some(true),
        http_query_parameter_name.is_some(),
    ];
    let count = several.iter().filter(|there| **there).count();
    if count != 1 {
        let message = match count {
            0 => "there is nothing to hash",
            _ => "there is more than one thing to hash",
        };
        problems.error(
            path,
            message,
            "write one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName",
        );
    }
    let key = if let Some(name) = http_header_name {
        read_header(&name, &path.key("httpHeaderName"), problems).map(HashKey::Header)
    } else if let Some(cookie) = http_cookie {
        Some(read_cookie(cookie, &path.key("httpCookie"), problems))
    } else if let Some(name) = http_query_parameter_name {
        if name.is_empty() {
            let path = path.key("httpQueryParameterName");
            problems.error(&path, "the parameter has no name", "write its name");
        }
        Some(HashKey::QueryParameter(name.into()))
    } else {
        Some(HashKey::SourceAddress)
    };
    let ring = read_ring(
        ring_hash.as_ref(),
        maglev.as_ref(),
        minimum_ring_size,
        path,
        problems,
    );
    (key, ring)
}

fn read_header(name: &str, path: &Path, problems: &mut Problems) -> Option<HeaderSubject> {
    let subject = HeaderSubject::named(name);
    if subject.is_none() {
        let message = format!("\"{name}\" is no name of a header");
        problems.error(path, message, "write its name");
    }
    subject
}

fn read_cookie(cookie: HttpCookie, path: &Path, problems: &mut Problems) -> HashKey {
    let HttpCookie {
        name,
        path: cookie_path,
        ttl,
        attributes,
    } = cookie;
    if name.is_empty() {
        problems.error(&path.key("name"), "the cookie has no name", "add one");
    }
    let mut seen = BTreeSet::new();
    for (index, CookieAttribute { name, .. }) in attributes.iter().enumerate() {
        let path = path.key("attributes").index(index).key("name");
        if name.is_empty() {
            problems.error(&path, "the attribute has no name", "add one");
        } else if !seen.insert(name) {
            let message = format!("two attributes are named \"{name}\"");
            problems.error(&path, message, "keep one of them");
        }
    }
    HashKey::Cookie {
        name: name.into(),
        path: cookie_path.filter(|path| !path.is_empty()).map(Into::into),
        ttl: ttl.and_then(|ttl| read_ttl(&ttl, &path.key("ttl"), problems)),
        attributes: attributes
            .into_iter()
            .map(|CookieAttribute { name, value }| (Arc::from(name), Arc::from(value)))
            .collect(),
    }
}

/// Any duration will do, and none at all means a session's cookie.
fn read_ttl(text: &str, path: &Path, problems: &mut Problems) -> Option<Duration> {
    let ttl = duration::parse(text);
    if ttl.is_none() {
        problems.error(
            path,
            format!("\"{text}\" is no duration"),
            "write for example \"1h\", or \"0s\" for a session",
        );
    }
    ttl
}

fn read_ring(
    ring_hash: Option<&RingHash>,
    maglev: Option<&Maglev>,
    deprecated: Option<Number<u64>>,
    path: &Path,
    problems: &mut Problems,
) -> Ring {
    let deprecated = deprecated.map_or(0, |Number(size)| size);
    let deprecated_path = path.key("minimumRingSize");
    if ring_hash.is_some() && maglev.is_some() {
        problems.error(
            &path.key("maglev"),
            "ringHash and maglev cannot stand in one hash",
            "keep one of them",
        );
    }
    if deprecated > 0 {
        if ring_hash.is_some() || maglev.is_some() {
            problems.error(
                &deprecated_path,
                "minimumRingSize cannot stand beside ringHash or maglev",
                "keep the other one",
            );
        } else {
            problems.warning(
                &deprecated_path,
                "minimumRingSize is the old way to say this",
                "write ringHash.minimumRingSize",
            );
        }
    }
    if let Some(Maglev { table_size }) = maglev {
        let table_size = table_size.map_or(0, |Number(size)| size);
        if let Some(message) = fault_of_table(table_size) {
            let path = path.key("maglev").key("tableSize");
            problems.error(&path, message, "write for example 65537");
        }
        return Ring::Maglev { table_size };
    }
    let (size, path) = match ring_hash {
        Some(RingHash { minimum_ring_size }) => (
            minimum_ring_size.map_or(0, |Number(size)| size),
            path.key("ringHash").key("minimumRingSize"),
        ),
        None => (deprecated, deprecated_path),
    };
    if size > MAX_RING_SIZE {
        let message = format!("a ring of {size} entries is too large");
        problems.error(&path, message, format!("write {MAX_RING_SIZE} at most"));
    }
    Ring::RingHash {
        minimum_size: if size == 0 { RING_SIZE } else { size },
    }
}

fn fault_of_table(size: u64) -> Option<String> {
    match size {
        0 => Some("maglev needs a tableSize".to_owned()),
        MAX_TABLE_SIZE.. => Some(format!("a table of {size} entries is too large")),
        _ if !is_prime(size) => Some(format!("the tableSize {size} is no prime number")),
        _ => None,
    }
}

/// For numbers below [`MAX_TABLE_SIZE`]. As Envoy has it, 1 is one.
fn is_prime(number: u64) -> bool {
    let mut factors = (2..).take_while(|factor| factor * factor <= number);
    factors.all(|factor| !number.is_multiple_of(factor))
}
