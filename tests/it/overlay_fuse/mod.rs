
mod core;
mod ops;
