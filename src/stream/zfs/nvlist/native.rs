//! The native encoding: pairs as they lie in the memory of the machine that packed them.
//!
//! A pair: its length (4 bytes), the name's with its NUL (2), two unused, the number of elements (4), the type (4), the
//! name, and from the next multiple of eight on the value. A length of zero ends a list. A list's pairs follow the pair that
//! holds it, whose value is 24 bytes of which only the version counts; for several, so many times that, after as many pointers.

use super::{Cursor, Error, List, MAX_DEPTH, Scalar, Type, Value};
use crate::stream::zfs::order::ByteOrder;
use crate::stream::zfs::text;

const PAIR_LEN: usize = 16;
const LIST_LEN: usize = 24;
const POINTER_LEN: usize = 8;

pub(super) fn list(cursor: &mut Cursor, order: ByteOrder) -> Result<List, Error> {
    version(cursor, order)?;
    let _flags = cursor.array::<4>()?;
    pairs(cursor, order, 0)
}

fn version(cursor: &mut Cursor, order: ByteOrder) -> Result<(), Error> {
    let bad = cursor.malformed("version");
    match order.u32(cursor.array()?) {
        0 => Ok(()),
        _ => Err(bad),
    }
}

fn pairs(cursor: &mut Cursor, order: ByteOrder, depth: usize) -> Result<List, Error> {
    let mut list = List::default();
    loop {
        let offset = cursor.at;
        let len = order.u32(cursor.array()?) as usize;
        if len == 0 {
            return Ok(list);
        }
        cursor.take(len.checked_sub(4).ok_or(Error::Malformed { offset, what: "length" })?)?;
        let mut pair = Cursor { bytes: &cursor.bytes[..cursor.at], at: offset + 4 };
        let (name, value) = self::pair(&mut pair, cursor, order, depth)?;
        list.insert(offset, name, value)?;
    }
}

/// One pair; lists within it are read off `after`.
fn pair(
    pair: &mut Cursor,
    after: &mut Cursor,
    order: ByteOrder,
    depth: usize,
) -> Result<(String, Value), Error> {
    let offset = pair.at - 4;
    let name_len = usize::from(order.u16(pair.array()?));
    let _unused = pair.array::<2>()?;
    let n_elements = order.u32(pair.array()?);
    let kind = Type::read(order.u32(pair.array()?), n_elements, offset)?;
    let name = match pair.take(name_len)?.split_last() {
        Some((0, name)) if !name.contains(&0) => text(name),
        _ => return Err(Error::Malformed { offset, what: "name" }),
    };
    pair.take((PAIR_LEN + name_len).next_multiple_of(8) - (PAIR_LEN + name_len)).or_else(
        |error| match kind {
            Type::Flag => Ok(&[][..]), // Nothing needs to be aligned.
            _ => Err(error),
        },
    )?;
    let n = n_elements as usize;
    let value = match kind {
        Type::Flag => Value::Flag,
        Type::One(scalar) => scalar.one(raw(pair.take(scalar.width())?, order)),
        Type::Many(scalar) => many(pair, scalar, n, order)?,
        Type::Text => Value::Text(terminated(pair)?),
        Type::Texts => texts(pair, n)?,
        Type::List => {
            version(pair, order)?;
            pair.take(LIST_LEN - 4)?;
            Value::List(within(after, order, depth)?)
        }
        Type::Lists => {
            pair.take(n * (POINTER_LEN + LIST_LEN))?;
            Value::Lists((0..n).map(|_| within(after, order, depth)).collect::<Result<_, _>>()?)
        }
    };
    Ok((name, value))
}

fn within(after: &mut Cursor, order: ByteOrder, depth: usize) -> Result<List, Error> {
    match depth + 1 < MAX_DEPTH {
        true => pairs(after, order, depth + 1),
        false => Err(Error::TooDeep { offset: after.at }),
    }
}

fn many(pair: &mut Cursor, scalar: Scalar, n: usize, order: ByteOrder) -> Result<Value, Error> {
    let bytes = pair.take(n * scalar.width())?;
    Ok(scalar.many(bytes.chunks_exact(scalar.width()).map(|bytes| raw(bytes, order))))
}

/// One to eight bytes as a number.
fn raw(bytes: &[u8], order: ByteOrder) -> u64 {
    let push = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
    match order {
        ByteOrder::Little => bytes.iter().rev().fold(0, push),
        ByteOrder::Big => bytes.iter().fold(0, push),
    }
}

fn texts(pair: &mut Cursor, n: usize) -> Result<Value, Error> {
    pair.take(n * POINTER_LEN)?;
    Ok(Value::Texts((0..n).map(|_| terminated(pair)).collect::<Result<_, _>>()?))
}

/// Bytes up to a NUL, which is taken, too.
fn terminated(pair: &mut Cursor) -> Result<String, Error> {
    let rest = &pair.bytes[pair.at..];
    let len = rest.iter().position(|&byte| byte == 0).ok_or(Error::Truncated { offset: pair.at })?;
    let found = text(&rest[..len]);
    pair.at += len + 1;
    Ok(found)
}
