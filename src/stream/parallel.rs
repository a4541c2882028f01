//! Work on all cores whose results keep the order of the jobs, with a bound on what is in flight.

use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

/// Where jobs go in, workers take them, and results come out in the order of the jobs.
///
/// At most `in_flight` jobs are between [`Jobs::submit`] and [`Results`], which bounds the memory.
pub fn ordered<J, O>(in_flight: usize) -> (Jobs<J, O>, Workers<J, O>, Results<O>) {
    let (work, queue) = mpsc::channel();
    let (order, results) = mpsc::sync_channel(in_flight.saturating_sub(1));
    (Jobs { work, order }, Workers(Arc::new(Mutex::new(queue))), Results(results))
}

/// How many threads to work with: `asked`, or one per core if that is 0.
pub fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}

type Job<J, O> = (J, SyncSender<O>);

/// Takes jobs. Dropping it ends the workers once they have done what was submitted.
pub struct Jobs<J, O> {
    work: Sender<Job<J, O>>,
    order: SyncSender<Receiver<O>>,
}

impl<J, O> Jobs<J, O> {
    /// Hands in the next job; waits while too many are in flight. False if nobody wants results any more.
    #[must_use]
    pub fn submit(&self, job: J) -> bool {
        let (to, from) = mpsc::sync_channel(1);
        self.order.send(from).is_ok() && self.work.send((job, to)).is_ok()
    }
}

/// What worker threads share.
pub struct Workers<J, O>(Arc<Mutex<Receiver<Job<J, O>>>>);

impl<J, O> Clone for Workers<J, O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<J, O> Workers<J, O> {
    /// Works until there are no more jobs.
    pub fn run(&self, mut work: impl FnMut(J) -> O) {
        while let Ok((job, to)) = self.take() {
            // Nobody wants it if the results were dropped.
            let _ = to.send(work(job));
        }
    }

    fn take(&self) -> Result<Job<J, O>, mpsc::RecvError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recv()
    }
}

/// Gives results in the order of the jobs. Dropping it makes [`Jobs::submit`] say so.
pub struct Results<O>(Receiver<Receiver<O>>);

impl<O> Iterator for Results<O> {
    type Item = O;

    /// The result of the next job; `None` once [`Jobs`] was dropped and all are done.
    ///
    /// # Panics
    /// If the worker that had the job panicked.
    fn next(&mut self) -> Option<O> {
        let result = self.0.recv().ok()?;
        Some(result.recv().expect("a worker that did not panic answers each job"))
    }
}

/// A buffer whose length changes without its bytes being written anew.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>, // Invariant: all of it was initialised once, and stays.
    from: usize,    // Invariant: at most `len`.
    len: usize,     // Invariant: at most `bytes.len()`.
}

impl Block {
    /// Makes it `len` bytes long; what they are is not said.
    pub fn room(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len {
            self.bytes = vec![0; len]; // Zeroed by the kernel, not byte by byte.
        }
        (self.from, self.len) = (0, len);
        &mut self.bytes[..len]
    }

    /// Makes it shorter.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(self.from + len);
    }

    /// Makes it begin so many bytes later.
    pub fn skip(&mut self, len: usize) {
        self.from = self.len.min(self.from + len);
    }
}

impl std::ops::Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.from..self.len]
    }
}

impl std::ops::DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.len]
    }
}

/// Blocks that were used and may be used again. There are never more than were in flight at once.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Vec<Block>>);

impl Pool {
    /// A used block, or a new one.
    pub fn take(&self) -> Block {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives one back.
    pub fn put(&self, block: Block) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_jobs() {
        let (jobs, workers, mut results) = ordered(4);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let workers = workers.clone();
                scope.spawn(move || {
                    workers.run(|n: u64| {
                        std::thread::sleep(std::time::Duration::from_micros(n % 7 * 50));
                        n * 2
                    })
                });
            }
            scope.spawn(move || (0..200).for_each(|n| assert!(jobs.submit(n))));
            for n in 0..200 {
                assert_eq!(results.next(), Some(n * 2));
            }
            assert_eq!(results.next(), None);
        });
    }

    #[test]
    fn nobody_works_for_results_that_were_dropped() {
        let (jobs, _workers, results) = ordered::<u8, u8>(2);
        drop(results);
        assert!(!jobs.submit(1));
    }

    #[test]
    fn a_block_shrinks_and_grows() {
        let mut block = Block::default();
        block.room(4).copy_from_slice(b"abcd");
        block.truncate(2);
        assert_eq!(&*block, b"ab");
        block.truncate(3);
        assert_eq!(block.len(), 2);
        assert_eq!(block.room(5), [0; 5]);
        assert_eq!(block.room(1).len(), 1);
        block.room(4).copy_from_slice(b"abcd");
        block.skip(1);
        assert_eq!(&*block, b"bcd");
        block.truncate(2);
        assert_eq!(&*block, b"bc");
        block.skip(9);
        assert!(block.is_empty());
        assert_eq!(block.room(4).len(), 4);
    }
}
