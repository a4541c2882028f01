//! Makes streams up, with every checksum right: to test what reads them.

use super::begin::{Begin, Kind, MAGIC};
use super::{MAX_NAME_LEN, RECORD_LEN};

/// A BEGIN record. A name over 255 bytes is cut off.
pub fn begin(begin: &Begin) -> [u8; RECORD_LEN] {
    let order = begin.order;
    let mut out = [0; RECORD_LEN];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(4, &order.bytes_of_u32(begin.payload_len));
    put(8, &order.bytes_of_u64(MAGIC));
    put(16, &order.bytes_of_u64(begin.features.to_version_info()));
    put(24, &order.bytes_of_u64(begin.creation));
    let kind = match begin.kind {
        Kind::Filesystem => 2,
        Kind::Volume => 3,
    };
    put(32, &order.bytes_of_u32(kind));
    put(36, &order.bytes_of_u32(begin.flags.0));
    put(40, &order.bytes_of_u64(begin.to_guid));
    put(48, &order.bytes_of_u64(begin.from_guid));
    let name = begin.to_name.as_bytes();
    put(56, &name[..name.len().min(MAX_NAME_LEN)]);
    out
}
