//! Agents that follow one another, in the same mode or in another one, after the one before was killed.

use anyhow::{Context, Result, ensure};

use super::{PATIENCE, expect_captured, expect_working, kill, traces};
use crate::Test;
use crate::agent::{Agent, Mode};
use crate::flows::scene::Scene;
use crate::manifests::SOURCE;

/// Every mode after every mode; `source: preserve` besides, for it needs policy routes in all of them.
pub fn tests() -> Vec<Test> {
    use Mode::{Ebpf, IptablesLegacy, IptablesNft};
    let mut tests = Vec::new();
    for (first, second) in [
        (Ebpf, Ebpf),
        (IptablesNft, IptablesNft),
        (Ebpf, IptablesNft),
        (Ebpf, IptablesLegacy),
        (IptablesNft, Ebpf),
        (IptablesLegacy, Ebpf),
        (IptablesNft, IptablesLegacy),
        (IptablesLegacy, IptablesNft),
    ] {
        type After = fn(Mode, Mode) -> Result<()>;
        let functions: [(&str, After); 3] = [
            ("takes_over", |first, second| {
                takes_over(first, second, "sidecar")
            }),
            ("takes_over_preserving", |first, second| {
                takes_over(first, second, "preserve")
            }),
            ("frees_pods_that_left", frees_pods_that_left),
        ];
        for (name, run) in functions {
            tests.push(Test {
                name: format!(
                    "succession::{name}::{}_after_{}",
                    second.name(),
                    first.name()
                ),
                lacking: first.lacking().or_else(|| second.lacking()),
                needs_root: true,
                run: crate::Run::boxed(move || run(first, second)),
            });
        }
    }
    tests
}

/// The successor steers the pods, alone; and when it ends, nothing of either is left.
fn takes_over(first: Mode, second: Mode, source: &str) -> Result<()> {
    let mut scene = Scene::build(Mode::None, &[(SOURCE, source)], true)?;
    let before = traces::of(&scene)?;
    scene.agent = Some(Agent::start(&scene.world, scene.manifests.path(), first)?);
    expect_captured(&scene, scene.agent()?)?;
    kill(&mut scene)?;

    let mut agent = Agent::start(&scene.world, scene.manifests.path(), second)?;
    expect_captured(&scene, &agent).context("after the restart")?;
    let ours: Vec<String> = traces::of(&scene)?
        .into_iter()
        .filter(|line| traces::is_of(first, line) && !traces::is_of(second, line))
        .collect();
    ensure!(
        ours.is_empty(),
        "of the first agent there is still:\n{}",
        ours.join("\n")
    );
    agent.process.stop(PATIENCE)?;
    let left = traces::difference(&before, &traces::of(&scene)?);
    ensure!(left.is_empty(), "the two agents left:\n{}", left.join("\n"));
    expect_working(&scene).context("without an agent again")
}

/// A pod that leaves the mesh while no agent runs is free as soon as there is one.
fn frees_pods_that_left(first: Mode, second: Mode) -> Result<()> {
    let mut scene = Scene::build(Mode::None, &[(SOURCE, "preserve")], true)?;
    let before = traces::of(&scene)?;
    scene.agent = Some(Agent::start(&scene.world, scene.manifests.path(), first)?);
    expect_captured(&scene, scene.agent()?)?;
    kill(&mut scene)?;
    for object in [&scene.client_object, &scene.app_object] {
        scene.manifests.pod(&object.clone().enrol(false))?;
    }
    let mut agent = Agent::start(&scene.world, scene.manifests.path(), second)?;
    expect_working(&scene).context("outside the mesh")?;
    let accepted = agent.accepted()?;
    ensure!(
        (accepted.outbound, accepted.inbound) == (0, 0),
        "{accepted:?} of pods that left"
    );
    agent.process.stop(PATIENCE)?;
    let left = traces::difference(&before, &traces::of(&scene)?);
    ensure!(left.is_empty(), "the two agents left:\n{}", left.join("\n"));
    Ok(())
}
