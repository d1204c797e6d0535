//! What the images of the tests' pods hold: programs of this machine, and the libraries that they need.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Enough for the nginx of this machine, with the walkthrough's command.
const NGINX: &str = "user root;
worker_processes 1;
error_log stderr;
pid /run/nginx.pid;
events {}
http {
  access_log off;
  default_type text/plain;
  server { listen 80; listen [::]:80; root /usr/share/nginx/html; }
}
";

/// A web server that says its version and the path that it was asked for, and other small programs.
pub fn web(version: &str) -> Result<TempDir> {
    let root = folder()?;
    copy(Path::new("/bin/busybox"), root.path(), "busybox").context("busybox-static")?;
    for folder in ["", "new"] {
        let folder = root.path().join("www").join(folder);
        fs::create_dir_all(&folder)?;
        let path = folder.strip_prefix(root.path().join("www"))?.display();
        fs::write(folder.join("index.html"), format!("{version} at /{path}\n"))?;
    }
    Ok(root)
}

/// nginx and a shell.
pub fn nginx() -> Result<TempDir> {
    let root = folder()?;
    let at = |place: &str| root.path().join(place);
    copy(Path::new("/bin/busybox"), root.path(), "bin/busybox").context("busybox-static")?;
    symlink("busybox", at("bin/sh"))?;
    with_libraries(&found("nginx")?, root.path(), "usr/sbin/nginx")?;
    for folder in [
        "etc/nginx",
        "run",
        "usr/share/nginx/html",
        "var/lib/nginx",
        "var/log/nginx",
    ] {
        fs::create_dir_all(at(folder))?;
    }
    fs::write(at("etc/nginx/nginx.conf"), NGINX)?;
    fs::write(at("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
    fs::write(at("etc/group"), "root:x:0:\n")?;
    Ok(root)
}

/// The agent alone, as in its own image but for the libraries that a build for this machine needs.
pub fn agent(binary: &Path) -> Result<TempDir> {
    let root = folder()?;
    with_libraries(binary, root.path(), "mesh-agent")?;
    Ok(root)
}

fn folder() -> Result<TempDir> {
    let root = tempfile::tempdir()?;
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
    Ok(root)
}

/// Where a program of this machine is.
fn found(program: &str) -> Result<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
    let mut places = folders.iter().map(|folder| folder.join(program));
    places
        .find(|place| place.is_file())
        .with_context(|| format!("there is no {program} on this machine"))
}

fn copy(from: &Path, root: &Path, to: &str) -> Result<()> {
    let to = root.join(to.trim_start_matches('/'));
    fs::create_dir_all(to.parent().unwrap_or(root))?;
    fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

/// Copies a program, and beside it the libraries that the loader would give it.
fn with_libraries(program: &Path, root: &Path, to: &str) -> Result<()> {
    copy(program, root, to)?;
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("starting ldd")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // It ends with 1 for a program that needs none.
    ensure!(
        output.status.success() || said.is_empty(),
        "ldd {}: {said}",
        program.display()
    );
    for word in said.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(word), root, word)?;
    }
    Ok(())
}
