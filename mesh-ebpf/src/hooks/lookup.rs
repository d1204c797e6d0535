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
    // SAFETY: the kernel keeps the context alive for the program's run, and the field is readable.
    let protocol = unsafe { (*ctx.lookup).protocol };
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
    let context = ctx.lookup;
    // SAFETY: as in `lookup`.
    let ipv6 = unsafe { (*context).family } == AF_INET6;
    let (local, remote) = addresses(ctx, ipv6);
    let interface = if MESH_KERNEL.load() & KERNEL_INGRESS != 0 {
        // SAFETY: as in `lookup`; where the kernel lacks the field, the branch is dead to the verifier.
        unsafe { (&raw const (*context).ingress_ifindex).read_volatile() }
    } else {
        0
    };
    Packet {
        pod: MESH_POD.load(),
        local,
        // SAFETY: as in `lookup`. This port is in host order already.
        port: unsafe { (*context).local_port } as u16,
        remote,
        interface,
    }
}

/// Local and remote address. The fields of both families are read and then chosen from: the compiler would otherwise
/// merge the loads of two branches into one, from a pointer that it computed ("dereference of modified ctx ptr").
#[inline(always)]
fn addresses(ctx: &SkLookupContext, ipv6: bool) -> (Address, Address) {
    // SAFETY: as in `lookup`.
    let local4 = unsafe { (&raw const (*ctx.lookup).local_ip4).read_volatile() };
    // SAFETY: as in `lookup`.
    let remote4 = unsafe { (&raw const (*ctx.lookup).remote_ip4).read_volatile() };
    // SAFETY: as in `lookup`; all zero for IPv4.
    let local6 = unsafe { words(&raw const (*ctx.lookup).local_ip6) };
    // SAFETY: as in `lookup`; all zero for IPv4.
    let remote6 = unsafe { words(&raw const (*ctx.lookup).remote_ip6) };
    if ipv6 {
        (Address { words_be: local6 }, Address { words_be: remote6 })
    } else {
        (Address::v4_be(local4), Address::v4_be(remote4))
    }
}

/// Word by word: the verifier wants context fields copied, each with one aligned load.
#[inline(always)]
unsafe fn words(field: *const [u32; 4]) -> [u32; 4] {
    // SAFETY: the caller passes a field of the live context.
    unsafe {
        [
            (&raw const (*field)[0]).read_volatile(),
            (&raw const (*field)[1]).read_volatile(),
            (&raw const (*field)[2]).read_volatile(),
            (&raw const (*field)[3]).read_volatile(),
        ]
    }
}
