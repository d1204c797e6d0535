//! `resolv.conf` and `/etc/hosts`, as far as they matter for addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::proxy::dns::query::Looked;

/// What `resolv.conf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conf {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<String>,
    pub(super) ndots: usize,
    /// How long one server may take over one question.
    pub(super) timeout: Duration,
    /// How often all servers are asked.
    pub(super) attempts: u32,
}

/// What `/etc/hosts` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(Vec<(IpAddr, Vec<String>)>);

/// As many as the C library takes.
const SERVERS: usize = 3;

impl Default for Conf {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(2),
            attempts: 2,
        }
    }
}

impl Conf {
    /// Reads the file anew: it is small, and may have changed. Without one the node itself is asked.
    pub(super) fn read(path: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(path).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if conf.servers.len() < SERVERS => {
                    conf.servers.extend(words.next().and_then(server));
                }
                // The last of these lines holds.
                Some("search" | "domain") => {
                    let domains = words.map(|domain| domain.trim_matches('.').to_owned());
                    conf.search = domains.filter(|domain| !domain.is_empty()).collect();
                }
                Some("options") => words.for_each(|option| conf.option(option)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        conf
    }

    fn option(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<u32>() else {
            return;
        };
        match name {
            "ndots" => self.ndots = value.min(15) as usize,
            "timeout" => self.timeout = Duration::from_secs(u64::from(value.clamp(1, 30))),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The names to be asked for, in order, without their last dot. The first that stands for something is meant.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let itself = std::iter::once(name.to_owned());
        match name.matches('.').count() >= self.ndots {
            true => itself.chain(searched).collect(),
            false => searched.chain(itself).collect(),
        }
    }
}

/// A server; a port other than the usual one may stand behind the address.
fn server(word: &str) -> Option<SocketAddr> {
    let usual = |address: IpAddr| SocketAddr::new(address, 53);
    word.parse().ok().or_else(|| word.parse().ok().map(usual))
}

impl Hosts {
    /// Reads the file anew.
    pub(super) fn read(path: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(path).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split('#').next()?.split_ascii_whitespace();
            let address = words.next()?.parse().ok()?;
            Some((address, words.map(str::to_owned).collect()))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// What a name stands for, should it be there.
    pub(super) fn find(&self, name: &str) -> Option<Looked> {
        let wanted = name.strip_suffix('.').unwrap_or(name);
        let mut looked = Looked::default();
        for (address, names) in &self.0 {
            if names.iter().any(|name| name.eq_ignore_ascii_case(wanted)) {
                looked.add(*address);
            }
        }
        (!looked.is_empty()).then_some(looked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let check = |text, expected: Conf| assert_eq!(Conf::parse(text), expected, "{text:?}");
        let local = vec!["127.0.0.1:53".parse().unwrap()];
        check(
            "",
            Conf {
                servers: local.clone(),
                ..Conf::default()
            },
        );
        check(
            "# the cluster's\nnameserver 10.96.0.10\nnameserver fd00::a\nnameserver 127.0.0.1:5353\nnameserver 9.9.9.9\nsearch a.svc.cluster.local svc.cluster.local. .\noptions ndots:5 timeout:1 attempts:3 edns0 rotate:x\n",
            Conf {
                servers: ["10.96.0.10:53", "[fd00::a]:53", "127.0.0.1:5353"]
                    .map(|at| at.parse().unwrap())
                    .into(),
                search: vec!["a.svc.cluster.local".into(), "svc.cluster.local".into()],
                ndots: 5,
                timeout: Duration::from_secs(1),
                attempts: 3,
            },
        );
        check(
            "nameserver nonsense\nsearch a\ndomain b\noptions attempts:0 timeout:4000000000 ndots:99999999999\n",
            Conf {
                servers: local,
                search: vec!["b".into()],
                ndots: 1,
                timeout: Duration::from_secs(30),
                attempts: 1,
            },
        );
    }

    #[test]
    fn searches_as_it_is_told() {
        let conf = Conf::parse("search x y.z\noptions ndots:2");
        let check = |name, expected: &[&str]| assert_eq!(conf.candidates(name), expected);
        check("a", &["a.x", "a.y.z", "a"]);
        check("a.b", &["a.b.x", "a.b.y.z", "a.b"]);
        check("a.b.c", &["a.b.c", "a.b.c.x", "a.b.c.y.z"]);
        check("a.", &["a"]);
    }

    #[test]
    fn reads_hosts() {
        let hosts = Hosts::parse(
            "127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # both\n10.0.0.1 Web.example\n#10.0.0.2 web.example\nnonsense web.example\n",
        );
        let find = |name| {
            hosts.find(name).map(|found| {
                let Looked { v4, v6, .. } = found;
                (v4.len(), v6.len())
            })
        };
        assert_eq!(find("localhost"), Some((1, 1)));
        assert_eq!(find("LOCALHOST."), Some((1, 1)));
        assert_eq!(find("web.example"), Some((1, 0)));
        assert_eq!(find("example"), None);
    }
}
