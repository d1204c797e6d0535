//! What happens when the agent goes, in good order or not.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_agent::model::{CapturePolicy, FailPolicy};
use mesh_agent::netns::NetNs;

use super::world::{Agent, Connection, Net, Server, Test, World, check, failure};
use super::{servers, traces, walk};

/// Names the pod, the directory and the policy for a process that plays an agent.
const ROLE: &str = "MESH_TEST_EBPF_AGENT";

pub fn tests() -> Vec<Test> {
    vec![
        ("ebpf::closed_listeners_refuse", closed_listeners_refuse),
        ("ebpf::closed_listeners_open", closed_listeners_open),
        ("ebpf::killed_agent_refuses", killed_agent_refuses),
        ("ebpf::killed_agent_lets_pass", killed_agent_lets_pass),
        ("ebpf::killed_agent_holds", killed_agent_holds),
        ("ebpf::a_sweep_spares_the_living", a_sweep_spares_the_living),
        ("ebpf::a_sweep_cleans_other_pods", a_sweep_cleans_other_pods),
    ]
}

/// In a child process of a test: enrols pod 0 and waits to be killed.
pub fn play_agent_if_asked() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let played = play_agent(&role);
    eprintln!("the agent ended: {played:?}");
    std::process::exit(1);
}

fn play_agent(role: &str) -> Result<()> {
    let mut words = role.split(' ');
    let mut word = || words.next().context("a short role");
    let (name, run, policy) = (word()?, word()?, word()?);
    let ns = NetNs::open(&Path::new("/run/netns").join(name))?;
    // The namespace is the parent's to remove.
    let net = std::mem::ManuallyDrop::new(Net {
        name: name.to_owned(),
        ns,
    });
    let agent = Agent::start_in(Path::new(run))?;
    let policy = with(match policy {
        "refuse" => FailPolicy::Refuse,
        "open" => FailPolicy::Open,
        "hold" => FailPolicy::Hold,
        other => bail!("policy {other}"),
    });
    let _enrolled = agent.enrol(&net, 0, &policy)?;
    println!("ready");
    // The parent kills us; if it died instead, its end of the pipe is closed.
    let _ = std::io::stdin().read_line(&mut String::new());
    Ok(())
}

struct OtherAgent(Child);

impl OtherAgent {
    fn start(net: &Net, run: &Path, policy: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(ROLE, format!("{} {} {policy}", net.name, run.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(child.stdout.take().context("no output")?)
            .lines()
            .next();
        let this = Self(child);
        ensure!(matches!(said, Some(Ok(line)) if line == "ready"));
        Ok(this)
    }

    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for OtherAgent {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn with(on_agent_loss: FailPolicy) -> CapturePolicy {
    CapturePolicy {
        on_agent_loss,
        ..CapturePolicy::default()
    }
}

const BOTH_WAYS: [&str; 2] = ["203.0.113.5:80", "[2001:db8::5]:80"];
const TO_POD: [&str; 2] = ["10.77.0.10:8080", "[fd77::10]:8080"];

/// Expects a refusal. The last descriptor of a listener may be closed a little later than the test did it: a process that
/// another test is starting has a copy until its `exec`.
fn refused(net: &Net, to: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match failure(net, to) {
            Ok(error) if error.raw_os_error() == Some(nix::libc::ECONNREFUSED) => return Ok(()),
            Ok(error) => bail!("{to}: {error}"),
            Err(e) if Instant::now() > deadline => return Err(e),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn closed_listeners_refuse() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _servers = (servers(&world.node, &[80])?, servers(pod, &[8080, 15021])?);
    let mut enrolled = agent.enrol(pod, 0, &with(FailPolicy::Refuse))?;
    enrolled.recorder = None;
    for to in BOTH_WAYS {
        refused(pod, to)?;
    }
    for to in TO_POD {
        refused(&world.node, to)?;
        check(pod, to, "direct")?;
    }
    check(&world.node, "10.77.0.10:15021", "direct")
}

fn closed_listeners_open() -> Result<()> {
    let world = World::new(1)?;
    let agent = Agent::start()?;
    let pod = &world.pods[0];
    let _servers = (servers(&world.node, &[80])?, servers(pod, &[8080])?);
    let mut enrolled = agent.enrol(pod, 0, &with(FailPolicy::Open))?;
    enrolled.recorder = None;
    for to in BOTH_WAYS {
        check(pod, to, "direct")?;
    }
    for to in TO_POD {
        check(&world.node, to, "direct")?;
    }
    Ok(())
}

fn killed_agent_refuses() -> Result<()> {
    let world = World::new(1)?;
    let run = tempfile::tempdir()?;
    let pod = &world.pods[0];
    let before = traces(pod)?;
    let _servers = (servers(&world.node, &[80])?, servers(pod, &[8080])?);
    let mut first = OtherAgent::start(pod, run.path(), "refuse")?;
    first.kill()?;
    ensure!(!walk(run.path()).is_empty(), "nothing is pinned");
    for to in BOTH_WAYS {
        refused(pod, to)?;
    }
    for to in TO_POD {
        refused(&world.node, to)?;
    }
    // A successor takes the pod over at once, and then clears up.
    let agent = Agent::start_in(run.path())?;
    refused(pod, BOTH_WAYS[0]).context("not enrolled yet")?;
    // The first agent had another idea of the pod: a rule that the second does not want.
    pod.ip("rule add priority 102 iif gone0 ipproto tcp table 101 protocol 137")?;
    let enrolled = agent.enrol(pod, 0, &with(FailPolicy::Refuse))?;
    for to in BOTH_WAYS {
        check(pod, to, "out")?;
    }
    for to in TO_POD {
        check(&world.node, to, "in")?;
    }
    let with_both = walk(run.path()).len();
    agent.sweep()?;
    agent.sweep().context("once more")?;
    ensure!(walk(run.path()).len() < with_both);
    check(pod, BOTH_WAYS[0], "out")?;
    // What the first agent found is what the second leaves.
    enrolled.enrolment.withdraw()?;
    let after = traces(pod)?;
    ensure!(after == before, "{after}\nbefore: {before}");
    drop(agent);
    ensure!(walk(run.path()).is_empty(), "{:?}", walk(run.path()));
    for to in BOTH_WAYS {
        check(pod, to, "direct")?;
    }
    Ok(())
}

fn killed_agent_lets_pass() -> Result<()> {
    let world = World::new(1)?;
    let run = tempfile::tempdir()?;
    let pod = &world.pods[0];
    let _servers = (servers(&world.node, &[80])?, servers(pod, &[8080])?);
    OtherAgent::start(pod, run.path(), "open")?.kill()?;
    for to in BOTH_WAYS {
        check(pod, to, "direct")?;
    }
    for to in TO_POD {
        check(&world.node, to, "direct")?;
    }
    let agent = Agent::start_in(run.path())?;
    let _enrolled = agent.enrol(pod, 0, &with(FailPolicy::Open))?;
    agent.sweep()?;
    check(pod, BOTH_WAYS[0], "out")?;
    check(&world.node, TO_POD[0], "in")
}

fn killed_agent_holds() -> Result<()> {
    let world = World::new(1)?;
    let run = tempfile::tempdir()?;
    let pod = &world.pods[0];
    let _server = Server::start(&world.node, "203.0.113.5:80")?;
    OtherAgent::start(pod, run.path(), "hold")?.kill()?;
    thread::scope(|scope| {
        let start = Instant::now();
        let waiting = scope.spawn(|| Connection::open(pod, BOTH_WAYS[0]));
        thread::sleep(Duration::from_millis(300));
        ensure!(!waiting.is_finished(), "it did not wait");
        let agent = Agent::start_in(run.path())?;
        let _enrolled = agent.enrol(pod, 0, &with(FailPolicy::Hold))?;
        let connection = waiting
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))??;
        ensure!(start.elapsed() >= Duration::from_millis(300));
        connection.expect("out", BOTH_WAYS[0])?.echo()?;
        agent.sweep()
    })?;
    // Neither another host's connection nor one over IPv6 can be held; both are refused, not let past.
    OtherAgent::start(pod, run.path(), "hold")?.kill()?;
    refused(pod, BOTH_WAYS[1])?;
    refused(&world.node, TO_POD[0])?;
    let agent = Agent::start_in(run.path())?;
    agent.sweep()
}

fn a_sweep_spares_the_living() -> Result<()> {
    let world = World::new(2)?;
    let run = tempfile::tempdir()?;
    let living = OtherAgent::start(&world.pods[0], run.path(), "refuse")?;
    let agent = Agent::start_in(run.path())?;
    let _second = agent.enrol(&world.pods[1], 1, &CapturePolicy::default())?;
    agent.sweep()?;
    check(&world.pods[0], BOTH_WAYS[0], "out")?;
    check(&world.node, TO_POD[0], "in")?;
    // Both agents may have a pod at once: the routes stay for the one that remains.
    let shared = {
        let listeners = super::listen_elsewhere(&world.pods[0])?;
        agent.enrol_with(
            &world.pods[0],
            &super::addresses(0),
            &CapturePolicy::default(),
            &listeners,
        )?
    };
    shared.withdraw()?;
    check(&world.pods[0], BOTH_WAYS[0], "out")?;
    check(&world.pods[0], BOTH_WAYS[1], "out")?;
    drop(living);
    agent.sweep()?;
    Ok(())
}

fn a_sweep_cleans_other_pods() -> Result<()> {
    let world = World::new(2)?;
    let run = tempfile::tempdir()?;
    let before = traces(&world.pods[0])?;
    let _servers = servers(&world.node, &[80])?;
    OtherAgent::start(&world.pods[0], run.path(), "refuse")?.kill()?;
    refused(&world.pods[0], BOTH_WAYS[0])?;
    // The pod is not wanted any more: the successor enrols another.
    let agent = Agent::start_in(run.path())?;
    let _other = agent.enrol(&world.pods[1], 1, &CapturePolicy::default())?;
    agent.sweep()?;
    let after = traces(&world.pods[0])?;
    ensure!(after == before, "{after}\nbefore: {before}");
    for to in BOTH_WAYS {
        check(&world.pods[0], to, "direct")?;
    }
    Ok(())
}
