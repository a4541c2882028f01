//! `cowsnap overlay prune`: layers by the rules of retention, and what lies on what.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::ground::ground;
use crate::overlay::lab::{Lab, utf8};

/// A layer with one file, committed from the overlay `overlay` of mode kernel that shows.
fn commit(lab: &Lab, overlay: &str, name: &str) {
    fs::write(lab.at(overlay).join(name), name).expect("written");
    lab.ok(&["commit", overlay, name]);
}

fn make(lab: &Lab, overlay: &str, base: &str) {
    lab.ok(&[
        "create",
        overlay,
        "--base",
        base,
        "--at",
        utf8(&lab.at(overlay)),
        "--mode",
        "kernel",
        "--owner",
        "none",
    ]);
}

/// `ci@a`, upon it `ci@b`, and `ci@c`, `ci@d`, `ci@e`, which lie on nothing else; in that order. The overlay `ci` is gone.
fn five() -> Lab {
    let lab = Lab::new();
    make(&lab, "ci", utf8(&lab.base()));
    for name in ["a", "b"] {
        commit(&lab, "ci", name);
    }
    for name in ["c", "d", "e"] {
        lab.ok(&["reset", "ci", "--to-base"]);
        commit(&lab, "ci", name);
    }
    lab.ok(&["destroy", "ci"]);
    lab
}

fn layers(lab: &Lab) -> Vec<String> {
    let listed = lab.json(&["list", "--layers"]);
    let layers = listed["layers"].as_array().expect("a list");
    let mut labels: Vec<_> =
        layers.iter().map(|layer| layer["label"].as_str().expect("a label").to_owned()).collect();
    labels.sort();
    labels
}

#[test]
fn layers_are_pruned_by_the_rules_and_what_is_used_or_held_stays_with_what_it_lies_on() {
    ground!("overlay");
    let lab = five();
    make(&lab, "user", "ci@c");
    lab.ok(&["hold", "tag", "ci@b"]);
    let explained = lab.ok(&["prune", "ci", "--keep-last", "1", "--explain"]);
    let whys: Vec<_> = explained.lines().skip(1).map(|line| line.rsplit("  ").next().expect("why")).collect();
    let expected = [
        "below layer ci@b",
        "held by tag",
        "below overlay user",
        "not among the last 1",
        "the newest; last 1",
    ];
    assert_eq!(whys, expected, "{explained}");
    let value = lab.json(&["prune", "ci", "--keep-last", "1", "--explain"]);
    assert_eq!(value["overlays"][0]["layers"][0]["kept_by"][0]["rule"], "below");
    let foreseen = lab.ok(&["prune", "ci", "--keep-last", "1", "--dry-run"]);
    assert!(foreseen.starts_with("would destroy ci@d\nci: 1 of 5 would go; they take "), "{foreseen}");
    assert_eq!(layers(&lab).len(), 5, "nothing went yet");
    let done = lab.json(&["prune", "ci", "--keep-last", "1"]);
    assert_eq!(
        (&done["overlays"][0]["destroyed"][0], &done["overlays"][0]["kept"]),
        (&"d".into(), &4.into())
    );
    assert_eq!(layers(&lab), ["ci@a", "ci@b", "ci@c", "ci@e"]);
    assert_eq!(lab.ok(&["prune", "--all", "--keep-last", "1"]), "ci: 4 kept\n");
    lab.ok(&["destroy", "user"]);
    lab.ok(&["release", "tag", "ci@b"]);
    let done = lab.ok(&["prune", "ci", "--keep-last", "1"]);
    assert_eq!(done, "destroyed ci@c\ndestroyed ci@b\ndestroyed ci@a\nci: 3 destroyed, 1 kept\n");
    lab.ok(&["verify", "--all"]);
    lab.assert_nothing_left();
}

#[test]
fn layers_of_one_name_are_kept_for_those_of_another() {
    ground!("overlay");
    let lab = five();
    make(&lab, "other", "ci@d");
    commit(&lab, "other", "x");
    commit(&lab, "other", "y");
    lab.ok(&["destroy", "other"]);
    lab.ok(&["prune", "ci", "--keep-last", "1"]);
    assert_eq!(layers(&lab), ["ci@d", "ci@e", "other@x", "other@y"], "other is not judged, and stays");
    lab.ok(&["prune", "--all", "--keep-last", "1"]);
    assert_eq!(layers(&lab), ["ci@d", "ci@e", "other@x", "other@y"], "y is the newest, and lies on x and d");
    lab.ok(&["destroy", "other@y", "other@x"]);
    lab.ok(&["prune", "--all", "--keep-last", "1"]);
    assert_eq!(layers(&lab), ["ci@e"]);
}

#[test]
fn what_may_lie_below_an_unreadable_layer_that_is_needed_stays() {
    ground!("overlay");
    for held in [false, true] {
        let lab = five();
        let listed = lab.json(&["list", "--layers"]);
        let found =
            listed["layers"].as_array().and_then(|layers| layers.iter().find(|l| l["label"] == "ci@b"));
        let id = found.and_then(|layer| layer["id"].as_str()).expect("an id").to_owned();
        if held {
            lab.ok(&["hold", "tag", "ci@b"]);
        }
        fs::write(lab.home_dir().join("layers").join(&id).join("layer.json"), "{").expect("written");
        let explained = lab.ok(&["prune", "ci", "--keep-last", "1", "--explain"]);
        let why = format!("below perhaps the damaged layer {id}");
        assert_eq!(explained.contains(&why), held, "{explained}");
        lab.ok(&["prune", "ci", "--keep-last", "1"]);
        assert_eq!(layers(&lab).contains(&"ci@a".to_owned()), held, "{:?}", layers(&lab));
    }
}

#[test]
fn without_a_rule_or_with_a_misspelt_word_nothing_goes() {
    ground!("overlay");
    let lab = five();
    lab.fails(2, &["prune", "ci"]);
    lab.fails(2, &["prune", "ci", "--min-age", "1d"]);
    lab.fails(2, &["prune", "--keep-last", "1"]);
    lab.fails(2, &["prune", "none", "--keep-last", "1"]);
    let why = lab.fails(3, &["prune", "ci", "--keep-name", "seeded-*"]);
    assert!(why.contains("no name that is to be kept"), "{why}");
    lab.fails(3, &["prune", "ci", "--keep-name", "seeded-*", "--dry-run"]);
    assert_eq!(layers(&lab).len(), 5);
    assert_eq!(lab.ok(&["prune", "ci", "--keep-last", "1", "--min-age", "1d"]), "ci: 5 kept\n");
    lab.ok(&["prune", "ci", "--keep-name", "b"]);
    assert_eq!(layers(&lab), ["ci@a", "ci@b", "ci@e"]);
}

#[test]
fn one_that_something_was_put_upon_meanwhile_is_named_and_the_others_go() {
    ground!("overlay");
    let lab = five();
    let home = lab.home();
    let seen = cowsnap::exec::overlay::prune::Seen::of(&home, None).expect("read");
    make(&lab, "late", "ci@d");
    lab.ok(&["hold", "late", "ci@c"]);
    lab.ok(&["destroy", "ci@b"]);
    let policy = cowsnap::plan::retain::Retention { last: 1, ..Default::default() };
    let now = jiff::Zoned::now();
    let done = seen.prune(&home, &policy, &now).remove(0);
    let names =
        |ids: &[cowsnap::model::VersionRef]| ids.iter().map(|id| id.name.to_string()).collect::<String>();
    assert_eq!(
        (names(&done.destroyed), names(&done.gone), names(&done.held)),
        ("a".into(), "b".into(), "c".into())
    );
    assert!(matches!(&done.failed[..], [(id, _)] if id.name.as_str() == "d") && done.stopped.is_none());
    assert_eq!(layers(&lab), ["ci@c", "ci@d", "ci@e"]);
}

/// Whatever a killed run did, the next one ends where one that was not killed ends.
#[test]
fn kill_9_at_any_time_is_survived_and_gone_on_with() {
    ground!("overlay");
    let args = ["prune", "--all", "--keep-last", "1"];
    let lab = five();
    let started = Instant::now();
    lab.ok(&args);
    let (whole, left) = (started.elapsed(), layers(&lab));
    const POINTS: u32 = 8;
    for point in 0..POINTS {
        let lab = five();
        let mut child =
            lab.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(whole * point / POINTS + Duration::from_micros(200));
        child.kill().expect("killed");
        child.wait().expect("ended");
        // A layer that is there lies on layers that are there, and is whole.
        lab.ok(&["verify", "--all"]);
        let upon = layers(&lab);
        assert!(!upon.contains(&"ci@b".into()) || upon.contains(&"ci@a".into()), "{upon:?}");
        lab.ok(&args);
        assert_eq!(layers(&lab), left, "{point}");
        lab.assert_nothing_left();
    }
}
