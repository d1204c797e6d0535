//! What is in force after files appear, change, break and go.

use std::fs::{self, FileTimes, OpenOptions};

use tempfile::TempDir;

use super::*;

/// A directory whose files carry the times that they are given.
struct World {
    directory: TempDir,
    store: Store,
    now: Instant,
    /// What one change after another has made of nothing.
    changed: Inputs,
}

impl World {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            store: Store::default(),
            now: Instant::now(),
            changed: Inputs::default(),
        }
    }

    fn write(&self, name: &str, second: u64, text: &str) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("written");
        let times =
            FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        let file = OpenOptions::new().write(true).open(path).expect("opened");
        file.set_times(times).expect("its time");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.directory.path().join(name)).expect("removed");
    }

    /// Looks until nothing is left to wait for, and shows what is in force: `name=host`, then the complaints.
    fn look(&mut self) -> (Vec<String>, Vec<String>) {
        loop {
            let listing = scan::list(self.directory.path()).expect("listed");
            let refreshed = self.store.update(
                &listing,
                &HashSet::new(),
                self.now,
                &CompileOptions::default(),
            );
            match refreshed.again {
                Some(again) => self.now = again,
                None => break,
            }
        }
        for (id, object) in self.store.changes() {
            match object {
                Some(object) => self.changed.insert(object),
                None => self.changed.remove(&id),
            };
        }
        let (inputs, rejected) = self.store.resolve();
        assert!(inputs.same_as(&self.changed));
        let mut shown: Vec<String> = inputs
            .destination_rules()
            .into_iter()
            .map(|(object, rule)| format!("{}={}", object.id.name, rule.host))
            .collect();
        shown.sort();
        let root = format!("{}/", self.directory.path().display());
        let rejected = rejected
            .iter()
            .map(|complaint| complaint.to_string().replace(&root, ""))
            .collect();
        (shown, rejected)
    }

    fn check(&mut self, in_force: &[&str], complaints: &[&str]) {
        let (shown, rejected) = self.look();
        assert_eq!(shown, in_force);
        assert_eq!(rejected.len(), complaints.len(), "{rejected:#?}");
        for (found, expected) in rejected.iter().zip(complaints) {
            assert!(
                found.starts_with(expected),
                "{found}\ndoes not begin with\n{expected}"
            );
        }
    }
}

fn rule(name: &str, host: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{host: {host}}}\n"
    )
}

#[test]
fn a_broken_object_keeps_its_last_good_version_and_its_neighbours_move_on() {
    let mut world = World::new();
    world.write("f.yaml", 1, &(rule("a", "a1.x") + &rule("b", "b1.x")));
    world.check(&["a=a1.x", "b=b1.x"], &[]);
    world.write("f.yaml", 2, &(rule("a", "''") + &rule("b", "b2.x")));
    world.check(
        &["a=a1.x", "b=b2.x"],
        &["f.yaml:5:14: DestinationRule default/a: spec.host: a DestinationRule needs a host"],
    );
    world.write("f.yaml", 3, &(rule("a", "a3.x") + &rule("b", "b2.x")));
    world.check(&["a=a3.x", "b=b2.x"], &[]);
    world.write("f.yaml", 4, &rule("a", "a3.x"));
    world.check(&["a=a3.x"], &[]);
    world.remove("f.yaml");
    world.check(&[], &[]);
}

#[test]
fn a_file_that_no_longer_parses_keeps_all_that_it_said() {
    let mut world = World::new();
    world.write("f.yaml", 1, &(rule("a", "a1.x") + &rule("b", "b1.x")));
    world.check(&["a=a1.x", "b=b1.x"], &[]);
    for text in [
        "{",
        "a: [",
        "kind: x",
        "---\napiVersion: networking.istio.io/v1\nkind: Virtual\n",
    ] {
        world.write("f.yaml", 2, text);
        let (shown, rejected) = world.look();
        assert_eq!(shown, ["a=a1.x", "b=b1.x"], "{text}");
        assert_eq!(rejected.len(), 1, "{text}");
    }
    let file = world.directory.path().join("f.yaml");
    fs::write(&file, b"a: b\nc: \xff\n").expect("written");
    world.check(
        &["a=a1.x", "b=b1.x"],
        &["f.yaml:2:4: this file is not UTF-8 from line 2 on; save it as UTF-8"],
    );
    let big = OpenOptions::new().write(true).open(&file).expect("opened");
    big.set_len(17 << 20).expect("its size");
    world.check(
        &["a=a1.x", "b=b1.x"],
        &["f.yaml: this file has more than 16 MiB; split it"],
    );
}

#[test]
fn a_broken_object_that_was_never_good_is_left_out_alone() {
    let mut world = World::new();
    world.write(
        "f.yaml",
        1,
        &(rule("a", "''") + &rule("b", "b1.x") + "---\nkind: [\n" + &rule("c", "c1.x")),
    );
    let (shown, rejected) = world.look();
    assert_eq!(shown, ["b=b1.x", "c=c1.x"]);
    assert_eq!(rejected.len(), 2, "{rejected:#?}");
}

#[test]
fn of_two_files_the_one_written_last_is_in_force() {
    let mut world = World::new();
    world.write("a.yaml", 5, &rule("r", "a.x"));
    world.write("b.yaml", 3, &rule("r", "b.x"));
    world.check(
        &["r=a.x"],
        &["b.yaml:2:1: DestinationRule default/r: a.yaml:2 was written later"],
    );
    world.write("b.yaml", 7, &rule("r", "b.x"));
    world.check(
        &["r=b.x"],
        &["a.yaml:2:1: DestinationRule default/r: b.yaml:2 was written later"],
    );
    // A broken edit of the loser does not bring its old version back.
    world.write("a.yaml", 9, &rule("r", "''"));
    let (shown, _) = world.look();
    assert_eq!(shown, ["r=b.x"]);
    world.remove("b.yaml");
    world.check(
        &["r=a.x"],
        &["a.yaml:5:14: DestinationRule default/r: spec.host"],
    );
}

#[test]
fn of_files_of_one_time_the_last_name_is_in_force_and_of_documents_the_last_one() {
    let mut world = World::new();
    world.write("b.yaml", 5, &rule("r", "b.x"));
    world.write(
        "a.yaml",
        5,
        &(rule("r", "a.x") + &rule("s", "s1.x") + &rule("s", "s2.x")),
    );
    world.check(
        &["r=b.x", "s=s2.x"],
        &[
            "a.yaml:2:1: DestinationRule default/r: b.yaml:2",
            "a.yaml:7:1: DestinationRule default/s: a.yaml:12",
        ],
    );
}

#[test]
fn a_file_written_again_unchanged_is_newer_all_the_same() {
    let mut world = World::new();
    world.write("a.yaml", 5, &rule("r", "a.x"));
    world.write("b.yaml", 6, &rule("r", "b.x"));
    assert_eq!(world.look().0, ["r=b.x"]);
    world.write("a.yaml", 7, &rule("r", "a.x"));
    assert_eq!(world.look().0, ["r=a.x"]);
}

#[test]
fn a_file_that_is_gone_or_empty_for_a_moment_is_not_missed() {
    let mut world = World::new();
    world.write("f.yaml", 1, &rule("a", "a1.x"));
    world.check(&["a=a1.x"], &[]);
    let listing = |world: &World| scan::list(world.directory.path()).expect("listed");
    world.write("f.yaml", 2, "");
    let options = CompileOptions::default();
    let entries = listing(&world);
    let refreshed = world
        .store
        .update(&entries, &HashSet::new(), world.now, &options);
    assert!(!refreshed.changed && refreshed.again == Some(world.now + GRACE));
    world.remove("f.yaml");
    let refreshed = world
        .store
        .update(&[], &HashSet::new(), world.now + GRACE / 2, &options);
    assert!(!refreshed.changed && refreshed.again == Some(world.now + GRACE));
    world.write("f.yaml", 3, &rule("a", "a2.x"));
    world.check(&["a=a2.x"], &[]);
    world.write("f.yaml", 4, "\n");
    world.check(&[], &[]);
}

#[test]
fn a_file_that_is_being_written_is_not_looked_at() {
    let mut world = World::new();
    world.write("f.yaml", 1, &(rule("a", "a1.x") + &rule("b", "b1.x")));
    world.look();
    world.write("f.yaml", 2, &rule("a", "a2.x"));
    let listing = scan::list(world.directory.path()).expect("listed");
    let busy = HashSet::from([world.directory.path().join("f.yaml")]);
    let refreshed = world
        .store
        .update(&listing, &busy, world.now, &CompileOptions::default());
    assert!(!refreshed.changed);
    assert_eq!(world.store.resolve().0.len(), 2);
    assert_eq!(world.look().0, ["a=a2.x"]);
}

#[test]
fn only_manifests_are_read_and_nothing_is_waited_for() {
    let mut world = World::new();
    let path = world.directory.path().to_path_buf();
    world.write("a.yml", 1, &rule("a", "a.x"));
    world.write("b.json", 1, "{\"apiVersion\": \"networking.istio.io/v1\", \"kind\": \"DestinationRule\", \"metadata\": {\"name\": \"b\"}, \"spec\": {\"host\": \"b.x\"}}");
    world.write("c.txt", 1, &rule("c", "c.x"));
    world.write(".d.yaml", 1, &rule("d", "d.x"));
    world.write("e.yaml~", 1, &rule("e", "e.x"));
    fs::create_dir(path.join("sub.yaml")).expect("a directory");
    fs::write(path.join("sub.yaml/f.yaml"), rule("f", "f.x")).expect("written");
    std::os::unix::fs::symlink("/nowhere/at/all", path.join("g.yaml")).expect("a link");
    std::os::unix::fs::symlink("/dev/zero", path.join("h.yaml")).expect("a link");
    nix::unistd::mkfifo(&path.join("i.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    world.check(
        &["a=a.x", "b=b.x"],
        &[
            "h.yaml: this is no regular file; move it out",
            "i.yaml: this is no regular file; move it out",
        ],
    );
}
