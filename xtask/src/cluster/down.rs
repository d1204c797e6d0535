//! Takes a cluster down, however much of it is up: its processes, its pods and what they had, its folder.

use std::{
    fs, io,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{layout::Layout, part::Part, process, up};

/// How long the kernel may take to let go of control groups.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends everything, and removes everything. Says whether there was anything.
pub fn run(folder: &Path) -> Result<bool> {
    let Ok(folder) = folder.canonicalize() else {
        return Ok(false);
    };
    let Some(layout) = Layout::find(&folder)? else {
        return Ok(false);
    };
    // First those who would start others again.
    for part in [Part::Kubelet, Part::Scheduler, Part::ControllerManager] {
        process::end(&part.processes(&layout))?;
    }
    for part in [Part::ApiServer, Part::Etcd, Part::Containerd] {
        process::end(&part.processes(&layout))?;
    }
    end_pods(&layout)?;
    let left: Vec<_> = process::all(&folder)
        .into_iter()
        .map(|(pid, _)| pid)
        .collect();
    process::kill_all(&left)?;
    remove_groups(&layout)?;
    let same_network = remove_bridge(&layout)?;
    layout.before.restore(same_network);
    remove(&folder)?;
    Ok(true)
}

/// Ends everything at once, and removes what no machine has when it starts again: namespaces, mounts, the bridge, what was
/// below /run.
pub fn cut(layout: &Layout) -> Result<()> {
    let all: Vec<_> = process::all(&layout.folder)
        .into_iter()
        .map(|(pid, _)| pid)
        .collect();
    process::kill_all(&all)?;
    end_pods(layout)?;
    remove_groups(layout)?;
    remove_bridge(layout)?;
    for place in [layout.path("containerd-state"), layout.private("/run")] {
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", place.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Ends one part, at once if it is asked to.
pub fn stop(layout: &Layout, part: Part, at_once: bool) -> Result<()> {
    let processes = part.processes(layout);
    match at_once {
        true => process::kill_all(&processes),
        false => process::end(&processes),
    }
}

/// Ends all that runs in pods. With the last process of a pod go its namespaces.
fn end_pods(layout: &Layout) -> Result<()> {
    let groups: Vec<_> = up::hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(layout.group().trim_start_matches('/')))
        .collect();
    // A process may have begun another one in the meantime.
    for _ in 0..10 {
        let mut processes: Vec<_> = groups
            .iter()
            .flat_map(|group| process::in_group(group))
            .collect();
        processes.sort();
        processes.dedup();
        if processes.is_empty() {
            return Ok(());
        }
        process::kill_all(&processes).context("cannot end the pods")?;
        // Until whoever started them has waited for them, they are still in their group.
        sleep(Duration::from_millis(100));
    }
    // What is left has ended, and its parent does not ask after it.
    Ok(())
}

fn remove_groups(layout: &Layout) -> Result<()> {
    for hierarchy in up::hierarchies() {
        let group = hierarchy.join(layout.group().trim_start_matches('/'));
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = remove_group(&group) {
            if Instant::now() > deadline {
                return Err(error).with_context(|| {
                    format!("cannot remove the control group {}", group.display())
                });
            }
            sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// From within: a group with others in it stays.
fn remove_group(group: &Path) -> io::Result<()> {
    for below in process::folders_in(group) {
        remove_group(&below)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether it was here. If not, this is another network namespace than that of the cluster, which is gone with all in it.
fn remove_bridge(layout: &Layout) -> Result<bool> {
    let bridge = layout.bridge();
    if !up::has_link(&bridge) {
        return Ok(false);
    }
    let output = Command::new("ip")
        .args(["link", "delete", &bridge])
        .output()
        .context("cannot start `ip`")?;
    if !output.status.success() {
        bail!(
            "cannot remove the bridge {bridge}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(true)
}

/// The folder's last file is the one that says that it is a cluster's, so that this can be done again after it failed.
fn remove(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == "cluster.json" {
            continue;
        }
        let path = entry.path();
        let removed = match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}
