//! What `replicate --dry-run` says before anything is done.

use std::path::Path;
use std::process::Output;

use cowsnap::endpoint::History;
use serde_json::Value;

use super::lab::{Lab, cut, full, noise};
use crate::ground::{self, ground};

fn run(lab: &Lab, args: &[&str]) -> Output {
    let state = lab.source.outside().join("state");
    ground::cowsnap(&state).env("COWSNAP_SSH", lab.shim()).arg("replicate").args(args).output().unwrap()
}

fn json(lab: &Lab, args: &[&str]) -> Value {
    let output = run(lab, &[&["--json"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// What is said is about what is sent then, in full, by increments and behind what is there already; a peer's is not known.
#[test]
fn how_much_would_be_sent_is_foretold() {
    ground!("btrfs");
    let lab = Lab::new();
    let (from, to) = (text(&lab.source.path().join("data")), text(&lab.target.path().join("copy")));
    lab.write("a", &noise(1, 6_000_000));
    let one = lab.snapshot("one");
    let bytes = |foretold: &Value, nth: usize| foretold["replicated"][0]["to_send"][nth]["bytes"].clone();
    let is_about = |said: &Value, really: u64| {
        let said = said.as_u64().unwrap();
        assert!(said > really / 2 && said < really * 2, "{said} was foretold, and it is {really}");
    };
    let dry = json(&lab, &["--dry-run", &from, &to]);
    is_about(&bytes(&dry, 0), 6_000_000);
    assert_eq!(dry["replicated"][0]["to_send"][0]["base"], Value::Null, "{dry}");
    let said = run(&lab, &["--dry-run", &from, &to]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("would send @one in full, about "), "{said:?}");
    // Some of it is there.
    let part = format!("{} | {}", cut(4_500_000), lab.serve("--checkpoint 1M"));
    let peer = lab.target_peer(&part);
    super::lab::bring(&cowsnap::exec::transfer::Place::Here(lab.from()), &peer, &full(&one)).unwrap_err();
    ground::waits("who received it to be gone", || {
        lab.to().inventory().unwrap().partials.iter().all(|partial| !partial.live)
    });
    let rest = json(&lab, &["--dry-run", &from, &to]);
    assert_eq!(rest["replicated"][0]["steps"][1]["resume"], true, "{rest}");
    let (all, rest) = (bytes(&dry, 0).as_u64().unwrap(), bytes(&rest, 0).as_u64().unwrap());
    assert!(rest + 1_000_000 < all, "{rest} of {all}");
    let done = json(&lab, &[&from, &to]);
    assert!(done["replicated"][0].get("to_send").is_none(), "{done}");
    for (name, len) in [("two", 300_000), ("three", 900_000)] {
        lab.write(name, &noise(2, len));
        lab.snapshot(name);
    }
    let dry = json(&lab, &["--dry-run", "-I", &from, &to]);
    is_about(&bytes(&dry, 0), 300_000);
    is_about(&bytes(&dry, 1), 900_000);
    assert_eq!(dry["replicated"][0]["to_send"][0]["base"], one.id.guid.to_string());
    // A peer is asked for nothing but the stream.
    let serve = lab.serve("").replace('\'', "");
    let pull = ["--dry-run", "--remote-command", &serve, &format!("ssh://there/{from}"), &to];
    assert_eq!(bytes(&json(&lab, &pull), 0), Value::Null);
    let said = run(&lab, &pull);
    assert!(String::from_utf8_lossy(&said.stdout).contains("nobody can tell how much"), "{said:?}");
}

/// A conflict is foretold as the run itself tells of it.
#[test]
fn what_somebody_has_to_decide_is_foretold() {
    ground!("btrfs");
    let lab = Lab::new();
    let from = text(&lab.source.path().join("data"));
    lab.write("a", b"some");
    lab.snapshot("one");
    let snapshot = |dataset: &Path, name: &str| {
        ground::run(env!("CARGO_BIN_EXE_cowsnap"), &["snapshot", dataset.to_str().unwrap(), "--name", name]);
    };
    let other = lab.target.subvolume("other");
    snapshot(&other, "own");
    let taken = lab.target.path().join("taken");
    assert!(run(&lab, &[&from, &text(&taken)]).status.success());
    ground::run(env!("CARGO_BIN_EXE_cowsnap"), &["create", taken.to_str().unwrap()]);
    snapshot(&taken, "two");
    lab.snapshot("two");
    let kept = lab.target.path().join("kept");
    assert!(run(&lab, &[&from, &text(&kept)]).status.success());
    let two = lab.from().inventory().unwrap().newest().unwrap().clone();
    for tag in lab.from().inventory().unwrap().holds_of(&two.id) {
        lab.from().release(&two.id, tag).unwrap();
    }
    // Somebody destroys what the next increment was to build upon.
    lab.from().destroy(&two.id).unwrap();
    lab.snapshot("two");
    for (target, why) in [
        (&kept, "@two is what both had, and the source has it no longer: the target has @two"),
        (&other, "no version in common: the target has @own"),
        (&taken, "another version that is called @two"),
    ] {
        let told = [&["--dry-run"][..], &[]].map(|dry| {
            let output = run(&lab, &[dry, &[&from, &text(target)]].concat());
            assert_eq!(output.status.code(), Some(3), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        });
        assert!(told[0].contains(why), "{}", told[0]);
        assert_eq!(told[0], told[1]);
    }
}

/// What is there of the same version upon another base need come again in full: it is not counted.
#[test]
fn what_is_there_upon_another_base_is_not_taken_off() {
    ground!("btrfs");
    let lab = Lab::new();
    let (from, to) = (text(&lab.source.path().join("data")), text(&lab.target.path().join("copy")));
    lab.write("a", &noise(1, 200_000));
    lab.snapshot("one");
    json(&lab, &[&from, &to]);
    lab.write("b", &noise(2, 5_000_000));
    let two = lab.snapshot("two");
    // All of it, though an increment would do.
    let part = format!("{} | {}", cut(4_500_000), lab.serve("--checkpoint 1M"));
    let peer = lab.target_peer(&part);
    super::lab::bring(&cowsnap::exec::transfer::Place::Here(lab.from()), &peer, &full(&two)).unwrap_err();
    ground::waits("who received it to be gone", || {
        lab.to().inventory().unwrap().partials.iter().all(|partial| !partial.live)
    });
    let partial = lab.to().inventory().unwrap().partials.remove(0);
    assert!(partial.bytes > Some(2 << 20) && partial.base.is_some_and(|base| base.is_nil()), "{partial:?}");
    let dry = json(&lab, &["--dry-run", &from, &to]);
    let said = &dry["replicated"][0];
    assert!(said["to_send"][0]["bytes"].as_u64().unwrap() > 4_900_000, "{dry}");
    assert!(said["steps"].as_array().unwrap().iter().all(|step| step["resume"] != true), "{dry}");
    let done = json(&lab, &[&from, &to]);
    assert_eq!(done["replicated"][0]["moved"][0]["resumed_bytes"], 0, "{done}");
    assert_eq!(lab.left(), Vec::<String>::new());
}

/// What would be refused as it is sent is no matter of how much it is.
#[test]
fn a_base_that_can_not_be_sent_from_is_foretold() {
    ground!("btrfs");
    let lab = Lab::new();
    let (from, to) = (text(&lab.source.path().join("data")), text(&lab.target.path().join("copy")));
    lab.write("a", b"some");
    lab.snapshot("one");
    assert!(run(&lab, &[&from, &to]).status.success());
    lab.snapshot("two");
    let one = text(&lab.source.path().join(".cowsnap/datasets/data/snap/one"));
    ground::run("btrfs", &["property", "set", "-f", &one, "ro", "false"]);
    let [dry, done] = [&["--dry-run"][..], &[]].map(|dry| run(&lab, &[dry, &[&from, &to]].concat()));
    assert_eq!(dry.status.code(), done.status.code(), "{dry:?} {done:?}");
    assert!(!dry.status.success() && dry.stdout.is_empty(), "{dry:?}");
}

/// Of a target that fails in the midst of several, `--json` says what it got before.
#[test]
fn what_a_target_got_before_it_failed_is_told() {
    ground!("btrfs");
    let lab = Lab::new();
    let from = text(&lab.source.path().join("data"));
    lab.write("a", &noise(1, 300_000));
    lab.snapshot("one");
    lab.write("b", &noise(2, 6_000_000));
    lab.snapshot("two");
    let (near, far) = (text(&lab.target.path().join("near")), lab.target.path().join("copy"));
    let script = lab.source.outside().join("cut-serve");
    std::fs::write(&script, format!("{} | {}", cut(2_000_000), lab.serve(""))).unwrap();
    let run_there = format!("sh {}", script.display());
    let far = format!("ssh://there/{}", far.display());
    let output =
        run(&lab, &["--json", "-I", "--no-compress", "--remote-command", &run_there, &from, &near, &far]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = |moved: &Value| {
        moved.as_array().unwrap().iter().map(|moved| moved["snapshot"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&told["replicated"][0]["moved"]), ["one", "two"], "{told}");
    let failed = told["failed"].as_array().unwrap();
    assert_eq!((failed.len(), names(&failed[0]["moved"])), (1, vec!["one".into()]), "{told}");
    assert!(
        failed[0]["what"].as_str().unwrap().ends_with(&far) && failed[0]["class"] == "unreachable",
        "{told}"
    );
}
