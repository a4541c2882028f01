//! Archives of files: `export`, `import`, `fetch`.

mod away;
mod download;
mod hostile;
mod killed;
pub mod lab;
mod round;
mod server;
