//! Name-value lists of OpenZFS: the functions of `libnvpair.so.3` that libnv and cowsnap use, opened at the first call.
//!
//! It takes the place of the crate of this name on crates.io, which links the library. Types and names are those of
//! `sys/nvpair.h` from OpenZFS 2.0 on; `vm-tests/prototypes.c` holds them against the installed header.
#![expect(unsafe_code, reason = "calls into a C library")]

mod library;

use std::ffi::{c_char, c_int, c_uint};

pub use library::{Missing, Prototype, WhenMissing, open};

/// A list of named values, known by its address alone.
#[repr(C)]
#[derive(Debug)]
pub struct nvlist_t {
    hidden: [u8; 0],
}

/// A value of a list with its name, known by its address alone.
#[repr(C)]
#[derive(Debug)]
pub struct nvpair_t {
    hidden: [u8; 0],
}

/// A C enum: as wide as an `int`.
pub mod boolean_t {
    /// What it is in C.
    pub type Type = std::ffi::c_uint;
    /// No.
    pub const B_FALSE: Type = 0;
    /// Yes.
    pub const B_TRUE: Type = 1;
}

/// What the type of a value can be; arrays are left out.
pub mod data_type_t {
    /// What it is in C.
    pub type Type = std::ffi::c_int;
    /// See the header.
    pub const DATA_TYPE_DONTCARE: Type = -1;
    /// See the header.
    pub const DATA_TYPE_UNKNOWN: Type = 0;
    /// See the header.
    pub const DATA_TYPE_BOOLEAN: Type = 1;
    /// See the header.
    pub const DATA_TYPE_INT16: Type = 3;
    /// See the header.
    pub const DATA_TYPE_UINT16: Type = 4;
    /// See the header.
    pub const DATA_TYPE_INT32: Type = 5;
    /// See the header.
    pub const DATA_TYPE_UINT32: Type = 6;
    /// See the header.
    pub const DATA_TYPE_INT64: Type = 7;
    /// See the header.
    pub const DATA_TYPE_UINT64: Type = 8;
    /// See the header.
    pub const DATA_TYPE_STRING: Type = 9;
    /// See the header.
    pub const DATA_TYPE_NVLIST: Type = 19;
    /// See the header.
    pub const DATA_TYPE_BOOLEAN_VALUE: Type = 21;
    /// See the header.
    pub const DATA_TYPE_INT8: Type = 22;
    /// See the header.
    pub const DATA_TYPE_UINT8: Type = 23;
}

/// A value replaces one of the same name, whatever its type.
pub const NV_UNIQUE_NAME: c_uint = 1;

library! {
    "libnvpair.so.3";
    fn nvlist_alloc(list: *mut *mut nvlist_t, flags: c_uint, kmflag: c_int) -> c_int;
    fn nvlist_free(list: *mut nvlist_t);
    fn nvlist_empty(list: *mut nvlist_t) -> boolean_t::Type;
    fn nvlist_exists(list: *mut nvlist_t, name: *const c_char) -> boolean_t::Type;
    fn nvlist_next_nvpair(list: *mut nvlist_t, pair: *mut nvpair_t) -> *mut nvpair_t;
    fn nvpair_name(pair: *mut nvpair_t) -> *mut c_char;
    fn nvpair_type(pair: *mut nvpair_t) -> data_type_t::Type;
    fn nvlist_add_boolean(list: *mut nvlist_t, name: *const c_char) -> c_int;
    fn nvlist_add_boolean_value(list: *mut nvlist_t, name: *const c_char, value: boolean_t::Type) -> c_int;
    fn nvlist_add_string(list: *mut nvlist_t, name: *const c_char, value: *const c_char) -> c_int;
    fn nvlist_add_nvlist(list: *mut nvlist_t, name: *const c_char, value: *mut nvlist_t) -> c_int;
    fn nvlist_lookup_boolean(list: *mut nvlist_t, name: *const c_char) -> c_int;
    fn nvlist_lookup_boolean_value(list: *mut nvlist_t, name: *const c_char, value: *mut boolean_t::Type) -> c_int;
    fn nvlist_lookup_string(list: *mut nvlist_t, name: *const c_char, value: *mut *mut c_char) -> c_int;
    fn nvpair_value_boolean_value(pair: *mut nvpair_t, value: *mut boolean_t::Type) -> c_int;
    fn nvpair_value_string(pair: *mut nvpair_t, value: *mut *mut c_char) -> c_int;
    fn nvpair_value_nvlist(pair: *mut nvpair_t, value: *mut *mut nvlist_t) -> c_int;
    fn nvlist_add_int8(list: *mut nvlist_t, name: *const c_char, value: i8) -> c_int;
    fn nvlist_lookup_int8(list: *mut nvlist_t, name: *const c_char, value: *mut i8) -> c_int;
    fn nvpair_value_int8(pair: *mut nvpair_t, value: *mut i8) -> c_int;
    fn nvlist_add_uint8(list: *mut nvlist_t, name: *const c_char, value: u8) -> c_int;
    fn nvlist_lookup_uint8(list: *mut nvlist_t, name: *const c_char, value: *mut u8) -> c_int;
    fn nvpair_value_uint8(pair: *mut nvpair_t, value: *mut u8) -> c_int;
    fn nvlist_add_int16(list: *mut nvlist_t, name: *const c_char, value: i16) -> c_int;
    fn nvlist_lookup_int16(list: *mut nvlist_t, name: *const c_char, value: *mut i16) -> c_int;
    fn nvpair_value_int16(pair: *mut nvpair_t, value: *mut i16) -> c_int;
    fn nvlist_add_uint16(list: *mut nvlist_t, name: *const c_char, value: u16) -> c_int;
    fn nvlist_lookup_uint16(list: *mut nvlist_t, name: *const c_char, value: *mut u16) -> c_int;
    fn nvpair_value_uint16(pair: *mut nvpair_t, value: *mut u16) -> c_int;
    fn nvlist_add_int32(list: *mut nvlist_t, name: *const c_char, value: i32) -> c_int;
    fn nvlist_lookup_int32(list: *mut nvlist_t, name: *const c_char, value: *mut i32) -> c_int;
    fn nvpair_value_int32(pair: *mut nvpair_t, value: *mut i32) -> c_int;
    fn nvlist_add_uint32(list: *mut nvlist_t, name: *const c_char, value: u32) -> c_int;
    fn nvlist_lookup_uint32(list: *mut nvlist_t, name: *const c_char, value: *mut u32) -> c_int;
    fn nvpair_value_uint32(pair: *mut nvpair_t, value: *mut u32) -> c_int;
    fn nvlist_add_int64(list: *mut nvlist_t, name: *const c_char, value: i64) -> c_int;
    fn nvlist_lookup_int64(list: *mut nvlist_t, name: *const c_char, value: *mut i64) -> c_int;
    fn nvpair_value_int64(pair: *mut nvpair_t, value: *mut i64) -> c_int;
    fn nvlist_add_uint64(list: *mut nvlist_t, name: *const c_char, value: u64) -> c_int;
    fn nvlist_lookup_uint64(list: *mut nvlist_t, name: *const c_char, value: *mut u64) -> c_int;
    fn nvpair_value_uint64(pair: *mut nvpair_t, value: *mut u64) -> c_int;
    fn nvlist_add_int8_array(list: *mut nvlist_t, name: *const c_char, values: *mut i8, len: c_uint) -> c_int;
    fn nvlist_lookup_int8_array(list: *mut nvlist_t, name: *const c_char, values: *mut *mut i8, len: *mut c_uint) -> c_int;
    fn nvlist_add_uint8_array(list: *mut nvlist_t, name: *const c_char, values: *mut u8, len: c_uint) -> c_int;
    fn nvlist_lookup_uint8_array(list: *mut nvlist_t, name: *const c_char, values: *mut *mut u8, len: *mut c_uint) -> c_int;
    fn nvlist_add_int16_array(list: *mut nvlist_t, name: *const c_char, values: *mut i16, len: c_uint) -> c_int;
    fn nvlist_lookup_int16_array(list: *mut nvlist_t, name: *const c_char, values: *mut *mut i16, len: *mut c_uint) -> c_int;
    fn nvlist_add_uint16_array(list: *mut nvlist_t, name: *const c_char, values: *mut u16, len: c_uint) -> c_int;
    fn nvlist_lookup_uint16_array(list: *mut nvlist_t, name: *const c_char, values: *mut *mut u16, len: *mut c_uint) -> c_int;
    fn nvlist_add_int32_array(list: *mut nvlist_t, name: *const c_char, values: *mut i32, len: c_uint) -> c_int;
    fn nvlist_lookup_int32_array(list: *mut nvlist_t, name: *const c_char, values: *mut *mut i32, len: *mut c_uint) -> c_int;
    fn nvlist_add_uint32_array(list: *mut nvlist_t, name: *const c_char, values: *mut u32, len: c_uint) -> c_int;
    fn nvlist_lookup_uint32_array(list: *mut nvlist_t, name: *const c_char, values: *mut *mut u32, len: *mut c_uint) -> c_int;
    fn nvlist_add_int64_array(list: *mut nvlist_t, name: *const c_char, values: *mut i64, len: c_uint) -> c_int;
    fn nvlist_lookup_int64_array(list: *mut nvlist_t, name: *const c_char, values: *mut *mut i64, len: *mut c_uint) -> c_int;
    fn nvlist_add_uint64_array(list: *mut nvlist_t, name: *const c_char, values: *mut u64, len: c_uint) -> c_int;
    fn nvlist_lookup_uint64_array(list: *mut nvlist_t, name: *const c_char, values: *mut *mut u64, len: *mut c_uint) -> c_int;
}
