//! The world of the corpus with an agent, or an Envoy, in it; and how a case is played there.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::{Pod, PodOptions, World, WorldOptions};

use super::ask::{Answer, Way};
use super::backend::{Backend, Book, settled};
use super::case::{Case, Family, From, Topic};
use super::check::{Outcome, differences, many};
use super::envoy::Envoy;
use super::keys::keys;
use super::request::Request;
use super::scenery::{Backdrop, GATEWAY_NAMESPACE, GATEWAY_POD, PODS, SERVICES, objects, target};
use crate::agent::{Agent, Mode, eventually};
use crate::manifests::Manifests;

/// What stands between those who ask and the servers.
pub trait Front {
    /// Makes the case's objects hold.
    fn apply(&mut self, topic: &Topic, case: &Case) -> Result<()>;
    /// Connects as `from` does.
    fn dial(&self, topic: &Topic, case: &Case, request: &Request, from: From) -> Result<TcpStream>;
    /// How often each of Envoy's abbreviations was counted so far.
    fn flags(&self) -> Result<HashMap<String, u64>>;
    /// Whether the request counted as `wanted`.
    fn flag_of(&self, id: u64, before: &HashMap<String, u64>, wanted: &str) -> Result<(), String>;
    /// Whether it cannot be asked this.
    fn skips(&self, topic: &Topic, case: &Case, request: &Request) -> bool;
}

/// Dropped from the top: what is in the middle first, the world last.
pub struct Stage {
    front: Box<dyn Front>,
    book: Book,
    _backends: Vec<Backend>,
    _world: std::rc::Rc<World>,
}

/// Which stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Envoy,
    Agent(Mode),
}

impl Stage {
    /// Everything up and ready.
    pub fn build(kind: Kind, topics: &[Topic]) -> Result<Self> {
        let world = std::rc::Rc::new(World::new(WorldOptions::default())?);
        keys().write()?;
        let book = Book::default();
        let (mut pods, mut backends) = (HashMap::new(), Vec::new());
        for backdrop in PODS {
            let options = PodOptions {
                ipv4: Some(backdrop.ipv4()),
                ipv6: Some(backdrop.ipv6()),
                ..PodOptions::default()
            };
            let pod = world.pod(backdrop.name, options)?;
            let asks = matches!(backdrop.name, "client" | "guest" | GATEWAY_POD);
            if !asks {
                let more: &[u16] = if backdrop.name == "h" { &[80] } else { &[] };
                backends.push(Backend::start(&pod, more, &book)?);
            }
            pods.insert(backdrop.name, pod);
        }
        for service in SERVICES {
            if let Some(ip) = service.ip(Family::Ipv4) {
                world.host(&service.fqdn(), ip)?;
            }
        }
        backends.push(Backend::start(world.outside(), &[80], &book)?);
        let front: Box<dyn Front> = match kind {
            Kind::Envoy => Box::new(Envoy::start(&world, topics)?),
            Kind::Agent(mode) => Box::new(Meshed::start(&world, pods, mode)?),
        };
        Ok(Self {
            front,
            book,
            _backends: backends,
            _world: world,
        })
    }

    /// Plays all cases of a topic. What went wrong, and how many requests were sent.
    pub fn play(&mut self, topic: &Topic) -> (Vec<String>, usize) {
        let mut wrong = Vec::new();
        let mut count = 0;
        for case in &topic.cases {
            let requests: Vec<&Request> = case
                .requests
                .iter()
                .filter(|request| !self.front.skips(topic, case, request))
                .collect();
            if requests.is_empty() {
                continue;
            }
            if let Err(e) = self.front.apply(topic, case) {
                wrong.push(format!("{}: {e:#}", case.title()));
                continue;
            }
            for request in requests {
                for from in request.from.iter().flat_map(|from| &from.0) {
                    count += 1;
                    let found = self
                        .ask(topic, case, request, *from)
                        .unwrap_or_else(|e| vec![format!("{e:#}")]);
                    for difference in found {
                        wrong.push(format!(
                            "{}: {from:?} {}: {difference}",
                            case.title(),
                            request.title()
                        ));
                    }
                }
            }
        }
        (wrong, count)
    }

    fn ask(
        &self,
        topic: &Topic,
        case: &Case,
        request: &Request,
        from: From,
    ) -> Result<Vec<String>> {
        if let Some(pause) = request.pause {
            std::thread::sleep(pause);
        }
        let before = match &request.flag {
            Some(_) => self.front.flags()?,
            None => HashMap::new(),
        };
        let dial = || self.front.dial(topic, case, request, from);
        let times = request.times.unwrap_or(1);
        if request.at_once {
            let ways = (0..times)
                .map(|_| {
                    Ok((
                        Way::new(dial()?, request)?,
                        self.book.open(&request.server.0),
                    ))
                })
                .collect::<Result<Vec<_>>>()?;
            let outcomes = std::thread::scope(|scope| {
                let asked: Vec<_> = ways
                    .into_iter()
                    .map(|(mut way, id)| scope.spawn(move || (id, way.ask(request, id))))
                    .collect();
                let joined = asked.into_iter().filter_map(|thread| thread.join().ok());
                joined
                    .map(|(id, answer)| self.outcome(request, id, answer))
                    .collect::<Vec<_>>()
            });
            return Ok(many(request, &outcomes));
        }
        if times == 1 {
            let id = self.book.open(&request.server.0);
            let answer = match dial() {
                Ok(stream) => Way::new(stream, request).and_then(|mut way| way.ask(request, id)),
                // The proxy has taken it, and ended it before anybody could look.
                Err(e) if is_reset(&e) => Err(e),
                Err(e) => return Err(e),
            };
            let outcome = self.outcome(request, id, answer);
            let mut wrong = differences(request, &outcome);
            if let Some(flag) = &request.flag {
                wrong.extend(self.front.flag_of(id, &before, flag).err());
            }
            return Ok(wrong);
        }
        let mut way = None;
        let (mut outcomes, mut wrong) = (Vec::new(), Vec::new());
        for _ in 0..times {
            let id = self.book.open(&request.server.0);
            let mut kept = match way.take() {
                Some(way) => way,
                None => Way::new(dial()?, request)?,
            };
            let answer = kept.ask(request, id);
            let ended = answer.as_ref().map_or(true, |answer| answer.says_close());
            if !ended && !request.is_stream() {
                way = Some(kept);
            }
            let outcome = self.outcome(request, id, answer);
            if let Err(e) = &outcome.answer {
                // Each may have taken its whole patience.
                wrong.push(format!("no answer: {e}"));
                return Ok(wrong);
            }
            if request.to.is_some() {
                wrong.extend(differences(request, &outcome));
            }
            outcomes.push(outcome);
        }
        wrong.truncate(3);
        wrong.extend(many(request, &outcomes));
        Ok(wrong)
    }

    fn outcome(&self, request: &Request, id: u64, answer: Result<Answer>) -> Outcome {
        let tries = request
            .attempts
            .unwrap_or(usize::from(request.to.is_some()));
        let copies: usize = request.mirrored.values().sum();
        let mut seen = if request.times.unwrap_or(1) > 1 {
            self.book.seen(id)
        } else {
            if request.mirrored.values().any(|count| *count == 0) {
                // Long enough for a copy that should not be.
                std::thread::sleep(Duration::from_millis(100));
            }
            settled(&self.book, id, |seen| {
                seen.len() >= tries + copies || request.is_stream()
            })
        };
        if let Ok(answer) = &answer
            && request.is_stream()
        {
            seen.extend(answer.pod());
        }
        Outcome {
            answer: answer.map_err(|e| format!("{e:#}")),
            seen,
        }
    }
}

fn is_reset(e: &anyhow::Error) -> bool {
    let cause = e.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionReset)
}

/// The world as manifests.
fn standing(family: Family, pods: &HashMap<&'static str, Pod>) -> String {
    let netns = |backdrop: &Backdrop| {
        let pod = pods.get(backdrop.name).filter(|_| backdrop.enrol)?;
        Some(pod.netns().display().to_string())
    };
    let objects = objects(family, netns);
    let written: Vec<String> = objects.iter().map(ToString::to_string).collect();
    written.join("\n---\n")
}

/// An agent on the node and a gateway.
struct Meshed {
    agent: Agent,
    gateway: Agent,
    manifests: Manifests,
    /// Whose the Services are that were told of last.
    family: Family,
    applied: String,
    pods: HashMap<&'static str, Pod>,
    outside: Pod,
}

impl Meshed {
    fn start(world: &World, pods: HashMap<&'static str, Pod>, mode: Mode) -> Result<Self> {
        let manifests = Manifests::new()?;
        manifests.write("world.yaml", &standing(Family::Ipv4, &pods))?;
        let agent = Agent::start_fast(world, manifests.path(), mode)?;
        for pod in PODS.iter().filter(|pod| pod.enrol) {
            agent.wait_enrolled(&format!("{}/{}", pod.namespace, pod.name), true)?;
        }
        let gateway_pod = pods.get(GATEWAY_POD).context("the gateway's pod")?;
        let name = format!("{GATEWAY_NAMESPACE}/{GATEWAY_POD}");
        let gateway = Agent::gateway(world, manifests.path(), gateway_pod, &name)?;
        Ok(Self {
            agent,
            gateway,
            manifests,
            family: Family::Ipv4,
            applied: String::new(),
            pods,
            outside: world.outside().clone(),
        })
    }

    /// Writes a file, and waits until agent and gateway have it.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let before = self.generations()?;
        self.manifests.write(name, text)?;
        let moved = || {
            self.generations()
                .is_ok_and(|now| now.iter().zip(before).all(|(now, before)| *now > before))
        };
        eventually(Duration::from_secs(5), moved)
            .with_context(|| format!("{name} never became live"))
    }

    fn generations(&self) -> Result<[u64; 2]> {
        let of = |agent: &Agent| {
            let status = agent.status()?;
            status["generation"].as_u64().context("a generation")
        };
        Ok([of(&self.agent)?, of(&self.gateway)?])
    }
}

impl Front for Meshed {
    fn apply(&mut self, _topic: &Topic, case: &Case) -> Result<()> {
        let manifests: Vec<String> = case.manifests().iter().map(ToString::to_string).collect();
        let text = manifests.join("\n---\n");
        if case.family() != self.family {
            self.write("world.yaml", &standing(case.family(), &self.pods))?;
            self.family = case.family();
        }
        if text != self.applied {
            self.write("case.yaml", &text)?;
            self.applied = text;
        }
        Ok(())
    }

    fn dial(
        &self,
        _topic: &Topic,
        _case: &Case,
        request: &Request,
        from: From,
    ) -> Result<TcpStream> {
        let pod = |name: &str| self.pods.get(name).context("a pod of the world");
        let (place, ip, port) = match from {
            From::Gateway => {
                let ports = SERVICES.iter().find(|service| service.name == "ingress");
                let ports = ports.map_or(&[][..], |service| service.ports);
                let port = ports.iter().find(|(_, port, _)| *port == request.port());
                let target = port.map_or(request.port(), |(_, _, target)| *target);
                let own = pod(GATEWAY_POD)?;
                let ip = match request.family {
                    Family::Ipv4 => own.ipv4.into(),
                    Family::Ipv6 => own.ipv6.into(),
                };
                (&self.outside, ip, target)
            }
            From::Client => (pod("client")?, target(request, from), request.port()),
            From::Guest => (pod("guest")?, target(request, from), request.port()),
        };
        let address = SocketAddr::new(ip, port);
        place
            .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(3)))?
            .with_context(|| format!("connecting to {address}"))
    }

    fn flags(&self) -> Result<HashMap<String, u64>> {
        let mut sum = HashMap::new();
        for agent in [&self.agent, &self.gateway] {
            let stats: serde_json::Value = serde_json::from_slice(&agent.get("/stats")?.body)?;
            for (flag, count) in stats["flags"].as_object().into_iter().flatten() {
                *sum.entry(flag.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        Ok(sum)
    }

    fn flag_of(&self, _id: u64, before: &HashMap<String, u64>, wanted: &str) -> Result<(), String> {
        let count =
            |flags: &HashMap<String, u64>, flag: &str| flags.get(flag).copied().unwrap_or(0);
        let counted = || {
            self.flags().is_ok_and(|now| {
                wanted
                    .split(',')
                    .all(|flag| count(&now, flag) == count(before, flag) + 1)
            })
        };
        eventually(Duration::from_secs(1), counted).map_err(|_| {
            let mut now = self.flags().unwrap_or_default();
            now.retain(|flag, after| count(before, flag) != *after);
            let now: Vec<&String> = now.keys().collect();
            format!("counted as {now:?}, not {wanted}")
        })
    }

    fn skips(&self, _topic: &Topic, _case: &Case, _request: &Request) -> bool {
        false
    }
}
