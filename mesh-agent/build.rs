//! Puts the BPF object where the agent includes it from: the one that `MESH_EBPF_OBJECT` names, or else the one that
//! `cargo xtask build` leaves in the target directory. Without either, an empty file: the agent then builds all the same,
//! and its eBPF mode says what to do.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=MESH_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = match env::var_os("MESH_EBPF_OBJECT") {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            read(&path)
        }
        None => built_by_xtask(),
    };
    let target = out.join("mesh-ebpf.o");
    fs::write(&target, object).unwrap_or_else(|e| panic!("writing {}: {e}", target.display()));
}

fn built_by_xtask() -> Vec<u8> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || {
            let package = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
            Path::new(&package).join("../target")
        },
        PathBuf::from,
    );
    let object = target.join("bpf/mesh-ebpf.o");
    if object.exists() {
        println!("cargo::rerun-if-changed={}", object.display());
        return read(&object);
    }
    // A path that does not exist counts as changed at every build, so watch its directory until it does.
    let directory = target.join("bpf");
    if fs::create_dir_all(&directory).is_ok() {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
    Vec::new()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("reading the BPF object {}: {e}", path.display()))
}
