//! What can not be taken, and what is left behind then: nothing.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cowsnap::endpoint::{Error, History};

use super::lab::{made, names, store, take, tree, try_take};
use crate::ground::{Plain, ground, run};

#[test]
fn where_blocks_can_not_be_shared_only_a_copy_that_was_asked_for_is_made() {
    ground!("ext4");
    let ground = Plain::ext4();
    let dataset = made(&ground.path().join("t"));
    let error = try_take(&dataset, "s").expect_err("ext4 shares no blocks");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let hint = error.hint().expect("a hint");
    assert!(hint.contains("cowsnap snapshot --copy") && hint.contains("cowsnap adopt"), "{hint}");
    assert!(!store(&ground.path()).exists(), "nothing is left");
    take(&dataset.copying(true), "s");
}

#[test]
fn a_directory_that_is_written_to_meanwhile_is_no_snapshot() {
    ground!("xfs");
    let ground = Plain::xfs();
    let live = ground.path().join("t");
    let dataset = made(&live);
    for n in 0..2000 {
        fs::write(live.join(n.to_string()), "x").expect("written");
    }
    let mut file = fs::File::create(live.join("log")).expect("made");
    let stop = AtomicBool::new(false);
    let refused = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"x").expect("written");
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let refused = try_take(&dataset, "s");
        stop.store(true, Ordering::Relaxed);
        refused
    });
    let error = refused.expect_err("it changed meanwhile");
    assert!(error.to_string().contains("t/log changed meanwhile"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("fuser -v")), "{error:?}");
    assert!(!store(&ground.path()).exists(), "nothing is left");
    take(&dataset, "s");
}

#[test]
fn another_filesystem_inside_is_refused_and_named() {
    ground!("xfs");
    let ground = Plain::xfs();
    let dataset = made(&ground.path().join("t"));
    let inside = ground.path().join("t/inside");
    fs::create_dir(&inside).expect("mkdir");
    run("mount", &["-t", "tmpfs", "none", inside.to_str().expect("utf-8")]);
    let error = try_take(&dataset, "s").expect_err("its data would be left out");
    assert!(error.to_string().contains("t/inside is another filesystem"), "{error}");
    assert!(!store(&ground.path()).exists());
}

#[test]
fn a_full_filesystem_leaves_what_was_there() {
    ground!("ext4");
    let ground = Plain::ext4();
    let live = ground.path().join("t");
    let dataset = made(&live).copying(true);
    take(&dataset, "s");
    fs::write(live.join("large"), vec![1; 180 << 20]).expect("written");
    let error = try_take(&dataset, "full").expect_err("there is no room for a copy");
    assert_eq!(error.class(), cowsnap::Class::Conflict, "{error:?}");
    assert_eq!(names(&dataset), ["s"]);
    assert!(super::lab::staged(&ground.path()).is_empty());
}

#[test]
fn what_is_no_place_for_a_tree_is_named() {
    ground!("xfs");
    let ground = Plain::xfs();
    made(&ground.path().join("t"));
    let error = cowsnap::endpoint::tree::Dataset::named(&ground.path().join("t/f")).expect_err("a file");
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    take(&tree(&ground.path().join("t")), "s");
    let kept = store(&ground.path()).join("trees/t");
    let error = cowsnap::endpoint::tree::Dataset::named(&kept).expect_err("the store");
    assert!(error.to_string().contains("where snapshots are kept"), "{error}");
    let nowhere = tree(&ground.path().join("nowhere"));
    assert!(matches!(nowhere.inventory(), Err(Error::NotFound { .. })));
    let link = ground.path().join("link");
    std::os::unix::fs::symlink("t", &link).expect("linked");
    assert_eq!(names(&tree(&link)), ["s"], "a link is the directory that it leads to");
}

#[test]
fn a_directory_that_only_its_owner_may_read_can_be_taken_by_its_owner() {
    ground!("xfs", "setpriv");
    let ground = Plain::xfs();
    let home = ground.path().join("home");
    fs::create_dir(&home).expect("mkdir");
    made(&home.join("t"));
    run("chown", &["-R", "1000:1000", home.to_str().expect("utf-8")]);
    let state = ground.outside().join("state");
    let program = env!("CARGO_BIN_EXE_cowsnap");
    // Beyond the program, which lies where only root may look, nothing needs a right that the user lacks.
    let copy = ground.path().join("cowsnap");
    fs::copy(program, &copy).expect("copied");
    let run_as = |args: &[&str]| {
        let words = ["--reuid", "1000", "--regid", "1000", "--clear-groups", copy.to_str().expect("utf-8")];
        let words = [&words[..], &["--state-dir", state.to_str().expect("utf-8")], args].concat();
        run("chmod", &["a+rx", ground.outside().to_str().expect("utf-8")]);
        run("setpriv", &words)
    };
    let path = home.join("t");
    let path = path.to_str().expect("utf-8");
    run_as(&["snapshot", path, "--name", "s"]);
    fs::write(home.join("t/f"), "two").expect("written");
    run_as(&["rollback", &format!("{path}@s")]);
    assert_eq!(fs::read(home.join("t/f")).expect("there"), b"one");
}
