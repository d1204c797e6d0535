//! Objects as understood: each is complete and right in itself, and has been checked as Istio's webhook would.
//!
//! A conversion per kind takes the written object apart field by field and says what is wrong with it. What depends on
//! other objects is left to [`crate::config::compile`].

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path as FilePath;
use std::sync::Arc;

use crate::config::CompileOptions;
use crate::config::crd;
use crate::config::path::Path;
use crate::config::problem::{Code, Problem, Problems, Rejected, Related};
use crate::config::yaml::Span;
use crate::config::yaml::places::Places;
use crate::model::Labels;

pub use crate::config::object::destination_rule::DestinationRule;
pub use crate::config::object::endpoint_slice::EndpointSlice;
pub use crate::config::object::gateway::Gateway;
pub use crate::config::object::node::Node;
pub use crate::config::object::pod::Pod;
pub use crate::config::object::secret::Secret;
pub use crate::config::object::service::Service;
pub use crate::config::object::service_entry::ServiceEntry;
pub use crate::config::object::sidecar::Sidecar;
pub use crate::config::object::virtual_service::VirtualService;
pub use crate::config::object::workload_entry::WorkloadEntry;
pub use crate::config::object::workload_policy::WorkloadPolicy;

pub mod destination_rule;
pub mod duration;
pub mod endpoint_slice;
pub mod gateway;
pub mod name;
pub mod node;
pub mod pod;
pub mod regex;
pub mod secret;
pub mod service;
pub mod service_entry;
pub mod sidecar;
pub mod template;
pub mod virtual_service;
pub mod workload_entry;
pub mod workload_policy;

/// The kinds that make up the mesh's world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Core.
    Service,
    /// Core.
    Pod,
    /// `discovery.k8s.io`.
    EndpointSlice,
    /// Core, and of no namespace.
    Node,
    /// `networking.istio.io`.
    VirtualService,
    /// `networking.istio.io`.
    DestinationRule,
    /// `networking.istio.io`.
    Gateway,
    /// `networking.istio.io`.
    ServiceEntry,
    /// `networking.istio.io`.
    WorkloadEntry,
    /// `networking.istio.io`.
    Sidecar,
    /// Core.
    Secret,
    /// Core, and of no namespace.
    Namespace,
    /// `security.istio.io`.
    AuthorizationPolicy,
    /// `security.istio.io`.
    PeerAuthentication,
    /// `security.istio.io`.
    RequestAuthentication,
    /// `telemetry.istio.io`.
    Telemetry,
}

/// Which object it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// An object, what it came from, and its age.
#[derive(Debug)]
pub struct Object {
    /// Which one.
    pub id: ObjectId,
    /// `metadata.uid`.
    pub uid: Option<Arc<str>>,
    /// `metadata.labels`.
    pub labels: Arc<Labels>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// How old it is, compared with others.
    pub age: Age,
    /// Its content.
    pub body: Body,
    /// Where it was written.
    pub source: Source,
}

/// Orders objects from the oldest to the newest. `metadata.creationTimestamp` decides where it is given, then name and
/// namespace, as in Istio. An object without one has not been created yet as far as anyone knows, so it is younger than
/// all that have; among those, the order of file names and of documents in a file stands in for age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Age {
    /// Created at this second since 1970; then name, then namespace.
    Created(i64, Arc<str>, Arc<str>),
    /// File and position in it.
    Written(Arc<FilePath>, usize),
}

/// Where an object was written.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub file: Arc<FilePath>,
    /// The places of its fields.
    pub places: Places,
}

/// What is in an object.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is the type's")]
pub enum Body {
    Service(Service),
    Pod(Pod),
    EndpointSlice(EndpointSlice),
    Node(Node),
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
    Gateway(Gateway),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(WorkloadEntry),
    Sidecar(Sidecar),
    Secret(Secret),
    /// Its labels are all that is looked at.
    Namespace,
    WorkloadPolicy(WorkloadPolicy),
}

impl Ord for Age {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Created(a, name_a, namespace_a), Self::Created(b, name_b, namespace_b)) => a
                .cmp(b)
                .then_with(|| name_a.cmp(name_b))
                .then_with(|| namespace_a.cmp(namespace_b)),
            (Self::Created(..), Self::Written(..)) => Ordering::Less,
            (Self::Written(..), Self::Created(..)) => Ordering::Greater,
            (Self::Written(a, place_a), Self::Written(b, place_b)) => {
                // Paths are slow to compare, and most neighbours are of one file.
                let files = match Arc::ptr_eq(a, b) {
                    true => Ordering::Equal,
                    false => a.cmp(b),
                };
                files.then_with(|| place_a.cmp(place_b))
            }
        }
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Object {
    /// A complaint about this object, with the place in its file.
    pub fn reject(&self, problem: Problem) -> Rejected {
        let Source { file, places } = &self.source;
        let span = match problem.name {
            true => places.locate_name(&problem.path),
            false => places.locate(&problem.path),
        };
        problem.at(file, span, &self.id.to_string())
    }

    /// The place of one of its fields, for a complaint about another object.
    pub fn place(&self, path: &Path, message: impl Into<String>) -> Related {
        let Span { start, end } = self.source.places.locate(path);
        Related {
            message: message.into(),
            file: self.source.file.to_path_buf(),
            line: start.line,
            column: start.column,
            end_line: end.line,
            end_column: end.column,
        }
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Service,
        Self::Pod,
        Self::EndpointSlice,
        Self::Node,
        Self::VirtualService,
        Self::DestinationRule,
        Self::Gateway,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::Sidecar,
        Self::Secret,
        Self::Namespace,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::Telemetry,
    ];

    /// Those of Istio that decide how traffic goes.
    pub const ROUTING: [Self; 6] = [
        Self::VirtualService,
        Self::DestinationRule,
        Self::Gateway,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::Sidecar,
    ];

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind's name, as in `kind:`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Sidecar => "Sidecar",
            Self::Secret => "Secret",
            Self::Namespace => "Namespace",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::Telemetry => "Telemetry",
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.name();
        match self.kind {
            Kind::Node | Kind::Namespace => write!(f, "{kind} {}", self.name),
            _ => write!(f, "{kind} {}/{}", self.namespace, self.name),
        }
    }
}

/// What a conversion knows beside the object's own fields.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The object's namespace.
    pub namespace: &'a str,
    /// How manifests are read.
    pub options: &'a CompileOptions,
}

/// Reads a port number that must be there.
pub fn port_number(
    written: Option<crd::Port>,
    path: &Path,
    problems: &mut Problems,
) -> Option<u16> {
    let Some(crd::Number(number)) = written else {
        problems.error(
            path,
            "a port number is missing",
            "write one between 1 and 65535",
        );
        return None;
    };
    match u16::try_from(number) {
        Ok(number) if number > 0 => Some(number),
        Ok(_) | Err(_) => {
            problems.error(
                path,
                format!("{number} is no port number"),
                "write one between 1 and 65535",
            );
            None
        }
    }
}

/// Labels, shared.
pub fn labels(written: &BTreeMap<String, String>) -> Labels {
    written
        .iter()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

/// Whether an object's annotations ask not to be told of breaches of a rule: `galley.istio.io/analyze-suppress` lists the
/// codes, or says `*`.
pub fn suppresses(annotations: &BTreeMap<String, String>, code: Option<Code>) -> bool {
    let Some(codes) = annotations.get("galley.istio.io/analyze-suppress") else {
        return false;
    };
    let id = code.map_or("", Code::id);
    let mut codes = codes.split(',').map(str::trim);
    codes.any(|code| code == "*" || code == id)
}

/// The path of a label.
pub fn label(name: &str) -> Path {
    Path::of("metadata.labels").key(name)
}

/// The path of an annotation.
pub fn annotation(name: &str) -> Path {
    Path::of("metadata.annotations").key(name)
}
