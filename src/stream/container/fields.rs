//! Lists of fields: tag, length, value; ascending tags; from [`OPTIONAL`] on, unknown ones are passed over.

use super::error::{Error, Result};

/// Fields from this tag on may be ignored by those who do not know them.
pub const OPTIONAL: u16 = 0x8000;

/// Appends a field.
pub fn put(out: &mut Vec<u8>, tag: u16, value: &[u8]) {
    out.extend(tag.to_le_bytes());
    out.extend(u32::try_from(value.len()).expect("values are checked to be short").to_le_bytes());
    out.extend(value);
}

/// Bytes that are taken from the front. Every length is compared with what is there before it is used.
pub struct Take<'a> {
    part: &'static str,
    bytes: &'a [u8],
}

impl<'a> Take<'a> {
    /// Of `bytes`, which are the container's `part` (`header`, `trailer`).
    pub fn new(part: &'static str, bytes: &'a [u8]) -> Self {
        Self { part, bytes }
    }

    /// An error about a field of this part.
    pub fn bad(&self, field: &'static str, why: impl Into<String>) -> Error {
        Error::Field { part: self.part, field, why: why.into() }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8]> {
        let Some((front, rest)) = self.bytes.split_at_checked(len) else {
            return Err(self.bad(field, format!("{len} bytes are announced, {} are left", self.bytes.len())));
        };
        self.bytes = rest;
        Ok(front)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        Ok(self.bytes(field, N)?.try_into().expect("as many as were asked for"))
    }

    /// The next `len` bytes as text.
    pub fn text(&mut self, field: &'static str, len: usize) -> Result<String> {
        let text = std::str::from_utf8(self.bytes(field, len)?);
        text.map(str::to_owned).map_err(|error| self.bad(field, error.to_string()))
    }

    /// The next field: its tag and its value. `after` is the tag before it.
    pub fn field(&mut self, after: Option<u16>) -> Result<Option<(u16, Take<'a>)>> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = u16::from_le_bytes(self.array("field")?);
        if after.is_some_and(|after| tag <= after) {
            return Err(self.bad("field", format!("tag {tag:#06x} is out of order")));
        }
        let len = u32::from_le_bytes(self.array("field")?) as usize;
        let value = self.bytes("field", len)?;
        Ok(Some((tag, Take::new(self.part, value))))
    }

    /// All that is left, as exactly `N` bytes.
    pub fn all<const N: usize>(&self, field: &'static str) -> Result<[u8; N]> {
        let why = || format!("{} bytes instead of {N}", self.bytes.len());
        self.bytes.try_into().map_err(|_| self.bad(field, why()))
    }

    /// All that is left, as text of `1..=max` bytes.
    pub fn all_text(mut self, field: &'static str, max: usize) -> Result<String> {
        let len = self.bytes.len();
        if len == 0 || len > max {
            return Err(self.bad(field, format!("{len} bytes instead of 1 to {max}")));
        }
        self.text(field, len)
    }
}

/// What to do with a field that is not known: pass over it, or refuse.
pub fn unknown(part: &'static str, tag: u16) -> Result<()> {
    match tag >= OPTIONAL {
        true => Ok(()),
        false => Err(Error::NeedsNewer { what: format!("its {part} has the field {tag:#06x}") }),
    }
}
