//! What each program does between its entry and its verdict.

pub mod connect;
pub mod lookup;
pub mod sock_ops;
