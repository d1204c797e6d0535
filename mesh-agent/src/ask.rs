//! The commands that ask: a directory of manifests what is wrong with it, or a running agent what it does.

use std::io::{Read, Write};
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
    match args.output {
        OutputFormat::Json => println!(
            "{:#}",
            Value::from_iter(rejected.iter().map(view::rejected))
        ),
        OutputFormat::Text => {
            for rejected in &rejected {
                println!("{rejected}");
            }
            println!("{errors} errors, {} warnings", rejected.len() - errors);
        }
    }
    Ok(if errors > 0 {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    })
}

/// `mesh-agent status`.
pub fn status(args: &ClientArgs) -> anyhow::Result<ExitCode> {
    let status: Value = serde_json::from_str(&request(args.admin, "GET", "/status", "")?)?;
    match args.output {
        OutputFormat::Json => println!("{status:#}"),
        OutputFormat::Text => print_status(&status),
    }
    let ready = status["ready"] == true;
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `mesh-agent config`.
pub fn config(args: &ClientArgs) -> anyhow::Result<ExitCode> {
    print!("{}", request(args.admin, "GET", "/config_dump", "")?);
    Ok(ExitCode::SUCCESS)
}

/// `mesh-agent log`.
pub fn log(args: &LogArgs) -> anyhow::Result<ExitCode> {
    let answer = match &args.filter {
        None => request(args.admin, "GET", "/logging", "")?,
        Some(filter) => request(args.admin, "POST", "/logging", filter)?,
    };
    print!("{answer}");
    Ok(ExitCode::SUCCESS)
}

fn print_status(status: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    println!(
        "{} {} {}",
        text(&status["role"]),
        text(&status["name"]),
        text(&status["version"])
    );
    if status["mode"].is_string() {
        println!(
            "mode        {}: {}",
            text(&status["mode"]),
            text(&status["mode_reason"])
        );
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
    println!("ready       {ready}");
    println!("generation  {}", status["generation"]);
    for pod in status["pods"].as_array().into_iter().flatten() {
        println!(
            "pod         {:<40} {:<9} {}",
            text(&pod["pod"]),
            text(&pod["mode"]),
            text(&pod["state"])
        );
    }
    for rejected in status["rejected"].as_array().into_iter().flatten() {
        println!(
            "{:<11} {}:{}: {}: {}: {}",
            text(&rejected["severity"]),
            text(&rejected["file"]),
            rejected["line"],
            text(&rejected["object"]),
            text(&rejected["field"]),
            text(&rejected["message"])
        );
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
