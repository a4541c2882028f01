//! Holds that last as long as a descriptor of their process.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use cowsnap::sys::lzc;

use super::ground::Pool;
use super::lab::{create, property, snap};
use crate::ground::ground;

const SNAPSHOT: &str = "COWSNAP_TEST_HOLDS";

#[test]
fn a_hold_of_a_process_goes_with_it_also_if_it_is_killed() {
    ground!("zfs");
    let pool = Pool::new();
    let a = create(&pool, "a b");
    snap(&a, "s");
    let snapshot = format!("{}@s", a.name());
    let mut holder = Command::new(std::env::current_exe().expect("a program"))
        .args(["--exact", "zfs::holds::holder", "--ignored", "--nocapture"])
        .env(SNAPSHOT, &snapshot)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut said = BufReader::new(holder.stdout.take().expect("piped")).lines();
    let is_held = said.any(|line| line.expect("utf-8").ends_with("held"));
    let refs = property(&snapshot, "userrefs");
    holder.kill().and_then(|()| holder.wait()).expect("killed");
    assert_eq!((is_held, refs.as_str()), (true, "1"));
    // The kernel releases it behind the process' back.
    let is_released = (0..100).any(|_| {
        property(&snapshot, "userrefs") == "0" || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            false
        }
    });
    assert!(is_released, "the hold outlived its process");
}

/// Holds a snapshot until it is killed, or nobody is left who would.
#[test]
#[ignore = "run by another test, which kills it"]
fn holder() {
    let snapshot = std::env::var(SNAPSHOT).expect("a snapshot's name");
    let cleanup = lzc::cleanup_fd().expect("a descriptor");
    let holds = [(snapshot, "for a while".to_owned())];
    lzc::open().expect("ZFS").hold(&holds, Some(std::os::fd::AsFd::as_fd(&cleanup))).expect("held");
    println!("\nheld");
    std::io::stdin().read_line(&mut String::new()).expect("waited");
}
