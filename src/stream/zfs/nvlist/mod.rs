//! Name-value lists as ZFS packs them, in both of its encodings: native (either byte order) and XDR.
//!
//! They stand behind BEGIN records, within resume tokens, and in the headers of packages. Their bytes come from anybody:
//! nothing is allocated for a count before that many elements are known to be there.

use std::collections::BTreeMap;

use super::order::ByteOrder;

pub mod encode;
mod native;
mod show;
mod xdr;

/// The longest packed list that is read, in bytes. Unpacked it takes up to about ten times that.
pub const MAX_LEN: usize = 256 << 10;
/// How many lists may stand within one another.
pub const MAX_DEPTH: usize = 8;

const HEADER_LEN: usize = 4;
const NATIVE: u8 = 0;
const XDR: u8 = 1;

/// What a name stands for. The integers' widths are not kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// That it is there says all.
    Flag,
    /// Yes or no.
    Bool(bool),
    /// A signed number, or a time in nanoseconds.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A number with a fraction.
    Double(f64),
    /// Text. What is not UTF-8 is escaped.
    Text(String),
    /// Bytes, of either sign.
    Bytes(Vec<u8>),
    /// Several of them.
    Bools(Vec<bool>),
    /// Several of them.
    Ints(Vec<i64>),
    /// Several of them.
    Uints(Vec<u64>),
    /// Several of them.
    Texts(Vec<String>),
    /// A list within.
    List(List),
    /// Several of them.
    Lists(Vec<List>),
}

/// Names and what they stand for, in the names' order. No name stands twice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct List(BTreeMap<String, Value>);

impl List {
    /// Reads a packed list, of which each byte must belong to it, save up to seven zeros at its end.
    ///
    /// # Errors
    /// [`Error`], with the offset in `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_LEN {
            return Err(Error::TooLong { len: bytes.len(), max: MAX_LEN });
        }
        let mut cursor = Cursor { bytes, at: 0 };
        let [encoding, endian, _, _] = cursor.array::<HEADER_LEN>()?;
        let list = match (encoding, endian) {
            (NATIVE, 1) => native::list(&mut cursor, ByteOrder::Little)?,
            (NATIVE, 0) => native::list(&mut cursor, ByteOrder::Big)?,
            (XDR, 0 | 1) => xdr::list(&mut cursor, 0)?,
            _ => return Err(Error::Encoding { encoding, endian }),
        };
        let rest = &bytes[cursor.at..];
        match rest.len() < 8 && rest.iter().all(|&byte| byte == 0) {
            true => Ok(list),
            false => Err(Error::Trailing { offset: cursor.at }),
        }
    }

    /// What `name` stands for.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The names and what they stand for.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn insert(&mut self, offset: usize, name: String, value: Value) -> Result<(), Error> {
        match self.0.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(Error::Repeated { offset }),
        }
    }
}

impl<N: Into<String>> FromIterator<(N, Value)> for List {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

/// Why bytes are no packed list. Every offset counts from the list's first byte.
#[expect(missing_docs, reason = "each variant's text names its fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than is read.
    #[error("the packed list has {len} bytes; at most {max} are read")]
    TooLong { len: usize, max: usize },
    /// Packed in a way that there is none of.
    #[error("the packed list has the unknown encoding {encoding}, endian {endian}")]
    Encoding { encoding: u8, endian: u8 },
    /// It ends within something.
    #[error("the packed list ends within what begins at byte {offset}")]
    Truncated { offset: usize },
    /// More within one another than is read.
    #[error("the packed list has more than {MAX_DEPTH} lists within one another at byte {offset}")]
    TooDeep { offset: usize },
    /// A type that there is none of.
    #[error("the packed list has a value of the unknown type {number} at byte {offset}")]
    UnknownType { offset: usize, number: u32 },
    /// A length, count, version or name that can not be.
    #[error("the packed list has a {what} that can not be at byte {offset}")]
    Malformed { offset: usize, what: &'static str },
    /// A name that stands twice in one list.
    #[error("the packed list has a name for the second time at byte {offset}")]
    Repeated { offset: usize },
    /// Something follows.
    #[error("bytes that do not belong to the packed list follow it at byte {offset}")]
    Trailing { offset: usize },
}

/// What is left to be read.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let taken = self.bytes[self.at..].get(..len).ok_or(Error::Truncated { offset: self.at })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { offset: self.at, what }
    }
}

/// What one element of a value is. Each is read as a 64-bit number, of which the low [`Self::width`] bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    Byte,
    Bool,
    Double,
    Int(usize),
    Uint(usize),
}

impl Scalar {
    /// Bytes in memory, as the native encoding has them.
    fn width(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Bool => 4,
            Self::Double => 8,
            Self::Int(width) | Self::Uint(width) => width,
        }
    }

    fn one(self, raw: u64) -> Value {
        match self {
            Self::Byte => Value::Uint(raw & 0xff),
            Self::Bool => Value::Bool(raw as u32 != 0),
            Self::Double => Value::Double(f64::from_bits(raw)),
            Self::Int(width) => Value::Int(signed(raw, width)),
            Self::Uint(width) => Value::Uint(unsigned(raw, width)),
        }
    }

    fn many(self, raw: impl Iterator<Item = u64>) -> Value {
        match self {
            Self::Byte | Self::Int(1) | Self::Uint(1) => Value::Bytes(raw.map(|raw| raw as u8).collect()),
            Self::Double => Value::Uints(raw.collect()), // The format has no type for several.
            Self::Bool => Value::Bools(raw.map(|raw| raw as u32 != 0).collect()),
            Self::Int(width) => Value::Ints(raw.map(|raw| signed(raw, width)).collect()),
            Self::Uint(width) => Value::Uints(raw.map(|raw| unsigned(raw, width)).collect()),
        }
    }
}

fn unsigned(raw: u64, width: usize) -> u64 {
    raw & (u64::MAX >> (64 - 8 * width))
}

fn signed(raw: u64, width: usize) -> i64 {
    let shift = 64 - 8 * width;
    (raw << shift) as i64 >> shift
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Flag,
    One(Scalar),
    Many(Scalar),
    Text,
    Texts,
    List,
    Lists,
}

impl Type {
    /// The type with that number, of a value of so many elements.
    fn read(number: u32, n_elements: u32, offset: usize) -> Result<Self, Error> {
        let kind = Self::from_number(number).ok_or(Error::UnknownType { offset, number })?;
        let fits = match kind {
            Self::Flag => n_elements == 0,
            Self::One(_) | Self::Text | Self::List => n_elements == 1,
            Self::Many(_) | Self::Texts | Self::Lists => n_elements <= MAX_LEN as u32,
        };
        match fits {
            true => Ok(kind),
            false => Err(Error::Malformed { offset, what: "number of elements" }),
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        use Scalar::{Bool, Byte, Double, Int, Uint};
        Some(match number {
            1 => Self::Flag,
            2 => Self::One(Byte),
            3 => Self::One(Int(2)),
            4 => Self::One(Uint(2)),
            5 => Self::One(Int(4)),
            6 => Self::One(Uint(4)),
            7 | 18 => Self::One(Int(8)), // 18 is a time.
            8 => Self::One(Uint(8)),
            9 => Self::Text,
            10 => Self::Many(Byte),
            11 => Self::Many(Int(2)),
            12 => Self::Many(Uint(2)),
            13 => Self::Many(Int(4)),
            14 => Self::Many(Uint(4)),
            15 => Self::Many(Int(8)),
            16 => Self::Many(Uint(8)),
            17 => Self::Texts,
            19 => Self::List,
            20 => Self::Lists,
            21 => Self::One(Bool),
            22 => Self::One(Int(1)),
            23 => Self::One(Uint(1)),
            24 => Self::Many(Bool),
            25 => Self::Many(Int(1)),
            26 => Self::Many(Uint(1)),
            27 => Self::One(Double),
            _ => return None,
        })
    }
}
