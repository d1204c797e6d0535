//! Tests of the whole agent, in namespaces of their own.
//!
//! Every test gets a thread with a network and a mount namespace of its own, so that they neither meet each other nor
//! the host. All of it needs root; without root these tests are skipped, and say so.

mod agent;
mod analysis;
mod corpus;
mod ebpf;
mod flows;
mod gateway;
mod gateway_tls;
mod http;
mod iptables;
mod life;
mod load;
mod manifests;
mod one_hop;
mod protocols;
mod raw;
mod servers;
mod world_tests;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Uid;

use agent::Mode;

/// One test.
struct Test {
    name: String,
    /// What this machine lacks for it; then it is skipped.
    lacking: Option<String>,
    needs_root: bool,
    run: Run,
}

/// A test that is the same whatever it runs in.
type Plain = fn() -> Result<()>;

/// A test that runs once in each mode.
type InMode = fn(Mode) -> Result<()>;

/// What a test does.
struct Run(Box<dyn FnOnce() -> Result<()> + Send>);

/// An error that says that the machine lacks something, found out in the middle of a test.
#[derive(Debug)]
struct Lacking(String);

fn main() -> ExitCode {
    ebpf::play_agent_if_asked();
    iptables::apply_if_asked();
    if let Some(code) = world_tests::supervised_program() {
        return code;
    }
    let arguments = Arguments::from_args();
    if arguments.list || !Uid::effective().is_root() {
        return run(arguments);
    }
    match mesh_tests::isolate_and_supervise(|| run(arguments)) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> ExitCode {
    // Two agents at a time would measure each other.
    arguments.test_threads.get_or_insert(1);
    raise_open_files();
    let mut tests = Vec::new();
    tests.extend(rooted(world_tests::tests()));
    tests.extend(rooted(iptables::tests()));
    tests.extend(rooted(ebpf::tests()).map(|test| Test {
        lacking: agent::without_ebpf(),
        ..test
    }));
    tests.extend(flows::tests());
    tests.extend(life::tests());
    tests.extend(gateway::tests());
    tests.extend(rooted(gateway_tls::tests()));
    tests.extend(protocols::tests());
    tests.extend(one_hop::tests());
    tests.extend(corpus::tests());
    tests.extend(analysis::tests());
    let trials = tests.into_iter().map(Test::trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Makes tests of plain functions that need root.
fn rooted(functions: Vec<(&'static str, Plain)>) -> impl Iterator<Item = Test> {
    functions.into_iter().map(|(name, run)| Test {
        name: name.to_owned(),
        lacking: None,
        needs_root: true,
        run: Run::boxed(run),
    })
}

/// Makes a test of each function in each of the modes.
fn in_modes(module: &str, modes: &[Mode], functions: &[(&str, InMode)]) -> Vec<Test> {
    let mut tests = Vec::new();
    for (name, run) in functions {
        for mode in modes {
            let (run, mode) = (*run, *mode);
            tests.push(Test {
                name: format!("{module}::{name}::{}", mode.name()),
                lacking: mode.lacking(),
                needs_root: true,
                run: Run::boxed(move || run(mode)),
            });
        }
    }
    tests
}

impl Run {
    fn boxed(run: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        Self(Box::new(run))
    }
}

impl Test {
    fn trial(self) -> Trial {
        let Self {
            name,
            lacking,
            needs_root,
            run,
        } = self;
        Trial::ignorable_test(name, move || {
            if needs_root && !Uid::effective().is_root() {
                return Ok(Completion::ignored_with("needs root; use sudo"));
            }
            if let Some(lacking) = lacking {
                return Ok(Completion::ignored_with(lacking));
            }
            let thread = std::thread::spawn(move || {
                if needs_root {
                    mesh_tests::isolate()?;
                }
                // The logs live in this thread's own file system.
                (run.0)().map_err(|e| if e.is::<Lacking>() { e } else { with_logs(&e) })
            });
            match thread.join() {
                Ok(Ok(())) => Ok(Completion::Completed),
                Ok(Err(e)) => match e.downcast::<Lacking>() {
                    Ok(Lacking(what)) => Ok(Completion::ignored_with(what)),
                    Err(e) => Err(Failed::from(format!("{e:#}"))),
                },
                Err(_) => Err(Failed::from("panicked; see above")),
            }
        })
    }
}

/// Adds the end of every log that the test's processes wrote.
fn with_logs(error: &anyhow::Error) -> anyhow::Error {
    let mut text = format!("{error:#}");
    let logs = std::fs::read_dir(Path::new(mesh_tests::FILES).join("logs"));
    for entry in logs.into_iter().flatten().flatten() {
        let path = entry.path();
        let tail = mesh_tests::tail(&path, 40);
        text += &format!("\n--- end of {} ---\n{tail}", path.display());
    }
    anyhow::Error::msg(text)
}

/// Some tests hold thousands of connections.
fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        eprintln!("could not raise the limit of open files: {e}");
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lacking {}
