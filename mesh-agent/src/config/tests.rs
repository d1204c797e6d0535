//! The way from files to decisions, whole.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::config::document::{Outcome, read_text};
use crate::model::{Pod, PodId};
use crate::route::fixture::get;
use crate::route::{Act, Client, Decision, HttpScope, Pick, Request, Routed, decide};

mod order;

/// The manifests of the walkthrough, word for word.
fn walkthrough() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/walkthrough")
}

/// What Kubernetes would add to them: the Pods, with their addresses, and the Service's.
const CLUSTER: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: user-app-v1-x, labels: {app: user-app, version: v1}}
  status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: user-app-v2-x, labels: {app: user-app, version: v2}}
  status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'True'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: client, labels: {app: client}}
  status: {podIP: 10.1.0.3}
- apiVersion: v1
  kind: Pod
  metadata: {name: gateway, namespace: istio-system, labels: {app: istio-ingressgateway, istio: ingressgateway}}
  status: {podIP: 10.1.0.4}
";

struct Chance(fastrand::Rng);

impl Pick for Chance {
    fn pick(&mut self, below: u64) -> u64 {
        self.0.u64(..below)
    }
}

/// A directory with the walkthrough's manifests up to a step of it, and the Pods.
fn world(manifests: &[&str]) -> Snapshot {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("cluster.yaml"), CLUSTER).expect("written");
    for name in manifests {
        fs::copy(walkthrough().join(name), directory.path().join(name)).expect("copied");
    }
    let (snapshot, rejected) = load(directory.path(), &CompileOptions::default()).expect("read");
    assert_eq!(rejected, []);
    snapshot
}

const BASE: [&str; 4] = [
    "user-app-v1-deploy.yaml",
    "user-app-v2-deploy.yaml",
    "user-app-svc.yaml",
    "user-app-destinationrule.yaml",
];

/// The subset and the path that a request gets.
fn ask(
    snapshot: &Snapshot,
    scope: &HttpScope,
    client: &Client<'_>,
    request: &Request<'_>,
    chance: &mut Chance,
) -> String {
    match decide(snapshot, scope, client, request, chance) {
        Decision::Routed(Routed {
            act: Act::Forward(forwarding),
            ..
        }) => {
            let subset = forwarding.cluster.key.subset.as_deref().unwrap_or("all");
            let path = forwarding.path.as_deref().unwrap_or("as it is");
            format!(
                "{subset} {path} {}",
                forwarding.cluster.endpoints[0].address
            )
        }
        other => format!("{other:?}"),
    }
}

fn pod(snapshot: &Snapshot, namespace: &str, name: &str) -> Arc<Pod> {
    let id = PodId {
        namespace: namespace.into(),
        name: name.into(),
    };
    Arc::clone(&snapshot.pods[&id])
}

/// Asks 100,000 times and checks 90/10 to within five standard deviations, which chance exceeds once in a million runs.
fn check_split(snapshot: &Snapshot, scope: &HttpScope, client: &Client<'_>, authority: &str) {
    let mut chance = Chance(fastrand::Rng::with_seed(42));
    let request = get(authority, "/");
    let mut first = 0;
    for _ in 0..100_000 {
        match ask(snapshot, scope, client, &request, &mut chance).as_str() {
            "v1 as it is 10.1.0.1:80" => first += 1,
            "v2 as it is 10.1.0.2:80" => {}
            other => panic!("{other}"),
        }
    }
    assert!(
        (89_526..=90_474).contains(&first),
        "{first} of 100,000 are not 90 %"
    );
}

#[test]
fn in_the_mesh_the_walkthrough_splits_90_to_10() {
    let snapshot = world(&[&BASE[..], &["user-app-virtualservice.yaml"]].concat());
    let pod = pod(&snapshot, "default", "client");
    for authority in ["user-app-svc", "user-app-svc.default.svc.cluster.local:80"] {
        check_split(
            &snapshot,
            &HttpScope::Mesh { port: 80 },
            &Client::Pod(&pod),
            authority,
        );
    }
}

#[test]
fn at_the_gateway_the_walkthrough_splits_90_to_10_for_its_host_alone() {
    let snapshot = world(
        &[
            &BASE[..],
            &[
                "user-app-gateway.yaml",
                "user-app-gateway-virtualservice.yaml",
            ],
        ]
        .concat(),
    );
    let pod = pod(&snapshot, "istio-system", "gateway");
    let gateway = Client::Gateway(&pod);
    let scope = HttpScope::Gateway {
        port: 80,
        server: None,
    };
    check_split(&snapshot, &scope, &gateway, "user-app.com");
    check_split(&snapshot, &scope, &gateway, "user-app.com:31221");
    let mut chance = Chance(fastrand::Rng::with_seed(1));
    for authority in [
        "192.168.1.1:31221",
        "other.com",
        "user-app-svc",
        "www.user-app.com",
    ] {
        let request = get(authority, "/");
        assert_eq!(
            ask(&snapshot, &scope, &gateway, &request, &mut chance),
            "Reply(NoRoute)",
            "{authority}"
        );
    }
}

#[test]
fn the_rewrite_of_the_walkthrough_sends_v1_and_v2_to_their_roots() {
    let snapshot = world(
        &[
            &BASE[..],
            &[
                "user-app-gateway.yaml",
                "user-app-gateway-virtualservice-rewrite.yaml",
            ],
        ]
        .concat(),
    );
    let pod = pod(&snapshot, "istio-system", "gateway");
    let gateway = Client::Gateway(&pod);
    let mut chance = Chance(fastrand::Rng::with_seed(1));
    for (path, expected) in [
        ("/v1", "v1 / 10.1.0.1:80"),
        ("/v2", "v2 / 10.1.0.2:80"),
        ("/v2/x", "v2 //x 10.1.0.2:80"),
        ("/", "v1 as it is 10.1.0.1:80"),
        ("/else", "v1 as it is 10.1.0.1:80"),
    ] {
        let request = get("user-app.com", path);
        let scope = HttpScope::Gateway {
            port: 80,
            server: None,
        };
        assert_eq!(
            ask(&snapshot, &scope, &gateway, &request, &mut chance),
            expected,
            "{path}"
        );
    }
}

/// Objects that are right, apart from each other by their names.
fn good_documents() -> Vec<String> {
    let mut documents: Vec<String> = fs::read_dir(walkthrough())
        .expect("the walkthrough")
        .map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("its text"))
        .collect();
    documents.sort();
    documents
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to one document of a file, no other is lost, nothing panics, and what is refused is said.
    #[test]
    fn a_mutilated_document_costs_no_other_its_place(
        victim in 0..8_usize,
        cut in 0..1_000_usize,
        length in 0..40_usize,
        filler in "[ -~\t\n:{}&*\\[\\]|>'\"#%@!-]{0,12}",
    ) {
        let mut documents = good_documents();
        let others: Vec<String> = documents.iter().enumerate().filter(|(index, _)| *index != victim).map(|(_, text)| text.clone()).collect();
        let text = &documents[victim];
        let from = text.len() * cut / 1_000;
        let from = (0..=from).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let to = (from + length).min(text.len());
        let to = (to..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        // A new line of dashes would make two documents of one, which is another matter.
        let mutilated = format!("{}{filler}{}", &text[..from], &text[to..]).replace("\n---", "\n--");
        documents[victim] = mutilated.trim_start_matches("---").to_owned();
        let good = |texts: &[String]| {
            let file: Arc<Path> = Path::new("x.yaml").into();
            let read = read_text(&texts.join("\n---\n"), &file, &CompileOptions::default());
            let names: Vec<String> = read.iter().filter_map(|document| match &document.outcome {
                Outcome::Good(object) => Some(object.id.to_string()),
                Outcome::Broken(_) | Outcome::Ignored(_) => None,
            }).collect();
            for document in &read {
                if matches!(document.outcome, Outcome::Broken(_)) {
                    assert!(!document.rejected.is_empty(), "refused without a word");
                }
            }
            let inputs: Inputs = read.into_iter().filter_map(|document| match document.outcome {
                Outcome::Good(object) => Some(object),
                Outcome::Broken(_) | Outcome::Ignored(_) => None,
            }).collect();
            compile(&inputs, &CompileOptions::default());
            names
        };
        let with_victim = good(&documents);
        for name in good(&others) {
            prop_assert!(with_victim.contains(&name), "{name} was lost");
        }
    }

    /// Any text at all can be read.
    #[test]
    fn no_text_makes_the_reader_panic(text in "([ -~\n\t]|[&*]a|: |- |\\{|\\}|\\[|\\]|<<: |---\n|'|\"|é|\u{0}){0,80}") {
        let file: Arc<Path> = Path::new("x.yaml").into();
        read_text(&text, &file, &CompileOptions::default());
    }
}
