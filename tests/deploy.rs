//! What the agent is installed with: the charts say what the plain manifests say, refuse what makes no sense, and name
//! flags that the agent has.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use mesh_agent::cli::Cli;
use serde_json::{Value, json};

use crate::{Lacking, Plain};

/// The tests, by name.
pub fn tests() -> Vec<(&'static str, Plain)> {
    vec![
        ("deploy::charts_and_manifests", charts_and_manifests),
        ("deploy::every_value_has_its_flag", every_value_has_its_flag),
        ("deploy::wrong_values_are_refused", wrong_values_are_refused),
        ("deploy::flags_of_manifests", flags_of_manifests),
        ("deploy::secrets_by_name", secrets_by_name),
    ]
}

/// Objects by kind and name.
type Objects = BTreeMap<String, Value>;

/// A chart, and the manifests that stand for it where there is no Helm.
struct Chart {
    name: &'static str,
    release: &'static str,
    namespace: &'static str,
    manifests: &'static str,
    /// What the manifests have and a chart leaves to who installs it.
    besides: &'static [&'static str],
}

const AGENT: Chart = Chart {
    name: "mesh-agent",
    release: "mesh-agent",
    namespace: "mesh-agent",
    manifests: "agent/mesh-agent.yaml",
    besides: &["Namespace mesh-agent"],
};

const GATEWAY: Chart = Chart {
    name: "mesh-gateway",
    release: "istio-ingressgateway",
    namespace: "istio-system",
    manifests: "gateway/gateway.yaml",
    besides: &["Namespace istio-system"],
};

fn charts_and_manifests() -> Result<()> {
    for chart in [&AGENT, &GATEWAY] {
        let mut plain = chart.plain()?;
        for object in chart.besides {
            plain.remove(*object).context("it is there")?;
        }
        let rendered = chart.render(&json!({}))?;
        let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
        ensure!(
            names(&rendered) == names(&plain),
            "{:?} and {:?}",
            names(&rendered),
            names(&plain)
        );
        for (name, object) in &plain {
            let other = &rendered[name];
            ensure!(
                other == object,
                "{name} is\n{other:#}\nand in {}\n{object:#}",
                chart.manifests
            );
        }
    }
    let with_namespace = AGENT.render(&json!({"namespace": {"create": true}}))?;
    ensure!(with_namespace == AGENT.plain()?);
    Ok(())
}

fn every_value_has_its_flag() -> Result<()> {
    let agent = AGENT.render(&json!({
        "image": {"repository": "r.example.com/a", "digest": "sha256:0123456789012345678901234567890123456789"},
        "mode": "iptables", "istioInjection": true, "writeStatus": false, "onAgentLoss": "hold",
        "outboundTrafficPolicy": "registry-only", "unknownFields": "warn", "clusterDomain": "example.org",
        "rootNamespace": "root", "log": "info,access=info", "logFormat": "json", "drain": 2.5, "workers": 3,
        "extraArgs": ["--one-hop=on"], "cni": {"enabled": false},
        "kubernetes": {"host": "10.0.0.1", "port": 6443},
    }))?;
    let container = container(&agent, "DaemonSet mesh-agent/mesh-agent")?;
    expect_args(
        container,
        &[
            "run",
            "--kubernetes",
            "--metrics=$(HOST_IP):15020",
            "--mode=iptables",
            "--istio-injection",
            "--write-status=off",
            "--on-agent-loss=hold",
            "--outbound-traffic-policy=registry-only",
            "--unknown-fields=warn",
            "--cluster-domain=example.org",
            "--root-namespace=root",
            "--log=info,access=info",
            "--log-format=json",
            "--drain=2.5",
            "--workers=3",
            "--one-hop=on",
        ],
    )?;
    ensure!(
        container["image"] == "r.example.com/a@sha256:0123456789012345678901234567890123456789"
    );
    let env = container["env"].as_array().context("no env")?;
    ensure!(env.contains(&json!({"name": "KUBERNETES_SERVICE_HOST", "value": "10.0.0.1"})));
    ensure!(env.contains(&json!({"name": "KUBERNETES_SERVICE_PORT", "value": "6443"})));
    // Who writes nothing needs no right to.
    ensure!(!agent.contains_key("Role mesh-agent/mesh-agent"));
    ensure!(
        !agent["ClusterRole mesh-agent"]
            .to_string()
            .contains("patch")
    );

    let gateway = GATEWAY.render(&json!({
        "keepAccepting": 7, "drain": 20, "trustedProxies": 2, "workers": 2, "clusterDomain": "example.org",
        "rootNamespace": "root", "log": "debug", "logFormat": "json", "extraArgs": ["--unknown-fields=warn"],
        "autoscaling": {"enabled": false}, "replicas": 3, "podDisruptionBudget": {"minAvailable": 1},
    }))?;
    let deployment = "Deployment istio-system/istio-ingressgateway";
    ensure!(gateway[deployment]["spec"]["replicas"] == 3);
    ensure!(gateway.contains_key("PodDisruptionBudget istio-system/istio-ingressgateway"));
    ensure!(!gateway.contains_key("HorizontalPodAutoscaler istio-system/istio-ingressgateway"));
    expect_args(
        self::container(&gateway, deployment)?,
        &[
            "gateway",
            "--kubernetes",
            "--state-dir=/var/lib/mesh-agent",
            "--health=$(POD_IP):15021",
            "--metrics=$(POD_IP):15020",
            "--drain=20",
            "--keep-accepting=7",
            "--trusted-proxies=2",
            "--cluster-domain=example.org",
            "--root-namespace=root",
            "--log=debug",
            "--log-format=json",
            "--workers=2",
            "--unknown-fields=warn",
        ],
    )
}

fn wrong_values_are_refused() -> Result<()> {
    let check = |chart: &Chart, values: Value, said: &str| {
        let error = match chart.try_render(&values)? {
            Ok(_) => bail!("{values} is taken"),
            Err(error) => error,
        };
        ensure!(error.contains(said), "{values}: {error}");
        Ok(())
    };
    check(&AGENT, json!({"mode": "ebfp"}), "/mode")?;
    check(&AGENT, json!({"modes": "ebpf"}), "modes")?;
    check(&AGENT, json!({"image": {"tags": "1"}}), "tags")?;
    check(&AGENT, json!({"workers": 0}), "/workers")?;
    check(
        &AGENT,
        json!({"cni": {"binDir": "opt/cni/bin"}}),
        "/cni/binDir",
    )?;
    check(
        &AGENT,
        json!({"capabilities": ["net_admin"]}),
        "/capabilities",
    )?;
    check(
        &GATEWAY,
        json!({"service": {"type": "Balancer"}}),
        "/service/type",
    )?;
    check(&GATEWAY, json!({"drain": "30s"}), "/drain")?;
    check(
        &GATEWAY,
        json!({"service": {"ports": []}}),
        "/service/ports",
    )
}

fn flags_of_manifests() -> Result<()> {
    let (agent, gateway) = (AGENT.plain()?, GATEWAY.plain()?);
    for container in [
        container(&agent, "DaemonSet mesh-agent/mesh-agent")?,
        container(&gateway, "Deployment istio-system/istio-ingressgateway")?,
    ] {
        for address in ["10.0.0.7", "fd00::7"] {
            parse(&args(container)?, address)?;
        }
    }
    Ok(())
}

fn secrets_by_name() -> Result<()> {
    let role = "Role istio-system/istio-ingressgateway";
    let all = GATEWAY.render(&json!({}))?;
    ensure!(all[role]["rules"][0]["resourceNames"].is_null());
    let two = GATEWAY.render(&json!({"secrets": ["a", "b"]}))?;
    ensure!(two[role]["rules"][0]["resourceNames"] == json!(["a", "b"]));
    Ok(())
}

impl Chart {
    fn plain(&self) -> Result<Objects> {
        objects(&std::fs::read_to_string(deploy().join(self.manifests))?)
    }

    fn render(&self, values: &Value) -> Result<Objects> {
        self.try_render(values)?.map_err(anyhow::Error::msg)
    }

    /// What Helm makes of it, or what it says.
    fn try_render(&self, values: &Value) -> Result<Result<Objects, String>> {
        let asked = json!({
            "chart": deploy().join("charts").join(self.name),
            "name": self.release,
            "namespace": self.namespace,
            "values": values,
        });
        let mut answer = helm(&asked)?;
        if let Some(error) = answer["error"].as_str() {
            return Ok(Err(error.to_owned()));
        }
        let files: BTreeMap<String, String> = serde_json::from_value(answer["files"].take())?;
        let mut all = Objects::new();
        for (name, text) in files {
            if name.ends_with(".yaml") {
                all.extend(objects(&text).with_context(|| format!("{name}:\n{text}"))?);
            }
        }
        Ok(Ok(all))
    }
}

fn helm(asked: &Value) -> Result<Value> {
    if let Ok(reason) = std::env::var("MESH_WITHOUT_HELM") {
        return Err(Lacking(format!("no Helm: {reason}")).into());
    }
    let library = std::env::var_os("MESH_HELM")
        .context("run `cargo xtask test`, which fetches Helm, or set MESH_HELM")?;
    let mut python = Command::new("python3")
        .args(["-c", include_str!("deploy/render.py")])
        .env("PYTHONPATH", library)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting python3")?;
    let mut stdin = python.stdin.take().context("no standard input")?;
    stdin.write_all(asked.to_string().as_bytes())?;
    drop(stdin);
    let output = python.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).with_context(|| format!("Helm said {said}"))
}

/// The objects of a file of manifests.
fn objects(text: &str) -> Result<Objects> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    let mut objects = Objects::new();
    for object in documents.into_iter().filter(|object| !object.is_null()) {
        let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let kind = word("/kind").context("no kind")?;
        let name = word("/metadata/name").context("no name")?;
        let key = match word("/metadata/namespace") {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        };
        ensure!(
            objects.insert(key.clone(), object).is_none(),
            "{key} is there twice"
        );
    }
    Ok(objects)
}

fn container<'a>(objects: &'a Objects, workload: &str) -> Result<&'a Value> {
    let workload = objects.get(workload).context("no such workload")?;
    let containers = &workload["spec"]["template"]["spec"]["containers"];
    ensure!(containers.as_array().is_some_and(|all| all.len() == 1));
    Ok(&containers[0])
}

fn args(container: &Value) -> Result<Vec<String>> {
    Ok(serde_json::from_value(container["args"].clone())?)
}

fn expect_args(container: &Value, expected: &[&str]) -> Result<()> {
    let args = args(container)?;
    ensure!(args == expected, "{args:?}");
    parse(&args, "10.0.0.7")
}

/// Whether the agent takes these arguments, where `address` is the pod's and the node's.
fn parse(args: &[String], address: &str) -> Result<()> {
    let filled = args.iter().map(|arg| {
        arg.replace("$(HOST_IP)", address)
            .replace("$(POD_IP)", address)
    });
    // The gateway is told its pod in the environment.
    let pod = args.first().is_some_and(|verb| verb == "gateway");
    let pod = pod.then(|| "--pod=istio-system/gateway".to_owned());
    let words = ["mesh-agent".to_owned()]
        .into_iter()
        .chain(filled)
        .chain(pod);
    Cli::try_parse_from(words).with_context(|| format!("{args:?}"))?;
    Ok(())
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}
