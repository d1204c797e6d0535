//! Inbound connections by way of a transparent listener: the rules are in mangle then, and live on marks.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{INBOUND, LOOPBACK, Renderer, host};
use crate::intercept::iptables::options::InboundMode;
use crate::intercept::iptables::rule::{
    Family, Hook, Mark, Match, Rule, Table, Target, is, is_not,
};
use crate::model::PortSet;

pub(super) const DIVERT: &str = "ISTIO_DIVERT";
pub(super) const TPROXY: &str = "ISTIO_TPROXY";

/// In TPROXY mode, what the proxy sends to its own pod is marked so, and thereby goes through the inbound listener.
const SELF_CALL_MARK: u32 = 0x53a;

impl Renderer<'_> {
    pub(super) fn tproxy_chains(&mut self) {
        let mark = self.options.tproxy_mark;
        self.add(Table::Mangle, DIVERT, Rule::to(Target::SetMark(mark)));
        self.add(Table::Mangle, DIVERT, Rule::to(Target::Accept));
        let to_listener = Rule::to(Target::Tproxy {
            port: self.options.inbound_port,
            mark,
            family: self.family,
        });
        let local = self.local();
        self.add(
            Table::Mangle,
            TPROXY,
            to_listener.not_to_network(local).tcp(),
        );
        // In front: what is on its way already, the proxy's connections to the applications, and the applications'
        // connections to their own pod.
        let marked = Match::Mark(is(Mark::exact(mark)));
        self.add(
            Table::Mangle,
            INBOUND,
            Rule::to(Target::Return).tcp().when(marked),
        );
        let from_proxy = Rule::to(Target::Return)
            .from_network(self.sidecar)
            .entering(LOOPBACK)
            .tcp();
        self.add(Table::Mangle, INBOUND, from_proxy);
        let not_self_call = Match::Mark(is_not(Mark::exact(SELF_CALL_MARK)));
        let own = Rule::to(Target::Return)
            .entering(LOOPBACK)
            .tcp()
            .when(not_self_call);
        self.add(Table::Mangle, INBOUND, own);
    }

    /// The mark of a transparent connection must outlive the packet that had it: the replies are routed by it.
    pub(super) fn tproxy_marks(&mut self) {
        if self.options.mode == InboundMode::Redirect
            || self.options.inbound_ports == PortSet::Only(Vec::new())
        {
            return;
        }
        let mark = Mark::exact(self.options.tproxy_mark);
        let marked = Match::Mark(is(mark));
        let save = Rule::to(Target::SaveMark).tcp().when(marked.clone());
        self.bottom(Table::Mangle, Hook::Prerouting, save);
        let done = Rule::to(Target::Return)
            .leaving(LOOPBACK)
            .tcp()
            .when(marked);
        self.bottom(Table::Mangle, Hook::Output, done);
        let local = self.local();
        let uids = self.options.proxy_uids.iter();
        let gids = self.options.proxy_gids.iter();
        let owners = uids
            .map(|&id| Match::Uid(is(id)))
            .chain(gids.map(|&id| Match::Gid(is(id))));
        for owner in owners {
            let self_call = Rule::to(Target::SetMark(SELF_CALL_MARK))
                .not_to_network(local)
                .leaving(LOOPBACK)
                .tcp()
                .when(owner);
            self.bottom(Table::Mangle, Hook::Output, self_call);
        }
        let restore = Rule::to(Target::RestoreMark)
            .tcp()
            .when(Match::ConnMark(is(mark)));
        self.bottom(Table::Mangle, Hook::Output, restore);
    }

    /// The one loopback address; the transparent rules do not follow the option.
    fn local(&self) -> IpNet {
        match self.family {
            Family::V4 => host(Ipv4Addr::LOCALHOST.into()),
            Family::V6 => host(Ipv6Addr::LOCALHOST.into()),
        }
    }
}
