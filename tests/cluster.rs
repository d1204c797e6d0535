//! The agent on a node of a real Kubernetes: its API server says what the world is, its kubelet and containerd make the
//! pods. One cluster serves all these tests; each has a namespace of its own.

mod image;
mod live;
mod node;
mod plugin;
mod pods;
mod probes;
mod scene;
mod shipped;
mod walkthrough;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::agent::{Mode, eventually};
use crate::load::Load;
use crate::{InMode, Lacking, Run, Test};
use node::Cluster;
use scene::{PATHS, Routes, Scene};

/// For the API server's word to be in force, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

const MODES: [Mode; 2] = [Mode::IptablesNft, Mode::Ebpf];

/// Each in both modes. They share the node with each other, so they have no namespace of their own.
pub fn tests() -> Vec<Test> {
    let all: &[(&str, InMode)] = &[
        ("istio_comes_after_the_agent", istio_comes_after_the_agent),
        (
            "a_mistake_is_told_on_its_object",
            a_mistake_is_told_on_its_object,
        ),
        ("a_label_enrols_and_withdraws", a_label_enrols_and_withdraws),
        (
            "the_api_server_restarts_under_load",
            the_api_server_restarts_under_load,
        ),
        ("starts_without_an_api_server", starts_without_an_api_server),
        ("the_walkthrough", walkthrough::the_walkthrough),
        ("as_it_is_shipped", shipped::as_it_is_shipped),
        (
            "no_pod_begins_outside_the_mesh",
            plugin::no_pod_begins_outside_the_mesh,
        ),
        ("the_kubelet_probes", probes::the_kubelet_probes),
        (
            "a_label_moves_pods_under_load",
            live::a_label_moves_pods_under_load,
        ),
        ("the_node_reboots", live::the_node_reboots),
    ];
    let mut tests = Vec::new();
    for (name, run) in all {
        for mode in MODES {
            let run = *run;
            tests.push(Test {
                name: format!("cluster::{name}::{}", mode.name()),
                lacking: mode.lacking(),
                needs_root: false,
                run: Run::boxed(move || {
                    if !nix::unistd::Uid::effective().is_root() {
                        return Err(Lacking("needs root; use sudo".to_owned()).into());
                    }
                    run(mode)
                }),
            });
        }
    }
    tests
}

/// An agent that starts where nobody has heard of Istio serves Services; when Istio's kinds are there, it follows them.
fn istio_comes_after_the_agent(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.forget_istio()?;
    let scene = Scene::new(cluster, "late", mode, true)?;
    scene.wait_enrolled(true)?;
    let answers = scene.ask_all(40)?;
    ensure!(
        answers.contains("v1 at /") && answers.contains("v2 at /"),
        "a Service without routes: {answers:?}"
    );

    cluster.define_istio()?;
    scene.apply_routes(Routes::FirstVersion)?;
    scene.wait_routed(Routes::FirstVersion)?;
    scene.apply_routes(Routes::SecondVersion)?;
    scene.wait_routed(Routes::SecondVersion)?;
    scene.end()
}

/// A route to what is not there is told of on the object that has it, and so is its mending.
fn a_mistake_is_told_on_its_object(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    let scene = Scene::new(cluster, "mistake", mode, true)?;
    scene.apply_routes(Routes::FirstVersion)?;
    for (subset, accepted) in [("v9", "False"), ("v2", "True")] {
        scene.apply_elsewhere(subset)?;
        let said = || scene.condition("elsewhere");
        eventually(PATIENCE, || said().is_ok_and(|said| said == accepted))
            .with_context(|| format!("subset {subset}: the condition is {:?}", said()))?;
    }
    let events = scene.events_of_elsewhere()?;
    ensure!(
        events == "ReferencedResourceNotFound Accepted",
        "the events: {events:?}"
    );
    // What nothing was wrong with is left alone.
    let routes = scene.condition("web")?;
    ensure!(routes.is_empty(), "the other one says {routes}");
    scene.end()
}

/// Pods join and leave while they run, as the labels of their namespace and their own say.
fn a_label_enrols_and_withdraws(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    let scene = Scene::new(cluster, "labels", mode, false)?;
    scene.apply_routes(Routes::FirstVersion)?;
    let outside = |scene: &Scene| -> Result<()> {
        let before = scene.agent()?.accepted()?;
        scene.ask_server_directly()?;
        let after = scene.agent()?.accepted()?;
        ensure!(before == after, "the agent has {after:?}, not {before:?}");
        Ok(())
    };
    outside(&scene).context("before")?;

    scene.label_namespace("mesh-agent.io/enrol=true")?;
    scene.wait_enrolled(true)?;
    scene.wait_routed(Routes::FirstVersion)?;
    let before = scene.agent()?.accepted()?;
    scene.ask_server_directly()?;
    let after = scene.agent()?.accepted()?;
    ensure!(after.outbound > before.outbound, "{after:?} and {before:?}");

    scene.label_pod("client", "mesh-agent.io/enrol=false")?;
    scene.wait_pod_enrolled("client", false)?;
    ensure!(scene.is_enrolled("web-v1")?, "the others stay");
    let outbound = scene.agent()?.accepted()?.outbound;
    scene.ask_server_directly()?;
    ensure!(
        outbound == scene.agent()?.accepted()?.outbound,
        "as a client outside"
    );

    scene.label_pod("client", "mesh-agent.io/enrol-")?;
    scene.wait_pod_enrolled("client", true)?;
    scene.wait_routed(Routes::FirstVersion)?;
    scene.label_namespace("mesh-agent.io/enrol-")?;
    scene.wait_enrolled(false)?;
    outside(&scene).context("after")?;
    scene.end()
}

/// API server and etcd are killed and come again; no request notices, and what changes then is followed.
fn the_api_server_restarts_under_load(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    let scene = Scene::new(cluster, "restart", mode, true)?;
    scene.apply_routes(Routes::FirstVersion)?;
    scene.wait_enrolled(true)?;
    scene.wait_routed(Routes::FirstVersion)?;

    let load = Load::start(scene.client(), scene.services()[0], "web", &PATHS, 2);
    let away = cluster.without(&["api-server", "etcd"])?;
    ensure!(
        cluster.kubectl(&["get", "--raw", "/readyz"]).is_err(),
        "it is away"
    );
    // Time for the watches to end, and to be tried again in vain.
    std::thread::sleep(Duration::from_secs(5));
    away.back()?;
    scene.apply_routes(Routes::SecondVersion)?;
    let followed = scene.wait_routed(Routes::SecondVersion);
    let tally = load.stop()?;
    followed?;
    tally.expect_faultless(200)?;
    scene.end()
}

/// An agent that starts while the API server is away serves what that said last, and follows it once it is back.
fn starts_without_an_api_server(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    let mut scene = Scene::new(cluster, "saved", mode, true)?;
    scene.apply_routes(Routes::SecondVersion)?;
    scene.wait_enrolled(true)?;
    scene.wait_routed(Routes::SecondVersion)?;

    let away = cluster.without(&["api-server"])?;
    scene.restart_agent()?;
    scene.wait_enrolled(true)?;
    scene.wait_routed(Routes::SecondVersion)?;
    away.back()?;
    scene.apply_routes(Routes::FirstVersion)?;
    scene.wait_routed(Routes::FirstVersion)?;
    scene.end()
}
