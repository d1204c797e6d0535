//! The bench itself, as root in namespaces of its own: a pod per subject, a server, and the rounds.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mesh_tests::{Pod, PodOptions, Running, World, WorldOptions};
use nix::sys::signal::Signal;

use super::{
    Options, Part, Tools, bulk, calls, cost,
    decide::Decisions,
    idle,
    load::{self, Shape},
    memory::{self, Place},
    report::{Measurement, Report},
    section::Section,
    subject::{self, Subject, Work},
    versions, workers,
};
use crate::{demo, http, scratch::Scratch, screen::Screen, workspace};

pub(super) const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Whom the chains let pass.
const PROXY_UID: u32 = 1337;
const PATIENCE: Duration = Duration::from_secs(30);
/// What is said where the numbers cannot be trusted.
pub(super) const BUSY: &str =
    "Other work runs on this machine, or has until now: the numbers will be rough";

/// Runs the bench, as root and before there is a second thread.
pub fn run(screen: Screen, options: &Options, tools: &Tools) -> Result<ExitCode> {
    let scratch = Scratch::new("bench")?;
    let folder = scratch.path().to_owned();
    mesh_tests::isolate_and_supervise(|| match measure(screen, options, tools, &folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn measure(screen: Screen, options: &Options, tools: &Tools, folder: &Path) -> Result<()> {
    let load = load_average();
    if load.is_some_and(|load| load > 0.5) {
        screen.warn(BUSY);
    }
    let bench = Bench::set_up(screen, options, tools, folder)?;
    let measurements = match options.wants_traffic() {
        true => bench.rounds(screen)?,
        false => Vec::new(),
    };
    let memory = match options.wants_memory() {
        true => memory::measure(screen, &bench.place(tools))?,
        false => Vec::new(),
    };
    let sections = bench.parts(screen)?;
    let decisions = tools.decisions.as_deref().map(read_decisions).transpose()?;
    let report = Report {
        conditions: bench.conditions(load)?,
        measurements,
        sections,
        memory,
        decisions,
    };
    if !report.measurements.is_empty() {
        screen.heading("Medians");
        println!("{}", report.table());
    }
    for condition in &report.conditions {
        screen.note(condition);
    }
    let files = report.write(&tools.results, &stamp()?)?;
    hand_over(&tools.results, &files)?;
    screen.line(&format!("Kept in {} and .md", files[0].display()));
    Ok(())
}

/// Everything that is needed to measure something.
pub(super) struct Bench<'a> {
    pub(super) options: &'a Options,
    folder: &'a Path,
    agent: PathBuf,
    backend: Option<PathBuf>,
    envoy: Option<PathBuf>,
    congestion_control: &'static str,
    pub(super) server: Pod,
    pub(super) clients: Vec<(Subject, Pod)>,
    // After the pods in it.
    world: World,
}

impl<'a> Bench<'a> {
    fn set_up(
        screen: Screen,
        options: &'a Options,
        tools: &Tools,
        folder: &'a Path,
    ) -> Result<Self> {
        let world = World::new(WorldOptions::default())?;
        let server = world.pod("server", PodOptions::default())?;
        let mut clients = Vec::new();
        for subject in Subject::ALL {
            let beside = subject == Subject::Direct && options.needs_direct();
            if !beside && !options.needs(subject) {
                continue;
            }
            if let Some(reason) = lacking(subject, tools) {
                screen.warn(&format!("{} is left out: {reason}", subject.title()));
                continue;
            }
            clients.push((
                subject,
                world.pod(&format!("client-{}", subject.name()), PodOptions::default())?,
            ));
        }
        let mut congestion_control = "";
        for pod in clients
            .iter()
            .map(|(_, pod)| pod)
            .chain([&server, world.node()])
        {
            congestion_control = tune(pod)?;
        }
        // Copies, which the proxies' user can reach.
        let agent = copy(&tools.agent, &folder.join("mesh-agent"))?;
        let envoy = tools
            .envoy
            .as_ref()
            .map(|path| copy(path, &folder.join("envoy-binary")))
            .transpose()?;
        let backend = tools.backend.as_ref();
        let backend = backend.map(|path| copy(path, &folder.join("backend")));
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
        let bench = Self {
            options,
            folder,
            agent,
            backend: backend.transpose()?,
            envoy,
            congestion_control,
            server,
            clients,
            world,
        };
        for (subject, client) in &bench.clients {
            bench.prepare(*subject, client)?;
        }
        Ok(bench)
    }

    /// Chains for the proxies that are not ours, manifests for the one that is.
    fn prepare(&self, subject: Subject, client: &Pod) -> Result<()> {
        if subject.is_foreign() {
            let mut apply = self.world.node().command(&self.agent);
            let output = apply
                .args(["iptables", "apply", "--netns"])
                .arg(client.netns())
                .output()
                .context("cannot run the agent")?;
            if !output.status.success() {
                bail!(
                    "`mesh-agent iptables apply` {}: {}",
                    output.status,
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
        if let Some(agent) = subject.agent() {
            let manifests = self.folder.join(format!("manifests-{}", subject.name()));
            fs::create_dir(&manifests)?;
            let pod = |name: &str, pod: &Pod, labels: &str| {
                format!(
                    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {labels}\n  annotations:\n    mesh-agent.io/netns: {}\nspec:\n  \
                     nodeName: node1\nstatus:\n  phase: Running\n  podIP: {ip}\n  podIPs:\n  - ip: {ip}\n  conditions:\n  - type: Ready\n    \
                     status: \"True\"\n",
                    pod.netns().display(),
                    ip = pod.ipv4
                )
            };
            let ports: String = [
                ("http", Work::Small),
                ("tcp-bulk", Work::Stream),
                ("http-bulk", Work::Body),
                ("grpc-calls", Work::Calls),
            ]
            .map(|(name, work)| {
                let port = work.port();
                format!("  - name: {name}\n    port: {port}\n    targetPort: {port}\n")
            })
            .concat();
            let service = format!(
                "apiVersion: v1\nkind: Service\nmetadata:\n  name: user-app-svc\nspec:\n  clusterIP: {SERVICE_IP}\n  clusterIPs:\n  - {SERVICE_IP}\n  \
                 selector:\n    app: user-app\n  ports:\n{ports}"
            );
            let server = format!(
                "{{app: user-app, mesh-agent.io/enrol: \"{}\"}}",
                agent.both_pods
            );
            let server = pod("server", &self.server, &server);
            let client = pod("client", client, "{app: client}");
            fs::write(
                manifests.join("all.yaml"),
                [service, server, client].join("---\n"),
            )?;
        }
        Ok(())
    }

    /// Every subject in every round.
    fn rounds(&self, screen: Screen) -> Result<Vec<Measurement>> {
        let _server = self.start_server()?;
        let mut measurements = Vec::new();
        let (rounds, count) = (self.options.rounds, self.clients.len());
        screen.heading(&format!(
            "{rounds} rounds of {count} subjects, 3 × {} s each",
            self.options.seconds
        ));
        for round in 1..=rounds {
            for turn in 0..count {
                // Each round begins with another one, so that none is always the first after a pause.
                let (subject, client) = &self.clients[(turn + round as usize - 1) % count];
                let measurement = self
                    .measure(*subject, client, round)
                    .with_context(|| format!("round {round}, {}", subject.title()))?;
                screen.line(&format!(
                    "round {round}  {:<22} {:>8.0} requests/s {:>8.0} connections/s",
                    subject.title(),
                    measurement.throughput.rate,
                    measurement.connections.rate
                ));
                measurements.push(measurement);
            }
        }
        Ok(measurements)
    }

    fn place<'p>(&'p self, tools: &'p Tools) -> Place<'p> {
        Place {
            world: &self.world,
            agent: &self.agent,
            folder: self.folder,
            without_ebpf: tools.without_ebpf.as_deref(),
        }
    }

    /// What is measured beside small answers by HTTP/1.1.
    fn parts(&self, screen: Screen) -> Result<Vec<Section>> {
        let mut sections = Vec::new();
        if self.options.wants_part(Part::Bulk) {
            sections.extend(bulk::measure(screen, self)?);
        }
        if self.options.wants_part(Part::Http2) {
            sections.push(calls::measure(screen, self, calls::Kind::Http2)?);
        }
        if self.options.wants_part(Part::Grpc) {
            sections.push(calls::measure(screen, self, calls::Kind::Grpc)?);
        }
        if self.options.wants_part(Part::Idle) {
            sections.push(idle::measure(screen, self)?);
        }
        if self.options.wants_part(Part::Workers) {
            sections.push(workers::measure(screen, self)?);
        }
        Ok(sections)
    }

    /// Every subject that can do the work, in every round, each with its own proxy; what is measured of it is up to `measure`.
    pub(super) fn each<T>(
        &self,
        work: Work,
        mut measure: impl FnMut(&Turn<'_>) -> Result<T>,
    ) -> Result<Vec<(Subject, u32, T)>> {
        let able: Vec<_> = self
            .clients
            .iter()
            .filter(|(subject, _)| subject.can(work))
            .collect();
        let mut measured = Vec::new();
        for round in 1..=self.options.rounds {
            for turn in 0..able.len() {
                // Each round begins with another one, so that none is always the first after a pause.
                let (subject, client) = able[(turn + round as usize - 1) % able.len()];
                let mut proxy = self.start(*subject, client, work, 1)?;
                let address = match subject {
                    Subject::Direct => self.server.ipv4,
                    _ => SERVICE_IP,
                };
                let turn = Turn {
                    subject: *subject,
                    client,
                    address,
                    proxy: proxy.as_ref(),
                };
                let value = measure(&turn)
                    .with_context(|| format!("round {round}, {}", subject.title()))?;
                measured.push((*subject, round, value));
                end(&mut proxy)?;
            }
        }
        Ok(measured)
    }

    /// The server of what is much at once, and of HTTP/2.
    pub(super) fn start_backend(&self) -> Result<Running> {
        let program = self.backend.as_ref().context("the backend is missing")?;
        let mut command = self.server.command(program);
        command.args([Work::Stream, Work::Body, Work::Calls].map(|work| work.port().to_string()));
        let running = Running::start("backend", command, &self.folder.join("backend.log"))?;
        let address = format!("{}:{}", self.server.ipv4, Work::Body.port());
        demo::wait_until("the backend answers", PATIENCE, || {
            let answer = self
                .server
                .run(|| http::get(&address, "backend", "/counts"))?;
            Ok(answer.is_ok_and(|answer| answer.status == 200))
        })
        .with_context(|| format!("the end of its log:\n{}\n", running.tail(20)))?;
        Ok(running)
    }

    /// A scratch file.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn start_server(&self) -> Result<Running> {
        let file = self.folder.join("server.conf");
        fs::write(&file, subject::nginx_server(self.folder))?;
        let mut command = self.server.command(nginx()?);
        command.args(["-e", "stderr", "-c"]).arg(&file);
        let running = Running::start("server", command, &self.folder.join("server.log"))?;
        Self::wait_for_answer(&self.server, &format!("{}:80", self.server.ipv4), &running)?;
        Ok(running)
    }

    fn measure(&self, subject: Subject, client: &Pod, round: u32) -> Result<Measurement> {
        let mut proxy = self.start(subject, client, Work::Small, 1)?;
        let address = if subject == Subject::Direct {
            self.server.ipv4
        } else {
            SERVICE_IP
        };
        if let Some(proxy) = &proxy {
            Self::wait_for_answer(client, &format!("{address}:80"), proxy)?;
        }
        let response =
            client.run(|| http::get(&format!("{address}:80"), "user-app-svc", "/"))??;
        if response.status != 200 || !subject.handled(&response) {
            bail!(
                "it was not on the way; the answer was\n{}",
                response.shown()
            );
        }
        let url = format!("http://{address}/");
        load::run(client, &url, Shape::Throughput, 1).context("warming up")?;
        let cost = |proxy: &Option<Running>| {
            proxy
                .as_ref()
                .map(|proxy| cost::of_tree(proxy.pid()))
                .transpose()
        };
        let before = cost(&proxy)?;
        let throughput = load::run(client, &url, Shape::Throughput, self.options.seconds)?;
        let after = cost(&proxy)?;
        let spent = before
            .zip(after)
            .map(|(before, after)| after.seconds - before.seconds);
        if spent.is_some_and(|spent| spent <= 0.0) {
            bail!("the proxy used no processor time, so the load passed it by");
        }
        let latency = load::run(client, &url, Shape::Latency, self.options.seconds)?;
        let connections = load::run(client, &url, Shape::NewConnections, self.options.seconds)?;
        let resident = cost(&proxy)?.map(|cost| cost.resident);
        end(&mut proxy)?;
        Ok(Measurement {
            round,
            subject,
            throughput,
            latency,
            connections,
            cpu_per_request: spent.map(|spent| spent * 1e6 / throughput.requests as f64),
            resident,
        })
    }

    /// Starts the proxy, if there is one.
    pub(super) fn start(
        &self,
        subject: Subject,
        client: &Pod,
        work: Work,
        workers: u32,
    ) -> Result<Option<Running>> {
        let log = self.folder.join(format!("{}.log", subject.name()));
        if let Some(agent) = subject.agent() {
            let mut command = self.world.node().command(&self.agent);
            let manifests = self.folder.join(format!("manifests-{}", subject.name()));
            command.arg("run").arg("--manifests").arg(manifests);
            command.args(["--mode", agent.mode, "--fast-path", agent.fast_path]);
            command.args(["--one-hop", agent.one_hop, "--node", "node1"]);
            command
                .args(["--workers", &workers.to_string()])
                .env("NO_COLOR", "1");
            return Ok(Some(Running::start(subject.name(), command, &log)?));
        }
        let mut command = match subject {
            Subject::Direct
            | Subject::Iptables
            | Subject::Ebpf
            | Subject::FastPath
            | Subject::BothPods
            | Subject::BothPodsTwice
            | Subject::BothPodsFast => return Ok(None),
            Subject::Envoy => client.command_as(
                PROXY_UID,
                PROXY_UID,
                self.envoy.as_ref().context("Envoy is missing")?,
            ),
            Subject::Nginx => client.command_as(PROXY_UID, PROXY_UID, nginx()?),
            Subject::Haproxy => client.command_as(
                PROXY_UID,
                PROXY_UID,
                workspace::find_program("haproxy").context("HAProxy is missing")?,
            ),
        };
        let (configuration, arguments) = subject
            .foreign(self.folder, self.server.ipv4, work)
            .context("no configuration")?;
        fs::write(subject.configuration(self.folder), configuration)?;
        command.args(arguments);
        Ok(Some(Running::start(subject.name(), command, &log)?))
    }

    /// Waits until HTTP is answered from there.
    pub(super) fn wait_for_answer(from: &Pod, to: &str, running: &Running) -> Result<()> {
        demo::wait_until("it answers", PATIENCE, || {
            Ok(from
                .run(|| http::get(to, "user-app-svc", "/"))?
                .is_ok_and(|response| response.status == 200))
        })
        .with_context(|| format!("the end of its log:\n{}\n", running.tail(20)))
    }

    fn conditions(&self, load: Option<f64>) -> Result<Vec<String>> {
        let mut conditions = machine(load)?;
        conditions.push(versions::of_others(self.envoy.as_deref()));
        conditions.push(format!(
            "mesh-agent is a release build; every proxy has one thread and stands in the client's pod, the server in another of the same node; congestion control {} everywhere",
            self.congestion_control
        ));
        if self.options.wants_traffic() {
            conditions.extend([
                format!("wrk with 1 thread, nginx: 32 connections kept alive; 1 connection kept alive; a new connection per request, 32 at a time; {} s each, {} rounds", self.options.seconds, self.options.rounds),
                "of direct: median over the rounds of the ratio to the direct connection of the same round; the other columns are medians".to_owned(),
                "CPU µs/req: user and system time of the proxy's processes".to_owned(),
            ]);
        }
        Ok(conditions)
    }
}

/// A subject whose turn it is.
pub(super) struct Turn<'a> {
    pub(super) subject: Subject,
    pub(super) client: &'a Pod,
    /// Where the client finds the server.
    pub(super) address: Ipv4Addr,
    pub(super) proxy: Option<&'a Running>,
}

impl Turn<'_> {
    /// The processor time of the proxy so far, in seconds; none where there is no proxy.
    pub(super) fn seconds(&self) -> Result<Option<f64>> {
        let cost = self.proxy.map(|proxy| cost::of_tree(proxy.pid()));
        Ok(cost.transpose()?.map(|cost| cost.seconds))
    }
}

/// Ends a proxy.
pub(super) fn end(proxy: &mut Option<Running>) -> Result<()> {
    if let Some(proxy) = proxy {
        proxy.signal(Signal::SIGTERM)?;
        // What does not end by itself is killed when the guard goes.
        let _ = proxy.wait(Duration::from_secs(5));
    }
    // TIME_WAIT and the like of one subject are not the next one's business.
    thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// The machine, and how much runs on it.
pub(super) fn machine(load: Option<f64>) -> Result<Vec<String>> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read the kernel's version")?;
    let processors = thread::available_parallelism().map_or(0, usize::from);
    let load = load.map_or_else(|| "unknown".to_owned(), |load| load.to_string());
    Ok(vec![format!(
        "Linux {}, {processors} processors, load at the start {load}",
        kernel.trim()
    )])
}

/// What was measured before this process was.
fn read_decisions(file: &Path) -> Result<Decisions> {
    let read = || -> Result<Decisions> { Ok(serde_json::from_slice(&fs::read(file)?)?) };
    read().with_context(|| format!("cannot read {}", file.display()))
}

/// How much runs on this machine, over the last minute.
pub(super) fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg")
        .ok()?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

/// Why a subject cannot be measured here.
fn lacking(subject: Subject, tools: &Tools) -> Option<String> {
    match subject {
        Subject::Direct | Subject::Nginx | Subject::Iptables => None,
        Subject::Ebpf
        | Subject::FastPath
        | Subject::BothPods
        | Subject::BothPodsTwice
        | Subject::BothPodsFast => tools.without_ebpf.clone(),
        Subject::Envoy => tools
            .envoy
            .is_none()
            .then(|| "there is no Envoy".to_owned()),
        Subject::Haproxy => workspace::find_program("haproxy")
            .is_none()
            .then(|| "haproxy is not installed".to_owned()),
    }
}

/// The same for all: a machine's own default may pace small answers on veth pairs badly, and ports must not run out.
/// Returns the congestion control: a namespace may choose cubic only where the machine allows it, and reno always.
fn tune(pod: &Pod) -> Result<&'static str> {
    let set = |name: &str, value: &str| fs::write(format!("/proc/sys/net/ipv4/{name}"), value);
    pod.run(|| {
        set("ip_local_port_range", "1024 65000").context("cannot widen the range of ports")?;
        set("tcp_tw_reuse", "1").context("cannot let ports be used again")?;
        for congestion_control in ["cubic", "reno"] {
            if set("tcp_congestion_control", congestion_control).is_ok() {
                return Ok(congestion_control);
            }
        }
        bail!("cannot set the congestion control")
    })?
}

fn nginx() -> Result<PathBuf> {
    workspace::find_program("nginx").context("nginx is not installed: apt-get install nginx-light")
}

fn copy(from: &Path, to: &Path) -> Result<PathBuf> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(to.to_owned())
}

/// Now, as a file's name.
pub(super) fn stamp() -> Result<String> {
    let output = Command::new("date")
        .args(["-u", "+%Y%m%d-%H%M%S"])
        .output()
        .context("cannot run date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The results are whose the checkout is, also when `sudo` made them.
fn hand_over(folder: &Path, files: &[PathBuf]) -> Result<()> {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) else {
        return Ok(());
    };
    for path in files.iter().map(PathBuf::as_path).chain([folder]) {
        chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} away", path.display()))?;
    }
    Ok(())
}
