//! Many small requests by HTTP/2 over few connections: plain ones, and unary calls as gRPC makes them. `h2load` is the load.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use mesh_tests::Pod;
use serde::Serialize;

use super::{
    inside::{Bench, Turn},
    section::{Rate, Section, cell, median_of, shares, spread},
    subject::{Subject, Work},
};
use crate::{http, http::Response, screen::Screen};

const CONNECTIONS: u64 = 4;
const STREAMS: u64 = 25;

/// How many requests tell how fast it is, and how many there are at most.
const FEW: u64 = 10_000;
const MOST: u64 = 5_000_000;

/// What a call says: a byte for no compression, the length, and a message.
const MESSAGE: &[u8] = b"\0\0\0\0\x14user service for v1\n";

/// How many times Envoy's throughput is to be had through the agent.
const GOAL: f64 = 3.0;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A GET with a small answer.
    Http2,
    /// A POST with a message and trailers in answer.
    Grpc,
}

/// What came of one load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Outcome {
    requests: u64,
    /// Per second.
    rate: f64,
    /// The mean, in microseconds.
    mean: f64,
    /// The proxy's processor time per request, in microseconds.
    proxy: Option<f64>,
}

pub(super) fn measure(screen: Screen, bench: &Bench<'_>, kind: Kind) -> Result<Section> {
    let _backend = bench.start_backend()?;
    let message = bench.file("message");
    fs::write(&message, MESSAGE).context("cannot write the message")?;
    screen.heading(kind.title());
    let counts = || counts(bench);
    let outcomes = bench.each(Work::Calls, |turn| {
        let load = Load {
            turn,
            kind,
            message: &message,
            seconds: bench.options.seconds,
        };
        let outcome = load.measure(&counts)?;
        screen.line(&format!(
            "{:<28} {:>8.0} requests/s",
            turn.subject.title(),
            outcome.rate
        ));
        Ok(outcome)
    })?;
    let section = section(kind, bench.options.seconds, &outcomes)?;
    println!("{}", section.table());
    Ok(section)
}

/// How many requests and calls the server has answered.
fn counts(bench: &Bench<'_>) -> Result<[u64; 2]> {
    let address = format!("{}:{}", bench.server.ipv4, Work::Body.port());
    let answer = bench
        .server
        .run(|| http::get(&address, "backend", "/counts"))??;
    let text = answer.text();
    let numbers: Vec<u64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    numbers
        .try_into()
        .ok()
        .with_context(|| format!("the server counts {text:?}"))
}

struct Load<'a> {
    turn: &'a Turn<'a>,
    kind: Kind,
    message: &'a Path,
    seconds: u32,
}

impl Load<'_> {
    fn measure(&self, counts: &dyn Fn() -> Result<[u64; 2]>) -> Result<Outcome> {
        self.wait_for_answer()?;
        let warm = self.run(FEW).context("warming up")?;
        // So many as take about as long as is wanted. A load that ends by the clock leaves requests unanswered.
        let many = (warm.rate * f64::from(self.seconds)) as u64;
        let (before, spent_before) = (counts()?, self.turn.seconds()?);
        let mut outcome = self.run(many.clamp(FEW, MOST))?;
        let (after, spent_after) = (counts()?, self.turn.seconds()?);
        let place = usize::from(self.kind == Kind::Grpc);
        let answered = after[place] - before[place];
        if answered != outcome.requests {
            bail!(
                "{} requests were answered, of which the server knows {answered}",
                outcome.requests
            );
        }
        let spent = spent_before.zip(spent_after);
        let spent = spent.map(|(before, after)| after - before);
        if spent.is_some_and(|spent| spent <= 0.0) {
            bail!("the proxy used no processor time, so the load passed it by");
        }
        outcome.proxy = spent.map(|spent| spent * 1e6 / outcome.requests as f64);
        Ok(outcome)
    }

    /// Waits until an answer comes, and looks whether it came the right way and is whole.
    fn wait_for_answer(&self) -> Result<()> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            match self.ask() {
                Ok(response) => {
                    let whole = self.kind == Kind::Http2
                        || response
                            .header("grpc-status")
                            .is_some_and(|status| status == "0");
                    if response.status == 200 && whole && self.turn.subject.handled(&response) {
                        return Ok(());
                    }
                    if std::time::Instant::now() > deadline {
                        bail!(
                            "it was not on the way; the answer was\n{}",
                            response.shown()
                        );
                    }
                }
                Err(error) if std::time::Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// One request, with its trailers among the headers.
    fn ask(&self) -> Result<Response> {
        let mut command = self.turn.client.command("nghttp");
        command.args(["-v", "-t", "5s"]);
        self.add_request(&mut command);
        let output = command.output().context("cannot run nghttp")?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse_answer(&text).with_context(|| format!("nghttp said:\n{text}"))
    }

    fn add_request(&self, command: &mut std::process::Command) {
        command.args(["-H", ":authority: user-app-svc"]);
        if self.kind == Kind::Grpc {
            command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
            command.arg("-d").arg(self.message);
        }
        let path = match self.kind {
            Kind::Http2 => "",
            Kind::Grpc => "bench.Echo/Say",
        };
        let port = Work::Calls.port();
        command.arg(format!("http://{}:{port}/{path}", self.turn.address));
    }

    fn run(&self, count: u64) -> Result<Outcome> {
        let client: &Pod = self.turn.client;
        let mut command = client.command("h2load");
        command.args([
            "-t1",
            &format!("-c{CONNECTIONS}"),
            &format!("-m{STREAMS}"),
            &format!("-n{count}"),
            "-T10",
        ]);
        self.add_request(&mut command);
        let output = command.output().context("cannot run h2load")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("h2load {}: {text}", output.status);
        }
        parse(&text).with_context(|| format!("h2load said:\n{text}"))
    }
}

/// What `h2load` says. An answer that is not good, or none, is an error.
fn parse(text: &str) -> Result<Outcome> {
    let line = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("no line begins with {name:?}"))
    };
    let before = |line: &str, what: &str| -> Result<f64> {
        let part = line.split(", ").find(|part| part.trim().ends_with(what));
        let number = part.and_then(|part| part.trim().strip_suffix(what)?.trim().parse().ok());
        number.with_context(|| format!("no number of {what:?} in {line:?}"))
    };
    let (finished, requests, codes) = (
        line("finished in ")?,
        line("requests: ")?,
        line("status codes: ")?,
    );
    let done = before(requests, "succeeded")?;
    if before(requests, "failed")? > 0.0
        || before(requests, "errored")? > 0.0
        || before(codes, "2xx")? < done
        || done == 0.0
    {
        bail!("not every request was answered well");
    }
    let mean = line("time for request: ")?.split_whitespace().nth(2);
    Ok(Outcome {
        requests: done as u64,
        rate: before(finished, "req/s")?,
        mean: mean
            .and_then(super::load::microseconds)
            .context("no mean in it")?,
        proxy: None,
    })
}

/// Headers and trailers, out of what `nghttp -v` says.
fn parse_answer(text: &str) -> Result<Response> {
    let head: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_once("recv (stream_id=")?.1.split_once(") "))
        .map(|(_, header)| header.to_owned())
        .collect();
    let status = head.iter().find_map(|line| line.strip_prefix(":status: "));
    let status = status.and_then(|status| status.trim().parse().ok());
    let mut lines = vec!["HTTP/2".to_owned()];
    lines.extend(head.iter().filter(|line| !line.starts_with(':')).cloned());
    Ok(Response {
        status: status.context("no status in it")?,
        head: lines,
        body: Vec::new(),
    })
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::Http2 => "Small answers by HTTP/2",
            Self::Grpc => "Unary calls of gRPC",
        }
    }
}

fn section(kind: Kind, seconds: u32, outcomes: &[(Subject, u32, Outcome)]) -> Result<Section> {
    let mut rates: BTreeMap<usize, Vec<Rate>> = BTreeMap::new();
    let place = |subject: Subject| {
        let place = Subject::ALL.iter().position(|other| *other == subject);
        place.unwrap_or_default()
    };
    for (subject, round, outcome) in outcomes {
        rates.entry(place(*subject)).or_default().push(Rate {
            round: *round,
            rate: outcome.rate,
        });
    }
    let of = |subject| rates.get(&place(subject)).cloned().unwrap_or_default();
    let (direct, envoy) = (of(Subject::Direct), of(Subject::Envoy));
    let mut rows = Vec::new();
    for (number, own) in &rates {
        let subject = Subject::ALL[*number];
        let middle = |value: &dyn Fn(&Outcome) -> Option<f64>, digits: usize| {
            let own = outcomes.iter().filter(|(other, _, _)| *other == subject);
            let values = own.filter_map(|(_, _, outcome)| value(outcome));
            cell(median_of(values), digits)
        };
        rows.push(vec![
            subject.title().to_owned(),
            spread(shares(own, &direct)),
            spread(shares(own, &envoy)),
            middle(&|outcome| Some(outcome.rate), 0),
            middle(&|outcome| Some(outcome.mean), 0),
            middle(&|outcome| outcome.proxy, 1),
            match subject.agent().is_some() {
                true => format!("{GOAL:.1} of Envoy"),
                false => String::new(),
            },
        ]);
    }
    Ok(Section {
        title: kind.title().to_owned(),
        notes: vec![
            format!("h2load with 1 thread, {CONNECTIONS} connections of {STREAMS} streams, as many requests as take about {seconds} s; the server is hyper, one thread, in another pod of the node"),
            "of direct, of Envoy: medians of the ratios within a round, and the least and the greatest; every request is answered well, and the server has counted as many".to_owned(),
        ],
        header: ["", "of direct", "of Envoy", "req/s", "mean µs", "CPU µs/req", "goal"]
            .map(str::to_owned)
            .to_vec(),
        rows,
        measured: serde_json::to_value(outcomes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "starting benchmark...
finished in 3.00s, 34567.33 req/s, 1.23MB/s
requests: 103702 total, 103802 started, 103702 done, 103702 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 103702 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 3.70MB (3877654) total, 102.10KB (104550) headers (space savings 97.50%), 1.98MB (2074040) data
                     min         max         mean         sd        +/- sd
time for request:      233us      9.52ms      2.87ms       301us    75.34%
";

    #[test]
    fn reads_what_h2load_says() {
        let outcome = parse(TEXT).unwrap();
        assert_eq!((outcome.requests, outcome.rate), (103_702, 34_567.33));
        assert_eq!(outcome.mean, 2870.0);
    }

    #[test]
    fn what_was_not_answered_well_is_an_error() {
        for (good, bad) in [
            ("103702 2xx, 0 3xx", "103701 2xx, 1 3xx"),
            ("0 failed", "1 failed"),
            ("0 errored", "7 errored"),
            ("requests: ", "wishes: "),
        ] {
            parse(&TEXT.replace(good, bad)).unwrap_err();
        }
    }

    #[test]
    fn reads_headers_and_trailers() {
        let text = "[  0.001] recv (stream_id=13) :status: 200\n[  0.001] recv (stream_id=13) content-type: application/grpc\n\
                    [  0.001] recv HEADERS frame <length=40, flags=0x04, stream_id=13>\n[  0.002] recv (stream_id=13) grpc-status: 0\n";
        let response = parse_answer(text).unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(response.header("grpc-status"), Some("0"));
        parse_answer("").unwrap_err();
    }
}
