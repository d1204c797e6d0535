//! What is said, of whom, and when.

use super::*;
use crate::config::document::about_file;

fn rejected(object: &str, severity: Severity, message: &str) -> Rejected {
    Rejected {
        severity,
        code: Some(Code::Ist0101),
        object: object.to_owned(),
        field: "spec.hosts[0]".to_owned(),
        ..about_file("".as_ref(), message, "mend it")
    }
}

fn web() -> ObjectId {
    ObjectId {
        kind: Kind::VirtualService,
        namespace: "shop".into(),
        name: "web".into(),
    }
}

const WEB: &str = "VirtualService shop/web";

#[test]
fn the_worst_comes_first_and_one_error_is_enough() {
    let warning = rejected(WEB, Severity::Warning, "odd");
    let error = rejected(WEB, Severity::Error, "bad");
    let told = verdict(&[&warning, &error]);
    let expected = Verdict {
        accepted: false,
        reason: "ReferencedResourceNotFound",
        message: "IST0101 spec.hosts[0]: bad; mend it\nIST0101 spec.hosts[0]: odd; mend it"
            .to_owned(),
    };
    assert_eq!(told, expected);
    assert!(verdict(&[&warning]).accepted);
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let long = rejected(WEB, Severity::Error, &"ü".repeat(2 * LONGEST));
    let message = verdict(&[&long]).message;
    assert!(message.len() <= LONGEST && message.ends_with("ü..."));
}

#[test]
fn only_what_is_new_is_said() {
    let mut news = News {
        rejected: vec![rejected(WEB, Severity::Error, "bad")],
        ..News::default()
    };
    let mut said = BTreeMap::new();
    let new = verdicts(&news, &said);
    assert_eq!(new.len(), 1);
    assert!(new[0].0 == web() && !new[0].1.accepted);
    said.extend(new);
    assert_eq!(verdicts(&news, &said), []);
    // Mended, it is said once that nothing is wrong any more.
    news.rejected.clear();
    news.marked.insert(web());
    let new = verdicts(&news, &said);
    assert_eq!(new.len(), 1);
    assert!(new[0].1.accepted);
    said.extend(new);
    assert_eq!(verdicts(&news, &said), []);
}

#[test]
fn an_object_that_another_agent_marked_is_looked_at_again() {
    let news = News {
        marked: [web()].into(),
        ..News::default()
    };
    let new = verdicts(&news, &BTreeMap::new());
    assert!(new.len() == 1 && new[0].1.accepted);
}

#[test]
fn pods_and_what_is_no_object_are_not_its_business() {
    let of = |object: &str| rejected(object, Severity::Error, "bad");
    let info = rejected(WEB, Severity::Info, "fine");
    let news = News {
        rejected: vec![of("Pod shop/a"), of(""), of("Service"), of("Node a"), info],
        ..News::default()
    };
    assert_eq!(verdicts(&news, &BTreeMap::new()), []);
}
