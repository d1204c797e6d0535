//! Every place that is packed is the one that the tree has.

use super::*;
use crate::config::yaml::documents;

/// Every path of a document, and some that lead nowhere.
fn paths(node: &Node, path: &Path, found: &mut Vec<Path>) {
    found.push(path.clone());
    found.push(path.key("absent"));
    found.push(path.index(1_000));
    match &node.value {
        Value::Mapping(entries) => {
            for (key, value) in entries {
                paths(value, &path.key(&key.name), found);
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                paths(item, &path.index(index), found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_place_is_where_the_tree_has_it() {
    let long: String = (0..100)
        .map(|item| format!("- {{name: \"é{item}\", port: [{item}], 'quoted key': 1}}\n"))
        .collect();
    let deep = "[".repeat(90) + &"]".repeat(90);
    let later = "# \n".repeat(70_000);
    for text in [
        "1",
        "apiVersion: v1\nkind: Pod\nspec:\n  a_b:\n  - c: |\n      x\n      y\n    \"d\": >-\n      z\n  é: [1, {f: null}]\n",
        "a: &x {b: 1, c: [1, 2]}\nd: *x\ne:\n  <<: *x\n  g: *x\n",
        "? \"a\nb\"\n: c\n? [1]\n",
        &format!("endpoints:\n{long}"),
        &deep,
        &format!(
            "{later}a: {{b: {}, c: 1}}\n{later}d: 1\n",
            "x".repeat(70_000)
        ),
        "{\n\t\"a\": {\n\t\t\"b\": [1,\n2]\n}}",
    ] {
        for document in documents(text) {
            let Ok(node) = document else { continue };
            let places = Places::of(&node);
            let mut all = Vec::new();
            paths(&node, &Path::root(), &mut all);
            for path in all {
                assert_eq!(places.locate(&path), node.locate(&path), "{path}");
                assert_eq!(places.locate_name(&path), node.locate_name(&path), "{path}");
            }
        }
    }
}

#[test]
fn places_take_little_room() {
    let endpoints: String = (0..1_000)
        .map(|last| {
            format!("- {{addresses: [10.0.0.{last}], conditions: {{ready: true}}, nodeName: n}}\n")
        })
        .collect();
    let text = format!("endpoints:\n{endpoints}");
    let document = documents(&text).next().unwrap().unwrap();
    let length = Places::of(&document).bytes.len();
    assert!(length < 45 * 1_000, "{length}");
}
