//! The socket lookup: gives the first packet of a connection to one of the agent's listeners. One instance per pod, for
//! the context does not say whose namespace it runs in.

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::programs::SkLookupContext;
use mesh_ebpf::abi::{
    Address, KERNEL_INGRESS, LISTENER_INBOUND, LISTENER_OUTBOUND, LISTENER_TEST, slot,
};
use mesh_ebpf::decide::{self, Packet, Reason, Verdict};

use crate::maps::{MESH_KERNEL, MESH_LISTENERS, MESH_POD, Maps, armed, count};

const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
/// `BPF_SK_LOOKUP_F_REPLACE`: where an older agent's program has chosen a socket too, the newer one's choice holds.
const REPLACE: u64 = 1;

/// Who gets the packet.
#[inline(always)]
pub fn lookup(ctx: &SkLookupContext) -> u32 {
    let protocol = read!(ctx.lookup, protocol);
    if !armed() || protocol != IPPROTO_TCP {
        return SK_PASS;
    }
    let packet = packet(ctx);
    let decision = decide::lookup(&Maps, &packet);
    count(decision.reason);
    let listener = match decision.verdict {
        Verdict::Pass => return SK_PASS,
        Verdict::Refuse => return SK_DROP,
        Verdict::Outbound => LISTENER_OUTBOUND,
        Verdict::Inbound => LISTENER_INBOUND,
        Verdict::Test => LISTENER_TEST,
    };
    let slot = slot(packet.pod, listener, !packet.local.is_v4());
    if MESH_LISTENERS
        .redirect_sk_lookup(ctx, slot, REPLACE)
        .is_ok()
    {
        return SK_PASS;
    }
    count(Reason::Failed);
    SK_DROP
}

#[inline(always)]
fn packet(ctx: &SkLookupContext) -> Packet {
    let ipv6 = read!(ctx.lookup, family) == AF_INET6;
    let (local, remote) = addresses(ctx, ipv6);
    let interface = if MESH_KERNEL.load() & KERNEL_INGRESS != 0 {
        // Where the kernel lacks the field, this branch is dead to the verifier.
        read!(ctx.lookup, ingress_ifindex)
    } else {
        0
    };
    Packet {
        pod: MESH_POD.load(),
        local,
        // This port is in host order already.
        port: read!(ctx.lookup, local_port) as u16,
        remote,
        interface,
    }
}

/// Local and remote address. The fields of both families are read and then chosen from: the compiler would otherwise
/// merge the loads of two branches into one, from a pointer that it computed ("dereference of modified ctx ptr").
#[inline(always)]
fn addresses(ctx: &SkLookupContext, ipv6: bool) -> (Address, Address) {
    let local4 = read!(ctx.lookup, local_ip4);
    let remote4 = read!(ctx.lookup, remote_ip4);
    let local6 = [
        read!(ctx.lookup, local_ip6[0]),
        read!(ctx.lookup, local_ip6[1]),
        read!(ctx.lookup, local_ip6[2]),
        read!(ctx.lookup, local_ip6[3]),
    ];
    let remote6 = [
        read!(ctx.lookup, remote_ip6[0]),
        read!(ctx.lookup, remote_ip6[1]),
        read!(ctx.lookup, remote_ip6[2]),
        read!(ctx.lookup, remote_ip6[3]),
    ];
    if ipv6 {
        (Address { words_be: local6 }, Address { words_be: remote6 })
    } else {
        (Address::v4_be(local4), Address::v4_be(remote4))
    }
}
