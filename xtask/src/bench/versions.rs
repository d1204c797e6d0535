//! Which versions of other programs are measured, and measured with.

use std::{path::Path, process::Command};

use crate::workspace;

/// What each says of itself, in one line; what is not there says nothing.
pub(super) fn of_others(envoy: Option<&Path>) -> String {
    let programs = [
        ("haproxy", "-v", "HAProxy version "),
        ("nginx", "-v", "nginx version: nginx/"),
        ("wrk", "-v", "wrk "),
        ("h2load", "--version", "h2load nghttp2/"),
    ];
    let mut versions: Vec<String> = programs
        .iter()
        .filter_map(|(program, argument, before)| {
            let path = workspace::find_program(program)?;
            let version = version(&said(&path, argument)?, before)?;
            Some(format!("{program} {version}"))
        })
        .collect();
    let envoy = envoy.and_then(|envoy| version_of_envoy(&said(envoy, "--version")?));
    versions.extend(envoy.map(|version| format!("Envoy {version}")));
    versions.join(", ")
}

fn said(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The word behind `before`.
fn version(text: &str, before: &str) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(before))?;
    Some(rest.split_whitespace().next()?.to_owned())
}

/// `... version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn version_of_envoy(text: &str) -> Option<String> {
    let rest = text.split("version: ").nth(1)?;
    Some(rest.split('/').nth(1)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_programs_say_of_themselves() {
        for (text, before, expected) in [
            (
                "HAProxy version 2.6.12-1 2026/10/17 - https://haproxy.org/\n",
                "HAProxy version ",
                Some("2.6.12-1"),
            ),
            (
                "nginx version: nginx/1.22.1\n",
                "nginx version: nginx/",
                Some("1.22.1"),
            ),
            (
                "wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012\n",
                "wrk ",
                Some("debian/4.1.0-3+b2"),
            ),
            ("usage\n", "wrk ", None),
        ] {
            assert_eq!(version(text, before).as_deref(), expected);
        }
        let envoy = "envoy  version: 0a1b/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(version_of_envoy(envoy).as_deref(), Some("1.40.0"));
    }
}
