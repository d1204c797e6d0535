//! The iptables programs: which there are, which one a namespace's rules live in, and running them inside it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::intercept::InterceptError;
use crate::intercept::iptables::options::BackendChoice;
use crate::intercept::iptables::rule::Family;
use crate::intercept::iptables::saved::Saved;
use crate::netns::NetNs;
use crate::node::Node;

/// One of the kernel's two ways to keep iptables rules, or whichever the plain program uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables.
    Nft,
    /// x_tables.
    Legacy,
    /// What `iptables` without a suffix is on this machine.
    Plain,
}

/// The programs of one backend, inside one namespace.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    netns: &'a NetNs,
    backend: Backend,
    lock_file: &'a Path,
}

/// Legacy iptables waits this long for its lock, in seconds.
const LOCK_WAIT: &str = "30";

/// Where programs are that root's `PATH` may not name.
const SYSTEM_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

impl<'a> Programs<'a> {
    /// The programs that `choice` asks for. Automatic is what istio-iptables does: legacy where legacy rules are
    /// already, otherwise nft, otherwise what there is. `lock_file` takes the place of legacy's host-wide lock.
    pub fn choose(
        netns: &'a NetNs,
        choice: BackendChoice,
        lock_file: &'a Path,
    ) -> Result<Self, InterceptError> {
        let with = |backend| Self {
            netns,
            backend,
            lock_file,
        };
        match choice {
            BackendChoice::Forced(backend) => {
                let programs = with(backend);
                programs.save(Family::V4)?;
                Ok(programs)
            }
            BackendChoice::Auto => {
                let legacy = with(Backend::Legacy);
                if legacy.present() && legacy.in_use()? {
                    return Ok(legacy);
                }
                let mut refusal = None;
                for backend in [Backend::Nft, Backend::Legacy, Backend::Plain] {
                    let programs = with(backend);
                    match programs.save(Family::V4) {
                        Ok(_) => return Ok(programs),
                        Err(e) => refusal = refusal.or(Some(e)),
                    }
                }
                Err(refusal.unwrap_or_else(|| missing("iptables")))
            }
        }
    }

    /// The other backend's programs, where they are installed and hold rules of ours.
    pub fn abandoned(&self) -> Result<Option<Self>, InterceptError> {
        let backend = match self.backend {
            Backend::Nft => Backend::Legacy,
            Backend::Legacy => Backend::Nft,
            // It is one of the two, and cannot tell us which without guessing.
            Backend::Plain => return Ok(None),
        };
        let other = Self { backend, ..*self };
        if !other.present() || (backend == Backend::Legacy && !legacy_tables(self.netns)?) {
            return Ok(None);
        }
        for family in [Family::V4, Family::V6] {
            // A backend that the kernel does not have holds no rules.
            if other.save(family).is_ok_and(|saved| saved.has_ours()) {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Which backend these are.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The rules that are there. Reading loads no table that is not there.
    pub fn save(&self, family: Family) -> Result<Saved, InterceptError> {
        let name = self.name(family, "save");
        if self.backend == Backend::Legacy && !legacy_tables(self.netns)? {
            program(&name)?;
            return Ok(Saved::default());
        }
        let output = self.run(&name, &[], None, Stdio::piped())?;
        Ok(Saved::parse(
            family,
            &String::from_utf8_lossy(&output.stdout),
        ))
    }

    /// Puts `rules` in force, all or nothing for each table. The program holds `lock` for as long as it runs, even
    /// where the agent is killed meanwhile: the next agent must not read half a change.
    pub fn restore(&self, family: Family, rules: &str, lock: &File) -> Result<(), InterceptError> {
        let name = self.name(family, "restore");
        let mut arguments = vec!["--noflush"];
        if self.backend != Backend::Nft {
            arguments.extend(["--wait", LOCK_WAIT]);
        }
        // It prints nothing, so its standard output is free to carry the lock.
        let lock = lock
            .try_clone()
            .map_err(|e| InterceptError::step("handing the namespace's lock to iptables", e))?;
        self.run(&name, &arguments, Some(rules), Stdio::from(lock))?;
        Ok(())
    }

    fn present(&self) -> bool {
        program(&self.name(Family::V4, "restore")).is_ok()
    }

    fn in_use(&self) -> Result<bool, InterceptError> {
        Ok(self.save(Family::V4)?.has_rules() || self.save(Family::V6)?.has_rules())
    }

    fn name(&self, family: Family, verb: &str) -> String {
        let stem = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        match self.backend {
            Backend::Nft => format!("{stem}-nft-{verb}"),
            Backend::Legacy => format!("{stem}-legacy-{verb}"),
            Backend::Plain => format!("{stem}-{verb}"),
        }
    }

    fn run(
        &self,
        name: &str,
        arguments: &[&str],
        input: Option<&str>,
        output: Stdio,
    ) -> Result<Output, InterceptError> {
        let program = program(name)?;
        let failed =
            |e: io::Error| InterceptError::step(format!("running {}", program.path.display()), e);
        let mut command = Command::new(&program.path);
        command
            .args(arguments)
            .env("XTABLES_LOCKFILE", self.lock_file)
            // The reasons of a failure are told apart by their words.
            .env("LC_ALL", "C")
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(output)
            .stderr(Stdio::piped());
        let mut child = program.start(&mut command, self.netns).map_err(failed)?;
        // Our copy of the lock must go when the child's does.
        drop(command);
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // A program that dies early says why on its standard error; that is the error to report.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            Ok(output)
        } else {
            Err(refused(name, &output))
        }
    }
}

/// Whether the namespace has any legacy table. Asking the program could create them.
fn legacy_tables(netns: &NetNs) -> Result<bool, InterceptError> {
    netns
        .run(|| {
            ["ip_tables_names", "ip6_tables_names"].iter().any(|file| {
                // Without the module there is no such file, and no table.
                fs::read(Path::new("/proc/thread-self/net").join(file))
                    .is_ok_and(|names| !names.is_empty())
            })
        })
        .map_err(|e| InterceptError::step("entering the pod's network namespace", e))
}

/// A program, and whose file system it is in.
#[derive(Debug)]
struct Program {
    path: PathBuf,
    /// `None`: the agent's own.
    node: Option<Node>,
}

impl Program {
    /// Starts it inside a network namespace. A child lives in the namespaces of the thread that made it.
    fn start(&self, command: &mut Command, netns: &NetNs) -> io::Result<Child> {
        let mut start = move || netns.run(|| command.spawn()).flatten();
        match &self.node {
            None => start(),
            Some(node) => node.run(start).flatten(),
        }
    }
}

/// Finds a program: on the agent's file system, or else on that of the node. An image for the agent need not bring iptables.
fn program(name: &str) -> Result<Program, InterceptError> {
    if let Some(path) = look(name) {
        return Ok(Program { path, node: None });
    }
    // Where the node cannot be looked at, it has no programs for us.
    let node = Node::around().ok().flatten();
    let found = node.and_then(|node| {
        let path = node.run(|| look(name)).ok().flatten()?;
        Some(Program {
            path,
            node: Some(node),
        })
    });
    found.ok_or_else(|| missing(name))
}

/// Where a program is on the file system of the calling thread.
fn look(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(OsStr::new(name)))
        .find(|candidate| candidate.is_file())
}

fn missing(name: &str) -> InterceptError {
    InterceptError::Unsupported {
        what: format!("the program {name} is not installed"),
        remedy: "install the package iptables (Debian, Ubuntu, Alpine) or iptables-nft (Fedora, RHEL), or choose \
                 another --backend"
            .to_owned(),
    }
}

fn refused(name: &str, output: &Output) -> InterceptError {
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let lacks_kernel_part = [
        "Table does not exist",
        "unable to initialize table",
        "do you need to insmod",
        "missing kernel module",
        "Protocol not supported",
        "Protocol not available",
        "No chain/target/match by that name",
        "RULE_APPEND failed (No such file or directory)",
        "CHAIN_ADD failed (No such file or directory)",
    ]
    .iter()
    .any(|words| said.contains(words));
    if lacks_kernel_part {
        return InterceptError::Unsupported {
            what: format!("the kernel lacks a part that {name} needs: {said}"),
            remedy: "load the modules nf_conntrack, nf_nat, xt_REDIRECT, xt_owner and xt_multiport on the node \
                     (modprobe), with iptable_nat and ip6table_nat for legacy or nft_compat and nft_chain_nat for nft"
                .to_owned(),
        };
    }
    InterceptError::step(
        format!("{name} refused the rules"),
        format!("{}: {said}", output.status),
    )
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
            Self::Plain => "plain",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn after(stderr: &str) -> InterceptError {
        let output = Output {
            status: ExitStatus::from_raw(2 << 8),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        };
        refused("iptables-nft-restore", &output)
    }

    #[test]
    fn what_the_kernel_lacks_is_told_from_what_it_refuses() {
        for stderr in [
            "iptables v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist (do you need to insmod?)",
            "iptables-legacy-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'",
            "iptables/1.8.9 Failed to initialize nft: Protocol not supported",
            "Warning: Extension REDIRECT revision 0 not supported, missing kernel module?",
        ] {
            assert!(
                matches!(after(stderr), InterceptError::Unsupported { .. }),
                "{stderr}"
            );
        }
        let error = after("iptables-restore: line 7 failed");
        assert!(matches!(error, InterceptError::Step { .. }));
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(
            source.as_deref(),
            Some("exit status: 2: iptables-restore: line 7 failed")
        );
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = program("no-such-iptables-restore").expect_err("there is none");
        assert!(
            matches!(&error, InterceptError::Unsupported { remedy, .. } if remedy.contains("Debian"))
        );
    }
}
