//! What is said on standard error, as objects.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::ground::{ground, run};
use crate::job::{Lab, NODE};

#[test]
fn every_line_is_one_object_with_its_time_and_level() {
    ground!("btrfs");
    let lab = Lab::new(&NODE.replace("FS/replica", "FS/no/such/place"));
    lab.ends(0, "create FS/node");
    let (_, said) = lab.ends(7, "-v -v --log-format json job run node");
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"))).collect();
    let (error, rest) = lines.split_last().expect("an error at least");
    assert_eq!(error["error"]["class"], "partial", "{said}");
    for line in rest {
        let time = line["timestamp"].as_str().expect("a time");
        assert!(time.parse::<jiff::Timestamp>().is_ok() && line["message"].is_string(), "{line}");
        assert!(
            ["WARN", "INFO", "DEBUG", "TRACE"].contains(&line["level"].as_str().unwrap_or_default()),
            "{line}"
        );
    }
    // What the program says itself is as what is traced.
    std::fs::write(lab.fs.outside().join("state/runs/node.json"), "{").expect("written");
    let (_, said) = lab.ends(7, "--log-format json job run node");
    let first: Value = serde_json::from_str(said.lines().next().expect("a line")).expect("an object");
    assert_eq!(first["level"], "WARN", "{said}");
    assert!(first["message"].as_str().is_some_and(|text| text.contains("begun anew")), "{said}");
    lab.ends(2, "--log-format xml list");
}

/// What the page shows, with the log in a folder of the test's own.
fn shown(log: &str) -> String {
    const PAGE: &str = include_str!("../../../docs/monitoring.md");
    let (_, after) = PAGE.split_once("In `/etc/logrotate.d/cowsnap`:\n\n```\n").expect("the page shows one");
    let (example, _) = after.split_once("```\n").expect("it ends");
    assert_eq!(example.matches("/var/log/cowsnap.log").count(), 1, "{example}");
    example.replace("/var/log/cowsnap.log", log)
}

#[test]
fn logrotate_takes_the_example_and_a_run_goes_on_in_a_new_log() {
    ground!("root", "logrotate");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("utf-8").to_owned();
    let [log, config, state] = ["cowsnap.log", "logrotate.conf", "state"].map(path);
    fs::write(&config, shown(&log)).expect("written");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("set");
    // As a line of the crontab appends to it.
    let says = |n: u32| run("sh", &["-c", "echo \"$1\" >> \"$0\"", &log, &n.to_string()]);
    let rotates = |option: &str| {
        let output = run("logrotate", &[option, "--state", &state, &config]);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!said.contains("error:") && !said.contains("unknown"), "{said}");
        said
    };
    // None is there yet, which is no error.
    assert!(rotates("-d").contains(&log));
    says(1);
    let said = rotates("-d");
    assert!(said.contains("weekly") && said.contains("(8 rotations)"), "{said}");
    for n in 2..=3 {
        rotates("--force");
        says(n);
    }
    let text = |name: &str| fs::read_to_string(path(name)).expect("there");
    assert_eq!((text("cowsnap.log"), text("cowsnap.log.1")), ("3\n".into(), "2\n".into()));
    assert!(folder.path().join("cowsnap.log.2.gz").exists());
    // What it would refuse is refused.
    fs::write(&config, shown(&log).replace("weekly", "wekly")).expect("written");
    let refused = std::process::Command::new("logrotate").args(["-d", "--state", &state, &config]).output();
    let refused = refused.expect("it starts");
    assert!(!refused.status.success() || String::from_utf8_lossy(&refused.stderr).contains("error:"));
}
