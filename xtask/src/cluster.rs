//! `cargo xtask cluster`: a real Kubernetes of one node on this machine. Its programs are built once from Debian's source,
//! everything else is in Debian's packages.
//!
//! The node is the machine itself. It has etcd, API server, controllers, scheduler, kubelet, containerd and runc, and a
//! bridge with IPv4 and IPv6 for its pods. It has no kube-proxy and no DNS: a Service's address leads somewhere only for
//! pods in the mesh.

mod down;
mod files;
mod image;
mod layout;
mod part;
mod process;
mod programs;
mod reserved;
mod up;

use std::{
    io::{self, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

pub use self::reserved::Reserved;

use self::{layout::Layout, part::Part};
use crate::{debian, privilege::Privilege, screen::Screen, workspace};

/// What to do with it.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Build Kubernetes' programs into the cache, if they are not there (about 10 minutes)
    Build,
    /// Start it, or what of it does not run, and wait until it takes pods
    Up {
        #[command(flatten)]
        place: Place,
        /// The folder with Kubernetes' programs; the cache's if none is named
        #[arg(long, value_name = "FOLDER")]
        programs: Option<PathBuf>,
    },
    /// Make an image of a folder for its pods (`imagePullPolicy: Never`, or `IfNotPresent`)
    Image {
        #[command(flatten)]
        place: Place,
        /// The image's name, as Pods ask for it
        name: String,
        /// The folder that the container will see as `/`
        root: PathBuf,
        /// What the container runs, and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        entrypoint: Vec<String>,
    },
    /// Stop one part of it
    Stop {
        #[command(flatten)]
        place: Place,
        /// Without asking it to end
        #[arg(long)]
        kill: bool,
        /// Which
        part: Part,
    },
    /// Start one part of it again, and wait until it works
    Start {
        #[command(flatten)]
        place: Place,
        /// Which
        part: Part,
    },
    /// End all of it at once, as when the power goes, and start it again
    Reboot {
        #[command(flatten)]
        place: Place,
    },
    /// End it, its pods too, and remove all that it had
    Down {
        #[command(flatten)]
        place: Place,
        /// Not before standard input ends
        #[arg(long, hide = true)]
        at_end: bool,
    },
}

/// Which cluster.
#[derive(Debug, Args)]
pub struct Place {
    /// The cluster's folder: its data, its logs, its kubeconfig
    #[arg(
        long = "in",
        value_name = "FOLDER",
        default_value = "/var/tmp/mesh-agent-cluster"
    )]
    folder: PathBuf,
}

/// Does it.
pub fn run(screen: Screen, action: &Action) -> Result<ExitCode> {
    if let Action::Build = action {
        let folder = programs::ensure(screen)?;
        screen.good(&folder.display().to_string());
        return Ok(ExitCode::SUCCESS);
    }
    // Building is the user's, who has the cache; all else is root's.
    let prepared = match action {
        Action::Up { programs: None, .. } => Some(prepare(screen)?),
        _ => None,
    };
    if Privilege::get()? == Privilege::Sudo {
        let mut again = Privilege::Sudo.command(workspace::this_program()?);
        again.args(std::env::args_os().skip(1));
        if let Some(programs) = &prepared {
            again.arg("--programs").arg(programs);
        }
        return Err(again.exec()).context("cannot start sudo");
    }
    match action {
        Action::Build => {}
        Action::Up { place, programs } => {
            let programs = programs.as_ref().or(prepared.as_ref());
            let programs = programs.context("no programs")?;
            bring_up(screen, &place.folder, programs)?;
        }
        Action::Image {
            place,
            name,
            root,
            entrypoint,
        } => {
            let name = image::import(&place.known()?, name, root, entrypoint)?;
            screen.good(&name);
        }
        Action::Stop { place, kill, part } => down::stop(&place.known()?, *part, *kill)?,
        Action::Start { place, part } => up::start(&place.known()?, *part)?,
        Action::Reboot { place } => {
            let layout = place.known()?;
            down::cut(&layout)?;
            bring_up(screen, &layout.folder, &layout.programs)?;
        }
        Action::Down { place, at_end } => take_down(screen, &place.folder, *at_end)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Sees to it that this machine has everything that a cluster takes, and returns the folder with Kubernetes' programs.
fn prepare(screen: Screen) -> Result<PathBuf> {
    let missing = part::missing_packages();
    if !missing.is_empty() {
        debian::install(screen, &missing, "30 s, 300 MB on disk")
            .context("a cluster takes packages that Debian 12 has")?;
    }
    programs::ensure(screen).context("Kubernetes cannot be built here")
}

fn bring_up(screen: Screen, folder: &Path, programs: &Path) -> Result<()> {
    if !programs::complete(programs) {
        bail!("{} has not all of Kubernetes' programs", programs.display());
    }
    let missing = part::missing_packages();
    if !missing.is_empty() {
        bail!("install {}", missing.join(", "));
    }
    let started = std::time::Instant::now();
    let layout = up::run(screen, folder, programs).with_context(|| {
        format!(
            "the cluster did not come up; `cargo xtask cluster down --in {}` removes what there is of it",
            folder.display()
        )
    })?;
    let took = started.elapsed().as_secs();
    screen.good(&format!("{} is ready after {took} s", layout::NODE));
    let kubeconfig = layout.kubeconfig();
    screen.line("As root:");
    screen.typed(&format!("export KUBECONFIG={}", kubeconfig.display()));
    screen.typed("kubectl get pods --all-namespaces");
    screen.typed(&format!(
        "mesh-agent run --kubernetes --node {}",
        layout::NODE
    ));
    screen.line("Services are reached by pods in the mesh alone: there is no kube-proxy. When you are done:");
    screen.typed(&format!(
        "cargo xtask cluster down --in {}",
        layout.folder.display()
    ));
    Ok(())
}

fn take_down(screen: Screen, folder: &Path, at_end: bool) -> Result<()> {
    if at_end {
        // Nothing is ever written; whatever ends the reading means that nobody is left.
        let _ = io::stdin().read_to_end(&mut Vec::new());
    }
    match down::run(folder)? {
        true => screen.good("the cluster is gone"),
        false => screen.note(&format!("There is no cluster in {}", folder.display())),
    }
    Ok(())
}

impl Place {
    /// The cluster that is there.
    fn known(&self) -> Result<Layout> {
        Layout::find(&self.folder)?.with_context(|| {
            format!(
                "there is no cluster in {}: start one with `cargo xtask cluster up`",
                self.folder.display()
            )
        })
    }
}
