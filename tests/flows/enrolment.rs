//! Pods that join and leave the mesh while connections are open.

use std::io::{self, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::{OUTSIDE_V4, Pod, PodOptions};
use socket2::{Domain, Protocol, Socket, Type};

use super::names::APP;
use super::scene::Scene;
use super::talk::{connect, converse, echoes, failure, greet, hear, introduction, note_addresses};
use super::{Facts, difference};
use crate::agent::eventually;
use crate::servers::Server;

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

/// Row 53: what the proxy carries when a pod is withdrawn goes on, but not beyond the time that the agent gives it; new
/// connections are direct.
pub fn open_at_withdrawal(scene: &Scene) -> Result<Facts> {
    let (old, left) = (Ways::open(scene)?, Ways::open(scene)?);
    let withdrawn = Instant::now();
    enrol(scene, false)?;
    let mut facts = Facts::default();
    Ways::open(scene)?.finish("new", &mut facts);
    old.finish("old", &mut facts);
    let patience = match scene.agent {
        Some(_) => DRAIN * 2,
        None => Duration::from_millis(200),
    };
    for (name, stream) in [("out", left.out), ("in", left.inbound)] {
        let state = match ended(stream, patience)? {
            true if withdrawn.elapsed() < DRAIN => "cut-too-early",
            true => "cut",
            false => "open",
        };
        facts.note(format!("{name}-left"), state);
    }
    Ok(facts)
}

/// How long the agent lets connections go on, if it is not told otherwise.
const DRAIN: Duration = Duration::from_secs(5);

/// Whether a connection that was greeted ends before long without anybody saying a word.
fn ended(mut stream: TcpStream, patience: Duration) -> io::Result<bool> {
    stream.set_read_timeout(Some(patience))?;
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            // The answer to the greeting.
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(true),
            Err(e) => return Err(e),
        }
    }
}

/// Row 54: 200 connections per second, out and in together, and in the middle of it the pods are enrolled. Each is either
/// direct from end to end or captured: the server saw the client's own address and port, or the agent counted it.
pub fn under_load(scene: &Scene) -> Result<Facts> {
    const WORKERS: usize = 4;
    const PAUSE: Duration = Duration::from_millis(20);
    let stop = AtomicBool::new(false);
    let tallies: [Tally; 2] = Default::default();
    let ends = [
        (&scene.client, SocketAddr::from(EXTERNAL)),
        (scene.world.outside(), SocketAddr::from((APP.0, 9001))),
    ];
    let work = |(from, target): (&Pod, SocketAddr), tally: &Tally| {
        from.run(|| {
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                tally.count(target);
                thread::sleep(PAUSE.saturating_sub(started.elapsed()));
            }
        })
    };
    thread::scope(|scope| -> Result<()> {
        for worker in 0..WORKERS {
            let (way, tally) = (ends[worker % 2], &tallies[worker % 2]);
            let work = &work;
            scope.spawn(move || work(way, tally));
        }
        thread::sleep(Duration::from_secs(1));
        let enrolled = enrol(scene, true);
        thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        enrolled
    })?;
    let accepted = scene.accepted()?;
    let mut facts = Facts::default();
    let mut total = 0;
    for (name, tally, accepted) in [
        ("out", &tallies[0], accepted.outbound),
        ("in", &tallies[1], accepted.inbound),
    ] {
        let [direct, captured, failed] =
            [&tally.direct, &tally.captured, &tally.failed].map(|n| n.load(Ordering::Relaxed));
        total += direct + captured + failed;
        facts.note(format!("{name}-failed"), failed);
        facts.note(
            format!("{name}-direct"),
            if direct > 0 { "some" } else { "none" },
        );
        let captured = match (captured, captured == accepted) {
            (0, true) => "none".to_owned(),
            (_, true) => "some".to_owned(),
            (_, false) => format!("{captured},of-which-the-agent-counted-{accepted}"),
        };
        facts.note(format!("{name}-captured"), captured);
    }
    // 600 were asked for; a busy machine may do fewer, but not a few.
    facts.note("enough", total >= 200);
    Ok(facts)
}

/// How connections to one destination went.
#[derive(Debug, Default)]
struct Tally {
    direct: AtomicU64,
    captured: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    /// Makes one, from the namespace of the calling thread, and counts it.
    fn count(&self, target: SocketAddr) {
        let counter = match self::direct(target) {
            Ok(true) => &self.direct,
            Ok(false) => &self.captured,
            Err(e) => {
                eprintln!("a connection to {target} failed: {e}");
                &self.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes a connection on which everything works; says whether the server saw this very socket at its other end.
fn direct(target: SocketAddr) -> io::Result<bool> {
    let mut stream = connect(target, |_| Ok(()))?;
    let own = stream.local_addr()?;
    greet(&mut stream)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let said = introduction(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let intact = said.local == target && echoes(&mut stream, &mut reader)?;
    stream.shutdown(Shutdown::Write)?;
    if !intact || reader.read(&mut [0])? > 0 {
        return Err(io::Error::other(format!(
            "not what was sent, or by {}",
            said.local
        )));
    }
    Ok(said.peer == own)
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

/// Row 64: a namespace with the same name and addresses, and nothing else in common, takes the place of one that was in
/// use, out and in.
pub fn recreated(scene: &Scene) -> Result<Facts> {
    let options = PodOptions {
        ipv4: Some(scene.client.ipv4),
        ipv6: Some(scene.client.ipv6),
        ..PodOptions::default()
    };
    let outside = scene.world.outside();
    let inward = SocketAddr::new(scene.client.ipv4.into(), 9000);
    let mut facts = Facts::default();
    let old = [
        attempt(&scene.client, EXTERNAL.into()),
        attempt(outside, inward),
    ];
    let worked = old.iter().all(|facts| facts.get("end") == "fin");
    facts.note("before", if worked { "ok" } else { "broken" });

    let removed = Instant::now();
    scene.manifests.remove_pod(&scene.client_object)?;
    scene.world.remove(&scene.client)?;
    let client = scene.world.pod("client", options)?;
    let _server = Server::echo(&client, "second-client", 9000)?;
    scene
        .manifests
        .pod(&scene.client_object.clone().uid("the-second"))?;
    // As the row has it; the machine may be too slow for that, which is not the agent's fault.
    let took = removed.elapsed();
    if took > Duration::from_secs(1) {
        eprintln!("the pod was away for {took:?}");
    }
    for (way, from, target) in [
        ("out", &client, SocketAddr::from(EXTERNAL)),
        ("in", outside, inward),
    ] {
        let seen = first_captured(scene, from, target)?;
        for (key, value) in seen.0 {
            facts.note(format!("{way}-{key}"), value);
        }
    }
    Ok(facts)
}

/// Connects until the agent counts a connection. A CNI plugin would wait for the enrolment; until then connections are
/// direct, and must work too. Without an agent, the first is as good as any.
fn first_captured(scene: &Scene, from: &Pod, target: SocketAddr) -> Result<Facts> {
    let count = || scene.accepted().map_or(0, |n| n.outbound + n.inbound);
    let mut facts = Facts::default();
    let captured = eventually(Duration::from_secs(5), || {
        let before = count();
        facts = attempt(from, target);
        // The old pod takes its count along.
        let captured = difference(count(), before);
        facts.note("captured", captured);
        facts.get("end") != "fin" || captured > 0 || scene.agent.is_none()
    });
    captured.with_context(|| format!("not captured, but: {facts}"))?;
    Ok(facts)
}

/// One connection.
fn attempt(from: &Pod, target: SocketAddr) -> Facts {
    let mut facts = Facts::default();
    match from.run(|| connect(target, |_| Ok(()))) {
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
pub fn enrol(scene: &Scene, wanted: bool) -> Result<()> {
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
