//! The eBPF mode with real namespaces, programs and sockets.

use anyhow::{Context, Result};
use mesh_agent::intercept::ebpf::{Ebpf, Options};

/// The tests, by name.
pub fn tests() -> Vec<(&'static str, fn() -> Result<()>)> {
    vec![("ebpf::probe_succeeds", probe_succeeds)]
}

fn options() -> Result<(tempfile::TempDir, Options)> {
    let run = tempfile::tempdir()?;
    let options = Options {
        pin_dir: None,
        run_dir: run.path().to_owned(),
    };
    Ok((run, options))
}

fn probe_succeeds() -> Result<()> {
    let (_run, options) = options()?;
    Ebpf::start(&options).context("start")?;
    Ebpf::probe(&options).context("probe")
}
