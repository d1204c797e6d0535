//! What a rule answers by itself.

use super::*;

#[test]
fn redirects_are_checked_and_read() {
    let with = |fields: &str| format!("{{hosts: [a], http: [{{{fields}}}]}}");
    let cases: &[(&str, &[&str])] = &[
        // 18
        (
            "redirect: {uri: /a, prefixRewrite: /b}",
            &["E http[0].redirect.prefixRewrite: uri and prefixRewrite exclude each other"],
        ),
        (
            "match: [{uri: {prefix: /x}}, {uri: {exact: /y}}], redirect: {prefixRewrite: /b}",
            &["E http[0].redirect.prefixRewrite: prefixRewrite needs a match by prefix"],
        ),
        (
            "match: [{uri: {prefix: /x}}, {port: 80}], redirect: {prefixRewrite: /b}",
            &[],
        ),
        (
            "redirect: {}",
            &["E http[0].redirect: this redirect leads nowhere else"],
        ),
        (
            "redirect: {redirectCode: 302}",
            &["E http[0].redirect: this redirect leads nowhere else"],
        ),
        ("redirect: {derivePort: FROM_PROTOCOL_DEFAULT}", &[]),
        (
            "redirect: {uri: /, redirectCode: 200}",
            &["E http[0].redirect.redirectCode: 200 is no status that redirects"],
        ),
        (
            "redirect: {uri: /, redirectCode: 304}",
            &["E http[0].redirect.redirectCode: 304 is no status that redirects"],
        ),
        (
            "redirect: {scheme: ftp}",
            &["E http[0].redirect.scheme: \"ftp\" is no scheme of a redirect"],
        ),
        (
            "redirect: {port: 70000}",
            &["E http[0].redirect.port: 70000 is no port number"],
        ),
        (
            "redirect: {port: 80, derivePort: FROM_REQUEST_PORT}",
            &["E http[0].redirect: port and derivePort exclude each other"],
        ),
        (
            "redirect: {derivePort: X}",
            &["E http[0].redirect.derivePort: \"X\" is no way to derive a port"],
        ),
        (
            "redirect: {uri: /x, authority: z, port: 81, scheme: https, redirectCode: 308}",
            &[],
        ),
        // 19
        (
            "directResponse: {}",
            &["E http[0].directResponse.status: a directResponse needs a status"],
        ),
        (
            "directResponse: {status: 199}",
            &["E http[0].directResponse.status: 199 is no status of a response"],
        ),
        (
            "directResponse: {status: 600}",
            &["E http[0].directResponse.status: 600 is no status of a response"],
        ),
        (
            "directResponse: {status: 99999999}",
            &["E http[0].directResponse.status: 99999999 is no status of a response"],
        ),
        (
            "directResponse: {status: 200, body: {string: a, bytes: Yg==}}",
            &["E http[0].directResponse.body: string and bytes exclude each other"],
        ),
        (
            "directResponse: {status: 200, body: {bytes: '?'}}",
            &["E http[0].directResponse.body.bytes: this is not base64"],
        ),
        ("directResponse: {status: 200, body: {}}", &[]),
    ];
    for (fields, expected) in cases {
        check(&[(&with(fields), expected)]);
    }
    for (length, level) in [
        (100 * 1024, None),
        (100 * 1024 + 1, Some("W")),
        (1024 * 1024 + 1, Some("E")),
    ] {
        let body = "x".repeat(length);
        let (_, said) = read(&with(&format!(
            "directResponse: {{status: 200, body: {{string: {body}}}}}"
        )));
        let levels: Vec<&str> = said.iter().map(|line| &line[..1]).collect();
        assert_eq!(levels, Vec::from_iter(level), "{length}");
    }
    let action = |fields: &str| {
        let (service, said) = read(&with(fields));
        let mut rules = service.unwrap_or_else(|| panic!("{said:?}")).rules;
        rules.remove(0).action
    };
    for (bytes, body) in [
        ("aGk/", "hi?"),
        ("aGk_", "hi?"),
        ("aGk", "hi"),
        ("aGk=", "hi"),
        ("", ""),
    ] {
        let fields = format!("directResponse: {{status: 599, body: {{bytes: '{bytes}'}}}}");
        let Action::Respond(response) = action(&fields) else {
            panic!("{fields}");
        };
        assert_eq!(response.body, body);
        assert_eq!(response.status.as_u16(), 599);
    }
    let Action::Redirect(redirect) =
        action("redirect: {derivePort: FROM_REQUEST_PORT, uri: '/x?y'}")
    else {
        panic!("it redirects");
    };
    assert_eq!(redirect.port, RedirectPort::Listener);
    assert_eq!(redirect.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(redirect.path, RedirectPath::Whole("/x?y".into()));
}
