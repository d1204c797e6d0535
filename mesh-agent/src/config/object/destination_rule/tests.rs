//! DestinationRules as they are read: what each field becomes, and every rule of Istio's webhook, kept and broken.

use std::path::Path as FilePath;
use std::time::Duration;

use super::*;
use crate::config::CompileOptions;
use crate::config::document::{Outcome, read_text};
use crate::config::object::Body;
use crate::config::problem::{Code, Severity};
use crate::model::{
    Balancer, ConnectionPool, Failover, HashKey, HeaderSubject, Keepalive, LocalityShare,
    OutlierDetection, ProxyProtocol, Ring, UpstreamHttp, Warmup,
};

/// The rule with this `spec`, in namespace `default`, and what is said of it: `W`, `E`, or `-` for a part that is not in force; the
/// field, and the message.
fn read(spec: &str) -> (Option<DestinationRule>, Vec<String>) {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\nspec: {spec}"
    );
    let file: Arc<FilePath> = FilePath::new("x.yaml").into();
    let mut documents = read_text(&text, &file, &CompileOptions::default());
    let document = documents.remove(0);
    let good = matches!(document.outcome, Outcome::Good(_));
    let complaints = document.rejected.iter().map(|complaint| {
        let severity = match complaint.severity {
            Severity::Error if good => "-",
            Severity::Error => "E",
            Severity::Warning => "W",
            Severity::Info => "I",
        };
        let field = complaint
            .field
            .trim_start_matches("spec.")
            .replace("trafficPolicy", "tp");
        format!("{severity} {field}: {}", complaint.message)
    });
    let complaints = complaints.collect();
    let rule = match document.outcome {
        Outcome::Good(object) => match Arc::try_unwrap(object).expect("nobody else has it").body {
            Body::DestinationRule(rule) => Some(rule),
            _ => None,
        },
        Outcome::Broken(_) | Outcome::Ignored(_) => None,
    };
    (rule, complaints)
}

/// What is said of a rule; whether it is in force must follow from that.
fn complaints(spec: &str) -> Vec<String> {
    let (rule, complaints) = read(spec);
    let broken = complaints
        .iter()
        .any(|complaint| complaint.starts_with('E'));
    assert_eq!(rule.is_none(), broken, "{spec}: {complaints:?}");
    complaints
}

/// Rules, each with all that is said of it.
fn check(cases: &[(&str, &[&str])]) {
    for (spec, expected) in cases {
        assert_eq!(complaints(spec), *expected, "{spec}");
    }
}

/// The policy of a rule whose `trafficPolicy` is this, and which must be without fault.
fn policy(written: &str) -> Policy {
    let (rule, complaints) = read(&format!("{{host: a, trafficPolicy: {written}}}"));
    assert_eq!(complaints, Vec::<String>::new(), "{written}");
    rule.and_then(|rule| rule.policy).expect("a policy")
}

/// What is said of `trafficPolicy`s, the path of which is left away.
fn check_policies(cases: &[(&str, &[&str])]) {
    for (written, expected) in cases {
        let found: Vec<String> = complaints(&format!("{{host: a, trafficPolicy: {written}}}"))
            .iter()
            .map(|complaint| complaint.replacen(" tp.", " ", 1))
            .collect();
        assert_eq!(found, *expected, "{written}");
    }
}

#[test]
fn a_rule_has_a_host_and_subsets_with_names_of_their_own() {
    check(&[
        ("{host: a}", &[]),
        ("{host: '*.local'}", &[]),
        ("{host: '*'}", &[]),
        ("{}", &["E host: a DestinationRule needs a host"]),
        ("{host: a_b}", &["E host: \"a_b\" is no host"]),
        (
            "{host: a, subsets: [{name: v1}, {name: v2, labels: {a: b}}]}",
            &[],
        ),
        (
            "{host: a, subsets: [{labels: {a: b}}]}",
            &["E subsets[0].name: a subset needs a name"],
        ),
        (
            "{host: a, subsets: [{name: v1}, {name: v1}]}",
            &["E subsets[1].name: two subsets are named \"v1\""],
        ),
        (
            "{host: a, subsets: [{name: v.1}]}",
            &["E subsets[0].name: \"v.1\" is no name of a subset"],
        ),
        (
            "{host: a, subsets: [{name: v1, labels: {version: 1.0}}]}",
            &["E subsets[0].labels.version: is the number 1, expected a string"],
        ),
        (
            "{host: a, subsets: [{name: v1, labels: {topology.istio.io/subzone: ''}}]}",
            &[],
        ),
        (
            "{host: a, subsets: [{name: v1, labels: {-a: b}}]}",
            &["E subsets[0].labels.-a: \"-a\" is no name of a label"],
        ),
        (
            "{host: a, subsets: [{name: v1, labels: {a: 'b c'}}]}",
            &["E subsets[0].labels.a: \"b c\" is no value of a label"],
        ),
        (
            "{host: a, subsets: [{name: v1, trafficPolicy: {}}]}",
            &["E subsets[0].tp: this traffic policy says nothing"],
        ),
        (
            "{host: a, subset: []}",
            &["E subset: Istio knows no such field"],
        ),
    ]);
}

#[test]
fn a_policy_a_pool_and_the_settings_of_a_port_say_something() {
    check_policies(&[
        ("{}", &["E tp: this traffic policy says nothing"]),
        ("{loadBalancer: {}}", &[]),
        (
            "{connectionPool: {}}",
            &["E connectionPool: this connection pool says nothing"],
        ),
        ("{connectionPool: {tcp: {}}}", &[]),
        ("{outlierDetection: {}}", &[]),
        ("{tls: {}}", &[]),
        ("{proxyProtocol: {}}", &[]),
        ("{retryBudget: {}}", &[]),
        ("{portLevelSettings: [{port: {number: 80}, tls: {}}]}", &[]),
        (
            "{portLevelSettings: [{port: {number: 80}}]}",
            &["E portLevelSettings[0]: these settings say nothing"],
        ),
        (
            "{portLevelSettings: [{tls: {}}]}",
            &["E portLevelSettings[0].port.number: a port number is missing"],
        ),
        (
            "{portLevelSettings: [{port: {number: 65536}, tls: {}}]}",
            &["E portLevelSettings[0].port.number: 65536 is no port number"],
        ),
        (
            "{portLevelSettings: [{port: {number: 80}, connectionPool: {}}]}",
            &["E portLevelSettings[0].connectionPool: this connection pool says nothing"],
        ),
    ]);
}

#[test]
fn limits_are_not_negative_and_percentages_are_percentages() {
    check_policies(&[
        (
            "{connectionPool: {tcp: {maxConnections: 0}, http: {maxRetries: 0}}}",
            &[],
        ),
        (
            "{connectionPool: {tcp: {maxConnections: -1, connectTimeout: 0s, maxConnectionDuration: 1}, http: \
             {http1MaxPendingRequests: -1, http2MaxRequests: -2, maxRequestsPerConnection: -3, maxRetries: -4, \
             maxConcurrentStreams: -5}}}",
            &["E connectionPool.tcp.maxConnectionDuration: is the number 1, expected a string"],
        ),
        (
            "{connectionPool: {tcp: {maxConnections: -1, connectTimeout: 0s, maxConnectionDuration: 1us}, http: \
             {http1MaxPendingRequests: -1, http2MaxRequests: -2, maxRequestsPerConnection: -3, maxRetries: -4, \
             maxConcurrentStreams: -5, idleTimeout: 0s}}}",
            &[
                "E connectionPool.tcp.maxConnections: the limit -1 is negative",
                "E connectionPool.tcp.connectTimeout: a duration must be at least 1ms",
                "E connectionPool.tcp.maxConnectionDuration: a duration must be at least 1ms",
                "E connectionPool.http.http1MaxPendingRequests: the limit -1 is negative",
                "E connectionPool.http.http2MaxRequests: the limit -2 is negative",
                "E connectionPool.http.maxRequestsPerConnection: the limit -3 is negative",
                "E connectionPool.http.maxRetries: the limit -4 is negative",
                "E connectionPool.http.maxConcurrentStreams: the limit -5 is negative",
                "E connectionPool.http.idleTimeout: a duration must be at least 1ms",
            ],
        ),
        ("{connectionPool: {tcp: {idleTimeout: 0s}}}", &[]),
        (
            "{connectionPool: {tcp: {idleTimeout: 1us, tcpKeepalive: {time: 0s, interval: x}}}}",
            &[
                "E connectionPool.tcp.tcpKeepalive.time: a duration must be at least 1ms",
                "E connectionPool.tcp.tcpKeepalive.interval: \"x\" is no duration",
                "E connectionPool.tcp.idleTimeout: a duration must be at least 1ms",
            ],
        ),
        (
            "{connectionPool: {http: {http2KeepAlive: {interval: 1s}}}}",
            &["E connectionPool.http.http2KeepAlive.timeout: http2KeepAlive needs timeout"],
        ),
        (
            "{connectionPool: {http: {h2UpgradePolicy: UP}}}",
            &["E connectionPool.http.h2UpgradePolicy: \"UP\" is no upgrade policy"],
        ),
        (
            "{connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}",
            &[
                "E connectionPool.http.useClientProtocol: useClientProtocol and h2UpgradePolicy: UPGRADE contradict each \
                 other",
            ],
        ),
        (
            "{outlierDetection: {maxEjectionPercent: 101, minHealthPercent: -1}}",
            &[
                "E outlierDetection.maxEjectionPercent: 101 is no percentage",
                "E outlierDetection.minHealthPercent: -1 is no percentage",
            ],
        ),
        (
            "{retryBudget: {percent: 100.5, budgetInterval: 1s}}",
            &[
                "E retryBudget.percent: 100.5 is no percentage",
                "W retryBudget.budgetInterval: budgetInterval is not supported yet and has no effect",
            ],
        ),
        ("{retryBudget: {budgetInterval: 0ms}}", &[]),
    ]);
}

#[test]
fn outlier_detection_counts_what_it_is_told_to() {
    check_policies(&[
        (
            "{outlierDetection: {consecutiveErrors: 3}}",
            &[
                "W outlierDetection.consecutiveErrors: consecutiveErrors has no effect, in Istio neither",
            ],
        ),
        ("{outlierDetection: {consecutiveErrors: 0}}", &[]),
        (
            "{outlierDetection: {consecutiveLocalOriginFailures: 3}}",
            &[
                "E outlierDetection.consecutiveLocalOriginFailures: local failures are not counted for themselves",
            ],
        ),
        (
            "{outlierDetection: {consecutiveLocalOriginFailures: 3, splitExternalLocalOriginErrors: true}}",
            &[],
        ),
        (
            "{outlierDetection: {interval: 0s, baseEjectionTime: 1ns}}",
            &[
                "E outlierDetection.interval: a duration must be at least 1ms",
                "E outlierDetection.baseEjectionTime: a duration must be at least 1ms",
            ],
        ),
        (
            "{outlierDetection: {outlierDetectionHttpErrorCodes: [99, 500, 600]}}",
            &[
                "E outlierDetection.outlierDetectionHttpErrorCodes[0]: 99 is no status",
                "E outlierDetection.outlierDetectionHttpErrorCodes[2]: 600 is no status",
            ],
        ),
    ]);
    let cases: [(&str, OutlierDetection); 5] = [
        ("{}", OutlierDetection::default()),
        (
            "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 0, maxEjectionPercent: 0}",
            OutlierDetection {
                consecutive_5xx: None,
                ..OutlierDetection::default()
            },
        ),
        (
            "{splitExternalLocalOriginErrors: true}",
            OutlierDetection {
                consecutive_local: Some(5),
                ..OutlierDetection::default()
            },
        ),
        (
            "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: '7', \
             consecutiveGatewayErrors: 3, interval: 1m, baseEjectionTime: 1.5s, maxEjectionPercent: 50, \
             minHealthPercent: 20}",
            OutlierDetection {
                consecutive_5xx: Some(7),
                consecutive_gateway: Some(3),
                consecutive_local: Some(2),
                codes: Vec::new(),
                interval: Duration::from_secs(60),
                base_ejection_time: Duration::from_millis(1500),
                max_ejection_percent: 50,
                min_health_percent: 20,
            },
        ),
        (
            "{consecutive_5xx_errors: 1, outlierDetectionHttpErrorCodes: [429, 500]}",
            OutlierDetection {
                consecutive_5xx: Some(1),
                codes: vec![429, 500],
                ..OutlierDetection::default()
            },
        ),
    ];
    for (written, expected) in cases {
        let policy = policy(&format!("{{outlierDetection: {written}}}"));
        assert_eq!(
            policy.blocks.outliers.as_deref(),
            Some(&expected),
            "{written}"
        );
    }
}

#[test]
fn a_pool_without_a_number_has_no_limit() {
    let pool = |written: &str| {
        let policy = policy(&format!("{{connectionPool: {written}}}"));
        Pool::clone(&policy.blocks.pool.expect("a pool"))
    };
    assert_eq!(
        pool("{tcp: {maxConnections: 0}, http: {maxRetries: 0}}"),
        Pool::default()
    );
    let all = pool(
        "{tcp: {maxConnections: 1, connectTimeout: 2s, maxConnectionDuration: 3s, idleTimeout: 4s, tcpKeepalive: \
         {probes: 5, time: 6.7s, interval: 10ms}}, http: {http1MaxPendingRequests: 8, http2MaxRequests: 9, maxRetries: 10, \
         maxRequestsPerConnection: 11, maxConcurrentStreams: 12, h2UpgradePolicy: UPGRADE, http2KeepAlive: \
         {interval: 13s, timeout: 14s}}}",
    );
    let seconds = Duration::from_secs;
    assert_eq!(
        all,
        Pool {
            limits: ConnectionPool {
                max_connections: Some(1),
                connect_timeout: seconds(2),
                keepalive: Some(Keepalive {
                    probes: Some(5),
                    time: Some(seconds(6)),
                    interval: Some(seconds(1)),
                }),
                max_connection_duration: Some(seconds(3)),
                tcp_idle_timeout: seconds(4),
                http_idle_timeout: seconds(4),
                max_pending_requests: Some(8),
                max_requests: Some(9),
                max_retries: Some(10),
                max_requests_per_connection: Some(11),
                max_concurrent_streams: Some(12),
                http2_keepalive: Some((seconds(13), seconds(14))),
                retry_budget: None,
            },
            http: UpstreamHttp::Http2,
            has_connect_timeout: true,
            never_upgraded: false,
        }
    );
    let idle = pool("{tcp: {idleTimeout: 0s}, http: {idleTimeout: 5s, useClientProtocol: true}}");
    assert_eq!(
        (idle.limits.tcp_idle_timeout, idle.limits.http_idle_timeout),
        (Duration::ZERO, seconds(5))
    );
    assert_eq!(idle.http, UpstreamHttp::AsClient);
    let kept = pool("{http: {h2UpgradePolicy: DO_NOT_UPGRADE}}");
    assert_eq!(kept.http, UpstreamHttp::AsDeclared);
    assert!(kept.never_upgraded && !kept.has_connect_timeout);
}

#[test]
fn a_hash_has_one_key_and_one_algorithm() {
    let prefix = "loadBalancer.consistentHash";
    let cases: &[(&str, &[&str])] = &[
        ("{useSourceIp: true}", &[]),
        ("{}", &["E : there is nothing to hash"]),
        ("{useSourceIp: false}", &["E : there is nothing to hash"]),
        (
            "{useSourceIp: true, httpHeaderName: a}",
            &["E : there is more than one thing to hash"],
        ),
        (
            "{httpHeaderName: 'a b'}",
            &["E .httpHeaderName: \"a b\" is no name of a header"],
        ),
        ("{httpHeaderName: ':authority'}", &[]),
        (
            "{httpHeaderName: ':status'}",
            &["E .httpHeaderName: \":status\" is no name of a header"],
        ),
        (
            "{httpQueryParameterName: ''}",
            &["E .httpQueryParameterName: the parameter has no name"],
        ),
        (
            "{httpCookie: {ttl: 0s}}",
            &["E .httpCookie.name: the cookie has no name"],
        ),
        (
            "{httpCookie: {name: c, ttl: x, attributes: [{}, {name: b}, {name: b}]}}",
            &[
                "E .httpCookie.attributes[0].name: the attribute has no name",
                "E .httpCookie.attributes[2].name: two attributes are named \"b\"",
                "E .httpCookie.ttl: \"x\" is no duration",
            ],
        ),
        (
            "{useSourceIp: true, maglev: {}}",
            &["E .maglev.tableSize: maglev needs a tableSize"],
        ),
        (
            "{useSourceIp: true, maglev: {tableSize: 65536}}",
            &["E .maglev.tableSize: the tableSize 65536 is no prime number"],
        ),
        (
            "{useSourceIp: true, maglev: {tableSize: 5000011}}",
            &["E .maglev.tableSize: a table of 5000011 entries is too large"],
        ),
        ("{useSourceIp: true, maglev: {tableSize: 4999999}}", &[]),
        (
            "{useSourceIp: true, ringHash: {}, maglev: {tableSize: 7}}",
            &["E .maglev: ringHash and maglev cannot stand in one hash"],
        ),
        (
            "{useSourceIp: true, ringHash: {minimumRingSize: 99999999}}",
            &["E .ringHash.minimumRingSize: a ring of 99999999 entries is too large"],
        ),
        (
            "{useSourceIp: true, minimumRingSize: 64}",
            &["W .minimumRingSize: minimumRingSize is the old way to say this"],
        ),
        (
            "{useSourceIp: true, minimumRingSize: 64, ringHash: {}}",
            &["E .minimumRingSize: minimumRingSize cannot stand beside ringHash or maglev"],
        ),
    ];
    for (hash, expected) in cases {
        let found = complaints(&format!(
            "{{host: a, trafficPolicy: {{loadBalancer: {{consistentHash: {hash}}}}}}}"
        ));
        let found: Vec<String> = found
            .iter()
            .map(|complaint| complaint.replace(&format!("tp.{prefix}"), ""))
            .collect();
        assert_eq!(found, *expected, "{hash}");
    }
}

#[test]
fn a_load_balancer_is_what_it_is_called() {
    check_policies(&[
        (
            "{loadBalancer: {simple: FASTEST}}",
            &["E loadBalancer.simple: \"FASTEST\" is no load balancer"],
        ),
        (
            "{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}",
            &[
                "E loadBalancer.consistentHash: simple and consistentHash cannot stand in one load balancer",
            ],
        ),
        (
            "{loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}}",
            &["W loadBalancer.warmup: a warmup has no effect with this load balancer"],
        ),
        (
            "{loadBalancer: {warmup: {}}}",
            &["E loadBalancer.warmup.duration: a warmup needs a duration"],
        ),
        (
            "{loadBalancer: {warmup: {duration: 0s, minimumPercent: 101, aggression: 0}}}",
            &[
                "E loadBalancer.warmup.minimumPercent: 101 is no percentage",
                "E loadBalancer.warmup.aggression: the aggression must be above 0",
                "E loadBalancer.warmup.duration: a duration must be at least 1ms",
            ],
        ),
        (
            "{loadBalancer: {warmup: {duration: 1s}, warmupDurationSecs: 1s}}",
            &[
                "E loadBalancer.warmupDurationSecs: warmup and warmupDurationSecs cannot stand in one load balancer",
            ],
        ),
    ]);
    let warmup = |seconds, minimum_percent, aggression| {
        Some(Warmup {
            duration: Duration::from_secs(seconds),
            minimum_percent,
            aggression,
        })
    };
    let ring = |minimum_size| Ring::RingHash { minimum_size };
    let hash = |key, ring| Method::Balanced(Balancer::Hash { key, ring });
    let least = |warmup| Method::Balanced(Balancer::LeastRequest { warmup });
    let cases = [
        ("{}", least(None)),
        ("{simple: UNSPECIFIED}", least(None)),
        ("{simple: LEAST_CONN}", least(None)),
        (
            "{simple: LEAST_REQUEST, warmupDurationSecs: 5s}",
            least(warmup(5, 10.0, 1.0)),
        ),
        (
            "{simple: ROUND_ROBIN, warmup: {duration: 1m, minimumPercent: 20, aggression: 1.5}}",
            Method::Balanced(Balancer::RoundRobin {
                warmup: warmup(60, 20.0, 1.5),
            }),
        ),
        ("{simple: RANDOM}", Method::Balanced(Balancer::Random)),
        ("{simple: PASSTHROUGH}", Method::Original),
        (
            "{consistentHash: {httpHeaderName: X-User}}",
            hash(
                HashKey::Header(HeaderSubject::Header(http::HeaderName::from_static(
                    "x-user",
                ))),
                ring(1024),
            ),
        ),
        (
            "{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 0}}}",
            hash(HashKey::SourceAddress, ring(1024)),
        ),
        (
            "{consistentHash: {httpQueryParameterName: q, maglev: {tableSize: 65537}}}",
            hash(
                HashKey::QueryParameter("q".into()),
                Ring::Maglev { table_size: 65537 },
            ),
        ),
        (
            "{consistentHash: {httpCookie: {name: c}, ringHash: {minimumRingSize: 64}}}",
            hash(
                HashKey::Cookie {
                    name: "c".into(),
                    path: None,
                    ttl: None,
                    attributes: Vec::new(),
                },
                ring(64),
            ),
        ),
        (
            "{consistentHash: {httpCookie: {name: c, path: /p, ttl: 0s, attributes: [{name: Secure}, {name: a, value: b}]}}}",
            hash(
                HashKey::Cookie {
                    name: "c".into(),
                    path: Some("/p".into()),
                    ttl: Some(Duration::ZERO),
                    attributes: vec![("Secure".into(), "".into()), ("a".into(), "b".into())],
                },
                ring(1024),
            ),
        ),
    ];
    for (written, expected) in cases {
        let policy = policy(&format!("{{loadBalancer: {written}}}"));
        let balancer = policy.blocks.balancer.expect("a load balancer");
        assert_eq!(balancer.method, expected, "{written}");
        assert_eq!(balancer.locality, None, "{written}");
    }
}

#[test]
fn a_deprecated_ring_size_still_counts() {
    let (rule, _) = read(
        "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 64}}}}",
    );
    let balancer = rule.and_then(|rule| rule.policy?.blocks.balancer);
    let ring = Ring::RingHash { minimum_size: 64 };
    let key = HashKey::SourceAddress;
    assert_eq!(
        balancer.map(|balancer| balancer.method.clone()),
        Some(Method::Balanced(Balancer::Hash { key, ring }))
    );
}

#[test]
fn localities_do_not_overlap_and_their_shares_make_100() {
    let cases: &[(&str, &[&str])] = &[
        ("{}", &[]),
        ("{enabled: false}", &[]),
        (
            "{distribute: [{from: r/z/*, to: {'r/z/*': 80, 'r/y/*': 20}}, {from: 'r/*', to: {'*': 100}}]}",
            &[],
        ),
        (
            "{distribute: [{from: r, to: {r: 100}}], failover: [{from: a, to: b}]}",
            &["E .failover: distribute and failover cannot stand in one setting"],
        ),
        (
            "{distribute: [{from: r, to: {a: 80, b: 21}}]}",
            &["E .distribute[0].to: the shares make 101, not 100"],
        ),
        (
            "{distribute: [{from: r, to: {a: 100, b: 0}}]}",
            &["E .distribute[0].to.b: the share 0 is none"],
        ),
        (
            "{distribute: [{from: r, to: {}}]}",
            &["E .distribute[0].to: the shares make 0, not 100"],
        ),
        (
            "{distribute: [{from: r/*, to: {r: 100}}, {from: r/z, to: {r: 100}}]}",
            &["E .distribute[1].from: \"r/z\" overlaps with another place here"],
        ),
        (
            "{distribute: [{from: r/z/*, to: {r: 100}}, {from: r/*, to: {r: 100}}]}",
            &[],
        ),
        (
            "{distribute: [{from: r/z, to: {r: 100}}, {from: r, to: {r: 100}}]}",
            &["E .distribute[1].from: \"r\" overlaps with another place here"],
        ),
        (
            "{distribute: [{from: r, to: {r: 100}}, {from: r, to: {r: 100}}]}",
            &["E .distribute[1].from: \"r\" overlaps with another place here"],
        ),
        (
            "{distribute: [{from: '*', to: {r/z: 50, 'r/*': 50}}]}",
            &["E .distribute[0].to.r/z: \"r/z\" overlaps with another place here"],
        ),
        (
            "{distribute: [{from: 'r*/z', to: {'a//b': 100}}]}",
            &[
                "E .distribute[0].from: \"r*/z\" is no place",
                "E .distribute[0].to.a//b: \"a//b\" is no place",
            ],
        ),
        (
            "{failover: [{from: a, to: a}, {from: a/z, to: '*'}]}",
            &[
                "E .failover[0].to: \"a\" stands in for itself",
                "E .failover[1].from: \"a/z\" is no region",
                "E .failover[1].to: \"*\" is no region",
            ],
        ),
        (
            "{failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/zone]}",
            &[
                "E .failoverPriority: failover and a failoverPriority by region or zone say the same thing twice",
            ],
        ),
        (
            "{failover: [{from: a, to: b}], failoverPriority: [tier, '=x']}",
            &["E .failoverPriority[1]: \"=x\" names no label"],
        ),
    ];
    for (written, expected) in cases {
        let found = complaints(&format!(
            "{{host: a, trafficPolicy: {{outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {written}}}}}}}"
        ));
        let found: Vec<String> = found
            .iter()
            .map(|complaint| complaint.replace("tp.loadBalancer.localityLbSetting", ""))
            .collect();
        assert_eq!(found, *expected, "{written}");
    }
    check_policies(&[
        (
            "{loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}",
            &[
                "W loadBalancer.localityLbSetting: a failover has no effect without outlierDetection",
            ],
        ),
        (
            "{loadBalancer: {localityLbSetting: {failoverPriority: [a]}}}",
            &[
                "W loadBalancer.localityLbSetting: a failover has no effect without outlierDetection",
            ],
        ),
        ("{loadBalancer: {localityLbSetting: {enabled: true}}}", &[]),
        (
            "{loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {enabled: false}}}",
            &[
                "E loadBalancer.zoneAwareLbSetting: localityLbSetting and zoneAwareLbSetting cannot stand in one load balancer",
            ],
        ),
        (
            "{loadBalancer: {zoneAwareLbSetting: {enabled: false}}}",
            &[],
        ),
        (
            "{loadBalancer: {zoneAwareLbSetting: {minClusterSize: 6}}}",
            &[
                "W loadBalancer.zoneAwareLbSetting: zoneAwareLbSetting is not supported yet and has no effect",
            ],
        ),
    ]);
}

#[test]
fn a_locality_setting_is_off_or_an_order_or_shares() {
    let label = |key: &str, value: Option<&str>| (Arc::from(key), value.map(Arc::from));
    let region = |from: &str, to: &str| (Arc::from(from), Arc::from(to));
    let failover = LocalitySetting::Failover;
    let cases = [
        (
            "{enabled: false, distribute: [{from: r, to: {r: 100}}]}",
            LocalitySetting::Off,
        ),
        ("{}", failover(Failover::Regions(Vec::new()))),
        (
            "{failover: [{from: a, to: b}]}",
            failover(Failover::Regions(vec![region("a", "b")])),
        ),
        (
            "{failoverPriority: [tier, zone=a, x=y=z]}",
            failover(Failover::Labels(vec![
                label("tier", None),
                label("zone", Some("a")),
                label("x", None),
            ])),
        ),
        (
            "{failoverPriority: [tier], failover: [{from: a, to: b}]}",
            failover(Failover::LabelsThenRegions {
                labels: vec![label("tier", None)],
                regions: vec![region("a", "b")],
            }),
        ),
        (
            "{distribute: [{from: r/z/*, to: {'r/z/*': 80, 'r/y': 20}}]}",
            LocalitySetting::Distribute(vec![LocalityShare {
                from: "r/z/*".into(),
                to: vec![("r/y".into(), 20), ("r/z/*".into(), 80)],
            }]),
        ),
    ];
    for (written, expected) in cases {
        let policy = policy(&format!(
            "{{outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {written}}}}}"
        ));
        let balancer = policy.blocks.balancer.expect("a load balancer");
        assert_eq!(balancer.locality.as_ref(), Some(&expected), "{written}");
    }
}

#[test]
fn tls_has_what_its_mode_needs() {
    let os =
        "W tls: without caCertificates the server is verified by the operating system's list alone";
    let plain = "W tls.mode: the traffic is not encrypted: this mesh has no certificates of its own, so ISTIO_MUTUAL sends plain text";
    let gateways = "W tls.credentialName: a credentialName is for gateways: pods connect in plain text, in Istio too";
    check_policies(&[
        ("{tls: {mode: DISABLE, sni: x}}", &[]),
        (
            "{tls: {sni: x}}",
            &["W tls: without a mode this turns TLS off, and connections are in plain text"],
        ),
        (
            "{tls: {mode: TLS}}",
            &["E tls.mode: \"TLS\" is no tls mode"],
        ),
        ("{tls: {mode: SIMPLE}}", &[os]),
        ("{tls: {mode: SIMPLE, caCertificates: /ca.pem}}", &[]),
        ("{tls: {mode: SIMPLE, caCertificates: system}}", &[]),
        ("{tls: {mode: SIMPLE, credentialName: c}}", &[gateways]),
        (
            "{tls: {mode: SIMPLE, credentialName: c, caCertificates: /ca.pem}}",
            &[
                gateways,
                "E tls.credentialName: credentialName cannot stand beside files",
            ],
        ),
        (
            "{tls: {mode: SIMPLE, credentialName: 'configmap://c'}}",
            &[
                gateways,
                "- tls.credentialName: a credentialName that is no Secret's name is not supported yet: gateways cannot connect",
            ],
        ),
        (
            "{tls: {mode: SIMPLE, caCertificates: system, caCrl: /crl.pem}}",
            &[
                "- tls.caCrl: a caCrl without caCertificates is not supported yet: certificates that were revoked are taken",
            ],
        ),
        (
            "{tls: {mode: MUTUAL, caCertificates: /ca.pem}}",
            &[
                "E tls.clientCertificate: tls mode MUTUAL needs clientCertificate",
                "E tls.privateKey: tls mode MUTUAL needs privateKey",
            ],
        ),
        (
            "{tls: {mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem}}",
            &[os],
        ),
        (
            "{tls: {mode: MUTUAL, credentialName: c, insecureSkipVerify: true}}",
            &[gateways],
        ),
        (
            "{tls: {mode: SIMPLE, insecureSkipVerify: true}}",
            &["W tls: the server is not verified at all"],
        ),
        (
            "{tls: {mode: SIMPLE, insecureSkipVerify: true, caCertificates: /ca.pem}}",
            &[
                "E tls.insecureSkipVerify: insecureSkipVerify verifies nothing, and yet there is something to verify by",
            ],
        ),
        ("{tls: {mode: ISTIO_MUTUAL}}", &[plain]),
        (
            "{tls: {mode: ISTIO_MUTUAL, clientCertificate: /c.pem}}",
            &[
                plain,
                "E tls: tls mode ISTIO_MUTUAL brings its own certificates",
            ],
        ),
        (
            "{portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]}",
            &[
                "W portLevelSettings[0].tls: without caCertificates the server is verified by the operating system's list \
               alone",
            ],
        ),
    ]);
    check_codes_of_unverified_servers();
    let for_some = "{host: a, workloadSelector: {matchLabels: {a: b}}, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}}";
    assert_eq!(complaints(for_some), Vec::<String>::new());
    let origin = |written: &str| {
        let policy = policy(&format!("{{tls: {written}}}"));
        match policy.blocks.tls.as_deref() {
            Some(Tls::Originate(origin)) => Some(origin.clone()),
            Some(Tls::Disable) | None => None,
        }
    };
    assert_eq!(origin("{}"), None);
    assert_eq!(
        origin(
            "{mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca, caCrl: /crl, sni: x, \
             subjectAltNames: [a, b]}"
        ),
        Some(TlsOrigin {
            mutual: true,
            material: KeyMaterial::Files {
                certificate: Some(("/c".into(), "/k".into())),
                authorities: Some("/ca".into()),
                revoked: Some("/crl".into()),
            },
            any_server: false,
            names: vec!["a".into(), "b".into()],
            server_name: Some("x".into()),
        })
    );
    assert_eq!(
        origin("{mode: SIMPLE, caCertificates: system}"),
        Some(TlsOrigin {
            mutual: false,
            material: KeyMaterial::Files {
                certificate: None,
                authorities: None,
                revoked: None,
            },
            any_server: false,
            names: Vec::new(),
            server_name: None,
        })
    );
}

fn check_codes_of_unverified_servers() {
    let text = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a
  trafficPolicy:
    tls: {mode: SIMPLE}
    portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]
  subsets: [{name: v1, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}}]
";
    let file: Arc<FilePath> = FilePath::new("x.yaml").into();
    let documents = read_text(text, &file, &CompileOptions::default());
    let found: Vec<_> = documents[0]
        .rejected
        .iter()
        .map(|complaint| (complaint.line, complaint.code))
        .collect();
    assert_eq!(
        found,
        [
            (7, Some(Code::Ist0128)),
            (8, Some(Code::Ist0129)),
            (9, Some(Code::Ist0128))
        ]
    );
}

#[test]
fn a_rule_for_some_clients_is_for_its_own_namespace() {
    let rule =
        |more: &str| format!("{{host: a, workloadSelector: {{matchLabels: {{a: b}}}}{more}}}");
    let alone = "E exportTo: a rule with a workloadSelector is for its own namespace alone";
    check(&[
        (&rule(""), &[]),
        (&rule(", exportTo: [.]"), &[]),
        (&rule(", exportTo: [default]"), &[]),
        (&rule(", exportTo: ['*']"), &[alone]),
        (&rule(", exportTo: [other]"), &[alone]),
        (&rule(", exportTo: [., other]"), &[alone]),
        (
            "{host: a, workloadSelector: {}}",
            &[
                "W workloadSelector: a workloadSelector without labels selects every Pod of the namespace",
            ],
        ),
        (
            "{host: a, workloadSelector: {matchLabels: {'a*': b, c: '*'}}}",
            &[
                "E workloadSelector.matchLabels.a*: a label must be named, and wildcards do not select",
                "E workloadSelector.matchLabels.c: a label must be named, and wildcards do not select",
            ],
        ),
        (
            "{host: a, exportTo: ['*', x]}",
            &["E exportTo: \"*\" and \"~\" cannot stand beside others"],
        ),
    ]);
    let (rule, _) = read(&rule(""));
    let export = rule.expect("a rule").export;
    assert_eq!((export.public, export.private), (false, true));
}

#[test]
fn a_tunnel_is_checked_and_not_dug() {
    let unsupported = "E tunnel: a tunnel is not supported yet";
    check_policies(&[
        (
            "{tunnel: {targetHost: a.com, targetPort: 443, protocol: CONNECT}}",
            &[unsupported],
        ),
        (
            "{tunnel: {targetHost: '*.com', targetPort: 0, protocol: GET}, proxyProtocol: {version: V2}}",
            &[
                "E tunnel.protocol: \"GET\" is no protocol of a tunnel",
                "E tunnel.targetHost: \"*.com\" is no host",
                "E tunnel.targetPort: 0 is no port number",
                unsupported,
                "E proxyProtocol: tunnel and proxyProtocol cannot stand in one policy",
            ],
        ),
        (
            "{proxyProtocol: {version: V3}}",
            &["E proxyProtocol.version: \"V3\" is no version of the PROXY protocol"],
        ),
    ]);
}

#[test]
fn what_stands_beside_the_blocks_has_defaults() {
    let beside = |written: &str| {
        let policy = policy(written);
        (policy.proxy_protocol, policy.retry_budget)
    };
    let cases = [
        ("{proxyProtocol: {}}", (Some(ProxyProtocol::V1), None)),
        (
            "{proxyProtocol: {version: V2}}",
            (Some(ProxyProtocol::V2), None),
        ),
        ("{retryBudget: {}}", (None, Some((20.0, 3)))),
        (
            "{retryBudget: {percent: 0, minRetryConcurrency: 10}}",
            (None, Some((0.0, 10))),
        ),
    ];
    for (written, expected) in cases {
        assert_eq!(beside(written), expected, "{written}");
    }
}

#[test]
fn the_first_settings_for_a_port_hold() {
    let policy = policy(
        "{portLevelSettings: [{port: {number: 80}, tls: {}}, {port: {number: 80}, outlierDetection: {}}]}",
    );
    let blocks = policy.port(80).expect("settings");
    assert!(blocks.tls.is_some() && blocks.outliers.is_none());
    assert_eq!(policy.port(81), None);
}

#[test]
fn a_rule_with_the_mesh_s_own_tls_is_in_force_in_plain_text() {
    let mutual =
        "trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: server, subjectAltNames: [server]}}";
    let ports = "portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]";
    let (rule, complaints) = read(&format!(
        "{{host: a, {mutual}, subsets: [{{name: v1, {mutual}}}, {{name: v2, trafficPolicy: {{{ports}}}}}]}}"
    ));
    let message = "the traffic is not encrypted: this mesh has no certificates of its own, so ISTIO_MUTUAL sends plain text";
    let places = [
        "tp.tls.mode",
        "subsets[0].tp.tls.mode",
        "subsets[1].tp.portLevelSettings[0].tls.mode",
    ];
    assert_eq!(
        complaints,
        places.map(|place| format!("W {place}: {message}"))
    );
    let rule = rule.expect("it is in force");
    let plain = "trafficPolicy: {tls: {mode: DISABLE}}";
    let ports = "portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]";
    let (same, _) = read(&format!(
        "{{host: a, {plain}, subsets: [{{name: v1, {plain}}}, {{name: v2, trafficPolicy: {{{ports}}}}}]}}"
    ));
    assert_eq!(Some(rule), same);
}
