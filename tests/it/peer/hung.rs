//! A disk of this machine that hangs.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowsnap::endpoint::btrfs::Dataset;
use cowsnap::endpoint::peer::{Patience, Peer, Ssh};
use cowsnap::endpoint::{Backend, History, SnapshotRequest, path};
use cowsnap::exec::Silent;
use cowsnap::exec::replicate::{Guard, Wanted, replicate};
use cowsnap::exec::transfer::Place;
use cowsnap::model::{PeerAddress, Version};

use super::lab::{Lab, noise, options};
use crate::ground::{self, Btrfs, ground, run};

/// A filesystem that lets nobody write, nor end who tries; until the value is gone, or two minutes are over whatever becomes of the test.
pub struct Frozen {
    at: PathBuf,
    thaws: Child,
}

impl Frozen {
    pub fn new(at: &Path) -> Self {
        let thaw = "sleep 120; exec 'fsfreeze', '-u', $ARGV[0]";
        let thaws = Command::new("perl").args(["-e", thaw]).arg(at).spawn().unwrap();
        run("fsfreeze", &["-f", at.to_str().unwrap()]);
        Self { at: at.to_owned(), thaws }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.at).status();
        let _ = self.thaws.kill();
        let _ = self.thaws.wait();
    }
}

/// How it ended, if it did within so long; killed otherwise.
pub fn within(child: &mut Child, limit: Duration) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    None
}

/// Waits until no process is left that was started with `state`.
pub fn wait_for_all_of(state: &str) {
    let is_of_it = |entry: std::fs::DirEntry| {
        let said = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&said).contains(state)
    };
    for _ in 0..600 {
        if !std::fs::read_dir("/proc").unwrap().flatten().any(is_of_it) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("a process has not ended");
}

#[test]
fn a_disk_here_that_hangs_holds_up_no_other_target_and_the_program_ends() {
    ground!("btrfs", "fsfreeze");
    let (lab, other) = (Lab::new(), Btrfs::new());
    let state = lab.source.outside().join("state");
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let from = text(lab.source.path().join("data"));
    let (hangs, sound) = (text(lab.target.path().join("copy")), text(other.path().join("copy")));
    lab.write("a", &noise(1, 1_000_000));
    lab.snapshot("one");
    lab.source.subvolume("data/in");
    let inner = Dataset::at(&lab.source.path().join("data/in")).unwrap();
    snapshot(&inner, "one");
    let replicate = |more: &[&str]| {
        let mut command = ground::cowsnap(&state);
        command
            .args(["replicate", "-r"])
            .args(more)
            .args([&from, &hangs, &sound])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    };
    assert!(replicate(&[]).status().unwrap().success());
    (0..30).for_each(|n| lab.write(&format!("b{n}"), &noise(n, 1_000_000)));
    let two = lab.snapshot("two");
    let inner_two = snapshot(&inner, "two");
    let (code, said) = ends_while_it_hangs(&lab, &state, replicate(&["--stall", "2"]));
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("2 of 4 failed") && said.contains(&hangs), "{said}");
    let there = path::named(Path::new(&sound)).unwrap();
    assert!(said.contains("it hangs, and is left out for the rest of the run"), "{said}");
    assert!(has(&there, &two) && has(&there.named_below(Path::new("in")).unwrap(), &inner_two));
    // Once it is back, the same command brings it what it lacks.
    assert!(replicate(&[]).status().unwrap().success());
    assert!(has(&lab.to(), &two));
}

/// How it ends while the target's disk hangs, and what it says. Nothing of it is left once the disk is back.
fn ends_while_it_hangs(lab: &Lab, state: &Path, mut command: Command) -> (Option<i32>, String) {
    let frozen = Frozen::new(&lab.target.path());
    let said = std::fs::File::create(lab.source.outside().join("said")).unwrap();
    let mut child = command.stderr(said).spawn().unwrap();
    let code = within(&mut child, Duration::from_secs(90));
    drop(frozen);
    let _ = child.wait();
    wait_for_all_of(state.to_str().unwrap());
    (code, std::fs::read_to_string(lab.source.outside().join("said")).unwrap())
}

/// Nobody can end a process that waits for such a disk: it is another one's to wait.
#[test]
fn a_disk_here_that_hangs_and_is_the_only_target_ends_the_run() {
    ground!("btrfs", "fsfreeze");
    let lab = Lab::new();
    let state = lab.source.outside().join("state");
    let (from, to) = (lab.source.path().join("data"), lab.target.path().join("copy"));
    lab.write("a", &noise(1, 1_000_000));
    lab.snapshot("one");
    let replicate = |more: &[&str]| {
        let mut command = ground::cowsnap(&state);
        command.arg("replicate").args(more).args([&from, &to]).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    assert!(replicate(&[]).status().unwrap().success());
    (0..30).for_each(|n| lab.write(&format!("b{n}"), &noise(n, 1_000_000)));
    let two = lab.snapshot("two");
    let (code, said) = ends_while_it_hangs(&lab, &state, replicate(&["--stall", "2"]));
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains(to.to_str().unwrap()), "{said}");
    assert!(replicate(&[]).status().unwrap().success());
    assert!(has(&lab.to(), &two));
}

/// Who is killed leaves nobody at work: the next run goes on at once.
#[test]
fn who_is_killed_takes_along_who_writes_to_a_disk_here() {
    ground!("btrfs");
    let lab = Lab::new();
    let state = lab.source.outside().join("state");
    let (from, to) = (lab.source.path().join("data"), lab.target.path().join("copy"));
    lab.write("a", &noise(1, 20_000_000));
    let one = lab.snapshot("one");
    let mut slow = ground::cowsnap(&state);
    slow.args(["replicate", "--bandwidth", "4M", "--checkpoint", "1M"]).args([&from, &to]);
    let mut child = slow.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    ground::waits("something to be received that is safe", || {
        let is_safe =
            |there: cowsnap::model::Inventory| there.partials.iter().any(|partial| partial.bytes > Some(0));
        lab.to().inventory().is_ok_and(is_safe)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let mut next = ground::cowsnap(&state);
    next.args(["--json", "replicate"]).args([&from, &to]).stdin(Stdio::null());
    let next = next.output().unwrap();
    assert!(next.status.success(), "{}", String::from_utf8_lossy(&next.stderr));
    let said: serde_json::Value = serde_json::from_slice(&next.stdout).unwrap();
    let resumed = said["replicated"][0]["moved"][0]["resumed_bytes"].as_u64().unwrap();
    assert!(resumed >= 1 << 20, "{said}");
    assert!(has(&lab.to(), &one));
}

/// A run that is asked to end while the target here has no more than begun to take a stream, on a disk that does not answer for a while.
struct Interrupted {
    lab: Lab,
    state: PathBuf,
    one: Version,
    child: Child,
    frozen: Option<Frozen>,
}

impl Interrupted {
    fn new() -> Self {
        let lab = Lab::new();
        let state = lab.source.outside().join("state");
        lab.write("a", &noise(1, 60_000_000));
        let one = lab.snapshot("one");
        let mut slow = ground::cowsnap(&state);
        slow.args(["replicate", "--bandwidth", "4M", lab.source.path().join("data").to_str().unwrap()]);
        slow.arg(lab.target.path().join("copy")).stdin(Stdio::null()).stdout(Stdio::null());
        let said = std::fs::File::create(lab.source.outside().join("said")).unwrap();
        let child = slow.stderr(said).spawn().unwrap();
        let at = lab.target.path();
        ground::waits("some MiB to come", || {
            let said =
                Command::new("du").args(["-sb"]).arg(&at).stderr(Stdio::null()).output().unwrap().stdout;
            let said = String::from_utf8_lossy(&said);
            said.split_whitespace().next().and_then(|n| n.parse().ok()).is_some_and(|n: u64| n > 3 << 20)
        });
        let frozen = Some(Frozen::new(&at));
        let made = Self { lab, state, one, child, frozen };
        made.interrupt();
        made
    }

    fn interrupt(&self) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.lab.source.outside().join("said")).unwrap()
    }
}

impl Drop for Interrupted {
    fn drop(&mut self) {
        self.frozen = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A disk may have much to write before what has come is safe: that is waited for.
#[test]
fn what_has_come_is_kept_though_a_disk_here_takes_long_for_it() {
    ground!("btrfs", "fsfreeze");
    let mut run = Interrupted::new();
    ground::waits("it to say what it waits for", || run.said().contains("is made durable"));
    // More than twice what anybody else is given to end.
    std::thread::sleep(Duration::from_secs(5));
    assert!(run.child.try_wait().unwrap().is_none(), "{}", run.said());
    run.frozen = None;
    let ended = within(&mut run.child, Duration::from_secs(90));
    assert_ne!(ended, Some(0), "{}", run.said());
    wait_for_all_of(run.state.to_str().unwrap());
    let mut next = ground::cowsnap(&run.state);
    next.args(["--json", "replicate"]).arg(run.lab.source.path().join("data")).stdin(Stdio::null());
    let next = next.arg(run.lab.target.path().join("copy")).output().unwrap();
    assert!(next.status.success(), "{}", String::from_utf8_lossy(&next.stderr));
    let said: serde_json::Value = serde_json::from_slice(&next.stdout).unwrap();
    let resumed = said["replicated"][0]["moved"][0]["resumed_bytes"].as_u64().unwrap();
    assert!(resumed >= 1 << 20, "{said}");
    assert!(has(&run.lab.to(), &run.one));
}

#[test]
fn a_second_signal_waits_for_no_disk() {
    ground!("btrfs", "fsfreeze");
    let mut run = Interrupted::new();
    ground::waits("it to say what it waits for", || run.said().contains("is made durable"));
    run.interrupt();
    let ended = (0..1200).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        run.child.try_wait().unwrap()
    });
    assert_eq!(ended.expect("it ends while the disk hangs").signal(), Some(2), "{}", run.said());
    run.frozen = None;
    wait_for_all_of(run.state.to_str().unwrap());
}

fn snapshot(dataset: &Dataset, name: &str) -> Version {
    let request = SnapshotRequest::named(name.parse().unwrap());
    Dataset::snapshot(std::slice::from_ref(dataset), &request).unwrap().versions[0].clone()
}

fn has(dataset: &impl History, version: &Version) -> bool {
    dataset.inventory().unwrap().by_guid(version.id.guid).is_some()
}

/// The process that works there takes the few bytes at once, and says that it is there as long as it does not come back from the kernel.
#[test]
fn a_disk_here_that_hangs_is_left_out_also_once_it_has_taken_all() {
    ground!("btrfs", "fsfreeze");
    let (lab, other) = (Lab::new(), Btrfs::new());
    let state = lab.source.outside().join("state");
    std::fs::create_dir_all(&state).unwrap();
    let (hangs, sound) = (lab.target.path().join("copy"), other.path().join("copy"));
    let program = [env!("CARGO_BIN_EXE_cowsnap"), "--state-dir", state.to_str().unwrap(), "serve"];
    let patience = Patience {
        stall: Some(Duration::from_secs(15)),
        frame: Duration::from_secs(1),
        ..Patience::default()
    };
    let ssh = Ssh { program: program.map(str::to_owned).to_vec(), patience, ..Ssh::default() };
    let aside = |at: &Path| {
        let address = PeerAddress::aside(at.to_str().unwrap()).unwrap();
        Place::There(Peer::connect(&address, &ssh).unwrap())
    };
    let wanted = Wanted { intermediates: false, last: None, full_again: false, options: options() };
    let bring = || {
        let guard = Guard { state_dir: &state, wait: true };
        let places = [aside(&hangs), aside(&sound)];
        let outcomes = replicate(&Place::Here(lab.from()), &places, &wanted, guard, &Silent);
        let hang = places.each_ref().map(Place::hangs);
        (outcomes.into_iter().map(|outcome| outcome.map(drop)).collect::<Vec<_>>(), hang)
    };
    lab.write("a", b"1");
    lab.snapshot("one");
    let (outcomes, hang) = bring();
    assert!(outcomes.iter().all(Result::is_ok) && hang == [false, false], "{outcomes:?}");
    lab.write("a", b"2");
    let two = lab.snapshot("two");
    let frozen = Frozen::new(&lab.target.path());
    let (outcomes, hang) = bring();
    let arrived = has(&path::named(&sound).unwrap(), &two);
    drop(frozen);
    wait_for_all_of(state.to_str().unwrap());
    assert!(outcomes[0].is_err() && outcomes[1].is_ok() && arrived, "{outcomes:?}");
    assert_eq!(hang, [true, false]);
}

/// What died there is to be cleared away, which waits as long as the disk hangs: who does that is the process that works there.
#[test]
fn who_replicates_to_several_places_does_not_wait_for_a_disk_itself() {
    ground!("btrfs", "fsfreeze");
    let (lab, other) = (Lab::new(), Btrfs::new());
    let state = lab.source.outside().join("state");
    lab.write("a", b"1");
    lab.snapshot("one");
    let mut command = ground::cowsnap(&state);
    command.arg("replicate").arg(lab.source.path().join("data"));
    command.args([lab.target.path().join("copy"), other.path().join("copy")]).stdin(Stdio::null());
    assert!(command.status().unwrap().success());
    lab.snapshot("two");
    std::fs::create_dir_all(lab.target.path().join(".cowsnap/staging/dead-1")).unwrap();
    let frozen = Frozen::new(&lab.target.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let waits = |process: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('D'))
    };
    let is_serving = |process: &str| {
        let said = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        said.contains(state.to_str().unwrap()) && said.contains("\0serve\0")
    };
    let one_serves_and_waits = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let mut names = all.filter_map(|entry| entry.file_name().into_string().ok());
        names.any(|process| is_serving(&process) && waits(&process))
    };
    let begun = Instant::now();
    while !one_serves_and_waits() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (found, itself) = (one_serves_and_waits(), waits(&child.id().to_string()));
    let _ = child.kill();
    drop(frozen);
    let _ = child.wait();
    wait_for_all_of(state.to_str().unwrap());
    assert!(found && !itself, "{found} {itself}");
}
