//! TLS at the ingress gateway, asked by curl, with certificates made by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{Pod, PodOptions, Running, World, WorldOptions};

use crate::agent::{Agent, eventually};
use crate::http;
use crate::manifests::{Manifests, PodObject, ServiceObject};
use crate::servers::Server;
use crate::{Lacking, Plain};

pub fn tests() -> Vec<(&'static str, Plain)> {
    vec![
        ("gateway_tls::https_by_name", https_by_name),
        (
            "gateway_tls::clients_with_certificates",
            clients_with_certificates,
        ),
        ("gateway_tls::from_http_to_https", from_http_to_https),
        ("gateway_tls::passed_on_by_name", passed_on_by_name),
        (
            "gateway_tls::new_certificate_under_load",
            new_certificate_under_load,
        ),
        ("gateway_tls::broken_secret", broken_secret),
        ("gateway_tls::to_a_server_with_tls", to_a_server_with_tls),
    ]
}

/// What the Gateway has, with room for more servers.
const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: default}
spec:
  selector: {app: istio-ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*.example']
    tls: {httpsRedirect: true}
  - port: {number: 443, name: a, protocol: HTTPS}
    hosts: [a.example]
    tls: {mode: SIMPLE, credentialName: a}
  - port: {number: 443, name: m, protocol: HTTPS}
    hosts: [m.example]
    tls: {mode: MUTUAL, credentialName: m}
  - port: {number: 443, name: p, protocol: TLS}
    hosts: [p.example]
    tls: {mode: PASSTHROUGH}
";

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app, namespace: default}
spec:
  hosts: [a.example, m.example]
  gateways: [gw]
  http:
  - match: [{uri: {prefix: /secure}}]
    route: [{destination: {host: secure, port: {number: 443}}}]
  - route: [{destination: {host: app, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: passed-on, namespace: default}
spec:
  hosts: [p.example]
  gateways: [gw]
  tls:
  - match: [{sniHosts: [p.example]}]
    route: [{destination: {host: secure, port: {number: 443}}}]
";

/// Dropped from the top: processes first, the world last.
struct Stage {
    gateway: Agent,
    _secure: Running,
    _app: Server,
    manifests: Manifests,
    keys: Keys,
    address: String,
    world: World,
}

/// Certificates, in a directory: `NAME.pem` and `NAME.key`, signed by `ca.pem`.
struct Keys {
    directory: PathBuf,
}

impl Keys {
    fn new() -> Result<Self> {
        if Command::new("openssl").arg("version").output().is_err()
            || Command::new("curl").arg("--version").output().is_err()
        {
            bail!(Lacking("openssl and curl are not installed".to_owned()));
        }
        let keys = Self {
            directory: Path::new(mesh_tests::FILES).join("keys"),
        };
        fs::create_dir_all(&keys.directory)?;
        let subject = ["-subj", "/CN=test authority", "-days", "90"];
        let authority = ["req", "-x509", "-newkey", "rsa:2048", "-nodes"];
        let files = ["-keyout", "ca.key", "-out", "ca.pem"];
        keys.openssl(&[&authority[..], &files, &subject].concat())?;
        Ok(keys)
    }

    /// A certificate for a name; RSA, or ECDSA.
    fn issue(&self, file: &str, name: &str, key: &[&str]) -> Result<()> {
        let (key_file, request) = (format!("{file}.key"), format!("{file}.csr"));
        let (subject, pem) = (format!("/CN={name}"), format!("{file}.pem"));
        let make = [
            "req", "-nodes", "-keyout", &key_file, "-out", &request, "-subj", &subject,
        ];
        self.openssl(&[&make[..], key].concat())?;
        fs::write(
            self.directory.join("ext"),
            format!("subjectAltName=DNS:{name}"),
        )?;
        let sign = [
            "x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key",
        ];
        let out = [
            "-CAcreateserial",
            "-days",
            "90",
            "-extfile",
            "ext",
            "-out",
            &pem,
        ];
        self.openssl(&[&sign[..], &out].concat())
    }

    fn rsa(&self, file: &str, name: &str) -> Result<()> {
        self.issue(file, name, &["-newkey", "rsa:2048"])
    }

    fn ecdsa(&self, file: &str, name: &str) -> Result<()> {
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
        self.issue(file, name, &key)
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(&self.directory)
            .output()
            .context("running openssl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "openssl {arguments:?}: {said}");
        Ok(())
    }

    fn path(&self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }

    fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.directory.join(file)).with_context(|| format!("reading {file}"))
    }

    /// A Secret of the gateway's namespace with a certificate and, for clients, the authority.
    fn secret(&self, name: &str, file: &str, clients: bool) -> Result<String> {
        let entry = |name: &str, file: &str| -> Result<String> {
            let text = self.read(file)?.trim_end().replace('\n', "\n    ");
            Ok(format!("  {name}: |\n    {text}\n"))
        };
        let mut text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\ntype: kubernetes.io/tls\nstringData:\n"
        );
        text += &entry("tls.crt", &format!("{file}.pem"))?;
        text += &entry("tls.key", &format!("{file}.key"))?;
        if clients {
            text += &entry("ca.crt", "ca.pem")?;
        }
        Ok(text)
    }
}

impl Stage {
    fn build() -> Result<Self> {
        let keys = Keys::new()?;
        keys.rsa("a", "a.example")?;
        keys.ecdsa("m", "m.example")?;
        keys.rsa("p", "p.example")?;
        keys.ecdsa("client", "client.example")?;
        let world = World::new(WorldOptions::default())?;
        let make = |name: &str| world.pod(name, PodOptions::default());
        let (gateway_pod, app, secure) = (make("gateway")?, make("app")?, make("secure")?);
        let app_server = http::serve(&app, "app", 80, None)?;
        let secure_server = serve_tls(&world, &secure, &keys)?;
        let manifests = Manifests::new()?;
        for pod in [&app, &secure] {
            let addresses = vec![pod.ipv4.into(), pod.ipv6.into()];
            manifests.pod(&PodObject::remote(&pod.name, addresses))?;
        }
        let addresses = vec![gateway_pod.ipv4.into(), gateway_pod.ipv6.into()];
        let object = PodObject::remote("istio-ingressgateway", addresses);
        manifests.pod(&object.namespace("istio-system"))?;
        let vip = |last: u8| vec![[10, 96, 0, last].into()];
        manifests.service(
            &ServiceObject::new("istio-ingressgateway", vip(21), "istio-ingressgateway")
                .namespace("istio-system")
                .port("http2", 80, 8080)
                .port("https", 443, 8443),
        )?;
        manifests.service(&ServiceObject::new("app", vip(22), "app").port("http", 80, 80))?;
        manifests
            .service(&ServiceObject::new("secure", vip(23), "secure").port("https", 443, 443))?;
        manifests.write("secret-a.yaml", &keys.secret("a", "a", false)?)?;
        manifests.write("secret-m.yaml", &keys.secret("m", "m", true)?)?;
        manifests.write("gateway.yaml", GATEWAY)?;
        manifests.write("routes.yaml", ROUTES)?;
        let name = "istio-system/istio-ingressgateway";
        let gateway = Agent::gateway(&world, manifests.path(), &gateway_pod, name)?;
        Ok(Self {
            gateway,
            _secure: secure_server,
            _app: app_server,
            manifests,
            keys,
            address: gateway_pod.ipv4.to_string(),
            world,
        })
    }

    /// curl from outside, which knows the test's authority and where the hosts are.
    fn curl(&self, arguments: &[&str]) -> Result<Asked> {
        curl(
            self.world.outside(),
            &self.address,
            &self.keys.path("ca.pem"),
            arguments,
        )
    }

    /// The certificate that is shown for a name, as PEM.
    fn shown(&self, name: &str) -> Result<String> {
        let output = self
            .world
            .outside()
            .command("openssl")
            .args(["s_client", "-connect", &format!("{}:8443", self.address)])
            .args(["-servername", name])
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let begin = text
            .find("-----BEGIN")
            .context("no certificate was shown")?;
        const END: &str = "-----END CERTIFICATE-----";
        let end = text.find(END).context("no certificate was shown")?;
        Ok(text[begin..end + END.len()].to_owned())
    }
}

/// A server of TLS that answers with what it knows of its client.
fn serve_tls(world: &World, pod: &Pod, keys: &Keys) -> Result<Running> {
    let mut command = pod.command("openssl");
    command.args(["s_server", "-accept", "443", "-www", "-quiet"]);
    command.args(["-cert", &keys.path("p.pem"), "-key", &keys.path("p.key")]);
    let running = Running::start("secure", command, &world.log("secure"))?;
    eventually(Duration::from_secs(5), || {
        let connected = pod.run(|| std::net::TcpStream::connect(("127.0.0.1", 443)));
        connected.is_ok_and(|connected| connected.is_ok())
    })
    .context("openssl s_server does not listen")?;
    Ok(running)
}

/// What curl came to.
#[derive(Debug)]
struct Asked {
    /// Its exit code; 0 is an answer, whatever that is.
    code: i32,
    /// Status and version of HTTP, such as `200 2`.
    status: String,
    body: String,
    complaint: String,
}

fn curl(from: &Pod, address: &str, authority: &str, arguments: &[&str]) -> Result<Asked> {
    let mut command = from.command("curl");
    command.args(["-sS", "--max-time", "10", "--cacert", authority]);
    command.args(["-w", "\n%{http_code} %{http_version}"]);
    for name in ["a", "m", "p", "other"] {
        for port in [8080, 8443] {
            command.args(["--resolve", &format!("{name}.example:{port}:{address}")]);
        }
    }
    // Redirected to the port that everybody knows.
    command.args(["--connect-to", &format!("a.example:443:{address}:8443")]);
    let Output {
        status,
        stdout,
        stderr,
    } = command.args(arguments).output().context("running curl")?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let (body, status_line) = text.rsplit_once('\n').unwrap_or(("", &text));
    Ok(Asked {
        code: status.code().unwrap_or(-1),
        status: status_line.to_owned(),
        body: body.to_owned(),
        complaint: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

fn https_by_name() -> Result<()> {
    let stage = Stage::build()?;
    for (version, expected) in [("--http2", "200 2"), ("--http1.1", "200 1.1")] {
        let asked = stage.curl(&[version, "https://a.example:8443/x"])?;
        ensure!(asked.status == expected, "{version}: {asked:?}");
        ensure!(
            asked.body.contains("\"x-forwarded-proto\":\"https\""),
            "{asked:?}"
        );
        // The app is declared as HTTP/1.1, whatever its client speaks.
        ensure!(asked.body.contains("GET /x HTTP/1.1"), "{asked:?}");
    }
    for tls in ["--tls-max", "--tlsv1.3"] {
        let limit: &[&str] = if tls == "--tls-max" {
            &[tls, "1.2"]
        } else {
            &[tls]
        };
        let asked = stage.curl(&[limit, &["https://a.example:8443/"][..]].concat())?;
        ensure!(asked.code == 0, "{tls}: {asked:?}");
    }
    // Nobody has the name, so there is no handshake.
    let asked = stage.curl(&["-k", "https://other.example:8443/"])?;
    ensure!(asked.code == 35, "{asked:?}");
    let bare = format!("https://{}:8443/", stage.address);
    let asked = stage.curl(&["-k", &bare])?;
    ensure!(asked.code == 35, "{asked:?}");
    // On a connection to one server, another one's Host is nobody's.
    let asked = stage.curl(&["-H", "Host: m.example", "https://a.example:8443/"])?;
    ensure!(asked.status.starts_with("404"), "{asked:?}");
    Ok(())
}

fn clients_with_certificates() -> Result<()> {
    let stage = Stage::build()?;
    let url = "https://m.example:8443/";
    let asked = stage.curl(&[url])?;
    ensure!(
        asked.code != 0 && asked.complaint.contains("certificate required"),
        "{asked:?}"
    );
    let (pem, key) = (stage.keys.path("client.pem"), stage.keys.path("client.key"));
    let forged = "x-forwarded-client-cert: Subject=\"CN=somebody\"";
    let asked = stage.curl(&["--cert", &pem, "--key", &key, "-H", forged, url])?;
    ensure!(asked.status.starts_with("200"), "{asked:?}");
    ensure!(
        asked
            .body
            .contains("Subject=\\\"CN=client.example\\\";URI=;DNS=client.example"),
        "{asked:?}"
    );
    ensure!(!asked.body.contains("somebody"), "{asked:?}");
    // One that nobody here has signed.
    let stranger = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=stranger",
    ];
    let files = ["-keyout", "stranger.key", "-out", "stranger.pem"];
    stage.keys.openssl(&[&stranger[..], &files].concat())?;
    let (pem, key) = (
        stage.keys.path("stranger.pem"),
        stage.keys.path("stranger.key"),
    );
    let asked = stage.curl(&["--cert", &pem, "--key", &key, url])?;
    ensure!(asked.code != 0, "{asked:?}");
    Ok(())
}

fn from_http_to_https() -> Result<()> {
    let stage = Stage::build()?;
    let asked = stage.curl(&["-i", "http://a.example:8080/x?y=1"])?;
    ensure!(asked.status.starts_with("301"), "{asked:?}");
    ensure!(
        asked
            .body
            .contains("\r\nlocation: https://a.example:8080/x?y=1\r\n"),
        "{asked:?}"
    );
    // There is no route for this one, and it is redirected all the same.
    let asked = stage.curl(&["-i", "-H", "Host: other.example", "http://a.example:8080/"])?;
    ensure!(
        asked
            .body
            .contains("\r\nlocation: https://other.example/\r\n"),
        "{asked:?}"
    );
    let asked = stage.curl(&["-L", "-H", "Host: a.example", "http://a.example:8080/y"])?;
    ensure!(asked.status.starts_with("200"), "{asked:?}");
    ensure!(asked.body.contains("GET /y HTTP/1.1"), "{asked:?}");
    Ok(())
}

fn passed_on_by_name() -> Result<()> {
    let stage = Stage::build()?;
    let asked = stage.curl(&["https://p.example:8443/"])?;
    // The server that the TLS has reached is openssl's own.
    ensure!(asked.status.starts_with("200"), "{asked:?}");
    ensure!(asked.body.contains("s_server -accept 443"), "{asked:?}");
    ensure!(stage.shown("p.example")? == stage.keys.read("p.pem")?.trim());
    Ok(())
}

/// Certificates change while clients come and go, and none of them notices.
fn new_certificate_under_load() -> Result<()> {
    let stage = Stage::build()?;
    stage.keys.ecdsa("b", "a.example")?;
    ensure!(stage.shown("a.example")? == stage.keys.read("a.pem")?.trim());
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (from, address) = (stage.world.outside().clone(), stage.address.clone());
            let authority = stage.keys.path("ca.pem");
            thread::spawn(move || -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    let url = "https://a.example:8443/";
                    // Three requests on one connection, and then another one.
                    let asked = curl(&from, &address, &authority, &[url, url, url])?;
                    ensure!(
                        asked.code == 0 && asked.status.starts_with("200"),
                        "{asked:?}"
                    );
                    done.fetch_add(3, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for round in 0..6 {
        let file = if round % 2 == 0 { "b" } else { "a" };
        stage
            .manifests
            .write("secret-a.yaml", &stage.keys.secret("a", file, false)?)?;
        let expected = stage.keys.read(&format!("{file}.pem"))?;
        eventually(Duration::from_secs(3), || {
            stage
                .shown("a.example")
                .is_ok_and(|shown| shown == expected.trim())
        })
        .with_context(|| format!("round {round}: the new certificate is not shown"))?;
        thread::sleep(Duration::from_millis(150));
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        let Ok(result) = worker.join() else {
            bail!("a worker panicked");
        };
        result?;
    }
    let done = done.load(Ordering::Relaxed);
    ensure!(done >= 30, "only {done} requests were made");
    Ok(())
}

/// A Secret that breaks leaves the last good certificate in force; one that goes takes its server along, and no other.
fn broken_secret() -> Result<()> {
    let stage = Stage::build()?;
    let told = |what: &str| -> Result<bool> {
        Ok(stage.gateway.status()?["rejected"]
            .to_string()
            .contains(what))
    };
    let text = stage.keys.secret("a", "a", false)?;
    let other_key = stage.keys.secret("a", "p", false)?;
    let key = |text: &str| text.split_once("  tls.key").map(|(_, key)| key.to_owned());
    let own = key(&text).context("a key")?;
    let broken = text.replace(&own, &key(&other_key).context("a key")?);
    stage.manifests.write("secret-a.yaml", &broken)?;
    eventually(Duration::from_secs(3), || {
        told("the key does not belong to the certificate").unwrap_or(false)
    })
    .context("nobody complains")?;
    ensure!(stage.curl(&["https://a.example:8443/"])?.code == 0);
    let status = stage.gateway.status()?.to_string();
    for line in own.lines().filter(|line| line.len() > 40) {
        ensure!(!status.contains(line.trim()), "the key is in /status");
    }
    stage.manifests.write("secret-a.yaml", "")?;
    eventually(Duration::from_secs(5), || {
        told("there is no Secret istio-system/a").unwrap_or(false)
    })
    .context("nobody complains")?;
    let asked = stage.curl(&["https://a.example:8443/"])?;
    ensure!(asked.code == 35, "{asked:?}");
    ensure!(stage.curl(&["https://p.example:8443/"])?.code == 0);
    stage.manifests.write("secret-a.yaml", &text)?;
    eventually(Duration::from_secs(3), || {
        stage
            .curl(&["https://a.example:8443/"])
            .is_ok_and(|asked| asked.code == 0)
    })
    .context("the Secret is back, and its server is not")
}

/// From the gateway on, TLS again: to a server that is checked by name and authority.
fn to_a_server_with_tls() -> Result<()> {
    let stage = Stage::build()?;
    let rule = |names: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: secure, namespace: default}}\nspec:\n  host: secure\n  trafficPolicy:\n    tls: {{mode: SIMPLE, {names}, caCertificates: {}}}\n",
            stage.keys.path("ca.pem")
        )
    };
    let url = "https://a.example:8443/secure";
    stage
        .manifests
        .write("rule.yaml", &rule("sni: p.example"))?;
    eventually(Duration::from_secs(3), || {
        stage
            .curl(&[url])
            .is_ok_and(|asked| asked.body.contains("s_server -accept 443"))
    })
    .context("the server was not reached by TLS")?;
    stage
        .manifests
        .write("rule.yaml", &rule("subjectAltNames: [somebody.example]"))?;
    eventually(Duration::from_secs(3), || {
        stage.curl(&[url]).is_ok_and(|asked| {
            asked.status.starts_with("503") && asked.body.ends_with("remote connection failure")
        })
    })
    .context("a server with another name was believed")
}
