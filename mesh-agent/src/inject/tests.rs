//! Manifests in many styles.

use super::*;

fn check(text: &str, expected: &str) {
    let injected = inject(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(injected.text, expected);
    // Twice is as good as once.
    let again = inject(&injected.text).expect("it can be read");
    assert_eq!(again.text, expected);
}

#[test]
fn the_label_is_put_where_the_labels_are() {
    check(
        "kind: Deployment\nmetadata:\n  name: web\nspec:\n  template:\n    metadata:\n      labels:\n        app: web # the Service selects it\n    spec: {}\n",
        "kind: Deployment\nmetadata:\n  name: web\nspec:\n  template:\n    metadata:\n      labels:\n        mesh-agent.io/enrol: \"true\"\n        app: web # the Service selects it\n    spec: {}\n",
    );
    check(
        "kind: Deployment\nspec: {template: {metadata: {labels: {app: web}}}}\n",
        "kind: Deployment\nspec: {template: {metadata: {labels: {\"mesh-agent.io/enrol\": \"true\", app: web}}}}\n",
    );
    check(
        "{\"kind\": \"Job\", \"spec\": {\"template\": {\"metadata\": {\"labels\": {}}}}}",
        "{\"kind\": \"Job\", \"spec\": {\"template\": {\"metadata\": {\"labels\": {\"mesh-agent.io/enrol\": \"true\"}}}}}",
    );
}

#[test]
fn what_is_missing_around_it_is_added() {
    check(
        "kind: DaemonSet\nspec:\n  template:\n    metadata:\n      name: x\n",
        "kind: DaemonSet\nspec:\n  template:\n    metadata:\n      labels:\n        mesh-agent.io/enrol: \"true\"\n      name: x\n",
    );
    check(
        "kind: StatefulSet\nspec:\n  template:\n    spec:\n      containers: []\n",
        "kind: StatefulSet\nspec:\n  template:\n    metadata:\n      labels:\n        mesh-agent.io/enrol: \"true\"\n    spec:\n      containers: []\n",
    );
    check(
        "kind: Pod\nmetadata: {name: a}\n",
        "kind: Pod\nmetadata: {\"labels\": {\"mesh-agent.io/enrol\": \"true\"}, name: a}\n",
    );
}

#[test]
fn every_kind_that_makes_pods_is_known_and_the_rest_is_left_alone() {
    let cron = "kind: CronJob\nspec:\n  jobTemplate:\n    spec:\n      template:\n        metadata:\n          labels:\n            a: b\n";
    check(
        cron,
        &cron.replace("a: b", "mesh-agent.io/enrol: \"true\"\n            a: b"),
    );
    let list = "kind: List\nitems:\n- kind: Service\n  metadata: {name: s}\n- kind: Pod\n  metadata:\n    labels:\n      a: b\n";
    check(
        list,
        &list.replace("a: b", "mesh-agent.io/enrol: \"true\"\n      a: b"),
    );
    let others = "# nothing here\nkind: Service\nspec: {template: {metadata: {labels: {a: b}}}}\n---\nkind: ConfigMap\ndata: {x: \"kind: Pod\"}\n";
    check(others, others);
}

#[test]
fn several_documents_keep_their_order_and_their_comments() {
    check(
        "# first\nkind: Pod\nmetadata:\n  labels:\n    a: b\n---\n# second\nkind: Pod\nmetadata:\n  labels:\n    'ü': \"c\"\n",
        "# first\nkind: Pod\nmetadata:\n  labels:\n    mesh-agent.io/enrol: \"true\"\n    a: b\n---\n# second\nkind: Pod\nmetadata:\n  labels:\n    mesh-agent.io/enrol: \"true\"\n    'ü': \"c\"\n",
    );
    check(
        "\u{feff}kind: Pod\r\nmetadata:\r\n  labels:\r\n    a: b\r\n",
        "\u{feff}kind: Pod\r\nmetadata:\r\n  labels:\r\n    mesh-agent.io/enrol: \"true\"\n    a: b\r\n",
    );
}

#[test]
fn who_says_no_or_cannot_stays_outside() {
    let outcome = |text: &str| {
        let injected = inject(text).expect("it can be read");
        assert_eq!(injected.text, text);
        injected.workloads[0].outcome
    };
    let no = "kind: Pod\nmetadata: {labels: {mesh-agent.io/enrol: \"false\"}}\n";
    assert_eq!(outcome(no), Outcome::Refuses);
    let annotated = "kind: Pod\nmetadata: {annotations: {mesh-agent.io/enrol: \"false\"}}\n";
    assert_eq!(outcome(annotated), Outcome::Refuses);
    let host = "kind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: true}\n";
    assert_eq!(outcome(host), Outcome::HostNetwork);
    let asked = "kind: Pod\nmetadata: {labels: {mesh-agent.io/enrol: \"true\"}}\n";
    assert_eq!(outcome(asked), Outcome::Asked);
}

#[test]
fn what_cannot_be_added_to_is_told_of_and_nothing_is_changed() {
    let alias = "kind: Deployment\nmetadata: {labels: &l {a: b}}\nspec:\n  template:\n    metadata:\n      labels: *l\n";
    let error = inject(alias).expect_err("an alias");
    assert_eq!(
        error.to_string(),
        "line 5: the labels of Deployment  are written in a way that nothing can be added to; write mesh-agent.io/enrol: \"true\" there by hand"
    );
    assert!(matches!(
        inject("a: [").expect_err("no YAML"),
        InjectError::Syntax(_)
    ));
    let word = "kind: Pod\nmetadata: {labels: yes}\n";
    assert!(matches!(
        inject(word).expect_err("no mapping"),
        InjectError::Odd { .. }
    ));
    let enrolled = "kind: Pod\nmetadata: {labels: {mesh-agent.io/enrol: maybe}}\n";
    assert!(matches!(
        inject(enrolled).expect_err("twice"),
        InjectError::Odd { .. }
    ));
}
