//! How memory is taken from the kernel and given back.

/// Has large pieces of memory come from the kernel each by itself, and go back to it when they are freed, as long as this process lives. glibc
/// begins so, but keeps what is as large as a piece that was freed once; a zeroed one is then written to from end to end before it is used.
pub fn keep_no_large_pieces() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) sets a number of the allocator; it takes the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}
