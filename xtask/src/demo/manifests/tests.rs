//! Checks that what the demo adds to the walkthrough's manifests is what a cluster would add.

use std::net::Ipv6Addr;

use super::*;

#[test]
fn a_deployment_gives_its_pods_their_labels() {
    let template = template(V2).unwrap();
    assert_eq!(template.name, "user-app-v2");
    assert_eq!(
        template.labels.get("version").map(String::as_str),
        Some("v2")
    );
    assert_eq!(template.image, "nginx:1.18-alpine");
    assert_eq!(template.command[..2], ["sh", "-c"]);
    assert!(template.command[2].contains("nginx -g 'daemon off;'"));
}

#[test]
fn an_allocated_service_differs_by_its_address_alone() {
    let text = allocated(SERVICE, Ipv4Addr::new(10, 96, 0, 10));
    let added: Vec<&str> = text
        .lines()
        .filter(|line| !SERVICE.lines().any(|own| own == *line))
        .collect();
    assert_eq!(
        added,
        [
            "  clusterIP: 10.96.0.10",
            "  clusterIPs:",
            "  - 10.96.0.10",
            "  type: ClusterIP"
        ]
    );
    let object: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(object["spec"]["clusterIP"], "10.96.0.10");
    assert_eq!(object["spec"]["selector"]["app"], "user-app");
}

#[test]
fn a_pod_reads_back() {
    let pod = PodObject {
        namespace: "default",
        name: "user-app-v1".into(),
        labels: [("version".into(), "1".into())].into(),
        image: "nginx:1.18-alpine".into(),
        netns: "/run/netns/user-app-v1".into(),
        ips: [
            IpAddr::V4(Ipv4Addr::new(10, 97, 0, 3)),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ],
        node: Ipv4Addr::new(10, 97, 0, 1),
    };
    let object: serde_json::Value = serde_saphyr::from_str(&pod.render()).unwrap();
    assert_eq!(object["metadata"]["labels"]["version"], "1");
    assert_eq!(
        object["metadata"]["annotations"]["mesh-agent.io/netns"],
        "/run/netns/user-app-v1"
    );
    assert_eq!(object["status"]["podIPs"][1]["ip"], "::1");
    assert_eq!(object["status"]["conditions"][0]["status"], "True");
}

#[test]
fn the_rewriting_routes_are_the_same_object() {
    let name = |text: &str| {
        serde_saphyr::from_str::<serde_json::Value>(text).unwrap()["metadata"]["name"].clone()
    };
    let plain = UNCHANGED
        .iter()
        .find(|(file, _)| *file == GATEWAY_ROUTES)
        .unwrap()
        .1;
    assert_eq!(name(plain), name(REWRITE.1));
}
