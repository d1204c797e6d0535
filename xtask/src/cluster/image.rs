//! Makes container images of folders and gives them to the cluster's containerd: there is no registry, and none is needed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{files::PAUSE, layout::Layout};
use crate::workspace;

/// Makes an image of `root`, under the name by which Pods ask for it, and imports it. Returns its full name.
pub fn import(layout: &Layout, name: &str, root: &Path, entrypoint: &[String]) -> Result<String> {
    let name = full_name(name);
    if !root.is_dir() {
        bail!("{} is no folder", root.display());
    }
    let work = tempfile::tempdir_in(&layout.folder).context("cannot make a temporary folder")?;
    let place = work.path();
    run(Command::new("tar")
        .args([
            "--create",
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "--file",
        ])
        .arg(place.join("layer.tar"))
        .arg("--directory")
        .arg(root)
        .arg("."))?;
    let digest = digest(&place.join("layer.tar"))?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{}],
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    fs::write(place.join("config.json"), config.to_string())?;
    fs::write(place.join("manifest.json"), manifest.to_string())?;
    run(Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(place.join("image.tar"))
        .arg("--directory")
        .arg(place)
        .args(["manifest.json", "config.json", "layer.tar"]))?;
    run(ctr(layout)
        .args(["images", "import"])
        .arg(place.join("image.tar")))?;
    Ok(name)
}

/// The image that every pod needs: a process that does nothing.
pub fn import_pause(layout: &Layout) -> Result<()> {
    let busybox = workspace::find_program("busybox").context("busybox is not installed")?;
    let program = fs::read(&busybox).context("cannot read busybox")?;
    let loader = b"/ld-linux";
    if program.windows(loader.len()).any(|text| text == loader) {
        bail!(
            "{} needs libraries: install busybox-static instead",
            busybox.display()
        );
    }
    let root = tempfile::tempdir().context("cannot make a temporary folder")?;
    let pause = root.path().join("pause");
    fs::write(&pause, program)?;
    fs::set_permissions(&pause, fs::Permissions::from_mode(0o755))?;
    // busybox goes by the name that it is called by.
    fs::rename(&pause, root.path().join("busybox"))?;
    let entrypoint = ["/busybox", "sleep", "2147483647"].map(str::to_owned);
    import(layout, PAUSE, root.path(), &entrypoint).map(|_| ())
}

/// As containerd and Kubernetes complete a short name.
fn full_name(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let host = first.contains(['.', ':']) || first == "localhost";
    let mut full = match (first, host) {
        ("", _) => format!("docker.io/library/{rest}"),
        (_, true) => name.to_owned(),
        (_, false) => format!("docker.io/{name}"),
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@']) {
        full += ":latest";
    }
    full
}

/// As container images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum")
        .arg(path)
        .output()
        .context("cannot start sha256sum")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digest = text.split_whitespace().next().unwrap_or_default();
    // A backslash stands before it where the file's name has one.
    let digest = digest.trim_start_matches('\\').to_owned();
    if digest.len() != 64 {
        bail!("sha256sum cannot read {}", path.display());
    }
    Ok(digest)
}

fn ctr(layout: &Layout) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(layout.socket());
    command.args(["--namespace", "k8s.io"]);
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_as_kubernetes_does() {
        for (name, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("istio/proxyv2:1", "docker.io/istio/proxyv2:1"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("a@sha256:00", "docker.io/library/a@sha256:00"),
        ] {
            assert_eq!(full_name(name), full);
        }
    }
}
