//! What a namespace was like before the chains, kept on the node so that any later agent can restore it.
//!
//! The kernel says which chains are ours, but not which of our other changes were there before us. The note is
//! written before the change that it is about.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::intercept::iptables::plan::Known;
use crate::intercept::iptables::rule::Family;
use crate::netns::NetNs;
use crate::sys::netns_cookie::netns_cookie;

/// Where the notes lie. Gone with a reboot, as are the namespaces.
const DIRECTORY: &str = "/run/mesh-agent/iptables";

/// What must be undone, beside the chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What `nf_conntrack_tcp_loose` was.
    pub tcp_loose: Option<String>,
    /// Whether `::6` on the loopback device is our work.
    pub added_address: bool,
    /// The mark and the table of the policy route for TPROXY.
    pub tproxy: Option<(u32, u32)>,
    /// Rules of ours that lead to no chain of ours: IPv4.
    pub known4: Known,
    /// The same: IPv6.
    pub known6: Known,
}

/// The files of one namespace.
#[derive(Clone, Debug)]
pub struct Files {
    note: PathBuf,
    xtables_lock: PathBuf,
}

impl Files {
    /// Those of a namespace. Its inode may be another namespace's soon after it is gone, its cookie never is.
    pub fn of(netns: &NetNs) -> io::Result<Self> {
        fs::create_dir_all(DIRECTORY)?;
        let name = match netns_cookie(netns) {
            Ok(cookie) => format!("netns-{cookie}"),
            // Before Linux 5.14.
            Err(_) => format!("netns-{}-{}", netns.id().device, netns.id().inode),
        };
        Ok(Self {
            note: Path::new(DIRECTORY).join(&name),
            xtables_lock: Path::new(DIRECTORY).join(format!("{name}.xtables")),
        })
    }

    /// The file that legacy iptables locks instead of its host-wide one.
    pub fn xtables_lock(&self) -> &Path {
        &self.xtables_lock
    }

    /// The note, or an empty one.
    pub fn read(&self) -> io::Result<Record> {
        match fs::read_to_string(&self.note) {
            Ok(text) => Ok(Record::parse(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(e) => Err(e),
        }
    }

    /// Replaces the note; half a note is never seen.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let new = self.note.with_extension("new");
        fs::write(&new, record.to_text())?;
        fs::rename(new, &self.note)
    }

    /// Forgets the namespace. Only whoever holds its lock may do so, here and below.
    pub fn remove(&self) {
        // What is not there need not be removed, and what cannot be is overwritten by the next agent.
        let _ = fs::remove_file(&self.note);
    }

    /// Removes the lock file, likewise.
    pub fn remove_lock(&self) {
        let _ = fs::remove_file(&self.xtables_lock);
    }
}

impl Record {
    /// The rules of a family that leads to no chain of ours.
    pub fn known(&self, family: Family) -> &Known {
        match family {
            Family::V4 => &self.known4,
            Family::V6 => &self.known6,
        }
    }

    fn to_text(&self) -> String {
        let mut lines = Vec::new();
        if let Some(value) = &self.tcp_loose {
            lines.push(format!("tcp_loose {value}"));
        }
        if self.added_address {
            lines.push("added_address".to_owned());
        }
        if let Some((mark, table)) = self.tproxy {
            lines.push(format!("tproxy {mark} {table}"));
        }
        for (word, known) in [("rule4", &self.known4), ("rule6", &self.known6)] {
            for (table, chain, rule) in known {
                lines.push(format!("{word} {table} {chain} {rule}"));
            }
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Lines that a newer agent may have written are passed over.
    fn parse(text: &str) -> Self {
        let mut record = Self::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "tcp_loose" => record.tcp_loose = Some(rest.to_owned()),
                "added_address" => record.added_address = true,
                "tproxy" => {
                    record.tproxy = rest
                        .split_once(' ')
                        .and_then(|(mark, table)| Some((mark.parse().ok()?, table.parse().ok()?)));
                }
                "rule4" | "rule6" => {
                    let mut parts = rest.splitn(3, ' ').map(str::to_owned);
                    if let (Some(table), Some(chain), Some(rule)) =
                        (parts.next(), parts.next(), parts.next())
                    {
                        let known = match word {
                            "rule4" => &mut record.known4,
                            _ => &mut record.known6,
                        };
                        known.push((table, chain, rule));
                    }
                }
                _ => {}
            }
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let rule = |text: &str| ("nat".to_owned(), "OUTPUT".to_owned(), text.to_owned());
        let record = Record {
            tcp_loose: Some("1".to_owned()),
            added_address: true,
            tproxy: Some((1337, 133)),
            known4: vec![rule("-o net1 -j RETURN"), rule("-o net2 -j RETURN")],
            known6: vec![rule("-o net1 -j RETURN")],
        };
        assert_eq!(Record::parse(&record.to_text()), record);
        assert_eq!(Record::parse("newer thing\n"), Record::default());
    }
}
