//! One pass through the proxy where there would be two: between pods of one node. Everything that anybody can see of it is
//! compared with two passes: what the server gets, what the client gets, what is counted, what is logged.

mod apps;
mod cases;
mod stage;

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::agent::{Agent, Mode, eventually};
use crate::flows::Facts;
use crate::flows::names::{APP_VIP, CLIENT};
use crate::flows::scene::Scene;
use crate::flows::talk::{connect, converse, greet, hear};
use crate::http::Connection;
use crate::load::Load;
use crate::manifests::SOURCE;
use crate::{InMode, Test, in_modes};
use cases::Transcript;
use stage::Stage;

const PATIENCE: Duration = Duration::from_secs(10);

/// Both ways to redirect, once each: what differs between the two kinds of chains is before the proxy.
const MODES: [Mode; 2] = [Mode::IptablesNft, Mode::Ebpf];

/// Each in both modes.
pub fn tests() -> Vec<Test> {
    let all: &[(&str, InMode)] = &[
        ("equals_two_passes", |mode| {
            equals_two_passes(mode, &[], &[])
        }),
        ("equals_two_passes_with_the_clients_address", |mode| {
            equals_two_passes(mode, &[(SOURCE, "preserve")], &[])
        }),
        ("leaving_under_load", leaving_under_load),
        (
            "a_server_that_leaves_the_node",
            a_server_that_leaves_the_node,
        ),
        (
            "open_connections_of_a_server_that_leaves",
            open_connections_of_a_server_that_leaves,
        ),
    ];
    let ebpf: &[(&str, InMode)] = &[
        ("equals_two_passes_on_the_fast_path", |mode| {
            equals_two_passes(mode, &[], &["--fast-path", "applications"])
        }),
        ("takes_the_fast_path", takes_the_fast_path),
    ];
    let mut tests = in_modes("one_hop", &MODES, all);
    tests.extend(in_modes("one_hop", &[Mode::Ebpf], ebpf));
    tests
}

fn equals_two_passes(mode: Mode, annotations: &[(&str, &str)], flags: &[&str]) -> Result<()> {
    let apart = |one_hop| {
        // A world for each, which takes a thread of its own.
        let observed = thread::scope(|scope| {
            let observe = || {
                mesh_tests::isolate()?;
                observe(mode, annotations, flags, one_hop)
            };
            scope.spawn(observe).join()
        });
        observed.unwrap_or_else(|_| bail!("with --one-hop {one_hop}: panicked; see above"))
    };
    let (twice, once) = (apart("off")?, apart("on")?);
    ensure!(
        twice.len() == once.len(),
        "{} entries with two passes, {} with one",
        twice.len(),
        once.len()
    );
    let mut wrong = Vec::new();
    for ((case, expected), (other, got)) in twice.iter().zip(&once) {
        ensure!(case == other, "{case} beside {other}");
        if expected != got {
            let (expected, got) = (only(expected, got), only(got, expected));
            wrong.push(format!(
                "{case}:\n  with two passes: {expected}\n  with one: {got}"
            ));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} differ\n{}",
        wrong.len(),
        once.len(),
        wrong.join("\n")
    );
    Ok(())
}

/// The lines of one text that another has not, or not so many of.
fn only(text: &str, other: &str) -> String {
    let count = |text: &str, wanted: &str| text.lines().filter(|line| *line == wanted).count();
    let lines = text.lines();
    let lines = lines.filter(|line| count(text, line) > count(other, line));
    lines.collect::<Vec<_>>().join("\n")
}

/// Both legs that are left go without TCP: from the client's app to the agent, and from there to the server's.
fn takes_the_fast_path(mode: Mode) -> Result<()> {
    let stage = Stage::build(mode, &[], &["--fast-path", "applications"])?;
    let mut connection = Connection::new(stage.dial(APP_VIP.0.into(), 80)?)?;
    for _ in 0..20 {
        let response = connection.get("app-svc", "/plain")?;
        ensure!(response.status == 200, "{response:?}");
    }
    expect_all_passed_on(&stage.agent)?;
    let event = |name: &str| format!("mesh_agent_fast_path_events_total{{event=\"{name}\"}}");
    let joined = stage.agent.metric(&event("joined"))?;
    // The server's answer, 20 times, on either leg, and the requests.
    let bytes = "mesh_agent_fast_path_bytes_total{way=\"redirected\"}";
    let redirected = stage.agent.metric(bytes)?;
    ensure!(
        joined.is_some_and(|joined| joined >= 2.0) && redirected.is_some_and(|n| n > 8_000.0),
        "joined: {joined:?}, redirected: {redirected:?}, {}",
        stage.metrics()?
    );
    Ok(())
}

/// What everybody saw of all cases, and which way it went.
fn observe(
    mode: Mode,
    annotations: &[(&str, &str)],
    flags: &[&str],
    one_hop: &str,
) -> Result<Transcript> {
    let mut flags = [flags, &["--one-hop", one_hop]].concat();
    if !flags.contains(&"--fast-path") {
        flags.extend(["--fast-path", "agents"]);
    }
    let stage = Stage::build(mode, annotations, &flags)?;
    let seen = cases::run(&stage).with_context(|| format!("with --one-hop {one_hop}"))?;
    let accepted = stage.agent.accepted()?;
    let by_listener = accepted.inbound - accepted.one_hop;
    let as_meant = match one_hop {
        "on" => accepted.one_hop > 0 && by_listener == 0,
        _ => accepted.one_hop == 0 && by_listener > 0,
    };
    ensure!(as_meant, "with --one-hop {one_hop}: {accepted:?}");
    if mode == Mode::Ebpf && one_hop == "off" {
        // The agent needs no TCP to reach itself.
        let bytes = "mesh_agent_fast_path_bytes_total{way=\"redirected\"}";
        let redirected = stage.agent.metric(bytes)?;
        ensure!(
            redirected.is_some_and(|bytes| bytes > 10_000.0),
            "{redirected:?}"
        );
    }
    Ok(seen)
}

/// Has connections opened all the time.
const SHORT_LIVES: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: app, namespace: default}
spec:
  host: app-svc
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 7}}}
";

/// The server's pod leaves the mesh and comes back while its neighbour asks: nobody notices.
fn leaving_under_load(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[], true)?;
    scene.manifests.write("short-lives.yaml", SHORT_LIVES)?;
    let agent = scene.agent()?;
    let loads = [IpAddr::from(APP_VIP.0), IpAddr::from(APP_VIP.1)]
        .map(|ip| Load::start(&scene.client, SocketAddr::new(ip, 80), "app-svc", &["/"], 2));
    let mut handed = Vec::new();
    for enrolled in [true, false, true] {
        scene
            .manifests
            .pod(&scene.app_object.clone().enrol(enrolled))?;
        agent.wait_enrolled("default/app", enrolled)?;
        // A pod that was out begins to count anew.
        let before = agent.accepted()?.one_hop;
        thread::sleep(Duration::from_millis(1500));
        handed.push(agent.accepted()?.one_hop.saturating_sub(before));
    }
    for load in loads {
        load.stop()?.expect_faultless(100)?;
    }
    ensure!(
        handed[0] > 0 && handed[1] == 0 && handed[2] > 0,
        "passed on while the server's pod was in, out, and in again: {handed:?}"
    );
    Ok(())
}

/// Connections that stand when the server's pod goes out of the mesh get the drain time, as any others of it.
fn open_connections_of_a_server_that_leaves(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[], true)?;
    let target = SocketAddr::new(APP_VIP.0.into(), 9000);
    let dial = || scene.client.run(|| connect(target, |_| Ok(())));
    let mut stream = dial()??;
    greet(&mut stream)?;
    scene
        .manifests
        .pod(&scene.app_object.clone().enrol(false))?;
    scene.agent()?.wait_enrolled("default/app", false)?;
    let mut facts = Facts::default();
    hear(stream, &mut facts);
    ensure!(
        facts.get("echo") == "intact" && facts.get("seen") == "127.0.0.6",
        "a connection that was open: {facts}"
    );
    let mut facts = Facts::default();
    converse(dial()??, &mut facts);
    ensure!(
        facts.get("end") == "fin" && facts.get("seen") == "client",
        "a new one, which goes there directly: {facts}"
    );
    Ok(())
}

/// The server's pod is gone from the node with its namespace, and its kept connections with it: what is asked then finds
/// nobody, and says so; a pod in its place is found.
fn a_server_that_leaves_the_node(mode: Mode) -> Result<()> {
    let mut stage = Stage::build(mode, &[], &[])?;
    let before = stage.ask("GET", "/plain")?;
    ensure!(before.starts_with("HTTP/1.1 200 "), "{before}");
    stage.remove_app()?;
    let gone = stage.ask("GET", "/plain")?;
    ensure!(gone.starts_with("HTTP/1.1 503 "), "{gone}");
    stage.restore_app()?;
    eventually(PATIENCE, || {
        stage
            .ask("GET", "/plain")
            .is_ok_and(|again| again == before)
    })
    .context("the pod in its place")?;
    expect_all_passed_on(&stage.agent)?;
    // The client's own address is what its neighbour's log has.
    ensure!(
        stage
            .logged()?
            .iter()
            .any(|line| line.contains("hop=inbound")
                && line.contains(&format!("peer=\"{}:", CLIENT.0))),
        "{:?}",
        stage.logged()?
    );
    Ok(())
}

fn expect_all_passed_on(agent: &Agent) -> Result<()> {
    let accepted = agent.accepted()?;
    ensure!(
        accepted.one_hop > 0 && accepted.inbound == accepted.one_hop,
        "{accepted:?}"
    );
    Ok(())
}
