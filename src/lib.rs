//! cowsnap: snapshots of data directories, taken in milliseconds, shipped as what changed, proven by blake3, and
//! restored by mounting.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod endpoint;
pub mod error;
pub mod exec;
pub mod model;
pub mod plan;
pub mod pool;
pub mod quiesce;
pub mod stream;
pub mod sys;

pub use error::{Class, Error, Result};
