//! `cargo xtask check`: what must hold of the sources before they are tested.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    screen::{Screen, Step},
    tidy, workspace,
};

/// Runs every check, also after one that failed, and names those that did.
pub fn run(screen: Screen) -> Result<ExitCode> {
    let mut wrong = Vec::new();
    screen.heading("Checks");
    let checks: [(&str, &[&str], &str); 2] = [
        (
            "Formatting",
            &["fmt", "--all", "--check"],
            "run `cargo fmt --all`",
        ),
        (
            "Lints",
            &[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
            "see above",
        ),
    ];
    for (what, arguments, remedy) in checks {
        if let Err(error) = screen.step(&Step::new(what), workspace::cargo().args(arguments)) {
            screen.bad(&format!("{what}: {error:#}: {remedy}"));
            wrong.push(what);
        }
    }
    if workspace::find_program("cargo-deny").is_some() {
        let mut deny = workspace::cargo();
        deny.args([
            "deny",
            "--workspace",
            "check",
            "bans",
            "licenses",
            "sources",
        ]);
        if let Err(error) = screen.step(&Step::new("Dependencies"), &mut deny) {
            screen.bad(&format!("Dependencies: {error:#}"));
            wrong.push("Dependencies");
        }
    } else {
        screen.warn("Dependencies are not checked: cargo-deny is not installed (`cargo install cargo-deny --locked`)");
    }
    let untidy = tidy::findings(&workspace::root())?;
    for finding in &untidy {
        screen.bad(finding);
    }
    if !untidy.is_empty() {
        wrong.push("Tidiness");
    }
    if wrong.is_empty() {
        screen.good("all checks hold");
        return Ok(ExitCode::SUCCESS);
    }
    screen.bad(&format!("do not hold: {}", wrong.join(", ")));
    Ok(ExitCode::FAILURE)
}
