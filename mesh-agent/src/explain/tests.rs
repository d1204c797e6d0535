//! Explanations word for word, and that they say what the proxy does.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::fixture::{istio, pod, read, service};
use crate::model::{
    Abort, Balancer, Cluster, ClusterKey, Cors, Delay, DirectResponse, Failover, HashKey,
    HeaderEdit, HeaderEdits, HeaderSubject, LocalityPolicy, Mirror, OutlierDetection, Piece,
    Redirect, RedirectPath, RedirectPort, Ring, Route, RouteAction, RouteHash, Share, Template,
    TrafficPolicy, UpstreamHttp, Variable, VirtualHost,
};
use crate::report::Style;
use crate::route::{Decision, Table, decide, fixture};

fn wish(who: Who, url: &str) -> Wish {
    Wish {
        who,
        url: url.to_owned(),
        ..Wish::default()
    }
}

fn from_client(url: &str) -> Wish {
    wish(Who::Pod("client".to_owned()), url)
}

/// The text, without the indentation that the source gives it.
fn unindented(text: &str) -> String {
    let lines = text.trim_start_matches('\n').lines();
    let mut text: String = lines
        .map(|line| format!("{}\n", line.strip_prefix("        ").unwrap_or(line)))
        .collect();
    let end = text.trim_end().len();
    text.truncate(end);
    text + "\n"
}

fn check(world: &str, wish: &Wish, expected: &str) {
    let world = read(world);
    let told = explain(&world, wish).expect("an answer");
    let expected = unindented(expected);
    let found = told.text(Style::Plain);
    assert_eq!(found, expected, "found:\n{found}\nexpected:\n{expected}");
}

fn world() -> String {
    service("reviews", "10.96.0.10", &["http:9080:8080"])
        + &service("db", "10.96.0.11", &["tcp:3306:3306"])
        + &pod("reviews-v1", "10.1.0.4", "app=reviews,version=v1")
        + &pod("reviews-v2", "10.1.0.5", "app=reviews,version=v2")
        + &pod("db-0", "10.1.0.6", "app=db")
        + &pod("client", "10.1.0.9", "app=client")
        + &istio(
            "DestinationRule",
            "reviews",
            "{host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}",
        )
}

fn rules() -> String {
    istio(
        "VirtualService",
        "reviews",
        "
  hosts: [reviews]
  http:
  - name: next-door
    match: [{sourceNamespace: other}]
    route: [{destination: {host: reviews, subset: v2}}]
  - name: api
    match:
    - {uri: {prefix: /api/v1}, name: old}
    - {uri: {regex: '/status.*'}}
    rewrite: {uri: /v1}
    route:
    - {destination: {host: reviews, subset: v1}, weight: 75}
    - {destination: {host: reviews, subset: v3}, weight: 25}
    timeout: 5s
  - route: [{destination: {host: reviews, subset: v1}}]",
    )
}

#[test]
fn a_request_that_a_rule_takes() {
    check(
        &(world() + &rules()),
        &from_client("http://reviews:9080/api/v1/x?full"),
        "
        GET http://reviews:9080/api/v1/x?full
        from pod default/client

        Listener
          reviews is reviews.default.svc.cluster.local, at 10.96.0.10
          10.96.0.10:9080 is port 9080 of reviews.default.svc.cluster.local, where HTTP is spoken
          it is HTTP on an HTTP port of the mesh: the Host decides, in the mesh's table of port 9080, whichever address was dialled

        Host
          ✓ reviews.default.svc.cluster.local  VirtualService default/reviews

        Rules  in order, the first that takes it wins
          ✗ next-door  sourceNamespace: wants other, found default  test.yaml:55
          ✓ api.old    takes it: uri /api/v1…                       test.yaml:58
          · api        not reached                                  test.yaml:58
          · http[2]    not reached                                  test.yaml:67

        Route  api.old
          rewrite  path /api/v1/x becomes /v1/x
          timeout  5s from the end of the request to the end of the response
          retries  2 more tries after connect-failure,refused-stream,cancelled,unavailable

        Destination  75 % outbound|9080|v1|reviews.default.svc.cluster.local
          10.1.0.4:8080  default/reviews-v1
          loadBalancer      LEAST_REQUEST: the less busy of two drawn by chance
          protocol          HTTP/1.1
          connectionPool    connects within 10s
          outlierDetection  none
          tls               none: plain text

        Destination  25 % outbound|9080|v3|reviews.default.svc.cluster.local
          503, flag NC: no DestinationRule that this client gets gives reviews.default.svc.cluster.local a subset v3

        → 75 % outbound|9080|v1|reviews.default.svc.cluster.local
        → 25 % 503, flag NC: no DestinationRule that this client gets gives reviews.default.svc.cluster.local a subset v3
        ",
    );
}

#[test]
fn a_path_is_looked_at_in_its_plain_form() {
    let world = read(&(world() + &rules()));
    let asked = from_client("reviews:9080/x/../status%2Dpage#top");
    let told = explain(&world, &asked).expect("an answer");
    assert_eq!(told.request, "GET http://reviews:9080/x/../status%2Dpage");
    let taken = told
        .rules
        .iter()
        .find(|rule| rule.verdict == Verdict::Taken);
    assert_eq!(taken.map(|rule| &*rule.name), Some("api"));
    let failed = told.rules[1].failed.clone().expect("a condition");
    assert_eq!(
        (&*failed.condition, &*failed.expected, &*failed.found),
        ("uri", "/api/v1…", "/status-page")
    );
    assert_eq!(told.rules[2].conditions, ["uri regex /status.*"]);
}

#[test]
fn a_service_without_rules() {
    check(
        &world(),
        &from_client("http://reviews.default:9080/"),
        "
        GET http://reviews.default:9080/
        from pod default/client

        Listener
          reviews.default is reviews.default.svc.cluster.local, at 10.96.0.10
          10.96.0.10:9080 is port 9080 of reviews.default.svc.cluster.local, where HTTP is spoken
          it is HTTP on an HTTP port of the mesh: the Host decides, in the mesh's table of port 9080, whichever address was dialled

        Host
          ✓ reviews.default.svc.cluster.local  its own route

        Rules  in order, the first that takes it wins
          ✓ the Service's own route  takes everything

        Route  the Service's own route
          timeout  none
          retries  2 more tries after connect-failure,refused-stream,cancelled,unavailable

        Destination  outbound|9080||reviews.default.svc.cluster.local
          10.1.0.4:8080  default/reviews-v1
          10.1.0.5:8080  default/reviews-v2
          loadBalancer      LEAST_REQUEST: the less busy of two drawn by chance
          protocol          HTTP/1.1
          connectionPool    connects within 10s
          outlierDetection  none
          tls               none: plain text

        → outbound|9080||reviews.default.svc.cluster.local
        ",
    );
}

#[test]
fn what_is_no_http() {
    check(
        &world(),
        &from_client("tcp://db:3306"),
        "
        tcp://db:3306
        from pod default/client

        Listener
          db is db.default.svc.cluster.local, at 10.96.0.11
          10.96.0.11:3306 is port 3306 of db.default.svc.cluster.local, where TCP is spoken
          it is relayed as it is, whatever is spoken

        Destination  outbound|3306||db.default.svc.cluster.local
          10.1.0.6:3306  default/db-0
          loadBalancer      LEAST_REQUEST: the less busy of two drawn by chance
          connectionPool    connects within 10s
          outlierDetection  none
          tls               none: plain text

        → relayed to outbound|3306||db.default.svc.cluster.local
        ",
    );
}

#[test]
fn what_nobody_knows() {
    check(
        &world(),
        &from_client("http://www.example.com/"),
        "
        GET http://www.example.com/
        from pod default/client

        Listener
          no Service is called www.example.com, so its address is not known here (--address says one)
          nothing in the mesh is on port 80: it is relayed as it is, whatever is spoken

        → passed through to wherever the name leads: nobody in the mesh has it
        ",
    );
    check(
        &world(),
        &Wish {
            address: Some(SocketAddr::from(([192, 0, 2, 1], 9080))),
            ..from_client("http://www.example.com:9080/")
        },
        "
        GET http://www.example.com:9080/
        from pod default/client

        Listener
          no Service that the pod knows has 192.0.2.1:9080
          it is HTTP on an HTTP port of the mesh: the Host decides, in the mesh's table of port 9080, whichever address was dialled

        → passed through to 192.0.2.1:9080: no Service is called www.example.com:9080
        ",
    );
}

fn at_gateway() -> String {
    world()
        + &pod("gateways/ingress-1", "10.1.0.7", "app=ingress")
        + &istio(
            "Gateway",
            "gateways/ingress",
            "
  selector: {app: ingress}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*.example.com']",
        )
        + &istio(
            "VirtualService",
            "shop",
            "
  hosts: [shop.example.com]
  gateways: [gateways/ingress]
  http:
  - match: [{uri: {exact: /healthz}}, {uri: {prefix: /reviews}}]
    route: [{destination: {host: reviews}}]",
        )
        + &istio(
            "VirtualService",
            "any",
            "
  hosts: ['*.example.com']
  gateways: [gateways/ingress]
  http:
  - route: [{destination: {host: reviews}}]",
        )
}

#[test]
fn a_gateway() {
    let expected = "
        GET http://shop.example.com/
        from a client of gateway gateways/ingress-1

        Listener
          the pod serves Gateway gateways/ingress
          port 80 is HTTP in the clear: the Host decides, in the gateway's table of port 80

        Host
          ✓ shop.example.com  VirtualService default/shop
          · *.example.com     VirtualService default/any; not asked: another is more specific

        Rules  in order, the first that takes it wins
          ✗ http[0]  uri: wants /healthz, found /   test.yaml:71
          ✗ http[0]  uri: wants /reviews…, found /  test.yaml:71

        → 404, flag NR: none of the rules takes it
        ";
    // By the name of its pod, and by that of the Gateway.
    for name in ["gateways/ingress-1", "gateways/ingress"] {
        let who = Who::Gateway(name.to_owned());
        check(
            &at_gateway(),
            &wish(who, "http://shop.example.com/"),
            expected,
        );
    }
}

#[test]
fn a_gateway_that_does_not_listen_there() {
    let who = || Who::Gateway("gateways/ingress".to_owned());
    for (url, result) in [
        (
            "http://a:81/",
            "connection refused: the gateway does not listen there",
        ),
        ("https://a:80/", "400: this is no HTTP"),
        (
            "http://example.com/",
            "404, flag NR: no host here is example.com",
        ),
    ] {
        let world = read(&at_gateway());
        let told = explain(&world, &wish(who(), url)).expect("an answer");
        assert_eq!(told.result, [result], "{url}");
    }
}

#[test]
fn what_goes_past_the_mesh() {
    let steered = |annotations: &str| {
        world()
            + &pod("steered", "10.1.0.8", "app=steered").replace(
                "labels: {",
                &format!("annotations: {{{annotations}}}, labels: {{"),
            )
    };
    let out = pod("out", "10.1.0.8", "app=out,mesh-agent.io/enrol='false'");
    let from = |name: &str, url: &str| wish(Who::Pod(name.to_owned()), url);
    let excluded = "traffic.sidecar.istio.io/excludeOutboundPorts: '3306'";
    let range = "traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.96.0.8/29";
    let included = "traffic.sidecar.istio.io/includeOutboundIPRanges: 10.97.0.0/16";
    for (world, asked, why, result) in [
        (
            world() + &out,
            from("out", "http://reviews:9080/"),
            "pod default/out is not in the mesh: mesh-agent.io/enrol is \"false\"",
            "goes to 10.96.0.10:9080 as it is, past the mesh",
        ),
        (
            world(),
            from("client", "http://localhost:8080/"),
            "127.0.0.1:8080 is the pod's own: what it says to itself stays within",
            "goes to 127.0.0.1:8080 as it is, past the mesh",
        ),
        (
            world(),
            from("client", "http://10.1.0.9:8080/"),
            "10.1.0.9:8080 is the pod's own: what it says to itself stays within",
            "goes to 10.1.0.9:8080 as it is, past the mesh",
        ),
        (
            steered(excluded),
            from("steered", "tcp://db:3306"),
            "port 3306 is one of the pod's excludeOutboundPorts",
            "goes to 10.96.0.11:3306 as it is, past the mesh",
        ),
        (
            steered(excluded),
            from("steered", "tcp://elsewhere:3306"),
            "port 3306 is one of the pod's excludeOutboundPorts",
            "goes to wherever the name leads as it is, past the mesh",
        ),
        (
            steered(range),
            from("steered", "http://reviews:9080"),
            "10.96.0.10 is in the pod's excludeOutboundIPRanges",
            "goes to 10.96.0.10:9080 as it is, past the mesh",
        ),
        (
            steered(included),
            from("steered", "http://reviews:9080"),
            "neither the pod's includeOutboundIPRanges nor its includeOutboundPorts have 10.96.0.10:9080",
            "goes to 10.96.0.10:9080 as it is, past the mesh",
        ),
    ] {
        let told = explain(&read(&world), &asked).expect("an answer");
        assert_eq!(told.listener.last().map(String::as_str), Some(why));
        assert_eq!(told.result, [result]);
    }
}

#[test]
fn rules_for_connections() {
    let rules = istio(
        "VirtualService",
        "db",
        "
  hosts: [db]
  tcp:
  - match: [{destinationSubnets: [10.9.0.0/16]}]
    route: [{destination: {host: reviews}}]
  - match: [{port: 3306}]
    route: [{destination: {host: db}}]",
    );
    let told = explain(&read(&(world() + &rules)), &from_client("tcp://db:3306"));
    let told = told.expect("an answer");
    let found: Vec<_> = told
        .rules
        .iter()
        .map(|rule| (&*rule.name, rule.verdict, rule.place.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("tcp[0]", Verdict::Failed, Some("test.yaml:55")),
            ("tcp[1]", Verdict::Taken, Some("test.yaml:57")),
        ]
    );
    assert_eq!(told.rules[0].field.as_deref(), Some("spec.tcp[0]"));
}

#[test]
fn a_server_without_its_certificate() {
    let https = istio(
        "Gateway",
        "gateways/secure",
        "{selector: {app: ingress}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c}}]}",
    );
    let asked = wish(Who::Gateway("gateways/secure".to_owned()), "https://a.com/");
    let told = explain(&read(&(at_gateway() + &https)), &asked).expect("an answer");
    assert_eq!(
        told.listener[2],
        "the gateway would open the TLS, but there is no Secret gateways/c"
    );
    assert_eq!(
        told.result,
        ["connection closed in the handshake: the server has no certificate"]
    );
}

/// The world with this route in the place of those for reviews.
fn with_route(route: Route) -> World {
    let mut world = read(&world());
    let table = world.snapshot.common.mesh.get_mut(&9080).expect("a table");
    let host = Arc::new(VirtualHost {
        name: "reviews".into(),
        routes: vec![Arc::new(route)].into(),
        https_redirect: false,
        next: None,
    });
    Arc::make_mut(table).exact.insert("reviews".into(), host);
    world
}

fn section<'t>(text: &'t str, title: &str) -> &'t str {
    let start = text.find(title).expect("the section");
    let rest = &text[start..];
    &rest[..rest.find("\n\n").map_or(rest.len(), |end| end + 1)]
}

#[test]
fn everything_that_a_route_may_do() {
    let key = |host: &str| ClusterKey {
        host: host.into(),
        port: 9080,
        subset: None,
    };
    let edits = |name: &'static str| HeaderEdits {
        remove: vec!["x-gone".parse().expect("a name")],
        edits: vec![
            HeaderEdit {
                name: name.parse().expect("a name"),
                value: Template::Fixed(http::HeaderValue::from_static("1")),
                append: false,
            },
            HeaderEdit {
                name: name.parse().expect("a name"),
                value: Template::Pieces(vec![
                    Piece::Text("at ".into()),
                    Piece::Variable(Variable::StartTime(None)),
                ]),
                append: true,
            },
        ],
        authority: None,
    };
    let mut forward = fixture::forward(&[(key("reviews.default.svc.cluster.local"), 1)]);
    forward.destinations[0].request_headers = edits("x-a");
    forward.destinations[0].response_headers = edits("x-b");
    forward.rewrite_authority = Some("new.com".into());
    forward.fault.delay = Some(Delay {
        duration: Duration::from_secs(7),
        share: Share::percent(0.5),
    });
    forward.fault.abort = Some((Abort::Grpc(14), Share(0)));
    forward.retry.attempts = 0;
    forward.mirrors = vec![
        Mirror {
            cluster: key("reviews.default.svc.cluster.local"),
            share: Share::ALL,
        },
        Mirror {
            cluster: key("gone"),
            share: Share::percent(10.0),
        },
    ];
    let mut route = fixture::route(RouteAction::Forward(forward));
    route.cors = Some(Cors::default());
    let world = with_route(route);
    let told = explain(&world, &from_client("http://reviews:9080/")).expect("an answer");
    let text = told.text(Style::Plain);
    let expected = unindented(
        "
        Route  test
          corsPolicy  says nothing: the request has no origin
          fault       waits 7s, with 0.5 % of the requests
                      answers grpc-status 14, but never: its percentage is 0
          rewrite     Host reviews:9080 becomes new.com
          timeout     none
          retries     none
          mirror      a copy to outbound|9080||reviews.default.svc.cluster.local, always
                      a copy to outbound|9080||gone, which does not exist: no copy is sent, with 10 % of the requests
        ",
    );
    assert_eq!(section(&text, "Route"), expected, "{text}");
    let expected = unindented(
        "
        Destination  outbound|9080||reviews.default.svc.cluster.local
          10.1.0.4:8080  default/reviews-v1
          10.1.0.5:8080  default/reviews-v2
          request headers   remove x-gone
                            set x-a: 1
                            add x-a: at %START_TIME%
          response headers  remove x-gone
                            set x-b: 1
                            add x-b: at %START_TIME%
          loadBalancer      LEAST_REQUEST: the less busy of two drawn by chance
          protocol          HTTP/1.1
          connectionPool    connects within 10s
          outlierDetection  none
          tls               none: plain text
        ",
    );
    assert_eq!(section(&text, "Destination"), expected, "{text}");
}

#[test]
fn answers_from_here() {
    let redirect = RouteAction::Redirect(Redirect {
        status: http::StatusCode::FOUND,
        scheme: Some("https".into()),
        authority: None,
        port: RedirectPort::Kept,
        path: RedirectPath::Whole("/new".into()),
        response_headers: HeaderEdits::default(),
    });
    let respond = RouteAction::Respond(DirectResponse {
        status: http::StatusCode::SERVICE_UNAVAILABLE,
        body: "later".into(),
        response_headers: HeaderEdits::default(),
    });
    let mut aborted = fixture::forward(&[]);
    aborted.fault.abort = Some((Abort::Http(http::StatusCode::IM_A_TEAPOT), Share::ALL));
    aborted.destinations = fixture::forward(&[(
        ClusterKey {
            host: "gone".into(),
            port: 1,
            subset: None,
        },
        1,
    )])
    .destinations;
    for (action, expected) in [
        (redirect, "302 to https://reviews:9080/new"),
        (respond, "503 with 5 bytes of body, from here"),
        (RouteAction::Forward(aborted), "418, always: fault.abort"),
    ] {
        let world = with_route(fixture::route(action));
        let told = explain(&world, &from_client("http://reviews:9080/old")).expect("an answer");
        assert_eq!(told.result, [expected]);
    }
}

/// The world with another policy for reviews, and the facts that are told of it.
fn policy(change: impl Fn(&mut TrafficPolicy), headers: &[&str]) -> (Vec<String>, Facts) {
    let mut world = read(&world());
    let clusters = world.snapshot.clusters.clone();
    for (key, cluster) in clusters.iter() {
        let mut policy = TrafficPolicy::clone(&cluster.policy);
        change(&mut policy);
        let changed = Cluster {
            key: key.clone(),
            protocol: cluster.protocol,
            discovery: cluster.discovery.clone(),
            endpoints: cluster.endpoints.clone(),
            policy: Arc::new(policy),
        };
        let changed = Arc::new(changed);
        world.snapshot.clusters.insert(key.clone(), changed);
    }
    let asked = Wish {
        headers: headers.iter().map(|header| (*header).to_owned()).collect(),
        ..from_client("http://reviews:9080/")
    };
    let mut told = explain(&world, &asked).expect("an answer");
    let destination = told.destinations.remove(0);
    let endpoints = destination.endpoints.iter();
    let endpoints = endpoints.map(|line| format!("{} {}", line.address, line.remarks.join(", ")));
    (endpoints.collect(), destination.policy)
}

fn fact(facts: &Facts, label: &str) -> String {
    let told = facts.0.iter().filter(|(found, _)| *found == label);
    told.map(|(_, text)| text.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn policies() {
    let hash = |policy: &mut TrafficPolicy| {
        let key = HashKey::Header(HeaderSubject::named("x-user").expect("a name"));
        policy.hash = RouteHash::always(key.clone());
        policy.balancer = Balancer::Hash {
            key,
            ring: Ring::RingHash { minimum_size: 1024 },
        };
    };
    let (_, facts) = policy(hash, &["x-user: bob"]);
    assert_eq!(
        fact(&facts, "loadBalancer"),
        "consistentHash of header x-user, ringHash of 1024 points"
    );
    let taken = fact(&facts, "hash");
    assert!(
        taken == "of header x-user: always takes 10.1.0.4:8080"
            || taken == "of header x-user: always takes 10.1.0.5:8080",
        "{taken}"
    );
    let (_, facts) = policy(hash, &[]);
    assert_eq!(
        fact(&facts, "hash"),
        "of header x-user, which the request lacks: chance decides"
    );

    let (_, facts) = policy(
        |policy| {
            policy.pool.max_connections = Some(100);
            policy.pool.connect_timeout = Duration::from_millis(250);
            policy.pool.http_idle_timeout = Duration::from_secs(60);
            policy.pool.http2_keepalive = Some((Duration::from_secs(5), Duration::from_secs(1)));
            policy.pool.retry_budget = Some((20.0, 3));
            policy.outliers = Some(OutlierDetection::default());
            policy.http = UpstreamHttp::Http2;
        },
        &[],
    );
    assert_eq!(
        fact(&facts, "connectionPool"),
        "connects within 250ms, maxConnections 100, http idleTimeout 60s, http2KeepAlive every 5s, 1s to answer, \
         retryBudget 20 %, 3 at least"
    );
    assert_eq!(
        fact(&facts, "outlierDetection"),
        "5 5xx in a row eject an endpoint for 30s and longer each time, at most 10 % of them"
    );
    assert_eq!(fact(&facts, "protocol"), "HTTP/2");

    let labels = |policy: &mut TrafficPolicy| {
        let wanted = vec![("version".into(), Some("v2".into()))];
        policy.locality = LocalityPolicy::Failover(Failover::Labels(wanted));
    };
    let (endpoints, facts) = policy(labels, &[]);
    assert_eq!(
        fact(&facts, "loadBalancer"),
        "LEAST_REQUEST: the less busy of two drawn by chance; failoverPriority version=v2"
    );
    assert_eq!(
        endpoints,
        [
            "10.1.0.5:8080 priority 1, which takes 100 %",
            "10.1.0.4:8080 priority 2, which takes 0 %",
        ]
    );
}

#[test]
fn questions_that_make_no_sense() {
    let world = read(&world());
    let headers = |header: &str| Wish {
        headers: vec![header.to_owned()],
        ..from_client("http://a/")
    };
    let method = |method: &str| Wish {
        method: Some(method.to_owned()),
        ..from_client("http://a/")
    };
    for (asked, expected) in [
        (
            from_client("ftp://a/"),
            "ftp is none of http, https and tcp; write for example http://reviews:9080/",
        ),
        (
            from_client("http:///x"),
            "\"\" is no host; write for example http://reviews:9080/",
        ),
        (
            from_client("http://me@a/"),
            "\"me@a\" is no host; write for example http://reviews:9080/",
        ),
        (
            from_client("tcp://a"),
            "a tcp:// URL needs a port; write for example http://reviews:9080/",
        ),
        (
            from_client("http://a:99999/"),
            "\"99999\" is no port; write for example http://reviews:9080/",
        ),
        (
            from_client("http://a:0/"),
            "\"0\" is no port; write for example http://reviews:9080/",
        ),
        (
            from_client("http://a/b c"),
            "\"/b c\" cannot be asked for as it is: encode what is not allowed, a blank as %20; write for example \
             http://reviews:9080/",
        ),
        (headers("x"), "\"x\" is no header; write -H 'name: value'"),
        (
            headers("a b: c"),
            "\"a b: c\" is no header; write -H 'name: value'",
        ),
        (method("A B"), "\"A B\" is no method"),
        (
            wish(Who::Pod("gone".to_owned()), "http://a/"),
            "there is no pod default/gone; there are default/client, default/db-0, default/reviews-v1, default/reviews-v2",
        ),
        (
            wish(Who::Gateway("gone/gw".to_owned()), "http://a/"),
            "gone/gw is neither a pod nor a Gateway that selects one; there are default/client, default/db-0, \
             default/reviews-v1, default/reviews-v2",
        ),
    ] {
        let found = explain(&world, &asked).expect_err(expected);
        assert_eq!(found.to_string(), expected);
    }
}

#[test]
fn a_terminal_is_not_obeyed() {
    let world = read(&world());
    let mut told = explain(&world, &from_client("http://reviews:9080/")).expect("an answer");
    told.result = vec!["\x1b[2J\x07boo".to_owned()];
    told.hosts[0].name = "a\nb".to_owned();
    let text = told.text(Style::Coloured);
    assert!(
        !text.contains("\x1b[2J") && !text.contains('\x07'),
        "{text}"
    );
    assert!(
        text.contains("\u{fffd}[2J\u{fffd}boo") && text.contains("a\u{fffd}b"),
        "{text}"
    );
    assert!(text.contains("\x1b[32m✓\x1b[0m"), "{text}");
    let plain = told.text(Style::Plain);
    assert!(!plain.contains('\x1b'), "{plain}");
}

#[test]
fn a_list_without_end_is_shown_by_its_ends() {
    let rules: String = (0..100)
        .map(|number| format!("\n  - match: [{{uri: {{exact: /{number}}}}}]\n    route: [{{destination: {{host: reviews}}}}]"))
        .collect();
    let rules = istio(
        "VirtualService",
        "reviews",
        &format!("\n  hosts: [reviews]\n  http:{rules}"),
    );
    let world = read(&(world() + &rules));
    let told = explain(&world, &from_client("http://reviews:9080/50")).expect("an answer");
    assert_eq!(told.rules.len(), 100);
    let text = told.text(Style::Plain);
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("Rules"))
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    // 8 at either end, the one that takes it, and 3 behind it; and the title and two lines for what is left out.
    assert_eq!(lines.len(), 1 + 8 + 1 + 8 + 1 + 3 + 1, "{text}");
    assert_eq!(lines[9], "… 34 more do not take it either");
    assert_eq!(lines[22], "… 46 more are not reached");
}

#[test]
fn the_json_has_it_all() {
    let world = read(&(world() + &rules()));
    let told = explain(&world, &from_client("http://reviews:9080/api/v1")).expect("an answer");
    let json = serde_json::to_value(&told).expect("JSON");
    assert_eq!(json["client"], "pod default/client");
    assert_eq!(json["destination"], "10.96.0.10:9080");
    assert_eq!(json["hosts"][0]["verdict"], "taken");
    let failed = &json["rules"][0]["failed"];
    assert_eq!(failed["condition"], "sourceNamespace");
    assert_eq!(json["rules"][1]["verdict"], "taken");
    assert_eq!(json["rules"][1]["field"], "spec.http[1]");
    assert_eq!(json["rules"][1]["place"], "test.yaml:58");
    assert_eq!(json["rules"][2]["verdict"], "not_reached");
    assert_eq!(json["route"]["rewrite"][0], "path /api/v1 becomes /v1");
    assert_eq!(json["destinations"][0]["percent"], 75.0);
    assert_eq!(
        json["destinations"][0]["endpoints"][0]["pod"],
        "default/reviews-v1"
    );
    assert_eq!(json["result"].as_array().map(Vec::len), Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The rule that is said to take a request is the one that takes it.
    #[test]
    fn what_is_told_is_what_happens(
        rules in prop::collection::vec(("/[ab]{0,2}", any::<bool>(), any::<bool>()), 1..14),
        path in "/[ab]{0,3}",
    ) {
        let rules: String = rules
            .iter()
            .enumerate()
            .map(|(number, (path, exact, ours))| {
                let kind = if *exact { "exact" } else { "prefix" };
                let namespace = if *ours { "default" } else { "other" };
                format!(
                    "\n  - name: r{number}\n    match: [{{uri: {{{kind}: {path}}}, sourceNamespace: {namespace}}}]\n    \
                     route: [{{destination: {{host: reviews}}}}]"
                )
            })
            .collect();
        let rules = istio("VirtualService", "reviews", &format!("\n  hosts: [reviews]\n  http:{rules}"));
        let world = read(&(world() + &rules));
        let asked = from_client(&format!("http://reviews:9080{path}"));
        let told = explain(&world, &asked).expect("an answer");
        let taken = told.rules.iter().find(|rule| rule.verdict == Verdict::Taken);

        let pods = &world.snapshot.pods;
        let client = pods.values().find(|pod| &*pod.id.name == "client").expect("the client");
        let client = Client::Pod(client);
        let scope = HttpScope::Mesh { port: 9080 };
        let parsed = Asked::new(&asked).expect("a request");
        let request = parsed.request(&client, false);
        let mut drawn = hosts::Drawn(None);
        prop_assert!(matches!(crate::route::table(&world.snapshot, &scope, &client), Some(Table::Hosts(_))));
        match decide(&world.snapshot, &scope, &client, &request, &mut drawn) {
            Decision::Routed(routed) => {
                let name = if &*routed.route.name == "default" { "the Service's own route" } else { &*routed.route.name };
                prop_assert_eq!(taken.map(|rule| &*rule.name), Some(name));
            }
            _ => prop_assert!(taken.is_none()),
        }
    }
}
