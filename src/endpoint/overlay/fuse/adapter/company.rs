//! Keeping the other processors from idling while requests follow one another.
//!
//! The kernel wakes up whoever is answered on an idle processor, if there is one: there he has to be woken by an interrupt, and a
//! virtual processor by its host. On the processor that has just answered he would go on at once. So as long as requests follow one
//! another, threads of the least weight keep the others busy; whatever else wants a processor has it before them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// After how many requests that follow one another the processors are kept busy.
const STREAK: u32 = 64;
/// Within what time a request follows another one, and how long the processors are kept busy for it.
const MOMENT: Duration = Duration::from_millis(1);
/// Of how many processors: on more, too many would have to be kept busy.
const MOST: usize = 4;
/// The least weight that a thread can have.
const NICE: i32 = 19;

/// The threads that keep processors busy, once there were requests enough.
#[derive(Debug)]
pub(super) struct Company {
    streak: u32,
    last: Option<Instant>,
    others: usize,
    threads: Vec<Thread>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    served: AtomicU64,
    asleep: AtomicBool,
    over: AtomicBool,
}

impl Company {
    /// For the processors that this process may use but one: of none where there are many, or where their time is counted.
    pub(super) fn new() -> Self {
        let processors = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
        // This one knows of the quota of a control group.
        let allowed = std::thread::available_parallelism().map_or(1, usize::from);
        Self::of(others(processors, allowed))
    }

    fn of(others: usize) -> Self {
        Self { streak: 0, last: None, others, threads: Vec::new(), state: Arc::default() }
    }

    /// A request came.
    pub(super) fn came(&mut self, now: Instant) {
        if self.others == 0 {
            return;
        }
        let follows = self.last.is_some_and(|last| now.duration_since(last) <= MOMENT);
        self.streak = if follows { self.streak + 1 } else { 0 };
        self.last = Some(now);
        if self.streak < STREAK {
            return;
        }
        self.streak = STREAK;
        self.state.served.fetch_add(1, Ordering::Relaxed);
        if self.threads.is_empty() {
            self.start();
        } else if self.state.asleep.swap(false, Ordering::AcqRel) {
            self.threads.iter().for_each(Thread::unpark);
        }
    }

    fn start(&mut self) {
        let started: std::io::Result<Vec<JoinHandle<()>>> = (0..self.others)
            .map(|_| {
                let state = Arc::clone(&self.state);
                std::thread::Builder::new().name("company".into()).spawn(move || keep_busy(&state))
            })
            .collect();
        match started {
            Ok(threads) => self.threads = threads.iter().map(|thread| thread.thread().clone()).collect(),
            Err(error) => {
                tracing::debug!(%error, "processors idle between requests");
                self.others = 0;
            }
        }
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
    }
}

/// How many processors are kept busy beside the one that serves.
fn others(processors: usize, allowed: usize) -> usize {
    if allowed < processors || processors > MOST { 0 } else { processors.saturating_sub(1) }
}

fn keep_busy(state: &State) {
    // Of this thread alone, on Linux. With its usual weight it would be in everybody's way.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "processors idle between requests");
        return;
    }
    while !state.over.load(Ordering::Acquire) {
        let (served, began) = (state.served.load(Ordering::Relaxed), Instant::now());
        while began.elapsed() < MOMENT {
            std::hint::spin_loop();
        }
        if served == state.served.load(Ordering::Relaxed) {
            state.asleep.store(true, Ordering::Release);
            std::thread::park();
        }
    }
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
    fn it_is_kept_while_requests_follow_one_another_and_sleeps_afterwards() {
        let (mut company, mut now) = (Company::of(2), Instant::now());
        let mut come = |company: &mut Company, times: u32, apart: Duration| {
            for _ in 0..times {
                now += apart;
                company.came(now);
            }
        };
        for _ in 0..10 {
            come(&mut company, 1, MOMENT * 2);
            come(&mut company, STREAK - 1, MOMENT);
        }
        assert!(company.threads.is_empty(), "there was no streak");
        for _ in 0..3 {
            until(|| {
                come(&mut company, STREAK, MOMENT / 2);
                seen().iter().filter(|(state, nice)| *state == 'R' && *nice == NICE).count() == 2
            });
            come(&mut company, 1, MOMENT * 2);
            until(|| seen() == [('S', NICE), ('S', NICE)]);
        }
        drop(company);
        until(|| seen().is_empty());
    }
}
