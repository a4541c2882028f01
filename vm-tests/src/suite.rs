//! A test program of the host, run test by test in a guest.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::payload::quoted;
use crate::{Error, Guest, Result, Session};

/// What the guest has, so that no test may be skipped there for the lack of it.
const HAS: &str = "zfs,btrfs,overlay,fuse,loop,root,systemd,litecoind";
/// What is run if nothing else is asked for: ZFS, units of systemd, and what btrfs, overlayfs and FUSE answer otherwise on the guest's kernel.
const TIER: [&str; 11] = [
    "zfs::",
    "systemd::",
    "backend::",
    "edges::",
    "identity::",
    "overlay::kernel::",
    "overlay::fuse::an_overlay_",
    "overlay::fuse::copies_",
    "overlay::fuse::kill_9_",
    "overlay::fuse::random_",
    "overlay_layer::modes::a_layer_of_blocks_",
];
/// What every run of a share takes: the contract of a backend on real ZFS, and the promise that a service is never left down.
const CORE: [&str; 3] = ["zfs::backend::", "systemd::killed_", "systemd::node::"];
/// As many at once as the guest has processors.
const AT_ONCE: usize = 2;
/// One test, emulated; `COWSNAP_VM_TEST_LIMIT` sets other seconds.
const TEST_LIMIT: Duration = Duration::from_secs(300);
/// A guest that says nothing for so long after a test hung is hung itself.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// What the guest's shell ends with if the test passed, but said that it was skipped.
const SKIPPED: i32 = 77;

/// Which tests of which program.
pub struct Suite {
    program: PathBuf,
    tests: Vec<String>,
    until: Option<Instant>,
}

/// A part of the tests, for a run that has no time for all: what is its core, and of the others one in `of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    nth: usize,
    of: usize,
}

impl Share {
    /// `2/3`: the second of three, which are all of them together. `None` if it is no such thing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (nth, of) = text.split_once('/')?;
        let (nth, of) = (nth.parse().ok()?, of.parse().ok()?);
        (1..=of).contains(&nth).then_some(Self { nth, of })
    }

    /// Neighbours in the list take about as long, and go to different shares.
    fn take(self, tests: Vec<String>) -> Vec<String> {
        let is_core = |test: &String| CORE.iter().any(|module| test.starts_with(module));
        let (mut taken, others): (Vec<_>, Vec<_>) = tests.into_iter().partition(is_core);
        taken.extend(others.into_iter().skip(self.nth - 1).step_by(self.of));
        taken
    }
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

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Of each test, in the order in which they ended.
    pub outcomes: Vec<Outcome>,
    /// The log of the last guest in which a test failed.
    pub log: Option<String>,
    /// Of the whole run, booting included.
    pub took: Duration,
    /// What the guests used of the host's processors.
    pub cpu: Duration,
}

impl Report {
    /// Those that did not pass.
    pub fn failed(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.failure.is_some())
    }

    /// All passed, and there was one.
    pub fn is_success(&self) -> bool {
        !self.outcomes.is_empty() && self.failed().next().is_none()
    }
}

/// What there is to tell of a run.
pub enum Progress<'a> {
    /// So many tests are run.
    Begins(usize),
    /// A guest is up: its kernel and ZFS, and how long it took to boot.
    Guest(&'a str, Duration),
    /// One is over.
    Test(&'a Outcome),
    /// All are.
    Over(&'a Report),
}

impl Suite {
    /// The tests of `program` whose names contain one of `filters`; the tier if there is none. Ignored ones are left out.
    ///
    /// # Errors
    /// If the program can not list its tests.
    pub fn of(program: &Path, filters: &[String]) -> Result<Self> {
        let (listed, ignored) = (list(program, &[])?, list(program, &["--ignored"])?);
        let wanted = |name: &&str| match filters {
            [] => TIER.iter().any(|module| name.starts_with(module)),
            filters => filters.iter().any(|f| name.contains(f.as_str())),
        };
        let is_ignored = |name: &&str| ignored.lines().any(|line| line.strip_suffix(": test") == Some(name));
        let tests = listed.lines().filter_map(|line| line.strip_suffix(": test"));
        let tests = tests.filter(wanted).filter(|name| !is_ignored(name)).map(str::to_owned);
        Ok(Self { program: program.into(), tests: tests.collect(), until: None })
    }

    /// Of these, the share alone; all without one.
    #[must_use]
    pub fn share(mut self, share: Option<Share>) -> Self {
        if let Some(share) = share {
            self.tests = share.take(self.tests);
        }
        self
    }

    /// What has not ended after so long, counted from now, fails.
    #[must_use]
    pub fn within(mut self, limit: Option<Duration>) -> Self {
        self.until = limit.map(|limit| Instant::now() + limit);
        self
    }

    /// Runs them in the guest that `boot` gives, and in a new one whenever that one hangs or is gone. No test at all is a
    /// failure.
    ///
    /// # Errors
    /// If there is no guest to be had, after what had come of the tests before was told. What happens to a test is no error.
    pub fn run(
        &self,
        boot: &mut dyn FnMut() -> Result<Guest>,
        observe: &mut dyn FnMut(Progress),
    ) -> Result<bool> {
        let began = Instant::now();
        observe(Progress::Begins(self.tests.len()));
        let mut left: VecDeque<String> = self.tests.iter().cloned().collect();
        let mut report = Report::default();
        let mut booted = Ok(());
        while !left.is_empty() {
            let booting = Instant::now();
            match boot() {
                Ok(mut guest) => {
                    let known = guest.run(WHAT_IT_IS, SIGN_OF_LIFE).map(|done| done.text());
                    observe(Progress::Guest(known.as_deref().unwrap_or("?").trim(), booting.elapsed()));
                    self.run_in(&mut guest, &mut left, &mut report, observe);
                }
                Err(error) => {
                    booted = Err(error);
                    break;
                }
            }
        }
        report.took = began.elapsed();
        observe(Progress::Over(&report));
        booted.map(|()| report.is_success())
    }

    /// Until none is left, or the guest does not answer any more.
    fn run_in(
        &self,
        guest: &mut Guest,
        left: &mut VecDeque<String>,
        report: &mut Report,
        observe: &mut dyn FnMut(Progress),
    ) {
        // Of one that stays, only what these tests use; of another, booting too.
        let cpu_before = if guest.is_left_to_run() { guest.cpu_time() } else { Duration::ZERO };
        let outcomes = self.run_two_at_a_time(guest.session(), left, observe);
        let all_passed = outcomes.iter().all(|outcome| outcome.failure.is_none());
        report.outcomes.extend(outcomes);
        // In one that stays, others may have made what is found.
        if all_passed && !guest.is_left_to_run() {
            let left_behind = what_is_left(guest);
            observe(Progress::Test(&left_behind));
            report.outcomes.push(left_behind);
        }
        if !all_passed {
            report.log = Some(guests_log(guest));
        }
        report.cpu += guest.cpu_time().saturating_sub(cpu_before);
    }

    fn run_two_at_a_time(
        &self,
        session: &mut Session,
        left: &mut VecDeque<String>,
        observe: &mut dyn FnMut(Progress),
    ) -> Vec<Outcome> {
        let (session, left) = (Mutex::new(session), Mutex::new(left));
        let (to, outcomes) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                let (to, session, left) = (to.clone(), &session, &left);
                scope.spawn(move || {
                    loop {
                        let Some(test) = lock(left).pop_front() else { break };
                        let (outcome, is_usable) = self.run_one(session, test);
                        let _ = to.send(outcome);
                        if !is_usable {
                            break;
                        }
                    }
                });
            }
            drop(to);
            outcomes.iter().inspect(|outcome| observe(Progress::Test(outcome))).collect()
        })
    }

    /// The outcome of one, and whether the guest can run another.
    fn run_one(&self, session: &Mutex<&mut Session>, test: String) -> (Outcome, bool) {
        let began = Instant::now();
        let limit = match self.until.map(|until| until.saturating_duration_since(began)) {
            Some(Duration::ZERO) => {
                let failure = Some("not run: the time for all tests was up".into());
                return (Outcome { test, took: Duration::ZERO, failure }, true);
            }
            Some(left) => left.min(limit()),
            None => limit(),
        };
        let started = lock(session).start(&self.script(&test));
        let done = started.and_then(|running| running.finish(limit));
        let took = began.elapsed();
        let (failure, is_usable) = match done {
            Ok(done) if done.code == 0 && done.text().contains(" 1 passed;") => (None, true),
            Ok(done) if done.code == SKIPPED => {
                (Some(format!("skipped in the guest\n{}", done.text())), true)
            }
            Ok(done) => (Some(format!("{}\n(exit code {})", done.text(), done.code)), true),
            Err(error @ Error::Hung { .. }) => {
                let sign = lock(session).start("true").and_then(|running| running.finish(SIGN_OF_LIFE));
                (Some(error.to_string()), sign.is_ok())
            }
            Err(error) => (Some(error.to_string()), false),
        };
        (Outcome { test, took, failure }, is_usable)
    }

    fn script(&self, test: &str) -> String {
        let home = std::env::current_dir().unwrap_or_default();
        format!(
            "mkdir -p {home} /var/tmp/tests && cd {home} || exit; skips=$(mktemp)
             COWSNAP_REQUIRE={HAS} COWSNAP_SKIPS=$skips TMPDIR=/var/tmp/tests RUST_BACKTRACE=1 \
                 {program} --exact {test} --nocapture --test-threads=1; code=$?
             [ $code != 0 ] || [ ! -s $skips ] || code={SKIPPED}
             rm -f $skips; exit $code",
            home = quoted(&home),
            program = quoted(&self.program),
        )
    }
}

const WHAT_IT_IS: &str =
    "echo kernel $(uname -r), ZFS $(cat /sys/module/zfs/version), $(systemd-detect-virt)";

/// What tests must have taken away, in the guest as on the host. A loop device goes a moment after its last user.
const LEFT: &str = r#"
    left() {
        zpool list -H -o name | sed 's/^/pool /'
        awk 'index($2, "/var/tmp/tests") == 1 { print "mount " $2 }' /proc/self/mounts
        losetup -l -n -O NAME,BACK-FILE | sed 's/^/loop device /'
        ls -A /var/tmp/tests | sed 's,^,/var/tmp/tests/,'
    }
    for try in 1 2 3 4 5 6 7 8 9 10; do [ -n "$(left)" ] || exit 0; sleep 0.5; done
    left; exit 1"#;

/// Whether the tests that ran took everything away again, as a test of its own.
fn what_is_left(guest: &mut Guest) -> Outcome {
    let began = Instant::now();
    let failure = match guest.run(LEFT, SIGN_OF_LIFE) {
        Ok(done) if done.code == 0 => None,
        Ok(done) => Some(format!("the tests left behind\n{}", done.text())),
        Err(error) => Some(error.to_string()),
    };
    Outcome { test: "nothing_is_left_in_the_guest".into(), took: began.elapsed(), failure }
}

/// What a test program says that it has, a line each.
fn list(program: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(["--list", "--format", "terse"]).args(words).output();
    let output = output.map_err(Error::host(format!("list the tests of {}", program.display())))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

/// How many of the slowest are named.
const SLOWEST: usize = 10;

/// Tells it on standard output as a test runner does.
pub fn print(progress: Progress) {
    match progress {
        Progress::Begins(n) => println!("running {n} tests in the guest"),
        Progress::Guest(what, took) => println!("{what}: up after {:.1} s", took.as_secs_f32()),
        Progress::Test(Outcome { test, took, failure }) => {
            let result = if failure.is_some() { "FAILED" } else { "ok" };
            println!("test {test} ... {result} ({:.1} s)", took.as_secs_f32());
        }
        Progress::Over(report) => print_report(report),
    }
}

fn print_report(report: &Report) {
    for Outcome { test, failure, .. } in report.failed() {
        println!("\n---- {test} (in the guest) ----\n{}", failure.as_deref().unwrap_or_default());
    }
    if let Some(log) = &report.log {
        println!("\n---- the guest's log ----\n{log}");
    }
    let mut slowest: Vec<_> = report.outcomes.iter().collect();
    slowest.sort_by_key(|outcome| std::cmp::Reverse(outcome.took));
    println!("\nthe slowest:");
    for Outcome { test, took, .. } in slowest.iter().take(SLOWEST) {
        println!("{:8.1} s  {test}", took.as_secs_f32());
    }
    for Outcome { test, .. } in report.failed() {
        println!("FAILED {test}");
    }
    let n_failed = report.failed().count();
    println!(
        "test result: {}. {} passed; {n_failed} failed; in {} s, {} s of them the guest's on the host's processors",
        if report.is_success() { "ok" } else { "FAILED" },
        report.outcomes.len() - n_failed,
        report.took.as_secs(),
        report.cpu.as_secs(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_the_core_and_all_shares_together_have_everything_else_once() {
        let tests = || ["edges::a", "systemd::killed_b", "zfs::c", "zfs::d", "zfs::e", "zfs::backend::f"];
        let share = |text: &str| {
            Share::parse(text).expect("a share").take(tests().map(str::to_owned).into_iter().collect())
        };
        let core = ["systemd::killed_b", "zfs::backend::f"];
        assert_eq!(share("1/3"), [&core[..], &["edges::a", "zfs::e"]].concat());
        assert_eq!(share("2/3"), [&core[..], &["zfs::c"]].concat());
        assert_eq!(share("3/3"), [&core[..], &["zfs::d"]].concat());
        assert_eq!(share("1/1").len(), tests().len());
        for wrong in ["", "1", "0/3", "4/3", "1/0", "a/b"] {
            assert_eq!(Share::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_tier_is_modules_and_a_filter_is_a_part_of_a_name_and_ignored_ones_are_left_out() {
        use std::os::unix::fs::PermissionsExt;
        let program = std::env::temp_dir().join(format!("cowsnap-suite-{}", std::process::id()));
        let script = "#!/bin/sh\ncase $* in *--ignored*) echo 'zfs::later: test' ;; *) for t in backend::a stream_zfs::b \
            zfs::c zfs::later; do echo \"$t: test\"; done; echo 'zfs::d: benchmark' ;; esac\n";
        std::fs::write(&program, script).expect("write");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let tests = |filters: &[&str]| {
            let filters: Vec<_> = filters.iter().map(|filter| (*filter).to_owned()).collect();
            Suite::of(&program, &filters).expect("listed").tests
        };
        assert_eq!(tests(&[]), ["backend::a", "zfs::c"]);
        assert_eq!(tests(&["zfs::", "a"]), ["backend::a", "stream_zfs::b", "zfs::c"]);
        std::fs::remove_file(&program).expect("clean");
    }
}
