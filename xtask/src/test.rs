//! `cargo xtask test`: every test there is, and one plain line that counts them. What cannot run here is counted as
//! skipped, with the reason; nothing is left out in silence.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{
    build, cluster, envoy, helm,
    privilege::Privilege,
    screen::{Screen, Step},
    toolchain::Choice,
    workspace,
};

/// How many tests went which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs the tests whose names contain `filter`.
pub fn run(screen: Screen, choice: Choice, filter: Option<&str>) -> Result<ExitCode> {
    screen.heading("Building");
    let built = build::run(screen, choice, false)?;
    let packages = ["test", "--workspace", "--exclude", "mesh-tests"];
    screen.step(
        &Step::new("Building the unit tests").usually("1 to 2 minutes the first time"),
        workspace::cargo().args(packages).arg("--no-run"),
    )?;
    let mesh = build_mesh(screen)?;
    let envoy = envoy::pinned(screen);
    let cluster = wants_cluster(&mesh, filter)?.then(|| cluster::Reserved::new(screen));
    let helm = helm::pinned(screen);

    let mut counts = Counts::default();
    screen.heading("Unit and documentation tests");
    let mut unit = workspace::cargo();
    unit.args(packages).arg("--no-fail-fast").args(filter);
    counts.add(run_command(screen, &mut unit)?);

    screen.heading("Tests in namespaces");
    // Without root it skips by itself what needs root, and runs the rest.
    let mut command = Privilege::get().map_or_else(
        |reason| {
            screen.warn(&format!("Most of these are skipped: {reason:#}"));
            Command::new("env")
        },
        |privilege| privilege.command("env"),
    );
    command.current_dir(workspace::root().join("tests"));
    command.arg(format!("MESH_AGENT_BIN={}", built.agent.display()));
    if let Some(missing) = &built.without_ebpf {
        command.arg(format!("MESH_WITHOUT_EBPF={}", missing.reason));
    }
    command.arg(match &envoy {
        Ok(path) => format!("MESH_ENVOY={}", path.display()),
        Err(reason) => format!("MESH_WITHOUT_ENVOY={reason:#}"),
    });
    match &cluster {
        Some(Ok(reserved)) => {
            command.args(reserved.environment()?);
        }
        Some(Err(reason)) => {
            command.arg(format!("MESH_WITHOUT_CLUSTER=no Kubernetes: {reason:#}"));
        }
        None => {}
    }
    command.arg(match &helm {
        Ok(path) => format!("MESH_HELM={}", path.display()),
        Err(reason) => format!("MESH_WITHOUT_HELM={reason:#}"),
    });
    command.arg(&mesh).args(filter);
    counts.add(run_command(screen, &mut command)?);
    println!("\n{counts}");
    Ok(if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds the binary with the tests in namespaces, as whoever we are, so that root leaves no files in the user's folders.
fn build_mesh(screen: Screen) -> Result<PathBuf> {
    let mut command = workspace::cargo();
    command.args([
        "test",
        "--package",
        "mesh-tests",
        "--test",
        "mesh",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    let mut path = None;
    let mut said = Vec::new();
    let status = screen.lines(
        "Building the tests in namespaces (usually 1 to 2 minutes the first time)",
        &mut command,
        |progress, line| match executable_of(&line, "mesh") {
            Some(found) => path = Some(found),
            None if line.starts_with('{') => {}
            None => {
                progress.line(&line);
                said.push(line);
            }
        },
    )?;
    if !status.success() {
        for line in &said {
            println!("      {line}");
        }
        bail!("the tests in namespaces do not build");
    }
    path.context("cargo did not say where it put the tests in namespaces")
}

/// Whether a cluster is needed for the tests whose names contain `filter`.
fn wants_cluster(mesh: &Path, filter: Option<&str>) -> Result<bool> {
    let listed = Command::new(mesh)
        .arg("--list")
        .args(filter)
        .output()
        .with_context(|| format!("cannot start {}", mesh.display()))?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    Ok(listed.lines().any(|name| name.starts_with("cluster::")))
}

/// Where `cargo` put the test binary of this name, if this line of its messages says so.
fn executable_of(line: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let target = message.get("target")?.get("name")?.as_str()?;
    (target == name).then_some(())?;
    Some(PathBuf::from(message.get("executable")?.as_str()?))
}

/// Runs a command that runs tests.
fn run_command(screen: Screen, command: &mut Command) -> Result<Counts> {
    let mut output = Output::default();
    let status = screen.lines("Testing", command, |progress, line| {
        for shown in output.take(line) {
            match shown {
                Shown::Passing(line) => progress.passing(&line),
                Shown::Slow(line) => progress.line(&line),
                Shown::Kept(line) => progress.keep(&line),
            }
        }
    })?;
    for line in output.finish(status.success()) {
        screen.line(&line);
    }
    Ok(output.counts)
}

/// Makes sense of what test binaries print, one binary after the other. A binary that breaks off counts as a failure:
/// nobody knows of the tests that it did not come to.
#[derive(Debug, Default)]
struct Output {
    counts: Counts,
    /// What is being tested, as `cargo` says it.
    subject: String,
    /// Everything said since the last result.
    block: Vec<String>,
    /// Tests have begun, and their result has not come.
    running: bool,
}

/// What a line is to the screen.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    /// Of interest only while it happens.
    Passing(String),
    /// Worth a line in a log, where it is one of few.
    Slow(String),
    /// To stay.
    Kept(String),
}

impl Output {
    fn take(&mut self, line: String) -> Vec<Shown> {
        let mut shown = Vec::new();
        if let Some(subject) = subject_of(&line) {
            shown.extend(self.broken_off().into_iter().map(Shown::Kept));
            self.subject = subject;
            self.block.clear();
        }
        self.running |= line.starts_with("running ") && line.contains(" test");
        if let Some((test, why)) = line.split_once(" ... ignored") {
            shown.push(Shown::Kept(format!(
                "skipped: {}{why}",
                test.trim_start_matches("test ").trim()
            )));
        } else if self.subject.is_empty() {
            // The tests in namespaces take minutes, so a log shows them one by one.
            shown.push(Shown::Slow(line.clone()));
        } else {
            shown.push(Shown::Passing(line.clone()));
        }
        let result = result_of(&line);
        self.block.push(line);
        let Some(counts) = result else { return shown };
        self.running = false;
        self.counts.add(counts);
        if counts.failed > 0 {
            // What failed, and all that it said, stands under this heading; before it are the names of all the others.
            let start = self
                .block
                .iter()
                .position(|line| line == "failures:")
                .unwrap_or_default();
            shown.extend(self.block[start..].iter().cloned().map(Shown::Kept));
        }
        if counts != Counts::default() {
            shown.push(Shown::Kept(format!("{counts}: {}", self.name())));
        }
        self.block.clear();
        shown
    }

    /// What is left to say at the end of it all.
    fn finish(&mut self, success: bool) -> Vec<String> {
        let mut lines = self.broken_off();
        if !success && self.counts.failed == 0 {
            self.counts.failed = 1;
            lines.append(&mut self.block);
            lines.push(format!("failed without saying which test: {}", self.name()));
        }
        lines
    }

    fn broken_off(&mut self) -> Vec<String> {
        if !std::mem::take(&mut self.running) {
            return Vec::new();
        }
        self.counts.failed += 1;
        let mut lines = std::mem::take(&mut self.block);
        lines.push(format!(
            "broke off before its end, counted as 1 failed: {}",
            self.name()
        ));
        lines
    }

    fn name(&self) -> &str {
        if self.subject.is_empty() {
            "in namespaces"
        } else {
            &self.subject
        }
    }
}

/// `     Running unittests src/lib.rs (target/debug/deps/mesh_agent-0123)` and `   Doc-tests mesh_agent`.
fn subject_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(package) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{package}, documentation"));
    }
    let binary = line
        .strip_prefix("Running ")?
        .rsplit_once('(')?
        .1
        .trim_end_matches(')');
    let name = Path::new(binary).file_name()?.to_str()?;
    Some(
        name.rsplit_once('-')
            .map_or(name, |(name, _hash)| name)
            .to_owned(),
    )
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`.
fn result_of(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let count = |what: &str| {
        rest.split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(what))
            .and_then(|n| n.trim().parse().ok())
    };
    Some(Counts {
        passed: count(" passed")?,
        failed: count(" failed")?,
        skipped: count(" ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_result_lines() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s";
        assert_eq!(
            result_of(line),
            Some(Counts {
                passed: 5,
                failed: 2,
                skipped: 1
            })
        );
        assert_eq!(result_of("running 5 tests"), None);
    }

    #[test]
    fn a_binary_that_breaks_off_is_a_failure() {
        let mut output = Output::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/mesh_agent-0123abcd)",
            "running 300 tests",
            "test one ... ok",
            "thread 'two' has overflowed its stack",
        ] {
            output.take(line.to_owned());
        }
        let next = output.take(
            "     Running unittests src/main.rs (target/debug/deps/xtask-0123abcd)".to_owned(),
        );
        assert!(next.contains(&Shown::Kept("thread 'two' has overflowed its stack".into())));
        assert_eq!(
            output.counts,
            Counts {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
        output.take("running 1 test".to_owned());
        output.take(
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out".to_owned(),
        );
        assert!(output.finish(false).is_empty());
        assert_eq!(
            output.counts,
            Counts {
                passed: 1,
                failed: 1,
                skipped: 0
            }
        );
        output.take("running 5 tests".to_owned());
        assert_eq!(output.finish(false).len(), 2);
        assert_eq!(output.counts.failed, 2);
    }

    #[test]
    fn failures_are_shown_in_full_and_the_rest_is_not() {
        let mut output = Output::default();
        for line in [
            "running 2 tests",
            "test a ... ok",
            "test b ... FAILED",
            "failures:",
            "---- b ----",
            "1 is not 2",
        ] {
            output.take(line.to_owned());
        }
        let shown = output
            .take("test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured".to_owned());
        assert!(shown.contains(&Shown::Kept("1 is not 2".into())));
        assert!(!shown.contains(&Shown::Kept("test a ... ok".into())));
    }

    #[test]
    fn a_failure_without_a_name_counts() {
        let mut output = Output::default();
        output.take("env: no such file".to_owned());
        assert_eq!(output.finish(false).len(), 2);
        assert_eq!(output.counts.failed, 1);
    }

    #[test]
    fn what_is_skipped_says_why() {
        let mut output = Output::default();
        let shown = output.take("test flows::a::ebpf ... ignored, needs root; use sudo".to_owned());
        assert_eq!(
            shown,
            [Shown::Kept(
                "skipped: flows::a::ebpf, needs root; use sudo".into()
            )]
        );
    }

    #[test]
    fn names_what_is_tested() {
        let line = "     Running unittests src/lib.rs (target/debug/deps/mesh_agent-0123abcd)";
        assert_eq!(subject_of(line).as_deref(), Some("mesh_agent"));
        assert_eq!(
            subject_of("   Doc-tests mesh_agent").as_deref(),
            Some("mesh_agent, documentation")
        );
        assert_eq!(subject_of("test Running ... ok"), None);
    }

    #[test]
    fn finds_the_test_binary() {
        let line =
            r#"{"reason":"compiler-artifact","target":{"name":"mesh"},"executable":"/t/mesh-01"}"#;
        assert_eq!(
            executable_of(line, "mesh"),
            Some(PathBuf::from("/t/mesh-01"))
        );
        assert_eq!(
            executable_of(
                r#"{"reason":"compiler-artifact","target":{"name":"mesh"},"executable":null}"#,
                "mesh"
            ),
            None
        );
        assert_eq!(executable_of("warning: something", "mesh"), None);
    }

    #[test]
    fn the_last_line_is_plain() {
        let counts = Counts {
            passed: 3,
            failed: 0,
            skipped: 1,
        };
        assert_eq!(counts.to_string(), "3 passed, 0 failed, 1 skipped");
    }
}
