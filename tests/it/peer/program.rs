//! `cowsnap replicate` through a real sshd on the loopback interface.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::lab::{Lab, noise};
use crate::ground::{self, ground, run};

/// An sshd of the test's own, which takes one key and runs one command for it.
pub struct Sshd {
    server: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Sshd {
    /// `command` is what the key is for.
    pub fn start(command: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("cowsnap-sshd-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        for key in ["host", "client"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]);
        }
        let public = fs::read_to_string(at("client.pub")).unwrap();
        fs::write(at("authorized"), format!("command=\"{command}\",restrict {public}")).unwrap();
        // Freed a moment before sshd takes it; nobody else here asks for a given port.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\n\
             UsePAM no\nPasswordAuthentication no\nPermitRootLogin forced-commands-only\n",
            at("host"),
            at("authorized")
        );
        fs::write(at("sshd_config"), config).unwrap();
        let host = fs::read_to_string(at("host.pub")).unwrap();
        fs::write(at("known"), format!("[127.0.0.1]:{port} {host}")).unwrap();
        let client = format!(
            "Host *\nIdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile {}\nStrictHostKeyChecking yes\nBatchMode yes\n",
            at("client"),
            at("known")
        );
        fs::write(at("ssh_config"), client).unwrap();
        fs::create_dir_all("/run/sshd").unwrap(); // Where sshd drops its rights; made by its service as a rule.
        let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| PathBuf::from(path).exists());
        let server = Command::new(sshd.expect("the ground has it"))
            .args(["-D", "-e", "-f", &at("sshd_config")])
            .stderr(fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let sshd = Self { server, folder, port };
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return sshd;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("sshd does not answer: {}", sshd.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The program that reaches it, for `COWSNAP_SSH`.
    pub fn ssh(&self) -> String {
        format!("ssh -F {}", self.folder.path().join("ssh_config").display())
    }

    /// The target at that path there.
    pub fn url(&self, path: &std::path::Path) -> String {
        format!("ssh://root@127.0.0.1:{}/{}", self.port, path.display())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Runs `cowsnap` against that sshd.
fn replicate(lab: &Lab, sshd: &Sshd, args: &[&str]) -> Output {
    let mut command = ground::cowsnap(&lab.source.outside().join("state"));
    command.env("COWSNAP_SSH", sshd.ssh()).arg("replicate").args(args).stdin(Stdio::null());
    command.output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn error(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[test]
fn a_key_that_may_only_add_brings_increments_through_a_real_sshd() {
    ground!("btrfs", "sshd", "ssh");
    let lab = Lab::new();
    let serve =
        lab.serve(&format!("--allow receive --under '{}' --append-only", lab.target.path().display()));
    let sshd = Sshd::start(&serve);
    let (from, to) = (lab.source.path().join("data"), sshd.url(&lab.target.path().join("copy")));
    let from = from.to_str().unwrap();
    lab.write("a", &noise(1, 2_000_000));
    let one = lab.snapshot("one");
    let dry = replicate(&lab, &sshd, &["--dry-run", from, &to]);
    let said = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(
        said.contains("would send @one in full") && said.contains("would hold @one at the target"),
        "{said}"
    );
    assert!(lab.left().is_empty() && !lab.target.path().join(".cowsnap").exists());
    let first = json(&replicate(&lab, &sshd, &["--json", from, &to]));
    assert_eq!(first["replicated"][0]["moved"][0]["base"], Value::Null);
    lab.write("b", &noise(2, 300_000));
    let two = lab.snapshot("two");
    lab.write("c", &noise(3, 300_000));
    let three = lab.snapshot("three");
    let second = json(&replicate(&lab, &sshd, &["--json", "-I", from, &to]));
    let moved = second["replicated"][0]["moved"].as_array().unwrap();
    assert_eq!(moved.len(), 2);
    assert!(
        moved
            .iter()
            .all(|moved| moved["base"].is_string() && moved["wire_bytes"].as_u64().unwrap() < 400_000)
    );
    for version in [&one, &two, &three] {
        lab.expect_same(version);
    }
    let third = json(&replicate(&lab, &sshd, &["--json", from, &to]));
    assert_eq!(third["replicated"][0]["steps"], serde_json::json!([]));
    // What the next increment needs is kept on both sides.
    let state = lab.source.outside().join("state");
    let copy = lab.target.path().join("copy");
    for place in [from, copy.to_str().unwrap()] {
        let kept = ground::cowsnap(&state).args(["destroy", &format!("{place}@three")]).output().unwrap();
        assert!(error(&kept, 3).contains("cowsnap:"));
        run(env!("CARGO_BIN_EXE_cowsnap"), &["destroy", &format!("{place}@one")]);
    }
    // Elsewhere the key is worth nothing, and what the client asks to be run is not looked at.
    let elsewhere = sshd.url(&lab.source.path().join("copy"));
    assert!(error(&replicate(&lab, &sshd, &[from, &elsewhere]), 6).contains("is for what is under"));
    let other = replicate(&lab, &sshd, &["--remote-command", "touch /tmp/cowsnap-was-here; cat", from, &to]);
    json(&replicate(&lab, &sshd, &["--json", from, &to]));
    assert!(other.status.success() && !std::path::Path::new("/tmp/cowsnap-was-here").exists());
}

/// A target here and one behind a real sshd, by one stream; its server is killed, and the one here has it all.
#[test]
fn a_target_here_and_one_behind_sshd_are_sent_to_once() {
    ground!("btrfs", "sshd", "ssh");
    let lab = Lab::new();
    let pid_file = lab.source.outside().join("pid");
    let script = lab.source.outside().join("served");
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let sshd = Sshd::start(&format!("sh {}", script.display()));
    let serve = |feed: &str| {
        let serve = lab.serve("--checkpoint 1M").replace('\'', "");
        let shell = format!("{feed} sh -c 'echo $$ >{}; exec {serve}'", pid_file.display());
        fs::write(&script, shell).unwrap();
    };
    let (near, far) = (text(lab.target.path().join("copy")), sshd.url(&lab.target.path().join("far")));
    let from = text(lab.source.path().join("data"));
    lab.write("a", &noise(1, 9_000_000));
    let one = lab.snapshot("one");
    // It stalls after a while, so that there is time to be killed in.
    serve(&format!("{} |", super::lab::stall(5_000_000, &pid_file)));
    let killed = std::thread::scope(|scope| {
        let running = scope.spawn(|| replicate(&lab, &sshd, &["--no-compress", &from, &near, &far]));
        let staging = lab.target.path().join(".cowsnap/staging");
        let is_kept = || {
            let mut dirs = fs::read_dir(&staging).into_iter().flatten().flatten();
            dirs.any(|dir| dir.path().join("checkpoint").exists())
        };
        for _ in 0..3000 {
            if is_kept() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        running.join().unwrap()
    });
    let said = error(&killed, 7);
    assert!(said.contains("1 of 2 failed") && said.contains("127.0.0.1"), "{said}");
    lab.expect_same(&one);
    serve("");
    let done = json(&replicate(&lab, &sshd, &["--json", &from, &near, &far]));
    let moved = |n: usize| done["replicated"][n]["moved"].as_array().unwrap().clone();
    assert!(moved(0).is_empty() && moved(1)[0]["resumed_bytes"].as_u64().unwrap() >= 1 << 20, "{done}");
    lab.write("b", &noise(2, 2_000_000));
    let two = lab.snapshot("two");
    let dry = replicate(&lab, &sshd, &["--dry-run", &from, &near, &far]);
    let said = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(said.contains(&format!("@two would be sent once, to {near}, ssh://")), "{said}");
    let done = json(&replicate(&lab, &sshd, &["--json", &from, &near, &far]));
    assert!((0..2).all(|n| done["replicated"][n]["moved"][0]["targets"] == 2), "{done}");
    let far = cowsnap::endpoint::path::named(&lab.target.path().join("far")).unwrap();
    for version in [&one, &two] {
        lab.expect_same(version);
        lab.expect_same_at(&far, version);
    }
}

#[test]
fn one_target_that_fails_does_not_stop_the_others() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    let one = lab.snapshot("one");
    let state = lab.source.outside().join("state");
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let (from, to) = (text(lab.source.path().join("data")), text(lab.target.path().join("copy")));
    let run = |args: &[&str]| ground::cowsnap(&state).arg("replicate").args(args).output().unwrap();
    let said = error(&run(&[&from, "ssh://-oProxyCommand=x/tank", &to]), 7);
    assert!(said.contains("1 of 2 failed") && said.contains("does not begin with -"), "{said}");
    lab.expect_same(&one);
    // What went another way is shown, and nothing is done.
    let third = lab.target.subvolume("third");
    let third = text(third);
    crate::ground::run(env!("CARGO_BIN_EXE_cowsnap"), &["snapshot", &third, "--name", "own"]);
    let said = error(&run(&[&from, &third]), 3);
    assert!(said.contains("no version in common: the target has @own"), "{said}");
    assert!(run(&["--full", &from, &third]).status.success());
    // One that is older than all that the target has of the source, and one that it has.
    lab.snapshot("two");
    let fourth = text(lab.target.path().join("fourth"));
    assert!(run(&[&from, &fourth]).status.success());
    for dry in [&[][..], &["--dry-run"]] {
        let said = error(&run(&[dry, &[&format!("{from}@one"), &fourth]].concat()), 3);
        assert!(said.contains("is ahead of @one: it has @two of the source, which is newer"), "{said}");
        let has = run(&[dry, &[&format!("{from}@two"), &fourth]].concat());
        assert_eq!(String::from_utf8_lossy(&has.stdout), format!("{fourth} has {from}@two\n"));
    }
    let nowhere = text(lab.source.path().join("nowhere"));
    assert!(error(&run(&[&nowhere, &to]), 2).contains("does not exist"));
    assert!(!error(&run(&["--no-such", &from, &to]), 2).is_empty());
}

/// On a terminal, whichever way: how much has come of about how much, how fast, and how long it will take.
#[test]
fn a_terminal_shows_bytes_rate_and_time_left() {
    ground!("btrfs", "script");
    let lab = Lab::new();
    lab.write("a", &noise(1, 16_000_000));
    lab.snapshot("one");
    let state = lab.source.outside().join("state");
    let from = lab.source.path().join("data").display().to_string();
    let at = |name: &str| lab.target.path().join(name).display().to_string();
    let there = |path: &str| format!("ssh://there/{path}");
    let (shim, serve) = (lab.ssh("x").program[0].clone(), lab.serve("").replace('\'', ""));
    for (way, source, targets) in [
        ("here", from.clone(), vec![at("1")]),
        ("push", from.clone(), vec![there(&at("2"))]),
        ("pull", there(&from), vec![at("3")]),
        ("relay", there(&from), vec![there(&at("4"))]),
        ("fan", from.clone(), vec![at("5"), there(&at("6"))]),
    ] {
        let program = format!(
            "'{}' --state-dir '{}' replicate --bandwidth {} --no-compress --ssh '{shim}' --remote-command '{serve}' '{source}' {}",
            env!("CARGO_BIN_EXE_cowsnap"),
            state.display(),
            if targets.len() > 1 { "8M" } else { "6M" },
            targets.iter().map(|target| format!("'{target}'")).collect::<Vec<_>>().join(" ")
        );
        let output = Command::new("script").args(["-qec", &program, "/dev/null"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{way}: {said}");
        let shown = said.split(['\r', '\n']).find(|line| line.contains("ETA"));
        let shown = shown.unwrap_or_else(|| panic!("{way}: no time left in {said}"));
        assert!(
            shown.contains("MiB/") && shown.contains("iB/s") && shown.contains("data@one") || way == "pull",
            "{way}: {shown}"
        );
    }
}

/// A hostile or clumsy other side can neither act on the terminal nor pass for us.
#[test]
fn what_ssh_prints_is_said_line_by_line_and_by_whom() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    lab.snapshot("one");
    let state = lab.source.outside().join("state");
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let to = format!("ssh://me@there/{}", lab.target.path().join("copy").display());
    let said = |remote: &str| {
        let ssh = lab.ssh("x").program[0].clone();
        let from = text(lab.source.path().join("data"));
        let args = ["replicate", "--ssh", &ssh, "--remote-command", remote, &from, &to];
        let output = ground::cowsnap(&state).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let prints = r#"printf "hello\n\033[2J\033]0;x\007error: no\n%3000s\nend" x >&2; "#;
    let (code, stderr) = said(&format!("{prints}{}", lab.serve("")));
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines[..2], ["me@there: hello", r"me@there: \u{1b}[2J\u{1b}]0;x\u{7}error: no"], "{stderr}");
    assert!(stderr.len() < 2000 && lines.contains(&"me@there: end"), "{stderr}");
    // What it says before it goes stands before what we say of it.
    let (code, stderr) = said("echo 'Permission denied (publickey).' >&2; exit 255");
    assert_eq!(code, Some(5));
    let at = |text: &str| stderr.find(text).unwrap_or_else(|| panic!("{stderr}"));
    assert!(at("me@there: Permission denied (publickey).") < at("error: "), "{stderr}");
}

#[test]
fn two_runs_at_once_do_not_mix() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", &noise(1, 3_000_000));
    lab.snapshot("one");
    let state = lab.source.outside().join("state");
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let (from, to) = (text(lab.source.path().join("data")), text(lab.target.path().join("copy")));
    let slow = ground::cowsnap(&state)
        .args(["replicate", "--bandwidth", "500K", &from, &to])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut slow = ended(slow);
    while lab.left().is_empty() {
        assert!(slow.0.try_wait().unwrap().is_none(), "it ended before it began");
        std::thread::sleep(Duration::from_millis(5));
    }
    let leaves = ground::cowsnap(&state).args(["replicate", "--no-wait", &from, &to]).output().unwrap();
    assert!(error(&leaves, 5).contains("another process is about to replicate"));
    let waits = ground::cowsnap(&state).args(["replicate", &from, &to]).output().unwrap();
    let said = String::from_utf8_lossy(&waits.stdout).into_owned();
    assert!(waits.status.success() && said.contains("has all that"), "{said}");
    assert!(slow.0.wait().unwrap().success());
}

/// Ended with the test, however that ends.
struct Ended(Child);

fn ended(child: Child) -> Ended {
    Ended(child)
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
