//! An API server in memory: lists in pages, field selectors, metadata alone, watches with versions that can be forgotten,
//! kinds that come and go, and failures. What it is asked for is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value as Json, json};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    /// Changes before this one are forgotten: who asks for them is told 410.
    forgotten: u64,
    /// By collection, such as `/apis/networking.istio.io/v1/virtualservices`, then by namespace and name.
    objects: BTreeMap<String, BTreeMap<(String, String), Json>>,
    history: Vec<Event>,
    watches: Vec<Watch>,
    down: bool,
    /// Answer lists one object at a time, and stop after so many pages.
    break_lists_after: Option<usize>,
    asked: BTreeSet<String>,
}

#[derive(Clone)]
struct Event {
    version: u64,
    collection: String,
    kind: &'static str,
    object: Json,
    before: Option<Json>,
}

struct Watch {
    collection: String,
    selector: String,
    metadata: bool,
    to: UnboundedSender<Bytes>,
}

pub(super) const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";
pub(super) const EVENTS: &str = "/apis/events.k8s.io/v1/events";

/// The kinds that a group has, by their plural names.
const ISTIO: [(&str, &str); 6] = [
    ("virtualservices", "VirtualService"),
    ("destinationrules", "DestinationRule"),
    ("gateways", "Gateway"),
    ("serviceentries", "ServiceEntry"),
    ("workloadentries", "WorkloadEntry"),
    ("sidecars", "Sidecar"),
];

impl Api {
    /// One that has Kubernetes' own kinds and, where `istio` names a version, Istio's.
    pub(super) fn new(slices: &str, istio: Option<&str>) -> Self {
        let api = Self::default();
        for name in ["services", "namespaces", "nodes", "pods", "secrets"] {
            api.define(&format!("/api/v1/{name}"));
        }
        api.define(&format!("/apis/discovery.k8s.io/{slices}/endpointslices"));
        api.define(LEASES);
        api.define(EVENTS);
        if let Some(version) = istio {
            api.install_istio(version);
        }
        api
    }

    pub(super) fn install_istio(&self, version: &str) {
        for (name, _) in ISTIO {
            self.define(&format!("/apis/networking.istio.io/{version}/{name}"));
        }
    }

    fn define(&self, collection: &str) {
        self.state()
            .objects
            .entry(collection.to_owned())
            .or_default();
    }

    /// Creates or changes an object, as its YAML says.
    pub(super) fn apply(&self, text: &str) {
        for document in text.split("\n---\n") {
            let object: Json = json_of(document);
            self.put(object);
        }
    }

    fn put(&self, mut object: Json) {
        let mut state = self.state();
        let collection = collection_of(&object);
        let key = key(&object);
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        object["metadata"]["managedFields"] = json!([{"manager": "test"}]);
        let kept = state.objects.get_mut(&collection);
        let kept = kept.unwrap_or_else(|| panic!("{collection} is not defined"));
        let before = kept.insert(key, object.clone());
        state.tell(Event {
            version,
            collection,
            kind: if before.is_some() {
                "MODIFIED"
            } else {
                "ADDED"
            },
            object,
            before,
        });
    }

    pub(super) fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let kept = state.objects.get_mut(collection).expect("it is defined");
        let object = kept.remove(&(namespace.to_owned(), name.to_owned()));
        let object = object.expect("it is there");
        state.tell(Event {
            version,
            collection: collection.to_owned(),
            kind: "DELETED",
            before: Some(object.clone()),
            object,
        });
    }

    /// Cuts every watch.
    pub(super) fn cut(&self) {
        self.state().watches.clear();
    }

    /// Cuts every watch, and forgets what happened before: everyone has to list again.
    pub(super) fn compact(&self) {
        let mut state = self.state();
        state.forgotten = state.version + 1;
        state.version += 1;
        state.history.clear();
        state.watches.clear();
    }

    /// Whether it answers at all.
    pub(super) fn set_down(&self, down: bool) {
        let mut state = self.state();
        state.down = down;
        state.watches.clear();
    }

    /// Lists break off after so many pages of one object, or do not.
    pub(super) fn break_lists_after(&self, pages: Option<usize>) {
        self.state().break_lists_after = pages;
    }

    /// The objects of a collection.
    pub(super) fn objects(&self, collection: &str) -> Vec<Json> {
        self.state().objects[collection].values().cloned().collect()
    }

    /// The paths and selectors that were asked for.
    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.state().asked.clone()
    }

    pub(super) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                Ok::<_, Infallible>(api.answer(&head, &body))
            }
        });
        Client::new(service, "default")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Parts, body: &Bytes) -> Answer {
        let mut state = self.state();
        if state.down {
            return status(StatusCode::SERVICE_UNAVAILABLE, "it is down");
        }
        let path = request.uri.path().to_owned();
        let query: BTreeMap<String, String> = request
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        let word = |name: &str| query.get(name).map_or("", String::as_str);
        let accept = request.headers.get(http::header::ACCEPT);
        let metadata = accept
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("PartialObjectMetadata"));
        state.asked.insert(format!(
            "{path} {}{}",
            word("fieldSelector"),
            if metadata { " metadata" } else { "" }
        ));
        let (collection, namespace) = split(&path);
        let mut selector = word("fieldSelector").to_owned();
        if let Some(namespace) = namespace {
            selector = format!("metadata.namespace={namespace},{selector}");
        }
        if !state.objects.contains_key(&collection) {
            if let Some((collection, namespace, name)) = single(&collection, &path)
                && state.objects.contains_key(&collection)
            {
                return state.single(&request.method, &collection, &(namespace, name), body);
            }
            return state.discover(&path);
        }
        if request.method == Method::POST {
            let object: Json = serde_json::from_slice(body).expect("JSON");
            let key = key(&object);
            state
                .objects
                .get_mut(&collection)
                .expect("it is defined")
                .insert(key, object.clone());
            return whole(&object);
        }
        if matches!(word("watch"), "1" | "true") {
            let since = word("resourceVersion").parse().unwrap_or(0);
            return state.watch(collection, selector, metadata, since);
        }
        let from: usize = word("continue").parse().unwrap_or(0);
        state.list(&collection, &selector, metadata, from)
    }
}

impl State {
    /// One object: read, replaced, or given a status.
    fn single(
        &mut self,
        method: &Method,
        collection: &str,
        key: &(String, String),
        body: &Bytes,
    ) -> Answer {
        self.version += 1;
        let version = self.version;
        let objects = self.objects.get_mut(collection).expect("it is defined");
        let Some(object) = objects.get_mut(key) else {
            return status(StatusCode::NOT_FOUND, "there is no such object");
        };
        if *method == Method::GET {
            return whole(object);
        }
        let before = object.clone();
        let written: Json = serde_json::from_slice(body).expect("JSON");
        match *method {
            Method::PUT => *object = written,
            _ => object["status"] = written["status"].clone(),
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = object.clone();
        let answer = whole(&object);
        self.tell(Event {
            version,
            collection: collection.to_owned(),
            kind: "MODIFIED",
            object,
            before: Some(before),
        });
        answer
    }

    fn discover(&self, path: &str) -> Answer {
        let prefix = format!("{path}/");
        let mut names = self.objects.keys();
        if !path.starts_with("/apis/") || !names.any(|name| name.starts_with(&prefix)) {
            return status(StatusCode::NOT_FOUND, "there is no such thing");
        }
        let kinds = ISTIO
            .into_iter()
            .chain([("endpointslices", "EndpointSlice")]);
        let resources =
            kinds.filter(|(name, _)| self.objects.contains_key(&format!("{prefix}{name}")));
        let resources: Vec<Json> = resources
            .map(|(name, kind)| {
                json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["list", "watch"]})
            })
            .collect();
        let version = path.trim_start_matches("/apis/");
        whole(&json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources,
        }))
    }

    fn list(&mut self, collection: &str, selector: &str, metadata: bool, from: usize) -> Answer {
        let matching = self.objects[collection].values();
        let matching: Vec<&Json> = matching
            .filter(|object| selects(selector, object))
            .collect();
        let page = match self.break_lists_after {
            Some(pages) if from >= pages => {
                return status(StatusCode::INTERNAL_SERVER_ERROR, "the list broke off");
            }
            Some(_) => 1,
            None => 2,
        };
        let items = matching.iter().skip(from).take(page);
        let items: Vec<Json> = items.map(|object| shown(object, metadata)).collect();
        let next = from + items.len();
        let mut about = json!({"resourceVersion": self.version.to_string()});
        if next < matching.len() {
            about["continue"] = json!(next.to_string());
        }
        whole(&json!({"kind": "List", "apiVersion": "v1", "metadata": about, "items": items}))
    }

    fn watch(
        &mut self,
        collection: String,
        selector: String,
        metadata: bool,
        since: u64,
    ) -> Answer {
        let (to, from) = unbounded();
        if since < self.forgotten {
            let gone = json!({"type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "too old",
                "reason": "Expired", "code": 410,
            }});
            let _ = to.unbounded_send(line(&gone));
        } else {
            let watch = Watch {
                collection,
                selector,
                metadata,
                to,
            };
            for event in self.history.iter().filter(|event| event.version > since) {
                watch.tell(event);
            }
            self.watches.push(watch);
        }
        let frames = from.map(|line| Ok(Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn tell(&mut self, event: Event) {
        self.watches.retain(|watch| watch.tell(&event));
        self.history.push(event);
    }
}

impl Watch {
    /// What has left a selector is deleted for who watches by it, as with the real one. False where nobody listens.
    fn tell(&self, event: &Event) -> bool {
        if event.collection != self.collection {
            return !self.to.is_closed();
        }
        let before = event.before.as_ref();
        let was = before.is_some_and(|before| selects(&self.selector, before));
        let is = event.kind != "DELETED" && selects(&self.selector, &event.object);
        let kind = match (was, is) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return !self.to.is_closed(),
        };
        let told = json!({"type": kind, "object": shown(&event.object, self.metadata)});
        self.to.unbounded_send(line(&told)).is_ok()
    }
}

fn shown(object: &Json, metadata: bool) -> Json {
    if !metadata {
        return object.clone();
    }
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"],
    })
}

fn selects(selector: &str, object: &Json) -> bool {
    selector
        .split(',')
        .filter(|term| !term.is_empty())
        .all(|term| {
            let (path, wanted, equal) = match term.split_once("!=") {
                Some((path, value)) => (path, value, false),
                None => {
                    let (path, value) = term.split_once('=').expect("a selector");
                    (path, value, true)
                }
            };
            let pointer = format!("/{}", path.replace('.', "/"));
            let found = object.pointer(&pointer).and_then(Json::as_str);
            (found.unwrap_or_default() == wanted) == equal
        })
}

/// The collection, namespace and name of the path of one object, or of its status.
fn single(collection: &str, path: &str) -> Option<(String, String, String)> {
    let (_, after) = path.split_once("/namespaces/")?;
    let namespace = after.split('/').next()?.to_owned();
    let collection = collection.strip_suffix("/status").unwrap_or(collection);
    let (collection, name) = collection.rsplit_once('/')?;
    Some((collection.to_owned(), namespace, name.to_owned()))
}

/// The collection of a path, and the namespace in it.
fn split(path: &str) -> (String, Option<String>) {
    let Some((before, after)) = path.split_once("/namespaces/") else {
        return (path.to_owned(), None);
    };
    match after.split_once('/') {
        Some((namespace, name)) => (format!("{before}/{name}"), Some(namespace.to_owned())),
        None => (path.to_owned(), None),
    }
}

fn collection_of(object: &Json) -> String {
    let version = object["apiVersion"].as_str().expect("a version");
    let kind = object["kind"].as_str().expect("a kind").to_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) if kind != "gateway" => format!("{stem}ies"),
        _ => format!("{kind}s"),
    };
    match version.contains('/') {
        true => format!("/apis/{version}/{plural}"),
        false => format!("/api/{version}/{plural}"),
    }
}

fn key(object: &Json) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    (text("namespace").to_owned(), text("name").to_owned())
}

/// YAML by way of the project's own reader.
fn json_of(text: &str) -> Json {
    use crate::config::yaml::{Node, Value};
    fn convert(node: &Node) -> Json {
        match &node.value {
            Value::Null => Json::Null,
            Value::Bool(value) => json!(value),
            Value::Integer(number) => json!(i64::try_from(*number).expect("a small number")),
            Value::Float(number) => json!(number),
            Value::String(text) => json!(&**text),
            Value::Sequence(items) => items.iter().map(convert).collect(),
            Value::Mapping(entries) => {
                let fields = entries.iter();
                let fields = fields.map(|(key, value)| (key.name.to_string(), convert(value)));
                Json::Object(fields.collect())
            }
        }
    }
    let mut documents = crate::config::yaml::documents(text);
    convert(&documents.next().expect("a document").expect("YAML"))
}

fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(|digit| digit.expect("a digit"));
                let digits = std::str::from_utf8(&digits).expect("ASCII").to_owned();
                out.push(u8::from_str_radix(&digits, 16).expect("hexadecimal"));
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).expect("UTF-8")
}

fn line(json: &Json) -> Bytes {
    Bytes::from(format!("{json}\n"))
}

fn whole(json: &Json) -> Answer {
    Response::new(Full::new(line(json)).boxed_unsync())
}

fn status(code: StatusCode, message: &str) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
        "reason": if code == StatusCode::NOT_FOUND { "NotFound" } else { "" }, "code": code.as_u16(),
    });
    let mut answer = whole(&body);
    *answer.status_mut() = code;
    answer
}
