//! Changes of headers, on the wire.

use super::fakes::Plan;
use super::fakes::*;
use crate::model::*;
use crate::proxy::record::Flag;

fn text(text: &str) -> Vec<Piece> {
    vec![Piece::Text(text.into())]
}

fn fact(variable: Variable) -> Vec<Piece> {
    vec![
        Piece::Text("<".into()),
        Piece::Variable(variable),
        Piece::Text(">".into()),
    ]
}

fn header(name: &str, otherwise: Option<&str>, limit: Option<usize>) -> HeaderSource {
    HeaderSource {
        name: name.into(),
        otherwise: otherwise.map(Into::into),
        limit,
    }
}

/// A mesh whose one route edits.
fn editing(server: &Server, request: HeaderEdits, response: HeaderEdits) -> Mesh {
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.destinations[0].request_headers = request;
        forward.destinations[0].response_headers = response;
    })];
    plan.start()
}

#[test]
fn removes_then_sets_and_adds() {
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-gone: 1\r\nx-set: 1\r\nx-add: 1\r\nx-empty: 1\r\n\r\n",
    );
    let edits = HeaderEdits {
        remove: vec![
            http::HeaderName::from_static("x-gone"),
            http::HeaderName::from_static("x-back"),
        ],
        edits: vec![
            edit("x-set", text("2"), false),
            edit("x-add", text("2"), true),
            edit("x-add", text("3"), true),
            edit("x-back", text("2"), true),
            edit("x-empty", text(""), false),
        ],
        authority: None,
    };
    let mesh = editing(&server, edits.clone(), edits);
    let answer = mesh.ask("GET / HTTP/1.1\r\nHost: web\r\nX-Gone: 1\r\nX-Set: 1\r\nX-Set: 1\r\nX-Add: 1\r\nX-Back: 1\r\nX-Empty: 1\r\n\r\n");
    let names = ["x-gone", "x-set", "x-add", "x-back", "x-empty"];
    let expected = [
        "x-add: 1",
        "x-add: 2",
        "x-add: 3",
        "x-back: 2",
        "x-empty: 1",
        "x-set: 2",
    ];
    assert_eq!(headers_of(&server.heard()[0], &names), expected);
    assert_eq!(headers_of(&answer, &names), expected);
}

#[test]
fn what_is_this_hops_own_stays() {
    let server = Server::saying("ok");
    let response = HeaderEdits {
        remove: vec![
            http::HeaderName::from_static("x-envoy-upstream-service-time"),
            http::HeaderName::from_static("server"),
        ],
        edits: vec![edit("server", text("mine"), false)],
        authority: None,
    };
    let request = HeaderEdits {
        remove: vec![
            http::HeaderName::from_static("x-request-id"),
            http::HeaderName::from_static("x-envoy-attempt-count"),
        ],
        ..HeaderEdits::default()
    };
    let mesh = editing(&server, request, response);
    let answer = mesh.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    assert_eq!(headers_of(&answer, &["server", "x-"]), ["server: envoy"]);
    let heard = &server.heard()[0];
    assert_eq!(
        headers_of(heard, &["x-request-id", "x-envoy-attempt"]),
        [""; 0]
    );
}

/// A new Host: `rewrite.authority`, the edit's, and what the server hears.
#[track_caller]
fn check_host(rewrite: Option<&str>, edit: Option<Vec<Piece>>, expected: &[&str]) {
    let server = Server::saying("ok");
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.rewrite_authority = rewrite.map(Into::into);
        forward.destinations[0].request_headers.authority =
            edit.map(|pieces| match pieces.as_slice() {
                [Piece::Text(text)] => Template::Fixed(text.parse().unwrap()),
                _ => Template::Pieces(pieces),
            });
    })];
    let answer = plan
        .start()
        .ask("GET / HTTP/1.1\r\nHost: web:81\r\nX-To: there.example\r\n\r\n");
    let heard = server.heard().pop().unwrap_or(answer);
    let named = headers_of(&heard, &["host", "x-envoy-original-host"]);
    assert_eq!(named, expected, "{heard}");
}

#[test]
fn rewrites_the_host() {
    let original = "x-envoy-original-host: web:81";
    check_host(None, None, &["host: web:81"]);
    check_host(Some("a.example"), None, &["host: a.example", original]);
    check_host(
        None,
        Some(text("b.example")),
        &["host: b.example", original],
    );
    check_host(
        Some("a.example"),
        Some(text("b.example")),
        &["host: a.example", original],
    );
    let named = Piece::Variable(Variable::RequestHeader(header("x-to", None, None)));
    check_host(
        None,
        Some(vec![Piece::Text("from.".into()), named]),
        &["host: from.there.example", original],
    );
    // What is no Host is not sent.
    check_host(None, Some(text("a b")), &[]);
}

/// Every fact, in a header of its own.
fn all_facts() -> HeaderEdits {
    let facts = [
        ("x-01-client", Variable::ClientAddress),
        ("x-02-client-ip", Variable::ClientIp),
        ("x-03-local", Variable::LocalAddress),
        ("x-04-local-ip", Variable::LocalIp),
        ("x-05-local-port", Variable::LocalPort),
        ("x-06-upstream", Variable::UpstreamAddress),
        ("x-07-upstream-ip", Variable::UpstreamIp),
        ("x-08-cluster", Variable::UpstreamCluster),
        ("x-09-protocol", Variable::Protocol),
        ("x-10-code", Variable::ResponseCode),
        ("x-11-flags", Variable::ResponseFlags),
        ("x-12-start", Variable::StartTime(Some("%Y".into()))),
        (
            "x-13-path",
            Variable::RequestHeader(header(":path", None, None)),
        ),
        (
            "x-14-authority",
            Variable::RequestHeader(header(":authority", None, None)),
        ),
        (
            "x-15-other",
            Variable::RequestHeader(header("x-none", Some(":method"), Some(2))),
        ),
        (
            "x-16-multi",
            Variable::RequestHeader(header("X-Multi", None, Some(100))),
        ),
        (
            "x-17-answer",
            Variable::ResponseHeader(header("x-up", None, None)),
        ),
        ("x-18-route", Variable::RouteName),
        ("x-19-hostname", Variable::HostName),
        ("x-20-server-name", Variable::ServerName),
        ("x-21-environment", Variable::Environment),
        (
            "x-22-scheme",
            Variable::RequestHeader(header(":scheme", None, None)),
        ),
    ];
    let edits = facts
        .into_iter()
        .map(|(name, variable)| edit(name, fact(variable), false))
        .chain([edit(
            "x-23-nothing",
            vec![Piece::Variable(Variable::TlsVersion)],
            false,
        )])
        .collect();
    HeaderEdits {
        edits,
        ..HeaderEdits::default()
    }
}

const YEARS: [&str; 2] = ["x-12-start: <20", "x-12-start: <21"];

#[track_caller]
fn check_facts(message: &str, expected: &[String]) {
    let mut named = headers_of(message, &["x-0", "x-1", "x-2"]);
    let year = named.remove(11);
    assert!(YEARS.iter().any(|start| year.starts_with(start)), "{year}");
    assert_eq!(named, expected);
}

fn facts(
    client: std::net::SocketAddr,
    mesh: std::net::SocketAddr,
    server: Option<std::net::SocketAddr>,
    outcome: [&str; 3],
    path: &str,
) -> Vec<String> {
    let [code, flags, answer] = outcome;
    let server_ip = server.map(|at| at.ip().to_string()).unwrap_or_default();
    let server = server.map(|at| at.to_string()).unwrap_or_default();
    [
        format!("01-client: <{client}>"),
        format!("02-client-ip: <{}>", client.ip()),
        format!("03-local: <{mesh}>"),
        format!("04-local-ip: <{}>", mesh.ip()),
        format!("05-local-port: <{}>", mesh.port()),
        format!("06-upstream: <{server}>"),
        format!("07-upstream-ip: <{server_ip}>"),
        format!("08-cluster: <outbound|80||{HOST}>"),
        "09-protocol: <HTTP/1.1>".to_owned(),
        format!("10-code: <{code}>"),
        format!("11-flags: <{flags}>"),
        format!("13-path: <{path}>"),
        "14-authority: <web>".to_owned(),
        "15-other: <GE>".to_owned(),
        "16-multi: <1>".to_owned(),
        format!("17-answer: <{answer}>"),
        "18-route: <test>".to_owned(),
        "19-hostname: <client>".to_owned(),
        "20-server-name: <>".to_owned(),
        "21-environment: <->".to_owned(),
        "22-scheme: <http>".to_owned(),
    ]
    .map(|line| format!("x-{line}"))
    .into()
}

const ASK: &str = "GET /a/../b?c HTTP/1.1\r\nHost: web\r\nX-Multi: 1\r\nX-Multi: 2\r\n\r\n";

#[test]
fn values_name_facts() {
    let server = Server::answering("HTTP/1.1 201 Created\r\ncontent-length: 0\r\nx-up: up\r\n\r\n");
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.rewrite_path = Some(PathRewrite::Matched("/new".into()));
        forward.destinations[0].request_headers = all_facts();
        forward.destinations[0].response_headers = all_facts();
    })];
    let mesh = plan.start();
    let mut client = mesh.client();
    let own = client.stream.local_addr().unwrap();
    client.send(ASK);
    let answer = client.response();
    check_facts(
        &server.heard()[0],
        &facts(own, mesh.address, None, ["0", "-", ""], "/b?c"),
    );
    let outcome = ["201", "-", "up"];
    let expected = facts(own, mesh.address, Some(server.address), outcome, "/newb?c");
    check_facts(&answer, &expected);
}

#[test]
fn answers_of_our_own_are_edited_too() {
    let nobody = refusing();
    let mut plan = Plan::outbound(Protocol::Http, &[nobody]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.destinations[0].response_headers = all_facts();
    })];
    let mesh = plan.start();
    let mut client = mesh.client();
    let own = client.stream.local_addr().unwrap();
    client.send(ASK);
    let answer = client.response();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let outcome = ["0", "UF,URX", ""];
    check_facts(
        &answer,
        &facts(own, mesh.address, Some(nobody), outcome, "/b?c"),
    );
    mesh.expect_flag(Flag::RetriesExhausted);
}
