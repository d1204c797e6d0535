//! What feeds say, in odd orders.

use serde_json::json;

use super::*;
use crate::config::object::Body;

const SERVICES: Feed = Feed::All(Kind::Service);

fn service(name: &str, version: u32) -> Json {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": version.to_string()},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
    })
}

fn pod(version: u32) -> Json {
    json!({"metadata": {"name": "a", "namespace": "default", "resourceVersion": version.to_string()}})
}

struct Case(Store, CompileOptions);

impl Case {
    fn new() -> Self {
        let feeds = vec![SERVICES, Feed::PodsHere, Feed::PodsElsewhere];
        Self(Store::new(feeds), CompileOptions::default())
    }

    fn tell(&mut self, feed: &Feed, told: Told) {
        self.0.take(feed, told, Instant::now(), &self.1);
    }

    /// The objects that are in force now, of those that have changed.
    fn changes(&mut self) -> Vec<(String, bool)> {
        let changes = self.0.changes().into_iter();
        changes
            .map(|(id, object)| (id.name.to_string(), object.is_some()))
            .collect()
    }
}

#[test]
fn a_list_counts_when_it_is_complete() {
    let mut case = Case::new();
    case.tell(&SERVICES, Told::Begin);
    case.tell(&SERVICES, Told::Listed(service("a", 1)));
    assert_eq!(case.changes(), []);
    case.tell(&SERVICES, Told::Complete);
    assert_eq!(case.changes(), [("a".to_owned(), true)]);
    // The same list again changes nothing.
    case.tell(&SERVICES, Told::Begin);
    case.tell(&SERVICES, Told::Listed(service("a", 1)));
    case.tell(&SERVICES, Told::Complete);
    assert_eq!(case.changes(), []);
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let mut case = Case::new();
    case.tell(&SERVICES, Told::Changed(service("a", 1)));
    case.changes();
    case.tell(&SERVICES, Told::Begin);
    case.tell(&SERVICES, Told::Listed(service("b", 2)));
    case.tell(&SERVICES, Told::Failing("the line was cut".to_owned()));
    assert_eq!(case.changes(), []);
    assert!(!case.0.is_whole());
    let troubles = case.0.rejected();
    assert_eq!(troubles.len(), 1);
    assert!(troubles[0].message.contains("the line was cut"));
    case.tell(&SERVICES, Told::Begin);
    case.tell(&SERVICES, Told::Listed(service("b", 2)));
    case.tell(&SERVICES, Told::Complete);
    let expected = [("a".to_owned(), false), ("b".to_owned(), true)];
    assert_eq!(case.changes(), expected);
    assert_eq!(case.0.rejected(), []);
}

#[test]
fn a_world_is_whole_when_every_feed_has_spoken() {
    let mut case = Case::new();
    for feed in [SERVICES, Feed::PodsHere] {
        case.tell(&feed, Told::Begin);
        case.tell(&feed, Told::Complete);
        assert!(!case.0.is_whole());
    }
    case.tell(&Feed::PodsElsewhere, Told::Absent);
    assert!(case.0.is_whole());
}

#[test]
fn a_pod_that_moves_between_feeds_is_never_lost() {
    let mut case = Case::new();
    case.tell(&Feed::PodsElsewhere, Told::Changed(pod(1)));
    // In whichever order the two watches tell of it.
    case.tell(&Feed::PodsHere, Told::Changed(pod(2)));
    let gone = || Told::Deleted("default".to_owned(), "a".to_owned());
    case.tell(&Feed::PodsElsewhere, gone());
    assert_eq!(case.changes(), [("a".to_owned(), true)]);
    case.tell(&Feed::PodsHere, gone());
    assert_eq!(case.changes(), [("a".to_owned(), false)]);
}

#[test]
fn what_is_known_in_full_is_not_replaced_by_its_metadata() {
    // A gateway's own Pod is in both feeds, in whichever order they tell of it.
    for elsewhere_first in [true, false] {
        let mut case = Case::new();
        let elsewhere = (Feed::PodsElsewhere, Told::Changed(pod(1)));
        let mut full = pod(1);
        full["status"] = json!({"podIP": "10.0.0.1"});
        let mut both = vec![(Feed::PodsHere, Told::Changed(full)), elsewhere];
        if elsewhere_first {
            both.reverse();
        }
        for (feed, told) in both {
            case.tell(&feed, told);
        }
        let changes = case.0.changes();
        let object = changes[0].1.as_ref().expect("it is in force");
        let Body::Pod(pod) = &object.body else {
            panic!("a Pod");
        };
        assert!(!pod.partial);
    }
}

#[test]
fn a_server_that_is_away_is_told_of_once() {
    let mut case = Case::new();
    for feed in [SERVICES, Feed::PodsHere] {
        case.tell(&feed, Told::Failing("refused".to_owned()));
    }
    assert_eq!(case.0.rejected().len(), 1);
}

#[test]
fn a_name_that_is_given_again_is_another_object() {
    let mut case = Case::new();
    case.tell(&SERVICES, Told::Changed(service("a", 1)));
    case.changes();
    let mut other = service("a", 1);
    other["metadata"]["uid"] = json!("another");
    case.tell(&SERVICES, Told::Changed(other));
    assert_eq!(case.changes(), [("a".to_owned(), true)]);
}

#[test]
fn the_secrets_of_a_feed_that_is_let_go_are_forgotten() {
    let mut case = Case::new();
    let feed = Feed::Secret("cert".into());
    case.0.expect(feed.clone());
    let secret = json!({"metadata": {"name": "cert", "namespace": "edge", "resourceVersion": "1"}});
    case.tell(&feed, Told::Changed(secret));
    case.changes();
    case.0.drop_feed(&feed);
    assert_eq!(case.changes(), [("cert".to_owned(), false)]);
}
