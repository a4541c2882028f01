//! A target that went another way is not overwritten.

use std::fs;

use cowsnap::endpoint::zfs::exchanges;
use cowsnap::model::Guid;

use super::super::ground::zfs;
use super::super::lab::only_doctor;
use super::{Lab, get, noise};
use crate::ground::{ground, run};

impl Lab {
    /// Writes to the target, which somebody made writable.
    fn diverge(&self, file: &str) {
        zfs(&["set", "readonly=off", &self.target]);
        let dir = self.pool.outside().join("target");
        fs::create_dir_all(&dir).expect("a directory");
        let dir = dir.to_str().expect("utf-8");
        run("mount", &["-t", "zfs", "-o", "zfsutil", &self.target, dir]);
        fs::write(format!("{dir}/{file}"), "local").expect("write");
        run("umount", &[dir]);
    }

    fn asides(&self) -> Vec<String> {
        let listed = zfs(&["list", "-H", "-o", "name", "-r", &self.pool.full("backup")]);
        listed
            .lines()
            .filter(|line| line.contains(".conflict-") || line.contains(".incoming-"))
            .map(str::to_owned)
            .collect()
    }
}

#[test]
fn what_went_another_way_is_told_with_the_evidence_and_set_aside_with_all_that_it_has() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 200_000));
    let full = lab.send("full", &[&lab.snapshot("one")]);
    lab.receive(&full);
    lab.write("g", b"more");
    let increment = lab.send("increment", &["-i", &lab.snapshot("two")]);
    zfs(&["create", "-o", "canmount=off", &format!("{}/inside it", lab.target)]);
    lab.diverge("z");
    zfs(&["snapshot", &format!("{}@local:1", lab.target)]);
    for (of, mark) in [("one", "mark:1"), ("local:1", "local")] {
        zfs(&["bookmark", &format!("{}@{of}", lab.target), &format!("{}#{mark}", lab.target)]);
    }
    let marked = get(&format!("{}#mark:1", lab.target), "guid");

    let told = lab.fails(&["receive", &lab.target, &increment], 3);
    assert!(told.contains("it went another way since @one; it has @local:1; "), "{told}");
    assert!(told.contains(" bytes were written to it") && told.contains("--keep-conflict"), "{told}");
    assert!(lab.asides().is_empty() && lab.snapshots(&lab.target) == ["one", "local:1"]);

    // A stream that is damaged changes nothing, though all of it but its end was applied.
    let mut damaged = fs::read(&increment).expect("read");
    let at = damaged.len() - 90;
    damaged[at] ^= 1;
    assert_eq!(lab.receive_bytes(&["--keep-conflict"], &damaged).status.code(), Some(4));
    assert!(lab.asides().is_empty() && lab.snapshots(&lab.target) == ["one", "local:1"]);

    lab.does(&["receive", "--keep-conflict", &lab.target, &increment]);
    lab.assert_same("two");
    let [aside] = &lab.asides()[..] else { panic!("{:?}", lab.asides()) };
    assert_eq!(lab.snapshots(&lab.target), ["one", "two"]);
    assert_eq!(lab.snapshots(aside), ["local:1"]);
    assert!(lab.content(&format!("{aside}@local:1")).keys().any(|name| name.to_str() == Some("z")));
    assert_eq!(get(aside, "origin"), format!("{}@one", lab.target));
    assert_eq!((get(&lab.target, "readonly"), get(&lab.target, "origin")), ("on".into(), "-".into()));
    // What was inside is inside what has the name.
    assert_eq!(get(&format!("{}/inside it", lab.target), "type"), "filesystem");
    // What is marked goes with the history that it is of.
    let marks = |of: &str| zfs(&["list", "-H", "-t", "bookmark", "-d", "1", "-o", "name", "-s", "name", of]);
    assert_eq!(marks(&lab.target), format!("{}#mark:1\n", lab.target));
    assert_eq!(get(&format!("{}#mark:1", lab.target), "guid"), marked);
    assert_eq!(marks(aside), format!("{aside}#local\n"));
    // The chain goes on.
    lab.write("h", b"and more");
    let next = lab.send("next", &["-i", &lab.snapshot("three")]);
    lab.receive(&next);
    lab.assert_same("three");
}

#[test]
fn a_full_stream_onto_a_dataset_is_refused_or_takes_its_place() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", b"text");
    let full = lab.send("full", &[&lab.snapshot("one")]);
    zfs(&["create", "-o", "canmount=off", &lab.target]);
    zfs(&["snapshot", &format!("{}@its own", lab.target)]);
    let told = lab.fails(&["receive", &lab.target, &full], 3);
    assert!(
        told.contains("a full stream makes a new dataset, and this one is there with 1 snapshots"),
        "{told}"
    );
    lab.does(&["receive", "--keep-conflict", &lab.target, &full]);
    lab.assert_same("one");
    let [aside] = &lab.asides()[..] else { panic!("{:?}", lab.asides()) };
    assert_eq!(lab.snapshots(aside), ["its own"]);
}

#[test]
fn an_exchange_that_was_broken_off_is_completed_by_whoever_looks_for_the_dataset() {
    ground!("zfs");
    let _alone = only_doctor();
    let lab = Lab::new();
    lab.write("f", b"text");
    let full = lab.send("full", &[&lab.snapshot("one")]);
    lab.receive(&full);
    lab.diverge("z");
    lab.write("g", b"more");
    let increment = lab.send("increment", &["-i", &lab.snapshot("two")]);
    lab.does(&["receive", "--keep-conflict", &lab.target, &increment]);
    let [aside] = &lab.asides()[..] else { panic!("{:?}", lab.asides()) };
    // As it was between the two renames.
    let incoming = aside.replace(".conflict-", ".incoming-");
    let was = Guid::of_zfs(get(aside, "guid").parse().expect("a number"));
    let intent =
        serde_json::json!({ "dataset": lab.target, "was": was, "aside": aside, "incoming": incoming });
    zfs(&["rename", &lab.target, &incoming]);
    zfs(&["set", &format!("cowsnap:arriving={intent}"), &incoming]);
    // What is said on one of them alone may be anybody's word.
    lab.fails(&["list", &lab.target], 2);
    let told = lab.fails(&["doctor", "--fix"], 3);
    assert!(told.contains("cowsnap:arriving says") && told.contains(&incoming), "{told}");
    assert_eq!(lab.asides(), [aside.as_str(), &incoming]);
    zfs(&["set", &format!("cowsnap:gives-way={intent}"), aside]);
    let listed = lab.does(&["list", &lab.target]);
    assert!(listed.contains("@one") && listed.contains("@two"), "{listed}");
    assert_eq!(lab.asides(), std::slice::from_ref(aside));
    assert_eq!(zfs(&["get", "-H", "-s", "local", "-o", "value", "cowsnap:arriving", &lab.target]), "");
    // After both renames nobody notices by the name that something is left to do. The doctor does.
    zfs(&["set", &format!("cowsnap:arriving={intent}"), &lab.target]);
    zfs(&["set", &format!("cowsnap:gives-way={intent}"), aside]);
    zfs(&["create", "-o", "canmount=off", &format!("{aside}/inside it")]);
    let found = exchanges(Some(&lab.pool.name)).expect("listed");
    let [exchange] = &found[..] else { panic!("{found:?}") };
    assert_eq!(
        (exchange.dataset().as_str(), exchange.aside().as_str()),
        (lab.target.as_str(), aside.as_str())
    );
    let told = lab.fails(&["doctor"], 3);
    assert!(told.contains(&format!("called '{aside}'")) && told.contains(&lab.target), "{told}");
    assert!(exchange.settle().expect("settled"));
    assert_eq!(exchanges(Some(&lab.pool.name)).expect("listed"), []);
    assert_eq!(get(&format!("{}/inside it", lab.target), "type"), "filesystem");
    assert_eq!(lab.snapshots(aside).len() + lab.snapshots(&lab.target).len(), 2);
}

#[test]
fn a_base_that_is_not_here_is_told() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", b"text");
    let one = lab.snapshot("one");
    lab.snapshot("two");
    let three = lab.snapshot("three");
    let increment = lab.send("increment", &["--from", "@two", &three]);
    let told = lab.fails(&["receive", &lab.target, &increment], 3);
    assert!(told.contains("which is not here") && told.contains("send it in full"), "{told}");
    lab.receive(&lab.send("full", &[&one]));
    let told = lab.fails(&["receive", &lab.target, &increment], 3);
    assert!(told.contains("which is not here") && told.contains("--from '@one'"), "{told}");
    let told = lab.fails(&["receive", &lab.pool.full("nowhere/here"), &lab.file("full")], 2);
    assert!(told.contains("the place for"), "{told}");
    let told = lab.fails(&["send", &one, "--from", "@two", "-o", &lab.file("no")], 3);
    assert!(told.contains("its base @two is not older"), "{told}");
}
