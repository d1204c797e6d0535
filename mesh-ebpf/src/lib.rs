//! The contract between the BPF programs and the agent: the layout of every map, the names of maps and programs, and
//! the pure decisions that the programs make. It is `no_std` and touches no kernel, so the host tests it as it stands.
#![no_std]

pub mod abi;
pub mod decide;
pub mod pair;
