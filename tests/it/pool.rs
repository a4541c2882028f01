//! Embedded pools through the program: made, mounted, grown, destroyed, and interrupted at every step.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use cowsnap::endpoint::Error;
use cowsnap::exec::Silent;
use cowsnap::pool::{self, Registry, Step};

use crate::ground::{self, ground};

/// A state directory of the test's own. Whatever the test leaves mounted or attached fails it.
pub struct State {
    folder: tempfile::TempDir,
}

impl State {
    pub fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("cowsnap pool ").tempdir().expect("a directory") }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the program.
    pub fn run(&self, args: &[&str]) -> Output {
        ground::cowsnap(self.path()).args(args).output().expect("cowsnap runs")
    }

    /// Runs the program and panics unless it does what it is asked.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).expect("utf-8")
    }

    /// Runs the program, panics unless it ends with that exit code, and answers what it said on standard error.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        String::from_utf8(output.stderr).expect("utf-8")
    }

    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[&["--json"], args].concat())).expect("JSON")
    }

    pub fn mountpoint(&self, name: &str) -> PathBuf {
        self.path().join("mnt").join(name)
    }

    /// What of this state directory is mounted or attached now.
    pub fn leftovers(&self) -> Vec<String> {
        let escaped = self.path().to_str().expect("utf-8").replace(' ', "\\040");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mut found: Vec<_> = mounts.lines().filter(|l| l.contains(&escaped)).map(str::to_owned).collect();
        for entry in fs::read_dir("/sys/block").expect("/sys/block").flatten() {
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if file.starts_with(self.path().to_str().expect("utf-8")) {
                found.push(format!("{}: {file}", entry.path().display()));
            }
        }
        found
    }

    /// Unmounts what is registered, and asserts that nothing is left.
    pub fn end(self) {
        self.ok(&["pool", "unmount", "--all"]);
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }
}

impl Drop for State {
    /// A test that failed leaves nothing either.
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = |line: &&str| line.contains(&self.path().to_string_lossy().replace(' ', "\\040"));
        for line in mounts.lines().filter(ours).collect::<Vec<_>>().into_iter().rev() {
            let at = line.split(' ').nth(1).unwrap_or_default().replace("\\040", " ");
            let _ = Command::new("umount").args(["-l", &at]).output();
        }
        let _ = Command::new("chattr").args(["-R", "-i", "--"]).arg(self.path()).output();
    }
}

pub fn text(output: &Output) -> String {
    let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, lossy(&output.stdout), lossy(&output.stderr))
}

#[test]
fn a_pool_is_made_listed_grown_and_destroyed() {
    ground!("btrfs");
    let state = State::new();
    state.ok(&["pool", "create", "tank", "--size", "512M"]);
    fs::write(state.mountpoint("tank").join("file"), "content").expect("the pool is writable");
    let pool = &state.json(&["pool", "list"])["pools"][0];
    assert_eq!((pool["name"].as_str(), pool["mounted"].as_bool()), (Some("tank"), Some(true)));
    assert_eq!(pool["size"], 512 << 20);
    assert!(pool["image_bytes"].as_u64() < Some(64 << 20), "the image is not sparse: {pool}");
    state.ok(&["pool", "grow", "tank", "1G"]);
    assert_eq!(state.json(&["pool", "list"])["pools"][0]["size"], 1 << 30);
    assert!(state.fails(3, &["pool", "grow", "tank", "512M"]).contains("do not shrink"));
    assert!(state.fails(3, &["pool", "destroy", "tank"]).contains("pool destroy 'tank' --yes"));
    state.ok(&["pool", "destroy", "tank", "--dry-run"]);
    assert!(state.mountpoint("tank").join("file").exists());
    state.ok(&["pool", "destroy", "tank", "--yes"]);
    assert_eq!(state.json(&["pool", "list"])["pools"].as_array().map(Vec::len), Some(0));
    assert!(!state.path().join("images/tank.img").exists());
    state.end();
}

#[test]
fn a_pool_returns_after_a_reboot_and_mounting_twice_is_mounting_once() {
    ground!("btrfs");
    let state = State::new();
    state.ok(&["pool", "create", "tank", "--size", "512M"]);
    fs::write(state.mountpoint("tank").join("file"), "content").expect("writable");
    // What a reboot does: nothing mounted, nothing attached.
    ground::run("umount", &[state.mountpoint("tank")]);
    assert_eq!(state.leftovers(), Vec::<String>::new(), "the loop device goes with the mount");
    state.ok(&["pool", "mount", "--all"]);
    assert_eq!(fs::read(state.mountpoint("tank").join("file")).expect("the file is back"), b"content");
    state.ok(&["pool", "mount", "tank"]);
    assert_eq!(state.leftovers().len(), 2, "one mount and one loop device: {:?}", state.leftovers());
    state.end();
}

#[test]
fn an_image_that_is_attached_already_is_not_attached_twice() {
    ground!("btrfs");
    let state = State::new();
    state.ok(&["pool", "create", "tank", "--size", "512M"]);
    state.ok(&["pool", "unmount", "tank"]);
    let image = state.path().join("images/tank.img");
    ground::run("losetup", &["-f".as_ref(), image.as_os_str()]);
    state.ok(&["pool", "mount", "tank"]);
    assert_eq!(state.leftovers().len(), 2, "{:?}", state.leftovers());
    state.end();
}

#[test]
fn wrong_names_sizes_and_places_are_refused_and_leave_nothing() {
    ground!("btrfs");
    let state = State::new();
    state.fails(2, &["pool", "create", "a@b"]);
    assert!(state.fails(3, &["pool", "create", "a/b"]).contains("cowsnap pool create 'a'"));
    assert!(state.fails(3, &["pool", "create", "tank", "--size", "1M"]).contains("at least 256.0 MiB"));
    state.fails(2, &["pool", "create", "tank", "--size", "much"]);
    assert!(state.fails(2, &["pool", "create", "tank", "--dir", "/nowhere/at all"]).contains("mkdir -p"));
    assert!(state.fails(2, &["pool", "mount", "tank"]).contains("cowsnap pool create 'tank'"));
    assert!(!state.path().join("pools").exists());
    state.ok(&["pool", "create", "tank", "--size", "256M"]);
    assert!(state.fails(3, &["pool", "create", "tank"]).contains("pool tank exists already"));
    state.end();
}

#[test]
fn a_file_that_has_the_images_name_is_never_touched() {
    ground!("btrfs");
    let state = State::new();
    fs::write(state.path().join("tank.img"), "precious").expect("write");
    let dir = state.path().to_str().expect("utf-8").to_owned();
    assert!(state.fails(3, &["pool", "create", "tank", "--dir", &dir]).contains("exists already"));
    state.ok(&["doctor", "--fix"]);
    assert_eq!(fs::read(state.path().join("tank.img")).expect("still there"), b"precious");
    state.end();
}

#[test]
fn a_dry_run_makes_nothing() {
    ground!("btrfs");
    let state = State::new();
    let plan = state.json(&["pool", "create", "tank", "--size", "512M", "--dry-run"]);
    assert_eq!(plan["pool"], "tank");
    assert_eq!(fs::read_dir(state.path()).expect("the state directory").count(), 0);
    state.end();
}

#[test]
fn who_uses_a_pool_is_named_when_it_can_not_be_unmounted() {
    ground!("btrfs");
    let state = State::new();
    state.ok(&["pool", "create", "tank", "--size", "256M"]);
    let mut sleeper =
        Command::new("sleep").arg("60").current_dir(state.mountpoint("tank")).spawn().expect("sleep");
    for command in [&["pool", "unmount", "tank"][..], &["pool", "destroy", "tank", "--yes"]] {
        let words = state.fails(3, command);
        assert!(words.contains(&format!("sleep ({})", sleeper.id())), "{words}");
    }
    sleeper.kill().and_then(|()| sleeper.wait()).expect("it was ours");
    state.ok(&["pool", "destroy", "tank", "--yes"]);
    state.end();
}

#[test]
fn of_several_makers_of_one_name_one_wins() {
    ground!("btrfs");
    let state = State::new();
    let make = || {
        let mut command = ground::cowsnap(state.path());
        command.args(["--quiet", "pool", "create", "tank", "--size", "256M"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().expect("cowsnap runs")
    };
    let makers: Vec<_> = (0..6).map(|_| make()).collect();
    let codes: Vec<_> = makers.into_iter().map(|mut m| m.wait().expect("it ends").code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(3)).count(), 5, "{codes:?}");
    assert_eq!(state.leftovers().len(), 2, "{:?}", state.leftovers());
    state.end();
}

#[test]
fn without_privilege_it_is_exit_6_with_what_to_grant() {
    ground!("btrfs", "setpriv");
    let state = State::new();
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let output = Command::new("setpriv")
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", program, "--state-dir"])
        .arg(state.path())
        .args(["pool", "create", "tank"])
        .output()
        .expect("setpriv runs");
    assert_eq!(output.status.code(), Some(6), "{}", text(&output));
    assert!(text(&output).contains("--cap-add SYS_ADMIN --device /dev/loop-control"), "{}", text(&output));
    state.end();
}

fn new_pool() -> pool::New {
    pool::New { name: "tank".parse().expect("a name"), size: 256 << 20, folder: None }
}

#[test]
fn a_pool_whose_making_fails_at_any_step_leaves_nothing() {
    ground!("btrfs");
    for failing in Step::ALL {
        let state = State::new();
        let registry = Registry::open(state.path()).expect("opens");
        let mut fail = |step| match step == failing {
            true => Err(Error::Interrupted { op: "make pool", subject: "tank".into() }),
            false => Ok(()),
        };
        pool::create(&registry, &new_pool(), &Silent, &mut fail).expect_err("the step fails");
        assert_eq!(state.leftovers(), Vec::<String>::new(), "{failing:?}");
        for folder in ["images", "pools", "mnt"] {
            let entries = fs::read_dir(state.path().join(folder)).map_or(0, Iterator::count);
            assert_eq!(entries, 0, "{failing:?}: something is left in {folder}");
        }
        state.ok(&["pool", "create", "tank", "--size", "256M"]);
        state.end();
    }
}

/// The child of the next test: makes a pool and dies before the step that the environment names.
#[test]
#[ignore = "is started by a_pool_whose_maker_is_killed"]
fn child_that_dies_while_it_makes_a_pool() {
    let Ok(dies) = std::env::var("COWSNAP_TEST_DIES_BEFORE") else { return };
    let registry =
        Registry::open(Path::new(&std::env::var("COWSNAP_STATE_DIR").expect("set"))).expect("opens");
    let mut die = |step| {
        if format!("{step:?}") == dies {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("kills itself");
            std::thread::sleep(Duration::from_secs(60));
        }
        Ok(())
    };
    pool::create(&registry, &new_pool(), &Silent, &mut die).expect("makes it");
}

fn kill_maker_before(state: &State, step: Step) {
    let status = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--ignored", "--exact", "pool::child_that_dies_while_it_makes_a_pool"])
        .env("COWSNAP_TEST_DIES_BEFORE", format!("{step:?}"))
        .env("COWSNAP_STATE_DIR", state.path())
        .output()
        .expect("this binary runs")
        .status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{step:?}: {status}");
}

#[test]
fn a_pool_whose_maker_is_killed_is_named_and_removed_by_doctor() {
    ground!("btrfs");
    for step in Step::ALL {
        let state = State::new();
        kill_maker_before(&state, step);
        if step != Step::Announce {
            assert!(state.ok_or_findings(&["doctor"]).contains("unfinished pool"), "{step:?}");
        }
        state.ok(&["doctor", "--fix"]);
        assert_eq!(state.leftovers(), Vec::<String>::new(), "{step:?}");
        assert_eq!(fs::read_dir(state.path().join("images")).map_or(0, Iterator::count), 0, "{step:?}");
        state.ok(&["doctor"]);
        state.ok(&["pool", "create", "tank", "--size", "256M"]);
        state.end();
    }
}

#[test]
fn a_pool_whose_maker_was_killed_can_be_made_again_at_once() {
    ground!("btrfs");
    for step in Step::ALL {
        let state = State::new();
        kill_maker_before(&state, step);
        state.ok(&["pool", "create", "tank", "--size", "256M"]);
        state.ok(&["doctor"]);
        state.end();
    }
}

#[test]
fn kill_9_at_any_time_leaves_nothing_that_doctor_does_not_fix() {
    ground!("btrfs");
    for delay in (0..24).map(|n| Duration::from_millis(2 * n)) {
        let state = State::new();
        let mut maker = ground::cowsnap(state.path())
            .args(["--quiet", "pool", "create", "tank", "--size", "256M"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("cowsnap runs");
        std::thread::sleep(delay);
        maker.kill().and_then(|()| maker.wait()).expect("it was ours");
        state.ok(&["doctor", "--fix"]);
        if state.json(&["pool", "list"])["pools"].as_array().is_some_and(Vec::is_empty) {
            assert_eq!(state.leftovers(), Vec::<String>::new(), "{delay:?}");
            state.ok(&["pool", "create", "tank", "--size", "256M"]);
        }
        assert_eq!(state.leftovers().len(), 2, "{delay:?}: {:?}", state.leftovers());
        state.end();
    }
}

#[test]
fn what_dead_processes_left_in_a_store_is_named_and_cleared_away() {
    ground!("btrfs");
    let state = State::new();
    state.ok(&["pool", "create", "tank", "--size", "256M"]);
    let store = state.mountpoint("tank").join(".cowsnap");
    let staged = store.join("staging/4000000-0123456789abcdef");
    let home = store.join("datasets/chain");
    for folder in [&staged, &home.join("snap"), &home.join("meta")] {
        fs::create_dir_all(folder).expect("mkdir");
    }
    ground::run("btrfs", &["subvolume", "create", staged.join("half").to_str().expect("utf-8")]);
    let said = state.ok_or_findings(&["doctor"]);
    assert!(said.contains("staging of an operation that died"), "{said}");
    state.ok(&["doctor", "--fix"]);
    assert!(!staged.exists());
    fs::write(home.join("meta/gone.json"), "{}").expect("write");
    // It is said, once by whatever names the filesystem is called, and is no problem.
    let at = state.mountpoint("tank");
    let said = state.ok(&["doctor", at.to_str().expect("utf-8"), store.to_str().expect("utf-8")]);
    assert!(said.contains("note: notes on the snapshot gone, which does not exist"), "{said}");
    assert_eq!(said.matches("snapshot gone").count(), 1, "{said}");
    state.ok(&["doctor", "--fix"]);
    assert!(!home.join("meta/gone.json").exists());
    state.ok(&["doctor"]);
    // What somebody holds is not to be gone.
    let held = r#"{"guid":"00000000000000000000000000000001","holds":{"audit":"2026-01-01T00:00:00Z"}}"#;
    fs::write(home.join("meta/gone.json"), held).expect("write");
    let said = state.ok_or_findings(&["doctor"]);
    assert!(said.contains("problem: the snapshot gone is held by audit, and is gone"), "{said}");
    state.ok(&["doctor", "--fix"]);
    state.ok(&["doctor"]);
    state.end();
}

#[test]
fn a_staging_directory_in_use_is_no_finding() {
    ground!("btrfs");
    let state = State::new();
    state.ok(&["pool", "create", "tank", "--size", "256M"]);
    let staged = state.mountpoint("tank").join(".cowsnap/staging/1-0123456789abcdef");
    fs::create_dir_all(&staged).expect("mkdir");
    let folder = fs::File::open(&staged).expect("open");
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    state.ok(&["doctor", "--fix"]);
    assert!(staged.exists());
    drop(folder);
    state.end();
}

#[test]
fn an_interrupted_growth_is_finished_by_doctor() {
    ground!("btrfs");
    let state = State::new();
    state.ok(&["pool", "create", "tank", "--size", "256M"]);
    // What `grow` does first; a kill then leaves it there.
    let image = fs::OpenOptions::new().write(true).open(state.path().join("images/tank.img")).expect("open");
    image.set_len(512 << 20).expect("truncate");
    assert!(state.ok_or_findings(&["doctor"]).contains("pool grow 'tank' 536870912"));
    state.ok(&["doctor", "--fix"]);
    assert_eq!(state.json(&["pool", "list"])["pools"][0]["size"], 512 << 20);
    state.end();
}

#[test]
fn the_page_on_pools_shows_what_happens() {
    ground!("btrfs");
    crate::docs::run_page("docs/pools.md");
}

impl State {
    /// What `doctor` says, findings or not.
    fn ok_or_findings(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", text(&output));
        String::from_utf8(output.stdout).expect("utf-8")
    }
}

#[test]
fn a_pool_that_another_state_directory_has_mounted_is_not_destroyed() {
    ground!("btrfs", "loop");
    let state = State::new();
    state.ok(&["pool", "create", "tank", "--size", "256M"]);
    state.ok(&["create", "tank/a"]);
    let other = State::new();
    std::fs::create_dir_all(other.path().join("pools")).expect("mkdir");
    let record = |state: &State| state.path().join("pools/tank.json");
    std::fs::copy(record(&state), record(&other)).expect("copy");
    let said = other.fails(3, &["pool", "destroy", "tank", "--yes"]);
    assert!(said.contains(state.mountpoint("tank").to_str().expect("utf-8")), "{said}");
    state.ok(&["pool", "unmount", "tank"]);
    state.ok(&["pool", "mount", "tank"]);
    assert!(state.mountpoint("tank").join("a").is_dir());
    std::fs::remove_file(record(&other)).expect("remove");
    other.end();
    state.end();
}
