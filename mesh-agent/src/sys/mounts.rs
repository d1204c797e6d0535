//! What is mounted where, as the calling thread sees the file system.

use std::fs;
use std::path::PathBuf;

/// The text of `mountinfo`.
pub fn mounts() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default()
}

/// The mount points of a file system type, out of the text of `mountinfo`.
pub fn mount_points<'a>(mountinfo: &'a str, kind: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mountinfo.lines().filter_map(move |line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next()? != kind {
            return None;
        }
        let path = before.split(' ').nth(4)?;
        Some(PathBuf::from(
            path.replace("\\040", " ").replace("\\011", "\t"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_mounts_by_type() {
        let text = "25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    32 25 0:29 / /sys/fs/cgroup/a\\040b rw,relatime shared:3 - cgroup2 cgroup2 rw\n\
                    33 25 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let found: Vec<_> = mount_points(text, "cgroup2").collect();
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/a b")]);
    }
}
