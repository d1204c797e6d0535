//! Captured DNS: where queries are sent, and the connection tracking zones that keep them there.

use ipnet::IpNet;

use super::{DNS, INBOUND, OUTPUT, Renderer, host};
use crate::intercept::iptables::options::DnsCapture;
use crate::intercept::iptables::rule::{Hook, Match, Rule, Table, Target, is};

const OUTPUT_DNS: &str = "ISTIO_OUTPUT_DNS";

/// The connection tracking zone between the proxy and the DNS servers.
const ZONE_UPSTREAM: u16 = 1;

/// The zone between the applications and the proxy. Resolvers reuse source ports, so without zones an application's
/// query could ride on the proxy's own tracked query, past the redirect.
const ZONE_DOWNSTREAM: u16 = 2;

impl Renderer<'_> {
    pub(super) fn dns(&mut self) {
        let servers: Vec<Option<IpNet>> = match &self.options.dns {
            DnsCapture::Off => return,
            DnsCapture::All => vec![None],
            DnsCapture::Servers(servers) => {
                let networks: Vec<IpNet> = servers.iter().map(|s| host(*s)).collect();
                self.of_family(&networks).into_iter().map(Some).collect()
            }
        };
        if servers.is_empty() {
            return;
        }
        let to = |rule: Rule, server: Option<IpNet>| match server {
            Some(server) => rule.to_network(server),
            None => rule,
        };
        let redirect = Rule::to(Target::Redirect(self.options.dns_port));
        self.nat(OUTPUT, Rule::jump(OUTPUT_DNS));
        for &server in &servers {
            let tcp = to(redirect.clone(), server).tcp().port(DNS);
            self.nat(OUTPUT_DNS, tcp);
        }
        for &server in &servers {
            let udp = to(redirect.clone(), server).udp().port(DNS);
            self.nat(OUTPUT_DNS, udp);
        }
        self.dns_zones(&servers);
    }

    /// The proxy's own rules come first: a packet keeps the first zone it is given.
    fn dns_zones(&mut self, servers: &[Option<IpNet>]) {
        let zone = |zone| Rule::to(Target::Zone(zone)).udp();
        let answers = Match::SourcePort(is(self.options.dns_port));
        let uids = self.options.proxy_uids.iter();
        let gids = self.options.proxy_gids.iter();
        let owners: Vec<Match> = uids
            .map(|&id| Match::Uid(is(id)))
            .chain(gids.map(|&id| Match::Gid(is(id))))
            .collect();
        self.bottom(Table::Raw, Hook::Output, Rule::jump(OUTPUT_DNS));
        for owner in owners {
            let query = zone(ZONE_UPSTREAM).port(DNS).when(owner.clone());
            self.add(Table::Raw, OUTPUT_DNS, query);
            let answer = zone(ZONE_DOWNSTREAM).when(answers.clone()).when(owner);
            self.add(Table::Raw, OUTPUT_DNS, answer);
        }
        self.bottom(Table::Raw, Hook::Prerouting, Rule::jump(INBOUND));
        for server in servers {
            let mut query = zone(ZONE_DOWNSTREAM).port(DNS);
            let mut answer = zone(ZONE_UPSTREAM).when(Match::SourcePort(is(DNS)));
            query.destination = server.map(is);
            answer.source = server.map(is);
            self.add(Table::Raw, OUTPUT_DNS, query);
            self.add(Table::Raw, INBOUND, answer);
        }
    }
}
