//! One stream to several targets.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cowsnap::Class;
use cowsnap::endpoint::History;
use cowsnap::exec::Event;
use cowsnap::exec::replicate::{Guard, Replicated, Wanted, foretell, replicate};
use cowsnap::exec::transfer::Place;
use cowsnap::model::Version;

use super::lab::{Lab, cut, noise, options, stall};
use crate::ground::ground;

/// The target called `copy`, one called `second` beside it, and one called `third`.
const NAMES: [&str; 3] = ["copy", "second", "third"];

fn here(lab: &Lab, name: &str) -> Place {
    Place::Here(cowsnap::endpoint::path::named(&lab.target.path().join(name)).unwrap())
}

fn there(lab: &Lab, name: &str, remote: &str) -> Place {
    lab.peer(&lab.target.path().join(name), remote)
}

/// What was done, how many streams the source was read for, and what was warned of.
struct Ran {
    outcomes: Vec<cowsnap::Result<Replicated>>,
    streams: usize,
    warned: Vec<String>,
}

fn run(lab: &Lab, from: &Place, to: &[Place]) -> Ran {
    let wanted = Wanted { intermediates: true, last: None, full_again: false, options: options() };
    let (streams, warned) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let observe = |event: Event| match event {
        Event::Started { op: "send", .. } => drop(streams.fetch_add(1, Ordering::Relaxed)),
        Event::Warning { text } => warned.lock().unwrap().push(text),
        _ => {}
    };
    let state = lab.source.outside().join("state");
    let guard = Guard { state_dir: &state, wait: true };
    let outcomes = replicate(from, to, &wanted, guard, &observe);
    Ran { outcomes, streams: streams.into_inner(), warned: warned.into_inner().unwrap() }
}

/// Some 12 MB in files.
fn write(lab: &Lab, seed: u64) {
    for n in 0..12 {
        lab.write(&format!("file {n}"), &noise(seed + n, 1_000_000));
    }
}

fn expect_all_have(lab: &Lab, names: &[&str], version: &Version) {
    let places = names.iter().map(|name| lab.target.path().join(name));
    for path in places {
        let there = cowsnap::endpoint::path::named(&path).unwrap();
        lab.expect_same_at(&there, version);
    }
    assert_eq!(lab.left(), Vec::<String>::new());
}

#[test]
fn the_source_is_read_once_for_all_targets() {
    ground!("btrfs");
    for pull in [false, true] {
        let lab = Lab::new();
        let serve = lab.serve("");
        let from = if pull { lab.source_peer(&serve) } else { Place::Here(lab.from()) };
        let to = [here(&lab, "copy"), there(&lab, "second", &serve), there(&lab, "third", &serve)];
        lab.write("a", &noise(1, 3_000_000));
        lab.snapshot("zero");
        for (round, name) in ["one", "two"].into_iter().enumerate() {
            lab.write("b", &noise(2 + round as u64, 2_000_000));
            let version = lab.snapshot(name);
            let ran = run(&lab, &from, &to);
            assert_eq!(ran.streams, 2 - round, "pull {pull}");
            for outcome in ran.outcomes {
                let moved = outcome.unwrap().moved;
                assert_eq!(moved.len(), 2 - round);
                assert!(
                    moved.iter().all(|moved| moved.targets == 3 && moved.wire_bytes > 2_000_000),
                    "{moved:?}"
                );
            }
            expect_all_have(&lab, &NAMES, &version);
        }
        let again = run(&lab, &from, &to);
        assert!(
            again.streams == 0
                && again.outcomes.iter().all(|done| done.as_ref().unwrap().plan.steps.is_empty())
        );
    }
}

/// Who is behind catches up, and then all go together.
#[test]
fn a_target_that_is_behind_catches_up_first() {
    ground!("btrfs");
    let lab = Lab::new();
    let from = Place::Here(lab.from());
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        lab.write("a", &noise(n as u64, 1_500_000));
        lab.snapshot(name);
        if name == "two" {
            run(&lab, &from, &[here(&lab, "copy")]);
        }
    }
    let to = [here(&lab, "copy"), here(&lab, "second")];
    let wanted = Wanted { intermediates: true, last: None, full_again: false, options: options() };
    let (told, turns) = foretell(&from, &to, &wanted).unwrap();
    assert!(told.iter().all(Result::is_ok));
    let lanes: Vec<_> = turns.iter().map(|turn| turn.lanes.clone()).collect();
    assert_eq!(lanes, [vec![1], vec![1], vec![0, 1]]);
    let ran = run(&lab, &from, &to);
    let moved = |n: usize| {
        ran.outcomes[n].as_ref().unwrap().moved.iter().map(|moved| moved.targets).collect::<Vec<_>>()
    };
    assert_eq!((moved(0), moved(1)), (vec![2], vec![1, 1, 2]));
}

#[test]
fn a_target_that_fails_is_left_out_and_goes_on_the_next_time() {
    ground!("btrfs");
    for at in [300, 2_000_000, 5_000_000, 8_700_001, 12_000_000] {
        let lab = Lab::new();
        write(&lab, 0);
        let one = lab.snapshot("one");
        let serve = lab.serve("--checkpoint 1M");
        let from = Place::Here(lab.from());
        let cut_off = format!("{} | {serve}", cut(at));
        let to = [there(&lab, "copy", &cut_off), there(&lab, "second", &serve), here(&lab, "third")];
        let ran = run(&lab, &from, &to);
        let [failed, second, third] = &ran.outcomes[..] else { panic!("three") };
        assert_eq!(failed.as_ref().unwrap_err().class(), Class::Unreachable, "{at}: {failed:?}");
        assert!(second.is_ok() && third.is_ok(), "{at}: {second:?} {third:?}");
        wait_until_dead(&lab);
        let to = [there(&lab, "copy", &serve), there(&lab, "second", &serve), here(&lab, "third")];
        let ran = run(&lab, &from, &to);
        let [first, second, third] = &ran.outcomes[..] else { panic!("three") };
        let moved = &first.as_ref().unwrap().moved;
        let durable = at.saturating_sub(4_000_000);
        assert!(moved.len() == 1 && moved[0].resumed_bytes >= durable, "{at}: {moved:?}");
        assert!(second.as_ref().unwrap().moved.is_empty() && third.as_ref().unwrap().moved.is_empty());
        expect_all_have(&lab, &NAMES, &one);
    }
}

/// Each is fed the rest of its own, from one stream.
#[test]
fn targets_that_were_cut_at_different_places_go_on_together() {
    ground!("btrfs");
    let lab = Lab::new();
    write(&lab, 0);
    let one = lab.snapshot("one");
    let serve = lab.serve("--checkpoint 1M");
    let from = Place::Here(lab.from());
    let cut_off = |at| format!("{} | {serve}", cut(at));
    let to = [there(&lab, "copy", &cut_off(5_000_000)), there(&lab, "second", &cut_off(9_000_000))];
    let ran = run(&lab, &from, &to);
    assert!(ran.streams == 1 && ran.outcomes.iter().all(Result::is_err));
    wait_until_dead(&lab);
    let to = [there(&lab, "copy", &serve), here(&lab, "second"), here(&lab, "third")];
    let ran = run(&lab, &from, &to);
    let moved: Vec<_> = ran.outcomes.iter().map(|done| done.as_ref().unwrap().moved[0].clone()).collect();
    let resumed: Vec<_> = moved.iter().map(|moved| moved.resumed_bytes).collect();
    assert!(0 < resumed[0] && resumed[0] < resumed[1] && resumed[2] == 0, "{resumed:?}");
    assert!(
        moved.iter().all(|moved| moved.targets == 3 && moved.wire_bytes + moved.resumed_bytes > 12_000_000)
    );
    assert_eq!(ran.streams, 1);
    expect_all_have(&lab, &NAMES, &one);
}

/// What a peer has of it already can not be left out of a stream for all: who has something gets the rest alone.
#[test]
fn from_a_peer_who_was_cut_goes_on_alone() {
    ground!("btrfs");
    let lab = Lab::new();
    write(&lab, 0);
    let one = lab.snapshot("one");
    let serve = lab.serve("--checkpoint 1M");
    let from = lab.source_peer(&serve);
    let cut_off = format!("{} | {serve}", cut(6_000_000));
    let ran = run(&lab, &from, &[there(&lab, "copy", &cut_off), here(&lab, "second")]);
    assert!(ran.outcomes[0].is_err() && ran.outcomes[1].is_ok(), "{:?}", ran.outcomes);
    wait_until_dead(&lab);
    let ran = run(&lab, &from, &[there(&lab, "copy", &serve), here(&lab, "third"), here(&lab, "second")]);
    let moved: Vec<_> = ran.outcomes.iter().map(|done| done.as_ref().unwrap().moved.first()).collect();
    assert!(moved[0].unwrap().resumed_bytes > 0 && moved[1].unwrap().resumed_bytes == 0, "{moved:?}");
    expect_all_have(&lab, &NAMES, &one);
}

/// Who goes alone is not handed what is left of the stream that the others broke off.
#[test]
fn from_a_peer_one_that_fails_in_mid_stream_takes_nobody_along() {
    ground!("btrfs");
    let lab = Lab::new();
    write(&lab, 0);
    lab.snapshot("one");
    let serve = lab.serve("--checkpoint 1M");
    let from = lab.source_peer(&serve);
    let cut_off = format!("{} | {serve}", cut(6_000_000));
    let ran = run(&lab, &from, &[there(&lab, "copy", &cut_off)]);
    assert!(ran.outcomes[0].is_err());
    wait_until_dead(&lab);
    lab.write("a", &noise(99, 1_000_000));
    let two = lab.snapshot("two");
    let from = lab.source_peer(&serve);
    let ran = run(&lab, &from, &[there(&lab, "copy", &serve), there(&lab, "second", &cut_off)]);
    let [copy, second] = &ran.outcomes[..] else { panic!("two") };
    assert_eq!(second.as_ref().unwrap_err().class(), Class::Unreachable, "{second:?}");
    let moved = &copy.as_ref().unwrap().moved;
    assert!(moved.len() == 2 && moved[0].resumed_bytes > 0, "{moved:?}");
    lab.expect_same(&two);
}

#[test]
fn a_target_with_another_beginning_is_sent_to_alone() {
    ground!("btrfs");
    let lab = Lab::new();
    write(&lab, 0);
    let one = lab.snapshot("one");
    let serve = lab.serve("--checkpoint 1M");
    let from = Place::Here(lab.from());
    let cut_off = format!("{} | {serve}", cut(6_000_000));
    run(&lab, &from, &[there(&lab, "copy", &cut_off)]).outcomes.remove(0).unwrap_err();
    wait_until_dead(&lab);
    for staging in fs::read_dir(lab.target.path().join(".cowsnap/staging")).unwrap() {
        let file = staging.unwrap().path().join("checkpoint");
        let mut said: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let hash = said["prefix"]["subtrees"][0].as_str().unwrap().chars().rev().collect::<String>();
        said["prefix"]["subtrees"][0] = hash.into();
        fs::write(file, said.to_string()).unwrap();
    }
    let to = [there(&lab, "copy", &serve), here(&lab, "second"), there(&lab, "third", &serve)];
    let ran = run(&lab, &from, &to);
    let targets: Vec<_> = ran.outcomes.iter().map(|done| done.as_ref().unwrap().moved[0].targets).collect();
    assert_eq!(targets, [1, 2, 2]);
    assert!(ran.warned.iter().any(|text| text.contains("begins again")), "{:?}", ran.warned);
    expect_all_have(&lab, &NAMES, &one);
}

#[test]
fn a_target_that_takes_nothing_is_given_up_and_the_others_go_on() {
    ground!("btrfs");
    let lab = Lab::new();
    write(&lab, 0);
    let one = lab.snapshot("one");
    let serve = lab.serve("");
    let from = Place::Here(lab.from());
    // The line is dead and nobody says so, for as long as that process lives.
    let mut lives = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let pid_file = lab.source.outside().join("pid");
    fs::write(&pid_file, lives.id().to_string()).unwrap();
    let mut ssh = lab.ssh(&format!("{} | {serve}", stall(3_000_000, &pid_file)));
    ssh.patience.stall = Some(Duration::from_millis(700));
    let address = format!("ssh://there/{}", lab.target.path().join("copy").display()).parse().unwrap();
    let hangs = Place::There(cowsnap::endpoint::peer::Peer::connect(&address, &ssh).unwrap());
    let ran = run(&lab, &from, &[hangs, here(&lab, "second"), there(&lab, "third", &serve)]);
    lives.kill().unwrap();
    lives.wait().unwrap();
    wait_until_dead(&lab);
    let [hung, second, third] = &ran.outcomes[..] else { panic!("three") };
    assert_eq!(hung.as_ref().unwrap_err().class(), Class::Unreachable, "{hung:?}");
    assert!(second.is_ok() && third.is_ok(), "{second:?} {third:?}");
    for name in ["second", "third"] {
        lab.expect_same_at(&cowsnap::endpoint::path::named(&lab.target.path().join(name)).unwrap(), &one);
    }
}

/// A command for a shell that passes on what a target is asked, but the request to hold only once the other target is asked for that, too.
fn meet(lab: &Lab, own: &str, other: &str) -> String {
    let [own, other] = [own, other].map(|name| lab.source.outside().join(name).display().to_string());
    format!(
        "perl -e 'while ($r = sysread STDIN, $b, 65536) {{ if ($b =~ /\"verb\":\"hold\"/) {{ open F, \">{own}\"; close F; \
         $n = 0; select undef, undef, undef, 0.02 until -e \"{other}\" || $n++ > 3000; exit 1 unless -e \"{other}\" }} \
         syswrite STDOUT, $b }}'"
    )
}

/// A target whose last steps take long keeps no other waiting with its own: here each would wait for the other for ever.
#[test]
fn what_is_left_to_do_at_targets_is_done_side_by_side() {
    ground!("btrfs");
    let lab = Lab::new();
    write(&lab, 0);
    let one = lab.snapshot("one");
    let serve = lab.serve("");
    let to = [("copy", "second"), ("second", "copy")]
        .map(|(name, other)| there(&lab, name, &format!("{} | {serve}", meet(&lab, name, other))));
    let ran = run(&lab, &Place::Here(lab.from()), &to);
    for outcome in &ran.outcomes {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    assert_eq!(ran.streams, 1);
    drop(to);
    expect_all_have(&lab, &NAMES[..2], &one);
    for name in &NAMES[..2] {
        let there = cowsnap::endpoint::path::named(&lab.target.path().join(name)).unwrap();
        assert_eq!(there.inventory().unwrap().holds().len(), 1, "{name}");
    }
}

/// What fails at a target leaves the connection to the source as it is: the others' next words are said on it.
#[test]
fn a_target_that_fails_does_not_break_the_connection_to_the_source() {
    ground!("btrfs");
    let lab = Lab::new();
    write(&lab, 0);
    let one = lab.snapshot("one");
    let serve = lab.serve("");
    let connected = lab.source.outside().join("connected");
    let from = lab.source_peer(&format!("echo once >>'{}'; {serve}", connected.display()));
    let ends_at_hold = "perl -e 'while ($r = sysread STDIN, $b, 65536) { exit if $b =~ /\"verb\":\"hold\"/; syswrite STDOUT, $b }'";
    let to = [there(&lab, "copy", &format!("{ends_at_hold} | {serve}")), there(&lab, "second", &serve)];
    let outcomes = run(&lab, &from, &to).outcomes;
    assert_eq!(outcomes[0].as_ref().unwrap_err().class(), Class::Unreachable, "{outcomes:?}");
    assert!(outcomes[1].is_ok(), "{outcomes:?}");
    assert_eq!(fs::read_to_string(connected).unwrap(), "once\n");
    drop((to, from));
    expect_all_have(&lab, &NAMES[..2], &one);
}

/// A source that fails is what all of them fail of, and each keeps what it has.
#[test]
fn a_source_that_fails_fails_all_and_all_go_on() {
    ground!("btrfs");
    let lab = Lab::new();
    write(&lab, 0);
    let one = lab.snapshot("one");
    let serve = lab.serve("--checkpoint 1M");
    let from = lab.source_peer(&format!("{serve} | {}", cut(7_000_000)));
    let ran = run(&lab, &from, &[there(&lab, "copy", &serve), here(&lab, "second")]);
    for outcome in &ran.outcomes {
        let error = outcome.as_ref().unwrap_err();
        assert_eq!(error.class(), Class::Unreachable, "{error:?}");
        assert!(error.to_string().contains("the connection was cut"), "{error:?}");
    }
    wait_until_dead(&lab);
    let ran = run(&lab, &lab.source_peer(&serve), &[there(&lab, "copy", &serve), here(&lab, "second")]);
    for outcome in &ran.outcomes {
        let moved = &outcome.as_ref().unwrap().moved[0];
        assert!(moved.resumed_bytes > 1_000_000, "{moved:?}");
    }
    expect_all_have(&lab, &NAMES[..2], &one);
}

fn wait_until_dead(lab: &Lab) {
    for name in NAMES {
        for _ in 0..500 {
            let dataset = cowsnap::endpoint::path::named(&lab.target.path().join(name)).unwrap();
            match dataset.inventory() {
                Ok(inventory) if inventory.partials.iter().any(|partial| partial.live) => {}
                _ => break,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
