//! Rules about the sources that the compiler does not know: who may use whom, where unsafe code may stand, and how a
//! file opens. It reads text and changes nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Which modules of the agent a module may use, itself and what is below it aside. The longest entry that fits a module
/// holds. Data flows one way, and this is what keeps it so.
const LAYERS: &[(&str, &[&str])] = &[
    // Of `config` it shows what was rejected, and nothing else.
    (
        "admin",
        &["config", "log", "model", "pod", "proxy", "ready"],
    ),
    ("certificate", &["model"]),
    // Of `config` and `log` it takes what can be chosen, and nothing else.
    ("cli", &["cni", "config", "log", "model"]),
    // It is the agent's own program in another's hands, and hands a namespace over.
    ("cni", &["netns", "sys"]),
    // A verb that is whole in itself: it needs no agent and no manifests.
    (
        "cli::iptables",
        &["cli", "intercept", "model", "netns", "sys"],
    ),
    ("config", &["certificate", "model"]),
    // What makes worlds again and again gives back the memory that it took.
    ("config::maker", &["config", "model", "sys"]),
    // Of `config` it takes the world and where its rules were written, of `proxy` what a path's plain form is.
    ("explain", &["config", "model", "proxy", "report", "route"]),
    // Of `config` it takes the reader of YAML.
    ("inject", &["config"]),
    ("intercept", &["model", "netns", "sys"]),
    ("log", &[]),
    ("model", &[]),
    ("netns", &["sys"]),
    (
        "pod",
        &[
            "cni",
            "intercept",
            "model",
            "netns",
            "proxy",
            "ready",
            "sys",
        ],
    ),
    (
        "proxy",
        &[
            "certificate",
            "intercept",
            "model",
            "netns",
            "route",
            "shutdown",
            "sys",
        ],
    ),
    ("ready", &[]),
    // Of `config` it tells what is wrong with manifests, and nothing else.
    ("report", &["config"]),
    ("route", &["model"]),
    ("shutdown", &[]),
    // It opens the listeners that `intercept` describes, in the namespace that `netns` enters.
    ("sys", &["intercept", "netns"]),
];

/// Where everything meets: these may use all.
const ROOTS: &[&str] = &["lib", "main", "agent", "gateway", "process", "ask"];

/// Where unsafe code may stand.
const UNSAFE: &[&str] = &[
    "mesh-agent/src/sys.rs",
    "mesh-agent/src/sys/",
    "mesh-ebpf/src/",
    "tests/raw.rs",
    "mesh-agent/tests/allocations/counting.rs",
    "tests/world/sys.rs",
    "tests/raw.rs",
];

/// Names that say nothing about what a module holds.
const EMPTY_NAMES: &[&str] = &[
    "mod", "util", "utils", "helper", "helpers", "common", "misc", "manager", "prelude",
];

/// Everything that is not as it should be, one line each.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in sources(root)? {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        check(&name, &text, &mut findings);
    }
    Ok(findings)
}

fn check(name: &str, text: &str, findings: &mut Vec<String>) {
    if !text.starts_with("//!") {
        findings.push(format!(
            "{name}: opens without `//!` that says what the file owns"
        ));
    }
    let stem = Path::new(name)
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    if EMPTY_NAMES.contains(&stem.as_str()) {
        findings.push(format!(
            "{name}: a file is named for what it holds, and not {stem}.rs"
        ));
    }
    if !UNSAFE.iter().any(|place| name.starts_with(place)) && lifts_unsafe(text) {
        findings.push(format!(
            "{name}: unsafe code stands in {}",
            UNSAFE.join(", ")
        ));
    }
    let Some(module) = module_of(name) else {
        return;
    };
    for used in used_modules(production(text)) {
        if !may_use(&module, &used) {
            findings.push(format!("{name}: `{module}` must not use `{used}`"));
        }
    }
}

/// All Rust sources of the workspace.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs: Vec<PathBuf> = ["mesh-agent", "mesh-ebpf", "tests", "xtask"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    while let Some(dir) = dirs.pop() {
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The module that a file of the agent is, `config::file`; none for its roots and for tests.
fn module_of(name: &str) -> Option<String> {
    let path = name.strip_prefix("mesh-agent/src/")?.strip_suffix(".rs")?;
    if ROOTS.contains(&path) || path.ends_with("/tests") || path.contains("/tests/") {
        return None;
    }
    Some(path.replace('/', "::"))
}

fn may_use(module: &str, used: &str) -> bool {
    let top = |path: &str| path.split("::").next().unwrap_or_default().to_owned();
    if top(module) == top(used) {
        return true;
    }
    let rule = LAYERS
        .iter()
        .filter(|(layer, _)| within(module, layer))
        .max_by_key(|(layer, _)| layer.len());
    rule.is_some_and(|(_, allowed)| allowed.iter().any(|allowed| within(used, allowed)))
}

fn within(module: &str, layer: &str) -> bool {
    module == layer
        || module
            .strip_prefix(layer)
            .is_some_and(|rest| rest.starts_with("::"))
}

/// The text without its tests, which stand last and may use anything.
fn production(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests")
        .map_or(text, |end| &text[..end])
}

/// Every module that is named by `crate::`, two names deep where there are two.
fn used_modules(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$' || c == ':') {
            continue;
        }
        for path in expand(&code[at + "crate::".len()..]) {
            let names: Vec<&str> = path
                .split("::")
                .filter(|name| *name != "self" && name.starts_with(|c: char| c.is_lowercase()))
                .take(2)
                .collect();
            if !names.is_empty() {
                used.push(names.join("::"));
            }
        }
    }
    used.sort();
    used.dedup();
    used
}

/// The paths at the start of `text`, with groups in braces written out: `a::{b, c}` is `a::b` and `a::c`.
fn expand(text: &str) -> Vec<String> {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        return members(group).into_iter().flat_map(expand).collect();
    }
    let name: String = text
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    match text[name.len()..].strip_prefix("::") {
        Some(rest) if !name.is_empty() => {
            let below = expand(rest);
            if below.is_empty() {
                vec![name]
            } else {
                below
                    .into_iter()
                    .map(|path| format!("{name}::{path}"))
                    .collect()
            }
        }
        _ if name.is_empty() => Vec::new(),
        _ => vec![name],
    }
}

/// The members of a group whose opening brace has been read.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0_usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                members.push(&group[start..at]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    members
}

/// Whether the file lifts the workspace's ban on unsafe code. The compiler sees to the rest.
fn lifts_unsafe(text: &str) -> bool {
    let word = concat!("unsafe", "_code");
    text.lines()
        .any(|line| !line.trim_start().starts_with("//") && line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let findings = findings(&crate::workspace::root()).unwrap();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    #[test]
    fn groups_are_written_out() {
        let text = "use crate::{model::{Snapshot, policy}, sys::socket as s};\nfn f() { crate::route::decide() }\n// crate::admin\n";
        assert_eq!(
            used_modules(text),
            ["model", "model::policy", "route::decide", "sys::socket"]
        );
    }

    #[test]
    fn layers_hold() {
        let told = |name: &str, text: &str| {
            let mut findings = Vec::new();
            check(name, text, &mut findings);
            findings
        };
        assert!(
            told(
                "mesh-agent/src/route/host.rs",
                "//! Hosts.\nuse crate::{model::Host, route::Flow};\n"
            )
            .is_empty()
        );
        assert_eq!(
            told(
                "mesh-agent/src/route/host.rs",
                "//! Hosts.\nuse crate::config::file;\n"
            ),
            ["mesh-agent/src/route/host.rs: `route::host` must not use `config::file`"]
        );
        assert!(
            told(
                "mesh-agent/src/agent.rs",
                "//! All.\nuse crate::config::file;\n"
            )
            .is_empty()
        );
        let test = "//! Hosts.\n#[cfg(test)]\nmod tests { use crate::config::file; }\n";
        assert!(told("mesh-agent/src/route/host.rs", test).is_empty());
        assert_eq!(told("mesh-agent/src/route/mod.rs", "fn f() {}\n").len(), 2);
    }

    #[test]
    fn lifting_the_ban_is_found() {
        let lifted = format!(
            "//! Name.\n#[expect({}, reason = \"x\")]\nfn f() {{}}\n",
            concat!("unsafe", "_code")
        );
        let mut findings = Vec::new();
        check("mesh-agent/src/route.rs", &lifted, &mut findings);
        assert_eq!(findings.len(), 1);
        check("mesh-agent/src/sys/socket.rs", &lifted, &mut findings);
        assert_eq!(findings.len(), 1);
    }
}
