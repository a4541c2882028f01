//! Dates of replicas: a version is as old there as at its source, and who may only add can not make that up.

use std::sync::Mutex;

use cowsnap::endpoint::History;
use cowsnap::exec::Event;
use cowsnap::exec::transfer::{Place, transfer};
use cowsnap::model::Version;
use jiff::{SignedDuration, Timestamp};

use super::lab::{Lab, bring, cut, full, noise, options, upon};
use crate::ground::{self, ground};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Has the source say that the version was made then.
fn date(lab: &Lab, version: &Version, created: Timestamp) -> Version {
    let dir = lab.source.path().join(".cowsnap/datasets/data/meta");
    let said = serde_json::json!({ "guid": version.id.guid, "created": created });
    std::fs::write(dir.join(format!("{}.json", version.id.name)), said.to_string()).unwrap();
    let dated = Version { created, ..version.clone() };
    assert!(lab.from().inventory().unwrap().versions().contains(&dated));
    dated
}

/// When the version was made, as the target says.
fn created_there(lab: &Lab, version: &Version) -> Timestamp {
    lab.to().inventory().unwrap().by_guid(version.id.guid).expect("it arrived").created
}

#[test]
fn a_replica_is_as_old_as_its_source_whichever_way_it_came() {
    ground!("btrfs");
    for way in ["here to here", "here to there", "there to here", "there to there"] {
        let lab = Lab::new();
        lab.write("a", &noise(1, 100_000));
        let now = Timestamp::now();
        let one = date(&lab, &lab.snapshot("one"), now - DAY * 7);
        let two = date(&lab, &lab.snapshot("two"), now - DAY);
        let three = lab.snapshot("three");
        let serve = lab.serve("");
        let from = if way.starts_with("here") { Place::Here(lab.from()) } else { lab.source_peer(&serve) };
        let to = if way.ends_with("here") { Place::Here(lab.to()) } else { lab.target_peer(&serve) };
        for what in [full(&one), upon(&two, &one), upon(&three, &two)] {
            bring(&from, &to, &what).unwrap_or_else(|error| panic!("{way}: {error:?}"));
        }
        for version in [&one, &two, &three] {
            assert_eq!(created_there(&lab, version), version.created, "{way}: {version:?}");
        }
    }
}

#[test]
fn what_was_cut_and_went_on_is_as_old_as_its_source() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", &noise(1, 8_000_000));
    let one = date(&lab, &lab.snapshot("one"), Timestamp::now() - DAY * 7);
    let serve = lab.serve("--checkpoint 1M");
    let from = Place::Here(lab.from());
    bring(&from, &lab.target_peer(&format!("{} | {serve}", cut(5_000_000))), &full(&one)).unwrap_err();
    let moved = bring(&from, &lab.target_peer(&serve), &full(&one)).unwrap();
    assert!(moved.resumed_bytes > 0, "{moved:?}");
    assert_eq!(created_there(&lab, &one), one.created);
}

/// A machine that was off the line for a week brings seven days at once: retention over there keeps seven days.
#[test]
fn a_week_that_comes_in_one_day_is_a_week_for_prune() {
    ground!("btrfs");
    let lab = Lab::new();
    let now = Timestamp::now();
    for day in 0..7 {
        lab.write("a", format!("{day}").as_bytes());
        date(&lab, &lab.snapshot(&format!("day-{day}")), now - DAY * (7 - day));
    }
    let state = lab.source.outside().join("state");
    let run = |args: &[&str]| {
        let output = ground::cowsnap(&state).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (from, to) = (lab.source.path().join("data"), lab.target.path().join("copy"));
    run(&["replicate", "-I", from.to_str().unwrap(), to.to_str().unwrap()]);
    let said = run(&["prune", to.to_str().unwrap(), "--keep-daily", "14"]);
    assert_eq!(lab.to().inventory().unwrap().versions().len(), 7, "{said}");
}

#[test]
fn who_may_only_add_makes_no_dates_up() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    let begin = Timestamp::now();
    // The good one, what a thief dates before and long after it, and one that says what is so.
    let good = date(&lab, &lab.snapshot("good"), begin - DAY * 3);
    let past = date(&lab, &lab.snapshot("past"), begin - DAY * 40);
    let future = date(&lab, &lab.snapshot("future"), begin + DAY * 700);
    let honest = lab.snapshot("honest");
    let to = lab.target_peer(&lab.serve("--allow receive --append-only"));
    let said = Mutex::new(Vec::new());
    let observe = |event: Event| {
        if let Event::Warning { text } = event {
            said.lock().unwrap().push(text);
        }
    };
    for what in [full(&good), upon(&past, &good), upon(&future, &past), upon(&honest, &future)] {
        transfer(&Place::Here(lab.from()), &to, &what, &options(), &observe).unwrap();
    }
    for version in [&good, &honest] {
        assert_eq!(created_there(&lab, version), version.created, "{version:?}");
    }
    for version in [&past, &future] {
        let created = created_there(&lab, version);
        assert!(begin <= created && created <= Timestamp::now(), "{version:?}: {created}");
    }
    let said = said.into_inner().unwrap();
    assert!(
        said.len() == 2 && said[0].contains("@past") && said[0].contains("before the newest"),
        "{said:?}"
    );
    assert!(said[1].contains("@future") && said[1].contains("dated when it was received"), "{said:?}");
    // Counting alone, retention keeps the thief's; the rule that the page recommends keeps the good one.
    let state = lab.source.outside().join("state");
    let copy = lab.target.path().join("copy");
    let prune = |rules: &[&str]| {
        let mut command = ground::cowsnap(&state);
        let output = command.args(["prune", copy.to_str().unwrap()]).args(rules).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lab.to().inventory().unwrap().by_guid(good.id.guid).is_some()
    };
    assert!(prune(&["--keep-last", "2", "--keep-within", "30d", "--min-age", "30d"]));
    assert!(!prune(&["--keep-last", "2"]));
}

#[test]
fn who_may_do_anything_is_believed() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    let now = Timestamp::now();
    let one = lab.snapshot("one");
    let old = date(&lab, &lab.snapshot("old"), now - DAY * 40);
    let to = lab.target_peer(&lab.serve("--allow receive"));
    for what in [full(&one), upon(&old, &one)] {
        bring(&Place::Here(lab.from()), &to, &what).unwrap();
    }
    assert_eq!(created_there(&lab, &old), old.created);
}

/// A snapshot whose date is still to come is kept, takes the place of none, and is warned of, whatever prune is asked to show.
#[test]
fn prune_keeps_what_is_from_the_future_and_warns_of_it() {
    ground!("btrfs");
    let lab = Lab::new();
    let now = Timestamp::now();
    for (name, days) in [("old", -9), ("ahead", 3), ("yesterday", -1), ("today", 0)] {
        lab.write("a", name.as_bytes());
        date(&lab, &lab.snapshot(name), now + DAY * days);
    }
    let prune = |args: &[&str]| {
        let mut command = ground::cowsnap(&lab.source.outside().join("state"));
        let output =
            command.args(["prune", "--keep-daily", "2"]).args(args).arg(lab.source.path().join("data"));
        let output = output.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (explained, _) = prune(&["--explain"]);
    let of_it = explained.lines().find(|line| line.contains("ahead")).expect("it is judged");
    assert!(of_it.contains("from the future"), "{explained}");
    for args in [&["--dry-run"][..], &[]] {
        let (_, said) = prune(args);
        assert!(said.contains("from the future by their clock, and kept: ahead"), "{args:?}: {said}");
        assert!(!said.contains("yesterday"), "{said}");
    }
    let left: Vec<_> = lab
        .from()
        .inventory()
        .unwrap()
        .versions()
        .iter()
        .map(|version| version.id.name.to_string())
        .collect();
    assert_eq!(left, ["ahead", "yesterday", "today"], "two days, and what is from the future");
    // Nothing is said where there is nothing to say.
    let ahead = lab.from().inventory().unwrap().versions()[0].clone();
    lab.from().destroy(&ahead.id).unwrap();
    let (_, said) = prune(&[]);
    assert!(!said.contains("future"), "{said}");
}
