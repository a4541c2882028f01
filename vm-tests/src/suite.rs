//! A test program of the host, run test by test in a guest.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::payload::quoted;
use crate::{Error, Guest, Result, Session};

/// What the guest has, so that no test may be skipped there for the lack of it.
const HAS: &str = "zfs,btrfs,overlay,fuse,loop,root";
/// As many at once as the guest has processors.
const AT_ONCE: usize = 2;
/// One test, emulated; `COWSNAP_VM_TEST_LIMIT` sets other seconds.
const TEST_LIMIT: Duration = Duration::from_secs(300);
/// A guest that says nothing for so long after a test hung is hung itself.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Which tests of which program.
pub struct Suite {
    program: PathBuf,
    tests: Vec<String>,
}

/// How a test ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its name with its modules.
    pub test: String,
    /// In the guest, as the host saw it.
    pub took: Duration,
    /// `None` if it passed, else what it said, or that it hung.
    pub failure: Option<String>,
}

/// What there is to tell of a run.
pub enum Progress<'a> {
    /// So many tests are run.
    Begins(usize),
    /// One is over.
    Test(&'a Outcome),
    /// All are: those that failed, and the guest's own log if there are any.
    Over(&'a [Outcome], Option<String>),
}

impl Suite {
    /// The tests of `program` whose names contain one of `filters`; those of ZFS if there is none. Ignored ones are left
    /// out.
    ///
    /// # Errors
    /// If the program can not list its tests.
    pub fn of(program: &Path, filters: &[String]) -> Result<Self> {
        let output = Command::new(program).args(["--list", "--format", "terse"]).output();
        let output = output.map_err(Error::host(format!("list the tests of {}", program.display())))?;
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let wanted = |name: &&str| match filters {
            [] => name.starts_with("zfs::"),
            filters => filters.iter().any(|f| name.contains(f.as_str())),
        };
        let tests = listed.lines().filter_map(|l| l.strip_suffix(": test")).filter(wanted).map(str::to_owned);
        Ok(Self { program: program.into(), tests: tests.collect() })
    }

    /// Runs them in the guest that `boot` gives, and in a new one whenever that one hangs or is gone. Whether all passed;
    /// no test at all is a failure.
    ///
    /// # Errors
    /// If there is no guest to be had. What happens to a test is no error.
    pub fn run(
        &self,
        boot: &mut dyn FnMut() -> Result<Guest>,
        observe: &mut dyn FnMut(Progress),
    ) -> Result<bool> {
        observe(Progress::Begins(self.tests.len()));
        let mut left: VecDeque<String> = self.tests.iter().cloned().collect();
        let (mut failed, mut log) = (Vec::new(), None);
        while !left.is_empty() {
            let mut guest = boot()?;
            let round = self.run_in(&mut guest, &mut left, observe);
            if !round.is_empty() {
                log = Some(guests_log(&mut guest));
            }
            failed.extend(round);
        }
        observe(Progress::Over(&failed, log));
        Ok(failed.is_empty() && !self.tests.is_empty())
    }

    /// Until none is left, or the guest does not answer any more. The failed ones.
    fn run_in(
        &self,
        guest: &mut Guest,
        left: &mut VecDeque<String>,
        observe: &mut dyn FnMut(Progress),
    ) -> Vec<Outcome> {
        let (session, left) = (Mutex::new(guest.session()), Mutex::new(left));
        let (to, outcomes) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                let (to, session, left) = (to.clone(), &session, &left);
                scope.spawn(move || {
                    while let Some(test) = lock(left).pop_front() {
                        let (outcome, is_usable) = self.run_one(session, test);
                        let _ = to.send(outcome);
                        if !is_usable {
                            break;
                        }
                    }
                });
            }
            drop(to);
            let mut failed = Vec::new();
            for outcome in outcomes {
                observe(Progress::Test(&outcome));
                failed.extend(outcome.failure.is_some().then_some(outcome));
            }
            failed
        })
    }

    /// The outcome of one, and whether the guest can run another.
    fn run_one(&self, session: &Mutex<&mut Session>, test: String) -> (Outcome, bool) {
        let began = Instant::now();
        let home = std::env::current_dir().unwrap_or_default();
        let script = format!(
            "mkdir -p {home} /var/tmp/tests && cd {home} && COWSNAP_REQUIRE={HAS} TMPDIR=/var/tmp/tests RUST_BACKTRACE=1 \
             exec {program} --exact {test} --nocapture --test-threads=1",
            home = quoted(&home),
            program = quoted(&self.program),
        );
        let started = lock(session).start(&script);
        let done = started.and_then(|running| running.finish(limit()));
        let took = began.elapsed();
        let (failure, is_usable) = match done {
            Ok(done) if done.code == 0 && done.text().contains(" 1 passed;") => (None, true),
            Ok(done) => (Some(format!("{}\n(exit code {})", done.text(), done.code)), true),
            Err(error @ Error::Hung { .. }) => {
                let sign = lock(session).start("true").and_then(|running| running.finish(SIGN_OF_LIFE));
                (Some(error.to_string()), sign.is_ok())
            }
            Err(error) => (Some(error.to_string()), false),
        };
        (Outcome { test, took, failure }, is_usable)
    }
}

fn limit() -> Duration {
    let set = std::env::var("COWSNAP_VM_TEST_LIMIT").ok().and_then(|s| s.parse().ok());
    set.map_or(TEST_LIMIT, Duration::from_secs)
}

fn guests_log(guest: &mut Guest) -> String {
    let script = "echo '--- dmesg'; dmesg | tail -n 40; echo '--- journal'; \
                  journalctl --no-pager -p warning -n 40 --output short-monotonic";
    match guest.run(script, SIGN_OF_LIFE) {
        Ok(done) => done.text(),
        Err(error) => error.to_string(),
    }
}

fn lock<T: ?Sized>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells it on standard output as a test runner does.
pub fn print(progress: Progress) {
    match progress {
        Progress::Begins(n) => println!("running {n} tests in the guest"),
        Progress::Test(Outcome { test, took, failure }) => {
            let result = if failure.is_some() { "FAILED" } else { "ok" };
            println!("test {test} ... {result} ({:.1} s)", took.as_secs_f32());
        }
        Progress::Over(failed, log) => {
            for Outcome { test, failure, .. } in failed {
                println!("\n---- {test} (in the guest) ----\n{}", failure.as_deref().unwrap_or_default());
            }
            if let Some(log) = log {
                println!("\n---- the guest's log ----\n{log}");
            }
            for Outcome { test, .. } in failed {
                println!("FAILED {test}");
            }
        }
    }
}
