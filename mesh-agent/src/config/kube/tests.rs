//! A watched API server, from the first list to the last watch, against one in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::kube::fake::{Api, EVENTS, LEASES};
use crate::config::kube::{Cluster, Viewer, Watched};
use crate::config::{CompileOptions, Membership, Update};
use crate::model::{ClusterKey, Endpoint, Snapshot};

/// Nothing here takes so long; this is for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

const VIRTUAL_SERVICES: &str = "/apis/networking.istio.io/v1/virtualservices";

fn node() -> Viewer {
    Viewer::Node("here".into())
}

fn options() -> CompileOptions {
    CompileOptions {
        membership: Membership::Asked {
            node: "here".into(),
            istio: false,
        },
        ..CompileOptions::default()
    }
}

fn watch(api: &Api, viewer: &Viewer, saved: Option<PathBuf>) -> Cluster {
    watch_as(api, viewer, saved, None)
}

fn watch_as(api: &Api, viewer: &Viewer, saved: Option<PathBuf>, herald: Option<&str>) -> Cluster {
    let watched = Watched {
        viewer: viewer.clone(),
        saved,
        herald: herald.map(ToOwned::to_owned),
    };
    Cluster::watch(&api.client(), watched, options()).expect("a thread")
}

/// Waits until a world is as it should be. Every world on the way must pass `always`.
async fn until(
    cluster: &mut Cluster,
    always: impl Fn(&Snapshot) -> bool,
    wanted: impl Fn(&Update) -> bool,
) -> Update {
    let waiting = async {
        loop {
            let update = cluster.next().await;
            assert!(always(&update.snapshot), "a world that must never be");
            if wanted(&update) {
                return update;
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.expect("the world becomes as it should be")
}

async fn until_world(cluster: &mut Cluster, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let update = until(cluster, |_| true, |update| wanted(&update.snapshot)).await;
    update.snapshot
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, uid: s-{name}}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{name: http, port: 80}}]}}\n"
    )
}

/// A slice with one endpoint: the Pod `pod` on node `there` of zone `z1`.
fn slice(service: &str, address: &str, pod: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {service}-1, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\n\
         endpoints: [{{addresses: [{address}], nodeName: there, zone: z1, conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {pod}, namespace: shop}}}}]\n"
    )
}

fn pod(name: &str, node: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: u-{name}, labels: {{app: web, version: v1, mesh-agent.io/enrol: \"true\"}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: app}}]}}\nstatus: {{phase: Running, podIP: {address}}}\n"
    )
}

fn virtual_service(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n"
    )
}

const GOOD: &str = "{hosts: [web], http: [{name: first, route: [{destination: {host: web}}]}]}";

fn endpoints(snapshot: &Snapshot, service: &str) -> Vec<Endpoint> {
    let key = ClusterKey {
        host: format!("{service}.shop.svc.cluster.local").into(),
        port: 80,
        subset: None,
    };
    let cluster = snapshot.clusters.get(&key);
    cluster.map_or_else(Vec::new, |cluster| {
        cluster.endpoints.iter().cloned().collect()
    })
}

fn addresses(snapshot: &Snapshot, service: &str) -> Vec<String> {
    let endpoints = endpoints(snapshot, service);
    let addresses = endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string());
    addresses.collect()
}

fn has(snapshot: &Snapshot, service: &str) -> bool {
    let host = format!("{service}.shop.svc.cluster.local");
    snapshot.services.get(&*host).is_some()
}

#[tokio::test]
async fn the_first_world_is_whole_and_changes_follow() {
    let api = Api::new("v1", Some("v1"));
    api.apply(&service("web"));
    api.apply(&slice("web", "10.1.0.1", "web-0"));
    api.apply(&pod("web-0", "there", "10.1.0.1"));
    api.apply(&pod("client", "here", "10.2.0.1"));
    let mut cluster = watch(&api, &node(), None);
    let first = cluster.next().await;
    let endpoint = &endpoints(&first.snapshot, "web")[0];
    assert_eq!(endpoint.address.to_string(), "10.1.0.1:8080");
    // Of a Pod elsewhere the metadata alone is asked for: its labels are known, and its place by the slice.
    let label = |name: &str| endpoint.labels.as_ref()?.get(name).cloned();
    assert_eq!(label("version").as_deref(), Some("v1"));
    assert_eq!(label("topology.kubernetes.io/zone").as_deref(), Some("z1"));
    assert_eq!(endpoint.node.as_deref(), Some("there"));
    let local = first.snapshot.pods.values().find(|pod| pod.local.is_some());
    let local = local.expect("a pod of this node");
    assert_eq!(&*local.id.name, "client");
    assert!(local.local.as_ref().is_some_and(|local| local.enrol));
    let asked = api.asked();
    let elsewhere = "spec.nodeName!=here,status.phase!=Succeeded,status.phase!=Failed metadata";
    assert!(
        asked.contains(&format!("/api/v1/pods {elsewhere}")),
        "{asked:?}"
    );
    assert!(
        asked.iter().all(|path| !path.contains("secrets")),
        "{asked:?}"
    );

    api.apply(&slice("web", "10.1.0.2", "web-1"));
    until_world(&mut cluster, |world| {
        addresses(world, "web") == ["10.1.0.2:8080"]
    })
    .await;
    api.delete("/api/v1/services", "shop", "web");
    until_world(&mut cluster, |world| !has(world, "web")).await;
}

#[tokio::test]
async fn a_pod_that_comes_to_this_node_or_leaves_it_is_known_all_the_while() {
    let api = Api::new("v1", Some("v1"));
    api.apply(&pod("a", "", "10.2.0.1"));
    let mut cluster = watch(&api, &node(), None);
    let is_local = |world: &Snapshot| {
        let mut pods = world.pods.values();
        pods.any(|pod| &*pod.id.name == "a" && pod.local.is_some())
    };
    let first = cluster.next().await;
    assert!(!is_local(&first.snapshot));
    api.apply(&pod("a", "here", "10.2.0.1"));
    until_world(&mut cluster, is_local).await;
    api.delete("/api/v1/pods", "shop", "a");
    until_world(&mut cluster, |world| world.pods.is_empty()).await;
}

#[tokio::test]
async fn kinds_that_are_not_there_are_waited_for_in_whichever_version() {
    let api = Api::new("v1beta1", None);
    api.apply(&service("web"));
    let old = slice("web", "10.1.0.1", "web-0").replace("io/v1\n", "io/v1beta1\n");
    api.apply(&old.replace(
        "nodeName: there, zone: z1",
        "topology: {kubernetes.io/hostname: there, topology.kubernetes.io/zone: z1}",
    ));
    let mut cluster = watch(&api, &node(), None);
    let first = cluster.next().await;
    let endpoint = &endpoints(&first.snapshot, "web")[0];
    assert_eq!(endpoint.node.as_deref(), Some("there"));
    assert_eq!(first.rejected, []);

    api.install_istio("v1alpha3");
    let rule = virtual_service("{hosts: [web], http: [{match: [{uri: {prefix: 1}}]}]}");
    api.apply(&rule.replace("io/v1\n", "io/v1alpha3\n"));
    let update = until(&mut cluster, |_| true, |update| !update.rejected.is_empty()).await;
    assert_eq!(update.rejected[0].object, "VirtualService shop/web");
    assert_eq!(update.rejected[0].file, PathBuf::new());
}

#[tokio::test]
async fn a_server_that_is_away_changes_nothing() {
    let api = Api::new("v1", Some("v1"));
    api.apply(&service("web"));
    let mut cluster = watch(&api, &node(), None);
    until_world(&mut cluster, |world| has(world, "web")).await;
    api.set_down(true);
    let told = |update: &Update| {
        let mut messages = update.rejected.iter().map(|rejected| &rejected.message);
        messages.any(|message| message.contains("the API server cannot be followed"))
    };
    let web = |world: &Snapshot| has(world, "web");
    until(&mut cluster, web, told).await;
    api.apply(&service("new"));
    api.set_down(false);
    until(&mut cluster, web, |update| has(&update.snapshot, "new")).await;
}

#[tokio::test]
async fn a_watch_that_begins_anew_never_shows_half_a_world() {
    let api = Api::new("v1", Some("v1"));
    for name in ["a", "b", "c", "d", "e"] {
        api.apply(&service(name));
    }
    let mut cluster = watch(&api, &node(), None);
    let lasting = |world: &Snapshot| ["a", "b", "d"].iter().all(|name| has(world, name));
    until(&mut cluster, lasting, |_| true).await;
    // A list that breaks off in the middle counts for nothing, and one that is complete is put in force as a whole.
    api.break_lists_after(Some(2));
    api.delete("/api/v1/services", "shop", "c");
    api.compact();
    api.apply(&service("f"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    api.break_lists_after(None);
    let whole = |update: &Update| has(&update.snapshot, "f") && !has(&update.snapshot, "c");
    until(&mut cluster, lasting, whole).await;
    // A watch that was merely cut goes on where it was.
    api.cut();
    api.apply(&service("g"));
    until(&mut cluster, lasting, |update| has(&update.snapshot, "g")).await;
}

#[tokio::test]
async fn a_broken_object_leaves_its_last_good_version_in_force() {
    let api = Api::new("v1", Some("v1"));
    api.apply(&service("web"));
    api.apply(&virtual_service(GOOD));
    let mut cluster = watch(&api, &node(), None);
    let rule = |world: &Snapshot| {
        let mesh = &world.common.mesh;
        let table = mesh
            .values()
            .find_map(|table| table.exact.get("web.shop.svc.cluster.local"));
        table.is_some_and(|host| format!("{host:?}").contains("first"))
    };
    let first = cluster.next().await;
    assert!(rule(&first.snapshot));
    api.apply(&virtual_service(
        "{hosts: [web], http: [{route: []}], retries: 3}",
    ));
    let wrong = |update: &Update| update.rejected.iter().any(|r| r.object.contains("web"));
    until(&mut cluster, rule, wrong).await;
    api.apply(&virtual_service(GOOD));
    until(&mut cluster, rule, |update| !wrong(update)).await;
    api.delete(VIRTUAL_SERVICES, "shop", "web");
    until_world(&mut cluster, |world| !rule(world)).await;
}

#[tokio::test]
async fn what_the_server_said_last_serves_while_it_is_away() {
    let directory = tempfile::tempdir().expect("a directory");
    let saved = Some(directory.path().to_path_buf());
    let api = Api::new("v1", Some("v1"));
    api.apply(&service("web"));
    api.apply(&service("gone"));
    let mut cluster = watch(&api, &node(), saved.clone());
    until_world(&mut cluster, |world| has(world, "gone")).await;
    api.delete("/api/v1/services", "shop", "gone");
    until_world(&mut cluster, |world| !has(world, "gone")).await;
    drop(cluster);

    api.set_down(true);
    let mut cluster = watch(&api, &node(), saved);
    let first = until_world(&mut cluster, |_| true).await;
    assert!(has(&first, "web") && !has(&first, "gone"));
    api.apply(&service("new"));
    api.delete("/api/v1/services", "shop", "web");
    api.set_down(false);
    until_world(&mut cluster, |world| {
        has(world, "new") && !has(world, "web")
    })
    .await;
}

#[tokio::test]
async fn a_gateway_asks_for_the_secrets_that_gateways_name_and_for_no_other() {
    let api = Api::new("v1", Some("v1"));
    let secret = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: edge}}\ntype: Opaque\ndata: {{password: eA==}}\n"
        )
    };
    let gateway = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: gw, namespace: edge}}\n\
             spec: {{selector: {{app: web}}, servers: [{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: SIMPLE, credentialName: {name}}}}}]}}\n"
        )
    };
    let lacks = |name: &'static str| {
        move |update: &Update| {
            let mut messages = update.rejected.iter().map(|rejected| &rejected.message);
            messages.any(|message| message.contains(&format!("Secret {name} has no certificate")))
        }
    };
    api.apply(&secret("one"));
    api.apply(&secret("two"));
    api.apply(&secret("other"));
    api.apply(&gateway("one"));
    let own = pod("gw-0", "there", "10.3.0.1").replace("namespace: shop", "namespace: edge");
    api.apply(&own);
    let viewer = Viewer::Gateway {
        namespace: "edge".into(),
        name: "gw-0".into(),
    };
    let mut cluster = watch(&api, &viewer, None);
    // Already the first world has it.
    let first = cluster.next().await;
    assert!(lacks("one")(&first), "{:?}", first.rejected);
    api.apply(&gateway("two"));
    until(&mut cluster, |_| true, lacks("two")).await;
    let asked = api.asked();
    let secrets: Vec<&String> = asked
        .iter()
        .filter(|path| path.contains("secrets"))
        .collect();
    let expected = ["one", "one-cacert", "two", "two-cacert"]
        .map(|name| format!("/api/v1/namespaces/edge/secrets metadata.name={name}"));
    assert_eq!(secrets, expected.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_wrong_is_said_on_the_object_and_in_an_event() {
    let api = Api::new("v1", Some("v1"));
    api.apply(&virtual_service("{hosts: [web], http: [{route: []}]}"));
    let mut cluster = watch_as(&api, &node(), None, Some("n1"));
    cluster.next().await;
    let condition = || {
        let objects = api.objects(VIRTUAL_SERVICES);
        let status = objects[0]["status"]["conditions"][0].clone();
        status["status"]
            .as_str()
            .map(|word| (word.to_owned(), status["message"].to_string()))
    };
    let said = async |wanted: &str| {
        let waiting = async {
            while condition().is_none_or(|(word, _)| word != wanted) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.expect("it is said on the object");
    };
    said("False").await;
    let message = condition().map(|(_, message)| message).unwrap_or_default();
    assert!(message.contains("spec.http[0]"), "{message}");
    assert_eq!(api.objects(LEASES)[0]["spec"]["holderIdentity"], "n1");
    let events = api.objects(EVENTS);
    assert_eq!(events[0]["regarding"]["name"], "web");
    assert_eq!(events[0]["type"], "Warning");

    api.apply(&service("web"));
    let marked = api.objects(VIRTUAL_SERVICES)[0]["status"].clone();
    api.apply(&format!("{}status: {marked}\n", virtual_service(GOOD)));
    said("True").await;
}
