//! Random changes, one after another: each world must be the one that is made whole of the same objects.

use std::fmt::{Debug, Write as _};
use std::path::Path;

use fastrand::Rng;

use super::*;
use crate::config::compile;
use crate::config::document::{Outcome, read_text};
use crate::model::SharedMap;

/// One object of the world: its kind, namespace and name, and how it may look.
struct Subject {
    kind: &'static str,
    name: &'static str,
    /// One time in so many it is this object's turn, compared with the others.
    weight: usize,
    body: fn(&mut Rng) -> String,
}

const fn subject(
    kind: &'static str,
    name: &'static str,
    weight: usize,
    body: fn(&mut Rng) -> String,
) -> Subject {
    Subject {
        kind,
        name,
        weight,
        body,
    }
}

const SUBJECTS: &[Subject] = &[
    subject("Service", "n1/a", 12, plain_service),
    subject("Service", "n1/b", 12, plain_service),
    subject("Service", "n2/a", 12, plain_service),
    subject("Service", "n2/c", 12, plain_service),
    subject("Service", "svc/a", 8, plain_service),
    subject("Service", "n1/h", 8, headless_service),
    subject("Service", "n1/i", 8, headless_service),
    subject("Service", "n1/x", 5, external_service),
    subject("Service", "n2/y", 5, external_service),
    subject("Pod", "n1/p1", 14, pod),
    subject("Pod", "n1/p2", 14, pod),
    subject("Pod", "n1/p3", 14, pod),
    subject("Pod", "n2/p1", 14, pod),
    subject("Pod", "n2/p4", 14, pod),
    subject("EndpointSlice", "n1/s1", 14, slice),
    subject("EndpointSlice", "n1/s2", 14, slice),
    subject("EndpointSlice", "n2/s1", 14, slice),
    subject("DestinationRule", "n1/d1", 14, rule),
    subject("DestinationRule", "n2/d2", 14, rule),
    subject("DestinationRule", "n1/d3", 14, rule),
    subject("DestinationRule", "istio-system/d4", 6, rule),
    subject("DestinationRule", "n1/d5", 5, special_rule),
    subject("VirtualService", "n1/v1", 14, routes),
    subject("VirtualService", "n1/v2", 14, routes),
    subject("VirtualService", "n2/v3", 14, routes),
    subject("VirtualService", "n2/v4", 14, routes),
    subject("VirtualService", "n2/v5", 5, addressed_routes),
    subject("VirtualService", "n1/part", 10, delegate),
    subject("ServiceEntry", "n1/e1", 5, entry),
    subject("ServiceEntry", "n2/e2", 5, entry),
    subject("WorkloadEntry", "n1/w", 5, workload),
    subject("Node", "/node", 5, node),
    subject("Gateway", "n1/g", 5, gateway),
    subject("Gateway", "n2/g2", 5, gateway),
    subject("Sidecar", "n2/side", 5, sidecar),
    subject("Secret", "n1/key", 5, secret),
    subject("ConfigMap", "istio-system/istio", 5, mesh_config),
];

fn pick<'t>(chance: &mut Rng, choices: &[&'t str]) -> &'t str {
    choices[chance.usize(..choices.len())]
}

/// Rarely: what widens a change to the whole world.
fn seldom(chance: &mut Rng) -> bool {
    chance.usize(..25) == 0
}

fn ports(chance: &mut Rng) -> String {
    let ports = [
        "{name: http, port: 80, targetPort: 8080}",
        "{name: http-b, port: 81, targetPort: web}",
        "{name: grpc, port: 90, targetPort: 9090}",
        "{name: tcp, port: 70, targetPort: 7070}",
        "{name: tls, port: 443, targetPort: 8443}",
        "{name: auto, port: 82, targetPort: 8080}",
        "{name: http-c, port: 82, targetPort: 8080}",
        "{name: u, port: 53, protocol: UDP}",
    ];
    let mut chosen: Vec<&str> = Vec::new();
    for port in ports {
        let taken = chosen.iter().any(|other| other.contains("port: 82,"));
        if chance.usize(..3) == 0 && !(taken && port.contains("port: 82,")) {
            chosen.push(port);
        }
    }
    chosen.join(", ")
}

fn selector(chance: &mut Rng) -> &'static str {
    pick(
        chance,
        &["{app: a}", "{app: b}", "{app: a, version: v1}", "{app: a}"],
    )
}

fn plain_service(chance: &mut Rng) -> String {
    let address = pick(
        chance,
        &[
            "10.0.0.1",
            "10.0.0.2",
            "10.0.0.3",
            "10.0.0.4",
            "\"fd00::1\"",
        ],
    );
    let mut more = String::new();
    if chance.bool() {
        let _ = writeln!(more, "  selector: {}", selector(chance));
    }
    if chance.usize(..5) == 0 {
        more.push_str("  publishNotReadyAddresses: true\n");
    }
    if chance.usize(..5) == 0 {
        more.push_str("  internalTrafficPolicy: Local\n");
    }
    format!(
        "spec:\n  clusterIP: {address}\n{more}  ports: [{}]\n",
        ports(chance)
    )
}

fn headless_service(chance: &mut Rng) -> String {
    format!(
        "spec:\n  clusterIP: None\n  selector: {}\n  ports: [{}]\n",
        selector(chance),
        ports(chance)
    )
}

fn external_service(chance: &mut Rng) -> String {
    let target = pick(
        chance,
        &[
            "a.n1.svc.cluster.local",
            "c.n2.svc.cluster.local",
            "x.n1.svc.cluster.local",
            "ext.example.com",
        ],
    );
    format!("spec: {{type: ExternalName, externalName: {target}, ports: [{{port: 80}}]}}\n")
}

fn pod(chance: &mut Rng) -> String {
    let address = pick(
        chance,
        &["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.0.0.1"],
    );
    let ready = pick(chance, &["True", "True", "False"]);
    let phase = pick(chance, &["Running", "Running", "Running", "Succeeded"]);
    let node = pick(chance, &["", "nodeName: node, "]);
    format!(
        "spec: {{{node}containers: [{{ports: [{{name: web, containerPort: 8081}}]}}]}}\n\
         status: {{podIP: {address}, phase: {phase}, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n"
    )
}

fn slice(chance: &mut Rng) -> String {
    let mut endpoints = String::new();
    for _ in 0..chance.usize(..4) {
        let address = pick(
            chance,
            &["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.9.0.1"],
        );
        let target = pick(
            chance,
            &[
                "",
                ", targetRef: {kind: Pod, name: p1}",
                ", targetRef: {kind: Pod, name: p2}",
                ", targetRef: {kind: Pod, name: p9}",
            ],
        );
        let ready = chance.bool();
        let _ = write!(
            endpoints,
            "{{addresses: [{address}], conditions: {{ready: {ready}}}{target}}}, "
        );
    }
    format!(
        "addressType: IPv4\nports: [{{name: http, port: 8080}}, {{name: {}, port: 9090}}]\nendpoints: [{endpoints}]\n",
        pick(chance, &["grpc", "tcp", "auto", "tls"])
    )
}

/// Hosts of Services, in several ways to write them, and of nobody.
fn host(chance: &mut Rng) -> &'static str {
    pick(
        chance,
        &[
            "a",
            "b",
            "h",
            "a.n1.svc.cluster.local",
            "c.n2.svc.cluster.local",
            "x.n1.svc.cluster.local",
            "ext.example.com",
            "nobody.example.com",
            "a.n1.svc",
            "a.svc",
        ],
    )
}

fn export(chance: &mut Rng) -> &'static str {
    pick(
        chance,
        &["['*']", "['*']", "['.']", "[n1]", "[n1, n2]", "['.', n2]"],
    )
}

fn rule(chance: &mut Rng) -> String {
    let host = match seldom(chance) {
        true => "'*.svc.cluster.local'",
        false => host(chance),
    };
    let policy = pick(
        chance,
        &[
            "",
            "trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}, ",
            "trafficPolicy: {outlierDetection: {}}, ",
            "trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}, ",
            "trafficPolicy: {portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 8}}}]}, ",
            "trafficPolicy: {tls: {mode: SIMPLE}}, ",
        ],
    );
    let subsets = pick(
        chance,
        &[
            "",
            "subsets: [{name: v1, labels: {version: v1}}], ",
            "subsets: [{name: v2, labels: {version: v2}}, {name: v1, labels: {app: a}}], ",
        ],
    );
    format!(
        "spec: {{host: {host}, {policy}{subsets}exportTo: {}}}\n",
        export(chance)
    )
}

fn mesh_config(chance: &mut Rng) -> String {
    let config = pick(
        chance,
        &[
            "connectTimeout: 1s",
            "h2UpgradePolicy: UPGRADE",
            "defaultHttpRetryPolicy: {attempts: 7}",
            "defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}, outlierDetection: {}}",
            "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
            "defaultVirtualServiceExportTo: ['.']",
            "defaultServiceExportTo: ['.']",
        ],
    );
    format!("data: {{mesh: \"{config}\"}}\n")
}

/// One of which it matters who asks.
fn special_rule(chance: &mut Rng) -> String {
    let what = pick(
        chance,
        &[
            "workloadSelector: {matchLabels: {version: v1}}, trafficPolicy: {outlierDetection: {}}",
            "workloadSelector: {matchLabels: {kubernetes.io/hostname: node}}, trafficPolicy: {outlierDetection: {}}",
            "trafficPolicy: {tls: {mode: SIMPLE, credentialName: key}}",
        ],
    );
    format!("spec: {{host: {}, {what}}}\n", host(chance))
}

fn routes(chance: &mut Rng) -> String {
    let mut hosts = vec![host(chance)];
    if chance.usize(..3) == 0 {
        hosts.push(host(chance));
    }
    if seldom(chance) {
        hosts.push(pick(
            chance,
            &[
                "'*.n1.svc.cluster.local'",
                "'*.example.com'",
                "'*'",
                "10.0.0.1",
            ],
        ));
    }
    hosts.sort_unstable();
    hosts.dedup();
    let gateways = match seldom(chance) {
        true => "gateways: [mesh, n1/g], ",
        false => "",
    };
    let action = |chance: &mut Rng| match chance.usize(..5) {
        0 => "delegate: {name: part, namespace: n1}".to_owned(),
        1 => "redirect: {uri: /there}".to_owned(),
        _ => format!(
            "route: [{{destination: {{host: {}, subset: v1}}}}]",
            host(chance)
        ),
    };
    let condition = pick(
        chance,
        &[
            "match: [{uri: {prefix: /x}}], ",
            "match: [{port: 81}], ",
            "match: [{sourceLabels: {app: a}}], ",
            "match: [{sourceNamespace: n2}], ",
        ],
    );
    let tcp = match chance.usize(..4) {
        0 => format!(
            "tcp: [{{match: [{{port: 70}}], route: [{{destination: {{host: {}}}}}]}}], ",
            host(chance)
        ),
        _ => String::new(),
    };
    format!(
        "spec: {{hosts: [{}], {gateways}{tcp}exportTo: {}, http: [{{{condition}{}}}, {{{}}}]}}\n",
        hosts.join(", "),
        export(chance),
        action(chance),
        action(chance),
    )
}

/// For an address, which a Service may have too.
fn addressed_routes(chance: &mut Rng) -> String {
    let address = pick(chance, &["10.0.0.1", "'fd00:0::1'"]);
    format!(
        "spec: {{hosts: [{address}], http: [{{route: [{{destination: {{host: {}}}}}]}}]}}\n",
        host(chance)
    )
}

fn delegate(chance: &mut Rng) -> String {
    format!(
        "spec: {{exportTo: {}, http: [{{match: [{{uri: {{prefix: /x/y}}}}], route: [{{destination: {{host: {}}}}}]}}, \
         {{route: [{{destination: {{host: {}}}}}]}}]}}\n",
        export(chance),
        host(chance),
        host(chance)
    )
}

fn entry(chance: &mut Rng) -> String {
    let host = pick(
        chance,
        &[
            "ext.example.com",
            "'*.example.com'",
            "a.n1.svc.cluster.local",
            "a.n1",
        ],
    );
    let rest = pick(
        chance,
        &[
            "resolution: DNS",
            "resolution: STATIC, endpoints: [{address: 10.7.0.1}]",
            "resolution: STATIC, workloadSelector: {labels: {app: a}}",
            "resolution: STATIC, addresses: [10.0.0.3], endpoints: [{address: 10.7.0.2}]",
            "resolution: NONE, addresses: [10.8.0.0/16]",
        ],
    );
    let export = match seldom(chance) {
        true => export(chance),
        false => "['*']",
    };
    let ports = "{number: 80, name: http, protocol: HTTP}, {number: 70, name: tcp, protocol: TCP}";
    format!("spec: {{hosts: [{host}], {rest}, exportTo: {export}, ports: [{ports}]}}\n")
}

fn workload(chance: &mut Rng) -> String {
    format!(
        "spec: {{address: 10.6.0.1, labels: {{app: {}}}}}\n",
        pick(chance, &["a", "b"])
    )
}

fn node(_: &mut Rng) -> String {
    "spec: {}\n".to_owned()
}

fn gateway(chance: &mut Rng) -> String {
    let selector = pick(
        chance,
        &["", "selector: {app: gate}, ", "selector: {version: v2}, "],
    );
    let server = pick(
        chance,
        &[
            "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}",
            "{port: {number: 443, name: s, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: key}}",
        ],
    );
    format!("spec: {{{selector}servers: [{server}]}}\n")
}

fn sidecar(chance: &mut Rng) -> String {
    let hosts = pick(chance, &["'./*'", "'n1/*'", "'*/a.n1.svc.cluster.local'"]);
    if chance.bool() {
        let port = "{number: 8080, name: http, protocol: HTTP}";
        return format!("spec: {{ingress: [{{port: {port}, defaultEndpoint: '127.0.0.1:80'}}]}}\n");
    }
    format!("spec: {{egress: [{{hosts: [{hosts}]}}]}}\n")
}

fn secret(_: &mut Rng) -> String {
    "stringData: {ca.crt: nothing}\n".to_owned()
}

/// What stands in an object's metadata.
fn metadata(subject: &Subject, chance: &mut Rng) -> String {
    let (namespace, name) = subject.name.split_once('/').expect("a namespace");
    let mut text = format!("name: {name}");
    if !namespace.is_empty() {
        let _ = write!(text, ", namespace: {namespace}");
    }
    match subject.kind {
        "Pod" => {
            let app = pick(chance, &["a", "a", "b", "none", "gate"]);
            let version = pick(chance, &["v1", "v2"]);
            let app = if app == "gate" && chance.bool() {
                "a"
            } else {
                app
            };
            let _ = write!(text, ", labels: {{app: {app}, version: {version}}}");
            text.push_str(pick(
                chance,
                &[
                    "",
                    "",
                    ", annotations: {mesh-agent.io/netns: /run/netns/x}",
                    ", annotations: {mesh-agent.io/netns: relative, mesh-agent.io/source: neither}",
                ],
            ));
            if chance.usize(..8) == 0 {
                text.push_str(", deletionTimestamp: '2024-01-01T00:00:00Z'");
            }
        }
        "EndpointSlice" => {
            let service = pick(chance, &["a", "b", "h", "c"]);
            let _ = write!(text, ", labels: {{kubernetes.io/service-name: {service}}}");
        }
        "Service" if seldom(chance) => {
            let names = pick(chance, &["n1", "'.'", "'n1,n2'"]);
            let _ = write!(
                text,
                ", annotations: {{networking.istio.io/exportTo: {names}}}"
            );
        }
        "Node" => {
            let zone = pick(chance, &["one", "two"]);
            let _ = write!(text, ", labels: {{topology.kubernetes.io/zone: {zone}}}");
        }
        _ => {}
    }
    if chance.usize(..3) == 0 {
        let second = chance.usize(..3);
        let _ = write!(text, ", creationTimestamp: '2024-01-01T00:00:0{second}Z'");
    }
    text
}

/// A version of an object.
fn text(subject: &Subject, chance: &mut Rng) -> String {
    let version = match subject.kind {
        "Service" | "Pod" | "Node" | "Secret" | "ConfigMap" => "v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        _ => "networking.istio.io/v1",
    };
    format!(
        "apiVersion: {version}\nkind: {}\nmetadata: {{{}}}\n{}",
        subject.kind,
        metadata(subject, chance),
        (subject.body)(chance)
    )
}

fn object(subject: &Subject, text: &str, options: &CompileOptions) -> Option<Arc<Object>> {
    let file = format!("{}-{}.yaml", subject.name.replace('/', "-"), subject.kind);
    let file: Arc<Path> = Path::new(&file).into();
    let documents = read_text(text, &file, options);
    documents
        .into_iter()
        .find_map(|document| match document.outcome {
            Outcome::Good(object) => Some(object),
            Outcome::Broken(_) | Outcome::Ignored(_) => None,
        })
}

/// What two maps do not have in common.
fn differing<K, V>(what: &str, one: &SharedMap<K, V>, other: &SharedMap<K, V>) -> Vec<String>
where
    K: Debug + Eq + std::hash::Hash + Clone,
    V: Debug + PartialEq + Clone,
{
    let keys = one
        .keys()
        .chain(other.keys().filter(|key| !one.contains_key(*key)));
    let keys = keys.filter(|key| one.get(*key) != other.get(*key));
    keys.map(|key| {
        let (partial, whole) = (one.get(key), other.get(key));
        format!("{what} {key:?}:\n  partial {partial:?}\n  whole   {whole:?}")
    })
    .collect()
}

/// Where two worlds differ, in words.
fn differences(partial: &Snapshot, whole: &Snapshot) -> Vec<String> {
    let (ours, theirs) = (&partial.common, &whole.common);
    let mut found = differing("service", &partial.services, &whole.services);
    found.extend(differing("cluster", &partial.clusters, &whole.clusters));
    found.extend(differing("pod", &partial.pods, &whole.pods));
    let addresses = (&partial.pods_by_address, &whole.pods_by_address);
    found.extend(differing("pod at", addresses.0, addresses.1));
    found.extend(differing("owner of", &ours.addresses, &theirs.addresses));
    found.extend(differing(
        "undeclared",
        &ours.undeclared,
        &theirs.undeclared,
    ));
    found.extend(differing("streams", &ours.streams, &theirs.streams));
    for (port, table) in &theirs.mesh {
        let Some(our) = ours.mesh.get(port) else {
            continue;
        };
        found.extend(differing(&format!("{port}"), &our.exact, &table.exact));
        found.extend(differing(&format!("{port} in"), &our.local, &table.local));
    }
    if found.is_empty() && partial != whole {
        found.push(format!(
            "elsewhere:\n  partial {partial:?}\n  whole   {whole:?}"
        ));
    }
    found
}

/// What widens some changes, or all, to the whole world, as it may be there together.
const WIDE: &[&[&str]] = &[
    &[],
    &["n1/d5", "n1/g", "n2/g2", "n1/key"],
    &["n1/e1", "n2/e2", "n2/v5"],
    &["n1/x", "n2/y", "n1/w"],
    &["n1/d5", "n1/x", "n2/v5", "n1/g"],
    &["n2/side", "/node", "n1/w", "n1/e1"],
    &["istio-system/istio", "n1/g"],
];

/// Whose turn it may be.
fn turns(seed: u64) -> Vec<usize> {
    let together = WIDE[seed as usize % WIDE.len()];
    let there = |subject: &Subject| {
        let wide = WIDE.iter().any(|names| names.contains(&subject.name));
        !wide || together.contains(&subject.name)
    };
    let subjects = SUBJECTS.iter().enumerate();
    subjects
        .filter(|(_, subject)| there(subject))
        .flat_map(|(number, subject)| std::iter::repeat_n(number, subject.weight))
        .collect()
}

/// Makes changes at random and compares. How many worlds there were, and how many of them were made in part.
fn run(seed: u64, steps: usize) -> (usize, usize) {
    let options = CompileOptions::default();
    let mut chance = Rng::with_seed(seed);
    let mut compiler = Compiler::new(options.clone());
    let turns = turns(seed);
    let mut known: HashMap<usize, ObjectId> = HashMap::new();
    let (mut worlds, mut partial, mut taken, mut refused) = (0, 0, 0, 0);
    for step in 0..steps {
        let mut log = String::new();
        let changes = if step == 0 { 25 } else { 1 + chance.usize(..2) };
        for _ in 0..changes {
            let number = turns[chance.usize(..turns.len())];
            let subject = &SUBJECTS[number];
            let there = known.contains_key(&number);
            if there && chance.usize(..4) == 0 {
                let id = known.remove(&number).expect("it is there");
                let _ = writeln!(log, "without {id}");
                compiler.change(&id, None);
                continue;
            }
            let text = text(subject, &mut chance);
            // Some combinations are refused, such as a host that is there twice once it is written in full.
            let Some(object) = object(subject, &text, &options) else {
                refused += 1;
                continue;
            };
            taken += 1;
            let _ = writeln!(log, "{text}");
            let id = object.id.clone();
            compiler.change(&id, Some(object));
            known.insert(number, id);
        }
        let (snapshot, rejected) = compiler.world();
        worlds += 1;
        partial += usize::from(compiler.was_partial());
        let (whole, expected) = compile(compiler.inputs(), &options);
        let found = differences(&snapshot, &whole);
        assert!(
            found.is_empty() && rejected == expected,
            "seed {seed}, step {step}, after\n{log}\n{}\n{rejected:#?}\n{expected:#?}\nof {}",
            found.join("\n"),
            compiler
                .inputs()
                .iter()
                .map(|object| object.id.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        );
        compiler.prepare();
    }
    assert!(refused * 4 < taken, "{refused} refused, {taken} taken");
    (worlds, partial)
}

#[test]
fn a_world_made_in_part_is_the_one_made_whole() {
    let (mut worlds, mut partial) = (0, 0);
    let seeds = std::env::var("MESH_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(60) {
        let (some, of_them) = run(seed, 60);
        worlds += some;
        partial += of_them;
    }
    println!("{partial} of {worlds} worlds were made in part");
    // Else this would compare whole worlds with themselves.
    assert!(partial * 3 > worlds, "{partial} of {worlds}");
}
