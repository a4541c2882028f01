//! Verbs done. [`Event`] is all that happens: progress, log, metrics and JSON read it and nothing else.

use serde::Serialize;

pub mod adopt;
pub mod announced;
pub mod archive;
mod cursor;
pub mod doctor;
mod fan;
pub mod files;
pub mod given;
pub mod install;
pub mod job;
pub mod keys;
mod meter;
pub mod notify;
pub mod number;
pub mod overlay;
pub mod prune;
pub mod receive;
pub mod record;
pub mod replicate;
pub mod request;
pub mod restore;
pub mod scratch;
pub mod send;
pub mod sent;
pub mod serve;
mod throttle;
pub mod transfer;
pub mod verify;

/// Something that happened while a verb was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Work of a known or unknown size begins.
    Started {
        /// What is done: `send`, `receive`, `verify`, `adopt` …
        op: &'static str,
        /// On what.
        subject: String,
        /// How many bytes it will be, where that is known.
        total: Option<u64>,
    },
    /// That many bytes of it are done in all.
    Progress {
        /// Bytes since the start.
        bytes: u64,
    },
    /// It is over.
    Finished {
        /// Bytes in all.
        bytes: u64,
    },
    /// Something that the user should know and that does not stop the work.
    Warning {
        /// A sentence.
        text: String,
    },
}

/// Who is told of events. Called from the thread that works; must not block for long.
pub trait Observe: Sync {
    /// Takes note of `event`.
    fn observe(&self, event: Event);
}

impl<F: Fn(Event) + Sync> Observe for F {
    fn observe(&self, event: Event) {
        self(event);
    }
}

/// Takes note of nothing.
pub struct Silent;

impl Observe for Silent {
    fn observe(&self, _: Event) {}
}
