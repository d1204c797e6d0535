//! Templates, told piece by piece.

use super::*;

fn told(template: &Template) -> String {
    match template {
        Template::Fixed(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        Template::Pieces(pieces) => {
            let pieces = pieces.iter().map(|piece| match piece {
                Piece::Text(text) => format!("\"{text}\""),
                Piece::Variable(variable) => format!("{variable:?}"),
            });
            pieces.collect::<Vec<_>>().join(" + ")
        }
    }
}

#[test]
fn a_value_is_text_and_facts() {
    let cases = [
        ("", ""),
        ("plain", "plain"),
        ("100%%", "100%"),
        ("%%PROTOCOL%%", "%PROTOCOL%"),
        ("caf\u{e9}", "caf\u{e9}"),
        ("a\tb", "a\tb"),
        ("%PROTOCOL%", "Protocol"),
        ("a %PROTOCOL%%% b", "\"a \" + Protocol + \"% b\""),
        ("%PROTOCOL%%HOSTNAME%", "Protocol + HostName"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "ClientAddress"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "ClientIp"),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "LocalAddress"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "LocalIp"),
        ("%DOWNSTREAM_LOCAL_PORT%", "LocalPort"),
        ("%UPSTREAM_REMOTE_ADDRESS%", "UpstreamAddress"),
        ("%UPSTREAM_HOST%", "UpstreamAddress"),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "UpstreamIp"),
        ("%UPSTREAM_CLUSTER%", "UpstreamCluster"),
        ("%RESPONSE_CODE%", "ResponseCode"),
        ("%RESPONSE_FLAGS%", "ResponseFlags"),
        ("%ROUTE_NAME%", "RouteName"),
        ("%REQUESTED_SERVER_NAME%", "ServerName"),
        ("%DOWNSTREAM_TLS_VERSION%", "TlsVersion"),
        ("%DOWNSTREAM_PEER_SUBJECT%", "PeerSubject"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "PeerUri"),
        ("%ENVIRONMENT(HOME):3%", "Environment"),
        ("%START_TIME%", "StartTime(None)"),
        ("%START_TIME()%", "StartTime(None)"),
        (
            "%START_TIME(%Y/%m/%d (%s))%",
            "StartTime(Some(\"%Y/%m/%d (%s)\"))",
        ),
        (
            "%REQ(X-A)%",
            "RequestHeader(HeaderSource { name: \"x-a\", otherwise: None, limit: None })",
        ),
        (
            "%REQ(:PATH?x-b):10%",
            "RequestHeader(HeaderSource { name: \":path\", otherwise: Some(\"x-b\"), limit: Some(10) })",
        ),
        (
            "%RESP(:status)%",
            "ResponseHeader(HeaderSource { name: \":status\", otherwise: None, limit: None })",
        ),
    ];
    for (text, expected) in cases {
        let mut problems = Problems::default();
        let template = read(text, &Path::root(), &mut problems);
        assert_eq!(
            template.as_ref().map(told).as_deref(),
            Some(expected),
            "{text}: {problems:?}"
        );
    }
}

#[test]
fn what_nothing_is_known_for_is_told_and_stands_as_a_dash() {
    let cases = [
        ("%DYNAMIC_METADATA(a:b)%", "DYNAMIC_METADATA"),
        ("%DOWNSTREAM_PEER_CERT%", "DOWNSTREAM_PEER_CERT"),
        ("%UPSTREAM_PEER_SUBJECT%", "UPSTREAM_PEER_SUBJECT"),
        ("%BYTES_RECEIVED%", "BYTES_RECEIVED"),
    ];
    for (text, name) in cases {
        let mut problems = Problems::default();
        let template = read(text, &Path::root(), &mut problems);
        assert_eq!(template.as_ref().map(told).as_deref(), Some("\"-\""));
        assert!(!problems.unusable(), "{text}");
        let said: Vec<String> = problems
            .into_iter()
            .map(|problem| problem.message)
            .collect();
        let expected = format!(
            "the command operator %{name}% is not supported yet: \"-\" stands in its place, as where Envoy has no value"
        );
        assert_eq!(said, [expected], "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_value_is_said() {
    let cases = [
        ("%", "\"%\" begins no command operator such as %PROTOCOL%"),
        (
            "5% off",
            "\"% off\" begins no command operator such as %PROTOCOL%",
        ),
        (
            "%PROTOCOL",
            "\"%PROTOCOL\" begins no command operator such as %PROTOCOL%",
        ),
        (
            "%PROTOCOL%%",
            "\"%\" begins no command operator such as %PROTOCOL%",
        ),
        (
            "%protocol%",
            "\"%protocol%\" begins no command operator such as %PROTOCOL%",
        ),
        (
            "%REQ(a%",
            "\"%REQ(a%\" begins no command operator such as %PROTOCOL%",
        ),
        (
            "%REQ(a):x%",
            "\"%REQ(a):x%\" begins no command operator such as %PROTOCOL%",
        ),
        ("%NO_SUCH%", "Envoy has no command operator %NO_SUCH%"),
        (
            "%ENVIRONMENT%",
            "Envoy has no command operator %ENVIRONMENT%",
        ),
        ("%PROTOCOL(x)%", "%PROTOCOL% takes nothing in parentheses"),
        ("%PROTOCOL:3%", "%PROTOCOL% takes no length"),
        ("%START_TIME:3%", "%START_TIME% takes no length"),
        ("%REQ%", "%REQ()% names no header"),
        ("%REQ()%", "%REQ()% names no header"),
        ("%REQ(a b)%", "%REQ(a b)% names no header"),
        ("%REQ(?a)%", "%REQ(?a)% names no header"),
        ("%REQ(a?)%", "%REQ(a?)% names no header"),
        ("%REQ(a?b?c)%", "%REQ(a?b?c)% names no header"),
        ("a\nb", "\"a\\nb\" has characters that no header can have"),
        (
            "%REQ(a)%\u{7f}",
            "\"%REQ(a)%\\u{7f}\" has characters that no header can have",
        ),
    ];
    for (text, expected) in cases {
        let mut problems = Problems::default();
        assert_eq!(read(text, &Path::root(), &mut problems), None, "{text}");
        let said: Vec<String> = problems
            .into_iter()
            .map(|problem| problem.message)
            .collect();
        assert_eq!(said, [expected], "{text}");
    }
}
