//! Archives, read: pulled, restored, verified; on a directory and on a real S3 server, with what may go wrong there.

pub mod lab;
mod node;
mod pull;
mod restore;
mod verify;
