//! The BPF programs. On the host this is an empty program, so that stable tools check the code as well.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(
    unsafe_code,
    reason = "a BPF program talks to the kernel through raw pointers"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros of aya hand the context over by value"
)]

mod hooks;
mod maps;

use aya_ebpf::macros::{btf_tracepoint, cgroup_sock_addr, sk_lookup, sk_msg, sock_ops};
use aya_ebpf::programs::{
    BtfTracePointContext, SkLookupContext, SkMsgContext, SockAddrContext, SockOpsContext,
};

#[cgroup_sock_addr(connect4)]
fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    hooks::connect::v4(&ctx)
}

#[cgroup_sock_addr(connect6)]
fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    hooks::connect::v6(&ctx)
}

#[sk_lookup]
fn mesh_lookup(ctx: SkLookupContext) -> u32 {
    hooks::lookup::lookup(&ctx)
}

#[sock_ops]
fn mesh_sock_ops(ctx: SockOpsContext) -> u32 {
    hooks::sock_ops::sock_ops(&ctx)
}

#[sk_msg]
fn mesh_send(ctx: SkMsgContext) -> u32 {
    hooks::send::send(&ctx)
}

#[btf_tracepoint(function = "sock_send_length")]
fn mesh_sent(ctx: BtfTracePointContext) -> i32 {
    hooks::moved::sent(&ctx)
}

#[btf_tracepoint(function = "sock_recv_length")]
fn mesh_read(ctx: BtfTracePointContext) -> i32 {
    hooks::moved::read(&ctx)
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
