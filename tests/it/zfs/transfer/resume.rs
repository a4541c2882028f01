//! What was broken off goes on, or is given up.

use std::fs;
use std::io::Write;
use std::process::{Child, ChildStdin, Stdio};

use super::super::ground::zfs;
use super::{Lab, noise, waits};
use crate::ground::ground;

impl Lab {
    /// Gives a receiver so many bytes of a stream, then kills it.
    fn receive_killed(&self, bytes: &[u8]) {
        let (mut child, input) = self.receive_stalled(bytes);
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        drop(input);
    }

    /// A receiver that has got so many bytes of a stream and waits for more.
    fn receive_stalled(&self, bytes: &[u8]) -> (Child, ChildStdin) {
        let mut command = self.command(&["receive", &self.target]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(bytes).expect("it reads");
        // It has read all, and the kernel applies it.
        waits("it to read all", || rustix::io::ioctl_fionread(&input).expect("a pipe") == 0);
        let tasks = format!("/proc/{}/task", child.id());
        waits("the kernel to begin", || {
            let mut tasks = fs::read_dir(&tasks).expect("it runs").flatten();
            tasks.any(|task| {
                fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "receive")
            })
        });
        std::thread::sleep(std::time::Duration::from_millis(1500));
        (child, input)
    }

    fn token(&self) -> Option<String> {
        let listed: serde_json::Value =
            serde_json::from_str(&self.does(&["list", &self.target, "--json"])).expect("json");
        let partials = listed["datasets"][0]["partials"].as_array().expect("a list").clone();
        partials.first().map(|partial| {
            assert_eq!(partial["live"], false);
            partial["token"].as_str().expect("a token").to_owned()
        })
    }
}

#[test]
fn a_receiver_that_was_killed_goes_on_at_several_places_in_full_and_incremental_streams() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 6_000_000));
    let one = lab.snapshot("one");
    let whole = fs::read(lab.send("full", &[&one, "--no-compress"])).expect("read");
    lab.receive_killed(&whole[..whole.len() / 3]);
    let token = lab.token().expect("a partial");
    // Nothing else is received meanwhile, and nothing is sent that is not asked for.
    let refused = super::said(&lab.receive_bytes(&[], &whole));
    assert!(refused.contains("was received into it in part") && refused.contains("--resume"), "{refused}");
    let rest = fs::read(lab.send("rest", &[&lab.source, "--resume", &token, "--no-compress"])).expect("read");
    // A frame of 1 MiB was whole.
    assert!(rest.len() < whole.len() - 400_000, "{} of {}", rest.len(), whole.len());
    // It is killed once more, further on.
    lab.receive_killed(&rest[..rest.len() / 2]);
    let token = lab.token().expect("a partial");
    let rest = lab.send("rest of the rest", &[&one, "--resume", &token]);
    lab.receive(&rest);
    assert_eq!(lab.token(), None);
    lab.assert_same("one");
    let again = lab.fails(&["receive", &lab.target, &rest], 3);
    assert!(again.contains("exists already"), "{again}");

    lab.write("g", &noise(2, 6_000_000));
    let two = lab.snapshot("two");
    let whole = fs::read(lab.send("increment", &["-i", &two, "--no-compress"])).expect("read");
    lab.receive_killed(&whole[..whole.len() * 3 / 4]);
    let token = lab.token().expect("a partial");
    assert_eq!(lab.snapshots(&lab.target), ["one"]);
    let rest = lab.send("rest of the increment", &[&lab.source, "--resume", &token]);
    lab.receive(&rest);
    lab.assert_same("two");
    let stray = lab.fails(&["receive", &format!("{}-2", lab.target), &rest], 3);
    assert!(stray.contains("nothing of the stream was received here"), "{stray}");
}

/// While ZFS makes its threads it may forget the signal (kernel-notes/zfs.md): without an end of the pipe it waits for ever.
#[test]
fn a_receiver_that_is_killed_as_the_kernel_begins_ends() {
    ground!("zfs");
    let mut lab = Lab::new();
    lab.write("f", &noise(1, 6_000_000));
    let one = lab.snapshot("one");
    let whole = fs::read(lab.send("full", &[&one, "--no-compress"])).expect("read");
    let zfs = cowsnap::sys::lzc::open().expect("ZFS");
    let first = lab.target.clone();
    for nth in 1..=4 {
        lab.target = format!("{first} {nth}");
        let mut command = lab.command(&["receive", &lab.target]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(&whole[..whole.len() / 2]).expect("it reads");
        while !zfs.exists(&lab.target) {
            assert_eq!(child.try_wait().expect("asked"), None, "it runs still");
        }
        child.kill().expect("it runs");
        // Not a wait that may never end: the others would be stopped with it.
        let child = std::sync::Mutex::new(child);
        waits("it to end", || child.lock().expect("ours").try_wait().expect("asked").is_some());
        let token = lab.token().expect("a partial, and nobody works on it");
        lab.receive(&lab.send(&format!("rest {nth}"), &[&one, "--resume", &token]));
        lab.assert_same("one");
    }
}

/// The same of a send. What the kernel writes to a pipe that nobody reads, it would wait for as long as the reader is there.
#[test]
fn a_sender_that_is_killed_as_the_kernel_begins_ends_and_holds_nothing() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 12_000_000));
    let zfs = cowsnap::sys::lzc::open().expect("ZFS");
    for nth in 1..=8 {
        let snapshot = lab.snapshot(&format!("s {nth}"));
        let mut command = lab.command(&["send", "--raw", &snapshot]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut stream = child.stdout.take().expect("piped");
        // What comes first is BEGIN. Now the kernel makes its threads, and fills all pipes: most is never read.
        std::io::Read::read_exact(&mut stream, &mut [0]).expect("it sends");
        child.kill().expect("it runs");
        let child = std::sync::Mutex::new(child);
        waits("it to end", || child.lock().expect("ours").try_wait().expect("asked").is_some());
        assert!(zfs.holds(&snapshot).expect("there").is_empty());
        let gone =
            zfs.destroy_snapshots(std::slice::from_ref(&snapshot), false).map_err(|failed| failed.errno);
        assert_eq!(gone, Ok(()), "nothing sends {snapshot} any more");
        drop(stream);
    }
    assert!(lab.snapshots(&lab.source).is_empty());
}

#[test]
fn a_sender_that_was_killed_leaves_what_goes_on() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 30_000_000));
    let one = lab.snapshot("one");
    let mut sender =
        lab.command(&["send", &one]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut stream = sender.stdout.take().expect("piped");
    let mut first = vec![0; 8 << 20];
    std::io::Read::read_exact(&mut stream, &mut first).expect("it sends");
    sender.kill().expect("it runs");
    sender.wait().expect("it ends");
    std::io::Read::read_to_end(&mut stream, &mut first).expect("what was in the pipe");
    let output = lab.receive_bytes(&[], &first);
    assert_eq!(output.status.code(), Some(4), "{}", super::said(&output));
    let token = lab.token().expect("a partial");
    let rest = lab.send("rest", &[&one, "--resume", &token]);
    lab.receive(&rest);
    lab.assert_same("one");
}

#[test]
fn what_was_received_in_part_is_given_up() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 4_000_000));
    let one = lab.snapshot("one");
    let file = lab.send("full", &[&one, "--no-compress"]);
    let whole = fs::read(&file).expect("read");
    let partial = format!("{}@%partial", lab.target);
    let none = lab.fails(&["destroy", &partial], 2);
    assert!(none.contains("does not exist"), "{none}");
    // A first stream: the dataset goes with it.
    lab.receive_killed(&whole[..whole.len() / 2]);
    lab.does(&["destroy", &partial]);
    assert!(
        lab.does(&["list", &lab.pool.full("backup"), "-r"]).lines().all(|line| !line.contains("copy of"))
    );
    lab.receive(&file);
    // An increment: what is there stays.
    lab.write("g", &noise(2, 4_000_000));
    let file = lab.send("increment", &["-i", &lab.snapshot("two"), "--no-compress"]);
    let whole = fs::read(&file).expect("read");
    lab.receive_killed(&whole[..whole.len() / 2]);
    lab.does(&["destroy", &partial]);
    assert_eq!(lab.token(), None);
    assert_eq!(lab.snapshots(&lab.target), ["one"]);
    lab.receive(&file);
    lab.assert_same("two");
    // Somebody who wants nothing kept gets nothing.
    lab.write("h", &noise(3, 4_000_000));
    let whole = fs::read(lab.send("third", &["-i", &lab.snapshot("three"), "--no-compress"])).expect("read");
    let output = lab.receive_bytes(&["--no-partial"], &whole[..whole.len() / 2]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!((lab.token(), lab.snapshots(&lab.target)), (None, vec!["one".into(), "two".into()]));
}

#[test]
fn a_signal_ends_a_receive_whose_input_stalls_and_what_arrived_is_named() {
    use rustix::process::{Pid, Signal, kill_process};
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 6_000_000));
    let one = lab.snapshot("one");
    let container = fs::read(lab.send("full", &[&one, "--no-compress"])).expect("read");
    let raw = fs::read(lab.send("raw", &["--raw", &one])).expect("read");
    for (whole, signal) in [(container, Signal::TERM), (raw, Signal::INT)] {
        let (mut child, input) = lab.receive_stalled(&whole[..whole.len() / 2]);
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        // It ends by itself, though its input does not.
        let ended = (0..600).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            child.try_wait().expect("a child")
        });
        let _ = child.kill();
        drop(input);
        let said = super::said(&child.wait_with_output().expect("it ends"));
        assert_eq!(ended.and_then(|status| status.code()), Some(5), "{signal:?}: {said}");
        let partial = format!("cowsnap destroy '{}@%partial'", lab.target);
        assert!(said.contains("what arrived is kept") && said.contains(&partial), "{said}");
        let token = lab.token().expect("a partial");
        let shown = lab.does(&["list", &lab.target]);
        assert!(shown.contains(&format!("cowsnap send --resume {token}")), "{shown}");
        lab.receive(&lab.send(&format!("rest after {signal:?}"), &[&one, "--resume", &token]));
        lab.assert_same("one");
        zfs(&["destroy", "-r", &lab.target]);
    }
}

#[test]
fn what_is_recorded_of_a_resumed_receive_says_how_each_part_was_verified() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 4_000_000));
    let one = lab.snapshot("one");
    lab.write("g", &noise(2, 4_000_000));
    let two = lab.snapshot("two");
    let streams = |form: &str, file: &str| {
        let full = lab.send(&format!("{file} 1"), &[&one, form]);
        let increment = lab.send(&format!("{file} 2"), &[&two, "-i", form]);
        [full, increment].map(|file| fs::read(file).expect("read"))
    };
    let (container, raw) = (streams("--no-compress", "container"), streams("--raw", "raw"));
    let verified = |name: &str| {
        let json: serde_json::Value =
            serde_json::from_str(&lab.does(&["--json", "list", &lab.target])).expect("json");
        let all = json["datasets"][0]["snapshots"].as_array().expect("a list").clone();
        all.into_iter().find(|it| it["name"] == name).expect("listed")["verified"].clone()
    };
    for (parts, earlier, told) in [
        (&container, "verified", "what came before it was verified, too"),
        (&raw, "unknown", "whether what came before it was verified is not known"),
    ] {
        for (name, whole) in ["one", "two"].iter().zip(parts) {
            lab.receive_bytes(&[], &whole[..whole.len() / 2]);
            let token = lab.token().expect("a partial");
            let rest = lab.send(&format!("rest {earlier} {name}"), &[&lab.source, "--resume", &token]);
            let said = lab.does(&["receive", &lab.target, &rest]);
            assert!(said.contains(told), "{said}");
            let checked = super::said(&lab.cowsnap(&["stream", "verify", &rest]));
            assert!(checked.contains("the rest of a stream"), "{checked}");
            let verified = verified(name);
            assert_eq!(verified["earlier"], earlier, "{verified}");
            assert!(checked.contains(verified["blake3"].as_str().expect("a digest")), "{checked} {verified}");
            lab.assert_same(name);
        }
        let property = zfs(&["get", "-H", "-s", "local", "-o", "value", "cowsnap:partial", &lab.target]);
        assert_eq!(property, "");
        zfs(&["destroy", "-r", &lab.target]);
    }
    // Who is killed says nothing.
    lab.receive_killed(&container[0][..container[0].len() / 2]);
    let token = lab.token().expect("a partial");
    lab.receive(&lab.send("rest after a kill", &[&one, "--resume", &token]));
    assert_eq!(verified("one")["earlier"], "unknown");
    assert!(lab.does(&["list", &lab.target]).contains("only its last part is known to have been verified"));
}
