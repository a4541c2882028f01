use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("as it was made")
}

fn outcome(subject: Subject, second: i64, failed: bool) -> Outcome {
    let failure = failed.then(|| Failure::new("unreachable", "no route"));
    Outcome { bytes: 10, failure, ..Outcome::done(subject, at(second), Duration::from_millis(1500)) }
}

#[test]
fn what_went_well_and_what_failed_is_counted_apart_and_kept_beside_each_other() {
    let mut record = JobRecord::new("node", at(0));
    let target = Subject::to_target("tank/node", "vault/node");
    for (second, failed) in [(10, false), (20, true)] {
        record.begin(at(second - 1), 7);
        assert!(record.running.is_some());
        let all = vec![
            Outcome { up_to: (!failed).then(|| at(second)), ..outcome(target.clone(), second, failed) },
            outcome(Subject::of_job(Op::Run), second, failed),
        ];
        record.end(at(second - 1), all, |_| true);
    }
    let tally = record.tally(&target).expect("as it was made");
    assert_eq!(
        (tally.done, tally.failed, tally.last_success, tally.up_to),
        (1, 1, Some(at(10)), Some(at(10)))
    );
    assert_eq!(tally.last_failure.as_ref().map(|failed| failed.at), Some(at(20)));
    assert_eq!((tally.total_ms, tally.total_bytes, record.running.as_ref()), (3000, 20, None));
    let last = record.last_run.expect("as it was made");
    assert_eq!((last.began, last.ended), (at(19), Some(at(20))));
    assert_eq!(last.failure.expect("as it was made").class, "unreachable");
}

#[test]
fn a_run_that_was_killed_is_the_last_one_and_has_no_end() {
    let mut record = JobRecord::new("node", at(0));
    record.begin(at(1), 7);
    record.begin(at(2), 8);
    let last = record.last_run.as_ref().expect("as it was made");
    assert_eq!((last.began, last.ended, record.unended), (at(1), None, 1));
    assert_eq!(last.failure.as_ref().expect("as it was made").class, UNENDED);
    assert_eq!(record.running.as_ref().map(|running| running.pid), Some(8));
    record.end(at(2), vec![outcome(Subject::of_job(Op::Run), 3, false)], |_| true);
    assert_eq!((record.last_run.expect("as it was made").failure, record.unended), (None, 1));
}

#[test]
fn who_is_told_late_does_not_undo_that_it_is_well_again() {
    let mut record = JobRecord::new("node", at(0));
    let failure = Failure::new("unreachable", "no route");
    let run = |record: &mut JobRecord, second, failed| {
        record.begin(at(second - 1), 7);
        record.end(at(second - 1), vec![outcome(Subject::of_job(Op::Run), second, failed)], |_| true);
    };
    run(&mut record, 10, true);
    run(&mut record, 20, false);
    record.was_told(Channel::Mail, at(20), None);
    record.was_told(Channel::Mail, at(10), Some(&failure));
    assert_eq!(record.mailed, None);
    run(&mut record, 30, true);
    assert!(record.is_news(Channel::Mail, at(30), Some(&failure)));
    record.was_told(Channel::Mail, at(30), Some(&failure));
    assert!(record.mailed.is_some() && !record.is_news(Channel::Mail, at(31), Some(&failure)));
}

#[test]
fn what_could_not_be_begun_says_nothing_of_the_run_that_is_at_work() {
    let mut record = JobRecord::new("node", at(0));
    record.begin(at(1), 7);
    record.end(at(5), vec![outcome(Subject::of_job(Op::Run), 5, true)], |_| true);
    assert_eq!((record.running.as_ref().map(|running| running.since), record.unended), (Some(at(1)), 0));
    record.forget(at(5));
    assert!(record.running.is_some());
    record.forget(at(1));
    assert!(record.running.is_none());
}

#[test]
fn it_does_not_grow_with_what_was_configured_once_nor_with_what_is_said() {
    let mut record = JobRecord::new("node", at(0));
    for n in 0..100 {
        let target = Subject::to_target("tank/node", &format!("vault/{n}"));
        record.end(at(n), vec![outcome(target.clone(), n, false)], |subject| *subject == target);
    }
    assert_eq!(record.tallies.len(), 2, "the run, and the last target");
    record.skip(at(1), &"é".repeat(2 * MAX_TEXT));
    assert_eq!(record.skipped.last.expect("as it was made").why.chars().count(), MAX_TEXT + 1);
    let long = Failure::new("x", &"é".repeat(2 * MAX_TEXT)).text;
    assert!(long.ends_with('…') && long.chars().count() == MAX_TEXT + 1);
}

#[test]
fn what_is_written_is_read_again_and_another_version_or_job_is_none() {
    let mut record = JobRecord::new("node", at(0));
    record.end(at(1), vec![outcome(Subject::of_dataset(Op::Prune, "tank/node"), 2, true)], |_| true);
    let text = serde_json::to_string(&record).expect("as it was made");
    let read: JobRecord = serde_json::from_str(&text).expect("as it was made");
    assert_eq!(read, record);
    assert!(read.is_of("node") && !read.is_of("other"));
    let newer: JobRecord =
        serde_json::from_str(&text.replace("\"version\":1", "\"version\":2")).expect("as it was made");
    assert!(!newer.is_of("node"));
}

#[test]
fn bytes_that_are_not_what_they_were_are_counted_among_the_failures() {
    let mut tally = Tally::new(Subject::of_job(Op::Run));
    for class in ["corrupt", "conflict", "corrupt"] {
        let failure = Some(Failure::new(class, "no"));
        tally.add(Outcome { failure, ..outcome(Subject::of_job(Op::Run), 1, false) });
    }
    assert_eq!((tally.failed, tally.corrupt), (3, 2));
}

#[test]
fn counters_stay_at_their_end() {
    let mut tally = Tally::new(Subject::of_job(Op::Run));
    (tally.done, tally.total_bytes) = (u64::MAX, u64::MAX);
    tally.add(outcome(Subject::of_job(Op::Run), 1, false));
    assert_eq!((tally.done, tally.total_bytes), (u64::MAX, u64::MAX));
}

#[test]
fn what_is_done_is_called_as_it_is_written() {
    let in_runs = [Op::Run, Op::Quiesce, Op::Snapshot, Op::Replicate, Op::Prune];
    let beside = [Op::Drill, Op::Verify, Op::VerifyContent, Op::Recover, Op::Due, Op::Trigger];
    for op in in_runs.into_iter().chain(beside) {
        assert_eq!(serde_json::to_string(&op).expect("as it was made"), format!("{:?}", op.name()));
        assert_eq!(op.is_beside(), beside.contains(&op));
    }
}

#[test]
fn what_was_found_by_reading_is_well_again_by_reading_all_of_it() {
    let mut record = JobRecord::new("node", at(0));
    let [digests, content] =
        [Op::Verify, Op::VerifyContent].map(|op| Subject::of_target(op, "tank/node", "vault/node"));
    let failing = |record: &JobRecord, subject| record.tally(subject).is_some_and(Tally::is_failing);
    let verified = |record: &mut JobRecord, second, content, all, class: Option<&str>| {
        let failure = class.map(|class| Failure::new(class, "no"));
        let depth = Depth { content, all, inside: false };
        let outcome = Outcome::done(digests.clone(), at(second), Duration::ZERO);
        record.verified(depth, &Outcome { failure, ..outcome });
    };
    verified(&mut record, 1, true, true, Some("corrupt"));
    assert!(record.tally(&digests).is_none() && failing(&record, &content));
    // Neither says anything of what is on the disks.
    verified(&mut record, 2, false, false, None);
    verified(&mut record, 3, true, false, None);
    assert!(failing(&record, &content) && !failing(&record, &digests));
    assert_eq!(record.tally(&digests).expect("as it was made").last_success, Some(at(3)));
    verified(&mut record, 4, true, true, None);
    assert!(!failing(&record, &content));
    // What could not be compared since says nothing of what was found, however often.
    verified(&mut record, 4, true, true, Some("corrupt"));
    for class in ["unreachable", "partial"] {
        verified(&mut record, 4, true, true, Some(class));
        verified(&mut record, 4, true, false, None);
        verified(&mut record, 4, false, false, None);
        let tally = record.tally(&content).expect("as it was made");
        assert!(tally.is_failing() && tally.found.as_ref().is_some_and(|found| found.failed.is_corrupt()));
    }
    verified(&mut record, 4, true, true, None);
    assert!(!failing(&record, &content) && record.tally(&content).is_some_and(|tally| tally.found.is_none()));
    verified(&mut record, 5, true, false, Some("unreachable"));
    assert!(failing(&record, &content));
    verified(&mut record, 6, true, false, None);
    assert!(!failing(&record, &content));
    verified(&mut record, 7, false, false, Some("corrupt"));
    assert!(failing(&record, &digests) && !failing(&record, &content));
    assert_eq!(
        record.tally(&content).expect("as it was made").corrupt
            + record.tally(&digests).expect("as it was made").corrupt,
        3
    );
}

#[test]
fn a_run_whose_snapshot_failed_is_told_from_one_that_failed_later_or_was_killed() {
    let mut record = JobRecord::new("node", at(0));
    let mut ended = |failed: &[Op], kills: bool| {
        record.begin(at(1), 7);
        let all = [Op::Quiesce, Op::Snapshot, Op::Replicate, Op::Run];
        let all = all.map(|op| outcome(Subject::of_job(op), 2, failed.contains(&op)));
        match kills {
            true => record.begin(at(3), 8),
            false => record.end(at(1), all.into(), |_| true),
        }
        record.has_no_snapshot()
    };
    assert!(!ended(&[], false) && !ended(&[Op::Replicate, Op::Run], false));
    assert!(ended(&[Op::Snapshot, Op::Run], false) && ended(&[Op::Quiesce, Op::Run], false));
    assert!(!ended(&[], true));
}

#[test]
fn what_was_found_inside_is_well_again_by_looking_inside() {
    let subject = Subject::of_target(Op::Verify, "tank/node", "vault/node");
    for content in [false, true] {
        let mut record = JobRecord::new("node", at(0));
        let mut is_failing = |inside, class: Option<&str>| {
            let failure = class.map(|class| Failure::new(class, "no"));
            let outcome = Outcome { failure, ..Outcome::done(subject.clone(), at(1), Duration::ZERO) };
            record.verified(Depth { content, all: content, inside }, &outcome);
            record.tallies.iter().any(Tally::is_failing)
        };
        assert!(is_failing(true, Some("corrupt")));
        assert!(is_failing(false, None));
        // What is found without them since takes nothing of that away.
        assert!(is_failing(false, Some("corrupt")) && is_failing(false, None));
        assert!(!is_failing(true, None));
        assert!(is_failing(false, Some("corrupt")) && !is_failing(false, None));
    }
}

#[test]
fn what_belongs_to_no_run_is_counted_and_is_not_the_last_run() {
    let mut record = JobRecord::new("node", at(0));
    record.begin(at(1), 7);
    let drill = Subject::of_job(Op::Drill);
    record.note(outcome(drill.clone(), 2, true));
    record.note(outcome(drill.clone(), 3, false));
    let tally = record.tally(&drill).expect("as it was made");
    assert_eq!((tally.done, tally.failed, tally.last_success), (1, 1, Some(at(3))));
    assert!(record.running.is_some() && record.last_run.is_none());
    assert_eq!(record.tallies[0].subject, Subject::of_job(Op::Run));
}

#[test]
fn a_restore_that_was_not_good_stays_so_until_one_of_that_snapshot_or_a_newer_one_is() {
    let drill = || Subject::of_job(Op::Drill);
    let mut tally = Tally::new(drill());
    let mut rehearsed = |second, taken: Option<i64>, class: Option<&str>| {
        let failure = class.map(|class| Failure::new(class, "no"));
        tally.add(Outcome { failure, up_to: taken.map(at), ..outcome(drill(), second, false) });
        (tally.is_failing(), tally.found.as_ref().map(|found| found.failed.at))
    };
    assert_eq!(rehearsed(2, Some(1), Some("unreachable")), (true, None));
    assert_eq!(rehearsed(20, Some(10), Some("corrupt")), (true, Some(at(20))));
    assert_eq!(rehearsed(21, None, Some("unreachable")), (true, Some(at(20))));
    // An older one that is good says nothing of it.
    assert_eq!(rehearsed(22, Some(1), None), (true, Some(at(20))));
    assert_eq!(rehearsed(23, Some(10), None), (false, None));
    assert_eq!(rehearsed(30, Some(10), Some("corrupt")), (true, Some(at(30))));
    assert_eq!(rehearsed(31, Some(11), None), (false, None));
    // An older one that is not good, of a replica, takes the newer one's place, and not its time.
    assert_eq!(rehearsed(40, Some(20), Some("corrupt")), (true, Some(at(40))));
    assert_eq!(rehearsed(41, Some(15), Some("corrupt")), (true, Some(at(41))));
    assert_eq!(rehearsed(42, Some(17), None), (true, Some(at(41))));
    assert_eq!(rehearsed(43, Some(20), None), (false, None));
    assert_eq!(tally.up_to, Some(at(20)));
}

#[test]
fn downtime_is_summed_and_the_last_one_stays_until_there_is_another() {
    let mut tally = Tally::new(Subject::of_job(Op::Quiesce));
    for down in [Some(300), Some(200), None] {
        let downtime = down.map(Duration::from_millis);
        tally.add(Outcome { downtime, ..outcome(Subject::of_job(Op::Quiesce), 1, false) });
    }
    assert_eq!((tally.last_downtime_ms, tally.total_downtime_ms), (Some(200), 500));
    assert_eq!(milliseconds(Duration::MAX), u64::MAX);
    // Of a run that could not say it, nothing else is counted.
    let mut record = JobRecord::new("node", at(0));
    record.was_down(Duration::from_secs(60));
    let tally = record.tally(&Subject::of_job(Op::Quiesce)).expect("it is there");
    assert_eq!((tally.last_downtime_ms, tally.total_downtime_ms), (Some(60_000), 60_000));
    assert_eq!((tally.done, tally.failed, tally.is_failing()), (0, 0, false));
}

#[test]
fn a_failure_is_told_until_somebody_was_and_when_it_is_another_and_after_it_went_well() {
    let mut record = JobRecord::new("node", at(0));
    let failure = |class| Some(Failure::new(class, "no"));
    let is_news = |record: &JobRecord, second, class| {
        Channel::ALL.map(|whom| record.is_news(whom, at(second), failure(class).as_ref()))
    };
    // Nobody could be told the first time.
    assert_eq!([is_news(&record, 0, "usage"), is_news(&record, 60, "usage")], [[true; 2]; 2]);
    record.was_told(Channel::Command, at(60), failure("usage").as_ref());
    assert_eq!(record.told, Some(Told { at: at(60), class: "usage".into() }));
    assert_eq!(is_news(&record, 120, "usage"), [false, true], "no mail was taken yet");
    record.was_told(Channel::Mail, at(120), failure("usage").as_ref());
    assert_eq!(is_news(&record, 180, "usage"), [false; 2]);
    assert_eq!(is_news(&record, 180, "corrupt"), [true; 2]);
    for whom in Channel::ALL {
        assert!(record.is_news(whom, at(240), None));
        record.was_told(whom, at(240), None);
    }
    assert_eq!((&record.told, &record.mailed), (&None, &None));
    assert_eq!(is_news(&record, 300, "usage"), [true; 2]);
}

#[test]
fn what_failed_last_is_known_whatever_the_clock_said() {
    let subject = || Subject::of_job(Op::Drill);
    let mut tally = Tally::new(subject());
    assert!(!tally.is_failing());
    // It went well while the clock was ahead by a year, and failed when it was right again.
    tally.add(outcome(subject(), 31_536_000, false));
    tally.add(outcome(subject(), 10, true));
    tally.add(outcome(subject(), 20, true));
    assert_eq!((tally.is_failing(), tally.in_a_row), (true, Some(2)));
    tally.add(outcome(subject(), 5, false));
    assert_eq!((tally.is_failing(), tally.in_a_row), (false, Some(0)));
    // What was written before failures in a row were counted.
    for (success, failure, expected) in
        [(None, Some(2), true), (Some(1), Some(2), true), (Some(3), Some(2), false), (Some(3), None, false)]
    {
        let failed = |second| Failed { at: at(second), failure: Failure::new("usage", "no") };
        let old = Tally {
            in_a_row: None,
            last_success: success.map(at),
            last_failure: failure.map(failed),
            ..Tally::new(subject())
        };
        assert_eq!(old.is_failing(), expected, "{success:?} {failure:?}");
    }
}
