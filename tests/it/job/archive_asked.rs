//! Archives of jobs are asked by `check` whether they are there, and have what was put there last.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::Lab;
use crate::ground::ground;
use crate::s3::{Fault, Server};

const NODE: &str = "
[job.node]
datasets = [\"FS/node\"]
crash_consistent = true
[[job.node.archive]]
to = \"file://FS/archive\"
level = 1
";

/// What `check` says of the first archive, if it ends so.
fn target(lab: &Lab, code: i32) -> Value {
    lab.json(code, "check")["jobs"][0]["targets"][0].clone()
}

/// Filled by a run of its job.
fn filled(config: &str) -> Lab {
    let lab = Lab::new(config);
    lab.ends(0, "create FS/node");
    lab.ends(0, "archive add file://FS/archive FS/node");
    lab.ends(0, "job run node");
    lab
}

fn manifests(lab: &Lab) -> Vec<PathBuf> {
    let there = fs::read_dir(lab.fs.path().join("archive/versions")).expect("manifests");
    let mut all: Vec<_> = there.map(|entry| entry.expect("one").path()).collect();
    all.sort();
    all
}

fn record(lab: &Lab) -> PathBuf {
    lab.fs.outside().join("state/runs/node.json")
}

#[test]
fn an_archive_that_is_gone_is_critical_though_its_job_went_well_last() {
    ground!("btrfs");
    let lab = filled(NODE);
    let found = target(&lab, 0);
    assert_eq!((&found["is_looked_at"], &found["base"]), (&true.into(), &"held".into()), "{found}");
    assert!(found["asked"].is_string() && found["error"].is_null() && found["up_to"].is_string(), "{found}");
    fs::remove_dir_all(lab.fs.path().join("archive")).expect("removed");
    let (said, _) = lab.ends(2, "check");
    let why = "COWSNAP CRITICAL - node: there is no archive at file://FS/archive";
    assert!(said.starts_with(why) && said.lines().count() == 2, "{said}");
    let found = target(&lab, 2);
    assert_eq!((&found["base"], &found["up_to"]), (&"lost".into(), &Value::Null), "{found}");
    assert!(!lab.fs.path().join("archive").exists(), "it was looked at, and not made");
    // Who is not asked counts as it was written down.
    let status = lab.json(0, "status")["jobs"][0].clone();
    let found = &status["targets"][0];
    assert_eq!((&status["verdict"], &found["asked"]), (&"OK".into(), &Value::Null), "{status}");
    assert!(found["up_to"].is_string() && found["is_looked_at"] == false, "{status}");
    assert!(lab.ends(0, "metrics").0.contains("cowsnap_job_state{job_name=\"node\"} 0"));
    // One in its place is not the one that was pushed to, until it is.
    lab.ends(0, "archive add file://FS/archive FS/node");
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("file://FS/archive is another archive, "), "{said}");
    lab.ends(0, "job run node");
    lab.ends(0, "check");
    fs::write(lab.fs.path().join("archive/archive.json"), "<html>").expect("written");
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("archive.json at file://FS/archive is no description"), "{said}");
}

#[test]
fn an_archive_that_somebody_has_emptied_is_warned_of_when_it_is_begun_anew() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "archive add file://FS/archive FS/node");
    let run = |n: u32| {
        fs::write(lab.fs.path().join("node/height"), n.to_string()).expect("written");
        let (out, said) = lab.ends(0, "job run node --json");
        let out: Value = serde_json::from_str(&out).expect("one JSON object");
        let archived = out["jobs"][0]["archived"][0].clone();
        (archived["warnings"].as_array().expect("a list").clone(), archived["base"].is_null(), said)
    };
    let why = "file://FS/archive had what was put there up to 2";
    for (n, is_full) in [(1, true), (2, false)] {
        let (warnings, found, said) = run(n);
        assert!(warnings.is_empty() && found == is_full && !said.contains("put there"), "{said}");
    }
    for folder in ["versions", "parts"] {
        let folder = lab.fs.path().join("archive").join(folder);
        fs::remove_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    }
    let (warnings, is_full, said) = run(3);
    assert!(is_full && warnings.len() == 1, "{warnings:?}");
    assert!(warnings[0].as_str().is_some_and(|warning| warning.starts_with(why)), "{warnings:?}");
    assert!(said.contains(&format!("warning: job node: {why}")), "{said}");
    let (warnings, is_full, _) = run(4);
    assert!(warnings.is_empty() && !is_full, "{warnings:?}");
}

#[test]
fn what_is_pushed_by_hand_to_another_archive_in_its_place_is_none_of_the_job_s() {
    ground!("btrfs");
    let lab = filled(NODE);
    fs::remove_dir_all(lab.fs.path().join("archive")).expect("removed");
    lab.ends(0, "archive add file://FS/archive FS/node");
    lab.ends(0, "archive push FS/node file://FS/archive");
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("file://FS/archive is another archive"), "{said}");
}

#[test]
fn what_was_put_there_last_has_to_be_there_or_what_is_newer() {
    ground!("btrfs");
    let lab = filled(NODE);
    fs::write(lab.fs.path().join("node/height"), "1").expect("written");
    lab.ends(0, "job run node");
    let [first, second] = manifests(&lab).try_into().expect("two");
    let aside = lab.fs.path().join("aside");
    let gone = "file://FS/archive has no longer what was put there last, of 2";
    // What is older may go.
    fs::rename(&first, &aside).expect("renamed");
    lab.ends(0, "check");
    fs::rename(&aside, &first).expect("renamed");
    fs::rename(&second, &aside).expect("renamed");
    assert!(lab.ends(2, "check").0.contains(gone));
    // A record from before that was written down says when it was taken, and no more.
    let whole = fs::read_to_string(record(&lab)).expect("a record");
    let mut older: Value = serde_json::from_str(&whole).expect("an object");
    for tally in older["tallies"].as_array_mut().expect("tallies") {
        tally.as_object_mut().expect("an object").remove("there");
    }
    assert_ne!(older.to_string().len(), whole.len());
    fs::write(record(&lab), older.to_string()).expect("written");
    assert!(lab.ends(2, "check").0.contains(gone));
    fs::rename(&aside, &second).expect("renamed");
    lab.ends(0, "check");
    // Without any, it is looked for what both have.
    fs::remove_file(record(&lab)).expect("removed");
    let up_to = |code| target(&lab, code)["up_to"].as_str().map(str::to_owned);
    let newest = up_to(0);
    fs::rename(&second, &aside).expect("renamed");
    assert!(newest.is_some() && up_to(0).is_some_and(|first| Some(first) < newest));
    fs::remove_file(&first).expect("removed");
    assert!(lab.ends(2, "check").0.contains("file://FS/archive has nothing of FS/node"));
    // Somebody has put a newer one, whereupon it went.
    fs::rename(&aside, &second).expect("renamed");
    fs::write(record(&lab), &whole).expect("written");
    lab.ends(0, "check");
    let key = second.file_name().and_then(|name| name.to_str()).expect("a key");
    let (taken, of_version) = key.split_once('-').expect("a time");
    let later = taken.parse::<u64>().expect("a number") + 1;
    let newer = format!("{later:020}-{}{}", "a".repeat(32), &of_version[32..]);
    fs::rename(&second, second.with_file_name(newer)).expect("renamed");
    lab.ends(0, "check");
}

#[test]
fn a_store_is_asked_for_two_things_and_is_unknown_as_long_as_it_does_not_answer() {
    ground!("btrfs");
    let server = Server::start();
    let (url, endpoint) = (server.url("node"), server.endpoint());
    let bucket = format!("to = \"{url}\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n");
    let also = format!("{NODE}[[job.node.archive]]\n{bucket}");
    let lab = Lab::new(&also);
    let env = server.env();
    let keys: Vec<_> = env.iter().filter(|(name, _)| name.contains("KEY")).cloned().collect();
    lab.ends(0, "create FS/node");
    lab.ends(0, "archive add file://FS/archive FS/node");
    lab.ends_in(&env, 0, &format!("archive add {url} FS/node"));
    lab.ends_in(&keys, 0, "job run node");
    server.forget();
    lab.ends_in(&keys, 0, "status");
    lab.ends_in(&keys, 0, "metrics");
    assert_eq!(server.requests(), []);
    lab.ends_in(&keys, 0, "check");
    let asked: Vec<_> = server.requests().iter().map(|asked| asked.method.clone()).collect();
    assert_eq!(asked, ["GET", "HEAD"], "{:?}", server.requests());
    // Of two archives, one hangs: the other is asked nevertheless, and nobody waits for longer.
    let unknown = |said: &str| {
        let findings: Vec<_> = said.lines().skip(1).collect();
        let why = format!("UNKNOWN: node: {url} can not be asked whether it has what the next increment");
        assert!(findings.len() == 1 && findings[0].starts_with(&why), "{said}");
    };
    let check = "check --timeout 3";
    server.fault_always(Some(Fault::Hang));
    unknown(&lab.ends_in(&keys, 3, check).0);
    let object = lab.ends_in(&keys, 3, &format!("{check} --json")).0;
    let targets = serde_json::from_str::<Value>(&object).expect("an object")["jobs"][0]["targets"].clone();
    assert_eq!(
        (&targets[0]["is_looked_at"], &targets[0]["error"]),
        (&true.into(), &Value::Null),
        "{targets}"
    );
    assert_eq!(targets[1]["is_looked_at"], false, "{targets}");
    assert!(targets[1]["asked"].is_string() && targets[1]["error"].is_string(), "{targets}");
    assert!(targets[1]["up_to"].is_string() && targets[1]["base"] == "held", "{targets}");
    server.forget();
    server.fault_on(|asked| asked.method == "HEAD", Fault::Hang);
    unknown(&lab.ends_in(&keys, 3, check).0);
    server.forget();
    server.fault_always(Some(Fault::Status(503)));
    unknown(&lab.ends_in(&keys, 3, check).0);
    server.fault_always(Some(Fault::Status(403)));
    unknown(&lab.ends_in(&keys, 3, check).0);
    server.forget();
    lab.ends_in(&keys, 0, "check");
    // Who may only put and list is told so by a walk over the keys.
    server.fault_on(|asked| asked.method == "HEAD", Fault::Status(403));
    lab.ends_in(&keys, 0, "check");
    server.forget();
    fs::remove_dir_all(server.files()).expect("removed");
    let (said, _) = lab.ends_in(&keys, 2, check);
    assert!(said.contains(&format!("CRITICAL: node: there is no archive at {url}")), "{said}");
    drop(server);
    unknown(&lab.ends_in(&keys, 3, check).0);
}
