//! The life of an agent: killed, stopped, started twice, given broken manifests, reloaded under load.

mod succession;
mod traces;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{OUTSIDE_V4, OUTSIDE_V6, Pod};
use nix::sys::signal::Signal;

use crate::agent::{Agent, MESHED, Mode, eventually};
use crate::flows::Facts;
use crate::flows::names::{APP_VIP, SELF_VIP, VIP, name};
use crate::flows::scene::Scene;
use crate::flows::talk::{connect, converse, failure};
use crate::http;
use crate::load::Load;
use crate::manifests::{ON_AGENT_LOSS, SOURCE};
use crate::{InMode, Test, in_modes};

const PATIENCE: Duration = Duration::from_secs(10);

/// Each in every mode that has an agent, but for what only the eBPF mode can do.
pub fn tests() -> Vec<Test> {
    let all: &[(&str, InMode)] = &[
        ("killed_agent_refuses", killed_agent_refuses),
        ("stopped_agent_leaves_nothing", stopped_agent_leaves_nothing),
        ("chosen_setting_stays", chosen_setting_stays),
        (
            "stopped_agent_finishes_requests",
            stopped_agent_finishes_requests,
        ),
        ("second_agent_steps_back", second_agent_steps_back),
        (
            "broken_manifest_keeps_last_good",
            broken_manifest_keeps_last_good,
        ),
        ("reload_under_load", reload_under_load),
        ("source_preserved", source_preserved),
        ("two_pods_at_once", two_pods_at_once),
    ];
    let ebpf: &[(&str, InMode)] = &[
        ("killed_agent_opens", killed_agent_opens),
        ("killed_agent_holds", killed_agent_holds),
    ];
    let mut tests = in_modes("life", &MESHED, all);
    tests.extend(in_modes("life", &[Mode::Ebpf], ebpf));
    tests.extend(succession::tests());
    tests
}

/// The ways that must all behave alike: out and in, IPv4 and IPv6.
fn ways(scene: &Scene) -> [(&Pod, SocketAddr); 4] {
    let outside = scene.world.outside();
    [
        (&scene.client, SocketAddr::from((OUTSIDE_V4, 80))),
        (&scene.client, SocketAddr::from((OUTSIDE_V6, 80))),
        (outside, SocketAddr::new(scene.app.ipv4.into(), 9001)),
        (outside, SocketAddr::new(scene.app.ipv6.into(), 9001)),
    ]
}

/// Connects and talks; what was seen.
fn talk(from: &Pod, target: SocketAddr) -> Result<Facts> {
    let mut facts = Facts::default();
    match from.run(|| connect(target, |_| Ok(())))? {
        Ok(stream) => {
            facts.note("connect", "ok");
            converse(stream, &mut facts);
        }
        Err(e) => facts.note("connect", failure(&e)),
    }
    Ok(facts)
}

/// That every way works, and through the agent.
fn expect_captured(scene: &Scene, agent: &Agent) -> Result<()> {
    let before = agent.accepted()?;
    expect_working(scene)?;
    let after = agent.accepted()?;
    let counted = (
        after.outbound - before.outbound,
        after.inbound - before.inbound,
    );
    ensure!(
        counted == (2, 2),
        "of 2 connections out and 2 in the agent accepted {counted:?}"
    );
    Ok(())
}

fn expect_working(scene: &Scene) -> Result<()> {
    for (from, target) in ways(scene) {
        let facts = talk(from, target)?;
        ensure!(
            facts.get("end") == "fin" && facts.get("echo") == "intact",
            "{} to {target}: {facts}",
            from.name
        );
    }
    Ok(())
}

/// Kills the agent; its guard stays, for the log.
fn kill(scene: &mut Scene) -> Result<Agent> {
    let mut agent = scene.agent.take().context("there is no agent")?;
    agent.process.signal(Signal::SIGKILL)?;
    agent.process.wait(PATIENCE)?;
    // A program that the agent was about to run, as it does every few seconds to look at the chains, has all its listeners
    // for as long as it takes from `fork` to `exec`, which the agent's death does not shorten.
    for pod in [&scene.client, &scene.app] {
        eventually(PATIENCE, || {
            listeners(pod).is_ok_and(|left| left.is_empty())
        })
        .with_context(|| format!("{} still has {:?}", pod.name, listeners(pod)))?;
    }
    Ok(agent)
}

/// The sockets that listen in a pod where the agent does, as the kernel lists them.
fn listeners(pod: &Pod) -> Result<Vec<String>> {
    const LISTEN: &str = "0A";
    let ports = [":3A99", ":3A9E"];
    let mut found = Vec::new();
    for file in ["tcp", "tcp6"] {
        let path = format!("/proc/thread-self/net/{file}");
        let text = pod.run(|| std::fs::read_to_string(path))??;
        found.extend(text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state) = (words.next()?, words.nth(1)?);
            let ours = ports.iter().any(|port| local.ends_with(port));
            (ours && state == LISTEN).then(|| line.to_owned())
        }));
    }
    Ok(found)
}

fn killed_agent_refuses(mode: Mode) -> Result<()> {
    let mut scene = Scene::build(mode, &[], true)?;
    expect_captured(&scene, scene.agent()?)?;
    kill(&mut scene)?;
    for (from, target) in ways(&scene) {
        let started = Instant::now();
        let facts = talk(from, target)?;
        ensure!(
            facts.get("connect") == "ECONNREFUSED",
            "with the agent dead, {} to {target}: {facts}",
            from.name
        );
        ensure!(
            started.elapsed() < Duration::from_millis(500),
            "the refusal took {:?}",
            started.elapsed()
        );
    }
    let agent = Agent::start(&scene.world, scene.manifests.path(), mode)?;
    expect_captured(&scene, &agent).context("after the restart")
}

fn killed_agent_opens(mode: Mode) -> Result<()> {
    let mut scene = Scene::build(mode, &[(ON_AGENT_LOSS, "open")], true)?;
    expect_captured(&scene, scene.agent()?)?;
    kill(&mut scene)?;
    expect_working(&scene).context("with the agent dead")?;
    let agent = Agent::start(&scene.world, scene.manifests.path(), mode)?;
    expect_captured(&scene, &agent).context("after the restart")
}

/// A connection that is opened while the agent is dead waits for its successor.
fn killed_agent_holds(mode: Mode) -> Result<()> {
    let mut scene = Scene::build(mode, &[(ON_AGENT_LOSS, "hold")], true)?;
    kill(&mut scene)?;
    let client = scene.client.clone();
    let waiting = thread::spawn(move || {
        let target = SocketAddr::from((OUTSIDE_V4, 80));
        let stream = client.run(|| TcpStream::connect_timeout(&target, PATIENCE))??;
        let mut facts = Facts::default();
        converse(stream, &mut facts);
        anyhow::Ok((facts, Instant::now()))
    });
    thread::sleep(Duration::from_millis(300));
    ensure!(
        !waiting.is_finished(),
        "the connection did not wait for an agent"
    );
    let restarted = Instant::now();
    let agent = Agent::start(&scene.world, scene.manifests.path(), mode)?;
    let Ok(result) = waiting.join() else {
        bail!("the waiting connection's thread panicked");
    };
    let (facts, ended) = result.context("the waiting connection")?;
    ensure!(facts.get("end") == "fin", "the waiting connection: {facts}");
    ensure!(ended > restarted, "it was served before an agent was there");
    ensure!(
        agent.accepted()?.outbound == 1,
        "the waiting connection did not go through the agent"
    );
    Ok(())
}

/// Rules, routes, addresses, listeners, sysctls, pins: all as before.
fn stopped_agent_leaves_nothing(mode: Mode) -> Result<()> {
    let mut scene = Scene::build(Mode::None, &[], true)?;
    let before = traces::of(&scene)?;
    let mut agent = Agent::start(&scene.world, scene.manifests.path(), mode)?;
    expect_captured(&scene, &agent)?;
    ensure!(
        traces::of(&scene)? != before,
        "the agent left no trace even while it ran, so this test looks in the wrong places"
    );
    let status = agent.process.stop(PATIENCE)?;
    ensure!(
        status.code() == Some(0),
        "SIGTERM ended the agent with {status}"
    );
    let left = traces::difference(&before, &traces::of(&scene)?);
    ensure!(left.is_empty(), "the agent left:\n{}", left.join("\n"));
    expect_working(&scene).context("without an agent again")?;
    scene.agent = None;
    Ok(())
}

/// A pod's ports may be taken again early while it is enrolled, unless somebody has decided otherwise.
fn chosen_setting_stays(mode: Mode) -> Result<()> {
    const PATH: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
    let scene = Scene::build(Mode::None, &[], true)?;
    let (usual, chosen) = (&scene.client, &scene.app);
    chosen.run(|| std::fs::write(PATH, "0"))??;
    let values = || -> Result<[String; 2]> {
        let value = |pod: &Pod| -> Result<String> {
            Ok(pod
                .run(|| std::fs::read_to_string(PATH))??
                .trim()
                .to_owned())
        };
        Ok([value(usual)?, value(chosen)?])
    };
    let before = values()?;
    let mut agent = Agent::start(&scene.world, scene.manifests.path(), mode)?;
    let during = values()?;
    agent.process.stop(PATIENCE)?;
    let seen = [before, during, values()?];
    ensure!(seen == [["2", "0"], ["1", "0"], ["2", "0"]], "{seen:?}");
    Ok(())
}

/// SIGTERM under load: what was accepted is answered; what comes later goes direct, or finds nobody but never hangs.
fn stopped_agent_finishes_requests(mode: Mode) -> Result<()> {
    let mut scene = Scene::build(mode, &[], true)?;
    let target = SocketAddr::new(scene.app.ipv4.into(), 8080);
    let load = Load::start(&scene.client, target, "app-svc", &["/"], 2);
    thread::sleep(Duration::from_millis(700));
    let mut agent = scene.agent.take().context("there is no agent")?;
    let status = agent.process.stop(PATIENCE)?;
    thread::sleep(Duration::from_millis(300));
    let tally = load.stop()?;
    ensure!(
        status.code() == Some(0),
        "SIGTERM ended the agent with {status}"
    );
    tally.expect_faultless(50)
}

fn second_agent_steps_back(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[], true)?;
    let mut second = Agent::spawn(&scene.world, scene.manifests.path(), mode, "second")?;
    let status = second
        .process
        .wait(PATIENCE)
        .context("two agents run on one node")?;
    ensure!(
        status.code() == Some(1),
        "the second agent ended with {status}"
    );
    ensure!(
        !second.process.tail(5).is_empty(),
        "the second agent ended without a word"
    );
    expect_captured(&scene, scene.agent()?).context("after the second agent went")
}

fn broken_manifest_keeps_last_good(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[], true)?;
    let agent = scene.agent()?;
    let target = SocketAddr::from((VIP.0, 80));
    let load = Load::start(&scene.client, target, "remote-svc", &["/"], 2);
    let rejected = || -> Result<usize> {
        let status = agent.status()?;
        // What the world of these tests is warned of is in force as it stands.
        let complaints = status["rejected"].as_array().into_iter().flatten();
        Ok(complaints
            .filter(|told| told["severity"] == "error")
            .count())
    };
    ensure!(
        rejected()? == 0,
        "rejected from the start: {}",
        agent.status()?
    );
    // Not YAML; a known object with a wrong type; the Service itself, half written.
    let service = scene.manifests.path().join("service-remote-svc.yaml");
    let good = std::fs::read_to_string(&service)?;
    for (file, text) in [
        ("broken.yaml", "a: [b\n  c: d"),
        (
            "broken.yaml",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec: {hosts: 7}\n",
        ),
        ("service-remote-svc.yaml", &good[..good.len() / 2]),
    ] {
        scene.manifests.write(file, text)?;
        eventually(PATIENCE, || rejected().is_ok_and(|n| n > 0))
            .with_context(|| format!("{file} was not reported: {text}"))?;
        let status = agent.status()?["rejected"].to_string();
        ensure!(
            status.contains(file),
            "the report does not name {file}: {status}"
        );
        thread::sleep(Duration::from_millis(200));
        if file == "broken.yaml" {
            scene.manifests.write(file, "")?;
        } else {
            scene.manifests.write(file, &good)?;
        }
        eventually(PATIENCE, || rejected().is_ok_and(|n| n == 0))
            .with_context(|| format!("{file} is whole again and still reported"))?;
    }
    load.stop()?.expect_faultless(50)
}

/// Twenty changes of a route while requests run; each must be live soon, and none may cost a request.
fn reload_under_load(mode: Mode) -> Result<()> {
    let mut scene = Scene::build(mode, &[], true)?;
    let mut first = scene.agent.take().context("there is no agent")?;
    first.process.signal(Signal::SIGTERM)?;
    first
        .process
        .wait(PATIENCE)
        .context("the agent does not end")?;
    scene.agent = Some(Agent::start_fast(
        &scene.world,
        scene.manifests.path(),
        mode,
    )?);
    let target = SocketAddr::from((VIP.0, 80));
    let load = Load::start(&scene.client, target, "remote-svc", &["/"], 4);
    for round in 0..20 {
        let route = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reload}}\nspec:\n  hosts: [remote-svc]\n  http:\n  - rewrite: {{uri: /round-{round}}}\n    route:\n    - destination: {{host: remote-svc}}\n"
        );
        scene.manifests.write("reload.yaml", &route)?;
        // Promised are 200 ms; the rest is for a loaded machine.
        eventually(Duration::from_secs(2), || {
            request(&scene.client, target, "remote-svc")
                .is_ok_and(|text| text.contains(&format!("GET /round-{round} ")))
        })
        .with_context(|| format!("round {round} never became live"))?;
    }
    load.stop()?.expect_faultless(200)?;
    let agent = scene.agent.as_ref().context("there is no agent")?;
    let redirected = agent.metric("mesh_agent_fast_path_bytes_total{way=\"redirected\"}")?;
    match mode {
        Mode::Ebpf => ensure!(
            redirected.is_some_and(|bytes| bytes > 10_000.0),
            "{redirected:?}"
        ),
        _ => ensure!(redirected.is_none(), "{redirected:?}"),
    }
    Ok(())
}

fn request(from: &Pod, target: SocketAddr, host: &str) -> Result<String> {
    let stream = from.run(|| TcpStream::connect_timeout(&target, PATIENCE))??;
    Ok(http::get(stream, host, "/")?.text())
}

/// With `source: preserve` the app sees who calls, from outside and from a pod of its own node.
fn source_preserved(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[(SOURCE, "preserve")], true)?;
    let before = scene.accepted()?;
    let outside = scene.world.outside();
    for (from, ip, seen) in [
        (outside, IpAddr::from(scene.app.ipv4), "outside-link"),
        (outside, IpAddr::from(scene.app.ipv6), "outside-link6"),
        (&scene.client, IpAddr::from(scene.app.ipv4), "client"),
        (&scene.client, IpAddr::from(scene.app.ipv6), "client6"),
    ] {
        let facts = talk(from, SocketAddr::new(ip, 9001))?;
        ensure!(
            facts.get("seen") == seen && facts.get("end") == "fin",
            "{} to {}: the app should see {seen}: {facts}",
            from.name,
            name(ip)
        );
    }
    let inbound = scene.accepted()?.inbound - before.inbound;
    ensure!(
        inbound == 4,
        "of 4 connections in the agent accepted {inbound}"
    );
    // A pod that calls itself by a Service is its own client.
    for vip in [IpAddr::from(SELF_VIP.0), IpAddr::from(SELF_VIP.1)] {
        let facts = talk(&scene.client, SocketAddr::new(vip, 9000))?;
        ensure!(
            ["client", "client6"].contains(&facts.get("seen")) && facts.get("end") == "fin",
            "the client to itself by {vip}: {facts}"
        );
    }
    Ok(())
}

/// Pods of one node that call each other at the same time are not taken for one another.
fn two_pods_at_once(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[], true)?;
    let _server = http::serve(&scene.client, "client", 8080, None)?;
    let to_app = SocketAddr::from((APP_VIP.0, 80));
    let to_client = SocketAddr::new(scene.client.ipv4.into(), 8080);
    let there = Load::start(&scene.client, to_app, "app-svc", &["/"], 2);
    let back = Load::start(&scene.app, to_client, "self-svc", &["/"], 2);
    thread::sleep(Duration::from_secs(1));
    for (load, who) in [(there, "app"), (back, "client")] {
        let tally = load.stop()?;
        tally.expect_faultless(50)?;
        let wanted = format!("\"who\":\"{who}\"");
        let strangers: Vec<&String> = tally
            .answers
            .keys()
            .filter(|answer| !answer.contains(&wanted))
            .collect();
        ensure!(strangers.is_empty(), "not {who}: {strangers:?}");
    }
    let accepted = scene.accepted()?;
    ensure!(
        accepted.outbound > 0 && accepted.inbound > 0,
        "not through the agent: {accepted:?}"
    );
    Ok(())
}
