//! What a request must be like, and rules that none is like.

use super::*;

#[test]
fn conditions_are_checked() {
    check_rule(&[
        // 11
        (
            "match: [{uri: {regex: ''}}]",
            &["E match[0].uri.regex: a regex must not be empty"],
        ),
        (
            "match: [{uri: {regex: '(?=a)'}}]",
            &[
                "E match[0].uri.regex: \"(?=a)\" is no regex: look-around, including look-ahead and look-behind, is not supported",
            ],
        ),
        (
            "match: [{uri: {exact: /a, prefix: /b}}]",
            &["E match[0].uri: exact, prefix and regex exclude each other"],
        ),
        (
            "match: [{method: {exact: a, regex: b}}]",
            &["E match[0].method: exact, prefix and regex exclude each other"],
        ),
        (
            "match: [{method: {prefix: ''}}]",
            &["E match[0].method.prefix: a prefix must not be empty"],
        ),
        (
            "match: [{headers: {x: {prefix: ''}}}]",
            &["E match[0].headers.x.prefix: a prefix must not be empty"],
        ),
        (
            "match: [{withoutHeaders: {x: {regex: '('}}}]",
            &["E match[0].withoutHeaders.x.regex: \"(\" is no regex: unclosed group"],
        ),
        (
            "match: [{queryParams: {x: {regex: ''}}}]",
            &["E match[0].queryParams.x.regex: a regex must not be empty"],
        ),
        (
            "match: [{uri: {prefix: ''}, headers: {x: {exact: ''}, ':path': {}, Host: {}}, queryParams: {x: {regex: '*'}}, withoutHeaders: {x: null, z: {regex: '*'}}}]",
            &[],
        ),
        ("match: [{uri: {regex: '/[[a]+'}}]", &[]),
        // 12
        (
            "match: [{headers: {x: null}}]",
            &["E match[0].headers.x: a condition is missing"],
        ),
        (
            "match: [{queryParams: {x: null}}]",
            &["E match[0].queryParams.x: a condition is missing"],
        ),
        // Names.
        (
            "match: [{headers: {':status': {}}}]",
            &["E match[0].headers.:status: \":status\" is no header of a request"],
        ),
        (
            "match: [{headers: {'a b': {}}}]",
            &["E match[0].headers[\"a b\"]: \"a b\" is no header of a request"],
        ),
        (
            "match: [{port: 65536}]",
            &["E match[0].port: 65536 is no port number"],
        ),
        (
            "match: [{port: 0, sourceNamespace: ns2, sourceLabels: {a: b}, gateways: [mesh, n/g]}]",
            &[],
        ),
        (
            "match: [{sourceNamespace: a.b}]",
            &["E match[0].sourceNamespace: \"a.b\" is no namespace"],
        ),
        (
            "match: [{gateways: [a/b/c]}]",
            &["E match[0].gateways[0]: \"a/b/c\" is no name of a gateway"],
        ),
        (
            "match: [{statPrefix: x}]",
            &["W match[0].statPrefix: statPrefix is not supported yet and has no effect"],
        ),
        // 24
        (
            "match: [{headers: {'@request.auth.claims.a': {exact: b}}}]",
            &[
                "E match[0].headers[\"@request.auth.claims.a\"]: claims of a token are only known at a gateway",
            ],
        ),
        (
            "match: [{headers: {'@request.auth': {}}}]",
            &["E match[0].headers[\"@request.auth\"]: \"@request.auth\" is no header of a request"],
        ),
    ]);
    check(&[
        (
            "{hosts: [a], gateways: [g], http: [{match: [{withoutHeaders: {'@request.auth.claims[a][b]': {exact: b}}}], route: [{destination: {host: a}}]}]}",
            &[
                "E http[0].match[0].withoutHeaders[\"@request.auth.claims[a][b]\"]: matching by claims that are not there is not supported yet",
            ],
        ),
        // What is said of it takes other objects.
        (
            "{hosts: [a], gateways: [g], http: [{match: [{headers: {'@request.auth.claims[a][b]': {exact: b}}}], route: [{destination: {host: a}}]}]}",
            &[],
        ),
    ]);
}

#[test]
fn conditions_are_read() {
    let conditions = rule(
        "match: [{name: m, uri: {prefix: /A}, ignoreUriCase: true, scheme: {exact: https}, method: {}, authority: {regex: 'a.*'}, \
         headers: {X-A: {exact: b}, ':method': {prefix: G}, host: {regex: '*'}}, withoutHeaders: {z: null}, queryParams: {q: {}}, \
         port: '80', sourceLabels: {app: x}, sourceNamespace: ns2, gateways: [g, mesh]}, {}]",
    );
    let [block, empty] = conditions.blocks.as_slice() else {
        panic!("{:?}", conditions.blocks);
    };
    assert_eq!(empty.uri, None);
    assert_eq!(block.uri, Some(PathMatch::PrefixIgnoreCase("/A".into())));
    assert_eq!(block.scheme, Some(TextMatch::Exact("https".into())));
    // It is always there.
    assert_eq!(block.method, None);
    assert!(
        matches!(&block.authority, Some(TextMatch::Regex(regex)) if regex.as_str() == r"\A(?:a.*)\z")
    );
    let headers = format!("{:?}", block.headers.values().collect::<Vec<_>>());
    assert_eq!(
        headers,
        "[HeaderMatch { subject: Method, value: Prefix(\"G\"), inverted: false }, \
         HeaderMatch { subject: Header(\"x-a\"), value: Exact(\"b\"), inverted: false }, \
         HeaderMatch { subject: Authority, value: Present, inverted: false }]"
    );
    let without = format!("{:?}", block.without_headers);
    assert_eq!(
        without,
        "{\"z\": HeaderMatch { subject: Header(\"z\"), value: Present, inverted: true }}"
    );
    assert_eq!(block.query["q"], TextMatch::Present);
    assert_eq!(block.port, Some(80));
    assert_eq!(block.client_namespace.as_deref(), Some("ns2"));
    assert_eq!(
        block.gateways,
        [
            GatewayName::Gateway("ns".into(), "g".into()),
            GatewayName::Mesh
        ]
    );
}

#[test]
fn rules_that_nothing_reaches_are_warned_of() {
    let taken = |index: usize, by: &str| {
        format!("W http[{index}]: no request gets here: http[{by}] takes all that this would match")
    };
    let block = |index: usize, block: usize, by: &str| {
        format!(
            "I http[{index}].match[{block}]: no request gets here: http[{by}] takes all that this would match"
        )
    };
    // The `match` lists of rules, one behind the other.
    let cases: Vec<(&[&str], Vec<String>)> = vec![
        // 27
        (&["[]", "[{uri: {exact: /a}}]"], vec![taken(1, "0")]),
        (&["[{}]", "[]"], vec![taken(1, "0")]),
        (
            &[
                "[{uri: {regex: '.*'}}]",
                "[{uri: {exact: /a}}, {uri: {exact: /b}}]",
            ],
            vec![taken(1, "0")],
        ),
        (&["[{uri: {exact: /a}}]", "[]"], vec![]),
        // 28
        (
            &[
                "[{uri: {prefix: /a}}]",
                "[{uri: {prefix: /ab}}, {uri: {prefix: /b}}]",
            ],
            vec![block(1, 0, "0")],
        ),
        (
            &["[{uri: {exact: /a}}, {uri: {exact: /a}}]"],
            vec![block(0, 1, "0")],
        ),
        (
            &[
                "[{uri: {prefix: /a}, ignoreUriCase: true}]",
                "[{uri: {prefix: /ab}}]",
            ],
            vec![],
        ),
        (
            &["[{port: 80}]", "[{port: 80, uri: {exact: /}}]"],
            vec![taken(1, "0")],
        ),
        (&["[{port: 80}]", "[{port: 81}]", "[{}]"], vec![]),
        (&["[{method: {exact: GET}}]", "[{uri: {exact: /}}]"], vec![]),
        (
            &[
                "[{method: {prefix: G}}]",
                "[{uri: {exact: /}, method: {exact: GET}}]",
            ],
            vec![taken(1, "0")],
        ),
        (
            &["[{scheme: {exact: https}}]", "[{authority: {exact: a}}]"],
            vec![],
        ),
        (
            &[
                "[{headers: {x: {}}}]",
                "[{headers: {x: {exact: a}, z: {}}}]",
            ],
            vec![taken(1, "0")],
        ),
        (
            &["[{headers: {x: {exact: a}}}]", "[{headers: {x: {}}}]"],
            vec![],
        ),
        (
            &[
                "[{withoutHeaders: {x: {}}}]",
                "[{withoutHeaders: {x: {exact: a}}}]",
            ],
            vec![],
        ),
        (
            &[
                "[{withoutHeaders: {x: {exact: a}}}]",
                "[{withoutHeaders: {x: {exact: a}}, port: 80}]",
            ],
            vec![taken(1, "0")],
        ),
        (
            &[
                "[{queryParams: {x: {prefix: a}}}]",
                "[{queryParams: {x: {exact: ab}}}]",
            ],
            vec![taken(1, "0")],
        ),
        (
            &["[{queryParams: {x: {}}}]", "[{headers: {x: {}}}]"],
            vec![],
        ),
        (
            &[
                "[{sourceLabels: {a: b}}]",
                "[{}]",
                "[{sourceLabels: {a: b, c: d}}]",
            ],
            vec![taken(2, "0")],
        ),
        (
            &["[{sourceNamespace: ns2}]", "[{sourceNamespace: m}]"],
            vec![],
        ),
        (
            &["[{gateways: [mesh, g]}]", "[{gateways: [g]}]", "[{}]"],
            vec![taken(1, "0")],
        ),
    ];
    for (matches, expected) in cases {
        let rules: Vec<String> = matches
            .iter()
            .map(|list| format!("{{match: {list}, {ROUTE}}}"))
            .collect();
        let (_, said) = read(&format!("{{hosts: [a], http: [{}]}}", rules.join(", ")));
        assert_eq!(said, expected, "{matches:?}");
    }
}
