//! What the plugin says to a container runtime.

use std::io::{Error, ErrorKind};

use super::*;

const RESULT: &str = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.244.0.7/24"},{"address":"fd00::7/64"}],"dns":{}}"#;

fn environment(verb: &str, args: &str) -> BTreeMap<String, String> {
    [
        ("CNI_COMMAND", verb),
        ("CNI_NETNS", "/proc/self/ns/net"),
        ("CNI_ARGS", args),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

const POD: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1";

fn config(more: &str) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"{NAME}"{more},"prevResult":{RESULT}}}"#)
}

/// The answer of a plugin whose agent says `says`, and what the agent was asked.
fn check(
    environment: &BTreeMap<String, String>,
    input: &str,
    says: Option<Answer>,
) -> (Result<String, u32>, Option<Question>) {
    let mut asked = None;
    let outcome = answer(environment, input, |_, question, netns| {
        assert_eq!(netns.is_some(), question.verb == Verb::Add);
        asked = Some(question.clone());
        says.ok_or_else(|| Error::from(ErrorKind::ConnectionRefused))
    });
    (outcome.map_err(|e| e.code()), asked)
}

#[test]
fn a_pod_begins_with_what_the_plugins_before_made() {
    let (told, asked) = check(&environment("ADD", POD), &config(""), Some(Answer::Begin));
    let told: Json = serde_json::from_str(&told.expect("it begins")).expect("JSON");
    assert_eq!(told, serde_json::from_str::<Json>(RESULT).expect("JSON"));
    let expected = Question {
        verb: Verb::Add,
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: "u-1".to_owned(),
        addresses: vec![
            "10.244.0.7".parse().expect("v4"),
            "fd00::7".parse().expect("v6"),
        ],
    };
    assert_eq!(asked, Some(expected));
}

#[test]
fn a_pod_that_is_not_in_the_mesh_yet_is_tried_again() {
    let why = "no room".to_owned();
    let (told, _) = check(
        &environment("ADD", POD),
        &config(""),
        Some(Answer::Wait { why }),
    );
    assert_eq!(told, Err(100));
}

#[test]
fn without_an_agent_it_is_as_the_configuration_says() {
    let (told, _) = check(&environment("ADD", POD), &config(""), None);
    assert_eq!(told, Err(11));
    let open = config(r#","onAgentLoss":"open""#);
    let (told, _) = check(&environment("ADD", POD), &open, None);
    assert!(told.is_ok());
    // An end is never held up.
    let (told, asked) = check(&environment("DEL", POD), &config(""), None);
    assert_eq!(told, Ok(String::new()));
    assert_eq!(asked.map(|asked| asked.verb), Some(Verb::Delete));
    assert_eq!(
        check(&environment("STATUS", ""), &config(""), None).0,
        Err(11)
    );
}

#[test]
fn what_is_no_pod_is_none_of_its_business() {
    let (told, asked) = check(&environment("ADD", "IgnoreUnknown=1"), &config(""), None);
    assert!(told.is_ok_and(|told| told.contains("10.244.0.7")));
    assert_eq!(asked, None);
}

#[test]
fn errors_are_the_specifications() {
    assert_eq!(check(&environment("ADD", POD), "{", None).0, Err(6));
    assert_eq!(
        check(&environment("JUMP", POD), &config(""), None).0,
        Err(4)
    );
    assert_eq!(check(&BTreeMap::new(), &config(""), None).0, Err(4));
    let mut nowhere = environment("ADD", POD);
    nowhere.insert("CNI_NETNS".to_owned(), "/nowhere".to_owned());
    assert_eq!(check(&nowhere, &config(""), None).0, Err(5));
    let error = complaint(&PluginError::Wait("soon".to_owned()), &config(""));
    let error: Json = serde_json::from_str(&error).expect("JSON");
    assert_eq!(error["cniVersion"], "1.0.0");
    assert_eq!(error["code"], 100);
}

#[test]
fn it_says_which_versions_it_speaks() {
    let (told, _) = check(&environment("VERSION", ""), "", None);
    let told: Json = serde_json::from_str(&told.expect("versions")).expect("JSON");
    assert_eq!(told["supportedVersions"][5], "1.1.0");
}
