//! `cowsnap job install --systemd` onto the systemd that runs, and what `check` says of units that failed.

use std::collections::BTreeSet;
use std::time::Instant;

use super::*;

const CONFIG: &str =
    "[job.live]\ndatasets = [\"ROOT/mnt/node\"]\ncrash_consistent = true\nschedule = \"* * * * *\"\n";
const TIMER: &str = "cowsnap-job@live.timer";
const SERVICE_OF_JOB: &str = "cowsnap-job@live.service";

/// All that is in systemd's own folder, with what links lead to.
fn installed() -> BTreeSet<String> {
    let output = ground::run("find", &["/etc/systemd/system", "-printf", "%p %l\\n"]);
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Takes away what was installed, whatever became of the test.
struct Uninstalled<'a>(&'a Lab);

impl Drop for Uninstalled<'_> {
    fn drop(&mut self) {
        let _ = self.0.cowsnap("job uninstall --systemd").output();
    }
}

/// A timer of every minute, spread by 20 s, on a machine that may be slow.
fn waits_minutes(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(270), "waited for {what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What `check --json` finds about that unit.
fn found(lab: &Lab, unit: &str) -> Vec<(String, String)> {
    let output = lab.cowsnap("check --json").output().expect("the program starts");
    let value: Value = serde_json::from_slice(&output.stdout).expect("one object");
    let text = |one: &Value, key: &str| one[key].as_str().expect("a text").to_owned();
    let findings = value["findings"].as_array().expect("a list").iter();
    findings
        .filter(|finding| text(finding, "what").contains(unit))
        .map(|finding| (text(finding, "state"), text(finding, "job")))
        .collect()
}

#[test]
fn the_timers_that_are_installed_fire_a_run_that_fails_is_a_failed_unit_and_nothing_is_left_of_them() {
    ground!("systemd", "btrfs");
    let lab = Lab::new("", "");
    let config = lab.root().join("config.toml");
    let write = |text: &str| fs::write(&config, lab.placed(text)).expect("written");
    let before = installed();
    write(CONFIG);
    let _uninstalled = Uninstalled(&lab);
    lab.ends(0, "job install --systemd");
    for unit in [TIMER, SERVICE_OF_JOB, "cowsnap-recover.service"] {
        let output = ground::run("systemd-analyze", &["verify", "--man=no", unit]);
        let said = words(&output);
        assert!(!said.lines().any(|line| line.contains("cowsnap")), "{unit}: {said}");
        assert_eq!(property(unit, "LoadState"), "loaded", "{unit}");
    }
    let timers = || words(&ground::run("systemctl", &["list-timers", "--all", "--no-legend", "--no-pager"]));
    assert!(timers().contains(TIMER), "{}", timers());
    assert_eq!(property(TIMER, "ActiveState"), "active");
    // It fires by itself.
    waits_minutes("the first run", || lab.n_snapshots() > 0);
    waits_minutes("its end", || property(SERVICE_OF_JOB, "ActiveState") == "inactive");
    assert_eq!(property(SERVICE_OF_JOB, "Result"), "success");
    assert!(lab.ends(0, "status").contains("live"), "the run's record is where status looks");
    let record = fs::read(lab.root().join("state/runs/live.json")).expect("written");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    assert!(record["last_run"]["failure"].is_null() && record["tallies"][0]["done"].as_u64() > Some(0));
    assert_eq!(found(&lab, SERVICE_OF_JOB), []);
    // A run that fails, by the timer too.
    write(&CONFIG.replace("mnt/node", "mnt/gone"));
    waits_minutes("a run that fails", || property(SERVICE_OF_JOB, "ActiveState") == "failed");
    let critical = [("CRITICAL".to_owned(), "systemd".to_owned())];
    assert_eq!(found(&lab, SERVICE_OF_JOB), critical);
    assert_eq!(lab.cowsnap("check").output().expect("the program starts").status.code(), Some(2));
    let said = lab.ends(0, "job uninstall --systemd");
    assert!(said.contains(TIMER), "{said}");
    assert_eq!(installed(), before);
    assert!(!timers().contains(TIMER), "{}", timers());
    assert_eq!(property(TIMER, "ActiveState"), "inactive");
    assert_eq!(found(&lab, SERVICE_OF_JOB), [], "what is called no more has failed no more");
}

#[test]
fn a_unit_that_a_job_stops_and_that_failed_is_critical_and_unknown_where_systemd_does_not_answer() {
    ground!("systemd", "btrfs");
    let lab = Lab::new("", "");
    lab.start();
    lab.ends(0, "job run node");
    let unit = lab.unit();
    assert_eq!(found(&lab, unit), []);
    kill(lab.pid(), Signal::KILL);
    waits("its failure", || property(unit, "ActiveState") == "failed");
    // Of the job, and by its name of no other: a test's unit is called as cowsnap's own are, and is told as one of these, too.
    let of = |job: &str| ("CRITICAL".to_owned(), job.to_owned());
    let mut told = found(&lab, unit);
    told.sort();
    assert_eq!(told, [of("node"), of("systemd")]);
    let nobody = lab.root().join("nobody");
    fs::create_dir(&nobody).expect("made");
    let mut asks = lab.cowsnap("check");
    let output = asks.env("PATH", &nobody).output().expect("the program starts");
    let said = words(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("UNKNOWN: systemd: ") && said.contains("systemctl"), "{said}");
    fs::write(nobody.join("systemctl"), "#!/bin/sh\necho Failed to connect to bus >&2; exit 1\n")
        .expect("written");
    ground::run("chmod", &["755", nobody.join("systemctl").to_str().expect("utf-8")]);
    let mut asks = lab.cowsnap("check");
    let output = asks.env("PATH", &nobody).output().expect("the program starts");
    let said = words(&output);
    assert!(output.status.code() == Some(3) && said.contains("Failed to connect to bus"), "{said}");
}
