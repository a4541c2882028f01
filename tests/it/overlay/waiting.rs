//! How the process of mode fuse waits for what it is asked next.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::fuse::daemons;
use super::lab::{Lab, read};
use crate::ground::ground;

/// Asks for so many names that the kernel does not know yet, one after the other.
fn ask(at: &Path, times: usize) {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..times {
        let name = format!("none-{}", ASKED.fetch_add(1, Ordering::Relaxed));
        assert!(fs::metadata(at.join(name)).is_err());
    }
}

/// How long the process has used processors.
fn used(process: u32) -> Duration {
    let stat = read(format!("/proc/{process}/stat"));
    let fields: Vec<_> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    // USER_HZ.
    Duration::from_millis(ticks * 10)
}

#[test]
fn whoever_waits_for_nothing_sleeps() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "fuse"]);
    let [daemon] = daemons(&lab)[..] else { panic!("one process serves") };
    // It waits awake for the next ones.
    ask(&at, 1000);
    std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(|| ask(&at, 1000)))));
    let (before, began) = (used(daemon), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let (used, waited) = (used(daemon) - before, began.elapsed());
    assert!(used < waited / 5, "{used:?} of {waited:?}, with nothing to do");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// What is below a directory and is none, as far as listing says.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry"));
    let below = |entry: fs::DirEntry| match entry.file_type().expect("a type").is_dir() {
        true => files_below(&entry.path()),
        false => vec![entry.path()],
    };
    entries.flat_map(below).collect()
}

/// A process that does not go on until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(process: u32) -> Self {
        let process = Pid::from_raw(process as i32).expect("a pid");
        kill_process(process, Signal::STOP).expect("stopped");
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn what_was_listed_is_not_asked_for_again() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "fuse"]);
    let [daemon] = daemons(&lab)[..] else { panic!("one process serves") };
    // The kernel asks once whether the time of birth is known, and no more.
    fs::metadata(&at).expect("stat");
    let files = files_below(&at);
    assert!(files.len() > 3, "{files:?}");
    let stopped = Stopped::new(daemon);
    let (sender, looked) = std::sync::mpsc::channel();
    let looker = std::thread::spawn(move || {
        let modes: Vec<_> =
            files.iter().map(|file| fs::symlink_metadata(file).expect("stat").mode()).collect();
        sender.send(modes).expect("sent");
    });
    let looked = looked.recv_timeout(Duration::from_secs(30));
    drop(stopped);
    looker.join().expect("it ends");
    assert!(looked.expect("nobody is asked").iter().all(|mode| *mode != 0));
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}
