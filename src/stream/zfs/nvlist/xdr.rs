//! The XDR encoding (RFC 4506): big-endian, everything in multiples of four bytes.
//!
//! A list: version, flags, pairs, eight zeros. A pair: its length packed and unpacked, the name, the type, the number of
//! elements, the value.

use super::{Cursor, Error, List, MAX_DEPTH, Scalar, Type, Value};
use crate::stream::zfs::text;

pub(super) fn list(cursor: &mut Cursor, depth: usize) -> Result<List, Error> {
    if depth >= MAX_DEPTH {
        return Err(Error::TooDeep { offset: cursor.at });
    }
    let bad_version = cursor.malformed("version");
    if word(cursor)? != 0 {
        return Err(bad_version);
    }
    let _flags = word(cursor)?;
    let mut list = List::default();
    loop {
        let offset = cursor.at;
        match (word(cursor)?, word(cursor)?) {
            (0, 0) => return Ok(list),
            (0, _) | (_, 0) => return Err(Error::Malformed { offset, what: "length" }),
            _ => {}
        }
        let name = string(cursor)?;
        let (number, n_elements) = (word(cursor)?, word(cursor)?);
        let kind = Type::read(number, n_elements, offset)?;
        let value = value(cursor, kind, n_elements as usize, depth)?;
        list.insert(offset, name, value)?;
    }
}

fn value(cursor: &mut Cursor, kind: Type, n: usize, depth: usize) -> Result<Value, Error> {
    Ok(match kind {
        Type::Flag => Value::Flag,
        Type::One(scalar) => scalar.one(raw(cursor, scalar)?),
        Type::Many(Scalar::Byte) => {
            let bytes = cursor.take(n)?.to_vec();
            pad(cursor, n)?;
            Value::Bytes(bytes)
        }
        Type::Many(scalar) => many(cursor, scalar, n)?,
        Type::Text => Value::Text(string(cursor)?),
        Type::Texts => Value::Texts((0..n).map(|_| string(cursor)).collect::<Result<_, _>>()?),
        Type::List => Value::List(list(cursor, depth + 1)?),
        Type::Lists => Value::Lists((0..n).map(|_| list(cursor, depth + 1)).collect::<Result<_, _>>()?),
    })
}

fn many(cursor: &mut Cursor, scalar: Scalar, n: usize) -> Result<Value, Error> {
    let bad_count = cursor.malformed("number of elements");
    if word(cursor)? as usize != n {
        return Err(bad_count);
    }
    let width = width(scalar);
    let bytes = cursor.take(n * width)?;
    Ok(scalar.many(bytes.chunks_exact(width).map(number)))
}

fn width(scalar: Scalar) -> usize {
    scalar.width().max(4)
}

fn raw(cursor: &mut Cursor, scalar: Scalar) -> Result<u64, Error> {
    Ok(number(cursor.take(width(scalar))?))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn word(cursor: &mut Cursor) -> Result<u32, Error> {
    Ok(u32::from_be_bytes(cursor.array()?))
}

fn string(cursor: &mut Cursor) -> Result<String, Error> {
    let offset = cursor.at;
    let len = word(cursor)? as usize;
    let bytes = cursor.take(len)?;
    pad(cursor, len)?;
    match bytes.contains(&0) {
        true => Err(Error::Malformed { offset, what: "text" }),
        false => Ok(text(bytes)),
    }
}

/// Up to the next multiple of four.
fn pad(cursor: &mut Cursor, len: usize) -> Result<(), Error> {
    cursor.take(len.next_multiple_of(4) - len).map(drop)
}
