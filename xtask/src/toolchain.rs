//! The tool chain that makes BPF objects: which one this machine has, and setting one up where it has none. It asks for
//! nothing, and a machine that cannot have one is told why in one line.

mod linker;
mod rustup;
mod system;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    screen::{Screen, Step},
    workspace,
};

/// Which tool chain to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// rustup's nightly where it works, else the system's packages
    #[default]
    Auto,
    /// rustup's nightly with rust-src
    Rustup,
    /// Rust and LLVM as the system's packages have them (Debian)
    System,
    /// None: the agent is built with the iptables mode only
    None,
}

/// A compiler that can build `core` for BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compiler {
    /// rustup's nightly, with `rust-src`.
    Rustup,
    /// `/usr/bin/rustc`, with the sources of its library.
    System,
}

/// A tool chain that has been seen to make a BPF object.
#[derive(Debug, Clone)]
pub struct Toolchain {
    compiler: Compiler,
    version: String,
    linker: PathBuf,
}

/// Why there is no tool chain on this machine, and what to do about it. Not an error: the agent builds without it.
#[derive(Debug, Clone)]
pub struct Missing {
    /// One line.
    pub reason: String,
}

/// Finds a tool chain, or sets one up.
pub fn ensure(screen: Screen, choice: Choice) -> Result<Toolchain, Missing> {
    let ways: &[Compiler] = match choice {
        Choice::Auto => &[Compiler::Rustup, Compiler::System],
        Choice::Rustup => &[Compiler::Rustup],
        Choice::System => &[Compiler::System],
        Choice::None => {
            return Err(Missing {
                reason: "it was switched off with --toolchain none".into(),
            });
        }
    };
    // What is there and works is taken as it is, before anything is fetched.
    for &compiler in ways {
        if let Some(found) = Toolchain::find(compiler)
            && found.proven(screen).is_ok()
        {
            return Ok(found);
        }
    }
    let failure = (choice == Choice::Auto)
        .then(Failure::of_this_machine)
        .flatten();
    if let Some(reason) = failure.as_ref().and_then(Failure::recent) {
        return Err(Missing {
            reason: format!("{reason} (tried within the hour; `--toolchain system` tries again)"),
        });
    }
    let mut reasons = Vec::new();
    for &compiler in ways {
        match Toolchain::set_up(screen, compiler) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => {
                let reason = format!("{}: {error:#}", compiler.name());
                screen.note(&format!("No BPF tool chain by way of {reason}"));
                reasons.push(reason);
            }
        }
    }
    let reason = reasons.join("; ");
    if let Some(failure) = failure {
        failure.remember(&reason);
    }
    Err(Missing { reason })
}

/// Why setting one up failed, kept for a while: a machine without a network would try in vain, and slowly, every time.
struct Failure {
    file: PathBuf,
}

impl Failure {
    fn of_this_machine() -> Option<Self> {
        Some(Self {
            file: workspace::cache().ok()?.join("no-bpf-toolchain"),
        })
    }

    fn recent(&self) -> Option<String> {
        let age = fs::metadata(&self.file)
            .ok()?
            .modified()
            .ok()?
            .elapsed()
            .ok()?;
        if age > Duration::from_secs(3600) {
            return None;
        }
        fs::read_to_string(&self.file).ok()
    }

    /// Where it cannot be kept, the next run tries again.
    fn remember(&self, reason: &str) {
        let _ = self.file.parent().map(fs::create_dir_all);
        let _ = fs::write(&self.file, reason);
    }
}

impl Toolchain {
    /// `cargo build` for `bpfel-unknown-none`, for the caller to say what of. Nothing of the `cargo` around us shows
    /// through, and the linker is named by its path, so what lies on `PATH` does not matter.
    pub fn cargo_build(&self) -> Command {
        let mut command = self.compiler.cargo();
        let flags = format!(
            "--cfg bpf_target_arch=\"{}\" -Cdebuginfo=2 -Clink-arg=--btf",
            std::env::consts::ARCH
        );
        command
            .args([
                "build",
                "--release",
                "--target",
                "bpfel-unknown-none",
                "-Zbuild-std=core",
            ])
            .env("RUSTFLAGS", flags)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            // The workspace's release profile is the agent's: the kernel knows no unwinding, and the BPF linker does
            // the whole-program optimisation itself.
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "2");
        command
    }

    /// What a person reads of it.
    pub fn describe(&self) -> String {
        format!("{}, {}", self.version, self.linker.display())
    }

    fn find(compiler: Compiler) -> Option<Self> {
        let (version, llvm) = compiler.version()?;
        let linker = linker::find(llvm)?;
        Some(Self {
            compiler,
            version,
            linker,
        })
    }

    fn set_up(screen: Screen, compiler: Compiler) -> Result<Self> {
        match compiler {
            Compiler::Rustup => rustup::set_up(screen)?,
            Compiler::System => system::set_up(screen)?,
        }
        let (version, llvm) = compiler
            .version()
            .context("its compiler or the sources of its library are still missing")?;
        let linker = linker::set_up(screen, llvm)?;
        let toolchain = Self {
            compiler,
            version,
            linker,
        };
        toolchain.proven(screen)?;
        Ok(toolchain)
    }

    /// Makes an object once per compiler and linker. A tool chain whose parts do not fit fails here, where another one
    /// can still be taken, and not in the middle of the build.
    fn proven(&self, screen: Screen) -> Result<()> {
        let seal = workspace::cache()?
            .join("proven")
            .join(file_name(&self.describe()));
        if seal.exists() {
            return Ok(());
        }
        let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
        fs::create_dir(dir.path().join("src"))?;
        fs::write(dir.path().join("Cargo.toml"), PROBE_MANIFEST)?;
        fs::write(dir.path().join("src/main.rs"), PROBE_PROGRAM)?;
        let mut command = self.cargo_build();
        command
            .current_dir(dir.path())
            .arg("--target-dir")
            .arg(dir.path().join("target"));
        let step = Step::new("Trying the BPF tool chain").usually("15 s");
        screen
            .step(&step, &mut command)
            .with_context(|| format!("{} cannot make a BPF object", self.describe()))?;
        if !dir
            .path()
            .join("target/bpfel-unknown-none/release/probe")
            .exists()
        {
            bail!("{} made no BPF object", self.describe());
        }
        fs::create_dir_all(seal.parent().context("the cache has no folder")?)?;
        fs::write(&seal, self.describe())?;
        Ok(())
    }
}

impl Compiler {
    fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::System => "the system's packages",
        }
    }

    fn cargo(self) -> Command {
        match self {
            Self::Rustup => rustup::command("cargo"),
            Self::System => system::cargo(),
        }
    }

    /// Its version and the major version of its LLVM, if it is there with the sources of its library.
    fn version(self) -> Option<(String, u32)> {
        let (mut ask_version, mut ask_sysroot) = match self {
            Self::Rustup => (rustup::command("rustc"), rustup::command("rustc")),
            Self::System => (system::rustc(), system::rustc()),
        };
        let sysroot = output(ask_sysroot.args(["--print", "sysroot"]))?;
        if !PathBuf::from(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
        {
            return None;
        }
        let version = parse_version(&output(ask_version.arg("-vV"))?)?;
        // Older than this, aya's BPF half does not build.
        (version.minor >= 85).then_some((version.line, version.llvm))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Version {
    line: String,
    minor: u32,
    llvm: u32,
}

/// Reads what `rustc -vV` prints.
fn parse_version(text: &str) -> Option<Version> {
    let line = text.lines().next()?.to_owned();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let minor = field("release:")?.split('.').nth(1)?.parse().ok()?;
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some(Version { line, minor, llvm })
}

/// A command's standard output, if it could be started and ended well.
fn output(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

fn file_name(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect()
}

const PROBE_MANIFEST: &str =
    "[package]\nname = \"probe\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n";

const PROBE_PROGRAM: &str = r#"#![no_std]
#![no_main]

#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
pub extern "C" fn probe(_context: *mut u8) -> i32 {
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_rustc_says() {
        let text = "rustc 1.96.0 (abc 2026-05-01) (built from a source tarball)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let version = parse_version(text).unwrap();
        assert_eq!((version.minor, version.llvm), (96, 22));
        assert!(version.line.starts_with("rustc 1.96.0"));
        let nightly =
            parse_version("rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\nLLVM version: 22.1\n")
                .unwrap();
        assert_eq!((nightly.minor, nightly.llvm), (97, 22));
        assert_eq!(parse_version("rustc 1.97.0"), None);
    }
}
