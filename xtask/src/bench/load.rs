//! The load: `wrk` from within the client's pod, and what it says of it.

use anyhow::{Context, Result, bail};
use mesh_tests::Pod;
use serde::Serialize;

/// A way of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// 32 connections that are kept alive.
    Throughput,
    /// One connection that is kept alive, one request at a time.
    Latency,
    /// A new connection for every request, 32 at a time.
    NewConnections,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Outcome {
    /// Whole requests.
    pub requests: u64,
    /// Per second.
    pub rate: f64,
    /// Half of the answers took no longer, in microseconds.
    pub p50: f64,
    /// All but one in a hundred took no longer, in microseconds.
    pub p99: f64,
}

/// Runs the load and counts; an answer that is not good, or none, is an error.
pub fn run(pod: &Pod, url: &str, shape: Shape, seconds: u32) -> Result<Outcome> {
    let connections = match shape {
        Shape::Throughput | Shape::NewConnections => "-c32",
        Shape::Latency => "-c1",
    };
    let mut command = pod.command("wrk");
    command.args([
        "-t1",
        connections,
        &format!("-d{seconds}s"),
        "--latency",
        "-H",
        "Host: user-app-svc",
    ]);
    if shape == Shape::NewConnections {
        command.args(["-H", "Connection: close"]);
    }
    let output = command.arg(url).output().context("cannot run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "wrk {}: {}{}",
            output.status,
            text,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    parse(&text, shape).with_context(|| format!("wrk said:\n{text}"))
}

fn parse(text: &str, shape: Shape) -> Result<Outcome> {
    if let Some(line) = text.lines().find(|line| line.contains("Non-2xx")) {
        bail!("{}", line.trim());
    }
    if let Some(line) = text.lines().find(|line| line.contains("Socket errors")) {
        let counts: Vec<u64> = line
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        // Where every request ends its connection, wrk counts some of these ends as read errors.
        let harmless = shape == Shape::NewConnections && matches!(counts[..], [0, _, 0, 0]);
        if !harmless {
            bail!("{}", line.trim());
        }
    }
    let words = |wanted: &str| {
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.contains(&wanted))
    };
    let percentile = |which: &str| {
        words(which)
            .and_then(|words| microseconds(words.last()?))
            .with_context(|| format!("no {which} in it"))
    };
    let requests = words("requests")
        .and_then(|words| words.first()?.parse().ok())
        .context("no count of requests in it")?;
    let rate = words("Requests/sec:")
        .and_then(|words| words.last()?.parse().ok())
        .context("no rate in it")?;
    if requests == 0 {
        bail!("no request was answered");
    }
    Ok(Outcome {
        requests,
        rate,
        p50: percentile("50%")?,
        p99: percentile("99%")?,
    })
}

/// `412.00us`, `1.20ms` or `1.02s`.
pub(super) fn microseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    match &text[unit..] {
        "us" => Some(number),
        "ms" => Some(number * 1e3),
        "s" => Some(number * 1e6),
        "m" => Some(number * 60e6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Running 3s test @ http://10.96.0.10/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   412.00us  100.00us   5.00ms   90.00%
    Req/Sec    40.10k     1.00k   42.00k    80.00%
  Latency Distribution
     50%  400.00us
     75%  450.00us
     90%  500.00us
     99%    1.20ms
  120300 requests in 3.00s, 20.00MB read
Requests/sec:  40100.55
Transfer/sec:      6.67MB
";

    #[test]
    fn reads_what_wrk_says() {
        let outcome = parse(TEXT, Shape::Throughput).unwrap();
        assert_eq!(
            outcome,
            Outcome {
                requests: 120_300,
                rate: 40_100.55,
                p50: 400.0,
                p99: 1200.0
            }
        );
    }

    #[test]
    fn a_bad_answer_is_an_error() {
        let bad = format!("{TEXT}  Non-2xx or 3xx responses: 7\n");
        assert!(parse(&bad, Shape::Throughput).is_err());
        let closed = format!("{TEXT}  Socket errors: connect 0, read 12, write 0, timeout 0\n");
        assert!(parse(&closed, Shape::Throughput).is_err());
        assert!(parse(&closed, Shape::NewConnections).is_ok());
        let refused = format!("{TEXT}  Socket errors: connect 3, read 12, write 0, timeout 0\n");
        assert!(parse(&refused, Shape::NewConnections).is_err());
    }
}
