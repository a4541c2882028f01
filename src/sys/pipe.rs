//! Pipes of a chosen size, and reads that an interrupt can end.
