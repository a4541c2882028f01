//! Replication by the program, killed at each of its calls that change a pool or a file, on either side; then one more run gets there.

use std::process::Stdio;

use super::super::ground::zfs;
use super::{Lab, noise, said};
use crate::ground::ground;
use crate::traced::{self, Death, When};

/// Everything as a single run leaves it: the newest is there, it is marked here and held there, nothing else is, and nothing is there in part.
fn converges(lab: &Lab, newest: &str, told: &str) {
    let output = lab.cowsnap(&["--quiet", "replicate", &lab.source, &lab.target]);
    assert!(output.status.success(), "{told}: {}", said(&output));
    let at = |dataset: &str| format!("{dataset}@{newest}");
    assert_eq!(lab.marks(), [lab.guid(&at(&lab.source))], "{told}");
    for snapshot in lab.snapshots(&lab.source) {
        assert_eq!(lab.holds(&format!("{}@{snapshot}", lab.source)), "", "{told}: {snapshot}");
    }
    for snapshot in lab.snapshots(&lab.target) {
        let held = lab.holds(&format!("{}@{snapshot}", lab.target)).contains("cowsnap:from:");
        assert_eq!(held, snapshot == newest, "{told}: {snapshot}");
    }
    assert_eq!(zfs(&["get", "-H", "-o", "value", "receive_resume_token", &lab.target]), "-\n", "{told}");
    lab.assert_same(newest);
}

fn killed_at_each_call(is_victim: fn(&[String]) -> bool, least: usize) {
    let lab = Lab::new();
    lab.write("f", &noise(0, 100_000));
    lab.snapshot("0");
    converges(&lab, "0", "once");
    for nth in 1.. {
        let newest = nth.to_string();
        lab.write("f", &noise(nth as u64, 100_000));
        lab.snapshot(&newest);
        let mut run = lab.command(&["--quiet", "replicate", &lab.source, &lab.target]);
        run.stdout(Stdio::null()).stderr(Stdio::null());
        let ended = traced::run(run, Death { is_victim, nth, when: When::Before, counts: traced::any });
        converges(&lab, &newest, &format!("killed before {nth}: {}", ended.last));
        if !ended.killed {
            eprintln!("killed before each of {} calls", nth - 1);
            assert!(nth > least, "{nth}");
            return;
        }
        for old in lab.snapshots(&lab.source).iter().filter(|old| **old != newest) {
            zfs(&["destroy", &format!("{}@{old}", lab.source)]);
        }
    }
}

#[test]
fn a_source_that_is_killed_at_any_call_is_gone_on_with_by_the_next_run() {
    ground!("zfs");
    killed_at_each_call(traced::replicates, 5);
}

#[test]
fn a_receiver_that_is_killed_at_any_call_is_gone_on_with_by_the_next_run() {
    ground!("zfs");
    // A receive is one call of the kernel.
    killed_at_each_call(traced::serves, 3);
}
