//! The CNI plugin: the last in a node's chain, it lets no pod begin that ought to be in the mesh and is not.
//!
//! The container runtime starts the binary for each pod (CNI specification 1.1.0, "Protocol"): the verb and the pod are
//! in the environment, the configuration is on standard input, and the answer goes to standard output. The plugin hands the
//! network namespace of the pod to the agent over a unix socket, as a file descriptor, so that both need not see the
//! same mounts; and waits for its word. It changes nothing itself: what the plugins before it made comes out as it went in.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::netns::NetNs;
use crate::sys::passing;

pub mod install;

/// The name of the plugin, in a configuration and in the directory of binaries.
pub const NAME: &str = "mesh-agent-cni";

/// Where the agent listens for plugins.
pub const SOCKET: &str = "/run/mesh-agent/cni.sock";

/// The versions of the specification that the plugin speaks.
const VERSIONS: [&str; 6] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.0.1", "1.1.0"];

/// How long the agent may take over a pod. The runtime tries again, and the kubelet gives up after minutes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The plugin's entry in a chain.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    cni_version: String,
    /// What the plugins before this one made.
    prev_result: Option<Json>,
    #[serde(default = "default_socket")]
    socket: PathBuf,
    #[serde(default)]
    on_agent_loss: Loss,
}

/// What becomes of a new pod while no agent runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// It waits: the runtime tries again until there is one.
    #[default]
    Refuse,
    /// It begins outside the mesh; the next agent takes it in.
    Open,
}

/// What the plugin asks of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// What for.
    pub verb: Verb,
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid; empty where the runtime does not tell.
    #[serde(default)]
    pub uid: String,
    /// Its addresses, as the plugins before made them.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// What a question is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// A pod is about to begin; its network namespace comes with the question.
    Add,
    /// A pod has ended.
    Delete,
    /// Whether an agent is there.
    Ping,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Answer {
    /// The pod is in the mesh, or has no business there.
    Begin,
    /// It ought to be in the mesh and is not.
    Wait {
        /// Why.
        why: String,
    },
}

/// Why a pod cannot begin. The numbers are the specification's ("Error"), and from 100 on the plugin's own.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error("the configuration of the plugin cannot be read: {0}")]
    Config(#[from] serde_json::Error),
    #[error("{0} is missing or of no use in the environment")]
    Environment(&'static str),
    #[error("there is no CNI command {0}")]
    Verb(String),
    #[error("reading or writing: {0}")]
    Io(#[from] std::io::Error),
    #[error("the agent of this node does not answer at {}: {source}; the pod begins when it is back", socket.display())]
    NoAgent {
        socket: PathBuf,
        source: std::io::Error,
    },
    #[error("the pod cannot be taken into the mesh yet: {0}")]
    Wait(String),
}

impl PluginError {
    fn code(&self) -> u32 {
        match self {
            Self::Environment(_) | Self::Verb(_) => 4,
            Self::Io(_) => 5,
            Self::Config(_) => 6,
            Self::NoAgent { .. } => 11,
            Self::Wait(_) => 100,
        }
    }
}

/// Whether a container runtime has started this process as a plugin.
pub fn is_asked() -> bool {
    std::env::var_os("CNI_COMMAND").is_some()
}

/// Does what the runtime asks.
pub fn run() -> ExitCode {
    let environment: BTreeMap<String, String> = std::env::vars()
        .filter(|(name, _)| name.starts_with("CNI_"))
        .collect();
    let mut input = String::new();
    let outcome = std::io::stdin()
        .read_to_string(&mut input)
        .map_err(PluginError::from)
        .and_then(|_| answer(&environment, &input, ask));
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(e) => (complaint(&e, &input), ExitCode::FAILURE),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// An error as the runtime reads it.
fn complaint(error: &PluginError, input: &str) -> String {
    let version = serde_json::from_str::<Config>(input).map(|config| config.cni_version);
    json!({
        "cniVersion": version.ok().filter(|version| !version.is_empty()).unwrap_or_else(|| "0.3.0".to_owned()),
        "code": error.code(),
        "msg": error.to_string(),
    })
    .to_string()
}

/// What goes to standard output. `ask` reaches the agent.
fn answer(
    environment: &BTreeMap<String, String>,
    input: &str,
    ask: impl FnOnce(&PathBuf, &Question, Option<&NetNs>) -> std::io::Result<Answer>,
) -> Result<String, PluginError> {
    let word = |name: &'static str| {
        let word = environment.get(name).map(String::as_str);
        word.filter(|word| !word.is_empty())
            .ok_or(PluginError::Environment(name))
    };
    let verb = word("CNI_COMMAND")?;
    if verb == "VERSION" {
        let versions = json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS});
        return Ok(versions.to_string());
    }
    let config: Config = serde_json::from_str(input)?;
    let result = config.prev_result.as_ref();
    let unchanged = || result.map_or_else(String::new, Json::to_string);
    let (verb, netns) = match verb {
        "ADD" => (Verb::Add, Some(word("CNI_NETNS")?)),
        "DEL" => (Verb::Delete, None),
        "STATUS" => (Verb::Ping, None),
        // What is to be checked is checked all the time, by the agent.
        "CHECK" | "GC" => return Ok(String::new()),
        other => return Err(PluginError::Verb(other.to_owned())),
    };
    let arguments = arguments(environment.get("CNI_ARGS").map_or("", String::as_str));
    let argument = |name: &str| arguments.get(name).map_or("", |value| *value).to_owned();
    let question = Question {
        verb,
        namespace: argument("K8S_POD_NAMESPACE"),
        name: argument("K8S_POD_NAME"),
        uid: argument("K8S_POD_UID"),
        addresses: addresses(result),
    };
    // A container that is nobody's Pod has no place in the mesh.
    if verb != Verb::Ping && (question.namespace.is_empty() || question.name.is_empty()) {
        return Ok(unchanged());
    }
    let netns = netns.map(|path| NetNs::open(path.as_ref())).transpose()?;
    match ask(&config.socket, &question, netns.as_ref()) {
        Ok(Answer::Begin) => Ok(unchanged()),
        Ok(Answer::Wait { why }) => Err(PluginError::Wait(why)),
        // Nobody is there to be told, or to be waited for.
        Err(_) if verb == Verb::Delete => Ok(String::new()),
        Err(_) if verb == Verb::Add && config.on_agent_loss == Loss::Open => Ok(unchanged()),
        Err(source) => Err(PluginError::NoAgent {
            socket: config.socket,
            source,
        }),
    }
}

/// `CNI_ARGS`: `NAME=value;NAME=value`.
fn arguments(text: &str) -> BTreeMap<&str, &str> {
    text.split(';')
        .filter_map(|pair| pair.split_once('='))
        .collect()
}

/// The addresses in a result, without their prefixes.
fn addresses(result: Option<&Json>) -> Vec<IpAddr> {
    let Some(Json::Array(ips)) = result.and_then(|result| result.get("ips")) else {
        return Vec::new();
    };
    let written = ips.iter().filter_map(|ip| ip.get("address")?.as_str());
    let bare = written.map(|address| address.split('/').next().unwrap_or_default());
    bare.filter_map(|address| address.parse().ok()).collect()
}

/// Asks the agent that listens at `socket`.
pub fn ask(
    socket: &PathBuf,
    question: &Question,
    netns: Option<&NetNs>,
) -> std::io::Result<Answer> {
    let stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    passing::send(&stream, &serde_json::to_vec(question)?, netns)?;
    let mut answer = String::new();
    (&stream).take(1 << 16).read_to_string(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

fn default_socket() -> PathBuf {
    SOCKET.into()
}

#[cfg(test)]
mod tests;
