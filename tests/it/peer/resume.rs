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

/// If the source does not send the same bytes again, be it the first or the last of what is there, all of it comes anew in the same run,
/// and that is said.
#[test]
fn a_stream_that_begins_otherwise_begins_again_at_once() {
    ground!("btrfs");
    let ways = [("here", "here"), ("here", "there"), ("there", "here"), ("there", "there")];
    for (way, last) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let lab = Lab::new();
        let (one, _) = two_versions(&lab);
        let serve = lab.serve("--checkpoint 1M");
        let cut = format!("{} | {serve}", cut(6_000_000));
        bring(&Place::Here(lab.from()), &lab.target_peer(&cut), &full(&one)).unwrap_err();
        wait_until_dead(&lab);
        alter(&lab, last);
        let warned = std::sync::Mutex::new(Vec::new());
        let observe = |event: Event| {
            if let Event::Warning { text } = event {
                warned.lock().unwrap().push(text);
            }
        };
        let from = if way.0 == "there" { lab.source_peer(&serve) } else { Place::Here(lab.from()) };
        let to = if way.1 == "there" { lab.target_peer(&serve) } else { Place::Here(lab.to()) };
        let moved = transfer(&from, &to, &full(&one), &options(), &observe).unwrap();
        assert_eq!(moved.resumed_bytes, 0);
        let warned = warned.into_inner().unwrap();
        assert!(warned.iter().any(|text| text.contains("begins again")), "{way:?}: {warned:?}");
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
    alter(&lab, true);
    bring(&from, &lab.target_peer(&cut_off), &full(&one)).unwrap_err();
    wait_until_dead(&lab);
    assert_eq!(lab.left().len(), 2, "one checkpoint and its staging directory: {:?}", lab.left());
    let moved = bring(&from, &lab.target_peer(&serve), &full(&one)).unwrap();
    assert!(moved.resumed_bytes > 0, "{moved:?}");
    lab.expect_same(&one);
    assert_eq!(lab.left(), Vec::<String>::new());
}

/// Changes what a checkpoint says that the first frames hash to, or the last one.
fn alter(lab: &Lab, last: bool) {
    let [file] = &checkpoints(lab)[..] else { panic!("no checkpoint") };
    let mut said: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let hashes = said["prefix"]["subtrees"].as_array_mut().unwrap();
    assert!(hashes.len() > 1, "{hashes:?}");
    let at = if last { hashes.len() - 1 } else { 0 };
    hashes[at] = hashes[at].as_str().unwrap().chars().rev().collect::<String>().into();
    fs::write(file, said.to_string()).unwrap();
}

/// What a disk has lost is not gone on with: the next run, each way, says so and brings all of it.
#[test]
fn what_is_kept_and_damaged_begins_anew_in_the_next_run() {
    ground!("btrfs");
    let lab = Lab::new();
    let [one, _] = many_names(&lab);
    let mut container = container(&lab, &one, None);
    container.truncate((2 << 20) + 300_000);
    let serve = lab.serve("");
    let cut_off = || {
        let cut = std::io::Cursor::new(container.clone());
        let incoming =
            cowsnap::exec::receive::Incoming::open(cut, "a stream", None).unwrap().keeping(256 << 20);
        incoming.receive(&lab.to(), &cowsnap::exec::Silent).map(|_| ()).unwrap_err();
    };
    type Damage = (&'static str, fn(&Lab));
    let damages: [Damage; 3] = [
        ("a tail that is shorter", |lab| {
            let tail = tail(lab);
            let bytes = fs::read(&tail).unwrap();
            fs::write(&tail, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("no tail", |lab| fs::remove_file(tail(lab)).unwrap()),
        ("no snapshot", |lab| {
            let kept: Vec<_> = lab.left().into_iter().filter(|name| name.starts_with('%')).collect();
            let [kept] = &kept[..] else { panic!("{kept:?}") };
            let datasets = lab.target.path().join(".cowsnap/datasets");
            let snapshots =
                fs::read_dir(datasets).unwrap().flatten().map(|at| at.path().join("snap").join(kept));
            let at = snapshots.into_iter().find(|at| at.exists()).unwrap();
            crate::ground::run("btrfs", &["subvolume", "delete", at.to_str().unwrap()]);
        }),
    ];
    expect_foretold(&lab, &cut_off, false);
    for (name, damage) in damages {
        cut_off();
        damage(&lab);
        expect_foretold(&lab, &|| {}, true);
        lab.to().give_up_partial().unwrap();
        for there in [false, true] {
            cut_off();
            damage(&lab);
            let to = if there { lab.target_peer(&serve) } else { Place::Here(lab.to()) };
            let moved = bring(&Place::Here(lab.from()), &to, &full(&one));
            let moved = moved.unwrap_or_else(|error| panic!("{name}, {there}: {error:?}"));
            assert_eq!(moved.resumed_bytes, 0, "{name}, {there}");
            drop(to);
            lab.expect_same(&one);
            assert_eq!(lab.left(), Vec::<String>::new(), "{name}, {there}");
            lab.to().destroy(&one.id).unwrap();
        }
    }
    cut_off();
    let moved = bring(&Place::Here(lab.from()), &Place::Here(lab.to()), &full(&one)).unwrap();
    assert_eq!(moved.resumed_bytes, 2 << 20, "what is sound is gone on with");
}

/// A dataset whose history is not where it was: what it has in part is kept for it, and not called damaged.
#[test]
fn what_is_kept_of_a_dataset_that_is_away_is_not_called_damaged() {
    ground!("btrfs");
    let lab = Lab::new();
    let [one, _] = many_names(&lab);
    cut_in_the_last_frame(&lab, &one, false);
    let homes = lab.target.path().join(".cowsnap/datasets");
    let home = fs::read_dir(&homes).unwrap().next().unwrap().unwrap().path();
    let aside = lab.target.path().join("aside");
    fs::rename(&home, &aside).unwrap();
    let state = lab.source.outside().join("state");
    let doctor = || {
        let said = crate::ground::cowsnap(&state).arg("doctor").arg(lab.target.path()).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    let said = doctor();
    assert!(said.contains("the history of its dataset is not there") && !said.contains("damaged"), "{said}");
    fs::rename(&aside, &home).unwrap();
    let said = doctor();
    assert!(said.contains("the next cowsnap replicate goes on with it"), "{said}");
}

/// A hash of what was passed that is none is not offered: the next run begins anew, and all comes.
#[test]
fn a_checkpoint_that_no_sender_would_compare_is_given_up() {
    ground!("btrfs");
    for (len, blake3) in [(None, "of whatever"), (Some(0), "")] {
        let lab = Lab::new();
        let [one, _] = many_names(&lab);
        cut_in_the_last_frame(&lab, &one, false);
        let [file] = &checkpoints(&lab)[..] else { panic!("no checkpoint") };
        let mut said: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        said["passed"]["blake3"] = blake3.into();
        if let Some(len) = len {
            let taken = said["passed"]["len"].as_u64().unwrap();
            said["midway"]["offset"] = (said["midway"]["offset"].as_u64().unwrap() - taken + len).into();
            said["passed"]["len"] = len.into();
        }
        fs::write(file, said.to_string()).unwrap();
        let serve = lab.serve("");
        let moved = bring(&Place::Here(lab.from()), &lab.target_peer(&serve), &full(&one)).unwrap();
        assert_eq!(moved.resumed_bytes, 0, "{len:?} {blake3}");
        lab.expect_same(&one);
        assert_eq!(lab.left(), Vec::<String>::new());
    }
}

/// After `cut_off`, whether `list`, `doctor` and `replicate --dry-run` say that the next run begins anew, as it does if what is kept `is_damaged`.
fn expect_foretold(lab: &Lab, cut_off: &dyn Fn(), is_damaged: bool) {
    cut_off();
    let (state, target) = (lab.source.outside().join("state"), lab.target.path());
    let say = |args: &[&std::ffi::OsStr]| {
        let said = crate::ground::cowsnap(&state).args(args).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    let [from, to] = [lab.source.path().join("data@one"), target.join("copy")];
    let list = say(&["list".as_ref(), to.as_ref()]);
    let doctor = say(&["doctor".as_ref(), target.as_ref()]);
    let dry = say(&["replicate".as_ref(), "--dry-run".as_ref(), from.as_ref(), to.as_ref()]);
    let json = say(&["--json".as_ref(), "list".as_ref(), to.as_ref()]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let bytes = json["datasets"][0]["partials"][0]["bytes"].as_u64();
    assert_eq!(bytes, Some(if is_damaged { 0 } else { 2 << 20 }), "{json}");
    assert_eq!(list.contains("cowsnap replicate begins anew"), is_damaged, "{list}");
    assert_eq!(doctor.contains("the next cowsnap replicate begins anew"), is_damaged, "{doctor}");
    assert_eq!(dry.contains("would send @one in full"), is_damaged, "{dry}");
    assert_eq!(dry.contains(", if the source still sends the same"), !is_damaged, "{dry}");
    if !is_damaged {
        lab.to().give_up_partial().unwrap();
    }
}

/// The file in which the rest of a frame is kept.
fn tail(lab: &Lab) -> PathBuf {
    let [checkpoint] = &checkpoints(lab)[..] else { panic!("no checkpoint") };
    let all = fs::read_dir(checkpoint.parent().unwrap()).unwrap().flatten().map(|file| file.path());
    let is_tail = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().starts_with("tail.");
    all.into_iter().find(is_tail).expect("it was cut within a frame")
}

/// A sender whose disk fails, or whose target is full, may do better next time: what was verified stays.
#[test]
fn what_came_before_a_failure_of_either_side_is_kept() {
    ground!("btrfs");
    let lab = Lab::new();
    let (one, _) = two_versions(&lab);
    let mut container = container(&lab, &one, None);
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

/// The bytes in which a version travels.
fn container(lab: &Lab, version: &Version, base: Option<&Version>) -> Vec<u8> {
    let (header, mut stream) = outgoing(lab, version, base);
    let mut container = Vec::new();
    let stored = cowsnap::stream::writer::Options { level: None, threads: 1 };
    cowsnap::stream::writer::write(&header, &mut stream, &mut container, &stored).unwrap();
    container
}

/// A version's stream, and what it says of itself.
fn outgoing(
    lab: &Lab,
    version: &Version,
    base: Option<&Version>,
) -> (cowsnap::stream::container::Header, Box<dyn std::io::Read + Send>) {
    let request = cowsnap::endpoint::SendRequest {
        version: version.id.clone(),
        base: base.map(|base| base.id.clone()),
        clone_sources: Vec::new(),
        stream_version: 0,
        compressed: false,
        zfs: Default::default(),
    };
    let stream = cowsnap::endpoint::Endpoint::send(&lab.from(), &request).unwrap().stream;
    let header = cowsnap::stream::container::Header {
        backend: cowsnap::stream::container::Backend::Btrfs,
        dataset: "data".into(),
        snapshot: version.id.name.clone(),
        guid: version.id.guid,
        base: base.map(|base| base.id.guid),
        created: version.created,
        stream_version: 1,
        compressed: false,
        properties: Default::default(),
        zfs: None,
        place: None,
    };
    (header, stream)
}

/// A disk that fails.
struct Failing;

impl std::io::Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::from_raw_os_error(libc::EIO))
    }
}

/// Names of all kinds, so that streams are cut between a file's making and its name, too, and some megabytes in all.
fn many_names(lab: &Lab) -> [Version; 2] {
    let data = lab.source.path().join("data");
    let make = |from: u64, to: u64| {
        for n in from..to {
            fs::create_dir(data.join(format!("d{n}"))).unwrap();
            lab.write(&format!("d{n}/f"), &noise(n, (n as usize * 7919) % 30_000));
            fs::hard_link(data.join(format!("d{n}/f")), data.join(format!("link {n}"))).unwrap();
            std::os::unix::fs::symlink("f", data.join(format!("d{n}/s"))).unwrap();
        }
    };
    make(0, 200);
    let one = lab.snapshot("one");
    for n in 0..60 {
        fs::rename(data.join(format!("d{n}")), data.join(format!("moved {n}"))).unwrap();
        fs::remove_file(data.join(format!("link {}", n + 60))).unwrap();
    }
    make(200, 380);
    [one, lab.snapshot("two")]
}

/// How many whole frames of 1 MiB are in it, as a reader of containers sees it.
fn whole_frames(container: &[u8]) -> u64 {
    let container = std::io::Cursor::new(container.to_vec());
    let Ok(mut reader) = cowsnap::stream::reader::Reader::open(container) else { return 0 };
    let _ = reader.verify(|_| ());
    reader.verified() >> 20
}

/// Where to cut: at the first bytes, around the ends of frames, in the midst of them, within the trailer.
fn places_to_cut(container: &[u8]) -> Vec<usize> {
    let len = container.len();
    let frames =
        (1..=len >> 20).flat_map(|n| [(n << 20) - 70_000, n << 20, (n << 20) + 500, (n << 20) + 300_000]);
    let ends = [0, 1, 40, 300, 5_000, len - 40_000, len - 70, len - 10, len - 1];
    let mut all: Vec<_> = frames.chain(ends).filter(|at| *at < len).collect();
    all.sort();
    all.dedup();
    all
}

/// Cut anywhere, by the end of the line or by an error of it, a stream goes on behind every whole frame that had come, however little that was
/// and however seldom a checkpoint is wanted.
#[test]
fn a_stream_that_is_cut_goes_on_behind_all_that_had_come() {
    ground!("btrfs");
    let lab = Lab::new();
    let [one, two] = many_names(&lab);
    let [first, second] = [container(&lab, &one, None), container(&lab, &two, Some(&one))];
    assert!(first.len() > 2 << 20 && second.len() > 2 << 20, "{} and {}", first.len(), second.len());
    let here = (Place::Here(lab.from()), Place::Here(lab.to()));
    for (container, what, version) in [(&first, full(&one), &one), (&second, upon(&two, &one), &two)] {
        let mut n_resumed = 0;
        for (n, at) in places_to_cut(container).into_iter().enumerate() {
            let cut = std::io::Cursor::new(container[..at].to_vec());
            let receive = |input: Box<dyn std::io::Read + Send>| {
                let incoming = cowsnap::exec::receive::Incoming::open(input, "a stream", None)?;
                incoming.keeping(256 << 20).receive(&lab.to(), &cowsnap::exec::Silent)
            };
            let input: Box<dyn std::io::Read + Send> = match n % 2 {
                0 => Box::new(cut),
                _ => Box::new(std::io::Read::chain(cut, Failing)),
            };
            receive(input).map(|_| ()).unwrap_err();
            let frames = whole_frames(&container[..at]);
            let moved = bring(&here.0, &here.1, &what).unwrap();
            assert_eq!(moved.resumed_bytes, frames << 20, "cut at {at} of {}", container.len());
            n_resumed += usize::from(frames > 0);
            lab.expect_same(version);
            assert_eq!(lab.left(), Vec::<String>::new(), "cut at {at}");
            if n + 1 < places_to_cut(container).len() {
                lab.to().destroy(&version.id).unwrap();
            }
        }
        assert!(n_resumed > 6, "{n_resumed}");
    }
}

/// The one place where bytes come again that were applied: a last frame that is no whole one. They are compared where they are made, and if they
/// are others, all of it comes anew in the same run, and that is said: each way, and of one target among several.
#[test]
fn a_last_frame_that_is_another_begins_again_at_once() {
    ground!("btrfs");
    let ways =
        [("here", "here"), ("here", "there"), ("there", "here"), ("there", "there"), ("here", "several")];
    for way in ways {
        for is_other in [true, false] {
            let lab = Lab::new();
            let [one, _] = many_names(&lab);
            cut_in_the_last_frame(&lab, &one, is_other);
            let warned = std::sync::Mutex::new(Vec::new());
            let observe = |event: Event| {
                if let Event::Warning { text } = event {
                    warned.lock().unwrap().push(text);
                }
            };
            let serve = lab.serve("--checkpoint 1M");
            let from = if way.0 == "there" { lab.source_peer(&serve) } else { Place::Here(lab.from()) };
            let to = if way.1 == "there" { lab.target_peer(&serve) } else { Place::Here(lab.to()) };
            let resumed = match way.1 {
                "several" => among_several(&lab, &from, &to, &observe),
                _ => transfer(&from, &to, &full(&one), &options(), &observe).unwrap().resumed_bytes,
            };
            assert_eq!(resumed == 0, is_other, "{way:?}: {resumed}");
            let warned = warned.into_inner().unwrap();
            let said = warned.iter().any(|text| text.contains("begins again"));
            assert_eq!(said, is_other, "{way:?}: {warned:?}");
            lab.expect_same(&one);
            assert_eq!(lab.left(), Vec::<String>::new(), "{way:?}");
        }
    }
}

/// Brings all to `to`, and to another target that has nothing yet; what `to` had already.
fn among_several(lab: &Lab, from: &Place, to: &Place, observe: &dyn cowsnap::exec::Observe) -> u64 {
    let other = Place::Here(cowsnap::endpoint::path::named(&lab.target.path().join("other")).unwrap());
    let wanted = cowsnap::exec::replicate::Wanted {
        intermediates: false,
        last: Some("one".parse().unwrap()),
        full_again: false,
        options: options(),
    };
    let state = lab.source.outside().join("state");
    let guard = cowsnap::exec::replicate::Guard { state_dir: &state, wait: true };
    let done = cowsnap::exec::replicate::replicate(from, &[to.clone(), other], &wanted, guard, observe);
    let done: Vec<_> = done.into_iter().map(|done| done.unwrap().moved).collect();
    assert!(done[0].len() == 1 && done[1].len() == 1, "{done:?}");
    done[0][0].resumed_bytes
}

/// Leaves a receive that was cut behind its last frame, before the trailer; with other bytes of that frame than the source sends, if it is so wanted.
fn cut_in_the_last_frame(lab: &Lab, one: &Version, is_other: bool) {
    let container = container(lab, one, None);
    let cut = std::io::Cursor::new(container[..container.len() - 10].to_vec());
    let incoming = cowsnap::exec::receive::Incoming::open(cut, "a stream", None).unwrap().keeping(1 << 30);
    incoming.receive(&lab.to(), &cowsnap::exec::Silent).map(|_| ()).unwrap_err();
    let [file] = &checkpoints(lab)[..] else { panic!("no checkpoint") };
    let mut said: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let passed = said["passed"]["blake3"].as_str().expect("it was cut behind a last frame").to_owned();
    if is_other {
        said["passed"]["blake3"] = passed.chars().rev().collect::<String>().into();
        fs::write(file, said.to_string()).unwrap();
    }
}

/// A sender that compares nothing is not believed: what is there is given up.
#[test]
fn what_comes_again_of_a_last_frame_is_compared() {
    ground!("btrfs");
    let lab = Lab::new();
    let [one, _] = many_names(&lab);
    cut_in_the_last_frame(&lab, &one, true);
    let kept = lab.to().kept(one.id.guid, None).unwrap().expect("it can go on");
    let mut rest = Vec::new();
    let stored = cowsnap::stream::writer::Options { level: None, threads: 1 };
    let (header, mut stream) = outgoing(&lab, &one, None);
    let believed = kept.prefix().with_passed(None);
    cowsnap::stream::writer::write_rest(&header, &mut stream, &believed, &mut rest, &stored).unwrap();
    let incoming =
        cowsnap::exec::receive::Incoming::resume(std::io::Cursor::new(rest), "a stream", None, kept);
    let error = incoming.unwrap().receive(&lab.to(), &cowsnap::exec::Silent).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("not the one that was broken off"), "{error:?}");
    assert_eq!(error.class(), Class::Conflict, "as the page on replication says");
    assert_eq!(lab.left(), Vec::<String>::new());
    assert_eq!(
        bring(&Place::Here(lab.from()), &Place::Here(lab.to()), &full(&one)).unwrap().resumed_bytes,
        0
    );
    lab.expect_same(&one);
}
