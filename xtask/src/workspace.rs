//! Where things lie, and how `cargo` is called from within `cargo`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// The workspace's folder. `cargo run` tells it; a binary that was moved or started through `sudo` knows where it was
/// built.
pub fn root() -> PathBuf {
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map(Path::to_path_buf).unwrap_or(xtask)
}

/// Where `cargo` puts what it builds.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The object with the BPF programs.
pub fn ebpf_object() -> PathBuf {
    target().join("bpf/mesh-ebpf.o")
}

/// The agent, as `cargo build` leaves it.
pub fn agent(release: bool) -> PathBuf {
    target()
        .join(if release { "release" } else { "debug" })
        .join("mesh-agent")
}

/// What we keep from one checkout to the next: tools that were built once.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context(
            "HOME is not set: set it, or XDG_CACHE_HOME, so that tools can be kept there",
        )?)
        .join(".cache"),
    };
    Ok(base.join("mesh-agent"))
}

/// The `cargo` that runs us, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What `cargo run` says of this package is not so for the ones to be built: build scripts that ask for it would build
    // theirs anew each time.
    for (name, _) in env::vars_os() {
        let word = name.to_string_lossy();
        if word.starts_with("CARGO_PKG_") || word.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    if env::var_os("CARGO_TARGET_DIR").is_some() {
        command.env("MESH_EBPF_OBJECT", ebpf_object());
    }
    command
}

/// A command that knows nothing of the `cargo` around us: neither its tool chain nor its flags nor its libraries.
/// Where crates come from stays as it is.
pub fn outside_cargo(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let ours = text.starts_with("CARGO") && !is_about_crates(text);
        if ours
            || text.starts_with("RUSTC")
            || matches!(
                text,
                "RUSTFLAGS"
                    | "RUSTDOCFLAGS"
                    | "RUSTUP_TOOLCHAIN"
                    | "RUST_RECURSION_COUNT"
                    | "LD_LIBRARY_PATH"
            )
        {
            command.env_remove(&name);
        }
    }
    command
}

/// This very program, to start it again. A build in the meantime may have put a new one in its place; the kernel then
/// calls ours deleted.
pub fn this_program() -> Result<PathBuf> {
    let path = env::current_exe().context("cannot find this program")?;
    let name = path.to_string_lossy();
    match name.strip_suffix(" (deleted)") {
        Some(replaced) if !path.exists() => Ok(PathBuf::from(replaced)),
        Some(_) | None => Ok(path),
    }
}

/// Looks a program up as the shell would, and where Debian keeps what root starts.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

fn is_about_crates(name: &str) -> bool {
    name == "CARGO_HOME"
        || [
            "CARGO_HTTP_",
            "CARGO_NET_",
            "CARGO_REGISTRIES_",
            "CARGO_REGISTRY_",
            "CARGO_SOURCE_",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
    }

    #[test]
    fn settings_about_crates_outlive_the_cleaning() {
        assert!(is_about_crates("CARGO_HOME"));
        assert!(is_about_crates("CARGO_NET_OFFLINE"));
        assert!(!is_about_crates("CARGO_PKG_NAME"));
        assert!(!is_about_crates("CARGO_MANIFEST_DIR"));
    }
}
