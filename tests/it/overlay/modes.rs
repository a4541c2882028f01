//! What every mode promises, of each of them: a tree like its base, changes of its own, given back as it was, and nothing left.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cowsnap::endpoint::Error;
use cowsnap::endpoint::overlay::plain::COMMAND;
use cowsnap::endpoint::overlay::{Home, base};
use cowsnap::exec::overlay::reset::{Request, reset};
use cowsnap::exec::overlay::{New, Step, Survivors, create, destroy, unhindered};
use cowsnap::model::overlay::Mode;

use super::kernel::{listing, wreck};
use super::killed::{killed, mode_called};
use super::lab::{Lab, Process, read, text, utf8};
use crate::ground::{self, ground};

/// A mode with the filesystem that base and home are on; `tmp`: whichever the temporary directory has.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    mode: Mode,
    on: &'static str,
}

const REFLINK_XFS: Case = Case { mode: Mode::Reflink, on: "xfs" };
const REFLINK_BTRFS: Case = Case { mode: Mode::Reflink, on: "btrfs" };
pub const NATIVE: Case = Case { mode: Mode::Native, on: "btrfs" };
pub const NATIVE_ZFS: Case = Case { mode: Mode::Native, on: "zfs" };
const COPY: Case = Case { mode: Mode::Copy, on: "tmp" };
const COPY_EXT4: Case = Case { mode: Mode::Copy, on: "ext4" };
const RECREATE: Case = Case { mode: Mode::Recreate, on: "tmp" };
const SQUASHFS: Case = Case { mode: Mode::Squashfs, on: "tmp" };
const EROFS: Case = Case { mode: Mode::Erofs, on: "tmp" };

impl Case {
    pub fn lab(self) -> Lab {
        let lab = self.lab_as_it_is();
        if self.mode == Mode::Native && self.on == "btrfs" {
            let (base, aside) = (lab.base(), lab.root().join("aside"));
            fs::rename(&base, &aside).expect("renamed");
            ground::run("btrfs", &["subvolume", "create", utf8(&base)]);
            ground::run("cp", &["-a", utf8(&aside.join(".")), utf8(&base)]);
            fs::remove_dir_all(&aside).expect("removed");
        }
        lab
    }

    /// A lab in which the kernel's overlays can do everything, too: on ZFS before 2.2, they rename nothing that lies below.
    pub fn lab_for_both(self) -> Lab {
        if self.on == "zfs" { Lab::on_zfs().with_home_outside() } else { self.lab() }
    }

    fn lab_as_it_is(self) -> Lab {
        match self.on {
            "btrfs" => Lab::on("btrfs", &["-q", "-f"]),
            "xfs" => Lab::on("xfs", &["-q", "-m", "reflink=1"]),
            "ext4" => Lab::on("ext4", &["-q", "-F"]),
            "zfs" => Lab::on_zfs(),
            _ => Lab::new(),
        }
    }

    /// Whether an exchange of mounts is one here: the others run on a kernel that has it, ZFS on what the guest has.
    fn is_atomic(self) -> bool {
        let release = read("/proc/sys/kernel/osrelease");
        let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        self.on != "zfs" || (numbers.next(), numbers.next()) >= (Some(6), Some(5))
    }

    /// At so many points in time something is killed: at fewer in the guest, which is slow.
    pub fn points(self, on_a_machine: u32) -> u32 {
        if self.on == "zfs" { on_a_machine / 2 } else { on_a_machine }
    }

    /// What makes the tree in mode recreate.
    fn command(self, lab: &Path) -> Option<String> {
        let base = lab.join("base");
        (self.mode == Mode::Recreate).then(|| format!("cp -a '{}/.' .", base.display()))
    }

    fn create(self, lab: &Lab, name: &str, more: &[&str]) -> PathBuf {
        let command = self.command(lab.root());
        let command = command.as_deref().map_or(vec![], |command| vec!["--command", command]);
        lab.create(name, &[&["--mode", self.mode.as_str()], &command[..], more].concat())
    }

    fn request(self, root: &Path) -> New {
        let more = self.command(root).map(|command| (COMMAND.to_owned(), command.into()));
        New {
            name: "ci".parse().expect("a name"),
            base: base::of_dir(&root.join("base")).expect("a base"),
            at: root.join("mnt/ci"),
            copies: 2,
            mode: Some(self.mode),
            owner: None,
            durable: false,
            layers: Vec::new(),
            more: more.into_iter().collect(),
        }
    }
}

/// The test `check` of a case as a test of its own, if there is ground for it.
macro_rules! of_each_mode {
    ($check:ident) => {
        mod $check {
            use super::*;

            #[test]
            fn reflink_on_xfs() {
                ground!("overlay", "xfs");
                super::$check(REFLINK_XFS);
            }

            #[test]
            fn reflink_on_btrfs() {
                ground!("overlay", "btrfs");
                super::$check(REFLINK_BTRFS);
            }

            #[test]
            fn native_on_btrfs() {
                ground!("overlay", "btrfs");
                super::$check(NATIVE);
            }

            #[test]
            fn copy() {
                ground!("overlay");
                super::$check(COPY);
            }

            #[test]
            fn recreate() {
                ground!("overlay");
                super::$check(RECREATE);
            }

            #[test]
            fn squashfs() {
                ground!("overlay", "loop", "mksquashfs");
                super::$check(SQUASHFS);
            }

            #[test]
            fn erofs() {
                ground!("overlay", "loop", "mkfs.erofs");
                super::$check(EROFS);
            }
        }
    };
}

/// Beside the names, types, modes and contents: owners, whole seconds of the last change, numbers of names, targets of links.
fn described(tree: &Path) -> Vec<String> {
    let mut all = listing(tree);
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("listed") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("there");
            let name = path.strip_prefix(tree).expect("below").display().to_string();
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            let target = fs::read_link(&path).unwrap_or_default();
            all.push(format!("{name} {}:{} {} {links} {target:?}", meta.uid(), meta.gid(), meta.mtime()));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    all.sort();
    all
}

/// The loop devices that show a file of this lab, its own disk apart.
fn loop_devices(lab: &Lab) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backing =
        devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    backing.filter(|file| file.contains(utf8(lab.root())) && !file.trim().ends_with("/image")).collect()
}

/// On btrfs, the base a subvolume.
pub fn subvolume_lab() -> Lab {
    NATIVE.lab()
}

/// Asserts that nothing is left: no mounts, trash, loop devices or clones.
pub fn assert_nothing_left(lab: &Lab) {
    lab.assert_nothing_left();
    let none = || loop_devices(lab).is_empty();
    // A device goes a moment after its last user.
    (0..500).any(|_| none() || (std::thread::sleep(Duration::from_millis(10)), false).1);
    assert_eq!(loop_devices(lab), [""; 0]);
    (0..500).any(|_| lab.clones().is_empty() || (std::thread::sleep(Duration::from_millis(10)), false).1);
    assert_eq!(lab.clones(), [""; 0], "clones are left");
}

of_each_mode!(a_tree_looks_like_its_base_takes_changes_and_gives_them_back);

pub fn a_tree_looks_like_its_base_takes_changes_and_gives_them_back(case: Case) {
    let lab = case.lab();
    fs::set_permissions(lab.base(), fs::Permissions::from_mode(0o1775)).expect("set");
    std::os::unix::fs::chown(lab.base().join("dir/deep/file"), Some(1), Some(2)).expect("given away");
    fs::write(lab.base().join("zeros"), vec![0; 1 << 20]).expect("written");
    let as_made = described(&lab.base());
    let at = case.create(&lab, "ci", &[]);
    assert_eq!(described(&at), as_made);
    for _ in 0..3 {
        wreck(&at);
        assert_ne!(described(&at), as_made);
        assert_eq!(described(&lab.base()), as_made, "the base was changed");
        lab.ok(&["reset", "ci"]);
        assert_eq!(described(&at), as_made);
    }
    let home = lab.home();
    home.sweep().expect("swept");
    let entry = home.entry(&"ci".parse().expect("a name"));
    assert_eq!(entry.generations(1).expect("listed").len(), 1);
    wreck(&at);
    lab.ok(&["destroy", "ci"]);
    assert_eq!(described(&lab.base()), as_made);
    assert!(!at.exists(), "the directory that was made for it goes with it");
    assert_nothing_left(&lab);
}

of_each_mode!(a_reader_never_sees_an_empty_tree);

pub fn a_reader_never_sees_an_empty_tree(case: Case) {
    let lab = case.lab();
    let at = case.create(&lab, "ci", &[]);
    let (done, looks, misses) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let request = Request { copies: None, layers: None, survivors: Survivors::Leave };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                looks.fetch_add(1, Ordering::Relaxed);
                let is_missing = fs::metadata(at.join("dir/deep/file")).is_err();
                misses.fetch_add(usize::from(is_missing), Ordering::Relaxed);
            }
        });
        for _ in 0..20 {
            fs::remove_file(at.join("file")).expect("it is there again");
            let reset = reset(&lab.home(), &"ci".parse().expect("a name"), &request, &mut unhindered);
            assert_eq!(reset.expect("reset").copies[0].atomic, case.is_atomic());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(looks.into_inner() > 20);
    assert!(misses.into_inner() == 0 || !case.is_atomic());
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

of_each_mode!(copies_are_apart);

pub fn copies_are_apart(case: Case) {
    let lab = case.lab();
    let at = case.create(&lab, "ci", &["--copies", "3"]);
    fs::write(at.join("1/file"), "one").expect("written");
    fs::write(at.join("2/file"), "two").expect("written");
    lab.ok(&["reset", "ci", "--copy", "2"]);
    let files = [1, 2, 3].map(|copy| read(at.join(format!("{copy}/file"))));
    assert_eq!(files, ["one", "base", "base"]);
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

of_each_mode!(who_uses_it_is_named);

pub fn who_uses_it_is_named(case: Case) {
    let lab = case.lab();
    let at = case.create(&lab, "ci", &[]);
    let user = Process::new(Command::new("sleep").arg("600").current_dir(at.join("dir")));
    let said = lab.fails(3, &["reset", "ci"]);
    assert!(said.contains(&format!("sleep ({})", user.pid())), "{said}");
    lab.ok(&["reset", "ci", "--force"]);
    lab.ok(&["destroy", "ci"]);
    drop(user);
    assert_nothing_left(&lab);
}

of_each_mode!(a_command_of_its_own_has_one);

pub fn a_command_of_its_own_has_one(case: Case) {
    if case.mode == Mode::Recreate {
        return;
    }
    let lab = case.lab();
    let base = lab.base();
    let run = |more: &[&str], script: &str| {
        let args = ["run", "--base", utf8(&base), "--mode", case.mode.as_str()];
        lab.run(&[&args[..], more, &["--", "sh", "-c", script]].concat())
    };
    let output = run(&[], "cat file; echo changed > file; exit 7");
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(7), &b"base"[..]),
        "{}",
        text(&output)
    );
    assert_nothing_left(&lab);
    let output = run(&["--keep-on-failure"], "echo precious > new; exit 7");
    let said = text(&output);
    let kept =
        said.lines().find_map(|line| line.strip_prefix("kept what it changed: ")).expect("it is said where");
    if said.contains("hint: cowsnap overlay mount") {
        lab.ok(&["mount", "run-1"]);
    }
    assert_eq!(read(Path::new(kept).join("new")), "precious\n", "{said}");
    lab.ok(&["destroy", "run-1"]);
    assert_nothing_left(&lab);
}

fn do_verb(
    case: Case,
    verb: &str,
    root: &Path,
    before: &mut dyn FnMut(Step) -> Result<(), Error>,
) -> Result<(), Error> {
    let home = Home::open(&root.join("home"))?;
    let name = "ci".parse().expect("a name");
    let request = Request { copies: None, layers: None, survivors: Survivors::Refuse };
    match verb {
        "create" => create(&home, &case.request(root), before).map(drop),
        "reset" => reset(&home, &name, &request, before).map(drop),
        _ => destroy(&home, &name, Survivors::Refuse, before).map(drop),
    }
}

killed!(kill_doing, child_that_dies_while_it_works, |verb, root, die| {
    let (verb, mode) = verb.split_once(' ').expect("a verb and a mode");
    do_verb(Case { mode: mode_called(mode), on: "" }, verb, root, die)
});

fn kill_before(case: Case, lab: &Lab, verb: &str, step: Step) {
    kill_doing(lab, &format!("{verb} {}", case.mode), step);
}

/// What must hold of an overlay that is whole.
fn assert_whole(lab: &Lab, what: &str) {
    for copy in [1, 2] {
        let at = lab.root().join(format!("mnt/ci/{copy}"));
        assert_eq!(read(at.join("file")), "base", "{what}");
        fs::write(at.join("file"), "changed").expect("writable");
        assert_eq!(read(at.join("dir/link")), "changed", "{what}");
    }
    assert_eq!(read(lab.base().join("file")), "base", "{what}: the base was changed");
}

of_each_mode!(after_a_verb_is_killed_at_any_step_the_next_one_works);

fn after_a_verb_is_killed_at_any_step_the_next_one_works(case: Case) {
    after_a_create_is_killed(case);
    after_a_reset_is_killed(case);
    after_a_destroy_is_killed(case);
}

pub fn after_a_create_is_killed(case: Case) {
    let lab = case.lab();
    for step in Step::CREATE {
        kill_before(case, &lab, "create", step);
        lab.ok(&["--home", utf8(&lab.home_dir()), "reap"]);
        assert!(!lab.root().join("mnt/ci").exists(), "{step:?}: a directory is left");
        assert_nothing_left(&lab);
        do_verb(case, "create", lab.root(), &mut unhindered).expect("made");
        assert_whole(&lab, &format!("create {step:?}"));
        lab.ok(&["destroy", "ci"]);
        assert_nothing_left(&lab);
    }
}

pub fn after_a_reset_is_killed(case: Case) {
    let lab = case.lab();
    for step in Step::RESET {
        do_verb(case, "create", lab.root(), &mut unhindered).expect("made");
        for copy in [1, 2] {
            fs::write(lab.root().join(format!("mnt/ci/{copy}/file")), "mine").expect("written");
        }
        kill_before(case, &lab, "reset", step);
        for copy in [1, 2] {
            let found = read(lab.root().join(format!("mnt/ci/{copy}/file")));
            assert!(
                found == "mine" || found == "base",
                "{step:?}: neither the old tree nor the new one: {found}"
            );
        }
        lab.ok(&["reset", "ci"]);
        assert_whole(&lab, &format!("reset {step:?}"));
        lab.ok(&["destroy", "ci"]);
        assert_nothing_left(&lab);
    }
}

pub fn after_a_destroy_is_killed(case: Case) {
    let lab = case.lab();
    for step in Step::DESTROY {
        do_verb(case, "create", lab.root(), &mut unhindered).expect("made");
        kill_before(case, &lab, "destroy", step);
        match step == Step::Mark {
            true => drop(lab.ok(&["destroy", "ci"])),
            false => assert_eq!(lab.ok(&["reap"]), "reaped ci: its destroyer was killed\n", "{step:?}"),
        }
        assert!(!lab.root().join("mnt/ci").exists(), "{step:?}: a directory is left");
        assert_nothing_left(&lab);
    }
}

of_each_mode!(kill_9_at_any_time_is_survived);

pub fn kill_9_at_any_time_is_survived(case: Case) {
    let points = case.points(12);
    let lab = case.lab();
    for n in 0..200 {
        fs::write(lab.base().join(format!("dir/deep/more {n}")), vec![n as u8 % 128; 8192]).expect("written");
    }
    let make = || case.create(&lab, "ci", &["--owner", "none"]);
    make();
    for args in [&["reset", "ci"][..], &["destroy", "ci"]] {
        let started = Instant::now();
        lab.ok(args);
        let whole = started.elapsed();
        for point in 0..points {
            if lab.names().is_empty() {
                make();
            }
            let mut child =
                lab.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
            std::thread::sleep(whole * point / points);
            child.kill().expect("killed");
            child.wait().expect("ended");
            lab.ok(&["reap"]);
            if lab.names().is_empty() {
                assert_eq!(lab.mounts(), [""; 0].map(PathBuf::from));
                continue;
            }
            lab.ok(&["reset", "ci"]);
            let at = lab.at("ci");
            assert_eq!(described(&at), described(&lab.base()), "{args:?} {point}");
            wreck(&at);
        }
    }
    if !lab.names().is_empty() {
        lab.ok(&["destroy", "ci"]);
    }
    assert_nothing_left(&lab);
}

#[test]
fn a_copy_on_a_filesystem_that_shares_no_blocks_is_one_and_a_reflink_is_refused() {
    ground!("overlay", "ext4");
    let lab = COPY_EXT4.lab();
    a_tree_looks_like_its_base_takes_changes_and_gives_them_back(COPY_EXT4);
    let (base, at) = (lab.base(), lab.at("ci"));
    let said = lab.fails(3, &["create", "ci", "--base", utf8(&base), "--at", utf8(&at), "--mode", "reflink"]);
    assert!(said.contains("can not share blocks") && said.contains("--mode copy"), "{said}");
    assert!(!at.exists());
    assert_nothing_left(&lab);
}

#[test]
fn a_clone_of_files_shares_their_blocks() {
    ground!("overlay", "xfs");
    let lab = REFLINK_XFS.lab();
    fs::write(lab.base().join("large"), vec![7; 64 << 20]).expect("written");
    ground::run("sync", &["-f", utf8(&lab.base())]);
    let free = || rustix::fs::statvfs(lab.root()).map(|s| s.f_bfree * s.f_frsize).expect("statvfs");
    let before = free();
    REFLINK_XFS.create(&lab, "ci", &["--copies", "4"]);
    ground::run("sync", &["-f", utf8(&lab.base())]);
    assert!(before - free() < 32 << 20, "{} bytes more are used", before - free());
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_durable_copy_shows_again_with_its_changes() {
    ground!("overlay");
    let lab = COPY.lab();
    let at = COPY.create(&lab, "ci", &["--durable"]);
    fs::write(at.join("file"), "kept").expect("written");
    ground::run("umount", &[utf8(&at)]);
    assert!(!at.join("file").exists());
    lab.ok(&["mount", "ci"]);
    assert_eq!(read(at.join("file")), "kept");
    lab.ok(&["mount", "ci"]);
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn an_image_is_a_base_and_says_itself_which_mode_serves_it() {
    ground!("overlay", "loop", "mksquashfs", "mkfs.erofs");
    let lab = Lab::new();
    let (squashfs, erofs) = (lab.root().join("base.squashfs"), lab.root().join("base.erofs"));
    let base = lab.base();
    ground::run("mksquashfs", &[utf8(&base), utf8(&squashfs), "-quiet", "-no-progress"]);
    ground::run("mkfs.erofs", &["--quiet", utf8(&erofs), utf8(&base)]);
    let create = |name: &str, image: &Path, mode: &str| {
        let at = lab.at(name);
        lab.run(&["--json", "create", name, "--base", utf8(image), "--at", utf8(&at), "--mode", mode])
    };
    for (name, image) in [("squashfs", &squashfs), ("erofs", &erofs)] {
        let made: serde_json::Value =
            serde_json::from_slice(&create(name, image, "auto").stdout).expect("JSON");
        assert_eq!(
            (&made["overlay"]["mode"], &made["overlay"]["base"]["kind"]),
            (&name.into(), &"image".into())
        );
        let at = lab.at(name);
        assert_eq!(described(&at), described(&base));
        wreck(&at);
        lab.ok(&["reset", name]);
        assert_eq!(described(&at), described(&base));
    }
    let wrong = create("wrong", &erofs, "squashfs");
    assert!(
        wrong.status.code() == Some(3) && text(&wrong).contains("the image is a erofs"),
        "{}",
        text(&wrong)
    );
    assert_eq!(create("wrong", &erofs, "copy").status.code(), Some(6));
    let none = create("none", &base.join("file"), "auto");
    assert!(text(&none).contains("neither a squashfs nor an EROFS image"), "{}", text(&none));
    // Another image in its place is another base.
    lab.ok(&["destroy", "erofs"]);
    fs::copy(&erofs, lab.root().join("new")).expect("copied");
    assert!(create("erofs", &erofs, "auto").status.success());
    fs::rename(lab.root().join("new"), &erofs).expect("replaced");
    ground::run("umount", &["-l", utf8(&lab.home_dir().join("overlays/erofs/base"))]);
    let said = lab.fails(3, &["reset", "erofs"]);
    assert!(said.contains("the image was changed"), "{said}");
    lab.ok(&["destroy", "--all"]);
    assert_nothing_left(&lab);
}

#[test]
fn without_the_tool_nothing_is_begun_and_its_package_is_named() {
    ground!("overlay");
    let lab = Lab::new();
    for (mode, package) in [("squashfs", "squashfs-tools"), ("erofs", "erofs-utils")] {
        let (base, at) = (lab.base(), lab.at("ci"));
        let args = ["create", "ci", "--base", utf8(&base), "--at", utf8(&at), "--mode", mode];
        let output = lab.command(&args).env("PATH", "/nowhere").output().expect("it runs");
        let said = text(&output);
        let hint = format!("apt-get install {package}");
        assert!(output.status.code() == Some(6) && said.contains(&hint), "{said}");
        assert!(!at.exists());
    }
    assert_nothing_left(&lab);
}

#[test]
fn a_command_that_fails_leaves_the_tree_that_shows() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.at("ci");
    let broken = lab.root().join("broken");
    let command = format!("echo made > made; echo $COWSNAP_OVERLAY_AT; test ! -e '{}'", broken.display());
    let out = lab.ok(&["create", "ci", "--at", utf8(&at), "--command", &command]);
    assert_eq!(out, format!("{}\n", at.display()), "what the command says is not ours");
    assert_eq!(read(at.join("made")), "made\n");
    fs::write(at.join("made"), "changed").expect("written");
    fs::write(&broken, "").expect("written");
    let said = lab.fails(3, &["reset", "ci"]);
    assert!(said.contains("the command that makes it ended with exit status: 1"), "{said}");
    assert_eq!(read(at.join("made")), "changed");
    fs::remove_file(&broken).expect("removed");
    lab.ok(&["reset", "ci"]);
    assert_eq!(read(at.join("made")), "made\n");
    lab.ok(&["destroy", "ci"]);
    lab.fails(3, &["create", "ci", "--at", utf8(&at), "--mode", "recreate", "--base", utf8(&lab.base())]);
    lab.fails(2, &["create", "ci", "--at", utf8(&at)]);
    lab.fails(2, &["create", "ci", "--at", utf8(&at), "--command", "true", "--mode", "copy"]);
    assert_nothing_left(&lab);
}

#[test]
fn what_is_mounted_in_the_base_is_not_copied() {
    ground!("overlay", "mksquashfs");
    let lab = Lab::new();
    let inside = lab.base().join("dir/deep");
    ground::run("mount", &["-t", "tmpfs", "none", utf8(&inside)]);
    fs::write(inside.join("secret"), "").expect("written");
    for case in [COPY, SQUASHFS] {
        let at = case.create(&lab, "ci", &[]);
        assert_eq!(read(at.join("dir/deep/file")), "deep", "{case:?}");
        lab.ok(&["destroy", "ci"]);
    }
    let (base, at) = (lab.base(), lab.at("ci"));
    let said = lab.fails(3, &["create", "ci", "--base", utf8(&base), "--at", utf8(&at), "--mode", "erofs"]);
    assert!(said.contains("is mounted in the base") && said.contains("umount"), "{said}");
    ground::run("umount", &[utf8(&inside)]);
    assert_nothing_left(&lab);
}

/// The program as an ordinary user who may mount nothing.
fn as_nobody(lab: &Lab, args: &[&str]) -> std::process::Output {
    Command::new("setpriv")
        .args([
            "--reuid",
            "64321",
            "--regid",
            "64321",
            "--clear-groups",
            env!("CARGO_BIN_EXE_cowsnap"),
            "overlay",
        ])
        .args(args)
        .env("COWSNAP_OVERLAY_HOME", lab.root().join("theirs/home"))
        .output()
        .expect("setpriv runs")
}

#[test]
fn an_ordinary_user_has_copies_and_is_told_what_the_others_need() {
    ground!("overlay", "setpriv");
    let lab = Lab::new();
    let theirs = lab.root().join("theirs");
    fs::create_dir(&theirs).expect("mkdir");
    fs::set_permissions(lab.root(), fs::Permissions::from_mode(0o755)).expect("set");
    let program = Command::new("setpriv")
        .args(["--reuid", "64321", "--regid", "64321", "--clear-groups", "test", "-x"])
        .arg(env!("CARGO_BIN_EXE_cowsnap"))
        .status();
    if !program.is_ok_and(|status| status.success()) {
        return ground::skip("an_ordinary_user_has_copies", "the program can not be reached by others");
    }
    let base = theirs.join("base");
    ground::run("cp", &["-a", utf8(&lab.base()), utf8(&base)]);
    ground::run("chown", &["-Rh", "64321:64321", utf8(&theirs)]);
    let at = theirs.join("at");
    let create = |mode: &str| {
        as_nobody(&lab, &["create", "ci", "--base", utf8(&base), "--at", utf8(&at), "--mode", mode])
    };
    let made = create("copy");
    assert!(made.status.success(), "{}", text(&made));
    let ok = |args: &[&str]| {
        let output = as_nobody(&lab, args);
        assert!(output.status.success(), "{args:?} {}", text(&output));
        String::from_utf8(output.stdout).expect("utf-8")
    };
    for _ in 0..3 {
        assert_eq!(described(&at), described(&base));
        wreck(&at);
        ok(&["reset", "ci"]);
    }
    assert!(!ok(&["list"]).contains("not mounted"));
    let sleep = ["--reuid", "64321", "--regid", "64321", "--clear-groups", "sleep", "600"];
    let user = Process::new(Command::new("setpriv").args(sleep).current_dir(&at));
    let is_sleep = || read(format!("/proc/{}/comm", user.pid())).trim() == "sleep";
    assert!((0..500).any(|_| is_sleep() || (std::thread::sleep(Duration::from_millis(10)), false).1));
    let refused = as_nobody(&lab, &["reset", "ci"]);
    assert!(refused.status.code() == Some(3) && text(&refused).contains("sleep"), "{}", text(&refused));
    drop(user);
    ok(&["destroy", "ci"]);
    assert!(!at.exists());
    // A directory that was there comes back.
    fs::create_dir(&at).expect("mkdir");
    fs::set_permissions(&at, fs::Permissions::from_mode(0o711)).expect("set");
    std::os::unix::fs::chown(&at, Some(64321), Some(64321)).expect("given");
    let inode = fs::metadata(&at).expect("there").ino();
    assert!(create("copy").status.success());
    ok(&["reset", "ci"]);
    ok(&["destroy", "ci"]);
    assert_eq!(fs::metadata(&at).map(|meta| (meta.ino(), meta.mode() & 0o777)).ok(), Some((inode, 0o711)));
    for mode in ["squashfs", "erofs"] {
        let said = create(mode);
        assert!(said.status.code() == Some(6) && text(&said).contains("run it as root"), "{}", text(&said));
    }
    assert_eq!(ok(&["reap"]), "nothing to reap\n");
}
