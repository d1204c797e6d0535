//! Much at once: a gigabyte from the server to the client, by plain TCP and as the body of one response of HTTP/1.1.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mesh_tests::Running;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use serde::Serialize;

use super::{
    cost,
    inside::{Bench, Turn},
    section::{Rate, Section, cell, median_of, shares, spread},
    subject::{Subject, Work},
};
use crate::{http::Response, screen::Screen};

/// How much is measured, and how much goes before it.
const MUCH: u64 = 1 << 30;
const BEFORE: u64 = 64 << 20;

/// As the backend has it.
const PERIOD: u64 = 65_521;

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The bandwidth of direct that is to be had through the agent.
fn goal(work: Work) -> f64 {
    match work {
        Work::Body => 0.6,
        Work::Stream | Work::Small | Work::Calls => 0.9,
    }
}

/// A gigabyte that arrived.
#[derive(Debug, Clone, Copy, Serialize)]
struct Transfer {
    /// In seconds.
    took: f64,
    /// The processor time of the server, the proxy and the client, in seconds.
    server: f64,
    proxy: Option<f64>,
    client: f64,
}

/// By plain TCP, then by HTTP/1.1.
pub(super) fn measure(screen: Screen, bench: &Bench<'_>) -> Result<Vec<Section>> {
    let backend = bench.start_backend()?;
    let mut sections = Vec::new();
    for work in [Work::Stream, Work::Body] {
        let what = match work {
            Work::Body => "A gigabyte by HTTP/1.1",
            _ => "A gigabyte by plain TCP",
        };
        screen.heading(what);
        let transfers = bench.each(work, |turn| {
            let transfer = transfer(turn, work, &backend)?;
            screen.line(&format!(
                "{:<28} {:>8.0} MB/s",
                turn.subject.title(),
                MUCH as f64 / 1e6 / transfer.took
            ));
            Ok(transfer)
        })?;
        let section = section(what, work, &transfers)?;
        println!("{}", section.table());
        sections.push(section);
    }
    Ok(sections)
}

fn transfer(turn: &Turn<'_>, work: Work, backend: &Running) -> Result<Transfer> {
    let address = format!("{}:{}", turn.address, work.port());
    // A proxy that has just been started may not listen yet.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = turn
        .client
        .run(|| fetch(&address, work, turn.subject, BEFORE))?
    {
        if Instant::now() > deadline {
            return Err(error).context("warming up");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let spent = || -> Result<(Option<f64>, f64)> {
        Ok((turn.seconds()?, cost::of_tree(backend.pid())?.seconds))
    };
    let before = spent()?;
    let (took, client) = turn.client.run(|| -> Result<(f64, f64)> {
        let before = of_this_thread()?;
        let took = fetch(&address, work, turn.subject, MUCH)?;
        Ok((took, of_this_thread()? - before))
    })??;
    let after = spent()?;
    let proxy = before.0.zip(after.0).map(|(before, after)| after - before);
    if proxy.is_some_and(|proxy| proxy <= 0.0) {
        bail!("the proxy used no processor time, so the bytes passed it by");
    }
    Ok(Transfer {
        took,
        server: after.1 - before.1,
        proxy,
        client,
    })
}

fn of_this_thread() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Asks for so many bytes, and counts and compares what comes. Returns how long that took, in seconds, without connecting.
fn fetch(address: &str, work: Work, subject: Subject, count: u64) -> Result<f64> {
    let mut stream = TcpStream::connect(address).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let begin = Instant::now();
    match work {
        Work::Body => {
            let request = format!("GET /{count} HTTP/1.1\r\nhost: user-app-svc\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let response = head(&mut stream)?;
            let length = response.header("content-length").map(str::parse::<u64>);
            let whole = length.is_some_and(|length| length == Ok(count));
            if response.status != 200 || !whole || !subject.handled(&response) {
                bail!(
                    "it was not on the way; the answer was\n{}",
                    response.shown()
                );
            }
        }
        Work::Stream | Work::Small | Work::Calls => stream.write_all(&count.to_be_bytes())?,
    }
    let mut space = vec![0; 256 * 1024];
    let mut seen = 0;
    while seen < count {
        let n = stream
            .read(&mut space)
            .with_context(|| format!("after {seen} bytes"))?;
        if n == 0 {
            bail!("the connection ended after {seen} of {count} bytes");
        }
        // One byte of each piece tells what is missing or twice.
        if space.first() != Some(&byte_at(seen)) {
            bail!("byte {seen} is not what the server sent");
        }
        seen += n as u64;
    }
    if seen != count {
        bail!("{seen} bytes came where {count} were asked for");
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn byte_at(offset: u64) -> u8 {
    let place = (offset % PERIOD) as u32;
    place.wrapping_mul(2_654_435_761).to_be_bytes()[0]
}

/// The head of a response, and not a byte more.
fn head(stream: &mut TcpStream) -> Result<Response> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("reading the head")?;
        head.extend(byte);
        if head.len() > 16 * 1024 {
            bail!("the head has no end");
        }
    }
    let head = String::from_utf8_lossy(&head);
    let lines: Vec<String> = head.trim_end().lines().map(str::to_owned).collect();
    let status = lines.first().and_then(|line| line.split(' ').nth(1));
    Ok(Response {
        status: status
            .and_then(|status| status.parse().ok())
            .context("no status")?,
        head: lines,
        body: Vec::new(),
    })
}

fn section(what: &str, work: Work, transfers: &[(Subject, u32, Transfer)]) -> Result<Section> {
    let mut rates: BTreeMap<usize, Vec<Rate>> = BTreeMap::new();
    for (subject, round, transfer) in transfers {
        let place = Subject::ALL.iter().position(|other| other == subject);
        rates
            .entry(place.unwrap_or_default())
            .or_default()
            .push(Rate {
                round: *round,
                rate: MUCH as f64 / 1e6 / transfer.took,
            });
    }
    let direct = rates.get(&0).cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for (place, own) in &rates {
        let subject = Subject::ALL[*place];
        let middle = |value: &dyn Fn(&Transfer) -> Option<f64>, digits: usize| {
            let own = transfers.iter().filter(|(other, _, _)| *other == subject);
            let values = own.filter_map(|(_, _, transfer)| value(transfer));
            cell(median_of(values), digits)
        };
        let all = |transfer: &Transfer| {
            transfer.server + transfer.client + transfer.proxy.unwrap_or_default()
        };
        rows.push(vec![
            subject.title().to_owned(),
            spread(shares(own, &direct)),
            middle(&|transfer| Some(MUCH as f64 / 1e6 / transfer.took), 0),
            middle(&|transfer| Some(transfer.server * 1e3), 0),
            middle(&|transfer| Some(transfer.proxy? * 1e3), 0),
            middle(&|transfer| Some(transfer.client * 1e3), 0),
            middle(&|transfer| Some(all(transfer) / transfer.took), 1),
            match subject.agent().is_some() {
                true => format!("{:.1}", goal(work)),
                false => String::new(),
            },
        ]);
    }
    Ok(Section {
        title: what.to_owned(),
        notes: vec![
            "of direct: median of the ratios to the direct connection of the same round, and the least and the greatest".to_owned(),
            "every byte is counted, and the first of each piece compared; server, proxy, client: their processor time for the gigabyte, in milliseconds".to_owned(),
            "busy: how many processors the three kept busy. Where that is nearly all there are, what a proxy does is taken from what the two ends could do".to_owned(),
        ],
        header: ["", "of direct", "MB/s", "server", "proxy", "client", "busy", "goal"].map(str::to_owned).to_vec(),
        rows,
        measured: serde_json::to_value(transfers)?,
    })
}
