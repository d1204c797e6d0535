//! The same cases through the pure decision alone: no sockets, no root. It tells where a request goes and what a route
//! answers; what it does not tell, such as tries and headers, is not compared.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use mesh_agent::config::document::{Outcome as Read, read_text};
use mesh_agent::config::{CompileOptions, Inputs, Severity, compile};
use mesh_agent::model::{
    Abort, Cluster, Discovery, Forward, PodId, RouteAction, Snapshot, Template,
};
use mesh_agent::route::{
    self, Act, Client, CorsVerdict, Decision, Flow, HttpScope, Outbound, Pick, Reply, Routed,
    StreamDecision, StreamScope,
};
use serde_json::Value;

use super::ask::Answer;
use super::backend::Seen;
use super::case::{Case, Family, From, Topic};
use super::check::{Outcome, differences, many};
use super::request::Request;
use super::scenery::{GATEWAY_NAMESPACE, GATEWAY_POD, NOBODY, objects, target};

mod secured;

/// Plays a topic. What went wrong, and how many requests were decided.
pub fn play(topic: &Topic) -> (Vec<String>, usize) {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for case in &topic.cases {
        let requests: Vec<&Request> = case
            .requests
            .iter()
            .filter(|request| told(request))
            .collect();
        // The objects must be right even where nothing can be told of the requests.
        let snapshot = match world(case) {
            Ok(snapshot) => snapshot,
            Err(e) => {
                wrong.push(format!("{}: {e:#}", case.title()));
                continue;
            }
        };
        if topic.not_decided.is_some() || case.not_decided.is_some() {
            continue;
        }
        for request in requests {
            for from in request.from.iter().flat_map(|from| &from.0) {
                count += 1;
                let found =
                    ask(&snapshot, request, *from).unwrap_or_else(|e| vec![format!("{e:#}")]);
                for difference in found {
                    let title = request.title();
                    wrong.push(format!("{}: {from:?} {title}: {difference}", case.title()));
                }
            }
        }
    }
    (wrong, count)
}

/// Whether the decision has anything to say about it.
fn told(request: &Request) -> bool {
    let odd = request.raw.is_some() || request.sticky || request.at_once;
    !odd && request.connections.is_none() && request.not_decided.is_none()
}

/// The world with the objects of a case.
fn world(case: &Case) -> Result<Snapshot> {
    let options = CompileOptions::default();
    let mut all = objects(case.family(), |_| None);
    all.extend(case.manifests());
    let text: Vec<String> = all.iter().map(ToString::to_string).collect();
    let file: Arc<Path> = Path::new("case.yaml").into();
    let (mut inputs, mut rejected) = (Inputs::default(), Vec::new());
    for document in read_text(&text.join("\n---\n"), &file, &options) {
        rejected.extend(document.rejected);
        if let Read::Good(object) = document.outcome {
            inputs.insert(object);
        }
    }
    let (snapshot, more) = compile(&inputs, &options);
    rejected.extend(more);
    let broken: Vec<String> = rejected
        .iter()
        .filter(|complaint| complaint.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    match case.complaint {
        true => ensure!(!broken.is_empty(), "nothing was rejected"),
        false => ensure!(broken.is_empty(), "rejected: {}", broken.join("; ")),
    }
    Ok(snapshot)
}

fn ask(snapshot: &Snapshot, request: &Request, from: From) -> Result<Vec<String>> {
    let (namespace, name) = match from {
        From::Client => ("default", "client"),
        From::Guest => ("other", "guest"),
        From::Gateway => (GATEWAY_NAMESPACE, GATEWAY_POD),
    };
    let id = PodId {
        namespace: namespace.into(),
        name: name.into(),
    };
    let pod = snapshot.pods.get(&id).context("a pod of the world")?;
    let client = match from {
        From::Client | From::Guest => Client::Pod(pod),
        From::Gateway => Client::Gateway(pod),
    };
    let asked = Asked {
        snapshot,
        client,
        request,
        destination: SocketAddr::new(target(request, from), request.port()),
    };
    let times = request.times.unwrap_or(1);
    let outcomes: Vec<Outcome> = (0..times).map(|_| asked.outcome()).collect::<Result<_>>()?;
    let mut wrong = Vec::new();
    if request.to.is_some() || times == 1 {
        for outcome in &outcomes {
            wrong.extend(differences(&reduced(request, outcome), outcome));
        }
        wrong.truncate(3);
    }
    wrong.extend(many(request, &outcomes));
    Ok(wrong)
}

/// The request with what can be told of it alone.
fn reduced(request: &Request, outcome: &Outcome) -> Request {
    let forwarded = !outcome.seen.is_empty();
    let mut reduced = request.clone();
    reduced
        .response
        .retain(|name, _| name == "location" && !forwarded);
    reduced.trailers.clear();
    reduced.upstream.headers.clear();
    reduced.upstream.method = None;
    reduced.upstream.body = None;
    reduced.upstream.version = None;
    reduced.upstream.tls.clear();
    reduced.alert = None;
    reduced.agreed = None;
    reduced.agreed_version = None;
    if request.shown.is_some()
        && outcome
            .answer
            .as_ref()
            .is_ok_and(|answer| answer.tls.is_none())
    {
        // Whoever the connection was passed on to has shown it.
        reduced.shown = None;
    }
    reduced.took = Default::default();
    reduced.closed = request.closed && (request.is_stream() || request.over_tls.is_some());
    reduced.attempts = request.to.as_ref().map(|_| 1);
    if forwarded || is_grpc(request) {
        reduced.status = None;
        reduced.answer = None;
    }
    if request.method() == "HEAD" {
        reduced.answer = None;
    }
    // Its pods are told, but not that nobody listens there.
    if matches!(&request.answer, Some(Value::Object(_))) {
        reduced.answer = None;
    }
    reduced
}

fn is_grpc(request: &Request) -> bool {
    let kind = request
        .headers
        .get("content-type")
        .and_then(|kind| kind.0.first());
    kind.is_some_and(|kind| kind.0.starts_with("application/grpc"))
}

/// One request, and who asks.
struct Asked<'a> {
    snapshot: &'a Snapshot,
    client: Client<'a>,
    request: &'a Request,
    destination: SocketAddr,
}

/// Chance as the proxy has it.
struct Chance;

impl Pick for Chance {
    fn pick(&mut self, below: u64) -> u64 {
        fastrand::u64(..below)
    }
}

impl Asked<'_> {
    fn outcome(&self) -> Result<Outcome> {
        let is_stream = self.request.is_stream();
        let scope = match &self.client {
            Client::Gateway(_) if self.server_name().is_some() => return self.secured(),
            Client::Gateway(_) if is_stream => {
                let server = None;
                return self.stream(&StreamScope::Gateway {
                    port: self.request.port(),
                    server,
                });
            }
            Client::Gateway(_) => HttpScope::Gateway {
                port: self.request.port(),
                server: None,
            },
            Client::Pod(_) => {
                let is_stream = is_stream || self.request.over_tls.is_some();
                match route::outbound(self.snapshot, &self.client, self.destination) {
                    Outbound::Http(_) if is_stream => return self.stream(&StreamScope::Unknown),
                    Outbound::Http(scope) => scope,
                    Outbound::Detect { otherwise, .. } if is_stream => {
                        return self.stream(&otherwise);
                    }
                    Outbound::Detect { scope, .. } => scope,
                    Outbound::Stream(scope) => return self.stream(&scope),
                }
            }
        };
        self.decided(&scope)
    }

    fn stream(&self, scope: &StreamScope) -> Result<Outcome> {
        let server_name = self.server_name();
        let flow = Flow {
            destination: self.destination,
            server_name: server_name.as_deref().filter(|name| !name.is_empty()),
        };
        let decision = route::stream(self.snapshot, &self.client, scope, &flow, &mut Chance);
        Ok(match decision {
            StreamDecision::Forward(cluster) => match self.pick(&cluster) {
                Some(address) => self.spoken(address),
                None => nothing("no endpoint"),
            },
            StreamDecision::Passthrough => self.spoken(self.destination),
            StreamDecision::Refuse => nothing("refused"),
        })
    }

    /// What a pod says to what is relayed to it as it is.
    fn spoken(&self, to: SocketAddr) -> Outcome {
        if !self.request.is_stream() {
            let (path, query) = (self.request.path(), None);
            return self.passed(to, None, None, query, path);
        }
        Outcome {
            answer: Ok(Answer {
                body: format!("it {}\n", self.name_of(to)),
                ..Answer::default()
            }),
            seen: vec![self.came_to(to)],
        }
    }

    fn decided(&self, scope: &HttpScope) -> Result<Outcome> {
        let target = self.request.path();
        let target = target.split('#').next().unwrap_or(target);
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let mut headers = HeaderMap::new();
        for (name, values) in &self.request.headers {
            for value in &values.0 {
                headers.append(
                    name.parse::<HeaderName>()?,
                    HeaderValue::from_str(&value.0)?,
                );
            }
        }
        let claimed = headers
            .get("x-forwarded-proto")
            .and_then(|value| value.to_str().ok());
        let scheme = match (claimed, &self.client) {
            (Some("https"), Client::Pod(_)) => "https",
            (_, Client::Gateway(_)) if self.request.over_tls.is_some() => "https",
            _ => "http",
        };
        let request = route::Request {
            authority: self.request.host(),
            path,
            query,
            method: self.request.method(),
            scheme,
            headers: &headers,
            source: self
                .client
                .pod()
                .addresses
                .iter()
                .find(|own| own.is_ipv4() == self.destination.is_ipv4())
                .copied()
                .context("an address")?,
        };
        let decision = route::decide(self.snapshot, scope, &self.client, &request, &mut Chance);
        Ok(match decision {
            Decision::Routed(routed) => self.routed(&routed, path, query),
            Decision::Passthrough => self.passed(self.destination, None, None, query, path),
            Decision::Reply(Reply::NoRoute) => answered(404, "", None),
            Decision::Reply(Reply::Refused) => answered(502, "", None),
            Decision::Reply(Reply::Https(location)) => answered(301, "", Some(location)),
        })
    }

    fn routed(&self, routed: &Routed, path: &str, query: Option<&str>) -> Outcome {
        match routed.abort {
            Some(Abort::Http(status)) => {
                return answered(status.as_u16(), "fault filter abort", None);
            }
            Some(Abort::Grpc(_)) => return answered(200, "", None),
            None => {}
        }
        if let CorsVerdict::Preflight { .. } = routed.cors {
            return answered(200, "", None);
        }
        match (&routed.act, &routed.route.action) {
            (Act::Forward(forwarding), action) => {
                let Some(to) = self.pick(&forwarding.cluster) else {
                    return answered(503, "no healthy upstream", None);
                };
                let edited = match action {
                    RouteAction::Forward(forward) => edited_host(forward, forwarding.destination),
                    RouteAction::Redirect(_) | RouteAction::Respond(_) => None,
                };
                let host = forwarding
                    .authority
                    .as_deref()
                    .map(str::to_owned)
                    .or(edited);
                let mut outcome = self.passed(to, host, forwarding.path.clone(), query, path);
                for mirror in &forwarding.mirrors {
                    let copy = self.pick(mirror).map(|to| self.came_to(to));
                    outcome.seen.splice(0..0, copy);
                }
                outcome
            }
            (Act::Redirect(location), RouteAction::Redirect(redirect)) => {
                answered(redirect.status.as_u16(), "", Some(location.clone()))
            }
            (Act::Respond, RouteAction::Respond(direct)) => {
                let body = String::from_utf8_lossy(&direct.body);
                answered(direct.status.as_u16(), &body, None)
            }
            (Act::NoCluster(_), _) => answered(503, "", None),
            (Act::Redirect(_) | Act::Respond, _) => nothing("the act is not the route's"),
        }
    }

    /// The address of one of the endpoints; none where the pod's port is nobody's.
    fn pick(&self, cluster: &Cluster) -> Option<SocketAddr> {
        match (&cluster.discovery, &self.client) {
            (Discovery::Original, _) | (Discovery::Headless, Client::Pod(_)) => {
                return Some(self.destination);
            }
            _ => {}
        }
        let endpoint = fastrand::choice(&cluster.endpoints)?;
        (endpoint.address.port() != NOBODY).then_some(endpoint.address)
    }

    fn came_to(&self, to: SocketAddr) -> Seen {
        Seen {
            pod: self.name_of(to),
            family: Family::of(&to),
            ..sent()
        }
    }

    fn name_of(&self, address: SocketAddr) -> String {
        let pod = self.snapshot.pods_by_address.get(&address.ip());
        pod.map_or("outside".to_owned(), |pod| pod.id.name.to_string())
    }

    fn passed(
        &self,
        to: SocketAddr,
        host: Option<String>,
        rewritten: Option<String>,
        query: Option<&str>,
        path: &str,
    ) -> Outcome {
        let query = query.map_or(String::new(), |query| format!("?{query}"));
        let seen = Seen {
            path: rewritten.unwrap_or_else(|| path.to_owned()) + &query,
            host: host.unwrap_or_else(|| self.request.host().to_owned()),
            ..self.came_to(to)
        };
        let status = self.request.status.unwrap_or(200);
        Outcome {
            answer: Ok(Answer {
                status,
                ..Answer::default()
            }),
            seen: vec![seen],
        }
    }
}

fn edited_host(forward: &Forward, destination: usize) -> Option<String> {
    let edits = &forward.destinations.get(destination)?.request_headers;
    match edits.authority.as_ref()? {
        Template::Fixed(value) => value.to_str().ok().map(str::to_owned),
        Template::Pieces(_) => None,
    }
}

/// An answer that no server has given.
fn answered(status: u16, body: &str, location: Option<String>) -> Outcome {
    let location = location.map(|location| ("location".to_owned(), location));
    Outcome {
        answer: Ok(Answer {
            status,
            headers: location.into_iter().collect(),
            body: body.to_owned(),
            ..Answer::default()
        }),
        seen: Vec::new(),
    }
}

fn nothing(why: &str) -> Outcome {
    Outcome {
        answer: Err(why.to_owned()),
        seen: Vec::new(),
    }
}

fn sent() -> Seen {
    Seen {
        pod: String::new(),
        method: String::new(),
        path: String::new(),
        host: String::new(),
        headers: Vec::new(),
        body: String::new(),
        version: "decided",
        peer: 0,
        family: Family::default(),
        tls: Vec::new(),
    }
}
