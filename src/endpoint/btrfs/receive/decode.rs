//! Encoded extents back to plain bytes, where they can not be written as they are.

use std::io::Read;

use crate::stream::btrfs::Compression;

const DAMAGED: &str = "an encoded extent that does not decode";

/// Decodes an extent to exactly `len` bytes; what the encoding leaves out at the end is zeros, as the kernel reads it.
///
/// # Errors
/// What is wrong with `data`.
pub(super) fn decode(compression: Compression, data: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(len);
    let limit = len as u64;
    match compression {
        Compression::None => out.extend(&data[..data.len().min(len)]),
        Compression::Zlib => {
            flate2::read::ZlibDecoder::new(data).take(limit).read_to_end(&mut out).map_err(|_| DAMAGED)?;
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(data).map_err(|_| DAMAGED)?;
            // One frame: behind it the last sector is filled with zeros.
            decoder.single_frame().take(limit).read_to_end(&mut out).map_err(|_| DAMAGED)?;
        }
        Compression::Lzo { sector } => lzo(data, sector as usize, len, &mut out)?,
    }
    out.resize(len, 0);
    Ok(out)
}

/// btrfs's LZO: the length of all, then segments of a length and that many bytes, each decoding to at most one sector.
/// No length crosses a sector's end: where fewer than four bytes are left, the next sector begins.
fn lzo(data: &[u8], sector: usize, len: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let total = (u32_at(data, 0)? as usize).min(data.len());
    let data = &data[..total];
    let mut at = 4;
    let mut plain = vec![0; sector];
    while at < data.len() && out.len() < len {
        let left = sector - at % sector;
        if left < 4 {
            at += left;
            continue;
        }
        let packed = u32_at(data, at)? as usize;
        at += 4;
        let segment = at.checked_add(packed).and_then(|end| data.get(at..end)).ok_or(DAMAGED)?;
        let n = lzokay::decompress::decompress(segment, &mut plain).map_err(|_| DAMAGED)?;
        let wanted = n.min(len - out.len());
        out.extend(&plain[..wanted]);
        at += packed;
    }
    Ok(())
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, &'static str> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk()).ok_or(DAMAGED)?;
    Ok(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<u8> {
        (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).take(131_072).collect()
    }

    fn lzo_of(plain: &[u8], sector: usize) -> Vec<u8> {
        let mut out = vec![0; 4];
        for piece in plain.chunks(sector) {
            let packed = lzokay::compress::compress(piece).expect("compresses");
            if sector - out.len() % sector < 4 {
                out.resize(out.len().next_multiple_of(sector), 0);
            }
            out.extend((packed.len() as u32).to_le_bytes());
            out.extend(packed);
        }
        let total = out.len() as u32;
        out[..4].copy_from_slice(&total.to_le_bytes());
        out.resize(out.len().next_multiple_of(4096), 0);
        out
    }

    #[test]
    fn every_compression_decodes_to_what_was_encoded_with_padding_behind_it() {
        let plain = sample();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&plain).expect("compresses");
        let mut zlib = zlib.finish().expect("compresses");
        let mut zstd = zstd::stream::encode_all(&plain[..], 3).expect("compresses");
        for bytes in [&mut zlib, &mut zstd] {
            bytes.resize(bytes.len().next_multiple_of(4096), 0);
        }
        let lzo = lzo_of(&plain, 4096);
        let cases = [
            (Compression::None, &plain),
            (Compression::Zlib, &zlib),
            (Compression::Zstd, &zstd),
            (Compression::Lzo { sector: 4096 }, &lzo),
        ];
        for (compression, data) in cases {
            assert_eq!(decode(compression, data, plain.len()).as_deref(), Ok(&plain[..]), "{compression}");
        }
    }

    #[test]
    fn what_an_extent_leaves_out_reads_as_zeros() {
        let zstd = zstd::stream::encode_all(&b"abc"[..], 3).expect("compresses");
        assert_eq!(decode(Compression::Zstd, &zstd, 6), Ok(b"abc\0\0\0".to_vec()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic_or_grow(
            data in prop::collection::vec(any::<u8>(), 0..6000),
            len in 0usize..10_000,
            sector in prop::sample::select(vec![4096u32, 65536]),
        ) {
            for compression in
                [Compression::None, Compression::Zlib, Compression::Zstd, Compression::Lzo { sector }]
            {
                if let Ok(plain) = decode(compression, &data, len) {
                    prop_assert_eq!(plain.len(), len);
                }
            }
        }
    }
}
