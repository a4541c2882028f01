//! Two hosts in one: network namespaces with a line between them, and an sshd in the second. Gone with the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{is_of_a_dead_test, own_prefix, run, waits};

const SSHD: &str = "/usr/sbin/sshd";
const HERE: &str = "10.77.0.1";
const THERE: &str = "10.77.0.2";
const PORT: &str = "2222";
/// Its keys, its host key, its configuration; nothing of the machine's.
const SSHD_CONFIG: &str = "AuthenticationMethods publickey\nUsePAM no\nStrictModes no\nPidFile none\nUseDNS no\n\
    PrintMotd no\nPrintLastLog no\nClientAliveCountMax 2\nMaxStartups 100\n";
const SSH_OPTIONS: [&str; 8] = [
    "BatchMode=yes",
    "IdentitiesOnly=yes",
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "ControlPath=none",
    "LogLevel=ERROR",
    "ServerAliveCountMax=2",
    "ConnectTimeout=60",
];

/// The line, and who listens at its other end.
pub struct Net {
    name: String,
    folder: tempfile::TempDir,
    sshd: Option<Child>,
    /// After how many seconds of silence both sides ask whether the other is still there; 0 for never.
    alive: u32,
}

impl Net {
    /// Both sides take the line for dead after three times as many seconds of silence; never, if it is 0.
    pub fn new(alive: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep_what_killed_tests_left();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number}", own_prefix());
        let folder = tempfile::Builder::new().prefix(&format!("{name}-net-")).tempdir().expect("a directory");
        let mut net = Self { name, folder, sshd: None, alive };
        net.lay_the_line();
        net.make_keys();
        net.listen();
        net
    }

    /// Runs on the host that sends.
    pub fn here(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        within(&self.namespace("here"), program)
    }

    /// Runs on the host that receives, but not through ssh.
    pub fn there(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        within(&self.namespace("there"), program)
    }

    /// `ssh` from the first host to the second, where `script` is run.
    pub fn ssh(&self, script: &str) -> Command {
        let mut ssh = self.here("ssh");
        ssh.args(self.ssh_options()).args(["-p", PORT, &format!("root@{THERE}"), script]);
        ssh
    }

    /// What `ssh` is told on the first host before it is told where to go.
    pub fn ssh_options(&self) -> Vec<String> {
        let own =
            [self.text("UserKnownHostsFile=", "known_hosts"), format!("ServerAliveInterval={}", self.alive)];
        let options = SSH_OPTIONS.into_iter().map(str::to_owned).chain(own);
        let words = ["-F".to_owned(), "none".into(), "-i".into(), self.text("", "key")];
        words.into_iter().chain(options.flat_map(|option| ["-o".into(), option])).collect()
    }

    /// How the first host calls what is at `path` on the second.
    pub fn url(&self, path: &Path) -> String {
        format!("ssh://root@{THERE}:{PORT}/{}", path.display())
    }

    /// Cuts the line, or mends it.
    pub fn set_line(&self, is_up: bool) {
        let state = if is_up { "up" } else { "down" };
        run("ip", &["-n", &self.namespace("there"), "link", "set", "line", state]);
    }

    fn lay_the_line(&self) {
        let ends = ["here", "there"].map(|end| self.namespace(end));
        ends.iter().for_each(|end| drop(run("ip", &["netns", "add", end])));
        let [here, there] = &ends;
        let words =
            ["link", "add", "line", "netns", here, "type", "veth", "peer", "name", "line", "netns", there];
        run("ip", &words);
        for (end, address) in [(here, HERE), (there, THERE)] {
            run("ip", &["-n", end, "address", "add", &format!("{address}/24"), "dev", "line"]);
            run("ip", &["-n", end, "link", "set", "line", "up"]);
        }
    }

    fn make_keys(&self) {
        for key in ["key", "host_key"] {
            let file = self.text("", key);
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", &file]);
        }
        fs::copy(self.file("key.pub"), self.file("authorized_keys")).expect("copied");
        let host_key = fs::read_to_string(self.file("host_key.pub")).expect("read");
        fs::write(self.file("known_hosts"), format!("[{THERE}]:{PORT} {host_key}")).expect("written");
    }

    fn listen(&mut self) {
        let config = format!(
            "Port {PORT}\nListenAddress {THERE}\nClientAliveInterval {}\n{}\n{}\n{SSHD_CONFIG}",
            self.alive,
            self.text("HostKey ", "host_key"),
            self.text("AuthorizedKeysFile ", "authorized_keys")
        );
        fs::write(self.file("sshd_config"), config).expect("written");
        fs::create_dir_all("/run/sshd").expect("its empty directory");
        let log = File::create(self.file("log")).expect("a log");
        let mut sshd = self.there(SSHD);
        sshd.args(["-D", "-e", "-f"]).arg(self.file("sshd_config"));
        let sshd = sshd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("sshd");
        self.sshd = Some(sshd);
        let log = || fs::read_to_string(self.file("log")).expect("its log");
        waits("sshd to listen", || log().contains("Server listening"));
    }

    fn namespace(&self, end: &str) -> String {
        format!("{}-{end}", self.name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, word: &str, name: &str) -> String {
        format!("{word}{}", self.file(name).display())
    }
}

/// `nsenter` becomes the program: its process is the program's, and it sees the mounts that the test sees.
fn within(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program);
    command
}

impl Drop for Net {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("sshd: {}", fs::read_to_string(self.file("log")).unwrap_or_default());
        }
        ["here", "there"].iter().for_each(|end| take_away(&self.namespace(end)));
        if let Some(mut sshd) = self.sshd.take() {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
    }
}

/// Ends what runs in a namespace, and takes it away.
fn take_away(namespace: &str) {
    let listed = Command::new("ip").args(["netns", "pids", namespace]).output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
}

/// A test that is killed cleans nothing up: the next one does, for processes that are gone.
fn sweep_what_killed_tests_left() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_of_a_dead_test(&name) {
            take_away(&name);
        }
    }
}

#[test]
fn two_hosts_go_with_their_value() {
    crate::ground::ground!("ip", "ssh", "sshd");
    let namespaces = || {
        let mine = own_prefix();
        let all = fs::read_dir("/run/netns").expect("a directory").flatten();
        all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&mine)).count()
    };
    let (sshd, mut left) = {
        let net = Net::new(0);
        let output = net.ssh("ip -o -4 addr show dev line; exit 7").output().expect("ssh");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(7) && said.contains(THERE), "{output:?}");
        // Somebody who does not end by himself.
        let left = net.ssh("sleep 1000").stdin(Stdio::null()).spawn().expect("ssh");
        (net.sshd.as_ref().expect("it listens").id(), left)
    };
    assert!(!left.wait().expect("it ends").success());
    assert!(!Path::new(&format!("/proc/{sshd}")).exists());
    assert_eq!(namespaces(), 0);
}
