//! Debian's packages: which are there, and installing those that are missing.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    privilege::Privilege,
    screen::{Screen, Step},
    workspace,
};

/// Runs what it is given while no package may start a server of its own: what we start, we start ourselves.
const QUIETLY: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
"$@"
"#;

/// Installs those of the packages that are missing. `usually` says how long that takes.
pub fn install(screen: Screen, packages: &[&str], usually: &str) -> Result<()> {
    if workspace::find_program("apt-get").is_none() {
        bail!("this is no Debian");
    }
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted = missing.join(" ");
    let privilege = Privilege::get().with_context(|| format!("cannot install {wanted}"))?;
    screen.step(
        &Step::new("Reading Debian's package lists").usually("10 s"),
        &mut apt_get(privilege, &["update"]),
    )?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    let what = format!("Installing {wanted}");
    screen.step(
        &Step::new(&what).usually(usually),
        &mut apt_get(privilege, &arguments),
    )
}

/// `apt-get` that waits for its lock and asks nothing.
fn apt_get(privilege: Privilege, arguments: &[&str]) -> Command {
    let mut command = privilege.command("env");
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "sh", "-ec", QUIETLY, "sh"])
        .args(["apt-get", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments);
    command
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}
