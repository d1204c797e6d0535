//! What is measured: the subjects, how each is configured, and how one tells that it was on the way. Pure text.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::http::Response;

/// Where the chains lead.
const PORT: u16 = 15001;

/// Something between the client and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Nothing: the client speaks to the server
    Direct,
    /// The agent, iptables mode
    Iptables,
    /// The agent, eBPF mode
    Ebpf,
    /// The agent, eBPF mode, the fast path for applications too
    #[value(name = "ebpf-applications")]
    #[serde(rename = "ebpf-applications")]
    Applications,
    /// The agent, eBPF mode, at the client and at the server
    #[value(name = "ebpf-both")]
    #[serde(rename = "ebpf-both")]
    Both,
    /// Likewise without the fast path
    #[value(name = "ebpf-both-tcp")]
    #[serde(rename = "ebpf-both-tcp")]
    BothTcp,
    /// Envoy behind the chains
    Envoy,
    /// nginx behind the chains
    Nginx,
    /// HAProxy behind the chains
    Haproxy,
}

impl Subject {
    /// All, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Direct,
        Self::Iptables,
        Self::Ebpf,
        Self::Applications,
        Self::Both,
        Self::BothTcp,
        Self::Envoy,
        Self::Nginx,
        Self::Haproxy,
    ];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Iptables => "iptables",
            Self::Ebpf => "ebpf",
            Self::Applications => "ebpf-applications",
            Self::Both => "ebpf-both",
            Self::BothTcp => "ebpf-both-tcp",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// As the report has it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "no mesh",
            Self::Iptables => "mesh-agent, iptables",
            Self::Ebpf => "mesh-agent, eBPF",
            Self::Applications => "mesh-agent, eBPF, fast path to applications",
            Self::Both => "mesh-agent, eBPF, both pods",
            Self::BothTcp => "mesh-agent, eBPF, both pods, no fast path",
            Self::Envoy => "Envoy, same chains",
            Self::Nginx => "nginx, same chains",
            Self::Haproxy => "HAProxy, same chains",
        }
    }

    /// Whether it is the agent.
    pub fn is_agent(self) -> bool {
        self.flags().is_some()
    }

    /// Its `--mode` and `--fast-path`, where it is the agent.
    pub fn flags(self) -> Option<[&'static str; 4]> {
        let flags = |mode, fast_path| Some(["--mode", mode, "--fast-path", fast_path]);
        match self {
            Self::Iptables => flags("iptables", "off"),
            Self::Ebpf | Self::Both => flags("ebpf", "on"),
            Self::Applications => flags("ebpf", "applications"),
            Self::BothTcp => flags("ebpf", "off"),
            Self::Direct | Self::Envoy | Self::Nginx | Self::Haproxy => None,
        }
    }

    /// Whether it stands before the server as well.
    pub fn enrols_server(self) -> bool {
        matches!(self, Self::Both | Self::BothTcp)
    }

    /// Whether this answer passed through it, as far as an answer can tell.
    pub fn handled(self, response: &Response) -> bool {
        let marked = response.header("x-bench-proxy");
        match self {
            Self::Direct => {
                marked.is_none() && response.header("x-envoy-upstream-service-time").is_none()
            }
            Self::Iptables
            | Self::Ebpf
            | Self::Applications
            | Self::Both
            | Self::BothTcp
            | Self::Envoy => response.header("x-envoy-upstream-service-time").is_some(),
            Self::Nginx => marked == Some("nginx"),
            Self::Haproxy => marked == Some("haproxy"),
        }
    }

    /// Where the configuration lies. Envoy tells the language by the name.
    pub fn configuration(self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.yaml", self.name()))
    }

    /// The configuration of a proxy that is not ours, one thread, and the arguments to start it with.
    pub fn foreign(self, folder: &Path, server: Ipv4Addr) -> Option<(String, Vec<String>)> {
        let file = self.configuration(folder).display().to_string();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self {
            Self::Direct
            | Self::Iptables
            | Self::Ebpf
            | Self::Applications
            | Self::Both
            | Self::BothTcp => None,
            Self::Envoy => Some((
                envoy(server),
                words(&[
                    "-c",
                    &file,
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "warning",
                ]),
            )),
            Self::Nginx => Some((
                nginx_proxy(folder, server),
                words(&["-e", "stderr", "-c", &file]),
            )),
            Self::Haproxy => Some((haproxy(server), words(&["-db", "-f", &file]))),
        }
    }
}

/// The server behind all of them: a small static answer.
pub fn nginx_server(folder: &Path) -> String {
    format!(
        "worker_processes 1;\ndaemon off;\npid {folder}/server.pid;\nerror_log stderr;\nevents {{ worker_connections 4096; }}\nhttp {{\n    \
         access_log off;\n    default_type text/plain;\n    keepalive_requests 1000000000;\n{temporary}    server {{\n        \
         listen 80 backlog=4096;\n        location / {{ return 200 \"user service for v1\\n\"; }}\n    }}\n}}\n",
        folder = folder.display(),
        temporary = temporary(folder, "server"),
    )
}

fn nginx_proxy(folder: &Path, server: Ipv4Addr) -> String {
    format!(
        "worker_processes 1;\ndaemon off;\npid {folder}/proxy.pid;\nerror_log stderr;\nevents {{ worker_connections 4096; }}\nhttp {{\n    \
         access_log off;\n    keepalive_requests 1000000000;\n{temporary}    upstream server {{\n        server {server}:80;\n        \
         keepalive 64;\n        keepalive_requests 1000000000;\n    }}\n    server {{\n        listen 127.0.0.1:{PORT} backlog=4096;\n        \
         location / {{\n            proxy_pass http://server;\n            proxy_http_version 1.1;\n            \
         proxy_set_header Connection \"\";\n            proxy_set_header Host $host;\n            add_header x-bench-proxy nginx;\n        \
         }}\n    }}\n}}\n",
        folder = folder.display(),
        temporary = temporary(folder, "proxy"),
    )
}

/// nginx makes these at its start; its own places are root's.
fn temporary(folder: &Path, who: &str) -> String {
    let folder = folder.display();
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {folder}/{who}-{kind};\n"))
        .collect()
}

fn haproxy(server: Ipv4Addr) -> String {
    format!(
        "global\n    nbthread 1\n    maxconn 4096\ndefaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n    \
         timeout server 30s\n    http-reuse always\nfrontend outbound\n    bind 127.0.0.1:{PORT} backlog 4096\n    \
         default_backend server\nbackend server\n    http-response set-header x-bench-proxy haproxy\n    server one {server}:80\n"
    )
}

fn envoy(server: Ipv4Addr) -> String {
    format!(
        r#"admin:
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: 15000 }} }}
static_resources:
  listeners:
  - name: outbound
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {PORT} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: outbound
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                route: {{ cluster: server }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: server
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: server
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {server}, port_value: 80 }} }} }}
"#
    )
}
