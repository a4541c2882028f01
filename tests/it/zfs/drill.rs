//! `cowsnap drill` of a target on another machine, and of an archive: received into a pool, looked at, and nothing of it is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::ground::Pool;
use super::lab::{exists, snapshots};
use super::line::Line;
use crate::ground::{ground, waits};
use crate::peer::lab::noise;
use crate::peer::program::Sshd;

/// A job with one dataset, and what it has been brought to.
struct Node {
    line: Line,
    /// What the drill is of, and the job's table that names it.
    from: String,
    table: &'static str,
}

const RUN: &str = "drill node --home OUT/overlays";

impl Node {
    /// With a snapshot that holds "good", and data that has gone on since.
    fn new(line: Line, from: String, table: &'static str, check: &str) -> Self {
        let node = Self { line, from, table };
        node.check(check, "");
        node.line.run("create POOL/node");
        if table == "archive" {
            node.line.run(&format!("archive add {} POOL/node", node.from));
        }
        node.write("bad");
        node.line.run("job run node");
        node.write("good");
        node.line.run("job run node");
        node.write("later");
        node
    }

    fn write(&self, text: &str) {
        self.line.write("node/f", text);
    }

    fn check(&self, script: &str, more: &str) {
        let Self { line, from, table } = self;
        line.configure(&format!(
            "[job.node]\ndatasets = [\"POOL/node\"]\ncrash_consistent = true\n[[job.node.{table}]]\nto = \"{from}\"\n\
             [job.node.drill]\nfrom = \"{from}\"\ninto = \"POOL\"\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\n{more}\n"
        ));
    }

    fn newest(&self) -> String {
        snapshots(&self.line.pool.full("node")).pop().expect("one was taken")
    }

    fn note(&self) -> String {
        fs::read_to_string(self.line.state.join("drills/node")).unwrap_or_default()
    }

    /// How many drills are written down to have passed, and to have failed.
    fn tallied(&self) -> Option<(u64, u64)> {
        let record = fs::read(self.line.state.join("runs/node.json")).expect("there");
        let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        let tally = record["tallies"].as_array()?.iter().find(|tally| tally["op"] == "drill")?;
        Some((tally["done"].as_u64()?, tally["failed"].as_u64()?))
    }

    fn assert_nothing_left(&self) {
        let all = self.line.all();
        let is_of_it = |name: &&String| name.contains("cowsnap-drill") || name.contains("cowsnap-overlay:");
        assert_eq!(all.iter().filter(is_of_it).collect::<Vec<_>>(), [""; 0]);
        let inside = |name: &&String| name.starts_with("POOL/cowsnap-overlays/");
        assert_eq!(all.iter().filter(inside).collect::<Vec<_>>(), [""; 0]);
        assert_eq!(self.note(), "");
        assert_eq!(self.line.read("node/f"), "later");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read");
        assert!(!mounts.contains(&self.line.placed("POOL/cowsnap-")), "{mounts}");
    }
}

/// A node whose target is on another machine, that machine's pool, and its sshd.
fn on_another_machine(check: &str) -> (Node, Pool, Sshd) {
    let there = Pool::new();
    let state = there.outside().join("state");
    let serve = format!("{} --state-dir {} serve", env!("CARGO_BIN_EXE_cowsnap"), state.display());
    let sshd = Sshd::start(&serve);
    let mut line = Line::new();
    line.ssh = line.pool.outside().join("ssh").to_str().expect("utf-8").to_owned();
    reaches(&line, &sshd.ssh());
    let to = sshd.url(Path::new(&there.full("replica")));
    (Node::new(line, to, "target", check), there, sshd)
}

/// What is run to reach other machines.
fn reaches(line: &Line, command: &str) {
    fs::write(&line.ssh, format!("#!/bin/sh\nexec {command} \"$@\"\n")).expect("written");
    fs::set_permissions(&line.ssh, fs::Permissions::from_mode(0o755)).expect("set");
}

const GOOD: &str = "set -e; grep good $COWSNAP_DRILL_DIR/f; echo mine > $COWSNAP_DRILL_DIR/f";

#[test]
fn a_target_on_another_machine_is_received_into_a_pool_rehearsed_and_discarded() {
    ground!("zfs", "root", "ssh", "sshd");
    let (node, there, _sshd) = on_another_machine(GOOD);
    let label = format!("{}@{}", node.from, node.newest());
    let (said, _) = node.line.ends(0, "drill node --dry-run");
    assert!(
        said.starts_with(&format!("would receive all of {label} as POOL/cowsnap-drill-node, about "))
            && said.contains(&format!("would show {label} at OUT/mnt/node\nwould run /bin/sh")),
        "{said}"
    );
    assert_eq!(node.tallied(), None);
    node.assert_nothing_left();
    let told = node.line.json(RUN);
    let drill = &told["drills"][0];
    assert_eq!((&drill["passed"], &drill["snapshot"]), (&true.into(), &label.clone().into()), "{told}");
    assert_eq!(drill["modes"], serde_json::json!(["native"]));
    node.assert_nothing_left();
    // One that is older is what it is asked for: that was not good.
    let oldest = snapshots(&there.full("replica")).remove(0);
    node.check("grep bad $COWSNAP_DRILL_DIR/f", "");
    let (out, said) = node.line.ends(0, &format!("{RUN} --snapshot {oldest}"));
    assert!(out.starts_with(&format!("{}@{oldest} would do: ", node.from)), "{out}");
    assert!(said.contains("receive all of") && said.contains("verified"), "{said}");
    assert_eq!(node.tallied(), Some((2, 0)));
    node.assert_nothing_left();
    assert_eq!(snapshots(&there.full("replica")).len(), 2, "the target has it still");
}

#[test]
#[ignore = "takes 163 s in the guest"]
fn what_is_not_good_there_is_told_and_somebodys_dataset_stays() {
    ground!("zfs", "root", "ssh", "sshd");
    let (node, _there, _sshd) = on_another_machine("echo broken; exit 3");
    let (_, said) = node.line.ends(4, RUN);
    assert!(said.contains("broken") && said.contains(&node.from), "{said}");
    node.assert_nothing_left();
    node.line.run("create POOL/cowsnap-drill-node");
    node.line.write("cowsnap-drill-node/precious", "x");
    let (_, said) = node.line.ends(3, RUN);
    assert!(said.contains("cowsnap-drill-node exists already"), "{said}");
    assert_eq!(node.line.read("cowsnap-drill-node/precious"), "x");
    node.line.run("destroy POOL/cowsnap-drill-node");
    node.check("true", "receive_within = \"1ms\"");
    let (_, said) = node.line.ends(5, RUN);
    assert!(said.contains("it was not all there after 1ms"), "{said}");
    node.assert_nothing_left();
    reaches(&node.line, "exit 255;");
    node.line.ends(5, RUN);
    assert_eq!(node.tallied(), Some((0, 4)));
    node.assert_nothing_left();
}

#[test]
#[ignore = "takes 265 s in the guest"]
fn kill_9_of_a_drill_leaves_in_the_pool_what_the_next_one_destroys() {
    ground!("zfs", "root", "ssh", "sshd");
    let (node, _there, _sshd) = on_another_machine("sleep 1000");
    node.line.write("node/noise", noise(1, 12 << 20));
    node.line.run("job run node");
    let received = node.line.pool.full("cowsnap-drill-node");
    // As soon as it is written down; while it is received; while the command is at work.
    for at in ["noted", "received", "looked at"] {
        node.check("sleep 1000", "");
        let mut child = node.line.start(RUN);
        waits("it to be written down", || node.note().ends_with('\n'));
        match at {
            "received" => waits("something of it", || exists(&received)),
            "looked at" => waits("the command", || runs_a_shell(child.id())),
            _ => {}
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        node.check("grep later $COWSNAP_DRILL_DIR/f", "");
        node.line.run(RUN);
        node.assert_nothing_left();
    }
}

/// Whether a process has a child that is a shell.
fn runs_a_shell(id: u32) -> bool {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    let is_shell = |id: &str| {
        fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|words| words.starts_with("/bin/sh"))
    };
    children.is_ok_and(|all| all.split_whitespace().any(is_shell))
}

#[test]
fn what_is_in_an_archive_is_received_into_a_pool_rehearsed_and_discarded() {
    ground!("zfs", "root");
    let line = Line::new();
    let archive = line.pool.outside().join("archive");
    let node = Node::new(line, format!("file://{}", archive.display()), "archive", GOOD);
    let (said, _) = node.line.ends(0, "drill node --dry-run");
    assert!(said.contains("would receive all of file://OUT/archive@") && said.contains("requests"), "{said}");
    let (out, said) = node.line.ends(0, RUN);
    assert!(
        out.starts_with(&format!("file://OUT/archive@{} would do: ", node.newest()))
            && said.contains("by 2 containers, verified"),
        "{out}{said}"
    );
    node.assert_nothing_left();
    node.check("exit 1", "");
    node.line.ends(4, RUN);
    node.assert_nothing_left();
    let claims = fs::read_dir(archive.join("claims")).map_or(0, Iterator::count);
    assert_eq!(claims, 0);
    // What is damaged is found while it is received.
    for group in fs::read_dir(archive.join("parts")).expect("parts").flatten() {
        for part in fs::read_dir(group.path()).expect("a group").flatten() {
            let mut bytes = fs::read(part.path()).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(part.path(), bytes).expect("written");
        }
    }
    node.check("true", "");
    node.line.ends(4, RUN);
    node.assert_nothing_left();
    assert_eq!(node.tallied(), Some((1, 2)));
}
