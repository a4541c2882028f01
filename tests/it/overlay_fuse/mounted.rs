//! The filesystem as a kernel shows it: beside a plain directory, beside kernel overlayfs, with programs on it.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cowsnap::endpoint::overlay::fuse::adapter::{Mount, Mounted, mount};
use cowsnap::endpoint::overlay::fuse::{Layers, Lower, Options, Tree};
use cowsnap::sys::mount::Restrict;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::ground::ground;
use crate::overlay::lab::{Lab, Process};

use super::core::{Ground, blocks_only};
use super::ops::{Dice, Op, apply, dump};

fn show(ground: &Ground, layers: &Layers, options: Options, passthrough: bool) -> Mounted {
    show_at(&ground.path("mnt"), layers, options, passthrough)
}

fn show_at(dir: &Path, layers: &Layers, options: Options, passthrough: bool) -> Mounted {
    let tree = Arc::new(Tree::open(layers, options).expect("open"));
    let how = Mount {
        source: "cowsnap:test".into(),
        others: rustix::process::geteuid().is_root(),
        passthrough,
        threads: if passthrough { 1 } else { 2 },
        restrict: Restrict::default(),
    };
    mount(tree, dir, &how).expect("mount")
}

const SERVES: &str = "COWSNAP_TEST_SERVES";

/// A filesystem without passthrough, served by a process of its own, as it must be where its files are mapped: who serves what he
/// has mapped himself waits for himself. It is unmounted when this is dropped.
pub struct Apart(Child);

impl Apart {
    pub fn new(ground: &Ground, options: Options) -> Self {
        let (what, at) = ((ground.path("mnt"), ground.layers(), options), ground.path("mnt"));
        let device = || std::fs::metadata(&at).map(|of| of.dev());
        let before = device().expect("examined");
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--ignored", "--exact", "overlay_fuse::mounted::serves"])
            .env(SERVES, serde_json::to_string(&what).expect("as text"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let apart = Self(child.expect("this binary runs"));
        for _ in 0..6000 {
            if device().is_ok_and(|of| of != before) {
                return apart;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("it is not mounted");
    }

    pub fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("it ends").success(), "it was not unmounted");
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "is started by a test that it serves"]
fn serves() {
    let Ok(what) = std::env::var(SERVES) else { return };
    let (at, layers, options): (PathBuf, Layers, Options) = serde_json::from_str(&what).expect("of a test");
    let mounted = show_at(&at, &layers, options, false);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    mounted.unmount().expect("unmount");
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).expect("open")
}

fn run(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program).args(args).current_dir(dir).output().expect(program);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn whole() -> Options {
    Options { whole_up_to: 1 << 30, ..Options::default() }
}

/// The same operations in a mounted tree and in a plain one, and the same afterwards; again after a new mount.
fn same_answers(seed: u64, options: Options, passthrough: bool) {
    let ground = Ground::new();
    let before = dump(&ground.path("base"));
    let mounted = show(&ground, &ground.layers(), options, passthrough);
    let (plain, shown) = (open(&ground.path("plain")), open(&ground.path("mnt")));
    let mut dice = Dice::new(seed);
    let mut done = Vec::new();
    for at in 0..500 {
        let op = dice.op();
        if op.is_beyond_fuse() {
            continue;
        }
        done.push(op.brief());
        let last = &done[done.len().saturating_sub(25)..];
        let (expected, found) = (apply(&plain, &op), apply(&shown, &op));
        assert_eq!(expected, found, "seed {seed}, operation {at}: {}\nafter {last:#?}", op.brief());
    }
    let expected = dump(&ground.path("plain"));
    assert_eq!(expected, dump(&ground.path("mnt")));
    drop(shown);
    mounted.unmount().expect("unmount");
    let mounted = show(&ground, &ground.layers(), options, passthrough);
    assert_eq!(expected, dump(&ground.path("mnt")), "after another mount");
    mounted.unmount().expect("unmount");
    assert_eq!(before, dump(&ground.path("base")), "the base was changed");
}

#[test]
fn a_mounted_tree_does_what_a_plain_directory_does() {
    ground!("fuse");
    (1..=3).for_each(|seed| same_answers(seed, blocks_only(), false));
}

#[test]
fn with_passthrough_it_does_the_same() {
    ground!("fuse", "root");
    (11..=13).for_each(|seed| same_answers(seed, Options::default(), true));
}

/// One thread serves; what waits, here for a thaw, waits in another one.
#[test]
fn what_takes_long_keeps_nobody_else_waiting() {
    ground!("fuse", "root");
    let ground = Ground::new();
    std::fs::write(ground.path("base").join("source"), vec![1; 4096]).expect("written");
    let mounted = show(&ground, &ground.layers(), Options::default(), true);
    let at = ground.path("mnt");
    let source = std::fs::File::open(at.join("source")).expect("opened");
    let target = std::fs::File::create(at.join("target")).expect("made");
    let handle = mounted.handle();
    let frozen = handle.tree().freeze();
    let copied = std::thread::spawn(move || rustix::fs::copy_file_range(source, None, target, None, 4096));
    let (sender, looked) = std::sync::mpsc::channel();
    let looker = std::thread::spawn(move || {
        for n in 0..200 {
            assert!(!at.join(n.to_string()).exists());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        sender.send(()).expect("sent");
    });
    let looked = looked.recv_timeout(std::time::Duration::from_secs(60));
    assert!(!copied.is_finished(), "it is frozen");
    drop(frozen);
    assert_eq!(copied.join().expect("it ends"), Ok(4096));
    looker.join().expect("it ends");
    looked.expect("names are looked up meanwhile");
    mounted.unmount().expect("unmount");
}

/// Does so in a thread of its own; what comes of it.
fn meanwhile(
    act: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> std::thread::JoinHandle<std::io::Result<()>> {
    std::thread::spawn(act)
}

/// However many changes come while it is frozen, whether one thread serves or several.
fn changes_wait_alone(passthrough: bool) {
    let ground = Ground::new();
    let base = ground.path("base");
    for n in 0..8 {
        std::fs::create_dir_all(base.join(format!("held/{n}"))).expect("made");
    }
    for dir in ["looked at", "made in"] {
        std::fs::create_dir(base.join(dir)).expect("made");
    }
    for name in ["written", "read", "source"] {
        std::fs::write(base.join(name), vec![1; 4 << 20]).expect("written");
    }
    let mounted = show(&ground, &ground.layers(), blocks_only(), passthrough);
    let at = ground.path("mnt");
    let open =
        |name: &str| std::fs::File::options().read(true).write(true).open(at.join(name)).expect("opened");
    // Of what lies in blocks, the process reads.
    let (written, read) = (open("written"), open("read"));
    read.write_all_at(b"x", 0).expect("written");
    let targets: Vec<_> =
        (0..5).map(|n| std::fs::File::create(at.join(format!("target {n}"))).expect("made")).collect();
    let source = std::fs::File::open(at.join("source")).expect("opened");
    // Whoever makes something keeps the kernel from looking up names in the same directory.
    assert!(at.join("looked at").is_dir());
    let handle = mounted.handle();
    let frozen = handle.tree().freeze();
    let mut changes = Vec::new();
    for n in 0..8 {
        let dir = at.join(format!("held/{n}/new"));
        changes.push(meanwhile(move || std::fs::create_dir(dir)));
    }
    for target in targets {
        let source = source.try_clone().expect("cloned");
        let copy = move || rustix::fs::copy_file_range(source, None, target, None, 4096);
        changes.push(meanwhile(move || Ok(copy().map(drop)?)));
    }
    let file = at.join("made in/file");
    changes.push(meanwhile(move || std::fs::write(file, "made")));
    let (other, path) = (at.join("source"), at.join("held/0"));
    changes.push(meanwhile(move || std::fs::File::options().append(true).open(other).map(drop)));
    changes.push(meanwhile(move || {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
    }));
    changes.push(meanwhile(move || {
        written.write_all_at(b"y", 0)?;
        written.sync_all()
    }));
    std::thread::sleep(std::time::Duration::from_millis(200));
    let (sender, looked) = std::sync::mpsc::channel();
    let looker = std::thread::spawn(move || {
        for n in 0..200_u64 {
            // In a directory where nobody makes anything: the kernel keeps that to whoever does.
            assert!(!at.join(format!("looked at/{n}")).exists());
            assert_eq!(read.read_at(&mut [0; 16], n << 14).expect("read"), 16);
        }
        sender.send(()).expect("sent");
    });
    let looked = looked.recv_timeout(std::time::Duration::from_secs(60));
    // Nothing but the process decides when a directory is made.
    let done = changes.iter().take(8).filter(|change| change.is_finished()).count();
    drop(frozen);
    for change in changes {
        change.join().expect("it ends").expect("it is done");
    }
    looker.join().expect("it ends");
    looked.expect("names are looked up and files read meanwhile");
    assert_eq!(done, 0, "it was frozen");
    drop(source);
    let is_made = |n: &i32| ground.path("mnt").join(format!("held/{n}/new")).is_dir();
    assert!((0..8).all(|n| is_made(&n)));
    mounted.unmount().expect("unmount");
}

#[test]
fn changes_that_wait_for_a_thaw_keep_nobody_else_waiting() {
    ground!("fuse", "root");
    changes_wait_alone(true);
    changes_wait_alone(false);
}

/// Whoever waits for an answer of a filesystem that has his request is not ended by a signal.
#[test]
fn a_process_that_can_not_be_killed_is_not_said_to_be() {
    ground!("fuse", "overlay", "root");
    let (ground, lab) = (Ground::new(), Lab::new());
    let mounted = show(&ground, &ground.layers(), Options::default(), true);
    let overlay = lab.create("ci", &["--mode", "kernel"]);
    let handle = mounted.handle();
    let frozen = handle.tree().freeze();
    let script = format!("echo there > there; exec mkdir '{}'", ground.path("mnt/made").display());
    let mut user = Process::new(Command::new("sh").args(["-c", &script]).current_dir(&overlay));
    let of_user =
        |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", user.pid())).unwrap_or_default();
    // mkdir or mkdirat, on x86-64 and on others.
    let asks = || {
        of_user("comm") == "mkdir\n"
            && ["83 ", "258 ", "34 "].iter().any(|n| of_user("syscall").starts_with(n))
    };
    crate::ground::waits("it to ask", asks);
    let said = lab.fails(3, &["reset", "--kill", "ci"]);
    assert!(said.contains(&format!("mkdir ({})", user.pid())) && said.contains("is not gone"), "{said}");
    assert!(overlay.join("there").exists(), "it was reset all the same: {said}");
    drop(frozen);
    user.0.wait().expect("it ends by the signal that waits for it");
    lab.ok(&["reset", "--kill", "ci"]);
    assert!(!overlay.join("there").exists());
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
    mounted.unmount().expect("unmount");
}

/// Does random operations in `dir`, whatever comes of them.
fn wreck(dir: &Path, seed: u64) {
    let root = open(dir);
    let mut dice = Dice::new(seed);
    for _ in 0..400 {
        // What matters is what the tree is in the end.
        let _ = apply(&root, &dice.op());
    }
}

fn kernel_overlay(ground: &Ground) -> Unmounted {
    let path = |name: &str| ground.path(name).to_str().expect("utf-8").to_owned();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on,index=off,metacopy=off",
        path("base"),
        path("upper"),
        path("kernel-work")
    );
    std::fs::create_dir_all(ground.path("kernel-work")).expect("mkdir");
    run("mount", &["-t", "overlay", "overlay", "-o", &options, &path("mnt")], Path::new("/"));
    Unmounted(ground.path("mnt"))
}

/// Unmounts a kernel overlay, however the test ends.
struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        // A panic in here would hide the test's own.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn kernel_overlayfs_shows_what_was_written_here() {
    ground!("fuse", "root");
    for seed in 21..=23 {
        let ground = Ground::new();
        let mounted = show(&ground, &ground.layers(), whole(), true);
        wreck(&ground.path("mnt"), seed);
        let expected = dump(&ground.path("mnt"));
        mounted.unmount().expect("unmount");
        let _kernel = kernel_overlay(&ground);
        assert_eq!(expected, dump(&ground.path("mnt")), "seed {seed}");
    }
}

#[test]
fn what_kernel_overlayfs_wrote_shows_here() {
    ground!("fuse", "root");
    for seed in 31..=33 {
        let ground = Ground::new();
        let kernel = kernel_overlay(&ground);
        wreck(&ground.path("mnt"), seed);
        let expected = dump(&ground.path("mnt"));
        drop(kernel);
        let mounted = show(&ground, &ground.layers(), whole(), true);
        assert_eq!(expected, dump(&ground.path("mnt")), "seed {seed}");
        mounted.unmount().expect("unmount");
    }
}

#[test]
fn no_mixture_of_opens_writes_to_the_base() {
    ground!("fuse", "root");
    let past = |options: Options| Options { through_up_to: 0, ..options };
    for options in [blocks_only(), whole(), past(blocks_only()), past(whole())] {
        let ground = Ground::new();
        let before = dump(&ground.path("base"));
        let mounted = show(&ground, &ground.layers(), options, true);
        let path = ground.path("mnt").join("a/big");
        let mut reader = std::fs::File::open(&path).expect("open");
        let mut first = [0; 4];
        reader.read_exact(&mut first).expect("read");
        let writer = std::fs::File::options().read(true).write(true).open(&path).expect("open to write");
        writer.write_all_at(b"written", 0).expect("write");
        let again = std::fs::File::options().read(true).write(true).open(&path).expect("open again");
        again.write_all_at(b"WRITTEN", 70_000).expect("write");
        std::fs::File::options()
            .append(true)
            .open(&path)
            .and_then(|mut f| f.write_all(b"end"))
            .expect("append");
        reader.seek(SeekFrom::Start(0)).expect("seek");
        reader.read_exact(&mut first).expect("whoever had it open reads on");
        assert_eq!(
            &first == b"writ",
            options.through_up_to > 0,
            "only who reads past the process is parted from it"
        );
        let now = std::fs::read(&path).expect("read");
        assert_eq!(
            (&now[..7], &now[70_000..70_007], &now[now.len() - 3..]),
            (&b"written"[..], &b"WRITTEN"[..], &b"end"[..])
        );
        drop((reader, writer, again));
        assert_eq!(now, std::fs::read(&path).expect("read"));
        mounted.unmount().expect("unmount");
        assert_eq!(before, dump(&ground.path("base")), "the base was changed");
    }
}

#[test]
fn a_reset_shows_the_base_at_once() {
    ground!("fuse");
    let ground = Ground::new();
    let before = dump(&ground.path("base"));
    let mounted = show(&ground, &ground.layers(), Options::default(), false);
    let mnt = ground.path("mnt");
    assert_eq!(before, dump(&mnt));
    for round in 0..3 {
        wreck(&mnt, 40 + round);
        assert_ne!(before, dump(&mnt));
        mounted.reset(&ground.next(&format!("next-{round}"))).expect("reset");
        assert_eq!(before, dump(&mnt), "round {round}");
    }
    mounted.unmount().expect("unmount");
}

/// What a reset onto a layer that was just committed shows is what showed before, and without the layer it is the base.
#[test]
fn a_reset_to_other_layers_shows_these() {
    ground!("fuse");
    for seed in 50..54 {
        let ground = Ground::new();
        let before = dump(&ground.path("base"));
        let first = ground.layers();
        let mounted = show(&ground, &first, blocks_only(), false);
        let mnt = ground.path("mnt");
        let opened = std::fs::File::open(mnt.join("big")).expect("opened");
        wreck(&mnt, seed);
        let committed = dump(&mnt);
        let was = opened.metadata().expect("it is open").len();
        let layer = Lower { tree: first.upper.clone(), blocks: Some(first.blocks.clone()) };
        let mut onto = ground.next("next");
        onto.lowers.insert(0, layer);
        mounted.reset(&onto).expect("reset");
        assert_eq!(committed, dump(&mnt), "seed {seed}");
        wreck(&mnt, seed + 100);
        mounted.reset(&Layers { lowers: onto.lowers.clone(), ..ground.next("again") }).expect("reset");
        assert_eq!(committed, dump(&mnt), "seed {seed}, changed again");
        mounted.reset(&ground.next("last")).expect("reset");
        assert_eq!(before, dump(&mnt), "seed {seed}, without the layer");
        assert_eq!(opened.metadata().expect("open stays").len(), was);
        drop(opened);
        mounted.unmount().expect("unmount");
    }
}

#[test]
fn git_and_sqlite_work_on_it() {
    ground!("fuse");
    let ground = Ground::new();
    let mounted = show(&ground, &ground.layers(), blocks_only(), false);
    let mnt = ground.path("mnt");
    let git = |args: &[&str]| {
        let args =
            [&["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"], args].concat();
        run("git", &args, &mnt);
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "all"]);
    git(&["mv", "a", "moved"]);
    git(&["commit", "-q", "-a", "-m", "moved"]);
    git(&["fsck", "--strict"]);
    let clean = Command::new("git").args(["status", "--porcelain"]).current_dir(&mnt).output().expect("git");
    assert_eq!(String::from_utf8_lossy(&clean.stdout), "");
    if Command::new("sqlite3").arg("--version").output().is_ok() {
        let script = "pragma journal_mode=wal; create table t(a integer primary key, b text); \
                      with recursive n(i) as (select 1 union all select i+1 from n where i<3000) \
                      insert into t select i, hex(randomblob(40)) from n; delete from t where a%3=0; vacuum; \
                      pragma integrity_check;";
        let output =
            Command::new("sqlite3").args(["db", script]).current_dir(&mnt).output().expect("sqlite3");
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("ok\n"), "{output:?}");
    }
    mounted.unmount().expect("unmount");
}

#[test]
fn links_to_one_file_are_one_file() {
    ground!("fuse");
    let ground = Ground::new();
    let mounted = show(&ground, &ground.layers(), blocks_only(), false);
    let root = open(&ground.path("mnt"));
    apply(&root, &Op::Write("links".into(), 10, b"through the other name".to_vec())).expect("write");
    let one = std::fs::read(ground.path("mnt").join("big")).expect("read");
    assert_eq!(&one[10..32], b"through the other name");
    drop(root);
    mounted.unmount().expect("unmount");
}

/// How many entries the directories of the upper layer have, in all.
fn entries(dir: &Path) -> usize {
    let below = std::fs::read_dir(dir).expect("listed").map(|entry| entry.expect("entry").path());
    below.map(|path| 1 + if path.is_dir() { entries(&path) } else { 0 }).sum()
}

#[test]
fn a_file_without_a_name_is_gone_when_it_is_closed_or_has_the_name_that_it_is_given() {
    ground!("fuse", "root");
    for passthrough in [false, true] {
        let ground = Ground::new();
        let mounted = show(&ground, &ground.layers(), Options::default(), passthrough);
        let dir = ground.path("mnt").join("a/b");
        let unnamed = |more: OFlags| {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | more;
            std::fs::File::from(rustix::fs::open(&dir, flags, Mode::from_raw_mode(0o640)).expect("made"))
        };
        let give = |file: &std::fs::File, name: &str| {
            let seen = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::linkat(
                rustix::fs::CWD,
                seen,
                rustix::fs::CWD,
                dir.join(name),
                AtFlags::SYMLINK_FOLLOW,
            )
        };
        let file = unnamed(OFlags::empty());
        let before = entries(&ground.path("upper"));
        file.write_all_at(&[7; 100_000], 5).expect("written");
        let what = file.metadata().expect("stat");
        assert_eq!((what.nlink(), what.len(), what.mode() & 0o7777), (0, 100_005, 0o640));
        assert_eq!(entries(&ground.path("upper")), before, "it has a name somewhere");
        drop(file);

        assert_eq!(give(&unnamed(OFlags::EXCL), "never"), Err(Errno::NOENT));
        let file = unnamed(OFlags::empty());
        file.write_all_at(b"then named", 0).expect("written");
        assert_eq!(give(&file, "a"), Err(Errno::EXIST), "the base has one of this name");
        std::fs::remove_file(dir.join("a")).expect("a whiteout");
        assert_eq!((give(&file, "a"), give(&file, "too")), (Ok(()), Ok(())));
        file.write_all_at(b"THEN", 0).expect("written");
        assert_eq!(std::fs::read(dir.join("a")).expect("read"), b"THEN named");
        assert_eq!(std::fs::metadata(dir.join("too")).expect("stat").nlink(), 2);
        drop(file);
        std::fs::remove_file(dir.join("a")).expect("removed");
        mounted.unmount().expect("unmount");

        let mounted = show(&ground, &ground.layers(), Options::default(), passthrough);
        assert_eq!(std::fs::read(dir.join("too")).expect("read"), b"THEN named");
        assert!(!dir.join("a").exists() && !dir.join("never").exists());
        mounted.unmount().expect("unmount");
    }
}

#[test]
fn what_a_reset_took_away_gets_no_name_in_the_new_tree() {
    ground!("fuse", "root");
    for passthrough in [false, true] {
        let ground = Ground::new();
        let before = dump(&ground.path("base"));
        let mounted = show(&ground, &ground.layers(), Options::default(), passthrough);
        let mnt = ground.path("mnt");
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&mnt, flags, Mode::from_raw_mode(0o644)).expect("made");
        rustix::io::pwrite(&file, b"of the last suite", 0).expect("written");
        mounted.reset(&ground.next("second")).expect("reset");
        let seen = format!("/proc/self/fd/{}", file.as_raw_fd());
        let linked = rustix::fs::linkat(
            rustix::fs::CWD,
            seen,
            rustix::fs::CWD,
            mnt.join("x"),
            AtFlags::SYMLINK_FOLLOW,
        );
        assert_eq!(linked, Err(Errno::NOENT), "passthrough {passthrough}");
        assert_eq!(dump(&mnt), before);
        let mut buffer = [0; 17];
        assert_eq!(rustix::io::pread(&file, &mut buffer, 0), Ok(17), "whoever has it open keeps it");
        drop(file);
        mounted.unmount().expect("unmount");
    }
}

#[test]
fn who_lists_a_directory_while_it_changes_sees_each_name_that_stays_once() {
    ground!("fuse");
    let ground = Ground::new();
    let mounted = show(&ground, &ground.layers(), Options::default(), false);
    let dir = ground.path("mnt").join("many");
    std::fs::create_dir(&dir).expect("made");
    let name = |n: usize| format!("{n:04}-{}", "long".repeat(40));
    (0..2000).for_each(|n| std::fs::write(dir.join(name(n)), "").expect("written"));
    let names = |listing: &mut rustix::fs::Dir, most: usize| -> Vec<String> {
        let entries = listing.by_ref().take(most).map(|entry| entry.expect("an entry"));
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut one = rustix::fs::Dir::new(open(&dir)).expect("a directory");
    let mut seen = names(&mut one, 700);
    // Every second name goes; who begins now sees what is left, and all that he does the other one sees, too.
    (0..2000).step_by(2).for_each(|n| std::fs::remove_file(dir.join(name(n))).expect("removed"));
    let mut other = names(&mut rustix::fs::Dir::new(open(&dir)).expect("a directory"), usize::MAX);
    other.sort();
    let stayed: Vec<String> = (0..2000).skip(1).step_by(2).map(name).collect();
    assert_eq!(other[..2], [".", ".."]);
    assert_eq!(other[2..], stayed);
    std::fs::write(dir.join("added"), "").expect("written");
    seen.extend(names(&mut one, usize::MAX));
    let mut odd: Vec<_> = seen.iter().filter(|name| stayed.contains(name)).cloned().collect();
    odd.sort();
    assert_eq!(odd, stayed, "each once");
    one.rewind();
    assert_eq!(names(&mut one, usize::MAX).len(), 2 + 1000 + 1);
    drop(one);
    // From where somebody was before.
    let mut again = rustix::fs::Dir::new(open(&dir)).expect("a directory");
    let _ = names(&mut again, 500);
    let at = again.next().expect("one more").expect("an entry").offset();
    let rest = names(&mut again, usize::MAX);
    again.seek(at).expect("a position");
    assert_eq!(names(&mut again, usize::MAX), rest);
    drop(again);
    mounted.unmount().expect("unmount");
}

/// The kernel keeps what one reader has read for the next one: somebody who began before a change must not bring that about for who began after it.
#[test]
fn who_opens_a_directory_after_a_change_sees_it_whoever_reads_there_too() {
    ground!("fuse");
    let ground = Ground::new();
    let mounted = show(&ground, &ground.layers(), Options::default(), false);
    let dir = ground.path("mnt").join("many");
    std::fs::create_dir(&dir).expect("made");
    let name = |n: usize| format!("{n:04}-{}", "long".repeat(20));
    let make = |n: usize| std::fs::write(dir.join(name(n)), "").expect("written");
    (0..1000).for_each(make);
    let next = |listing: &mut rustix::fs::Dir, most: usize| -> Vec<String> {
        let entries = listing.by_ref().take(most).map(|entry| entry.expect("an entry"));
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut old = rustix::fs::Dir::new(open(&dir)).expect("a directory");
    assert_eq!(next(&mut old, 900).len(), 900);
    (1000..1300).for_each(make);
    (0..300).for_each(|n| std::fs::remove_file(dir.join(name(n))).expect("removed"));
    let mut new = rustix::fs::Dir::new(open(&dir)).expect("a directory");
    let mut seen = next(&mut new, 10);
    assert!(next(&mut old, usize::MAX).len() >= 100);
    drop(old);
    seen.extend(next(&mut new, usize::MAX));
    seen.sort();
    let expected = (300..1300).map(name);
    assert_eq!(seen[2..], expected.collect::<Vec<_>>());
    drop(new);
    assert_eq!(std::fs::read_dir(&dir).expect("listed").count(), 1000);
    mounted.unmount().expect("unmount");
}
