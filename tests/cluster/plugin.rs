//! The agent among the node's CNI plugins: no pod begins before it is in the mesh.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::PATIENCE;
use super::node::Cluster;
use super::pods::Manifest;
use super::scene::{Routes, Scene};
use crate::agent::{Mode, eventually};

/// The plugin's name, in the chain and among the binaries.
const NAME: &str = "mesh-agent-cni";

/// A pod's first packet goes through the mesh; where there is no agent no pod begins; and after the plugin's end the node is as
/// it was.
pub fn no_pod_begins_outside_the_mesh(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    let before = (cluster.chain()?, cluster.plugins()?);
    let mut scene = Scene::with_flags(cluster, "plugin", mode, true, cluster.plugin_flags())?;
    wait_installed(cluster, true)?;
    scene.apply_routes(Routes::SecondVersion)?;
    scene.wait_enrolled(true)?;
    scene.wait_routed(Routes::SecondVersion)?;

    apply_asker(&scene, "early")?;
    wait_answered(&scene, "early")?;

    scene.kill_agent()?;
    apply_asker(&scene, "waiting")?;
    let said = || scene.events_of("waiting");
    let reason = "does not answer";
    eventually(PATIENCE, || said().is_ok_and(|said| said.contains(reason)))
        .with_context(|| format!("the events: {:?}", said()))?;
    // Time for it to begin nevertheless.
    std::thread::sleep(Duration::from_secs(2));
    scene.wait_phase("waiting", "Pending")?;
    scene.start_agent()?;
    wait_answered(&scene, "waiting")?;

    scene.stop_agent()?;
    let after = (cluster.chain()?, cluster.plugins()?);
    ensure!(after == before, "{after:#?}, and before {before:#?}");
    let late = Manifest {
        name: "late",
        ..Manifest::default()
    };
    scene.apply(&late.text())?;
    scene.wait_phase("late", "Running")
}

/// Waits until the plugin is in the chain, or is not.
pub fn wait_installed(cluster: &Cluster, wanted: bool) -> Result<()> {
    eventually(PATIENCE, || {
        is_installed(cluster).is_ok_and(|is| is == wanted)
    })
    .with_context(|| format!("the chain is {:?}", cluster.chain()))
}

/// Whether the plugin is the last one of the chain, and there.
pub fn is_installed(cluster: &Cluster) -> Result<bool> {
    let chain = cluster.chain()?;
    let last = chain["plugins"].as_array().and_then(|all| all.last());
    Ok(last.is_some_and(|last| last["type"] == NAME) && cluster.plugins()?.contains(NAME))
}

/// Waits until an asker has ended, and sees that it was answered as the routes say.
fn wait_answered(scene: &Scene, name: &str) -> Result<()> {
    let said = || scene.kubectl(&["logs", name]);
    scene
        .wait_phase(name, "Succeeded")
        .with_context(|| format!("{name} says {:?}", said()))?;
    let said = said()?;
    ensure!(said == "v2 at /\nv2 at /\n", "{name} says {said:?}");
    Ok(())
}

/// A pod whose only process asks both of the Service's addresses at once, which lead nowhere without the mesh.
fn apply_asker(scene: &Scene, name: &str) -> Result<()> {
    let request = r"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r";
    let asked: Vec<String> = scene
        .services()
        .iter()
        .map(|service| {
            let (address, port) = (service.ip(), service.port());
            // Its wget crashes where the image has no libraries.
            format!(
                r#"echo -e "{request}" | /busybox nc -w 5 {address} {port} | /busybox tail -n 1"#
            )
        })
        .collect();
    let command = format!("command: [/busybox, sh, -c, '{}']", asked.join("; "));
    let asker = Manifest {
        name,
        container: &command,
        spec: "restartPolicy: Never",
        ..Manifest::default()
    };
    scene.apply(&asker.text())
}
