//! The kubelet's probes: they say of a pod in the mesh what they say of one outside.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::node::Cluster;
use super::pods::Manifest;
use super::scene::Scene;
use crate::agent::Mode;

/// How a pod is asked, and the lines that ask so.
const PROBES: [(&str, &str); 3] = [
    (
        "http",
        "ports: [{name: web, containerPort: 8080}]
    livenessProbe: {httpGet: {path: /, port: web}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /, port: web}, periodSeconds: 1, failureThreshold: 1}",
    ),
    (
        "tcp",
        "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1}",
    ),
    (
        "exec",
        "readinessProbe: {exec: {command: [/busybox, sh, -c, '/busybox nc -w 2 127.0.0.1 8080 </dev/null']}, \
         periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 5}",
    ),
];

/// A server that can end without its pod.
const SERVER: &str =
    "command: [/busybox, sh, -c, '/busybox httpd -p 8080 -h /www; exec /busybox sleep 2147483647']";

/// Long enough for several probes.
const SEVERAL: Duration = Duration::from_secs(5);

/// Every kind of probe passes while the server is there, and fails when it is not; also while there is no agent.
pub fn the_kubelet_probes(mode: Mode) -> Result<()> {
    let cluster = Cluster::get()?;
    cluster.define_istio()?;
    let strict = vec!["--outbound-traffic-policy=registry-only".to_owned()];
    let mut scene = Scene::with_flags(cluster, "probes", mode, true, strict)?;
    for (name, probe) in PROBES {
        let container = format!("{SERVER}\n    {probe}");
        let manifest = Manifest {
            name,
            container: &container,
            ..Manifest::default()
        };
        scene.apply(&manifest.text())?;
    }
    for (name, _) in PROBES {
        scene.wait_pod_enrolled(name, true)?;
        scene.wait_ready(name, true)?;
    }
    scene.wait_enrolled(true)?;
    stay_ready(&scene, "with the agent")?;
    for (name, _) in PROBES {
        scene.kill_process(name, "httpd")?;
    }
    for (name, _) in PROBES {
        scene.wait_ready(name, false)?;
    }
    reached_without_the_agent(&scene)?;
    for (name, _) in PROBES {
        let server = ["/busybox", "httpd", "-p", "8080", "-h", "/www"];
        scene.kubectl(&[&["exec", name, "--"], &server[..]].concat())?;
        scene.wait_ready(name, true)?;
    }
    scene.kill_agent()?;
    stay_ready(&scene, "without an agent")?;
    scene.start_agent()?;
    scene.wait_enrolled(true)?;
    stay_ready(&scene, "with another agent")?;
    scene.end()
}

fn stay_ready(scene: &Scene, when: &str) -> Result<()> {
    std::thread::sleep(SEVERAL);
    for (name, _) in PROBES {
        ensure!(scene.is_ready(name)?, "{name} is not ready {when}");
        ensure!(scene.restarts(name)? == 0, "{name} was restarted {when}");
    }
    Ok(())
}

/// What the node says to a port that is probed comes to the pod itself, over both families; what it says to another port
/// comes to the agent.
fn reached_without_the_agent(scene: &Scene) -> Result<()> {
    let addresses = scene.pod_field("tcp", "{.status.podIPs[*].ip}")?;
    let addresses: Vec<IpAddr> = addresses
        .split_whitespace()
        .map(|address| address.parse().context("an address"))
        .collect::<Result<_>>()?;
    ensure!(addresses.len() == 2, "one of each family: {addresses:?}");
    for address in addresses {
        let connect = |port| {
            let target = SocketAddr::new(address, port);
            scene
                .cluster()
                .node
                .run(|| TcpStream::connect_timeout(&target, SEVERAL))
        };
        match connect(8080)? {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => bail!("nobody listens at {address}, port 8080: {other:?}"),
        }
        match connect(8081)? {
            // It hears from the pod that nobody listens, and ends what it has taken, perhaps before we look.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => bail!("the agent takes {address}, port 8081: {error}"),
        }
    }
    Ok(())
}
