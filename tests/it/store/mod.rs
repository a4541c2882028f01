//! Stores of objects: what every kind of them does, what goes wrong, and what is never shown.

mod contract;
mod faults;
mod others;
mod place;
