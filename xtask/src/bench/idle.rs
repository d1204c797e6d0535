//! What a connection costs that a client keeps for later: the agent's memory with many, less that with few.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use super::{
    cost,
    inside::{Bench, SERVICE_IP, end},
    section::{Section, median},
    subject::{Subject, Work},
};
use crate::screen::Screen;

/// How many connections there are, and how many there were before: what the agent needs once is not theirs.
const MANY: usize = 10_000;
const FEW: usize = 200;
/// How long the agent is left alone before it is looked at: it gives memory back when it has been idle for a while.
const REST: Duration = Duration::from_secs(7);
/// What a connection is to cost at most, in bytes.
const GOAL: f64 = 8.0 * 1024.0;

const PATIENCE: Duration = Duration::from_secs(10);

/// What was found with one agent.
#[derive(Debug, Clone, Copy, Serialize)]
struct Found {
    /// Bytes for each connection.
    each: f64,
    /// How much of that was there still once all were closed.
    kept: f64,
}

/// Every agent once in every round.
pub(super) fn measure(screen: Screen, bench: &Bench<'_>) -> Result<Section> {
    screen.heading(&format!("{MANY} idle connections"));
    // Two ends of each are this process's and the agent's.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let _server = bench.start_server()?;
    let mut found: Vec<(Subject, u32, Found)> = Vec::new();
    for round in 1..=bench.options.rounds.min(3) {
        for (subject, client) in &bench.clients {
            if subject.agent().is_none() {
                continue;
            }
            let mut agent = bench.start(*subject, client, Work::Small, 1)?;
            let running = agent.as_ref().context("no agent")?;
            Bench::wait_for_answer(client, &format!("{SERVICE_IP}:80"), running)?;
            let resident = || -> Result<u64> {
                thread::sleep(REST);
                Ok(cost::memory(running.pid())?.resident)
            };
            let few = client.run(|| open(FEW))??;
            let before = resident()?;
            let mut many = client.run(|| open(MANY))??;
            let with = resident()?;
            for stream in many.iter_mut().step_by(100) {
                ask(stream).context("a connection that was idle")?;
            }
            drop(many);
            let after = resident()?;
            drop(few);
            let of_each = |bytes: u64| bytes.saturating_sub(before) as f64 / MANY as f64;
            let now = Found {
                each: of_each(with),
                kept: of_each(after),
            };
            screen.line(&format!(
                "round {round}  {:<28} {:>8.0} bytes each",
                subject.title(),
                now.each
            ));
            found.push((*subject, round, now));
            end(&mut agent)?;
        }
    }
    let section = section(&found)?;
    println!("{}", section.table());
    Ok(section)
}

/// Opens connections each of which has had an answer.
fn open(count: usize) -> Result<Vec<TcpStream>> {
    (0..count)
        .map(|number| {
            let open = || -> Result<TcpStream> {
                let mut stream = TcpStream::connect((SERVICE_IP, Work::Small.port()))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                ask(&mut stream)?;
                Ok(stream)
            };
            open().with_context(|| format!("connection {number}"))
        })
        .collect()
}

/// Asks once more on a connection, and reads the whole answer.
fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: user-app-svc\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut space = [0; 1024];
    while !answer.ends_with(b"user service for v1\n") {
        let n = stream.read(&mut space)?;
        if n == 0 {
            bail!("it was closed");
        }
        answer.extend_from_slice(&space[..n]);
    }
    let proxied = String::from_utf8_lossy(&answer).contains("x-envoy-upstream-service-time");
    if !answer.starts_with(b"HTTP/1.1 200 ") || !proxied {
        bail!("the answer was {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

fn section(found: &[(Subject, u32, Found)]) -> Result<Section> {
    let mut rows = Vec::new();
    for subject in Subject::ALL {
        let values = |value: &dyn Fn(&Found) -> f64| {
            let mut values: Vec<f64> = found
                .iter()
                .filter(|(other, _, _)| *other == subject)
                .map(|(_, _, found)| value(found))
                .collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let each = values(&|found| found.each);
        let (Some(middle), Some(least), Some(most)) = (median(&each), each.first(), each.last())
        else {
            continue;
        };
        let kept = median(&values(&|found| found.kept)).unwrap_or_default();
        rows.push(vec![
            subject.title().to_owned(),
            format!("{middle:.0} ({least:.0}–{most:.0})"),
            format!("{kept:.0}"),
            format!("{GOAL:.0}"),
        ]);
    }
    Ok(Section {
        title: format!("{MANY} idle connections"),
        notes: vec![
            format!("each has had one answer and is kept alive; resident memory of the agent with them, less that with {FEW}, for each; one worker, the client's side"),
            "of every hundredth it is asked again afterwards, and answered; after: what was still resident once they were closed".to_owned(),
        ],
        header: ["", "bytes each", "after", "goal"].map(str::to_owned).to_vec(),
        rows,
        measured: serde_json::to_value(found)?,
    })
}
