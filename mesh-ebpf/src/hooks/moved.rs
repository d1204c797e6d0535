//! How much a socket of the fast path has sent and read, by whatever way it went. The kernel calls these after each send and
//! each receive of any socket; for one that is not on the fast path they end at once.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::programs::BtfTracePointContext;

use mesh_ebpf::pair::is_blind;

use super::leg;

const MSG_OOB: i32 = 1;
const MSG_PEEK: i32 = 2;
const MSG_ERRQUEUE: i32 = 0x2000;

/// `sock_send_length(sk, ret, flags)`.
#[inline(always)]
pub fn sent(ctx: &BtfTracePointContext) -> i32 {
    let socket: *mut c_void = ctx.arg(0);
    let count: i32 = ctx.arg(1);
    let Some(leg) = leg::of(socket) else {
        return 0;
    };
    let Some(pair) = leg::pair(&leg) else {
        return 0;
    };
    let me = if leg.side == 0 { 0 } else { 1 };
    if count > 0 {
        // SAFETY: the entry stays while the program runs. Where two threads send at once, the second has seen that in
        // `send`, and then the count is of no use any more.
        unsafe { (*pair).sent[me] += count as u64 };
    }
    let pending = read!(pair, pending[me]);
    let blind = is_blind(read!(pair, blind[me]) != 0, pending, i64::from(count));
    // SAFETY: likewise.
    unsafe { (*pair).blind[me] = u32::from(blind) };
    if read!(pair, thread[me]) == thread() {
        // SAFETY: likewise.
        unsafe { (*pair).pending[me] = 0 };
    }
    0
}

/// `sock_recv_length(sk, ret, flags)`. What is not counted costs speed, no more: the other end believes that its reader is
/// slow.
#[inline(always)]
pub fn read(ctx: &BtfTracePointContext) -> i32 {
    let socket: *mut c_void = ctx.arg(0);
    let count: i32 = ctx.arg(1);
    let flags: i32 = ctx.arg(2);
    if count <= 0 || flags & (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE) != 0 {
        return 0;
    }
    let Some(leg) = leg::of(socket) else {
        return 0;
    };
    let Some(pair) = leg::pair(&leg) else {
        return 0;
    };
    let me = if leg.side == 0 { 0 } else { 1 };
    // SAFETY: the entry stays while the program runs. Two threads that read from one socket at once may lose a count.
    unsafe { (*pair).read[me] += count as u64 };
    0
}

/// The running thread.
#[inline(always)]
pub fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}
