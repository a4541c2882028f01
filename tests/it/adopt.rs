//! Adopting a plain directory through the program: all of it arrives, and an interruption at any time loses nothing.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::ground::{self, ground};
use crate::pool::{State, text};

mod flags;

/// A state with a pool `tank`, and a directory to adopt.
struct Ground {
    state: State,
    dir: PathBuf,
}

impl Ground {
    fn new() -> Self {
        let state = State::new();
        state.ok(&["pool", "create", "tank", "--size", "1G"]);
        let dir = state.path().join("srv/chain data");
        fs::create_dir_all(&dir).expect("mkdir");
        Self { state, dir }
    }

    fn dir(&self) -> &str {
        self.dir.to_str().expect("utf-8")
    }

    fn old(&self) -> PathBuf {
        self.dir.with_file_name("chain data.cowsnap-old")
    }

    fn adopt(&self) -> String {
        self.state.ok(&["adopt", self.dir(), "--to", "tank/chain"])
    }

    /// What the manifest of the unfinished copy says so far.
    fn manifest(&self) -> String {
        let folder = self.state.mountpoint("tank").join(".cowsnap/adopt");
        let staged = fs::read_dir(folder).into_iter().flatten().flatten().next();
        staged.and_then(|staged| fs::read_to_string(staged.path().join("manifest")).ok()).unwrap_or_default()
    }

    /// Whether the dataset is mounted at the directory.
    fn is_adopted(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).expect("stat").dev();
        device(&self.dir) != device(self.dir.parent().expect("it has one"))
    }

    fn end(self) {
        self.state.end();
    }
}

/// A tree with one of everything.
fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("db/empty")).expect("mkdir");
    fs::write(dir.join("db/CURRENT"), "MANIFEST-000004\n").expect("write");
    fs::write(dir.join(OsStr::from_bytes(b"\xff\n %")), "odd name").expect("write");
    let sparse = File::create(dir.join("sparse")).expect("create");
    sparse.write_all_at(b"begin", 0).expect("write");
    sparse.write_all_at(b"end", 64 << 20).expect("write");
    sparse.set_len(128 << 20).expect("set length");
    fs::write(dir.join("big"), (0..3_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())
        .expect("write");
    fs::hard_link(dir.join("db/CURRENT"), dir.join("also CURRENT")).expect("link");
    symlink("/nowhere/at all", dir.join("link")).expect("symlink");
    std::os::unix::fs::chown(dir.join("big"), Some(1234), Some(4321)).expect("chown");
    fs::set_permissions(dir.join("big"), fs::Permissions::from_mode(0o6751)).expect("chmod");
    ground::run("mkfifo", &[dir.join("fifo")]);
    ground::run("mknod", &[dir.join("null").to_str().expect("utf-8"), "c", "1", "3"]);
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(dir.join("big"), name, value, rustix::fs::XattrFlags::empty()).expect("setxattr")
    };
    set("user.note", b"\x00\x01 value");
    // cap_net_raw+ep, version 2
    set("security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x39\x05\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    rustix::fs::setxattr(dir.join("db"), "system.posix_acl_access", acl, rustix::fs::XattrFlags::empty())
        .expect("an ACL");
    ground::run("touch", &["-d".as_ref(), "2001-02-03 04:05:06.789".as_ref(), dir.join("db").as_os_str()]);
}

/// Each thing below `dir` in one line: all that `stat`, the attributes and the content tell.
fn describe(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(dir.join(&folder)).expect("readdir").flatten() {
            let path = folder.join(entry.file_name());
            let meta = entry.metadata().expect("stat");
            if meta.is_dir() {
                folders.push(path.clone());
            }
            let mut names = vec![0; 4096];
            let n = rustix::fs::llistxattr(entry.path(), &mut names[..]).expect("listxattr");
            let mut values: Vec<_> = names[..n]
                .split(|&b| b == 0)
                .filter(|n| !n.is_empty())
                .map(|name| {
                    let mut value = vec![0; 4096];
                    let n = rustix::fs::lgetxattr(entry.path(), name, &mut value[..]).expect("getxattr");
                    (String::from_utf8_lossy(name).into_owned(), value[..n].to_vec())
                })
                .collect();
            values.sort();
            let content = match meta.is_file() {
                true => blake3::hash(&fs::read(entry.path()).expect("read")).to_hex().to_string(),
                false => format!("{:?}", fs::read_link(entry.path()).ok()),
            };
            let size = if meta.is_dir() { 0 } else { meta.len() };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            lines.push(format!(
                "{path:?} {:o} {}:{} {size} {} {links} {}.{} {values:?} {content}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.rdev(),
                meta.mtime(),
                meta.mtime_nsec(),
            ));
        }
    }
    lines.sort();
    lines
}

#[test]
fn everything_of_a_directory_arrives_and_the_old_copy_stays() {
    ground!("btrfs");
    let ground = Ground::new();
    fill(&ground.dir);
    let before = describe(&ground.dir);
    let said = ground.adopt();
    assert!(said.contains("tank/chain@adopted-"), "{said}");
    assert!(ground.is_adopted());
    assert_eq!(describe(&ground.dir), before);
    assert_eq!(describe(&ground.old()), before);
    let sparse = fs::metadata(ground.dir.join("sparse")).expect("stat");
    assert!(sparse.blocks() * 512 < 1 << 20, "the holes are filled: {} blocks", sparse.blocks());
    let same = |name: &str| fs::metadata(ground.dir.join(name)).expect("stat").ino();
    assert_eq!(same("db/CURRENT"), same("also CURRENT"));
    ground.end();
}

#[test]
fn what_was_adopted_is_mounted_again_after_a_reboot() {
    ground!("btrfs");
    let ground = Ground::new();
    fs::write(ground.dir.join("file"), "content").expect("write");
    ground.adopt();
    ground::run("umount", &[&ground.dir]);
    ground::run("umount", &[ground.state.mountpoint("tank")]);
    assert_eq!(ground.state.leftovers(), Vec::<String>::new());
    // A service that starts too early finds nothing, and can not begin anew there.
    assert_eq!(fs::read_dir(&ground.dir).expect("readdir").count(), 0);
    assert!(ground.state.fails(3, &["doctor"]).contains("problem"));
    ground.state.ok(&["pool", "mount", "--all"]);
    assert_eq!(fs::read(ground.dir.join("file")).expect("it is back"), b"content");
    ground.state.ok(&["doctor"]);
    ground.end();
}

#[test]
fn undoing_puts_the_old_copy_back_and_keeps_the_dataset() {
    ground!("btrfs");
    let ground = Ground::new();
    fill(&ground.dir);
    let before = describe(&ground.dir);
    ground.adopt();
    fs::write(ground.dir.join("new"), "written since").expect("write");
    ground.state.ok(&["adopt", ground.dir(), "--undo"]);
    assert!(!ground.is_adopted() && !ground.old().exists());
    assert_eq!(describe(&ground.dir), before);
    let kept = ground.state.mountpoint("tank").join("chain/new");
    assert_eq!(fs::read(kept).expect("the dataset has it"), b"written since");
    ground.state.fails(2, &["adopt", ground.dir(), "--undo"]);
    ground.state.ok(&["doctor"]);
    ground.end();
}

#[test]
fn destroying_what_stands_in_a_directorys_place_is_refused_with_what_ends_the_adoption() {
    ground!("btrfs");
    let ground = Ground::new();
    fs::write(ground.dir.join("file"), "content").expect("write");
    ground.adopt();
    let destroy = ["destroy", "--snapshots", "tank/chain"];
    let words = ground.state.fails(3, &destroy);
    assert!(words.contains(&format!("hint: cowsnap adopt --undo '{}'\n", ground.dir())), "{words}");
    ground.state.fails(3, &[&destroy[..], &["--dry-run"]].concat());
    ground.state.ok(&["adopt", ground.dir(), "--discard-old"]);
    let words = ground.state.fails(3, &destroy);
    assert!(words.contains(&format!("hint: umount '{}'; once", ground.dir())), "{words}");
    ground::run("umount", &[&ground.dir]);
    ground.state.ok(&destroy);
    ground.state.ok(&["adopt", ground.dir(), "--undo"]);
    ground.state.ok(&["doctor"]);
    ground.end();
}

#[test]
fn the_old_copy_goes_only_after_the_first_snapshot_was_compared() {
    ground!("btrfs");
    let ground = Ground::new();
    fill(&ground.dir);
    let before = describe(&ground.dir);
    ground.adopt();
    let said = ground.state.ok(&["adopt", ground.dir(), "--discard-old"]);
    assert!(said.contains("4 files"), "{said}");
    assert!(!ground.old().exists());
    assert_eq!(describe(&ground.dir), before);
    assert!(ground.state.fails(3, &["adopt", ground.dir(), "--undo"]).contains("discarded"));
    assert!(ground.state.fails(3, &["adopt", ground.dir(), "--discard-old"]).contains("no old copy"));
    ground.state.ok(&["doctor"]);
    ground.end();
}

#[test]
fn a_first_snapshot_that_is_not_what_was_copied_keeps_the_old_copy() {
    ground!("btrfs");
    let ground = Ground::new();
    fs::write(ground.dir.join("file"), "content").expect("write");
    ground.adopt();
    let snapshots = ground.state.mountpoint("tank").join(".cowsnap/datasets/chain/snap");
    let snapshot = fs::read_dir(snapshots).expect("readdir").flatten().next().expect("the first").path();
    let property = |value: &str| {
        let path = snapshot.to_str().expect("utf-8");
        ground::run("btrfs", &["property", "set", "-f", path, "ro", value]);
    };
    property("false");
    fs::write(snapshot.join("file"), "CONTENT").expect("damage it");
    property("true");
    let words = ground.state.fails(4, &["adopt", ground.dir(), "--discard-old"]);
    assert!(words.contains("file"), "{words}");
    assert!(ground.old().join("file").exists());
    ground.end();
}

#[test]
fn a_directory_that_is_written_to_is_refused_and_the_writer_is_named() {
    ground!("btrfs");
    let ground = Ground::new();
    fs::write(ground.dir.join("log"), "").expect("write");
    let log = fs::OpenOptions::new().append(true).open(ground.dir.join("log")).expect("open");
    let mut writer = Command::new("sleep").arg("60").stdout(log).spawn().expect("sleep");
    let words = ground.state.fails(3, &["adopt", ground.dir(), "--to", "tank/chain"]);
    assert!(words.contains(&format!("sleep ({})", writer.id())), "{words}");
    assert!(words.contains("log"), "{words}");
    ground.state.fails(3, &["adopt", ground.dir(), "--to", "tank/chain", "--dry-run"]);
    writer.kill().and_then(|()| writer.wait()).expect("it was ours");
    ground.adopt();
    ground.end();
}

#[test]
fn what_can_not_be_adopted_is_refused_and_nothing_is_changed() {
    ground!("btrfs");
    let ground = Ground::new();
    let inner = ground.dir.join("inner");
    fs::create_dir(&inner).expect("mkdir");
    let adopt = |code: i32, dir: &Path, to: &str| {
        ground.state.fails(code, &["adopt", dir.to_str().expect("utf-8"), "--to", to])
    };
    ground::run("mount", &["-t", "tmpfs", "tmpfs", inner.to_str().expect("utf-8")]);
    assert!(adopt(3, &ground.dir, "tank/chain").contains("inner is mounted in it"));
    assert!(adopt(3, &inner, "tank/chain").contains("mount point"));
    ground::run("umount", &[&inner]);
    assert!(adopt(2, Path::new("/nowhere"), "tank/chain").contains("does not exist"));
    assert!(adopt(2, &ground.dir, "other/chain").contains("pool other"));
    assert!(adopt(3, &ground.dir, "tank").contains("a pool itself"));
    assert!(adopt(2, &ground.dir, "tank/a/b").contains("cowsnap create 'tank/a'"));
    assert!(adopt(3, ground.state.path(), "tank/chain").contains("mounted in it"));
    let odd = ground.dir.with_file_name("it's odd");
    fs::create_dir(&odd).expect("mkdir");
    let words = ground.state.fails(2, &["adopt", odd.to_str().expect("utf-8"), "--undo"]);
    assert!(words.contains(r"/it'\''s odd' --to"), "can be pasted: {words}");
    fs::create_dir_all(ground.old().join("x")).expect("mkdir");
    assert!(adopt(3, &ground.dir, "tank/chain").contains("in the way"));
    fs::remove_dir_all(ground.old()).expect("rm");
    ground.state.ok(&["adopt", ground.dir(), "--to", "tank/chain", "--dry-run"]);
    assert!(!ground.is_adopted());
    assert_eq!(fs::read_dir(ground.state.mountpoint("tank")).expect("readdir").count(), 0);
    ground.state.ok(&["doctor"]);
    ground.end();
}

#[test]
fn a_link_on_the_way_to_the_dataset_is_not_followed() {
    ground!("btrfs");
    let ground = Ground::new();
    fs::write(ground.dir.join("file"), "content").expect("write");
    let pool = ground.state.mountpoint("tank");
    ground.state.ok(&["create", "tank/hers"]);
    symlink("hers", pool.join("link")).expect("symlink");
    symlink("hers/x", pool.join("dangling")).expect("symlink");
    for (code, to) in [(2, "tank/link/x"), (3, "tank/dangling"), (3, "tank/link")] {
        for more in [&[][..], &["--dry-run"]] {
            ground.state.fails(code, &[&["adopt", ground.dir(), "--to", to], more].concat());
        }
    }
    assert_eq!(fs::read_dir(pool.join("hers")).expect("readdir").count(), 0);
    ground.state.ok(&["doctor"]);
    ground.end();
}

#[test]
fn too_little_space_is_said_before_anything_is_copied() {
    ground!("btrfs");
    let ground = Ground::new();
    let file = File::create(ground.dir.join("file")).expect("create");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 2 << 30).expect("fallocate");
    drop(file);
    assert!(
        ground.state.fails(3, &["adopt", ground.dir(), "--to", "tank/chain"]).contains("pool grow 'tank'")
    );
    ground.state.ok(&["doctor"]);
    ground.end();
}

#[test]
fn a_plain_directory_that_can_not_be_cloned_gets_the_adopt_hint() {
    ground!("btrfs");
    let ground = Ground::new();
    // In memory, where no filesystem shares blocks between files.
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let dir = memory.path().join("chain data");
    fs::create_dir(&dir).expect("mkdir");
    fs::write(dir.join("a"), "one").expect("write");
    let words = ground.state.fails(3, &["snapshot", dir.to_str().expect("utf-8")]);
    assert!(words.contains(&format!("cowsnap adopt '{}' --to POOL/NAME", dir.display())), "{words}");
    ground.end();
}

#[test]
fn ctrl_c_stops_with_exit_5_and_the_same_command_goes_on() {
    ground!("btrfs");
    let ground = Ground::new();
    fs::write(ground.dir.join("a"), "small").expect("write");
    fs::write(ground.dir.join("b"), vec![7; 100 << 20]).expect("write");
    let mut command = ground::cowsnap(ground.state.path());
    command.args(["adopt", ground.dir(), "--to", "tank/chain"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("cowsnap runs");
    while !ground.manifest().contains(" a\n") && child.try_wait().expect("wait").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is ours");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(!ground.is_adopted() && !ground.old().exists());
    ground.adopt();
    assert_eq!(fs::read(ground.dir.join("b")).expect("read").len(), 100 << 20);
    ground.end();
}

#[test]
fn the_page_on_adopting_shows_what_happens() {
    ground!("btrfs");
    crate::docs::run_page("docs/adopt.md");
}

/// Files enough that a kill hits every part of the copy.
fn fill_many(dir: &Path) {
    for n in 0..300 {
        let folder = dir.join(format!("{}", n % 7));
        fs::create_dir_all(&folder).expect("mkdir");
        fs::write(folder.join(format!("file {n}")), vec![n as u8; 10_000 * (n % 13)]).expect("write");
    }
}

fn kill_adopt_after(ground: &Ground, to: &str, delay: Duration) {
    let mut command = ground::cowsnap(ground.state.path());
    command.args(["--quiet", "adopt", ground.dir(), "--to", to]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cowsnap runs");
    std::thread::sleep(delay);
    child.kill().and_then(|()| child.wait()).expect("it was ours");
}

/// The time that an undisturbed adoption takes here.
fn time_of_adopting() -> Duration {
    let ground = Ground::new();
    fill_many(&ground.dir);
    let since = std::time::Instant::now();
    ground.adopt();
    let took = since.elapsed();
    ground.end();
    took
}

#[test]
fn kill_9_at_any_time_and_the_same_command_again_completes() {
    ground!("btrfs");
    let took = time_of_adopting();
    let ground = Ground::new();
    fill_many(&ground.dir);
    let before = describe(&ground.dir);
    let mut n_adopted = 0;
    for n in 0..16 {
        kill_adopt_after(&ground, &format!("tank/chain {n_adopted}"), took * n / 14);
        assert_eq!(describe(&ground.dir), before, "round {n}: the directory always has its data");
        if ground.is_adopted() {
            ground.state.run(&["doctor", "--fix"]);
            ground.state.ok(&["adopt", ground.dir(), "--undo"]);
            n_adopted += 1;
        }
    }
    let output = ground.state.run(&["adopt", ground.dir(), "--to", &format!("tank/chain {n_adopted}")]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(ground.is_adopted());
    assert_eq!(describe(&ground.dir), before);
    ground.state.ok(&["doctor"]);
    ground.end();
}

#[test]
fn kill_9_at_any_time_and_doctor_clears_away_what_is_left() {
    ground!("btrfs");
    let took = time_of_adopting();
    for n in 0..12 {
        let ground = Ground::new();
        fill_many(&ground.dir);
        let before = describe(&ground.dir);
        kill_adopt_after(&ground, "tank/chain", took * n / 10);
        ground.state.ok(&["doctor", "--fix"]);
        ground.state.ok(&["doctor"]);
        assert_eq!(describe(&ground.dir), before, "round {n}");
        if !ground.is_adopted() {
            let staged = ground.state.mountpoint("tank").join(".cowsnap/adopt");
            assert_eq!(fs::read_dir(staged).map_or(0, Iterator::count), 0, "round {n}");
            assert!(!ground.old().exists(), "round {n}");
            ground.adopt();
        }
        ground.end();
    }
}

/// Makes the record say that the adoption was being completed, as if it had been killed then.
fn say_committing(ground: &Ground) {
    let folder = ground.state.path().join("adopted");
    let record = fs::read_dir(folder).expect("readdir").flatten().next().expect("a record").path();
    let text = fs::read_to_string(&record).expect("read").replace("\"done\"", "\"committing\"");
    fs::write(record, text).expect("write");
}

#[test]
fn a_commit_that_had_moved_the_directory_aside_is_completed() {
    ground!("btrfs");
    for fix in [&["doctor", "--fix"][..], &["pool", "mount", "--all"]] {
        let ground = Ground::new();
        fill(&ground.dir);
        let before = describe(&ground.dir);
        ground.adopt();
        ground::run("umount", &[&ground.dir]);
        say_committing(&ground);
        assert!(ground.state.fails(3, &["doctor"]).contains("1 problem"));
        ground.state.ok(fix);
        assert!(ground.is_adopted());
        assert_eq!(describe(&ground.dir), before);
        ground.state.ok(&["doctor"]);
        ground.end();
    }
}

#[test]
fn a_commit_that_had_not_moved_the_directory_aside_is_taken_back() {
    ground!("btrfs");
    let ground = Ground::new();
    fill(&ground.dir);
    let before = describe(&ground.dir);
    ground.adopt();
    ground::run("umount", &[&ground.dir]);
    say_committing(&ground);
    let _ = Command::new("chattr").args(["-i", "--"]).arg(&ground.dir).output();
    fs::remove_dir(&ground.dir).expect("it is empty");
    fs::rename(ground.old(), &ground.dir).expect("rename");
    ground.state.ok(&["doctor", "--fix"]);
    assert!(!ground.is_adopted());
    assert!(!ground.state.mountpoint("tank").join("chain").exists());
    assert_eq!(describe(&ground.dir), before);
    ground.state.ok(&["doctor"]);
    ground.adopt();
    assert_eq!(describe(&ground.dir), before);
    ground.end();
}

#[test]
fn what_was_copied_is_not_copied_again() {
    ground!("btrfs");
    let ground = Ground::new();
    fill(&ground.dir);
    // Refused at the end, when all is copied: the directory's place is taken at the last moment by a changed file.
    let mut child = ground::cowsnap(ground.state.path())
        .args(["--quiet", "adopt", ground.dir(), "--to", "tank/chain"])
        .stderr(Stdio::null())
        .spawn()
        .expect("cowsnap runs");
    while !ground.manifest().contains(" big\n") && child.try_wait().expect("wait").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().and_then(|()| child.wait()).expect("it was ours");
    if ground.is_adopted() {
        return ground.end();
    }
    let copied = ground.state.json(&["adopt", ground.dir(), "--to", "tank/chain", "--dry-run"]);
    assert!(copied["adopted"]["copied_bytes"].as_u64() >= Some(12_000_000), "{copied}");
    let staged = || {
        let folder = ground.state.mountpoint("tank").join(".cowsnap/adopt");
        let folder = fs::read_dir(folder).expect("readdir").flatten().next().expect("staged").path();
        fs::metadata(folder.join("data/big")).expect("copied").ino()
    };
    let inode = staged();
    ground.adopt();
    assert_eq!(fs::metadata(ground.dir.join("big")).expect("stat").ino(), inode, "the same file is used");
    ground.end();
}

#[test]
fn an_adopted_dataset_that_is_renamed_comes_back_at_its_directory() {
    ground!("btrfs", "loop");
    let ground = Ground::new();
    fs::write(ground.dir.join("height"), "100").expect("write");
    ground.adopt();
    ground.state.ok(&["rename", "tank/chain", "tank/node"]);
    ground.state.ok(&["pool", "unmount", "tank"]);
    ground.state.ok(&["pool", "mount", "tank"]);
    assert_eq!(fs::read_to_string(ground.dir.join("height")).expect("read"), "100");
    let odd = ground.state.mountpoint("tank").join("it's");
    let output = ground.state.run(&["rename", "tank/node", odd.to_str().expect("utf-8")]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    ground.end();
}

#[test]
fn a_list_that_lacks_a_pool_is_no_success() {
    ground!("btrfs", "loop");
    let ground = Ground::new();
    let record = ground.state.path().join("pools/other.json");
    fs::write(&record, "{").expect("write");
    for verb in ["list", "holds"] {
        let output = ground.state.run(&[verb]);
        assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    }
    ground.state.ok(&["create", "tank/a"]);
    let output = ground.state.run(&["list", "--json"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("tank/a"));
    fs::remove_file(record).expect("remove");
    ground.end();
}

#[test]
fn a_link_in_the_datasets_place_is_not_mounted_at_the_directory() {
    ground!("btrfs", "loop");
    let ground = Ground::new();
    fs::write(ground.dir.join("height"), "100").expect("write");
    ground.adopt();
    let (place, aside) =
        (ground.state.mountpoint("tank").join("chain"), ground.state.mountpoint("tank").join("aside"));
    fs::rename(&place, &aside).expect("rename");
    symlink("/etc", &place).expect("symlink");
    let unmounted = ground.state.run(&["pool", "unmount", "tank"]);
    assert!(unmounted.status.success(), "{}", text(&unmounted));
    assert!(!ground.state.run(&["pool", "mount", "tank"]).status.success());
    assert!(!ground.is_adopted());
    fs::remove_file(&place).expect("remove");
    fs::rename(&aside, &place).expect("rename");
    ground.state.ok(&["pool", "mount", "tank"]);
    assert_eq!(fs::read_to_string(ground.dir.join("height")).expect("read"), "100");
    ground.end();
}

#[test]
fn an_adoption_whose_dataset_was_destroyed_can_be_forgotten() {
    ground!("btrfs", "loop");
    let ground = Ground::new();
    fs::write(ground.dir.join("height"), "100").expect("write");
    ground.adopt();
    ground.state.ok(&["adopt", ground.dir(), "--discard-old"]);
    ground.state.fails(3, &["adopt", "--undo", ground.dir()]);
    ground::run("umount", &[ground.dir()]);
    ground.state.ok(&["destroy", "--snapshots", "tank/chain"]);
    assert!(ground.state.fails(2, &["pool", "mount", "tank"]).contains("adopt --undo"));
    ground.state.ok(&["adopt", "--undo", ground.dir()]);
    ground.state.ok(&["pool", "mount", "tank"]);
    fs::write(ground.dir.join("new"), "life").expect("write");
    ground.end();
}
