//! Tests of Gateways as merged: tables, names, conflicts, Secrets.

use crate::certificate::fixture::{Authority, Issued, self_signed};
use crate::config::fixture::{istio, pod, service, sound_world, world};
use crate::config::problem::Rejected;
use crate::model::{
    ClientAuthentication, Credential, GatewayListener, Inside, PodId, RouteTable, ServerTls,
    Snapshot, StreamTable, Termination,
};

/// A gateway pod of namespace `edge`.
fn gateway_pod() -> String {
    pod("edge/gw", "10.0.0.1", "app=gw")
}

/// A Gateway for that pod.
fn gateway(name: &str, servers: &str) -> String {
    istio(
        "Gateway",
        name,
        &format!("{{selector: {{app: gw}}, servers: [{servers}]}}"),
    )
}

/// A server; `rest` is what it has beside port and hosts.
fn server(name: &str, port: u16, protocol: &str, hosts: &str, rest: &str) -> String {
    format!(
        "{{port: {{number: {port}, name: {name}, protocol: {protocol}}}, hosts: [{hosts}], {rest}}}"
    )
}

/// A VirtualService of one rule for everything.
fn http(name: &str, hosts: &str, gateways: &str, destination: &str) -> String {
    istio(
        "VirtualService",
        name,
        &format!(
            "{{hosts: [{hosts}], gateways: [{gateways}], http: [{{name: {destination}, route: [{{destination: {{host: {destination}}}}}]}}]}}"
        ),
    )
}

fn streams(name: &str, hosts: &str, gateways: &str, rule: &str) -> String {
    istio(
        "VirtualService",
        name,
        &format!("{{hosts: [{hosts}], gateways: [{gateways}], {rule}}}"),
    )
}

fn services() -> String {
    service("a", "10.1.0.1", &["http:80"]) + &service("b", "10.1.0.2", &["http:80"])
}

fn secret(name: &str, entries: &[(&str, &str)]) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let entries: String = entries
        .iter()
        .map(|(key, value)| {
            format!(
                "  {key}: |\n    {}\n",
                value.trim_end().replace('\n', "\n    ")
            )
        })
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData:\n{entries}"
    )
}

fn tls_secret(name: &str, issued: &Issued) -> String {
    secret(
        name,
        &[("tls.crt", &issued.chain), ("tls.key", &issued.key)],
    )
}

/// What the gateway pod serves, a line per server.
fn served(snapshot: &Snapshot) -> Vec<String> {
    let id = PodId {
        namespace: "edge".into(),
        name: "gw".into(),
    };
    let gateway = snapshot.gateway(&snapshot.pods[&id]).unwrap();
    let mut lines = Vec::new();
    for (number, port) in &gateway.ports {
        let at = match port.bind {
            Some(address) => format!("{address} {number}"),
            None => number.to_string(),
        };
        match &port.listener {
            GatewayListener::Http(table) => lines.push(format!("{at} http {}", hosts(table))),
            GatewayListener::Tcp(table) => lines.push(format!("{at} tcp {}", routes(table))),
            GatewayListener::Secure(servers) => {
                for server in servers.iter() {
                    let (name, asked_for) = (&server.name, server.hosts.join(","));
                    let what = match &server.tls {
                        Termination::Here(_, Inside::Http(table)) => {
                            format!("https {}", hosts(table))
                        }
                        Termination::Here(_, Inside::Tcp(table)) => {
                            format!("tls {}", routes(table))
                        }
                        Termination::Beyond(table) => format!("passthrough {}", routes(table)),
                    };
                    lines.push(format!("{at} {name} {asked_for} {what}"));
                }
            }
        }
    }
    lines
}

fn hosts(table: &RouteTable) -> String {
    let exact = table
        .exact
        .iter()
        .map(|(name, host)| (name.to_string(), host));
    let wild = table
        .suffixes
        .iter()
        .map(|(name, host)| (format!("*{name}"), host));
    let any = table.any.iter().map(|host| ("*".to_owned(), host));
    let mut hosts: Vec<String> = exact
        .chain(wild)
        .chain(any)
        .map(|(name, host)| {
            let routes: Vec<&str> = host.routes.iter().map(|route| &*route.name).collect();
            let redirect = if host.https_redirect { ">" } else { "" };
            format!("{name}{redirect}[{}]", routes.join(","))
        })
        .collect();
    hosts.sort();
    hosts.join(" ")
}

fn routes(table: &StreamTable) -> String {
    let routes = table.routes.iter().map(|route| {
        let names = route.when.server_names.join(",");
        format!("{names}->{}", route.destinations[0].cluster.host)
    });
    routes.collect::<Vec<_>>().join(" ")
}

fn told(rejected: &[Rejected]) -> Vec<String> {
    rejected
        .iter()
        .map(|rejected| {
            let code = rejected.code.map_or("", |code| code.id());
            let field = rejected.field.replace("spec.servers", "");
            format!("{code} {} {field}: {}", rejected.object, rejected.message)
        })
        .collect()
}

#[test]
fn http_servers_of_one_port_share_one_table() {
    let text = gateway_pod()
        + &services()
        + &gateway(
            "one",
            &server("http", 80, "HTTP", "'*.a.com', x/only.com", ""),
        )
        + &gateway("two", &server("http", 80, "HTTP2", "y.a.com", ""))
        + &http("wide", "'*'", "one", "a")
        + &http("narrow", "y.a.com", "one, two", "b")
        + &http("foreign", "only.com", "one", "a");
    let (snapshot, rejected) = world(&text);
    // What both Gateways serve is there once for each, as in Istio, and the wide one is for what its server has.
    assert_eq!(served(&snapshot), ["80 http *.a.com[a] y.a.com[b,b]"]);
    assert_eq!(told(&rejected), Vec::<String>::new());
}

#[test]
fn what_takes_everything_comes_last() {
    let text = gateway_pod()
        + &services()
        + &gateway("gw", &server("http", 80, "HTTP", "'*'", ""))
        + &http("first", "a.com", "gw", "a")
        + &streams(
            "second",
            "a.com",
            "gw",
            "http: [{name: prefix, match: [{uri: {prefix: /x}}], route: [{destination: {host: b}}]}]",
        );
    assert_eq!(served(&sound_world(&text)), ["80 http a.com[prefix,a]"]);
}

#[test]
fn a_redirect_needs_no_routes_and_holds_for_the_whole_host() {
    let redirect = "tls: {httpsRedirect: true}";
    let check = |servers: &str, virtual_services: &str, expected: &str| {
        let text = gateway_pod() + &services() + &gateway("gw", servers) + virtual_services;
        assert_eq!(served(&sound_world(&text)), [expected], "{text}");
    };
    check(
        &server("h", 80, "HTTP", "'*.a.com'", redirect),
        "",
        "80 http *.a.com>[]",
    );
    check(
        &server("h", 80, "HTTP", "'*'", redirect),
        "",
        "80 http *>[]",
    );
    check(
        &server("h", 80, "HTTP", "'*.a.com'", redirect),
        &http("vs", "x.a.com", "gw", "a"),
        "80 http *.a.com>[] x.a.com>[a]",
    );
    check(
        &[
            server("h", 80, "HTTP", "'*.a.com'", redirect),
            server("i", 80, "HTTP", "x.b.com", ""),
        ]
        .join(", "),
        &(http("vs", "x.a.com, x.b.com", "gw", "a")),
        "80 http *.a.com>[] x.a.com>[a] x.b.com[a]",
    );
}

#[test]
fn each_tls_server_has_its_own_names_and_routes() {
    let files = "tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}";
    let servers = [
        server("a", 443, "HTTPS", "a.com, '*.a.com'", files),
        server("b", 443, "HTTPS", "b.com", files),
        server("t", 443, "TLS", "t.com", files),
        server("nowhere", 443, "TLS", "n.com", files),
        server(
            "p",
            443,
            "HTTPS",
            "'*.p.com', '*.q.com'",
            "tls: {mode: PASSTHROUGH}",
        ),
        server("q", 8443, "TLS", "'*'", "tls: {}"),
    ]
    .join(", ");
    let rule = |names: &str, to: &str| {
        format!("{{match: [{{sniHosts: [{names}]}}], route: [{{destination: {{host: {to}}}}}]}}")
    };
    let text = gateway_pod()
        + &services()
        + &gateway("gw", &servers)
        + &http("http", "a.com, x.a.com, b.com", "gw", "a")
        + &streams(
            "tcp",
            "t.com",
            "gw",
            "tcp: [{route: [{destination: {host: b}}]}]",
        )
        + &streams(
            "tls",
            "'*.p.com'",
            "gw",
            &format!(
                "tls: [{}, {}]",
                rule("x.p.com, '*.y.p.com'", "a"),
                rule("z.p.com", "b")
            ),
        );
    assert_eq!(
        served(&sound_world(&text)),
        [
            "443 default/gw/a a.com,*.a.com https a.com[a] x.a.com[a]",
            "443 default/gw/b b.com https b.com[a]",
            "443 default/gw/t t.com tls ->b.default.svc.cluster.local",
            "443 default/gw/p x.p.com,z.p.com,*.y.p.com passthrough x.p.com->a.default.svc.cluster.local z.p.com->b.default.svc.cluster.local *.y.p.com->a.default.svc.cluster.local",
            "8443 default/gw/q x.p.com,z.p.com,*.y.p.com passthrough x.p.com->a.default.svc.cluster.local z.p.com->b.default.svc.cluster.local *.y.p.com->a.default.svc.cluster.local",
        ]
    );
}

#[test]
fn ports_that_lead_to_one_are_one() {
    let files = "tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}";
    let ports = [
        "http:80:8080",
        "alt:81:8080",
        "https:443:8443",
        "late:444:8443",
    ];
    let front = service("edge/gw", "10.1.0.9", &ports);
    let check = |servers: &[String], expected: &[&str], complaints: &[&str]| {
        let text = gateway_pod()
            + &front
            + &services()
            + &gateway("gw", &servers.join(", "))
            + &http("all", "'*'", "gw", "a")
            + &istio(
                "VirtualService",
                "alt",
                "{hosts: [x.com], gateways: [gw], http: [{name: b, match: [{port: 81}], route: [{destination: {host: b}}]}]}",
            );
        let (snapshot, rejected) = world(&text);
        assert_eq!(served(&snapshot), expected, "{text}");
        assert_eq!(told(&rejected), complaints, "{text}");
    };
    let http = |port: u16, host: &str| server(&format!("p{port}"), port, "HTTP", host, "");
    let https = |port: u16, host: &str| server(&format!("s{port}"), port, "HTTPS", host, files);
    check(
        &[http(81, "x.com"), http(80, "'*.com'"), http(82, "y.com")],
        &["80 http *.com[a] x.com[a,b]", "82 http y.com[a]"],
        &[],
    );
    check(
        &[https(443, "x.com"), https(444, "y.com")],
        &[
            "443 default/gw/s443 x.com https x.com[a]",
            "443 default/gw/s444 y.com https y.com[a]",
        ],
        &[],
    );
    check(
        &[https(444, "x.com"), https(443, "x.com")],
        &["443 default/gw/s444 x.com https x.com[a]"],
        &[
            "MESH0006 Gateway default/gw [1].hosts: another server has a host of this one on the same port, so this one is not served",
        ],
    );
    check(
        &[http(81, "x.com"), https(80, "x.com")],
        &["80 http x.com[a,b]"],
        &[
            "MESH0006 Gateway default/gw [1].port: the gateway's Service leads port 80 to where port 81 leads, which belongs to a server with another protocol, so this one is not served",
        ],
    );
}

#[test]
fn the_first_server_keeps_a_port_and_a_name() {
    let files = "tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}";
    let check = |servers: &[String], more: &str, expected: &[&str], complaints: &[&str]| {
        let text = gateway_pod() + &services() + &gateway("gw", &servers.join(", ")) + more;
        let (snapshot, rejected) = world(&text);
        assert_eq!(served(&snapshot), expected, "{text}");
        assert_eq!(told(&rejected), complaints, "{text}");
    };
    let other = "MESH0006 Gateway default/gw [1].port: port 80 belongs to a server with another protocol, so this one is not served";
    let tcp = server("tcp", 80, "TCP", "foo.bar", "");
    let http_server = server("http", 80, "HTTP", "foo.bar", "");
    let route = streams(
        "vs",
        "'*'",
        "gw",
        "tcp: [{route: [{destination: {host: b}}]}]",
    );
    // A TCP server without a route keeps its port all the same, and nobody listens there.
    check(&[tcp.clone(), http_server.clone()], "", &[], &[other]);
    check(
        &[http_server.clone(), tcp.clone()],
        "",
        &["80 http "],
        &[other],
    );
    check(
        &[tcp.clone(), tcp.replace("name: tcp", "name: tcp2")],
        &route,
        &["80 tcp ->b.default.svc.cluster.local"],
        &[other],
    );
    check(
        &[
            http_server.clone(),
            server("https", 80, "HTTPS", "a.com", files),
        ],
        "",
        &["80 http "],
        &[other],
    );
    let taken = "MESH0006 Gateway default/gw [1].hosts: another server has a host of this one on the same port, so this one is not served";
    check(
        &[
            server("a", 443, "HTTPS", "a.com", files),
            server("b", 443, "HTTPS", "b.com, a.com", files),
            server("c", 443, "HTTPS", "b.com", files),
            server("d", 444, "HTTPS", "a.com", files),
        ],
        "",
        &[
            "443 default/gw/a a.com https ",
            "443 default/gw/c b.com https ",
            "444 default/gw/d a.com https ",
        ],
        &[taken],
    );
    check(
        &[
            server("a", 443, "HTTPS", "'*.a.com'", files),
            server("p", 443, "TLS", "'*.a.com'", "tls: {mode: PASSTHROUGH}"),
        ],
        "",
        &["443 default/gw/a *.a.com https "],
        &[taken],
    );
    check(
        &[
            server("a", 80, "HTTP", "a.com", "bind: 10.0.0.1"),
            server("b", 80, "HTTP", "b.com", "bind: 'fd00::1'"),
            server("c", 80, "HTTP", "c.com", "bind: 10.0.0.1"),
        ],
        "",
        &["10.0.0.1 80 http "],
        &[
            "MESH0001 Gateway default/gw [1].bind: port 80 is served at another address already, and two addresses for one port are not supported yet",
        ],
    );
}

/// Where two ports lead to one port of the pod, at addresses of which one is part of the other, the older server stays.
#[test]
fn of_places_that_overlap_the_older_server_keeps_its_own() {
    let check = |servers: &[(u16, &str)], expected: &[u16], complaint: Option<&str>| {
        let servers: Vec<String> = servers
            .iter()
            .map(|(port, bind)| server(&format!("p{port}"), *port, "HTTP", "'*'", bind))
            .collect();
        let text = pod("edge/gw", "10.0.0.1", "app=gw")
            + &service("edge/gw", "10.1.0.1", &["http:80:8080", "more:81:8080"])
            + &istio(
                "Gateway",
                "gw",
                &format!(
                    "{{selector: {{app: gw}}, servers: [{}]}}",
                    servers.join(", ")
                ),
            );
        let (snapshot, rejected) = world(&text);
        let id = PodId {
            namespace: "edge".into(),
            name: "gw".into(),
        };
        let gateway = snapshot.gateway(&snapshot.pods[&id]).unwrap();
        let ports: Vec<u16> = gateway.ports.keys().copied().collect();
        assert_eq!(ports, expected, "{text}");
        let told: Vec<String> = rejected
            .iter()
            .map(|complaint| complaint.message.clone())
            .collect();
        assert_eq!(told, complaint.into_iter().collect::<Vec<_>>(), "{text}");
    };
    check(
        &[(81, "bind: 10.0.0.1"), (80, "")],
        &[81],
        Some(
            "port 80 leads to port 8080 of the gateway's pods, where port 81 is served at 10.0.0.1 already, so this one is not served",
        ),
    );
    check(
        &[(80, ""), (8080, "bind: 'fd00::1'")],
        &[80],
        Some(
            "port 8080 leads to port 8080 of the gateway's pods, where port 80 is served at every address already, so this one is not served",
        ),
    );
    check(
        &[(80, "bind: 0.0.0.0"), (81, "bind: 10.0.0.1")],
        &[80],
        Some(
            "port 81 leads to port 8080 of the gateway's pods, where port 80 is served at 0.0.0.0 already, so this one is not served",
        ),
    );
    check(
        &[(80, "bind: 10.0.0.2"), (81, "bind: 10.0.0.1")],
        &[80, 81],
        None,
    );
    check(&[(80, ""), (82, "bind: 10.0.0.1")], &[80, 82], None);
}

fn tls_of(snapshot: &Snapshot, namespace: &str) -> Vec<ServerTls> {
    let id = PodId {
        namespace: namespace.into(),
        name: "gw".into(),
    };
    let gateway = snapshot.gateway(&snapshot.pods[&id]).unwrap();
    let listeners = gateway.ports.values().map(|port| &port.listener);
    listeners
        .filter_map(|listener| match listener {
            GatewayListener::Secure(servers) => Some(servers.iter()),
            GatewayListener::Http(_) | GatewayListener::Tcp(_) => None,
        })
        .flatten()
        .filter_map(|server| match &server.tls {
            Termination::Here(tls, _) => Some(ServerTls::clone(tls)),
            Termination::Beyond(_) => None,
        })
        .collect()
}

#[test]
fn secrets_are_those_of_the_pods_namespace() {
    let (edge, other) = (self_signed(&["edge"]), self_signed(&["other"]));
    let https = |mode: &str| server("a", 443, "HTTPS", "'*'", &format!("tls: {{{mode}}}"));
    let text = gateway_pod()
        + &pod("other/gw", "10.0.0.2", "app=gw")
        + &pod("third/gw", "10.0.0.3", "app=gw")
        + &gateway("gw", &https("mode: SIMPLE, credentialName: cert"))
        + &tls_secret("edge/cert", &edge)
        + &tls_secret("other/cert", &other)
        + &tls_secret("default/cert", &other);
    let (snapshot, rejected) = world(&text);
    let shown = |namespace: &str| tls_of(&snapshot, namespace)[0].certificates.clone();
    assert_eq!(shown("edge"), [Credential::Given(edge.pair().into())]);
    assert_eq!(shown("other"), [Credential::Given(other.pair().into())]);
    assert_eq!(
        shown("third"),
        [Credential::Missing("there is no Secret third/cert".into())]
    );
    assert_eq!(
        told(&rejected),
        ["IST0101 Gateway default/gw [0].tls.credentialName: there is no Secret third/cert"]
    );
}

#[test]
fn a_gateway_for_all_pods_finds_its_secret_where_it_is() {
    let edge = self_signed(&["edge"]);
    let servers = server(
        "a",
        443,
        "HTTPS",
        "'*'",
        "tls: {mode: SIMPLE, credentialName: cert}",
    );
    let text = gateway_pod()
        + &pod("a/gw", "10.0.1.1", "")
        + &pod("b/gw", "10.0.1.2", "")
        + &istio("Gateway", "gw", &format!("{{servers: [{servers}]}}"));
    let found = text.clone() + &tls_secret("edge/cert", &edge);
    let snapshot = sound_world(&found);
    assert_eq!(
        tls_of(&snapshot, "edge")[0].certificates,
        [Credential::Given(edge.pair().into())]
    );
    assert!(matches!(
        tls_of(&snapshot, "a")[0].certificates[..],
        [Credential::Missing(_)]
    ));
    // All pods without one have the same.
    assert_eq!(snapshot.gateways.len(), 2);
    let (_, rejected) = world(&text);
    assert_eq!(
        told(&rejected),
        ["IST0101 Gateway default/gw [0].tls.credentialName: there is no Secret cert"]
    );
}

#[test]
fn authorities_stand_beside_the_certificate_or_in_it() {
    let (issued, authority) = (self_signed(&["edge"]), Authority::new("clients"));
    let world_of = |credential: &str, secrets: &str| {
        let tls = format!("tls: {{mode: MUTUAL, credentialName: {credential}}}");
        let text =
            gateway_pod() + &gateway("gw", &server("a", 443, "HTTPS", "'*'", &tls)) + secrets;
        let (snapshot, rejected) = world(&text);
        let tls = tls_of(&snapshot, "edge").remove(0);
        let ClientAuthentication::Required(check) = tls.clients else {
            panic!("{:?}", tls.clients);
        };
        let found = match check.roots.unwrap() {
            Credential::Given(roots) => String::from_utf8(roots.authorities.clone()).unwrap(),
            Credential::Missing(why) => why.to_string(),
            Credential::Files(_) => "files".to_owned(),
        };
        (found, told(&rejected))
    };
    let (chain, key) = (&*issued.chain, &*issued.key);
    let own = secret(
        "edge/cert",
        &[
            ("tls.crt", chain),
            ("tls.key", key),
            ("ca.crt", &authority.pem),
        ],
    );
    let beside = secret("edge/cert-cacert", &[("cacert", &issued.chain)]);
    assert_eq!(world_of("cert", &own), (authority.pem.clone(), vec![]));
    assert_eq!(
        world_of("cert", &(own.clone() + &beside)),
        (issued.chain.clone(), vec![])
    );
    let named = "cert, caCertCredentialName: theirs";
    let theirs = secret("edge/theirs", &[("ca.crt", &issued.chain)]);
    assert_eq!(
        world_of(named, &(own + &theirs)),
        (issued.chain.clone(), vec![])
    );
    let without = tls_secret("edge/cert", &issued);
    let lacking = "the Secret cert has no authorities: it needs ca.crt, and has tls.crt, tls.key";
    assert_eq!(
        world_of("cert", &without),
        (
            lacking.to_owned(),
            vec![format!(
                "IST0161 Gateway default/gw [0].tls.credentialName: {lacking}"
            )]
        )
    );
}

#[test]
fn a_secret_without_a_certificate_fails_its_server_alone() {
    let servers = [
        server(
            "a",
            443,
            "HTTPS",
            "a.com",
            "tls: {mode: SIMPLE, credentialName: opaque}",
        ),
        server(
            "b",
            443,
            "HTTPS",
            "b.com",
            "tls: {mode: SIMPLE, credentialName: good}",
        ),
    ];
    let good = self_signed(&["b.com"]);
    let text = gateway_pod()
        + &gateway("gw", &servers.join(", "))
        + &secret("edge/opaque", &[("password", "x")])
        + &tls_secret("edge/good", &good);
    let (snapshot, rejected) = world(&text);
    let tls = tls_of(&snapshot, "edge");
    assert!(matches!(tls[0].certificates[..], [Credential::Missing(_)]));
    assert_eq!(tls[1].certificates, [Credential::Given(good.pair().into())]);
    assert_eq!(
        told(&rejected),
        [
            "IST0161 Gateway default/gw [0].tls.credentialName: the Secret opaque has no certificate: it needs tls.crt and tls.key, and has password"
        ]
    );
}

/// Minutes, if the work grew with the square of it.
#[test]
fn thousands_of_virtual_services_and_servers_are_no_trouble() {
    use std::fmt::Write;
    let files = "tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}";
    let mut servers = vec![server("http", 80, "HTTP", "'*'", "")];
    servers.extend((0..300).map(|i| {
        server(
            &format!("s{i}"),
            443,
            "HTTPS",
            &format!("'*.s{i}.com'"),
            files,
        )
    }));
    let mut text = gateway_pod() + &services() + &gateway("gw", &servers.join(", "));
    for i in 0..3000 {
        let host = format!("h{i}.s{}.com, '*.w{i}.com'", i % 300);
        let _ = write!(text, "{}", http(&format!("vs{i}"), &host, "gw", "a"));
    }
    let snapshot = sound_world(&text);
    let lines = served(&snapshot);
    assert_eq!(lines.len(), 301);
    assert_eq!(lines[0].split(' ').count(), 2 + 6000);
    assert!(lines[1].ends_with("h0.s0.com[a] h1200.s0.com[a] h1500.s0.com[a] h1800.s0.com[a] h2100.s0.com[a] h2400.s0.com[a] h2700.s0.com[a] h300.s0.com[a] h600.s0.com[a] h900.s0.com[a]"), "{}", lines[1]);
}
