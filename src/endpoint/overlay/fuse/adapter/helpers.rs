//! Threads for what may take long, where one thread serves: it does not wait for a disk.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

type Task = Box<dyn FnOnce() + Send>;

/// The threads, once there is something to do; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Helpers {
    tasks: OnceLock<Sender<Task>>,
    threads: usize,
}

impl Helpers {
    /// So many threads; with none, who has something to do does it himself.
    pub(super) fn new(threads: usize) -> Self {
        Self { tasks: OnceLock::new(), threads }
    }

    /// Does it, in another thread if there are any.
    pub(super) fn run(&self, task: impl FnOnce() + Send + 'static) {
        if self.threads == 0 {
            return task();
        }
        // Nobody takes what is sent to threads that could not be started: the sender has it back.
        if let Err(unsent) = self.tasks.get_or_init(|| start(self.threads)).send(Box::new(task)) {
            unsent.0();
        }
    }
}

fn start(threads: usize) -> Sender<Task> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..threads {
        let receiver = Arc::clone(&receiver);
        let started = std::thread::Builder::new().name("helper".into()).spawn(move || {
            while let Some(task) = next(&receiver) {
                task();
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "a thread less");
        }
    }
    sender
}

fn next(receiver: &Mutex<Receiver<Task>>) -> Option<Task> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
