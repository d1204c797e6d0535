//! Documents, and every complaint about one that is not what it should be.

use super::*;

fn complaints(text: &str) -> Vec<String> {
    let file: Arc<FilePath> = FilePath::new("x.yaml").into();
    let documents = read_text(text, &file, &CompileOptions::default());
    let rejected = documents.iter().flat_map(|document| &document.rejected);
    rejected.map(ToString::to_string).collect()
}

/// What is said of a VirtualService whose `spec`, from line 6 on, is this.
fn virtual_service(spec: &str) -> Vec<String> {
    complaints(&format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: reviews\nspec:\n{spec}"
    ))
    .into_iter()
    .map(|complaint| complaint.replace("VirtualService default/reviews: ", ""))
    .collect()
}

#[test]
fn a_complaint_names_file_line_column_object_field_and_remedy() {
    let text = "apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata:
  name: reviews
  namespace: shop
spec:
  hosts:
  - reviews
  http:
  - route:
    - destination:
        host: reviews
      weight: ninety
";
    assert_eq!(
        complaints(text),
        [
            "x.yaml:17:15: VirtualService shop/reviews: spec.http[0].route[0].weight: is the text \"ninety\", \
          expected a whole number"
        ]
    );
}

#[test]
fn every_rule_of_istios_webhook_is_kept() {
    let route = "  http:\n  - route:\n    - destination: {host: a}\n";
    let with = |more: &str| format!("  hosts: [a]\n{route}{more}");
    let cases = [
        (
            "  hosts: [a]\n".to_owned(),
            "x.yaml:5:1: spec: a VirtualService needs http, tls or tcp; add at least one rule",
        ),
        (
            format!("  hosts: ['a*.com']\n{route}"),
            "x.yaml:6:11: spec.hosts[0]: \"a*.com\" is no host; write a name, \"*.name\", \"*\" or an IP address",
        ),
        (
            format!("  hosts: ['*']\n{route}"),
            "x.yaml:6:11: spec.hosts[0]: the host \"*\" cannot be used in the mesh; name hosts, or name gateways without \"mesh\"",
        ),
        (
            format!("  hosts: ['*.foo.com', a.foo.com]\n{route}"),
            "x.yaml:6:24: spec.hosts[1]: \"a.foo.com\" overlaps with \"*.foo.com\"; keep one of them",
        ),
        (
            "  hosts: [a]\n  http: [{name: x}]\n".to_owned(),
            "x.yaml:7:10: spec.http[0]: this rule does nothing; add route, redirect or directResponse",
        ),
        (
            with("    - destination: {host: '*'}\n"),
            "x.yaml:10:27: spec.http[0].route[1].destination.host: \"*\" is no host of a destination; name a Service",
        ),
        (
            with("    - weight: 1\n"),
            "x.yaml:10:7: spec.http[0].route[1].destination: a route needs a destination; add one with a host",
        ),
        (
            with("    - destination: {host: b, port: {number: 0}}\n"),
            "x.yaml:10:45: spec.http[0].route[1].destination.port.number: 0 is no port number; write one between 1 and 65535",
        ),
        (
            with("    - destination: {host: b, port: {number: 70000}}\n"),
            "x.yaml:10:45: spec.http[0].route[1].destination.port.number: 70000 is no port number; write one between 1 and 65535",
        ),
        (
            with("    - destination: {host: b, subset: a.b}\n"),
            "x.yaml:10:38: spec.http[0].route[1].destination.subset: \"a.b\" is no name of a subset; use letters, digits and hyphens, at most 63",
        ),
        (
            with("    - destination: {host: b}\n      weight: -1\n"),
            "x.yaml:11:15: spec.http[0].route[1].weight: the weight -1 is negative; write 0 or more",
        ),
        (
            with("    - destination: {host: b}\n      weight: 0\n"),
            "x.yaml:8:5: spec.http[0].route: the weights of all destinations are 0; give one of them a weight",
        ),
        (
            with("    match: [{uri: {exact: /a, prefix: /b}}]\n"),
            "x.yaml:10:19: spec.http[0].match[0].uri: exact, prefix and regex exclude each other; keep one of them",
        ),
        (
            with("    match: [{uri: {regex: ''}}]\n"),
            "x.yaml:10:27: spec.http[0].match[0].uri.regex: a regex must not be empty; write \".*\" to match everything",
        ),
        (
            with("    match: [{uri: {regex: '(?=a)'}}]\n"),
            "x.yaml:10:27: spec.http[0].match[0].uri.regex: \"(?=a)\" is no regex: look-around, including look-ahead and look-behind, is not supported; write it in RE2's syntax",
        ),
        (
            with("    timeout: 0s\n"),
            "x.yaml:10:14: spec.http[0].timeout: a duration must be at least 1ms; leave the field out to have no limit",
        ),
        (
            with("    timeout: 1.0005s\n"),
            "x.yaml:10:14: spec.http[0].timeout: a duration must be whole milliseconds; round it",
        ),
        (
            with("    timeout: soon\n"),
            "x.yaml:10:14: spec.http[0].timeout: \"soon\" is no duration; write for example \"1.5s\", \"200ms\" or \"1m\"",
        ),
        (
            with("    timeout: 5\n"),
            "x.yaml:10:14: spec.http[0].timeout: is the number 5, expected a string; put it in quotes",
        ),
        (
            with("    rewrite: {}\n"),
            "x.yaml:10:14: spec.http[0].rewrite: this rewrite rewrites nothing; add uri, uriRegexRewrite or authority",
        ),
        (
            with("    retries: {attempts: -1}\n"),
            "x.yaml:10:25: spec.http[0].retries.attempts: -1 attempts are fewer than none; write 0 or more",
        ),
        (
            with("    retries: {attempts: 0, perTryTimeout: 1s}\n"),
            "x.yaml:10:43: spec.http[0].retries.perTryTimeout: perTryTimeout without attempts; set attempts above 0",
        ),
        (
            with("    redirect: {uri: /}\n"),
            "x.yaml:8:5: spec.http[0]: route and redirect cannot stand in one rule; keep one of them",
        ),
        (
            with("  gateways: [a.b.svc.cluster.local]\n"),
            "x.yaml:10:14: spec.gateways[0]: \"a.b.svc.cluster.local\" is the old way to name a gateway; write \"b/a\"",
        ),
        (
            with("  exportTo: ['*', x]\n"),
            "x.yaml:10:13: spec.exportTo: \"*\" and \"~\" cannot stand beside others; leave the others out",
        ),
        (
            with("  exportTo: [x, x]\n"),
            "x.yaml:10:17: spec.exportTo[1]: \"x\" stands here twice; name each namespace once",
        ),
        (
            with("  - route:\n    - destination: {host: b}\n"),
            "x.yaml:10:5: spec.http[1]: no request gets here: http[0] takes all that this would match; move it before that rule, or remove it",
        ),
        (
            with("  htpp: []\n"),
            "x.yaml:10:3: spec.htpp: Istio knows no such field; did you mean http?",
        ),
        (
            with("    macth: []\n"),
            "x.yaml:10:5: spec.http[0].macth: Istio knows no such field; did you mean match?",
        ),
        (
            with("    fooBarBaz: 1\n"),
            "x.yaml:10:5: spec.http[0].fooBarBaz: Istio knows no such field; remove it",
        ),
        (
            with("    match: {uri: {exact: /a}}\n"),
            "x.yaml:10:12: spec.http[0].match: is a mapping, expected a list",
        ),
        (
            with("    match: [/a]\n"),
            "x.yaml:10:13: spec.http[0].match[0]: is the text \"/a\", expected a mapping",
        ),
    ];
    for (spec, expected) in cases {
        let found = virtual_service(&spec);
        assert!(
            found.iter().any(|complaint| complaint == expected),
            "{expected}\nis not in {found:#?}\nof\n{spec}"
        );
    }
}

#[test]
fn what_is_not_supported_is_said_and_never_ignored() {
    let found = virtual_service(
        "  hosts: [a]\n  gateways: [g]\n  http:\n  - match: [{withoutHeaders: {'@request.auth.claims.group': {exact: a}}}]\n    \
         route: [{destination: {host: a}}]\n",
    );
    assert_eq!(
        found,
        [
            "x.yaml:9:61: spec.http[0].match[0].withoutHeaders[\"@request.auth.claims.group\"]: matching by claims that are not \
             there is not supported yet; remove it to have the rest applied"
        ]
    );
}

#[test]
fn snake_case_strings_for_numbers_and_null_are_read_as_by_proto() {
    let found = virtual_service(
        "  hosts: [a]\n  export_to: ['*']\n  http:\n  - timeout: null\n    match: [{ignore_uri_case: true, port: '80'}]\n    \
         route: [{destination: {host: a, port: {number: '80'}}, weight: '1'}]\n",
    );
    assert_eq!(found, Vec::<String>::new());
    let found = virtual_service(
        "  hosts: [a]\n  http:\n  - retries: {per_try_timeout: 1s}\n    route: [{destination: {host: a}}]\n",
    );
    assert!(
        found[0].starts_with("x.yaml:8:32: spec.http[0].retries.perTryTimeout: "),
        "{found:?}"
    );
}

#[test]
fn kinds_are_known_ignored_or_reported() {
    let cases = [
        ("apps/v1", "Deployment", vec![]),
        ("v1", "Secret", vec![]),
        ("v1", "Namespace", vec![]),
        ("acme.io/v1", "VirtualService", vec![]),
        (
            "networking.istio.io/v1",
            "WorkloadGroup",
            vec![
                "x.yaml:2:7: WorkloadGroup x: kind: WorkloadGroup is not supported yet and has no effect",
            ],
        ),
        ("networking.istio.io/v1beta1", "Sidecar", vec![]),
        (
            "security.istio.io/v1",
            "AuthorizationPolicy",
            vec![
                "x.yaml:2:7: AuthorizationPolicy default/x: kind: AuthorizationPolicy is not supported yet and has no effect",
            ],
        ),
        (
            "networking.istio.io/v1",
            "VirtualServic",
            vec![
                "x.yaml:2:7: VirtualServic: kind: there is no VirtualServic in networking.istio.io/v1; check the spelling of the kind",
            ],
        ),
        (
            "networking.istio.io/v2",
            "VirtualService",
            vec![
                "x.yaml:2:7: VirtualService: kind: there is no VirtualService in networking.istio.io/v2; write networking.istio.io/v1",
            ],
        ),
        ("v1", "Service", vec![]),
    ];
    for (version, kind, expected) in cases {
        let found = complaints(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n"
        ));
        assert_eq!(found, expected, "{version} {kind}");
    }
    assert_eq!(
        complaints("a: b"),
        ["x.yaml:1:1: this is no Kubernetes object: apiVersion or kind is missing; add both"]
    );
    assert_eq!(complaints("[1]").len(), 1);
    assert_eq!(
        complaints(
            "apiVersion: v1\nkind: Service\nspec: {type: ExternalName}\nmetadata: {name: y}\n"
        ),
        [
            "x.yaml:4:18: Service: metadata.name: is the boolean true, expected a string; put it in quotes",
            "x.yaml:3:7: Service: spec.externalName: \"\" is no DNS name; write the name that this Service stands for"
        ]
    );
}

#[test]
fn lists_are_their_items() {
    let text = "apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: a}
- apiVersion: v1
  kind: PodList
  items:
  - metadata: {name: p}
    status: {podIP: x}
";
    let file: Arc<FilePath> = FilePath::new("x.yaml").into();
    let documents = read_text(text, &file, &CompileOptions::default());
    assert!(
        matches!(&documents[0].outcome, Outcome::Good(object) if object.id.to_string() == "Service default/a")
    );
    assert!(
        matches!(&documents[1].outcome, Outcome::Broken(Some(id)) if id.to_string() == "Pod default/p")
    );
    assert_eq!(
        complaints(text),
        [
            "x.yaml:11:21: Pod default/p: status.podIP: \"x\" is no IP address; write the Pod's address"
        ]
    );
}

#[test]
fn an_error_of_syntax_leaves_the_other_documents_alone() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\nkind: [\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n";
    let file: Arc<FilePath> = FilePath::new("x.yaml").into();
    let documents = read_text(text, &file, &CompileOptions::default());
    let outcomes: Vec<bool> = documents
        .iter()
        .map(|document| matches!(document.outcome, Outcome::Good(_)))
        .collect();
    assert_eq!(outcomes, [true, false, true]);
    assert!(
        complaints(text)[0].contains("this is not YAML: "),
        "{:?}",
        complaints(text)
    );
}

#[test]
fn every_value_of_the_wrong_type_is_told_of_at_once() {
    let spec = "  hosts: [1, 2]
  gateways: {a: b}
  http:
  - match: [{port: x}]
    route: [{destination: {host: a}, weight: ten, wieght: 1}]
  - match: [5, {port: z}]
";
    let found: Vec<String> = virtual_service(spec)
        .into_iter()
        .map(|complaint| complaint.replace("x.yaml:", ""))
        .collect();
    assert_eq!(
        found,
        [
            "6:11: spec.hosts[0]: is the number 1, expected a string; put it in quotes",
            "7:13: spec.gateways: is a mapping, expected a list",
            "9:20: spec.http[0].match[0].port: is the text \"x\", expected a whole number that is not negative",
            "10:46: spec.http[0].route[0].weight: is the text \"ten\", expected a whole number",
            "11:13: spec.http[1].match[0]: is the number 5, expected a mapping",
            "10:51: spec.http[0].route[0].wieght: Istio knows no such field; did you mean weight?",
        ]
    );
    let labels: String = (0..100).map(|n| format!("l{n}: [], ")).collect();
    let many = complaints(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: a, labels: {{{labels}}}}}\n"
    ));
    assert_eq!(many.len(), 20);
}

#[test]
fn a_field_beside_spec_is_looked_up_too() {
    let text =
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nsepc: {}\n";
    let found = complaints(text);
    assert_eq!(
        found[0],
        "x.yaml:4:1: VirtualService default/a: sepc: Istio knows no such field; did you mean spec?"
    );
}

#[test]
fn what_is_in_a_secret_is_kept_in_its_place_alone() {
    let key = crate::certificate::fixture::self_signed(&["a.example"]);
    let indented = |text: &str| text.replace('\n', "\n    ");
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  annotations: {{last-applied: PRIVATE}}\n\
         type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(&key.chain),
        indented(&key.key),
    );
    let file: Arc<FilePath> = FilePath::new("x.yaml").into();
    let documents = read_text(&text, &file, &CompileOptions::default());
    let Outcome::Good(secret) = &documents[0].outcome else {
        panic!("{:?}", documents[0].rejected);
    };
    let Body::Secret(content) = &secret.body else {
        panic!("{:?}", secret.id);
    };
    assert!(content.certificate.is_some());
    let shown = format!("{documents:?}");
    for line in key.key.lines().filter(|line| line.len() > 40) {
        assert!(!shown.contains(line), "{shown}");
    }
    assert!(!shown.contains("PRIVATE"), "{shown}");
    assert!(
        !shown.contains(&format!("{:?}", key.key.as_bytes())),
        "{shown}"
    );
}
