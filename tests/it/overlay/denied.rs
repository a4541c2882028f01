//! Who may not, is told what to grant, with exit code 6, and nothing is left.

use std::path::Path;
use std::process::{Command, Output};

use super::lab::{Lab, text, utf8};
use crate::ground::{self, ground};

/// A program for python3 that denies itself a system call (number for x86-64, for others, error) and becomes another program.
const FILTERED: &str = "
import ctypes, os, platform, struct, sys
number = int(sys.argv[1 if platform.machine() == 'x86_64' else 2])
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | int(sys.argv[3])), (0x06, 0, 0, 0x7fff0000)]
filters = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *c) for c in code))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(code), ctypes.addressof(filters)))
libc = ctypes.CDLL(None, use_errno=True)
# Without the right to do more, a filter needs the promise not to gain rights.
libc.prctl(38, 1, 0, 0, 0)
if libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit('no filter: ' + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[4], sys.argv[4:])
";
/// `fsopen` and `unshare`.
const FSOPEN: [&str; 2] = ["430", "430"];
const UNSHARE: [&str; 2] = ["272", "97"];

fn filtered(call: [&str; 2], error: i32, as_user: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", FILTERED, call[0], call[1], &error.to_string()]).args(as_user);
    command.arg(env!("CARGO_BIN_EXE_cowsnap"));
    command
}

const NOBODY: [&str; 6] = ["setpriv", "--reuid", "64321", "--regid", "64321", "--clear-groups"];

fn create(lab: &Lab, mut command: Command, mode: &str) -> Output {
    command.args(["overlay", "create", "ci", "--base"]).arg(lab.base()).arg("--at").arg(lab.at("ci"));
    command.args(["--mode", mode]).env("COWSNAP_OVERLAY_HOME", lab.home_dir()).output().expect("it runs")
}

fn run(home: &Path, mut command: Command) -> Output {
    command
        .args(["overlay", "run", "--", "true"])
        .env("COWSNAP_OVERLAY_HOME", home)
        .output()
        .expect("it runs")
}

fn assert_denied(output: &Output, grant: &str) {
    let said = text(output);
    assert!(output.status.code() == Some(6) && said.contains(grant), "{grant}: {said}");
}

#[test]
fn without_the_new_mount_calls_it_is_said_whose_filter_it_is() {
    ground!("overlay", "fuse", "/usr/bin/python3");
    let lab = Lab::new();
    for mode in ["kernel", "fuse"] {
        for (error, grant) in [(libc::ENOSYS, "newer runtime"), (libc::EPERM, "--cap-add SYS_ADMIN")] {
            assert_denied(&create(&lab, filtered(FSOPEN, error, &[]), mode), grant);
        }
    }
    assert_eq!(lab.names(), [""; 0]);
    lab.assert_nothing_left();
}

#[test]
fn without_a_user_namespace_it_is_said_what_denies_it() {
    ground!("overlay", "userns", "setpriv", "/usr/bin/python3");
    let lab = Lab::new();
    let home = lab.home_dir();
    assert_denied(&run(&home, filtered(UNSHARE, libc::EPERM, &NOBODY)), "seccomp=unconfined");
    // A namespace that may have none itself.
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let none_within = format!("echo 0 > /proc/sys/user/max_user_namespaces && exec '{program}' \"$@\"");
    let mut command = Command::new(NOBODY[0]);
    command.args(&NOBODY[1..]).args(["unshare", "-Ur", "sh", "-c", &none_within, "sh"]);
    assert_denied(&run(&home, command), "sysctl user.max_user_namespaces=10000");
    // One without ids.
    let mut command = Command::new(NOBODY[0]);
    command.args(&NOBODY[1..]).args(["unshare", "-U", program]);
    assert_denied(&run(&home, command), "--map-current-user");
    assert!(!home.exists(), "nothing is begun");
}

#[test]
fn without_the_device_it_is_said_which() {
    ground!("fuse", "root", "unshare");
    let lab = Lab::new();
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let without = "mount -t tmpfs none /mnt && touch /mnt/urandom /mnt/null && mount --bind /dev/urandom /mnt/urandom \
                   && mount --bind /dev/null /mnt/null && mount --move /mnt /dev";
    let nodev =
        "mount -t tmpfs -o nodev none /mnt && mknod /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse";
    for (hides, grant) in [
        (without, "there is no /dev/fuse (modprobe fuse; in a container: --device /dev/fuse)"),
        (nodev, "it is mounted nodev"),
    ] {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &format!("{hides} && exec '{program}' \"$@\""), "sh"]);
        assert_denied(&create(&lab, command, "fuse"), grant);
    }
    assert_eq!(lab.names(), [""; 0]);
    ground::run("test", &["!", "-e", utf8(&lab.at("ci"))]);
    lab.assert_nothing_left();
}
