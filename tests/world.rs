//! A node with its bridge and its link to the outside, and the pods that hang on it.
//!
//! | what | IPv4 | IPv6 |
//! | --- | --- | --- |
//! | node, on bridge `mesh0` | 10.97.0.1/16 | fd97::1/64 |
//! | pods' `eth0` | 10.97.0.2 and up | fd97::2 and up |
//! | bridge `mesh1`, for second interfaces | 10.99.0.1/16 | fd99::1/64 |
//! | Services (no route leads there) | 10.96.0.0/16 | fd96::/112 |
//! | outside machine, beyond the node | 203.0.113.5 | 2001:db8::5 |
//! | outside, packets vanish | 203.0.113.66 | 2001:db8::66 |

pub(crate) mod isolate;
mod network;
pub(crate) mod pod;
pub(crate) mod process;
mod sys;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use pod::{Pod, PodOptions};

/// Where a world keeps its files: logs, and what its pods see as `/etc/hosts`. In memory; gone with the world.
pub const FILES: &str = "/run/mesh-world";

/// The node's address as its pods see it.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);
/// The same for IPv6.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, 1);
/// The machine beyond the node.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// The same for IPv6.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);

/// How a world is made.
#[derive(Clone, Debug, Default)]
pub struct WorldOptions {
    /// Names that every pod resolves from the start.
    pub hosts: Vec<(String, IpAddr)>,
}

/// A node and its pods. The calling thread's network namespace, fresh from [`crate::isolate`], becomes the node.
#[derive(Debug)]
pub struct World {
    node: Pod,
    outside: Pod,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pods: Vec<Pod>,
    hosts: Vec<(String, IpAddr)>,
    /// How many links were made; numbers them, and the addresses of those who did not choose.
    links: u16,
    second_bridge: bool,
}

impl World {
    /// Makes the node and the machine outside.
    pub fn new(options: WorldOptions) -> Result<Self> {
        fs::create_dir_all(Path::new(FILES).join("logs")).context("creating the log directory")?;
        let node = Pod::of_this_thread("node")?;
        network::set_up_node(&node).context("setting up the node's network")?;
        let outside = Pod::make("outside", &options.hosts)?;
        network::join_outside(&node, &outside).context("joining the machine outside")?;
        Ok(Self {
            node,
            outside,
            state: Mutex::new(State {
                hosts: options.hosts,
                links: 1,
                ..State::default()
            }),
        })
    }

    /// The node itself: where agents run.
    pub fn node(&self) -> &Pod {
        &self.node
    }

    /// A machine that is reached through the node, and has the outside addresses.
    pub fn outside(&self) -> &Pod {
        &self.outside
    }

    /// Makes a pod: a namespace `/run/netns/NAME` with `eth0` in the node's bridge, and a hosts file of its own.
    pub fn pod(&self, name: &str, options: PodOptions) -> Result<Pod> {
        let mut state = self.lock();
        let mut pod = Pod::make(name, &state.hosts)?;
        state.links += 1;
        let number = state.links;
        pod.ipv4 = options.ipv4.unwrap_or(network::pod_v4(number));
        pod.ipv6 = options.ipv6.unwrap_or(network::pod_v6(number));
        pod.link = format!("veth{number}");
        network::join_bridge(&self.node, &pod).with_context(|| format!("joining pod {name}"))?;
        for interface in options.interfaces {
            if !state.second_bridge {
                network::add_second_bridge(&self.node)?;
                state.second_bridge = true;
            }
            state.links += 1;
            network::join_second_bridge(&self.node, &pod, &interface, state.links)
                .with_context(|| format!("adding {} to pod {name}", interface.name))?;
        }
        state.pods.push(pod.clone());
        Ok(pod)
    }

    /// Ends a pod's processes, takes its link away and its name from `/run/netns`.
    pub fn remove(&self, pod: &Pod) -> Result<()> {
        self.lock().pods.retain(|known| known.name != pod.name);
        network::unlink(&self.node, pod)?;
        pod.end()
    }

    /// Makes `name` resolve to `address`, in every pod there is or will be.
    pub fn host(&self, name: &str, address: impl Into<IpAddr>) -> Result<()> {
        let mut state = self.lock();
        state.hosts.push((name.to_owned(), address.into()));
        for pod in state.pods.iter().chain([&self.outside]) {
            pod.write_hosts(&state.hosts)?;
        }
        Ok(())
    }

    /// Gives the machine outside one more address.
    pub fn add_outside_address(&self, address: IpAddr) -> Result<()> {
        network::add_address(&self.outside, "lo", address)
    }

    /// The file for the log of a process that is called `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        Path::new(FILES).join("logs").join(format!("{name}.log"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pods = std::mem::take(&mut self.lock().pods);
        for pod in pods.iter().chain([&self.outside]) {
            // What cannot be taken away here goes with the mount namespace.
            let _ = pod.end();
        }
    }
}
