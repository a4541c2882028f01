//! Records of layers and overlays that are damaged: named, in nobody's way, and done away with when that is asked for.

use std::fs;
use std::path::PathBuf;

use crate::ground::ground;
use crate::overlay::lab::{Lab, read, utf8};

/// An overlay with the layers `a` and, upon it, `b`; nothing lies on `b` but the overlay, which goes.
fn two_layers() -> Lab {
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    for name in ["a", "b"] {
        fs::write(at.join(name), name).expect("written");
        lab.ok(&["commit", "ci", name]);
    }
    lab.ok(&["destroy", "ci"]);
    lab
}

/// The id of a layer.
fn id_of(lab: &Lab, label: &str) -> String {
    let listed = lab.json(&["list", "--layers"]);
    let layers = listed["layers"].as_array().expect("a list");
    let layer = layers.iter().find(|layer| layer["label"] == label).expect("it is there");
    layer["id"].as_str().expect("an id").to_owned()
}

fn record_of(lab: &Lab, id: &str) -> PathBuf {
    lab.home_dir().join("layers").join(id).join("layer.json")
}

/// That others are made, committed, reset and destroyed.
fn assert_others_go_on(lab: &Lab) {
    let at = lab.create("other", &["--mode", "kernel"]);
    fs::write(at.join("new"), "new").expect("written");
    lab.ok(&["commit", "other", "o"]);
    lab.ok(&["reset", "other"]);
    lab.ok(&["reap"]);
    lab.ok(&["destroy", "other"]);
    lab.ok(&["destroy", "other@o"]);
}

#[test]
fn a_damaged_layer_is_named_and_only_what_it_lies_on_is_kept_for_it() {
    ground!("overlay");
    let lab = two_layers();
    let id = id_of(&lab, "ci@b");
    let record = record_of(&lab, &id);
    // A newer version's record looks like this to us, too.
    fs::write(&record, read(&record).replace("\"seal\":\"", "\"seal\":\"0")).expect("written");
    assert_others_go_on(&lab);
    assert!(lab.fails(4, &["destroy", "ci@b"]).contains("its seal does not match"));
    let why = lab.fails(3, &["destroy", "ci@a"]);
    let hint = format!("cowsnap overlay destroy --damaged '{id}'");
    assert!(why.contains(&format!("the damaged layer {id} builds on it")) && why.contains(&hint), "{why}");
    let said = crate::overlay::lab::text(&lab.run(&["list", "--layers"]));
    assert!(said.contains("its seal does not match") && said.contains(&format!("--damaged {id}")), "{said}");
    assert_eq!(lab.ok(&["destroy", "--damaged", &id, "--dry-run"]), format!("would destroy {id}\n"));
    assert!(record.exists());
    lab.ok(&["destroy", "--damaged", &id]);
    assert!(!record.exists());
    lab.ok(&["destroy", "ci@a"]);
    lab.assert_nothing_left();
}

#[test]
fn a_layer_of_which_nothing_can_be_read_keeps_nothing() {
    ground!("overlay");
    for text in [Some("{"), Some("{}"), None] {
        let lab = two_layers();
        lab.ok(&["hold", "tag", "ci@b"]);
        let id = id_of(&lab, "ci@b");
        let record = record_of(&lab, &id);
        match text {
            Some(text) => fs::write(&record, text).expect("written"),
            None => fs::remove_file(&record).expect("removed"),
        }
        assert_eq!(lab.json(&["list", "--layers"])["damaged"].as_array().map(Vec::len), Some(1), "{text:?}");
        assert_others_go_on(&lab);
        // Another one may have its name: nobody can tell.
        let at = lab.create("ci", &["--mode", "kernel"]);
        fs::write(at.join("b"), "b").expect("written");
        lab.ok(&["commit", "ci", "b"]);
        lab.ok(&["destroy", "ci"]);
        lab.ok(&["destroy", "ci@b", "ci@a"]);
        lab.ok(&["destroy", "--damaged", &id]);
        lab.assert_nothing_left();
    }
}

#[test]
fn only_what_is_damaged_is_destroyed_as_such() {
    ground!("overlay");
    let lab = two_layers();
    let [a, b] = ["ci@a", "ci@b"].map(|label| id_of(&lab, label));
    let why = lab.fails(3, &["destroy", "--damaged", &a]);
    assert!(why.contains("it can be read what it is, ci@a"), "{why}");
    // Of nobody, whatever was drawn: its first digit is another one.
    let other = format!("{}{}", if a.starts_with('1') { '2' } else { '1' }, &a[1..]);
    assert_eq!(lab.run(&["destroy", "--damaged", &other]).status.code(), Some(2));
    fs::write(record_of(&lab, &a), "{").expect("written");
    let why = lab.fails(3, &["destroy", "--damaged", &a]);
    assert!(why.contains("layer ci@b builds on it"), "{why}");
    fs::write(record_of(&lab, &b), "{").expect("written");
    lab.ok(&["destroy", "--damaged", &a, "--damaged", &b]);
    assert_eq!(fs::read_dir(lab.home_dir().join("layers")).expect("listed").count(), 0);
}

#[test]
fn an_overlay_whose_record_is_damaged_keeps_what_it_says_or_all_as_long_as_it_shows() {
    ground!("overlay");
    let lab = two_layers();
    let (at, record) = (lab.at("x"), lab.home_dir().join("overlays/x/overlay.json"));
    lab.ok(&["create", "x", "--base", "ci@a", "--at", utf8(&at), "--mode", "kernel"]);
    let whole = read(&record);
    fs::write(&record, whole.replace("\"mode\":\"kernel\"", "\"mode\":\"kernal\"")).expect("written");
    lab.ok(&["destroy", "ci@b"]);
    assert!(lab.fails(3, &["destroy", "ci@a"]).contains("overlay x builds on it"));
    fs::write(&record, "").expect("written");
    let why = lab.fails(3, &["destroy", "ci@a"]);
    assert!(why.contains("overlay x, whose record can not be read, perhaps builds on it"), "{why}");
    lab.create("other", &["--mode", "kernel"]);
    lab.ok(&["destroy", "other"]);
    crate::ground::run("umount", &[utf8(&at)]);
    lab.ok(&["destroy", "ci@a"]);
    lab.ok(&["destroy", "x"]);
    fs::remove_dir(at).expect("nobody knows who made it");
    lab.assert_nothing_left();
}

#[test]
fn an_overlay_that_can_not_be_opened_keeps_no_other_from_being_made_or_reaped() {
    ground!("overlay");
    let lab = Lab::new();
    lab.create("ci", &["--mode", "kernel", "--owner", "none"]);
    for name in ["frozen", "layers.json"] {
        fs::write(lab.home_dir().join("overlays/ci/1/1").join(name), "").expect("written");
    }
    let why = lab.fails(7, &["reap"]);
    assert!(why.contains("ci: ") && why.contains("layers.json"), "{why}");
    lab.create("other", &["--mode", "kernel"]);
    lab.ok(&["destroy", "ci", "other"]);
    lab.assert_nothing_left();
}

/// A directory is read no better than a bad sector.
#[test]
fn a_record_that_the_disk_does_not_give_back_is_damaged_and_can_be_done_away_with() {
    ground!("overlay");
    let lab = two_layers();
    let id = id_of(&lab, "ci@b");
    let record = record_of(&lab, &id);
    fs::remove_file(&record).expect("removed");
    fs::create_dir(&record).expect("made");
    assert_eq!(lab.json(&["list", "--layers"])["damaged"].as_array().map(Vec::len), Some(1));
    assert_others_go_on(&lab);
    lab.ok(&["destroy", "--damaged", &id]);
    lab.create("x", &["--mode", "kernel"]);
    let record = lab.home_dir().join("overlays/x/overlay.json");
    fs::remove_file(&record).expect("removed");
    fs::create_dir(&record).expect("made");
    let at = lab.create("other", &["--mode", "kernel"]);
    fs::write(at.join("new"), "new").expect("written");
    lab.ok(&["commit", "other", "o"]);
    lab.ok(&["destroy", "other"]);
    let why = lab.fails(3, &["destroy", "other@o"]);
    assert!(why.contains("whose record can not be read"), "{why}");
    lab.ok(&["destroy", "x"]);
    lab.ok(&["destroy", "other@o", "ci@a"]);
    assert_eq!(lab.mounts(), Vec::<PathBuf>::new());
}

#[test]
fn a_layer_of_a_later_version_is_named_and_not_destroyed_as_damaged() {
    ground!("overlay");
    let lab = two_layers();
    let id = id_of(&lab, "ci@b");
    let record = record_of(&lab, &id);
    let mut later: serde_json::Value = serde_json::from_str(&read(&record)).expect("JSON");
    later["format"] = 9.into();
    later.as_object_mut().expect("an object").remove("seal");
    let text = later.to_string();
    let sealed = text.strip_suffix('}').expect("an object");
    let seal = blake3::Hash::from_bytes(blake3::derive_key("cowsnap layer.json", sealed.as_bytes()));
    fs::write(&record, format!("{sealed},\"seal\":\"{}\"}}\n", seal.to_hex())).expect("written");
    let said = crate::overlay::lab::text(&lab.run(&["list", "--layers"]));
    assert!(said.contains("it has format 9") && !said.contains("--damaged"), "{said}");
    assert_others_go_on(&lab);
    assert!(lab.fails(2, &["destroy", "--damaged", &id]).contains("it has format 9"));
    let why = lab.fails(3, &["destroy", "ci@a"]);
    assert!(why.contains("which a later version made") && !why.contains("--damaged"), "{why}");
    assert!(record.exists());
}
