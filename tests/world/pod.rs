//! A place with a network namespace and a hosts file of its own: a pod, the node, or the machine outside.

use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::FILES;
use super::process::Running;
use super::sys::{self, Namespaces, Owner};

/// How a pod is made.
#[derive(Clone, Debug, Default)]
pub struct PodOptions {
    /// The address on `eth0`; the next free one where it is missing.
    pub ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Interfaces besides `eth0`, on the node's second bridge.
    pub interfaces: Vec<Interface>,
}

/// A second interface. Its addresses belong to 10.99.0.0/16 and fd99::/64.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name in the pod.
    pub name: String,
    /// Its address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
}

/// A handle; its clones mean the same pod. The namespace lives as long as a handle, or a socket inside.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name, and that of its namespace.
    pub name: String,
    /// Its address on `eth0`. The node has its bridge's, the machine outside its own.
    pub ipv4: Ipv4Addr,
    /// The same for IPv6.
    pub ipv6: Ipv6Addr,
    /// The node's end of its `eth0`.
    pub(super) link: String,
    namespaces: Arc<Namespaces>,
    /// A process that does nothing but be inside.
    holder: Arc<Mutex<Option<Running>>>,
    holder_pid: u32,
}

impl Pod {
    /// A command that runs inside the pod: its network, its `/etc/hosts`. It starts in `/` (whatever `current_dir` says),
    /// and is killed when the thread that started it ends.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::enter_before_exec(&mut command, Arc::clone(&self.namespaces), None);
        command
    }

    /// The same as another user and group. `Command::uid` would come too early: it takes the right to enter the pod.
    pub fn command_as(&self, uid: u32, gid: u32, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let owner = Some(Owner { uid, gid });
        sys::enter_before_exec(&mut command, Arc::clone(&self.namespaces), owner);
        command
    }

    /// A place that somebody else has made: where the process `pid` is. It has no name in `/run/netns`, and it ends when that
    /// process and all others in it do.
    pub fn of_process(name: &str, pid: u32, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            ipv4,
            ipv6,
            link: String::new(),
            namespaces: Arc::new(open_namespaces(pid)?),
            holder: Arc::default(),
            holder_pid: pid,
        })
    }

    /// Runs `action` on a thread inside the pod and waits for it. Sockets made there belong to the pod for ever.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        self.run_with(None, action)
    }

    /// The same as another user and group.
    pub fn run_as<T: Send>(
        &self,
        uid: u32,
        gid: u32,
        action: impl FnOnce() -> T + Send,
    ) -> Result<T> {
        self.run_with(Some(Owner { uid, gid }), action)
    }

    /// A process inside, for `nsenter --target PID --net --mount` from another terminal.
    pub fn holder_pid(&self) -> u32 {
        self.holder_pid
    }

    /// Where its network namespace is mounted.
    pub fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn run_with<T: Send>(
        &self,
        owner: Option<Owner>,
        action: impl FnOnce() -> T + Send,
    ) -> Result<T> {
        let inside = || -> io::Result<T> {
            sys::enter_thread(&self.namespaces, owner)?;
            Ok(action())
        };
        let result = std::thread::scope(|scope| scope.spawn(inside).join());
        match result {
            Ok(result) => result.with_context(|| format!("entering {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

// === making and ending, for the world ===

impl Pod {
    /// New namespaces, with a process to hold them, and a name in `/run/netns`.
    pub(super) fn make(name: &str, hosts: &[(String, IpAddr)]) -> Result<Self> {
        let files = Path::new(FILES).join(name);
        fs::create_dir_all(&files).with_context(|| format!("creating {}", files.display()))?;
        fs::write(files.join("hosts"), render_hosts(name, hosts)).context("writing its hosts")?;
        // Nobody answers there, so a name that is not in the hosts file fails at once.
        let resolver = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
        fs::write(files.join("resolv.conf"), resolver).context("writing its resolv.conf")?;
        let mut binds = Vec::new();
        for file in ["hosts", "resolv.conf"] {
            let target = Path::new("/etc").join(file);
            if target.exists() {
                binds.push((c_path(&files.join(file))?, c_path(&target)?));
            }
        }
        let mut command = sleeper();
        sys::unshare_before_exec(&mut command, c"/run/netns".to_owned(), binds);
        let pod = Self::held(name, command)?;
        pod.publish()?;
        Ok(pod)
    }

    /// The namespaces of the calling thread.
    pub(super) fn of_this_thread(name: &str) -> Result<Self> {
        let mut command = sleeper();
        sys::die_with_parent(&mut command);
        let mut pod = Self::held(name, command)?;
        (pod.ipv4, pod.ipv6) = (super::NODE_V4, super::NODE_V6);
        Ok(pod)
    }

    fn held(name: &str, command: Command) -> Result<Self> {
        let holder = Running::start(name, command, Path::new("/dev/null"))?;
        let pid = holder.pid();
        let namespaces = open_namespaces(pid)?;
        Ok(Self {
            name: name.to_owned(),
            ipv4: super::OUTSIDE_V4,
            ipv6: super::OUTSIDE_V6,
            link: String::new(),
            namespaces: Arc::new(namespaces),
            holder: Arc::new(Mutex::new(Some(holder))),
            holder_pid: pid,
        })
    }

    /// Mounts the namespace where `ip netns` and the agent look for it.
    fn publish(&self) -> Result<()> {
        let path = self.netns();
        File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let source = format!("/proc/{}/ns/net", self.holder_pid);
        let source = Some(source.as_str());
        mount(source, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("mounting the namespace on {}", path.display()))
    }

    /// Ends its holder and takes its name away. Open handles and sockets keep the namespace alive nevertheless.
    pub(super) fn end(&self) -> Result<()> {
        drop(
            self.holder
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let path = self.netns();
        umount2(&path, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {}", path.display()))?;
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Rewrites its hosts file in place: the pod sees this very file.
    pub(super) fn write_hosts(&self, hosts: &[(String, IpAddr)]) -> Result<()> {
        let path = Path::new(FILES).join(&self.name).join("hosts");
        fs::write(&path, render_hosts(&self.name, hosts))
            .with_context(|| format!("writing {}", path.display()))
    }
}

fn open_namespaces(pid: u32) -> Result<Namespaces> {
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).with_context(|| format!("opening {path}"))
    };
    Ok(Namespaces {
        net: open("net")?,
        mount: open("mnt")?,
    })
}

fn render_hosts(name: &str, hosts: &[(String, IpAddr)]) -> String {
    let mut text = format!("127.0.0.1 localhost {name}\n::1 localhost ip6-localhost\n");
    for (host, address) in hosts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{address} {host}");
    }
    text
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("infinity");
    command
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).context("a path with a zero byte")
}
