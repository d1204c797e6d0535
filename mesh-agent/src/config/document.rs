//! From a tree to an object: which kind it is, its metadata, and the checks that need nothing but itself.

use std::path::Path as FilePath;
use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;

use crate::config::CompileOptions;
use crate::config::crd::core::{
    EndpointSliceBody, Metadata, PodSpec, PodStatus, SecretBody, ServiceSpec,
};
use crate::config::document::group::{Group, group};
use crate::config::document::part::{check_top, part, whole};
use crate::config::object::{
    self, Age, Body, Context, DestinationRule, EndpointSlice, Gateway, Kind, Object, ObjectId, Pod,
    Secret, Service, ServiceEntry, Sidecar, Source, VirtualService, WorkloadEntry, WorkloadPolicy,
    duration,
};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem, Problems, Rejected, Severity};
use crate::config::yaml::places::Places;
use crate::config::yaml::{Node, SyntaxError, Value};
use crate::model::Labels;

mod group;
mod part;

/// What a document turned out to be.
#[derive(Debug)]
pub struct Document {
    /// The object in it.
    pub outcome: Outcome,
    /// What its author should know.
    pub rejected: Vec<Rejected>,
}

/// The object in a document.
#[derive(Debug)]
pub enum Outcome {
    /// Complete, and right in itself.
    Good(Arc<Object>),
    /// Of no use; which one, where the text still tells.
    Broken(Option<ObjectId>),
    /// Of no concern to the mesh.
    Ignored(String),
}

/// Reads a whole file's text.
pub fn read_text(text: &str, file: &Arc<FilePath>, options: &CompileOptions) -> Vec<Document> {
    let mut reader = Reader {
        file,
        options,
        documents: Vec::new(),
    };
    for document in super::yaml::documents(text) {
        match document {
            Ok(node) => reader.take(&node, None),
            Err(error) => reader.documents.push(unreadable(file, error)),
        }
    }
    reader.documents
}

/// Reads an object of a known kind that was not written in a file: nothing in it has a place.
pub fn read_placeless(kind: Kind, node: &Node, options: &CompileOptions) -> Document {
    static NOWHERE: LazyLock<Arc<FilePath>> = LazyLock::new(|| FilePath::new("").into());
    let source = Written {
        file: &NOWHERE,
        node,
    };
    read_object(kind, source, 0, options)
}

/// Which object of a kind this is, as far as its metadata tells.
pub fn id_of(kind: Kind, namespace: &str, name: &str) -> ObjectId {
    let namespace = match namespace {
        "" => "default",
        namespace => namespace,
    };
    ObjectId {
        kind,
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// A complaint about a file as a whole.
pub fn about_file(
    file: &FilePath,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Rejected {
    Rejected {
        severity: Severity::Error,
        code: Some(Code::Mesh0003),
        file: file.to_path_buf(),
        line: 0,
        column: 0,
        end_line: 0,
        end_column: 0,
        object: String::new(),
        field: String::new(),
        message: message.into(),
        remedy: remedy.into(),
        related: None,
    }
}

fn unreadable(file: &FilePath, error: SyntaxError) -> Document {
    let SyntaxError { at, end, message } = error;
    let rejected = Rejected {
        code: Some(Code::Mesh0002),
        line: at.line,
        column: at.column,
        end_line: end.line,
        end_column: end.column,
        ..about_file(
            file,
            format!("this is not YAML: {message}"),
            syntax_remedy(&message),
        )
    };
    Document {
        outcome: Outcome::Broken(None),
        rejected: vec![rejected],
    }
}

fn syntax_remedy(message: &str) -> &'static str {
    match message {
        text if text.contains("tab") => "indent with spaces",
        text if text.contains("mapping values are not allowed") => {
            "put a value with a colon in quotes, or correct the indentation"
        }
        text if text.contains("for the second time") => "keep one of them",
        _ => "correct it from this place on",
    }
}

/// A document, as it stands in a file.
#[derive(Clone, Copy)]
struct Written<'a> {
    file: &'a Arc<FilePath>,
    node: &'a Node,
}

impl Written<'_> {
    /// A complaint about an object of this document.
    fn reject(self, object: &str, problem: Problem) -> Rejected {
        let span = match problem.name {
            true => self.node.locate_name(&problem.path),
            false => self.node.locate(&problem.path),
        };
        problem.at(self.file, span, object)
    }
}

struct Reader<'a> {
    file: &'a Arc<FilePath>,
    options: &'a CompileOptions,
    documents: Vec<Document>,
}

impl Reader<'_> {
    /// Reads one object, or the items of a list. `implied` is what items of a list such as `PodList` are.
    fn take(&mut self, node: &Node, implied: Option<&(String, String)>) {
        let text = |field: &str| {
            node.get(field)
                .and_then(Node::as_str)
                .map(|text| text.to_string())
        };
        let version = text("apiVersion").or_else(|| implied.map(|(version, _)| version.clone()));
        let kind = text("kind").or_else(|| implied.map(|(_, kind)| kind.clone()));
        let source = Written {
            file: self.file,
            node,
        };
        let (Some(version), Some(kind)) = (version, kind) else {
            let message = "this is no Kubernetes object: apiVersion or kind is missing";
            self.broken(source, "", &Path::root(), message, "add both");
            return;
        };
        match group(&version, &kind) {
            Group::List(implied) => self.take_items(source, implied.as_ref()),
            Group::Known(known) => {
                let position = self.documents.len();
                let document = read_object(known, source, position, self.options);
                self.documents.push(document);
            }
            Group::Unknown(remedy) => {
                let message = format!("there is no {kind} in {version}");
                self.broken(source, &kind, &Path::of("kind"), &message, remedy);
            }
            Group::Unsupported => {
                let name = node
                    .get("metadata")
                    .and_then(|metadata| metadata.get("name")?.as_str());
                let message = format!("{kind} is not supported yet and has no effect");
                let problem = Problem::new(&Path::of("kind"), message, "", Severity::Warning)
                    .of(Code::Mesh0001);
                let title = format!("{kind} {}", name.map_or("", |name| name));
                self.documents.push(Document {
                    rejected: vec![source.reject(title.trim(), problem)],
                    outcome: Outcome::Ignored(kind),
                });
            }
            Group::Foreign => self.documents.push(Document {
                outcome: Outcome::Ignored(kind),
                rejected: Vec::new(),
            }),
        }
    }

    fn take_items(&mut self, list: Written<'_>, implied: Option<&(String, String)>) {
        match list.node.get("items").map(|items| &items.value) {
            None | Some(Value::Null) => {}
            Some(Value::Sequence(items)) => {
                for item in items {
                    self.take(item, implied);
                }
            }
            Some(_) => self.broken(
                list,
                "",
                &Path::of("items"),
                "is no list",
                "write the objects as a list",
            ),
        }
    }

    fn broken(
        &mut self,
        source: Written<'_>,
        object: &str,
        path: &Path,
        message: &str,
        remedy: &str,
    ) {
        let problem = Problem::new(path, message, remedy, Severity::Error).of(Code::Mesh0002);
        self.documents.push(Document {
            outcome: Outcome::Broken(None),
            rejected: vec![source.reject(object, problem)],
        });
    }
}

fn read_object(
    kind: Kind,
    source: Written<'_>,
    position: usize,
    options: &CompileOptions,
) -> Document {
    let mut problems = Problems::default();
    let node = source.node;
    let metadata = part(node, "metadata", &mut problems, None).unwrap_or_else(|| name_only(node));
    if metadata.name.is_empty() && !problems.unusable() {
        problems.error(
            &Path::of("metadata.name"),
            "the object has no name",
            "add one",
        );
    }
    let id = id_of(kind, &metadata.namespace, &metadata.name);
    let namespace = &*id.namespace;
    let context = Context { namespace, options };
    let labels = Arc::new(object::labels(&metadata.labels));
    let body = read_body(kind, node, &labels, &context, &mut problems);
    let usable = !problems.unusable();
    let title = match metadata.name.as_str() {
        "" => kind.name().to_owned(),
        _ => id.to_string(),
    };
    let rejected = problems
        .into_iter()
        .filter(|problem| {
            let is_told = || !object::suppresses(&metadata.annotations, problem.code);
            problem.severity == Severity::Error || is_told()
        })
        .map(|problem| source.reject(&title, problem))
        .collect();
    let metadata = match kind {
        Kind::Secret => without_content(metadata),
        _ => metadata,
    };
    let outcome = match body {
        Some(body) if usable => Outcome::Good(Arc::new(object_of(
            id, &metadata, labels, body, source, position,
        ))),
        _ => Outcome::Broken((!metadata.name.is_empty()).then_some(id)),
    };
    Document { outcome, rejected }
}

/// What can be told of metadata that does not read as a whole: enough to know which object it is.
fn name_only(node: &Node) -> Metadata {
    let text = |field| {
        let text = node
            .get("metadata")
            .and_then(|metadata| metadata.get(field)?.as_str());
        text.map_or_else(String::new, |text| text.to_string())
    };
    Metadata {
        name: text("name"),
        namespace: text("namespace"),
        ..Metadata::default()
    }
}

/// Of a Secret nothing is kept that repeats what was written in it, as kubectl's own annotation does.
fn without_content(metadata: Metadata) -> Metadata {
    Metadata {
        annotations: Default::default(),
        ..metadata
    }
}

fn object_of(
    id: ObjectId,
    metadata: &Metadata,
    labels: Arc<Labels>,
    body: Body,
    written: Written<'_>,
    position: usize,
) -> Object {
    let source = Source {
        file: Arc::clone(written.file),
        places: Places::of(written.node),
    };
    let created = metadata
        .creation_timestamp
        .as_deref()
        .and_then(duration::timestamp);
    Object {
        age: match created {
            Some(second) => Age::Created(second, Arc::clone(&id.name), Arc::clone(&id.namespace)),
            None => Age::Written(Arc::clone(&source.file), position),
        },
        uid: metadata.uid.as_deref().map(Into::into),
        labels,
        annotations: metadata.annotations.clone(),
        terminating: metadata.deletion_timestamp.is_some(),
        id,
        body,
        source,
    }
}

/// `None` where a part could not be read at all; the reason is among the problems.
fn read_body(
    kind: Kind,
    node: &Node,
    labels: &Labels,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<Body> {
    match kind {
        Kind::Service => {
            let spec: ServiceSpec = part(node, "spec", problems, None)?;
            Some(Body::Service(Service::read(spec, problems)))
        }
        Kind::Pod => {
            let spec: PodSpec = part(node, "spec", problems, None)?;
            let status: PodStatus = part(node, "status", problems, None)?;
            let known = node.get("spec").or_else(|| node.get("status"));
            Some(Body::Pod(Pod {
                partial: known.is_none(),
                ..Pod::read(spec, status, problems)
            }))
        }
        Kind::EndpointSlice => {
            let body: EndpointSliceBody = whole(node, problems)?;
            Some(Body::EndpointSlice(EndpointSlice::read(
                body,
                context.namespace,
                problems,
            )))
        }
        Kind::Node => Some(Body::Node(object::Node::read(labels))),
        Kind::VirtualService => {
            let spec = istio(node, context, problems)?;
            Some(Body::VirtualService(VirtualService::read(
                spec, context, problems,
            )))
        }
        Kind::DestinationRule => {
            let spec = istio(node, context, problems)?;
            Some(Body::DestinationRule(DestinationRule::read(
                spec, context, problems,
            )))
        }
        Kind::Gateway => {
            let spec = istio(node, context, problems)?;
            Some(Body::Gateway(Gateway::read(
                spec,
                context.namespace,
                problems,
            )))
        }
        Kind::ServiceEntry => {
            let spec = istio(node, context, problems)?;
            Some(Body::ServiceEntry(ServiceEntry::read(
                spec, context, problems,
            )))
        }
        Kind::WorkloadEntry => {
            let spec = istio(node, context, problems)?;
            let entry = WorkloadEntry::read(spec, &Path::of("spec"), problems)?;
            Some(Body::WorkloadEntry(entry))
        }
        Kind::Sidecar => {
            let spec = istio(node, context, problems)?;
            Some(Body::Sidecar(Sidecar::read(spec, context, problems)))
        }
        Kind::Secret => {
            let body: SecretBody = whole(node, problems)?;
            Some(Body::Secret(Secret::read(body, problems)))
        }
        Kind::Namespace => Some(Body::Namespace),
        Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::RequestAuthentication
        | Kind::Telemetry => {
            let spec = part(node, "spec", problems, None)?;
            let policy = WorkloadPolicy::read(kind, spec, problems);
            Some(Body::WorkloadPolicy(policy))
        }
    }
}

/// The `spec` of an object of Istio that is acted on, with the fields in it and beside it that Istio does not know.
fn istio<T: DeserializeOwned + Default>(
    node: &Node,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<T> {
    let unknown = context.options.unknown_fields;
    check_top(node, unknown, problems);
    part(node, "spec", problems, Some(unknown))
}

#[cfg(test)]
mod tests;
