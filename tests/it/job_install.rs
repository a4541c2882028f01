//! `cowsnap job install` and `uninstall`: what systemd and cron read of what is written, and that nothing else is touched.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::ground::{self, ground};

const TWO: &str = "[job.node]\ndatasets = [\"tank/a\"]\ncrash_consistent = true\nschedule = \"@hourly\"\n[job.\"b-2.x\"]\ndatasets = [\"tank/b\"]\ncrash_consistent = true\n";

/// Runs the program with its configuration and state below `folder`.
fn cowsnap(folder: &Path, code: i32, line: &str) -> (String, String) {
    let output = ground::cowsnap(&folder.join("state"))
        .args(line.split(' '))
        .env("COWSNAP_CONFIG", folder.join("config.toml"))
        .current_dir(folder)
        .output()
        .expect("the program starts");
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(output.status.code(), Some(code), "{line}\n{out}{err}");
    (out, err)
}

/// Every file and link below a folder.
fn all_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("read").map(|entry| entry.expect("an entry")) {
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(all_below(&entry.path())),
            false => found.push(entry.file_name().into_string().expect("utf-8")),
        }
    }
    found.sort();
    found
}

fn says(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn systemd_takes_the_units_that_are_written_and_uninstall_takes_these_away() {
    ground!("systemd-analyze");
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("config.toml"), TWO).expect("written");
    let (foreseen, _) = cowsnap(folder, 0, "job install --systemd --dir units --dry-run");
    assert!(
        foreseen.contains("would be written") && foreseen.contains("    OnCalendar=minutely"),
        "{foreseen}"
    );
    assert!(!folder.join("units").exists());
    cowsnap(folder, 0, "job install --systemd --dir units");
    let units = folder.join("units");
    let names = [
        "cowsnap-job@.service",
        "cowsnap-job@.timer",
        "cowsnap-job@b-2.x.timer",
        "cowsnap-job@node.timer",
        "cowsnap-recover.service",
        "cowsnap-recover.service",
    ];
    assert_eq!(all_below(&units), names);
    for name in ["cowsnap-job@node.service", "cowsnap-job@b-2.x.timer", "cowsnap-recover.service"] {
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", name])
            .current_dir(&units)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()))
            .output()
            .expect("systemd-analyze starts");
        let said = says(&output);
        let ours: Vec<_> = said.lines().filter(|line| line.contains("cowsnap")).collect();
        assert!(output.status.success() && ours.is_empty(), "{name}: {said}");
    }
    // Again, with other jobs: what is there stays, what is no more goes.
    fs::write(folder.join("config.toml"), TWO.replace("job.node", "job.other")).expect("written");
    let (again, _) = cowsnap(folder, 0, "job install --systemd --dir units");
    assert!(
        again.contains("cowsnap-job@.service: unchanged") && again.contains("@node.timer: removed"),
        "{again}"
    );
    // What is somebody else's stays, and no configuration is needed.
    fs::write(units.join("cowsnap-mine.service"), "").expect("written");
    fs::remove_file(folder.join("config.toml")).expect("removed");
    cowsnap(folder, 0, "job uninstall --systemd --dir units");
    assert_eq!(all_below(&units), ["cowsnap-mine.service"]);
    let (nothing, said) = cowsnap(folder, 0, "job uninstall --systemd --dir units");
    assert!(nothing.is_empty() && said.contains("nothing of cowsnap job install"), "{said}");
}

/// What is in a unit under one of its headings: keys and values, as often as they stand there.
fn section(unit: &Path, heading: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(unit).expect("read");
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let pairs = lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_units_make_up_for_what_was_missed_spread_their_calls_and_take_rights_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("config.toml"), TWO).expect("written");
    cowsnap(folder, 0, "job install --systemd --dir units");
    cowsnap(folder, 0, "job install --daemon --dir units");
    let timer = section(&folder.join("units/cowsnap-job@.timer"), "[Timer]");
    let spread = |(key, value): &(String, String)| key == "RandomizedDelaySec" && value.as_str() != "0";
    assert_eq!(timer.iter().filter(|pair| spread(pair)).count(), 1, "{timer:?}");
    let has = |all: &[(String, String)], key: &str, value: &str| {
        let found: Vec<_> = all.iter().filter(|pair| pair.0 == key).map(|pair| pair.1.as_str()).collect();
        assert_eq!(found, [value], "{key}: {all:?}");
    };
    has(&timer, "Persistent", "yes");
    has(&timer, "FixedRandomDelay", "yes");
    let taken_away = "~CAP_SYS_BOOT CAP_SYS_TIME CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_SYSLOG CAP_SYS_PACCT CAP_SYS_TTY_CONFIG \
                      CAP_AUDIT_CONTROL CAP_AUDIT_READ";
    for unit in ["cowsnap-job@.service", "cowsnap-daemon.service"] {
        let service = section(&folder.join("units").join(unit), "[Service]");
        for (key, value) in [
            ("KillMode", "process"),
            ("OOMPolicy", "continue"),
            ("LockPersonality", "yes"),
            ("RestrictRealtime", "yes"),
            ("SystemCallArchitectures", "native"),
            ("CapabilityBoundingSet", taken_away),
        ] {
            has(&service, key, value);
        }
    }
    let recovers = section(&folder.join("units/cowsnap-recover.service"), "[Service]");
    has(&recovers, "KillMode", "process");
    has(&recovers, "Restart", "on-failure");
}

#[test]
fn cron_takes_the_file_that_is_written_and_one_of_somebody_else_is_not_replaced() {
    ground!("crontab");
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("config.toml"), TWO).expect("written");
    cowsnap(folder, 0, "job install --cron --dir cron");
    let file = folder.join("cron/cowsnap-jobs");
    // A user's table has no column for the user; cron takes that word for the command then.
    let output = Command::new("crontab").arg("-n").arg(&file).output().expect("crontab starts");
    assert!(output.status.success(), "{}", says(&output));
    let text = fs::read_to_string(&file).expect("read");
    let lines: Vec<_> = text.lines().filter(|line| line.contains(" root ")).collect();
    assert_eq!(lines.len(), 2);
    // What cron would call, as a shell reads it.
    let minute = lines[1].strip_prefix("* * * * * root ").expect("every minute");
    let output = Command::new("sh").args(["-c", minute]).output().expect("a shell");
    assert!(says(&output).contains("is called tank"), "{}", says(&output));
    fs::write(&file, "# mine\n").expect("written");
    let (_, said) = cowsnap(folder, 3, "job install --cron --dir cron");
    assert!(said.contains("it was not made by cowsnap job install"), "{said}");
    cowsnap(folder, 0, "job uninstall --cron --dir cron");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "# mine\n");
    // Neither reads every path as it is.
    let odd = folder.join("per%cent");
    fs::create_dir(&odd).expect("made");
    fs::write(odd.join("config.toml"), TWO).expect("written");
    let (_, said) = cowsnap(&odd, 2, "job install --cron --dir cron");
    assert!(said.contains("letters, digits and"), "{said}");
    assert!(!odd.join("cron").exists());
}

#[test]
fn systemd_takes_the_daemons_unit_and_what_both_ways_need_goes_with_the_last_of_them() {
    ground!("systemd-analyze");
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("config.toml"), TWO).expect("written");
    cowsnap(folder, 0, "job install --daemon --dir units");
    let units = folder.join("units");
    let names = ["cowsnap-daemon.service", "cowsnap-recover.service"];
    assert_eq!(all_below(&units), [names[0], names[0], names[1], names[1]]);
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", names[0]])
        .current_dir(&units)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()))
        .output()
        .expect("systemd-analyze starts");
    let said = says(&output);
    assert!(output.status.success() && !said.lines().any(|line| line.contains("cowsnap")), "{said}");
    // What systemd would call is what the program reads.
    let text = fs::read_to_string(units.join(names[0])).expect("read");
    // One of its processes that is killed for want of memory takes nothing with it, nor does its end.
    for line in ["OOMPolicy=continue", "KillMode=process"] {
        assert!(text.lines().any(|its| its == line), "{line}: {text}");
    }
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("one");
    fs::write(folder.join("config.toml"), "[job.node]\nlost = 3\n").expect("written");
    let output = Command::new("sh").args(["-c", line]).output().expect("a shell");
    assert!(says(&output).contains("config.toml:2: "), "{}", says(&output));
    fs::write(folder.join("config.toml"), TWO).expect("written");
    cowsnap(folder, 0, "job install --systemd --dir units");
    cowsnap(folder, 0, "job uninstall --daemon --dir units");
    assert!(!units.join(names[0]).exists() && units.join(names[1]).exists());
    cowsnap(folder, 0, "job install --daemon --dir units");
    cowsnap(folder, 0, "job uninstall --systemd --dir units");
    assert_eq!(all_below(&units), [names[0], names[0], names[1], names[1]]);
    cowsnap(folder, 0, "job uninstall --daemon --dir units");
    assert_eq!(all_below(&units), [""; 0]);
    cowsnap(folder, 2, "job install --daemon --systemd --dir units");
}
