//! What `cowsnap verify` finds is counted of the job that brings the one to the other, whoever calls it.

use std::fs;

use crate::ground::{ground, run};
use crate::job::{Lab, NODE};
use crate::know::metrics::{of, parsed};

/// A snapshot of a dataset, as cowsnap keeps both.
fn snapshot(lab: &Lab, dataset: &str, name: &str) -> String {
    lab.fs.path().join(format!(".cowsnap/datasets/{dataset}/snap/{name}")).display().to_string()
}

/// As somebody does it who may.
fn write_into(at: &str) {
    run("btrfs", &["property", "set", "-f", at, "ro", "false"]);
    fs::write(format!("{at}/f"), "bad\n").expect("written");
    run("btrfs", &["property", "set", at, "ro", "true"]);
}

fn lab() -> Lab {
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    fs::write(lab.fs.path().join("node/f"), "good\n").expect("written");
    lab.ends(0, "job run node");
    lab
}

/// How often bytes were found that are not what they were, by `op`.
fn found(lab: &Lab, op: &str) -> f64 {
    let metrics = parsed(&format!("{}\n", lab.ends(0, "metrics").0));
    of(&metrics, "cowsnap_verify_failures_total", &[&format!("op=\"{op}\""), "target=\"FS/replica\""])
}

#[test]
fn a_replica_that_is_not_what_it_was_is_counted_and_critical_until_it_is_proven_again() {
    ground!("btrfs", "loop", "root");
    let lab = lab();
    assert_eq!((found(&lab, "verify"), found(&lab, "verify-content")), (0.0, 0.0));
    let (said, _) = lab.ends(0, "check");
    assert!(!said.contains("verified"), "nobody has yet: {said}");
    let (said, _) = lab.ends(1, "check --warn-verify-age 1h");
    assert!(said.contains("FS/node was never compared with FS/replica"), "{said}");
    lab.ends(0, "verify FS/node --against FS/replica");
    lab.ends(0, "check --warn-verify-age 1h");
    let (said, _) = lab.ends(0, "check");
    assert!(said.contains("'node FS/replica verified'=") && !said.contains("verified-content"), "{said}");
    lab.ends(0, "verify FS/node --against FS/replica --content");
    let (said, _) = lab.ends(0, "check");
    assert!(
        said.contains("'node FS/replica verified'=") && said.contains("'node FS/replica verified-content'="),
        "{said}"
    );
    // Somebody writes into what is kept there.
    let name = lab.snapshots("replica")[0].0.clone();
    write_into(&snapshot(&lab, "replica", &name));
    lab.ends(4, "verify FS/node --against FS/replica");
    assert_eq!((found(&lab, "verify"), found(&lab, "verify-content")), (1.0, 0.0));
    let (said, _) = lab.ends(2, "check");
    assert!(
        said.starts_with("COWSNAP CRITICAL - node: verify of FS/node against FS/replica failed at"),
        "{said}"
    );
    lab.ends(4, "verify FS/node --against FS/replica --content --read-all");
    // Of one snapshot, too.
    lab.ends(4, &format!("verify FS/node@{name} --against FS/replica"));
    assert_eq!((found(&lab, "verify"), found(&lab, "verify-content")), (2.0, 1.0));
    let status = lab.ends(0, "status").0;
    assert!(status.contains("FAILED"), "{status}");
    // It is brought again, and proven; that what is written down of it fits says nothing of what was read.
    for (name, _) in lab.snapshots("replica") {
        let holds = lab.json(0, &format!("holds FS/replica@{name}"));
        for hold in holds["holds"].as_array().expect("a list") {
            let tag = hold["tag"].as_str().expect("a tag");
            lab.ends(0, &format!("release {tag} FS/replica@{name}"));
        }
    }
    lab.ends(0, "destroy FS/replica --snapshots");
    lab.ends(0, "replicate FS/node FS/replica");
    lab.ends(0, "verify FS/node --against FS/replica");
    let is_found = || lab.ends(2, "check").0.starts_with("COWSNAP CRITICAL - node: verify-content of");
    assert!(is_found());
    // Nor does one that came to nothing, nor what goes well after that.
    lab.ends(0, "rename FS/replica FS/away");
    lab.ends(2, "verify FS/node --against FS/replica --content --read-all");
    assert!(is_found());
    lab.ends(0, "rename FS/away FS/replica");
    lab.ends(0, "verify FS/node --against FS/replica --content");
    assert!(is_found());
    lab.ends(0, "verify FS/node --against FS/replica --content --read-all");
    lab.ends(0, "check");
    assert_eq!((found(&lab, "verify"), found(&lab, "verify-content")), (2.0, 1.0));
}

#[test]
fn what_a_job_takes_along_is_proven_by_what_looks_inside() {
    ground!("btrfs", "loop", "root");
    let lab = Lab::new(&NODE.replace("[job.node]\n", "[job.node]\nrecursive = true\nnot_atomic = true\n"));
    lab.ends(0, "create FS/node");
    lab.ends(0, "create FS/node/index");
    fs::write(lab.fs.path().join("node/index/f"), "good\n").expect("written");
    lab.ends(0, "job run node");
    let n_proven = || {
        let metrics = parsed(&format!("{}\n", lab.ends(0, "metrics").0));
        of(&metrics, "cowsnap_operations_total", &["op=\"verify\"", "result=\"success\""])
    };
    lab.ends(0, "verify FS/node --against FS/replica");
    assert!(n_proven() == 0.0, "it says nothing of what is inside");
    lab.ends(0, "verify FS/node --against FS/replica -r");
    assert!(n_proven() == 1.0);
    // Somebody writes into what is kept there of the one inside.
    let name = lab.snapshots("node/index")[0].0.clone();
    write_into(&snapshot(&lab, "replica%2Findex", &name));
    lab.ends(4, "verify FS/node --against FS/replica -r");
    lab.ends(0, "verify FS/node --against FS/replica");
    let (said, _) = lab.ends(2, "check");
    assert!(
        said.starts_with("COWSNAP CRITICAL - node: verify of FS/node against FS/replica failed at"),
        "{said}"
    );
    assert!(n_proven() == 1.0);
}

#[test]
fn what_is_of_no_job_or_of_one_snapshot_alone_is_counted_nowhere_and_ends_as_ever() {
    ground!("btrfs", "loop", "root");
    let lab = lab();
    let done = |lab: &Lab| {
        let metrics = parsed(&format!("{}\n", lab.ends(0, "metrics").0));
        of(&metrics, "cowsnap_operations_total", &["op=\"verify\"", "result=\"success\""])
    };
    let name = lab.snapshots("replica")[0].0.clone();
    lab.ends(0, &format!("verify FS/node@{name} --against FS/replica"));
    assert_eq!(done(&lab), 0.0, "it says nothing of the others");
    lab.ends(0, "replicate FS/node FS/another");
    lab.ends(0, "verify FS/node --against FS/another");
    assert_eq!(done(&lab), 0.0);
    lab.ends(0, "verify FS/node --against FS/replica");
    assert_eq!(done(&lab), 1.0);
    // What can not be written down changes nothing of what is found.
    lab.write("[job.node]\nlost = 3\n");
    let (_, said) = lab.ends(0, "verify FS/node --against FS/replica");
    assert!(said.contains("what came of this is not written down for any job"), "{said}");
    fs::remove_file(&lab.config).expect("removed");
    let (_, said) = lab.ends(0, "verify FS/node --against FS/replica");
    assert_eq!(said, "");
}
