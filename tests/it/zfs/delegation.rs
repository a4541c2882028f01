//! An ordinary user: what is missing is said with the line that grants it, and that line is enough.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::ground::{Pool, zfs};
use super::lab::{exists, property, snapshots};
use crate::ground::{ground, run};

const USER: &str = "somebody";

/// The program as an ordinary user runs it.
struct Somebody {
    state: PathBuf,
}

impl Somebody {
    fn new(pool: &Pool) -> Self {
        let id = String::from_utf8(run("id", &["-u", USER]).stdout).expect("a number");
        let id: u32 = id.trim().parse().expect("a number");
        let state = pool.outside().join("state");
        std::fs::create_dir(&state).expect("mkdir");
        chown(&state, Some(id), None).expect("chown");
        // The user looks at what is mounted below.
        let mut dir = state.clone();
        while dir.pop() && dir != Path::new("/tmp") && dir != Path::new("/") {
            run("chmod", &["a+x", dir.to_str().expect("utf-8")]);
        }
        Self { state }
    }

    fn try_run(&self, args: &[&str]) -> Output {
        Command::new("setpriv")
            .args(["--reuid", USER, "--regid", USER, "--clear-groups", env!("CARGO_BIN_EXE_cowsnap")])
            .args(args)
            .env("COWSNAP_STATE_DIR", &self.state)
            .env("PATH", "/usr/bin:/bin")
            .output()
            .expect("setpriv")
    }

    /// Runs it until it has the rights, granting what it says is missing. What was granted: rights and dataset each.
    fn granted(&self, args: &[&str]) -> Vec<String> {
        let mut granted = Vec::new();
        loop {
            let output = self.try_run(args);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                return granted;
            }
            assert_eq!(output.status.code(), Some(6), "{args:?}: {said}");
            let hint =
                said.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap_or_else(|| panic!("{said}"));
            assert!(hint.starts_with(&format!("zfs allow {USER} ")), "{args:?}: {said}");
            assert!(!granted.iter().any(|line| line == hint), "{args:?}: granted, and not enough: {said}");
            run("sh", &["-ec", hint]);
            granted.push(hint.to_owned());
        }
    }
}

/// `zfs allow` lines for `USER`.
fn allow(rights: &[(&str, &str)]) -> String {
    let line = |(rights, on): &(&str, &str)| format!("zfs allow {USER} {rights} '{on}'");
    rights.iter().map(line).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_is_missing_is_said_with_the_line_that_grants_it() {
    ground!("zfs", "setpriv");
    let pool = Pool::with("512M", &[]);
    let a = pool.dataset("a b:c");
    let at = |name: &str| format!("{a}@{name}");
    let user = Somebody::new(&pool);
    let snapshot = user.granted(&["snapshot", &a, "--name", "s 1"]);
    assert_eq!(snapshot, [allow(&[("snapshot", &a)])]);
    let labelled = user.granted(&["snapshot", &a, "--name", "t", "--label", "K=v w"]);
    assert_eq!(labelled, [allow(&[("snapshot,userprop", &a)])]);
    assert_eq!(property(&at("t"), "cowsnap:labels"), "K=v w");
    assert_eq!(user.granted(&["hold", "a tag", &at("s 1")]), [allow(&[("hold", &a)])]);
    for reading in [["list", &a], ["holds", &a]] {
        assert_eq!(user.granted(&reading), [""; 0], "to look needs no rights");
    }
    assert_eq!(user.granted(&["release", "a tag", &at("s 1")]), [allow(&[("release", &a)])]);
    assert_eq!(user.granted(&["rename", &at("s 1"), "u: 2"]), [allow(&[("rename,mount,create", &a)])]);
    assert_eq!(user.granted(&["diff", &at("t")]), [allow(&[("diff", &a)])]);
    assert_eq!(user.granted(&["destroy", &at("u: 2")]), [allow(&[("destroy,mount", &a)])]);
    assert_eq!(snapshots(&a), ["t"]);
}

#[test]
fn what_is_made_by_an_ordinary_user_is_not_mounted_and_the_user_is_told() {
    ground!("zfs", "setpriv");
    let pool = Pool::with("512M", &[]);
    let a = pool.dataset("a b:c");
    zfs(&["snapshot", &format!("{a}@s")]);
    let user = Somebody::new(&pool);
    let clone = pool.full("cl one");
    let granted = user.granted(&["clone", &format!("{a}@s"), &clone]);
    assert_eq!(granted, [allow(&[("clone", &a), ("create,mount", &pool.name)])]);
    assert!(exists(&clone) && property(&clone, "mounted") == "no");
    let created = user.try_run(&["create", &pool.full("new one")]);
    let said = String::from_utf8_lossy(&created.stderr).into_owned();
    assert!(created.status.success() && said.contains("is not mounted: only root can"), "{said}");
    assert_eq!(property(&pool.full("new one"), "mounted"), "no");
    let new = pool.full("renamed one");
    let granted = user.granted(&["rename", &pool.full("new one"), &new]);
    assert_eq!(granted, [allow(&[("rename,mount", &pool.full("new one")), ("create,mount", &pool.name)])]);
    assert!(exists(&new));
}

#[test]
fn what_only_root_can_do_says_so_and_changes_nothing() {
    ground!("zfs", "setpriv");
    let pool = Pool::with("512M", &[]);
    let a = pool.dataset("a b:c");
    zfs(&["snapshot", &format!("{a}@s")]);
    let user = Somebody::new(&pool);
    zfs(&["allow", USER, "snapshot,rename,clone,promote,mount,create,destroy,userprop,canmount", &pool.name]);
    let snapshot = format!("{a}@s");
    let dir = user.state.to_str().expect("utf-8").to_owned();
    for args in [
        vec!["mount", &snapshot, &dir],
        vec!["rollback", &snapshot],
        vec!["rename", &a, &pool.full("new")],
        vec!["destroy", "--snapshots", &a],
    ] {
        let output = user.try_run(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(6), "{args:?}: {said}");
        assert!(said.contains("hint: run it as root"), "{args:?}: {said}");
    }
    assert_eq!(snapshots(&a), ["s"]);
    assert_eq!((property(&a, "mounted"), property(&a, "cowsnap:rollback")), ("yes".into(), "-".into()));
}

#[test]
fn an_ordinary_user_takes_back_what_is_not_mounted() {
    ground!("zfs", "setpriv");
    let pool = Pool::with("512M", &[]);
    let a = pool.dataset("a b:c");
    zfs(&["snapshot", &format!("{a}@s")]);
    zfs(&["snapshot", &format!("{a}@newer")]);
    zfs(&["unmount", &a]);
    let user = Somebody::new(&pool);
    let granted = user.granted(&["rollback", &format!("{a}@s"), "--keep-as", "kept"]);
    let rights = "snapshot,rename,clone,promote,create,destroy,mount,canmount,mountpoint,userprop";
    assert_eq!(granted, [allow(&[(rights, &pool.name)])]);
    assert_eq!(snapshots(&a), ["s"]);
    assert_eq!(property(&a, "cowsnap:rollback"), "-");
}

#[test]
fn a_snapshot_that_may_not_be_held_is_not_taken() {
    ground!("zfs", "setpriv");
    let pool = Pool::with("512M", &[]);
    let a = pool.dataset("a b:c");
    let user = Somebody::new(&pool);
    zfs(&["allow", USER, "snapshot", &a]);
    let args = ["snapshot", &a, "--name", "s", "--hold", "a tag", "--hold", "another"];
    let output = user.try_run(&args);
    assert_eq!(
        (output.status.code(), snapshots(&a).len()),
        (Some(6), 0),
        "there is no right to take it back"
    );
    assert_eq!(user.granted(&args), [allow(&[("snapshot,hold", &a)])]);
    assert_eq!(snapshots(&a), ["s"]);
    assert_eq!(property(&format!("{a}@s"), "userrefs"), "2");
}

#[test]
fn what_could_not_be_taken_back_is_named() {
    ground!("zfs", "setpriv");
    let (pool, other) = (Pool::with("512M", &[]), Pool::with("512M", &[]));
    let (a, b) = (pool.dataset("a b:c"), other.dataset("b"));
    let user = Somebody::new(&pool);
    zfs(&["allow", USER, "snapshot", &a]);
    let args = ["snapshot", "--not-atomic", &a, &b, "--name", "s 1"];
    let output = user.try_run(&args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains(&format!("'{a}@s 1': taken")), "{said}");
    assert!(said.contains(&format!("cowsnap destroy '{a}@s 1'")), "{said}");
    assert!(said.contains(&format!("hint: {}", allow(&[("snapshot", &b)]))), "{said}");
    assert_eq!((snapshots(&a).as_slice(), snapshots(&b).len()), (&["s 1".to_owned()][..], 0));
    zfs(&["destroy", &format!("{a}@s 1")]);
    zfs(&["allow", USER, "destroy,mount", &a]);
    assert_eq!(user.try_run(&args).status.code(), Some(6));
    assert_eq!(snapshots(&a).len(), 0, "it was taken back");
}
