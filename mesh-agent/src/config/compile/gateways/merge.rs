//! Gateways that select the same pods, as one: which server has a port, and which has a name on it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::compile::Report;
use crate::config::compile::gateways::bound::{Bound, BoundTo};
use crate::config::compile::gateways::listener::{self, Hosts};
use crate::config::compile::gateways::{Places, Set, gateway_name};
use crate::config::compile::routes::Place;
use crate::config::compile::secrets::{Secrets, Useless};
use crate::config::compile::services::Services;
use crate::config::compile::streams::{StreamKind, gateway_streams};
use crate::config::object::gateway::{
    Authorities, Certificates, ClientCheck, Clients, Server, ServerKind, Tls,
};
use crate::config::object::{Gateway, Object, ObjectId};
use crate::config::path::Path;
use crate::config::problem::{Code, Problem, Severity};
use crate::model::{
    self, ClientAuthentication, Credential, GatewayListener, GatewayPort, Inside, RouteTable,
    SecureServer, ServerTls, StreamTable, Termination, Verification,
};

/// Merges sets of Gateways, one after the other.
pub(super) struct Merger<'a, 's, 'r> {
    pub(super) bound: BoundTo<'a>,
    pub(super) services: &'r Services<'s>,
    pub(super) secrets: &'r Secrets<'a>,
    pub(super) report: &'r mut Report,
    /// What has been told: a Gateway is merged once for each set that it is in.
    pub(super) told: HashSet<(ObjectId, String, String)>,
}

/// A server and its Gateway.
#[derive(Clone, Copy)]
struct Owner<'a> {
    object: &'a Object,
    server: &'a Server,
}

/// A port in the making.
struct Draft<'a> {
    /// The server that was there first.
    first: Owner<'a>,
    bind: Option<IpAddr>,
    listener: DraftListener<'a>,
}

enum DraftListener<'a> {
    Http(Hosts),
    Tcp(StreamTable),
    Secure(Vec<SecureServer>, Taken<'a>),
}

/// Names that have a server already.
#[derive(Default)]
struct Taken<'a> {
    /// As written, with the namespace before them: who repeats one of these is out as a whole.
    written: HashMap<(Option<&'a Arc<str>>, &'a Arc<str>), Owner<'a>>,
    /// As clients ask for them.
    asked_for: HashSet<Arc<str>>,
}

impl<'a> Merger<'a, '_, '_> {
    /// The Gateways of a set as one, the oldest first.
    pub(super) fn merge(
        &mut self,
        members: &[(&'a Object, &'a Gateway)],
        set: &Set,
    ) -> model::Gateway {
        let places = &set.places;
        let Places { together, targets } = places;
        let mut ports: BTreeMap<u16, Draft<'a>> = BTreeMap::new();
        for (object, gateway) in members {
            for server in &gateway.servers {
                let owner = Owner { object, server };
                let number = *together.get(&server.port).unwrap_or(&server.port);
                if let Some((first, draft)) = in_the_way(&ports, number, server, places) {
                    let (first, other) = ((*first, draft.bind), draft.first);
                    self.crowded_out(owner, other, first, places.target(number));
                    continue;
                }
                self.add(&mut ports, number, owner, set.namespace.as_deref());
            }
        }
        let names = members.iter().map(|(object, _)| {
            let id = &object.id;
            format!("{}/{}", id.namespace, id.name).into()
        });
        model::Gateway {
            names: names.collect(),
            ports: ports
                .into_iter()
                .filter_map(|(number, draft)| Some((number, draft.finish()?)))
                .collect(),
            together: together.clone(),
            targets: targets.clone(),
        }
    }

    fn add(
        &mut self,
        ports: &mut BTreeMap<u16, Draft<'a>>,
        number: u16,
        owner: Owner<'a>,
        namespace: Option<&str>,
    ) {
        let server = owner.server;
        let draft = ports.entry(number).or_insert_with(|| Draft {
            first: owner,
            bind: server.bind,
            listener: match &server.service {
                ServerKind::Http { .. } => DraftListener::Http(Hosts::default()),
                ServerKind::Tcp => DraftListener::Tcp(StreamTable::default()),
                ServerKind::Https(_) | ServerKind::Tls(_) | ServerKind::Passthrough => {
                    DraftListener::Secure(Vec::new(), Taken::default())
                }
            },
        });
        if draft.bind != server.bind {
            let path = server.path.key(place_of(server));
            let message = format!(
                "port {} is served at another address already, and two addresses for one port are not supported yet",
                server.port
            );
            self.left_out(owner, &path, message, draft.first, Code::Mesh0001);
            return;
        }
        match (&mut draft.listener, &server.service) {
            (DraftListener::Http(hosts), ServerKind::Http { https_redirect }) => {
                self.add_routes(hosts, owner, *https_redirect);
            }
            (DraftListener::Tcp(table), ServerKind::Tcp)
                if std::ptr::eq(draft.first.server, server) =>
            {
                *table = self.streams(owner, StreamKind::Tcp);
            }
            (
                DraftListener::Secure(servers, taken),
                ServerKind::Https(_) | ServerKind::Tls(_) | ServerKind::Passthrough,
            ) => {
                if let Err(other) = taken.claim(owner) {
                    let message = "another server has a host of this one on the same port, so this one is not served";
                    let path = server.path.key("hosts");
                    self.left_out(owner, &path, message, other, Code::Mesh0006);
                    return;
                }
                let secure = self.secure(owner, &taken.asked_for, namespace);
                if let Some(secure) = secure {
                    taken.asked_for.extend(secure.hosts.iter().cloned());
                    servers.push(secure);
                }
            }
            (DraftListener::Http(_) | DraftListener::Tcp(_) | DraftListener::Secure(..), _) => {
                let port = server.port;
                let message = match draft.first.server.port {
                    first if first == port => format!(
                        "port {port} belongs to a server with another protocol, so this one is not served"
                    ),
                    first => format!(
                        "the gateway's Service leads port {port} to where port {first} leads, which belongs to a server with another protocol, so this one is not served"
                    ),
                };
                let path = server.path.key("port");
                self.left_out(owner, &path, message, draft.first, Code::Mesh0006);
            }
        }
    }

    /// Of two servers that would be at one port of the pod, at addresses that overlap, the older one stays.
    fn crowded_out(
        &mut self,
        owner: Owner<'a>,
        other: Owner<'a>,
        (first, bind): (u16, Option<IpAddr>),
        target: u16,
    ) {
        let server = owner.server;
        let at = match bind {
            Some(address) => format!("at {address}"),
            None => "at every address".to_owned(),
        };
        let message = format!(
            "port {} leads to port {target} of the gateway's pods, where port {first} is served {at} already, so this one is not served",
            server.port
        );
        let path = server.path.key(place_of(server));
        self.left_out(owner, &path, message, other, Code::Mesh0006);
    }

    /// VirtualServices for one host are put one behind the other, the oldest first.
    fn add_routes(&self, hosts: &mut Hosts, owner: Owner<'a>, https_redirect: bool) {
        let server = owner.server;
        let name = gateway_name(owner.object);
        let place = Place {
            gateway: &name,
            port: server.port,
            tls: server.has_tls(),
        };
        let bound = self.bound.of(&name);
        for shared in bound.sharing(server) {
            let routes = bound.routes(shared.index, &place, self.services);
            if !routes.is_empty() {
                hosts.add(&shared.host, &routes, https_redirect);
            }
        }
        // Who only redirects needs no routes.
        if https_redirect {
            for served in &server.hosts {
                hosts.add(&served.host, &[], true);
            }
        }
    }

    fn routes(&self, owner: Owner<'a>) -> RouteTable {
        let mut hosts = Hosts::default();
        self.add_routes(&mut hosts, owner, false);
        hosts.table()
    }

    fn streams(&self, owner: Owner<'a>, kind: StreamKind) -> StreamTable {
        let name = gateway_name(owner.object);
        let bound: &Bound<'a> = self.bound.of(&name);
        let bindings = bound.these(&bound.sharing(owner.server));
        gateway_streams(&bindings, &name, owner.server, self.services, kind)
    }

    /// A server of a TLS port. `None` where it has nowhere to send anything, or no name that is its own.
    fn secure(
        &mut self,
        owner: Owner<'a>,
        taken: &HashSet<Arc<str>>,
        namespace: Option<&str>,
    ) -> Option<SecureServer> {
        let server = owner.server;
        let tls = match &server.service {
            ServerKind::Https(tls) => {
                let tls = self.server_tls(owner, tls, namespace);
                Termination::Here(tls, Inside::Http(self.routes(owner)))
            }
            ServerKind::Tls(tls) => {
                let routes = self.streams(owner, StreamKind::Tcp);
                if routes.routes.is_empty() {
                    return None;
                }
                Termination::Here(self.server_tls(owner, tls, namespace), Inside::Tcp(routes))
            }
            ServerKind::Passthrough => Termination::Beyond(self.streams(owner, StreamKind::Tls)),
            ServerKind::Http { .. } | ServerKind::Tcp => return None,
        };
        let mut hosts: Vec<Arc<str>> = match &tls {
            Termination::Here(..) => listener::hosts(server),
            // Only what is routed on is listened for, name by name.
            Termination::Beyond(table) => listener::server_names(table),
        };
        hosts.retain(|host| !taken.contains(host));
        let id = &owner.object.id;
        (!hosts.is_empty()).then(|| SecureServer {
            name: format!("{}/{}/{}", id.namespace, id.name, server.name).into(),
            hosts,
            tls,
        })
    }

    fn server_tls(
        &mut self,
        owner: Owner<'a>,
        tls: &Tls,
        namespace: Option<&str>,
    ) -> Arc<ServerTls> {
        let Tls {
            certificates,
            clients,
            any_client,
            min_version,
            max_version,
            cipher_suites,
        } = tls;
        let certificates = match certificates {
            Certificates::Secrets(names) => names
                .iter()
                .map(|(name, path)| {
                    let found = self.secrets.certificate(namespace, name);
                    self.credential(owner, found, name, path, namespace)
                })
                .collect(),
            Certificates::Files(pairs) => pairs
                .iter()
                .map(|pair| Credential::Files(pair.to_vec()))
                .collect(),
        };
        let clients = match clients {
            Clients::Anyone => ClientAuthentication::None,
            Clients::Optional(check) => {
                ClientAuthentication::Optional(self.verification(owner, check, namespace))
            }
            Clients::Required(check) => {
                ClientAuthentication::Required(self.verification(owner, check, namespace))
            }
        };
        Arc::new(ServerTls {
            certificates,
            clients,
            any_client: *any_client,
            min_version: *min_version,
            max_version: *max_version,
            cipher_suites: cipher_suites.clone(),
        })
    }

    fn verification(
        &mut self,
        owner: Owner<'a>,
        check: &ClientCheck,
        namespace: Option<&str>,
    ) -> Verification {
        let ClientCheck {
            authorities,
            names,
            hashes,
            keys,
        } = check;
        let roots = match authorities {
            Authorities::Secret(name, path) => {
                let found = self.secrets.authorities(namespace, name);
                self.credential(owner, found, name, path, namespace)
            }
            Authorities::Files(files) => Credential::Files(files.clone()),
        };
        Verification {
            roots: Some(roots),
            names: names.clone(),
            hashes: hashes.clone(),
            keys: keys.clone(),
        }
    }

    /// Key material, or why there is none, which is told.
    fn credential<T>(
        &mut self,
        owner: Owner<'a>,
        found: Result<Arc<T>, Useless>,
        name: &str,
        path: &Path,
        namespace: Option<&str>,
    ) -> Credential<T> {
        let useless = match found {
            Ok(material) => return Credential::Given(material),
            Err(useless) => useless,
        };
        // Where no pod of a namespace is meant, the Secret may well be where the next pod is.
        if namespace.is_some() || !self.secrets.has_anywhere(name) {
            let Useless {
                message,
                remedy,
                code,
            } = &useless;
            let problem = Problem::new(path, message, *remedy, Severity::Error).of(*code);
            self.tell(owner.object, problem);
        }
        useless.credential()
    }

    fn left_out(
        &mut self,
        owner: Owner<'a>,
        path: &Path,
        message: impl Into<String>,
        other: Owner<'a>,
        code: Code,
    ) {
        let remedy = "give one of them another port, or put them into one server";
        let related = other
            .object
            .place(&other.server.path.key("port"), "the server that has it");
        let problem = Problem::new(path, message, remedy, Severity::Error)
            .of(code)
            .see(related);
        self.tell(owner.object, problem);
    }

    fn tell(&mut self, object: &Object, problem: Problem) {
        let what = (
            object.id.clone(),
            problem.path.to_string(),
            problem.message.clone(),
        );
        if self.told.insert(what) {
            self.report.add(object, problem);
        }
    }
}

/// The port whose place a server would take in part, which is older: one that is the same place is another matter.
fn in_the_way<'d, 'a>(
    ports: &'d BTreeMap<u16, Draft<'a>>,
    number: u16,
    server: &Server,
    places: &Places,
) -> Option<(&'d u16, &'d Draft<'a>)> {
    if ports.contains_key(&number) {
        return None;
    }
    let mut others = ports.iter();
    others.find(|(other, draft)| {
        places.target(**other) == places.target(number) && overlap(draft.bind, server.bind)
    })
}

/// The field that says where a server listens.
fn place_of(server: &Server) -> &'static str {
    match server.bind {
        Some(_) => "bind",
        None => "port",
    }
}

/// Whether only one of both addresses can be listened at; none is all of them.
fn overlap(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other || one.is_unspecified() || other.is_unspecified(),
        (None, _) | (_, None) => true,
    }
}

impl<'a> Taken<'a> {
    /// Takes the hosts of a server, unless another one has one of them, which comes back then.
    fn claim(&mut self, owner: Owner<'a>) -> Result<(), Owner<'a>> {
        let hosts = &owner.server.hosts;
        let key = |index: usize| (hosts[index].namespace.as_ref(), &hosts[index].host);
        for index in 0..hosts.len() {
            if let Some(other) = self.written.get(&key(index)) {
                return Err(*other);
            }
        }
        for index in 0..hosts.len() {
            if let Entry::Vacant(vacant) = self.written.entry(key(index)) {
                vacant.insert(owner);
            }
        }
        Ok(())
    }
}

impl Draft<'_> {
    /// `None` where nothing would answer: nobody listens there then.
    fn finish(self) -> Option<GatewayPort> {
        let listener = match self.listener {
            DraftListener::Http(hosts) => GatewayListener::Http(hosts.table()),
            DraftListener::Tcp(table) => {
                if table.routes.is_empty() {
                    return None;
                }
                GatewayListener::Tcp(table)
            }
            DraftListener::Secure(servers, _) => {
                if servers.is_empty() {
                    return None;
                }
                GatewayListener::Secure(servers.into())
            }
        };
        Some(GatewayPort {
            bind: self.bind,
            listener,
        })
    }
}
