//! HTTP requests that go on while something else happens, and a tally in which every failure counts.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::Pod;

use crate::http::Connection;

/// Threads that ask, until they are told to stop.
#[must_use = "the tally is what a load is for"]
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Tally>>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers by their text.
    pub answers: BTreeMap<String, usize>,
    /// What went wrong; any status but 200 did.
    pub failures: Vec<String>,
}

impl Load {
    /// Starts `workers` threads in `pod`. Each asks for the paths in turn, a few requests on one connection.
    pub fn start(
        pod: &Pod,
        target: SocketAddr,
        host: &'static str,
        paths: &'static [&'static str],
        workers: usize,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..workers)
            .map(|_| {
                let (pod, stop) = (pod.clone(), Arc::clone(&stop));
                thread::spawn(move || {
                    let mut tally = Tally::default();
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(e) = ask(&pod, target, host, paths, &mut tally) {
                            tally.failures.push(format!("{e:#}"));
                        }
                        thread::sleep(Duration::from_millis(2));
                    }
                    tally
                })
            })
            .collect();
        Self { stop, workers }
    }

    /// Ends it and counts.
    pub fn stop(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for worker in self.workers {
            let Ok(tally) = worker.join() else {
                bail!("a worker panicked");
            };
            for (answer, count) in tally.answers {
                *sum.answers.entry(answer).or_default() += count;
            }
            sum.failures.extend(tally.failures);
        }
        Ok(sum)
    }
}

impl Tally {
    /// How many answers there were.
    pub fn total(&self) -> usize {
        self.answers.values().sum()
    }

    /// That enough was asked and nothing failed.
    pub fn expect_faultless(&self, at_least: usize) -> Result<()> {
        ensure!(
            self.failures.is_empty(),
            "{} of {} requests failed, the first: {}",
            self.failures.len(),
            self.failures.len() + self.total(),
            self.failures[0]
        );
        ensure!(
            self.total() >= at_least,
            "only {} requests were made",
            self.total()
        );
        Ok(())
    }
}

/// Up to five requests on one connection.
fn ask(pod: &Pod, target: SocketAddr, host: &str, paths: &[&str], tally: &mut Tally) -> Result<()> {
    let stream = pod
        .run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))?
        .context("connecting")?;
    let mut connection = Connection::new(stream)?;
    for number in 0..5 {
        let path = paths[number % paths.len()];
        let response = connection.get(host, path)?;
        ensure!(
            response.status == 200,
            "{path} said {}: {}",
            response.status,
            response.text()
        );
        *tally
            .answers
            .entry(response.text().trim().to_owned())
            .or_default() += 1;
        // As every client must: after such an answer the connection is over (RFC 9112, section 9.6).
        if response.header("connection") == "close" {
            break;
        }
    }
    Ok(())
}
