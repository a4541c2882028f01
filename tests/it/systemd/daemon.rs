//! `cowsnap daemon` as the unit that `cowsnap job install --daemon` writes, under systemd.

use super::*;

const JOB: &str =
    "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\ncrash_consistent = true\nschedule = \"0 0 1 1 *\"\n";

#[test]
fn systemd_knows_when_the_daemon_is_ready_what_it_does_and_when_it_hangs() {
    ground!("systemd", "btrfs");
    let mut lab = Lab::new("", "");
    let config = lab.root().join("config.toml");
    let write = |text: &str, lab: &Lab| fs::write(&config, lab.placed(text)).expect("written");
    write(JOB, &lab);
    lab.ends(0, "job install --daemon --dir ROOT/units --config ROOT/config.toml");
    let text = fs::read_to_string(lab.root().join("units/cowsnap-daemon.service")).expect("read");
    assert!(text.contains("WatchdogSec=2min") && text.contains(" daemon --config "), "{text}");
    let text = text.replace("WatchdogSec=2min", "WatchdogSec=5s").replace("RestartSec=10s", "RestartSec=0");
    let name = lab.unit().replace(".service", "-daemon.service");
    lab.add(&name, &text.replace(" daemon --config ", " daemon --listen ROOT/socket --config "));
    // It comes back when the daemon is ready.
    systemctl(&["start", &name]);
    // A slow machine takes its time to see that a job is due, which is said, too.
    let status = property(&name, "StatusText");
    assert_eq!(property(&name, "OOMPolicy"), "continue");
    assert!(property(&name, "ActiveState") == "active" && status.starts_with("1 job"), "{status}");
    waits("the first run", || lab.n_snapshots() == 1);
    write("[job.node]\nlost = 3\n", &lab);
    systemctl(&["reload", &name]);
    waits("the reason", || property(&name, "StatusText").contains("is kept"));
    assert_eq!(property(&name, "ActiveState"), "active");
    write(JOB, &lab);
    systemctl(&["reload", &name]);
    waits("it is taken up", || property(&name, "StatusText") == "1 job");
    // It hangs, and is started again.
    let before = property(&name, "MainPID");
    kill(before.parse().expect("a number"), Signal::STOP);
    waits("another one", || {
        property(&name, "NRestarts") != "0" && property(&name, "ActiveState") == "active"
    });
    assert_ne!(property(&name, "MainPID"), before);
    assert_eq!(lab.n_snapshots(), 1);
    systemctl(&["stop", &name]);
    assert_eq!(
        (property(&name, "ActiveState").as_str(), property(&name, "Result").as_str()),
        ("inactive", "success")
    );
    assert!(!lab.root().join("socket").exists());
}
