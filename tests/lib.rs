//! The world that the tests and the demo run in: network namespaces for a node, its pods and a machine outside,
//! processes inside them, and a shell around it all that leaves nothing on the host.
//!
//! It must not depend on the agent or anything heavy: xtask builds it before there is an agent.
//!
//! A program calls [`isolate_and_supervise`] first in `main`, while it has one thread, then builds a [`World`]:
//!
//! ```no_run
//! use mesh_tests::{PodOptions, World, WorldOptions, isolate_and_supervise};
//!
//! fn main() -> anyhow::Result<std::process::ExitCode> {
//!     isolate_and_supervise(|| {
//!         let world = World::new(WorldOptions::default()).expect("the node");
//!         let client = world.pod("client", PodOptions::default()).expect("the pod");
//!         let status = client.command("ip").arg("address").status().expect("iproute2");
//!         std::process::ExitCode::from(u8::from(!status.success()))
//!     })
//! }
//! ```

mod world;

pub use world::isolate::{isolate, isolate_and_supervise};
pub use world::pod::{Interface, Pod, PodOptions};
pub use world::process::{Running, tail};
pub use world::{FILES, NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, World, WorldOptions};
