//! Makes a namespace's rules what they should be, stops steering, and removes every trace.
//!
//! Each of these reads what is there, decides what differs, and changes only that. One lock for each namespace keeps two
//! agents apart; a child that changes rules holds it too, so that a killed agent's last change is over before the
//! next agent looks.

use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::intercept::InterceptError;
use crate::intercept::iptables::command::{Backend, Programs};
use crate::intercept::iptables::kernel;
use crate::intercept::iptables::options::{BackendChoice, InboundMode, Options};
use crate::intercept::iptables::plan::{self, Known};
use crate::intercept::iptables::record::{Files, Record};
use crate::intercept::iptables::render::render;
use crate::intercept::iptables::rule::{Family, FamilyRules, RuleSet};
use crate::intercept::iptables::saved::Saved;
use crate::netns::NetNs;

/// What an apply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Who keeps the rules.
    pub backend: Backend,
    /// Whether anything had to be changed.
    pub changed: bool,
}

/// How long to wait for another agent that works on the same namespace.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// What `nf_conntrack_tcp_loose` is in a new namespace.
const TCP_LOOSE_DEFAULT: &str = "1";

/// Makes the namespace's rules those of `options`, whatever they were. On an error, a namespace that had none of our
/// rules has none again.
pub fn apply(netns: &NetNs, options: &Options) -> Result<Applied, InterceptError> {
    options
        .validate()
        .map_err(|e| InterceptError::step("checking the options of the chains", e))?;
    let mut options = options.clone();
    options.ipv6 &= kernel::has_ipv6(netns).map_err(entering)?;
    let session = Session::open(netns)?;
    let programs = Programs::choose(netns, options.backend, session.files.xtables_lock())?;
    let present = Present::read(&programs, options.ipv6)?;
    let result = session.converge(&options, &programs, &present);
    if result.is_err() && !present.has_ours() {
        session.roll_back(&options, &programs);
    }
    result
}

/// Takes the pod's new connections away from the chains, and leaves what translates the open ones. Says whether
/// anything had to be changed.
pub fn stop_steering(netns: &NetNs, options: &Options) -> Result<bool, InterceptError> {
    let session = Session::open(netns)?;
    session.remove(options, plan::stop_steering)
}

/// Whether there is a note of chains in the namespace, by whomever. It costs next to nothing to ask.
pub fn is_noted(netns: &NetNs) -> bool {
    Files::of(netns)
        .and_then(|files| files.read())
        .is_ok_and(|record| record != Record::default())
}

/// Removes every chain, every jump and every setting of ours, of both backends and families. Says whether there was
/// anything.
pub fn clean(netns: &NetNs, options: &Options) -> Result<bool, InterceptError> {
    let session = Session::open(netns)?;
    session.withdraw(options)
}

/// The right to work on a namespace.
struct Session<'a> {
    netns: &'a NetNs,
    files: Files,
    lock: Flock<File>,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Nobody uses it but under the lock, which is still ours.
        self.files.remove_lock();
    }
}

/// The rules that are there.
struct Present {
    v4: Saved,
    v6: Saved,
}

impl Present {
    fn read(programs: &Programs<'_>, ipv6_needed: bool) -> Result<Self, InterceptError> {
        let v6 = match programs.save(Family::V6) {
            Ok(saved) => saved,
            Err(e) if ipv6_needed => return Err(e),
            Err(_) => Saved::default(),
        };
        Ok(Self {
            v4: programs.save(Family::V4)?,
            v6,
        })
    }

    fn of(&self, family: Family) -> &Saved {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn has_ours(&self) -> bool {
        self.v4.has_ours() || self.v6.has_ours()
    }

    /// What must be restored so that `rules` are in force.
    fn difference(&self, rules: &RuleSet, record: &Record) -> Vec<(Family, String)> {
        [
            (Family::V4, Some(&rules.v4)),
            (Family::V6, rules.v6.as_ref()),
        ]
        .into_iter()
        .filter_map(|(family, wanted)| {
            let (saved, known) = (self.of(family), record.known(family));
            let text = match wanted {
                Some(wanted) => plan::converge(saved, wanted, known),
                None => plan::withdraw(saved, known),
            };
            Some((family, text?))
        })
        .collect()
    }
}

impl<'a> Session<'a> {
    fn open(netns: &'a NetNs) -> Result<Self, InterceptError> {
        let lock = lock(netns)
            .map_err(|e| InterceptError::step("locking the pod's network namespace", e))?;
        let files = Files::of(netns).map_err(noting)?;
        Ok(Self { netns, files, lock })
    }

    fn converge(
        &self,
        options: &Options,
        programs: &Programs<'_>,
        present: &Present,
    ) -> Result<Applied, InterceptError> {
        let rules = render(options);
        let before = self.files.read().map_err(noting)?;
        let changes = present.difference(&rules, &before);
        let mut record = before.clone();
        record.known4 = united(&before.known4, Some(&rules.v4));
        record.known6 = united(&before.known6, rules.v6.as_ref());
        // Connections that are open now are unknown to connection tracking. Unless told not to, it takes them for
        // new ones as soon as there is a redirect, and resets them.
        let loose = self.loose(programs)?;
        if loose != "0" || (record.tcp_loose.is_none() && !present.has_ours()) {
            record.tcp_loose = Some(loose.clone());
        }
        let mut changed = loose != "0";
        if record != before {
            self.files.write(&record).map_err(noting)?;
        }
        if loose != "0" {
            kernel::set_tcp_loose(self.netns, "0").map_err(setting)?;
        }
        changed |= self.prepare(options, &mut record)?;
        for (family, text) in &changes {
            tracing::debug!(?family, backend = %programs.backend(), rules = %text, "changing rules");
            programs.restore(*family, text, &self.lock)?;
            changed = true;
        }
        if let Some(other) = programs.abandoned()? {
            self.remove_from(&other, &record, plan::withdraw)?;
            changed = true;
        }
        record.known4 = plan::unmarked(&rules.v4);
        record.known6 = rules.v6.as_ref().map(plan::unmarked).unwrap_or_default();
        if !changes.is_empty() {
            verify(programs, &rules, &record)?;
        }
        if self.files.read().map_err(noting)? != record {
            self.files.write(&record).map_err(noting)?;
        }
        Ok(Applied {
            backend: programs.backend(),
            changed,
        })
    }

    /// The sysctl as it is. The first use of nat loads connection tracking, and the sysctl with it: for nf_tables that is
    /// a chain that hangs on a hook, which by itself tracks nothing yet.
    fn loose(&self, programs: &Programs<'_>) -> Result<String, InterceptError> {
        let read = || kernel::tcp_loose(self.netns).map_err(setting);
        if let Some(value) = read()? {
            return Ok(value);
        }
        programs.restore(
            Family::V4,
            "*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_INBOUND - [0:0]\nCOMMIT\n",
            &self.lock,
        )?;
        read()?.ok_or_else(|| InterceptError::Unsupported {
            what: "the kernel tracks no connections (no nf_conntrack_tcp_loose)".to_owned(),
            remedy: "load the module nf_conntrack on the node (modprobe nf_conntrack)".to_owned(),
        })
    }

    /// The address and the routes, each after the note of it.
    fn prepare(&self, options: &Options, record: &mut Record) -> Result<bool, InterceptError> {
        let mut changed = false;
        if options.ipv6 && !kernel::has_sidecar_address(self.netns).map_err(entering)? {
            record.added_address = true;
            self.files.write(record).map_err(noting)?;
            match kernel::add_sidecar_address(self.netns) {
                Ok(added) => changed |= added,
                // IPv6 may be compiled in and switched off; then nobody can use it either.
                Err(e) => tracing::warn!(
                    error = %e,
                    cause = std::error::Error::source(&e).map(tracing::field::display),
                    "no ::6 on the loopback device: the proxy cannot serve IPv6 in this pod"
                ),
            }
        }
        let wanted = (options.mode == InboundMode::Tproxy)
            .then_some((options.tproxy_mark, options.tproxy_table));
        if record.tproxy.is_some() && record.tproxy != wanted {
            self.remove_tproxy_route(record.tproxy)?;
            changed = true;
        }
        if record.tproxy != wanted {
            record.tproxy = wanted;
            self.files.write(record).map_err(noting)?;
        }
        if let Some((mark, table)) = wanted {
            changed |= kernel::add_tproxy_route(self.netns, mark, table, options.ipv6)?;
        }
        Ok(changed)
    }

    /// Undoes an apply that failed, as far as it got. The error to report is the one that it failed with.
    fn roll_back(&self, options: &Options, programs: &Programs<'_>) {
        let rules = render(options);
        let known = Record {
            known4: plan::unmarked(&rules.v4),
            known6: rules.v6.as_ref().map(plan::unmarked).unwrap_or_default(),
            ..Record::default()
        };
        let _ = match programs.abandoned() {
            // The pod was steered by the other backend, and still is.
            Ok(Some(_)) => self.remove_from(programs, &known, plan::withdraw),
            Ok(None) | Err(_) => self.withdraw(options),
        };
    }

    fn withdraw(&self, options: &Options) -> Result<bool, InterceptError> {
        let record = self.files.read().map_err(noting)?;
        let had_rules = self.remove(options, plan::withdraw)?;
        let had_note = record != Record::default();
        let tproxy = record
            .tproxy
            .or((options.mode == InboundMode::Tproxy && had_rules)
                .then_some((options.tproxy_mark, options.tproxy_table)));
        self.remove_tproxy_route(tproxy)?;
        // Without a note the chains are the only witness; the address came with them.
        if record.added_address || (had_rules && !had_note) {
            kernel::remove_sidecar_address(self.netns)?;
        }
        let loose = match (&record.tcp_loose, had_rules) {
            (Some(value), _) => Some(value.as_str()),
            (None, true) => Some(TCP_LOOSE_DEFAULT),
            (None, false) => None,
        };
        let is = kernel::tcp_loose(self.netns).map_err(setting)?;
        if let Some(value) = loose
            && is.is_some_and(|is| is != value)
        {
            kernel::set_tcp_loose(self.netns, value).map_err(setting)?;
        }
        self.files.remove();
        Ok(had_rules || had_note)
    }

    fn remove_tproxy_route(&self, route: Option<(u32, u32)>) -> Result<(), InterceptError> {
        if let Some((mark, table)) = route {
            kernel::remove_tproxy_route(self.netns, mark, table)?;
        }
        Ok(())
    }

    /// Removes what `plan` says from every backend that is installed. Says whether there was anything.
    fn remove(
        &self,
        options: &Options,
        plan: fn(&Saved, &Known) -> Option<String>,
    ) -> Result<bool, InterceptError> {
        let rules = render(options);
        let mut record = self.files.read().map_err(noting)?;
        // Without a note, what was asked for tells our rules.
        record.known4 = united(&record.known4, Some(&rules.v4));
        record.known6 = united(&record.known6, rules.v6.as_ref());
        let mut removed = false;
        let mut refusal = None;
        let mut reached = false;
        for backend in [Backend::Nft, Backend::Legacy, Backend::Plain] {
            if reached && backend == Backend::Plain {
                break;
            }
            let choice = BackendChoice::Forced(backend);
            match Programs::choose(self.netns, choice, self.files.xtables_lock()) {
                Ok(programs) => {
                    removed |= self.remove_from(&programs, &record, plan)?;
                    reached = true;
                }
                Err(e) => refusal = refusal.or(Some(e)),
            }
        }
        match refusal {
            Some(refusal) if !reached => Err(refusal),
            _ => Ok(removed),
        }
    }

    fn remove_from(
        &self,
        programs: &Programs<'_>,
        record: &Record,
        plan: fn(&Saved, &Known) -> Option<String>,
    ) -> Result<bool, InterceptError> {
        let present = Present::read(programs, false)?;
        let mut removed = false;
        for family in [Family::V4, Family::V6] {
            if let Some(text) = plan(present.of(family), record.known(family)) {
                programs.restore(family, &text, &self.lock)?;
                removed = true;
            }
        }
        Ok(removed)
    }
}

/// Reads back what was written.
fn verify(programs: &Programs<'_>, rules: &RuleSet, record: &Record) -> Result<(), InterceptError> {
    let present = Present::read(programs, rules.v6.is_some())?;
    let differences = present.difference(rules, record);
    if differences.is_empty() {
        return Ok(());
    }
    let text: Vec<String> = differences.into_iter().map(|(_, text)| text).collect();
    Err(InterceptError::step(
        "reading the rules back: somebody else changes them, or this iptables writes them differently. Still \
         missing is",
        text.join(""),
    ))
}

/// What was known, and what will be.
fn united(known: &Known, rules: Option<&FamilyRules>) -> Known {
    let mut result = known.clone();
    for rule in rules.map(plan::unmarked).unwrap_or_default() {
        if !result.contains(&rule) {
            result.push(rule);
        }
    }
    result
}

/// Locks the namespace itself: every agent that can reach it, from whatever container, sees the same lock.
fn lock(netns: &NetNs) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    // An own open file: the lock belongs to it, and goes with it.
    let mut file = netns.run(|| File::open("/proc/thread-self/ns/net"))??;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = back;
                thread::sleep(Duration::from_millis(10));
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another agent has worked on it for a minute; stop that one",
                ));
            }
            Err((_, e)) => return Err(e.into()),
        }
    }
}

fn entering(e: io::Error) -> InterceptError {
    InterceptError::step("entering the pod's network namespace", e)
}

fn noting(e: io::Error) -> InterceptError {
    InterceptError::step(
        "keeping a note of the namespace in /run/mesh-agent/iptables",
        e,
    )
}

fn setting(e: io::Error) -> InterceptError {
    InterceptError::step(
        "setting net.netfilter.nf_conntrack_tcp_loose in the pod's network namespace",
        e,
    )
}
