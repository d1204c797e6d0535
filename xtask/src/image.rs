//! `cargo xtask image`: a folder from which any builder of container images makes that of the agent, and which holds
//! everything that goes into it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf,
    screen::{Screen, Step},
    toolchain::Choice,
    workspace,
};

/// Builds the agent, whole in itself, and lays it beside the image's build file. Returns the folder.
pub fn run(screen: Screen, choice: Choice) -> Result<PathBuf> {
    if let Err(missing) = ebpf::build(screen, choice)? {
        bail!(
            "an image without the eBPF mode is of little use: {}",
            missing.reason
        );
    }
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut command = workspace::cargo();
    // With a target named, the flags are not those of build scripts and macros, which cannot be static.
    command.args([
        "build",
        "--package",
        "mesh-agent",
        "--profile",
        "dist",
        "--target",
        &target,
    ]);
    let flags = env::var("RUSTFLAGS").unwrap_or_default();
    command.env(
        "RUSTFLAGS",
        format!("{flags} -C target-feature=+crt-static"),
    );
    let step =
        Step::new("Building the agent, whole in itself").usually("3 to 5 minutes the first time");
    screen
        .step(&step, &mut command)
        .context("the agent does not build")?;
    let folder = workspace::target().join("image");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let built = workspace::target().join(&target).join("dist/mesh-agent");
    copy(&built, &folder.join("mesh-agent"))?;
    copy(
        &workspace::root().join("deploy/Dockerfile"),
        &folder.join("Dockerfile"),
    )?;
    Ok(folder)
}

/// What to do with the folder.
pub fn tell(screen: Screen, folder: &Path) {
    screen.good(&folder.display().to_string());
    screen.line("Make the image, and give it to your registry:");
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("registry.example.com/mesh-agent:{version}");
    screen.typed(&format!("docker build --tag {name} {}", folder.display()));
    screen.typed(&format!("docker push {name}"));
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
