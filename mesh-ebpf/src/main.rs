//! The BPF programs. On the host this is an empty program, so that stable tools check the code as well.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}
