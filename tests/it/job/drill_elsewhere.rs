//! `cowsnap drill` of a target on another machine: its newest snapshot is received, looked at, and nothing of it is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use super::Lab;
use super::drill::script;
use crate::ground::{self, Btrfs, ground, waits};
use crate::peer::program::Sshd;

/// A job whose target is on another machine, and that machine.
struct Pair {
    lab: Lab,
    there: Btrfs,
    sshd: Sshd,
}

impl Pair {
    fn new(drill: &str) -> Self {
        let there = Btrfs::new();
        let state = there.outside().join("state");
        let serve = format!("{} --state-dir {} serve", env!("CARGO_BIN_EXE_cowsnap"), state.display());
        let sshd = Sshd::start(&serve);
        let pair = Self { lab: Lab::new(""), there, sshd };
        let ssh = pair.lab.ssh();
        fs::write(&ssh, format!("#!/bin/sh\nexec {} \"$@\"\n", pair.sshd.ssh())).expect("written");
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("set");
        pair.configure(drill);
        pair.lab.ends(0, "create FS/node");
        fs::write(pair.lab.fs.path().join("node/f"), "good\n").expect("written");
        pair.lab.ends(0, "job run node");
        fs::write(pair.lab.fs.path().join("node/f"), "later\n").expect("written");
        pair
    }

    fn url(&self) -> String {
        self.sshd.url(&self.there.path().join("replica"))
    }

    fn configure(&self, drill: &str) {
        let to = self.url();
        self.lab.write(&format!(
            "[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n[[job.node.target]]\nto = \"{to}\"\n\
             [job.node.drill]\nfrom = \"{to}\"\n{drill}\n"
        ));
    }

    /// What is in the place where things are received.
    fn received(&self) -> Vec<String> {
        let names = |dir: &str| {
            let entries = fs::read_dir(self.lab.fs.path().join(dir)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        [names(""), names(".cowsnap/datasets"), names(".cowsnap/staging")]
            .concat()
            .into_iter()
            .filter(|name| name.contains("cowsnap-drill"))
            .collect()
    }

    fn assert_nothing_left(&self) {
        self.lab.assert_nothing_left();
        assert_eq!(self.received(), [""; 0]);
        let note = fs::read_to_string(self.lab.fs.outside().join("state/drills/node")).unwrap_or_default();
        assert_eq!(note, "");
    }
}

const INTO: &str = "into = \"FS\"";

#[test]
fn a_target_on_another_machine_is_received_rehearsed_and_discarded() {
    ground!("btrfs", "loop", "root", "ssh", "sshd");
    let check = script("test $COWSNAP_DRILL_DIR = FS/node && grep good FS/node/f && echo mine > FS/node/f");
    let pair = Pair::new(&format!("{check}\n{INTO}"));
    let newest = pair.lab.snapshots("node")[0].0.clone();
    let (said, _) = pair.lab.ends(0, "drill node --dry-run");
    let to = pair.url();
    assert!(
        said.starts_with(&format!("would receive all of {to}@{newest} as FS/cowsnap-drill-node, "))
            && said.contains("at FS/node\nwould run /bin/sh"),
        "{said}"
    );
    assert_eq!(pair.lab.tallied(), None);
    let (out, said) = pair.lab.drill(0);
    assert!(out.starts_with(&format!("{to}@{newest} would do: its command passed in ")), "{out}");
    assert!(said.contains("receive all of") && said.contains("verified"), "{said}");
    let told = pair.lab.json(0, &format!("drill node --home {}", pair.lab.home()));
    let drill = &told["drills"][0];
    assert_eq!((&drill["passed"], &drill["snapshot"]), (&true.into(), &format!("{to}@{newest}").into()));
    assert_eq!(pair.lab.tallied(), Some((2, 0)));
    let record = fs::read_to_string(pair.lab.fs.outside().join("state/runs/node.json")).expect("there");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    let tallies = record["tallies"].as_array().expect("a list");
    let tally = tallies.iter().find(|tally| tally["op"] == "drill").expect("of drills");
    assert_eq!(tally["from"], to);
    let (metrics, _) = pair.lab.ends(0, "metrics");
    let of_drill = |line: &&str| line.contains("op=\"drill\"") && line.contains("result=\"success\"");
    let line = metrics.lines().find(of_drill).expect("drills are counted");
    assert!(line.contains(&format!("target=\"{to}\"")) && line.ends_with(" 2"), "{line}");
    // What is good here is not what is rehearsed: the target's is.
    pair.assert_nothing_left();
    let held = ground::run("btrfs", &["subvolume", "list", pair.there.path().to_str().expect("utf-8")]);
    assert!(String::from_utf8_lossy(&held.stdout).contains("snap"), "the target has it still");
}

#[test]
fn what_is_not_good_there_is_exit_4_and_who_is_out_of_reach_is_exit_5() {
    ground!("btrfs", "loop", "root", "ssh", "sshd");
    let pair = Pair::new(&format!("{}\n{INTO}", script("echo broken; exit 3")));
    let (_, said) = pair.lab.drill(4);
    assert!(said.contains("broken") && said.contains(&pair.url()), "{said}");
    pair.assert_nothing_left();
    // Somebody's dataset in its place is not touched.
    pair.lab.ends(0, "create FS/cowsnap-drill-node");
    fs::write(pair.lab.fs.path().join("cowsnap-drill-node/precious"), "x").expect("written");
    let (_, said) = pair.lab.drill(3);
    assert!(said.contains("cowsnap-drill-node exists already"), "{said}");
    assert!(pair.lab.fs.path().join("cowsnap-drill-node/precious").exists());
    pair.lab.ends(0, "destroy FS/cowsnap-drill-node");
    pair.configure(&format!("{}\n{INTO}\nreceive_within = \"1ms\"", script("true")));
    let (_, said) = pair.lab.drill(5);
    assert!(said.contains("it was not all there after 1ms"), "{said}");
    pair.assert_nothing_left();
    fs::write(pair.lab.ssh(), "#!/bin/sh\nexit 255\n").expect("written");
    pair.lab.drill(5);
    assert_eq!(pair.lab.tallied(), Some((0, 4)));
    for (more, why) in [
        ("", "job.node.drill.into: is missing"),
        ("into = \"ssh://h/x\"", "on another machine"),
        ("into = \"FS\"\nreceive_within = \"soon\"", "job.node.drill.receive_within"),
    ] {
        pair.configure(&format!("{}\n{more}", script("true")));
        let (_, said) = pair.lab.drill(2);
        assert!(said.contains(why), "{said}");
    }
    let local = pair.lab.placed(
        "[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n[job.node.drill]\ninto = \"FS\"\n",
    );
    pair.lab.write(&format!("{local}{}", script("true")));
    let (_, said) = pair.lab.drill(2);
    assert!(said.contains("job.node.drill.into: is for a `from` on another machine"), "{said}");
}

#[test]
fn kill_9_while_it_is_received_or_looked_at_leaves_what_the_next_drill_destroys() {
    ground!("btrfs", "loop", "root", "ssh", "sshd");
    let pair = Pair::new(&format!("{}\n{INTO}", script("sleep 1000")));
    let noise = crate::peer::lab::noise(1, 40 << 20);
    fs::write(pair.lab.fs.path().join("node/noise"), noise).expect("written");
    pair.lab.ends(0, "job run node");
    let drill = || {
        ground::cowsnap(&pair.lab.fs.outside().join("state"))
            .args(["drill", "node", "--home", &pair.lab.home()])
            .env("COWSNAP_CONFIG", &pair.lab.config)
            .env("COWSNAP_SSH", pair.lab.ssh())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts")
    };
    let note = pair.lab.fs.outside().join("state/drills/node");
    let is_noted = || fs::read_to_string(&note).is_ok_and(|text| text.ends_with('\n'));
    // As soon as it is written down; while it is received; while the command is at work.
    for at in ["noted", "received", "looked at"] {
        let mut child = drill();
        waits("it to be written down", is_noted);
        match at {
            "received" => waits("something of it", || !pair.received().is_empty()),
            "looked at" => waits("the command", || {
                let own = child.id();
                let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
                children.is_ok_and(|all| {
                    all.split_whitespace().any(|id| {
                        fs::read_to_string(format!("/proc/{id}/cmdline"))
                            .is_ok_and(|words| words.starts_with("/bin/sh"))
                    })
                })
            }),
            _ => {}
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        pair.configure(&format!("{}\n{INTO}", script("grep later FS/node/f")));
        pair.lab.drill(0);
        pair.assert_nothing_left();
        pair.configure(&format!("{}\n{INTO}", script("sleep 1000")));
    }
}

#[test]
fn what_was_left_is_not_forgotten_and_what_somebody_made_is_not_destroyed() {
    use cowsnap::endpoint::{Dataset, btrfs};
    use cowsnap::exec::scratch::Scratch;
    use cowsnap::model::VersionRef;
    ground!("btrfs", "loop", "root");
    let disk = Btrfs::new();
    let state = disk.outside().join("state");
    let at = disk.path().join("received");
    let version = VersionRef {
        guid: "01234567-89ab-cdef-0123-456789abcdef".parse().expect("one"),
        name: "s".parse().expect("a name"),
    };
    let new = || {
        let dataset = Dataset::from(btrfs::Dataset::named(&at).expect("a place"));
        Scratch::new(&state, "node", dataset, &[version.guid])
    };
    let note = state.join("drills/node");
    fs::create_dir_all(note.parent().expect("one")).expect("made");
    let left = format!("{} /somewhere/else\n", version.guid);
    fs::write(&note, &left).expect("written");
    let error = new().expect_err("it would be forgotten");
    assert!(error.to_string().contains("/somewhere/else"), "{error}");
    assert_eq!(fs::read_to_string(&note).expect("read"), left);
    fs::write(&note, "").expect("written");
    let scratch = new().expect("nothing is there");
    disk.subvolume("received");
    fs::write(at.join("f"), "mine").expect("written");
    scratch.destroy().expect_err("it is somebody's");
    assert_eq!(fs::read(at.join("f")).expect("there"), b"mine");
}
