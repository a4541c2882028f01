//! `cowsnap drill`: the restore is rehearsed where the data is, and nothing is left of it.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::Lab;
use crate::ground::{self, ground};

/// A job whose snapshot holds "good", and whose data has gone on since.
fn lab(drill: &str) -> Lab {
    let lab = Lab::new(&configured(drill));
    lab.ends(0, "create FS/node");
    fs::write(lab.fs.path().join("node/f"), "good\n").expect("written");
    lab.ends(0, "job run node");
    assert_eq!(lab.tallied(), None);
    fs::write(lab.fs.path().join("node/f"), "later\n").expect("written");
    lab
}

fn configured(drill: &str) -> String {
    format!(
        "[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n[[job.node.target]]\nto = \"FS/replica\"\n[job.node.drill]\n{drill}\n"
    )
}

pub fn script(text: &str) -> String {
    format!("command = [\"/bin/sh\", \"-c\", '''{text}''']")
}

impl Lab {
    pub fn drill(&self, code: i32) -> (String, String) {
        let home = self.home();
        self.ends(code, &format!("drill node --home {home}"))
    }

    /// How many drills are written down to have passed, and to have failed.
    pub fn tallied(&self) -> Option<(u64, u64)> {
        let record = fs::read(self.fs.outside().join("state/runs/node.json")).expect("there");
        let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        let tally = record["tallies"].as_array()?.iter().find(|tally| tally["op"] == "drill")?;
        Some((tally["done"].as_u64()?, tally["failed"].as_u64()?))
    }

    pub fn home(&self) -> String {
        self.fs.outside().join("overlays").to_str().expect("utf-8").to_owned()
    }

    pub fn assert_nothing_left(&self) {
        let listed = self.json(0, &format!("overlay list --home {}", self.home()));
        assert_eq!(listed["overlays"], serde_json::json!([]));
        assert_eq!(fs::read_to_string(self.fs.path().join("node/f")).expect("there"), "later\n");
    }
}

#[test]
fn the_newest_snapshot_shows_where_the_data_is_and_nothing_is_changed_or_left() {
    ground!("btrfs", "loop", "root");
    let lab = lab(&script(
        "set -e; test $COWSNAP_DRILL_DIR = FS/node; grep -q good FS/node/f; echo mine > FS/node/f
         echo lost > FS/other; echo lost > /etc/other && exit 9; ls /proc/[0-9]*/exe | wc -l; echo $COWSNAP_DRILL_SNAPSHOT",
    ));
    let told = lab.json(0, &format!("drill node --home {}", lab.home()));
    let drill = &told["drills"][0];
    let newest = &lab.snapshots("node")[0].0;
    assert_eq!((&drill["passed"], &drill["snapshot"]), (&true.into(), &format!("FS/node@{newest}").into()));
    assert!(drill["said"].as_str().is_some_and(|said| said.ends_with(&format!("{newest}\n"))), "{drill}");
    assert_eq!(drill["modes"], serde_json::json!(["native"]));
    assert!(!lab.fs.path().join("other").exists());
    lab.assert_nothing_left();
    let (said, _) = lab.ends(0, "drill node --dry-run");
    assert!(
        said.starts_with(&format!("would show FS/node@{newest} at FS/node\nwould run /bin/sh -c ")),
        "{said}"
    );
    let (said, _) = lab.drill(0);
    assert!(said.starts_with(&format!("FS/node@{newest} would do: its command passed in ")), "{said}");
    assert_eq!(lab.tallied(), Some((2, 0)));
}

#[test]
fn what_is_not_good_is_exit_4_and_what_is_not_done_in_time_is_exit_5() {
    ground!("btrfs", "loop", "root");
    let lab = lab(&script("echo broken; exit 3"));
    let (_, said) = lab.drill(4);
    assert!(
        said.contains("broken") && said.contains("exit status: 3") && said.contains("job node"),
        "{said}"
    );
    lab.write(&configured(&format!("{}\nexpect = \"ok\"", script("echo not ok"))));
    let (_, said) = lab.drill(4);
    assert!(said.contains("no line of what it said is \"ok\""), "{said}");
    lab.write(&configured(&format!("{}\nexpect = \"ok\"", script("echo ok"))));
    lab.drill(0);
    lab.write(&configured(&format!("{}\nwithin = \"200ms\"", script("sleep 1000 & sleep 1000"))));
    let (_, said) = lab.drill(5);
    assert!(said.contains("was not done after 200ms"), "{said}");
    lab.write(&configured("command = [\"/no/such/program\"]"));
    lab.drill(2);
    assert_eq!(lab.tallied(), Some((1, 4)));
    lab.assert_nothing_left();
}

#[test]
fn a_replica_is_rehearsed_in_the_place_of_the_data() {
    ground!("btrfs", "loop", "root");
    let check = script("test $COWSNAP_DRILL_DIR = FS/node && grep good FS/node/f");
    let lab = lab(&format!("{check}\nfrom = \"FS/replica\"\nuser = \"daemon\""));
    let told = lab.json(0, &format!("drill node --home {}", lab.home()));
    let drill = &told["drills"][0];
    assert!(drill["snapshot"].as_str().is_some_and(|of| of.starts_with("FS/replica@")), "{drill}");
    assert_eq!(drill["modes"], serde_json::json!(["native"]));
    lab.assert_nothing_left();
    for from in ["FS/elsewhere", "ssh://h/x"] {
        lab.write(&configured(&format!("{check}\nfrom = \"{from}\"")));
        let (_, said) = lab.drill(2);
        assert!(said.contains("none of the job's targets") && said.contains("job.node.drill.from"), "{said}");
    }
}

#[test]
fn any_user_may_write_where_programs_take_that_for_granted_whatever_it_is_here() {
    ground!("btrfs", "loop", "root", "unshare");
    let script = script(
        "touch /tmp/x /var/tmp/x /dev/shm/x && ! touch /run/x && stat -c %a /tmp /var/tmp /dev/shm /run",
    );
    let lab = lab(&format!("{script}\nuser = \"daemon\""));
    // A machine that leaves /var/tmp to root alone.
    let closed = "mount -t tmpfs -o mode=700 none /var/tmp && exec \"$@\"";
    let output = Command::new("unshare")
        .args([
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            closed,
            "sh",
            env!("CARGO_BIN_EXE_cowsnap"),
            "--state-dir",
        ])
        .arg(lab.fs.outside().join("state"))
        .args(["drill", "node", "--json", "--home", &lab.home()])
        .env("COWSNAP_CONFIG", &lab.config)
        .output()
        .expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains(r"1777\n1777\n1777\n755\n"), "{out}{err}");
    lab.assert_nothing_left();
}

#[test]
fn without_a_snapshot_or_a_drill_there_is_nothing_to_rehearse() {
    ground!("btrfs", "loop", "root");
    let lab = Lab::new(&configured(&script("true")));
    lab.ends(0, "create FS/node");
    let (_, said) = lab.drill(2);
    assert!(said.contains("label job=node") && said.contains("cowsnap job run node"), "{said}");
    lab.write("[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n");
    let (_, said) = lab.drill(2);
    assert!(said.contains("job node has no drill"), "{said}");
    lab.ends(2, "drill");
}

#[test]
fn the_live_data_is_hidden_wherever_it_is_mounted() {
    ground!("btrfs", "loop", "root");
    let check = |at: &str| script(&format!("grep -q good {at}/f; grep -q good FS/node/f"));
    let lab = lab(&check("FS/node"));
    let bound = lab.fs.outside().join("bound");
    fs::create_dir(&bound).expect("made");
    let bound = bound.to_str().expect("utf-8");
    ground::run("mount", &["--bind", &lab.placed("FS/node"), bound]);
    lab.write(&configured(&check(bound)));
    let (out, _) = lab.drill(0);
    ground::run("umount", &[bound]);
    assert!(out.contains("would do"), "{out}");
}

#[test]
fn each_dataset_is_where_the_configuration_has_it_and_those_inside_show_in_it() {
    ground!("btrfs", "loop", "root");
    let text = "[job.node]\ndatasets = [\"FS/a/deeper\", \"FS/node\"]\nrecursive = true\ncrash_consistent = true\n[job.node.drill]\n";
    let check = "test $COWSNAP_DRILL_DIR = FS/a/deeper && test $COWSNAP_DRILL_DIR_2 = FS/node && grep -q old FS/node/in/f && test ! -e FS/node/new/f";
    let lab = Lab::new(&format!("{text}{}\n", script(check)));
    fs::create_dir(lab.fs.path().join("a")).expect("made");
    for dataset in ["a/deeper", "node", "node/in"] {
        lab.ends(0, &format!("create FS/{dataset}"));
    }
    fs::write(lab.fs.path().join("node/in/f"), "old").expect("written");
    lab.ends(0, "job run node");
    fs::write(lab.fs.path().join("node/in/f"), "live").expect("written");
    lab.ends(0, "create FS/node/new");
    fs::write(lab.fs.path().join("node/new/f"), "live").expect("written");
    let told = lab.json(0, &format!("drill node --home {}", lab.home()));
    let drill = &told["drills"][0];
    assert!(drill["snapshot"].as_str().is_some_and(|of| of.starts_with("FS/a/deeper@")), "{drill}");
    assert_eq!(drill["parts"].as_array().map(Vec::len), Some(3), "{drill}");
    lab.write(&format!("{text}from = \"FS/replica\"\n{}\n", script(check)));
    lab.drill(2);
}

#[test]
fn a_signal_ends_it_and_is_no_failure_of_the_data() {
    ground!("btrfs", "loop", "root");
    let lab = lab(&script("sleep 1000"));
    let (mut drill, _) = lab.begun("");
    rustix::process::kill_process(Pid::from_child(&drill), Signal::TERM).expect("told");
    assert_eq!(drill.wait().expect("it ends").code(), Some(5));
    assert_eq!(lab.tallied(), None);
    lab.assert_nothing_left();
}

#[test]
fn kill_9_in_the_midst_ends_the_command_and_the_next_drill_clears_away() {
    ground!("btrfs", "loop", "root");
    for user in ["", "user = \"daemon\""] {
        let lab = lab(&script("sleep 1000 & sleep 1000"));
        let (mut drill, command) = lab.begun(user);
        let watched = rustix::process::pidfd_open(command, PidfdFlags::empty()).expect("it runs");
        rustix::process::kill_process(Pid::from_child(&drill), Signal::KILL).expect("killed");
        drill.wait().expect("it ends");
        let mut ended = [PollFd::new(&watched, PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut ended, Some(&patience)), Ok(1), "{user}: the command goes on");
        lab.write(&configured(&script("true")));
        lab.drill(0);
        lab.assert_nothing_left();
    }
}

impl Lab {
    /// A drill whose command is at work, and that. `more` is put to its configuration.
    fn begun(&self, more: &str) -> (Child, Pid) {
        let text = fs::read_to_string(&self.config).expect("there");
        fs::write(&self.config, format!("{text}{more}\n")).expect("written");
        let drill = ground::cowsnap(&self.fs.outside().join("state"))
            .args(["drill", "node", "--home", &self.home()])
            .env("COWSNAP_CONFIG", &self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // Its child is the command, in a process namespace of its own.
        let command = || {
            let own = drill.id();
            let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).ok()?;
            let id = children.split_whitespace().next()?.parse().ok()?;
            let words = fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
            words.starts_with("/bin/sh").then(|| Pid::from_raw(id))?
        };
        ground::waits("the command", || command().is_some());
        let command = command().expect("it goes on for long");
        (drill, command)
    }
}
