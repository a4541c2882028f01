//! Full and incremental, through pipes and files, to and from OpenZFS's own tools.

use std::fs;
use std::process::{Command, Stdio};

use cowsnap::model::Guid;

use super::{Lab, get, noise};
use crate::ground::{ground, run};
use crate::zfs::ground::zfs;

#[test]
fn a_chain_arrives_through_files_and_may_build_upon_a_bookmark() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("one % file", &noise(1, 3_000_000));
    let one = lab.snapshot("at 1:00");
    let full = lab.send("full", &[&one]);
    lab.receive(&full);
    lab.assert_same("at 1:00");
    for (property, value) in [("canmount", "noauto"), ("readonly", "on"), ("mounted", "no")] {
        assert_eq!(get(&lab.target, property), value);
    }
    assert_eq!(get(&lab.target, "cowsnap:flags"), "large-blocks+embedded+compressed");
    // The digest that is kept is the plain blake3 of the stream.
    let raw = lab.file("raw");
    lab.does(&["stream", "unwrap", &full, "-o", &raw]);
    let root = blake3::hash(&fs::read(&raw).expect("read")).to_hex();
    assert!(get(&format!("{}@at 1:00", lab.target), "cowsnap:verified").contains(root.as_str()));

    lab.write("two", b"second");
    let two = lab.snapshot("two");
    let increment = lab.send("increment", &["-i", &two]);
    lab.receive(&increment);
    lab.assert_same("two");
    // Only a bookmark is left of the base at the source.
    zfs(&["bookmark", &two, &format!("{}#mark", lab.source)]);
    lab.write("one % file", b"changed");
    let three = lab.snapshot("three");
    zfs(&["destroy", &two]);
    let upon_mark = lab.send("upon-mark", &["--from", "#mark", &three]);
    lab.receive(&upon_mark);
    lab.assert_same("three");
    assert_eq!(lab.snapshots(&lab.target), ["at 1:00", "two", "three"]);
    let again = lab.fails(&["receive", &lab.target, &upon_mark], 3);
    assert!(again.contains("exists already"), "{again}");
}

#[test]
fn a_base_is_the_bookmark_or_the_snapshot_as_its_mark_says() {
    ground!("zfs");
    let lab = Lab::new();
    let one = lab.snapshot("one");
    lab.receive(&lab.send("one", &[&one]));
    zfs(&["bookmark", &one, &format!("{}#d", lab.source)]);
    lab.write("f", b"more");
    let d = lab.snapshot("d");
    lab.write("f", b"and more");
    let last = lab.snapshot("last");
    let guid = |name: &str| Guid::of_zfs(get(name, "guid").parse().expect("a number")).to_string();
    for (base, wanted) in [("#d", &one), ("@d", &d), ("d", &d)] {
        let said = lab.does(&["send", "--dry-run", "--from", base, &last]);
        assert!(said.contains(&format!("since @d ({})", guid(wanted))), "{base}: {said}");
    }
    // How a snapshot was sent that only has the name of the bookmark means nothing.
    zfs(&["set", "cowsnap:sent=plain", &d]);
    lab.receive(&lab.send("last", &["--from", &format!("{}#d", lab.source), &last]));
    lab.assert_same("last");
    zfs(&["destroy", &format!("{}#d", lab.source)]);
    let said = lab.fails(&["send", "--dry-run", "--from", "#d", &last], 2);
    assert!(said.contains("bookmark"), "{said}");
}

#[test]
fn our_raw_stream_is_the_one_of_zfs_send_and_either_side_reads_the_other_s() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 300_000));
    let one = lab.snapshot("one");
    lab.write("g", b"small");
    let two = lab.snapshot("two");
    let theirs = |file: &str, args: &[&str]| {
        let path = lab.file(file);
        let out = fs::File::create(&path).expect("a file");
        let sent = Command::new("zfs").arg("send").args(args).stdout(Stdio::from(out)).status();
        assert!(sent.expect("zfs").success());
        path
    };
    let receive_theirs = |file: &str, target: &str| {
        let input = fs::File::open(file).expect("the stream");
        let received = Command::new("zfs").args(["receive", "-u", target]).stdin(Stdio::from(input)).status();
        assert!(received.expect("zfs").success());
    };
    let ours = [lab.send("our-full", &["--raw", &one]), lab.send("our-increment", &["--raw", "-i", &two])];
    let same =
        [theirs("their-full", &["-Lec", &one]), theirs("their-increment", &["-Lec", "-i", "@one", &two])];
    for (ours, theirs) in ours.iter().zip(&same) {
        assert!(
            fs::read(ours).expect("read") == fs::read(theirs).expect("read"),
            "{ours} and {theirs} differ"
        );
        lab.does(&["receive", &lab.target, theirs]);
    }
    lab.assert_same("one");
    lab.assert_same("two");
    let other = format!("{}-2", lab.target);
    for file in &ours {
        receive_theirs(file, &other);
    }
    let content = |name: &str| lab.content(&format!("{other}@{name}"));
    assert!(content("two") == lab.content(&two) && content("one") == lab.content(&one));
}

#[test]
fn what_zfs_send_wraps_around_streams_is_refused_with_the_reason() {
    ground!("zfs");
    let lab = Lab::new();
    let one = lab.snapshot("one");
    let package = Command::new("zfs").args(["send", "-p", &one]).output().expect("zfs").stdout;
    let output = lab.receive_bytes(&[], &package);
    assert!(!output.status.success());
    assert!(super::said(&output).contains("zfs send -R or -p"), "{}", super::said(&output));
    assert!(lab.snapshots(&lab.target).is_empty());
}

#[test]
fn a_volume_arrives_and_gets_nothing_that_only_filesystems_have() {
    ground!("zfs");
    let lab = Lab::new();
    let volume = lab.pool.volume("disk", "16M");
    let write = |text: &str, at: u64| {
        use std::os::unix::fs::FileExt;
        run("udevadm", &["settle"]);
        let device =
            fs::OpenOptions::new().write(true).open(format!("/dev/zvol/{volume}")).expect("the volume");
        device.write_all_at(text.as_bytes(), at).expect("write");
        device.sync_all().expect("sync");
    };
    write("first", 0);
    zfs(&["snapshot", &format!("{volume}@one")]);
    write("second", 1 << 20);
    zfs(&["snapshot", &format!("{volume}@two")]);
    let full = lab.send("full", &[&format!("{volume}@one")]);
    let increment = lab.send("increment", &["-i", &format!("{volume}@two")]);
    lab.receive(&full);
    lab.receive(&increment);
    assert_eq!((get(&lab.target, "type"), get(&lab.target, "readonly")), ("volume".into(), "on".into()));
    assert_eq!(get(&lab.target, "volsize"), (16 << 20).to_string());
    run("udevadm", &["settle"]);
    // udev's links have no spaces.
    let read = |name: &str| fs::read(format!("/dev/zvol/{}", name.replace(' ', "+"))).expect("the volume");
    assert!(read(&volume) == read(&lab.target));
    let flags = lab.fails(&["receive", &format!("{}-2", lab.target), &full, "-o", "canmount=off"], 3);
    assert!(flags.contains("a volume has no canmount"), "{flags}");
}

#[test]
fn all_streams_of_a_chain_are_made_alike_or_refused_by_both_sides() {
    ground!("zfs");
    let lab = Lab::new();
    let one = lab.snapshot("one");
    let full = lab.send("full", &[&one, "--zfs-flags", "large-blocks"]);
    lab.receive(&full);
    assert_eq!(get(&lab.target, "cowsnap:flags"), "large-blocks");
    lab.write("f", b"more");
    let two = lab.snapshot("two");
    // The sender knows how the base was sent, and goes on so.
    let refused = lab.fails(&["send", "-i", &two, "--zfs-flags", "plain", "-o", &lab.file("no")], 3);
    assert!(refused.contains("the base was sent as large-blocks"), "{refused}");
    let increment = lab.send("increment", &["-i", &two]);
    // One that does not know is refused by the receiver.
    zfs(&["inherit", "cowsnap:sent", &one]);
    let other = lab.send("other", &["-i", &two]);
    let refused = lab.fails(&["receive", &lab.target, &other], 3);
    assert!(refused.contains("the streams before it were large-blocks and this one is"), "{refused}");
    lab.receive(&increment);
    lab.assert_same("two");
}

#[test]
fn a_send_is_not_cut_short_by_signals_and_ends_with_its_reader() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 20_000_000));
    let one = lab.snapshot("one");
    let path = lab.file("stream");
    let out = fs::File::create(&path).expect("a file");
    let mut sending =
        lab.command(&["send", "--raw", &one]).stdout(Stdio::from(out)).spawn().expect("it starts");
    let pid = rustix::process::Pid::from_child(&sending);
    let mut signals = 0;
    let status = loop {
        if let Some(status) = sending.try_wait().expect("a child") {
            break status;
        }
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CHILD);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::WINCH);
        signals += 2;
        std::thread::sleep(std::time::Duration::from_micros(200));
    };
    assert!(status.success() && signals > 100, "{status} after {signals} signals");
    let theirs = Command::new("zfs").args(["send", "-Lec", &one]).output().expect("zfs").stdout;
    assert!(fs::read(&path).expect("read") == theirs);
    // The reader goes away after the first bytes.
    let mut sending =
        lab.command(&["send", "--raw", &one]).stdout(Stdio::piped()).spawn().expect("it starts");
    use std::io::Read;
    sending.stdout.take().expect("piped").read_exact(&mut [0; 1000]).expect("it begins");
    assert_eq!(sending.wait().expect("it ends").code(), Some(5));
}

#[test]
fn a_clone_is_sent_upon_its_origin_and_arrives_as_a_clone() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 1_000_000));
    let one = lab.snapshot("one");
    lab.write("f", b"older is gone");
    let two = lab.snapshot("two");
    let clone = lab.pool.full("cl one");
    zfs(&["clone", &two, &clone]);
    fs::write(lab.pool.path("cl one").join("g"), noise(2, 2_000_000)).expect("write");
    let three = format!("{clone}@one"); // Its origin's dataset has one of that name, too.
    zfs(&["snapshot", &three]);
    lab.receive(&lab.send("full", &[&one]));
    lab.receive(&lab.send("increment", &[&two, "--from", "@one"]));
    let copy = format!("{}/cl one", lab.pool.full("backup"));
    let upon = |base: &str, file: &str| lab.send(file, &[&three, "--from", base, "--no-compress"]);
    let file = upon(&two, "clone");
    // A target that is there is none of it, nor is one in a pool that does not have the origin.
    let refused = lab.fails(&["receive", &lab.pool.dataset("there"), &file], 3);
    assert!(refused.contains("which is not here"), "{refused}");
    let received = lab.does(&["receive", &copy, &file]);
    assert!(received.contains(&format!(", a clone of {}@two: ", lab.target)), "{received}");
    assert_eq!(get(&copy, "origin"), format!("{}@two", lab.target), "not of the source, which has it too");
    assert_eq!(get(&format!("{copy}@one"), "guid"), get(&three, "guid"));
    assert!(lab.content(&three) == lab.content(&format!("{copy}@one")));
    assert_eq!((get(&copy, "readonly"), get(&copy, "canmount")), ("on".into(), "noauto".into()));
    // The chain of the clone goes on, and what it is a clone of may be older than the snapshot that it was made of.
    fs::write(lab.pool.path("cl one").join("h"), "more").expect("write");
    let four = format!("{clone}@four");
    zfs(&["snapshot", &four]);
    let next = lab.send("next", &[&four, "--from", "@one"]);
    lab.does(&["receive", &copy, &next]);
    assert!(lab.content(&four) == lab.content(&format!("{copy}@four")));
    let older = format!("{copy} 2");
    lab.does(&["receive", &older, &upon(&one, "upon the older")]);
    assert_eq!(get(&older, "origin"), format!("{}@one", lab.target));
    assert!(lab.content(&three) == lab.content(&format!("{older}@one")));
    // What was broken off goes on.
    let whole = fs::read(&file).expect("read");
    let broken = format!("{copy} 3");
    fs::write(lab.file("broken"), &whole[..whole.len() * 2 / 3]).expect("write");
    lab.fails(&["receive", &broken, &lab.file("broken")], 4);
    let token = get(&broken, "receive_resume_token");
    lab.does(&["receive", &broken, &lab.send("rest", &[&clone, "--resume", &token])]);
    assert!(lab.content(&three) == lab.content(&format!("{broken}@one")));
    assert_eq!(get(&broken, "origin"), format!("{}@two", lab.target));
    // Anything else is not taken for a base, and a plain increment makes nothing new.
    zfs(&["snapshot", &format!("{}@x", lab.pool.full("there"))]);
    let stranger = format!("{}@x", lab.pool.full("there"));
    let refused = lab.fails(&["send", &three, "--from", &stranger, "-o", &lab.file("no")], 3);
    assert!(refused.contains("is neither its own nor of a dataset that it was cloned from"), "{refused}");
    let refused = lab.fails(&["receive", &format!("{copy} 4"), &lab.file("increment")], 3);
    assert!(refused.contains("which is not here"), "{refused}");
}
