//! The commands that ask: a directory of manifests what is wrong with it, or a running agent what it does.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::admin::view;
use crate::cli::{AnalyzeArgs, ClientArgs, LogArgs, OutputFormat};
use crate::config::{self, CompileOptions, Severity};

/// How long a running agent may take over an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// `mesh-agent analyze`.
pub fn analyze(args: &AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let options = CompileOptions {
        unknown_fields: args.unknown_fields.into(),
        ..CompileOptions::default()
    };
    let (_, rejected) = config::load(&args.manifests, &options)?;
    let errors = rejected
        .iter()
        .filter(|rejected| rejected.severity == Severity::Error)
        .count();
    say(&match args.output {
        OutputFormat::Json => {
            let rejected = Value::from_iter(rejected.iter().map(view::rejected));
            format!("{rejected:#}\n")
        }
        OutputFormat::Text => {
            let mut lines: Vec<_> = rejected.iter().map(ToString::to_string).collect();
            let warnings = rejected.len() - errors;
            lines.push(format!("{errors} errors, {warnings} warnings\n"));
            lines.join("\n")
        }
    })?;
    Ok(if errors > 0 {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    })
}

/// `mesh-agent status`.
pub fn status(args: &ClientArgs) -> anyhow::Result<ExitCode> {
    let status: Value = serde_json::from_str(&request(args.admin, "GET", "/status", "")?)?;
    say(&match args.output {
        OutputFormat::Json => format!("{status:#}\n"),
        OutputFormat::Text => status_text(&status),
    })?;
    let ready = status["ready"] == true;
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `mesh-agent config`.
pub fn config(args: &ClientArgs) -> anyhow::Result<ExitCode> {
    say(&request(args.admin, "GET", "/config_dump", "")?)?;
    Ok(ExitCode::SUCCESS)
}

/// `mesh-agent log`.
pub fn log(args: &LogArgs) -> anyhow::Result<ExitCode> {
    let answer = match &args.filter {
        None => request(args.admin, "GET", "/logging", "")?,
        Some(filter) => request(args.admin, "POST", "/logging", filter)?,
    };
    say(&answer)?;
    Ok(ExitCode::SUCCESS)
}

fn status_text(status: &Value) -> String {
    let mut lines = Vec::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines.push(format!(
        "{} {} {}",
        text(&status["role"]),
        text(&status["name"]),
        text(&status["version"])
    ));
    if status["mode"].is_string() {
        lines.push(format!(
            "mode        {}: {}",
            text(&status["mode"]),
            text(&status["mode_reason"])
        ));
    }
    let waiting: Vec<_> = status["waiting_for"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    let ready = if waiting.is_empty() {
        "yes".to_owned()
    } else {
        format!("no, waiting for {}", waiting.join(", "))
    };
    lines.push(format!("ready       {ready}"));
    lines.push(format!("generation  {}", status["generation"]));
    for pod in status["pods"].as_array().into_iter().flatten() {
        lines.push(format!(
            "pod         {:<40} {:<9} {}",
            text(&pod["pod"]),
            text(&pod["mode"]),
            text(&pod["state"])
        ));
    }
    for rejected in status["rejected"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{:<11} {}:{}: {}: {}: {}; {}",
            text(&rejected["severity"]),
            text(&rejected["file"]),
            rejected["line"],
            text(&rejected["object"]),
            text(&rejected["field"]),
            text(&rejected["message"]),
            text(&rejected["remedy"])
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Prints, unless whoever reads has seen enough.
fn say(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("printing"),
    }
}

/// One HTTP/1.0 request: the answer ends with the connection, so nothing else needs to be understood.
fn request(admin: SocketAddr, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {admin}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(|| {
        format!(
            "no agent answers at {admin}; is it running, in this network namespace? Say where with --admin ADDRESS"
        )
    })?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is not HTTP")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{}", body.trim_end());
    }
    Ok(body.to_owned())
}
