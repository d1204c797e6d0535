//! The pods, servers, Services and rules that the cases are played with, and what can be read off them.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Pod, PodOptions, World, WorldOptions};

use super::apps::{Heard, http2_server, serve};
use crate::agent::{Agent, Mode, eventually};
use crate::flows::names::{APP, APP_VIP, CLIENT};
use crate::manifests::{Manifests, PodObject, ServiceObject};
use crate::servers::Background;
use crate::servers::Server;

/// Dropped from the top: the agent first, the world last.
pub struct Stage {
    pub agent: Agent,
    servers: Vec<Server>,
    http2: Option<Background>,
    manifests: Manifests,
    app_object: PodObject,
    pub client: Pod,
    app: Pod,
    heard: Heard,
    pub world: World,
}

/// The server's Service of each family, which has its endpoint in that family.
pub const SERVICES: [(&str, IpAddr); 2] = [
    ("app-svc", IpAddr::V4(APP_VIP.0)),
    ("app6-svc", IpAddr::V6(APP_VIP.1)),
];

/// Where nobody listens, neither for HTTP nor for TCP.
const DOWN: [u16; 2] = [9998, 9999];

/// What is routed, and how the server is treated, for the Service `NAME`.
const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, namespace: default}
spec:
  hosts: [NAME]
  http:
  - name: retried
    match: [{uri: {prefix: /retried}}]
    retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}
    route: [{destination: {host: NAME, port: {number: 80}}}]
  - name: hasty
    match: [{uri: {prefix: /slow}}]
    timeout: 300ms
    route: [{destination: {host: NAME, port: {number: 80}}}]
  - name: mirrored
    match: [{uri: {prefix: /mirrored}}]
    mirrors: [{destination: {host: NAME, port: {number: 84}}}]
    route: [{destination: {host: NAME, port: {number: 80}}}]
    rewrite: {uri: /plain}
    headers:
      request: {set: {x-set: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}
      response: {add: {x-from: "%UPSTREAM_HOST%"}}
  - name: others
    route: [{destination: {host: NAME}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: NAME, namespace: default}
spec:
  host: NAME
  trafficPolicy:
    portLevelSettings:
    - port: {number: 80}
      connectionPool:
        tcp: {maxConnections: 20}
        http: {maxRequestsPerConnection: 3, http1MaxPendingRequests: 10}
    - port: {number: 83}
      outlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 100s, maxEjectionPercent: 100}
"#;

impl Stage {
    /// Everything up and ready, with these annotations on the server's pod.
    pub fn build(mode: Mode, annotations: &[(&str, &str)], flags: &[&str]) -> Result<Self> {
        let world = World::new(WorldOptions::default())?;
        let pod = |name, (v4, v6)| {
            world.pod(
                name,
                PodOptions {
                    ipv4: Some(v4),
                    ipv6: Some(v6),
                    ..PodOptions::default()
                },
            )
        };
        let (client, app) = (pod("client", CLIENT)?, pod("app", APP)?);
        let heard = Heard::default();
        let servers = serve(&app, &heard)?;
        let http2 = Some(http2_server(&app, 8081)?);
        let manifests = Manifests::new()?;
        let app_object = annotations
            .iter()
            .fold(PodObject::local(&app), |object, (key, value)| {
                object.annotation(key, value)
            })
            .annotation("traffic.sidecar.istio.io/excludeInboundPorts", "9001");
        manifests.pod(&PodObject::local(&client))?;
        manifests.pod(&app_object)?;
        for (name, address) in SERVICES {
            let service = ServiceObject::new(name, vec![address], "app");
            manifests.service(
                &service
                    .port("http", 80, 8080)
                    .port("http2", 81, 8081)
                    .port("http-down", 82, DOWN[0])
                    .port("http-failing", 83, 8080)
                    .port("undeclared", 84, 8080)
                    .port("undeclared-2", 85, 8081)
                    .port("tcp-echo", 9000, 9000)
                    .port("tcp-excluded", 9001, 9001)
                    .port("tcp-down", 9002, DOWN[1])
                    .port("banner", 2525, 2525),
            )?;
            manifests.write(&format!("rules-{name}.yaml"), &RULES.replace("NAME", name))?;
        }
        // One worker: which of two has a connection that could be used again is chance.
        let flags = [flags, &["--workers", "1", "--log", "info,access=info"]].concat();
        let agent = Agent::start_with(&world, manifests.path(), mode, &flags)?;
        Ok(Self {
            agent,
            servers,
            http2,
            manifests,
            app_object,
            client,
            app,
            heard,
            world,
        })
    }

    /// What the server's app was told since the last time this was asked, in an order of its own.
    pub fn heard(&self) -> Vec<String> {
        self.heard.take()
    }

    /// What the agent has in its access log.
    pub fn logged(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.world.log("agent")).context("the agent's log")?;
        let lines = text.lines().filter_map(|line| line.split_once("access: "));
        Ok(lines.map(|(_, line)| line.to_owned()).collect())
    }

    /// All metrics.
    pub fn metrics(&self) -> Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], 15020));
        let stream = self.world.node().run(|| TcpStream::connect(address))??;
        Ok(crate::http::get(stream, "localhost", "/metrics")?.text())
    }

    /// A connection of the client's app.
    pub fn dial(&self, ip: IpAddr, port: u16) -> Result<TcpStream> {
        let target = SocketAddr::new(ip, port);
        let stream = self
            .client
            .run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))?
            .with_context(|| format!("connecting to {target}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        Ok(stream)
    }

    /// Sends a request without a body on a connection of its own, and gives the answer without what is of the moment.
    pub fn ask(&self, method: &str, path: &str) -> Result<String> {
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: app-svc\r\nconnection: close\r\n\r\n");
        let mut stream = self.dial(APP_VIP.0.into(), 80)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(super::cases::without_the_moment(&String::from_utf8_lossy(
            &answer,
        )))
    }

    /// Takes the server's pod from the node, namespace and all.
    pub fn remove_app(&mut self) -> Result<()> {
        self.servers.clear();
        self.http2 = None;
        self.world.remove(&self.app)?;
        let path = self.app.netns();
        ensure!(!path.exists(), "{} is still there", path.display());
        eventually(Duration::from_secs(10), || {
            self.agent.enrolled("default/app").is_ok_and(|is| !is)
        })
        .context("waiting for the pod to be missed")
    }

    /// Puts another one in its place, with its name and addresses.
    pub fn restore_app(&mut self) -> Result<()> {
        let options = PodOptions {
            ipv4: Some(APP.0),
            ipv6: Some(APP.1),
            ..PodOptions::default()
        };
        self.app = self.world.pod("app", options)?;
        self.servers = serve(&self.app, &self.heard)?;
        self.manifests.pod(&self.app_object)?;
        self.agent.wait_enrolled("default/app", true)
    }
}
