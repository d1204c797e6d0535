//! The same cases with a real Envoy in the place of the agent: where its behaviour is the specification, a wrong
//! expectation shows here.
//!
//! One Envoy holds all cases at once, each with listeners of its own, so nothing waits for a change of configuration.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::{Pod, Running, World};
use serde_json::{Value, json};

use self::view::{Kind, Place, View};
use super::case::{Case, From, Topic};
use super::request::Request;
use super::stage::Front;
use crate::agent::eventually;
use crate::http;

mod action;
mod clusters;
mod filters;
mod gateway;
mod tls;
mod translate;
mod view;

const ADMIN: u16 = 9901;
const FIRST_PORT: u16 = 20_000;
/// The version that `cargo xtask` fetches.
const VERSION: &str = "1.40.0";

/// An Envoy with everything that the topics say.
#[derive(Debug)]
pub struct Envoy {
    _process: Running,
    node: Pod,
    ports: HashMap<(String, Place), u16>,
    /// Why a case has no listener.
    refused: HashMap<String, String>,
}

/// Envoy's binary, or why there is none.
pub fn binary() -> Result<PathBuf, String> {
    if let Ok(reason) = std::env::var("MESH_WITHOUT_ENVOY") {
        return Err(format!("there is no Envoy to compare with: {reason}"));
    }
    let given = std::env::var_os("MESH_ENVOY").map(PathBuf::from);
    let cached = std::env::var_os("HOME").map(|home| {
        let folder = format!(".cache/mesh-agent/envoy-{VERSION}/envoy/_bin/envoy");
        PathBuf::from(home).join(folder)
    });
    given
        .into_iter()
        .chain(cached)
        .find(|path| is_binary(path))
        .ok_or_else(|| {
            "there is no Envoy to compare with: run `cargo xtask test`, which fetches it, or set MESH_ENVOY"
                .to_owned()
        })
}

/// A script of that name would need more than itself.
fn is_binary(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

/// Where Envoy says what was peculiar about each request.
fn access_log() -> String {
    format!("{}/envoy-access.log", mesh_tests::FILES)
}

impl Envoy {
    /// Starts it on the node.
    pub fn start(world: &World, topics: &[Topic]) -> Result<Self> {
        let binary = binary().map_err(anyhow::Error::msg)?;
        let mut listeners = Vec::new();
        let mut clusters = Vec::new();
        let (mut ports, mut refused) = (HashMap::new(), HashMap::new());
        for topic in topics.iter().filter(|topic| topic.not_envoy.is_none()) {
            for case in topic.cases.iter().filter(|case| case.not_envoy.is_none()) {
                let name = full_name(topic, case);
                let prefix = format!("{:03}/{}", ports.len(), topic.name);
                let manifests = case.manifests();
                for place in places(case) {
                    let listen = FIRST_PORT + u16::try_from(ports.len())?;
                    ports.insert((name.clone(), place), listen);
                    let view = View {
                        prefix: &format!("{prefix}/{listen}/"),
                        place,
                        manifests: &manifests,
                        topology: &case.topology,
                    };
                    match translate::listener(&view, listen) {
                        Ok((listener, behind)) => {
                            listeners.push(typed("config.listener.v3.Listener", listener));
                            for cluster in behind {
                                clusters.push(typed("config.cluster.v3.Cluster", cluster));
                            }
                        }
                        Err(e) => {
                            refused.insert(name.clone(), format!("{e:#}"));
                        }
                    }
                }
            }
        }
        let folder = Path::new(mesh_tests::FILES).join("envoy");
        fs::create_dir_all(&folder)?;
        let lists = folder.join("listeners.json");
        fs::write(&lists, json!({"resources": listeners}).to_string())?;
        let pools = folder.join("clusters.json");
        fs::write(&pools, json!({"resources": clusters}).to_string())?;
        let bootstrap = folder.join("bootstrap.json");
        fs::write(&bootstrap, bootstrap_of(&lists, &pools).to_string())?;
        let mut command = world.node().command(binary);
        command.arg("-c").arg(&bootstrap);
        command.args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "warning",
        ]);
        command.args(["--file-flush-interval-msec", "10"]);
        let log = world.log("envoy");
        let process = Running::start("envoy", command, &log)?;
        let envoy = Self {
            _process: process,
            node: world.node().clone(),
            ports,
            refused,
        };
        let patience = Duration::from_secs(30);
        eventually(patience, || envoy.ready(listeners.len()))
            .with_context(|| format!("Envoy was not ready: {}", mesh_tests::tail(&log, 20)))?;
        Ok(envoy)
    }

    fn ready(&self, wanted: usize) -> bool {
        let text = |path| self.admin(path).unwrap_or_default();
        if text("/ready").trim() != "LIVE" {
            return false;
        }
        let listeners = text("/listeners").lines().count();
        let rejected = text("/stats?filter=listener_manager.lds.update_rejected");
        listeners >= wanted || !rejected.trim().ends_with(" 0")
    }

    fn admin(&self, path: &str) -> Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN));
        let stream = self.node.run(|| TcpStream::connect(address))??;
        Ok(http::get(stream, "localhost", path)?.text())
    }
}

impl Front for Envoy {
    fn apply(&mut self, topic: &Topic, case: &Case) -> Result<()> {
        let name = full_name(topic, case);
        match self.refused.get(&name) {
            Some(reason) => Err(anyhow::Error::msg(reason.clone())),
            None => Ok(()),
        }
    }

    fn dial(&self, topic: &Topic, case: &Case, request: &Request, from: From) -> Result<TcpStream> {
        let key = (full_name(topic, case), place(request, from));
        let port = self.ports.get(&key).context("no listener was planned")?;
        let address = SocketAddr::new(request.family.loopback(), *port);
        let stream = self.node.run(|| TcpStream::connect(address))?;
        stream.with_context(|| {
            format!(
                "Envoy did not open the listener: {}",
                mesh_tests::tail(
                    Path::new(&format!("{}/logs/envoy.log", mesh_tests::FILES)),
                    5
                )
            )
        })
    }

    fn flags(&self) -> Result<HashMap<String, u64>> {
        Ok(HashMap::new())
    }

    fn flag_of(&self, id: u64, _before: &HashMap<String, u64>, wanted: &str) -> Result<(), String> {
        let mut found = Vec::new();
        for _ in 0..100 {
            let log = fs::read_to_string(access_log()).unwrap_or_default();
            let prefix = format!("{id} ");
            found = log
                .lines()
                .filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
                .collect();
            if !found.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if found.iter().any(|flags| same_flags(flags, wanted)) {
            return Ok(());
        }
        Err(format!("flags {found:?}, not {wanted}"))
    }

    fn skips(&self, topic: &Topic, case: &Case, request: &Request) -> bool {
        topic.not_envoy.is_some() || case.not_envoy.is_some() || request.not_envoy.is_some()
    }
}

/// Several abbreviations have no order.
fn same_flags(one: &str, other: &str) -> bool {
    let sorted = |flags: &str| {
        let mut flags: Vec<String> = flags.split(',').map(str::to_owned).collect();
        flags.sort();
        flags
    };
    sorted(one) == sorted(other)
}

fn full_name(topic: &Topic, case: &Case) -> String {
    format!("{}/{}", topic.name, case.name)
}

fn place(request: &Request, from: From) -> Place {
    let kind = if request.tls.is_some() || request.over_tls.is_some() {
        Kind::Tls
    } else if request.tcp {
        Kind::Tcp
    } else {
        Kind::Http
    };
    Place {
        from,
        port: request.port(),
        kind,
        family: request.family,
    }
}

fn places(case: &Case) -> Vec<Place> {
    let mut places = Vec::new();
    for request in case
        .requests
        .iter()
        .filter(|request| request.not_envoy.is_none())
    {
        for from in request.from.iter().flat_map(|from| &from.0) {
            places.push(place(request, *from));
        }
    }
    places.sort();
    places.dedup();
    places
}

fn typed(kind: &str, mut object: Value) -> Value {
    object["@type"] = json!(format!("type.googleapis.com/envoy.{kind}"));
    object
}

fn bootstrap_of(listeners: &Path, clusters: &Path) -> Value {
    json!({
        "node": {"id": "corpus", "cluster": "corpus"},
        // As Istio starts it.
        "layered_runtime": {"layers": [{"name": "istio", "static_layer": {
            "envoy.reloadable_features.http_reject_path_with_fragment": false,
            "re2.max_program_size.error_level": 32_768,
        }}]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": ADMIN}}},
        "dynamic_resources": {
            "lds_config": {"path_config_source": {"path": listeners}, "resource_api_version": "V3"},
            "cds_config": {"path_config_source": {"path": clusters}, "resource_api_version": "V3"},
        },
    })
}
