//! The commands that ask: a directory of manifests what is wrong with it, or a running agent what it does.

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cli::{AnalyzeArgs, ClientArgs, ExplainArgs, InjectArgs, LogArgs, OutputFormat};
use crate::config::{self, Code, Severity};
use crate::explain::{self, Who, Wish};
use crate::inject::{self, Outcome, Workload};
use crate::model::CapturePolicy;
use crate::report::{Report, Style};

/// How long a running agent may take over an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// `mesh-agent analyze`.
pub fn analyze(args: &AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let Some(directory) = &args.manifests else {
        let explained = args.explain.map(meaning).unwrap_or_default();
        say(&explained)?;
        return Ok(ExitCode::SUCCESS);
    };
    let options = args.mesh.options(CapturePolicy::default());
    let checked = config::check(directory, &options)?;
    let report = Report::new(&checked);
    say(&match args.output {
        OutputFormat::Json => report.json()?,
        OutputFormat::Text => report.text(style(), config::file::text),
    })?;
    Ok(if report.summary().errors > 0 {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    })
}

fn meaning(code: Code) -> String {
    format!(
        "{code} {} ({})\n\n{}\n",
        code.name(),
        code.level().name(),
        code.explanation()
    )
}

/// Colours where someone looks who can see them (`no-color.org`).
fn style() -> Style {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    if std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb {
        Style::Coloured
    } else {
        Style::Plain
    }
}

/// `mesh-agent inject`.
pub fn inject(args: &InjectArgs) -> anyhow::Result<ExitCode> {
    let file = args.filename.display();
    let text = match args.filename.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()).context("reading standard input")?,
        false => {
            std::fs::read_to_string(&args.filename).with_context(|| format!("reading {file}"))?
        }
    };
    let injected = match inject::inject(&text) {
        Ok(injected) => injected,
        Err(wrong) => {
            eprintln!("mesh-agent: {file}: {wrong}");
            return Ok(ExitCode::from(2));
        }
    };
    let unlike = |workload: &&Workload| workload.outcome != Outcome::Asks;
    for workload in injected.workloads.iter().filter(unlike) {
        eprintln!("mesh-agent: {file}: {workload}");
    }
    if injected.workloads.is_empty() {
        eprintln!("mesh-agent: {file}: no workload is in it; it comes back as it was");
    }
    say(&injected.text)?;
    Ok(ExitCode::SUCCESS)
}

/// `mesh-agent explain`.
pub fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let options = args.mesh.options(CapturePolicy::default());
    let world = config::read(&args.manifests, &options)?;
    let broken = world
        .rejected
        .iter()
        .filter(|rejected| rejected.severity == Severity::Error)
        .count();
    if broken > 0 {
        let what = match broken {
            1 => "an error in these manifests is".to_owned(),
            several => format!("{several} errors in these manifests are"),
        };
        eprintln!(
            "mesh-agent: {what} left out of this: mesh-agent analyze --manifests {}\n",
            args.manifests.display()
        );
    }
    let from = args.from.as_ref().map(|name| Who::Pod(name.clone()));
    let gateway = args.gateway.as_ref().map(|name| Who::Gateway(name.clone()));
    let wish = Wish {
        who: from.or(gateway).unwrap_or_default(),
        url: args.url.clone(),
        method: Some(args.method.clone()),
        headers: args.headers.clone(),
        address: args.address,
    };
    let told = match explain::explain(&world, &wish) {
        Ok(told) => told,
        Err(wrong) => {
            eprintln!("mesh-agent: {wrong}");
            return Ok(ExitCode::from(2));
        }
    };
    say(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&told)? + "\n",
        OutputFormat::Text => told.text(style()),
    })?;
    Ok(match broken {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
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
    lines.extend(findings(&status["rejected"]));
    lines.push(String::new());
    lines.join("\n")
}

/// A line per finding.
fn findings(rejected: &Value) -> Vec<String> {
    let findings = rejected.as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    findings
        .map(|finding| {
            let code = finding["code"].as_str();
            let parts = ["object", "field", "message"].map(|part| text(&finding[part]));
            let parts = parts.into_iter().filter(|part| !part.is_empty());
            let remedy = match text(&finding["remedy"]) {
                remedy if remedy.is_empty() => remedy,
                remedy => format!("; {remedy}"),
            };
            format!(
                "{:<11} {}:{}: {}{remedy}{}",
                text(&finding["severity"]),
                text(&finding["file"]),
                finding["line"],
                parts.collect::<Vec<_>>().join(": "),
                code.map(|code| format!(" [{code}]")).unwrap_or_default(),
            )
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_a_line_per_finding() {
        let finding = |severity: &str, code: Option<&str>, remedy: &str| {
            serde_json::json!({
                "severity": severity, "code": code, "file": "a.yaml", "line": 3, "object": "Service default/a",
                "field": "", "message": "m", "remedy": remedy,
            })
        };
        let all = Value::from_iter([
            finding("error", Some("IST0106"), "r"),
            finding("warning", None, ""),
        ]);
        assert_eq!(
            findings(&all),
            [
                "error       a.yaml:3: Service default/a: m; r [IST0106]",
                "warning     a.yaml:3: Service default/a: m",
            ]
        );
        assert_eq!(findings(&Value::Null), Vec::<String>::new());
    }

    #[test]
    fn a_code_is_explained() {
        let text = meaning(Code::Ist0132);
        assert!(
            text.starts_with("IST0132 VirtualServiceHostNotFoundInGateway (warning)\n\nA VirtualService is bound to a Gateway that "),
            "{text}"
        );
        assert!(!text.contains("  "), "{text}");
    }
}
