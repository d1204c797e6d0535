//! What came of a request, compared with what the case says.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::ask::Answer;
use super::backend::Seen;
use super::request::Request;
use super::value::text;

/// What came of one request.
#[derive(Debug)]
pub struct Outcome {
    /// The answer, or why there was none.
    pub answer: Result<Answer, String>,
    /// What servers saw, in order.
    pub seen: Vec<Seen>,
}

/// Everything that is not as it should be.
pub fn differences(request: &Request, outcome: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    check_answer(request, outcome, &mut wrong);
    check_seen(request, outcome, &mut wrong);
    wrong
}

fn check_answer(request: &Request, outcome: &Outcome, wrong: &mut Vec<String>) {
    let answer = match &outcome.answer {
        Ok(answer) => answer,
        Err(e) if request.closed => {
            if e.contains("in time") {
                wrong.push(format!("neither an answer nor the end: {e}"));
            }
            if let Some(alert) = &request.alert
                && !e.contains(&format!("received fatal alert: {alert}"))
            {
                wrong.push(format!("no alert {alert}, but: {e}"));
            }
            return;
        }
        Err(e) => {
            wrong.push(format!("no answer: {e}"));
            return;
        }
    };
    if request.closed {
        wrong.push(format!(
            "an answer, and not the end of the connection: {} {:?}",
            answer.status, answer.body
        ));
        return;
    }
    if let Some(status) = request.status
        && !request.is_stream()
        && answer.status != status
    {
        wrong.push(format!(
            "status {}, not {status}; body {:?}",
            answer.status, answer.body
        ));
    }
    if let Some(expected) = &request.answer {
        let values = vec![answer.body.as_str()];
        compare("body", expected, &values, wrong);
    }
    if let Some(tls) = &answer.tls {
        let version = request.agreed_version.as_ref().map(|version| &version.0);
        for (what, wanted, got) in [
            ("certificate", request.shown.as_ref(), &tls.shown),
            ("protocol", request.agreed.as_ref(), &tls.agreed),
            ("version of TLS", version, &tls.version),
        ] {
            if let Some(wanted) = wanted
                && wanted != got
            {
                wrong.push(format!("the {what} was {got}, not {wanted}"));
            }
        }
    } else if request.shown.is_some() || request.agreed.is_some() {
        wrong.push("nothing came over TLS".to_owned());
    }
    check_headers("header", &request.response, &answer.headers, wrong);
    check_headers("trailer", &request.trailers, &answer.trailers, wrong);
    if let Some(least) = request.took.at_least
        && answer.took < least
    {
        wrong.push(format!("took {:?}, not at least {least:?}", answer.took));
    }
    if let Some(under) = request.took.under
        && answer.took >= under
    {
        wrong.push(format!("took {:?}, not under {under:?}", answer.took));
    }
}

fn check_seen(request: &Request, outcome: &Outcome, wrong: &mut Vec<String>) {
    let family = request.upstream.family.unwrap_or(request.family);
    if let Some(other) = outcome.seen.iter().find(|seen| seen.family != family) {
        let (pod, over) = (&other.pod, other.family.name());
        wrong.push(format!("{pod} got it over {over}, not {}", family.name()));
    }
    if request.is_stream() {
        if let (Some(to), Ok(answer)) = (&request.to, &outcome.answer) {
            let pod = answer.body.split_whitespace().nth(1).unwrap_or_default();
            if !is(pod, to) {
                wrong.push(format!("{pod} answered, not {to}"));
            }
            let tls = outcome.seen.last().map_or(&[][..], |seen| &seen.tls);
            check_headers("the server's TLS", &request.upstream.tls, tls, wrong);
        }
        return;
    }
    // A try at the same pod as a copy cannot be told from it; no case has that.
    let tries: Vec<&Seen> = outcome
        .seen
        .iter()
        .filter(|seen| !request.mirrored.keys().any(|pod| is(&seen.pod, pod)))
        .collect();
    for (pod, count) in &request.mirrored {
        let copies = outcome
            .seen
            .iter()
            .filter(|seen| is(&seen.pod, pod))
            .count();
        if copies != *count {
            wrong.push(format!("{copies} copies at {pod}, not {count}"));
        }
    }
    let expected = request
        .attempts
        .unwrap_or(usize::from(request.to.is_some()));
    if tries.len() != expected
        && request.shares.is_empty()
        && request.counts.is_empty()
        && !request.sticky
    {
        let pods: Vec<&str> = tries.iter().map(|seen| seen.pod.as_str()).collect();
        wrong.push(format!("{} tries {pods:?}, not {expected}", tries.len()));
    }
    let Some(last) = tries.last() else {
        return;
    };
    if let Some(to) = &request.to
        && !is(&last.pod, to)
    {
        wrong.push(format!("{} got it, not {to}", last.pod));
    }
    let wanted = &request.upstream;
    for (what, wanted, seen) in [
        ("method", &wanted.method, &last.method),
        ("path", &wanted.path, &last.path),
        ("host", &wanted.host, &last.host),
        ("body", &wanted.body, &last.body),
        ("version", &wanted.version, &last.version.to_owned()),
    ] {
        if let Some(wanted) = wanted
            && wanted != seen
        {
            wrong.push(format!("the server saw {what} {seen:?}, not {wanted:?}"));
        }
    }
    check_headers("the server's header", &wanted.headers, &last.headers, wrong);
    check_headers("the server's TLS", &wanted.tls, &last.tls, wrong);
}

fn check_headers(
    what: &str,
    expected: &BTreeMap<String, Value>,
    headers: &[(String, String)],
    wrong: &mut Vec<String>,
) {
    for (name, expected) in expected {
        let values: Vec<&str> = headers
            .iter()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        compare(&format!("{what} {name}"), expected, &values, wrong);
    }
}

/// `null` is absence, a scalar the whole value, a list all values of a repeated header; a map is `present`, `regex` (of
/// the whole) or `contains`.
fn compare(what: &str, expected: &Value, values: &[&str], wrong: &mut Vec<String>) {
    let joined = values.join(",");
    let good = match expected {
        Value::Null => values.is_empty(),
        Value::Array(all) => {
            let all: Vec<String> = all.iter().filter_map(text).collect();
            all.iter().map(String::as_str).eq(values.iter().copied())
        }
        Value::Object(map) => map.iter().all(|(key, argument)| {
            let argument = text(argument).unwrap_or_default();
            match key.as_str() {
                "present" => values.is_empty() != (argument == "true"),
                "contains" => joined.contains(&argument),
                "prefix" => joined.starts_with(&argument),
                "regex" => Regex::new(&format!(r"(?s)\A(?:{argument})\z"))
                    .is_ok_and(|regex| regex.is_match(&joined)),
                _ => false,
            }
        }),
        scalar => values.len() == 1 && text(scalar).as_deref() == values.first().copied(),
    };
    if !good {
        wrong.push(format!("{what}: {values:?}, not {expected}"));
    }
}

/// Compares what came of many requests of one kind.
pub fn many(request: &Request, outcomes: &[Outcome]) -> Vec<String> {
    let mut wrong = Vec::new();
    let total = f64::from(u32::try_from(outcomes.len()).unwrap_or(u32::MAX));
    let pods: Vec<&str> = outcomes.iter().filter_map(Outcome::pod).collect();
    for (pod, share) in &request.shares {
        let count = pods.iter().filter(|own| is(own, pod)).count();
        if !likely(count, total, *share) {
            wrong.push(format!(
                "{pod} got {count} of {total}, not a share of {share}"
            ));
        }
    }
    for (pod, [least, most]) in &request.counts {
        let count = pods.iter().filter(|own| is(own, pod)).count();
        if !(least..=most).contains(&&count) {
            wrong.push(format!(
                "{pod} got {count} of {total}, not {least} to {most}"
            ));
        }
    }
    for (status, range) in &request.statuses {
        let with_it = |outcome: &&Outcome| {
            outcome.answer.as_ref().map_or(0, |answer| answer.status) == *status
        };
        let count = outcomes.iter().filter(with_it).count();
        let good = match range.0.as_slice() {
            [share] if share.fract() != 0.0 => likely(count, total, *share),
            [exactly] => number(count) == *exactly,
            [least, most] => (*least..=*most).contains(&number(count)),
            _ => false,
        };
        if !good {
            wrong.push(format!(
                "{count} of {total} with {status}, not {:?}",
                range.0
            ));
        }
    }
    if request.sticky
        && let Some(first) = pods.first()
        && (pods.len() < outcomes.len() || pods.iter().any(|pod| pod != first))
    {
        let elsewhere = pods.iter().find(|pod| *pod != first);
        wrong.push(match elsewhere {
            Some(other) => format!("to {first} and to {other}, not always to one"),
            None => format!("{} of {total} came to a pod", pods.len()),
        });
    }
    if let Some(expected) = request.connections {
        let mut peers: Vec<(&str, u16)> = outcomes
            .iter()
            .flat_map(|outcome| &outcome.seen)
            .map(|seen| (seen.pod.as_str(), seen.peer))
            .collect();
        peers.sort_unstable();
        peers.dedup();
        if peers.len() != expected {
            wrong.push(format!("{} connections, not {expected}", peers.len()));
        }
    }
    wrong
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Within five standard deviations: a right split misses them once in a million runs.
fn likely(count: usize, total: f64, share: f64) -> bool {
    let deviation = (total * share * (1.0 - share)).sqrt();
    (number(count) - total * share).abs() <= 5.0 * deviation + 1e-9
}

impl Outcome {
    /// The pod that answered, or was last to see it.
    fn pod(&self) -> Option<&str> {
        self.seen.last().map(|seen| seen.pod.as_str())
    }
}

/// Whether a pod is the one that a case means: `b` is `b-v1` or `b-v2`.
pub fn is(pod: &str, wanted: &str) -> bool {
    pod.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}
