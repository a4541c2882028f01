//! What runs leave: services that do not stop, snapshots of which nobody knows whether they are good, failures that count.

use super::*;
use crate::ground::Plain;

/// A job with one service that is a file, with a command that stops it.
fn job(status: &str, stop: &str) -> String {
    format!(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\nstop_within = \"300ms\"\n\
         [[job.node.quiesce.service]]\nstatus = [\"/bin/sh\", \"-c\", \"{status}\"]\n\
         stop = [\"/bin/sh\", \"-c\", \"{stop}\"]\nstart = [\"/bin/touch\", \"ROOT/up\"]\n"
    )
}

const IS_UP: &str = "[ -e ROOT/up ]";

impl Lab {
    fn guard(&self) -> Option<i32> {
        guards(&self.root().join("state")).first().copied()
    }

    fn write_up(&self) {
        fs::write(self.root().join("up"), "").expect("written");
    }
}

#[test]
fn a_service_that_never_stops_is_named_by_doctor_forgotten_by_recover_and_no_other_job_waits_for_it() {
    ground!("btrfs");
    let lab = Lab::new("");
    let other =
        "[job.other]\ndatasets = [\"ROOT/mnt/logs\"]\ncrash_consistent = true\nschedule = \"* * * * *\"\n";
    lab.write(&format!("{}{other}", job(IS_UP, "sleep 600")));
    lab.ends(0, "create ROOT/mnt/logs");
    lab.write_up();
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("did not stop within 300ms"), "{said}");
    let named = |what: &str| {
        let findings = lab.runs("doctor --json").1;
        let findings: Value = serde_json::from_str(&findings).expect("one object");
        let all = findings["findings"].as_array().expect("a list").iter();
        all.filter(|finding| {
            finding["place"].as_str().is_some_and(|place| place.ends_with("leases/node.json"))
        })
        .any(|finding| finding["what"].as_str().is_some_and(|said| said.contains(what)))
    };
    waits("the guard at the lease", || named("the guard of job node waits for what /bin/touch "));
    lab.ends(5, "job recover");
    // Its guard is killed, too: it is made up for in the background.
    kill(lab.guard().expect("it waits"), rustix::process::Signal::KILL);
    waits("the guard's end", || named("job node has left"));
    let (_, said) = lab.ends(0, "job run --due");
    assert!(said.contains("a guard is at work to start"), "{said}");
    assert_eq!(
        lab.json(0, "list ROOT/mnt/logs")["datasets"][0]["snapshots"].as_array().map(Vec::len),
        Some(1)
    );
    assert!(lab.lease().exists() && lab.guard().is_some());
    let (text, _) = lab.ends(0, "job recover --forget node");
    assert!(
        text.contains("nobody starts what /bin/touch ") && text.contains("its guard was ended"),
        "{text}"
    );
    assert_eq!((lab.lease().exists(), lab.guard()), (false, None));
    lab.ends(2, "job recover --forget");
    lab.ends(0, "job recover --forget node");
    lab.write(&job(IS_UP, "rm ROOT/up"));
    lab.ends(0, "job run node");
    assert!(!named(""), "nothing is left");
}

#[test]
fn on_failure_is_called_once_of_a_service_that_does_not_stop_however_many_minutes_wait_for_it() {
    ground!("btrfs");
    let lab = Lab::new("");
    let scheduled = |stop: &str| {
        let hook =
            "[job.node.hooks]\non_failure = [\"/bin/sh\", \"-c\", \"echo $COWSNAP_CLASS >> ROOT/called\"]\n";
        let text = job(IS_UP, stop);
        text.replace("[job.node.quiesce]\n", &format!("schedule = \"* * * * *\"\n{hook}[job.node.quiesce]\n"))
    };
    lab.write(&scheduled("sleep 600"));
    lab.write_up();
    lab.ends(5, "job run node");
    waits("the guard", || lab.guard().is_some());
    let n_called = || fs::read_to_string(lab.root().join("called")).map_or(0, |text| text.lines().count());
    assert_eq!(n_called(), 1);
    let mut n_failed = 0;
    waits("three minutes", || lab.runs("job run --due node").0 == Some(5));
    for _ in 0..2 {
        n_failed += usize::from(lab.runs("job run --due node").0 == Some(5));
    }
    assert_eq!((n_failed, n_called()), (2, 1));
    // Nor is it another run that failed: it was none.
    let counted = || {
        let record = fs::read(lab.root().join("state/runs/node.json")).expect("a record");
        let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        let failed = |tally: &serde_json::Value| (tally["op"].clone(), tally["failed"].clone());
        let tallies: Vec<_> = record["tallies"].as_array().expect("a list").iter().map(failed).collect();
        assert!(record["running"].is_null() && record["skipped"]["n"].as_u64() >= Some(3), "{record}");
        tallies
    };
    let each = |n: u64| ["run", "quiesce", "snapshot"].map(|op| (op.into(), n.into()));
    assert_eq!(counted(), each(1));
    let check = lab.runs("check");
    assert!(check.0 == Some(2) || check.0 == Some(1), "that it failed stays said");
    // Who asks for a run by name is told of that one.
    lab.ends(5, "job run node");
    assert_eq!((n_called(), counted()), (2, each(2).to_vec()));
    // And the next one that fails is another one.
    lab.ends(0, "job recover --forget node");
    lab.write(&scheduled("rm ROOT/up"));
    lab.ends(0, "job run node");
    lab.write(&scheduled("exit 3"));
    lab.write_up();
    assert_ne!(lab.runs("job run node").0, Some(0));
    assert_eq!(n_called(), 3);
}

#[test]
fn a_service_whose_stop_refuses_goes_on_and_has_no_snapshot_and_no_lease() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.write(&job(IS_UP, "echo no >&2; exit 3"));
    lab.write_up();
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("exit status: 3"), "{said}");
    waits("the guard's end", || lab.guard().is_none());
    assert!(lab.root().join("up").exists() && !lab.lease().exists());
    assert_eq!(lab.n_snapshots(), 0);
    // It can be stopped now, and is.
    lab.write(&job(IS_UP, "rm ROOT/up"));
    lab.ends(0, "job run node");
    assert!(lab.n_snapshots() == 1 && lab.root().join("up").exists());
}

#[test]
fn what_may_not_be_good_and_can_not_be_destroyed_is_told_and_keeps_no_run_from_its_snapshot() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.write(&format!("{}[job.node.retention]\nlast = 1\n", job(IS_UP, "rm ROOT/up")));
    lab.write_up();
    let doubtful = "20200101T000000Z-unconfirmed";
    lab.ends(0, &format!("snapshot ROOT/mnt/node --name {doubtful} --label job=node --hold mine"));
    for n in 2..4 {
        let (_, said) = lab.ends(0, "job run node");
        let told = format!("node@{doubtful} may not be good, and can not be destroyed");
        assert!(said.contains(&told), "{said}");
        assert!(lab.root().join("up").exists() && !lab.lease().exists());
        let list = lab.json(0, "list ROOT/mnt/node");
        let names = list["datasets"][0]["snapshots"].as_array().expect("a list").iter();
        let names: Vec<_> = names.map(|snapshot| snapshot["name"].as_str().expect("a name")).collect();
        assert!(names.contains(&doubtful) && names.len() == 2, "{n}: {names:?}");
    }
    lab.ends(0, &format!("release mine ROOT/mnt/node@{doubtful}"));
    let (_, said) = lab.ends(0, "job run node");
    assert!(said.contains("is destroyed: its run was killed"), "{said}");
    assert_eq!(lab.n_snapshots(), 1);
}

#[test]
fn services_that_are_not_the_job_s_any_more_keep_it_from_no_snapshot_and_a_guard_without_end_is_a_failure() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.write(&job(IS_UP, "sleep 600"));
    lab.write_up();
    lab.ends(5, "job run node");
    waits("the guard", || lab.guard().is_some());
    // It waits for longer than a service may take.
    lab.write(
        &job(IS_UP, "true").replace("[job.node.quiesce]\n", "schedule = \"* * * * *\"\n[job.node.quiesce]\n"),
    );
    waits("a failure", || {
        let (code, _, said) = lab.runs("job run --due node");
        assert!(code == Some(5) || said.contains("is skipped"), "{code:?}: {said}");
        code == Some(5) && said.contains("job recover --forget node")
    });
    let snapshots = || lab.json(0, "list ROOT/mnt/node")["datasets"][0]["snapshots"].as_array().map(Vec::len);
    assert_eq!(snapshots(), Some(0));
    let now = "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\ncrash_consistent = true\n";
    lab.write(&format!("{now}[job.node.hooks]\nbefore_snapshot = [\"/bin/true\"]\n"));
    lab.ends(5, "job run node");
    assert_eq!(snapshots(), Some(0), "what is called before it may count on them");
    lab.write(now);
    let (_, said) = lab.ends(7, "job run node");
    assert!(said.contains("job recover --forget node"), "{said}");
    assert_eq!(snapshots(), Some(1));
    lab.ends(0, "job recover --forget node");
    lab.ends(0, "job run node");
    assert_eq!(snapshots(), Some(2));
}

#[test]
fn what_is_left_stopped_runs_again_before_anything_else_can_fail() {
    ground!("btrfs");
    let lab = Lab::new("");
    for quiesce in [true, false] {
        lab.write(&job(IS_UP, "sleep 600"));
        lab.write_up();
        lab.ends(5, "job run node");
        waits("the guard", || lab.guard().is_some());
        kill(lab.guard().expect("it waits"), rustix::process::Signal::KILL);
        waits("the guard's end", || lab.guard().is_none());
        // What it waited for has come, and its dataset is gone.
        fs::remove_file(lab.root().join("up")).expect("removed");
        let config = match quiesce {
            true => job(IS_UP, "true"),
            false => "[job.node]\ndatasets = [\"ROOT/mnt/none\"]\ncrash_consistent = true\n".into(),
        };
        lab.write(&config.replace("mnt/node", "mnt/none"));
        lab.runs("job run node");
        assert!(lab.root().join("up").exists(), "it is started: {quiesce}");
        let _ = fs::remove_file(lab.root().join("up"));
        lab.runs("job recover --forget node");
    }
}

#[test]
fn a_snapshot_has_its_name_once_nobody_has_written_and_one_that_was_left_before_does_not_count() {
    ground!("btrfs");
    let lab = Lab::new("");
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let status = format!("{program} --state-dir ROOT/other list --json ROOT/mnt/node >> ROOT/lists; {IS_UP}");
    let scheduled = |status: &str| {
        job(status, "rm ROOT/up")
            .replace("[job.node.quiesce]\n", "schedule = \"0 0 1 1 *\"\n[job.node.quiesce]\n")
    };
    lab.write(&scheduled(IS_UP));
    lab.write_up();
    lab.ends(0, "snapshot ROOT/mnt/node --name 20200101T000000Z-unconfirmed --label job=node");
    lab.ends(0, "snapshot ROOT/mnt/node --name 20200101T000000Z-unconfirmed-not --label job=other");
    // It is the newest to nobody, and keeps none from being kept.
    lab.ends(0, "snapshot ROOT/mnt/node --name 20200102T000000Z-unconfirmed --label job=other");
    let kept = lab.json(0, "prune ROOT/mnt/node --keep-last 1 --dry-run --explain");
    let kept = kept.to_string();
    assert!(kept.contains("unconfirmed") && kept.contains("newest"), "{kept}");
    lab.ends(0, "replicate ROOT/mnt/node ROOT/mnt/replica");
    let replicas = lab.ends(0, "list ROOT/mnt/replica").0;
    assert!(
        replicas.contains("20200101T000000Z-unconfirmed-not") && !replicas.contains("20200102"),
        "{replicas}"
    );
    lab.ends(0, "destroy ROOT/mnt/node@20200102T000000Z-unconfirmed");
    lab.write(&scheduled(&status));
    let (_, said) = lab.ends(0, "job run --due");
    assert!(said.contains("20200101T000000Z-unconfirmed is destroyed"), "{said}");
    let lists = fs::read_to_string(lab.root().join("lists")).expect("it was asked");
    let names = |list: &str| {
        let list: Value = serde_json::from_str(list).expect("one object");
        let all = list["datasets"][0]["snapshots"].as_array().cloned().unwrap_or_default();
        all.iter().map(|snapshot| snapshot["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let unconfirmed = lists.lines().flat_map(names).filter(|name| name.ends_with("Z-unconfirmed")).count();
    assert!(unconfirmed > 0, "the second look found it already named: {lists}");
    let last = names(&lab.ends(0, "list ROOT/mnt/node --json").0);
    assert_eq!((last.len(), last[0].as_str()), (2, "20200101T000000Z-unconfirmed-not"));
    assert!(last[1].starts_with("20") && last[1].ends_with('Z'), "{last:?}");
    assert_eq!(lab.json(0, "job run --due")["jobs"], serde_json::json!([]), "it counts now");
}

#[test]
fn a_run_that_is_killed_while_the_service_is_down_is_counted() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    lab.dies("Verify", "both");
    lab.ends(0, "job recover");
    assert_eq!(fs::read_to_string(lab.root().join("state/leases/node.failed")).expect("counted"), "1");
    let text = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    lab.write(&text.replace("datasets =", "schedule = \"0 0 1 1 *\"\ndatasets ="));
    // As if it were this moment, however slow the machine is.
    let failed = fs::File::options().write(true).open(lab.root().join("state/leases/node.failed"));
    failed.and_then(|file| file.set_modified(std::time::SystemTime::now())).expect("made younger");
    let skipped = lab.json(0, "job run --due");
    let why = skipped["jobs"][0]["skipped"].as_str().expect("skipped");
    assert!(why.contains("for nothing"), "{why}");
    lab.ends(0, "job run node");
    assert!(!lab.root().join("state/leases/node.failed").exists());
}

#[test]
fn what_would_keep_the_snapshot_from_being_taken_for_certain_is_found_before_the_stop() {
    ground!("btrfs");
    let lab = Lab::new("");
    let before = lab.start();
    let run = |state: &str, output: Stdio| {
        let done = ground::cowsnap(&lab.root().join(state))
            .args(["job", "run", "node"])
            .env("COWSNAP_CONFIG", lab.root().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::piped())
            .output()
            .expect("the program starts");
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, said) = run("mnt/node/state", Stdio::null());
    assert!(
        code == Some(3) && said.contains("mnt/node/state/") && said.contains("lies in the dataset"),
        "{said}"
    );
    let log = fs::File::create(lab.root().join("mnt/node/run.log")).expect("made");
    let (code, said) = run("state", log.into());
    assert!(code == Some(3) && said.contains("run.log lies in the dataset"), "{said}");
    assert_eq!((lab.pid(), lab.n_begun(), lab.n_snapshots()), (Some(before), 1, 0));
}

#[test]
fn a_lease_that_nobody_can_read_keeps_no_other_job_from_its_snapshot_and_can_be_forgotten() {
    ground!("btrfs");
    let lab = Lab::new("");
    let before = lab.start();
    lab.ends(0, "job recover");
    fs::write(lab.root().join("state/leases/other.json"), "{ half").expect("written");
    let (_, said) = lab.ends(0, "job run node");
    assert!(said.contains("cannot tell what a run of it has left stopped"), "{said}");
    assert!(lab.n_snapshots() == 1 && lab.pid().is_some_and(|pid| pid != before));
    lab.ends(4, "job recover");
    let (text, _) = lab.ends(0, "job recover --forget other");
    assert!(text.contains("job other: its lease is gone, and nobody knows what"), "{text}");
    lab.ends(0, "job recover");
    // Its own keeps it from stopping anything, and it is said what is to be done.
    let before = lab.pid();
    fs::write(lab.lease(), "{ half").expect("written");
    let what_to_do = "then cowsnap job recover --forget node";
    for line in ["job run node", "job recover node"] {
        let (_, said) = lab.ends(4, line);
        let names_it = said.contains("what a run of job node has left") && said.contains("leases/node.json");
        assert!(names_it && said.contains(what_to_do), "{said}");
    }
    assert_eq!((lab.n_snapshots(), lab.pid()), (1, before));
    let (found, _) = lab.ends(3, "doctor");
    assert!(found.contains(what_to_do), "{found}");
    lab.ends(0, "job recover --forget node");
    lab.ends(0, "job run node");
    assert_eq!(lab.n_snapshots(), 2);
}

#[test]
fn doctor_names_snapshots_that_nobody_knows_to_be_good_of_plain_directories_and_of_whatever_jobs_name() {
    ground!("btrfs", "xfs");
    let lab = Lab::new("");
    let plain = Plain::xfs();
    let live = plain.path().join("live");
    fs::create_dir(&live).expect("made");
    let live = live.to_str().expect("utf-8").to_owned();
    let takes = |dataset: &str| {
        lab.ends(0, &format!("snapshot {dataset} --name 20200101T000000Z-unconfirmed --label job=node"));
    };
    takes("ROOT/mnt/node");
    takes(&live);
    lab.ends(0, &format!("snapshot {live} --name good"));
    let places = |line: &str| {
        let found = lab.json(0, line)["findings"].as_array().cloned().unwrap_or_default();
        let places = found
            .iter()
            .filter(|one| one["what"].as_str().is_some_and(|what| what.contains("whether it is good")));
        places.map(|one| one["place"].as_str().expect("a place").to_owned()).collect::<Vec<_>>()
    };
    let named = |dataset: &str| format!("{}@20200101T000000Z-unconfirmed", lab.placed(dataset));
    assert_eq!(places("doctor"), [named("ROOT/mnt/node")], "by its job");
    assert_eq!(places("doctor ROOT/mnt").len(), 1, "its filesystem is looked through once");
    lab.write(&format!("[job.node]\ndatasets = [{live:?}]\ncrash_consistent = true\n"));
    assert_eq!(places("doctor"), [named(&live)]);
    fs::remove_file(lab.root().join("config.toml")).expect("removed");
    assert_eq!(places("doctor"), Vec::<String>::new());
    assert_eq!(places(&format!("doctor {live}")), [named(&live)]);
    // Nobody ever took one of it.
    lab.ends(2, &format!("doctor {}", plain.path().display()));
    fs::write(lab.root().join("config.toml"), "nonsense").expect("written");
    let (found, _) = lab.ends(3, "doctor");
    assert!(
        found.contains("the configuration can not be used") && found.contains("cowsnap job check"),
        "{found}"
    );
}

#[test]
fn what_is_left_down_is_started_though_nothing_can_be_written() {
    ground!("btrfs");
    let lab = Lab::new("");
    let state = lab.root().join("state");
    fs::create_dir(&state).expect("made");
    let state = state.to_str().expect("utf-8");
    ground::run("mount", &["-t", "tmpfs", "tmpfs", state]);
    lab.start();
    lab.dies("Snapshot", "both");
    assert_eq!(lab.pid(), None);
    ground::run("mount", &["-o", "remount,ro", state]);
    let (_, said) = lab.ends(6, "job recover");
    assert!(said.contains("cannot remove") && said.contains("leases/node.json"), "{said}");
    assert!(lab.pid().is_some(), "{said}");
    ground::run("mount", &["-o", "remount,rw", state]);
    lab.ends(0, "job recover");
    assert!(!lab.lease().exists());
}

#[test]
fn of_several_snapshots_of_an_instant_all_are_good_if_one_has_its_name() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.ends(0, "create ROOT/mnt/logs");
    lab.write(
        &job(IS_UP, "rm ROOT/up").replace("[\"ROOT/mnt/node\"]", "[\"ROOT/mnt/node\", \"ROOT/mnt/logs\"]"),
    );
    lab.write_up();
    // As a run leaves it that is killed while it names them.
    lab.ends(0, "snapshot ROOT/mnt/node --name 20200101T000000Z --label job=node");
    lab.ends(0, "snapshot ROOT/mnt/logs --name 20200101T000000Z-unconfirmed --label job=node");
    lab.ends(0, "snapshot ROOT/mnt/logs --name 20200102T000000Z-unconfirmed --label job=node");
    let findings = lab.runs("doctor ROOT/mnt --json").1;
    let findings: Value = serde_json::from_str(&findings).expect("one object");
    let places = findings["findings"].as_array().expect("a list").iter();
    let named =
        places.filter(|one| one["place"].as_str().is_some_and(|place| place.contains("-unconfirmed")));
    assert_eq!(named.count(), 2, "{findings}");
    let (_, said) = lab.ends(0, "job run node");
    assert!(said.contains("logs@20200101T000000Z-unconfirmed is good"), "{said}");
    assert!(said.contains("logs@20200102T000000Z-unconfirmed is destroyed"), "{said}");
    let list = lab.json(0, "list ROOT/mnt/logs");
    let names = list["datasets"][0]["snapshots"].as_array().expect("a list").iter();
    let names: Vec<_> = names.map(|snapshot| snapshot["name"].as_str().expect("a name")).collect();
    assert_eq!((names.len(), names[0]), (2, "20200101T000000Z"), "{names:?}");
}

#[test]
fn what_a_killed_run_has_left_is_not_good_for_another_one_of_the_same_second() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.ends(0, "create ROOT/mnt/logs");
    let datasets =
        |text: String| text.replace("[\"ROOT/mnt/node\"]", "[\"ROOT/mnt/node\", \"ROOT/mnt/logs\"]");
    let unnamed = "ls ROOT/mnt/.cowsnap/datasets/*/snap | grep -q unconfirmed";
    let kills = format!("[ -e ROOT/armed ] && {unnamed} && rm ROOT/armed && kill -9 $PPID; {IS_UP}");
    lab.write(&datasets(job(&kills, "rm ROOT/up")));
    lab.write_up();
    fs::write(lab.root().join("armed"), "").expect("written");
    // As if a run had been good in whichever second this one is in.
    let logs = cowsnap::endpoint::path::named(&lab.root().join("mnt/logs")).expect("a dataset");
    let now = jiff::Timestamp::now();
    for second in 0..300 {
        let at = (now + Duration::from_secs(second)).to_zoned(jiff::tz::TimeZone::UTC);
        let name = at.strftime("%Y%m%dT%H%M%SZ").to_string().parse().expect("a name");
        let mut request = cowsnap::endpoint::SnapshotRequest::named(name);
        request.labels.insert("job".into(), "node".into());
        cowsnap::endpoint::Backend::snapshot(std::slice::from_ref(&logs), &request).expect("taken");
    }
    drop(logs);
    assert_eq!(lab.runs("job run node").0, None, "it was not killed");
    waits("the guard", || lab.root().join("up").exists() && !lab.lease().exists());
    lab.write(&datasets(job(IS_UP, "rm ROOT/up")));
    let (_, said) = lab.ends(0, "job run node");
    let n = |what: &str| said.matches(what).count();
    assert_eq!((n("unconfirmed is destroyed"), n("is good, as others")), (2, 0), "{said}");
}
