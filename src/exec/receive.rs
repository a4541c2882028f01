//! Receives a container or a raw stream; commits only what was verified.
