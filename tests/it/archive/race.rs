//! Several at once: pushers, and prune, stopped at every request.

use rustix::process::Signal;

use cowsnap::endpoint::archive::{About, Manifest};
use cowsnap::model::Guid;

use super::{Ground, Victim, ended};
use crate::ground::ground;
use crate::s3::Fault;

#[test]
fn two_who_push_at_once_both_get_what_they_wanted() {
    ground!("btrfs");
    let mut ground = Ground::on_s3();
    ground.take("s0", 1 << 20);
    ground.take("s1", 1 << 20);
    for round in 0..5 {
        ground.elsewhere(&format!("r{round}"));
        let lines =
            ["archive push FS/d@s0 URL", "archive push FS/d@s0 URL", "archive push FS/d@s1 URL --full"];
        let children = lines.map(|line| ground.start(line));
        for child in children {
            let (code, said) = ended(child);
            assert_eq!(code, Some(0), "{said}");
        }
        assert_eq!(ground.versions(), ["s0", "s1"]);
    }
    ground.expect_nothing_left();
    ground.expect_whole("s1", "back");
}

/// An archive of first, s0 upon it, and s2, where s1 would build upon s0, and nobody wants s0.
fn with_a_doomed_base(ground: &mut Ground, name: &str) {
    ground.elsewhere(name);
    ground.run("archive push FS/d@first URL");
    ground.run("archive push FS/d@s0 URL");
    ground.run("archive push FS/d@s2 URL --full");
}

const PUSH: &str = "archive push FS/d@s1 URL";
const PRUNE: &str = "archive prune URL --keep-name s2 --keep-name s1 --keep-name first";

/// Stops `first` at each of its requests, has `second` run, and lets `first` go on.
fn stopped_at_each_request(first: &str, second: &str) {
    let mut ground = Ground::on_s3();
    for name in ["first", "s0", "s1", "s2"] {
        ground.take(name, 100_000);
    }
    for nth in 1.. {
        with_a_doomed_base(&mut ground, &format!("n{nth}"));
        ground.server().forget();
        let victim = Victim::default();
        let stop = victim.signal(Signal::STOP);
        ground.server().fault(nth, Fault::After(stop));
        let child = ground.start(first);
        victim.is(&child);
        let asked = || ground.server().requests().len() as u64;
        let mut child = child;
        let is_over = loop {
            if child.try_wait().expect("it is ours").is_some() {
                break true;
            }
            if asked() >= nth && is_stopped(&child) {
                break false;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        let other = ground.output(second);
        assert!(other.status.success(), "{second}, at {nth}: {}", String::from_utf8_lossy(&other.stderr));
        if !is_over {
            victim.signal(Signal::CONT)();
        }
        let (code, said) = ended(child);
        assert_eq!(code, Some(0), "{first}, at {nth}: {said}");
        // Nothing that is there is without what it builds upon, and what was pushed is there.
        let names = ground.versions();
        let has = |name: &str| names.iter().any(|there| there == name);
        assert!(has("first") && has("s1") && has("s2"), "at {nth}: {names:?}");
        ground.run(PRUNE);
        ground.versions();
        ground.expect_nothing_left();
        if is_over {
            assert!(nth > 8, "only {nth} requests");
            return;
        }
    }
}

fn is_stopped(child: &std::process::Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

#[test]
fn a_push_that_stops_at_any_request_while_prune_runs_builds_upon_what_stays() {
    ground!("btrfs");
    stopped_at_each_request(PUSH, PRUNE);
}

#[test]
fn a_prune_that_stops_at_any_request_while_somebody_pushes_takes_nothing_from_him() {
    ground!("btrfs");
    stopped_at_each_request(PRUNE, PUSH);
}

#[test]
fn a_prune_that_is_killed_at_any_request_is_finished_by_the_next_one() {
    ground!("btrfs");
    let mut ground = Ground::on_s3();
    for name in ["s0", "s1", "s2", "s3"] {
        ground.take(name, 100_000);
    }
    for nth in 1.. {
        ground.elsewhere(&format!("n{nth}"));
        for name in ["s0", "s1", "s2"] {
            ground.run(&format!("archive push FS/d@{name} URL"));
        }
        ground.run("archive push FS/d@s3 URL --full");
        ground.server().forget();
        let victim = Victim::default();
        ground.server().fault(nth, Fault::After(victim.signal(Signal::KILL)));
        let child = ground.start("archive prune URL --keep-last 1");
        victim.is(&child);
        let (code, said) = ended(child);
        ground.server().forget();
        assert!(matches!(code, None | Some(0)), "{said}");
        // What is there comes back, however far it was.
        ground.versions();
        super::age(&ground.files());
        ground.run("archive prune URL --keep-last 1");
        assert_eq!(ground.versions(), ["s3"]);
        ground.expect_nothing_left();
        if code == Some(0) {
            assert!(nth > 8, "only {nth} requests");
            return;
        }
    }
}

#[test]
fn what_is_held_or_needed_stays_and_the_rest_goes() {
    ground!("btrfs");
    let ground = Ground::on_dir();
    ground.run("archive add URL FS/d");
    for name in ["s0", "s1", "s2", "s3", "s4"] {
        ground.take(name, 1000);
        let full = if name == "s3" { " --full" } else { "" };
        ground.run(&format!("archive push FS/d@{name} URL{full}"));
    }
    ground.ends(2, "archive prune URL");
    ground.run("archive hold keep URL s1");
    ground.ends(2, "archive hold keep URL none");
    let would = ground.json("archive prune URL --keep-last 1 --dry-run");
    assert_eq!(would["would_destroy"], serde_json::json!(["s2"]));
    let explained = ground.run("archive prune URL --keep-last 1 --explain");
    assert!(explained.contains("held by keep") && explained.contains("below @s1"), "{explained}");
    assert_eq!(ground.json("archive prune URL --keep-last 1")["destroyed"], serde_json::json!(["s2"]));
    assert_eq!(ground.versions(), ["s0", "s1", "s3", "s4"]);
    assert_eq!(ground.json("archive holds URL")["holds"][0]["tag"], "keep");
    ground.run("archive release keep URL s1");
    ground.ends(2, "archive release keep URL s1");
    ground.run("archive prune URL --keep-last 1");
    assert_eq!(ground.versions(), ["s3", "s4"]);
    ground.expect_nothing_left();
}

#[test]
fn who_can_only_put_objects_has_no_real_version_destroyed() {
    ground!("btrfs");
    let ground = Ground::on_dir();
    let (sign, signer) = ground.key("sign", "sign");
    ground.run("archive add URL FS/d");
    for name in ["s0", "s1", "s2"] {
        ground.take(name, 1000);
        ground.run(&format!("archive push FS/d@{name} URL --full --sign {sign}"));
    }
    let real = |name: &str| {
        let all = ground.archive().listing().expect("listed").stored;
        all.into_iter().find(|stored| stored.version.name.as_str() == name).expect("there")
    };
    // Empty keys, of now and of a time to come; and a whole manifest of somebody else.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later").as_nanos();
    for n in 1..=9_u128 {
        for at in [now + n, now + n * 1_000_000_000_000_000] {
            let key = format!("versions/{at:020}-{:032x}-{:032x}-0000000000001000-x{n}", at, 0);
            ground.store().put(&key, Vec::new().into()).expect("put");
        }
    }
    let would = ground.json("archive prune URL --keep-last 2 --dry-run");
    assert_eq!(would["would_destroy"], serde_json::json!(["s0"]));
    let explained = ground.run("archive prune URL --keep-last 2 --explain");
    assert!(explained.contains("not counted: its manifest can not be used"), "{explained}");
    assert!(explained.contains("more than a day after it was put"), "{explained}");
    let pruned = ground.json("archive prune URL --keep-last 2");
    assert_eq!(pruned["destroyed"], serde_json::json!(["s0"]));
    assert_eq!(pruned["not_counted"].as_array().map(Vec::len), Some(18), "{pruned}");
    // Sound manifests that nobody signed who is trusted.
    let manifest = super::manifest(&ground.archive(), &real("s2"));
    for n in 1..=3_u8 {
        let about = About {
            guid: Guid([n; 16]),
            snapshot: format!("y{n}").parse().expect("a name"),
            created: manifest.about().created + std::time::Duration::from_secs(n.into()),
            ..manifest.about().clone()
        };
        let fake = Manifest::new(about, manifest.pieces()).expect("a manifest");
        ground.archive().commit(&fake).expect("put");
    }
    let pruned = ground.json(&format!("archive prune URL --keep-last 1 --verify-key {signer}"));
    assert_eq!(pruned["destroyed"], serde_json::json!(["s1"]));
    real("s2");
    assert!(ground.ends(2, "archive prune URL --keep-last 1 --verify-key nothing").1.contains("nothing"));
}

#[test]
fn what_can_not_come_back_takes_no_place_of_what_can() {
    ground!("btrfs");
    let ground = Ground::on_dir();
    ground.run("archive add URL FS/d");
    for (name, full) in [("s0", " --full"), ("s1", " --full"), ("s2", " --full"), ("s3", ""), ("s4", "")] {
        ground.take(name, 1000);
        ground.run(&format!("archive push FS/d@{name} URL{full}"));
    }
    // s3 and s4 build upon it.
    let all = ground.archive().listing().expect("listed").stored;
    let base = all.iter().find(|stored| stored.version.name.as_str() == "s2").expect("there");
    ground.archive().destroy(&[base.to_string()]).expect("destroyed");
    let explained = ground.run("archive prune URL --keep-last 2 --explain");
    assert!(explained.contains("not counted: it can not come back"), "{explained}");
    let pruned = ground.json("archive prune URL --keep-last 2");
    assert_eq!(pruned["destroyed"], serde_json::json!([]), "s0 and s1 are all that there is");
}
