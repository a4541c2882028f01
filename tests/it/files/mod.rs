//! Archives of files: `export`, `import`, `fetch`.

mod download;
mod hostile;
mod killed;
pub mod lab;
mod round;
mod server;
