//! The kernel's send, read through a large pipe with a prefetcher ahead of it.
