//! What is left of the table of failures: a configuration that is changed, disks that are full, and who is told.

use super::*;

#[test]
fn a_configuration_that_is_changed_while_its_job_runs_changes_nothing_of_that_run() {
    ground!("btrfs");
    let lab = Lab::new("");
    let job = |stop: &str| {
        let stop = format!("rm ROOT/up; {stop}");
        format!(
            "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[[job.node.target]]\nto = \"ROOT/mnt/copy\"\n[[job.node.quiesce.service]]\n\
             status = [\"/bin/test\", \"-e\", \"ROOT/up\"]\nstop = [\"/bin/sh\", \"-c\", \"{stop}\"]\nstart = [\"/bin/touch\", \"ROOT/up\"]\n"
        )
    };
    let is_up = || lab.root().join("up").exists();
    fs::write(lab.root().join("up"), "").expect("written");
    // No configuration at all, and then one of which the job is gone.
    for (nth, change) in
        ["echo nonsense > ROOT/config.toml", "cp ROOT/other.toml ROOT/config.toml"].iter().enumerate()
    {
        let other = "[job.other]\ndatasets = [\"ROOT/mnt/logs\"]\ncrash_consistent = true\n";
        fs::write(lab.root().join("other.toml"), lab.placed(other)).expect("written");
        lab.write(&job(change));
        lab.ends(0, "job run node");
        assert!(is_up() && !lab.lease().exists(), "{change}");
        assert_eq!(lab.n_snapshots(), nth + 1);
        let replicas = lab.json(0, "list ROOT/mnt/copy");
        assert_eq!(replicas["datasets"][0]["snapshots"].as_array().map(Vec::len), Some(nth + 1));
        lab.ends(2, "job run node");
    }
}

#[test]
fn a_snapshot_that_fails_after_the_stop_costs_itself_and_the_service_is_started() {
    ground!("btrfs");
    let lab = Lab::new("");
    // Where snapshots come into can be written to until the service has ended, so that nothing is wrong before.
    let first = lab.start();
    lab.ends(0, "job run node");
    assert_ne!(lab.pid(), Some(first));
    let (before, n_begun) = (lab.pid().expect("it runs"), lab.n_begun());
    fs::write(lab.root().join("locks"), "").expect("written");
    let (_, said) = lab.ends(6, "job run node");
    assert!(said.contains(&lab.placed("ROOT/mnt/node@")) && said.contains("not permitted"), "{said}");
    // It was stopped, and started once.
    assert!(lab.pid().is_some_and(|pid| pid != before), "{said}");
    assert_eq!((lab.n_begun(), lab.n_snapshots()), (n_begun + 1, 1));
    assert!(!lab.lease().exists());
    waits("the guards' end", || guards(&lab.root().join("state")).is_empty());
    // It is the code that the snapshot alone has, and nothing of it is left.
    lab.ends(6, "snapshot ROOT/mnt/node");
    fs::remove_file(lab.root().join("locks")).expect("removed");
    ground::run("sh", &["-c", &lab.placed("chattr -i ROOT/mnt/.cowsnap/datasets/*/snap")]);
    lab.ends(0, "doctor ROOT/mnt");
    lab.ends(0, "job run node");
    assert_eq!(lab.n_snapshots(), 2);
}

#[test]
fn a_target_whose_disk_is_full_costs_neither_the_service_nor_the_snapshot() {
    ground!("btrfs");
    let lab = Lab::new("");
    let small = Btrfs::with("110M", &[], "");
    let text = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    let target = format!("[[job.node.target]]\nto = {:?}\n", small.path().join("copy").display().to_string());
    lab.write(&format!("{text}\n{target}"));
    fs::write(lab.root().join("mnt/node/zeros"), vec![0; 160 << 20]).expect("written");
    let before = lab.start();
    let (_, said) = lab.ends(7, "job run node");
    assert!(said.contains("No space left"), "{said}");
    assert!(lab.pid().is_some_and(|pid| pid != before) && !lab.lease().exists());
    assert_eq!(lab.n_snapshots(), 1);
    let (code, listed, _) = lab.runs(&format!("list {}", small.path().join("copy").display()));
    assert!(code != Some(0) || !listed.contains('@'), "half of it counts: {listed}");
}

#[test]
fn who_is_to_know_is_told_that_a_service_does_not_start() {
    ground!("btrfs");
    let lab = Lab::new("start_within = \"5s\"");
    let text = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    let tells = "echo $COWSNAP_RESULT $COWSNAP_CLASS: $COWSNAP_MESSAGE >> ROOT/told";
    lab.write(&format!("{text}\n[job.node.notify]\ncommand = [\"/bin/sh\", \"-c\", \"{tells}\"]\n"));
    lab.start();
    fs::write(lab.root().join("broken"), "").expect("written");
    lab.ends(1, "job run node");
    let told = fs::read_to_string(lab.root().join("told")).expect("somebody was told");
    assert!(told.starts_with("failure internal: ") && told.contains("IS DOWN"), "{told}");
    fs::remove_file(lab.root().join("broken")).expect("removed");
    waits("a recovery", || lab.runs("job recover").0 == Some(0) && !lab.lease().exists());
    assert!(lab.pid().is_some());
}

/// Fills a filesystem with data, and then what is left of it with what stands in its metadata.
fn fill(at: &Path, with_metadata: bool) {
    use std::io::Write;
    let mut large = fs::File::create(at.join("large")).expect("made");
    while large.write_all(&[1; 1 << 16]).is_ok() {}
    let small = |nth: usize| fs::write(at.join(format!("small-{nth}")), [nth as u8; 1 << 11]);
    for nth in (0..).take_while(|_| with_metadata) {
        let full = small(nth).and_then(|()| rustix::fs::syncfs(fs::File::open(at)?).map_err(Into::into));
        if full.is_err() {
            break;
        }
    }
}

#[test]
fn a_dataset_whose_disk_is_full_costs_its_snapshot_at_most() {
    ground!("btrfs");
    // Full of data alone, whose metadata has no chunk to grow into; of both; and both together. btrfs refuses the snapshot of each.
    for (mkfs, with_metadata) in [(&[][..], false), (&[], true), (&["--mixed"], true)] {
        let lab = Lab { fs: Btrfs::with("128M", mkfs, "") };
        lab.prepared("");
        lab.start();
        lab.ends(0, "job run node");
        let before = lab.pid();
        fill(&lab.root().join("mnt/node"), with_metadata);
        let (code, text, said) = lab.runs("job run node");
        println!("{mkfs:?} {with_metadata}: {code:?} {text}{said}");
        assert!(lab.pid().is_some() && lab.pid() != before && !lab.lease().exists(), "{said}");
        assert_eq!((code, lab.n_snapshots()), (Some(3), 1), "{said}");
        assert!(said.contains("No space left"), "{said}");
        // With room again all is as ever.
        fs::remove_file(lab.root().join("mnt/node/large")).expect("removed");
        let had = lab.n_snapshots();
        waits("room", || lab.runs("job run node").0 == Some(0));
        assert_eq!(lab.n_snapshots(), had + 1);
    }
}

/// Does something however its scope is left.
struct Finally<F: Fn()>(F);

impl<F: Fn()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_snapshot_that_hangs_holds_up_no_service_and_does_not_count() {
    ground!("btrfs", "root");
    let lab = Lab::new("snapshot_within = \"1s\"");
    lab.start();
    // As it ends, its disk stops to answer.
    fs::write(lab.root().join("freezes"), "").expect("written");
    let n_begun = || fs::read_to_string(lab.root().join("begun")).expect("read").lines().count();
    // Also if what follows fails: what is frozen can not be unmounted.
    let thaw = || Command::new("fsfreeze").arg("-u").arg(lab.root().join("mnt")).status().expect("it runs");
    let _thawed = Finally(|| {
        let _ = thaw();
    });
    std::thread::scope(|scope| {
        let run = scope.spawn(|| lab.runs("job run node"));
        waits("its guard starts it though the run goes on", || n_begun() == 2);
        assert!(!run.is_finished() && lab.lease().exists());
        fs::remove_file(lab.root().join("freezes")).expect("removed");
        assert!(thaw().success());
        let (code, text, said) = run.join().expect("it ends");
        assert_eq!(code, Some(5), "{text}{said}");
        assert!(said.contains("snapshot_within"), "{said}");
    });
    assert_eq!((lab.n_snapshots(), n_begun()), (0, 2));
    assert!(lab.pid().is_some() && !lab.lease().exists());
    // The next one is as ever.
    lab.ends(0, "job run node");
    assert_eq!((lab.n_snapshots(), n_begun()), (1, 3));
}
