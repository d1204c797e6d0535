//! What a process and its children have used up, as the kernel counts it.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Processor time and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// In user mode and in the kernel, in seconds.
    pub seconds: f64,
    /// What is resident, in bytes.
    pub resident: u64,
}

/// Of the process `root` and all below it.
pub fn of_tree(root: u32) -> Result<Cost> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let all: Vec<Stat> = fs::read_dir("/proc")
        .context("cannot read /proc")?
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
        })
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        let parent = tree[next];
        tree.extend(
            all.iter()
                .filter(|stat| stat.parent == parent)
                .map(|stat| stat.pid),
        );
        next += 1;
    }
    let mut cost = Cost::default();
    for pid in tree {
        let stat = all
            .iter()
            .find(|stat| stat.pid == pid)
            .with_context(|| format!("process {pid} is gone"))?;
        cost.seconds += stat.ticks as f64 / ticks;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("process {pid} is gone"))?;
        cost.resident += parse_bytes(&status, "VmRSS:").unwrap_or_default();
    }
    Ok(cost)
}

/// The memory of one process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What is resident.
    pub resident: u64,
    /// The most that ever was.
    pub peak: u64,
}

/// Of the process `pid`.
pub fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let read = |name: &str| {
        parse_bytes(&status, name).with_context(|| format!("the kernel does not tell {name}"))
    };
    Ok(Memory {
        resident: read("VmRSS:")?,
        peak: read("VmHWM:")?,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    ticks: u64,
}

/// Reads `/proc/PID/stat`. The name in brackets may hold anything, so what follows is counted from the last bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, _) = text.split_once(' ')?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
    })
}

fn parse_bytes(status: &str, name: &str) -> Option<u64> {
    let kilobytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix(name))?
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let stat =
            "42 (a (strange) name) S 7 42 42 0 -1 4194560 100 0 0 0 11 5 0 0 20 0 1 0 100 0 0";
        assert_eq!(
            parse_stat(stat),
            Some(Stat {
                pid: 42,
                parent: 7,
                ticks: 16
            })
        );
        assert_eq!(
            parse_bytes("VmSize:\t 10 kB\nVmRSS:\t    2048 kB\n", "VmRSS:"),
            Some(2048 * 1024)
        );
    }

    #[test]
    fn counts_this_process() {
        let cost = of_tree(std::process::id()).unwrap();
        assert!(cost.resident > 0);
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.peak >= memory.resident);
    }
}
