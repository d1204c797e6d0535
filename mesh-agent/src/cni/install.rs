//! Puts the plugin into a node's chain, and takes it out again, leaving everything else in the configuration as it is.
//!
//! The chain is the first file by name in the directory, as container runtimes choose it. A single plugin (`.conf`) becomes
//! a chain of two in a file of its own that is chosen before it. Files are replaced whole, by renaming, so that a runtime
//! never reads half of one.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use tracing::{info, warn};

use crate::cni::{Loss, NAME};

/// Where a node keeps its plugins, as the agent sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The directory of configurations, `/etc/cni/net.d` on the node.
    pub configurations: PathBuf,
    /// The directory of binaries, `/opt/cni/bin` on the node.
    pub binaries: PathBuf,
}

/// What the plugin is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the agent listens, as the node sees it.
    pub socket: PathBuf,
    /// What becomes of new pods while there is no agent.
    pub on_agent_loss: Loss,
}

/// Why the plugin is not in the chain.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The node has no network yet.
    #[error("there is no CNI configuration in {} yet; the plugin is added once there is", .0.display())]
    NoChain(PathBuf),
    /// A configuration is not what it should be.
    #[error("{} is no CNI configuration: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// How often the chain is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The file that a chain is put into where there was a single plugin.
const OWN: &str = "00-mesh-agent.conflist";

impl Node {
    /// Makes the plugin the last one in the chain. True where that changed anything: it is to be done again and again, for
    /// others write these files too.
    pub fn install(&self, program: &Path, entry: &Entry) -> Result<bool, InstallError> {
        // First the binary: a chain with a plugin that is not there lets no pod begin.
        let copied = self.copy(program)?;
        let path = self.chain()?;
        let text = read(&path)?;
        let before = parse(&path, &text)?;
        let (path, after) = match before.get("plugins") {
            Some(_) => (path.clone(), with(&path, before.clone(), entry)?),
            None => (self.configurations.join(OWN), chained(&before, entry)),
        };
        if after == before {
            return Ok(copied);
        }
        replace(&path, pretty(&after).as_bytes(), 0o600)?;
        Ok(true)
    }

    /// Takes the plugin out of every chain, and its binary away.
    pub fn uninstall(&self) -> Result<(), InstallError> {
        for path in self.candidates()? {
            let text = read(&path)?;
            if path.file_name() == Some(OsStr::new(OWN)) {
                remove(&path)?;
            } else if let Ok(before) = parse(&path, &text)
                && let Some(after) = without(before)
            {
                replace(&path, pretty(&after).as_bytes(), 0o600)?;
            }
        }
        remove(&self.binaries.join(NAME))
    }

    /// The configuration that runtimes choose.
    fn chain(&self) -> Result<PathBuf, InstallError> {
        let chosen = self.candidates()?.into_iter().next();
        chosen.ok_or_else(|| InstallError::NoChain(self.configurations.clone()))
    }

    /// The configurations, in the order in which runtimes choose.
    fn candidates(&self) -> Result<Vec<PathBuf>, InstallError> {
        let failed = |source| InstallError::Io {
            what: "listing",
            path: self.configurations.clone(),
            source,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.configurations).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let extension = path.extension().and_then(OsStr::to_str);
            if matches!(extension, Some("conflist" | "conf" | "json")) && path.is_file() {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Puts the binary where runtimes look for it, if it is another one.
    fn copy(&self, program: &Path) -> Result<bool, InstallError> {
        let to = self.binaries.join(NAME);
        let failed = |what, path: &Path| {
            let path = path.to_path_buf();
            move |source| InstallError::Io { what, path, source }
        };
        let new = fs::metadata(program).map_err(failed("looking at", program))?;
        let same = fs::metadata(&to).is_ok_and(|old| {
            let times = (old.modified().ok(), new.modified().ok());
            old.len() == new.len() && times.0 >= times.1
        });
        if same {
            return Ok(false);
        }
        let content = fs::read(program).map_err(failed("reading", program))?;
        replace(&to, &content, 0o755)?;
        Ok(true)
    }
}

/// The plugin in the chain, until it is taken out for good.
#[derive(Debug)]
pub struct Keeper {
    node: Node,
    program: PathBuf,
    entry: Entry,
    /// Held while the chain is changed: what is put in too late would stay without an agent, and no pod could begin.
    ended: Mutex<bool>,
}

impl Keeper {
    /// Changes nothing yet.
    pub fn new(node: Node, program: PathBuf, entry: Entry) -> Self {
        Self {
            node,
            program,
            entry,
            ended: Mutex::new(false),
        }
    }

    /// Puts the plugin into the chain, if it is not there and this has not ended.
    fn install(&self) -> Result<bool, InstallError> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match *ended {
            true => Ok(false),
            false => self.node.install(&self.program, &self.entry),
        }
    }

    /// Leaves the chain alone from now on.
    pub fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Takes the plugin out, for good.
    pub fn withdraw(&self) -> Result<(), InstallError> {
        self.end();
        self.node.uninstall()
    }
}

/// Keeps the plugin in the chain for as long as this is polled: whoever sets up the node's network writes these files too,
/// perhaps later than we.
pub async fn keep(keeper: Arc<Keeper>) {
    let mut told = String::new();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let keeper = Arc::clone(&keeper);
        let work = tokio::task::spawn_blocking(move || keeper.install());
        // Only a panic ends the work otherwise.
        let Ok(outcome) = work.await else { continue };
        match outcome {
            Ok(true) => info!(
                "the CNI plugin is in the node's chain: no pod begins before it is in the mesh"
            ),
            Ok(false) => {}
            Err(e) => {
                let why = e.to_string();
                if why != told {
                    warn!(
                        error = &e as &dyn std::error::Error,
                        "the CNI plugin is not in the node's chain; new pods are taken into the mesh when they run"
                    );
                }
                told = why;
                continue;
            }
        }
        told.clear();
    }
}

/// A chain with the plugin at its end.
fn with(path: &Path, mut chain: Json, entry: &Entry) -> Result<Json, InstallError> {
    let Some(Json::Array(plugins)) = chain.get_mut("plugins") else {
        return Err(InstallError::Malformed {
            path: path.to_path_buf(),
            why: "its plugins are no list".to_owned(),
        });
    };
    plugins.retain(|plugin| !is_ours(plugin));
    plugins.push(ours(entry));
    Ok(chain)
}

/// A single plugin as a chain of two.
fn chained(single: &Json, entry: &Entry) -> Json {
    let mut chain = Map::new();
    let mut plugin = single.clone();
    for name in ["cniVersion", "name"] {
        if let Some(fields) = plugin.as_object_mut()
            && let Some(value) = fields.remove(name)
        {
            chain.insert(name.to_owned(), value);
        }
    }
    chain.insert("plugins".to_owned(), json!([plugin, ours(entry)]));
    Json::Object(chain)
}

/// A chain without the plugin; `None` where it has none.
fn without(mut chain: Json) -> Option<Json> {
    let plugins = chain.get_mut("plugins")?.as_array_mut()?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    (plugins.len() < before).then_some(chain)
}

fn ours(entry: &Entry) -> Json {
    json!({"type": NAME, "socket": entry.socket, "onAgentLoss": entry.on_agent_loss})
}

fn is_ours(plugin: &Json) -> bool {
    plugin.get("type").and_then(Json::as_str) == Some(NAME)
}

fn parse(path: &Path, text: &str) -> Result<Json, InstallError> {
    let malformed = |why: String| InstallError::Malformed {
        path: path.to_path_buf(),
        why,
    };
    let json: Json = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
    match json.is_object() {
        true => Ok(json),
        false => Err(malformed("it is no object".to_owned())),
    }
}

fn pretty(json: &Json) -> String {
    format!("{json:#}\n")
}

fn read(path: &Path) -> Result<String, InstallError> {
    fs::read_to_string(path).map_err(|source| InstallError::Io {
        what: "reading",
        path: path.to_path_buf(),
        source,
    })
}

fn remove(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(InstallError::Io {
            what: "removing",
            path: path.to_path_buf(),
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Replaces a file as a whole. One that is there keeps its mode.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    let failed = |source| InstallError::Io {
        what: "writing",
        path: path.to_path_buf(),
        source,
    };
    let mode = fs::metadata(path).map_or(mode, |old| old.permissions().mode() & 0o7777);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Runtimes do not look at files whose names end like this.
    let new = path.with_file_name(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    let written = write();
    if written.is_err() {
        // The error says more than one about what was left of the attempt.
        let _ = fs::remove_file(&new);
    }
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &str = r#"{"cniVersion":"0.4.0","name":"k8s","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#;

    struct Case {
        _directory: tempfile::TempDir,
        node: Node,
        program: PathBuf,
        entry: Entry,
    }

    impl Case {
        fn new(files: &[(&str, &str)]) -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let node = Node {
                configurations: directory.path().join("net.d"),
                binaries: directory.path().join("bin"),
            };
            let program = directory.path().join("program");
            for made in [&node.configurations, &node.binaries] {
                fs::create_dir(made).expect("a directory");
            }
            fs::write(&program, "binary").expect("written");
            for (name, text) in files {
                fs::write(node.configurations.join(name), text).expect("written");
            }
            let entry = Entry {
                socket: "/run/mesh-agent/cni.sock".into(),
                on_agent_loss: Loss::Refuse,
            };
            Self {
                _directory: directory,
                node,
                program,
                entry,
            }
        }

        fn install(&self) -> bool {
            let installed = self.node.install(&self.program, &self.entry);
            installed.expect("it is installed")
        }

        fn json(&self, name: &str) -> Json {
            let text =
                fs::read_to_string(self.node.configurations.join(name)).expect("it is there");
            serde_json::from_str(&text).expect("JSON")
        }

        fn types(&self, name: &str) -> Vec<String> {
            let json = self.json(name);
            let plugins = json["plugins"].as_array().expect("a list").clone();
            plugins
                .iter()
                .map(|plugin| plugin["type"].as_str().unwrap_or_default().to_owned())
                .collect()
        }
    }

    #[test]
    fn it_is_the_last_in_the_chain_and_leaves_nothing_behind() {
        let case = Case::new(&[("10-k8s.conflist", CHAIN), ("99-other.conflist", CHAIN)]);
        assert!(case.install());
        assert_eq!(case.types("10-k8s.conflist"), ["bridge", "portmap", NAME]);
        assert_eq!(case.types("99-other.conflist"), ["bridge", "portmap"]);
        let binary = fs::metadata(case.node.binaries.join(NAME)).expect("it is there");
        assert_eq!(binary.permissions().mode() & 0o777, 0o755);
        // Again changes nothing, until somebody else writes the file.
        assert!(!case.install());
        fs::write(case.node.configurations.join("10-k8s.conflist"), CHAIN).expect("written");
        assert!(case.install());

        case.node.uninstall().expect("it is gone");
        let before: Json = serde_json::from_str(CHAIN).expect("JSON");
        assert_eq!(case.json("10-k8s.conflist"), before);
        assert!(!case.node.binaries.join(NAME).exists());
        case.node.uninstall().expect("twice is as good");
    }

    #[test]
    fn what_was_taken_out_for_good_is_not_put_in_again() {
        let case = Case::new(&[("10-k8s.conflist", CHAIN)]);
        let keeper = Keeper::new(case.node.clone(), case.program.clone(), case.entry.clone());
        assert!(keeper.install().expect("it is installed"));
        keeper.withdraw().expect("it is gone");
        assert!(!keeper.install().expect("nothing is done"));
        assert_eq!(case.types("10-k8s.conflist"), ["bridge", "portmap"]);
        assert!(!case.node.binaries.join(NAME).exists());
    }

    #[test]
    fn a_single_plugin_becomes_a_chain_that_is_chosen_before_it() {
        let single = r#"{"cniVersion":"0.3.1","name":"net","type":"bridge","mtu":1400}"#;
        let case = Case::new(&[("10-net.conf", single)]);
        assert!(case.install());
        assert_eq!(case.types(OWN), ["bridge", NAME]);
        assert_eq!(case.json(OWN)["name"], "net");
        assert_eq!(case.json(OWN)["plugins"][0]["mtu"], 1400);
        assert!(!case.install());
        case.node.uninstall().expect("it is gone");
        assert!(!case.node.configurations.join(OWN).exists());
        assert_eq!(case.json("10-net.conf")["type"], "bridge");
    }

    #[test]
    fn what_is_told_to_the_plugin_changes_with_it() {
        let mut case = Case::new(&[("10-k8s.conflist", CHAIN)]);
        case.install();
        case.entry.on_agent_loss = Loss::Open;
        assert!(case.install());
        let json = case.json("10-k8s.conflist");
        assert_eq!(json["plugins"][2]["onAgentLoss"], "open");
        assert_eq!(case.types("10-k8s.conflist").len(), 3);
    }

    #[test]
    fn a_node_without_a_network_or_with_a_broken_file_is_told_of() {
        let case = Case::new(&[]);
        let error = case
            .node
            .install(&case.program, &case.entry)
            .expect_err("no chain");
        assert!(matches!(error, InstallError::NoChain(_)));
        let case = Case::new(&[("10-k8s.conflist", "{\"plugins\": 3}")]);
        let error = case
            .node
            .install(&case.program, &case.entry)
            .expect_err("no list");
        assert!(error.to_string().contains("10-k8s.conflist"), "{error}");
        assert_eq!(case.json("10-k8s.conflist")["plugins"], 3);
    }

    #[test]
    fn a_newer_binary_replaces_an_older_one() {
        let case = Case::new(&[("10-k8s.conflist", CHAIN)]);
        case.install();
        fs::write(&case.program, "another").expect("written");
        assert!(case.install());
        let copied = fs::read(case.node.binaries.join(NAME)).expect("it is there");
        assert_eq!(copied, b"another");
    }
}
