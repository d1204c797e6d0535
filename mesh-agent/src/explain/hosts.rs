//! Which virtual host is asked, which of its rules takes the request, and what comes of that.

use crate::explain::condition;
use crate::explain::{Explanation, Host, Rule, Teller, Verdict};
use crate::model::{Route, VirtualHost};
use crate::route::host::{Name, candidates, concerns, with_stand_ins};
use crate::route::{
    self, Decision, HttpScope, Mismatch, Pick, Reply, Request, Table, decide, mismatch, stranger,
};

/// Chance that says this first, and afterwards always the least: whatever may be drawn is drawn.
pub(super) struct Drawn(pub(super) Option<u64>);

impl Pick for Drawn {
    fn pick(&mut self, below: u64) -> u64 {
        self.0.take().unwrap_or(0).min(below - 1)
    }
}

impl Teller<'_> {
    /// A request, on a connection of this scope.
    pub(super) fn requests(&self, scope: &HttpScope, told: &mut Explanation) {
        let request = self.request(scope);
        let snapshot = &self.world.snapshot;
        let asked = match route::table(snapshot, scope, &self.client) {
            None => None,
            Some(Table::Single(host)) => self.ask(std::iter::once(host), told),
            Some(Table::Hosts(table)) => {
                let name = Name::of(request.authority);
                let hosts = candidates(table, &self.client, name.as_str());
                self.ask(hosts.map(|host| &**host), told)
            }
        };
        if let Some(host) = asked {
            self.rules(host, &request, told);
        }
        match decide(snapshot, scope, &self.client, &request, &mut Drawn(None)) {
            Decision::Routed(routed) => self.routed(scope, &request, &routed, told),
            Decision::Passthrough => {
                let to = told.destination.map_or_else(
                    || "wherever the name leads".to_owned(),
                    |address| address.to_string(),
                );
                let who = request.authority;
                told.result.push(format!(
                    "passed through to {to}: no Service is called {who}"
                ));
            }
            Decision::Reply(Reply::NoRoute) => {
                told.result.push(match asked {
                    Some(_) => "404, flag NR: none of the rules takes it".to_owned(),
                    None => format!("404, flag NR: no host here is {}", request.authority),
                });
            }
            Decision::Reply(Reply::Refused) => {
                let who = request.authority;
                told.result.push(format!(
                    "502: no Service is called {who}, and REGISTRY_ONLY holds"
                ));
            }
            Decision::Reply(Reply::Https(location)) => {
                told.result
                    .push(format!("301 to {location}: httpsRedirect"));
            }
        }
    }

    /// Lists the hosts, and finds the one that is asked.
    fn ask<'h>(
        &self,
        hosts: impl Iterator<Item = &'h VirtualHost>,
        told: &mut Explanation,
    ) -> Option<&'h VirtualHost> {
        let mut asked = None;
        for host in hosts.flat_map(with_stand_ins) {
            let (verdict, why) = match asked {
                Some(_) => (Verdict::NotReached, None),
                None if concerns(host, &self.client) => {
                    asked = Some(host);
                    (Verdict::Taken, None)
                }
                None => (
                    Verdict::Failed,
                    self.not_for(host.routes.iter().map(|route| &**route)),
                ),
            };
            let mut from: Vec<String> = Vec::new();
            let mut last = None;
            for (object, _) in host.routes.iter().filter_map(|route| route.origin.as_ref()) {
                if last == Some(object) {
                    continue;
                }
                last = Some(object);
                let named = format!("VirtualService {object}");
                if !from.contains(&named) {
                    from.push(named);
                }
            }
            told.hosts.push(Host {
                name: host.name.to_string(),
                from,
                verdict,
                why,
            });
        }
        asked
    }

    /// Why none of these rules is for the client.
    fn not_for<'r>(&self, mut routes: impl Iterator<Item = &'r Route>) -> Option<String> {
        let stranger = routes.find_map(|route| stranger(&route.when.client, &self.client))?;
        let failed = condition::told(&stranger, None);
        Some(format!(
            "not for this client: {} is to be {}, and is {}",
            failed.condition, failed.expected, failed.found
        ))
    }

    fn rules(&self, host: &VirtualHost, request: &Request<'_>, told: &mut Explanation) {
        let mut taken = host.https_redirect && request.scheme != "https";
        for route in &host.routes {
            let failed = mismatch(&route.when, &self.client, request);
            let verdict = match (&failed, taken) {
                (_, true) => Verdict::NotReached,
                (None, false) => Verdict::Taken,
                (Some(_), false) => Verdict::Failed,
            };
            taken |= verdict == Verdict::Taken;
            let failed = failed.filter(|_| verdict == Verdict::Failed);
            told.rules
                .push(self.rule(route, verdict, failed.as_ref(), request));
        }
    }

    fn rule(
        &self,
        route: &Route,
        verdict: Verdict,
        failed: Option<&Mismatch<'_>>,
        request: &Request<'_>,
    ) -> Rule {
        let origin = route.origin.as_ref();
        Rule {
            name: match (&*route.name, origin) {
                ("", Some((_, rule))) => format!("http[{rule}]"),
                ("", None) | ("default", None) => "the Service's own route".to_owned(),
                (name, _) => name.to_owned(),
            },
            object: origin.map(|(object, _)| format!("VirtualService {object}")),
            field: origin.map(|(_, rule)| format!("spec.http[{rule}]")),
            place: origin.and_then(|(object, rule)| self.world.place_of_rule(object, *rule)),
            conditions: condition::all(&route.when),
            verdict,
            failed: failed.map(|failed| condition::told(failed, Some(request))),
        }
    }
}
