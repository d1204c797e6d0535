//! Pods that begin, from the plugin's question to the agent's answer.

use super::*;
use crate::cni;
use crate::config::fixture::world_with;
use crate::config::{CompileOptions, Membership};

/// The world of a node `here` with one Pod.
fn world(labels: &str) -> Snapshot {
    let options = CompileOptions {
        membership: Membership::Asked {
            node: "here".into(),
            istio: false,
        },
        ..CompileOptions::default()
    };
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: shop, uid: u-1, labels: {{{labels}}}}}\nspec: {{nodeName: here}}\n"
    );
    world_with(&text, &options).0
}

const ASKS: &str = "mesh-agent.io/enrol: \"true\"";

fn question(verb: Verb, uid: &str) -> Question {
    Question {
        verb,
        namespace: "shop".to_owned(),
        name: "a".to_owned(),
        uid: uid.to_owned(),
        addresses: vec!["10.0.0.7".parse().expect("an address")],
    }
}

fn pod() -> PodId {
    PodId {
        namespace: "shop".into(),
        name: "a".into(),
    }
}

/// A pod that is asked for at `now`, and where the answer comes.
fn ask(newcomers: &mut Newcomers, uid: &str, now: Instant) -> oneshot::Receiver<Answer> {
    let (reply, answer) = oneshot::channel();
    let newcomer = Newcomer {
        question: question(Verb::Add, uid),
        netns: Some(NetNs::current().expect("a namespace")),
        reply,
    };
    newcomers.take(newcomer, now);
    answer
}

fn why(answer: Result<Answer, oneshot::error::TryRecvError>) -> String {
    match answer {
        Ok(Answer::Wait { why }) => why,
        other => format!("{other:?}"),
    }
}

#[test]
fn a_pod_of_the_mesh_begins_once_it_is_enrolled() {
    let (mut newcomers, now) = (Newcomers::default(), Instant::now());
    let mut answer = ask(&mut newcomers, "u-1", now);
    let netns = NetNs::current().expect("a namespace").id();
    let (shown, addresses) = newcomers.shown(&pod(), Some("u-1")).expect("it is shown");
    assert_eq!((shown.id(), addresses.len()), (netns, 1));
    assert!(newcomers.shown(&pod(), Some("u-2")).is_none());

    let world = world(ASKS);
    newcomers.answer(&world, now, |_, _| false, |_| None);
    assert!(answer.try_recv().is_err());
    newcomers.answer(&world, now, |_, id| id == netns, |_| None);
    assert_eq!(answer.try_recv(), Ok(Answer::Begin));
    // Until its first process runs, this is all that is known of its namespace.
    assert!(newcomers.shown(&pod(), Some("u-1")).is_some());
    newcomers.answer(&world, now + ANNOUNCED, |_, _| true, |_| None);
    assert!(newcomers.shown(&pod(), Some("u-1")).is_none());
}

#[test]
fn a_pod_outside_the_mesh_begins_at_once() {
    let (mut newcomers, now) = (Newcomers::default(), Instant::now());
    let mut answer = ask(&mut newcomers, "u-1", now);
    newcomers.answer(&world(""), now, |_, _| false, |_| None);
    assert_eq!(answer.try_recv(), Ok(Answer::Begin));
    assert!(newcomers.shown(&pod(), Some("u-1")).is_none());
}

#[test]
fn a_pod_that_cannot_be_enrolled_or_is_not_known_waits_with_a_reason() {
    let (mut newcomers, now) = (Newcomers::default(), Instant::now());
    let mut answer = ask(&mut newcomers, "u-1", now);
    newcomers.answer(&world(ASKS), now, |_, _| false, |_| Some("no".to_owned()));
    assert_eq!(why(answer.try_recv()), "no");

    let mut answer = ask(&mut newcomers, "u-1", now);
    newcomers.answer(&world(ASKS), now + WAITING, |_, _| false, |_| None);
    assert_eq!(why(answer.try_recv()), "it takes too long");

    // One of the same name is another pod.
    let mut answer = ask(&mut newcomers, "u-2", now);
    newcomers.answer(&world(ASKS), now, |_, _| true, |_| None);
    assert!(answer.try_recv().is_err());
    newcomers.answer(&world(ASKS), now + WAITING, |_, _| true, |_| None);
    assert_eq!(why(answer.try_recv()), "the API server has not told of it");
}

#[test]
fn a_pod_that_has_ended_is_forgotten() {
    let (mut newcomers, now) = (Newcomers::default(), Instant::now());
    let _answer = ask(&mut newcomers, "u-1", now);
    let end = |newcomers: &mut Newcomers, uid: &str| {
        let newcomer = Newcomer {
            question: question(Verb::Delete, uid),
            netns: None,
            reply: oneshot::channel().0,
        };
        newcomers.take(newcomer, now);
    };
    end(&mut newcomers, "u-0");
    assert!(newcomers.shown(&pod(), Some("u-1")).is_some());
    end(&mut newcomers, "u-1");
    assert!(newcomers.shown(&pod(), Some("u-1")).is_none());
}

#[tokio::test]
async fn the_plugin_and_the_agent_understand_each_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/cni.sock");
    let (door, mut inbox) = Door::open(&path).expect("a socket");
    let asking = path.clone();
    let plugin = tokio::task::spawn_blocking(move || {
        let netns = NetNs::current().expect("a namespace");
        cni::ask(&asking, &question(Verb::Add, "u-1"), Some(&netns))
    });
    let newcomer = inbox.recv().await.expect("a question");
    assert_eq!(newcomer.question, question(Verb::Add, "u-1"));
    let here = NetNs::current().expect("a namespace").id();
    assert_eq!(newcomer.netns.map(|netns| netns.id()), Some(here));
    let why = "later".to_owned();
    newcomer.reply.send(Answer::Wait { why }).expect("it waits");
    let answer = plugin.await.expect("no panic").expect("an answer");
    assert_eq!(
        answer,
        Answer::Wait {
            why: "later".to_owned()
        }
    );

    // The next agent takes over, and what the first one does at its end is of no matter.
    let (next, _inbox) = Door::open(&path).expect("a socket");
    assert!(!door.is_ours() && next.is_ours());
    drop(door);
    assert!(path.exists());
    drop(next);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_namespace_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cni.sock");
    let (_door, mut inbox) = Door::open(&path).expect("a socket");
    let asked = tokio::task::spawn_blocking(move || {
        let stream = UnixStream::connect(&path).expect("a socket");
        let file = fs::File::open("/dev/null").expect("a file");
        let text = serde_json::to_vec(&question(Verb::Add, "u-1")).expect("JSON");
        passing::send(&stream, &text, Some(&file)).expect("sent");
        let mut answer = String::new();
        io::Read::read_to_string(&mut &stream, &mut answer).expect("an end");
        answer
    });
    assert_eq!(asked.await.expect("no panic"), "");
    assert!(inbox.try_recv().is_err());
}
