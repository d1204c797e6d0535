//! `mesh-agent explain`: what would become of a request, and why, step by step.
//!
//! Every question is put to the functions of [`crate::route`] that the proxy asks, so what is told is what happens. Where
//! chance decides, all that it may say is told. Pure: the world and the request come in, an [`Explanation`] goes out.
//!
//! With `--output json` an [`Explanation`] is printed as it is. Its fields keep their names and meanings, and further ones
//! may come; sentences in it are for people and may change.

use std::net::SocketAddr;

use serde::Serialize;
use serde::ser::SerializeMap;

use crate::config::World;
use crate::explain::asked::Asked;
use crate::route::{Client, Flow, HttpScope, Request, StreamScope};

pub use crate::explain::asked::{Usage, Who, Wish};

mod asked;
mod client;
mod condition;
mod destination;
mod forward;
mod hosts;
mod listener;
mod streams;
mod text;

/// Everything that there is to say about one request.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// What was asked: `GET http://reviews:9080/x`.
    pub request: String,
    /// Who asked: `pod default/client`, or `a client of gateway istio-system/gw`.
    pub client: String,
    /// Where the connection was headed; `null` where nobody knows the address of the name.
    pub destination: Option<SocketAddr>,
    /// Which listener takes the connection, and why: sentences.
    pub listener: Vec<String>,
    /// The virtual hosts that have the Host, the most specific first.
    pub hosts: Vec<Host>,
    /// The rules of the one that was asked, in order.
    pub rules: Vec<Rule>,
    /// What the rule that took the request does with it, by Istio's names.
    pub route: Facts,
    /// Where the request may go.
    pub destinations: Vec<Destination>,
    /// What comes of it all: a line, or one per share of the requests.
    pub result: Vec<String>,
}

/// A virtual host, or a list of rules for connections.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The host that it was written for.
    pub name: String,
    /// The objects that its rules are from, as `VirtualService ns/name`; empty for a Service's own route.
    pub from: Vec<String>,
    /// Whether it was asked.
    pub verdict: Verdict,
    /// Why it was not asked.
    pub why: Option<String>,
}

/// A rule: one match block of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its name, or what it is where it has none.
    pub name: String,
    /// The object that it was written in; `null` for a Service's own route.
    pub object: Option<String>,
    /// Its field, such as `spec.http[0]`.
    pub field: Option<String>,
    /// File and line, `FILE:LINE`.
    pub place: Option<String>,
    /// Its conditions on requests; none take any.
    pub conditions: Vec<String>,
    /// Whether it took the request.
    pub verdict: Verdict,
    /// The first condition that failed.
    pub failed: Option<Failed>,
}

/// What came of looking at something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is the one.
    Taken,
    /// It is not.
    Failed,
    /// Another one was before it.
    NotReached,
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// By Istio's name, such as `headers x-user`.
    pub condition: String,
    /// What is asked for.
    pub expected: String,
    /// What there is.
    pub found: String,
}

/// Labelled sentences, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts(pub Vec<(&'static str, String)>);

/// A cluster that a request may go to.
#[derive(Debug, Serialize)]
pub struct Destination {
    /// Which part of the requests, in percent.
    pub percent: f64,
    /// Its name, as Istio has it.
    pub cluster: String,
    /// What stands in the way: no such cluster, or no endpoint; and what comes of that.
    pub problem: Option<String>,
    /// Who may take the request, the nearest first.
    pub endpoints: Vec<EndpointLine>,
    /// How they are found and talked to, by Istio's names.
    pub policy: Facts,
}

/// An endpoint.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct EndpointLine {
    /// Its address.
    pub address: SocketAddr,
    /// Its pod.
    pub pod: Option<String>,
    /// What is special about it.
    pub remarks: Vec<String>,
}

/// Says what becomes of a request. The error is what is wrong with the question.
pub fn explain(world: &World, wish: &Wish) -> Result<Explanation, Usage> {
    let asked = Asked::new(wish)?;
    let who = client::find(world, wish)?;
    let client = who.client();
    let mut explanation = Explanation {
        request: asked.shown(),
        client: who.shown(),
        destination: None,
        listener: Vec::new(),
        hosts: Vec::new(),
        rules: Vec::new(),
        route: Facts::default(),
        destinations: Vec::new(),
        result: Vec::new(),
    };
    let listener = listener::find(world, &client, &asked, wish.address);
    explanation.destination = listener.destination;
    explanation.listener = listener.why;
    let teller = Teller {
        world,
        client,
        asked: &asked,
    };
    match listener.leads {
        Leads::Requests(scope) => teller.requests(&scope, &mut explanation),
        Leads::Stream(scope, to) => teller.connection(&scope, to, &mut explanation),
        Leads::Nowhere(result) => explanation.result.push(result),
    }
    Ok(explanation)
}

/// Where a listener leads.
enum Leads {
    /// Requests are routed.
    Requests(HttpScope),
    /// The connection is, which was headed there.
    Stream(StreamScope, SocketAddr),
    /// It ends here.
    Nowhere(String),
}

/// What is asked, of which world, and by whom.
struct Teller<'a> {
    world: &'a World,
    client: Client<'a>,
    asked: &'a Asked,
}

impl<'a> Teller<'a> {
    fn request(&self, scope: &HttpScope) -> Request<'a> {
        let tls = matches!(
            scope,
            HttpScope::Gateway {
                server: Some(_),
                ..
            }
        );
        self.asked.request(&self.client, tls)
    }

    fn flow(&self, destination: SocketAddr) -> Flow<'a> {
        Flow {
            destination,
            server_name: self.asked.server_name(),
        }
    }
}

impl Facts {
    fn add(&mut self, label: &'static str, text: impl Into<String>) {
        self.0.push((label, text.into()));
    }

    fn add_some(&mut self, label: &'static str, text: Option<String>) {
        self.0.extend(text.map(|text| (label, text)));
    }
}

impl Serialize for Facts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (index, (label, _)) in self.0.iter().enumerate() {
            // A label that comes again has been told already, with all of its sentences.
            if self.0[..index].iter().any(|(before, _)| before == label) {
                continue;
            }
            let same = self.0.iter().filter(|(other, _)| other == label);
            let texts: Vec<&String> = same.map(|(_, text)| text).collect();
            map.serialize_entry(label, &texts)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
