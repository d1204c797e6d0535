//! The maps, and how the decision looks things up in them.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, SockMap, Stack};
use mesh_ebpf::abi::{
    AddressKey, CIDR_KEY_BITS, CidrKey, InterfaceKey, LISTENERS_PER_POD, MAX_PAIRS, MAX_PODS,
    OwnerKey, Policy, PortKey,
};
use mesh_ebpf::decide::{Lookups, Reason};
use mesh_ebpf::pair::{Handshake, Leg, Pair, Tally, Waiting};

/// `BPF_F_NO_PREALLOC`: memory for the entries that exist, not for those that might.
const ON_DEMAND: u32 = 1;

#[map]
pub static MESH_PODS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_PODS, 0);
#[map]
pub static MESH_POLICIES: HashMap<u32, Policy> = HashMap::with_max_entries(MAX_PODS, 0);
#[map]
static MESH_ADDRESSES: HashMap<AddressKey, u32> = HashMap::with_max_entries(16384, ON_DEMAND);
#[map]
static MESH_PORTS: HashMap<PortKey, u32> = HashMap::with_max_entries(65536, ON_DEMAND);
#[map]
static MESH_CIDRS: LpmTrie<CidrKey, u32> = LpmTrie::with_max_entries(65536, 0);
#[map]
static MESH_OWNERS: HashMap<OwnerKey, u32> = HashMap::with_max_entries(16384, ON_DEMAND);
#[map]
static MESH_INTERFACES: HashMap<InterfaceKey, u32> = HashMap::with_max_entries(16384, ON_DEMAND);
#[map]
pub static MESH_LISTENERS: SockMap = SockMap::with_max_entries(MAX_PODS * LISTENERS_PER_POD, 0);
#[map]
static MESH_STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::ALL.len() as u32, 0);
#[map]
pub static MESH_LEGS: SockMap = SockMap::with_max_entries(MAX_PAIRS * 2, 0);
#[map]
pub static MESH_PAIRS: Array<Pair> = Array::with_max_entries(MAX_PAIRS, 0);
#[map]
pub static MESH_FREE: Stack<u32> = Stack::with_max_entries(MAX_PAIRS, 0);
#[map]
pub static MESH_WAITING: HashMap<Handshake, Waiting> =
    HashMap::with_max_entries(MAX_PAIRS, ON_DEMAND);
#[map]
pub static MESH_GONE: HashMap<u32, u32> = HashMap::with_max_entries(MAX_PAIRS, ON_DEMAND);
#[btf_map]
pub static MESH_LEG: SkStorage<Leg> = SkStorage::new();
#[map]
static MESH_TALLY: PerCpuArray<u64> = PerCpuArray::with_max_entries(Tally::ALL.len() as u32, 0);

/// Set by an agent of the same ABI version; see `abi::ABI_SYMBOL`.
#[unsafe(no_mangle)]
pub static MESH_ABI_3: Global<u32> = Global::new(0);
/// See `abi::GLOBAL_POD`.
#[unsafe(no_mangle)]
pub static MESH_POD: Global<u32> = Global::new(0);
/// See `abi::GLOBAL_KERNEL`.
#[unsafe(no_mangle)]
pub static MESH_KERNEL: Global<u32> = Global::new(0);

/// The maps of this object.
pub struct Maps;

/// Whether the agent that loaded the program speaks our ABI version.
#[inline(always)]
pub fn armed() -> bool {
    MESH_ABI_3.load() == 1
}

/// Counts one.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = MESH_STATS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's own slot, and a BPF program is not moved off its CPU.
        unsafe { *counter += 1 };
    }
}

/// Adds to a tally.
#[inline(always)]
pub fn tally(tally: Tally, amount: u64) {
    if let Some(counter) = MESH_TALLY.get_ptr_mut(tally as u32) {
        // SAFETY: as in `count`.
        unsafe { *counter += amount };
    }
}

impl Lookups for Maps {
    #[inline(always)]
    fn policy(&self, pod: u32) -> Option<Policy> {
        // SAFETY: the slot stays valid while the program runs; a concurrent update is two aligned words, either of
        // which is right before or after.
        unsafe { MESH_POLICIES.get(pod) }.copied()
    }

    #[inline(always)]
    fn owns(&self, key: &AddressKey) -> bool {
        MESH_ADDRESSES.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> u32 {
        // SAFETY: one aligned word of an entry that stays valid while the program runs.
        unsafe { MESH_PORTS.get(key) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn cidr(&self, key: &CidrKey) -> Option<u32> {
        MESH_CIDRS.get(Key::new(CIDR_KEY_BITS + 128, *key)).copied()
    }

    #[inline(always)]
    fn owner(&self, key: &OwnerKey) -> bool {
        MESH_OWNERS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn interface(&self, key: &InterfaceKey) -> u32 {
        // SAFETY: one aligned word of an entry that stays valid while the program runs.
        unsafe { MESH_INTERFACES.get(key) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn listens(&self, slot: u32) -> bool {
        let map = core::ptr::from_ref(&MESH_LISTENERS).cast_mut().cast();
        // aya has no plain lookup for this kind of map.
        // SAFETY: the map is a BPF map and the key is a u32 on the stack, as the helper asks.
        let socket = unsafe { bpf_map_lookup_elem(map, core::ptr::from_ref(&slot).cast()) };
        if socket.is_null() {
            return false;
        }
        // SAFETY: the lookup gave us a reference to the socket, which is given back exactly once.
        unsafe { bpf_sk_release(socket) };
        true
    }
}
