//! What a socket of the fast path sends: handed to the other end, or left to TCP.

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::programs::SkMsgContext;
use mesh_ebpf::abi::{FAST_PRIORITY, leg_slot};
use mesh_ebpf::pair::{self, LEG_ASKS, PLAIN_FOR_GOOD, PLAIN_FOR_NOW, Sending, Tally, Way};

use super::leg;
use super::moved::thread;
use crate::maps::{MESH_LEGS, tally};

/// `BPF_F_INGRESS`: into the other socket's queue, not out by it.
const INGRESS: u64 = 1;

/// A message is about to be sent.
#[inline(always)]
pub fn send(ctx: &SkMsgContext) -> u32 {
    let socket = read!(ctx.msg, __bindgen_anon_3.sk);
    if socket.is_null() {
        return SK_PASS;
    }
    let Some(leg) = leg::of(socket.cast()) else {
        return SK_PASS;
    };
    let size = u64::from(read!(ctx.msg, size));
    let Some(pair) = leg::pair(&leg) else {
        return SK_PASS;
    };
    let (me, other) = if leg.side == 0 { (0, 1) } else { (1, 0) };
    let mut plain = read!(pair, plain[me]);
    let pending = read!(pair, pending[me]);
    let thread = thread();
    if pending != 0 && read!(pair, thread[me]) != thread {
        plain = PLAIN_FOR_GOOD;
        // SAFETY: the entry stays while the program runs, and only this side, whose socket is locked, writes here.
        unsafe { (*pair).plain[me] = plain };
    }
    // SAFETY: likewise.
    unsafe { (*pair).thread[me] = thread };
    // SAFETY: likewise.
    unsafe { (*pair).pending[me] = pending + size };
    let way = pair::way(&Sending {
        ready: read!(pair, ready) != 0,
        permitted: leg.flags & LEG_ASKS == 0 || read!(socket, priority) == FAST_PRIORITY,
        blind: read!(pair, blind[me]) != 0,
        plain,
        sent: read!(pair, sent[me]).wrapping_add(pending),
        read: read!(pair, read[other]),
        size,
    });
    if way == Way::Redirect {
        let slot = leg_slot(leg.pair, other as u32);
        // SAFETY: the helper takes the program's own context.
        let verdict = unsafe { MESH_LEGS.redirect_msg(ctx, slot, INGRESS) } as u32;
        if verdict == SK_PASS {
            if plain != 0 {
                // SAFETY: as above.
                unsafe { (*pair).plain[me] = 0 };
            }
            tally(Tally::RedirectedBytes, size);
            return SK_PASS;
        }
        // The other end is gone; TCP knows what to say to that.
    }
    if way == Way::Slow {
        tally(Tally::Slow, 1);
    }
    if plain == 0 {
        // SAFETY: as above.
        unsafe { (*pair).plain[me] = PLAIN_FOR_NOW };
    }
    tally(Tally::PlainBytes, size);
    SK_PASS
}
