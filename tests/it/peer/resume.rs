//! Transfers that are cut, and go on.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cowsnap::Class;
use cowsnap::endpoint::History;
use cowsnap::exec::Event;
use cowsnap::exec::transfer::{Place, transfer};
use cowsnap::model::Version;
use rustix::process::{Pid, Signal, kill_process};

use super::lab::{Lab, bring, cut, full, noise, options, stall, upon};
use crate::ground::ground;

/// A version of some 12 MB in many files, and one upon it of some 9 MB.
fn two_versions(lab: &Lab) -> (Version, Version) {
    for n in 0..12 {
        lab.write(&format!("file {n}"), &noise(n, 1_000_000));
    }
    let one = lab.snapshot("one");
    for n in 3..12 {
        lab.write(&format!("file {n}"), &noise(100 + n, 1_000_000));
    }
    fs::rename(lab.source.path().join("data/file 0"), lab.source.path().join("data/moved")).unwrap();
    (one, lab.snapshot("two"))
}

fn checkpoints(lab: &Lab) -> Vec<PathBuf> {
    let staging = lab.target.path().join(".cowsnap/staging");
    let dirs = fs::read_dir(staging).into_iter().flatten().flatten();
    dirs.map(|dir| dir.path().join("checkpoint")).filter(|file| file.exists()).collect()
}

/// Cut after so many bytes, each way: what comes next goes on from what was durable.
#[test]
fn a_transfer_that_was_cut_goes_on_where_it_was() {
    ground!("btrfs");
    for (pull, at) in [(false, 5_000_000), (false, 8_700_001), (true, 5_000_000), (true, 300)] {
        let lab = Lab::new();
        let (one, two) = two_versions(&lab);
        let serve = lab.serve("--checkpoint 1M");
        let cut_off = match pull {
            true => format!("{serve} | {}", cut(at)),
            false => format!("{} | {serve}", cut(at)),
        };
        let places = |remote: &str| match pull {
            true => (lab.source_peer(remote), Place::Here(lab.to())),
            false => (Place::Here(lab.from()), lab.target_peer(remote)),
        };
        for what in [full(&one), upon(&two, &one)] {
            let (from, to) = places(&cut_off);
            let error = bring(&from, &to, &what).unwrap_err();
            assert_eq!(error.class(), Class::Unreachable, "pull {pull} at {at}: {error:?}");
            drop((from, to));
            // The other side may take a moment to notice.
            let (from, to) = places(&serve);
            let moved = bring(&from, &to, &what).unwrap();
            let durable = if at > 1_000_000 { at - 3_000_000 } else { 0 };
            let went_on = (durable..=at).contains(&moved.resumed_bytes);
            assert!(went_on, "pull {pull} at {at}: {moved:?}");
            assert!(moved.wire_bytes < moved.stream_bytes - moved.resumed_bytes + 100_000, "{moved:?}");
        }
        lab.expect_same(&one);
        lab.expect_same(&two);
        assert_eq!(lab.left(), Vec::<String>::new());
    }
}

#[test]
fn what_was_received_in_part_is_no_version_and_is_shown() {
    ground!("btrfs");
    let lab = Lab::new();
    let (one, _) = two_versions(&lab);
    let cut = format!("{} | {}", cut(6_000_000), lab.serve("--checkpoint 1M"));
    bring(&Place::Here(lab.from()), &lab.target_peer(&cut), &full(&one)).unwrap_err();
    let inventory = wait_until_dead(&lab);
    assert!(inventory.versions().is_empty());
    let [partial] = &inventory.partials[..] else { panic!("{:?}", inventory.partials) };
    assert_eq!((partial.guid, &partial.name), (one.id.guid, &one.id.name));
    assert_eq!(lab.left().len(), 2, "a checkpoint and its staging directory: {:?}", lab.left());
    let bytes = partial.bytes.expect("it is known");
    assert!((1 << 20..6_000_000).contains(&bytes), "{bytes}");
    let age = jiff::Timestamp::now().duration_since(partial.since.expect("it is known"));
    assert!((-1..3600).contains(&age.as_secs()), "{age:?}");
    let state = lab.source.outside().join("state");
    let at = lab.target.path();
    let list = |args: &[&str]| {
        let output =
            crate::ground::cowsnap(&state).arg("list").args(args).arg(at.join("copy")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let listed: serde_json::Value = serde_json::from_str(&list(&["--json"])).unwrap();
    assert_eq!(listed["datasets"][0]["snapshots"], serde_json::json!([]));
    let shown = &listed["datasets"][0]["partials"][0];
    assert_eq!((&shown["name"], &shown["bytes"]), (&"one".into(), &bytes.into()), "{listed}");
    assert!(shown["since"].is_string(), "{listed}");
    assert!(list(&[]).contains("MiB of its stream, begun "), "{}", list(&[]));
    let doctor =
        |args: &[&str]| crate::ground::cowsnap(&state).arg("doctor").args(args).arg(&at).output().unwrap();
    let said = doctor(&[]);
    assert_eq!(said.status.code(), Some(3));
    let of_it = format!(
        "@one was received in part, {bytes} bytes of its stream; the next cowsnap replicate goes on with it"
    );
    assert!(String::from_utf8_lossy(&said.stdout).contains(&of_it), "{said:?}");
    assert_eq!(lab.left().len(), 2, "doctor alone takes nothing away");
    let fixed = doctor(&["--fix"]);
    assert!(fixed.status.success(), "{fixed:?}");
    assert_eq!(lab.left(), Vec::<String>::new());
    bring(&Place::Here(lab.from()), &lab.target_peer(&cut), &full(&one)).unwrap_err();
    wait_until_dead(&lab);
    lab.to().give_up_partial().unwrap();
    assert_eq!(lab.left(), Vec::<String>::new());
    assert!(lab.to().give_up_partial().is_err());
}

/// The other side notices a cut when it reads.
fn wait_until_dead(lab: &Lab) -> cowsnap::model::Inventory {
    for _ in 0..500 {
        let inventory = lab.to().inventory().unwrap();
        if inventory.partials.iter().all(|partial| !partial.live) {
            return inventory;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it is still being received");
}

#[test]
fn another_transfer_sweeps_what_nobody_went_on_with() {
    ground!("btrfs");
    let lab = Lab::new();
    let (one, two) = two_versions(&lab);
    let cut = format!("{} | {}", cut(6_000_000), lab.serve("--checkpoint 1M"));
    bring(&Place::Here(lab.from()), &lab.target_peer(&cut), &full(&one)).unwrap_err();
    wait_until_dead(&lab);
    let moved = bring(&Place::Here(lab.from()), &Place::Here(lab.to()), &full(&two)).unwrap();
    assert_eq!(moved.resumed_bytes, 0);
    assert_eq!(lab.left(), Vec::<String>::new());
    lab.expect_same(&two);
}

/// If the source does not send the same bytes again, all of it comes anew, and that is said.
#[test]
fn a_stream_that_begins_otherwise_begins_again() {
    ground!("btrfs");
    for (pull, relay) in [(false, false), (true, false), (true, true)] {
        let lab = Lab::new();
        let (one, _) = two_versions(&lab);
        let serve = lab.serve("--checkpoint 1M");
        let cut = format!("{} | {serve}", cut(6_000_000));
        bring(&Place::Here(lab.from()), &lab.target_peer(&cut), &full(&one)).unwrap_err();
        wait_until_dead(&lab);
        let [file] = &checkpoints(&lab)[..] else { panic!("no checkpoint") };
        let mut said: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let hash = said["prefix"]["subtrees"][0].as_str().unwrap();
        let other = hash.chars().rev().collect::<String>();
        said["prefix"]["subtrees"][0] = other.into();
        fs::write(file, said.to_string()).unwrap();
        let warned = std::sync::Mutex::new(Vec::new());
        let observe = |event: Event| {
            if let Event::Warning { text } = event {
                warned.lock().unwrap().push(text);
            }
        };
        let from = if pull { lab.source_peer(&serve) } else { Place::Here(lab.from()) };
        let to = if pull && !relay { Place::Here(lab.to()) } else { lab.target_peer(&serve) };
        let moved = transfer(&from, &to, &full(&one), &options(), &observe).unwrap();
        assert_eq!(moved.resumed_bytes, 0);
        let warned = warned.into_inner().unwrap();
        assert!(warned.iter().any(|text| text.contains("begins again")), "{warned:?}");
        lab.expect_same(&one);
        assert_eq!(lab.left(), Vec::<String>::new());
    }
}

#[test]
fn a_receiver_that_was_killed_goes_on_from_its_last_checkpoint() {
    ground!("btrfs");
    let lab = Lab::new();
    let (one, two) = two_versions(&lab);
    let serve = lab.serve("--checkpoint 1M");
    for what in [full(&one), upon(&two, &one)] {
        let pid_file = lab.source.outside().join("pid");
        // The stream stalls after a while, so that there is time to be killed in.
        let feed = format!(
            "{} | sh -c 'echo $$ >\"{}\"; exec {}'",
            stall(7_000_000, &pid_file),
            pid_file.display(),
            serve.replace('\'', "")
        );
        let to = lab.target_peer(&feed);
        let from = Place::Here(lab.from());
        let pid = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let killed = std::thread::scope(|scope| {
            let bringing = scope.spawn(|| bring(&from, &to, &what));
            for _ in 0..2000 {
                if !checkpoints(&lab).is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            bringing.join().unwrap()
        });
        assert_eq!(killed.unwrap_err().class(), Class::Unreachable);
        drop(to);
        let moved = bring(&from, &lab.target_peer(&serve), &what).unwrap();
        assert!(moved.resumed_bytes >= 1 << 20, "{moved:?}");
    }
    lab.expect_same(&one);
    lab.expect_same(&two);
    assert_eq!(lab.left(), Vec::<String>::new());
}

/// A first attempt that is kept, a second one of other bytes that is cut too: the second is gone on with, the first is gone.
#[test]
fn what_begins_again_gives_up_what_was_there() {
    ground!("btrfs");
    let lab = Lab::new();
    let (one, _) = two_versions(&lab);
    let serve = lab.serve("--checkpoint 1M");
    let cut_off = format!("{} | {serve}", cut(5_000_000));
    let from = Place::Here(lab.from());
    bring(&from, &lab.target_peer(&cut_off), &full(&one)).unwrap_err();
    wait_until_dead(&lab);
    alter(&lab, "prefix");
    bring(&from, &lab.target_peer(&cut_off), &full(&one)).unwrap_err();
    wait_until_dead(&lab);
    assert_eq!(lab.left().len(), 2, "one checkpoint and its staging directory: {:?}", lab.left());
    let moved = bring(&from, &lab.target_peer(&serve), &full(&one)).unwrap();
    assert!(moved.resumed_bytes > 0, "{moved:?}");
    lab.expect_same(&one);
    assert_eq!(lab.left(), Vec::<String>::new());
}

/// Changes a hash that a checkpoint says.
fn alter(lab: &Lab, which: &str) {
    let [file] = &checkpoints(lab)[..] else { panic!("no checkpoint") };
    let mut said: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let hashes = said[which]["subtrees"].as_array_mut().unwrap();
    let last = hashes.last_mut().unwrap();
    *last = last.as_str().unwrap().chars().rev().collect::<String>().into();
    fs::write(file, said.to_string()).unwrap();
}

/// The frame in which a checkpoint lies is compared too, though it is not in the prefix.
#[test]
fn a_stream_that_differs_behind_the_prefix_is_noticed_and_given_up() {
    ground!("btrfs");
    let lab = Lab::new();
    let (one, _) = two_versions(&lab);
    let serve = lab.serve("--checkpoint 1M");
    let from = Place::Here(lab.from());
    bring(&from, &lab.target_peer(&format!("{} | {serve}", cut(6_000_000))), &full(&one)).unwrap_err();
    wait_until_dead(&lab);
    alter(&lab, "next");
    let error = bring(&from, &lab.target_peer(&serve), &full(&one)).unwrap_err();
    assert!(error.to_string().contains("not the one that was broken off"), "{error:?}");
    wait_until_dead(&lab);
    assert_eq!(lab.left(), Vec::<String>::new());
    assert_eq!(bring(&from, &lab.target_peer(&serve), &full(&one)).unwrap().resumed_bytes, 0);
    lab.expect_same(&one);
}

/// A sender whose disk fails, or whose target is full, may do better next time: what was verified stays.
#[test]
fn what_came_before_a_failure_of_either_side_is_kept() {
    ground!("btrfs");
    let lab = Lab::new();
    let (one, _) = two_versions(&lab);
    let mut stream = cowsnap::endpoint::Endpoint::send(&lab.from(), &sending(&one)).unwrap().stream;
    let header = cowsnap::stream::container::Header {
        backend: cowsnap::stream::container::Backend::Btrfs,
        dataset: "data".into(),
        snapshot: one.id.name.clone(),
        guid: one.id.guid,
        base: None,
        created: one.created,
        stream_version: 1,
        compressed: false,
        properties: Default::default(),
        zfs: None,
        place: None,
    };
    let mut container = Vec::new();
    let stored = cowsnap::stream::writer::Options { level: None, threads: 1 };
    cowsnap::stream::writer::write(&header, &mut stream, &mut container, &stored).unwrap();
    container.truncate(7_000_000);
    let cut = std::io::Cursor::new(container);
    let failing = std::io::Read::chain(cut, Failing);
    let incoming =
        cowsnap::exec::receive::Incoming::open(failing, "a stream", None).unwrap().keeping(1 << 20);
    let error = incoming.receive(&lab.to(), &cowsnap::exec::Silent).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error:?}");
    assert_eq!(lab.to().inventory().unwrap().partials.len(), 1);
    let renamed = cowsnap::endpoint::path::named(&lab.target.path().join("renamed")).unwrap();
    let refused = lab.to().rename_dataset(&renamed).unwrap_err();
    assert!(refused.hint().unwrap().contains("@%partial"), "{refused:?}");
    let moved = bring(&Place::Here(lab.from()), &Place::Here(lab.to()), &full(&one)).unwrap();
    assert!(moved.resumed_bytes > 1 << 20, "{moved:?}");
    lab.expect_same(&one);
    assert_eq!(lab.left(), Vec::<String>::new());
}

fn sending(version: &Version) -> cowsnap::endpoint::SendRequest {
    cowsnap::endpoint::SendRequest {
        version: version.id.clone(),
        base: None,
        clone_sources: Vec::new(),
        stream_version: 0,
        compressed: false,
        zfs: Default::default(),
    }
}

/// A disk that fails.
struct Failing;

impl std::io::Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::from_raw_os_error(libc::EIO))
    }
}
