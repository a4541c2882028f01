//! `cowsnap check`, through the program.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::ground::{self, Plain, ground};
use crate::job::{Lab, NODE};
use crate::peer::hung::{Frozen, wait_for_all_of, within};
use crate::peer::lab::{cut, noise};

/// (label, value, warning, critical) of what is measured on the first line, read as Nagios reads it.
fn measured(text: &str) -> Vec<(String, String, String, String)> {
    let first = text.lines().next().expect("a line");
    let Some((_, mut rest)) = first.split_once(" | ") else { return Vec::new() };
    let mut found = Vec::new();
    while let Some(after) = rest.strip_prefix('\'') {
        let (label, after) = after.split_once("'=").expect("a label ends");
        let (values, after) = after.split_once(' ').unwrap_or((after, ""));
        let fields: Vec<_> =
            values.split(';').map(str::to_owned).chain((0..4).map(|_| String::new())).collect();
        found.push((label.to_owned(), fields[0].clone(), fields[1].clone(), fields[2].clone()));
        rest = after;
    }
    assert_eq!(rest, "", "{first}");
    found
}

#[test]
fn a_job_that_is_well_is_0_and_measured() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let (said, _) = lab.ends(0, "check");
    assert!(said.starts_with("COWSNAP OK - node is well | "), "{said}");
    let measured = measured(&said);
    for end in ["node age", "node free", "node stuck", "replica age", "replica lag", "replica free"] {
        assert!(measured.iter().any(|one| one.0.ends_with(end)), "{end}: {said}");
    }
    let age = measured.iter().find(|one| one.0.ends_with("node age")).expect("an age");
    let number = |text: &str| text.trim_end_matches('s').parse::<i64>().expect("a number");
    assert!(number(&age.2) > number(&age.1) && number(&age.3) > number(&age.2), "{age:?}");
    let value = lab.json(0, "check");
    assert_eq!((&value["state"], &value["findings"]), (&"OK".into(), &serde_json::json!([])), "{value}");
}

#[test]
fn each_state_has_its_code_and_the_first_line_says_why() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    let (said, _) = lab.ends(2, "check");
    assert!(said.starts_with("COWSNAP CRITICAL - node: FS/node has no snapshot of this job"), "{said}");
    lab.ends(0, "job run node");
    lab.ends(1, "check --warn-free 100 --crit-free 0");
    let (said, _) = lab.ends(2, "check --crit-free 100");
    assert!(said.contains("% is free where FS/node is") && said.contains("CRITICAL: node: "), "{said}");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    lab.ends(1, "check --warn-age 1s");
    lab.ends(2, "check --warn-age 1s --crit-age 1s");
    lab.ends(0, "check --warn-age 1h");
}

#[test]
fn a_job_says_by_itself_when_it_is_not_well_and_the_command_line_goes_before() {
    ground!("btrfs", "loop", "root");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    lab.ends(0, "check");
    std::thread::sleep(Duration::from_millis(1100));
    let with = |lines: &str| lab.write(&format!("{NODE}[job.node.check]\n{lines}\n"));
    with("warn_age = \"1s\"");
    let (said, _) = lab.ends(1, "check");
    assert!(said.contains("the last snapshot of FS/node is"), "{said}");
    assert!(said.contains("FS/node age'=") && said.contains("s;1;;0 "), "{said}");
    assert!(lab.ends(0, "status").0.contains("LATE"), "status judges as check does");
    assert!(lab.ends(0, "metrics").0.contains("\ncowsnap_job_state{job_name=\"node\"} 1\n"));
    lab.ends(0, "check --warn-age 1h");
    lab.ends(2, "check --crit-age 1s");
    // What a target has is judged by the same, unless something is said of it; it is not late as long as it has all that there is.
    with("warn_age = \"1h\"\ncrit_replica_age = \"1s\"");
    lab.ends(0, "check");
    lab.ends(0, "snapshot FS/node --label job=node");
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("FS/replica has FS/node as it was"), "{said}");
    lab.ends(0, "check --crit-replica-age 1h");
    lab.ends(0, "job run node");
    with("warn_free = 100\ncrit_free = 0");
    let (said, _) = lab.ends(1, "check");
    assert!(said.contains("% is free where FS/node is"), "{said}");
    lab.ends(0, "check --warn-free 1");
    with("crit_free = 1");
    lab.ends(2, "check --crit-free 100");
    assert!(lab.ends(0, "job explain node").0.contains("free space critical below 1 %"));
    with("warn_age = \"soon\"");
    let (said, _) = lab.ends(3, "check");
    assert!(said.contains("job.node.check.warn_age: a time is a number"), "{said}");
    lab.ends(2, "job check");
}

/// What it says where `/run` is as `script` makes it, whatever has started this machine, and its exit code.
fn elsewhere(lab: &Lab, script: &str, verb: &str) -> (Option<i32>, String) {
    let script = format!("mount -t tmpfs none /run; {script}; exec \"$@\"");
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_cowsnap"), "--state-dir"]);
    command.arg(lab.fs.outside().join("state")).arg(verb);
    let output = command.env("COWSNAP_CONFIG", &lab.config).output().expect("it starts");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn with_unit() -> String {
    let node = NODE.replace("crash_consistent = true\n", "");
    format!("{node}[[job.node.quiesce.service]]\nunit = \"node.service\"\n")
}

#[test]
fn whether_a_unit_that_a_job_stops_has_failed_is_unknown_without_systemd() {
    ground!("btrfs", "loop", "root");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let (code, said) = elsewhere(&lab, "true", "check");
    assert_eq!(code, Some(0), "nobody asks for one: {said}");
    lab.write(&with_unit());
    let (code, said) = elsewhere(&lab, "true", "check");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("UNKNOWN: node: whether node.service has failed can not be asked"), "{said}");
    let (_, said) = elsewhere(&lab, "true", "metrics");
    assert!(said.contains("\ncowsnap_job_state{job_name=\"node\"} 3\n"), "{said}");
}

#[test]
fn a_failed_unit_that_a_job_stops_is_its_state_for_whoever_asks() {
    ground!("btrfs", "loop", "root");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let systemctl = "mkdir -p /run/systemd/system /run/bin; PATH=/run/bin:$PATH; \
         printf '#!/bin/sh\\necho node.service loaded failed failed node; echo cowsnap-x.service loaded failed failed x\\n' \
         > /run/bin/systemctl; chmod 755 /run/bin/systemctl";
    // It is no service of the job yet.
    let (_, said) = elsewhere(&lab, systemctl, "metrics");
    assert!(said.contains("\ncowsnap_job_state{job_name=\"node\"} 0\n"), "{said}");
    lab.write(&with_unit());
    let (code, said) = elsewhere(&lab, systemctl, "check");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("CRITICAL: node: node.service has failed"), "{said}");
    assert!(said.contains("CRITICAL: systemd: cowsnap-x.service has failed"), "{said}");
    let (code, said) = elsewhere(&lab, systemctl, "status");
    assert!(code == Some(0) && said.contains("FAILED") && said.contains("node.service has failed"), "{said}");
    let (_, said) = elsewhere(&lab, systemctl, "metrics");
    assert!(said.contains("\ncowsnap_job_state{job_name=\"node\"} 2\n"), "{said}");
}

#[test]
fn a_unit_that_fails_again_and_again_has_failed_between_two_attempts_too() {
    ground!("btrfs", "loop", "root");
    let lab = Lab::new(&with_unit());
    lab.ends(0, "create FS/node");
    let systemctl = "mkdir -p /run/systemd/system /run/bin; PATH=/run/bin:$PATH; \
         printf '#!/bin/sh\\ncase \"$*\" in *=failed,auto-restart,*) echo node.service loaded activating auto-restart node;; esac\\n' \
         > /run/bin/systemctl; chmod 755 /run/bin/systemctl";
    let (_, said) = elsewhere(&lab, systemctl, "check");
    assert!(said.contains("CRITICAL: node: node.service has failed"), "{said}");
}

#[test]
fn how_old_a_rehearsal_may_be_is_the_job_s_to_say() {
    ground!("btrfs", "loop", "root");
    let with = |check: &str| {
        format!(
            "{NODE}[job.node.drill]\ncommand = [\"/bin/true\"]\n[job.node.check]\nwarn_free = 1\ncrit_free = 0\n{check}"
        )
    };
    let lab = Lab::new(&with(""));
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let (said, _) = lab.ends(1, "check");
    assert!(said.contains("its restore was never rehearsed"), "{said}");
    let home = lab.fs.outside().join("overlays");
    lab.ends(0, &format!("drill node --home {}", home.display()));
    lab.ends(0, "check");
    std::thread::sleep(Duration::from_millis(1100));
    lab.write(&with("crit_drill_age = \"1s\""));
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("the last rehearsal of its restore that went well is"), "{said}");
    assert!(said.contains("'node drill age'=") && said.contains("s;;1;0"), "{said}");
    lab.ends(0, "check --crit-drill-age 1h");
    lab.ends(1, "check --crit-drill-age 1h --warn-drill-age 1s");
}

#[test]
fn what_can_not_be_looked_at_is_3_and_never_0() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    lab.write(&NODE.replace("FS/replica", "FS/no/such/place"));
    let (said, _) = lab.ends(3, "check");
    assert!(said.starts_with("COWSNAP UNKNOWN - node: FS/no/such/place"), "{said}");
    lab.write(&NODE.replace("FS/replica", "FS/gone"));
    assert!(lab.ends(2, "check").0.contains("FS/gone has nothing of FS/node"));
    lab.write(&NODE.replace("FS/replica", "ssh://nowhere/vault/node"));
    let (said, _) = lab.ends(3, "check");
    assert!(
        said.contains("it is not known that FS/node was ever brought to ssh://nowhere/vault/node"),
        "{said}"
    );
    lab.write(NODE);
    fs::write(lab.fs.outside().join("state/runs/node.json"), "{}").expect("written");
    let (said, _) = lab.ends(3, "check");
    assert!(said.contains("the record of its runs"), "{said}");
    for line in ["check nobody", "check --no-such-option", "--state-dir /x check --warn-free 101"] {
        let (said, _) = lab.ends(3, line);
        assert!(said.starts_with("COWSNAP UNKNOWN - ") && said.lines().count() == 1, "{line}: {said}");
    }
    lab.write("[job.node]\nlost = 3\n");
    assert!(lab.ends(3, "check").0.starts_with("COWSNAP UNKNOWN - "));
    lab.write("");
    assert_eq!(lab.ends(3, "check").0, "COWSNAP UNKNOWN - no job is configured");
    assert_eq!(lab.json(3, "check")["state"], "UNKNOWN");
    // Of jobs, `check` has the codes of all commands.
    lab.write("[job.node]\nlost = 3\n");
    lab.ends(2, "job check");
}

#[test]
fn services_that_a_run_left_stopped_are_critical_whoever_wrote_the_lease() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let leases = lab.fs.outside().join("state/leases");
    fs::create_dir_all(&leases).expect("made");
    let lease = |job: &str| {
        let service = serde_json::json!({ "service": { "process": { "pidfile": "/run/x.pid", "start": ["/bin/true"] } },
            "stopping": "no", "process": null, "starting": false, "starter": null });
        let wait = serde_json::json!({ "secs": 1, "nanos": 0 });
        let lease = serde_json::json!({ "job": job, "services": [service], "stop_within": wait, "start_within": wait,
            "boot": "x", "run": null });
        fs::write(leases.join(format!("{job}.json")), lease.to_string()).expect("written");
    };
    lease("node");
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("was stopped and not started again: cowsnap job recover"), "{said}");
    fs::remove_file(leases.join("node.json")).expect("removed");
    lease("gone");
    let (said, _) = lab.ends(2, "check");
    assert!(
        said.contains("CRITICAL - gone: it is not configured any more, and has left services stopped"),
        "{said}"
    );
    lab.ends(0, "check node");
    fs::write(leases.join("node.json"), "{").expect("written");
    assert!(lab.ends(3, "check node").0.contains("what is stopped can not be read"));
}

const RECURSIVE: &str = "
[job.node]
datasets = [\"FS/node\"]
recursive = true
not_atomic = true
crash_consistent = true
schedule = \"0 0 1 1 *\"
";

#[test]
fn datasets_inside_that_a_job_takes_along_are_looked_at() {
    ground!("btrfs");
    let lab = Lab::new(RECURSIVE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "create FS/node/index");
    lab.ends(0, "job run node");
    let (said, _) = lab.ends(0, "check");
    assert!(measured(&said).iter().any(|one| one.0.ends_with("node/index age")), "{said}");
    let objects = lab.json(0, "check");
    assert_eq!(objects["jobs"][0]["datasets"][1]["is_nested"], true, "{objects}");
    lab.ends(0, "create FS/node/new");
    let (said, _) = lab.ends(1, "check");
    assert!(said.contains("FS/node/new, which is taken along, has no snapshot of this job yet"), "{said}");
    lab.ends(0, "job run node");
    lab.ends(0, "check");
}

#[test]
fn a_job_that_nobody_calls_and_that_never_ran_is_critical() {
    ground!("btrfs");
    let lab = Lab::new("[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n");
    lab.ends(0, "create FS/node");
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("FS/node has no snapshot of this job"), "{said}");
    lab.ends(0, "job run node");
    lab.ends(0, "check");
}

#[test]
fn a_trigger_s_age_is_a_promise() {
    ground!("btrfs");
    let lab = Lab::new(
        "[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n[job.node.trigger]\nage = \"8h\"\n",
    );
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let (said, _) = lab.ends(0, "check");
    let age = measured(&said).into_iter().find(|one| one.0.ends_with("node age")).expect("an age");
    assert_eq!((age.2.as_str(), age.3.as_str()), ("36000", "57600"), "{said}");
    assert!(lab.json(0, "status")["jobs"][0]["next"].is_string());
}

#[test]
fn what_the_next_increment_builds_upon_is_held_or_free_to_go_or_lost() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let base = |code| lab.json(code, "check")["jobs"][0]["targets"][0]["base"].clone();
    assert_eq!(base(0), "held");
    let list = lab.json(0, "list FS/node");
    let snapshot = &list["datasets"][0]["snapshots"][0];
    let name = format!("FS/node@{}", snapshot["name"].as_str().expect("a name"));
    for tag in snapshot["holds"].as_array().expect("tags") {
        lab.ends(0, &format!("release {} {name}", tag.as_str().expect("a tag")));
    }
    assert_eq!(base(1), "unheld");
    let (said, _) = lab.ends(1, "check");
    assert!(said.contains("nothing keeps what the next increment of FS/node to FS/replica builds"), "{said}");
    // Two newer ones are all that is kept.
    lab.ends(0, "snapshot FS/node");
    lab.ends(0, "snapshot FS/node");
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("and retention lets it go today"), "{said}");
    let days = measured(&said).into_iter().find(|one| one.0 == "node FS/replica base_days").expect("days");
    assert_eq!((days.1.as_str(), days.2.as_str(), days.3.as_str()), ("0", "7:", "1:"), "{said}");
    lab.ends(1, "check --crit-base-days 0");
    assert_eq!(lab.json(2, "check")["jobs"][0]["targets"][0]["base_days"], 0);
    lab.ends(0, &format!("destroy {name}"));
    assert_eq!(base(2), "lost");
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("base lost: FS/node has nothing more"), "{said}");
}

#[test]
fn a_target_on_another_machine_is_asked_and_unknown_as_long_as_it_can_not_be() {
    ground!("btrfs");
    let there = |name: &str| NODE.replace("FS/replica", &format!("ssh://there/FS/{name}"));
    let lab = Lab::new(&there("replica"));
    let (program, outside) = (env!("CARGO_BIN_EXE_cowsnap"), lab.fs.outside().display().to_string());
    let serves = format!(
        "#!/bin/sh\n[ -e '{outside}/down' ] && exit 255\nexec '{program}' --state-dir '{outside}/there' serve\n"
    );
    fs::write(lab.ssh(), serves).expect("written");
    fs::set_permissions(lab.ssh(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let target = |code| lab.json(code, "check")["jobs"][0]["targets"][0].clone();
    let found = target(0);
    assert_eq!((&found["base"], &found["is_looked_at"]), (&"held".into(), &true.into()), "{found}");
    fs::write(lab.fs.outside().join("down"), "").expect("written");
    let (said, _) = lab.ends(3, "check");
    assert!(said.contains("ssh://there/FS/replica can not be asked whether it has what"), "{said}");
    let found = target(3);
    assert_eq!((&found["is_looked_at"], found["error"].is_string()), (&false.into(), true), "{found}");
    // To be told what was written down is enough for a person.
    lab.ends(0, "status");
    fs::remove_file(lab.fs.outside().join("down")).expect("removed");
    lab.write(&there("none"));
    let (said, _) = lab.ends(2, "check");
    assert!(said.contains("ssh://there/FS/none has nothing of FS/node"), "{said}");
    lab.write(&there("replica"));
    lab.ends(0, "check");
}

#[test]
fn a_receive_that_was_cut_and_that_nobody_goes_on_with_is_a_warning_until_a_run_does() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    (0..12).for_each(|n| {
        let file = lab.fs.path().join(format!("node/file {n}"));
        fs::write(file, noise(n, 1_000_000)).expect("written");
    });
    lab.ends(0, "snapshot FS/node --name later");
    // The line is cut after the half of it, and what had come by then is kept.
    let (program, state) = (env!("CARGO_BIN_EXE_cowsnap"), lab.fs.outside().join("there"));
    let serves = format!("'{program}' --state-dir '{}' serve --checkpoint 1M", state.display());
    fs::write(lab.ssh(), format!("#!/bin/sh\n{} | {serves}\n", cut(6_000_000))).expect("written");
    fs::set_permissions(lab.ssh(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    lab.ends(5, "replicate FS/node ssh://there/FS/replica");
    let replica = cowsnap::endpoint::path::named(&lab.fs.path().join("replica")).expect("it is there");
    let partials = || replica.partials().expect("read");
    // Who receives notices it when it has read what there is.
    let is_left =
        |all: &[cowsnap::model::Partial]| !all.is_empty() && all.iter().all(|partial| !partial.live);
    ground::waits("the receiver's end", || is_left(&partials()));
    assert_eq!(partials().iter().map(|p| p.name.to_string()).collect::<Vec<_>>(), ["later"]);
    let (said, _) = lab.ends(1, "check");
    let why = "WARNING - node: FS/replica has a receive that nobody works on: later";
    assert!(said.contains(why), "{said}");
    let of_replica = |text: &str| {
        let stuck = measured(text).into_iter().find(|one| one.0.ends_with("replica stuck"));
        stuck.expect("it is measured").1
    };
    assert_eq!(of_replica(&said), "1", "{said}");
    let (metrics, _) = lab.ends(0, "metrics");
    let counted = "cowsnap_partial_receives{job_name=\"node\",dataset=\"FS/node\",target=\"FS/replica\",state=\"stuck\"} 1";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    lab.ends(0, "job run node");
    assert_eq!(of_replica(&lab.ends(0, "check").0), "0");
}

#[test]
fn who_was_called_and_does_not_answer_is_gone_with_check_and_asks_nobody_for_a_password() {
    ground!("btrfs");
    let lab = Lab::new(&NODE.replace("FS/replica", "ssh://nowhere/vault/node"));
    lab.ends(0, "create FS/node");
    let said = lab.ssh().with_extension("said");
    let hangs = "#!/bin/sh\nsid=$(ps -o sid= -p $$)\necho $$ $sid \"$@\" > \"$0.new\"\nmv \"$0.new\" \"$0.said\"\nexec sleep 600\n";
    fs::write(lab.ssh(), hangs).expect("written");
    fs::set_permissions(lab.ssh(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    lab.ends(2, "check --timeout 10"); // It has no snapshot either.
    let said = fs::read_to_string(said).expect("it was called");
    assert!(said.contains(" -o BatchMode=yes -o ConnectTimeout="), "{said}");
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words[0], words[1], "a session of its own: {said}");
    let is_gone = || !std::path::Path::new("/proc").join(words[0]).exists();
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while !is_gone() {
        if std::time::Instant::now() > until {
            let _ = std::process::Command::new("kill").arg(words[0]).status();
            panic!("it is left behind: {said}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_hangs_is_unknown_in_time() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let path = lab.fs.outside().join("state/runs/node.json");
    fs::remove_file(&path).expect("removed");
    // Nobody ever writes to it.
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
    let (said, _) = lab.ends(3, "check --timeout 1");
    assert!(said.contains("the record of its runs: it did not answer within 1 s"), "{said}");
    // Before any job is known, too.
    fs::remove_file(&lab.config).expect("removed");
    rustix::fs::mknodat(rustix::fs::CWD, &lab.config, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("made");
    let (said, _) = lab.ends(3, "check --timeout 1");
    assert_eq!(said, "COWSNAP UNKNOWN - nothing was heard within 1 s: a disk hangs");
    let (_, said) = lab.ends(5, "status --timeout 1");
    assert!(said.contains("nothing was heard within 1 s"), "{said}");
}

#[test]
fn whoever_can_not_be_ended_holds_nobody() {
    ground!("btrfs", "fsfreeze");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    let state = lab.fs.outside().join("state");
    let frozen = Frozen::new(&lab.fs.path());
    // Who writes to it waits, and no signal ends that.
    let mut child = ground::cowsnap(&state)
        .args(["metrics", "--timeout", "1", "--output"])
        .arg(lab.fs.path().join("x.prom"))
        .env("COWSNAP_CONFIG", &lab.config)
        .stdin(Stdio::null())
        .spawn()
        .expect("it starts");
    let code = within(&mut child, Duration::from_secs(60));
    drop(frozen);
    let _ = child.wait();
    wait_for_all_of(state.to_str().expect("utf-8"));
    assert_eq!(code, Some(5));
}

#[test]
fn a_pool_has_no_more_room_than_what_its_image_lies_on() {
    ground!("btrfs", "ext4", "loop", "root");
    let host = Plain::with("ext4", "mkfs.ext4", &["-q", "-F"], "600M");
    let state = host.path().join("state");
    let config = host.outside().join("config.toml");
    let store = host.path().join("archive");
    let job = "[job.node]\ndatasets = [\"tank/node\"]\ncrash_consistent = true\n[job.node.check]\nwarn_free = 20\ncrit_free = 10\n";
    fs::write(&config, job).expect("written");
    let ends = |code: i32, line: &str| {
        let mut command = ground::cowsnap(&state);
        let output =
            command.args(line.split(' ')).env("COWSNAP_CONFIG", &config).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{line}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    };
    ends(0, "pool create tank --size 256M");
    ends(0, "create tank/node");
    ends(0, "job run node");
    ends(0, "check");
    // The host's disk is full; the pool's filesystem says that it is nearly empty.
    let space = rustix::fs::statvfs(host.path()).expect("it is mounted");
    let filled = space.f_bavail * space.f_frsize - (12 << 20);
    let file = fs::File::create(host.path().join("full")).expect("made");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, filled).expect("there is room");
    let said = ends(2, "check");
    assert!(said.contains(" % is free where tank/node is: the disk below "), "{said}");
    let named = state.join("mnt/tank/node");
    fs::write(&config, job.replace("tank/node", named.to_str().expect("utf-8"))).expect("written");
    assert!(ends(2, "check").contains("has no more for it to grow"), "by its path, too");
    fs::write(&config, format!("{job}[[job.node.archive]]\nto = \"file://{}\"\n", store.display()))
        .expect("written");
    let said = ends(2, "check");
    let of_archive = format!(" % is free where file://{} is\n", store.display());
    assert!(said.contains(&of_archive), "{said}");
    assert!(
        ends(0, "metrics")
            .contains("cowsnap_free_bytes{job_name=\"node\",dataset=\"tank/node\",target=\"file://")
    );
    drop(file);
    fs::remove_file(host.path().join("full")).expect("removed");
    fs::write(&config, job).expect("written");
    ends(0, "check");
    ends(0, "pool unmount tank");
}
