//! mesh-agent: a service mesh without sidecars.
//!
//! In reading order: [`model`] is the world as validated, [`config`] makes it from manifests, [`route`] decides,
//! [`intercept`] steers a pod's connections to the agent, and [`proxy`] carries them.

pub mod cli;
pub mod intercept;
pub mod model;
pub mod netns;
pub mod proxy;
pub mod route;
pub mod sys;
