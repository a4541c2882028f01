//! What is known of jobs: the record of their runs, and those who tell of it.

mod beside;
mod check;
mod log;
pub mod metrics;
mod notify;
mod record;
mod status;
mod verify;
