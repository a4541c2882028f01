//! What a job calls before and after its snapshot, and when something failed.

use super::*;

/// A job with a service, a target, and hooks that say what they see; `extra` comes first in each.
fn config(before: &str, after: &str) -> String {
    let see = "echo $COWSNAP_HOOK $COWSNAP_JOB $COWSNAP_RESULT $COWSNAP_CLASS ${COWSNAP_SNAPSHOT##*/} $(cat ROOT/pid) >> ROOT/order";
    let hook = |name: &str, line: &str| format!("{name} = [\"/bin/sh\", \"-c\", \"{see}; {line}\"]\n");
    let hooks = [
        hook("before_snapshot", before),
        hook("after_snapshot", after),
        hook("after_replication", "true"),
        hook("on_failure", "true"),
    ]
    .concat();
    format!(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[[job.node.quiesce.service]]\npidfile = \"ROOT/pid\"\n\
         start = [\"/bin/sh\", \"ROOT/service\"]\n[[job.node.target]]\nto = \"ROOT/mnt/copy\"\n[job.node.hooks]\nwithin = \"3s\"\n{hooks}"
    )
}

/// What was called since the last look, in that order.
fn order(lab: &Lab) -> Vec<String> {
    let order = fs::read_to_string(lab.root().join("order")).unwrap_or_default();
    let _ = fs::remove_file(lab.root().join("order"));
    order.lines().map(str::to_owned).collect()
}

#[test]
fn hooks_are_called_while_the_service_runs_and_what_fails_of_them_costs_no_snapshot_that_is_there() {
    ground!("btrfs");
    let lab = Lab::new("");
    let order = || order(&lab);
    let first = lab.start();
    lab.write(&config("true", "true"));
    let done = lab.json(0, "job run node");
    let name = done["jobs"][0]["snapshots"][0]["name"].as_str().expect("a name").to_owned();
    let second = lab.pid().expect("it runs");
    assert_eq!(
        order(),
        [
            format!("before_snapshot node success {first}"),
            format!("after_snapshot node success node@{name} {second}"),
            format!("after_replication node success node@{name} {second}"),
        ]
    );
    // Nothing is stopped, and nothing taken.
    lab.write(&config("exit 9", "true"));
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("before_snapshot fails: /bin/sh") && said.contains("exit status: 9"), "{said}");
    assert_eq!((lab.pid(), lab.n_snapshots(), lab.n_begun()), (Some(second), 1, 2));
    let called = order();
    assert_eq!(called[1..], [format!("on_failure node failure unreachable {second}")], "{called:?}");
    // What follows on the snapshot is done nonetheless.
    lab.write(&config("true", "echo too long; sleep 600"));
    let (_, said) = lab.ends(7, "job run node");
    assert!(said.contains("after_snapshot fails") && said.contains("it took longer than 3s"), "{said}");
    assert!(said.contains("too long\n"), "what it prints: {said}");
    assert_eq!(lab.n_snapshots(), 2);
    let replicas = lab.json(0, "list ROOT/mnt/copy");
    assert_eq!(replicas["datasets"][0]["snapshots"].as_array().map(Vec::len), Some(2));
    let called = order();
    // What failed up to then is said to each.
    assert!(called[2].starts_with("after_replication node failure unreachable"), "{called:?}");
    assert!(called[3].starts_with("on_failure node failure unreachable"), "{called:?}");
    // A target that fails is told of.
    lab.write(&config("true", "true").replace("ROOT/mnt/copy", "ROOT/none/copy"));
    lab.ends(7, "job run node");
    let called = order();
    assert!(called[2].starts_with("after_replication node failure usage "), "{called:?}");
    assert_eq!(called.len(), 4);
    // A run that can not be begun is a failure.
    lab.write(&config("true", "true").replace("[\"ROOT/mnt/node\"]", "[\"ROOT/mnt/none\"]"));
    assert_ne!(lab.runs("job run node").0, Some(0));
    let called = order();
    assert!(called.len() == 1 && called[0].starts_with("on_failure node failure "), "{called:?}");
}

#[test]
fn on_failure_is_called_once_of_what_fails_each_minute_until_something_changes() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    let write = |before: &str| {
        lab.write(&config(before, "true").replace("datasets =", "schedule = \"0 0 1 1 *\"\ndatasets ="));
    };
    let n_called = |code: i32, line: &str| {
        lab.ends(code, line);
        order(&lab).iter().filter(|line| line.starts_with("on_failure ")).count()
    };
    // It has no snapshot, and so it is due each minute.
    write("exit 9");
    let minutes = [0; 3].map(|_| n_called(5, "job run --due"));
    assert_eq!(minutes, [1, 0, 0]);
    assert_eq!(n_called(5, "job run node"), 1, "who runs it by hand sees all of it");
    assert_eq!(n_called(5, "job run --due"), 0);
    write("true");
    assert_eq!(n_called(0, "job run --due"), 0);
    write("exit 9");
    lab.ends(0, "job request node");
    let minutes = [0; 2].map(|_| n_called(5, "job run --due"));
    assert_eq!(minutes, [1, 0], "the next time is another one");
    assert_eq!(lab.n_snapshots(), 1);
}

#[test]
fn on_failure_that_fails_itself_is_called_again() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    let text = config("exit 9", "true").replace("datasets =", "schedule = \"0 0 1 1 *\"\ndatasets =");
    let (before, after) = text.rsplit_once("; true").expect("the last one is on_failure");
    lab.write(&format!("{before}; test ! -e ROOT/offline{after}"));
    let offline = lab.root().join("offline");
    fs::write(&offline, "").expect("written");
    let n_called = || {
        assert_ne!(lab.runs("job run --due").0, Some(0));
        order(&lab).iter().filter(|line| line.starts_with("on_failure ")).count()
    };
    assert_eq!([0; 2].map(|_| n_called()), [1, 1]);
    fs::remove_file(offline).expect("removed");
    assert_eq!([0; 2].map(|_| n_called()), [1, 0]);
}

#[test]
fn what_is_called_when_is_explained_and_foreseen() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.write(&config("true", "true"));
    let (explained, _) = lab.ends(0, "job explain");
    let all = [
        "if that fails nothing is stopped, and there is no snapshot",
        "once there is the snapshot, for which there is 3s",
        "once each target was tried",
        "if something failed",
    ];
    let places: Vec<_> = all
        .iter()
        .map(|what| explained.find(what).unwrap_or_else(|| panic!("{what}: {explained}")))
        .collect();
    assert!(places.is_sorted(), "{explained}");
    let (foreseen, _) = lab.ends(0, "job run node --dry-run");
    assert!(
        foreseen.contains("first calls /bin/sh") && foreseen.contains("then calls /bin/sh"),
        "{foreseen}"
    );
    assert!(!lab.root().join("order").exists(), "it was called");
}

#[test]
fn no_hook_is_called_of_a_job_that_is_skipped_nor_told_of_success_while_a_service_is_down() {
    ground!("btrfs");
    let lab = Lab::new("");
    let order = || order(&lab);
    lab.start();
    lab.write(&config("true", "true"));
    lab.ends(0, "job run node");
    order();
    // Another job has the service.
    let files = fs::read_dir(lab.root().join("state/leases/services")).expect("read").flatten();
    let locks = files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "lock"));
    let locks: Vec<_> = locks.map(|path| fs::File::open(path).expect("opened")).collect();
    rustix::fs::flock(&locks[0], rustix::fs::FlockOperation::LockExclusive).expect("locked");
    lab.ends(0, "job request node");
    let skipped = lab.json(0, "job run --due");
    assert!(skipped["jobs"][0]["skipped"].is_string(), "{skipped}");
    assert_eq!(order(), [""; 0]);
    drop(locks);
    // It does not start again, which is not waited for too long.
    let service = "[[job.node.quiesce.service]]";
    let shortly = format!("[job.node.quiesce]\nstart_within = \"5s\"\n{service}");
    lab.write(&config("touch ROOT/broken", "true").replace(service, &shortly));
    lab.ends(1, "job run node");
    let called = order();
    fs::remove_file(lab.root().join("broken")).expect("removed");
    assert!(called[0].starts_with("before_snapshot node success"), "{called:?}");
    assert!(called[1].starts_with("after_replication node failure"), "{called:?}");
    assert!(called[2].starts_with("on_failure node failure") && called[2].contains(" node@"), "{called:?}");
    assert_eq!(called.len(), 3, "{called:?}");
    // Its guard may be at it.
    waits("the lease's end", || {
        lab.runs("job recover");
        !lab.lease().exists()
    });
}

#[test]
fn a_hook_is_told_of_its_own_run_alone_and_ends_with_it() {
    ground!("btrfs");
    let lab = Lab::new("");
    let job = |hooks: &str| {
        let hooks = hooks.replace("CALL", "\"/bin/sh\", \"-c\"");
        lab.write(&format!(
            "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\ncrash_consistent = true\n[job.node.hooks]\nwithin = \"1h\"\n{hooks}"
        ));
    };
    let command = || {
        let mut command = ground::cowsnap(&lab.root().join("state"));
        command.args(["--state-dir", "./state", "job", "run", "node"]).current_dir(lab.root());
        command.env("COWSNAP_CONFIG", lab.root().join("config.toml")).stdin(Stdio::null());
        command
    };
    job(
        "before_snapshot = [CALL, \"echo $COWSNAP_SNAPSHOT $COWSNAP_DATASET_2 $COWSNAP_STATE_DIR > ROOT/told\"]\n",
    );
    let output = command()
        .env("COWSNAP_SNAPSHOT", "another")
        .env("COWSNAP_DATASET_2", "another")
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(lab.root().join("told")).expect("told"), lab.placed("ROOT/state\n"));
    // After a signal only the last one is called.
    job("after_snapshot = [CALL, \"kill -TERM $PPID; exec sleep 600\"]\n\
         after_replication = [CALL, \"touch ROOT/called\"]\non_failure = [CALL, \"touch ROOT/failed\"]\n\
         [[job.node.target]]\nto = \"ROOT/mnt/copy\"\n");
    let output = command().output().expect("it starts");
    assert!(!output.status.success());
    assert!(lab.root().join("failed").exists() && !lab.root().join("called").exists());
    job("before_snapshot = [CALL, \"echo $$ > ROOT/hook; exec sleep 600\"]\n");
    let mut run = command().spawn().expect("it starts");
    waits("the hook", || alive(&lab.root().join("hook")).is_some());
    run.kill().and_then(|()| run.wait()).expect("killed");
    waits("the hook's end", || alive(&lab.root().join("hook")).is_none());
}

#[test]
fn what_a_run_has_left_down_is_started_before_a_hook_of_a_job_that_stops_nothing_any_more() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    lab.dies("Snapshot", "both");
    assert_eq!(lab.pid(), None);
    let asks = "before_snapshot = [\"/bin/sh\", \"-c\", \"kill -0 $(cat ROOT/pid)\"]";
    lab.write(&format!(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\ncrash_consistent = true\n[job.node.hooks]\n{asks}\n"
    ));
    let (_, said) = lab.ends(0, "job run node");
    assert!(said.contains("a run of job node has died"), "{said}");
    assert!(lab.pid().is_some() && !lab.lease().exists());
}
