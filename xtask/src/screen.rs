//! What a person sees: headings, lines, and long commands with their progress. Nothing else in `xtask` decides about
//! colours, and nothing here decides what is done.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, IsTerminal, PipeReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How much of a failed command's output is shown again where the screen had only its last line.
const SHOWN_ON_FAILURE: usize = 40;

/// Standard output, and whether a person with a terminal sits before it.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    terminal: bool,
    colour: bool,
}

/// A command that runs for long, and what to say about it.
#[derive(Debug)]
pub struct Step<'a> {
    /// What it does, as a sentence without its end: `Building the agent`.
    pub what: &'a str,
    /// How long it usually takes, if that is worth saying.
    pub usually: Option<&'a str>,
    /// When to give up on it.
    pub limit: Option<Duration>,
}

impl<'a> Step<'a> {
    /// A step without a limit.
    pub fn new(what: &'a str) -> Self {
        Self {
            what,
            usually: None,
            limit: None,
        }
    }

    /// Says how long it usually takes.
    pub fn usually(self, usually: &'a str) -> Self {
        Self {
            usually: Some(usually),
            ..self
        }
    }

    /// Ends the command when it has not ended by itself after `limit`.
    pub fn limit(self, limit: Duration) -> Self {
        Self {
            limit: Some(limit),
            ..self
        }
    }
}

impl Screen {
    /// Looks at standard output and at `NO_COLOR`.
    pub fn detect() -> Self {
        let terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { terminal, colour }
    }

    /// A numbered section.
    pub fn section(self, number: usize, title: &str) {
        println!("\n{}", self.paint("1;36", &format!("{number}. {title}")));
    }

    /// A section without a number.
    pub fn heading(self, title: &str) {
        println!("\n{}", self.paint("1;36", title));
    }

    /// A plain line.
    #[expect(
        clippy::unused_self,
        reason = "all that is written goes through the screen"
    )]
    pub fn line(self, text: &str) {
        println!("   {text}");
    }

    /// Several plain lines, as they came.
    pub fn block(self, text: &str) {
        for line in text.lines() {
            self.line(line.trim_end_matches('\r'));
        }
    }

    /// A command, as one would type it.
    pub fn typed(self, command: &str) {
        println!("   {}", self.paint("1", &format!("$ {command}")));
    }

    /// Something worth knowing, but not the point.
    pub fn note(self, text: &str) {
        println!("   {}", self.paint("2", text));
    }

    /// Something that came out as it should.
    pub fn good(self, text: &str) {
        println!("   {} {text}", self.paint("32", "ok"));
    }

    /// Something that did not.
    pub fn bad(self, text: &str) {
        println!("   {} {text}", self.paint("1;31", "WRONG"));
    }

    /// Something that is done differently from what was asked for.
    pub fn warn(self, text: &str) {
        println!("   {} {text}", self.paint("33", "note"));
    }

    /// Runs a command to its end, with a spinner and its last line of output on a terminal, and all of its output
    /// elsewhere. The command reads nothing. An exit code other than 0 is an error that carries the line that says why.
    pub fn step(self, step: &Step<'_>, command: &mut Command) -> Result<()> {
        let (mut child, output) = spawn_merged(command)?;
        let progress = Progress::start(self, step);
        let mut last = VecDeque::with_capacity(SHOWN_ON_FAILURE);
        let status = follow(&mut child, output, step.limit, |line| {
            progress.line(&line);
            if last.len() == SHOWN_ON_FAILURE {
                last.pop_front();
            }
            last.push_back(line);
        })?;
        progress.finish();
        if status.success() {
            return Ok(());
        }
        if self.terminal {
            for line in &last {
                eprintln!("      {line}");
            }
        }
        bail!("{}", reason(command, status, &last));
    }

    /// Runs a command and hands over every line of its output, both streams in the order in which they were written.
    pub fn lines(
        self,
        what: &str,
        command: &mut Command,
        mut each: impl FnMut(&Progress, String),
    ) -> Result<ExitStatus> {
        let (mut child, output) = spawn_merged(command)?;
        let progress = Progress::start(self, &Step::new(what));
        let status = follow(&mut child, output, None, |line| each(&progress, line))?;
        progress.finish();
        Ok(status)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// What is on the screen while a command runs.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn start(screen: Screen, step: &Step<'_>) -> Self {
        let what = match step.usually {
            Some(usually) => format!("{} (usually {usually})", step.what),
            None => step.what.to_owned(),
        };
        if !screen.terminal {
            println!("   {what}");
            return Self { bar: None };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) =
            ProgressStyle::with_template("   {spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar: Some(bar) }
    }

    /// Shows a line for as long as no other one comes.
    pub fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) if line.trim().is_empty() => bar.tick(),
            Some(bar) => bar.set_message(line.trim().to_owned()),
            None => println!("      {line}"),
        }
    }

    /// Shows a line only where it takes no room.
    pub fn passing(&self, line: &str) {
        if self.bar.is_some() {
            self.line(line);
        }
    }

    /// Shows a line for good.
    pub fn keep(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("   {line}")),
            None => println!("   {line}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            let (what, took) = (bar.prefix(), bar.elapsed().as_secs());
            bar.finish_and_clear();
            println!("   {what}: {took} s");
        }
    }
}

/// Starts a command that reads nothing and writes both streams into one pipe.
fn spawn_merged(command: &mut Command) -> Result<(Child, PipeReader)> {
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let second = writer.try_clone().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second);
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    // The command still holds both writing ends; the reader would wait for them for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok((child, reader))
}

/// Reads a child's output to the end of the child. A grandchild that keeps the pipe open does not keep us.
fn follow(
    child: &mut Child,
    output: PipeReader,
    limit: Option<Duration>,
    mut each: impl FnMut(String),
) -> Result<ExitStatus> {
    let started = Instant::now();
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                each(line);
                continue;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return child.wait().context("cannot wait for the command");
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = child.try_wait().context("cannot wait for the command")? {
            while let Ok(line) = lines.recv_timeout(Duration::from_millis(200)) {
                each(line);
            }
            return Ok(status);
        }
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            child.kill().context("cannot end the command")?;
        }
    }
}

/// One line that says why a command failed: its own first line of an error if there is one, else its last line.
fn reason(command: &Command, status: ExitStatus, last: &VecDeque<String>) -> String {
    let telling = last
        .iter()
        .find(|line| line.starts_with("error") || line.starts_with("E: "))
        .or_else(|| last.iter().rev().find(|line| !line.trim().is_empty()));
    let program = command.get_program().display();
    match telling {
        Some(line) => format!("{program}: {}", line.trim()),
        None => format!("{program} ended with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failed_step_says_why() {
        let screen = Screen {
            terminal: false,
            colour: false,
        };
        let failed = screen.step(
            &Step::new("Failing"),
            &mut shell("echo start; echo 'error: no such thing'; echo end; exit 3"),
        );
        assert_eq!(failed.unwrap_err().to_string(), "sh: error: no such thing");
        let silent = screen.step(&Step::new("Failing"), &mut shell("exit 3"));
        assert_eq!(
            silent.unwrap_err().to_string(),
            "sh ended with exit status: 3"
        );
    }

    #[test]
    fn a_step_ends_at_its_limit() {
        let screen = Screen {
            terminal: false,
            colour: false,
        };
        let started = Instant::now();
        let step = Step::new("Sleeping").limit(Duration::from_millis(200));
        assert!(screen.step(&step, &mut shell("exec sleep 20")).is_err());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn both_streams_arrive_in_order() {
        let screen = Screen {
            terminal: false,
            colour: false,
        };
        let mut seen = Vec::new();
        let status = screen.lines(
            "Talking",
            &mut shell("echo one; echo two >&2; echo three"),
            |_, line| seen.push(line),
        );
        assert!(status.unwrap().success());
        assert_eq!(seen, ["one", "two", "three"]);
    }
}
