//! What `--json` says, field by field, as docs/CLI.md has it.

use std::fs;

use serde_json::{Value, json};

use super::lab::{Lab, text, utf8};
use crate::ground::{self, ground};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("an object: {value}")).keys().map(String::as_str).collect()
}

/// Asserts that an object has these fields, and no others.
fn assert_keys(value: &Value, wanted: &[&str]) {
    let (mut found, mut wanted) = (keys(value), wanted.to_vec());
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{value}");
}

const OVERLAY: [&str; 9] = ["name", "mode", "why", "base", "layers", "copies", "owner", "durable", "created"];
const LAYER: [&str; 11] =
    ["id", "label", "overlay", "name", "parent", "base", "created", "entries", "bytes", "blocks", "holds"];

fn assert_overlay(value: &Value, name: &str, mode: &str) {
    assert_keys(value, &[&OVERLAY[..], &["state"]].concat());
    assert_eq!((&value["name"], &value["mode"]), (&json!(name), &json!(mode)));
    assert_keys(&value["base"], &["kind", "path", "version"]);
    for copy in value["copies"].as_array().expect("copies") {
        assert_keys(copy, &["number", "at", "generation"]);
    }
    assert!(value["why"][0].is_string() && value["durable"].is_boolean(), "{value}");
    assert!(is_time(&value["created"]), "{value}");
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok())
}

fn is_hex(value: &Value, digits: usize) -> bool {
    value.as_str().is_some_and(|text| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Asserts that it is a layer as it is listed, of that name.
fn assert_layer(lab: &Lab, value: &Value, label: &str) {
    assert_keys(value, &LAYER);
    assert_eq!(value["label"], label);
    let (overlay, name) = label.split_once('@').expect("both");
    assert_eq!((&value["overlay"], &value["name"]), (&json!(overlay), &json!(name)));
    assert_keys(&value["base"], &["kind", "path", "version"]);
    assert!(is_hex(&value["id"], 32) && is_time(&value["created"]), "{value}");
    assert!(value["entries"].is_u64() && value["bytes"].is_u64() && value["blocks"].is_boolean(), "{value}");
    let listed = lab.json(&["list", "--layers"]);
    let same = listed["layers"].as_array().expect("layers").iter().find(|one| one["label"] == label);
    assert_eq!(same, Some(value));
}

#[test]
fn layers_committed_held_verified_exported_and_imported() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    fs::write(at.join("file"), "first").expect("written");
    let first = lab.json(&["commit", "ci", "first"]);
    assert_keys(&first, &["layer"]);
    assert_layer(&lab, &first["layer"], "ci@first");
    assert_eq!((&first["layer"]["parent"], &first["layer"]["holds"]), (&Value::Null, &json!([])));
    fs::write(at.join("new"), "new").expect("written");
    let second = lab.json(&["commit", "ci", "second"]);
    assert_layer(&lab, &second["layer"], "ci@second");
    assert_eq!(second["layer"]["parent"], first["layer"]["id"]);
    assert_eq!(second["layer"]["entries"], 2, "the root and a file");

    let held = lab.json(&["hold", "mine", "ci@first", "ci@second"]);
    assert_eq!(held, json!({ "tag": "mine", "held": ["ci@first", "ci@second"] }));
    assert_eq!(lab.json(&["list", "--layers"])["layers"][0]["holds"], json!(["mine"]));
    let released = lab.json(&["release", "mine", "ci@second", "ci@first"]);
    assert_eq!(released, json!({ "tag": "mine", "released": ["ci@second", "ci@first"] }));
    assert_eq!(lab.json(&["verify", "--all"]), json!({ "verified": ["ci@first", "ci@second"] }));
    assert_eq!(lab.json(&["verify", "ci@second"]), json!({ "verified": ["ci@second"] }));

    let file = lab.root().join("second.cow");
    let exported = lab.json(&["export", "ci@second", utf8(&file)]);
    assert_keys(&exported, &["layer", "id", "file", "bytes", "blake3"]);
    assert_eq!((&exported["layer"], &exported["id"]), (&json!("ci@second"), &second["layer"]["id"]));
    assert_eq!(exported["file"], utf8(&file));
    let unwrapped = ground::cowsnap(&lab.root().join("state"))
        .args(["stream", "unwrap", utf8(&file)])
        .output()
        .expect("it runs");
    assert!(unwrapped.status.success(), "{}", text(&unwrapped));
    assert_eq!(exported["bytes"], fs::metadata(&file).expect("there").len());
    assert_eq!(exported["blake3"], blake3::hash(&unwrapped.stdout).to_hex().as_str());

    lab.ok(&["reset", "ci", "--to", "first"]);
    assert_eq!(lab.json(&["destroy", "ci@second"]), json!({ "destroyed": ["ci@second"] }));
    let imported = lab.json(&["import", utf8(&file), "--as", "ci@third"]);
    assert_keys(&imported, &["layer"]);
    assert_layer(&lab, &imported["layer"], "ci@third");
    for same in ["id", "parent", "entries"] {
        assert_eq!(imported["layer"][same], second["layer"][same], "{same}");
    }
    let planned = lab.json(&["destroy", "ci@third", "--dry-run"]);
    assert_eq!(planned, json!({ "dry_run": true, "would_destroy": ["ci@third"] }));
    assert_eq!(
        lab.json(&["destroy", "ci", "ci@third", "ci@first"]),
        json!({ "destroyed": ["ci", "ci@third", "ci@first"] })
    );
    lab.assert_nothing_left();
}

#[test]
fn commands_run_and_overlays_mounted_and_destroyed() {
    ground!("overlay");
    let lab = Lab::new();
    let base = lab.base();
    let run = |more: &[&str], script: &str| {
        let args = ["--json", "run", "-q", "--mode", "kernel", "--base", utf8(&base)];
        let output = lab.run(&[&args[..], more, &["--", "sh", "-c", script]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said.lines().last().unwrap_or_default();
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_keys(&value, &["overlay", "exit_code", "ended", "kept"]);
        assert_overlay(&value["overlay"], "run-1", "kernel");
        (String::from_utf8(output.stdout).expect("the command's"), value)
    };
    let (out, ran) = run(&[], "echo out; sleep 600 >/dev/null 2>&1 & exit 7");
    assert_eq!(out, "out\n", "standard output is the command's");
    assert_eq!((&ran["exit_code"], &ran["ended"], &ran["kept"]), (&json!(7), &json!(1), &Value::Null));
    let (_, ran) = run(&["--keep-on-failure"], "echo x > new; kill -9 $$");
    assert_eq!((&ran["exit_code"], &ran["ended"]), (&json!(137), &json!(0)));
    let kept = ran["kept"].as_str().expect("a path");
    assert_eq!(super::lab::read(format!("{kept}/new")), "x\n");
    assert_eq!(lab.json(&["destroy", "run-1"]), json!({ "destroyed": ["run-1"] }));

    let at = lab.at("ci");
    let made = lab.json(&[
        "create",
        "ci",
        "--base",
        utf8(&base),
        "--at",
        utf8(&at),
        "--mode",
        "kernel",
        "--durable",
    ]);
    assert_overlay(&made["overlay"], "ci", "kernel");
    assert_eq!((&made["overlay"]["owner"], &made["overlay"]["durable"]), (&Value::Null, &json!(true)));
    assert_eq!(lab.json(&["mount", "ci"]), json!({ "mounted": [] }), "it shows");
    ground::run("umount", &[utf8(&at)]);
    assert_eq!(lab.json(&["mount", "ci"]), json!({ "mounted": [utf8(&at)] }));
    assert_eq!(
        lab.json(&["destroy", "ci", "--dry-run"]),
        json!({ "dry_run": true, "would_destroy": ["ci"] })
    );
    assert_eq!(lab.json(&["destroy", "--all"]), json!({ "destroyed": ["ci"] }));
    assert_eq!(lab.json(&["destroy", "--all"]), json!({ "destroyed": [] }));
    lab.assert_nothing_left();
}
