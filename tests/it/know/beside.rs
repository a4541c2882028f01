//! Who is told that nobody can tell whether a job is due, which may be so each minute, and that a run was killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;

use crate::ground::{self, ground};
use crate::job::Lab;
use crate::job_when::{grow_old, triggered};

/// A program that appends a line to `NAME.log`.
fn script(lab: &Lab, name: &str, line: &str) -> (PathBuf, PathBuf) {
    let (path, log) = (lab.fs.outside().join(name), lab.fs.outside().join(format!("{name}.log")));
    fs::write(&path, format!("#!/bin/sh\necho \"{line}\" >>{}\n", log.display())).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    (path, log)
}

fn lines(log: &PathBuf) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Has what was said of that job's trigger be said so many seconds earlier.
fn was_said_earlier(lab: &Lab, seconds: i64) {
    let path = lab.fs.outside().join("state/runs/node.json");
    let mut record: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    for tally in record["tallies"].as_array_mut().expect("a list") {
        for said in tally["said"].as_array_mut().into_iter().flatten() {
            let at: jiff::Timestamp = said["at"].as_str().expect("a time").parse().expect("a time");
            said["at"] = (at - jiff::SignedDuration::from_secs(seconds)).to_string().into();
        }
    }
    fs::write(&path, record.to_string()).expect("written");
}

#[test]
fn a_number_that_can_not_be_read_each_minute_is_told_once_until_it_can_be_again() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let number = lab.fs.outside().join("number");
    let (tell, told) = script(&lab, "tell", "$COWSNAP_RESULT $COWSNAP_CLASS $COWSNAP_MESSAGE");
    let (hook, called) = script(&lab, "hook", "$COWSNAP_HOOK $COWSNAP_CLASS");
    let trigger =
        format!("number = {{ command = [\"/bin/cat\", \"{}\"] }}\nat_least = 5000", number.display());
    lab.write(&format!(
        "{}[job.node.hooks]\non_failure = [\"{}\"]\n[job.node.notify]\ncommand = [\"{}\"]\n",
        triggered(&trigger, ""),
        hook.display(),
        tell.display()
    ));
    fs::write(&number, "7").expect("written");
    lab.ends(0, "job run --due");
    grow_old(&lab, "node", 7200);
    lab.ends(0, "job run --due");
    lab.ends(0, "check");
    fs::remove_file(&number).expect("removed");
    for minute in 0..4 {
        lab.ends(5, "job run --due");
        assert_eq!((lines(&told).len(), lines(&called).len()), (1, 1), "minute {minute}: {:?}", lines(&told));
    }
    assert!(lines(&told)[0].starts_with("failure unreachable ") && lines(&told)[0].contains("/bin/cat"));
    assert_eq!(lines(&called), ["on_failure unreachable"]);
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("whether it is due could not be seen at "), "{said}");
    let (metrics, _) = lab.ends(0, "metrics");
    let line = "cowsnap_operations_total{job_name=\"node\",op=\"trigger\",result=\"failure\"} 4\n";
    assert!(metrics.contains(line), "{metrics}");
    assert!(metrics.contains("op=\"run\",result=\"failure\"} 0\n"), "it is no run: {metrics}");
    // A day later it is told again.
    was_said_earlier(&lab, 21 * 3600);
    for _ in 0..2 {
        lab.ends(5, "job run --due");
        assert_eq!((lines(&told).len(), lines(&called).len()), (2, 2));
    }
    // Its end is told once, and nothing has to be run for it.
    fs::write(&number, "8").expect("written");
    for _ in 0..2 {
        lab.ends(0, "job run --due");
        assert_eq!((lines(&told).len(), lines(&called).len()), (3, 2));
    }
    assert!(lines(&told)[2].starts_with("recovery unreachable "), "{:?}", lines(&told));
    lab.ends(0, "check");
    // What comes and goes each minute is told no more often than once an hour.
    for _ in 0..3 {
        fs::remove_file(&number).expect("removed");
        lab.ends(5, "job run --due");
        fs::write(&number, "8").expect("written");
        lab.ends(0, "job run --due");
        assert_eq!((lines(&told).len(), lines(&called).len()), (3, 2));
    }
    was_said_earlier(&lab, 3600);
    fs::remove_file(&number).expect("removed");
    lab.ends(5, "job run --due");
    assert_eq!((lines(&told).len(), lines(&called).len()), (4, 3));
}

#[test]
fn a_dataset_that_is_away_each_minute_is_told_once() {
    ground!("btrfs");
    let lab = Lab::new("");
    let (tell, told) = script(&lab, "tell", "$COWSNAP_RESULT $COWSNAP_CLASS");
    let (hook, called) = script(&lab, "hook", "$COWSNAP_HOOK");
    let job = "[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\nschedule = \"0 0 1 1 *\"\n";
    lab.write(&format!(
        "{job}[job.node.hooks]\non_failure = [\"{}\"]\n[job.node.notify]\ncommand = [\"{}\"]\n",
        hook.display(),
        tell.display()
    ));
    for _ in 0..3 {
        lab.ends(2, "job run --due");
        assert_eq!((lines(&told), lines(&called).len()), (vec!["failure usage".to_owned()], 1));
    }
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run --due");
    assert_eq!(lines(&told), ["failure usage", "recovery usage"]);
    // Who asks for it by name is told of that run.
    lab.write(
        &fs::read_to_string(lab.fs.outside().join("config.toml"))
            .expect("read")
            .replace("/node\"]", "/away\"]"),
    );
    lab.ends(2, "job run node");
    lab.ends(2, "job run node");
    assert_eq!((lines(&told).len(), lines(&called).len()), (3, 3));
}

/// A run of it that is killed, and answers its process's number.
fn killed(lab: &Lab) -> u32 {
    let mut run = ground::cowsnap(&lab.fs.outside().join("state"))
        .args(["job", "run", "node"])
        .env("COWSNAP_CONFIG", &lab.config)
        .stdin(Stdio::null())
        .spawn()
        .expect("the program starts");
    let status = run.wait().expect("it ends");
    assert_eq!(status.signal(), Some(9), "it was not killed");
    run.id()
}

#[test]
fn a_run_that_is_killed_and_leaves_nothing_stopped_is_told_once_by_whoever_looks_next() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let kills = lab.fs.outside().join("kills");
    let hook = format!("[ -e {} ] && kill -KILL $PPID; exit 0", kills.display());
    let (tell, told) = script(&lab, "tell", "$COWSNAP_RESULT $COWSNAP_CLASS $COWSNAP_MESSAGE");
    let job = "[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\nschedule = \"0 0 1 1 *\"\n";
    lab.write(&format!(
        "{job}[job.node.hooks]\nbefore_snapshot = [\"/bin/sh\", \"-c\", \"{hook}\"]\n[job.node.notify]\ncommand = [\"{}\"]\n",
        tell.display()
    ));
    let n = |begins: &str| lines(&told).iter().filter(|line| line.starts_with(begins)).count();
    // Who runs it tells that, too, and that it goes well again.
    for (nth, (line, recoveries)) in
        [("job run --due", 1), ("job recover", 1), ("job run node", 3)].into_iter().enumerate()
    {
        fs::write(&kills, "").expect("written");
        let pid = killed(&lab);
        assert_eq!(n("failure unended "), nth, "{:?}", lines(&told));
        fs::remove_file(&kills).expect("removed");
        lab.ends(0, line);
        let said = lines(&told);
        let is_told = |said: &String| said.contains(&format!("failure unended process {pid} did not come"));
        assert!(said.iter().any(is_told), "{line}: {said:?}");
        for again in ["job run --due", "job recover", "job run --due"] {
            lab.ends(0, again);
            assert_eq!(n("failure unended "), nth + 1, "{line}, {again}: {:?}", lines(&told));
        }
        if line == "job recover" {
            lab.ends(0, "job run node");
            assert_eq!(n("recovery unended "), recoveries + 1, "{:?}", lines(&told));
        } else {
            assert_eq!(n("recovery unended "), recoveries, "{line}: {:?}", lines(&told));
        }
    }
    assert_eq!(lines(&told).len(), 6, "{:?}", lines(&told));
    // One that is killed each time is told once a day, until it went well.
    fs::write(&kills, "").expect("written");
    for _ in 0..3 {
        killed(&lab);
        lab.ends(0, "job run --due");
    }
    assert_eq!(n("failure unended "), 4, "{:?}", lines(&told));
    fs::remove_file(&kills).expect("removed");
    lab.ends(0, "job run node");
    assert_eq!((n("failure unended "), n("recovery unended ")), (4, 4), "{:?}", lines(&told));
    fs::write(&kills, "").expect("written");
    killed(&lab);
    lab.ends(0, "job recover");
    assert_eq!(n("failure unended "), 5, "{:?}", lines(&told));
}
