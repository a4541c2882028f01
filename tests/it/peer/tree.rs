//! Datasets with others inside, taken from a peer.

use std::path::Path;
use std::process::Output;

use cowsnap::endpoint::History;
use cowsnap::model::Inventory;
use serde_json::Value;

use super::lab::{Lab, noise};
use crate::ground::{self, ground};

const INSIDE: [&str; 4] = ["", "/a", "/a/b", "/c"];

fn replicate(lab: &Lab, args: &[&str]) -> Output {
    let ssh = lab.ssh("x").program[0].clone();
    let mut command = ground::cowsnap(&lab.source.outside().join("state"));
    command.args(["replicate", "-r", "--json", "--ssh", &ssh]).args(args).output().unwrap()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A dataset with three inside, each with a file; all of them are snapshotted.
fn grown() -> Lab {
    let lab = Lab::new();
    for name in &INSIDE[1..] {
        lab.source.subvolume(&format!("data{name}"));
    }
    snapshot(&lab, "one");
    lab
}

fn snapshot(lab: &Lab, name: &str) {
    for (n, inside) in INSIDE.iter().enumerate() {
        let file = lab.source.path().join(format!("data{inside}")).join(name);
        std::fs::write(file, noise(n as u64, 50_000)).unwrap();
    }
    let data = text(&lab.source.path().join("data"));
    ground::run(env!("CARGO_BIN_EXE_cowsnap"), &["snapshot", "-r", &data, "--name", name]);
}

/// The dataset at the target that is called `name`, which may be inside another; a live one above it is not needed.
fn at(lab: &Lab, name: &str) -> cowsnap::endpoint::Result<Inventory> {
    let (first, inside) = name.split_once('/').map_or((name, None), |(first, rest)| (first, Some(rest)));
    let outer = cowsnap::endpoint::path::named(&lab.target.path().join(first))?;
    inside.map_or(Ok(outer.clone()), |inside| outer.named_below(Path::new(inside)))?.inventory()
}

#[test]
fn all_that_is_inside_a_peers_dataset_comes_along_parents_first() {
    ground!("btrfs");
    for relay in [false, true] {
        let lab = grown();
        let from = format!("ssh://there/{}", lab.source.path().join("data").display());
        let copy = text(&lab.target.path().join("copy"));
        if relay {
            // A path at a peer is found below a directory that is there.
            INSIDE.iter().for_each(|inside| drop(lab.target.subvolume(&format!("copy{inside}"))));
        }
        let to = if relay { format!("ssh://other/{copy}") } else { copy };
        let serve = lab.serve("");
        for (round, name) in ["one", "two"].into_iter().enumerate() {
            if round > 0 {
                snapshot(&lab, name);
            }
            let output = replicate(&lab, &["--remote-command", &serve, &from, &to]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            let done = said["replicated"].as_array().unwrap();
            let targets: Vec<_> =
                done.iter().map(|done| done["target"].as_str().unwrap().to_owned()).collect();
            assert_eq!(targets.len(), INSIDE.len(), "{targets:?}");
            assert!(targets[0].ends_with("/copy") && targets[3].ends_with("/copy/a/b"), "{targets:?}");
            for inside in INSIDE {
                let there = at(&lab, &format!("copy{inside}")).unwrap();
                assert_eq!(there.versions().len(), round + 1, "{inside}");
            }
        }
    }
}

/// Each is one piece of work, and each is asked for by itself: what fails of one or is not allowed stops no other.
#[test]
fn one_inside_that_fails_does_not_stop_the_others() {
    ground!("btrfs");
    let lab = grown();
    let from = format!("ssh://there/{}", lab.source.path().join("data").display());
    let copy = lab.target.subvolume("copy");
    let own = lab.target.subvolume("copy/a");
    ground::run(env!("CARGO_BIN_EXE_cowsnap"), &["snapshot", &text(&own), "--name", "own"]);
    let output = replicate(&lab, &["--remote-command", &lab.serve(""), &from, &text(&copy)]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("1 of 4 failed") && said.contains("no version in common"), "{said}");
    for inside in ["", "/a/b", "/c"] {
        assert_eq!(at(&lab, &format!("copy{inside}")).unwrap().versions().len(), 1, "{inside}");
    }
    // A key for one of them is for it and what is inside it.
    let under = lab.source.path().join("data/a");
    let serve = lab.serve(&format!("--allow send --under '{}'", under.display()));
    let output = replicate(&lab, &["--remote-command", &serve, &from, &text(&copy)]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{said}");
    let to = text(&lab.target.path().join("only"));
    let output = replicate(&lab, &["--remote-command", &serve, &format!("{from}/a"), &to]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(at(&lab, "only").is_ok() && at(&lab, "only/b").is_ok());
}

/// What a hostile peer calls the datasets inside leads nowhere else.
#[test]
fn names_that_lead_elsewhere_are_refused() {
    ground!("btrfs");
    let lab = grown();
    // Whoever answers says names of its own, and passes on everything else.
    let script = lab.source.outside().join("hostile");
    let hostile = r#"#!/usr/bin/perl
use IPC::Open2; $| = 1; binmode STDIN; binmode STDOUT;
my $pid = open2(my $out, my $in, @ARGV); binmode $out; binmode $in; $in->autoflush(1);
sub frame { my $h = shift; return unless read($h, my $head, 8) == 8; my (undef, $k, undef, $l) = unpack "a2CCV", $head; my $p = ""; read($h, $p, $l) if $l; return ($k, $head, $p) }
if (fork) { while (my ($k, $head, $p) = frame(\*STDIN)) { print $in $head, $p } close $in; wait }
else { close $in; while (my ($k, $head, $p) = frame($out)) { if ($k == 3 && $p =~ /^\[/) { $p = '["../up","/etc","a/../../x",".cowsnap/x","d\u001b]0;x\u0007","e\nf","c"]'; $head = substr($head, 0, 4) . pack "V", length $p } print $head, $p } }
"#;
    std::fs::write(&script, hostile).unwrap();
    let serve = format!("perl '{}' {}", script.display(), lab.serve(""));
    let from = format!("ssh://there/{}", lab.source.path().join("data").display());
    let to = text(&lab.target.path().join("deep"));
    let output = replicate(&lab, &["--remote-command", &serve, &from, &to]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("6 of 8 failed"), "{said}");
    assert!(said.contains("control characters") && !said.contains(['\u{1b}', '\u{7}']), "{said:?}");
    assert!(at(&lab, "deep").is_ok() && at(&lab, "deep/c").is_ok());
    assert!(!lab.target.path().join("up").exists() && at(&lab, "up").is_err() && at(&lab, "x").is_err());
}
