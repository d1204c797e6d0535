//! The comparison itself: what is wrong with an outcome must be found.

use anyhow::{Context, Result, ensure};

use super::ask::Answer;
use super::backend::Seen;
use super::case::Family;
use super::check::{Outcome, differences, many};
use super::request::Request;

/// Plays made-up outcomes.
pub fn all() -> Result<()> {
    let right = outcome(200, "b-v1");
    check("{get: /, to: b}", &right, "")?;
    check("{get: /, to: b-v1}", &right, "")?;
    check("{get: /, to: b-v}", &right, "b-v1 got it, not b-v")?;
    check(
        "{get: /, to: b, upstream: {family: ipv6}}",
        &right,
        "b-v1 got it over IPv4, not IPv6",
    )?;
    check("{get: /, to: c}", &right, "b-v1 got it, not c")?;
    check("{get: /, status: 404}", &right, "status 200, not 404")?;
    check("{get: /, status: 200}", &right, "1 tries [\"b-v1\"], not 0")?;
    check("{get: /, to: b, attempts: 2}", &right, "1 tries")?;
    check(
        "{get: /, to: b, mirrored: {c: 1}}",
        &right,
        "0 copies at c, not 1",
    )?;
    check(
        "{get: /, to: b, closed: true}",
        &right,
        "an answer, and not the end",
    )?;
    check(
        "{get: /, to: b, answer: x}",
        &right,
        "body: [\"b-v1\"], not \"x\"",
    )?;
    check("{get: /, to: b, answer: {prefix: b-}}", &right, "")?;
    check("{get: /, to: b, answer: {prefix: x}}", &right, "body")?;
    check(
        "{get: /, to: b, response: {x-pod: b-v1, x-none: null}}",
        &right,
        "",
    )?;
    check(
        "{get: /, to: b, response: {x-pod: null}}",
        &right,
        "header x-pod",
    )?;
    check(
        "{get: /, to: b, response: {x-none: a}}",
        &right,
        "header x-none",
    )?;
    check(
        "{get: /, to: b, response: {x-none: ''}}",
        &right,
        "header x-none",
    )?;
    check(
        "{get: /, to: b, response: {X-POD: {regex: 'b-v[0-9]'}}}",
        &right,
        "",
    )?;
    check(
        "{get: /, to: b, response: {x-pod: {regex: 'v1'}}}",
        &right,
        "header x-pod",
    )?;
    check(
        "{get: /, to: b, response: {x-pod: {misspelt: 'v1'}}}",
        &right,
        "header x-pod",
    )?;
    check(
        "{get: /, to: b, response: {x-pod: {present: true}}}",
        &right,
        "",
    )?;
    check(
        "{get: /, to: b, response: {x-pod: {present: false}}}",
        &right,
        "header x-pod",
    )?;
    check(
        "{get: /, to: b, upstream: {headers: {x-two: [one, two]}}}",
        &right,
        "",
    )?;
    check(
        "{get: /, to: b, upstream: {headers: {x-two: 'one,two'}}}",
        &right,
        "header x-two",
    )?;
    check(
        "{get: /, to: b, upstream: {headers: {x-two: [two, one]}}}",
        &right,
        "header x-two",
    )?;
    check(
        "{get: /, to: b, upstream: {path: /y}}",
        &right,
        "the server saw path \"/x\"",
    )?;
    check(
        "{get: /, to: b, took: {at-least: 1s}}",
        &right,
        "took 100ms",
    )?;
    check("{get: /, to: b, took: {under: 50ms}}", &right, "took 100ms")?;
    let ended = Outcome {
        answer: Err("the end".to_owned()),
        seen: Vec::new(),
    };
    check("{get: /, closed: true}", &ended, "")?;
    check("{get: /, status: 200}", &ended, "no answer: the end")?;
    shares()
}

fn shares() -> Result<()> {
    let outcomes: Vec<Outcome> = (0..100)
        .map(|index| outcome(200, if index < 90 { "b-v1" } else { "c" }))
        .collect();
    for (text, wanted) in [
        ("{get: /, times: 100, shares: {b-v1: 0.9, c: 0.1}}", ""),
        ("{get: /, times: 100, shares: {b: 0.5}}", "b got 90 of 100"),
        ("{get: /, times: 100, shares: {a: 0}}", ""),
        ("{get: /, times: 100, counts: {c: [5, 10]}}", ""),
        (
            "{get: /, times: 100, counts: {c: [11, 30]}}",
            "c got 10 of 100, not 11 to 30",
        ),
        ("{get: /, times: 100, shares: {c: 0}}", "c got 10 of 100"),
        ("{get: /, times: 100, sticky: true}", "to b-v1 and to c"),
        ("{get: /, times: 100, statuses: {200: 100}}", ""),
        (
            "{get: /, times: 100, statuses: {200: 99}}",
            "100 of 100 with 200",
        ),
        (
            "{get: /, times: 100, statuses: {503: [1, 5]}}",
            "0 of 100 with 503",
        ),
        (
            "{get: /, times: 100, statuses: {200: 0.5}}",
            "100 of 100 with 200",
        ),
        ("{get: /, times: 100, connections: 2}", ""),
        (
            "{get: /, times: 100, connections: 1}",
            "2 connections, not 1",
        ),
    ] {
        found(text, &many(&request(text)?, &outcomes), wanted)?;
    }
    Ok(())
}

fn check(text: &str, outcome: &Outcome, wanted: &str) -> Result<()> {
    found(text, &differences(&request(text)?, outcome), wanted)
}

fn found(text: &str, differences: &[String], wanted: &str) -> Result<()> {
    let good = match wanted {
        "" => differences.is_empty(),
        part => differences
            .iter()
            .any(|difference| difference.contains(part)),
    };
    ensure!(good, "{text}: {differences:?}, not {wanted:?}");
    Ok(())
}

fn request(text: &str) -> Result<Request> {
    let mut request: Request = serde_saphyr::from_str(text).with_context(|| text.to_owned())?;
    request.complete(&[], Family::Ipv4)?;
    Ok(request)
}

fn outcome(status: u16, pod: &str) -> Outcome {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Outcome {
        answer: Ok(Answer {
            status,
            headers: vec![pair("x-pod", pod)],
            trailers: Vec::new(),
            body: pod.to_owned(),
            took: std::time::Duration::from_millis(100),
            tls: None,
        }),
        seen: vec![Seen {
            pod: pod.to_owned(),
            method: "GET".to_owned(),
            path: "/x".to_owned(),
            host: "a".to_owned(),
            headers: vec![pair("x-two", "one"), pair("X-Two", "two")],
            body: String::new(),
            version: "http1",
            peer: 1,
            family: Family::Ipv4,
            tls: Vec::new(),
        }],
    }
}
