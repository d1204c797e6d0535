//! Logging: one line per event on standard error, filtered, and the filter can be changed while the process runs.

use std::io::IsTerminal;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// Targets that stay quiet unless the filter names them: the access log is asked for, not given, aya's loader speaks of
/// sections and relocations, and of each connection that kube's client cannot open we tell ourselves, once.
const QUIET: [&str; 4] = [
    "access=off",
    "aya=warn",
    "kube_client=off",
    "kube_runtime=off",
];

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line per event.
    Text,
    /// A JSON object per line.
    Json,
}

/// Reads and changes the filter in force.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

/// Starts logging. `filter` is in `tracing`'s syntax: `debug`, `info,access=info`.
pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<LogFilter> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lines = match format {
        LogFormat::Text => fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .boxed(),
        LogFormat::Json => fmt::layer()
            .with_writer(std::io::stderr)
            .json()
            .flatten_event(true)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .context("logging runs already")?;
    Ok(LogFilter(handle))
}

/// Whether [`start`] would take this filter; for the command line.
pub fn check(filter: &str) -> Result<String, String> {
    parse(filter)
        .map(|_| filter.to_owned())
        .map_err(|e| e.to_string())
}

impl LogFilter {
    /// The filter in force.
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Puts another filter in force, from the next event on.
    pub fn set(&self, filter: &str) -> anyhow::Result<()> {
        self.0.reload(parse(filter)?).context("logging has ended")
    }
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    let with_defaults = QUIET.iter().filter(|quiet| {
        let target = quiet.split('=').next().unwrap_or_default();
        !filter
            .split(',')
            .any(|directive| directive.trim().split('=').next() == Some(target))
    });
    let whole = with_defaults.fold(filter.to_owned(), |whole, quiet| format!("{whole},{quiet}"));
    // Its cause says the same again.
    EnvFilter::try_new(whole).map_err(|e| {
        anyhow!("{filter:?} is no log filter ({e}); write `debug`, `warn`, or `info,access=info` for an access log")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_is_off_unless_asked_for() {
        assert!(
            parse("info")
                .expect("valid")
                .to_string()
                .contains("access=off")
        );
        assert!(
            !parse("info,access=info")
                .expect("valid")
                .to_string()
                .contains("access=off")
        );
        assert!(parse("info,x=y=z").is_err());
    }
}
