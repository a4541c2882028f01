//! Streams that are handed on byte for byte.

use std::io::{self, Read};

use cowsnap::stream::zfs::{ByteOrder, Error, RECORD_LEN, Whole};

use super::{data, one_of_each, stream_of, write};

/// More than the buffer holds.
fn long() -> Vec<u8> {
    let block = (write(1 << 20, 0, 0), data(1 << 20));
    let records = [one_of_each(), vec![block.clone(), block.clone(), block], one_of_each()].concat();
    stream_of(ByteOrder::Little, &records)
}

/// Gives as many bytes at a time as it is told.
struct Crumbs<'a>(&'a [u8], usize);

impl Read for Crumbs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.1);
        self.0.read(&mut buffer[..len])
    }
}

#[test]
fn a_whole_stream_is_handed_on_byte_for_byte() {
    let stream = long();
    for at_a_time in [5, 312, 4096, 1 << 20, usize::MAX] {
        let mut read = Vec::new();
        let mut whole = Whole::new(Crumbs(&stream, at_a_time));
        whole.read_to_end(&mut read).expect("it is whole");
        assert!(read == stream, "{at_a_time} bytes at a time");
        assert_eq!(whole.read(&mut [0; 8]).expect("the end stays the end"), 0);
    }
}

/// What was handed on, and the error after it.
fn read_until_error(bytes: &[u8]) -> (Vec<u8>, Error) {
    let mut read = Vec::new();
    let mut whole = Whole::new(bytes);
    let error = whole.read_to_end(&mut read).expect_err("it is not whole");
    let again = whole.read(&mut [0; 8]).expect_err("no end comes after an error");
    assert!(matches!(again.downcast::<Error>(), Ok(Error::Spent)));
    (read, error.downcast::<Error>().expect("of the stream"))
}

#[test]
fn a_stream_that_is_cut_off_or_damaged_is_an_error_and_no_end_is_handed_on() {
    let stream = long();
    let before_end = stream.len() - RECORD_LEN;
    for len in [0, 311, 400, 1000, stream.len() / 2, before_end, stream.len() - 1] {
        let (read, error) = read_until_error(&stream[..len]);
        assert!(read.len() <= before_end && stream.starts_with(&read), "{len}: {error}");
    }
    for at in [16, 330, 500, stream.len() / 2, before_end - 1, before_end, before_end + 40, stream.len() - 1]
    {
        let mut flipped = stream.clone();
        flipped[at] ^= 1;
        let (read, error) = read_until_error(&flipped);
        assert!(read.len() <= before_end && flipped.starts_with(&read), "{at}: {error}");
    }
    let (read, error) = read_until_error(&[&stream[..], b"more"].concat());
    assert!(read == stream && matches!(error, Error::Trailing { .. }), "{error}");
}

#[test]
fn an_error_of_the_input_is_passed_on() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let stream = long();
    for len in [0, 5000] {
        let error = Whole::new(stream[..len].chain(Broken)).read_to_end(&mut Vec::new()).expect_err("broken");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
