//! ZFS send streams and resume tokens: made up, damaged in every way, and compared with ZFS's own tools.

mod begin;
mod nvlist;
mod resume;
