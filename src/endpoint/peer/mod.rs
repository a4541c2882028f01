//! Another machine that runs `cowsnap serve`, reached by the system's own `ssh`.
//!
//! [`Line`] is the conversation, whichever side one is on; [`message`] is what is said in it; [`Rights`] is what a side that serves
//! allows; [`Peer`] is a dataset there, as a [`History`](crate::endpoint::History) that also sends and receives.

mod aside;
mod client;
mod content;
mod line;
pub mod message;
mod rights;

pub use client::{Begun, Fetched, Offered, Peer, Reason, Ssh};
pub use line::{Data, DataOut, Line, Patience};
pub use rights::{Rights, Under, Verb};
