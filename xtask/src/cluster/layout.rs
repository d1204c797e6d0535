//! Where the parts of one cluster are: its folder, its addresses, its ports. It is decided once and kept in the folder, so
//! that every later command finds the same.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The name of the only node.
pub const NODE: &str = "node1";

/// What Services have their addresses from.
pub const SERVICES: &str = "10.96.0.0/16,fd96::/112";

/// A socket's path may have 108 bytes, and containerd appends to it.
const LONGEST_FOLDER: usize = 80;

/// Where the configurations of a node's network are, as on any node.
pub const NETWORKS: &str = "/etc/cni/net.d";

/// Where a node's CNI plugins are.
pub const CNI_PLUGINS: &str = "/opt/cni/bin";

/// The host's folders that containerd, the kubelet and CNI insist on. The cluster gets its own in their places, which
/// nobody else sees.
pub const PRIVATE: [&str; 8] = [
    NETWORKS,
    CNI_PLUGINS,
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];

/// What the kubelet and the bridge plugin set, for the whole machine.
const SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
];

/// A cluster's places.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layout {
    /// Its folder, absolute.
    pub folder: PathBuf,
    /// Where Kubernetes' programs are.
    pub programs: PathBuf,
    /// Tells it from other clusters on this machine.
    pub id: String,
    /// The third number of its pods' addresses.
    pub subnet: u8,
    /// Ports that nobody else had when they were chosen.
    pub ports: Ports,
    /// How the machine was set before.
    pub before: Before,
}

/// Ports, on loopback but for the first two.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ports {
    /// The API server's, on the node's address.
    pub api: u16,
    /// The kubelet's, on the node's address.
    pub kubelet: u16,
    /// etcd's for its clients.
    pub etcd: u16,
    /// etcd's for its like.
    pub etcd_peer: u16,
    /// The controller manager's.
    pub controllers: u16,
    /// The scheduler's.
    pub scheduler: u16,
}

/// What must be as it was when the cluster is gone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Before {
    /// Settings of the kernel, and their values.
    pub sysctls: Vec<(String, String)>,
    /// Folders that were not there.
    pub missing: Vec<PathBuf>,
}

impl Layout {
    /// That of the cluster in `folder`, or a new one.
    pub fn of(folder: &Path, programs: &Path) -> Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let folder = folder
            .canonicalize()
            .with_context(|| format!("cannot find {}", folder.display()))?;
        if let Some(mut known) = Self::find(&folder)? {
            known.programs = programs.to_path_buf();
            known.write()?;
            return Ok(known);
        }
        if fs::read_dir(&folder)?.next().is_some() {
            bail!(
                "{} has files that are not a cluster's: name an empty folder or a new one",
                folder.display()
            );
        }
        if folder.as_os_str().len() > LONGEST_FOLDER {
            bail!("the path {} is too long for sockets", folder.display());
        }
        let layout = Self {
            id: id_of(&folder),
            programs: programs.to_path_buf(),
            subnet: free_subnet()?,
            ports: Ports::free()?,
            before: Before::now(),
            folder,
        };
        layout.write()?;
        Ok(layout)
    }

    /// That of the cluster in `folder`, if there is one.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("cluster.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is not a cluster's", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// A place in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the cluster has in the place of one of [`PRIVATE`].
    pub fn private(&self, place: &str) -> PathBuf {
        self.path("private").join(place.trim_start_matches('/'))
    }

    /// Where kubectl, the agent, and Kubernetes' own programs read how to reach it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// The socket of its containerd.
    pub fn socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }

    /// The bridge of its pods.
    pub fn bridge(&self) -> String {
        format!("mesh-{}", self.id)
    }

    /// The control group that all its pods are in.
    pub fn group(&self) -> String {
        format!("/mesh-cluster-{}", self.id)
    }

    /// The node's address on the bridge.
    pub fn node_v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.subnet, 1)
    }

    /// The pods' network, and the node's address in it.
    pub fn pods_v4(&self) -> (String, String) {
        let (net, node) = (self.subnet, self.node_v4());
        (format!("10.244.{net}.0/24"), format!("{node}/24"))
    }

    /// The same for IPv6.
    pub fn pods_v6(&self) -> (String, String) {
        let net = self.subnet;
        (format!("fd44:{net:x}::/64"), format!("fd44:{net:x}::1/64"))
    }

    fn write(&self) -> Result<()> {
        let path = self.path("cluster.json");
        let fresh = self.path("cluster.json.new");
        fs::write(&fresh, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Ports {
    fn free() -> Result<Self> {
        // All are held until all are chosen, so that no two are the same.
        let mut held = Vec::new();
        let mut port = || -> Result<u16> {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no free port")?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        Ok(Self {
            api: port()?,
            kubelet: port()?,
            etcd: port()?,
            etcd_peer: port()?,
            controllers: port()?,
            scheduler: port()?,
        })
    }
}

impl Before {
    fn now() -> Self {
        let value = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
        Self {
            sysctls: SYSCTLS
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), value(name)?)))
                .collect(),
            missing: missing_of(&PRIVATE),
        }
    }

    /// Sets everything back; what is of the network only where that is still the same. What somebody has begun to use in the
    /// meantime stays.
    pub fn restore(&self, same_network: bool) {
        for (name, value) in &self.sysctls {
            if name.starts_with("net/") && !same_network {
                continue;
            }
            let path = Path::new("/proc/sys").join(name);
            if fs::read_to_string(&path).is_ok_and(|now| now != *value) {
                let _ = fs::write(path, value.trim());
            }
        }
        for folder in &self.missing {
            // Only where it is empty.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Those that are not there, and what is not there above them: the inner ones first.
fn missing_of(places: &[&str]) -> Vec<PathBuf> {
    let mut missing: Vec<PathBuf> = Vec::new();
    for place in places {
        let absent = Path::new(place).ancestors().take_while(|at| !at.exists());
        for at in absent.map(Path::to_path_buf) {
            if !missing.contains(&at) {
                missing.push(at);
            }
        }
    }
    missing.sort_by_key(|at| std::cmp::Reverse(at.components().count()));
    missing
}

fn id_of(folder: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    format!("{:08x}", hasher.finish() >> 32)
}

/// A network that no interface and no route of this machine knows.
fn free_subnet() -> Result<u8> {
    let mut taken = String::new();
    for what in ["address", "route"] {
        let output = Command::new("ip")
            .args(["-4", "-oneline", what, "show"])
            .output()
            .context("cannot start `ip`: install iproute2")?;
        taken.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    (1..=254)
        .find(|net| !taken.contains(&format!("10.244.{net}.")))
        .context("every network in 10.244.0.0/16 is taken")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_found_again_where_it_was_made() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("cluster");
        assert!(Layout::find(&folder).unwrap().is_none());
        let made = Layout::of(&folder, Path::new("/a")).unwrap();
        let again = Layout::of(&folder, Path::new("/b")).unwrap();
        assert_eq!(made.ports.api, again.ports.api);
        assert_eq!(made.id, again.id);
        assert_eq!(again.programs, Path::new("/b"));
        // The kernel takes no longer name for a link.
        assert!(made.bridge().len() < 16);
    }

    #[test]
    fn what_is_made_is_removed_from_within() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name).display().to_string();
        fs::create_dir_all(at("etc")).unwrap();
        let (networks, plugins) = (at("etc/cni/net.d"), at("opt/cni/bin"));
        let missing = missing_of(&[networks.as_str(), plugins.as_str(), at("etc").as_str()]);
        for place in [&networks, &plugins] {
            fs::create_dir_all(place).unwrap();
        }
        Before {
            sysctls: Vec::new(),
            missing,
        }
        .restore(true);
        let left: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["etc"]);
        assert!(fs::read_dir(at("etc")).unwrap().next().is_none());
    }

    #[test]
    fn the_files_of_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("letter"), "Dear").unwrap();
        assert!(Layout::of(folder.path(), Path::new("/a")).is_err());
        fs::write(folder.path().join("cluster.json"), "{}").unwrap();
        assert!(Layout::find(folder.path()).is_err());
    }
}
