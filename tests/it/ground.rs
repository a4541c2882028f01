//! What a test stands on: real filesystems on loop devices, gone with the test, and the word for what is missing.
//!
//! A test that lacks its ground prints `SKIP name: reason`; what `COWSNAP_REQUIRE` names may not be lacking.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Ends the test with a `SKIP` line unless all of these are here; panics if `COWSNAP_REQUIRE` names one that is not.
macro_rules! ground {
    ($($what:literal),+) => {
        $(if let Some(reason) = $crate::ground::lacking($what) {
            let required = std::env::var("COWSNAP_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|r| r == $what), "COWSNAP_REQUIRE names {}: {reason}", $what);
            let function = std::thread::current().name().unwrap_or("?").to_owned();
            $crate::ground::skip(&function, &reason);
            return;
        })+
    };
}
pub(crate) use ground;

/// Says that a test was skipped: on standard output, and in the file that `scripts/test` reads, for a runner shows no
/// output of tests that pass.
pub fn skip(test: &str, reason: &str) {
    println!("SKIP {test}: {reason}");
    let Some(file) = std::env::var_os("COWSNAP_SKIPS") else { return };
    let mut file = std::fs::OpenOptions::new().append(true).open(&file).expect("COWSNAP_SKIPS names a file");
    std::io::Write::write_all(&mut file, format!("SKIP {test}: {reason}\n").as_bytes())
        .expect("append a line");
}

/// Why `what` is not to be had here; `None` if it is.
pub fn lacking(what: &str) -> Option<String> {
    let tool = |name: &str| match Command::new(name)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
    {
        Ok(_) => None,
        Err(error) => Some(format!("{name}: {error}")),
    };
    match what {
        "root" => (!rustix::process::geteuid().is_root()).then(|| "not root".into()),
        "loop" => lacking("root")
            .or_else(|| (!Path::new("/dev/loop-control").exists()).then(|| "no /dev/loop-control".into())),
        "btrfs" => lacking("loop").or_else(|| tool("mkfs.btrfs")).or_else(|| lacking_filesystem("btrfs")),
        "xfs" => lacking("loop").or_else(|| tool("mkfs.xfs")).or_else(|| lacking_filesystem("xfs")),
        "ext4" => lacking("loop").or_else(|| tool("mkfs.ext4")).or_else(|| lacking_filesystem("ext4")),
        "overlay" => lacking("root").or_else(|| lacking_filesystem("overlay")),
        "zfs" => lacking("root").or_else(|| {
            let is_missing = !Path::new("/dev/zfs").exists() && !run_ok("modprobe", &["zfs"]);
            is_missing.then(|| "the kernel has no zfs (scripts/test --vm has)".into())
        }),
        "systemd" => lacking("root").or_else(|| {
            let is_there =
                Path::new("/run/systemd/private").exists() && Path::new("/run/systemd/system").is_dir();
            (!is_there).then(|| "systemd has not started this machine (scripts/test --vm has one)".into())
        }),
        "userns" => {
            let args = ["--reuid", "64321", "--regid", "64321", "--clear-groups", "unshare", "-U", "true"];
            (!run_ok("setpriv", &args)).then(|| "an ordinary user gets no user namespace".into())
        }
        // 6.5: MOVE_MOUNT_BENEATH.
        "beneath" => lacking_version((6, 5), "puts no mount beneath another"),
        // 6.9: FUSE_PASSTHROUGH.
        "passthrough" => lacking_version((6, 9), "passes no data by a FUSE process"),
        "fuse" => match open_fuse() {
            Err(error) => Some(format!("/dev/fuse: {error}")),
            Ok(_) if rustix::process::geteuid().is_root() => None,
            Ok(_) => tool("fusermount3"),
        },
        // 0xEFFFFFFC: who is in it sees all processes of the machine.
        "first-pid-namespace" => {
            let own = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
            (own.as_os_str() != "pid:[4026531836]")
                .then(|| "the tests are in a pid namespace of their own".into())
        }
        "sshd" => lacking("root").or_else(|| {
            (!Path::new("/usr/sbin/sshd").exists()).then(|| "no /usr/sbin/sshd (openssh-server)".into())
        }),
        "litecoind" => crate::chain::lacking(),
        "zfs-headers" => (!Path::new("/usr/include/libzfs/libzfs_core.h").exists())
            .then(|| "no libzfs_core.h (libzfslinux-dev)".into()),
        other => tool(other),
    }
}

fn lacking_version(wanted: (u32, u32), what: &str) -> Option<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (version < wanted).then(|| format!("Linux {} {what}", release.trim()))
}

/// Where the module is not loaded, there may be no such file yet.
fn open_fuse() -> std::io::Result<std::fs::File> {
    let open = || std::fs::File::options().read(true).write(true).open("/dev/fuse");
    open().or_else(|error| if run_ok("modprobe", &["fuse"]) { open() } else { Err(error) })
}

fn lacking_filesystem(name: &str) -> Option<String> {
    let known = || std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_known = || known().lines().any(|line| line.split_whitespace().last() == Some(name));
    let loaded = is_known() || (run_ok("modprobe", &[name]) && is_known());
    (!loaded).then(|| format!("the kernel has no {name}"))
}

fn run_ok(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|o| o.status.success())
}

/// Runs a program and panics with its words if it fails.
pub fn run<S: AsRef<std::ffi::OsStr>>(program: &str, args: &[S]) -> Output {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let words: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
    assert!(
        output.status.success(),
        "{program} {}: {}\n{}{}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Waits until it is so, and panics if it never is.
pub fn waits(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1200 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("waited for {what}");
}

/// A btrfs filesystem of its own on a sparse file and a loop device, mounted (subvolid 5) on a temporary directory.
pub struct Btrfs {
    folder: tempfile::TempDir,
}

impl Btrfs {
    /// 1 GiB, sparse.
    pub fn new() -> Self {
        Self::with("1G", &[], "")
    }

    /// Of that size, with these arguments to `mkfs.btrfs` and these mount options.
    pub fn with(size: &str, mkfs: &[&str], options: &str) -> Self {
        let folder = scratch();
        let image = folder.path().join("image");
        run("truncate", &["-s", size, image.to_str().expect("utf-8")]);
        let mut args = vec!["-q", "-f"];
        args.extend(mkfs);
        args.push(image.to_str().expect("utf-8"));
        run("mkfs.btrfs", &args);
        std::fs::create_dir(folder.path().join("mnt")).expect("mkdir");
        let ground = Self { folder };
        let options = if options.is_empty() { "loop".into() } else { format!("loop,{options}") };
        run(
            "mount",
            &[
                "-t",
                "btrfs",
                "-o",
                &options,
                image.to_str().expect("utf-8"),
                ground.path().to_str().expect("utf-8"),
            ],
        );
        ground
    }

    /// Where its top level is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// A directory beside it, not on it.
    pub fn outside(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the empty subvolume `name` at its top level, with the oracle's tool.
    pub fn subvolume(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        run("btrfs", &["subvolume", "create", path.to_str().expect("utf-8")]);
        path
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        unmount_below(self.folder.path());
    }
}

/// A filesystem that takes no snapshots, of its own, on a sparse file and a loop device.
pub struct Plain {
    folder: tempfile::TempDir,
}

impl Plain {
    /// One whose files can share blocks.
    pub fn xfs() -> Self {
        Self::with("xfs", "mkfs.xfs", &["-q", "-m", "reflink=1"], "400M")
    }

    /// One whose files can not.
    pub fn ext4() -> Self {
        Self::with("ext4", "mkfs.ext4", &["-q", "-F"], "300M")
    }

    /// Of that kind and size, made by `mkfs` with these arguments.
    pub fn with(kind: &str, mkfs: &str, args: &[&str], size: &str) -> Self {
        let folder = scratch();
        let text = |path: PathBuf| path.to_str().expect("utf-8").to_owned();
        let (image, at) = (text(folder.path().join("image")), text(folder.path().join("mnt")));
        run("truncate", &["-s", size, &image]);
        run(mkfs, &[args, &[&image]].concat());
        std::fs::create_dir(&at).expect("mkdir");
        let ground = Self { folder };
        run("mount", &["-t", kind, "-o", "loop", &image, &at]);
        ground
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// A directory beside it, not on it.
    pub fn outside(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        unmount_below(self.folder.path());
    }
}

const PREFIX: &str = "cowsnap-test-";

/// A temporary directory; what a killed test leaves mounted in one is unmounted by a later test.
pub fn scratch() -> tempfile::TempDir {
    sweep_what_killed_tests_left();
    tempfile::Builder::new().prefix(&own_prefix()).tempdir().expect("a temporary directory")
}

/// Unmounts what is below `folder`, deepest first. A busy mount is detached, so that its loop device goes with its last user.
/// Another test's mount may have a name that is no text: the table is not read as one.
pub fn unmount_below(folder: &Path) {
    let mounts = cowsnap::sys::mount::mounts().unwrap_or_default().into_iter().map(|mount| mount.dir);
    let mut below: Vec<_> = mounts.filter(|dir| dir.starts_with(folder)).collect();
    below.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
    let umount = |option: &str, dir: &Path| {
        Command::new("umount").args(["-n", option]).arg(dir).output().is_ok_and(|o| o.status.success())
    };
    for dir in below {
        if !umount("--", &dir) {
            umount("-l", &dir);
        }
    }
}

/// What the names of this test's own things begin with: process numbers are others in another suite's namespace.
pub fn own_prefix() -> String {
    format!("{PREFIX}{}-{}-", std::process::id(), numbering())
}

fn numbering() -> String {
    let namespace =
        std::fs::metadata("/proc/self/ns/pid").map_or(0, |of| std::os::unix::fs::MetadataExt::ino(&of));
    format!("{:x}", namespace & 0xff_ffff)
}

/// Whether something that is called so was a test's that is gone.
pub fn is_of_a_dead_test(name: &str) -> bool {
    let mut fields = name.strip_prefix(PREFIX).unwrap_or_default().split('-');
    let owner = fields.next().and_then(|pid| pid.parse::<u32>().ok());
    fields.next() == Some(&numbering())
        && owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// A test that is killed cleans nothing up: the next one does, for processes that are gone.
fn sweep_what_killed_tests_left() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_of_a_dead_test(&name) {
            unmount_below(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The `cowsnap` program with a state directory of the test's own.
pub fn cowsnap(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cowsnap"));
    command.env("COWSNAP_STATE_DIR", state).env_remove("RUST_LOG");
    // Whatever other overlays this machine has is nothing to a test.
    command.env("COWSNAP_OVERLAY_HOME", state.join("overlays"));
    command
}
