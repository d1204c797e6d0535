//! The flags of istio-iptables, and what they stand for.
//!
//! They are read as text first, so that everything that is wrong with them can be said at once.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};
use ipnet::{IpNet, Ipv4Net};
use nix::unistd::{Group, User};

use super::BackendFlag;
use crate::intercept::iptables::options::{DnsCapture, InboundMode, Options, OwnerGroups, Profile};
use crate::model::{CidrSet, PortSet};

/// The flags of istio-iptables that decide the rules.
#[derive(Clone, Debug, Args)]
pub struct Chains {
    /// Which edition of Istio's chains: `listed` as documented, `current` as written since Istio 1.25.
    #[arg(long, value_enum, default_value = "listed")]
    pub profile: ProfileFlag,
    /// Port that the pod's own connections are sent to.
    #[arg(
        short = 'p',
        long,
        env = "ENVOY_PORT",
        value_name = "PORT",
        default_value_t = 15001
    )]
    pub envoy_port: u16,
    /// Port that connections to the pod are sent to.
    #[arg(
        short = 'z',
        long,
        env = "INBOUND_CAPTURE_PORT",
        value_name = "PORT",
        default_value_t = 15006
    )]
    pub inbound_capture_port: u16,
    /// Port of Istio's tunnel, which is left alone inbound.
    #[arg(
        short = 'e',
        long,
        env = "INBOUND_TUNNEL_PORT",
        value_name = "PORT",
        default_value_t = 15008
    )]
    pub inbound_tunnel_port: u16,
    /// Users, by number or name, whose connections are the proxy's [default: the user named by ENVOY_USER, or 1337].
    #[arg(short = 'u', long, env = "PROXY_UID", value_name = "USERS")]
    pub proxy_uid: Option<String>,
    /// Groups likewise [default: the same numbers as the users].
    #[arg(short = 'g', long, env = "PROXY_GID", value_name = "GROUPS")]
    pub proxy_gid: Option<String>,
    /// How inbound connections reach the proxy: REDIRECT or TPROXY.
    #[arg(
        short = 'm',
        long,
        env = "ISTIO_INBOUND_INTERCEPTION_MODE",
        value_name = "MODE",
        default_value = "REDIRECT"
    )]
    pub istio_inbound_interception_mode: String,
    /// Inbound ports to redirect; `*` is all, empty is none.
    #[arg(
        short = 'b',
        long,
        env = "ISTIO_INBOUND_PORTS",
        value_name = "PORTS",
        default_value = "*"
    )]
    pub istio_inbound_ports: String,
    /// Inbound ports to leave alone; counts with `-b '*'` only.
    #[arg(
        short = 'd',
        long,
        env = "ISTIO_LOCAL_EXCLUDE_PORTS",
        value_name = "PORTS",
        default_value = "15090,15021,15020"
    )]
    pub istio_local_exclude_ports: String,
    /// Destinations to redirect; `*` is all, empty is none.
    #[arg(
        short = 'i',
        long,
        env = "ISTIO_SERVICE_CIDR",
        value_name = "CIDRS",
        default_value = "*"
    )]
    pub istio_service_cidr: String,
    /// Destinations to leave alone.
    #[arg(
        short = 'x',
        long,
        env = "ISTIO_SERVICE_EXCLUDE_CIDR",
        value_name = "CIDRS",
        default_value = ""
    )]
    pub istio_service_exclude_cidr: String,
    /// Outbound ports to leave alone.
    #[arg(
        short = 'o',
        long,
        env = "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
        value_name = "PORTS",
        default_value = ""
    )]
    pub istio_local_outbound_ports_exclude: String,
    /// Outbound ports to redirect whatever the destination.
    #[arg(
        short = 'q',
        long,
        env = "ISTIO_OUTBOUND_PORTS",
        value_name = "PORTS",
        default_value = ""
    )]
    pub istio_outbound_ports: String,
    /// Interfaces on which nothing is redirected.
    #[arg(
        short = 'c',
        long,
        env = "ISTIO_EXCLUDE_INTERFACES",
        value_name = "NAMES",
        default_value = ""
    )]
    pub istio_exclude_interfaces: String,
    /// Interfaces of virtual machines: what enters there counts as outbound.
    #[arg(
        short = 'k',
        long,
        env = "KUBE_VIRT_INTERFACES",
        value_name = "NAMES",
        default_value = ""
    )]
    pub kube_virt_interfaces: String,
    /// Mark of packets on their way to a transparent listener, with `-m TPROXY`.
    #[arg(
        short = 't',
        long,
        env = "ISTIO_INBOUND_TPROXY_MARK",
        value_name = "MARK",
        default_value = "1337"
    )]
    pub istio_inbound_tproxy_mark: String,
    /// Routing table for them.
    #[arg(
        short = 'r',
        long,
        env = "ISTIO_INBOUND_TPROXY_ROUTE_TABLE",
        value_name = "TABLE",
        default_value_t = 133
    )]
    pub istio_inbound_tproxy_route_table: u32,
    /// Send DNS queries to port 15053: those to the servers of resolv.conf.
    #[arg(long, env = "ISTIO_META_DNS_CAPTURE", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub redirect_dns: bool,
    /// With --redirect-dns: all DNS queries, whichever the server.
    #[arg(long, env = "CAPTURE_ALL_DNS", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub capture_all_dns: bool,
    /// The pod's DNS servers, instead of those of resolv.conf.
    #[arg(long, value_name = "ADDRESSES")]
    pub dns_servers: Option<String>,
    /// The resolv.conf to find the pod's DNS servers in.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Drop packets that connection tracking makes nothing of.
    #[arg(long, env = "INVALID_DROP", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub drop_invalid: bool,
    /// Steer IPv6 too. This is the default where the namespace has IPv6; `--dual-stack=false` leaves IPv6 alone.
    #[arg(long, env = "ISTIO_DUAL_STACK", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub dual_stack: bool,
    /// Groups, by number or name, whose connections alone are redirected; `*` is everybody's.
    #[arg(
        long,
        env = "ISTIO_OUTBOUND_OWNER_GROUPS",
        value_name = "GROUPS",
        default_value = "*",
        hide_short_help = true
    )]
    pub outbound_owner_groups: String,
    /// Groups whose connections are left alone; counts with `*` in --outbound-owner-groups only.
    #[arg(
        long,
        env = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
        value_name = "GROUPS",
        default_value = "",
        hide_short_help = true
    )]
    pub outbound_owner_groups_exclude: String,
    /// The IPv4 network that counts as loopback.
    #[arg(
        long,
        env = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
        value_name = "CIDR",
        default_value = "127.0.0.1/32",
        hide_short_help = true
    )]
    pub outbound_ipv4_loopback_cidr: String,
}

/// `--profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileFlag {
    /// As documented.
    Listed,
    /// As written since Istio 1.25.
    Current,
}

impl From<ProfileFlag> for Profile {
    fn from(flag: ProfileFlag) -> Self {
        match flag {
            ProfileFlag::Listed => Self::Listed,
            ProfileFlag::Current => Self::Current,
        }
    }
}

impl Chains {
    /// The options that the flags stand for, or everything that is wrong with them.
    pub fn options(&self, backend: BackendFlag) -> Result<Options, Vec<String>> {
        let mut problems = Problems::default();
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let proxy_uids = match given(&self.proxy_uid) {
            Some(text) => problems.ids("-u", &text, user),
            None => vec![proxy_user()],
        };
        let proxy_gids = match given(&self.proxy_gid) {
            Some(text) => problems.ids("-g", &text, group),
            None => proxy_uids.clone(),
        };
        let options = Options {
            profile: self.profile.into(),
            backend: backend.into(),
            ipv6: self.dual_stack,
            outbound_port: self.envoy_port,
            inbound_port: self.inbound_capture_port,
            tunnel_port: self.inbound_tunnel_port,
            proxy_uids,
            proxy_gids,
            mode: problems.mode(&self.istio_inbound_interception_mode),
            inbound_ports: match self.istio_inbound_ports.trim() {
                "*" => PortSet::All,
                list => PortSet::Only(problems.ports("-b", list)),
            },
            exclude_inbound_ports: problems.ports("-d", &self.istio_local_exclude_ports),
            probed_ports: Vec::new(),
            probers: Vec::new(),
            outbound_cidrs: match self.istio_service_cidr.trim() {
                "*" => CidrSet::All,
                list => CidrSet::Only(problems.networks("-i", list)),
            },
            exclude_outbound_cidrs: problems.networks("-x", &self.istio_service_exclude_cidr),
            include_outbound_ports: problems.ports("-q", &self.istio_outbound_ports),
            exclude_outbound_ports: problems.ports("-o", &self.istio_local_outbound_ports_exclude),
            exclude_interfaces: items(&self.istio_exclude_interfaces)
                .map(str::to_owned)
                .collect(),
            virtual_interfaces: items(&self.kube_virt_interfaces)
                .map(str::to_owned)
                .collect(),
            tproxy_mark: problems.mark(&self.istio_inbound_tproxy_mark),
            tproxy_table: self.istio_inbound_tproxy_route_table,
            dns: problems.dns(self),
            drop_invalid: self.drop_invalid,
            owner_groups: match self.outbound_owner_groups.trim() {
                "*" => OwnerGroups::AllBut(problems.ids(
                    "--outbound-owner-groups-exclude",
                    &self.outbound_owner_groups_exclude,
                    group,
                )),
                list => OwnerGroups::Only(problems.ids("--outbound-owner-groups", list, group)),
            },
            loopback: problems.loopback(&self.outbound_ipv4_loopback_cidr),
            ..Options::default()
        };
        let Problems(mut problems) = problems;
        if let Err(invalid) = options.validate() {
            problems.extend(invalid.problems);
        }
        if problems.is_empty() {
            Ok(options)
        } else {
            Err(problems)
        }
    }
}

/// Everything that is wrong with the flags so far.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn ports(&mut self, flag: &str, text: &str) -> Vec<u16> {
        self.list(
            flag,
            text,
            "is no port; give numbers from 1 to 65535, separated by commas",
            |item| item.parse().ok(),
        )
    }

    fn networks(&mut self, flag: &str, text: &str) -> Vec<IpNet> {
        let wrong =
            "is no network; give CIDRs such as 10.96.0.0/12 or fd00::/8, separated by commas";
        self.list(flag, text, wrong, |item| {
            let host = || item.parse::<IpAddr>().map(IpNet::from);
            item.parse().or_else(|_| host()).ok()
        })
    }

    fn ids(&mut self, flag: &str, text: &str, named: fn(&str) -> Option<u32>) -> Vec<u32> {
        self.list(flag, text, "is unknown here; give a number", |item| {
            item.parse().ok().or_else(|| named(item))
        })
    }

    fn list<T>(
        &mut self,
        flag: &str,
        text: &str,
        wrong: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for item in items(text) {
            match parse(item) {
                Some(value) => values.push(value),
                None => self.0.push(format!("{flag}: {item:?} {wrong}")),
            }
        }
        values
    }

    fn mode(&mut self, text: &str) -> InboundMode {
        match text {
            "REDIRECT" | "" => InboundMode::Redirect,
            "TPROXY" => InboundMode::Tproxy,
            other => {
                self.0
                    .push(format!("-m: {other:?} is no mode; give REDIRECT or TPROXY"));
                InboundMode::Redirect
            }
        }
    }

    fn mark(&mut self, text: &str) -> u32 {
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        parsed.unwrap_or_else(|_| {
            self.0.push(format!(
                "-t: {text:?} is no mark; give a number such as 1337 or 0x539"
            ));
            Options::default().tproxy_mark
        })
    }

    fn loopback(&mut self, text: &str) -> Ipv4Net {
        text.parse().unwrap_or_else(|_| {
            self.0.push(format!(
                "--outbound-ipv4-loopback-cidr: {text:?} is no IPv4 network; give one such as 127.0.0.1/32"
            ));
            Options::default().loopback
        })
    }

    fn dns(&mut self, chains: &Chains) -> DnsCapture {
        if !chains.redirect_dns {
            return DnsCapture::Off;
        }
        if chains.capture_all_dns {
            return DnsCapture::All;
        }
        if let Some(text) = &chains.dns_servers {
            let wrong = "is no address; give IPv4 and IPv6 addresses, separated by commas";
            return DnsCapture::Servers(
                self.list("--dns-servers", text, wrong, |item| item.parse().ok()),
            );
        }
        match fs::read_to_string(&chains.resolv_conf) {
            Ok(text) => {
                let servers = name_servers(&text);
                if servers.is_empty() {
                    eprintln!(
                        "warning: {} names no server, so no DNS is captured; --capture-all-dns captures all",
                        chains.resolv_conf.display()
                    );
                    return DnsCapture::Off;
                }
                DnsCapture::Servers(servers)
            }
            Err(e) => {
                self.0.push(format!(
                    "--redirect-dns: cannot read {}: {e}; give --resolv-conf, or --capture-all-dns",
                    chains.resolv_conf.display()
                ));
                DnsCapture::Off
            }
        }
    }
}

/// The parts of a comma list; Istio tolerates empty ones.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            // A zone names an interface, which rules have no word for.
            let address = words
                .next()
                .filter(|w| *w == "nameserver")
                .and(words.next())?;
            address.split('%').next()?.parse().ok()
        })
        .collect()
}

fn proxy_user() -> u32 {
    let name = std::env::var("ENVOY_USER").unwrap_or_else(|_| "istio-proxy".to_owned());
    user(&name).unwrap_or(crate::sys::socket::PROXY_ID)
}

fn user(name: &str) -> Option<u32> {
    Some(User::from_name(name).ok()??.uid.as_raw())
}

fn group(name: &str) -> Option<u32> {
    Some(Group::from_name(name).ok()??.gid.as_raw())
}
