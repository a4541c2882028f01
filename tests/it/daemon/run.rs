//! Which jobs it calls, and when.

use super::*;

#[test]
fn what_is_due_is_run_once_and_what_is_new_in_the_configuration_too() {
    ground!("btrfs");
    let lab = lab(YEARLY);
    let mut daemon = Daemon::start(&lab, "");
    waits("the first run", || daemon.get("/jobs/node")["last_run"]["ended"].is_string());
    for name in ["again", "more"] {
        lab.write(&format!("{YEARLY}{}", YEARLY.replace("job.node", &format!("job.{name}"))));
        assert!(daemon.reload().contains("STATUS=2 jobs"));
        waits("the new one", || daemon.get(&format!("/jobs/{name}"))["last_run"]["ended"].is_string());
    }
    assert_eq!(daemon.get("/jobs/node")["skipped"], 0);
    let labels: Vec<_> = lab.snapshots("node").into_iter().map(|(_, labels)| labels["job"].clone()).collect();
    assert_eq!(labels, ["node", "again", "more"]);
    assert_eq!(daemon.ask("GET", "/jobs/again").0, 404, "it is not configured any more");
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!file(&lab, "socket").exists(), "its socket is left");
    // Nothing is due when it is back, and each is called before it is ended again.
    let daemon = Daemon::start(&lab, "");
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(lab.snapshots("node").len(), 3);
}

#[test]
fn what_was_missed_is_made_up_for_once_and_the_next_minute_is_not_missed() {
    ground!("btrfs");
    let lab = lab(&YEARLY.replace("0 0 1 1 *", "* * * * *"));
    let minute = || jiff::Timestamp::now().as_second() / 60;
    lab.ends(0, "job run node");
    let before = minute();
    while minute() < before + 2 {
        std::thread::sleep(Duration::from_millis(100));
    }
    let daemon = Daemon::start(&lab, "");
    waits("the run", || daemon.n_snapshots() > 1);
    let now = minute();
    assert!(daemon.n_snapshots() == 2 || minute() > now, "two were missed, and two were made up for");
    waits("the next", || daemon.n_snapshots() > 2);
    assert!(minute() > before + 2);
}

#[test]
fn what_is_asked_for_is_run_at_once_and_a_job_at_work_is_a_conflict() {
    ground!("btrfs");
    let lab = lab(&format!("{SLOW}[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n"));
    let daemon = Daemon::start(&lab, "");
    let (status, told) = daemon.ask("POST", "/jobs/node/run");
    assert_eq!((status, &told["job"], &told["see"]), (202, &"node".into(), &"/jobs/node".into()), "{told}");
    waits("the run", || daemon.get("/jobs/node")["last_run"]["ended"].is_string());
    let told = daemon.get("/jobs/node");
    assert_eq!(
        (&told["is_asked_for"], &told["last_run"]["failure"]),
        (&false.into(), &Value::Null),
        "{told}"
    );
    assert_eq!(daemon.n_snapshots(), 1);
    daemon.runs("slow");
    waits("its midst", || file(&lab, "waits").exists());
    assert_eq!(daemon.get("/jobs/slow")["is_at_work"], true);
    let (status, told) = daemon.ask("POST", "/jobs/slow/run");
    assert_eq!((status, &told["see"]), (409, &"/jobs/slow".into()), "{told}");
    // One that hangs holds up no other: of another dataset.
    lab.ends(0, "create FS/other");
    fs::write(file(&lab, "go"), "").expect("written");
    waits("its end", || daemon.get("/jobs/slow")["last_run"]["ended"].is_string());
    assert_eq!(daemon.n_snapshots(), 2);
    assert_eq!(daemon.ask("POST", "/jobs/nobody/run").0, 404);
    assert_eq!(daemon.ask("GET", "/jobs/node/run").0, 405);
    assert_eq!(daemon.get("/jobs")["jobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_job_that_waits_holds_up_no_other() {
    ground!("btrfs");
    let other = "[job.other]\ndatasets = [\"FS/other\"]\ncrash_consistent = true\n";
    let lab = lab(&format!("{SLOW}{other}"));
    lab.ends(0, "create FS/other");
    let daemon = Daemon::start(&lab, "");
    daemon.runs("slow");
    waits("its midst", || file(&lab, "waits").exists());
    daemon.runs("other");
    waits("the other", || lab.snapshots("other").len() == 1);
    assert_eq!(daemon.get("/jobs/slow")["is_at_work"], true);
    assert_eq!(daemon.get("/healthz")["ok"], true);
}

#[test]
fn a_job_ends_cleanly_before_the_daemon_does() {
    ground!("btrfs");
    let lab = lab(SLOW);
    let daemon = Daemon::start(&lab, "");
    daemon.ask("POST", "/jobs/slow/run");
    waits("its midst", || file(&lab, "waits").exists());
    assert!(!file(&lab, "after").exists());
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(file(&lab, "after").exists(), "the job was not let come to its end");
    assert_eq!(lab.snapshots("node").len(), 0);
    // What was asked for is not forgotten; who asks again does not wait until the job has rested.
    fs::write(file(&lab, "go"), "").expect("written");
    let daemon = Daemon::start(&lab, "");
    assert_eq!(daemon.get("/jobs/slow")["is_asked_for"], true);
    daemon.runs("slow");
    waits("the run", || daemon.n_snapshots() == 1);
    waits("what was asked for is done", || daemon.get("/jobs/slow")["is_asked_for"] == false);
}

#[test]
fn a_job_that_is_killed_is_told_and_takes_nothing_with_it() {
    ground!("btrfs");
    let lab = lab(SLOW);
    let daemon = Daemon::start(&lab, "");
    daemon.ask("POST", "/jobs/slow/run");
    waits("its midst", || file(&lab, "waits").exists());
    let children = daemon.children();
    assert_eq!(children.len(), 1);
    kill_process(children[0], Signal::KILL).expect("it is there");
    waits("the warning", || daemon.said().contains("job slow: its process was ended by SIGKILL"));
    assert_eq!(daemon.get("/healthz")["ok"], true);
    fs::write(file(&lab, "go"), "").expect("written");
    waits("the guard", || !file(&lab, "state/leases/slow.json").exists());
    daemon.runs("slow");
    waits("the next run", || daemon.n_snapshots() == 1);
    waits("its record", || daemon.get("/jobs/slow")["unended"] == 1);
}

#[test]
fn who_is_killed_leaves_its_job_at_work_and_the_next_one_goes_on() {
    ground!("btrfs");
    let lab = lab(SLOW);
    let mut daemon = Daemon::start(&lab, "");
    daemon.ask("POST", "/jobs/slow/run");
    waits("its midst", || file(&lab, "waits").exists());
    let job = daemon.children()[0];
    daemon.signal(Signal::KILL);
    daemon.child.wait().expect("it ends");
    let daemon = Daemon::start(&lab, "");
    assert_eq!(daemon.ask("POST", "/jobs/slow/run").0, 409);
    fs::write(file(&lab, "go"), "").expect("written");
    waits("the run's end", || daemon.get("/jobs/slow")["last_run"]["ended"].is_string());
    assert_eq!((daemon.n_snapshots(), &daemon.get("/jobs/slow")["unended"]), (1, &0.into()));
    waits("its process' end", || !PathBuf::from(format!("/proc/{}", job.as_raw_nonzero())).exists());
}

#[test]
fn a_configuration_that_is_broken_is_told_and_changes_nothing() {
    ground!("btrfs");
    let lab = lab(YEARLY);
    let mut daemon = Daemon::start(&lab, "");
    waits("the first run", || daemon.n_snapshots() == 1);
    lab.write("[job.node]\nlost = 3\n");
    // Nobody has said that it is to be taken up, and it reaches no job.
    daemon.runs("node");
    waits("a run by what was", || daemon.n_snapshots() == 2);
    assert_eq!(daemon.get("/healthz")["ok"], true);
    let said = daemon.reload();
    assert!(said.contains("the configuration from before is kept") && said.contains("lost"), "{said}");
    let (status, told) = daemon.ask("GET", "/healthz");
    assert_eq!((status, &told["ok"]), (503, &false.into()));
    assert!(told["reasons"][0].as_str().is_some_and(|why| why.contains("config.toml:")), "{told}");
    daemon.runs("node");
    waits("another", || daemon.n_snapshots() == 3);
    lab.write(YEARLY);
    assert_eq!(daemon.reload(), "READY=1\nSTATUS=1 job");
    assert_eq!(daemon.get("/healthz")["ok"], true);
    drop(daemon);
    // One that begins goes by what was sound before, and says so.
    lab.write("[job.node]\nlost = 3\n");
    let mut daemon = Daemon::start(&lab, "");
    let warns = |said: &str| said.contains("jobs are called by a copy") && said.contains("config.toml:2");
    waits("the warning", || warns(&daemon.said()));
    let (status, told) = daemon.ask("GET", "/healthz");
    assert!(status == 503 && told["reasons"][0].as_str().is_some_and(|why| why.contains("a copy")), "{told}");
    assert_eq!(
        (daemon.get("/livez")["ok"].clone(), daemon.measured("cowsnap_daemon_config_current")),
        (true.into(), 0.0)
    );
    daemon.runs("node");
    waits("one by the copy", || daemon.n_snapshots() == 4);
    lab.write(YEARLY);
    assert_eq!(daemon.reload(), "READY=1\nSTATUS=1 job");
    assert_eq!(
        (daemon.get("/healthz")["ok"].clone(), daemon.measured("cowsnap_daemon_config_current")),
        (true.into(), 1.0)
    );
    drop(daemon);
    // Where nothing is from before there is nothing to go by.
    fs::remove_dir_all(file(&lab, "state/daemon")).expect("removed");
    lab.write("[job.node]\nlost = 3\n");
    let (_, said) = lab.ends(2, "daemon --listen FS/../socket");
    assert!(said.contains("config.toml:2") && said.contains("lost"), "{said}");
}

/// A job whose run was killed in its midst with its guard, and a daemon that went with it.
fn left_stopped() -> Lab {
    let lab = lab(SLOW);
    let mut daemon = Daemon::start(&lab, "");
    daemon.runs("slow");
    waits("its midst", || file(&lab, "waits").exists());
    let run = daemon.children()[0];
    for pid in guards_of(&lab).into_iter().chain([run]) {
        kill_process(pid, Signal::KILL).expect("it is there");
    }
    daemon.signal(Signal::KILL);
    daemon.child.wait().expect("it ends");
    drop(daemon);
    assert!(!file(&lab, "after").exists() && file(&lab, "state/leases/slow.json").exists());
    fs::write(file(&lab, "go"), "").expect("written");
    lab
}

#[test]
fn what_is_stopped_is_started_even_by_a_daemon_that_can_not_begin() {
    ground!("btrfs");
    // The configuration; an address that takes a token; a token that can not be read.
    for (line, says) in [
        ("daemon --listen FS/../socket", "config.toml:2"),
        ("daemon --listen 0.0.0.0:0", "who asks there has to have a token"),
        ("daemon --listen 127.0.0.1:0 --token-file FS/../none", "none"),
    ] {
        let lab = left_stopped();
        if says.contains("config") {
            lab.write("[job.slow]\nlost = 3\n");
        }
        fs::remove_dir_all(file(&lab, "state/daemon")).expect("removed");
        let (_, said) = lab.ends(2, line);
        assert!(said.contains(says), "{line}: {said}");
        assert!(file(&lab, "after").exists(), "{line}: nobody has told it to go on");
        assert!(!file(&lab, "state/leases/slow.json").exists(), "{line}");
    }
}

/// Those that are there for jobs of that state directory.
fn guards_of(lab: &Lab) -> Vec<Pid> {
    let state = file(lab, "state").canonicalize().expect("there").display().to_string();
    let entries = fs::read_dir("/proc").expect("read").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_one = |pid: &i32| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("\0job\0guard\0") && words.contains(&state)
    };
    pids.filter(is_one).filter_map(Pid::from_raw).collect()
}

#[test]
fn a_configuration_that_does_not_answer_holds_up_nothing() {
    ground!("btrfs");
    let lab = lab(YEARLY);
    let mut daemon = Daemon::start(&lab, "");
    waits("the first run", || daemon.n_snapshots() == 1);
    fs::remove_file(&lab.config).expect("removed");
    let path = lab.config.to_str().expect("utf-8");
    ground::run("mkfifo", &[path]);
    daemon.signal(Signal::HUP);
    daemon.notified.until("it reloads", |said| said.starts_with("RELOADING=1\n"));
    daemon.runs("node");
    waits("a run", || daemon.n_snapshots() == 2);
    waits("what it says", || daemon.ask("GET", "/healthz").1.to_string().contains("does not answer"));
    let answers = || {
        let open = fs::File::options().read(true).write(true).open(&lab.config).expect("opened");
        fs::remove_file(&lab.config).expect("removed");
        lab.write(YEARLY);
        drop(open);
    };
    answers();
    daemon.notified.until("it is ready again", |said| said == "READY=1\nSTATUS=1 job");
    drop(daemon);
    fs::remove_file(&lab.config).expect("removed");
    ground::run("mkfifo", &[path]);
    let mut daemon = Daemon::start(&lab, "");
    waits("the warning", || daemon.said().contains("does not answer"));
    daemon.runs("node");
    waits("a run by the copy", || daemon.n_snapshots() == 3);
    answers();
    daemon.notified.until("it is ready again", |said| said == "READY=1\nSTATUS=1 job");
    assert_eq!(daemon.get("/healthz")["ok"], true);
}

#[test]
fn a_job_whose_process_fails_is_not_well() {
    ground!("btrfs");
    let lab = lab(&YEARLY.replace("schedule = \"0 0 1 1 *\"\n", ""));
    let daemon = Daemon::start(&lab, "");
    let copies = fs::read_dir(file(&lab, "state/daemon")).expect("read").flatten();
    let copy = copies.map(|entry| entry.path().join("config.toml")).next().expect("there");
    let sound = fs::read(&copy).expect("read");
    fs::write(&copy, "[job.node]\nlost = 3\n").expect("written");
    daemon.runs("node");
    waits("it is told", || daemon.ask("GET", "/healthz").1.to_string().contains("exit code 2"));
    assert!(daemon.measured("cowsnap_daemon_calls_failed{job_name=\"node\"}") > 0.0);
    fs::write(&copy, sound).expect("written");
    waits("the end of the last", || daemon.children().is_empty());
    daemon.runs("node");
    waits("a run", || daemon.n_snapshots() == 1);
    waits("it is well", || daemon.get_any("/healthz")["ok"] == true);
    assert_eq!(daemon.measured("cowsnap_daemon_calls_failed{job_name=\"node\"}"), 0.0);
}

#[test]
fn a_run_that_failed_was_called_whatever_its_exit_code() {
    ground!("btrfs");
    let lab = lab("[job.gone]\ndatasets = [\"FS/gone\"]\ncrash_consistent = true\n\
         [job.down]\ndatasets = [\"FS/node\"]\n[job.down.flush]\ncommand = [\"/usr/bin/true\"]\nafter = [\"/usr/bin/test\", \"-e\", \"FS/../go\"]\n");
    let daemon = Daemon::start(&lab, "");
    // Exit codes 2 and 1: there is no such dataset; what was told is not told that it is over.
    for (job, class) in [("gone", "usage"), ("down", "internal")] {
        daemon.runs(job);
        let series = format!("cowsnap_daemon_calls_failed{{job_name=\"{job}\"}}");
        waits("that it fails", || daemon.measured(&series) > 0.0);
        assert_eq!(daemon.get(&format!("/jobs/{job}"))["last_run"]["failure"]["class"], class, "{job}");
        assert_eq!(daemon.get("/healthz")["ok"], true, "{job}: that it fails is the backup's state");
    }
    assert_eq!(daemon.n_snapshots(), 1);
    fs::write(file(&lab, "go"), "").expect("written");
    waits("the guard", || !file(&lab, "state/leases/down.json").exists());
}

#[test]
fn what_a_run_has_failed_of_is_not_run_again_at_once() {
    ground!("btrfs");
    let lab = lab(
        "[job.fails]\ndatasets = [\"FS/node\"]\n[job.fails.flush]\ncommand = [\"FS/../fails\"]\nafter = [\"/bin/true\"]\n",
    );
    fs::write(file(&lab, "fails"), "#!/bin/sh\necho run >> \"$(dirname \"$0\")/ran\"\nexit 1\n")
        .expect("written");
    fs::set_permissions(file(&lab, "fails"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("changed");
    let n_runs = || fs::read_to_string(file(&lab, "ran")).unwrap_or_default().lines().count();
    let daemon = Daemon::start(&lab, "");
    let minute = || jiff::Timestamp::now().as_second() / 60;
    let began = minute();
    for _ in 0..8 {
        let before = n_runs();
        waits("the end of the last", || daemon.children().is_empty());
        daemon.ask("POST", "/jobs/fails/run");
        // Before the run has come to take up what it is asked for.
        daemon.ask("POST", "/jobs/fails/run");
        waits("a run", || n_runs() > before);
    }
    waits("the count", || daemon.measured("cowsnap_daemon_calls_failed{job_name=\"fails\"}") > 0.0);
    waits("the end of all", || daemon.children().is_empty());
    assert_eq!(daemon.get("/healthz")["ok"], true, "that it fails is the backup's state");
    // Each minute it is tried once more; and a request may come too late for the run that is about to begin.
    let most = 8 + usize::try_from(minute() - began).expect("later") + 2;
    assert!(n_runs() <= most, "{} runs, and {most} at most", n_runs());
}

#[test]
fn there_is_one_daemon_and_it_tells_that_it_lives() {
    ground!("btrfs");
    let lab = lab("");
    let mut command = ground::cowsnap(&file(&lab, "state"));
    command.env("WATCHDOG_USEC", "3000000");
    let mut daemon = Daemon::by(&lab, command, "");
    for _ in 0..3 {
        daemon.notified.until("it lives", |said| said == "WATCHDOG=1");
    }
    let (_, said) = lab.ends(5, "daemon --listen FS/../other");
    assert!(said.contains("another daemon"), "{said}");
    assert_eq!(daemon.get("/jobs")["jobs"].as_array().map(Vec::len), Some(0));
    assert_eq!(daemon.stop().code(), Some(0));
}
