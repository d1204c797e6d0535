//! The files that a cluster's parts read.

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    layout::{CNI_PLUGINS, Layout, NETWORKS},
    part::PACKAGED_PLUGINS,
};

/// The image of the process that holds a pod's namespaces.
pub const PAUSE: &str = "docker.io/mesh-agent/pause:1";

/// Writes all of them. What is secret is made once.
pub fn write(layout: &Layout) -> Result<()> {
    fs::set_permissions(&layout.folder, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot protect {}", layout.folder.display()))?;
    identity(layout)?;
    let tokens = layout.path("tokens.csv");
    if !tokens.exists() {
        let token = random()?;
        put(&tokens, &format!("{token},admin,admin,system:masters\n"))?;
    }
    let token = fs::read_to_string(&tokens).context("cannot read the token")?;
    let token = token.split(',').next().unwrap_or_default();
    put(&layout.kubeconfig(), &kubeconfig(layout, token))?;
    put(&layout.path("containerd.toml"), &containerd(layout))?;
    put(&layout.path("kubelet.yaml"), &kubelet(layout))?;
    plugins(layout).context("cannot put the CNI plugins in their place")?;
    let networks = layout.private(NETWORKS);
    fs::create_dir_all(&networks)?;
    let bridge = networks.join("10-bridge.conflist");
    if !bridge.exists() {
        // Once, for others may have put a plugin of theirs into the chain.
        put(&bridge, &network(layout))?;
    }
    // Names of Services are for the mesh to resolve; there is no DNS in this cluster.
    put(&layout.path("resolv.conf"), "nameserver 127.0.0.1\n")
}

/// One key and certificate, which is its own authority: etcd and the API server know each other and the kubelet by it, and
/// the tokens of service accounts are signed with it.
fn identity(layout: &Layout) -> Result<()> {
    let (key, certificate) = (layout.path("identity.key"), layout.path("identity.crt"));
    if key.exists() && certificate.exists() {
        return Ok(());
    }
    let output = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
        ])
        .args(["-subj", "/O=system:masters/CN=cluster"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stdin(Stdio::null())
        .output()
        .context("cannot start openssl")?;
    if !output.status.success() {
        bail!(
            "openssl makes no certificate: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn random() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn kubeconfig(layout: &Layout, token: &str) -> String {
    let authority = layout.path("certificates/apiserver.crt");
    format!(
        r#"apiVersion: v1
kind: Config
current-context: mesh
contexts: [{{name: mesh, context: {{cluster: mesh, user: admin}}}}]
clusters:
- name: mesh
  cluster: {{server: "https://{}:{}", certificate-authority: "{}"}}
users: [{{name: admin, user: {{token: {token}}}}}]
"#,
        layout.node_v4(),
        layout.ports.api,
        authority.display(),
    )
}

fn containerd(layout: &Layout) -> String {
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # The right to lower it is one that containers are often without.
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    # Copies instead of layers: it works on every file system, also on a layered one.
    snapshotter = "native"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{NETWORKS}"
"#,
        folder = layout.folder.display(),
        socket = layout.socket().display(),
    )
}

/// It must neither clean images up, which nobody could pull again, nor chase pods away, nor touch the host's tables.
fn kubelet(layout: &Layout) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
port: {port}
healthzPort: 0
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: false}}
  x509: {{clientCAFile: "{folder}/identity.crt"}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
cgroupRoot: {group}
clusterDomain: cluster.local
enforceNodeAllocatable: []
evictionHard: {{memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi}}
failSwapOn: false
featureGates: {{IPv6DualStack: true}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
resolvConf: "{folder}/resolv.conf"
volumePluginDir: "{folder}/volume-plugins"
"#,
        address = layout.node_v4(),
        port = layout.ports.kubelet,
        folder = layout.folder.display(),
        group = layout.group(),
    )
}

/// Debian's plugins, in the folder that a node has them in.
fn plugins(layout: &Layout) -> Result<()> {
    let folder = layout.private(CNI_PLUGINS);
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(PACKAGED_PLUGINS).into_iter().flatten() {
        let entry = entry?;
        let link = folder.join(entry.file_name());
        if !link.exists() {
            std::os::unix::fs::symlink(entry.path(), link)?;
        }
    }
    Ok(())
}

fn network(layout: &Layout) -> String {
    let bridge = layout.bridge();
    let conflist = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": bridge,
        "plugins": [{
            "type": "bridge",
            "bridge": bridge,
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": layout.path("addresses"),
                "ranges": [
                    [{"subnet": layout.pods_v4().0}],
                    [{"subnet": layout.pods_v6().0}],
                ],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }],
    });
    format!("{conflist:#}\n")
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::of(&folder.path().join("cluster"), Path::new("/programs")).unwrap();
        write(&layout).unwrap();
        let first = fs::read(layout.kubeconfig()).unwrap();
        write(&layout).unwrap();
        assert_eq!(first, fs::read(layout.kubeconfig()).unwrap());
        let mode = fs::metadata(&layout.folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
