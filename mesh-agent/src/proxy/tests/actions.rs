//! What a route does with a request before any server sees it, and instead of that.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::fakes::Plan;
use super::fakes::*;
use crate::model::*;
use crate::proxy::record::Flag;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
const GRPC: &str = "POST /a.B/C HTTP/1.1\r\nHost: web\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";

/// Asks, and compares first line, interesting headers and body.
#[track_caller]
fn check(route: Route, request: &str, expected: &str) -> Mesh {
    let mut plan = Plan::outbound(Protocol::Http, &[refusing()]);
    plan.routes = vec![route];
    let mesh = plan.start();
    assert_eq!(shape(&mesh.ask(request)), expected);
    mesh
}

/// A response in one line, without what every one of ours has.
fn shape(response: &str) -> String {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap();
    let mut headers: Vec<_> = lines
        .filter(|line| !line.starts_with("date: ") && *line != "server: envoy")
        .filter(|line| !line.starts_with("content-length: "))
        .collect();
    headers.sort_unstable();
    format!("{} | {} | {body}", &status[..3], headers.join(" | "))
}

fn aborting(abort: Abort) -> Route {
    with(forward_to(None), |_, forward| {
        forward.fault.abort = Some((abort, Share::ALL));
        forward.destinations[0].response_headers.edits =
            vec![edit("x-mark", vec![Piece::Text("1".into())], false)];
    })
}

#[test]
fn aborts() {
    let teapot = aborting(Abort::Http(StatusCode::IM_A_TEAPOT));
    let expected = "418 | content-type: text/plain | x-mark: 1 | fault filter abort";
    check(teapot.clone(), GET, expected).expect_flag(Flag::Aborted);
    let grpc = "200 | content-type: application/grpc | grpc-message: fault filter abort | grpc-status: 2 | x-mark: 1 | ";
    check(teapot, GRPC, grpc).expect_flag(Flag::Aborted);
    let nothing = aborting(Abort::Http(StatusCode::NO_CONTENT));
    check(nothing, GET, "204 | x-mark: 1 | ");
    let busy = aborting(Abort::Http(StatusCode::SERVICE_UNAVAILABLE));
    check(
        busy,
        GRPC,
        &grpc.replace("grpc-status: 2", "grpc-status: 14"),
    );
    let deadline = aborting(Abort::Grpc(4));
    check(
        deadline.clone(),
        GRPC,
        &grpc.replace("grpc-status: 2", "grpc-status: 4"),
    );
    check(
        deadline,
        GET,
        "200 | content-type: text/plain | x-mark: 1 | fault filter abort",
    );
}

#[test]
fn delays_come_before_aborts() {
    let mut route = aborting(Abort::Http(StatusCode::BAD_GATEWAY));
    let RouteAction::Forward(forward) = &mut route.action else {
        unreachable!("it forwards")
    };
    forward.fault.delay = Some(Delay {
        duration: Duration::from_millis(1),
        share: Share::ALL,
    });
    // The route's timeout does not run before the request is on its way.
    forward.timeout = Some(Duration::from_nanos(1));
    let expected = "502 | content-type: text/plain | x-mark: 1 | fault filter abort";
    let mesh = check(route, GET, expected);
    mesh.expect_flag(Flag::Delayed);
    mesh.expect_flag(Flag::Aborted);
}

#[test]
fn answers_by_itself() {
    let respond = |status, body: &'static str, edits| {
        acting(RouteAction::Respond(DirectResponse {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.into(),
            response_headers: HeaderEdits {
                edits,
                ..HeaderEdits::default()
            },
        }))
    };
    check(
        respond(503, "gone for lunch", Vec::new()),
        GET,
        "503 | content-type: text/plain | gone for lunch",
    );
    check(respond(204, "", Vec::new()), GET, "204 |  | ");
    let json = vec![
        edit(
            "content-type",
            vec![Piece::Text("application/json".into())],
            false,
        ),
        edit(
            "x-asked",
            vec![Piece::Variable(Variable::RequestHeader(HeaderSource {
                name: ":path".into(),
                otherwise: None,
                limit: None,
            }))],
            false,
        ),
    ];
    check(
        respond(200, "{}", json.clone()),
        GET,
        "200 | content-type: application/json | x-asked: / | {}",
    );
    check(
        respond(404, "{}", json),
        GRPC,
        "200 | content-type: application/grpc | grpc-message: {} | grpc-status: 12 | x-asked: /a.B/C | ",
    );
    let mut plan = Plan::outbound(Protocol::Http, &[]);
    plan.routes = vec![respond(200, "body", Vec::new())];
    let mesh = plan.start();
    let mut client = mesh.client();
    client.send("HEAD / HTTP/1.1\r\nHost: web\r\n\r\n");
    let head = client.until("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 4\r\n"), "{head}");
    client.send(GET);
    assert!(client.response().ends_with("\r\n\r\nbody"));
    eventually(|| mesh.stats().outbound.requests[2] == 2);
    assert!(mesh.stats().flags.is_empty());
}

#[test]
fn redirects() {
    let redirect = acting(RouteAction::Redirect(Redirect {
        status: StatusCode::FOUND,
        scheme: Some("https".into()),
        authority: None,
        port: RedirectPort::Kept,
        path: RedirectPath::Whole("/new".into()),
        response_headers: HeaderEdits {
            edits: vec![edit("x-mark", vec![Piece::Text("1".into())], true)],
            ..HeaderEdits::default()
        },
    }));
    let get = "GET /old?q=1 HTTP/1.1\r\nHost: web\r\n\r\n";
    let mesh = check(
        redirect.clone(),
        get,
        "302 | location: https://web/new?q=1 | x-mark: 1 | ",
    );
    assert!(mesh.ask(get).contains("content-length: 0\r\n"));
    check(
        redirect,
        GRPC,
        "200 | content-type: application/grpc | grpc-status: 2 | location: https://web/new | x-mark: 1 | ",
    );
}

fn cors(change: impl FnOnce(&mut Cors)) -> Route {
    let mut policy = Cors {
        origins: vec![TextMatch::Exact("https://good.example".into())],
        methods: Some("GET,POST".into()),
        headers: Some("x-a,x-b".into()),
        expose: Some("x-e".into()),
        max_age: Some(86400),
        credentials: true,
        forward_unmatched: true,
    };
    change(&mut policy);
    let mut route = forward_to(None);
    route.cors = Some(policy);
    route
}

#[test]
fn answers_preflights() {
    let preflight = |origin: &str| {
        format!(
            "OPTIONS / HTTP/1.1\r\nHost: web\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
        )
    };
    let good = preflight("https://good.example");
    let allowed = "200 | access-control-allow-credentials: true | access-control-allow-headers: x-a,x-b | access-control-allow-methods: GET,POST | access-control-allow-origin: https://good.example | access-control-expose-headers: x-e | access-control-max-age: 86400 | ";
    check(cors(|_| {}), &good, allowed);
    let bare = cors(|policy| {
        *policy = Cors {
            origins: policy.origins.clone(),
            ..Cors::default()
        };
    });
    let origin_alone = "200 | access-control-allow-origin: https://good.example | ";
    check(bare, &good, origin_alone);
    let ignored = cors(|policy| policy.forward_unmatched = false);
    check(ignored, &preflight("https://bad.example"), "200 |  | ");
    // Without IGNORE it goes to the server, whom nothing keeps from answering.
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\naccess-control-allow-origin: *\r\n\r\nme",
    );
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![cors(|_| {})];
    let answer = plan.start().ask(&preflight("https://bad.example"));
    assert!(
        answer.contains("access-control-allow-origin: *\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nme"), "{answer}");
}

#[test]
fn tells_origins_that_they_are_allowed() {
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\naccess-control-allow-origin: *\r\n\r\nok",
    );
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![cors(|_| {})];
    let mesh = plan.start();
    let ask = |origin: &str| {
        let answer = mesh.ask(&format!(
            "GET / HTTP/1.1\r\nHost: web\r\nOrigin: {origin}\r\n\r\n"
        ));
        headers_of(&answer, &["access-control-"])
    };
    assert_eq!(
        ask("https://good.example"),
        [
            "access-control-allow-credentials: true",
            "access-control-allow-origin: https://good.example",
            "access-control-expose-headers: x-e",
        ]
    );
    assert_eq!(
        ask("https://bad.example"),
        ["access-control-allow-origin: *"]
    );
    // A browser is to see that its request failed, not that it was not allowed.
    let mut plan = Plan::outbound(Protocol::Http, &[]);
    plan.routes = vec![cors(|_| {})];
    let answer = plan
        .start()
        .ask("GET / HTTP/1.1\r\nHost: web\r\nOrigin: https://good.example\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(headers_of(&answer, &["access-control-"]).len(), 3);
    // A fault comes before CORS is looked at.
    let mut route = cors(|_| {});
    if let RouteAction::Forward(forward) = &mut route.action {
        forward.fault.abort = Some((Abort::Http(StatusCode::GONE), Share::ALL));
    }
    check(
        route,
        "GET / HTTP/1.1\r\nHost: web\r\nOrigin: https://good.example\r\n\r\n",
        "410 | content-type: text/plain | fault filter abort",
    );
}

#[test]
fn answers_what_no_route_is_for() {
    let mut plan = Plan::outbound(Protocol::Http, &[]);
    plan.unknown = Unknown::Refuse;
    let mesh = plan.start();
    let elsewhere = "GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n";
    assert_eq!(shape(&mesh.ask(elsewhere)), "502 |  | ");
    eventually(|| mesh.stats().outbound.requests[5] == 1);
    assert!(mesh.stats().flags.is_empty());

    let server = Server::saying("ok");
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.unknown = Unknown::Through(Arc::new(forward_to(None)));
    assert!(plan.start().ask(elsewhere).ends_with("\r\n\r\nok"));

    let mut plan = Plan::gateway(&[]);
    plan.https_redirect = true;
    let answer = plan.start().ask("GET /a?b HTTP/1.1\r\nHost: web\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    assert!(answer.contains("location: https://web/a?b\r\n"), "{answer}");
}
