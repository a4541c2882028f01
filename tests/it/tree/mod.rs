//! Snapshots of plain directories, on filesystems whose files can share blocks and on one whose files can not.

mod contract;
mod diff;
mod faults;
mod fidelity;
mod lab;
mod program;
mod refusals;
mod verbs;
