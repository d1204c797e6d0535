//! From manifests to the world: what users wrote becomes a validated [`Snapshot`], or a complaint with its place.
//!
//! The stages, each in its own module and each without knowledge of the next:
//!
//! 1. [`yaml`]: a text becomes trees that remember line and column.
//! 2. [`document`]: a tree becomes an [`object::Object`], typed, and checked as Istio's webhook would check it.
//! 3. [`inputs`]: the objects in force, with the last good version of each.
//! 4. [`mod@compile`]: the objects in force become a [`Snapshot`], and [`analyze`] says what does not fit together; pure.
//!
//! [`file::ManifestDir`] does all that for a directory, and again whenever it changes. [`load`] makes the world once;
//! [`check`] says what is wrong, which is all that a command such as `analyze` needs:
//!
//! ```no_run
//! use mesh_agent::config::{self, CompileOptions, Severity};
//!
//! let checked = config::check("manifests".as_ref(), &CompileOptions::default())?;
//! for finding in &checked.findings {
//!     println!("{finding}");
//! }
//! let wrong = checked.findings.iter().any(|finding| finding.severity == Severity::Error);
//! std::process::exit(if wrong { 2 } else { 0 });
//! # #[expect(unreachable_code, reason = "the example ends the process")]
//! # Ok::<(), config::file::OpenError>(())
//! ```
//!
//! Nothing outside this module sees Kubernetes' or Istio's types.

use std::path::Path;
use std::sync::Arc;

use crate::model::{CapturePolicy, Snapshot, Topology};

pub use crate::config::compile::{analyze, compile};
pub use crate::config::file::ManifestDir;
pub use crate::config::inputs::Inputs;
pub use crate::config::kube::Cluster;
pub use crate::config::problem::{Code, Rejected, Related, Severity};

pub mod compile;
pub mod crd;
pub mod document;
pub mod file;
#[cfg(test)]
pub(crate) mod fixture;
pub mod inputs;
pub mod kube;
mod maker;
pub mod object;
pub mod path;
pub mod problem;
pub mod source;
pub mod yaml;

/// How manifests are read, and what holds where they are silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// The end of every Service's name.
    pub cluster_domain: Arc<str>,
    /// The namespace whose DestinationRules hold for everyone who has none.
    pub root_namespace: Arc<str>,
    /// What becomes of an Istio object with a field that Istio does not know.
    pub unknown_fields: UnknownFields,
    /// What becomes of what nobody knows, where no Sidecar says otherwise.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// The steering of a Pod without annotations.
    pub capture: CapturePolicy,
    /// What stands before a gateway whose Pod does not say.
    pub topology: Topology,
    /// Which Pods are of this machine and in the mesh.
    pub membership: Membership,
}

/// Which Pods are of this machine, and which of those are in the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// Those whose manifests say where their network namespace is (`mesh-agent.io/netns`), unless they say no.
    #[default]
    Placed,
    /// Those that Kubernetes has on a node and that ask for it, or whose namespaces do (`mesh-agent.io/enrol`).
    Asked {
        /// `spec.nodeName`.
        node: Arc<str>,
        /// Whether it counts as asking where Istio would inject its sidecar (`istio-injection`, `istio.io/rev`,
        /// `sidecar.istio.io/inject`).
        istio: bool,
    },
}

/// `meshConfig.outboundTrafficPolicy.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutboundTrafficPolicy {
    /// It goes where the client meant it to go.
    #[default]
    AllowAny,
    /// It is refused.
    RegistryOnly,
}

/// What becomes of an Istio object with an unknown field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// It is rejected, as Istio's webhook does.
    Reject,
    /// The rest of it applies.
    Warn,
}

impl CompileOptions {
    /// Whether a Pod is one of the node that the world is made for.
    fn is_here(&self, pod: &object::Pod) -> bool {
        match &self.membership {
            Membership::Placed => false,
            Membership::Asked { node, .. } => pod.node.as_ref() == Some(node),
        }
    }
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            unknown_fields: UnknownFields::Reject,
            outbound_traffic_policy: OutboundTrafficPolicy::default(),
            capture: CapturePolicy::default(),
            topology: Topology::default(),
            membership: Membership::default(),
        }
    }
}

/// The world after a change of its source. A world that is in force already comes again, the same one, when it has been
/// looked through for what does not fit together: nobody waits for that.
#[derive(Clone, Debug)]
pub struct Update {
    /// The world.
    pub snapshot: Arc<Snapshot>,
    /// Everything that is wrong with the objects now, not only with those that changed.
    pub rejected: Vec<Rejected>,
}

/// What is wrong with a directory of manifests.
#[derive(Clone, Debug)]
pub struct Checked {
    /// How many files are manifests by their names.
    pub files: usize,
    /// How many objects are in force.
    pub objects: usize,
    /// What is wrong, by file and position.
    pub findings: Vec<Rejected>,
}

/// Reads a directory once. The error says why it could not be read; what is not in force is in the list, by file and
/// position.
pub fn load(
    path: &Path,
    options: &CompileOptions,
) -> Result<(Snapshot, Vec<Rejected>), file::OpenError> {
    let (inputs, mut rejected, _) = file::read_once(path, options)?;
    let (snapshot, more) = compile(&inputs, options);
    rejected.extend(more);
    Rejected::sort(&mut rejected);
    Ok((snapshot, rejected))
}

/// The world of a directory, and what it was made of.
#[derive(Debug)]
pub struct World {
    /// The world.
    pub snapshot: Snapshot,
    /// The end of every Service's name in it.
    pub cluster_domain: Arc<str>,
    /// What is not in force, by file and position.
    pub rejected: Vec<Rejected>,
    inputs: Inputs,
}

/// As [`load`], for who wants to know where a rule was written.
pub fn read(path: &Path, options: &CompileOptions) -> Result<World, file::OpenError> {
    let (inputs, rejected, _) = file::read_once(path, options)?;
    Ok(World::new(inputs, rejected, options))
}

impl World {
    fn new(inputs: Inputs, mut rejected: Vec<Rejected>, options: &CompileOptions) -> Self {
        let (snapshot, more) = compile(&inputs, options);
        rejected.extend(more);
        Rejected::sort(&mut rejected);
        Self {
            snapshot,
            cluster_domain: Arc::clone(&options.cluster_domain),
            rejected,
            inputs,
        }
    }

    /// Where a rule for HTTP stands, `FILE:LINE`: of a VirtualService, `namespace/name`, and counted from 0.
    pub fn place_of_rule(&self, object: &str, rule: usize) -> Option<String> {
        self.place(object, &path::Path::of("spec.http").index(rule))
    }

    /// Where a VirtualService stands, `namespace/name`.
    pub fn place_of_rules(&self, object: &str) -> Option<String> {
        self.place(object, &path::Path::root())
    }

    fn place(&self, object: &str, path: &path::Path) -> Option<String> {
        let (namespace, name) = object.split_once('/')?;
        let id = object::ObjectId {
            kind: object::Kind::VirtualService,
            namespace: namespace.into(),
            name: name.into(),
        };
        let place = self.inputs.get(&id)?.place(path, "");
        Some(format!("{}:{}", place.file.display(), place.line))
    }
}

/// Reads a directory once, for the sake of what is wrong with it: in each object, and between them.
pub fn check(path: &Path, options: &CompileOptions) -> Result<Checked, file::OpenError> {
    let (inputs, mut findings, files) = file::read_once(path, options)?;
    let (_, more) = compile(&inputs, options);
    findings.extend(more);
    findings.extend(analyze(&inputs, options));
    Rejected::sort(&mut findings);
    Ok(Checked {
        files,
        objects: inputs.len(),
        findings,
    })
}

#[cfg(test)]
mod tests;
