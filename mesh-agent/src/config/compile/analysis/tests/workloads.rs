//! Sidecars, policies, ServiceEntries and namespaces.

use super::*;

/// An object that is not of `networking.istio.io`, of namespace `default` or `ns/name`.
fn policy(version: &str, kind: &str, name: &str, spec: &str) -> String {
    istio(kind, name, spec).replace("networking.istio.io/v1", version)
}

#[test]
fn pods_have_one_sidecar() {
    let selecting = |name: &str, labels: &str| {
        istio(
            "Sidecar",
            name,
            &format!("{{workloadSelector: {{labels: {{{labels}}}}}}}"),
        )
    };
    let pods = pod("p", "10.1.0.1", "app=a,tier=x") + &pod("other/q", "10.1.0.2", "app=b");
    check(
        "alone",
        &(istio("Sidecar", "a", "{}") + &istio("Sidecar", "other/b", "{}")),
        &[],
    );
    check(
        "two for a namespace",
        &(istio("Sidecar", "a", "{}") + &istio("Sidecar", "b", "{workloadSelector: {labels: {}}}")),
        &[
            "IST0111 Sidecar b metadata.name: the older Sidecar a is for all Pods of the namespace too, and holds",
        ],
    );
    check(
        "for all and for some",
        &(pods.clone() + &istio("Sidecar", "a", "{}") + &selecting("b", "app: a")),
        &[],
    );
    check(
        "two for a Pod",
        &(pods.clone()
            + &selecting("a", "app: a")
            + &selecting("b", "tier: x")
            + &selecting("other/c", "app: b")),
        &[
            "IST0110 Sidecar b spec.workloadSelector: the older Sidecar a selects Pods of this one too, such as Pod p, and holds for them",
        ],
    );
    check(
        "for nobody",
        &(pods + &selecting("a", "app: b")),
        &[
            "IST0101 Sidecar a spec.workloadSelector: no Pod of namespace default is labelled app=b, so this is for nobody",
        ],
    );
    check("no Pods at all", &selecting("a", "app: b"), &[]);
}

#[test]
fn a_policy_selects_somebody() {
    for (version, kind) in [
        ("security.istio.io/v1", "AuthorizationPolicy"),
        ("security.istio.io/v1", "PeerAuthentication"),
        ("security.istio.io/v1", "RequestAuthentication"),
        ("telemetry.istio.io/v1", "Telemetry"),
    ] {
        let selecting = |name: &str, labels: &str| {
            let spec = format!("{{selector: {{matchLabels: {{{labels}}}}}}}");
            pod("p", "10.1.0.1", "app=a") + &policy(version, kind, name, &spec)
        };
        let nobody = |name: &str, whose: &str| {
            format!(
                "IST0127 {kind} {name} spec.selector: no Pod{whose} is labelled app=b, so this is for nobody"
            )
        };
        check(kind, &selecting("x", "app: a"), &[]);
        check(
            kind,
            &selecting("x", "app: b"),
            &[&nobody("x", " of namespace default")],
        );
        check(
            kind,
            &selecting("other/x", "app: b"),
            &[&nobody("other/x", " of namespace other")],
        );
        check(kind, &selecting("istio-system/x", "app: a"), &[]);
        check(
            kind,
            &selecting("istio-system/x", "app: b"),
            &[&nobody("istio-system/x", "")],
        );
        let attached =
            "{selector: {matchLabels: {app: b}}, targetRefs: [{kind: Service, name: a}]}";
        check(
            kind,
            &(pod("p", "10.1.0.1", "app=a") + &policy(version, kind, "x", attached)),
            &[],
        );
    }
}

#[test]
fn claims_are_of_a_token_that_somebody_checks() {
    let route = istio(
        "VirtualService",
        "v",
        "{hosts: [x.com], gateways: [gw], http: [{match: [{headers: {'@request.auth.claims.group': {exact: a}}}], route: [{destination: {host: a}}]}]}",
    );
    let base = a()
        + &gateway("gw", "app: gw", "x.com")
        + &service("gw", "10.0.0.9", &["http:80"])
        + &route;
    let field = "VirtualService v spec.http[0].match[0].headers[\"@request.auth.claims.group\"]";
    let nobody = format!(
        "IST0149 {field}: no RequestAuthentication checks tokens at the gateway gw, so no request has claims, and this never matches"
    );
    let not_here = format!(
        "MESH0001 {field}: tokens are not checked yet, so no request has claims, and this never matches"
    );
    let checker = |name: &str, spec: &str| {
        policy("security.istio.io/v1", "RequestAuthentication", name, spec)
    };
    let gw = pod("gw", "10.1.0.9", "app=gw");
    let cases = [
        (base.clone(), &nobody),
        (base.clone() + &checker("j", "{}"), &not_here),
        (base.clone() + &gw, &nobody),
        (base.clone() + &gw + &checker("j", "{}"), &not_here),
        (
            base.clone() + &gw + &checker("istio-system/j", "{}"),
            &not_here,
        ),
        (base.clone() + &gw + &checker("other/j", "{}"), &nobody),
        (
            base.clone() + &gw + &checker("j", "{selector: {matchLabels: {app: gw}}}"),
            &not_here,
        ),
    ];
    for (text, expected) in cases {
        check(&text, &text, &[expected]);
    }
}

#[test]
fn entries_for_one_host_agree_on_the_protocol() {
    let entry = |name: &str, hosts: &str, protocol: &str| {
        let spec = format!(
            "{{hosts: [{hosts}], resolution: DNS, ports: [{{number: 80, name: p, protocol: {protocol}}}]}}"
        );
        istio("ServiceEntry", name, &spec)
    };
    check(
        "the same",
        &(entry("a", "x.com", "HTTP") + &entry("b", "x.com", "http")),
        &[],
    );
    check(
        "other hosts",
        &(entry("a", "x.com", "HTTP") + &entry("b", "y.com", "TLS")),
        &[],
    );
    check(
        "not the same",
        &(entry("a", "x.com", "HTTP")
            + &entry("b", "'y.com', x.com, z.com", "TLS")
            + &entry("c", "z.com", "TLS")),
        &[
            "IST0177 ServiceEntry b spec.ports[0].protocol: port 80 of x.com is TLS here and HTTP by the older ServiceEntry a, which holds",
        ],
    );
}

#[test]
fn namespaces_say_whether_their_pods_are_in_the_mesh() {
    let namespace = |name: &str, labels: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n"
        )
    };
    let outside = "IST0102 Namespace x metadata.name: Istio would leave the Pods of this namespace outside the mesh, as it is not labelled for injection; here they are in it";
    let inside = "MESH0001 Namespace x metadata.labels.istio-injection: the Pods of this namespace are in the mesh all the same: the label is not looked at";
    let cases: &[(&str, &str, &[&str])] = &[
        ("x", "", &[outside]),
        ("x", "a: b", &[outside]),
        ("x", "istio-injection: enabled", &[]),
        ("x", "istio.io/rev: stable", &[]),
        ("x", "istio.io/dataplane-mode: ambient", &[]),
        ("x", "istio-injection: disabled", &[inside]),
        ("kube-system", "", &[]),
        ("istio-system", "", &[]),
    ];
    for (name, labels, expected) in cases {
        check(labels, &namespace(name, labels), expected);
    }
}

#[test]
fn an_object_can_ask_not_to_be_told_what_is_wrong_with_it_alone() {
    let told = |codes: &str, port: &str| {
        let spec = format!("{{hosts: [x.com], ports: [{port}]}}");
        let annotations =
            format!("metadata: {{annotations: {{galley.istio.io/analyze-suppress: '{codes}'}}, ");
        let text = istio("ServiceEntry", "e", &spec).replace("metadata: {", &annotations);
        let file: Arc<FilePath> = FilePath::new("x.yaml").into();
        let documents = read_text(&text, &file, &CompileOptions::default());
        documents[0].rejected.len()
    };
    let tcp = "{number: 80, name: p, protocol: TCP}";
    assert_eq!(told("IST0130", tcp), 1);
    assert_eq!(told("IST0134", tcp), 0);
    // What is not in force is told of in any case.
    assert_eq!(told("*", "{number: 0, name: p, protocol: TCP}"), 1);
}
