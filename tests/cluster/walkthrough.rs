//! The walkthrough's manifests on a real node, unchanged: two versions of a service, a gateway, a rewrite.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::PATIENCE;
use super::image;
use super::node::Cluster;
use super::scene::Scene;
use crate::agent::{Mode, eventually};

/// The image that the manifests name.
const NGINX: &str = "nginx:1.18-alpine";

/// Where the gateway is.
const SYSTEM: &str = "istio-system";

/// How many requests show the split.
const REQUESTS: usize = 300;

/// Enough of them for one in ten: five standard deviations to either side.
const TENTH: std::ops::RangeInclusive<usize> = 4..=56;

/// 90 and 10 of 100 from within the mesh and by the gateway; then by the path, rewritten.
pub fn the_walkthrough(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    cluster.make_image(NGINX, &image::nginx()?, &["nginx"])?;
    cluster.make_agent_image()?;
    let scene = Scene::new(cluster, "walkthrough", mode, true)?;
    for file in [
        "svc",
        "v1-deploy",
        "v2-deploy",
        "destinationrule",
        "virtualservice",
    ] {
        scene.apply(&manifest(&format!("user-app-{file}"))?)?;
    }
    for version in ["v1", "v2"] {
        let deployment = format!("deployment/user-app-{version}");
        scene.kubectl(&["rollout", "status", "--timeout=120s", &deployment])?;
    }
    let service = address(&scene.kubectl(&[
        "get",
        "service",
        "user-app-svc",
        "--output=jsonpath={.spec.clusterIP}",
    ])?)?;
    let inside = |path: &str| scene.ask_as("user-app-svc", SocketAddr::new(service, 80), path);
    wait_answered(&inside)?;
    expect_split("in the mesh", &inside)?;

    // A gateway is ready once a Gateway has something for it to do.
    for file in ["gateway", "gateway-virtualservice"] {
        scene.apply(&manifest(&format!("user-app-{file}"))?)?;
    }
    let gateway = Gateway::start(cluster)?;
    let outside = |path: &str| scene.ask_as("user-app.com", gateway.address, path);
    wait_answered(&outside)?;
    expect_split("by the gateway", &outside)?;

    scene.apply(&manifest("user-app-gateway-virtualservice-rewrite")?)?;
    let rewritten = || outside("/v2").is_ok_and(|said| said == "user service for v2");
    eventually(PATIENCE, rewritten).with_context(|| format!("/v2 says {:?}", outside("/v2")))?;
    for (path, version) in [("/v1", "v1"), ("/v2", "v2"), ("/", "v1")] {
        for _ in 0..20 {
            let said = outside(path)?;
            ensure!(
                said == format!("user service for {version}"),
                "{path} said {said:?}"
            );
        }
    }
    scene.end()
}

/// The gateway, as it is shipped.
struct Gateway {
    cluster: &'static Cluster,
    address: SocketAddr,
}

impl Gateway {
    fn start(cluster: &'static Cluster) -> Result<Self> {
        cluster.apply(&cluster.shipped("gateway/gateway.yaml")?)?;
        let within =
            |arguments: &[&str]| cluster.kubectl(&[&["--namespace", SYSTEM], arguments].concat());
        let deployment = "deployment/istio-ingressgateway";
        within(&["rollout", "status", "--timeout=120s", deployment]).with_context(|| {
            let said = within(&["logs", "--tail=40", deployment]);
            format!("the gateway: {said:?}; {:?}", within(&["get", "events"]))
        })?;
        let pod = within(&[
            "get",
            "pods",
            "--selector=app=istio-ingressgateway",
            "--output=jsonpath={.items[0].status.podIP}",
        ])?;
        Ok(Self {
            cluster,
            address: SocketAddr::new(address(&pod)?, 8080),
        })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let scale = [
            "scale",
            "deployment",
            "--all",
            "--replicas=0",
            "--namespace",
            SYSTEM,
        ];
        // Not as long as its connections may go on.
        let pods = [
            "delete",
            "pods",
            "--all",
            "--grace-period=1",
            "--namespace",
            SYSTEM,
        ];
        let namespace = ["delete", "namespace", "--timeout=120s", SYSTEM];
        for arguments in [&scale[..], &pods, &namespace] {
            if let Err(error) = self.cluster.kubectl(arguments) {
                eprintln!("{SYSTEM} stays: {error:#}");
            }
        }
    }
}

fn wait_answered(ask: &impl Fn(&str) -> Result<String>) -> Result<()> {
    let answered = eventually(PATIENCE, || ask("/").is_ok());
    answered.or_else(|_| ask("/").map(|_| ()))
}

fn expect_split(whence: &str, ask: &impl Fn(&str) -> Result<String>) -> Result<()> {
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..REQUESTS {
        *answers.entry(ask("/")?).or_default() += 1;
    }
    let second = answers.get("user service for v2").copied().unwrap_or(0);
    let first = answers.get("user service for v1").copied().unwrap_or(0);
    ensure!(
        TENTH.contains(&second) && first + second == REQUESTS,
        "{whence}: {answers:?}"
    );
    Ok(())
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse()
        .with_context(|| format!("an address: {text:?}"))
}

fn manifest(name: &str) -> Result<String> {
    read(&format!("data/walkthrough/{name}.yaml"))
}

fn read(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}
