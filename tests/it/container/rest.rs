//! The rest of a container, behind frames that the reader has.

use std::io::{Cursor, Read};

use cowsnap::stream::container::{Error, Piece, Prefix, Sealed};
use cowsnap::stream::reader::Reader;
use cowsnap::stream::writer::{self, Options};

use super::{FRAME, header, stored, write, zstd};

fn stream(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 5 % 241) as u8).collect()
}

/// What the first `frames` frames hash to, by the reader's own marks.
fn prefix_of(container: &[u8], frames: u64) -> Prefix {
    let mut reader = Reader::open(Cursor::new(container.to_vec())).unwrap();
    let marks = reader.marks();
    reader.read_exact(&mut vec![0; frames as usize * FRAME]).unwrap();
    marks.at(frames).expect("verified a moment ago")
}

fn rest(stream: &[u8], prefix: &Prefix, options: &Options) -> Result<Vec<u8>, (Error, usize)> {
    let mut out = Vec::new();
    match writer::write_rest(&header(), stream, prefix, &mut out, options) {
        Ok(_) => Ok(out),
        Err(error) => Err((error, out.len())),
    }
}

fn read_behind(prefix: &Prefix, rest: Vec<u8>) -> Result<(Vec<u8>, Sealed), Error> {
    let mut reader = Reader::resume(Cursor::new(rest), prefix)?;
    let mut stream = Vec::new();
    match reader.read_to_end(&mut stream) {
        Ok(_) => Ok((stream, *reader.sealed().expect("read to its end"))),
        Err(error) => Err(Error::from_io(error).expect("an error of the container")),
    }
}

#[test]
fn the_rest_and_what_was_there_are_the_whole_stream() {
    for len in [FRAME, 3 * FRAME, 5 * FRAME + 4321] {
        let stream = stream(len);
        for options in [stored(), zstd()] {
            let (whole, sealed) = write(&header(), &stream, &options);
            for frames in 1..=(len / FRAME) as u64 {
                let prefix = prefix_of(&whole, frames);
                let rest = rest(&stream, &prefix, &options).unwrap();
                let (read, resealed) = read_behind(&prefix, rest).unwrap();
                assert!(read == stream[frames as usize * FRAME..], "{frames} frames of {len} bytes");
                assert_eq!(
                    (resealed.root, resealed.len, resealed.frames),
                    (sealed.root, sealed.len, sealed.frames)
                );
            }
        }
    }
}

#[test]
fn behind_another_beginning_nothing_is_written() {
    let stream = stream(4 * FRAME);
    let prefix = prefix_of(&write(&header(), &stream, &stored()).0, 3);
    for at in [0, FRAME + 7, 3 * FRAME - 1] {
        let mut other = stream.clone();
        other[at] ^= 1;
        let (error, written) = rest(&other, &prefix, &zstd()).unwrap_err();
        assert!(matches!(error, Error::OtherPrefix { frames: 3 }) && written == 0, "{error}");
    }
    let (error, written) = rest(&stream[..3 * FRAME - 1], &prefix, &stored()).unwrap_err();
    assert!(matches!(error, Error::OtherPrefix { frames: 3 }) && written == 0, "{error}");
    rest(&stream[..3 * FRAME], &prefix, &stored()).expect("a rest may be empty");
}

/// What the reader has taken of a last frame comes again, and is compared before anything is written.
#[test]
fn behind_another_last_frame_nothing_is_written() {
    let stream = stream(3 * FRAME + 4321);
    let whole = write(&header(), &stream, &stored()).0;
    let plain = prefix_of(&whole, 3);
    for passed in [1, 4000, 4321] {
        let prefix = plain.clone().with_passed(Piece::of(&stream[3 * FRAME..3 * FRAME + passed]));
        for options in [stored(), zstd()] {
            assert!(rest(&stream, &prefix, &options).unwrap() == rest(&stream, &plain, &options).unwrap());
        }
        let mut other = stream.clone();
        other[3 * FRAME + passed - 1] ^= 1;
        for other in [&other[..], &stream[..3 * FRAME + passed - 1], &stream[..3 * FRAME]] {
            let (error, written) = rest(other, &prefix, &zstd()).unwrap_err();
            assert!(matches!(error, Error::OtherPrefix { frames: 3 }) && written == 0, "{error}");
        }
    }
}

#[test]
fn a_rest_is_read_behind_its_own_beginning_only() {
    let (one, mut two) = (stream(5 * FRAME), stream(5 * FRAME));
    two[17] ^= 1;
    let container = write(&header(), &one, &zstd()).0;
    let rest = rest(&one, &prefix_of(&container, 3), &zstd()).unwrap();
    let of_another = prefix_of(&write(&header(), &two, &zstd()).0, 3);
    assert!(matches!(read_behind(&of_another, rest.clone()), Err(Error::Trailer { .. })));
    assert!(matches!(read_behind(&prefix_of(&container, 2), rest.clone()), Err(Error::FrameOrder { .. })));
    let alone = super::read_frames(&rest);
    assert!(matches!(alone, Err(Error::FrameOrder { .. })), "a rest is no container by itself");
}

/// Whoever asked for it finds the latest frames as they were, a short last one too, and no older ones: memory stays bounded.
#[test]
fn the_latest_frames_are_at_hand_and_no_others() {
    let stream = stream(20 * FRAME + 77);
    let (whole, _) = write(&header(), &stream, &stored());
    let mut reader = Reader::open(Cursor::new(whole)).unwrap();
    let marks = reader.marks();
    assert!(marks.frame(0).is_none(), "it is not read yet");
    for number in 0..21 {
        let rest = &stream[number * FRAME..];
        let frame = &rest[..rest.len().min(FRAME)];
        reader.read_exact(&mut vec![0; frame.len()]).unwrap();
        let number = number as u64;
        assert!(marks.frame(number).expect("verified a moment ago")[..] == *frame, "{number}");
        assert_eq!(marks.at(number + 1).is_some(), frame.len() == FRAME, "{number}");
        assert!(marks.frame(number.saturating_sub(11)).is_some(), "{number}");
        assert!(number < 12 || marks.frame(number - 12).is_none(), "{number}");
    }
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}
