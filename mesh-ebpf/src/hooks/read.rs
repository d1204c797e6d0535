//! How much a socket of the fast path has read, by whatever way it came.

use core::ffi::c_void;

use aya_ebpf::programs::BtfTracePointContext;

use super::leg;

const MSG_OOB: i32 = 1;
const MSG_PEEK: i32 = 2;
const MSG_ERRQUEUE: i32 = 0x2000;

/// `sock_recv_length(sk, ret, flags)`, after each receive of any socket. What is not counted costs speed, no more: the
/// other end believes that its reader is slow.
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
