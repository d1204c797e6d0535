//! What an author sees of what is wrong.

use std::fs;

use super::*;
use crate::config::{CompileOptions, check, file};

/// A directory of manifests, and what is said of it, with the directory's own name left out.
fn analyze(files: &[(&str, &[u8])]) -> (Checked, String) {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("written");
    }
    let mut checked = check(directory.path(), &CompileOptions::default()).expect("read");
    let text = Report::new(&checked).text(Style::Plain, file::text);
    let prefix = format!("{}/", directory.path().display());
    for finding in &mut checked.findings {
        finding.file = finding.file.file_name().expect("a name").into();
    }
    (checked, text.replace(&prefix, ""))
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 80}]}
";

/// `spec` begins in line 5.
fn virtual_service(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n{spec}"
    )
}

#[test]
fn the_offending_text_is_underlined() {
    let spec = "  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews}
      wieght: 1
    retries: {attempts: many}
    timeout: [1s,
      2s]
";
    let (_, text) = analyze(&[
        ("a.yaml", virtual_service(spec).as_bytes()),
        ("b.yaml", SERVICE.as_bytes()),
    ]);
    let expected = r#"error[IST0106]: Istio knows no such field
 --> a.yaml:9:7
  |
9 |       wieght: 1
  |       ^^^^^^
  |
  = in: VirtualService default/reviews, spec.http[0].route[0].wieght
  = help: did you mean weight?

error[IST0106]: this is the text "many", expected a whole number
  --> a.yaml:10:25
   |
10 |     retries: {attempts: many}
   |                         ^^^^
   |
   = in: VirtualService default/reviews, spec.http[0].retries.attempts

error[IST0106]: this is a list, expected a string
  --> a.yaml:11:14
   |
11 |       timeout: [1s,
   |  ______________^
12 | |       2s]
   | |_________^
   |
   = in: VirtualService default/reviews, spec.http[0].timeout

2 files, 1 object: 3 errors, 0 warnings
"#;
    assert_eq!(text, expected);
}

#[test]
fn the_columns_are_right_whatever_stands_before() {
    // What stands in the line, and what is marked in it.
    let cases = [
        ("  hosts: [\"a b\"]", "\"a b\""),
        ("  hosts: [ｗ.界, \"a b\"]", "ｗ.界"),
        ("  hosts: [a, \"é 😀\", b] # 界", "\"é 😀\""),
        ("  hosts:\t[ok,\t'a b']\t", "'a b'"),
        ("  hosts: [a_b]\r", "a_b"),
    ];
    for (line, marked) in cases {
        for start in ["", "\u{feff}", "# é\r\n"] {
            let spec = format!("{line}\n  http: [{{route: [{{destination: {{host: a}}}}]}}]\n");
            let manifest = format!("{start}{}", virtual_service(&spec));
            let (checked, text) = analyze(&[("a.yaml", manifest.as_bytes())]);
            let finding = checked.findings.first().expect("a finding");
            let shown = line.trim_end_matches('\r');
            let before = shown.find(marked).expect("it is there");
            let column = shown[..before].chars().count() + 1;
            let end = column + marked.chars().count();
            assert_eq!(
                (finding.column as usize, finding.end_column as usize),
                (column, end),
                "{line:?}"
            );
            let number = 5 + start.matches('\n').count();
            assert_eq!(finding.line as usize, number, "{line:?}");
            let lines: Vec<&str> = text.lines().collect();
            let shown = shown.trim_end().replace('\t', "    ");
            let position = lines
                .iter()
                .position(|text| text.trim_end() == format!("{number} | {shown}"));
            let position = position.unwrap_or_else(|| panic!("{line:?} is not shown:\n{text}"));
            assert!(lines[position + 1].trim_end().ends_with('^'), "{text}");
        }
    }
}

#[test]
fn files_that_hold_no_text_are_told_of_and_the_others_count() {
    let huge = vec![b' '; (16 << 20) + 1];
    let (checked, text) = analyze(&[
        ("binary.yaml", &[0, 159, 146, 150]),
        ("control.yaml", b"a: \x1b[31m\n"),
        ("empty.yaml", b""),
        ("huge.yaml", &huge),
        ("latin.yaml", b"apiVersion: v1\nkind: \xe9t\xe9\n"),
        ("service.yaml", SERVICE.as_bytes()),
        ("tab.yaml", b"a:\n\tb: c\n"),
    ]);
    let expected = [
        "error[MESH0003]: this file is not UTF-8 from line 1 on\n --> binary.yaml:1:2\n",
        " --> control.yaml:1:4\n  |\n1 | a: ␛[31m\n  |    ^\n",
        "error[MESH0003]: this file has more than 16 MiB\n--> huge.yaml\n = help: split it\n",
        " --> latin.yaml:2:7\n  |\n2 | kind: �t�\n  |       ^\n",
        " --> tab.yaml:2:2\n",
        "  = help: indent with spaces\n",
        "7 files, 1 object: 5 errors, 0 warnings\n",
    ];
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(
        !text.contains('\u{1b}'),
        "what a terminal obeys is not printed"
    );
    assert_eq!(checked.findings.len(), 5);
}

#[test]
fn a_long_line_is_shown_around_the_offending_text() {
    let padding = "y".repeat(100_000);
    let manifest = format!(
        "{{\"apiVersion\": \"networking.istio.io/v1\", \"kind\": \"VirtualService\", \"metadata\": {{\"name\": \"long\", \
         \"annotations\": {{\"x\": \"{padding}\"}}}}, \"spec\": {{\"hosts\": [\"a b\"], \"http\": [{{}}]}}}}"
    );
    let (_, text) = analyze(&[("a.json", manifest.as_bytes())]);
    assert!(text.contains(" --> a.json:1:100143\n"), "{text}");
    assert!(text.contains("1 | ...yyy"), "{text}");
    assert!(text.lines().all(|line| line.len() < 200), "{text}");
}

#[test]
fn a_report_can_be_of_nothing() {
    let (_, text) = analyze(&[]);
    assert_eq!(
        text,
        "there are no manifests: no file ends in .yaml, .yml or .json\n"
    );
    let (_, text) = analyze(&[("a.yaml", SERVICE.as_bytes())]);
    assert_eq!(text, "1 file, 1 object: nothing is wrong\n");
}

#[test]
fn findings_are_in_the_order_of_files_and_lines() {
    let two = format!("{SERVICE}---\n{SERVICE}");
    let (checked, text) = analyze(&[
        ("b.yaml", two.as_bytes()),
        ("a.yaml", b"kind: 1\n---\n[]\n---\na: b: c\n"),
        ("c.yaml", SERVICE.as_bytes()),
    ]);
    let places: Vec<String> = checked
        .findings
        .iter()
        .map(|finding| format!("{}:{}", finding.file.display(), finding.line))
        .collect();
    assert_eq!(places[..3], ["a.yaml:1", "a.yaml:3", "a.yaml:5"]);
    assert_eq!(places[3..], ["b.yaml:1", "b.yaml:6"]);
    let winner = "note: this one is in force\n --> c.yaml:1:1\n";
    assert!(text.contains(winner), "{text}");
}

#[test]
fn colours_are_for_those_who_want_them() {
    let (checked, text) = analyze(&[("a.yaml", b"a: b: c\n")]);
    assert!(!text.contains('\u{1b}'));
    let coloured = Report::new(&checked).text(Style::Coloured, |_| Some("a: b: c\n".to_owned()));
    assert!(coloured.contains("\u{1b}["), "{coloured:?}");
}

#[test]
fn a_name_that_is_no_text_is_told_all_the_same() {
    use std::os::unix::ffi::OsStrExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let name = std::ffi::OsStr::from_bytes(b"\xff.yaml");
    fs::write(directory.path().join(name), "a: b: c\n").expect("written");
    let checked = check(directory.path(), &CompileOptions::default()).expect("read");
    let report = Report::new(&checked);
    let text = report.text(Style::Plain, file::text);
    assert!(text.contains("�.yaml:1:5\n"), "{text}");
    let json = report.json().expect("it can be written");
    assert!(json.contains("�.yaml\""), "{json}");
}

#[test]
fn json_has_a_shape_that_stays() {
    let two = format!("{SERVICE}---\n{SERVICE}");
    let (checked, _) = analyze(&[("a.yaml", two.as_bytes()), ("b.yaml", b"kind: Service\n")]);
    let json = Report::new(&checked).json().expect("it can be written");
    let directory = checked.findings[0].related.as_ref().expect("the other");
    let directory = directory.file.parent().expect("a directory").display();
    let expected = r#"{
  "findings": [
    {
      "severity": "warning",
      "code": "MESH0004",
      "file": "a.yaml",
      "line": 1,
      "column": 1,
      "end_line": 1,
      "end_column": 11,
      "object": "Service default/reviews",
      "field": "",
      "message": "DIR/a.yaml:6 was written later and is in force instead",
      "remedy": "remove one of them",
      "related": {
        "message": "this one is in force",
        "file": "DIR/a.yaml",
        "line": 6,
        "column": 1,
        "end_line": 6,
        "end_column": 11
      }
    },
    {
      "severity": "error",
      "code": "MESH0002",
      "file": "b.yaml",
      "line": 1,
      "column": 1,
      "end_line": 1,
      "end_column": 5,
      "object": "",
      "field": "",
      "message": "this is no Kubernetes object: apiVersion or kind is missing",
      "remedy": "add both",
      "related": null
    }
  ],
  "summary": {
    "files": 2,
    "objects": 1,
    "errors": 1,
    "warnings": 1,
    "infos": 0
  }
}
"#;
    assert_eq!(json.replace(&directory.to_string(), "DIR"), expected);
}
