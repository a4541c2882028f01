//! Keeping the other processors from idling while requests follow one another.
//!
//! The kernel wakes up whoever is answered on an idle processor, if there is one: there he has to be woken by an interrupt, and a
//! virtual processor by its host. On the processor that has just answered he would go on at once. So as long as requests follow one
//! another, threads of the least weight keep the others busy, the same ones for all filesystems of the process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getpriority_process, getrlimit, setpriority_process};

/// After how many requests that follow one another the processors are kept busy.
const STREAK: u32 = 64;
/// Within what time a request follows another one, and how long the processors are kept busy for it.
const MOMENT: Duration = Duration::from_millis(1);
/// How long what was found out of processors and quotas is believed.
const BELIEVED: Duration = Duration::from_secs(1);
/// Of how many processors: on more, too many would have to be kept busy.
const MOST: usize = 4;
/// The least weight that a thread can have.
const NICE: i32 = 19;
/// With less weight than this, what is served is in nobody's way, and nor may this be.
const HUMBLE: i32 = 10;
/// `SCHED_OTHER`: of the others, weight says nothing.
const ORDINARY: &str = "0";
/// What turns it off: `0`.
const SWITCH: &str = "COWSNAP_OVERLAY_BUSY";

static OF_PROCESS: LazyLock<Arc<Company>> = LazyLock::new(|| Arc::new(Company::new(wanted)));

/// The threads that keep processors busy, once there were requests enough.
#[derive(Debug)]
struct Company {
    wanted: fn() -> usize,
    served: AtomicU64,
    asleep: AtomicBool,
    over: AtomicBool,
    threads: Mutex<Threads>,
}

#[derive(Debug, Default)]
struct Threads {
    looked: Option<Instant>,
    wanted: usize,
    started: Vec<Thread>,
}

/// What one filesystem asks of it.
#[derive(Debug)]
pub(super) struct Member {
    company: Arc<Company>,
    streak: u32,
    last: Option<Instant>,
}

impl Member {
    /// Of this process's.
    pub(super) fn new() -> Self {
        Self::of(&OF_PROCESS)
    }

    fn of(company: &Arc<Company>) -> Self {
        Self { company: Arc::clone(company), streak: 0, last: None }
    }

    /// A request came.
    pub(super) fn came(&mut self, now: Instant) {
        let follows = self.last.is_some_and(|last| now.saturating_duration_since(last) <= MOMENT);
        self.streak = if follows { (self.streak + 1).min(STREAK) } else { 0 };
        self.last = Some(now);
        if self.streak == STREAK {
            self.company.keep(now);
        }
    }
}

impl Company {
    fn new(wanted: fn() -> usize) -> Self {
        let (served, asleep, over) = (AtomicU64::new(0), AtomicBool::new(true), AtomicBool::new(false));
        Self { wanted, served, asleep, over, threads: Mutex::default() }
    }

    /// The processors are kept busy for another moment.
    fn keep(self: &Arc<Self>, now: Instant) {
        self.served.fetch_add(1, Ordering::Relaxed);
        if !self.asleep.load(Ordering::Acquire) {
            return;
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.looked.is_none_or(|looked| now.saturating_duration_since(looked) > BELIEVED) {
            threads.looked = Some(now);
            threads.wanted = (self.wanted)();
        }
        while threads.started.len() < threads.wanted {
            let company = Arc::clone(self);
            match std::thread::Builder::new().name("company".into()).spawn(move || company.be_busy()) {
                Ok(started) => threads.started.push(started.thread().clone()),
                Err(error) => {
                    tracing::debug!(%error, "processors idle between requests");
                    threads.wanted = threads.started.len();
                }
            }
        }
        // None: it is asked again in a while.
        if threads.wanted > 0 {
            self.asleep.store(false, Ordering::Release);
            threads.started.iter().take(threads.wanted).for_each(Thread::unpark);
        }
    }

    fn be_busy(&self) {
        // Of this thread alone, on Linux.
        if let Err(error) = setpriority_process(None, NICE) {
            return tracing::debug!(%error, "processors idle between requests");
        }
        while !self.over.load(Ordering::Acquire) {
            let (served, began) = (self.served.load(Ordering::Relaxed), Instant::now());
            while began.elapsed() < MOMENT {
                std::hint::spin_loop();
            }
            if served == self.served.load(Ordering::Relaxed) {
                self.asleep.store(true, Ordering::Release);
                std::thread::park();
            }
        }
    }
}

/// How many processors are kept busy beside the one that serves: none where what that takes is somebody's.
fn wanted() -> usize {
    let policy = std::fs::read_to_string("/proc/thread-self/stat").ok();
    let is_ordinary = policy.as_deref().and_then(policy_of) == Some(ORDINARY);
    let is_humble = getpriority_process(None).map_or(true, |nice| nice >= HUMBLE);
    let is_counted = getrlimit(Resource::Cpu).current.is_some();
    if !is_ordinary || is_humble || is_counted || std::env::var_os(SWITCH).is_some_and(|value| value == "0") {
        return 0;
    }
    let processors = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    // This one knows of the quota of a control group.
    others(processors, std::thread::available_parallelism().map_or(1, usize::from))
}

fn others(processors: usize, allowed: usize) -> usize {
    if allowed < processors || processors > MOST { 0 } else { processors.saturating_sub(1) }
}

/// The 41st field of `/proc/PID/stat`: by which rules the kernel gives the thread a processor.
fn policy_of(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(38)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What the kernel says of this process's threads that keep company: state and weight.
    fn seen() -> Vec<(char, i32)> {
        let tasks = fs::read_dir("/proc/self/task").expect("threads").flatten();
        let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        stats
            .filter_map(|stat| {
                let (name, rest) = stat.rsplit_once(')')?;
                let fields: Vec<_> = rest.split_whitespace().collect();
                let known = name.ends_with("(company") && fields.len() > 16;
                known
                    .then(|| (fields[0].chars().next().unwrap_or('?'), fields[16].parse().expect("a weight")))
            })
            .collect()
    }

    fn until(mut it: impl FnMut() -> bool) {
        for _ in 0..6000 {
            if it() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not come to that: {:?}", seen());
    }

    #[test]
    fn as_many_as_there_are_other_processors_and_none_where_time_is_counted() {
        let of = [(1, 1), (2, 2), (4, 4), (5, 5), (64, 64), (2, 1), (8, 2)];
        assert_eq!(of.map(|(processors, allowed)| others(processors, allowed)), [0, 1, 3, 0, 0, 0, 0]);
    }

    #[test]
    fn the_rules_of_a_thread_are_read_behind_its_name() {
        let stat = |policy: u32| format!("7 (a) b c) S {} 0 {policy} 0", vec!["0"; 36].join(" "));
        assert_eq!(policy_of(&stat(0)), Some(ORDINARY));
        assert_eq!(policy_of(&stat(2)), Some("2"));
        assert_eq!(policy_of("7 (a) S 0"), None);
        let own = fs::read_to_string("/proc/thread-self/stat").expect("there");
        assert!(policy_of(&own).is_some_and(|policy| policy.parse::<u32>().is_ok_and(|policy| policy < 10)));
    }

    #[test]
    fn it_is_kept_while_requests_follow_one_another_and_sleeps_afterwards() {
        let company = Arc::new(Company::new(|| 2));
        let (mut member, mut now) = (Member::of(&company), Instant::now());
        let mut come = |times: u32, apart: Duration| {
            for _ in 0..times {
                now += apart;
                member.came(now);
            }
        };
        for _ in 0..10 {
            come(1, MOMENT * 2);
            come(STREAK - 1, MOMENT);
        }
        assert!(seen().is_empty(), "there was no streak");
        for _ in 0..3 {
            until(|| {
                come(STREAK, MOMENT / 2);
                seen().iter().filter(|(state, nice)| *state == 'R' && *nice == NICE).count() == 2
            });
            come(1, MOMENT * 2);
            until(|| seen() == [('S', NICE), ('S', NICE)]);
        }
        company.over.store(true, Ordering::Release);
        company.threads.lock().expect("whole").started.iter().for_each(Thread::unpark);
        until(|| seen().is_empty());
    }

    #[test]
    fn where_none_is_wanted_none_is_started() {
        let company = Arc::new(Company::new(|| 0));
        let (mut member, now) = (Member::of(&company), Instant::now());
        (0..1000).for_each(|n| member.came(now + MOMENT * n));
        assert!(seen().is_empty());
    }
}
