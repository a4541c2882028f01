//! Name-value lists, owned.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int};
use std::ptr::null_mut;

use nvpair_sys::{self as sys, data_type_t, nvlist_t, nvpair_t};

use super::Errno;

/// A list that libnvpair allocated and that is freed here.
pub(super) struct Nvlist {
    list: *mut nvlist_t,
}

/// What a list can hold, as far as the calls here need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A name without a value.
    Flag,
    Bool(bool),
    Int32(i32),
    Uint64(u64),
    Text(String),
    List(BTreeMap<String, Value>),
    /// Of another type.
    Other(c_int),
}

impl Drop for Nvlist {
    fn drop(&mut self) {
        // SAFETY: `list` is null, which is let be, or a list that nobody else frees.
        unsafe { sys::nvlist_free(self.list) }
    }
}

impl Nvlist {
    /// An empty list, where a name stands once.
    pub(super) fn new() -> Result<Self, Errno> {
        let mut list = null_mut();
        // SAFETY: the call writes one pointer.
        ok(unsafe { sys::nvlist_alloc(&mut list, sys::NV_UNIQUE_NAME, 0) })?;
        Ok(Self { list })
    }

    /// A list to be filled in by a call that allocates it.
    pub(super) fn to_be_made() -> Self {
        Self { list: null_mut() }
    }

    /// The list, for as long as this lives.
    pub(super) fn as_ptr(&self) -> *mut nvlist_t {
        self.list
    }

    /// Where a call that allocates a list puts it.
    pub(super) fn slot(&mut self) -> &mut *mut nvlist_t {
        assert!(self.list.is_null(), "the list in the slot would never be freed");
        &mut self.list
    }

    /// Adds a name without a value.
    pub(super) fn flag(&mut self, name: &str) -> Result<(), Errno> {
        let name = c_string(name)?;
        // SAFETY: the list is a live one; the name is copied.
        ok(unsafe { sys::nvlist_add_boolean(self.list, name.as_ptr()) })
    }

    /// Adds a number.
    pub(super) fn number(&mut self, name: &str, value: u64) -> Result<(), Errno> {
        let name = c_string(name)?;
        // SAFETY: as in `flag`.
        ok(unsafe { sys::nvlist_add_uint64(self.list, name.as_ptr(), value) })
    }

    /// Adds a text.
    pub(super) fn text(&mut self, name: &str, value: &str) -> Result<(), Errno> {
        let (name, value) = (c_string(name)?, c_string(value)?);
        // SAFETY: as in `flag`; the value is copied too.
        ok(unsafe { sys::nvlist_add_string(self.list, name.as_ptr(), value.as_ptr()) })
    }

    /// Adds a copy of a list.
    pub(super) fn list(&mut self, name: &str, value: &Self) -> Result<(), Errno> {
        let name = c_string(name)?;
        // SAFETY: both lists are live ones; the value is copied.
        ok(unsafe { sys::nvlist_add_nvlist(self.list, name.as_ptr(), value.list) })
    }

    /// All that is in it.
    pub(super) fn values(&self) -> BTreeMap<String, Value> {
        // SAFETY: the list is null or a live one.
        unsafe { values(self.list) }
    }
}

/// All that is in `list`; names and texts that are no UTF-8 are shown as well as they can be.
///
/// # Safety
/// `list` is null or a list that lives and does not change meanwhile.
unsafe fn values(list: *mut nvlist_t) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    if list.is_null() {
        return all;
    }
    let mut pair = null_mut();
    loop {
        // SAFETY: `pair` is null, for the first, or one of this list.
        pair = unsafe { sys::nvlist_next_nvpair(list, pair) };
        if pair.is_null() {
            return all;
        }
        // SAFETY: the name lives in the pair.
        let name = unsafe { CStr::from_ptr(sys::nvpair_name(pair)) }.to_string_lossy().into_owned();
        // SAFETY: the pair is one of a live list.
        all.insert(name, unsafe { value(pair) });
    }
}

/// # Safety
/// `pair` is one of a list that lives and does not change meanwhile.
unsafe fn value(pair: *mut nvpair_t) -> Value {
    // SAFETY: each call writes one value of the type that was asked for before, which lives in the pair.
    unsafe {
        match sys::nvpair_type(pair) {
            data_type_t::DATA_TYPE_BOOLEAN => Value::Flag,
            data_type_t::DATA_TYPE_BOOLEAN_VALUE => {
                let mut value = 0;
                sys::nvpair_value_boolean_value(pair, &mut value);
                Value::Bool(value != 0)
            }
            data_type_t::DATA_TYPE_INT32 => {
                let mut value = 0;
                sys::nvpair_value_int32(pair, &mut value);
                Value::Int32(value)
            }
            data_type_t::DATA_TYPE_UINT64 => {
                let mut value = 0;
                sys::nvpair_value_uint64(pair, &mut value);
                Value::Uint64(value)
            }
            data_type_t::DATA_TYPE_STRING => {
                let mut value = null_mut();
                match sys::nvpair_value_string(pair, &mut value) {
                    0 => Value::Text(CStr::from_ptr(value).to_string_lossy().into_owned()),
                    _ => Value::Text(String::new()),
                }
            }
            data_type_t::DATA_TYPE_NVLIST => {
                let mut value = null_mut();
                sys::nvpair_value_nvlist(pair, &mut value);
                Value::List(values(value))
            }
            other => Value::Other(other),
        }
    }
}

/// What a function that returns an error number says.
pub(super) fn ok(rc: c_int) -> Result<(), Errno> {
    if rc == 0 { Ok(()) } else { Err(Errno::from_raw(rc)) }
}

/// `text` for C. One with a NUL in it is nothing that ZFS has a name for.
pub(super) fn c_string(text: &str) -> Result<CString, Errno> {
    CString::new(text).map_err(|_| Errno::Invalid)
}
