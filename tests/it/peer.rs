//! Peers: `cowsnap serve` on the other side of a connection, transfers, and what becomes of them when they are cut.

mod cursors;
mod dated;
mod fan;
mod foretold;
mod hostile;
pub mod hung;
mod killed;
pub mod lab;
pub mod program;
mod resume;
mod transfers;
mod tree;
