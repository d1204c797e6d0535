//! The agent as it is installed: its image, its DaemonSet with the capabilities that are written there, and the rights of its
//! account and no others.

use anyhow::{Context, Result, ensure};

use super::node::Cluster;
use super::scene::{Routes, Scene};
use super::{PATIENCE, plugin};
use crate::agent::{Mode, eventually};

/// Where the agent is.
const SYSTEM: &str = "mesh-agent";

/// What its pods end with after all that a connection of theirs may take.
const END: &str = "--timeout=120s";

/// Applied, it takes pods in, follows routes, says on objects what is wrong with them, and stands in the node's chain of CNI
/// plugins; deleted, it leaves nothing of that.
pub fn as_it_is_shipped(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    cluster.make_agent_image()?;
    let before = (cluster.chain()?, cluster.plugins()?);
    let scene = Scene::without_agent(cluster, "shipped", mode, true)?;
    ensure!(
        scene.ask_all(1).is_err(),
        "without an agent a Service's address leads somewhere"
    );

    let shipped = Shipped::apply(cluster, mode)?;
    plugin::wait_installed(cluster, true)?;
    for routes in [Routes::FirstVersion, Routes::SecondVersion] {
        scene.apply_routes(routes)?;
        scene
            .wait_routed(routes)
            .with_context(|| format!("{routes:?}; the agent says {:?}", shipped.log()))?;
    }
    scene.apply_elsewhere("v9")?;
    let said = || scene.condition("elsewhere");
    eventually(PATIENCE, || said().is_ok_and(|said| said == "False"))
        .with_context(|| format!("the condition is {:?}: {:?}", said(), shipped.log()))?;
    let events = || scene.events_of_elsewhere();
    let reason = "ReferencedResourceNotFound";
    eventually(PATIENCE, || {
        events().is_ok_and(|said| said.contains(reason))
    })
    .with_context(|| format!("the events: {:?}", events()))?;
    let status = shipped.status()?;
    ensure!(
        status.contains(mode.reported()) && status.contains("enrolled"),
        "{status}"
    );
    let log = shipped.log()?;
    ensure!(
        !log.contains("forbidden") && !log.contains("denied"),
        "it lacks a right: {log}"
    );

    shipped.delete()?;
    let after = (cluster.chain()?, cluster.plugins()?);
    ensure!(after == before, "{after:#?}, and before {before:#?}");
    scene.ask_server_directly()?;
    ensure!(scene.ask_all(1).is_err(), "pods are still in the mesh");
    Ok(())
}

/// What was installed. It is deleted at the latest when this is dropped.
struct Shipped {
    cluster: &'static Cluster,
    manifest: String,
    is_there: bool,
}

impl Shipped {
    fn apply(cluster: &'static Cluster, mode: Mode) -> Result<Self> {
        let shipped = Self {
            cluster,
            manifest: manifest(cluster, mode)?,
            is_there: true,
        };
        cluster.apply(&shipped.manifest)?;
        let rollout = ["rollout", "status", END, "daemonset/mesh-agent"];
        shipped.within(&rollout).with_context(|| {
            let events = shipped.within(&["get", "events"]);
            format!("the agent says {:?}; {events:?}", shipped.log())
        })?;
        Ok(shipped)
    }

    fn log(&self) -> Result<String> {
        self.within(&["logs", "--tail=200", "daemonset/mesh-agent"])
    }

    /// What it says of itself, asked in its own container.
    fn status(&self) -> Result<String> {
        let ask = [
            "exec",
            "daemonset/mesh-agent",
            "--",
            "/mesh-agent",
            "status",
        ];
        self.within(&ask)
    }

    fn within(&self, arguments: &[&str]) -> Result<String> {
        let arguments = [&["--namespace", SYSTEM], arguments].concat();
        self.cluster.kubectl(&arguments)
    }

    fn delete(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_there) {
            let rights = ["clusterrole/mesh-agent", "clusterrolebinding/mesh-agent"];
            self.cluster
                .kubectl(&["delete", "namespace", SYSTEM, END])?;
            self.cluster.kubectl(&["delete", rights[0], rights[1]])?;
        }
        Ok(())
    }
}

impl Drop for Shipped {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{SYSTEM} stays: {error:#}");
        }
    }
}

/// The manifest, for this mode.
fn manifest(cluster: &Cluster, mode: Mode) -> Result<String> {
    let text = cluster.shipped("agent/mesh-agent.yaml")?;
    let args = "        args:\n        - run\n";
    ensure!(text.matches(args).count() == 1, "one container");
    let flags: String = mode
        .flags()
        .iter()
        .map(|flag| format!("        - {flag}\n"))
        .collect();
    Ok(text.replace(args, &format!("{args}{flags}")))
}
