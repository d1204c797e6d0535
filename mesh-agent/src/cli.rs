//! The command line: flags and environment to checked options.

pub mod iptables;
