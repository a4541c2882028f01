//! Archives of files: `export`, `import`, `fetch`.

mod download;
mod hostile;
mod killed;
mod lab;
mod round;
mod server;
