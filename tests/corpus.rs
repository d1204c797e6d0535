//! The corpus: what Istio's configuration means, as cases in `corpus/*.yaml`. Each says a configuration, requests, and
//! what must come of them; the same files are played
//!
//! - through the pure decision, where nothing but the objects counts (`decide`);
//! - through a real agent and gateway, in each mode (`ebpf`, `iptables-nft`);
//! - beside a real Envoy with the configuration that istiod would have made (`envoy`), so that a wrong expectation shows.
//!
//! A file is a list of `cases`; `case.rs` and `request.rs` have every field, `scenery.rs` the world that all share, and
//! `check.rs` how expectations compare. A case in short:
//!
//! ```yaml
//! cases:
//!   - name: a prefix is text, not segments
//!     row: 1.2 uri.prefix                  # of the reference
//!     http:                                # a VirtualService for `a`, in the mesh and at the gateway
//!       - match: [{uri: {prefix: /v1}}]
//!         route: [{destination: {host: b}}]
//!       - route: [{destination: {host: c}}]
//!     requests:
//!       - {get: /v1foo, to: b}             # a 200, from a pod of `b`
//!       - {get: /v2, to: c}
//! ```
//!
//! A file's `families: [ipv4, ipv6]`, or a case's `family: ipv6`, has it played over that; servers must then have been reached
//! over it too, where `upstream: {family: ...}` says no other.
//!
//! One file of one level is one test, such as `corpus::envoy::match-uri`.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

use self::case::Topic;
use self::stage::{Kind, Stage};
use crate::agent::Mode;
use crate::{Run, Test};

mod ask;
mod backend;
pub mod case;
mod check;
mod decide;
mod doubts;
mod envoy;
mod keys;
mod request;
mod scenery;
mod stage;
mod value;

/// A test for each file and level; one that fails where the files cannot be read.
pub fn tests() -> Vec<Test> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let topics = match case::load(&folder) {
        Ok(topics) => Arc::new(topics),
        Err(e) => {
            let message = format!("{e:#}");
            return vec![Test {
                name: "corpus::files".to_owned(),
                lacking: None,
                needs_root: false,
                run: Run::boxed(move || bail!("{message}")),
            }];
        }
    };
    let levels = [
        ("envoy", Kind::Envoy, envoy::binary().err()),
        ("ebpf", Kind::Agent(Mode::Ebpf), Mode::Ebpf.lacking()),
        (
            "iptables-nft",
            Kind::Agent(Mode::IptablesNft),
            Mode::IptablesNft.lacking(),
        ),
    ];
    let mut tests = vec![Test {
        name: "corpus::finds_what_is_wrong".to_owned(),
        lacking: None,
        needs_root: false,
        run: Run::boxed(doubts::all),
    }];
    for index in 0..topics.len() {
        let topics = Arc::clone(&topics);
        tests.push(Test {
            name: format!("corpus::decide::{}", topics[index].name),
            lacking: None,
            needs_root: false,
            run: Run::boxed(move || verdict(&decide::play(&topics[index]).0)),
        });
    }
    for (level, kind, lacking) in levels {
        let theater = Arc::new(Theater::new(kind, Arc::clone(&topics)));
        for index in 0..topics.len() {
            let theater = Arc::clone(&theater);
            tests.push(Test {
                name: format!("corpus::{level}::{}", topics[index].name),
                lacking: lacking.clone(),
                needs_root: true,
                run: Run::boxed(move || theater.play(index)),
            });
        }
    }
    tests
}

/// A stage on a thread of its own, which all tests of a level share: building it takes longer than playing a file.
struct Theater {
    kind: Kind,
    topics: Arc<Vec<Topic>>,
    open: Mutex<Option<Sender<Order>>>,
}

/// A topic to play, and where to tell what went wrong.
struct Order {
    topic: usize,
    tell: Sender<Result<Vec<String>>>,
}

impl Theater {
    fn new(kind: Kind, topics: Arc<Vec<Topic>>) -> Self {
        Self {
            kind,
            topics,
            open: Mutex::new(None),
        }
    }

    fn play(&self, topic: usize) -> Result<()> {
        let (tell, told) = channel();
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            let orders = open.get_or_insert_with(|| self.raise());
            let order = Order { topic, tell };
            if orders.send(order).is_err() {
                *open = None;
                bail!("the stage is gone");
            }
        }
        verdict(&told.recv().context("the stage broke down")??)
    }

    fn raise(&self) -> Sender<Order> {
        let (orders, inbox) = channel();
        let (kind, topics) = (self.kind, Arc::clone(&self.topics));
        thread::spawn(move || perform(kind, &topics, &inbox));
        orders
    }
}

fn verdict(wrong: &[String]) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{} differences:\n{}", wrong.len(), wrong.join("\n"))
}

fn perform(kind: Kind, topics: &[Topic], inbox: &Receiver<Order>) {
    let built = mesh_tests::isolate().and_then(|()| Stage::build(kind, topics));
    let (mut stage, failure) = match built {
        Ok(stage) => (Some(stage), String::new()),
        Err(e) => (None, format!("{:#}", crate::with_logs(&e))),
    };
    while let Ok(order) = inbox.recv() {
        let played = match &mut stage {
            Some(stage) => Ok(stage.play(&topics[order.topic]).0),
            None => Err(anyhow::Error::msg(failure.clone())),
        };
        // Whoever asked may have given up.
        let _ = order.tell.send(played);
    }
}
