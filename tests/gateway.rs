//! The walkthrough: two versions of a service, a split, an ingress gateway and a rewrite, with its manifests unchanged.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Pod, PodOptions, World, WorldOptions};
use nix::sys::signal::Signal;

use crate::agent::{Agent, MESHED, Mode, eventually};
use crate::http::{self, Connection, Response};
use crate::load::Load;
use crate::manifests::{Manifests, PodObject, ServiceObject};
use crate::servers::Server;
use crate::{InMode, Test, in_modes};

const GATEWAY: &str = include_str!("data/walkthrough/user-app-gateway.yaml");
const GATEWAY_ROUTES: &str = include_str!("data/walkthrough/user-app-gateway-virtualservice.yaml");
const GATEWAY_REWRITE: &str =
    include_str!("data/walkthrough/user-app-gateway-virtualservice-rewrite.yaml");
const MESH_ROUTES: &str = include_str!("data/walkthrough/user-app-virtualservice.yaml");
const SUBSETS: &str = include_str!("data/walkthrough/user-app-destinationrule.yaml");
const SERVICE: &str = include_str!("data/walkthrough/user-app-svc.yaml");

const V1: &str = "user service for v1";
const V2: &str = "user service for v2";
/// The gateway's own pod.
const GATEWAY_POD: &str = "istio-system/istio-ingressgateway";
/// What an API server would have put into the walkthrough's Service.
const VIP: [u8; 4] = [10, 96, 0, 20];

/// In every mode that has an agent.
pub fn tests() -> Vec<Test> {
    let tests: &[(&str, InMode)] = &[
        ("split_in_the_mesh", split_in_the_mesh),
        ("split_at_the_gateway", split_at_the_gateway),
        ("rewrite_under_load", rewrite_under_load),
        ("unknown_host_at_the_gateway", unknown_host_at_the_gateway),
        (
            "relabelled_gateway_stays_open",
            relabelled_gateway_stays_open,
        ),
        (
            "leaving_gateway_takes_connections",
            leaving_gateway_takes_connections,
        ),
    ];
    in_modes("walkthrough", &MESHED, tests)
}

/// Dropped from the top: processes first, the world last.
struct Stage {
    gateway: Agent,
    agent: Agent,
    _servers: Vec<Server>,
    manifests: Manifests,
    client: Pod,
    gateway_pod: Pod,
    world: World,
}

impl Stage {
    fn build(mode: Mode) -> Result<Self> {
        let world = World::new(WorldOptions::default())?;
        world.host("user-app-svc", VIP)?;
        let make = |name: &str| world.pod(name, PodOptions::default());
        let (client, gateway_pod) = (make("client")?, make("gateway")?);
        let (v1, v2) = (make("user-app-v1")?, make("user-app-v2")?);
        let servers = vec![
            http::serve(&v1, "v1", 80, Some(V1))?,
            http::serve(&v2, "v2", 80, Some(V2))?,
        ];
        let manifests = Manifests::new()?;
        manifests.pod(&PodObject::local(&client))?;
        for (pod, version) in [(&v1, "v1"), (&v2, "v2")] {
            manifests.pod(
                &PodObject::local(pod)
                    .label("app", "user-app")
                    .label("version", version),
            )?;
        }
        manifests.pod(&gateway_object(&gateway_pod))?;
        manifests.service(
            &ServiceObject::new(
                "istio-ingressgateway",
                vec![[10, 96, 0, 21].into()],
                "istio-ingressgateway",
            )
            .namespace("istio-system")
            .port("http2", 80, 8080),
        )?;
        // As stored by an API server: the Service has its address.
        let service = SERVICE.replace("spec:\n", "spec:\n  clusterIP: 10.96.0.20\n");
        manifests.write("user-app-svc.yaml", &service)?;
        manifests.write("user-app-destinationrule.yaml", SUBSETS)?;
        manifests.write("user-app-virtualservice.yaml", MESH_ROUTES)?;
        manifests.write("user-app-gateway.yaml", GATEWAY)?;
        manifests.write("user-app-gateway-virtualservice.yaml", GATEWAY_ROUTES)?;
        let agent = Agent::start(&world, manifests.path(), mode)?;
        let gateway = Agent::gateway(&world, manifests.path(), &gateway_pod, GATEWAY_POD)?;
        Ok(Self {
            gateway,
            agent,
            _servers: servers,
            manifests,
            client,
            gateway_pod,
            world,
        })
    }

    fn gateway_address(&self) -> SocketAddr {
        SocketAddr::new(self.gateway_pod.ipv4.into(), 8080)
    }

    /// Asks the gateway from outside, as a user would.
    fn ask_gateway(&self, host: &str, path: &str) -> Result<Response> {
        http::get(
            connect(self.world.outside(), self.gateway_address())?,
            host,
            path,
        )
    }
}

fn gateway_object(pod: &Pod) -> PodObject {
    let addresses = vec![pod.ipv4.into(), pod.ipv6.into()];
    PodObject::remote("istio-ingressgateway", addresses).namespace("istio-system")
}

fn connect(from: &Pod, target: SocketAddr) -> Result<TcpStream> {
    from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(3)))?
        .with_context(|| format!("connecting to {target}"))
}

/// 1,000 requests; how many of them v2 answered.
fn share_of_v2(from: &Pod, target: SocketAddr, host: &str) -> Result<usize> {
    let mut v2 = 0;
    for _ in 0..20 {
        let mut connection = Connection::new(connect(from, target)?)?;
        for _ in 0..50 {
            let response = connection.get(host, "/")?;
            match response.text().trim() {
                V1 => {}
                V2 => v2 += 1,
                other => anyhow::bail!("{} {other:?}", response.status),
            }
        }
    }
    Ok(v2)
}

/// 100 of 1,000 are asked for. Five standard deviations are 47: a right split misses them once in a million runs.
fn expect_tenth(v2: usize) -> Result<()> {
    ensure!(
        (53..=147).contains(&v2),
        "v2 answered {v2} of 1000, asked for were 100"
    );
    Ok(())
}

fn split_in_the_mesh(mode: Mode) -> Result<()> {
    let stage = Stage::build(mode)?;
    let target = SocketAddr::new(IpAddr::from(VIP), 80);
    expect_tenth(share_of_v2(&stage.client, target, "user-app-svc")?)?;
    let response = http::get(connect(&stage.client, target)?, "user-app-svc", "/")?;
    ensure!(response.header("server") == "envoy", "{response:?}");
    ensure!(
        !response.header("x-envoy-upstream-service-time").is_empty(),
        "{response:?}"
    );
    let accepted = stage.agent.accepted()?;
    ensure!(
        accepted.outbound == 21 && accepted.inbound > 0,
        "not through the agent: {accepted:?}"
    );
    // By name, as the pod's own tools would.
    let output = stage
        .client
        .command("getent")
        .args(["hosts", "user-app-svc"])
        .output()?;
    ensure!(
        output.status.success(),
        "user-app-svc does not resolve in the pod"
    );
    Ok(())
}

fn split_at_the_gateway(mode: Mode) -> Result<()> {
    let stage = Stage::build(mode)?;
    let v2 = share_of_v2(
        stage.world.outside(),
        stage.gateway_address(),
        "user-app.com",
    )?;
    expect_tenth(v2)?;
    let response = stage.ask_gateway("user-app.com", "/")?;
    ensure!(response.header("server") == "istio-envoy", "{response:?}");
    ensure!(
        !response.header("x-envoy-upstream-service-time").is_empty(),
        "{response:?}"
    );
    Ok(())
}

fn unknown_host_at_the_gateway(mode: Mode) -> Result<()> {
    let stage = Stage::build(mode)?;
    let response = stage.ask_gateway("somebody-else.com", "/")?;
    ensure!(response.status == 404, "{response:?}");
    Ok(())
}

/// Other labels on the gateway's pod may mean other routes; the port is open all the while.
fn relabelled_gateway_stays_open(mode: Mode) -> Result<()> {
    let stage = Stage::build(mode)?;
    let generation =
        || -> Result<Option<u64>> { Ok(stage.gateway.status()?["generation"].as_u64()) };
    for round in 0..3 {
        let before = generation()?;
        let object = gateway_object(&stage.gateway_pod).label("round", &round.to_string());
        stage.manifests.pod(&object)?;
        eventually(Duration::from_secs(3), || {
            let response = stage.ask_gateway("user-app.com", "/");
            // A refusal ends the wait as well, and is seen below.
            response.is_err() || generation().is_ok_and(|now| now > before)
        })?;
        for _ in 0..20 {
            let response = stage.ask_gateway("user-app.com", "/")?;
            ensure!(response.status == 200, "{response:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Told to end, a gateway is not ready at once, and goes on as before for as long as it was told to.
fn leaving_gateway_takes_connections(mode: Mode) -> Result<()> {
    let mut stage = Stage::build(mode)?;
    let patience = Duration::from_secs(20);
    stage.gateway.process.stop(patience)?;
    ensure!(stage.ask_gateway("user-app.com", "/").is_err());
    stage.gateway = Agent::gateway_with(
        &stage.world,
        stage.manifests.path(),
        &stage.gateway_pod,
        GATEWAY_POD,
        &["--keep-accepting", "5"],
    )?;
    stage.gateway.process.signal(Signal::SIGTERM)?;
    eventually(patience, || {
        let ready = stage.gateway.get("/ready");
        ready.is_ok_and(|response| response.status == 503)
    })?;
    let response = stage.ask_gateway("user-app.com", "/")?;
    ensure!(response.status == 200, "{response:?}");
    let status = stage.gateway.process.wait(patience)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// The rewrite arrives while requests run, and none of them fails.
fn rewrite_under_load(mode: Mode) -> Result<()> {
    let stage = Stage::build(mode)?;
    let load = Load::start(
        stage.world.outside(),
        stage.gateway_address(),
        "user-app.com",
        &["/", "/v1", "/v2"],
        4,
    );
    thread::sleep(Duration::from_millis(300));
    stage
        .manifests
        .write("user-app-gateway-virtualservice.yaml", GATEWAY_REWRITE)?;
    let answers = |path: &str| {
        stage.ask_gateway("user-app.com", path).map_or_else(
            |e| e.to_string(),
            |response| response.text().trim().to_owned(),
        )
    };
    // With the old split, eight times v2 in a row comes once in a hundred million runs.
    eventually(Duration::from_secs(3), || {
        (0..8).all(|_| answers("/v2") == V2)
    })
    .context("the rewrite never became live")?;
    for _ in 0..50 {
        for (path, expected) in [("/v1", V1), ("/v2", V2), ("/", V1), ("/v2/more", V2)] {
            let answer = answers(path);
            ensure!(answer == expected, "{path} said {answer:?}");
        }
    }
    thread::sleep(Duration::from_millis(300));
    load.stop()?.expect_faultless(200)
}
