//! The functions of `libzfs_core.so.3` that libzetta and cowsnap use, opened at the first call.
//!
//! It takes the place of the crate of this name on crates.io, which links the library. Types and names are those of
//! `libzfs_core.h` from OpenZFS 2.0 on; `vm-tests/prototypes.c` holds them against the installed header.
//!
//! **Left out for good:** `lzc_initialize` and `lzc_send_progress`, whose types change while the library keeps its name,
//! and `libzfs_core_fini`, which would close `/dev/zfs` under other threads.
#![expect(clippy::too_many_arguments, reason = "the functions are those of the C header")]

use std::ffi::{c_char, c_int, c_uint};

pub use nvpair_sys::nvlist_t;
use nvpair_sys::{boolean_t, library};

/// The 312 bytes that a stream begins with, known by their address alone. Aligned to 8 bytes.
#[repr(C)]
#[derive(Debug)]
pub struct dmu_replay_record {
    hidden: [u64; 0],
}

/// What a dataset is: a C enum.
pub mod lzc_dataset_type {
    /// What it is in C.
    pub type Type = std::ffi::c_uint;
    /// A filesystem.
    pub const LZC_DATSET_TYPE_ZFS: Type = 2;
    /// A volume.
    pub const LZC_DATSET_TYPE_ZVOL: Type = 3;
}

/// How to send: a C enum of single bits.
pub mod lzc_send_flags {
    /// What it is in C.
    pub type Type = std::ffi::c_uint;
    /// Small blocks within the record that points to them.
    pub const LZC_SEND_FLAG_EMBED_DATA: Type = 1;
    /// Blocks of more than 128 KiB as they are.
    pub const LZC_SEND_FLAG_LARGE_BLOCK: Type = 2;
    /// Compressed blocks as they are.
    pub const LZC_SEND_FLAG_COMPRESS: Type = 4;
    /// Blocks exactly as on disk: encrypted ones stay encrypted.
    pub const LZC_SEND_FLAG_RAW: Type = 8;
    /// What a broken off receive has got so far.
    pub const LZC_SEND_FLAG_SAVED: Type = 16;
}

library! {
    "libzfs_core.so.3";
    fn libzfs_core_init() -> c_int;
    fn lzc_exists(name: *const c_char) -> boolean_t::Type;
    fn lzc_create(
        name: *const c_char,
        kind: lzc_dataset_type::Type,
        props: *mut nvlist_t,
        key: *mut u8,
        key_len: c_uint,
    ) -> c_int;
    fn lzc_clone(name: *const c_char, origin: *const c_char, props: *mut nvlist_t) -> c_int;
    fn lzc_promote(name: *const c_char, conflict: *mut c_char, conflict_len: c_int) -> c_int;
    fn lzc_rename(source: *const c_char, target: *const c_char) -> c_int;
    fn lzc_destroy(name: *const c_char) -> c_int;
    fn lzc_rollback_to(name: *const c_char, snapshot: *const c_char) -> c_int;
    fn lzc_snapshot(snapshots: *mut nvlist_t, props: *mut nvlist_t, errors: *mut *mut nvlist_t) -> c_int;
    fn lzc_destroy_snaps(
        snapshots: *mut nvlist_t,
        defer: boolean_t::Type,
        errors: *mut *mut nvlist_t,
    ) -> c_int;
    fn lzc_snaprange_space(first: *const c_char, last: *const c_char, used: *mut u64) -> c_int;
    fn lzc_bookmark(bookmarks: *mut nvlist_t, errors: *mut *mut nvlist_t) -> c_int;
    fn lzc_get_bookmarks(name: *const c_char, props: *mut nvlist_t, bookmarks: *mut *mut nvlist_t) -> c_int;
    fn lzc_destroy_bookmarks(bookmarks: *mut nvlist_t, errors: *mut *mut nvlist_t) -> c_int;
    fn lzc_hold(holds: *mut nvlist_t, cleanup_fd: c_int, errors: *mut *mut nvlist_t) -> c_int;
    fn lzc_release(holds: *mut nvlist_t, errors: *mut *mut nvlist_t) -> c_int;
    fn lzc_get_holds(snapshot: *const c_char, holds: *mut *mut nvlist_t) -> c_int;
    fn lzc_load_key(name: *const c_char, noop: boolean_t::Type, key: *mut u8, key_len: c_uint) -> c_int;
    fn lzc_unload_key(name: *const c_char) -> c_int;
    fn lzc_send(
        snapshot: *const c_char,
        from: *const c_char,
        fd: c_int,
        flags: lzc_send_flags::Type,
    ) -> c_int;
    fn lzc_send_resume(
        snapshot: *const c_char,
        from: *const c_char,
        fd: c_int,
        flags: lzc_send_flags::Type,
        object: u64,
        offset: u64,
    ) -> c_int;
    fn lzc_send_space(
        snapshot: *const c_char,
        from: *const c_char,
        flags: lzc_send_flags::Type,
        space: *mut u64,
    ) -> c_int;
    fn lzc_receive_with_cmdprops(
        snapshot: *const c_char,
        received_props: *mut nvlist_t,
        local_props: *mut nvlist_t,
        key: *mut u8,
        key_len: c_uint,
        origin: *const c_char,
        force: boolean_t::Type,
        resumable: boolean_t::Type,
        raw: boolean_t::Type,
        input_fd: c_int,
        begin: *const dmu_replay_record,
        cleanup_fd: c_int,
        read_bytes: *mut u64,
        error_flags: *mut u64,
        action_handle: *mut u64,
        errors: *mut *mut nvlist_t,
    ) -> c_int;
    fn lzc_channel_program(
        pool: *const c_char,
        program: *const c_char,
        instructions: u64,
        memory: u64,
        arguments: *mut nvlist_t,
        result: *mut *mut nvlist_t,
    ) -> c_int;
    fn lzc_channel_program_nosync(
        pool: *const c_char,
        program: *const c_char,
        instructions: u64,
        memory: u64,
        arguments: *mut nvlist_t,
        result: *mut *mut nvlist_t,
    ) -> c_int;
}
