//! System calls that no library wraps, and sockets made the way both interception modes need them. All of the agent's
//! `unsafe` lives in this folder.

pub mod memory;
pub mod mounts;
pub mod netns_cookie;
pub mod passing;
pub mod pipe;
pub mod socket;
