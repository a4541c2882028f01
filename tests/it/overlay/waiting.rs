//! How the process of mode fuse waits for what it is asked next.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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
