//! Whether throughput grows with the agent's workers: two beside one, and who uses the processors meanwhile.

use anyhow::{Context, Result, bail};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use serde::Serialize;

use super::{
    cost,
    inside::{Bench, SERVICE_IP, end},
    load::{self, Shape},
    section::{Rate, Section, median_of, shares, spread},
    subject::{Subject, Work},
};
use crate::screen::Screen;

/// One load on an agent.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    workers: u32,
    /// Requests per second.
    rate: f64,
    /// How many processors the agent, the load and the server kept busy.
    agent: f64,
    load: f64,
    server: f64,
}

pub(super) fn measure(screen: Screen, bench: &Bench<'_>) -> Result<Section> {
    screen.heading("Two workers beside one");
    let server = bench.start_server()?;
    let seconds = bench.options.seconds;
    let mut runs: Vec<(Subject, u32, Run)> = Vec::new();
    for round in 1..=bench.options.rounds {
        for (subject, client) in &bench.clients {
            if subject.agent().is_none() {
                continue;
            }
            for turn in 0..2 {
                // Now the one goes first and now the other.
                let workers = 1 + (turn + round) % 2;
                let mut agent = bench.start(*subject, client, Work::Small, workers)?;
                let running = agent.as_ref().context("no agent")?;
                Bench::wait_for_answer(client, &format!("{SERVICE_IP}:80"), running)?;
                let url = format!("http://{SERVICE_IP}/");
                load::run(client, &url, Shape::Throughput, 1).context("warming up")?;
                let spent = || -> Result<[f64; 3]> {
                    let of = |pid| Ok::<_, anyhow::Error>(cost::of_tree(pid)?.seconds);
                    Ok([of(running.pid())?, of_children()?, of(server.pid())?])
                };
                let before = spent()?;
                let outcome = load::run(client, &url, Shape::Throughput, seconds)?;
                let after = spent()?;
                let [agent_busy, load, server_busy] =
                    [0, 1, 2].map(|who| (after[who] - before[who]) / f64::from(seconds));
                if agent_busy <= 0.0 {
                    bail!("the agent used no processor time, so the load passed it by");
                }
                let run = Run {
                    workers,
                    rate: outcome.rate,
                    agent: agent_busy,
                    load,
                    server: server_busy,
                };
                screen.line(&format!(
                    "round {round}  {:<28} {workers} workers {:>8.0} requests/s",
                    subject.title(),
                    run.rate
                ));
                runs.push((*subject, round, run));
                end(&mut agent)?;
            }
        }
    }
    let section = section(&runs)?;
    println!("{}", section.table());
    Ok(section)
}

/// The processor time of programs that were started from here and have ended, in seconds.
fn of_children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn section(runs: &[(Subject, u32, Run)]) -> Result<Section> {
    let mut rows = Vec::new();
    for subject in Subject::ALL {
        let of = |workers: u32| {
            runs.iter()
                .filter(move |(other, _, run)| *other == subject && run.workers == workers)
        };
        let rates = |workers| -> Vec<Rate> {
            of(workers)
                .map(|(_, round, run)| Rate {
                    round: *round,
                    rate: run.rate,
                })
                .collect()
        };
        let middle = |workers, value: &dyn Fn(&Run) -> f64| {
            median_of(of(workers).map(|(_, _, run)| value(run)))
        };
        let growth = shares(&rates(2), &rates(1));
        for workers in [1, 2] {
            let Some(rate) = middle(workers, &|run| run.rate) else {
                continue;
            };
            let busy = |value: &dyn Fn(&Run) -> f64| {
                format!("{:.2}", middle(workers, value).unwrap_or_default())
            };
            rows.push(vec![
                format!("{}, {workers}", subject.title()),
                match workers {
                    1 => "1.00".to_owned(),
                    _ => spread(growth),
                },
                format!("{rate:.0}"),
                busy(&|run| run.agent),
                busy(&|run| run.load),
                busy(&|run| run.server),
            ]);
        }
    }
    Ok(Section {
        title: "Two workers beside one".to_owned(),
        notes: vec![
            "wrk with 1 thread and 32 connections; of one: median of the ratios within a round, and the least and the greatest".to_owned(),
            "agent, load, server: how many processors each kept busy. Where they add up to all there are, a worker has no more to gain".to_owned(),
        ],
        header: ["workers", "of one", "req/s", "agent", "load", "server"]
            .map(str::to_owned)
            .to_vec(),
        rows,
        measured: serde_json::to_value(runs)?,
    })
}
