use std::io::{Cursor, Read};

use super::*;

fn sample() -> Vec<(Member, Vec<u8>)> {
    let file = |path: &[u8], data: &[u8]| {
        let member = Member {
            size: data.len() as u64,
            mtime_ns: 1_700_000_000_000_000_005,
            ..Member::new(Type::File, path)
        };
        (member, data.to_vec())
    };
    let mut all = vec![
        file(b"plain", b"data"),
        file(b"empty", b""),
        file(b"bytes \xff\n and a blank", &[7; 512]),
        file(&[b'n'; 250], &[1; 513]),
        (Member { mtime_ns: -1, mode: 0o1777, ..Member::new(Type::Dir, b"d".as_slice()) }, Vec::new()),
        (Member { link: b"plain".to_vec(), ..Member::new(Type::Hard, b"d/hard".as_slice()) }, Vec::new()),
        (Member { link: vec![b'x'; 300], ..Member::new(Type::Symbolic, b"d/link".as_slice()) }, Vec::new()),
        (
            Member {
                device: (0, 0),
                mtime_ns: -1_500_000_000,
                ..Member::new(Type::Char, b"gone".as_slice())
            },
            Vec::new(),
        ),
        (
            Member {
                device: (8, 300),
                uid: u32::MAX - 1,
                gid: 1 << 22,
                ..Member::new(Type::Block, b"b".as_slice())
            },
            Vec::new(),
        ),
        (Member::new(Type::Fifo, b"p".as_slice()), Vec::new()),
        (Member::new(Type::Socket, b"s".as_slice()), Vec::new()),
    ];
    all[0].0.xattrs.insert(b"user.a=b%".to_vec(), b"\0binary\n".to_vec());
    all[0].0.xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
    let sparse =
        Member { size: 1 << 40, ranges: Some(vec![4096..8192, 1 << 30..(1 << 30) + 3]), ..all[0].0.clone() };
    all.push((Member { path: b"sparse".to_vec(), ..sparse }, vec![9; 4099]));
    all.push((
        Member { path: b"hole".to_vec(), size: 10, ranges: Some(Vec::new()), ..all[1].0.clone() },
        Vec::new(),
    ));
    all
}

fn archive(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (member, data) in members {
        writer.append(member, &mut data.as_slice()).expect("written");
    }
    writer.finish().expect("written")
}

fn read(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, String> {
    let mut reader = Reader::new(Cursor::new(bytes));
    let mut found = Vec::new();
    while let Some(member) = reader.entry().map_err(|error| error.to_string())? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).map_err(|error| error.to_string())?;
        found.push((member, data));
    }
    Ok(found)
}

#[test]
fn what_was_written_is_read_back_and_is_the_same_each_time() {
    let bytes = archive(&sample());
    assert_eq!(read(&bytes).expect("sound"), sample());
    assert_eq!(bytes, archive(&sample()));
    assert_eq!(bytes.len() % BLOCK, 0);
}

#[test]
fn an_archive_that_is_cut_off_anywhere_is_one_that_is_damaged() {
    let bytes = archive(&sample()[..5]);
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len]).is_err(), "cut at {len} of {}", bytes.len());
    }
}

#[test]
fn lengths_that_can_not_be_are_refused_before_they_are_believed() {
    let with = |at: usize, text: &[u8]| {
        let mut bytes = archive(&sample()[1..2]);
        let at = at + bytes.windows(5).position(|w| w == b"ustar").expect("a header") - 257;
        bytes[at..at + text.len()].copy_from_slice(text);
        let mut header: [u8; BLOCK] = bytes[at / BLOCK * BLOCK..][..BLOCK].try_into().expect("a block");
        let sum = format!("{:06o}\0 ", checksum(&header));
        header[148..156].copy_from_slice(sum.as_bytes());
        bytes[at / BLOCK * BLOCK..][..BLOCK].copy_from_slice(&header);
        read(&bytes).expect_err("refused")
    };
    assert!(with(124, b"77777777777").contains("an extended header of 8589934591 bytes"));
    assert!(with(124, b"7777777777x").contains("a number that is none"));
    assert!(with(156, b"7").contains("an entry of the type '7'"));
    let map = |map: &[u8]| {
        let member = Member {
            size: 100,
            ranges: Some(std::iter::once(0..10).collect()),
            ..Member::new(Type::File, b"f".as_slice())
        };
        let mut bytes = archive(&[(member, vec![0; 10])]);
        let at = bytes.windows(7).position(|w| w == b"2\n0\n10\n").expect("a map");
        bytes[at..at + map.len()].copy_from_slice(map);
        read(&bytes)
    };
    assert!(map(b"2\n0\n10\n").is_ok());
    assert!(map(b"99999999999999999999\n").expect_err("too many").contains("a map of a sparse file"));
    assert!(map(b"9999999999\n").expect_err("too many").contains("ranges"));
    assert!(map(b"1\n95\n10\n").expect_err("beyond").contains("a range of data"));
    assert!(map(b"1\n18446744073709551615\n10\n").expect_err("beyond").contains("a range of data"));
    assert!(map(b"2\n9\n1\n0\n9\n").expect_err("back").contains("a range of data"));
    assert!(map(b"1\n0\n99\n").expect_err("more than there is").contains("whose map is not"));
}

#[test]
fn more_ranges_than_an_archive_has_become_fewer() {
    let ranges: Vec<_> = (0..200_000u64).map(|n| n * 8192..n * 8192 + 4096).collect();
    let member = Member {
        size: 200_000 * 8192,
        ranges: Some(ranges.clone()),
        ..Member::new(Type::File, b"f".as_slice())
    };
    let coarse = super::write::coarse(&member).ranges.expect("still sparse");
    assert!(coarse.len() <= MAX_RANGES);
    assert!(
        ranges
            .iter()
            .all(|range| coarse.iter().any(|c| c.start <= range.start && range.end <= c.end)
                || coarse.len() > 9)
    );
}
