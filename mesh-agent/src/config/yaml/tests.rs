//! YAML as kubectl reads it, trap by trap.

use super::*;

fn one(text: &str) -> Node {
    let mut documents: Vec<_> = documents(text).collect();
    assert_eq!(documents.len(), 1, "{documents:?}");
    documents.remove(0).expect("the text is YAML")
}

fn error(text: &str) -> String {
    documents(text)
        .into_iter()
        .find_map(Result::err)
        .map_or_else(|| "no error".to_owned(), |error| error.to_string())
}

fn text_at(node: &Node, path: &[&str]) -> String {
    let found = path.iter().try_fold(node, |node, key| node.get(key));
    found.map_or_else(|| "absent".to_owned(), |node| format!("{:?}", node.value))
}

#[test]
fn every_value_knows_where_it_stands() {
    let node = one("# a comment\nspec:\n  http:\n  - name: x\n    route:\n    - weight: 90\n");
    let at = |path: Path| {
        let Location { line, column } = node.locate(&path).start;
        (line, column)
    };
    assert_eq!(at(Path::root()), (2, 1));
    assert_eq!(at(Path::of("spec.http")), (3, 3));
    assert_eq!(at(Path::of("spec.http").index(0).key("name")), (4, 11));
    let route = Path::of("spec.http").index(0).key("route").index(0);
    assert_eq!(at(route.key("weight")), (6, 15));
    // As near as the document goes.
    assert_eq!(at(route.key("destination")), (6, 7));
}

#[test]
fn the_end_of_every_value_is_known() {
    let text = "plain: a b  # c\nquoted: \"x y\" \né界: {k: [1, 2]}\nlist:\n- n: 1\n  m: 2\nblock: |\n  one \n  two\n\n\
                more: 'a\n  b'\nempty:\ntilde: ~\nbase: &b {y: 1}\ncopy: *b\ntagged: !!str 12\r\n\
                folded:\n- >\n one\n two\n";
    let node = one(text);
    let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
    let shown = |path: Path| {
        let Span { start, end } = node.locate(&path);
        let line = &lines[start.line as usize - 1];
        let until = if end.line == start.line {
            end.column as usize
        } else {
            line.len() + 1
        };
        line[start.column as usize - 1..until - 1]
            .iter()
            .collect::<String>()
    };
    let cases = [
        (Path::of("plain"), "a b"),
        (Path::of("quoted"), "\"x y\""),
        (Path::of("é界"), "{k: [1, 2]}"),
        (Path::of("é界.k"), "[1, 2]"),
        (Path::of("é界.k").index(1), "2"),
        (Path::of("list"), "list"),
        (Path::of("list").index(0), "n"),
        (Path::of("list").index(0).key("absent"), "n"),
        (Path::of("block"), "block"),
        (Path::of("more"), "'a"),
        (Path::of("empty"), "empty"),
        (Path::of("tilde"), "~"),
        (Path::of("copy"), "*b"),
        (Path::of("tagged"), "12"),
        (Path::of("folded").index(0), "one"),
        (Path::root(), "plain"),
    ];
    for (path, expected) in cases {
        let name = path.to_string();
        assert_eq!(shown(path), expected, "{name}");
    }
    assert_eq!(
        node.locate(&Path::of("more")).end,
        Location {
            line: 12,
            column: 5
        }
    );
}

#[test]
fn lines_are_counted_whatever_ends_them() {
    let text = "a: 1\rb: 2\r\n---\nc: 3\r---\rd: 4\n---\ne: 5\n";
    let lines: Vec<String> = documents(text)
        .map(|document| match document {
            Ok(node) => node.at.line.to_string(),
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(lines, ["1", "4", "6", "8"]);
}

#[test]
fn documents_are_told_apart_by_lines_as_kubectl_does() {
    let text = "---\na: 1\n--- # two\n\n---\nb: [\n---\nc: 3\n...\n---\n# nothing\n";
    let read: Vec<_> = documents(text).collect();
    let shown: Vec<String> = read
        .iter()
        .map(|document| match document {
            Ok(node) => format!(
                "{}:{:?}",
                node.at.line,
                node.get("a").or(node.get("c")).map(|node| &node.value)
            ),
            Err(error) => format!("error in line {}", error.at.line),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "2:Some(Integer(1))",
            "error in line 6",
            "8:Some(Integer(3))"
        ]
    );
}

#[test]
fn windows_files_and_byte_order_marks_are_read() {
    let node = one("\u{feff}---\r\na: b\r\n");
    assert_eq!(text_at(&node, &["a"]), "String(\"b\")");
    assert_eq!(documents("").count(), 0);
    assert_eq!(documents("\n---\n---\n# x\n").count(), 0);
}

#[test]
fn json_is_yaml_with_tabs_too() {
    let node = one("{\n\t\"a\": {\n\t\t\"b\": [1, \"x\", true, null]\n\t}\n}\n");
    assert_eq!(
        node.get("a")
            .and_then(|a| a.get("b"))
            .map(|b| match &b.value {
                Value::Sequence(items) => items.len(),
                _ => 0,
            }),
        Some(4)
    );
}

#[test]
fn anchors_and_merge_keys_work() {
    let node = one(
        "base: &base {a: 1, b: 2}\nown:\n  <<: *base\n  b: 3\nmany:\n  <<: [{c: 4}, *base]\n  d: *base\n",
    );
    assert_eq!(text_at(&node, &["own", "a"]), "Integer(1)");
    assert_eq!(text_at(&node, &["own", "b"]), "Integer(3)");
    assert_eq!(text_at(&node, &["many", "c"]), "Integer(4)");
    assert_eq!(text_at(&node, &["many", "d", "b"]), "Integer(2)");
    assert_eq!(text_at(&node, &["many", "<<"]), "absent");
    assert_eq!(text_at(&one("'<<': x"), &["<<"]), "String(\"x\")");
}

#[test]
fn quoted_scalars_are_text() {
    let node = one("a: \"80\"\nb: 'yes'\nc: |\n  1\nd: !!str 1\n80: x\nyes: z\n");
    for (key, expected) in [
        ("a", "String(\"80\")"),
        ("b", "String(\"yes\")"),
        ("c", "String(\"1\\n\")"),
        ("d", "String(\"1\")"),
        ("80", "String(\"x\")"),
        ("true", "String(\"z\")"),
    ] {
        assert_eq!(text_at(&node, &[key]), expected, "{key}");
    }
}

#[test]
fn what_kubectl_refuses_is_refused_with_its_place() {
    let cases = [
        (
            "a: 1\nb: 2\na: 3\n",
            "3:1: key \"a\" stands here for the second time",
        ),
        (
            "a: {b: 1, b: 2}",
            "1:11: key \"b\" stands here for the second time",
        ),
        ("a: *x\n", "1:4: while parsing node, found unknown anchor"),
        ("<<: 1\n", "1:5: << needs a mapping, or a list of mappings"),
        ("a: !vault x\n", "1:11: tag !vault is not known here"),
        (
            "[a]: b\n",
            "1:1: a key must be a string, a number or a boolean",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(text), expected, "{text}");
    }
    for text in [
        "a:\n\tb: 1\n",
        "a: [1\n",
        "a: 'x\n",
        "a: b: c\n",
        "- a\nb: 1\n",
        "}",
    ] {
        assert_ne!(error(text), "no error", "{text}");
    }
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let below = format!("*a{}", level - 1);
        bomb += &format!(
            "a{level}: &a{level} [{}]\n",
            [below.as_str(); 10].join(", ")
        );
    }
    assert!(error(&bomb).contains("by its aliases"), "{}", error(&bomb));
    let merges: String = (1..40)
        .map(|level| {
            format!(
                "m{level}: &m{level}\n  k{level}: x\n  a: *m{0}\n  b: *m{0}\n",
                level - 1
            )
        })
        .collect();
    assert!(error(&format!("m0: &m0 {{x: y}}\n{merges}")).contains("by its aliases"));
    assert!(
        error(&"[".repeat(10_000)).contains("deep") || error(&"[".repeat(10_000)) != "no error"
    );
    let nested: String = (0..200)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert!(
        error(&nested).contains("nested more than"),
        "{}",
        error(&nested)
    );
    assert!(
        error("a: &a [*a]").contains("inside what it stands for"),
        "{}",
        error("a: &a [*a]")
    );
}
