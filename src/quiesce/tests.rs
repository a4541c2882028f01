//! Whatever fails and whoever is killed wherever: what ran runs again, what was down stays down, and nothing is taken of what may be written to.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::lease::Doing;
use super::process::Process;
use super::*;
use crate::model::Service;
use crate::plan::quiesce::TRIES;

/// What happens at one of the operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    FailsBefore,
    FailsAfter,
    KilledBefore,
    KilledAfter,
}

const FATES: [Fate; 4] = [Fate::FailsBefore, Fate::FailsAfter, Fate::KilledBefore, Fate::KilledAfter];

/// A machine with services, of which operations fail, once or from then on.
struct Fake {
    ran: Vec<bool>,
    runs: Vec<bool>,
    is_verified: bool,
    n_taken: usize,
    n_kept: usize,
    lease: Option<Vec<usize>>,
    has_guard: bool,
    n_done: usize,
    fates: Vec<(usize, Fate)>,
}

struct Killed;

impl Fake {
    fn new(ran: &[bool], fates: Vec<(usize, Fate)>) -> Self {
        Self {
            ran: ran.to_vec(),
            runs: ran.to_vec(),
            is_verified: false,
            n_taken: 0,
            n_kept: 0,
            lease: None,
            has_guard: false,
            n_done: 0,
            fates,
        }
    }

    fn does<T>(&mut self, effect: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        let nth = self.n_done;
        self.n_done += 1;
        let fate = self.fates.iter().find(|(at, _)| *at == nth).map(|(_, fate)| *fate);
        match fate {
            None => return effect(self),
            Some(Fate::FailsBefore) => {}
            Some(Fate::KilledBefore) => std::panic::resume_unwind(Box::new(Killed)),
            Some(Fate::FailsAfter) => drop(effect(self)),
            Some(Fate::KilledAfter) => {
                let _ = effect(self);
                std::panic::resume_unwind(Box::new(Killed));
            }
        }
        Err(format!("operation {nth}"))
    }
}

impl World for Fake {
    type Snapshot = ();
    type Error = String;

    fn look(&mut self) -> Result<Vec<usize>, String> {
        self.does(|fake| Ok((0..fake.runs.len()).filter(|&nth| fake.runs[nth]).collect()))
    }

    fn probe(&mut self) -> Result<(), String> {
        self.does(|_| Ok(()))
    }

    fn lease(&mut self, running: &[usize]) -> Result<(), String> {
        let running = running.to_vec();
        self.does(|fake| {
            fake.lease = Some(running);
            Ok(())
        })
    }

    fn guard(&mut self) -> Result<(), String> {
        self.does(|fake| {
            fake.has_guard = true;
            Ok(())
        })
    }

    fn stop(&mut self, nth: usize) -> Result<(), String> {
        assert!(
            self.has_guard && self.lease.as_ref().is_some_and(|lease| lease.contains(&nth)),
            "a stop unguarded"
        );
        self.does(|fake| {
            fake.runs[nth] = false;
            Ok(())
        })
    }

    fn verify(&mut self) -> Result<(), String> {
        self.does(|fake| {
            assert!(!fake.runs.contains(&true), "verified while something runs");
            fake.is_verified = true;
            Ok(())
        })
    }

    fn snapshot(&mut self) -> Result<(), String> {
        assert!(self.is_verified && !self.runs.contains(&true), "a snapshot of what is written to");
        self.does(|fake| {
            fake.n_taken += 1;
            Ok(())
        })
    }

    fn confirm(&mut self) -> Result<(), String> {
        self.does(|fake| {
            assert!(!fake.runs.contains(&true), "confirmed while something runs");
            Ok(())
        })
    }

    fn keep(&mut self, (): &mut ()) -> Result<(), String> {
        self.does(|fake| {
            assert!(!fake.runs.contains(&true), "kept while something runs");
            fake.n_kept += 1;
            Ok(())
        })
    }

    fn discard(&mut self, (): ()) -> Result<(), String> {
        (self.n_taken, self.n_kept) = (self.n_taken - 1, 0);
        Ok(())
    }

    fn start(&mut self, nth: usize) -> Result<(), String> {
        self.does(|fake| {
            fake.runs[nth] = true;
            Ok(())
        })
    }

    fn settle(&mut self) -> Result<(), String> {
        self.does(|_| Ok(()))
    }

    fn answer(&mut self) -> Result<(), (Outcome, String)> {
        let done = self.does(|_| Ok(()));
        done.map_err(
            |why| if self.runs == self.ran { (Outcome::Silent, why) } else { (Outcome::Failed, why) },
        )
    }

    fn unlease(&mut self) -> Result<(), String> {
        self.does(|fake| {
            fake.lease = None;
            Ok(())
        })
    }
}

/// Does it, and answers how it ended; `None` if it was killed.
fn done(fake: &mut Fake, machine: Machine) -> Option<Finished<Option<()>, String>> {
    let ended = catch_unwind(AssertUnwindSafe(|| transact(fake, machine, &mut |_| ())));
    match ended {
        Ok(finished) => Some(finished),
        Err(cause) if cause.is::<Killed>() => None,
        Err(cause) => std::panic::resume_unwind(cause),
    }
}

/// The guard, if it is there, and `job recover` at boot, as long as the lease is there.
fn recovered(fake: &mut Fake) {
    for _ in 0..8 {
        let Some(lease) = fake.lease.clone() else { break };
        done(fake, Machine::recovering(lease));
    }
}

fn check(ran: &[bool], fates: &[(usize, Fate)]) {
    let mut fake = Fake::new(ran, fates.to_vec());
    let finished = done(&mut fake, Machine::default());
    let told = format!("{ran:?} {fates:?}");
    if let Some(finished) = &finished {
        assert_eq!(
            finished.snapshot == Ok(Some(())),
            fake.n_taken == 1 && finished.snapshot.is_ok(),
            "{told}"
        );
        assert!(finished.not_started.is_empty() || fake.lease.is_some(), "{told}: a lease is lost");
        if finished.not_started.is_empty() {
            assert_eq!(fake.runs, ran, "{told}: it says that all is well");
        }
    }
    recovered(&mut fake);
    assert_eq!(fake.runs, ran, "{told}");
    assert_eq!(fake.lease, None, "{told}");
    assert!(fake.n_taken <= 1 && fake.n_kept <= fake.n_taken, "{told}");
    if let Some(Finished { snapshot: Ok(_), .. }) = finished {
        assert_eq!(fake.n_kept, 1, "{told}: it does not count");
    }
}

#[test]
fn whatever_fails_or_is_killed_once_or_twice_the_services_run_again() {
    for ran in [&[true][..], &[true, true], &[true, false, true], &[false, false], &[]] {
        for first in 0..19 {
            for fate in FATES {
                check(ran, &[(first, fate)]);
                for second in first + 1..27 {
                    for other in FATES {
                        check(ran, &[(first, fate), (second, other)]);
                    }
                }
            }
        }
    }
}

#[test]
fn a_start_that_fails_for_good_is_told_and_its_lease_stays() {
    let start = 8; // look, probe, lease, guard, stop, verify, snapshot, confirm are before it is kept.
    let fates: Vec<_> = (1..=TRIES).map(|nth| (start + nth, Fate::FailsBefore)).collect();
    let mut fake = Fake::new(&[true], fates);
    let finished = done(&mut fake, Machine::default()).expect("it is not killed");
    assert_eq!((finished.stopped, finished.answers, finished.downtime), (vec![0], false, None));
    assert_eq!((finished.snapshot, finished.not_started.len()), (Ok(Some(())), 1));
    assert_eq!((fake.lease.clone(), &fake.runs), (Some(vec![0]), &vec![false]));
    recovered(&mut fake);
    assert_eq!((fake.lease, fake.runs), (None, vec![true]));
}

#[test]
fn one_failed_start_of_several_is_told_of_that_service_alone() {
    let mut fake = Fake::new(&[true], vec![(9, Fate::FailsBefore)]);
    let finished = done(&mut fake, Machine::default()).expect("it is not killed");
    assert_eq!((finished.not_started.len(), finished.running), (0, vec![0]), "the second attempt went well");
    assert!(finished.downtime.is_some() && finished.afterwards.is_empty());
    let mut down = Fake::new(&[false], vec![]);
    let finished = done(&mut down, Machine::default()).expect("it is not killed");
    assert_eq!((finished.downtime, finished.snapshot), (None, Ok(Some(()))));
    assert_eq!((down.lease, down.has_guard), (None, false), "what is down needs no guard");
}

#[test]
fn a_snapshot_during_which_somebody_wrote_is_given_up() {
    for (nth, what) in [(7, "operation 7"), (8, "operation 8")] {
        let mut fake = Fake::new(&[true], vec![(nth, Fate::FailsBefore)]);
        let finished = done(&mut fake, Machine::default()).expect("it is not killed");
        assert_eq!((finished.snapshot, fake.n_taken), (Err(what.to_owned()), 0));
        assert_eq!((fake.runs, fake.lease, finished.answers), (vec![true], None, true));
    }
}

#[test]
fn each_error_has_its_exit_code() {
    let down = Error::NotStarted { service: "a".into(), why: "b".into() };
    assert_eq!((down.class(), down.hint().is_some()), (Class::Internal, true));
    let late = Error::StopDeadline { service: "a".into(), within: Duration::from_secs(600) };
    assert_eq!((late.class(), late.hint()), (Class::Unreachable, None));
    assert_eq!(late.to_string(), "a did not stop within 600s: there is no snapshot");
    let writer = |pid| Writer { pid, name: "x".into(), file: "/f".into() };
    let open = Error::Writers { writers: (1..=6).map(writer).collect() };
    assert_eq!(open.class(), Class::Conflict);
    assert!(open.to_string().ends_with("/f by x (5), and more"), "{open}");
}

#[test]
fn a_lease_is_whole_or_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    assert_eq!(leases.jobs().expect("read"), [""; 0]);
    let service = Service::Unit { name: "a.service".into() };
    let lease = Lease {
        job: "node.a".into(),
        services: vec![lease::Entry { stopping: lease::Stopping::Asked, ..lease::Entry::new(service) }],
        stop_within: Duration::from_millis(1500),
        start_within: Duration::from_secs(600),
        snapshot_within: None,
        run: None,
        guard: None,
        begun: None,
        failed: None,
        resumed: None,
        boot: String::new(),
    };
    leases.write(&lease).expect("written");
    let read = leases.read("node.a").expect("read").expect("it is there");
    assert_eq!(format!("{read:?}"), format!("{lease:?}"));
    assert_eq!(leases.jobs().expect("read"), ["node.a"]);
    let lock = leases.lock("node.a", false).expect("nobody has it");
    assert!(matches!(leases.lock("node.a", false), Err(Error::Busy { .. })));
    drop(lock);
    leases.lock("node.a", true).expect("nobody has it");
    // What a disk makes of it: nothing, a part of it, noise.
    let whole = std::fs::read(leases.path("node.a")).expect("read");
    for damaged in [&b""[..], &whole[..whole.len() / 2], &[0xff; 700], &vec![0; whole.len()]] {
        std::fs::write(leases.path("node.a"), damaged).expect("written");
        let read = leases.read("node.a").expect("by its copy").expect("it is there");
        assert_eq!(format!("{read:?}"), format!("{lease:?}"));
    }
    // Whatever one byte becomes, most of them such that it is a lease still.
    for nth in 0..whole.len() {
        for bit in [1, 0x20] {
            let mut damaged = whole.clone();
            damaged[nth] ^= bit;
            std::fs::write(leases.path("node.a"), &damaged).expect("written");
            let read = leases.read("node.a").expect("by its copy").expect("it is there");
            assert_eq!(format!("{read:?}"), format!("{lease:?}"), "byte {nth}");
        }
    }
    // Both of them.
    let copy = leases.path("node.a").with_extension("copy");
    std::fs::write(&copy, &whole[..20]).expect("written");
    assert_eq!(leases.read("node.a").expect_err("nothing is left").class(), Class::Corrupt);
    let other = String::from_utf8(whole.clone()).expect("utf-8").replace("a.service", "b.service");
    std::fs::write(leases.path("node.a"), &other).expect("written");
    let error = leases.read("node.a").expect_err("the wrong one is started of it");
    assert_eq!(error.class(), Class::Corrupt);
    assert!(error.to_string().contains("it has another blake3"), "{error}");
    // One of before there was a digest is what it says.
    let old = serde_json::to_vec_pretty(&lease).expect("as it was made");
    std::fs::write(leases.path("node.a"), &old).expect("written");
    let read = leases.read("node.a").expect("read").expect("it is there");
    assert_eq!(format!("{read:?}"), format!("{lease:?}"));
    leases.write(&lease).expect("written");
    leases.remove("node.a").expect("removed");
    assert!(!copy.exists());
    // What a crash leaves of one that is over, or was not begun.
    std::fs::write(&copy, &whole).expect("written");
    assert!(leases.read("node.a").expect("read").is_none());
    leases.remove("node.a").expect("it is gone already");
    assert!(leases.read("node.a").expect("read").is_none());
    std::fs::write(leases.path("b"), "{").expect("written");
    assert_eq!(leases.read("b").expect_err("half a lease").class(), Class::Corrupt);
}

#[test]
fn a_service_is_locked_once_whoever_names_it_and_a_job_may_name_it_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    let there = folder.path().join("there");
    std::fs::create_dir(&there).expect("made");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&there, &link).expect("made");
    let process = |folder: &std::path::Path, word: &str| Service::Process {
        pidfile: folder.join("pid"),
        start: vec![word.to_owned()],
    };
    let unit = Service::Unit { name: "a.service".into() };
    let (one, same) = (process(&there, "a"), process(&link, "b"));
    let locks = leases.lock_services([&one, &unit, &same], false).expect("nobody has them");
    assert_eq!(locks.len(), 2);
    // A pidfile that is a link is known by both names.
    std::os::unix::fs::symlink(there.join("pid"), folder.path().join("other")).expect("made");
    let linked = Service::Process { pidfile: folder.path().join("other"), start: vec!["c".into()] };
    assert!(leases.lock_services([&linked], false).is_err_and(|error| error.is_busy()));
    assert!(
        lease::is_among(&linked, std::slice::from_ref(&one))
            && !lease::is_among(&linked, std::slice::from_ref(&unit))
    );
    let error = leases.lock_services([&same], false).expect_err("it is locked");
    assert!(error.is_busy() && error.class() == Class::Unreachable, "{error}");
    let command = |word: &str| Service::Commands {
        status: vec!["s".into()],
        stop: vec!["t".into()],
        start: vec![word.to_owned()],
    };
    assert_eq!(leases.lock_services([&command("a"), &command("b")], false).expect("free").len(), 2);
    drop(locks);
    assert_eq!(leases.lock_services([&same, &unit], true).expect("free").len(), 2);
    assert_eq!(leases.jobs().expect("read"), [""; 0], "locks are no leases");
}

#[test]
fn a_start_is_under_way_while_anybody_has_its_file_open_and_a_new_one_forgets_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    let [a, b] = ["a.service", "b.service"].map(|name| Service::Unit { name: name.into() });
    let begin = |service: &Service| leases.begin(service, Doing::Start).expect("made");
    let is_at = |service: &Service| leases.is_at(service, Doing::Start);
    assert!(!is_at(&a));
    let first = begin(&a);
    let other = first.try_clone().expect("cloned");
    drop((first, begin(&b)));
    assert_eq!((is_at(&a), is_at(&b), leases.is_at(&a, Doing::Stop)), (true, false, false));
    drop(begin(&a));
    assert!(!is_at(&a), "what was started earlier has the old file");
    drop(other);
}

#[test]
fn failures_are_counted_until_there_is_a_snapshot_and_nobody_else_reads_a_lease() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    assert!(leases.failures("a").is_none());
    leases.count("a").expect("written");
    leases.count("a").expect("written");
    assert_eq!(leases.failures("a").map(|(n, _)| n), Some(2));
    leases.forgive("a");
    assert!(leases.failures("a").is_none());
    let mode = std::fs::metadata(folder.path().join("leases")).expect("made").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
}

#[test]
fn the_folder_of_a_pidfile_may_go_with_the_service() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    let (run, var) = (folder.path().join("run"), folder.path().join("var"));
    std::fs::create_dir_all(run.join("node")).expect("made");
    std::os::unix::fs::symlink(&run, &var).expect("made");
    let service =
        |root: &std::path::Path| Service::Process { pidfile: root.join("node/pid"), start: vec!["a".into()] };
    let begun = leases.begin(&service(&var), Doing::Stop).expect("made");
    let locks = leases.lock_services([&service(&var)], false).expect("nobody has it");
    std::fs::remove_dir(run.join("node")).expect("removed");
    assert!(leases.is_at(&service(&var), Doing::Stop) && leases.is_at(&service(&run), Doing::Stop));
    assert!(leases.lock_services([&service(&var)], false).is_err());
    assert!(leases.lock_services([&service(&run)], false).is_err());
    drop((begun, locks));
}

/// A service that runs as long as that file is there.
fn file(path: &std::path::Path, stop: &str) -> Service {
    let path = path.display().to_string();
    let words = |all: &[&str]| all.iter().map(|word| (*word).to_owned()).collect();
    Service::Commands {
        status: words(&["/usr/bin/test", "-e", &path]),
        stop: words(&["/bin/sh", "-c", stop]),
        start: words(&["/usr/bin/touch", &path]),
    }
}

#[test]
fn a_start_of_one_service_says_nothing_of_what_another_one_did_before_the_machine_was_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    let [started, down] = ["started", "down"].map(|name| folder.path().join(name));
    std::fs::write(&started, "").expect("the machine has started it");
    let entry = |path: &std::path::Path, stopping| lease::Entry {
        stopping,
        boot: "another".into(),
        ..lease::Entry::new(file(path, "true"))
    };
    let lease = Lease {
        job: "node".into(),
        services: vec![entry(&started, lease::Stopping::Sent), entry(&down, lease::Stopping::No)],
        stop_within: Duration::from_millis(300),
        start_within: Duration::from_secs(2),
        snapshot_within: None,
        run: None,
        guard: None,
        begun: None,
        failed: None,
        resumed: None,
        boot: String::new(),
    };
    leases.write(&lease).expect("written");
    recover(folder.path(), "node").expect("nothing is waited for").expect("there was a lease");
    assert!(down.exists() && leases.read("node").expect("read").is_none());
}

#[test]
fn what_is_left_is_named_and_forgotten_only_if_nobody_is_at_it() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(left(folder.path()).expect("there is nothing").is_empty());
    let leases = Leases::open(folder.path()).expect("made");
    let path = folder.path().join("up");
    let lease = Lease {
        job: "node".into(),
        services: vec![lease::Entry::new(file(&path, "true"))],
        stop_within: Duration::from_secs(1),
        start_within: Duration::from_secs(1),
        snapshot_within: None,
        run: None,
        guard: None,
        begun: None,
        failed: None,
        resumed: None,
        boot: String::new(),
    };
    leases.write(&lease).expect("written");
    std::fs::write(leases.path("half"), "{").expect("written");
    let all = left(folder.path()).expect("read");
    let told: Vec<_> = all.iter().map(|left| (left.job.as_str(), left.services.len(), left.by)).collect();
    assert_eq!(told, [("half", 0, By::Nobody), ("node", 1, By::Nobody)]);
    let lock = leases.lock("node", false).expect("nobody has it");
    assert_eq!(left(folder.path()).expect("read")[1].by, By::Run);
    assert!(forget(folder.path(), "node").is_err_and(|error| error.is_busy()));
    drop(lock);
    let forgotten = forget(folder.path(), "node").expect("nobody is at it").expect("it was there");
    assert_eq!((forgotten.services.len(), forgotten.had_guard, path.exists()), (1, false, false));
    assert!(forget(folder.path(), "node").expect("nobody is at it").is_none());
    let half = forget(folder.path(), "half").expect("nobody is at it").expect("it was there");
    assert!(half.unreadable.is_some_and(|why| why.contains("half.json")));
}

/// A lease of `services`, each that has stopped so far.
fn lease_of(boot: &str, services: Vec<(Service, lease::Stopping)>) -> Lease {
    let entry =
        |(service, stopping)| lease::Entry { stopping, boot: boot.into(), ..lease::Entry::new(service) };
    Lease {
        job: "node".into(),
        services: services.into_iter().map(entry).collect(),
        stop_within: Duration::from_millis(300),
        start_within: Duration::from_millis(300),
        snapshot_within: None,
        run: None,
        guard: None,
        begun: None,
        failed: None,
        resumed: None,
        boot: boot.into(),
    }
}

#[test]
fn what_nobody_knows_to_run_is_not_started_a_second_time_after_a_start_of_the_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    let started = folder.path().join("started");
    // It warms up.
    let service = Service::Commands {
        status: ["/bin/sh", "-c", "exit 28"].map(str::to_owned).to_vec(),
        stop: vec!["/bin/true".into()],
        start: vec!["/usr/bin/touch".into(), started.display().to_string()],
    };
    leases.write(&lease_of("another", vec![(service, lease::Stopping::No)])).expect("written");
    let error = recover(folder.path(), "node").expect_err("nobody knows");
    assert!(error.to_string().contains("nobody knows whether it runs"), "{error}");
    assert!(!started.exists() && leases.read("node").expect("read").is_some());
}

#[test]
fn one_that_hangs_keeps_no_other_down_and_who_forgets_what_is_down_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    let [down, hangs] = ["down", "hangs"].map(|name| folder.path().join(name));
    std::fs::write(&hangs, "").expect("it runs, though it was told to stop");
    let services =
        vec![(file(&down, "true"), lease::Stopping::No), (file(&hangs, "true"), lease::Stopping::Sent)];
    leases.write(&lease_of(&process::boot_id(), services)).expect("written");
    // As the guard does, which waits for the other one without end.
    let state = folder.path().to_owned();
    let guard =
        std::thread::spawn(move || guard::make_up(&Leases::open(&state).expect("there"), "node", true));
    service::eventually(None, false, || Ok(down.exists())).expect("it is started");
    assert!(leases.read("node").expect("read").is_some() && !guard.is_finished());
    std::fs::remove_file(&hangs).expect("it has stopped");
    guard.join().expect("it ends").expect("all run").expect("there was a lease");
    assert!(hangs.exists() && down.exists());
    let services = vec![(file(&down, "true"), lease::Stopping::No)];
    leases.write(&lease_of(&process::boot_id(), services)).expect("written");
    std::fs::remove_file(&down).expect("it ends");
    let forgotten = forget(folder.path(), "node").expect("nobody is at it").expect("it was there");
    assert_eq!(forgotten.down, [file(&down, "true").to_string()]);
}

#[test]
fn a_start_that_took_too_long_is_one_that_somebody_is_at_and_one_that_failed_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    let is_starting = |command: &str, within| {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let (status, stop) = (words(&["sh", "-c", "exit 3"]), words(&["true"]));
        let service = Service::Commands { status, stop, start: words(&[command]) };
        let mut lease = lease_of(&process::boot_id(), vec![(service, lease::Stopping::No)]);
        lease.start_within = Duration::from_millis(within);
        let patience = real::Patience { sent: None, asked: std::time::Instant::now(), is_last: true };
        real::start(&leases, &mut lease, 0, patience).expect_err("it never runs");
        let written = leases.read("node").expect("read").expect("there");
        (lease.services[0].starting, written.services[0].starting)
    };
    assert_eq!(is_starting("true", 300), (true, true));
    assert_eq!(is_starting("/nonexistent/node", 60_000), (false, false));
    assert_eq!(is_starting("false", 60_000), (false, false));
}

#[test]
fn a_lease_of_an_earlier_version_is_of_the_start_of_the_machine_that_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    let old = r#"{"job":"node","services":[{"service":{"unit":{"name":"a.service"}},"stopping":"sent","process":null,
        "starting":false,"starter":null}],"stop_within":{"secs":1,"nanos":0},"start_within":{"secs":1,"nanos":0},"boot":"then","run":null}"#;
    std::fs::write(leases.path("node"), old).expect("written");
    let lease = leases.read("node").expect("read").expect("there");
    assert_eq!(
        (lease.services[0].boot.as_str(), lease.services[0].stopping),
        ("then", lease::Stopping::Sent)
    );
}

#[test]
fn who_looks_at_leases_keeps_nobody_from_their_locks() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    std::fs::write(leases.path("node"), "{").expect("written");
    drop(leases.lock("node", false).expect("nobody has it"));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(left(folder.path()).expect("read").len(), 1);
            }
        });
        let all: Vec<_> = (0..500).map(|_| leases.lock("node", false).is_ok()).collect();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(all.iter().all(|is_locked| *is_locked));
    });
}

/// An engine that says of each container that it runs as this process, as often as it is asked.
fn engine_of_what_runs(socket: &std::path::Path) {
    use std::io::{Read, Write};
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("bound");
    let body =
        format!(r#"{{"Id":"a","Name":"/node","State":{{"Status":"running","Pid":{}}}}}"#, std::process::id());
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("somebody asks");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

#[test]
fn a_container_that_was_late_and_that_somebody_has_started_since_is_not_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = Leases::open(folder.path()).expect("made");
    let socket = folder.path().join("engine");
    engine_of_what_runs(&socket);
    let container = || Service::Container { name: "node".into(), socket: socket.clone() };
    let of = |pid: u32| i32::try_from(pid).ok().and_then(Process::of).expect("it is there");
    let mut child = command::spawn(&["sleep".into(), "600".into()], false, None).expect("it starts");
    let told = |process| {
        let mut lease = lease_of(&process::boot_id(), vec![(container(), lease::Stopping::Sent)]);
        lease.services[0].process = Some(process);
        leases.write(&lease).expect("written");
    };
    told(of(child.id()));
    let error = recover(folder.path(), "node").expect_err("its process has not ended");
    assert!(matches!(error, Error::StillStopping { .. }), "{error}");
    child.kill().and_then(|()| child.wait()).expect("killed");
    recover(folder.path(), "node").expect("it runs as another process").expect("there was a lease");
    told(of(std::process::id()));
    assert!(recover(folder.path(), "node").is_err(), "it runs as the one that was told to stop");
}
