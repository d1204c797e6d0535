//! Loads the BPF object, and shares its maps between the instances of its programs.

use std::fs::File;
use std::path::Path;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SockMap, Stack};
use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::sk_msg::SkMsgLink;
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::{
    BtfTracePoint, CgroupSockAddr, Program, ProgramError, ProgramInfo, SkLookup, SkMsg, SockOps,
};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use mesh_ebpf::abi;
use mesh_ebpf::pair::{Handshake, Pair, Waiting};

use super::FastPathFor;
use super::entries::gone;
use super::probe::in_one_line;
use crate::intercept::InterceptError;
use crate::netns::NetNs;

/// The object file; empty where this build has none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf.o"));

/// The maps that all instances share. They are pinned: that is how one instance finds those of another.
const SHARED: [&str; 16] = [
    abi::MAP_PODS,
    abi::MAP_POLICIES,
    abi::MAP_ADDRESSES,
    abi::MAP_PORTS,
    abi::MAP_CIDRS,
    abi::MAP_OWNERS,
    abi::MAP_INTERFACES,
    abi::MAP_LISTENERS,
    abi::MAP_STATS,
    abi::MAP_LEGS,
    abi::MAP_PAIRS,
    abi::MAP_FREE,
    abi::MAP_WAITING,
    abi::MAP_GONE,
    abi::MAP_LEG,
    abi::MAP_TALLY,
];

/// The values that the loader borrows, for as long as it lives: every pod index, and one for no pod.
static POD_INDEXES: [u32; abi::MAX_PODS as usize + 1] = {
    let mut indexes = [0; abi::MAX_PODS as usize + 1];
    let mut index = 0;
    while index < indexes.len() {
        indexes[index] = index as u32;
        index += 1;
    }
    indexes
};
/// Likewise, every sum of `abi::KERNEL_*`.
static KERNELS: [u32; abi::KERNEL_ALL as usize + 1] = {
    let mut kernels = [0; abi::KERNEL_ALL as usize + 1];
    let mut kernel = 0;
    while kernel < kernels.len() {
        kernels[kernel] = kernel as u32;
        kernel += 1;
    }
    kernels
};
/// Likewise, whether there are log records.
static LOG_LEVELS: [u8; 2] = [0, aya_log::Level::Debug as u8];

/// How this agent loads the object.
pub struct Object {
    /// Kept, because a new one always reads the types of the whole kernel, which these programs do not need.
    loader: EbpfLoader<'static>,
    /// What the kernel can do, a sum of `abi::KERNEL_*`.
    kernel: u32,
}

/// The shared maps, opened.
pub struct Maps {
    pub pods: HashMap<MapData, u64, u32>,
    pub policies: HashMap<MapData, u32, abi::Policy>,
    pub addresses: HashMap<MapData, abi::AddressKey, u32>,
    pub ports: HashMap<MapData, abi::PortKey, u32>,
    pub cidrs: LpmTrie<MapData, abi::CidrKey, u32>,
    pub owners: HashMap<MapData, abi::OwnerKey, u32>,
    pub interfaces: HashMap<MapData, abi::InterfaceKey, u32>,
    pub listeners: SockMap<MapData>,
    pub stats: PerCpuArray<MapData, u64>,
    pub pairs: Array<MapData, Pair>,
    pub free: Stack<MapData, u32>,
    pub waiting: HashMap<MapData, Handshake, Waiting>,
    pub gone: HashMap<MapData, u32, u32>,
    pub tally: PerCpuArray<MapData, u64>,
}

/// What the verifier made of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramReport {
    /// Its name.
    pub name: &'static str,
    /// How many instructions the verifier looked at, where the kernel tells (Linux 5.16).
    pub verified_instructions: Option<u32>,
    /// The size of the program as the kernel runs it, before it is compiled to machine code.
    pub bytes: Option<u32>,
}

/// The programs that serve all pods.
pub struct Hooks {
    /// Their links, with a name for the pin.
    pub links: Vec<(&'static str, FdLink)>,
    /// What keeps the fast path's programs attached, where there is one.
    pub fast_path: Option<FastPath>,
    /// What the verifier said of them, and of the socket lookup.
    pub reports: Vec<ProgramReport>,
    /// The shared maps.
    pub maps: Maps,
    /// What is left of the instance; its log buffer is still in there.
    pub instance: Ebpf,
}

/// The programs of the fast path. They serve the sockets of this agent alone, so they need not outlive it.
pub struct FastPath {
    _send: SkMsgLink,
    _watches: [BtfTracePointLink; 2],
}

impl Object {
    /// Whether this build has programs at all.
    pub fn exists() -> Result<(), InterceptError> {
        if OBJECT.is_empty() {
            return Err(InterceptError::Unsupported {
                what: "this build has no BPF programs".to_owned(),
                remedy: "run `cargo xtask build`".to_owned(),
            });
        }
        Ok(())
    }

    /// How to load the object for an agent that pins its maps in `maps`.
    pub fn new(maps: &Path, log: bool, fast_path: FastPathFor) -> Self {
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global(abi::ABI_SYMBOL, &1u32, true)
            .override_global(aya_log::LEVEL, &LOG_LEVELS[usize::from(log)], true);
        for name in SHARED {
            loader.map_pin_path(name, maps.join(name));
        }
        Self {
            loader,
            kernel: abi::KERNEL_INGRESS
                | abi::KERNEL_RETVAL
                | match fast_path {
                    FastPathFor::Nobody => 0,
                    FastPathFor::Agent => abi::KERNEL_FAST_PATH,
                    FastPathFor::Applications => {
                        abi::KERNEL_FAST_PATH | abi::KERNEL_FAST_APPLICATIONS
                    }
                },
        }
    }

    /// Whether `sk_lookup` programs see the interface of a packet.
    pub fn sees_ingress(&self) -> bool {
        self.kernel & abi::KERNEL_INGRESS != 0
    }

    /// Whether there is a fast path.
    pub fn has_fast_path(&self) -> bool {
        self.kernel & abi::KERNEL_FAST_PATH != 0
    }

    /// Whether an application gets `ECONNREFUSED` from a connect hook, rather than `EPERM`.
    pub fn refuses_properly(&self) -> bool {
        self.kernel & abi::KERNEL_RETVAL != 0
    }

    /// Loads the programs for all pods and attaches them to the cgroup. Where the kernel is too old for a detail, it is
    /// left out; only the error of the plainest attempt counts.
    pub fn attach(&mut self, cgroup: &File) -> Result<Hooks, InterceptError> {
        let mut lookup = self.without_if_needed(abi::KERNEL_INGRESS, |this| {
            let mut instance = this.instance(abi::MAX_PODS)?;
            load_lookup(&mut instance)?;
            report(&instance, abi::PROGRAM_LOOKUP)
        })?;
        lookup.name = abi::PROGRAM_LOOKUP;
        let mut hooks = self.without_if_needed(abi::KERNEL_RETVAL, |this| this.hooks(cgroup))?;
        hooks.reports.push(lookup);
        Ok(hooks)
    }

    /// Loads an instance of the socket lookup for one pod and attaches it to the pod's namespace.
    pub fn attach_lookup(&mut self, pod: u32, netns: &NetNs) -> Result<FdLink, InterceptError> {
        let mut instance = self.instance(pod)?;
        let program = load_lookup(&mut instance)?;
        let id = program
            .attach(netns)
            .map_err(|e| step("attaching", abi::PROGRAM_LOOKUP, e))?;
        let link = program
            .take_link(id)
            .map_err(|e| step("attaching", abi::PROGRAM_LOOKUP, e))?;
        Ok(link.into())
    }

    fn without_if_needed<T>(
        &mut self,
        feature: u32,
        mut attempt: impl FnMut(&mut Self) -> Result<T, InterceptError>,
    ) -> Result<T, InterceptError> {
        match attempt(self) {
            Ok(done) => Ok(done),
            Err(first) => {
                self.kernel &= !feature;
                let second = attempt(self);
                if second.is_ok() {
                    tracing::debug!(error = ?first, feature, "loaded without a feature that this kernel lacks");
                }
                second
            }
        }
    }

    fn hooks(&mut self, cgroup: &File) -> Result<Hooks, InterceptError> {
        let mut instance = self.instance(abi::MAX_PODS)?;
        let mut fast_path = None;
        if self.kernel & abi::KERNEL_FAST_PATH != 0 {
            match attach_fast_path(&mut instance) {
                Ok(attached) => fast_path = Some(attached),
                Err(e) => {
                    let reason = in_one_line(&e);
                    tracing::warn!(
                        reason,
                        "no fast path: connections within the node go by TCP"
                    );
                    self.kernel &= !abi::KERNEL_FAST_PATH;
                    instance = self.instance(abi::MAX_PODS)?;
                }
            }
        }
        let mut links = Vec::new();
        let mut reports = Vec::new();
        for name in [abi::PROGRAM_CONNECT4, abi::PROGRAM_CONNECT6] {
            links.push((name, attach_connect(&mut instance, name, cgroup)?));
            reports.push(report(&instance, name)?);
        }
        // Only counts: a kernel that does not tell this hook whose namespace it is (before 5.15) does without.
        let name = abi::PROGRAM_SOCK_OPS;
        match attach_sock_ops(&mut instance, name, cgroup) {
            Ok(link) => {
                links.push((name, link));
                reports.push(report(&instance, name)?);
            }
            Err(e) => {
                let reason = in_one_line(&e);
                tracing::info!(reason, "established connections are not counted");
            }
        }
        let maps = Maps::take(&mut instance)
            .map_err(|e| InterceptError::step("opening the BPF maps", e))?;
        Ok(Hooks {
            links,
            fast_path,
            reports,
            maps,
            instance,
        })
    }

    fn instance(&mut self, pod: u32) -> Result<Ebpf, InterceptError> {
        let loader = self
            .loader
            .override_global(abi::GLOBAL_POD, &POD_INDEXES[pod as usize], true)
            .override_global(abi::GLOBAL_KERNEL, &KERNELS[self.kernel as usize], true);
        loader.load(OBJECT).map_err(|e| match e {
            EbpfError::ParseError(e) if e.to_string().contains(abi::ABI_SYMBOL) => {
                InterceptError::Unsupported {
                    what: format!(
                        "the BPF programs in this build are not of version {}",
                        abi::ABI_VERSION
                    ),
                    remedy: "run `cargo xtask build`".to_owned(),
                }
            }
            e => InterceptError::step("loading the BPF object", e),
        })
    }
}

impl Maps {
    fn take(instance: &mut Ebpf) -> Result<Self, MapError> {
        let mut take = |name: &str| -> Result<Map, MapError> {
            instance.take_map(name).ok_or(MapError::InvalidName {
                name: name.to_owned(),
            })
        };
        Ok(Self {
            pods: take(abi::MAP_PODS)?.try_into()?,
            policies: take(abi::MAP_POLICIES)?.try_into()?,
            addresses: take(abi::MAP_ADDRESSES)?.try_into()?,
            ports: take(abi::MAP_PORTS)?.try_into()?,
            cidrs: take(abi::MAP_CIDRS)?.try_into()?,
            owners: take(abi::MAP_OWNERS)?.try_into()?,
            interfaces: take(abi::MAP_INTERFACES)?.try_into()?,
            listeners: take(abi::MAP_LISTENERS)?.try_into()?,
            stats: take(abi::MAP_STATS)?.try_into()?,
            pairs: take(abi::MAP_PAIRS)?.try_into()?,
            free: take(abi::MAP_FREE)?.try_into()?,
            waiting: take(abi::MAP_WAITING)?.try_into()?,
            gone: take(abi::MAP_GONE)?.try_into()?,
            tally: take(abi::MAP_TALLY)?.try_into()?,
        })
    }

    /// Removes a pod from the pinned maps of another agent, or all pods: its programs let their connections pass from now
    /// on. Unpinning a program is not enough: the kernel detaches it when it comes to it.
    pub fn remove_from_pinned(directory: &Path, cookie: Option<u64>) -> Result<(), MapError> {
        let open = |name| MapData::from_pin(directory.join(name)).map(Map::HashMap);
        let mut pods: HashMap<MapData, u64, u32> = open(abi::MAP_PODS)?.try_into()?;
        let mut policies: HashMap<MapData, u32, abi::Policy> =
            open(abi::MAP_POLICIES)?.try_into()?;
        let found: Vec<(u64, u32)> = match cookie {
            None => pods.iter().collect::<Result<_, _>>()?,
            Some(cookie) => match pods.get(&cookie, 0) {
                Ok(index) => vec![(cookie, index)],
                Err(MapError::KeyNotFound) => Vec::new(),
                Err(e) => return Err(e),
            },
        };
        for (cookie, index) in found {
            // First what marks connections: one that is marked must not come to a lookup that lets it pass.
            gone(pods.remove(&cookie))?;
            gone(policies.remove(&index))?;
        }
        Ok(())
    }
}

fn load_lookup(instance: &mut Ebpf) -> Result<&mut SkLookup, InterceptError> {
    let name = abi::PROGRAM_LOOKUP;
    let program: &mut SkLookup = find(instance, name)?;
    program.load().map_err(|e| step("loading", name, e))?;
    Ok(program)
}

fn attach_connect(
    instance: &mut Ebpf,
    name: &'static str,
    cgroup: &File,
) -> Result<FdLink, InterceptError> {
    let program: &mut CgroupSockAddr = find(instance, name)?;
    program.load().map_err(|e| step("loading", name, e))?;
    // A link shares the cgroup with other links whatever the mode; any other mode is an error to the kernel.
    let link = program
        .attach(cgroup, CgroupAttachMode::Single)
        .and_then(|id| program.take_link(id))
        .map_err(|e| step("attaching", name, e))?;
    link.try_into().map_err(|e| {
        InterceptError::step(format!("attaching the BPF program {name}"), link_error(&e))
    })
}

fn attach_fast_path(instance: &mut Ebpf) -> Result<FastPath, InterceptError> {
    let kernel = Btf::from_sys_fs()
        .map_err(|e| InterceptError::step("reading the types of the kernel", e))?;
    let mut watch = |name, tracepoint| -> Result<BtfTracePointLink, InterceptError> {
        let program: &mut BtfTracePoint = find(instance, name)?;
        program
            .load(tracepoint, &kernel)
            .map_err(|e| step("loading", name, e))?;
        program
            .attach()
            .and_then(|id| program.take_link(id))
            .map_err(|e| step("attaching", name, e))
    };
    let watches = [
        watch(abi::PROGRAM_SENT, abi::TRACEPOINT_SENT)?,
        watch(abi::PROGRAM_READ, abi::TRACEPOINT_READ)?,
    ];
    drop(kernel);

    let name = abi::PROGRAM_SEND;
    let legs = instance
        .map(abi::MAP_LEGS)
        .ok_or_else(|| InterceptError::step("finding the map of the fast path", "missing"))?;
    let legs: SockMap<&MapData> = legs
        .try_into()
        .map_err(|e: MapError| InterceptError::step("opening the map of the fast path", e))?;
    let legs = legs
        .fd()
        .try_clone()
        .map_err(|e| InterceptError::step("keeping the map of the fast path", e))?;
    let send: &mut SkMsg = find(instance, name)?;
    send.load().map_err(|e| step("loading", name, e))?;
    let send = send
        .attach(&legs)
        .and_then(|id| send.take_link(id))
        .map_err(|e| step("attaching", name, e))?;
    Ok(FastPath {
        _send: send,
        _watches: watches,
    })
}

fn attach_sock_ops(
    instance: &mut Ebpf,
    name: &'static str,
    cgroup: &File,
) -> Result<FdLink, InterceptError> {
    let program: &mut SockOps = find(instance, name)?;
    program.load().map_err(|e| step("loading", name, e))?;
    let link = program
        .attach(cgroup, CgroupAttachMode::Single)
        .and_then(|id| program.take_link(id))
        .map_err(|e| step("attaching", name, e))?;
    link.try_into().map_err(|e| {
        InterceptError::step(format!("attaching the BPF program {name}"), link_error(&e))
    })
}

fn link_error(error: &aya::programs::links::LinkError) -> String {
    error.to_string()
}

fn find<'a, P>(instance: &'a mut Ebpf, name: &str) -> Result<&'a mut P, InterceptError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    instance
        .program_mut(name)
        .ok_or_else(|| InterceptError::step(format!("finding the BPF program {name}"), "missing"))?
        .try_into()
        .map_err(|e| step("finding", name, e))
}

fn report(instance: &Ebpf, name: &'static str) -> Result<ProgramReport, InterceptError> {
    let info: Result<ProgramInfo, ProgramError> = match instance.program(name) {
        Some(Program::CgroupSockAddr(program)) => program.info(),
        Some(Program::SkLookup(program)) => program.info(),
        Some(Program::SockOps(program)) => program.info(),
        Some(Program::SkMsg(program)) => program.info(),
        Some(Program::BtfTracePoint(program)) => program.info(),
        _ => Err(ProgramError::NotLoaded),
    };
    let info = info.map_err(|e| step("asking the kernel about", name, e))?;
    Ok(ProgramReport {
        name,
        verified_instructions: info.verified_instruction_count(),
        bytes: info.size_translated(),
    })
}

/// A failed step; the error of a program that was refused holds the verifier's whole log.
fn step(doing: &str, name: &str, error: ProgramError) -> InterceptError {
    InterceptError::step(format!("{doing} the BPF program {name}"), error)
}
