//! Which Pods are enrolled, by what they and their namespaces say.

use crate::config::fixture::world_with;
use crate::config::{CompileOptions, Membership};
use crate::model::{NetnsPlace, PodId};

fn options(istio: bool) -> CompileOptions {
    CompileOptions {
        membership: Membership::Asked {
            node: "here".into(),
            istio,
        },
        ..CompileOptions::default()
    }
}

/// A Pod of this node in a namespace with these labels, with `metadata` and `spec` beside.
fn manifest(namespace: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{namespace}}}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: shop, uid: u-1, {metadata}}}\n\
         spec: {{nodeName: here, {spec}}}\nstatus: {{podIP: 10.0.0.1}}\n"
    )
}

fn local(text: &str, istio: bool) -> (Option<(NetnsPlace, bool)>, Vec<String>) {
    let (snapshot, rejected) = world_with(text, &options(istio));
    let id = PodId {
        namespace: "shop".into(),
        name: "a".into(),
    };
    let local = snapshot.pods[&id].local.clone();
    let codes = rejected.iter().filter_map(|rejected| rejected.code);
    (
        local.map(|local| (local.netns, local.enrol)),
        codes.map(|code| code.id().to_owned()).collect(),
    )
}

#[test]
fn a_pod_is_in_the_mesh_where_it_or_its_namespace_asks_for_it() {
    let check = |namespace: &str, metadata: &str, istio: bool, expected: bool| {
        let (local, codes) = local(&manifest(namespace, metadata, ""), istio);
        let enrolled = local.map(|(_, enrol)| enrol);
        let case = format!("{namespace} | {metadata} | istio {istio}");
        assert_eq!(enrolled, Some(expected), "{case}");
        assert_eq!(codes, Vec::<String>::new(), "{case}");
    };
    let asked = "mesh-agent.io/enrol: \"true\"";
    let refused = "mesh-agent.io/enrol: \"false\"";
    let label = |text: &str| format!("labels: {{{text}}}");
    let annotation = |text: &str| format!("annotations: {{{text}}}");
    check("", "", false, false);
    check(asked, "", false, true);
    check(asked, &label(refused), false, false);
    check(asked, &annotation(refused), false, false);
    check("", &label(asked), false, true);
    check("", &annotation(asked), false, true);
    check(refused, &label(asked), false, true);
    let both = format!("{}, {}", label(asked), annotation(refused));
    check("", &both, false, false);

    // Istio's own words count where that is asked for.
    let injection = "istio-injection: enabled";
    check(injection, "", false, false);
    check(injection, "", true, true);
    check("istio.io/rev: stable", "", true, true);
    check("", &label("sidecar.istio.io/inject: \"true\""), true, true);
    check(
        "",
        &annotation("sidecar.istio.io/inject: \"true\""),
        true,
        true,
    );
    check(
        injection,
        &label("sidecar.istio.io/inject: \"false\""),
        true,
        false,
    );
    let never = label("sidecar.istio.io/inject: \"true\"");
    check("istio-injection: disabled", &never, true, false);
    // And ours are stronger.
    check(injection, &label(refused), true, false);
    check(&format!("{injection}, {refused}"), "", true, false);
    check("istio-injection: disabled", &label(asked), true, true);
}

#[test]
fn a_pod_that_cannot_be_enrolled_is_told_of_where_it_asked_itself() {
    let check = |metadata: &str, spec: &str, expected: &[&str]| {
        let namespace = "mesh-agent.io/enrol: \"true\"";
        let (local, codes) = local(&manifest(namespace, metadata, spec), false);
        assert_eq!(local.map(|(_, enrol)| enrol), Some(false), "{spec}");
        assert_eq!(codes, expected, "{metadata} {spec}");
    };
    let asks = "labels: {mesh-agent.io/enrol: \"true\"}";
    check("", "hostNetwork: true", &[]);
    check(asks, "hostNetwork: true", &["MESH0008"]);
    check(asks, "containers: [{name: istio-proxy}]", &["MESH0008"]);
    check("", "initContainers: [{name: istio-proxy}]", &[]);
}

#[test]
fn a_pod_of_this_node_is_found_by_its_uid() {
    let (found, _) = local(&manifest("", "", ""), false);
    assert_eq!(found, Some((NetnsPlace::Processes("u-1".into()), false)));
    let of_file = "annotations: {kubernetes.io/config.hash: 8a1c}";
    let (found, _) = local(&manifest("", of_file, ""), false);
    assert_eq!(found, Some((NetnsPlace::Processes("8a1c".into()), false)));
    let elsewhere = manifest("", "", "").replace("nodeName: here", "nodeName: there");
    assert_eq!(local(&elsewhere, false).0, None);
    // A path is of no meaning here, and could be anybody's.
    let placed = "annotations: {mesh-agent.io/netns: /proc/1/ns/net}";
    let (found, _) = local(&manifest("", placed, ""), false);
    assert_eq!(found, Some((NetnsPlace::Processes("u-1".into()), false)));
}
