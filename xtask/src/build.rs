//! `cargo xtask build`: the BPF object, then the agent with the object inside.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{
    ebpf,
    screen::{Screen, Step},
    toolchain::{Choice, Missing},
    workspace,
};

/// A built agent.
#[derive(Debug)]
pub struct Built {
    /// Where the binary lies.
    pub agent: PathBuf,
    /// Why it has no eBPF mode, if it has none.
    pub without_ebpf: Option<Missing>,
}

/// Builds the object and the agent.
pub fn run(screen: Screen, choice: Choice, release: bool) -> Result<Built> {
    let without_ebpf = ebpf::build(screen, choice)?.err();
    if let Some(missing) = &without_ebpf {
        screen.warn(&format!(
            "The agent is built with the iptables mode only: {}",
            missing.reason
        ));
    }
    let mut command = workspace::cargo();
    command.args(["build", "--package", "mesh-agent"]);
    if release {
        command.arg("--release");
    }
    let (what, usually) = if release {
        (
            "Building the agent, optimised",
            "3 to 5 minutes the first time",
        )
    } else {
        ("Building the agent", "1 to 2 minutes the first time")
    };
    screen
        .step(&Step::new(what).usually(usually), &mut command)
        .context("the agent does not build")?;
    let agent = workspace::agent(release);
    if !agent.exists() {
        bail!("the build left no agent at {}", agent.display());
    }
    Ok(Built {
        agent,
        without_ebpf,
    })
}
