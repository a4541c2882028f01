//! Archives of files: `export`, `import`, `fetch`.

mod away;
mod download;
mod hostile;
mod killed;
mod lab;
mod round;
mod server;
