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

/// What goes through a subject, and so what a proxy that is not ours is configured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Small answers by HTTP/1.1
    Small,
    /// Much at once by plain TCP
    Stream,
    /// Much at once by HTTP/1.1
    Body,
    /// Small answers and calls by HTTP/2
    Calls,
}

impl Work {
    /// Where the server is asked for it.
    pub fn port(self) -> u16 {
        match self {
            Self::Small => 80,
            Self::Stream => 9000,
            Self::Body => 8000,
            Self::Calls => 9090,
        }
    }
}

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
    /// The agent, eBPF mode with the fast path
    #[value(name = "fast-path")]
    #[serde(rename = "fast-path")]
    FastPath,
    /// The agent, eBPF mode, at the server's end as well: one pass for both
    #[value(name = "both-pods")]
    #[serde(rename = "both-pods")]
    BothPods,
    /// Likewise, a pass for each
    #[value(name = "both-pods-twice")]
    #[serde(rename = "both-pods-twice")]
    BothPodsTwice,
    /// Likewise, one pass and the fast path
    #[value(name = "both-pods-fast")]
    #[serde(rename = "both-pods-fast")]
    BothPodsFast,
    /// Envoy behind the chains
    Envoy,
    /// nginx behind the chains
    Nginx,
    /// HAProxy behind the chains
    Haproxy,
}

/// How the agent is started for a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentRun {
    /// `--mode`.
    pub mode: &'static str,
    /// `--fast-path`.
    pub fast_path: &'static str,
    /// `--one-hop`.
    pub one_hop: &'static str,
    /// Whether the server's pod is in the mesh too. The other proxies stand at the client's end only.
    pub both_pods: bool,
}

impl Subject {
    /// All, in the order of the report.
    pub const ALL: [Self; 10] = [
        Self::Direct,
        Self::Iptables,
        Self::Ebpf,
        Self::FastPath,
        Self::BothPods,
        Self::BothPodsTwice,
        Self::BothPodsFast,
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
            Self::FastPath => "fast-path",
            Self::BothPods => "both-pods",
            Self::BothPodsTwice => "both-pods-twice",
            Self::BothPodsFast => "both-pods-fast",
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
            Self::FastPath => "mesh-agent, eBPF, fast path",
            Self::BothPods => "eBPF, both pods, one pass",
            Self::BothPodsTwice => "eBPF, both pods, two passes",
            Self::BothPodsFast => "eBPF, both pods, fast path",
            Self::Envoy => "Envoy, same chains",
            Self::Nginx => "nginx, same chains",
            Self::Haproxy => "HAProxy, same chains",
        }
    }

    /// How the agent is started; `None` where it is none of ours.
    pub fn agent(self) -> Option<AgentRun> {
        let ebpf = AgentRun {
            mode: "ebpf",
            fast_path: "off",
            one_hop: "on",
            both_pods: false,
        };
        match self {
            Self::Iptables => Some(AgentRun {
                mode: "iptables",
                ..ebpf
            }),
            Self::Ebpf => Some(ebpf),
            Self::FastPath => Some(AgentRun {
                fast_path: "applications",
                ..ebpf
            }),
            Self::BothPods => Some(AgentRun {
                both_pods: true,
                ..ebpf
            }),
            Self::BothPodsTwice => Some(AgentRun {
                both_pods: true,
                one_hop: "off",
                ..ebpf
            }),
            Self::BothPodsFast => Some(AgentRun {
                both_pods: true,
                fast_path: "applications",
                ..ebpf
            }),
            Self::Direct | Self::Envoy | Self::Nginx | Self::Haproxy => None,
        }
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
            | Self::FastPath
            | Self::BothPods
            | Self::BothPodsTwice
            | Self::BothPodsFast
            | Self::Envoy => response.header("x-envoy-upstream-service-time").is_some(),
            Self::Nginx => marked == Some("nginx"),
            Self::Haproxy => marked == Some("haproxy"),
        }
    }

    /// Where the configuration lies. Envoy tells the language by the name.
    pub fn configuration(self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.yaml", self.name()))
    }

    /// Whether it is a proxy that is not ours.
    pub fn is_foreign(self) -> bool {
        matches!(self, Self::Envoy | Self::Nginx | Self::Haproxy)
    }

    /// Whether it can do that. nginx as it is packaged carries neither plain TCP nor HTTP/2 to servers.
    pub fn can(self, work: Work) -> bool {
        self != Self::Nginx || matches!(work, Work::Small | Work::Body)
    }

    /// The configuration of a proxy that is not ours, one thread, and the arguments to start it with.
    pub fn foreign(
        self,
        folder: &Path,
        server: Ipv4Addr,
        work: Work,
    ) -> Option<(String, Vec<String>)> {
        let file = self.configuration(folder).display().to_string();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self {
            Self::Direct
            | Self::Iptables
            | Self::Ebpf
            | Self::FastPath
            | Self::BothPods
            | Self::BothPodsTwice
            | Self::BothPodsFast => None,
            Self::Envoy => Some((
                match work {
                    Work::Stream => envoy_stream(server),
                    Work::Small | Work::Body | Work::Calls => envoy(server, work),
                },
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
                nginx_proxy(folder, server, work.port()),
                words(&["-e", "stderr", "-c", &file]),
            )),
            Self::Haproxy => Some((haproxy(server, work), words(&["-db", "-f", &file]))),
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

fn nginx_proxy(folder: &Path, server: Ipv4Addr, port: u16) -> String {
    format!(
        "worker_processes 1;\ndaemon off;\npid {folder}/proxy.pid;\nerror_log stderr;\nevents {{ worker_connections 4096; }}\nhttp {{\n    \
         access_log off;\n    keepalive_requests 1000000000;\n{temporary}    upstream server {{\n        server {server}:{port};\n        \
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

fn haproxy(server: Ipv4Addr, work: Work) -> String {
    let (mode, speaks, mark) = match work {
        Work::Stream => ("tcp", "", ""),
        Work::Small | Work::Body => ("http", "", HAPROXY_MARK),
        Work::Calls => ("http", " proto h2", HAPROXY_MARK),
    };
    format!(
        "global\n    nbthread 1\n    maxconn 4096\ndefaults\n    mode {mode}\n    timeout connect 5s\n    timeout client 30s\n    \
         timeout server 30s\n{reuse}frontend outbound\n    bind 127.0.0.1:{PORT} backlog 4096{speaks}\n    \
         default_backend server\nbackend server\n{mark}    server one {server}:{port}{speaks}\n",
        reuse = if mode == "http" {
            "    http-reuse always\n"
        } else {
            ""
        },
        port = work.port(),
    )
}

const HAPROXY_MARK: &str = "    http-response set-header x-bench-proxy haproxy\n";

fn envoy(server: Ipv4Addr, work: Work) -> String {
    let speaks = match work {
        Work::Calls => {
            r#"
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }"#
        }
        Work::Small | Work::Stream | Work::Body => "",
    };
    envoy_around(
        server,
        work,
        r#"      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: outbound
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: "/" }
                route: { cluster: server }
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"#,
        speaks,
    )
}

fn envoy_stream(server: Ipv4Addr) -> String {
    envoy_around(
        server,
        Work::Stream,
        r#"      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: outbound
          cluster: server"#,
        "",
    )
}

fn envoy_around(server: Ipv4Addr, work: Work, filter: &str, speaks: &str) -> String {
    let port = work.port();
    format!(
        r#"admin:
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: 15000 }} }}
static_resources:
  listeners:
  - name: outbound
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {PORT} }} }}
    filter_chains:
    - filters:
{filter}
  clusters:
  - name: server
    type: STATIC
    connect_timeout: 5s{speaks}
    load_assignment:
      cluster_name: server
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {server}, port_value: {port} }} }} }}
"#
    )
}
