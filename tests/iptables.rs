//! The iptables mode against real kernels' tables: every option set, both backends, both families, and what happens
//! when rules are lost, changed by others, or the agent is killed.
//!
//! Each test makes network namespaces of its own; they are gone when it ends.

mod connections;
mod namespace;
mod repair;

use std::collections::BTreeMap;
use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use mesh_agent::cli::iptables::{BackendFlag, Chains};
use mesh_agent::intercept::iptables::apply::{apply, clean};
use mesh_agent::intercept::iptables::command::Backend;
use mesh_agent::intercept::iptables::options::{BackendChoice, Options};
use mesh_agent::netns::NetNs;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use namespace::{Scratch, TOOLS, Tools, run, sysctl, with_lo};

/// Set for a child of ours that applies the rules of these flags.
const CHILD_FLAGS: &str = "MESH_TEST_IPTABLES_FLAGS";

/// Set for such a child that is to see no iptables: it then stands for an agent whose image has none.
const CHILD_HAS_NONE: &str = "MESH_TEST_IPTABLES_HAS_NONE";

/// A test: its name, and what it does.
pub type Test = (&'static str, fn() -> Result<()>);

/// The tests, by name.
pub fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = vec![
        ("iptables::listings_nft", || listings(&TOOLS[0])),
        ("iptables::listings_legacy", || listings(&TOOLS[1])),
        ("iptables::documented_listing", documented_listing),
        ("iptables::backends", backends),
        ("iptables::counters_stay", counters_stay),
        ("iptables::settings_are_restored", settings_are_restored),
        ("iptables::the_nodes_programs_do", the_nodes_programs_do),
    ];
    tests.extend(repair::tests());
    tests.extend(connections::tests());
    tests
}

/// To be called first of all, before anything is isolated: in a process that one of the tests has started to apply rules,
/// it does so, and does not return.
pub fn apply_if_asked() {
    if let Ok(flags) = env::var(CHILD_FLAGS) {
        let applied = child(&flags).inspect_err(|e| eprintln!("{e:#}"));
        exit(i32::from(applied.is_err()));
    }
}

/// What this program does where it is the child of a test: it applies rules to the namespace that is its standard input.
fn child(flags: &str) -> Result<()> {
    let netns = NetNs::open(Path::new("/proc/self/fd/0"))?;
    let options = options(flags)?;
    if env::var_os(CHILD_HAS_NONE).is_some() {
        hide_iptables()?;
    }
    // The parent counts from here.
    std::io::stdout().write_all(b"!")?;
    std::io::stdout().flush()?;
    apply(&netns, &options)?;
    Ok(())
}

/// Takes the directories with iptables out of this process's sight.
fn hide_iptables() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .filter(|directory| directory.is_dir())
        .collect();
    let has = |directory: &PathBuf| directory.join("iptables-nft-save").exists();
    ensure!(directories.iter().any(has), "there is nothing to hide");
    for directory in &directories {
        if has(directory) {
            let nothing = MsFlags::empty();
            mount(
                None::<&str>,
                directory,
                Some("tmpfs"),
                nothing,
                None::<&str>,
            )?;
        }
    }
    ensure!(!directories.iter().any(has), "iptables is still to be seen");
    Ok(())
}

/// This program again, as a child that applies the rules of `flags`.
fn apply_in_child(netns: &Scratch, flags: &str) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command
        .env(CHILD_FLAGS, flags)
        .stdin(Stdio::from(netns.file()?))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// Rules by table and chain, in order.
type Listing = BTreeMap<(String, String), Vec<String>>;

#[derive(Parser)]
struct Flags {
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendFlag,
    #[command(flatten)]
    chains: Chains,
}

fn options(flags: &str) -> Result<Options> {
    let words = flags
        .split_whitespace()
        .map(|word| if word == "''" { "" } else { word });
    let flags = Flags::try_parse_from(["iptables"].into_iter().chain(words))?;
    (flags.chains.options(flags.backend)).map_err(|problems| anyhow::anyhow!("{problems:?}"))
}

/// An agent in a container whose image has no iptables uses the node's, inside the pod's namespace.
fn the_nodes_programs_do() -> Result<()> {
    let flags = "--backend nft";
    let here = with_lo()?;
    apply(&here, &options(flags)?)?;
    let there = with_lo()?;
    let output = apply_in_child(&there, flags)?
        .env(CHILD_HAS_NONE, "1")
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let nft = &TOOLS[0];
    let (expected, found) = (nft.save4(&here)?, nft.save4(&there)?);
    ensure!(!listing(&expected).is_empty());
    same("v4", &listing(&found), &listing(&expected))?;
    same(
        "v6",
        &listing(&nft.save6(&there)?),
        &listing(&nft.save6(&here)?),
    )
}

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(path)
}

fn listing(text: &str) -> Listing {
    let mut table = "";
    let mut listing = Listing::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|r| r.split_once(' '))
        {
            let key = (table.to_owned(), chain.to_owned());
            listing.entry(key).or_default().push(rule.to_owned());
        }
    }
    listing
}

/// An option set with what it gives: IPv4, IPv6.
struct Set {
    name: String,
    options: Options,
    v4: Listing,
    v6: Listing,
}

fn sets() -> Result<Vec<Set>> {
    let mut sets = Vec::new();
    for file in std::fs::read_dir(data("iptables"))? {
        let path = file?.path();
        let text = std::fs::read_to_string(&path)?;
        let header = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            line.map(str::trim).context("no header")
        };
        let of_file = listing(&text);
        let (v4, v6) = match header("# family:")? {
            // The listing of IPv6 has the flags of S1, and the same IPv4 rules.
            "ipv6" => (
                listing(&std::fs::read_to_string(data("iptables/S1.txt"))?),
                of_file,
            ),
            _ => (of_file.clone(), as_ipv6(&of_file)),
        };
        sets.push(Set {
            name: path.display().to_string(),
            options: options(header("# flags:")?)?,
            v4,
            v6,
        });
    }
    ensure!(sets.len() == 20, "{} listings", sets.len());
    Ok(sets)
}

/// What the rules of IPv4 are in IPv6, where the options name IPv4 networks alone.
fn as_ipv6(v4: &Listing) -> Listing {
    let has_dns_server = |rule: &str| rule.contains("10.96.0.10/32");
    let server4 = v4.values().flatten().any(|r| has_dns_server(r));
    let mut v6 = Listing::new();
    for ((table, chain), rules) in v4 {
        // No server of the family, no capture.
        if server4 && (table == "raw" || chain == "ISTIO_OUTPUT_DNS") {
            continue;
        }
        let rules: Vec<String> = rules
            .iter()
            .map(|rule| {
                rule.replace("127.0.0.1/32", "::1/128")
                    .replace("127.0.0.0/8", "::1/128")
                    .replace("127.0.0.6/32", "::6/128")
                    .replace("--on-ip 0.0.0.0", "--on-ip ::")
            })
            .filter(|rule| {
                let v4_network = |w: &str| w.contains('/') && w.contains('.');
                let has_network = rule.split(' ').any(v4_network);
                let is_capture = server4 && rule == "-j ISTIO_OUTPUT_DNS";
                !has_network && !is_capture
            })
            .collect();
        v6.insert((table.clone(), chain.clone()), rules);
    }
    v6
}

fn same(what: &str, is: &Listing, wanted: &Listing) -> Result<()> {
    if is == wanted {
        return Ok(());
    }
    let keys: std::collections::BTreeSet<_> = is.keys().chain(wanted.keys()).collect();
    for key in keys {
        if is.get(key) != wanted.get(key) {
            bail!(
                "{what}: {key:?} is\n{:#?}\nand should be\n{:#?}",
                is.get(key),
                wanted.get(key)
            );
        }
    }
    Ok(())
}

fn forced(tools: &Tools, options: &Options) -> Options {
    Options {
        backend: BackendChoice::Forced(tools.backend),
        ..options.clone()
    }
}

/// Whether the namespace has `wanted` and nothing else.
fn check(netns: &NetNs, tools: &Tools, set: &Set) -> Result<()> {
    let (v4, v6) = (tools.save4(netns)?, tools.save6(netns)?);
    same(
        &format!("{} {} v4", set.name, tools.backend),
        &listing(&v4),
        &set.v4,
    )?;
    same(
        &format!("{} {} v6", set.name, tools.backend),
        &listing(&v6),
        &set.v6,
    )
}

fn listings(tools: &Tools) -> Result<()> {
    for set in sets()? {
        let netns = with_lo()?;
        let before = namespace::surroundings(&netns)?;
        let options = forced(tools, &set.options);
        let applied = apply(&netns, &options).with_context(|| set.name.clone())?;
        ensure!(
            applied.changed && applied.backend == tools.backend,
            "{applied:?}"
        );
        check(&netns, tools, &set)?;
        let applied = apply(&netns, &options)?;
        ensure!(
            !applied.changed,
            "{}: the second apply changed something",
            set.name
        );
        check(&netns, tools, &set)?;
        ensure!(clean(&netns, &options)?, "nothing to clean");
        tools.expect_empty(&netns)?;
        ensure!(!clean(&netns, &options)?, "cleaned twice");
        let after = namespace::surroundings(&netns)?;
        ensure!(
            before == after,
            "{}: before {before}\nafter {after}",
            set.name
        );
    }
    Ok(())
}

fn documented_listing() -> Result<()> {
    let wanted = std::fs::read_to_string(data("iptables-nat-S.txt"))?;
    for tools in &TOOLS {
        let netns = with_lo()?;
        apply(&netns, &forced(tools, &Options::default()))?;
        let is = run(&netns, tools.iptables4, &["-t", "nat", "-S"])?;
        ensure!(is == wanted, "{}:\n{is}", tools.backend);
    }
    // And by default, with whatever backend `iptables` itself is.
    let netns = with_lo()?;
    apply(&netns, &Options::default())?;
    let is = run(&netns, "iptables", &["-t", "nat", "-S"])?;
    ensure!(is == wanted, "{is}");
    Ok(())
}

fn backends() -> Result<()> {
    let [nft, legacy] = &TOOLS;
    let auto = Options::default();
    let netns = with_lo()?;
    ensure!(
        apply(&netns, &auto)?.backend == Backend::Nft,
        "nft comes first"
    );
    // Forced over: what the other one had is gone.
    ensure!(apply(&netns, &forced(legacy, &auto))?.backend == Backend::Legacy);
    nft.expect_empty(&netns)?;
    // And it stays where the rules are now.
    let again = apply(&netns, &auto)?;
    ensure!(
        again.backend == Backend::Legacy && !again.changed,
        "{again:?}"
    );
    clean(&netns, &auto)?;
    legacy.expect_empty(&netns)?;

    let netns = with_lo()?;
    run(
        &netns,
        legacy.iptables6,
        &["-A", "INPUT", "-p", "tcp", "--dport", "1", "-j", "DROP"],
    )?;
    ensure!(
        apply(&netns, &auto)?.backend == Backend::Legacy,
        "legacy rules live here"
    );
    let netns = with_lo()?;
    run(
        &netns,
        nft.iptables4,
        &["-A", "INPUT", "-p", "tcp", "--dport", "1", "-j", "DROP"],
    )?;
    ensure!(
        apply(&netns, &auto)?.backend == Backend::Nft,
        "nft rules live here"
    );
    Ok(())
}

fn counters_stay() -> Result<()> {
    for tools in &TOOLS {
        let pair = namespace::pair()?;
        let options = forced(tools, &Options::default());
        apply(&pair.pod, &options)?;
        // One packet to be counted, to a port that nobody listens on.
        pair.pod
            .run(|| std::net::TcpStream::connect((namespace::PEER4, 80)))?
            .ok();
        let count = || run(&pair.pod, tools.save4, &["-c"]);
        let counted = |text: &str| {
            let lines = text.lines().filter(|l| l.contains("-A ISTIO_REDIRECT"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let before = counted(&count()?);
        ensure!(before.iter().any(|l| l.starts_with("[1:")), "{before:?}");
        ensure!(!apply(&pair.pod, &options)?.changed);
        let after = counted(&count()?);
        ensure!(before == after, "{before:?} became {after:?}");
    }
    Ok(())
}

fn settings_are_restored() -> Result<()> {
    for before in ["1", "0"] {
        let netns = with_lo()?;
        sysctl(&netns, "net/netfilter/nf_conntrack_tcp_loose", Some(before))?;
        apply(&netns, &Options::default())?;
        let loose = |value| sysctl(&netns, "net/netfilter/nf_conntrack_tcp_loose", value);
        ensure!(loose(None)? == "0");
        let addresses = run(&netns, "ip", &["-6", "addr", "show", "dev", "lo"])?;
        ensure!(addresses.contains("inet6 ::6/128"), "{addresses}");
        // Whoever undoes it, it is put right; and what was there first is not forgotten.
        loose(Some("1"))?;
        run(&netns, "ip", &["-6", "addr", "del", "::6/128", "dev", "lo"])?;
        ensure!(apply(&netns, &Options::default())?.changed);
        ensure!(loose(None)? == "0");
        loose(Some("0"))?;
        clean(&netns, &Options::default())?;
        let after = loose(None)?;
        ensure!(after == "1" || before == "0", "was {before}, is {after}");
        let addresses = run(&netns, "ip", &["-6", "addr", "show", "dev", "lo"])?;
        ensure!(!addresses.contains("::6/128"), "{addresses}");
    }
    // An address that others gave stays.
    let netns = with_lo()?;
    run(&netns, "ip", &["-6", "addr", "add", "::6/128", "dev", "lo"])?;
    apply(&netns, &Options::default())?;
    clean(&netns, &Options::default())?;
    let addresses = run(&netns, "ip", &["-6", "addr", "show", "dev", "lo"])?;
    ensure!(addresses.contains("::6/128"), "{addresses}");
    Ok(())
}
