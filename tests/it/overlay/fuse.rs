//! Our filesystem as a mode: what shows, what a reset gives back, what is left of a process that was killed, who may use it.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::kernel::{listing, wreck};
use super::lab::{Lab, Process, read, text, utf8};
use crate::ground::{self, ground};
use crate::overlay_fuse::ops;

const FUSE: [&str; 2] = ["--mode", "fuse"];

/// The processes that serve overlays of this lab.
pub(super) fn daemons(lab: &Lab) -> Vec<u32> {
    let home = lab.home_dir();
    let serves = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args: Vec<_> = line.split(|&b| b == 0).collect();
        args.contains(&&b"serve"[..]) && args.contains(&utf8(&home).as_bytes())
    };
    let pids = fs::read_dir("/proc").expect("listed").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(serves).collect()
}

/// Ends the process that serves this lab's one overlay, and waits until it is gone.
pub fn kill_daemon(lab: &Lab) {
    let found = daemons(lab);
    let [pid] = found[..] else { panic!("these serve: {found:?}") };
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    wait_until(|| daemons(lab).is_empty());
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not come to be so");
}

/// As [`Lab::assert_nothing_left`], and no process.
pub fn assert_nothing_left(lab: &Lab) {
    lab.assert_nothing_left();
    wait_until(|| daemons(lab).is_empty());
}

#[test]
fn copies_that_are_made_at_once_have_one_process() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let at = lab.create("ci", &[&FUSE[..], &["--copies", "20"]].concat());
    assert_eq!(daemons(&lab).len(), 1);
    for copy in 1..=20 {
        let at = at.join(copy.to_string());
        assert_eq!(read(at.join("file")), "base");
        fs::write(at.join("file"), copy.to_string()).expect("written");
    }
    lab.ok(&["reset", "ci", "--copy", "7"]);
    for copy in 1..=20 {
        let expected = if copy == 7 { "base".into() } else { copy.to_string() };
        assert_eq!(read(at.join(format!("{copy}/file"))), expected);
    }
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn an_overlay_looks_like_its_base_takes_changes_and_gives_them_back() {
    ground!("fuse", "root");
    let lab = Lab::new();
    fs::set_permissions(lab.base(), fs::Permissions::from_mode(0o1775)).expect("set");
    let as_made = listing(&lab.base());
    let at = lab.create("ci", &FUSE);
    assert_eq!(listing(&at), as_made);
    for _ in 0..3 {
        wreck(&at);
        assert_ne!(listing(&at), as_made);
        assert_eq!(listing(&lab.base()), as_made, "the base was changed");
        let done = lab.json(&["reset", "ci"]);
        assert_eq!(done["reset"][0]["copies"][0]["atomic"], true);
        assert_eq!(listing(&at), as_made);
    }
    assert_eq!((lab.mounts(), daemons(&lab).len()), (vec![at.clone()], 1));
    let log = read(lab.home_dir().join("overlays/ci/log"));
    assert_eq!(log.matches("reset").count(), 3, "{log}");
    wreck(&at);
    lab.ok(&["destroy", "ci"]);
    assert_eq!(listing(&lab.base()), as_made);
    assert!(!at.exists(), "the directory that was made for it goes with it");
    assert_nothing_left(&lab);
}

#[test]
fn a_reader_sees_the_old_tree_or_the_new_one_and_never_none() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let at = lab.create("ci", &FUSE);
    let (done, looks, misses) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                looks.fetch_add(1, Ordering::Relaxed);
                let missed = fs::metadata(at.join("dir/deep/file")).is_err();
                misses.fetch_add(usize::from(missed), Ordering::Relaxed);
            }
        });
        for n in 0..50 {
            fs::remove_file(at.join("file")).expect("it is there again");
            fs::write(at.join("dir/deep/file"), n.to_string()).expect("written");
            lab.ok(&["reset", "ci", "--force"]);
            assert_eq!(read(at.join("dir/deep/file")), "deep");
        }
        done.store(true, Ordering::Relaxed);
    });
    let (looks, misses) = (looks.into_inner(), misses.into_inner());
    assert!(looks > 200, "it looked {looks} times");
    assert_eq!(misses, 0, "of {looks} looks");
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn who_still_uses_the_old_tree_is_named_left_or_killed() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let at = lab.create("ci", &FUSE);
    fs::write(at.join("new"), "mine").expect("written");
    let open = fs::File::options().read(true).write(true).open(at.join("new")).expect("opened");
    let mut command = Command::new("sleep");
    let sleep = Process::new(command.arg("600").current_dir("/").stdin(open.try_clone().expect("cloned")));
    let own = format!("({})", std::process::id());
    for command in ["reset", "destroy"] {
        let said = lab.fails(3, &[command, "ci"]);
        assert!(said.contains(&format!("sleep ({}) has {}/new open", sleep.pid(), at.display())), "{said}");
        assert!(said.contains(&own) && at.join("new").exists(), "{said}");
    }
    let left = text(&lab.run(&["reset", "ci", "--force"]));
    assert!(left.contains("left with the old tree: sleep"), "{left}");
    assert!(!at.join("new").exists());
    open.write_all_at(b"still", 0).expect("what is open stays");
    assert!(!at.join("new").exists() && read(at.join("file")) == "base");
    drop((open, command));
    lab.ok(&["reset", "ci"]);
    fs::write(at.join("new"), "another").expect("written");
    let other =
        Process::new(Command::new("sleep").arg("600").stdin(fs::File::open(at.join("new")).expect("opened")));
    let killed = text(&lab.run(&["reset", "ci", "--kill"]));
    assert!(killed.contains(&format!("killed: sleep ({})", other.pid())), "{killed}");
    assert!(!killed.contains(&format!("({})", sleep.pid())), "it has the old tree alone: {killed}");
    let said = lab.fails(3, &["destroy", "ci"]);
    assert!(said.contains(&format!("sleep ({})", sleep.pid())), "{said}");
    let killed = text(&lab.run(&["destroy", "ci", "--kill"]));
    assert!(killed.contains("killed: sleep"), "{killed}");
    assert_nothing_left(&lab);
}

#[test]
fn copies_are_apart_and_one_process_serves_them_all() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let at = lab.create("ci", &[&FUSE[..], &["--copies", "20"]].concat());
    assert_eq!((lab.mounts().len(), daemons(&lab).len()), (20, 1));
    let status = read(format!("/proc/{}/status", daemons(&lab)[0]));
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    assert!(
        resident.is_some_and(|kib: u32| kib < 160 << 10),
        "a buffer of 16 MiB for each: {resident:?} KiB"
    );
    for copy in [1, 2, 20] {
        fs::write(at.join(format!("{copy}/file")), copy.to_string()).expect("written");
    }
    lab.ok(&["reset", "ci", "--copy", "2", "--copy", "20"]);
    let files = [1, 2, 3, 20].map(|copy| read(at.join(format!("{copy}/file"))));
    assert_eq!(files, ["1", "base", "base", "base"]);
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn what_was_changed_is_told_as_in_mode_kernel() {
    ground!("fuse", "overlay");
    let lab = Lab::new();
    fs::write(lab.base().join("large"), vec![7; 1 << 20]).expect("written");
    let told = ["kernel", "fuse"].map(|mode| {
        let at = lab.create("ci", &["--mode", mode]);
        wreck(&at);
        let large = fs::File::options().write(true).open(at.join("large")).expect("opened");
        large.write_all_at(b"changed", 500_000).expect("written");
        drop(large);
        let told = lab.ok(&["diff", "ci"]);
        lab.ok(&["destroy", "ci"]);
        told
    });
    assert!(told[1].contains("large") && told[1].contains("renamed"), "{}", told[1]);
    assert!(told[0].contains("M renamed/link"), "also by its other name: {}", told[0]);
    assert_eq!(told[0], told[1]);
    assert_nothing_left(&lab);
}

#[test]
fn a_killed_process_is_noticed_and_the_next_command_works() {
    ground!("fuse", "root");
    for next in ["reset", "reap", "destroy", "create"] {
        let lab = Lab::new();
        let as_made = listing(&lab.base());
        let at = lab.create("ci", &[&FUSE[..], &["--copies", "2"]].concat());
        wreck(&at.join("1"));
        kill_daemon(&lab);
        let error = fs::read_dir(at.join("1")).expect_err("nobody answers");
        // What was asked in the instant of its end was aborted.
        let expected = [Some(libc::ENOTCONN), Some(libc::ECONNABORTED)];
        assert!(expected.contains(&error.raw_os_error()), "{next}: {error}");
        // It lets go of its device before it lets go of its lock.
        wait_until(|| lab.json(&["list"])["overlays"][0]["mounted"] == serde_json::json!([]));
        match next {
            "reset" => {
                let done = lab.json(&["reset", "ci"]);
                assert_eq!(done["reset"][0]["copies"][0]["atomic"], false);
            }
            "reap" => {
                let said = lab.ok(&["reap"]);
                assert_eq!(
                    said.matches("its process is gone; cowsnap overlay reset 'ci'").count(),
                    2,
                    "{said}"
                );
                assert_eq!((lab.mounts(), lab.names()), (Vec::new(), vec!["ci".to_owned()]));
                lab.ok(&["reset", "ci"]);
            }
            "create" => {
                lab.create("other", &FUSE);
                assert_eq!(lab.mounts(), [lab.at("other")], "the dead mounts are there");
                lab.ok(&["destroy", "other"]);
                lab.ok(&["reset", "ci"]);
            }
            _ => {}
        }
        if next != "destroy" {
            assert_eq!((listing(&at.join("1")), listing(&at.join("2"))), (as_made.clone(), as_made.clone()));
        }
        assert_eq!(listing(&lab.base()), as_made, "the base was changed");
        lab.ok(&["destroy", "ci"]);
        assert!(!at.exists());
        assert_nothing_left(&lab);
    }
}

#[test]
fn a_stopped_process_does_not_keep_a_killed_one_from_being_reaped() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let mut owner = Process::new(Command::new("sleep").arg("600"));
    lab.create("ci", &[&FUSE[..], &["--owner", &owner.pid().to_string()]].concat());
    kill_daemon(&lab);
    owner.end();
    assert_eq!(lab.ok(&["reap"]), "reaped ci: its owner is gone\n");
    assert_nothing_left(&lab);
}

#[test]
fn what_somebody_else_mounted_beneath_it_or_later_in_its_place_stays() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let at = lab.at("ci");
    fs::create_dir_all(&at).expect("made");
    ground::run("mount", &["-t", "tmpfs", "cowsnap-test", utf8(&at)]);
    let device = || fs::metadata(&at).expect("examined").dev();
    let theirs = device();
    lab.create("ci", &FUSE);
    assert_eq!(read(at.join("file")), "base");
    lab.ok(&["destroy", "ci"]);
    wait_until(|| daemons(&lab).is_empty());
    let left = device();
    assert_eq!(left, theirs, "what was beneath is gone");
    ground::run("umount", &[&at]);

    lab.create("ci", &FUSE);
    let mut user = Process::new(
        Command::new("sleep").arg("600").stdin(fs::File::open(at.join("file")).expect("opened")),
    );
    lab.ok(&["destroy", "ci", "--force"]);
    lab.create("next", &["--mode", "fuse"]);
    assert_eq!(daemons(&lab).len(), 2, "the first one serves who still uses it");
    fs::create_dir_all(&at).expect("made");
    ground::run("mount", &["-t", "tmpfs", "cowsnap-test", utf8(&at)]);
    fs::write(at.join("theirs"), "theirs").expect("written");
    user.end();
    wait_until(|| daemons(&lab).len() == 1);
    let kept = fs::read_to_string(at.join("theirs"));
    ground::run("umount", &[&at]);
    assert_eq!(kept.expect("what came in its place is there"), "theirs");
    fs::remove_dir(&at).expect("removed");
    lab.ok(&["destroy", "next"]);
    assert_nothing_left(&lab);
}

#[test]
fn unmounting_it_ends_its_process_and_a_reset_shows_it_again() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let at = lab.create("ci", &FUSE);
    ground::run("umount", &[&at]);
    wait_until(|| daemons(&lab).is_empty());
    lab.ok(&["reset", "ci"]);
    assert_eq!(read(at.join("file")), "base");
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_durable_overlay_shows_its_changes_again_and_another_does_not_pretend_to() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let large = vec![7; 1 << 20];
    fs::write(lab.base().join("large"), &large).expect("written");
    for durable in [true, false] {
        let more: &[&str] = if durable { &["--durable"] } else { &[] };
        let at = lab.create("ci", &[&FUSE[..], more].concat());
        let file = fs::File::options().write(true).open(at.join("large")).expect("opened");
        file.write_all_at(b"changed", 500_000).expect("written");
        file.sync_all().expect("synced");
        drop(file);
        kill_daemon(&lab);
        if durable {
            assert_eq!(lab.ok(&["mount", "ci"]).trim(), utf8(&at));
            let mut expected = large.clone();
            expected[500_000..500_007].copy_from_slice(b"changed");
            assert!(fs::read(at.join("large")).expect("read") == expected);
            assert_eq!(lab.ok(&["mount", "ci"]), "", "it shows already");
        } else {
            assert!(lab.fails(3, &["mount", "ci"]).contains("--durable"));
        }
        lab.ok(&["destroy", "ci"]);
    }
    assert_nothing_left(&lab);
}

#[test]
fn paths_of_any_bytes_and_any_length_are_served() {
    use std::os::unix::ffi::OsStrExt;
    ground!("fuse", "root");
    let lab = Lab::new();
    let names: [&[u8]; 4] = [b"a b:c,d", b"back\\slash:\n", b"\xff\xfe", &[b'x'; 200]];
    for (n, name) in names.iter().enumerate() {
        let odd = Path::new(std::ffi::OsStr::from_bytes(name));
        let deep: PathBuf = lab.root().join("odd").join(odd).join("y".repeat(100));
        let (base, at, home) = (deep.join("base"), deep.join("at"), deep.join("home"));
        fs::create_dir_all(&base).expect("made");
        fs::write(base.join("file"), "base").expect("written");
        let overlay = |args: &[&str]| {
            let mut command = lab.command(&["--home"]);
            command.arg(&home).args(args);
            command
        };
        let mut create = overlay(&["create", "ci", "--mode", "fuse", "--base"]);
        let output = create.arg(&base).arg("--at").arg(&at).output().expect("runs");
        assert!(output.status.success(), "{n}: {}", text(&output));
        fs::write(at.join("file"), "changed").expect("written");
        for command in ["reset", "destroy"] {
            let output = overlay(&[command, "ci"]).output().expect("runs");
            assert!(output.status.success(), "{n}: {}", text(&output));
            assert!(command == "destroy" || read(at.join("file")) == "base", "{n}");
        }
    }
    assert_eq!(lab.mounts(), Vec::<PathBuf>::new());
}

#[test]
fn auto_takes_it_where_a_first_write_would_copy_a_large_file() {
    ground!("fuse", "overlay", "ext4");
    let lab = Lab::on("ext4", &["-q"]);
    let database = lab.base().join("database");
    fs::File::create(&database).expect("made").set_len(200 << 20).expect("set");
    let at = lab.create("ci", &[]);
    let listed = lab.json(&["list", "ci"]);
    let overlay = &listed["overlays"][0];
    assert_eq!(overlay["mode"], "fuse");
    assert!(
        overlay["why"][0].as_str().expect("a reason").contains("only the blocks it touches"),
        "{overlay}"
    );
    let file = fs::File::options().write(true).open(at.join("database")).expect("opened");
    file.write_all_at(b"x", 100 << 20).expect("written");
    drop(file);
    let upper = lab.home_dir().join("overlays/ci/1/1/tree/database");
    let taken = fs::metadata(upper).expect("copied up").blocks() * 512;
    assert!(taken <= 1 << 20, "one byte took {taken} bytes");
    lab.ok(&["destroy", "ci"]);
    fs::remove_file(database).expect("removed");
    lab.create("ci", &[]);
    assert_eq!(lab.json(&["list", "ci"])["overlays"][0]["mode"], "kernel");
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_command_has_one_of_its_own_and_nothing_is_left_of_it() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let base = lab.base();
    let script = "cat file; echo changed > file; cat file dir/link; rm -r dir; exit 7";
    let run = ["run", "--base", utf8(&base), "--mode", "fuse", "--", "sh", "-c"];
    let output = lab.run(&[&run[..], &[script]].concat());
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(!text(&output).contains("left running"), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "basechanged\nchanged\n");
    assert_eq!(read(base.join("file")), "base");
    assert_nothing_left(&lab);
}

/// As the first process of a PID namespace, which is what a container's command is: orphans become its children.
#[test]
fn the_first_process_of_a_container_ends_what_the_command_left_and_not_what_serves_it() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let base = lab.base();
    let in_container = |options: &[&str], script: &str| {
        let run = ["run", "--base", utf8(&base), "--mode", "fuse"];
        let command = lab.command(&[&run[..], options, &["--", "sh", "-c", script]].concat());
        let mut unshare = Command::new("unshare");
        unshare
            .args(["-pf", "--mount-proc", "--kill-child"])
            .arg(command.get_program())
            .args(command.get_args());
        unshare.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        unshare.output().expect("unshare runs")
    };
    let output = in_container(&[], "echo changed > file; cat file; exit 7");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("changed") && !said.contains("left running"), "{said}");
    assert_nothing_left(&lab);
    let output = in_container(&["--keep-on-failure"], "sleep 600 & echo kept > dir/file; exit 3");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("ended what the command left running: 1 processes"), "{said}");
    let kept = said.lines().find_map(|line| line.strip_prefix("kept what it changed: ")).expect(&said);
    assert_eq!(read(Path::new(kept).join("dir/file")), "kept\n");
    assert_eq!(read(base.join("file")), "base");
    lab.ok(&["destroy", "--all"]);
    assert_nothing_left(&lab);
}

/// The same operations through the program's mounts in both modes and in a plain directory: the same answers, the same tree.
#[test]
fn random_operations_do_the_same_as_in_a_plain_directory_and_in_mode_kernel() {
    ground!("fuse", "overlay");
    let lab = Lab::new();
    ops::base(&lab.base());
    let (base, plain) = (lab.base(), lab.root().join("plain"));
    for seed in 1..=3 {
        ground::run("cp", &["-a", utf8(&base), utf8(&plain)]);
        let (kernel, fuse) = (lab.create("kernel", &["--mode", "kernel"]), lab.create("fuse", &FUSE));
        let trees = [&plain, &kernel, &fuse];
        let roots = trees.map(|tree| std::os::fd::OwnedFd::from(fs::File::open(tree).expect("opened")));
        let unnamed = ops::apply(&roots[1], &ops::Op::Unnamed(".".into(), 0o600, Vec::new(), None));
        let (mut dice, kernel_lacks) = (ops::Dice::new(seed), unnamed == Err(rustix::io::Errno::OPNOTSUPP));
        for at in 0..400 {
            let op = dice.op();
            if op.is_beyond_fuse() || op.is_unnamed() && kernel_lacks {
                continue;
            }
            let [plain, kernel, fuse] = roots.each_ref().map(|root| ops::apply(root, &op));
            assert_eq!(plain, fuse, "seed {seed}, operation {at}: {}", op.brief());
            assert_eq!(plain, kernel, "seed {seed}, operation {at}, mode kernel: {}", op.brief());
        }
        drop(roots);
        let [plain_tree, kernel_tree, fuse_tree] = trees.map(|tree| ops::dump(tree));
        assert_eq!(plain_tree, fuse_tree, "seed {seed}");
        assert_eq!(plain_tree, kernel_tree, "seed {seed}, mode kernel");
        lab.ok(&["destroy", "--all"]);
        fs::remove_dir_all(&plain).expect("removed");
    }
    assert_nothing_left(&lab);
}

/// SIGKILL of the process while suites write: the base is what it was, and a reset gives it back.
#[test]
fn kill_9_of_the_process_at_any_time_harms_nothing_below() {
    ground!("fuse", "root");
    let lab = Lab::new();
    ops::base(&lab.base());
    let before = ops::dump(&lab.base());
    let at = lab.create("ci", &FUSE);
    for point in 0..8 {
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let Ok(root) = fs::File::open(&at) else { return };
                let (root, mut dice) = (root.into(), ops::Dice::new(point));
                // What matters is what is below afterwards.
                (0..100_000)
                    .take_while(|_| at.join(".").read_dir().is_ok())
                    .for_each(|_| drop(ops::apply(&root, &dice.op())));
            });
            std::thread::sleep(Duration::from_millis(40 * point));
            kill_daemon(&lab);
            writer.join().expect("it ends");
        });
        assert!(ops::dump(&lab.base()) == before, "point {point}: the base was changed");
        lab.ok(&["reset", "ci", "--force"]);
        assert!(ops::dump(&at) == before, "point {point}: a reset gives something else");
    }
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

/// `daemon`: fusermount3 serves nobody without a name.
pub const USER: &str = "1";

/// Gives base, home and the places of overlays to that user.
pub fn give(lab: &Lab) {
    for dir in [lab.base(), lab.home_dir(), lab.at("")] {
        fs::create_dir_all(&dir).expect("made");
        ground::run("chown", &["-R", "-h", &format!("{USER}:{USER}"), utf8(&dir)]);
    }
    ground::run("chmod", &["o+rx", utf8(lab.root())]);
}

/// Runs a script as that user, with `$cowsnap` for the program, in mounts of its own; /dev/fuse has this mode there.
fn as_user(lab: &Lab, device: &str, script: &str) -> Output {
    as_user_where(lab, device, "true", script)
}

/// As if fusermount3 was not installed.
pub const WITHOUT_FUSERMOUNT3: &str = "for dir in $(realpath /bin /sbin | sort -u); do
    test -e $dir/fusermount3 || continue
    mkdir -p /mnt/upper /mnt/work && mknod /mnt/upper/fusermount3 c 0 0 || exit 99
    mount -t overlay -o lowerdir=$dir,upperdir=/mnt/upper,workdir=/mnt/work none $dir && ! test -e $dir/fusermount3 || exit 99
done";

/// The same, after `prepare` was run as root.
fn as_user_where(lab: &Lab, device: &str, prepare: &str, script: &str) -> Output {
    as_user_by(lab, device, prepare, "", script).output().expect("unshare runs")
}

/// The same, started by the program `by`.
pub fn as_user_by(lab: &Lab, device: &str, prepare: &str, by: &str, script: &str) -> Command {
    let setup = format!(
        "mount -t tmpfs none /mnt && mknod -m {device} /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse || exit 99
         {prepare}
         exec {by} setpriv --reuid {USER} --regid {USER} --clear-groups sh -c \"$0\""
    );
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &setup]);
    command.arg(format!("cowsnap={program}\ncd {}\n{script}", utf8(lab.root())));
    command.env("COWSNAP_OVERLAY_HOME", lab.home_dir());
    command
}

#[test]
fn an_ordinary_user_needs_fusermount3_and_the_device_only() {
    ground!("fuse", "root", "setpriv", "fusermount3");
    let lab = Lab::new();
    give(&lab);
    let script = "set -e
        $cowsnap overlay create ci --base base --at mnt/ci --owner none 2>&1
        echo changed > mnt/ci/file; chmod 444 mnt/ci/dir/deep/file; rm mnt/ci/symlink; mkdir mnt/ci/new; rm -r mnt/ci/dir; mkdir mnt/ci/dir
        ls -A mnt/ci/dir; cat mnt/ci/file
        $cowsnap overlay reset ci
        cat mnt/ci/file mnt/ci/dir/deep/file; test -h mnt/ci/symlink; test ! -e mnt/ci/new
        $cowsnap overlay run --base base --mode fuse -- sh -c 'echo run > file; id -u; cat file'
        $cowsnap overlay destroy ci; ls -A mnt";
    let output = as_user(&lab, "0666", script);
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("mode fuse: it needs no privilege"), "{said}");
    assert!(said.ends_with(&format!("/mnt/ci\nchanged\nbasedeep{USER}\nrun\n")), "{said}");
    assert_eq!(read(lab.base().join("file")), "base");
    assert_nothing_left(&lab);
}

/// What is said to a user without an entry in passwd.
const NAMELESS: &str = "only for a user who has a name: 1 has none (useradd --no-create-home --uid 1 NAME;";

#[test]
fn what_to_grant_is_said_with_exit_6() {
    ground!("fuse", "overlay", "setpriv", "fusermount3");
    let lab = Lab::new();
    give(&lab);
    let create = "$cowsnap overlay create ci --base base --at mnt/ci --mode fuse";
    let cases = [
        ("0600", create.to_owned(), "/dev/fuse may not be opened by this user (chmod 666 /dev/fuse)"),
        ("0666", format!("PATH=/nowhere {create}"), "there is no fusermount3 (apt install fuse3)"),
        ("0666", format!("setpriv --no-new-privs {create}"), "no_new_privs is set"),
        ("0666", create.to_owned(), NAMELESS),
    ];
    for (device, script, expected) in cases {
        let prepare = match expected {
            NAMELESS => {
                "grep -v '^[^:]*:[^:]*:1:' /etc/passwd > /mnt/passwd; mount --bind /mnt/passwd /etc/passwd || exit 99"
            }
            _ if expected.contains("apt install") => WITHOUT_FUSERMOUNT3,
            _ => "true",
        };
        let output = as_user_where(&lab, device, prepare, &script);
        let said = text(&output);
        assert!(output.status.code() == Some(6) && said.contains(expected), "{expected}: {said}");
    }
    assert_nothing_left(&lab);
}
