//! Every way in which a container can be wrong has its name and its address.

use cowsnap::Class;
use cowsnap::stream::container::record::HEAD_LEN;
use cowsnap::stream::container::{Error, Head, Kind};

use super::craft::{Craft, fields, fields_with, prelude};
use super::{FRAME, header, mixed, noise, read, read_frames, stored, write, zstd};

fn error(container: &[u8]) -> Error {
    match read(container) {
        Ok(_) => panic!("it was read"),
        Err(error) => error,
    }
}

/// A container and the bounds of its pieces: header, each frame, trailer.
fn pieces(stream: &[u8]) -> Vec<Vec<u8>> {
    let (container, sealed) = write(&header(), stream, &stored());
    let head = header().encode().unwrap().0.len();
    let mut bounds = vec![0, head];
    for frame in stream.chunks(FRAME) {
        bounds.push(bounds[bounds.len() - 1] + HEAD_LEN + frame.len());
    }
    bounds.push(sealed.container_len as usize);
    bounds.windows(2).map(|w| container[w[0]..w[1]].to_vec()).collect()
}

#[test]
fn every_truncation_is_noticed() {
    let stream = [vec![7; FRAME], mixed(300)].concat();
    let (container, _) = write(&header(), &stream, &zstd());
    assert!(container.len() < 2000, "{} bytes", container.len());
    for len in 0..container.len() {
        // Both readers at some lengths, the quicker one at all.
        let error = match len % 7 {
            0 => error(&container[..len]),
            _ => read_frames(&container[..len]).expect_err("it is cut off"),
        };
        assert!(matches!(error, Error::Truncated { end, .. } if end == len as u64), "{len}: {error:?}");
        assert_eq!(error.class(), Class::Corrupt);
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    let (mut container, sealed) = write(&header(), b"stream", &stored());
    container.push(0);
    assert!(matches!(error(&container), Error::TrailingBytes { end } if end == sealed.container_len));
    let (second, _) = write(&header(), b"stream", &stored());
    container.pop();
    container.extend(second);
    assert!(matches!(error(&container), Error::TrailingBytes { .. }));
}

#[test]
fn frames_that_are_swapped_repeated_or_dropped_are_named() {
    let pieces = pieces(&mixed(4 * FRAME + 77));
    let [head, frames @ .., trailer] = &pieces[..] else { panic!("header, frames, trailer") };
    let glue = |order: &[usize]| {
        let frames: Vec<u8> = order.iter().flat_map(|&n| frames[n].clone()).collect();
        [head.clone(), frames, trailer.clone()].concat()
    };
    assert!(read(&glue(&[0, 1, 2, 3, 4])).is_ok());
    for (order, at, there) in [
        (&[0, 2, 1, 3, 4][..], 1, 2),
        (&[0, 1, 1, 2, 3, 4], 2, 1),
        (&[0, 1, 2, 4], 3, 4),
        (&[1, 2, 3, 4], 0, 1),
    ] {
        let error = error(&glue(order));
        let Error::FrameOrder { place, found } = error else { panic!("{order:?}: {error:?}") };
        assert_eq!((place.frame, place.offset, found), (at, at * FRAME as u64, there));
        assert!(error.to_string().starts_with(&format!("frame {at} (stream offset {}", at * FRAME as u64)));
    }
    let cut = error(&glue(&[0, 1, 2, 3]));
    assert!(matches!(&cut, Error::Trailer { why, .. } if why.contains("counts 5 frames")), "{cut}");
}

#[test]
fn a_frame_of_another_container_is_noticed_where_it_stands() {
    let stream = mixed(2 * FRAME);
    let mut other = header();
    other.dataset = "tank/other".into();
    let (container, _) = write(&header(), &stream, &stored());
    let (foreign, _) = write(&other, &stream, &stored());
    let tail = 2 * HEAD_LEN + 2 * FRAME + 118;
    let mut patched = container[..container.len() - tail].to_vec();
    patched.extend(&foreign[foreign.len() - tail..]);
    assert!(matches!(error(&patched), Error::FrameSeal { place } if place.frame == 0));
}

#[test]
fn flipped_stream_bytes_name_their_frame_and_nothing_of_it_is_yielded() {
    use std::io::Read;
    let (mut container, _) = write(&header(), &mixed(3 * FRAME), &stored());
    let len = container.len();
    container[len - FRAME - 200] ^= 1;
    let mut reader = cowsnap::stream::reader::Reader::open(std::io::Cursor::new(container)).unwrap();
    let mut got = Vec::new();
    let error = reader.read_to_end(&mut got).unwrap_err();
    let Some(Error::FrameHash { place }) = Error::within(&error) else { panic!("{error:?}") };
    assert_eq!((place.frame, place.offset), (1, FRAME as u64));
    assert_eq!(Error::within(&error).unwrap().place(), Some(*place));
    assert!(got == mixed(3 * FRAME)[..FRAME]);
    assert!(reader.sealed().is_none());
    let again = Error::from_io(reader.read(&mut [0]).unwrap_err()).unwrap();
    assert!(matches!(again, Error::Spent));
    assert!(matches!(reader.verify(|_| {}), Err(Error::Spent)));
}

#[test]
fn lengths_are_compared_before_they_are_believed() {
    let digest = [0; 32];
    let all = u64::MAX;
    let with = |head: Head, payload: &[u8]| error(&Craft::new(&header()).record(head, payload).bytes);
    let huge_payload = with(Head::new(Kind::Stored, u32::MAX as usize, 0, 1, &digest), b"x");
    assert!(matches!(huge_payload, Error::FrameLength { what: "payload", len: 0xffff_ffff, .. }));
    let huge_unknown = with(Head::new(Kind::Unknown(4), u32::MAX as usize, 0, 1, &digest), b"x");
    assert!(matches!(huge_unknown, Error::FrameLength { what: "payload", .. }));
    let huge_encrypted = with(Head::new(Kind::Encrypted, FRAME + 50, 0, 1, &digest), b"x");
    assert!(matches!(huge_encrypted, Error::FrameLength { what: "payload", .. }));
    let huge_part = with(Head::new(Kind::Stored, 1, 0, all, &digest), b"x");
    assert!(matches!(huge_part, Error::FrameLength { what: "part of the stream", len, .. } if len == all));
    let empty_part = with(Head::new(Kind::Stored, 0, 0, 0, &digest), b"");
    assert!(matches!(empty_part, Error::FrameLength { what: "part of the stream", len: 0, .. }));
    let other_payload = with(Head::new(Kind::Stored, 2, 0, 1, &digest), b"xy");
    assert!(matches!(other_payload, Error::FrameLength { what: "payload", len: 2, max: 1, .. }));
    let unshrunk = with(Head::new(Kind::Zstd, 2, 0, 2, &digest), b"xy");
    assert!(matches!(unshrunk, Error::FrameLength { what: "payload", .. }));
    let far_number = with(Head::new(Kind::Stored, 1, all, 1, &digest), b"x");
    assert!(matches!(far_number, Error::FrameOrder { found, .. } if found == all));
    let long_trailer = with(Head::new(Kind::Trailer, 70_000, 0, 0, &digest), b"x");
    assert!(matches!(long_trailer, Error::Trailer { .. }));
    for huge in [error(&prelude(1, u32::MAX)), error(&prelude(1, (256 << 10) + 1))] {
        assert!(matches!(huge, Error::Field { field: "length", .. }), "{huge:?}");
    }
}

#[test]
fn a_trailer_that_counts_otherwise_is_noticed() {
    let root = blake3::hash(b"stream");
    let craft = || Craft::new(&header()).stored(0, b"stream");
    assert!(read(&craft().trailer(1, 6, &root)).is_ok());
    for (frames, len, root, why) in [
        (u64::MAX, 6, root, "frames"),
        (1, u64::MAX, root, "bytes of stream"),
        (1, 6, blake3::hash(b"other"), "root"),
    ] {
        let error = error(&craft().trailer(frames, len, &root));
        assert!(matches!(&error, Error::Trailer { why: w, .. } if w.contains(why)), "{error}");
    }
    let key = Craft::new(&header()).key;
    let empty = |fields: &[(u16, &[u8])], tail| error(&Craft::new(&header()).trailer_of(fields, tail));
    assert!(read(&Craft::new(&header()).trailer_of(&[(1, &key), (0x8002, b"newer")], None)).is_ok());
    assert!(matches!(empty(&[(1, &key), (3, b"")], None), Error::NeedsNewer { .. }));
    assert!(matches!(empty(&[(1, &[0; 32])], None), Error::Field { part: "trailer", .. }));
    assert!(matches!(empty(&[], None), Error::Field { part: "trailer", .. }));
    assert!(matches!(empty(&[(1, &key)], Some([0; 8])), Error::Trailer { .. }));
}

#[test]
fn a_root_of_one_frame_is_not_its_chaining_value() {
    let stream = vec![5; FRAME];
    let chaining_value = cowsnap::stream::container::tree::Leaf::of(0, &stream).chaining_value;
    let root = blake3::Hash::from_bytes(chaining_value);
    let container = Craft::new(&header()).stored(0, &stream).trailer(1, FRAME as u64, &root);
    assert!(matches!(error(&container), Error::Trailer { .. }));
}

#[test]
fn zstd_payloads_decompress_to_exactly_what_the_frame_says() {
    let stream = vec![5; FRAME];
    let zip = |len: usize| zstd::bulk::compress(&vec![5; len], 3).unwrap();
    let craft = |payload: &[u8]| {
        let craft = Craft::new(&header()).zstd(0, &stream, FRAME as u64, payload);
        craft.trailer(1, FRAME as u64, &blake3::hash(&stream))
    };
    assert!(read(&craft(&zip(FRAME))).is_ok());
    for bomb in [zip(300 * FRAME), zip(FRAME + 1), [zip(FRAME), zip(1)].concat()] {
        let error = error(&craft(&bomb));
        assert!(matches!(error, Error::FrameDecode { source: Some(_), .. }), "{error:?}");
    }
    assert!(matches!(error(&craft(&zip(FRAME - 1))), Error::FrameDecode { source: None, .. }));
    assert!(matches!(error(&craft(b"no zstd")), Error::FrameDecode { source: Some(_), .. }));
    let other = zstd::bulk::compress(&vec![6; FRAME], 3).unwrap();
    assert!(matches!(error(&craft(&other)), Error::FrameHash { .. }));
}

#[test]
fn nothing_follows_a_short_frame() {
    let craft = Craft::new(&header()).stored(0, b"short").stored(1, b"more");
    let error = error(&craft.trailer(2, 9, &blake3::hash(b"shortmore")));
    assert!(matches!(error, Error::FrameAfterLast { place } if place.frame == 1));
}

#[test]
fn what_only_a_newer_program_knows_is_said_to_be_that() {
    let newer = |container: &[u8]| {
        let error = error(container);
        assert!(matches!(error, Error::NeedsNewer { .. }), "{error:?}");
        assert_eq!(error.class(), Class::Usage);
        assert!(error.hint().is_some());
    };
    newer(&Craft::of_header(2, b"anything at all").bytes);
    newer(&Craft::of_fields(&fields_with(16, Some(b"aes"))).bytes);
    newer(&Craft::of_fields(&fields_with(1, Some(b"zonefs"))).bytes);
    newer(&Craft::of_fields(&fields_with(7, Some(&[1, 0, 0, 0, 2, 0, 0, 0]))).bytes);
    let unknown = Head::new(Kind::Unknown(4), 6, 0, 5, &[1; 32]);
    newer(&Craft::new(&header()).record(unknown, b"secret").bytes);
    let mut reserved = *Head::new(Kind::Stored, 1, 0, 1, &[0; 32]).as_bytes();
    reserved[2] = 1;
    newer(&Craft::new(&header()).record(Head::from_bytes(reserved), b"x").bytes);
    let mut damaged = Craft::new(&header()).record(unknown, b"secret").bytes;
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(error(&damaged), Error::FrameSeal { .. }));
    let mut damaged = Craft::of_header(2, b"anything at all").bytes;
    damaged[12] ^= 1 << 4;
    assert!(matches!(error(&damaged), Error::Prelude));
    let mut plus = fields();
    plus.push((0x9000, b"for newer ones"));
    let root = blake3::hash(b"");
    assert_eq!(read(&Craft::of_fields(&plus).trailer(0, 0, &root)).unwrap().0.dataset, "tank");
}

#[test]
fn header_fields_that_make_no_sense_are_named() {
    let bad = |field: &str, fields: &[(u16, &[u8])]| {
        let error = error(&Craft::of_fields(fields).bytes);
        assert!(matches!(&error, Error::Field { field: f, .. } if *f == field), "{field}: {error:?}");
    };
    let mut longer = [0; 12];
    longer[8..].copy_from_slice(&1_000_000_000u32.to_le_bytes());
    let longer: &'static [u8] = longer.to_vec().leak();
    let far: &'static [u8] = [[0xff; 7].as_slice(), &[0x7f, 0, 0, 0, 0]].concat().leak();
    let long: &'static [u8] = vec![b'x'; 4097].leak();
    for (name, tag) in
        [("backend", 1), ("dataset", 2), ("snapshot", 3), ("guid", 4), ("created", 6), ("stream", 7)]
    {
        bad(name, &fields_with(tag, None));
        bad(name, &fields_with(tag, Some(b"")));
    }
    bad("dataset", &fields_with(2, Some(long)));
    bad("dataset", &fields_with(2, Some(b"\xff")));
    bad("snapshot", &fields_with(3, Some(b"a/b")));
    bad("guid", &fields_with(4, Some(b"short")));
    bad("base", &fields_with(5, Some(b"short")));
    bad("created", &fields_with(6, Some(longer)));
    bad("created", &fields_with(6, Some(far)));
    bad("property", &fields_with(8, Some(b"\x00\x00")));
    bad("property", &fields_with(8, Some(b"\x01")));
    bad("property", &fields_with(8, Some(b"\x00\x01")));
    bad("property", &fields_with(8, Some(b"\x01\x00a\xff\xff\xff\xff")));
    bad("property", &fields_with(8, Some(b"\x01\x00b\x00\x00\x00\x00\x01\x00a\x00\x00\x00\x00")));
    bad("property", &fields_with(8, Some(b"\x01\x00a\x01\x00\x00\x00")));
    let twice: Vec<_> = fields().into_iter().flat_map(|field| [field, field]).collect();
    bad("field", &twice);
    assert!(matches!(error(&Craft::of_header(1, b"\x01").bytes), Error::Field { field: "field", .. }));
    let overlong = Craft::of_header(1, b"\x01\x00\xff\xff\xff\xff");
    assert!(matches!(error(&overlong.bytes), Error::Field { field: "field", .. }));
}

#[test]
fn a_header_that_no_container_can_carry_is_refused_before_anything_is_written() {
    let refused = |change: &dyn Fn(&mut cowsnap::stream::container::Header)| {
        let mut header = header();
        change(&mut header);
        let mut out = Vec::new();
        let error = cowsnap::stream::writer::write(&header, &b""[..], &mut out, &stored()).unwrap_err();
        assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
        assert_eq!((error.class(), out.len()), (Class::Usage, 0));
    };
    refused(&|header| header.dataset = "x".repeat(4097));
    refused(&|header| header.dataset.clear());
    refused(&|header| drop(header.properties.insert("k".repeat(256), String::new())));
    refused(&|header| drop(header.properties.insert("k".into(), "v".repeat((64 << 10) + 1))));
    refused(&|header| header.properties = (0..5).map(|n| (n.to_string(), "v".repeat(64 << 10))).collect());
}

#[test]
fn what_is_no_container_is_called_so() {
    let text: Vec<u8> = (0..100).map(noise).collect();
    assert!(matches!(error(&text), Error::Magic { found } if found.len() == 12));
    assert!(matches!(error(b"hello"), Error::Magic { found } if found == b"hello"));
    assert!(matches!(error(b""), Error::Truncated { end: 0, .. }));
    let raw = error(b"btrfs-stream\0\x01\0\0\0and then its commands");
    assert!(matches!(raw, Error::RawBtrfs));
    let zfs = error(&[&[0; 8][..], &0x2_f5ba_cbac_u64.to_be_bytes(), &[0; 100]].concat());
    assert!(matches!(zfs, Error::RawZfs));
    assert_eq!((zfs.class(), zfs.hint()), (raw.class(), raw.hint()));
    assert!(raw.hint().unwrap().contains("stream wrap"));
}
