//! `mesh-ebpf` for the kernel: builds the object that the agent embeds, when something of it changed.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    screen::{Screen, Step},
    toolchain::{self, Choice, Missing},
    workspace,
};

/// Builds the object, or says why this machine cannot.
pub fn build(screen: Screen, choice: Choice) -> Result<Result<PathBuf, Missing>> {
    let object = workspace::ebpf_object();
    let stamp = object.with_extension("stamp");
    let sources = fingerprint().context("cannot read the sources of mesh-ebpf")?;
    let same = fs::read_to_string(&stamp).is_ok_and(|seen| seen == sources);
    if same && object.exists() && choice != Choice::None {
        return Ok(Ok(object));
    }
    let toolchain = match toolchain::ensure(screen, choice) {
        Ok(toolchain) => toolchain,
        Err(missing) => {
            // An object of other sources in the agent would be worse than none.
            remove(&object)?;
            remove(&stamp)?;
            return Ok(Err(missing));
        }
    };
    let dir = workspace::target().join("bpf/build");
    let mut command = toolchain.cargo_build();
    // Its own target folder: the `cargo` around us may hold the lock of the usual one.
    command
        .current_dir(workspace::root())
        .args([
            "--package",
            "mesh-ebpf",
            "--bin",
            "mesh-ebpf",
            "--locked",
            "--target-dir",
        ])
        .arg(&dir);
    screen
        .step(
            &Step::new("Building the BPF programs").usually("30 s the first time"),
            &mut command,
        )
        .with_context(|| format!("cannot build mesh-ebpf with {}", toolchain.describe()))?;
    let built = dir.join("bpfel-unknown-none/release/mesh-ebpf");
    put(&built, &object)?;
    fs::write(&stamp, sources).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(Ok(object))
}

/// Puts a new object in place at once, and leaves an equal one alone so that the agent is not built again for nothing.
fn put(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built)
        .with_context(|| format!("the build left no object at {}", built.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        bail!("{} is not an object file", built.display());
    }
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let fresh = object.with_extension("new");
    fs::write(&fresh, bytes).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, object).with_context(|| format!("cannot write {}", object.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// All that the object is made of: its sources and the versions of its dependencies.
fn fingerprint() -> io::Result<String> {
    let root = workspace::root();
    let mut files = vec![
        root.join("Cargo.toml"),
        root.join("Cargo.lock"),
        root.join("mesh-ebpf/Cargo.toml"),
    ];
    let mut dirs = vec![root.join("mesh-ebpf/src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}
