//! The container: round trips, golden files, and every kind of damage.

use std::io::{Cursor, Read};

use cowsnap::stream::container::{Backend, Error, Header, Sealed};
use cowsnap::stream::reader::{Frames, Reader, Step};
use cowsnap::stream::writer::{self, Options};

mod craft;
mod damage;
mod flips;
mod golden;
mod locked;
mod program;
mod rest;
mod sealed;
mod signed;
mod threads;

const FRAME: usize = 1 << 20;

pub fn header() -> Header {
    Header {
        backend: Backend::Btrfs,
        dataset: "tank/chainstate".into(),
        snapshot: "20261120T020000Z".parse().unwrap(),
        guid: "00112233445566778899aabbccddeeff".parse().unwrap(),
        base: None,
        created: "2026-11-20T02:00:00Z".parse().unwrap(),
        stream_version: 2,
        compressed: true,
        properties: Default::default(),
        zfs: None,
        place: None,
    }
}

pub fn stored() -> Options {
    Options { level: None, threads: 2 }
}

pub fn zstd() -> Options {
    Options { level: Some(3), threads: 2 }
}

pub fn write(header: &Header, stream: &[u8], options: &Options) -> (Vec<u8>, Sealed) {
    let mut out = Vec::new();
    let sealed = writer::write(header, stream, &mut out, options).expect("a Vec takes everything");
    (out, sealed)
}

/// Reads with both readers, which must agree: the stream, or the error.
pub fn read(container: &[u8]) -> Result<(Header, Vec<u8>, Sealed), Error> {
    let one_by_one = read_frames(container);
    match (read_ahead(container.to_vec()), one_by_one) {
        (Ok(ahead), Ok(frames)) => {
            assert!(ahead == frames);
            Ok(ahead)
        }
        (Err(ahead), Err(frames)) => {
            assert_eq!(format!("{ahead:?}"), format!("{frames:?}"));
            Err(ahead)
        }
        (ahead, frames) => panic!("{:?} but {:?}", ahead.map(drop), frames.map(drop)),
    }
}

pub fn read_frames(container: &[u8]) -> Result<(Header, Vec<u8>, Sealed), Error> {
    let mut frames = Frames::open(container)?;
    let mut stream = Vec::new();
    loop {
        match frames.step()? {
            Step::End(sealed) => return Ok((frames.header().clone(), stream, sealed)),
            Step::Frame(frame) => {
                stream.extend(frame.bytes());
                frames.recycle(frame);
            }
        }
    }
}

fn read_ahead(container: Vec<u8>) -> Result<(Header, Vec<u8>, Sealed), Error> {
    let mut reader = Reader::open_with(Cursor::new(container), 2)?;
    let mut stream = Vec::new();
    let read = reader.read_to_end(&mut stream);
    read.map_err(|error| Error::from_io(error).expect("a container's error"))?;
    let sealed = *reader.sealed().expect("the end was reached");
    Ok((reader.header().clone(), stream, sealed))
}

/// Half compressible, half not, in turns of 512 KiB.
pub fn mixed(len: usize) -> Vec<u8> {
    (0..len).map(|n| if (n >> 19) % 2 == 0 { n as u8 } else { noise(n) }).collect()
}

/// A byte that nothing compresses (splitmix64).
pub fn noise(n: usize) -> u8 {
    let mut z = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as u8
}

#[test]
fn what_is_written_is_read_and_its_root_is_the_plain_blake3() {
    for len in [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 7_654_321] {
        for options in [stored(), zstd()] {
            let bytes = mixed(len);
            let (container, sealed) = write(&header(), &bytes, &options);
            assert_eq!(sealed.root, blake3::hash(&bytes));
            assert_eq!(sealed.container_len, container.len() as u64);
            assert_eq!((sealed.len, sealed.frames), (len as u64, len.div_ceil(FRAME) as u64));
            let (header_back, back, sealed_back) = read(&container).unwrap();
            assert_eq!((header_back, sealed_back), (header(), sealed));
            assert!(back == bytes, "length {len}");
        }
    }
}

#[test]
fn frames_that_do_not_shrink_are_stored() {
    let noise: Vec<u8> = (0..FRAME + 100).map(noise).collect();
    let (compressed, _) = write(&header(), &noise, &zstd());
    let (plain, _) = write(&header(), &noise, &stored());
    assert!(compressed == plain);
    let (small, _) = write(&header(), &vec![0; 3 * FRAME], &zstd());
    assert!(small.len() < 2000, "{} bytes", small.len());
}

#[test]
fn the_number_of_threads_does_not_show_in_the_bytes() {
    let bytes = mixed(9_000_000);
    let with = |threads| write(&header(), &bytes, &Options { level: Some(1), threads }).0;
    let one = with(1);
    assert!(one == with(2) && one == with(7) && one == with(0));
}

mod any {
    use std::collections::BTreeMap;

    use cowsnap::stream::container::{ResumePoint, ZfsFlags, ZfsKind, ZfsStream};
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_zfs()(
            kind in prop_oneof![Just(ZfsKind::Filesystem), Just(ZfsKind::Volume)],
            [raw, large_blocks, embedded, compressed]: [bool; 4],
            features: u64,
            resumes in prop::option::of(any::<[u64; 2]>()),
            release in "[ -~]{0,64}",
        ) -> ZfsStream {
            let flags = ZfsFlags { raw, large_blocks, embedded, compressed };
            let resumes = resumes.map(|[object, offset]| ResumePoint { object, offset });
            ZfsStream { kind, flags, features, resumes, release }
        }
    }

    prop_compose! {
        fn any_header()(
            backend in prop_oneof![Just(Backend::Btrfs), Just(Backend::Zfs)],
            dataset in ".{1,300}",
            snapshot in "[A-Za-z0-9_: -]{1,200}",
            guid: [u8; 16],
            base: Option<[u8; 16]>,
            nanos in -377_705_023_201_000_000_000..=253_402_207_200_999_999_999i128,
            stream_version: u32,
            compressed: bool,
            properties in prop::collection::btree_map(".{1,60}", ".{0,300}", 0..8),
            zfs in prop::option::of(any_zfs()),
            place in prop::option::of(any::<[u8; 32]>()),
        ) -> Header {
            Header {
                backend,
                dataset,
                snapshot: snapshot.parse().expect("of the alphabet"),
                guid: cowsnap::model::Guid(guid),
                base: base.map(cowsnap::model::Guid),
                created: jiff::Timestamp::from_nanosecond(nanos).expect("in range"),
                stream_version,
                compressed,
                properties: properties as BTreeMap<String, String>,
                zfs,
                place: place.map(cowsnap::model::Digest),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        #[test]
        fn header_and_stream_come_back(
            header in any_header(),
            len in prop_oneof![0..3000usize, 0..3 * FRAME],
            seed: u8,
            level in prop::option::of(1..8i32),
            threads in 1..4usize,
        ) {
            let bytes: Vec<u8> = mixed(len).into_iter().map(|byte| byte ^ seed).collect();
            let (container, sealed) = write(&header, &bytes, &Options { level, threads });
            let (header_back, back, sealed_back) = read(&container).unwrap();
            prop_assert_eq!(header_back, header);
            prop_assert!(back == bytes);
            prop_assert_eq!(sealed, sealed_back);
            prop_assert_eq!(sealed.root, blake3::hash(&bytes));
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(read(&bytes).is_err());
        }
    }
}
