//! Writes containers: frames hashed and compressed on all cores, their order kept, memory bounded.
