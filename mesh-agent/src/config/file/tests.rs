//! A real directory, edited as people and tools edit one.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{Code, Severity};

/// Nothing here takes a second; this is for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(30);

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: {port}}}]}}\n"
    )
}

fn ports(update: &Update) -> Vec<u16> {
    let services = update.snapshot.services.values();
    let mut ports: Vec<u16> = services
        .flat_map(|service| &service.ports)
        .map(|port| port.number)
        .collect();
    ports.sort_unstable();
    ports
}

/// Waits for a world with these ports.
async fn until(watched: &mut ManifestDir, expected: &[u16]) -> Update {
    let wait = async {
        loop {
            let update = watched.next().await;
            if ports(&update) == expected {
                return update;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("the ports {expected:?} never came"))
}

fn open(path: &Path) -> (ManifestDir, Update) {
    ManifestDir::open(path, CompileOptions::default()).expect("the directory is there")
}

#[tokio::test]
async fn a_change_is_live_whichever_way_it_is_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), service("a", 1)).expect("written");
    let (mut watched, first) = open(directory.path());
    assert_eq!((ports(&first), first.snapshot.generation), (vec![1], 1));

    fs::write(path("a.yaml"), service("a", 2)).expect("written");
    let second = until(&mut watched, &[2]).await;
    assert!(second.snapshot.generation > 1);

    fs::write(path("b.yaml"), service("b", 3)).expect("a new file");
    until(&mut watched, &[2, 3]).await;

    fs::write(path("a.tmp"), service("a", 4)).expect("written");
    fs::rename(path("a.tmp"), path("a.yaml")).expect("renamed over");
    until(&mut watched, &[3, 4]).await;

    fs::remove_file(path("b.yaml")).expect("removed");
    until(&mut watched, &[4]).await;

    // As some editors do: away, then anew.
    fs::rename(path("a.yaml"), path("a.yaml~")).expect("renamed");
    fs::write(path("a.yaml"), service("a", 5)).expect("written");
    until(&mut watched, &[5]).await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_but_the_complaints() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.yaml");
    fs::write(&path, service("a", 1)).expect("written");
    let (mut watched, _) = open(directory.path());
    fs::write(&path, "apiVersion: [").expect("written");
    let update = until(&mut watched, &[1]).await;
    assert_eq!(update.rejected.len(), 1);
    assert_eq!(update.rejected[0].severity, Severity::Error);
    assert_eq!(update.rejected[0].file, path);
    fs::write(&path, service("a", 2)).expect("written");
    assert!(until(&mut watched, &[2]).await.rejected.is_empty());
}

#[tokio::test]
async fn a_volume_of_kubernetes_is_swapped_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for (version, port) in [("..1", 1), ("..2", 2)] {
        fs::create_dir(path(version)).expect("a version");
        fs::write(path(version).join("a.yaml"), service("a", port)).expect("written");
    }
    symlink("..1", path("..data")).expect("a link");
    symlink("..data/a.yaml", path("a.yaml")).expect("a link");
    let (mut watched, first) = open(directory.path());
    assert_eq!(ports(&first), [1]);
    symlink("..2", path("..data_tmp")).expect("a link");
    fs::rename(path("..data_tmp"), path("..data")).expect("swapped");
    until(&mut watched, &[2]).await;
}

#[tokio::test]
async fn a_file_behind_a_link_is_watched_where_it_lies() {
    let directory = tempfile::tempdir().expect("a directory");
    let elsewhere = tempfile::tempdir().expect("another one");
    let target = elsewhere.path().join("real.yaml");
    fs::write(&target, service("a", 1)).expect("written");
    symlink(&target, directory.path().join("a.yaml")).expect("a link");
    let (mut watched, _) = open(directory.path());
    fs::write(&target, service("a", 2)).expect("written");
    until(&mut watched, &[2]).await;
}

#[tokio::test]
async fn a_directory_that_goes_leaves_the_world_as_it_is_until_it_is_back() {
    let parent = tempfile::tempdir().expect("a directory");
    let path = parent.path().join("manifests");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("a.yaml"), service("a", 1)).expect("written");
    let (mut watched, _) = open(&path);
    fs::rename(&path, parent.path().join("away")).expect("gone");
    let update = until(&mut watched, &[1]).await;
    assert_eq!(update.rejected.len(), 1, "{:?}", update.rejected);
    assert!(
        update.rejected[0]
            .to_string()
            .contains("what it said last holds")
    );
    fs::create_dir(&path).expect("made");
    fs::write(path.join("a.yaml"), service("a", 2)).expect("written");
    assert!(until(&mut watched, &[2]).await.rejected.is_empty());
    fs::write(path.join("a.yaml"), service("a", 3)).expect("written");
    until(&mut watched, &[3]).await;
}

#[tokio::test]
async fn what_does_not_fit_together_is_said_of_a_world_that_is_in_force_already() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r}\nspec: {host: a}\n";
    fs::write(path("rule.yaml"), rule).expect("written");
    let (mut watched, first) = open(directory.path());
    let codes = |update: &Update| -> Vec<Code> {
        let rejected = update.rejected.iter();
        rejected.filter_map(|rejected| rejected.code).collect()
    };
    assert_eq!(
        codes(&first),
        [Code::Ist0174],
        "the first world is looked through at once"
    );

    fs::write(path("a.yaml"), service("a", 1)).expect("written");
    // The world comes once, with what was said before, and then again; on a slow machine both are one.
    let mut live: Option<Update> = None;
    loop {
        let update = until(&mut watched, &[1]).await;
        if let Some(live) = &live {
            assert!(Arc::ptr_eq(&live.snapshot, &update.snapshot));
        }
        if codes(&update).is_empty() {
            break;
        }
        assert_eq!(codes(&update), [Code::Ist0174]);
        live = Some(update);
    }
}

#[tokio::test]
async fn a_writer_in_the_middle_of_a_file_is_waited_for() {
    use std::io::Write as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.yaml");
    fs::write(&path, service("a", 1) + "---\n" + &service("b", 2)).expect("written");
    let (mut watched, _) = open(directory.path());
    let mut file = fs::File::create(&path).expect("opened");
    file.write_all(service("a", 3).as_bytes())
        .expect("the first half");
    file.flush().expect("flushed");
    tokio::time::sleep(Duration::from_millis(40)).await;
    write!(file, "---\n{}", service("b", 4)).expect("the other half");
    drop(file);
    let update = tokio::time::timeout(PATIENCE, watched.next())
        .await
        .expect("a change");
    assert_eq!(ports(&update), [3, 4]);
}

#[test]
fn a_directory_that_is_not_there_is_an_error_with_a_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("none");
    let message = format!(
        "the manifest directory {} cannot be read; create it, or name another one",
        path.display()
    );
    let error = ManifestDir::open(&path, CompileOptions::default()).expect_err("it is not there");
    assert_eq!(error.to_string(), message);
    let error =
        crate::config::load(&path, &CompileOptions::default()).expect_err("it is not there");
    assert_eq!(error.to_string(), message);
}
