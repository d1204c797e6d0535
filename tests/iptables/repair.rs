//! What happens to the rules when others change them, options change, or agents are killed, fail or meet.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_agent::intercept::iptables::apply::{apply, clean, stop_steering};
use mesh_agent::intercept::iptables::command::Backend;
use mesh_agent::intercept::iptables::options::Options;
use mesh_agent::netns::NetNs;

use super::namespace::{self, TOOLS, Tools, run, with_lo};
use super::{Test, apply_in_child, as_ipv6, check, data, forced, listing, options, same, sets};

/// The tests, by name.
pub fn tests() -> Vec<Test> {
    vec![
        ("iptables::foreign_rules_stay", foreign_rules_stay),
        ("iptables::damage_is_repaired", damage_is_repaired),
        ("iptables::options_change", options_change),
        ("iptables::killed_apply_converges", killed_apply_converges),
        ("iptables::two_at_once", two_at_once),
        (
            "iptables::failed_apply_leaves_nothing",
            failed_apply_leaves_nothing,
        ),
    ]
}

const FOREIGN: [&[&str]; 7] = [
    &[
        "-t",
        "nat",
        "-A",
        "PREROUTING",
        "-i",
        "other0",
        "-j",
        "RETURN",
    ],
    &[
        "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "9999", "-j", "ACCEPT",
    ],
    &["-t", "nat", "-N", "FOREIGN"],
    &[
        "-t",
        "nat",
        "-A",
        "FOREIGN",
        "-m",
        "comment",
        "--comment",
        "not -j ISTIO_OUTPUT",
        "-j",
        "RETURN",
    ],
    &["-t", "nat", "-A", "POSTROUTING", "-j", "FOREIGN"],
    &[
        "-t",
        "mangle",
        "-A",
        "PREROUTING",
        "-p",
        "udp",
        "-j",
        "MARK",
        "--set-mark",
        "7",
    ],
    &[
        "-t", "filter", "-A", "INPUT", "-p", "tcp", "--dport", "1", "-j", "DROP",
    ],
];

const FOREIGN_LATER: [&[&str]; 4] = [
    &[
        "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "9998", "-j", "ACCEPT",
    ],
    &[
        "-t", "nat", "-I", "OUTPUT", "1", "-p", "tcp", "--dport", "9997", "-j", "ACCEPT",
    ],
    &[
        "-t",
        "nat",
        "-A",
        "PREROUTING",
        "-p",
        "tcp",
        "--dport",
        "9996",
        "-j",
        "ACCEPT",
    ],
    &[
        "-t",
        "mangle",
        "-A",
        "OUTPUT",
        "-p",
        "udp",
        "-j",
        "MARK",
        "--set-mark",
        "7",
    ],
];

fn foreign_rules_stay() -> Result<()> {
    let flags = "--profile current -m TPROXY --drop-invalid -c net1 -k k6t-eth0";
    for tools in &TOOLS {
        for flags in ["", flags] {
            let options = forced(tools, &options(flags)?);
            let (netns, bare) = (with_lo()?, with_lo()?);
            for rule in FOREIGN.iter().chain(&FOREIGN_LATER) {
                both(tools, &bare, rule)?;
            }
            for rule in FOREIGN {
                both(tools, &netns, rule)?;
            }
            apply(&netns, &options)?;
            for rule in FOREIGN_LATER {
                both(tools, &netns, rule)?;
            }
            ensure!(
                !apply(&netns, &options)?.changed,
                "foreign rules were taken for damage"
            );
            let order = tools.save4(&netns)?;
            // What is ours is lost, and comes back to where it was.
            run(
                &netns,
                tools.iptables4,
                &["-t", "nat", "-F", "ISTIO_OUTPUT"],
            )?;
            let jump = ["-t", "nat", "-R", "OUTPUT"];
            let position = position(&netns, tools, "-j ISTIO_OUTPUT")?.to_string();
            let replaced = ["-p", "udp", "-j", "ISTIO_OUTPUT"];
            let arguments: Vec<&str> = (jump.iter().copied())
                .chain([position.as_str()])
                .chain(replaced)
                .collect();
            run(&netns, tools.iptables4, &arguments)?;
            ensure!(apply(&netns, &options)?.changed, "the damage was not seen");
            same(
                "repaired",
                &listing(&tools.save4(&netns)?),
                &listing(&order),
            )?;
            stop_steering(&netns, &options)?;
            clean(&netns, &options)?;
            for (after, bare) in [
                (tools.save4(&netns)?, tools.save4(&bare)?),
                (tools.save6(&netns)?, tools.save6(&bare)?),
            ] {
                ensure!(!after.contains("\n:ISTIO_"), "left behind:\n{after}");
                same("foreign rules", &listing(&after), &listing(&bare))?;
            }
        }
    }
    Ok(())
}

fn both(tools: &Tools, netns: &NetNs, rule: &[&str]) -> Result<()> {
    run(netns, tools.iptables4, rule)?;
    run(netns, tools.iptables6, rule)?;
    Ok(())
}

/// Which rule of OUTPUT in nat this is, from 1.
fn position(netns: &NetNs, tools: &Tools, ending: &str) -> Result<usize> {
    let rules = run(netns, tools.iptables4, &["-t", "nat", "-S", "OUTPUT"])?;
    let found = rules.lines().position(|l| l.ends_with(ending));
    found.context("no such rule")
}

fn damage_is_repaired() -> Result<()> {
    let damages: [&[&[&str]]; 12] = [
        &[&["-D", "ISTIO_OUTPUT", "3"]],
        &[&["-D", "ISTIO_OUTPUT", "1"], &["-D", "ISTIO_INBOUND", "2"]],
        &[&["-D", "PREROUTING", "-p", "tcp", "-j", "ISTIO_INBOUND"]],
        &[&["-D", "OUTPUT", "-p", "tcp", "-j", "ISTIO_OUTPUT"]],
        // The same rules in another order.
        &[
            &[
                "-D",
                "ISTIO_OUTPUT",
                "-m",
                "owner",
                "--uid-owner",
                "1337",
                "-j",
                "RETURN",
            ],
            &[
                "-A",
                "ISTIO_OUTPUT",
                "-m",
                "owner",
                "--uid-owner",
                "1337",
                "-j",
                "RETURN",
            ],
        ],
        &[&["-A", "OUTPUT", "-p", "tcp", "-j", "ISTIO_OUTPUT"]],
        &[&["-I", "ISTIO_INBOUND", "1", "-j", "RETURN"]],
        &[&[
            "-R",
            "ISTIO_REDIRECT",
            "1",
            "-p",
            "tcp",
            "-j",
            "REDIRECT",
            "--to-ports",
            "15002",
        ]],
        &[&["-F"]],
        &[&["-F"], &["-X"]],
        // What an ambient agent, or an older one of ours, may have left.
        &[
            &["-N", "ISTIO_PRERT"],
            &[
                "-A",
                "ISTIO_PRERT",
                "-p",
                "tcp",
                "-j",
                "REDIRECT",
                "--to-ports",
                "15006",
            ],
            &["-I", "PREROUTING", "1", "-j", "ISTIO_PRERT"],
        ],
        &[
            &["-I", "OUTPUT", "1", "-p", "udp", "-j", "ISTIO_OUTPUT"],
            &["-F", "ISTIO_IN_REDIRECT"],
        ],
    ];
    let wanted = listing(&format!(
        "*nat\n{}",
        std::fs::read_to_string(data("iptables-nat-S.txt"))?
    ));
    for tools in &TOOLS {
        let netns = with_lo()?;
        let options = forced(tools, &Options::default());
        apply(&netns, &options)?;
        for damage in damages {
            for command in damage {
                let arguments: Vec<&str> = ["-t", "nat"].iter().chain(*command).copied().collect();
                both(tools, &netns, &arguments)?;
            }
            ensure!(apply(&netns, &options)?.changed, "not seen: {damage:?}");
            same(
                &format!("{damage:?}"),
                &listing(&tools.save4(&netns)?),
                &wanted,
            )?;
            same(
                &format!("{damage:?}"),
                &listing(&tools.save6(&netns)?),
                &as_ipv6(&wanted),
            )?;
            ensure!(
                !apply(&netns, &options)?.changed,
                "repaired twice: {damage:?}"
            );
        }
    }
    Ok(())
}

/// From any option set to any other, without a trace of the first.
fn options_change() -> Result<()> {
    let sets = sets()?;
    for tools in &TOOLS {
        let netns = with_lo()?;
        for set in sets.iter().chain(sets.iter().rev()) {
            apply(&netns, &forced(tools, &set.options)).with_context(|| set.name.clone())?;
            check(&netns, tools, set)?;
        }
        // Without the flags that it was applied with.
        clean(&netns, &Options::default())?;
        tools.expect_empty(&netns)?;
    }
    Ok(())
}

fn killed_apply_converges() -> Result<()> {
    let flags = "--profile current -m TPROXY --drop-invalid -c net1 -k k6t-eth0";
    let wanted = options(flags)?;
    for tools in &TOOLS {
        let clean_one = with_lo()?;
        apply(&clean_one, &forced(tools, &wanted))?;
        let (v4, v6) = (tools.save4(&clean_one)?, tools.save6(&clean_one)?);
        let untouched = {
            let fresh = with_lo()?;
            namespace::surroundings(&fresh)?
        };
        let mut unfinished = 0;
        for round in 0..30_u64 {
            let netns = with_lo()?;
            if tools.backend == Backend::Legacy {
                // What makes the child choose legacy.
                run(
                    &netns,
                    tools.iptables4,
                    &["-t", "nat", "-N", "ISTIO_OUTPUT"],
                )?;
            }
            let mut child = apply_in_child(&netns, flags)?.spawn()?;
            let mut begun = [0];
            let said = child.stdout.take().context("no output")?.read(&mut begun)?;
            ensure!(said == 1, "the child did not begin");
            thread::sleep(Duration::from_micros(round * 1700));
            child.kill()?;
            unfinished += usize::from(!child.wait()?.success());
            // At once: the killed agent's last child may still be at work.
            apply(&netns, &forced(tools, &wanted))?;
            same("v4", &listing(&tools.save4(&netns)?), &listing(&v4))?;
            same("v6", &listing(&tools.save6(&netns)?), &listing(&v6))?;
            ensure!(!apply(&netns, &forced(tools, &wanted))?.changed);
            clean(&netns, &Options::default())?;
            tools.expect_empty(&netns)?;
            let after = namespace::surroundings(&netns)?;
            ensure!(after == untouched, "round {round}: {after}");
        }
        ensure!(
            unfinished >= 5,
            "only {unfinished} of 30 were killed in time"
        );
    }
    Ok(())
}

fn two_at_once() -> Result<()> {
    for tools in &TOOLS {
        let netns = with_lo()?;
        let alone = with_lo()?;
        let options = forced(tools, &Options::default());
        apply(&alone, &options)?;
        for _ in 0..5 {
            thread::scope(|scope| -> Result<()> {
                let threads: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| apply(&netns, &options)))
                    .collect();
                let mut changed = 0;
                for thread in threads {
                    let applied = thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
                    changed += usize::from(applied.changed);
                }
                ensure!(changed == 1, "{changed} of 4 changed something");
                Ok(())
            })?;
            same(
                "v4",
                &listing(&tools.save4(&netns)?),
                &listing(&tools.save4(&alone)?),
            )?;
            same(
                "v6",
                &listing(&tools.save6(&netns)?),
                &listing(&tools.save6(&alone)?),
            )?;
            clean(&netns, &options)?;
        }
    }
    Ok(())
}

fn failed_apply_leaves_nothing() -> Result<()> {
    let [nft, legacy] = &TOOLS;
    for (tools, other, broken) in [
        (nft, legacy, "ip6tables-nft-restore"),
        (legacy, nft, "ip6tables-legacy-restore"),
    ] {
        let netns = with_lo()?;
        let before = namespace::surroundings(&netns)?;
        let wrong = Options {
            exclude_interfaces: vec!["no way".to_owned()],
            outbound_port: 0,
            ..forced(tools, &Options::default())
        };
        let error = apply(&netns, &wrong).err().context("applied nonsense")?;
        let said = format!("{:#}", anyhow::Error::from(error));
        ensure!(
            said.contains("no way") && said.contains("outbound capture port"),
            "{said}"
        );

        // IPv4 goes in, IPv6 is refused.
        let programs = tempfile::tempdir()?;
        let path = programs.path().join(broken);
        std::fs::write(&path, "#!/bin/sh\necho 'no such luck' >&2\nexit 4\n")?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        let fail = || -> Result<()> {
            let flags = format!("-m TPROXY -c net1 --backend {}", tools.backend);
            let output = apply_in_child(&netns, &flags)?
                .env(
                    "PATH",
                    format!("{}:/usr/bin:/bin", programs.path().display()),
                )
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                !output.status.success() && said.contains("no such luck"),
                "{said}"
            );
            tools.expect_empty(&netns)
        };
        fail()?;
        let after = namespace::surroundings(&netns)?;
        ensure!(after == before, "{after}");
        // A pod that the other backend steers stays steered.
        apply(&netns, &forced(other, &Options::default()))?;
        let (v4, v6) = (other.save4(&netns)?, other.save6(&netns)?);
        fail()?;
        same("v4", &listing(&other.save4(&netns)?), &listing(&v4))?;
        same("v6", &listing(&other.save6(&netns)?), &listing(&v6))?;
        clean(&netns, &Options::default())?;
        let after = namespace::surroundings(&netns)?;
        ensure!(after == before, "{after}");
    }
    Ok(())
}
