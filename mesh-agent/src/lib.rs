//! mesh-agent: a service mesh without sidecars.
//!
//! In reading order: [`model`] is the world as validated, [`config`] makes it from manifests, [`route`] decides,
//! [`intercept`] steers a pod's connections to the agent, and [`proxy`] carries them.

pub mod admin;
pub mod agent;
pub mod ask;
pub mod certificate;
pub mod cli;
pub mod cni;
pub mod config;
pub mod explain;
pub mod gateway;
pub mod inject;
pub mod intercept;
pub mod log;
pub mod model;
pub mod netns;
pub mod pod;
mod process;
pub mod proxy;
pub mod ready;
pub mod report;
pub mod route;
pub mod shutdown;
pub mod sys;
