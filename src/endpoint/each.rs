//! The same for each of many things, on all cores.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::endpoint::{Error, Result};
use crate::sys::interrupt;

/// More threads than this wait for each other in the filesystem.
const MAX_THREADS: usize = 8;
/// Fewer things than this are not worth a thread.
const MIN_PER_THREAD: usize = 16;

/// The answers of `work` for each of `items`, in their order. After the first error, no more of them is begun.
///
/// # Errors
/// One of those that `work` gave; [`Error::Interrupted`].
pub(in crate::endpoint) fn each<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let cores = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let n_threads = cores.min(items.len() / MIN_PER_THREAD);
    each_by(n_threads, items, |item| check().and_then(|()| work(item)))
}

/// As [`each`], by so many threads, however many processors there are: for work that waits more than it works. Nothing interrupts it.
///
/// # Errors
/// One of those that `work` gave.
pub(crate) fn each_by<I: Sync, T: Send>(
    n_threads: usize,
    items: &[I],
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let n_threads = n_threads.min(items.len());
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = || -> Result<Vec<(usize, T)>> {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { break };
            let answer = work(item);
            done.push((at, answer.inspect_err(|_| stop.store(true, Ordering::Relaxed))?));
        }
        Ok(done)
    };
    let mut done = thread::scope(|scope| {
        // This thread takes part; where no more are to be had, it does all.
        let helpers: Vec<_> =
            (1..n_threads).map_while(|_| thread::Builder::new().spawn_scoped(scope, run).ok()).collect();
        let mut results = vec![run()];
        results.extend(helpers.into_iter().map(|helper| helper.join().expect("the work does not panic")));
        results.into_iter().collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, answer)| answer).collect())
}

fn check() -> Result<()> {
    interrupt::check()
        .map_err(|_| Error::Interrupted { op: "go through", subject: "a directory tree".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_in_the_order_of_what_was_asked() {
        let items: Vec<usize> = (0..1000).collect();
        let doubled = each(&items, |n| Ok(n * 2)).expect("no error");
        assert_eq!(doubled, items.iter().map(|n| n * 2).collect::<Vec<_>>());
        assert!(each(&[0_u8; 0], |_| Ok(())).expect("nothing to do").is_empty());
    }

    #[test]
    fn as_many_wait_at_a_time_as_are_asked_for() {
        let together = std::sync::Barrier::new(20);
        each_by(20, &[(); 40], |()| Ok(together.wait())).expect("no error");
        assert_eq!(each_by(0, &[1, 2], |n| Ok(n + 1)).expect("no error"), [2, 3]);
    }

    #[test]
    fn an_error_ends_it() {
        let begun = AtomicUsize::new(0);
        let items: Vec<usize> = (0..100_000).collect();
        let failed = each(&items, |&n| {
            begun.fetch_add(1, Ordering::Relaxed);
            match n {
                100 => Err(Error::NotFound { what: "thing", subject: n.to_string(), hint: None }),
                _ => Ok(n),
            }
        });
        assert!(matches!(failed, Err(Error::NotFound { .. })), "{failed:?}");
        assert!(begun.into_inner() < items.len(), "it went on after the error");
    }
}
