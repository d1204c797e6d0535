//! Pods that join and leave the mesh while connections are open.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::{OUTSIDE_V4, Pod, PodOptions};
use socket2::{Domain, Protocol, Socket, Type};

use super::names::APP;
use super::scene::Scene;
use super::talk::{connect, converse, failure, greet, hear, note_addresses};
use super::{Facts, difference};
use crate::agent::eventually;

const EXTERNAL: ([u8; 4], u16) = (OUTSIDE_V4.octets(), 80);

/// Row 52: what is open when a pod is enrolled stays as it is, and stays outside the mesh.
pub fn open_before(scene: &Scene) -> Result<Facts> {
    let old = Ways::open(scene)?;
    enrol(scene, true)?;
    let mut facts = Facts::default();
    old.finish("old", &mut facts);
    Ways::open(scene)?.finish("new", &mut facts);
    Ok(facts)
}

/// Row 53: what the proxy carries when a pod is withdrawn goes on; new connections are direct.
pub fn open_at_withdrawal(scene: &Scene) -> Result<Facts> {
    let old = Ways::open(scene)?;
    enrol(scene, false)?;
    let mut facts = Facts::default();
    Ways::open(scene)?.finish("new", &mut facts);
    old.finish("old", &mut facts);
    Ok(facts)
}

/// Row 54: 200 connections per second, out and in together, and in the middle of it the pods are enrolled.
pub fn under_load(scene: &Scene) -> Result<Facts> {
    const WORKERS: u64 = 4;
    const PAUSE: Duration = Duration::from_millis(20);
    let stop = AtomicBool::new(false);
    let (total, failed, wrong) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let work = |from: &Pod, target: SocketAddr| {
        from.run(|| {
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                total.fetch_add(1, Ordering::Relaxed);
                let mut facts = Facts::default();
                match connect(target, |_| Ok(())) {
                    Ok(stream) => converse(stream, &mut facts),
                    Err(e) => facts.note("connect", failure(&e)),
                }
                if facts.get("echo") != "intact" || facts.get("end") != "fin" {
                    failed.fetch_add(1, Ordering::Relaxed);
                    eprintln!("a connection to {target} failed: {facts}");
                } else if facts.get("local") != super::names::name_port(target) {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(PAUSE.saturating_sub(started.elapsed()));
            }
        })
    };
    let result = thread::scope(|scope| -> Result<()> {
        for worker in 0..WORKERS {
            let (from, target) = if worker % 2 == 0 {
                (&scene.client, SocketAddr::from(EXTERNAL))
            } else {
                (scene.world.outside(), SocketAddr::from((APP.0, 9001)))
            };
            let work = &work;
            scope.spawn(move || work(from, target));
        }
        thread::sleep(Duration::from_secs(1));
        let enrolled = enrol(scene, true);
        thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        enrolled
    });
    result?;
    let mut facts = Facts::default();
    facts.note("failed", failed.into_inner());
    facts.note("wrong", wrong.into_inner());
    // 600 were asked for; a busy machine may do fewer, but not a few.
    facts.note("enough", total.into_inner() >= 200);
    let accepted = scene.accepted()?;
    let captured = match (accepted.outbound, accepted.inbound) {
        (0, 0) => "none",
        (0, _) => "inbound alone",
        (_, 0) => "outbound alone",
        _ => "some",
    };
    facts.note("captured", captured);
    Ok(facts)
}

/// Row 58.
pub fn made_before(scene: &Scene) -> Result<Facts> {
    let socket = scene
        .client
        .run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))??;
    enrol(scene, true)?;
    let target = SocketAddr::from(EXTERNAL);
    scene
        .client
        .run(|| socket.connect_timeout(&target.into(), Duration::from_secs(3)))??;
    let mut facts = Facts::default();
    facts.note("connect", "ok");
    let stream = TcpStream::from(socket);
    note_addresses(&stream, &mut facts)?;
    converse(stream, &mut facts);
    Ok(facts)
}

/// Row 64: a namespace with the same name and addresses, and nothing else in common.
pub fn recreated(scene: &Scene) -> Result<Facts> {
    let options = PodOptions {
        ipv4: Some(scene.client.ipv4),
        ipv6: Some(scene.client.ipv6),
        ..PodOptions::default()
    };
    scene.manifests.remove_pod(&scene.client_object)?;
    scene.world.remove(&scene.client)?;
    let client = scene.world.pod("client", options)?;
    scene
        .manifests
        .pod(&scene.client_object.clone().uid("the-second"))?;
    let mut facts = Facts::default();
    // A CNI plugin would wait for the enrolment. Until then connections are direct, and must work too.
    let captured = eventually(Duration::from_secs(5), || {
        let before = scene.accepted().map_or(0, |n| n.outbound);
        facts = attempt(&client);
        let after = scene.accepted().map_or(0, |n| n.outbound);
        // The old pod takes its count along, which was 0.
        let count = difference(after, before);
        facts.note("out", count);
        facts.get("end") != "fin" || count > 0 || scene.agent.is_none()
    });
    captured.with_context(|| format!("not captured, but: {facts}"))?;
    Ok(facts)
}

/// One connection out of the pod.
fn attempt(client: &Pod) -> Facts {
    let mut facts = Facts::default();
    let target = SocketAddr::from(EXTERNAL);
    match client.run(|| connect(target, |_| Ok(()))) {
        Ok(Ok(stream)) => {
            facts.note("connect", "ok");
            if let Err(e) = note_addresses(&stream, &mut facts) {
                facts.note("error", e);
            }
            converse(stream, &mut facts);
        }
        Ok(Err(e)) => facts.note("connect", failure(&e)),
        Err(e) => facts.note("error", e),
    }
    facts
}

/// Writes the wish into both Pods' manifests and waits until the agent has followed. Nothing without an agent.
fn enrol(scene: &Scene, wanted: bool) -> Result<()> {
    for object in [&scene.client_object, &scene.app_object] {
        scene.manifests.pod(&object.clone().enrol(wanted))?;
    }
    if let Some(agent) = &scene.agent {
        agent.wait_enrolled("default/client", wanted)?;
        agent.wait_enrolled("default/app", wanted)?;
    }
    Ok(())
}

/// A connection out of the client pod and one into the app pod, both greeted and answered.
struct Ways {
    out: TcpStream,
    inbound: TcpStream,
}

impl Ways {
    fn open(scene: &Scene) -> Result<Self> {
        Ok(Self {
            out: greeted(&scene.client, SocketAddr::from(EXTERNAL))?,
            inbound: greeted(scene.world.outside(), SocketAddr::from((APP.0, 9001)))?,
        })
    }

    fn finish(self, age: &str, facts: &mut Facts) {
        for (name, stream) in [("out", self.out), ("in", self.inbound)] {
            let mut seen = Facts::default();
            hear(stream, &mut seen);
            let state = match (seen.get("echo"), seen.get("end")) {
                ("intact", "fin") => "intact".to_owned(),
                _ => format!("[{seen}]"),
            };
            facts.note(format!("{name}-{age}"), state);
        }
    }
}

/// An open connection on which one exchange has worked. The answer to the greeting is still to be read.
fn greeted(from: &Pod, target: SocketAddr) -> Result<TcpStream> {
    let mut stream = from
        .run(|| connect(target, |_| Ok(())))?
        .with_context(|| format!("connecting to {target}"))?;
    greet(&mut stream)?;
    stream.peek(&mut [0]).context("waiting for the greeting")?;
    Ok(stream)
}
