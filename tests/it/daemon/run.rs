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
    assert_eq!(daemon.ask("POST", "/jobs/slow/run").0, 202);
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
    assert_eq!(daemon.ask("POST", "/jobs/slow/run").0, 202);
    waits("its midst", || file(&lab, "waits").exists());
    assert_eq!(daemon.ask("POST", "/jobs/other/run").0, 202);
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
    assert_eq!(daemon.ask("POST", "/jobs/slow/run").0, 202);
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
    daemon.ask("POST", "/jobs/slow/run");
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
    assert_eq!(daemon.ask("POST", "/jobs/node/run").0, 202);
    waits("a run by what was", || daemon.n_snapshots() == 2);
    assert_eq!(daemon.get("/healthz")["ok"], true);
    let said = daemon.reload();
    assert!(said.contains("the configuration from before is kept") && said.contains("lost"), "{said}");
    let (status, told) = daemon.ask("GET", "/healthz");
    assert_eq!((status, &told["ok"]), (503, &false.into()));
    assert!(told["reasons"][0].as_str().is_some_and(|why| why.contains("config.toml:")), "{told}");
    assert_eq!(daemon.ask("POST", "/jobs/node/run").0, 202);
    waits("another", || daemon.n_snapshots() == 3);
    lab.write(YEARLY);
    assert_eq!(daemon.reload(), "READY=1\nSTATUS=1 job");
    assert_eq!(daemon.get("/healthz")["ok"], true);
    // Where nothing is from before there is nothing to go by.
    drop(daemon);
    lab.write("[job.node]\nlost = 3\n");
    let (_, said) = lab.ends(2, "daemon --listen FS/../socket");
    assert!(said.contains("config.toml:2") && said.contains("lost"), "{said}");
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
