//! What the kernel is asked for is what it does: read from what it says itself.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

use super::fuse::daemons;
use super::lab::{Lab, read, text, utf8};
use crate::ground::{self, ground};

/// A process that does nothing until this is dropped.
pub struct Stopped(Pid);

impl Stopped {
    pub fn new(pid: u32) -> Self {
        let pid = Pid::from_raw(pid as i32).expect("a pid");
        rustix::process::kill_process(pid, Signal::STOP).expect("stopped");
        ground::waits("it to stop", || {
            let stat = read(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            stat[stat.rfind(')').expect("a name")..].starts_with(") T")
        });
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::CONT);
    }
}

/// What the process could not answer is answered without it.
#[test]
fn data_goes_past_the_process_which_may_stand_still() {
    ground!("fuse", "root", "passthrough");
    let lab = Lab::new();
    let bytes = vec![7; 4 << 20];
    fs::write(lab.base().join("large"), &bytes).expect("written");
    let at = lab.create("ci", &["--mode", "fuse"]);
    let large = File::open(at.join("large")).expect("opened");
    let new = File::options().read(true).write(true).create_new(true).open(at.join("new")).expect("made");
    // Before the first write to a file, the kernel asks for what lends rights.
    new.write_all_at(b"x", 0).expect("written");
    let [daemon] = daemons(&lab)[..] else { panic!("one process serves") };
    let stopped = Stopped::new(daemon);
    let (sender, answered) = std::sync::mpsc::channel();
    let user = std::thread::spawn(move || {
        let mut found = vec![0; 4 << 20];
        large.read_exact_at(&mut found, 0).expect("read");
        new.write_all_at(&found, 0).expect("written");
        let mut again = vec![0; 4 << 20];
        new.read_exact_at(&mut again, 0).expect("read");
        sender.send(()).expect("sent");
        (found, again)
    });
    let answered = answered.recv_timeout(std::time::Duration::from_secs(60));
    drop(stopped);
    let (found, again) = user.join().expect("it ends");
    answered.expect("nobody has to be asked for data");
    assert!(found == bytes && again == bytes);
    // The measure: a name is asked for.
    let stopped = Stopped::new(daemon);
    let looker = std::thread::spawn(move || at.join("none").exists());
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!looker.is_finished(), "the process stands still, and answers");
    drop(stopped);
    assert!(!looker.join().expect("it ends"));
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// Where data begins and ends is told as of the base, and as of what was written into its blocks.
#[test]
fn holes_are_where_there_is_no_data() {
    use rustix::fs::{SeekFrom, seek};
    ground!("fuse", "ext4");
    const MIB: u64 = 1 << 20;
    let lab = Lab::on("ext4", &["-q"]);
    let sparse = File::create(lab.base().join("sparse")).expect("made");
    sparse.set_len(64 * MIB).expect("made longer");
    sparse.write_all_at(&[7; 4096], MIB).expect("written");
    let at = lab.create("ci", &["--mode", "fuse"]);
    let file = File::options().read(true).write(true).open(at.join("sparse")).expect("opened");
    let all = || {
        let (mut found, mut offset) = (Vec::new(), 0);
        while let Ok(data) = seek(&file, SeekFrom::Data(offset)) {
            offset = seek(&file, SeekFrom::Hole(data)).expect("the end is one");
            found.push((data, offset));
        }
        found
    };
    assert_eq!(all(), [(MIB, MIB + 4096)]);
    file.write_all_at(b"x", 40 * MIB).expect("written");
    let found = all();
    let [first, (data, end)] = found[..] else { panic!("{found:?}") };
    assert_eq!(first, (MIB, MIB + 4096));
    // What is copied is a block, of which the most is 1 MiB.
    assert!((39 * MIB..=40 * MIB).contains(&data) && (40 * MIB + 1..=41 * MIB).contains(&end), "{found:?}");
    drop(file);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// The options of the one overlayfs of that home in a table of mounts.
fn options(mountinfo: &str, home: &str) -> Vec<String> {
    let lines = mountinfo.lines().filter(|line| line.contains(&format!(" - overlay cowsnap:{home}:")));
    let all: Vec<_> = lines.collect();
    let [line] = all[..] else { panic!("these are mounted: {all:?}") };
    line.rsplit(' ').next().expect("options").split(',').map(str::to_owned).collect()
}

/// Kernels since 6.18 say `fsync=volatile`.
fn has(options: &[String], what: &str) -> bool {
    options.iter().any(|option| option == what || *option == format!("fsync={what}"))
}

#[test]
fn overlayfs_is_mounted_with_what_it_is_meant_to_be() {
    ground!("overlay", "ext4", "xfs");
    // Metadata alone is copied where data would be expensive; where blocks are shared, there is nothing to gain.
    for (lab, copies) in [(Lab::on("ext4", &["-q"]), true), (Lab::on("xfs", &["-q"]), false)] {
        lab.create("ci", &["--mode", "kernel"]);
        let of = |lab: &Lab| options(&read("/proc/self/mountinfo"), lab.home().id());
        let made = of(&lab);
        assert!(["volatile", "redirect_dir=on", "index=on"].iter().all(|what| has(&made, what)), "{made:?}");
        assert_eq!(has(&made, "metacopy=on"), copies, "{made:?}");
        assert!(!has(&made, "userxattr"), "{made:?}");
        lab.ok(&["reset", "ci"]);
        assert_eq!(of(&lab).len(), made.len(), "a reset mounts as it was: {:?}", of(&lab));
        lab.ok(&["destroy", "ci"]);
        lab.create("ci", &["--mode", "kernel", "--durable"]);
        assert!(!has(&of(&lab), "volatile"), "{:?}", of(&lab));
        lab.ok(&["destroy", "ci"]);
        lab.assert_nothing_left();
    }
}

#[test]
fn inode_numbers_of_base_and_changes_are_told_apart_where_they_are_of_two_filesystems() {
    ground!("overlay", "ext4", "xfs");
    let (lab, other) = (Lab::on("ext4", &["-q"]), Lab::on("xfs", &["-q"]));
    let (base, at) = (other.base(), lab.at("ci"));
    lab.ok(&["create", "ci", "--base", utf8(&base), "--at", utf8(&at), "--mode", "kernel"]);
    let mounted = options(&read("/proc/self/mountinfo"), lab.home().id());
    assert!(mounted.iter().any(|option| option == "xino=auto" || option == "xino=on"), "{mounted:?}");
    let number = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("examined"));
    let before = number(&at.join("file"));
    fs::write(at.join("file"), "changed").expect("written");
    assert_eq!(number(&at.join("file")), before, "a copy has the number of what was copied");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn in_a_user_namespace_overlayfs_uses_the_users_attributes() {
    ground!("overlay", "userns", "setpriv");
    let lab = Lab::new();
    for dir in [lab.base(), lab.home_dir()] {
        fs::create_dir_all(&dir).expect("mkdir");
        ground::run("chown", &["-R", "-h", "64321:64321", utf8(&dir)]);
    }
    ground::run("chmod", &["o+rx", utf8(lab.root())]);
    let output = Command::new("setpriv")
        .args(["--reuid", "64321", "--regid", "64321", "--clear-groups", env!("CARGO_BIN_EXE_cowsnap")])
        .args(["overlay", "--home", utf8(&lab.home_dir()), "run", "--mode", "kernel", "--base"])
        .args([utf8(&lab.base()), "--", "cat", "/proc/self/mountinfo"])
        .output()
        .expect("setpriv runs");
    assert!(output.status.success(), "{}", text(&output));
    let home: serde_json::Value =
        serde_json::from_str(&read(lab.home_dir().join("home.json"))).expect("JSON");
    let made = options(&String::from_utf8_lossy(&output.stdout), home["id"].as_str().expect("an id"));
    assert!(has(&made, "userxattr") && has(&made, "volatile"), "{made:?}");
    assert!(!["metacopy=on", "redirect_dir=on"].iter().any(|what| has(&made, what)), "{made:?}");
}

#[test]
fn acls_are_kept_and_minded_in_mode_fuse() {
    ground!("fuse", "root", "setfacl", "setpriv");
    let lab = Lab::new();
    ground::run("chmod", &["-R", "o-rwx", utf8(&lab.base())]);
    ground::run("chmod", &["o+rx", utf8(lab.root()), utf8(&lab.base())]);
    ground::run("setfacl", &["-m", "u:64321:r", utf8(&lab.base().join("file"))]);
    let at = lab.create("ci", &["--mode", "fuse"]);
    ground::run("chmod", &["o+rx", utf8(&at), utf8(&at.join(".."))]);
    let may = |what: &str, name: &str| {
        let args = ["--reuid", "64321", "--regid", "64321", "--clear-groups", "test", what];
        Command::new("setpriv").args(args).arg(at.join(name)).status().expect("it runs").success()
    };
    assert!(may("-r", "file") && !may("-w", "file"), "the base's");
    ground::run("setfacl", &["-m", "u:64321:rw", utf8(&at.join("file"))]);
    assert!(may("-w", "file"), "one that was set here");
    ground::run("setfacl", &["-d", "-m", "u:64321:rw", utf8(&at.join("dir"))]);
    ground::run("setfacl", &["-m", "u:64321:rx", utf8(&at.join("dir"))]);
    fs::write(at.join("dir/new"), "new").expect("written");
    assert!(may("-w", "dir/new"), "one that was inherited");
    let told = ground::run("getfacl", &["-cp", utf8(&at.join("dir/new"))]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("user:64321:rw"), "{}", text(&told));
    lab.ok(&["reset", "ci"]);
    assert!(may("-r", "file") && !may("-w", "file"), "as it was");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn locks_keep_other_processes_out_in_mode_fuse() {
    ground!("fuse", "root", "flock", "/usr/bin/python3");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "fuse"]);
    let path = at.join("file");
    let file = File::options().read(true).write(true).open(&path).expect("opened");
    let flocks = || Command::new("flock").args(["-n", utf8(&path), "true"]).status().expect("runs").success();
    let range = "import fcntl, sys\nf = open(sys.argv[1], 'r+')\ntry: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))\nexcept OSError: sys.exit(9)";
    let locks = |byte: &str| {
        let status = Command::new("/usr/bin/python3").args(["-c", range, utf8(&path), byte]).status();
        match status.expect("runs").code() {
            Some(0) => true,
            Some(9) => false,
            other => panic!("python3 ended with {other:?}"),
        }
    };
    assert!(flocks() && locks("0"));
    rustix::fs::flock(&file, FlockOperation::LockExclusive).expect("locked");
    assert!(!flocks());
    rustix::fs::flock(&file, FlockOperation::Unlock).expect("unlocked");
    assert!(flocks());
    rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive).expect("locked");
    assert!(!locks("0") && !locks("1"));
    rustix::fs::fcntl_lock(&file, FlockOperation::Unlock).expect("unlocked");
    assert!(locks("0"));
    drop(file);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn the_room_that_mode_fuse_tells_is_that_of_the_filesystem_of_the_changes() {
    ground!("fuse", "ext4");
    let lab = Lab::on("ext4", &["-q"]);
    let at = lab.create("ci", &["--mode", "fuse"]);
    let [here, below] = [&at, &lab.home_dir()].map(|dir| rustix::fs::statvfs(dir).expect("examined"));
    assert_eq!(
        (here.f_blocks * here.f_frsize, here.f_files),
        (below.f_blocks * below.f_frsize, below.f_files)
    );
    assert_eq!((here.f_namemax, here.f_bsize), (below.f_namemax, below.f_bsize));
    let free = |dir: &Path| rustix::fs::statvfs(dir).map(|fs| fs.f_bfree * fs.f_frsize).expect("examined");
    let before = free(&at);
    let file = File::create(at.join("new")).expect("made");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 50 << 20).expect("allocated");
    let taken = before.saturating_sub(free(&at));
    assert!((50 << 20..60 << 20).contains(&taken), "50 MiB took {taken} bytes");
    drop(file);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// A bench that can not judge what it is for does not say that all is well.
#[test]
fn a_bench_without_what_it_compares_with_fails() {
    ground!("root", "bash");
    let tools = tempfile::tempdir().expect("a folder");
    for tool in ["bash", "dirname", "mktemp", "id", "rm", "umount", "fio", "jq", "git", "python3"] {
        let found = ["/usr/local/bin", "/usr/bin", "/bin"].iter().map(|dir| Path::new(dir).join(tool));
        let found = found.clone().find(|path| path.exists()).unwrap_or("/bin/true".into());
        std::os::unix::fs::symlink(found, tools.path().join(tool)).expect("linked");
    }
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/overlay-fuse");
    let output =
        Command::new("/bin/bash").arg(bench).env("PATH", tools.path()).env("COWSNAP", "/bin/true").output();
    let output = output.expect("it runs");
    let said = text(&output);
    assert!(output.status.code() == Some(6) && said.contains("fuse-overlayfs"), "{said}");
    assert!(said.contains("scripts/deps bench"), "{said}");
}

/// ext4 looks at each inode of a group that was freed in the last minutes before it gives out one: what is reset again and again is not all in one.
#[test]
fn each_reset_begins_in_another_part_of_an_ext4() {
    ground!("overlay", "ext4");
    let lab = Lab::on("ext4", &["-q", "-F", "-O", "^flex_bg"]);
    let said = text(&ground::run("dumpe2fs", &["-h", utf8(&lab.image())]));
    let per_group = said.lines().find_map(|line| line.strip_prefix("Inodes per group:"));
    let per_group: u64 = per_group.expect("it is said").trim().parse().expect("a number");
    for mode in ["kernel", "fuse"] {
        lab.create("ci", &["--mode", mode]);
        let copy = lab.home().dir().join("overlays/ci/1");
        let mut groups = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let made = fs::read_dir(&copy).expect("listed").map(|made| made.expect("read").path());
            let groups_of: Vec<u64> = made
                .flat_map(|made| [made.join("tree"), made.join("work"), made])
                .map(|dir| (fs::metadata(dir).expect("there").ino() - 1) / per_group)
                .collect();
            let [first, all @ ..] = &groups_of[..] else { panic!("there is no generation") };
            assert!(
                all.iter().all(|group| group == first),
                "what is made at once lies together: {groups_of:?}"
            );
            groups.insert(*first);
            lab.ok(&["reset", "ci"]);
        }
        assert!(groups.len() > 1, "all in one group, in mode {mode}: {groups:?}");
        lab.ok(&["destroy", "ci"]);
    }
    lab.assert_nothing_left();
}
