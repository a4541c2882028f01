//! That a replica holds what its source holds: what is recorded, what is read, and what each change of either does.

mod content;
mod program;
mod relays;
