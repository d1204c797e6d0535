//! The connect hooks: mark what is to be steered. The mark's policy route then delivers it inside the namespace.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_current_uid_gid;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_set_retval, bpf_setsockopt};
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_ebpf::abi::{Address, CAPTURE_MARK, KERNEL_RETVAL};
use mesh_ebpf::decide::{self, Flow, Reason, Verdict};

use crate::maps::{MESH_KERNEL, MESH_PODS, Maps, armed, count};

/// Let the connect go on.
const PROCEED: i32 = 1;
/// End it.
const DENY: i32 = 0;

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;
const ECONNREFUSED: i32 = 111;

/// `connect` on an `AF_INET` socket.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> i32 {
    let word_be = read!(ctx.sock_addr, user_ip4);
    connect(ctx, Address::v4_be(word_be))
}

/// `connect` on an `AF_INET6` socket, also to `::ffff:a.b.c.d`.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> i32 {
    let words_be = [
        read!(ctx.sock_addr, user_ip6[0]),
        read!(ctx.sock_addr, user_ip6[1]),
        read!(ctx.sock_addr, user_ip6[2]),
        read!(ctx.sock_addr, user_ip6[3]),
    ];
    connect(ctx, Address { words_be })
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, destination: Address) -> i32 {
    if !armed() || !is_tcp(ctx) {
        return PROCEED;
    }
    // SAFETY: the helper takes the program's own context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: one aligned word of an entry that stays valid while the program runs.
    let Some(&pod) = (unsafe { MESH_PODS.get(cookie) }) else {
        return PROCEED;
    };
    let (mark, interface) = socket(ctx);
    let owner = bpf_get_current_uid_gid();
    let port_be = read!(ctx.sock_addr, user_port) as u16;
    let flow = Flow {
        pod,
        destination,
        port: u16::from_be(port_be),
        mark,
        interface,
        user: owner as u32,
        group: (owner >> 32) as u32,
    };
    act(ctx, &flow)
}

#[inline(always)]
fn act(ctx: &SockAddrContext, flow: &Flow) -> i32 {
    let decision = decide::connect(&Maps, flow);
    count(decision.reason);
    match decision.verdict {
        Verdict::Pass | Verdict::Inbound => {
            // A socket can be connected again, and may have been steered the time before. It passed then as it does now
            // if the mark cannot be taken back.
            if flow.mark & CAPTURE_MARK != 0 {
                set_mark(ctx, flow.mark & !CAPTURE_MARK);
            }
            PROCEED
        }
        Verdict::Outbound | Verdict::Test => {
            if flow.mark & CAPTURE_MARK == 0 && !set_mark(ctx, flow.mark | CAPTURE_MARK) {
                count(Reason::Failed);
                return refuse();
            }
            debug!(
                ctx,
                "steered: pod {} to [{:i}]:{}",
                flow.pod,
                flow.destination.bytes(),
                flow.port
            );
            PROCEED
        }
        Verdict::Refuse => {
            debug!(
                ctx,
                "refused: pod {} to [{:i}]:{}",
                flow.pod,
                flow.destination.bytes(),
                flow.port
            );
            refuse()
        }
    }
}

#[inline(always)]
fn is_tcp(ctx: &SockAddrContext) -> bool {
    let kind = read!(ctx.sock_addr, type_);
    let protocol = read!(ctx.sock_addr, protocol);
    kind == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
}

/// Mark and bound interface of the socket.
#[inline(always)]
fn socket(ctx: &SockAddrContext) -> (u32, u32) {
    let socket = read!(ctx.sock_addr, __bindgen_anon_1.sk);
    if socket.is_null() {
        return (0, 0);
    }
    (read!(socket, mark), read!(socket, bound_dev_if))
}

#[inline(always)]
fn set_mark(ctx: &SockAddrContext, mut mark: u32) -> bool {
    let value = core::ptr::from_mut(&mut mark).cast();
    // SAFETY: the helper takes the program's own context, and reads four bytes from the stack.
    let result = unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_MARK, value, 4) };
    result == 0
}

#[inline(always)]
fn refuse() -> i32 {
    if MESH_KERNEL.load() & KERNEL_RETVAL != 0 {
        // SAFETY: the helper takes a plain number; where the kernel lacks it, the branch is dead to the verifier.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    DENY
}
