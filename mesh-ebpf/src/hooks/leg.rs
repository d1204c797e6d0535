//! What a socket of the fast path knows of itself, for the hooks that see it.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use mesh_ebpf::pair::{Leg, Pair};

use crate::maps::{MESH_LEG, MESH_PAIRS};

/// `BPF_SK_STORAGE_GET_F_CREATE`.
const CREATE: u64 = 1;

/// What is noted of the socket, if anything.
#[inline(always)]
pub fn of(socket: *mut c_void) -> Option<Leg> {
    let map = core::ptr::from_ref(&MESH_LEG).cast_mut().cast();
    // SAFETY: the map is a BPF map, and the kernel checks the socket.
    let leg = unsafe { bpf_sk_storage_get(map, socket, core::ptr::null_mut(), 0) };
    if leg.is_null() {
        return None;
    }
    let leg = leg.cast::<Leg>().cast_const();
    Some(Leg {
        pair: read!(leg, pair),
        generation: read!(leg, generation),
        side: read!(leg, side),
        flags: read!(leg, flags),
    })
}

/// Notes something of the socket, for as long as it lives.
#[inline(always)]
pub fn note(socket: *mut c_void, mut leg: Leg) -> bool {
    let map = core::ptr::from_ref(&MESH_LEG).cast_mut().cast();
    let value = core::ptr::from_mut(&mut leg).cast();
    // SAFETY: the map is a BPF map, the kernel checks the socket, and copies from the stack.
    let kept = unsafe { bpf_sk_storage_get(map, socket, value, CREATE) };
    !kept.is_null()
}

/// The pair of a leg, unless it is somebody else's by now.
#[inline(always)]
pub fn pair(leg: &Leg) -> Option<*mut Pair> {
    let pair = MESH_PAIRS.get_ptr_mut(leg.pair)?;
    (read!(pair, generation) == leg.generation).then_some(pair)
}
