//! When a job runs: its schedule as systemd has it, requests, triggers.

use std::fs;
use std::process::Command;

use crate::ground::{self, Btrfs, ground};
use crate::job::Lab;
use crate::peer::hung::{Frozen, wait_for_all_of, within};

const PLAIN: &str = "[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n";

#[test]
fn what_is_asked_for_is_done_once_and_kept_until_there_is_a_snapshot() {
    ground!("btrfs");
    let lab = Lab::new(PLAIN);
    let asked = lab.json(0, "job request node");
    assert_eq!(asked["requests"][0]["was_open"], false, "{asked}");
    assert_eq!(lab.json(0, "job request node")["requests"][0]["was_open"], true);
    let file = asked["requests"][0]["file"].as_str().expect("a path").to_owned();
    // There is no such dataset yet: nothing is forgotten.
    for _ in 0..2 {
        lab.ends(2, "job run --due");
        assert!(fs::exists(&file).expect("looked"));
    }
    lab.ends(0, "create FS/node");
    let foreseen = lab.json(0, "job run --due --dry-run");
    assert_eq!(foreseen["jobs"][0]["because"], "it was asked for", "{foreseen}");
    assert!(fs::exists(&file).expect("looked"), "a dry run took it");
    let done = lab.json(0, "job run --due");
    assert_eq!(done["jobs"][0]["because"], "it was asked for", "{done}");
    assert_eq!(lab.json(0, "job run --due")["jobs"].as_array().map(Vec::len), Some(0));
    // A file is all that it takes, and a run that is called by name does it, too.
    fs::write(&file, "please").expect("written");
    lab.ends(0, "job run node");
    lab.ends(0, "job run --due");
    assert_eq!(lab.snapshots("node").len(), 2);
}

#[test]
fn what_was_asked_for_during_a_run_or_of_one_that_died_is_done_by_the_next() {
    ground!("btrfs");
    let folder = tempfile::tempdir().expect("a folder");
    let state = |lab: &Lab| lab.fs.outside().join("state");
    // Its run asks for another one, as somebody may in the midst of it.
    let status = folder.path().join("status");
    let quiesce = format!(
        "[job.node]\ndatasets = [\"FS/node\"]\n[[job.node.quiesce.service]]\nstatus = [\"{}\"]\nstop = [\"/bin/true\"]\nstart = [\"/bin/true\"]\n",
        status.display()
    );
    let lab = Lab::new(&quiesce);
    lab.ends(0, "create FS/node");
    let file = state(&lab).join("requests/node");
    fs::write(&status, format!("#!/bin/sh\ntouch {}\nexit 1\n", file.display())).expect("written");
    fs::set_permissions(&status, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("changed");
    lab.ends(0, "job request node");
    lab.ends(0, "job run --due");
    assert!(file.exists(), "what was asked for meanwhile is lost");
    assert_eq!(lab.snapshots("node").len(), 1);
    // A run that took it aside and died leaves it to the next.
    fs::rename(&file, file.with_file_name(".taken.node")).expect("renamed");
    lab.write(PLAIN);
    let done = lab.json(0, "job run --due");
    assert_eq!(done["jobs"][0]["because"], "it was asked for", "{done}");
    assert_eq!(lab.snapshots("node").len(), 2);
    assert_eq!(fs::read_dir(file.parent().expect("a folder")).expect("read").count(), 0, "something is left");
}

#[test]
fn a_request_of_nobodys_job_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    fs::write(&config, "[job.a]\ndatasets = [\"tank/a\"]\ncrash_consistent = true\n").expect("written");
    let run = |args: &[&str], code: i32| {
        let output = ground::cowsnap(folder.path()).args(args).env("COWSNAP_CONFIG", &config).output();
        let output = output.expect("the program starts");
        assert_eq!(output.status.code(), Some(code), "{args:?} {output:?}");
        String::from_utf8(output.stderr).expect("utf-8")
    };
    assert!(run(&["job", "request", "b"], 2).contains("no job is called b; there are: a"));
    fs::create_dir(folder.path().join("requests")).expect("made");
    fs::write(folder.path().join("requests/b"), "").expect("written");
    assert!(run(&["--quiet", "job", "run", "--due"], 0).contains("requests/b asks for nothing"));
}

/// The next times of `line` after `base`, as systemd says.
fn systemd_says(line: &str, base: &str, n: usize) -> Vec<String> {
    let output = Command::new("systemd-analyze")
        .args(["calendar", &format!("--iterations={n}"), &format!("--base-time={base}"), line])
        .env("TZ", "UTC")
        .output()
        .expect("systemd-analyze starts");
    assert!(output.status.success(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("utf-8");
    let times = text.lines().filter(|line| line.contains("Next elapse:") || line.contains("Iter. #"));
    // "Next elapse: Mon 2026-11-23 02:00:00 UTC"
    times
        .filter_map(|line| {
            line.split_once(": ")?.1.split_once(' ').map(|(_, time)| time.trim_end_matches(" UTC").into())
        })
        .collect()
}

#[test]
fn systemd_reads_the_schedules_of_jobs_as_cowsnap_does() {
    ground!("systemd-analyze");
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    let patterns = [
        "0 2 * * *",
        "*/15 * * * *",
        "5-59/15 8-18 * * *",
        "30 4 * * SUN",
        "0 0 * * 1-5",
        "0 0 * * 6,7",
        "0 4 L * *",
        "0 0 1,15 * *",
        "0 0 1 JAN,JUL *",
        "0 0 13 * FRI",
        "7 */5 */3 2-11/3 *",
        "@hourly",
        "@weekly",
        "@monthly",
        "@yearly",
    ];
    for pattern in patterns {
        fs::write(
            &config,
            format!("[job.a]\ndatasets = [\"tank/a\"]\ncrash_consistent = true\nschedule = \"{pattern}\"\n"),
        )
        .expect("written");
        let output = ground::cowsnap(folder.path())
            .args(["job", "explain", "--json"])
            .env("COWSNAP_CONFIG", &config)
            .output()
            .expect("the program starts");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
        let next: Vec<_> =
            told["jobs"][0]["next"].as_array().expect("a list").iter().filter_map(|t| t.as_str()).collect();
        let lines = told["jobs"][0]["on_calendar"].as_array().expect(pattern);
        let first: jiff::Timestamp = next[0].parse().expect("a time");
        let base = (first - jiff::SignedDuration::from_secs(1)).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        let mut found: Vec<_> = lines
            .iter()
            .flat_map(|line| systemd_says(line.as_str().expect("a text"), &base, next.len()))
            .collect();
        found.sort();
        found.dedup();
        found.truncate(next.len());
        let wanted: Vec<_> =
            next.iter().map(|t| t.replace('T', " ").trim_end_matches('Z').to_owned()).collect();
        assert_eq!(found, wanted, "{pattern} {lines:?}");
    }
}

/// A job with this trigger, and more lines.
pub(crate) fn triggered(trigger: &str, more: &str) -> String {
    format!("{PLAIN}{more}\n[job.node.trigger]\n{trigger}\n")
}

/// What `job run --due` says of why it ran; nothing if it did not.
fn because(lab: &Lab) -> Option<String> {
    lab.json(0, "job run --due")["jobs"][0]["because"].as_str().map(str::to_owned)
}

#[test]
fn what_was_written_since_the_last_snapshot_makes_a_job_due() {
    ground!("btrfs");
    let lab = Lab::new(&triggered("written = \"1M\"", "recursive = true"));
    lab.ends(0, "create FS/node");
    let path = lab.fs.path().join("node");
    let write = |name: &str, kib: usize| {
        let bytes: Vec<u8> = (0..kib << 10).map(|n| (n % 251) as u8).collect();
        fs::write(path.join(name), bytes).expect("written");
        rustix::fs::syncfs(fs::File::open(&path).expect("opened")).expect("synced");
    };
    write("before", 3000);
    assert_eq!(because(&lab).as_deref(), Some("there is no snapshot of it yet"));
    assert_eq!(because(&lab), None);
    write("little", 500);
    assert_eq!(because(&lab), None, "half of it is enough");
    // Many files of which btrfs keeps the bytes within its tree, and a dataset inside, of which there is no snapshot yet.
    lab.ends(0, "create FS/node/inside");
    write("inside/more", 600);
    assert_eq!(because(&lab).as_deref(), Some("1048576 bytes or more were written"));
    assert_eq!(because(&lab), None);
    // What a snapshot by somebody else has does not count for the job's.
    write("again", 700);
    lab.ends(0, "snapshot FS/node --name by-hand");
    write("once-more", 700);
    assert!(because(&lab).is_some());
    // A plain directory has no history: told, and nothing is due by it.
    fs::create_dir(path.join("plain")).expect("made");
    lab.write(&triggered("written = \"1M\"", "").replace("FS/node", "FS/node/plain"));
    lab.ends(0, "job run node");
    let (_, said) = lab.ends(2, "job run --due");
    assert!(said.contains("nobody can say how much was written"), "{said}");
}

/// Makes all snapshots of `dataset` that the job took as old as that.
pub(crate) fn grow_old(lab: &Lab, dataset: &str, seconds: i64) {
    let then = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
    let meta = lab.fs.path().join(format!(".cowsnap/datasets/{dataset}/meta"));
    for file in fs::read_dir(meta).expect("there is metadata").flatten().map(|entry| entry.path()) {
        let mut said: serde_json::Value =
            serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
        said["created"] = then.to_string().into();
        fs::write(&file, said.to_string()).expect("written");
    }
}

#[test]
fn a_number_makes_a_job_due_and_what_is_none_is_told_and_never_0() {
    ground!("btrfs");
    let number = tempfile::NamedTempFile::new().expect("a file");
    let say = |text: &str| fs::write(number.path(), text).expect("written");
    let command = format!("number = {{ command = [\"/bin/cat\", \"{}\"] }}", number.path().display());
    let retention = "[job.node.retention]\nlast = 3\n";
    let emergency =
        "[job.node.trigger.emergency]\nat_least = 20000\n[job.node.trigger.emergency.retention]\nlast = 1\n";
    let text = triggered(
        &format!("with_schedule = \"both\"\n{command}\nat_least = 5000\n{emergency}"),
        "schedule = \"0 0 1 1 *\"",
    );
    let lab = Lab::new(&format!("{text}{retention}"));
    lab.ends(0, "create FS/node");
    say("7");
    assert_eq!(because(&lab).as_deref(), Some("there is no snapshot of it yet"));
    let of_age = |seconds| grow_old(&lab, "node", seconds);
    of_age(2 * 366 * 86400);
    assert_eq!(because(&lab), None, "its time was, but 7 is not enough");
    say("5000");
    assert!(because(&lab).is_some_and(|why| why.ends_with(", and the number is 5000")));
    assert_eq!(because(&lab), None, "its time was");
    of_age(7200);
    // Neither time nor number is: the number is not even asked for what it is not needed for, but for an emergency.
    for wrong in ["", "many", "5000 6000"] {
        say(wrong);
        let (_, said) = lab.ends(2, "job run --due");
        assert!(said.contains("cannot find out the number that /bin/cat"), "{said}");
    }
    assert_eq!(lab.snapshots("node").len(), 2);
    say("20000");
    let (_, said) = lab.ends(0, "job run --due");
    assert!(said.contains("warning: job node: an emergency: the number is 20000"), "{said}");
    assert_eq!(lab.snapshots("node").len(), 1, "in an emergency, one is kept");
    assert_eq!(because(&lab), None, "an emergency every minute");
    let (explained, _) = lab.ends(0, "job explain");
    let sentence = "in an emergency, when the number that /bin/cat ";
    assert!(
        explained.contains(sentence) && explained.contains("; but from then on only when "),
        "{explained}"
    );
}

#[test]
fn a_command_for_a_number_that_nothing_ends_keeps_no_other_job_from_its_run() {
    ground!("btrfs", "fsfreeze");
    let (lab, other) = (Lab::new(""), Btrfs::new());
    lab.ends(0, "create FS/node");
    lab.ends(0, "create FS/second");
    let line = format!("exec echo 5 > {}", other.path().join("x").display());
    let number = format!(
        "number = {{ command = [\"/bin/sh\", \"-c\", \"{line}\"], within = \"1s\" }}\nat_least = 1\nat_most_every = \"1m\""
    );
    lab.write(PLAIN);
    lab.ends(0, "job run node");
    grow_old(&lab, "node", 7200);
    let second = PLAIN.replace("job.node", "job.second").replace("FS/node", "FS/second");
    lab.write(&format!("{}{second}schedule = \"@every 1h\"\n", triggered(&number, "")));
    let state = lab.fs.outside().join("state");
    let frozen = Frozen::new(&other.path());
    let mut child = ground::cowsnap(&state)
        .args(["job", "run", "--due"])
        .env("COWSNAP_CONFIG", &lab.config)
        .stdin(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let code = within(&mut child, std::time::Duration::from_secs(60));
    drop(frozen);
    let _ = child.wait();
    wait_for_all_of(other.path().to_str().expect("utf-8"));
    assert_eq!(code, Some(7));
    assert_eq!((lab.snapshots("node").len(), lab.snapshots("second").len()), (1, 1));
}

#[test]
fn a_number_is_read_out_of_what_a_server_answers_and_its_failure_holds_nothing_else_up() {
    ground!("btrfs", "python3");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("info"), r#"{"mempool":{"counts":[1,{"recent":6000}]}}"#).expect("written");
    let mut server = Command::new("python3")
        .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("python3 starts");
    let mut line = String::new();
    let output = server.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("it says where");
    let port = line.split(' ').skip_while(|word| *word != "port").nth(1).expect("a port").to_owned();
    let number = |path: &str| {
        format!(
            "number = {{ http = \"http://127.0.0.1:{port}/info\", path = \"{path}\" }}\nat_least = 5000\nage = \"48h\""
        )
    };
    let lab = Lab::new(&triggered(&number("mempool.counts.1.recent"), ""));
    lab.ends(0, "create FS/node");
    assert!(because(&lab).is_some());
    grow_old(&lab, "node", 7200);
    assert_eq!(because(&lab).as_deref(), Some("the number is 6000"));
    grow_old(&lab, "node", 7200);
    lab.write(&triggered(&number("mempool.counts"), ""));
    let (_, said) = lab.ends(2, "job run --due");
    assert!(said.contains("no number is there: \"[1,"), "{said}");
    server.kill().and_then(|()| server.wait()).expect("it ends");
    let (_, said) = lab.ends(5, "job run --due");
    assert!(said.contains("cannot find out mempool.counts at http://127.0.0.1:"), "{said}");
    assert_eq!(lab.snapshots("node").len(), 2);
    // What is known is enough, and what is not is told all the same.
    grow_old(&lab, "node", 49 * 3600);
    lab.ends(7, "job run --due");
    assert_eq!(lab.snapshots("node").len(), 3);
}

#[test]
fn a_run_that_overlaps_with_another_is_skipped_or_waits_as_it_is_told() {
    ground!("btrfs");
    let lab =
        Lab::new(&format!("{PLAIN}overlap = \"queue\"\nqueue_for = \"1m\"\nschedule = \"@every 1h\"\n"));
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    grow_old(&lab, "node", 7200);
    let locks = lab.fs.outside().join("state/locks");
    let lock = fs::read_dir(&locks).expect("read").flatten().map(|entry| entry.path());
    let lock = lock
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("job-")));
    let lock = fs::File::open(lock.expect("one lock of a job")).expect("opened");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lab.json(0, "job run --due"));
        // One waits; whoever comes in the minutes after that does not join it.
        let is_waiting = || {
            let inode =
                fs::metadata(locks.join("queue-node")).map(|meta| std::os::unix::fs::MetadataExt::ino(&meta));
            let held = fs::read_to_string("/proc/locks").expect("read");
            inode.is_ok_and(|inode| held.contains(&format!(":{inode} ")))
        };
        while !is_waiting() {
            assert!(!first.is_finished(), "it did not wait");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let skipped = lab.json(0, "job run --due");
        assert!(skipped["jobs"][0]["skipped"].is_string(), "{skipped}");
        lab.ends(5, "job run node");
        assert!(!first.is_finished(), "it waits no more");
        drop(lock);
        let done = first.join().expect("it ends");
        assert!(done["jobs"][0]["snapshots"].is_array(), "{done}");
    });
    assert_eq!(lab.snapshots("node").len(), 2);
}
