//! What befalls a node that is at work.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::node::Cluster;
use super::scene::{Routes, Scene};
use super::{PATIENCE, plugin};
use crate::agent::{Mode, eventually};
use crate::load::Load;

/// Pods join and leave while they talk to each other; no request notices.
pub fn a_label_moves_pods_under_load(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    let scene = Scene::new(cluster, "moves", mode, false)?;
    // By the address of the pod, which leads there with the mesh and without it.
    let load = Load::start(scene.client(), scene.server(), "web", &["/"], 3);
    let moved = move_in_and_out(&scene);
    let tally = load.stop()?;
    moved?;
    tally.expect_faultless(200)?;
    scene.end()
}

fn move_in_and_out(scene: &Scene) -> Result<()> {
    for _ in 0..3 {
        scene.label_namespace("mesh-agent.io/enrol=true")?;
        scene.wait_enrolled(true)?;
        // Some requests of each kind of connection.
        std::thread::sleep(Duration::from_secs(1));
        let through = scene.agent()?.accepted()?;
        ensure!(through.outbound > 0, "{through:?}");
        scene.label_namespace("mesh-agent.io/enrol-")?;
        scene.wait_enrolled(false)?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Everything ends at once, and what begins again is in the mesh from its first packet.
pub fn the_node_reboots(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    let mut scene = Scene::with_flags(cluster, "reboot", mode, true, cluster.plugin_flags())?;
    plugin::wait_installed(cluster, true)?;
    scene.apply_routes(Routes::FirstVersion)?;
    scene.wait_enrolled(true)?;
    scene.wait_routed(Routes::FirstVersion)?;

    scene.lose_agent()?;
    cluster.reboot()?;
    // The plugin is still in the chain, and nobody answers it.
    let waits = || {
        let events = scene.events_of("client");
        events.is_ok_and(|events| events.contains("does not answer"))
    };
    eventually(PATIENCE, waits).context("no pod waits for the agent")?;
    scene.start_agent()?;
    for pod in ["client", "web-v1", "web-v2"] {
        let again = || scene.restarts(pod).is_ok_and(|count| count > 0);
        eventually(PATIENCE, again).with_context(|| format!("{pod} does not run again"))?;
        scene.wait_ready(pod, true)?;
    }
    scene.wait_enrolled(true)?;
    scene.find_client()?;
    scene.wait_routed(Routes::FirstVersion)?;
    scene.apply_routes(Routes::SecondVersion)?;
    scene.wait_routed(Routes::SecondVersion)?;
    // The plugin must not stay for the tests to come.
    scene.stop_agent()?;
    plugin::wait_installed(cluster, false)
}
