//! Certificates of a gateway that change while clients come, stay and go, in every mode of TLS: no connection is dropped, new
//! handshakes have the new certificate, and one that is of no use leaves the last good one in force, which is told.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{Pod, PodOptions, World, WorldOptions};
use serde_json::json;

use crate::agent::{Agent, eventually};
use crate::corpus::ask::{Answer, Way};
use crate::corpus::keys::keys;
use crate::corpus::request::Request;
use crate::manifests::{Manifests, PodObject, ServiceObject};
use crate::servers::Server;
use crate::{Plain, http};

pub fn tests() -> Vec<(&'static str, Plain)> {
    vec![("renewal::in_every_mode", in_every_mode)]
}

/// A server of the Gateway: its host, and what clients do there.
#[derive(Clone, Copy, Debug)]
struct Served {
    host: &'static str,
    /// Whether clients show a certificate.
    mutual: bool,
    /// Whether what is inside is no HTTP.
    tcp: bool,
}

const SERVED: [Served; 6] = [
    served("secret.example.com", false, false),
    served("file.example.com", false, false),
    served("mutual-secret.example.com", true, false),
    served("mutual-file.example.com", true, false),
    served("several.example.com", false, false),
    served("tcp.example.com", true, true),
];

const fn served(host: &'static str, mutual: bool, tcp: bool) -> Served {
    Served { host, mutual, tcp }
}

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: default}
spec:
  selector: {app: istio-ingressgateway}
  servers:
  - port: {number: 443, name: secret, protocol: HTTPS}
    hosts: [secret.example.com]
    tls: {mode: SIMPLE, credentialName: renewed}
  - port: {number: 443, name: file, protocol: HTTPS}
    hosts: [file.example.com]
    tls: {mode: SIMPLE, serverCertificate: FILES/tls.crt, privateKey: FILES/tls.key}
  - port: {number: 443, name: mutual-secret, protocol: HTTPS}
    hosts: [mutual-secret.example.com]
    tls: {mode: MUTUAL, credentialName: renewed}
  - port: {number: 443, name: mutual-file, protocol: HTTPS}
    hosts: [mutual-file.example.com]
    tls: {mode: OPTIONAL_MUTUAL, serverCertificate: FILES/tls.crt, privateKey: FILES/tls.key, caCertificates: FILES/ca.crt}
  - port: {number: 443, name: several, protocol: HTTPS}
    hosts: [several.example.com]
    tls: {mode: SIMPLE, credentialNames: [renewed, rsa]}
  - port: {number: 443, name: tcp, protocol: TLS}
    hosts: [tcp.example.com]
    tls: {mode: MUTUAL, credentialName: renewed}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: routes, namespace: default}
spec:
  hosts: ['*.example.com']
  gateways: [gw]
  http: [{route: [{destination: {host: app, port: {number: 80}}}]}]
  tcp: [{route: [{destination: {host: app, port: {number: 9000}}}]}]
";

/// Dropped from the top: processes first, the world last.
struct Stage {
    gateway: Agent,
    _servers: Vec<Server>,
    manifests: Manifests,
    /// Where the certificate is that is read from files.
    files: String,
    address: SocketAddr,
    world: World,
}

/// Those who ask all the while.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<Result<()>>>,
}

fn in_every_mode() -> Result<()> {
    let stage = Stage::build()?;
    stage.expect("one")?;
    let load = Load::start(&stage);
    for name in ["two", "any", "one", "two"] {
        stage.put(name, name)?;
        stage.expect(name)?;
    }
    stage.put("any", "one")?;
    let told = || -> Result<bool> {
        let rejected = stage.gateway.status()?["rejected"].to_string();
        let log = mesh_tests::tail(&stage.world.log("gateway"), 200);
        let kept = log
            .lines()
            .filter(|line| line.contains("the certificate is kept as it was"))
            .filter(|line| line.contains("does not belong to the certificate"));
        Ok(rejected.contains("the key does not belong to the certificate") && kept.count() >= 2)
    };
    eventually(Duration::from_secs(8), || {
        // Files are looked at where they are used.
        stage.expect("two").is_ok() && told().unwrap_or(false)
    })
    .context("nobody tells of the broken certificate, or it was not kept as it was")?;
    stage.expect("two")?;
    stage.put("any", "any")?;
    stage.expect("any")?;
    load.end()
}

impl Stage {
    fn build() -> Result<Self> {
        let world = World::new(WorldOptions::default())?;
        let make = |name: &str| world.pod(name, PodOptions::default());
        let (gateway_pod, app) = (make("gateway")?, make("app")?);
        let servers = vec![
            http::serve(&app, "app", 80, None)?,
            Server::echo(&app, "app", 9000)?,
        ];
        let files = format!("{}/renewed", mesh_tests::FILES);
        fs::create_dir_all(&files)?;
        fs::write(Path::new(&files).join("ca.crt"), keys().pem("ca.pem")?)?;
        let manifests = Manifests::new()?;
        let addresses = |pod: &Pod| vec![pod.ipv4.into(), pod.ipv6.into()];
        manifests.pod(&PodObject::remote("app", addresses(&app)))?;
        let gateway = PodObject::remote("istio-ingressgateway", addresses(&gateway_pod));
        manifests.pod(&gateway.namespace("istio-system"))?;
        let vip = |last: u8| vec![[10, 96, 0, last].into()];
        let app_service = ServiceObject::new("app", vip(22), "app");
        manifests.service(&app_service.port("http", 80, 80).port("tcp", 9000, 9000))?;
        manifests.service(
            &ServiceObject::new("istio-ingressgateway", vip(21), "istio-ingressgateway")
                .namespace("istio-system")
                .port("https", 443, 8443),
        )?;
        manifests.write("rsa.yaml", &secret("rsa", "one-rsa", "one-rsa")?)?;
        manifests.write("gateway.yaml", &GATEWAY.replace("FILES", &files))?;
        put(&manifests, &files, "one", "one")?;
        let name = "istio-system/istio-ingressgateway";
        Ok(Self {
            gateway: Agent::gateway(&world, manifests.path(), &gateway_pod, name)?,
            _servers: servers,
            manifests,
            files,
            address: SocketAddr::new(gateway_pod.ipv4.into(), 8443),
            world,
        })
    }

    /// Puts a certificate, and the key of one, in the place of the last.
    fn put(&self, certificate: &str, key: &str) -> Result<()> {
        put(&self.manifests, &self.files, certificate, key)
    }

    /// Waits until every server shows this certificate to who comes anew.
    fn expect(&self, name: &str) -> Result<()> {
        for served in SERVED {
            let mut last = String::new();
            eventually(Duration::from_secs(5), || {
                last = match served.ask_anew(self.world.outside(), self.address) {
                    Ok(answer) => answer.tls.map(|tls| tls.shown).unwrap_or_default(),
                    Err(e) => format!("{e:#}"),
                };
                last == name
            })
            .with_context(|| format!("{} does not show {name}, but {last}", served.host))?;
        }
        Ok(())
    }
}

fn put(manifests: &Manifests, files: &str, certificate: &str, key: &str) -> Result<()> {
    let files = Path::new(files);
    fs::write(
        files.join("tls.crt"),
        keys().pem(&format!("{certificate}.pem"))?,
    )?;
    fs::write(files.join("tls.key"), keys().pem(&format!("{key}.key"))?)?;
    manifests.write("renewed.yaml", &secret("renewed", certificate, key)?)
}

fn secret(name: &str, certificate: &str, key: &str) -> Result<String> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "istio-system"},
        "type": "kubernetes.io/tls",
        "stringData": {
            "tls.crt": keys().pem(&format!("{certificate}.pem"))?,
            "tls.key": keys().pem(&format!("{key}.key"))?,
            "ca.crt": keys().pem("ca.pem")?,
        },
    });
    Ok(object.to_string())
}

impl Served {
    fn request(self) -> Result<Request> {
        let shows = self.mutual.then_some("client");
        let written = json!({
            "path": "/", "host": self.host, "tcp": self.tcp, "over-tls": {"shows": shows},
        });
        Ok(serde_json::from_value(written)?)
    }

    fn connect(self, from: &Pod, to: SocketAddr) -> Result<Way> {
        let stream = from.run(|| TcpStream::connect(to))??;
        Way::new(stream, &self.request()?)
    }

    fn ask_anew(self, from: &Pod, to: SocketAddr) -> Result<Answer> {
        self.ask(&mut self.connect(from, to)?)
    }

    fn ask(self, way: &mut Way) -> Result<Answer> {
        let answer = way
            .ask(&self.request()?, 1)
            .with_context(|| format!("asking {}", self.host))?;
        let good = self.tcp || answer.status == 200;
        ensure!(good, "{} answered {answer:?}", self.host);
        Ok(answer)
    }
}

impl Load {
    /// For each server one who keeps a connection all the while, and opens others beside it.
    fn start(stage: &Stage) -> Self {
        let (stop, done) = (Arc::default(), Arc::default());
        let workers = SERVED.map(|served| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (from, to) = (stage.world.outside().clone(), stage.address);
            thread::spawn(move || served.keep_asking(&from, to, &stop, &done))
        });
        Self {
            stop,
            done,
            workers: workers.into(),
        }
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            let Ok(result) = worker.join() else {
                bail!("a worker panicked");
            };
            result?;
        }
        let done = self.done.load(Ordering::Relaxed);
        ensure!(done >= 100, "only {done} requests were made");
        Ok(())
    }
}

impl Served {
    fn keep_asking(
        self,
        from: &Pod,
        to: SocketAddr,
        stop: &AtomicBool,
        done: &AtomicUsize,
    ) -> Result<()> {
        let mut kept = self.connect(from, to)?;
        while !stop.load(Ordering::Relaxed) {
            self.ask(&mut kept).context("on the one that was kept")?;
            self.ask_anew(from, to).context("on a new one")?;
            done.fetch_add(2, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
