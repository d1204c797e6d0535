//! Tests of the whole agent, in namespaces of their own.

mod world_tests;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::Uid;

type Test = (&'static str, fn() -> Result<()>);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = Uid::effective().is_root();
    if arguments.list || !root {
        return run(arguments, root);
    }
    match mesh_tests::isolate_and_supervise(|| run(arguments, root)) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments, root: bool) -> ExitCode {
    arguments.test_threads.get_or_insert(1);
    let tests: Vec<Test> = [world_tests::tests()].into_iter().flatten().collect();
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                std::thread::spawn(move || {
                    mesh_tests::isolate()?;
                    test()
                })
                .join()
                .map_err(|_| Failed::from("panicked"))?
                .map_err(|e| Failed::from(format!("{e:#}")))
            })
            .with_ignored_flag(!root)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
