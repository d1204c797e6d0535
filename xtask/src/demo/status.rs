//! What the agent says of itself at `/status`.

use serde::Deserialize;

/// The whole of it, as far as the demo reads it.
#[derive(Debug, Deserialize)]
pub struct Status {
    /// The interception mode in force.
    pub mode: String,
    /// Why this one.
    pub mode_reason: String,
    /// Manifests that were not taken.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
    /// The pods on the node.
    #[serde(default)]
    pub pods: Vec<PodStatus>,
}

/// A manifest that was not taken.
#[derive(Debug, Deserialize)]
pub struct Rejected {
    file: Option<String>,
    line: Option<u64>,
    object: Option<String>,
    message: Option<String>,
}

/// A pod, and how the agent stands to it.
#[derive(Debug, Deserialize)]
pub struct PodStatus {
    /// Namespace and name.
    pub pod: String,
    /// Its interception mode.
    pub mode: Option<String>,
    /// What the agent has done about it.
    pub state: String,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".into());
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        write!(
            f,
            "{}{line}: {}: {}",
            text(&self.file),
            text(&self.object),
            text(&self.message)
        )
    }
}
