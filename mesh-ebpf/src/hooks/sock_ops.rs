//! Watches connections begin and end: counts those of enrolled pods, and brings the two ends of those that may take the
//! fast path together.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock,
};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt};
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::debug;
use mesh_ebpf::abi::{
    Address, KERNEL_FAST_APPLICATIONS, KERNEL_FAST_PATH, LEG_PRIORITY, POLICY_FAST_PATH, leg_slot,
};
use mesh_ebpf::decide::{Lookups, Reason};
use mesh_ebpf::pair::{self, Handshake, LEG_ASKS, Leg, PLAIN_FOR_GOOD, Pair, Tally, Waiting};

use super::leg;
use crate::maps::{
    MESH_FREE, MESH_GONE, MESH_KERNEL, MESH_LEGS, MESH_PAIRS, MESH_PODS, MESH_WAITING, Maps, armed,
    count, tally,
};

/// The return value means nothing for these events.
const DONE: u32 = 1;

const AF_INET6: u32 = 10;
const SOL_SOCKET: i32 = 1;
const SO_PRIORITY: i32 = 12;
/// `BPF_TCP_ESTABLISHED`, `BPF_TCP_CLOSE`, `BPF_TCP_CLOSE_WAIT`.
const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE: u32 = 7;
const TCP_CLOSE_WAIT: u32 = 8;
/// `BPF_ANY`.
const ANY: u64 = 0;
/// `BPF_NOEXIST`.
const NEW: u64 = 1;

/// A socket changed its state.
#[inline(always)]
pub fn sock_ops(ctx: &SockOpsContext) -> u32 {
    if !armed() {
        return DONE;
    }
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ctx),
        BPF_SOCK_OPS_STATE_CB => moved_on(ctx),
        _ => {}
    }
    DONE
}

/// The end that connects is there first. If it or its other end is the proxy's, and it stays on the node, it may have to
/// wait for the other.
#[inline(always)]
fn connected(ctx: &SockOpsContext) {
    let cookie = namespace(ctx);
    let Some(pod) = pod(cookie) else {
        return;
    };
    count(Reason::EstablishedActive);
    debug!(
        ctx,
        "established: pod {}, local port {}",
        pod,
        ctx.local_port()
    );
    if MESH_KERNEL.load() & KERNEL_FAST_PATH == 0 || !allows(pod) {
        return;
    }
    let socket = read!(ctx.ops, __bindgen_anon_2.sk);
    if socket.is_null() {
        return;
    }
    let applications = MESH_KERNEL.load() & KERNEL_FAST_APPLICATIONS != 0;
    let Some(application) = pair::application(read!(socket, mark), applications) else {
        return;
    };
    // What an application opens stays in its pod.
    let namespace = if application == 0 { cookie } else { 0 };
    let Ok(Some(pair)) = MESH_FREE.pop() else {
        tally(Tally::Full, 1);
        return;
    };
    if !wait(ctx, socket, pair, namespace, application) {
        give_back(pair);
    }
}

#[inline(always)]
fn wait(
    ctx: &SockOpsContext,
    socket: *mut bpf_sock,
    number: u32,
    namespace: u64,
    application: u32,
) -> bool {
    let Some(pair) = MESH_PAIRS.get_ptr_mut(number) else {
        return false;
    };
    let generation = read!(pair, generation).wrapping_add(1);
    let handshake = handshake(ctx, true);
    // SAFETY: nobody else has this pair: its number was on the stack of the free ones.
    unsafe {
        *pair = Pair {
            sent: [0; 2],
            pending: [0; 2],
            thread: [0; 2],
            blind: [0; 2],
            read: [0; 2],
            plain: [0; 2],
            ready: 0,
            generation,
            handshake,
            application,
        };
    }
    let leg = Leg {
        pair: number,
        generation,
        side: 0,
        flags: 0,
    };
    let waiting = Waiting {
        namespace,
        pair: number,
        generation,
    };
    if !enter(ctx, number, 0, application != 0)
        || MESH_WAITING.insert(handshake, waiting, NEW).is_err()
    {
        return false;
    }
    // A socket with a note gives its pair back when it ends; one without sends everything by TCP.
    if !leg::note(socket.cast(), leg) {
        let _ = MESH_WAITING.remove(handshake);
        return false;
    }
    true
}

/// The end that accepts looks for the one that waits for it.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let cookie = namespace(ctx);
    let pod = pod(cookie);
    if let Some(pod) = pod {
        count(Reason::EstablishedPassive);
        debug!(
            ctx,
            "established: pod {}, local port {}",
            pod,
            ctx.local_port()
        );
    }
    if MESH_KERNEL.load() & KERNEL_FAST_PATH == 0 {
        return;
    }
    let socket = read!(ctx.ops, __bindgen_anon_2.sk);
    if socket.is_null() {
        return;
    }
    let handshake = handshake(ctx, false);
    // SAFETY: the entry is copied; it is written once, before anybody can find it.
    let Some(&waiting) = (unsafe { MESH_WAITING.get(handshake) }) else {
        return;
    };
    if waiting.namespace != 0 && waiting.namespace != cookie {
        return;
    }
    let leg = Leg {
        pair: waiting.pair,
        generation: waiting.generation,
        side: 1,
        // The other end of what the pod opened is the agent's, and what it sends is read by an application.
        flags: if waiting.namespace != 0 { LEG_ASKS } else { 0 },
    };
    let Some(pair) = leg::pair(&leg) else {
        return;
    };
    // Whoever removes it has it: this end, or the other one if it is just ending.
    if MESH_WAITING.remove(handshake).is_err() {
        return;
    }
    let application = read!(pair, application);
    let joins = pair::is_meant(application, read!(socket, mark))
        && pod.is_none_or(allows)
        && enter(ctx, waiting.pair, 1, application != 1)
        && leg::note(socket.cast(), leg);
    if !joins {
        leave(waiting.pair);
        return;
    }
    // SAFETY: the entry stays while the program runs, and nobody else writes this.
    unsafe { (*pair).ready = 1 };
    tally(Tally::Joined, 1);
}

/// A socket of the fast path sends no more, or is gone.
#[inline(always)]
fn moved_on(ctx: &SockOpsContext) {
    let state = read!(ctx.ops, __bindgen_anon_1.args[1]);
    if state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT {
        return;
    }
    let socket = read!(ctx.ops, __bindgen_anon_2.sk);
    if socket.is_null() {
        return;
    }
    let Some(leg) = leg::of(socket.cast()) else {
        return;
    };
    let Some(pair) = leg::pair(&leg) else {
        return;
    };
    let me = if leg.side == 0 { 0 } else { 1 };
    // From here on TCP knows better what a message is worth.
    // SAFETY: the entry stays while the program runs, and only this side, whose socket is locked, writes here.
    unsafe { (*pair).plain[me] = PLAIN_FOR_GOOD };
    if state != TCP_CLOSE {
        return;
    }
    if leg.side == 0 && read!(pair, ready) == 0 {
        // SAFETY: the entry stays while the program runs; a copy serves as the key.
        let handshake = unsafe { (*pair).handshake };
        if MESH_WAITING.remove(handshake).is_ok() {
            end(leg.pair);
            return;
        }
    }
    leave(leg.pair);
}

/// One end is gone; with the second the pair is free. Which of two is the second is told by who finds the other's note:
/// the language has no atomic operations for this target.
#[inline(always)]
fn leave(pair: u32) {
    if MESH_GONE.insert(pair, 1, NEW).is_err() {
        let _ = MESH_GONE.remove(pair);
        if let Some(pair) = MESH_PAIRS.get_ptr_mut(pair) {
            // SAFETY: the entry stays while the program runs, and both ends are gone.
            unsafe { (*pair).ready = 0 };
        }
        end(pair);
    }
}

#[inline(always)]
fn end(pair: u32) {
    tally(Tally::Ended, 1);
    give_back(pair);
}

#[inline(always)]
fn give_back(pair: u32) {
    let _ = MESH_FREE.push(pair, ANY);
}

#[inline(always)]
fn enter(ctx: &SockOpsContext, pair: u32, side: u32, proxy: bool) -> bool {
    if proxy && !tell(ctx) {
        return false;
    }
    let flags = read!(ctx.ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
    if ctx.set_cb_flags(flags as i32).is_err() {
        return false;
    }
    // SAFETY: the helper takes the program's own context.
    unsafe { MESH_LEGS.update(leg_slot(pair, side), ctx.ops, ANY) }.is_ok()
}

/// Lets the proxy know that its socket is on the fast path.
#[inline(always)]
fn tell(ctx: &SockOpsContext) -> bool {
    let mut priority = LEG_PRIORITY;
    let value = core::ptr::from_mut(&mut priority).cast();
    // SAFETY: the helper takes the program's own context, and reads one integer from the stack.
    let result = unsafe { bpf_setsockopt(ctx.ops.cast(), SOL_SOCKET, SO_PRIORITY, value, 4) };
    result == 0
}

#[inline(always)]
fn namespace(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes the program's own context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn pod(cookie: u64) -> Option<u32> {
    // SAFETY: one aligned word of an entry that stays valid while the program runs.
    unsafe { MESH_PODS.get(cookie) }.copied()
}

#[inline(always)]
fn allows(pod: u32) -> bool {
    Maps.policy(pod)
        .is_some_and(|policy| policy.flags & POLICY_FAST_PATH != 0)
}

/// What both ends can know of the handshake.
#[inline(always)]
fn handshake(ctx: &SockOpsContext, active: bool) -> Handshake {
    let ipv6 = read!(ctx.ops, family) == AF_INET6;
    let local4 = read!(ctx.ops, local_ip4);
    let remote4 = read!(ctx.ops, remote_ip4);
    let local6 = [
        read!(ctx.ops, local_ip6[0]),
        read!(ctx.ops, local_ip6[1]),
        read!(ctx.ops, local_ip6[2]),
        read!(ctx.ops, local_ip6[3]),
    ];
    let remote6 = [
        read!(ctx.ops, remote_ip6[0]),
        read!(ctx.ops, remote_ip6[1]),
        read!(ctx.ops, remote_ip6[2]),
        read!(ctx.ops, remote_ip6[3]),
    ];
    let (local, remote) = if ipv6 {
        (Address { words_be: local6 }, Address { words_be: remote6 })
    } else {
        (Address::v4_be(local4), Address::v4_be(remote4))
    };
    let local_port = read!(ctx.ops, local_port) & 0xffff;
    // This one is in network order, in the upper half of a word that is.
    let remote_port = u32::from_be(read!(ctx.ops, remote_port)) & 0xffff;
    let sent = read!(ctx.ops, snd_nxt);
    let received = read!(ctx.ops, rcv_nxt);
    if active {
        Handshake {
            active: local,
            passive: remote,
            ports: local_port << 16 | remote_port,
            active_sequence: sent,
            passive_sequence: received,
        }
    } else {
        Handshake {
            active: remote,
            passive: local,
            ports: remote_port << 16 | local_port,
            active_sequence: received,
            passive_sequence: sent,
        }
    }
}
