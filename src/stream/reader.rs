//! Reads containers, and yields no byte that it has not verified.
