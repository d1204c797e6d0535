//! The processes of a cluster. Each has its cluster's folder in its environment, and so has what it starts; by that they
//! are found, whoever started them and whatever became of him.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The variable that names the folder.
pub const MARK: &str = "MESH_AGENT_CLUSTER_FOLDER";

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// Those whose executable file has this name.
pub fn of(folder: &Path, program: &str) -> Vec<Pid> {
    all(folder)
        .into_iter()
        .filter(|(_, name)| name == program)
        .map(|(pid, _)| pid)
        .collect()
}

/// All of them, with the names of their executable files.
pub fn all(folder: &Path) -> Vec<(Pid, String)> {
    let mut mark = MARK.as_bytes().to_vec();
    mark.push(b'=');
    mark.extend_from_slice(folder.as_os_str().as_bytes());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(entry.path().join("environ")).ok()?;
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark)
                .then_some(())?;
            let program = fs::read_link(entry.path().join("exe")).ok()?;
            let name = program.file_name()?.to_string_lossy();
            // A program that was built anew in the meantime.
            let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
            Some((Pid::from_raw(pid), name.to_owned()))
        })
        .collect()
}

/// Asks processes to end, and makes those that do not.
pub fn end(processes: &[Pid]) -> Result<()> {
    signal(processes, Signal::SIGTERM);
    if !gone(processes, PATIENCE) {
        kill_all(processes)?;
    }
    Ok(())
}

/// Ends processes at once.
pub fn kill_all(processes: &[Pid]) -> Result<()> {
    signal(processes, Signal::SIGKILL);
    if !gone(processes, PATIENCE) {
        bail!("processes do not end: {processes:?}");
    }
    Ok(())
}

/// The processes in a control group, and below it.
pub fn in_group(group: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<Pid> = text
        .lines()
        .filter_map(|line| line.parse().ok())
        // Those of other process namespaces are shown as 0.
        .filter(|pid| *pid > 0)
        .map(Pid::from_raw)
        .collect();
    for below in folders_in(group) {
        found.extend(in_group(&below));
    }
    found
}

/// The folders in a folder.
pub fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn signal(processes: &[Pid], signal: Signal) {
    for pid in processes {
        // Whoever is gone needs none.
        let _ = kill(*pid, signal);
    }
}

fn gone(processes: &[Pid], patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while processes.iter().any(|pid| runs(*pid)) {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
    true
}

/// Whether a process runs; one that ended and was not waited for does not. Its first thread may have ended before others.
fn runs(pid: Pid) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let Ok(stat) = fs::read(process.join("stat")) else {
        return false;
    };
    let stat = String::from_utf8_lossy(&stat);
    // The name, in parentheses, may have spaces and parentheses.
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.starts_with(['Z', 'X']) || folders_in(&process.join("task")).len() > 1
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_found_by_its_mark_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep")
            .arg("600")
            .env(MARK, folder.path())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(of(other.path(), "sleep").is_empty());
        assert!(of(folder.path(), "etcd").is_empty());
        // The mark is there with the new program.
        while of(folder.path(), "sleep").is_empty() {
            sleep(Duration::from_millis(5));
        }
        assert_eq!(of(folder.path(), "sleep"), [pid]);
        end(&[pid]).unwrap();
        assert!(of(folder.path(), "sleep").is_empty());
        child.wait().unwrap();
    }
}
