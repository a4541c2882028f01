//! Our receive against the kernel's send: conformance, hostile streams, faults.

mod conformance;
mod faults;
mod hostile;
mod lab;
mod mutator;
mod plain;
mod plain_program;
