//! Finds the network namespaces of Kubernetes' pods: by the control groups of their processes, which bear the pod's uid.
//!
//! It takes no container runtime to answer, and is the same for all of them. One look at `/proc` finds every pod; what
//! was found is kept for as long as the process is there and in that namespace, so that most rounds look at one link
//! for each pod.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::netns::{NetNs, NetNsId};

/// How often all processes are looked at, at most.
const OFTEN: Duration = Duration::from_millis(500);

/// What was found.
#[derive(Debug)]
pub(super) struct Finder {
    proc: PathBuf,
    known: HashMap<Arc<str>, Known>,
    looked: Option<Instant>,
}

/// A process of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    process: u32,
    netns: NetNsId,
}

impl Finder {
    /// Knows nothing yet. `proc` is where procfs is mounted, of the host's process namespace.
    pub(super) fn new(proc: PathBuf) -> Self {
        Self {
            proc,
            known: HashMap::new(),
            looked: None,
        }
    }

    /// The namespace of the pod whose control groups bear `uid`. `NotFound` where no process of it runs.
    pub(super) fn find(&mut self, uid: &Arc<str>) -> io::Result<NetNs> {
        if let Some(netns) = self.still(uid) {
            return Ok(netns);
        }
        if self.looked.is_none_or(|looked| looked.elapsed() >= OFTEN) {
            self.look()?;
        }
        self.still(uid).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no process of it was found; the agent must see the processes of the host (hostPID)",
            )
        })
    }

    /// What is known of a pod, if it is still so.
    fn still(&mut self, uid: &Arc<str>) -> Option<NetNs> {
        let known = self.known.get(uid)?;
        let netns = NetNs::open(&self.namespace(known.process));
        match netns {
            Ok(netns) if netns.id() == known.netns => Some(netns),
            Ok(_) | Err(_) => {
                self.known.remove(uid);
                None
            }
        }
    }

    /// Looks at all processes.
    fn look(&mut self) -> io::Result<()> {
        self.looked = Some(Instant::now());
        let host = NetNs::open(&self.namespace(1))?.id();
        let mut found: HashMap<Arc<str>, Known> = HashMap::new();
        for entry in fs::read_dir(&self.proc)? {
            let Some(process) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let Some((uid, netns)) = self.look_at(process) else {
                continue;
            };
            let known = Known { process, netns };
            // A container may have the network of the host, or make a namespace of its own. The oldest process of a pod is
            // its sandbox, which has the pod's.
            let older = |known: &Known| process < known.process;
            if netns != host && found.get(&uid).is_none_or(older) {
                found.insert(uid, known);
            }
        }
        self.known = found;
        Ok(())
    }

    /// The pod of a process and its network namespace. Processes come and go while they are looked at.
    fn look_at(&self, process: u32) -> Option<(Arc<str>, NetNsId)> {
        let groups = fs::read_to_string(self.proc.join(process.to_string()).join("cgroup")).ok()?;
        let uid = pod_uid(&groups)?;
        let netns = NetNs::open(&self.namespace(process)).ok()?;
        Some((uid.into(), netns.id()))
    }

    fn namespace(&self, process: u32) -> PathBuf {
        self.proc.join(process.to_string()).join("ns/net")
    }
}

/// Where the processes of the host are to be seen.
pub(super) fn host_proc() -> PathBuf {
    let mounted = Path::new("/host/proc");
    match mounted.join("1/ns/net").exists() {
        true => mounted.to_path_buf(),
        false => PathBuf::from("/proc"),
    }
}

/// The uid of the pod in whose control group a process is, as `/proc/PID/cgroup` has it: `.../pod<uid>/...` with the driver
/// `cgroupfs`, and `...-pod<uid>.slice/...`, with `_` for `-`, with `systemd`.
fn pod_uid(groups: &str) -> Option<String> {
    groups.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        path.split('/').rev().find_map(|part| {
            let part = part.strip_suffix(".slice").unwrap_or(part);
            let (_, uid) = part.rsplit_once("pod").filter(|(before, _)| {
                before.is_empty() || (before.starts_with("kube") && before.ends_with('-'))
            })?;
            let uid = uid.replace('_', "-");
            is_uid(&uid).then_some(uid)
        })
    })
}

/// A uid of the API server, or the hash that the kubelet gives a pod that it read from a file.
fn is_uid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = text.bytes().filter(|byte| *byte == b'-').count();
    digits == 32 && digits + dashes == text.len() && matches!(dashes, 0 | 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1b671a64-40d5-491e-99b0-da01ff1f3341";

    #[test]
    fn the_uid_is_read_from_the_control_group() {
        let check = |groups: &str, expected: Option<&str>| {
            assert_eq!(pod_uid(groups).as_deref(), expected, "{groups}");
        };
        check(&format!("0::/kubepods/besteffort/pod{UID}/4f2a"), Some(UID));
        check(&format!("0::/kubepods/pod{UID}"), Some(UID));
        check(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b671a64_40d5_491e_99b0_da01ff1f3341.slice/cri-containerd-4f2a.scope",
            Some(UID),
        );
        check(
            "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1b671a64_40d5_491e_99b0_da01ff1f3341.slice/crio-4f2a.scope",
            Some(UID),
        );
        // Of the first version of control groups, many lines.
        check(
            &format!(
                "12:pids:/kubepods/besteffort/pod{UID}/4f2a\n0::/system.slice/containerd.service"
            ),
            Some(UID),
        );
        check(
            "0::/kubepods/burstable/pod8a1c4d09be1f4ad4bb92cd6f8a0f6e0d/4f2a",
            Some("8a1c4d09be1f4ad4bb92cd6f8a0f6e0d"),
        );
        check("0::/user.slice/podman-1234.scope", None);
        check("0::/machine.slice/libpod-4f2a.scope", None);
        check(&format!("0::/evilpod{UID}"), None);
        check("0::/", None);
        check("", None);
    }

    #[test]
    fn a_pod_is_found_by_its_process_and_forgotten_with_it() {
        let proc = tempfile::tempdir().expect("a directory");
        let process = |number: &str, groups: &str, namespace: &str| {
            let directory = proc.path().join(number);
            fs::create_dir_all(directory.join("ns")).expect("a directory");
            fs::write(directory.join("cgroup"), groups).expect("a file");
            fs::write(proc.path().join(namespace), "").expect("a file");
            let _ = fs::remove_file(directory.join("ns/net"));
            std::os::unix::fs::symlink(proc.path().join(namespace), directory.join("ns/net"))
                .expect("a link");
        };
        let group = format!("0::/kubepods/pod{UID}/a");
        process("1", "0::/init.scope", "host");
        process("30", &group, "inner");
        process("20", &group, "pod");
        process("10", &group, "host");
        let uid: Arc<str> = UID.into();
        let mut finder = Finder::new(proc.path().to_path_buf());
        let id = |name: &str| {
            NetNs::open(&proc.path().join(name))
                .expect("it is there")
                .id()
        };
        let found = finder.find(&uid).expect("it is found").id();
        assert_eq!(found, id("pod"));

        // The sandbox was made anew.
        fs::remove_dir_all(proc.path().join("20")).expect("removed");
        process("40", &group, "second");
        fs::remove_dir_all(proc.path().join("30")).expect("removed");
        finder.looked = None;
        assert_eq!(finder.find(&uid).expect("it is found").id(), id("second"));

        fs::remove_dir_all(proc.path().join("40")).expect("removed");
        finder.looked = None;
        let gone = finder.find(&uid).expect_err("it is gone");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
