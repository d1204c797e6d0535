//! Row 49: more connections to one destination than a pod has ports.

use std::fs;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use mesh_tests::{OUTSIDE_V4, OUTSIDE_V6};

use super::Facts;
use super::scene::Scene;
use super::talk::{connect, failure, read_introduction};

/// 2,000 at once, then 50,000 one after the other, each closed by the client, whose port is then in TIME_WAIT.
pub fn at_once_and_in_sequence(scene: &Scene) -> Result<Facts> {
    const PARALLEL: usize = 2000;
    let mut facts = Facts::default();
    let target = SocketAddr::from((OUTSIDE_V4, 80));
    let mut open = Vec::with_capacity(PARALLEL);
    for _ in 0..PARALLEL {
        match scene.client.run(|| connect(target, |_| Ok(())))? {
            Ok(stream) => open.push(stream),
            Err(e) => {
                facts.note("error", failure(&e));
                break;
            }
        }
    }
    let answered = open.iter_mut().map(answered);
    facts.note("parallel", answered.filter(|answered| *answered).count());
    drop(open);
    let run = Sequence::of(scene, target, 50_000)?;
    if scene.agent.is_none() {
        // Without a mesh each port serves once, unless the machine is so slow that the first are free again by then.
        let ports = scene.client.run(ephemeral_ports)??;
        let ran_out =
            run.failed.as_deref() == Some("EADDRNOTAVAIL") && run.worked + PARALLEL >= ports;
        let slow = run.failed.is_none() && run.took >= TIME_WAIT;
        ensure!(
            ran_out || slow,
            "{run:?}; {PARALLEL} of {ports} ports were taken"
        );
    }
    run.note(&mut facts);
    Ok(facts)
}

/// Over IPv6, with as many connections as are too many if each takes two ports.
pub fn in_sequence6(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let target = SocketAddr::from((OUTSIDE_V6, 80));
    Sequence::of(scene, target, 15_000)?.note(&mut facts);
    Ok(facts)
}

/// How long the kernel keeps a port for the connection that was closed from there.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Connections one after the other, until one fails.
#[derive(Debug)]
struct Sequence {
    worked: usize,
    failed: Option<String>,
    took: Duration,
}

impl Sequence {
    fn of(scene: &Scene, target: SocketAddr, total: usize) -> Result<Self> {
        let started = Instant::now();
        let mut worked = 0;
        let failed = scene.client.run(|| {
            while worked < total {
                match connect(target, |_| Ok(())) {
                    Ok(mut stream) => {
                        if !answered(&mut stream) {
                            return Some("silence".to_owned());
                        }
                        worked += 1;
                    }
                    Err(e) => return Some(failure(&e)),
                }
                if scene.agent.is_none() && started.elapsed() > TIME_WAIT {
                    break;
                }
            }
            None
        })?;
        Ok(Self {
            worked,
            failed,
            took: started.elapsed(),
        })
    }

    fn note(self, facts: &mut Facts) {
        facts.note("sequence", self.worked);
        if let Some(failure) = self.failed {
            facts.note("failure", failure);
        }
    }
}

/// From how many ports the calling thread's namespace lets connections start.
fn ephemeral_ports() -> Result<usize> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let bounds = text.split_whitespace().map(str::parse::<usize>);
    match bounds.collect::<Result<Vec<_>, _>>()?[..] {
        [first, last] => Ok(last + 1 - first),
        _ => bail!("{text:?} is no range of ports"),
    }
}

/// Whether an echo server answers a greeting.
fn answered(stream: &mut TcpStream) -> bool {
    let mut said = Facts::default();
    let mut ask = || -> io::Result<bool> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"hello\n")?;
        read_introduction(&mut BufReader::new(stream.try_clone()?), &mut said)
    };
    ask().unwrap_or(false)
}
