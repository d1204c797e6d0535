//! The differences between the modes that are allowed. There is no other list: the README shows these sentences, and a
//! row of the table may only deviate if it has one here.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::table::rows;
use crate::{Run, Test};

/// A difference: the row of the matrix that shows it, and a sentence for the README.
#[derive(Debug)]
pub struct Difference {
    /// The row.
    pub row: u8,
    /// The sentence.
    pub text: &'static str,
}

/// All of them.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        row: 16,
        text: "A process of the pod that runs as user or group 1337 and calls the pod's own address comes back in through the proxy in iptables mode, and goes direct in eBPF mode.",
    },
    Difference {
        row: 17,
        text: "The same on port 15008: the chains of profile `listed` make no exception for it; in profile `current`, and in eBPF mode, it goes direct.",
    },
    Difference {
        row: 44,
        text: "An application that binds 127.0.0.1 and connects to an outside address gets EINVAL in iptables mode, as without a mesh; in eBPF mode the connection works.",
    },
    Difference {
        row: 45,
        text: "An application that binds its socket to a device (`SO_BINDTODEVICE`) cannot connect in iptables mode; in eBPF mode it can.",
    },
    Difference {
        row: 48,
        text: "`SO_ORIGINAL_DST` on the agent's own sockets answers in iptables mode only; in eBPF mode the socket's own address is the original destination. Applications see neither.",
    },
    Difference {
        row: 50,
        text: "One source port used for two destinations at once may clash in iptables mode, because both connections are redirected to one address: conntrack gives the second another port on its way to the agent, or, where it cannot, its `connect` times out. In eBPF mode both work as they are.",
    },
];

/// None of them needs root.
pub fn tests() -> Vec<Test> {
    let test = |name: &str, run: fn() -> Result<()>| Test {
        name: format!("flows::{name}"),
        lacking: None,
        needs_root: false,
        run: Run::boxed(run),
    };
    vec![
        test("every_deviation_is_allowed", every_deviation_is_allowed),
        test("readme_lists_the_differences", readme_lists_the_differences),
    ]
}

fn every_deviation_is_allowed() -> Result<()> {
    let allowed: BTreeSet<u8> = DIFFERENCES.iter().map(|d| d.row).collect();
    let deviating: BTreeSet<u8> = rows()
        .filter(|row| !row.unlike.is_empty())
        .map(|row| row.number)
        .collect();
    ensure!(
        allowed == deviating,
        "rows with a sentence: {allowed:?}; rows that deviate: {deviating:?}"
    );
    Ok(())
}

fn readme_lists_the_differences() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&path).context("reading README.md")?;
    let missing: Vec<String> = DIFFERENCES
        .iter()
        .filter(|difference| !readme.contains(difference.text))
        .map(|difference| format!("- {}", difference.text))
        .collect();
    ensure!(
        missing.is_empty(),
        "README.md must list every allowed difference; add these lines:\n{}",
        missing.join("\n")
    );
    Ok(())
}
