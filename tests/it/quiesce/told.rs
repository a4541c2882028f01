//! Who hears that a run has left services stopped, and that somebody else has started them, or can not.

use std::os::unix::fs::PermissionsExt;
use std::process::Child;

use super::mended::Thawed;
use super::*;

impl Lab {
    /// With a program that is told of runs.
    fn that_tells() -> Self {
        Self::that_tells_and("")
    }

    fn that_tells_and(rest: &str) -> Self {
        let lab = Self::new(rest);
        let tell = lab.root().join("tell");
        let line = "echo \"$COWSNAP_RESULT $COWSNAP_CLASS $COWSNAP_MESSAGE\"";
        let text = format!("#!/bin/sh\n{line} >>{}\n", lab.root().join("told").display());
        fs::write(&tell, text).expect("written");
        fs::set_permissions(&tell, fs::Permissions::from_mode(0o755)).expect("set");
        let config = fs::read_to_string(lab.root().join("config.toml")).expect("read");
        lab.write(&format!("{config}[job.node.notify]\ncommand = [\"ROOT/tell\"]\n"));
        lab
    }

    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root().join("told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How often services were started by somebody else, and could not be.
    fn n_recovered(&self) -> [String; 2] {
        let (text, _) = self.ends(0, "metrics");
        ["success", "failure"].map(|result| {
            let start = "cowsnap_operations_total{job_name=\"node\",op=\"recover\"";
            let start = format!("{start},result=\"{result}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("it is counted from 0 on: {text}")).to_owned()
        })
    }
}

#[test]
fn what_is_started_after_the_machine_s_start_or_by_the_next_minute_is_told_once() {
    ground!("btrfs");
    let lab = Lab::that_tells();
    lab.start();
    assert_eq!(lab.n_recovered(), ["0", "0"]);
    for (nth, line) in ["job recover", "job run --due"].into_iter().enumerate() {
        lab.dies("Verify", "both");
        lab.ends(0, line);
        lab.runs_again(line);
        // A guard starts it for the second one.
        waits("that it is told", || {
            lab.ends(0, "job run --due");
            lab.told().len() == nth + 1
        });
        let told = lab.told().pop().expect("one");
        assert!(
            told.starts_with("failure unended ") && told.contains(", which it had left stopped, runs again"),
            "{told}"
        );
        for again in ["job recover", "job run --due"] {
            lab.ends(0, again);
            assert_eq!(lab.told().len(), nth + 1, "{:?}", lab.told());
        }
        assert_eq!(lab.n_recovered(), [(nth + 1).to_string(), "0".into()]);
    }
}

/// A run that has told the service to stop.
fn begun_until_the_stop(lab: &Lab) -> Child {
    let run = ground::cowsnap(&lab.root().join("state"))
        .args(["job", "run", "node", "--config"])
        .arg(lab.root().join("config.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    waits("the stop", || lab.root().join("ending").exists());
    run
}

#[test]
fn a_run_that_is_killed_is_told_by_its_guard_under_the_configuration_of_the_run() {
    ground!("btrfs");
    let lab = Lab::that_tells();
    lab.start();
    fs::write(lab.root().join("slow"), "").expect("written");
    let mut run = begun_until_the_stop(&lab);
    run.kill().and_then(|()| run.wait()).expect("killed");
    waits("that it is told", || lab.told().len() == 1);
    let told = lab.told();
    assert!(told[0].contains(&format!("process {} did not come to its end", run.id())), "{told:?}");
    lab.runs_again("its guard");
    lab.ends(0, "job run --due");
    assert_eq!(lab.told().len(), 1);
    // And the next one that goes well is told as what it is.
    fs::remove_file(lab.root().join("slow")).expect("removed");
    lab.ends(0, "job run node");
    assert!(lab.told().len() == 2 && lab.told()[1].starts_with("recovery unended "), "{:?}", lab.told());
}

#[test]
fn what_can_not_be_started_after_the_machine_s_start_is_told_once_and_then_that_it_runs() {
    ground!("btrfs");
    let lab = Lab::that_tells();
    lab.start();
    lab.dies("Verify", "both");
    fs::write(lab.root().join("broken"), "").expect("written");
    for _ in 0..2 {
        let (_, said) = lab.ends(1, "job recover");
        assert!(said.contains("IS DOWN"), "{said}");
        let told = lab.told();
        assert!(
            told.len() == 1 && told[0].starts_with("failure internal ") && told[0].contains("IS DOWN"),
            "{told:?}"
        );
    }
    lab.ends(2, "check");
    assert_eq!(lab.n_recovered(), ["0", "2"]);
    fs::remove_file(lab.root().join("broken")).expect("removed");
    lab.ends(0, "job recover");
    lab.runs_again("recovered");
    assert!(lab.told().len() == 2 && lab.told()[1].contains("runs again"), "{:?}", lab.told());
    assert_eq!(lab.n_recovered(), ["1", "2"]);
}

/// Waits for the end of those that wait for services.
fn no_guard_is_left(lab: &Lab) {
    waits("the guard's end", || guards(&lab.root().join("state")).is_empty());
}

#[test]
fn a_service_that_can_not_be_started_a_second_time_is_told_though_the_first_time_was() {
    ground!("btrfs");
    let lab = Lab::that_tells_and("start_within = \"300ms\"");
    lab.start();
    for nth in 0..2 {
        fs::write(lab.root().join("broken"), "").expect("written");
        let (_, said) = lab.ends(1, "job run node");
        assert!(said.contains("IS DOWN"), "{said}");
        no_guard_is_left(&lab);
        let told = lab.told();
        assert!(
            told.len() == 2 * nth + 1
                && told[2 * nth].starts_with("failure internal ")
                && told[2 * nth].contains("IS DOWN"),
            "{told:?}"
        );
        fs::remove_file(lab.root().join("broken")).expect("removed");
        lab.ends(0, "job recover");
        lab.runs_again("recovered");
        let told = lab.told();
        assert!(told.len() == 2 * nth + 2 && told[2 * nth + 1].starts_with("recovery internal "), "{told:?}");
    }
}

#[test]
fn what_the_guard_of_the_next_minute_can_not_start_is_counted_once() {
    ground!("btrfs");
    let lab = Lab::that_tells();
    lab.start();
    fs::write(lab.root().join("slow"), "").expect("written");
    let mut run = begun_until_the_stop(&lab);
    fs::write(lab.root().join("broken"), "").expect("written");
    for guard in guards(&lab.root().join("state")) {
        kill(guard, rustix::process::Signal::KILL);
    }
    run.kill().and_then(|()| run.wait()).expect("killed");
    no_guard_is_left(&lab);
    lab.ends(1, "job run --due");
    no_guard_is_left(&lab);
    assert_eq!(lab.n_recovered(), ["0", "1"]);
    fs::remove_file(lab.root().join("broken")).expect("removed");
    lab.ends(0, "job recover");
    lab.runs_again("recovered");
    assert_eq!(lab.n_recovered(), ["1", "1"]);
}

#[test]
fn what_takes_its_time_to_be_told_is_told_once_by_the_guard_or_by_who_waits_for_it() {
    ground!("btrfs");
    let lab = Lab::that_tells();
    let tell = lab.root().join("tell");
    let text = fs::read_to_string(&tell).expect("read").replace("echo", "sleep 2; echo");
    fs::write(&tell, text).expect("written");
    lab.start();
    // A run that has begun, so that its guard tells, too.
    fs::write(lab.root().join("slow"), "").expect("written");
    let mut run = begun_until_the_stop(&lab);
    guards(&lab.root().join("state")).into_iter().for_each(|pid| kill(pid, rustix::process::Signal::KILL));
    run.kill().and_then(|()| run.wait()).expect("killed");
    waits("its end", || lab.pid().is_none());
    fs::write(lab.root().join("broken"), "").expect("written");
    for _ in 0..2 {
        lab.ends(1, "job run --due");
        no_guard_is_left(&lab);
        let told = lab.told();
        assert!(told.len() == 1 && told[0].starts_with("failure internal "), "{told:?}");
    }
    fs::remove_file(lab.root().join("broken")).expect("removed");
    lab.ends(0, "job recover");
    lab.runs_again("recovered");
    assert_eq!(lab.told().len(), 2, "{:?}", lab.told());
}

#[test]
fn on_failure_is_called_once_of_what_can_not_be_started_by_whoever_tries_and_of_the_next_time() {
    ground!("btrfs");
    let lab = Lab::new("");
    let config = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    let hook = "[job.node.hooks]\non_failure = [\"/bin/sh\", \"-c\", \"echo $COWSNAP_CLASS $COWSNAP_MESSAGE >> ROOT/called\"]\n";
    let called = || fs::read_to_string(lab.root().join("called")).unwrap_or_default();
    lab.start();
    for (nth, line) in ["job recover", "job run --due"].into_iter().enumerate() {
        // One that has none is not said to have heard of it.
        lab.write(&config);
        lab.dies("Verify", "both");
        fs::write(lab.root().join("broken"), "").expect("written");
        lab.ends(1, "job recover");
        assert_eq!(called().lines().count(), nth);
        lab.write(&format!("{config}{hook}"));
        for _ in 0..2 {
            lab.runs(line);
            no_guard_is_left(&lab);
            assert_eq!(called().lines().count(), nth + 1, "{}", called());
        }
        let last = called().lines().last().map(str::to_owned).expect("one");
        assert!(last.starts_with("internal ") && last.contains("IS DOWN"), "{last}");
        fs::remove_file(lab.root().join("broken")).expect("removed");
        lab.ends(0, "job recover");
        lab.runs_again("recovered");
    }
}

#[test]
fn a_service_that_is_given_up_is_no_failure_any_more() {
    ground!("btrfs");
    let lab = Lab::that_tells();
    lab.start();
    lab.dies("Verify", "both");
    fs::write(lab.root().join("broken"), "").expect("written");
    lab.ends(1, "job recover");
    assert!(lab.ends(2, "check").0.contains("recover failed"));
    // Somebody has started it by hand.
    fs::remove_file(lab.root().join("broken")).expect("removed");
    lab.start();
    lab.ends(0, "job recover --forget node");
    let said = lab.runs("check").1;
    assert!(!said.contains("recover failed") && !said.contains("IS DOWN"), "{said}");
    assert_eq!(lab.n_recovered(), ["0", "1"]);
}

#[test]
fn what_can_not_be_started_twice_within_an_hour_is_told_twice() {
    ground!("btrfs");
    let lab = Lab::that_tells();
    lab.start();
    for nth in 0..2 {
        lab.dies("Verify", "both");
        fs::write(lab.root().join("broken"), "").expect("written");
        lab.ends(1, "job recover");
        let told = lab.told();
        assert!(
            told.len() == 2 * nth + 1
                && told[2 * nth].starts_with("failure internal ")
                && told[2 * nth].contains("IS DOWN"),
            "{told:?}"
        );
        fs::remove_file(lab.root().join("broken")).expect("removed");
        lab.ends(0, "job recover");
        lab.runs_again("recovered");
        assert_eq!(lab.told().len(), 2 * nth + 2, "{:?}", lab.told());
    }
}

#[test]
fn a_service_that_is_late_to_stop_each_night_is_told_each_night() {
    ground!("btrfs");
    let lab = Lab::that_tells_and("stop_within = \"500ms\"");
    // For longer than its run waits.
    let script = SCRIPT.replace("sleep 3 ", "sleep 15 ");
    fs::write(lab.root().join("service"), script).expect("written");
    lab.start();
    fs::write(lab.root().join("slow"), "").expect("written");
    for nth in 0..2 {
        lab.ends(5, "job run node");
        // Its guard starts it once it has stopped.
        waits("that it is told", || lab.told().len() == 2 * nth + 2);
        let told = lab.told();
        assert!(
            told[2 * nth].starts_with("failure unreachable ") && told[2 * nth + 1].starts_with("recovery "),
            "{told:?}"
        );
        lab.runs_again("its guard");
        no_guard_is_left(&lab);
    }
}

#[test]
fn what_a_guard_has_started_though_the_run_hangs_is_told_at_once_and_once() {
    ground!("btrfs", "root");
    let lab = Lab::that_tells_and("snapshot_within = \"1s\"");
    lab.start();
    let freezes = lab.root().join("freezes");
    let says = |file: &Path, what: &str| fs::read_to_string(file).is_ok_and(|text| text.contains(what));
    let record = lab.root().join("state/runs/node.json");
    // The second time is no news.
    for _ in 0..2 {
        // As it ends, its disk stops to answer.
        fs::write(&freezes, "").expect("written");
        let thawed = Thawed(lab.root().join("mnt"));
        std::thread::scope(|scope| {
            let run = scope.spawn(|| lab.runs("job run node"));
            waits("that the guard starts it", || says(&lab.lease(), "\"resumed\"") || run.is_finished());
            waits("that it is told", || says(&record, "\"told\"") || run.is_finished());
            assert!(!run.is_finished(), "it did not hang");
            fs::remove_file(&freezes).expect("removed");
            drop(thawed);
            assert_eq!(run.join().expect("it ends").0, Some(5));
        });
        no_guard_is_left(&lab);
        let told = lab.told();
        assert!(
            told.len() == 1
                && told[0].starts_with("failure unreachable ")
                && told[0].contains("snapshot_within"),
            "{told:?}"
        );
    }
    lab.ends(0, "job run node");
    let told = lab.told();
    assert!(told.len() == 2 && told[1].starts_with("recovery unreachable "), "{told:?}");
}

#[test]
fn a_configuration_that_is_broken_keeps_nothing_down_and_whoever_is_to_know_hears_of_it_later() {
    ground!("btrfs");
    let lab = Lab::that_tells();
    lab.start();
    let config = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    lab.dies("Verify", "both");
    lab.write("nothing is configured any more");
    let (_, said) = lab.ends(0, "job recover");
    assert!(said.contains("nobody is told of this until the configuration is mended: "), "{said}");
    lab.runs_again("recovered");
    lab.write(&config);
    lab.ends(0, "job run --due");
    assert!(lab.told().len() == 1 && lab.told()[0].contains("runs again"), "{:?}", lab.told());
}

#[test]
fn a_run_whose_guard_is_killed_at_any_step_goes_on_and_the_service_runs_afterwards() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.start();
    for step in "Stop(0) Verify Snapshot Confirm Start(0) Answer Settle Unlease".split(' ') {
        let (taken, begun) = (lab.n_snapshots(), lab.n_begun());
        let output = lab.killed(step, "guard");
        assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stdout));
        lab.runs_again(step);
        assert_eq!((lab.n_snapshots() - taken, lab.n_begun() - begun), (1, 1), "{step}");
    }
}
