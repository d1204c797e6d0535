//! Where a running demo is: written by the demo into its own file system, which vanishes with it, and read by others
//! through `/proc`. So a demo that was killed leaves no trace that could mislead.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// A running demo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// When it started, in seconds since 1970; also the order among several.
    pub started: u64,
    /// Where its manifests lie.
    pub manifests: PathBuf,
    /// Its pods.
    pub pods: Vec<Holder>,
}

/// A pod's name and the process that does nothing but be inside, by the number it has within the demo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The pod's name.
    pub pod: String,
    /// The process.
    pub pid: u32,
}

impl Place {
    /// A demo that starts now.
    pub fn new(manifests: &Path, pods: Vec<Holder>) -> Self {
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |passed| passed.as_secs());
        Self {
            started,
            manifests: manifests.to_owned(),
            pods,
        }
    }

    /// Writes it down, for the whole life of the demo.
    pub fn publish(&self) -> Result<()> {
        let path = file(Path::new("/"));
        fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The newest of those that run, and how many there are.
    pub fn find() -> Result<(Self, usize)> {
        let mut found: Vec<Self> = Vec::new();
        for pid in processes()? {
            let Ok(text) = fs::read(file(Path::new(&format!("/proc/{pid}/root")))) else {
                continue;
            };
            if let Ok(place) = serde_json::from_slice(&text)
                && !found.contains(&place)
            {
                found.push(place);
            }
        }
        let count = found.len();
        match found.into_iter().max_by_key(|place| place.started) {
            Some(place) => Ok((place, count)),
            None => bail!(
                "no demo runs on this machine: start one with `cargo xtask run` and leave it up"
            ),
        }
    }

    /// The number that a pod's holder has for us.
    pub fn holder(&self, pod: &str) -> Result<u32> {
        let Some(holder) = self.pods.iter().find(|holder| holder.pod == pod) else {
            let names: Vec<&str> = self.pods.iter().map(|holder| holder.pod.as_str()).collect();
            bail!("the demo has no pod {pod}: it has {}", names.join(", "));
        };
        let own_depth =
            depth_and_last(&fs::read_to_string("/proc/self/status")?).map_or(1, |(depth, _)| depth);
        for pid in processes()? {
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
                continue;
            };
            let inside = depth_and_last(&status)
                .is_some_and(|(depth, last)| depth > own_depth && last == holder.pid);
            let same = || {
                fs::read(file(Path::new(&format!("/proc/{pid}/root"))))
                    .ok()
                    .and_then(|text| serde_json::from_slice(&text).ok())
            };
            if inside && same().is_some_and(|place: Self| place == *self) {
                return Ok(pid);
            }
        }
        bail!("pod {pod} of the demo is no more")
    }
}

fn file(root: &Path) -> PathBuf {
    root.join(mesh_tests::FILES.trim_start_matches('/'))
        .join("demo.json")
}

fn processes() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// How deep in process namespaces a process is, and its number in the innermost.
fn depth_and_last(status: &str) -> Option<(usize, u32)> {
    let numbers: Vec<&str> = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?
        .split_whitespace()
        .collect();
    Some((numbers.len(), numbers.last()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_numbers_of_a_process() {
        assert_eq!(
            depth_and_last("Name:\tsleep\nNSpid:\t4711\t12\n"),
            Some((2, 12))
        );
        assert_eq!(depth_and_last("Name:\tsleep\n"), None);
    }
}
