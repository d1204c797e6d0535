//! The cluster of the demo: pods in a world of their own, the servers in them, the agent and the gateway. It plays the
//! parts of Kubernetes that the walkthrough takes for granted, and says which.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpStream},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mesh_tests::{Pod, PodOptions, Running, World, WorldOptions};

use super::{
    manifests::{self, PodObject, Template},
    status::Status,
};
use crate::{http, workspace};

/// The address that the API server would have given to `user-app-svc`.
pub const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The same for the gateway's Service.
const GATEWAY_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);
/// The walkthrough's NodePort.
pub const NODE_PORT: u16 = 31221;
/// Where Istio's gateway listens, so that it needs no privilege.
const GATEWAY_PORT: u16 = 8080;
/// Who the gateway runs as.
const GATEWAY_UID: u32 = 1337;
/// How long the agent may take until it is ready.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Everything that runs. Dropping it ends it all.
#[derive(Debug)]
pub struct Cluster {
    // Servers end before the network they are in.
    servers: Vec<Running>,
    /// Where the manifests lie.
    pub manifests: PathBuf,
    /// Where the logs lie.
    pub logs: PathBuf,
    /// Where the demo's client is.
    pub client: Pod,
    gateway: Pod,
    backends: Vec<Backend>,
    agent: PathBuf,
    /// The network.
    pub world: World,
}

#[derive(Debug)]
struct Backend {
    pod: Pod,
    template: Template,
}

impl Cluster {
    /// Makes the network, and the manifests in `folder`.
    pub fn new(folder: &Path, agent: &Path) -> Result<Self> {
        let (manifests, logs) = (folder.join("manifests"), folder.join("logs"));
        for dir in [&manifests, &logs] {
            fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        // A copy, which the gateway's user can reach and which a build during the demo leaves alone.
        let own_agent = folder.join("mesh-agent");
        fs::copy(agent, &own_agent).with_context(|| format!("cannot copy {}", agent.display()))?;
        fs::set_permissions(&own_agent, fs::Permissions::from_mode(0o755))?;

        let names = [
            "user-app-svc",
            "user-app-svc.default",
            "user-app-svc.default.svc",
            "user-app-svc.default.svc.cluster.local",
        ];
        let hosts = names
            .map(|name| (name.to_owned(), IpAddr::V4(SERVICE_IP)))
            .to_vec();
        let world = World::new(WorldOptions { hosts })?;
        let client = world.pod("client", PodOptions::default())?;
        let mut backends = Vec::new();
        for deployment in manifests::DEPLOYMENTS {
            let template = manifests::template(deployment)?;
            backends.push(Backend {
                pod: world.pod(&template.name, PodOptions::default())?,
                template,
            });
        }
        let gateway = world.pod("istio-ingressgateway", PodOptions::default())?;
        let cluster = Self {
            servers: Vec::new(),
            manifests,
            logs,
            client,
            gateway,
            backends,
            agent: own_agent,
            world,
        };
        cluster.write_manifests()?;
        Ok(cluster)
    }

    /// What listens on the node's port for the world outside.
    pub fn node_address(&self) -> String {
        format!("{}:{NODE_PORT}", self.world.node().ipv4)
    }

    /// All pods with what they are, for a person to read.
    pub fn pods(&self) -> impl Iterator<Item = (&Pod, &'static str)> {
        let backends = self
            .backends
            .iter()
            .map(|backend| (&backend.pod, "backend"));
        [(&self.client, "client")]
            .into_iter()
            .chain(backends)
            .chain([
                (&self.gateway, "ingress gateway"),
                (self.world.node(), "the node"),
                (self.world.outside(), "a machine outside"),
            ])
    }

    /// Starts the backends as their Deployments say; with nginx, or with the built-in server where there is none.
    pub fn start_backends(&mut self, folder: &Path) -> Result<Option<&'static str>> {
        let nginx = workspace::find_program("nginx");
        for Backend { pod, template } in &self.backends {
            let own = folder.join(&template.name);
            let html = own.join("html");
            fs::create_dir_all(&html).with_context(|| format!("cannot make {}", html.display()))?;
            let program = own.join("nginx");
            match &nginx {
                Some(nginx) => {
                    fs::write(own.join("nginx.conf"), nginx_configuration(&own))?;
                    let script = format!(
                        "#!/bin/sh\nexec {} -e stderr -c {}/nginx.conf \"$@\"\n",
                        nginx.display(),
                        own.display()
                    );
                    fs::write(&program, script)?;
                    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
                }
                None => symlink(workspace::this_program()?, &program)?,
            }
            let (first, rest) = template
                .command
                .split_first()
                .context("the Deployment's command is empty")?;
            let mut command = pod.command(first);
            let path = format!(
                "{}:{}",
                own.display(),
                std::env::var("PATH").unwrap_or_default()
            );
            // The image's folder is the pod's own; here it would be the machine's.
            command.args(
                rest.iter()
                    .map(|part| part.replace("/usr/share/nginx/html", &html.to_string_lossy())),
            );
            command.env("PATH", path).env("MESH_DEMO_FOLDER", &html);
            self.servers.push(Running::start(
                &template.name,
                command,
                &self.logs.join(format!("{}.log", template.name)),
            )?);
        }
        for backend in &self.backends {
            wait_until(
                &format!("{} answers", backend.template.name),
                START_PATIENCE,
                || {
                    let answer = backend
                        .pod
                        .run(|| http::get("127.0.0.1:80", "user-app-svc", "/"))?;
                    Ok(answer.is_ok_and(|response| response.status == 200))
                },
            )?;
        }
        Ok(nginx
            .is_none()
            .then_some("nginx is not installed, so the backends are a small built-in web server"))
    }

    /// Starts kube-proxy's part: the node's port.
    pub fn start_node_port(&mut self) -> Result<()> {
        let mut command = self.world.node().command(workspace::this_program()?);
        command
            .arg("forward")
            .arg(NODE_PORT.to_string())
            .arg(format!("{}:{GATEWAY_PORT}", self.gateway.ipv4));
        self.servers.push(Running::start(
            "node-port",
            command,
            &self.logs.join("node-port.log"),
        )?);
        let node = self.world.node().clone();
        wait_until("the node's port is open", START_PATIENCE, || {
            Ok(node
                .run(|| TcpStream::connect(("127.0.0.1", NODE_PORT)))?
                .is_ok())
        })
    }

    /// Starts the agent on the node and waits until it is ready.
    pub fn start_agent(&mut self, mode: &str) -> Result<()> {
        let mut command = self.world.node().command(&self.agent);
        command
            .arg("run")
            .arg("--manifests")
            .arg(&self.manifests)
            .args(["--mode", mode, "--node", "node1"]);
        let node = self.world.node().clone();
        self.start_mesh("agent", command, &node)
    }

    /// Starts the gateway in its pod, as nobody in particular, and waits until it is ready.
    pub fn start_gateway(&mut self) -> Result<()> {
        let mut command = self
            .gateway
            .command_as(GATEWAY_UID, GATEWAY_UID, &self.agent);
        command
            .arg("gateway")
            .arg("--manifests")
            .arg(&self.manifests)
            .args(["--pod", "istio-system/istio-ingressgateway"]);
        let pod = self.gateway.clone();
        self.start_mesh("gateway", command, &pod)
    }

    /// What the agent says of itself.
    pub fn status(&self) -> Result<Status> {
        let response = self
            .world
            .node()
            .run(|| http::get("127.0.0.1:15000", "localhost", "/status"))??;
        serde_json::from_slice(&response.body).with_context(|| {
            format!(
                "the agent's /status is not what we know: {}",
                response.text()
            )
        })
    }

    /// Puts a manifest in place at once, as an editor or `kubectl apply` would.
    pub fn apply(&self, file: &str, text: &str) -> Result<()> {
        let path = self.manifests.join(file);
        let fresh = self.manifests.join(format!(".{file}.new"));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn start_mesh(&mut self, name: &str, mut command: Command, place: &Pod) -> Result<()> {
        command.env("NO_COLOR", "1");
        let mut running = Running::start(name, command, &self.logs.join(format!("{name}.log")))?;
        let ready = wait_until(&format!("the {name} is ready"), START_PATIENCE, || {
            if let Some(status) = running.exited()? {
                bail!("the {name} ended with {status}");
            }
            let answer = place.run(|| http::get("127.0.0.1:15000", "localhost", "/ready"))?;
            Ok(answer.is_ok_and(|response| response.status == 200))
        });
        ready.with_context(|| {
            format!(
                "the {name} did not start; the end of its log:\n{}\n",
                running.tail(20)
            )
        })?;
        self.servers.push(running);
        Ok(())
    }

    fn write_manifests(&self) -> Result<()> {
        for (file, text) in manifests::UNCHANGED {
            self.apply(file, text)?;
        }
        self.apply(
            "user-app-svc.allocated.yaml",
            &manifests::allocated(manifests::SERVICE, SERVICE_IP),
        )?;
        self.apply(
            "istio-ingressgateway.yaml",
            &manifests::gateway_service(GATEWAY_SERVICE_IP, NODE_PORT, GATEWAY_PORT),
        )?;
        self.apply(
            "pods.yaml",
            &self
                .pod_objects()
                .iter()
                .map(PodObject::render)
                .collect::<Vec<_>>()
                .join("---\n"),
        )
    }

    fn pod_objects(&self) -> Vec<PodObject> {
        let object = |namespace, pod: &Pod, labels, image: &str| PodObject {
            namespace,
            name: pod.name.clone(),
            labels,
            image: image.to_owned(),
            netns: pod.netns(),
            ips: [IpAddr::V4(pod.ipv4), IpAddr::V6(pod.ipv6)],
            node: self.world.node().ipv4,
        };
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let mut objects = vec![object(
            "default",
            &self.client,
            labels(&[("app", "client")]),
            "curl",
        )];
        for Backend { pod, template } in &self.backends {
            objects.push(object(
                "default",
                pod,
                template.labels.clone(),
                &template.image,
            ));
        }
        // Istio puts no proxy before its gateways either.
        let gateway = labels(&[
            ("app", "istio-ingressgateway"),
            ("istio", "ingressgateway"),
            ("mesh-agent.io/enrol", "false"),
        ]);
        objects.push(object("istio-system", &self.gateway, gateway, "mesh-agent"));
        objects
    }
}

/// Asks again and again until the answer is yes.
pub fn wait_until(
    what: &str,
    patience: Duration,
    mut asked: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !asked()? {
        if Instant::now() > deadline {
            bail!("waited {} s in vain until {what}", patience.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What an image brings along, and a pod's own folder instead of the machine's.
fn nginx_configuration(own: &Path) -> String {
    let own = own.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {own}/{kind};\n"))
        .collect();
    format!(
        "worker_processes 1;\npid {own}/nginx.pid;\nerror_log stderr;\nevents {{ worker_connections 1024; }}\nhttp {{\n    \
         access_log off;\n    default_type text/html;\n{temporary}    server {{\n        listen 80;\n        listen [::]:80;\n        \
         root {own}/html;\n    }}\n}}\n"
    )
}
