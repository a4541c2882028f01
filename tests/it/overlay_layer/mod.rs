//! Layers, held against the kernel's overlayfs: what it makes we read, and what we say it shows it shows.

mod diff;
mod lab;
mod program;
mod view;
