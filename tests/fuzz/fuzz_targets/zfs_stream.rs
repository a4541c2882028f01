//! ZFS send streams, packed lists and resume tokens: any bytes, and what has right checksums and contents that are not.
//!
//! Bounds (scripts/fuzz): no single allocation over 2 MiB, 512 MiB resident in all, libFuzzer and the sanitizer included.
#![no_main]

use std::io::{Cursor, Read};

use cowsnap::stream::zfs::encode::Encoder;
use cowsnap::stream::zfs::nvlist::{List, encode};
use cowsnap::stream::zfs::resume::Token;
use cowsnap::stream::zfs::{
    Begin, ByteOrder, Error, Features, Flags, Kind, MAX_DATA_LEN, RECORD_LEN, Walker, Whole,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((b'l', rest)) => walk(&summed(ByteOrder::Little, rest)),
        Some((b'b', rest)) => walk(&summed(ByteOrder::Big, rest)),
        Some((b'n', rest)) => list(rest),
        Some((b't', rest)) => token(&String::from_utf8_lossy(rest)),
        Some((b's', rest)) => token(&sealed(rest)),
        _ => walk(input),
    }
});

/// What is walked is handed on byte for byte, END only if all of it is sound.
fn walk(stream: &[u8]) {
    let walked = walk_to_end(stream);
    let mut read = Vec::new();
    let whole = Whole::new(Cursor::new(stream)).read_to_end(&mut read);
    assert!(stream.starts_with(&read));
    assert_eq!(walked.is_ok(), whole.is_ok());
    assert!(walked.is_err() || read == stream);
}

/// Each record must print as one line that begins with its name.
fn walk_to_end(stream: &[u8]) -> Result<(), Error> {
    let mut walker = Walker::open(stream)?;
    let _ = walker.begin().check_receivable();
    assert!(walker.begin().to_name.len() <= 4 * 255);
    let mut at = RECORD_LEN as u64 + u64::from(walker.begin().payload_len);
    while let Some(item) = walker.next_record()? {
        let line = item.record.to_string();
        assert!(!line.contains('\n') && line.starts_with(item.record.name()));
        assert!(item.offset == at && item.data_len <= MAX_DATA_LEN);
        at += RECORD_LEN as u64 + item.data_len;
    }
    assert_eq!(at, stream.len() as u64);
    Ok(())
}

/// What is read is read back from every encoding of it, though not every text is one that can be packed.
fn list(packed: &[u8]) {
    let Ok(list) = List::parse(packed) else { return };
    assert!(!list.to_string().contains('\n'));
    for again in
        [encode::native(&list, ByteOrder::Little), encode::native(&list, ByteOrder::Big), encode::xdr(&list)]
    {
        // Packed in another way it may be longer than what is read.
        if let Ok(read) = List::parse(&again) {
            assert_eq!(read.to_string(), list.to_string());
        }
    }
}

fn token(text: &str) {
    if let Ok(token) = Token::decode(text) {
        assert_eq!(Token::decode(&token.encode()), Ok(token));
    }
}

/// A token with the right checksum, length and zlib stream around any packed list.
fn sealed(packed: &[u8]) -> String {
    let mut bytes = Vec::new();
    let mut encoder = flate2::read::ZlibEncoder::new(packed, flate2::Compression::fast());
    encoder.read_to_end(&mut bytes).expect("memory can be read");
    let words = bytes.as_chunks::<4>().0.iter();
    let sum = words.fold(0_u64, |sum, word| sum.wrapping_add(u32::from_le_bytes(*word).into()));
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("1-{sum:x}-{:x}-{hex}", packed.len())
}

/// A length and so many bytes behind BEGIN; then again and again the first bytes of a record, whose number the first of them is, and
/// the data behind it: made into a stream with checksums.
fn summed(order: ByteOrder, input: &[u8]) -> Vec<u8> {
    let mut input = Cursor::new(input);
    let list = take(&mut input);
    let begin = Begin {
        order,
        features: Features::default(),
        kind: Kind::Volume,
        flags: Flags::default(),
        to_guid: 1,
        from_guid: 0,
        to_name: "a@b".into(),
        creation: 0,
        payload_len: 0,
    };
    let mut encoder = Encoder::with_packed(&begin, &list[..list.len() / 4 * 4]);
    while (input.position() as usize) < input.get_ref().len() {
        let (content, data) = (take(&mut input), take(&mut input));
        let mut record = [0; RECORD_LEN];
        let Some((number, content)) = content.split_first() else { continue };
        match order {
            ByteOrder::Little => record[0] = *number,
            ByteOrder::Big => record[3] = *number,
        }
        let len = content.len().min(RECORD_LEN - 8);
        record[8..8 + len].copy_from_slice(&content[..len]);
        encoder.push_raw(record, &data);
    }
    encoder.finish()
}

/// As many bytes as the two before them say, if there are that many.
fn take(input: &mut Cursor<&[u8]>) -> Vec<u8> {
    let mut len = [0; 2];
    let _ = input.read(&mut len);
    let mut taken = Vec::new();
    let _ = input.take(u16::from_le_bytes(len).into()).read_to_end(&mut taken);
    taken
}
