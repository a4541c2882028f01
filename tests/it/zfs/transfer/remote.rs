//! From one host to another through ssh, whoever dies on the way.
//!
//! Each host has a pool and a state directory of its own. Between sender and ssh stands a valve that lets so many bytes
//! through; then somebody is killed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio};

use cowsnap::model::quoted;
use rustix::process::{Pid, Signal, kill_process};

use super::raw::encrypted;
use super::{Lab, get, noise, waits};
use crate::ground::{ground, run};
use crate::net::Net;
use crate::zfs::ground::{Pool, zfs};

/// What does not come to an end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Sender,
    Receiver,
    Ssh,
    /// The process of sshd that has the connection.
    Sshd,
    /// Nobody dies: nothing comes through any more.
    Line,
}

struct Remote {
    net: Net,
    /// Its source is here, its target there.
    lab: Lab,
    there: Pool,
}

/// How each of them ended.
#[derive(Debug)]
struct Ended {
    sender: ExitStatus,
    ssh: ExitStatus,
    /// As the shell there sees it: 137 if it was killed.
    receiver: i32,
    sender_said: String,
    receiver_said: String,
}

impl Ended {
    fn codes(&self) -> (Option<i32>, Option<i32>, i32) {
        (self.sender.code(), self.ssh.code(), self.receiver)
    }

    fn all_went_well(&self) {
        assert_eq!(self.codes(), (Some(0), Some(0), 0), "{self:#?}");
    }

    /// The digest that a side tells of.
    fn digest(said: &str) -> &str {
        let (_, rest) = said.rsplit_once("blake3 ").unwrap_or_else(|| panic!("no digest: {said}"));
        &rest[..64]
    }
}

impl Remote {
    fn new(lab: Lab) -> Self {
        Self::with(lab, 0)
    }

    /// Of hosts that take the line for dead after so many seconds of silence, three times.
    fn with(mut lab: Lab, alive: u32) -> Self {
        let there = Pool::new();
        lab.target = format!("{}/copy of:it", there.dataset("backup"));
        Self { net: Net::new(alive), lab, there }
    }

    fn program() -> &'static str {
        env!("CARGO_BIN_EXE_cowsnap")
    }

    /// A file of the host that receives.
    fn there(&self, name: &str) -> PathBuf {
        self.there.outside().join(name)
    }

    /// A command for the shell there.
    fn script(&self, words: &[&str]) -> String {
        let state = format!("COWSNAP_STATE_DIR={}", self.there("state").display());
        let words = ["env", &state, Self::program()]
            .into_iter()
            .chain(words.iter().copied())
            .map(|word| quoted(word).to_string());
        words.collect::<Vec<_>>().join(" ")
    }

    /// Runs it there well, without ssh; what it wrote to standard output.
    fn does(&self, words: &[&str]) -> String {
        let mut command = self.net.there(Self::program());
        command.args(words).env("COWSNAP_STATE_DIR", self.there("state"));
        let output = command.stdin(Stdio::null()).output().expect("it starts");
        assert!(output.status.success(), "{words:?}: {}", super::said(&output));
        String::from_utf8(output.stdout).expect("utf-8")
    }

    fn partials(&self) -> Vec<serde_json::Value> {
        let listed: serde_json::Value =
            serde_json::from_str(&self.does(&["--json", "list", &self.lab.target])).expect("json");
        listed["datasets"][0]["partials"].as_array().expect("a list").clone()
    }

    fn target_exists(&self) -> bool {
        cowsnap::sys::lzc::open().expect("ZFS").exists(&self.lab.target)
    }

    fn start_sender(&self, words: &[&str]) -> Child {
        let mut sender = self.net.here(Self::program());
        sender.arg("send").args(words).env("COWSNAP_STATE_DIR", self.lab.pool.outside().join("state"));
        let said = fs::File::create(self.lab.file("sender-said")).expect("a file");
        sender.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said).spawn().expect("it starts")
    }

    /// `ssh` to a receive whose process, words and exit code are found in files there.
    fn start_receiver(&self, words: &[&str]) -> Child {
        ["pid", "code", "said"].iter().for_each(|name| drop(fs::remove_file(self.there(name))));
        let file = |name| quoted(self.there(name).display()).to_string();
        let receive = format!("echo $$ >{}; exec {}", file("pid"), self.script(words));
        let script = format!(
            "sh -c {} >{} 2>&1; code=$?; echo $code >{new}; mv {new} {}; exit $code",
            quoted(receive),
            file("said"),
            file("code"),
            new = file("code.new"),
        );
        let mut ssh = self.net.ssh(&script);
        ssh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ssh")
    }

    /// `cowsnap send … | ssh … cowsnap receive TARGET`, and if somebody is to die, he does after so many bytes.
    fn transfer(&self, send: &[&str], dies: Option<(usize, Victim)>) -> Ended {
        let mut sender = self.start_sender(send);
        let mut ssh = self.start_receiver(&["receive", &self.lab.target]);
        let mut valve =
            Valve { from: sender.stdout.take().expect("piped"), to: ssh.stdin.take().expect("piped") };
        if let Some((bytes, victim)) = dies {
            valve.lets_through(bytes);
            self.waits_for_the_receiver(bytes);
            self.kill(victim, &mut sender, &mut ssh);
            if victim == Victim::Sender {
                valve.from.read_to_end(&mut Vec::new()).expect("what is left in the pipe is lost");
            }
        }
        valve.lets_all_through();
        let (sender, ssh) = (sender.wait().expect("it ends"), ssh.wait().expect("it ends"));
        // With the line cut, the other side finds out by itself.
        waits("the receiver to end", || self.there("code").exists());
        self.net.set_line(true);
        let text = |file: PathBuf| fs::read_to_string(file).expect("read");
        Ended {
            sender,
            ssh,
            receiver: text(self.there("code")).trim().parse().expect("a number"),
            sender_said: text(self.lab.file("sender-said").into()),
            receiver_said: text(self.there("said")),
        }
    }

    /// Until it runs, and if a frame has come through, until the kernel has begun.
    fn waits_for_the_receiver(&self, bytes: usize) {
        waits("the receiver to run", || {
            fs::read_to_string(self.there("pid")).is_ok_and(|text| text.ends_with('\n'))
        });
        if bytes > FRAME {
            let has_token = || {
                let args = ["get", "-H", "-o", "value", "receive_resume_token", &self.lab.target];
                let output = std::process::Command::new("zfs").args(args).output().expect("zfs");
                output.status.success() && output.stdout.starts_with(b"1-")
            };
            waits("the kernel to begin", has_token);
        }
    }

    fn kill(&self, victim: Victim, sender: &mut Child, ssh: &mut Child) {
        let receiver = || fs::read_to_string(self.there("pid")).expect("read").trim().parse().expect("a pid");
        match victim {
            Victim::Sender => sender.kill().expect("it runs"),
            Victim::Ssh => ssh.kill().expect("it runs"),
            Victim::Receiver => kill(receiver()),
            // The receiver's shell is the child of the connection's process.
            Victim::Sshd => kill(parent(parent(receiver()))),
            Victim::Line => self.net.set_line(false),
        }
    }

    /// Has somebody die after so many bytes of a stream of `len` bytes, then brings the rest.
    fn dies_and_goes_on(&self, victim: Victim, name: &str, send: &[&str], bytes: usize) {
        let before = self.lab.snapshots(&self.lab.target);
        let ended = self.transfer(send, Some((bytes, victim)));
        let case = format!("{victim:?} of {name} after {bytes} bytes: {ended:#?}");
        println!("{victim:?} of {name} after {bytes} bytes: {:?}", ended.codes());
        self.assert_ends(victim, bytes, &ended, &case);
        assert_eq!(self.lab.snapshots(&self.lab.target), before, "no snapshot: {case}");
        assert_eq!(self.lab.does(&["holds", &self.lab.source]), NO_HOLDS, "{case}");
        if bytes < FRAME {
            assert_eq!(self.target_exists(), !before.is_empty(), "nothing was begun: {case}");
            self.transfer(send, None).all_went_well();
            return self.lab.assert_same(name);
        }
        let partials = self.partials();
        assert_eq!(partials.len(), 1, "{case}");
        assert_eq!((&partials[0]["name"], &partials[0]["live"]), (&name.into(), &false.into()), "{case}");
        let token = partials[0]["token"].as_str().expect("a token");
        let rest = self.transfer(&[&self.lab.source, "--resume", token], None);
        rest.all_went_well();
        self.assert_arrived(name, &rest);
        assert_eq!(self.partials(), [] as [serde_json::Value; 0]);
    }

    fn assert_ends(&self, victim: Victim, bytes: usize, ended: &Ended, case: &str) {
        let killed = Some(Signal::KILL.as_raw());
        // A stream that ends early is told from a good one.
        let cut_off = if victim == Victim::Receiver { 137 } else { 4 };
        assert_eq!(ended.receiver, cut_off, "{case}");
        match victim {
            Victim::Sender => {
                assert_eq!((ended.sender.signal(), ended.ssh.code()), (killed, Some(4)), "{case}")
            }
            Victim::Ssh => assert_eq!(ended.ssh.signal(), killed, "{case}"),
            Victim::Receiver => assert_eq!(ended.ssh.code(), Some(137), "{case}"),
            Victim::Sshd | Victim::Line => assert_eq!(ended.ssh.code(), Some(255), "{case}"),
        }
        if victim != Victim::Sender {
            // Who has written all into the pipe before its reader died can not know.
            let knows = bytes < LEN / 2;
            assert_eq!(ended.sender.code(), Some(if knows { 5 } else { 0 }), "{case}");
        }
    }

    /// It is there, both sides tell of the same digest, and it is kept with the snapshot.
    fn assert_arrived(&self, name: &str, ended: &Ended) {
        self.lab.assert_same(name);
        let digest = Ended::digest(&ended.sender_said);
        assert_eq!(Ended::digest(&ended.receiver_said), digest);
        assert!(ended.receiver_said.contains("verified"), "{ended:#?}");
        assert!(
            get(&format!("{}@{name}", self.lab.target), "cowsnap:verified").contains(digest),
            "{ended:#?}"
        );
    }

    /// Each of the streams is broken off at several places, and goes on.
    fn survives(&self, victim: Victim, places: &[usize]) {
        self.lab.write("f", &noise(1, LEN));
        let one = self.lab.snapshot("s0");
        self.dies_and_goes_on(victim, "s0", &[&one, "--no-compress"], places[0]);
        for (n, &bytes) in places.iter().enumerate().skip(1) {
            self.lab.write(&format!("f{n}"), &noise(n as u64 + 1, LEN));
            let next = self.lab.snapshot(&format!("s{n}"));
            self.dies_and_goes_on(victim, &format!("s{n}"), &["-i", &next, "--no-compress"], bytes);
        }
    }
}

/// What lets through as much as it is told.
struct Valve {
    from: ChildStdout,
    to: ChildStdin,
}

impl Valve {
    fn lets_through(&mut self, bytes: usize) {
        let mut buffer = vec![0; bytes];
        self.from.read_exact(&mut buffer).expect("it sends so much");
        self.to.write_all(&buffer).expect("it is read");
    }

    /// Until either end is gone; then the other one finds out.
    fn lets_all_through(mut self) {
        let _ = std::io::copy(&mut self.from, &mut self.to);
    }
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it runs");
}

fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    rest.split_whitespace().nth(1).expect("a column").parse().expect("a pid")
}

/// The file that a stream is of: more than pipes and ssh hold.
const LEN: usize = 6_000_000;
/// Before a whole frame has come, nothing is applied.
const FRAME: usize = 1 << 20;
const NO_HOLDS: &str = "";

#[test]
fn chains_arrive_through_ssh_and_both_sides_tell_of_the_same_digest() {
    ground!("zfs", "ip", "/usr/sbin/sshd");
    let remote = Remote::new(Lab::new());
    remote.lab.write("f", &noise(1, 3_000_000));
    let one = remote.lab.snapshot("one");
    let full = remote.transfer(&[&one], None);
    full.all_went_well();
    remote.assert_arrived("one", &full);
    // The digest is the plain one of the kernel's stream.
    let theirs = run("zfs", &["send", "-Lec", &one]).stdout;
    assert_eq!(Ended::digest(&full.sender_said), blake3::hash(&theirs).to_hex().as_str());
    remote.lab.write("g", b"more");
    let two = remote.lab.snapshot("two");
    let increment = remote.transfer(&["-i", &two], None);
    increment.all_went_well();
    remote.assert_arrived("two", &increment);
    // A second time: the receiver says why not, with the exit code that ssh hands on.
    let again = remote.transfer(&["-i", &two], None);
    assert_eq!((again.ssh.code(), again.receiver), (Some(3), 3), "{again:#?}");
    assert!(again.receiver_said.contains("received before"), "{again:#?}");
    // What is not there is not sent, and an empty stream is none.
    let none = remote.transfer(&[&format!("{}@none", remote.lab.source)], None);
    assert_eq!((none.sender.code(), none.ssh.code()), (Some(2), Some(4)), "{none:#?}");
    assert_eq!(remote.lab.snapshots(&remote.lab.target), ["one", "two"]);
}

#[test]
fn an_encrypted_chain_goes_through_ssh_without_its_key_and_goes_on_where_it_broke_off() {
    ground!("zfs", "ip", "/usr/sbin/sshd");
    let remote = Remote::new(encrypted());
    let lab = &remote.lab;
    lab.write("secret", &noise(1, LEN));
    let one = lab.snapshot("one");
    lab.write("secret 2", &noise(2, LEN));
    let two = lab.snapshot("two");
    zfs(&["unmount", &lab.source]);
    zfs(&["unload-key", &lab.source]);
    for (name, send) in [("one", vec![one.as_str()]), ("two", vec!["-i", &two])] {
        let cut = remote.transfer(&send, Some((2 * FRAME, Victim::Receiver)));
        assert_eq!(cut.codes(), (Some(5), Some(137), 137), "{cut:#?}");
        let token = remote.partials()[0]["token"].as_str().expect("a token").to_owned();
        let rest = remote.transfer(&[&lab.source, "--resume", &token], None);
        rest.all_went_well();
        assert!(
            get(&format!("{}@{name}", lab.target), "cowsnap:verified")
                .contains(Ended::digest(&rest.sender_said))
        );
    }
    assert_eq!(get(&lab.target, "keystatus"), "unavailable");
    super::raw::unlock(lab, &lab.source);
    super::raw::unlock(lab, &lab.target);
    lab.assert_same("one");
    lab.assert_same("two");
}

#[test]
fn a_sender_that_is_killed_leaves_what_goes_on_through_ssh() {
    ground!("zfs", "ip", "/usr/sbin/sshd");
    // A sender with less to go than a pipe holds has ended well before anybody can kill it.
    Remote::new(Lab::new()).survives(Victim::Sender, &[2 * FRAME, 300, 4 * FRAME]);
}

#[test]
fn a_receiver_that_is_killed_leaves_what_goes_on_through_ssh() {
    ground!("zfs", "ip", "/usr/sbin/sshd");
    Remote::new(Lab::new()).survives(Victim::Receiver, &[FRAME + FRAME / 2, LEN]);
}

#[test]
fn an_ssh_that_is_killed_leaves_what_goes_on() {
    ground!("zfs", "ip", "/usr/sbin/sshd");
    Remote::new(Lab::new()).survives(Victim::Ssh, &[300, 2 * FRAME]);
}

#[test]
fn an_sshd_that_is_killed_leaves_what_goes_on() {
    ground!("zfs", "ip", "/usr/sbin/sshd");
    Remote::new(Lab::new()).survives(Victim::Sshd, &[2 * FRAME]);
}

#[test]
fn a_line_that_is_cut_leaves_what_goes_on() {
    ground!("zfs", "ip", "/usr/sbin/sshd");
    // A host that is starved may be silent for seconds, too.
    Remote::with(Lab::new(), 6).survives(Victim::Line, &[2 * FRAME]);
}
