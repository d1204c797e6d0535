//! Counts the connections of enrolled pods as they are established. This is where sockets will join the fast path.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB};
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::debug;
use mesh_ebpf::decide::Reason;

use crate::maps::{MESH_PODS, armed, count};

/// The return value means nothing for these events.
const DONE: u32 = 1;

/// A socket changed its state.
#[inline(always)]
pub fn sock_ops(ctx: &SockOpsContext) -> u32 {
    let reason = match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => Reason::EstablishedActive,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => Reason::EstablishedPassive,
        _ => return DONE,
    };
    if !armed() {
        return DONE;
    }
    // SAFETY: the helper takes the program's own context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: one aligned word of an entry that stays valid while the program runs.
    if let Some(&pod) = unsafe { MESH_PODS.get(cookie) } {
        count(reason);
        debug!(
            ctx,
            "established: pod {}, local port {}",
            pod,
            ctx.local_port()
        );
    }
    DONE
}
