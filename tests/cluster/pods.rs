//! The pods of a scene, as manifests, and what the API server and the node say of them.

use anyhow::{Context, Result, bail};
use mesh_tests::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PATIENCE;
use super::node::{place_of, processes_of};
use super::scene::Scene;
use crate::agent::eventually;

/// A pod of one container.
pub struct Manifest<'a> {
    /// Its name, and its container's.
    pub name: &'a str,
    /// Its labels, as a flow mapping has them.
    pub labels: &'a str,
    /// Its image.
    pub image: &'a str,
    /// Other lines of the container.
    pub container: &'a str,
    /// Another line of its `spec`.
    pub spec: &'a str,
}

impl Manifest<'_> {
    /// As YAML, with a line that begins another document.
    pub fn text(&self) -> String {
        let Self {
            name,
            labels,
            image,
            container,
            spec,
        } = self;
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{{labels}}}}}
spec:
  terminationGracePeriodSeconds: 1
  {spec}
  containers:
  - name: {name}
    image: {image}
    imagePullPolicy: Never
    {container}
---
"
        )
    }
}

impl Default for Manifest<'_> {
    fn default() -> Self {
        Self {
            name: "",
            labels: "",
            image: "mesh-web:v1",
            container: r#"command: [/busybox, sleep, "2147483647"]"#,
            spec: "restartPolicy: Always",
        }
    }
}

/// The namespace and its Service.
pub fn namespace(namespace: &str, enrolled: bool) -> String {
    let labels = if enrolled {
        r#"mesh-agent.io/enrol: "true""#
    } else {
        ""
    };
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, labels: {{{labels}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
"
    )
}

/// Two versions of a web server, and a client.
pub fn pods() -> String {
    let probe = "readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}";
    let client = Manifest {
        name: "client",
        labels: "app: client",
        ..Manifest::default()
    };
    let server = |name, labels, image| Manifest {
        name,
        labels,
        image,
        container: probe,
        ..Manifest::default()
    };
    [
        server("web-v1", "app: web, version: v1", "mesh-web:v1").text(),
        server("web-v2", "app: web, version: v2", "mesh-web:v2").text(),
        client.text(),
    ]
    .concat()
}

/// What the API server says of pods.
impl Scene {
    /// A field of a pod, as a JSON path.
    pub fn pod_field(&self, pod: &str, path: &str) -> Result<String> {
        let output = format!("jsonpath={path}");
        self.kubectl(&["get", "pod", pod, "--output", &output])
    }

    /// Waits until a pod is in this phase.
    pub fn wait_phase(&self, pod: &str, phase: &str) -> Result<()> {
        let is = || self.pod_field(pod, "{.status.phase}");
        eventually(PATIENCE, || is().is_ok_and(|is| is == phase))
            .with_context(|| format!("{pod} is {:?}: {:?}", is(), self.events_of(pod)))
    }

    /// Waits until the kubelet says that a pod is ready, or that it is not.
    pub fn wait_ready(&self, pod: &str, wanted: bool) -> Result<()> {
        let ready = || self.is_ready(pod);
        eventually(PATIENCE, || ready().is_ok_and(|ready| ready == wanted))
            .with_context(|| format!("{pod} is ready: {:?}: {:?}", ready(), self.events_of(pod)))
    }

    /// Whether the kubelet says that a pod is ready.
    pub fn is_ready(&self, pod: &str) -> Result<bool> {
        let condition = r#"{.status.conditions[?(@.type=="Ready")].status}"#;
        Ok(self.pod_field(pod, condition)? == "True")
    }

    /// How often its container was started again.
    pub fn restarts(&self, pod: &str) -> Result<u32> {
        let count = self.pod_field(pod, "{.status.containerStatuses[0].restartCount}")?;
        count.parse().with_context(|| format!("{pod}: {count:?}"))
    }

    /// What is told about a pod.
    pub fn events_of(&self, pod: &str) -> Result<String> {
        let about = format!("involvedObject.kind=Pod,involvedObject.name={pod}");
        let messages = "jsonpath={.items[*].message}";
        self.kubectl(&[
            "get",
            "events",
            "--field-selector",
            &about,
            "--output",
            messages,
        ])
    }
}

/// What the node says of them.
impl Scene {
    /// Where a pod's processes are.
    pub fn place_of(&self, pod: &str) -> Result<Pod> {
        let uid = self.pod_field(pod, "{.metadata.uid}")?;
        place_of(pod, &uid)
    }

    /// Kills the process of a pod whose command line has this word.
    pub fn kill_process(&self, pod: &str, word: &str) -> Result<()> {
        let uid = self.pod_field(pod, "{.metadata.uid}")?;
        for pid in processes_of(&uid)? {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if line
                .split(|byte| *byte == 0)
                .any(|part| part == word.as_bytes())
            {
                // Nobody may ask after it; what it had open is closed all the same.
                kill(Pid::from_raw(pid.try_into()?), Signal::SIGKILL)?;
                return Ok(());
            }
        }
        bail!("{pod} has no process with {word}");
    }
}
