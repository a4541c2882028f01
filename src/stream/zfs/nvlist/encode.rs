//! Packs lists: for resume tokens and streams that are made up, and to test the reader.

use super::{HEADER_LEN, List, NATIVE, Value, XDR};
use crate::stream::zfs::order::ByteOrder;

const UNIQUE_NAMES: u32 = 1;

/// `list` as a machine of that byte order packs it.
pub fn native(list: &List, order: ByteOrder) -> Vec<u8> {
    let mut out = vec![NATIVE, u8::from(order == ByteOrder::Little), 0, 0];
    out.extend(order.bytes_of_u32(0));
    out.extend(order.bytes_of_u32(UNIQUE_NAMES));
    native_pairs(&mut out, list, order);
    out
}

/// `list` in XDR.
pub fn xdr(list: &List) -> Vec<u8> {
    let mut out = vec![XDR, 1, 0, 0];
    debug_assert_eq!(out.len(), HEADER_LEN);
    xdr_list(&mut out, list);
    out
}

/// The type's number and how many elements there are.
fn kind(value: &Value) -> (u32, usize) {
    match value {
        Value::Flag => (1, 0),
        Value::Bool(_) => (21, 1),
        Value::Int(_) => (7, 1),
        Value::Uint(_) => (8, 1),
        Value::Double(_) => (27, 1),
        Value::Text(_) => (9, 1),
        Value::Bytes(all) => (10, all.len()),
        Value::Bools(all) => (24, all.len()),
        Value::Ints(all) => (15, all.len()),
        Value::Uints(all) => (16, all.len()),
        Value::Texts(all) => (17, all.len()),
        Value::List(_) => (19, 1),
        Value::Lists(all) => (20, all.len()),
    }
}

fn native_pairs(out: &mut Vec<u8>, list: &List, order: ByteOrder) {
    for (name, value) in list.iter() {
        let (number, n) = kind(value);
        let mut pair = vec![0; 4];
        let name_len = name.len() as u16 + 1;
        pair.extend(match order {
            ByteOrder::Little => name_len.to_le_bytes(),
            ByteOrder::Big => name_len.to_be_bytes(),
        });
        pair.extend([0; 2]);
        pair.extend(order.bytes_of_u32(n as u32));
        pair.extend(order.bytes_of_u32(number));
        pair.extend(name.bytes());
        pair.push(0);
        align(&mut pair, 8);
        native_value(&mut pair, value, order);
        align(&mut pair, 8);
        let len = order.bytes_of_u32(pair.len() as u32);
        pair[..4].copy_from_slice(&len);
        out.extend(pair);
        match value {
            Value::List(list) => native_pairs(out, list, order),
            Value::Lists(lists) => lists.iter().for_each(|list| native_pairs(out, list, order)),
            _ => {}
        }
    }
    out.extend([0; 4]);
}

fn native_value(out: &mut Vec<u8>, value: &Value, order: ByteOrder) {
    match value {
        Value::Flag => {}
        Value::Bool(value) => out.extend(order.bytes_of_u32(u32::from(*value))),
        Value::Int(value) => out.extend(order.bytes_of_u64(*value as u64)),
        Value::Uint(value) => out.extend(order.bytes_of_u64(*value)),
        Value::Double(value) => out.extend(order.bytes_of_u64(value.to_bits())),
        Value::Text(text) => terminated(out, text),
        Value::Bytes(bytes) => out.extend(bytes),
        Value::Bools(all) => all.iter().for_each(|&v| out.extend(order.bytes_of_u32(u32::from(v)))),
        Value::Ints(all) => all.iter().for_each(|&v| out.extend(order.bytes_of_u64(v as u64))),
        Value::Uints(all) => all.iter().for_each(|&v| out.extend(order.bytes_of_u64(v))),
        Value::Texts(all) => {
            out.extend(vec![0; 8 * all.len()]);
            all.iter().for_each(|text| terminated(out, text));
        }
        Value::List(_) => out.extend([0; 24]),
        Value::Lists(all) => out.extend(vec![0; 32 * all.len()]),
    }
}

fn terminated(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes());
    out.push(0);
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn xdr_list(out: &mut Vec<u8>, list: &List) {
    put(out, 0);
    put(out, UNIQUE_NAMES);
    for (name, value) in list.iter() {
        let (number, n) = kind(value);
        let mut pair = vec![0; 8];
        string(&mut pair, name);
        put(&mut pair, number);
        put(&mut pair, n as u32);
        xdr_value(&mut pair, value);
        let (packed, unpacked) = (pair.len() as u32, unpacked_len(name, value) as u32);
        pair[..4].copy_from_slice(&packed.to_be_bytes());
        pair[4..8].copy_from_slice(&unpacked.to_be_bytes());
        out.extend(pair);
    }
    out.extend([0; 8]);
}

/// What the pair takes in memory, which its readers in C rely on.
fn unpacked_len(name: &str, value: &Value) -> usize {
    let mut bytes = Vec::new();
    native_value(&mut bytes, value, ByteOrder::Little);
    (16 + name.len() + 1).next_multiple_of(8) + bytes.len().next_multiple_of(8)
}

fn xdr_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Flag => {}
        Value::Bool(value) => put(out, u32::from(*value)),
        Value::Int(value) => out.extend(value.to_be_bytes()),
        Value::Uint(value) => out.extend(value.to_be_bytes()),
        Value::Double(value) => out.extend(value.to_bits().to_be_bytes()),
        Value::Text(text) => string(out, text),
        Value::Bytes(bytes) => {
            out.extend(bytes);
            align(out, 4);
        }
        Value::Bools(all) => counted(out, all, |out, &value| put(out, u32::from(value))),
        Value::Ints(all) => counted(out, all, |out, value| out.extend(value.to_be_bytes())),
        Value::Uints(all) => counted(out, all, |out, value| out.extend(value.to_be_bytes())),
        Value::Texts(all) => all.iter().for_each(|text| string(out, text)),
        Value::List(list) => xdr_list(out, list),
        Value::Lists(all) => all.iter().for_each(|list| xdr_list(out, list)),
    }
}

fn counted<T>(out: &mut Vec<u8>, all: &[T], each: impl Fn(&mut Vec<u8>, &T)) {
    put(out, all.len() as u32);
    all.iter().for_each(|one| each(out, one));
}

fn string(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u32);
    out.extend(text.bytes());
    align(out, 4);
}

fn put(out: &mut Vec<u8>, number: u32) {
    out.extend(number.to_be_bytes());
}
