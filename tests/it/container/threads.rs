//! The threads of writer and reader end when they should, say what failed, and hold little in memory.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cowsnap::Class;
use cowsnap::stream::container::Error;
use cowsnap::stream::reader::Reader;
use cowsnap::stream::writer;

use super::{FRAME, header, mixed, stored, write, zstd};

/// Gives zeros, in pieces of odd lengths, then fails.
struct FailingSource {
    left: usize,
    interrupted: bool,
}

impl Read for FailingSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buffer.len().min(self.left).min(77_777);
        self.left -= len;
        match len {
            0 => Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => Ok(len),
        }
    }
}

/// Takes so many bytes, then fails.
struct FailingSink(usize);

impl Write for FailingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.0);
        self.0 -= len;
        match len {
            0 => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            _ => Ok(len),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_of_the_stream_is_returned_with_its_offset_and_no_trailer_is_written() {
    for left in [0, 1, FRAME - 1, FRAME, 5 * FRAME + 12345] {
        for options in [stored(), zstd()] {
            let mut out = Vec::new();
            let source = FailingSource { left, interrupted: false };
            let error = writer::write(&header(), source, &mut out, &options).unwrap_err();
            assert!(matches!(error, Error::Read { at, .. } if at == left as u64), "{error:?}");
            assert_eq!(error.class(), Class::Corrupt); // An I/O error of the disk.
            let cut = super::read(&out).unwrap_err();
            assert!(matches!(cut, Error::Truncated { .. }), "{cut:?}");
        }
    }
}

#[test]
fn an_error_of_the_output_ends_the_writer_though_the_stream_has_no_end() {
    for room in [0, 50, 1000, 3 * FRAME + 7] {
        let error = writer::write(&header(), io::repeat(7), FailingSink(room), &stored()).unwrap_err();
        assert!(matches!(error, Error::Write { .. }), "{error:?}");
        assert_eq!(error.class(), Class::Conflict); // No space.
        assert!(error.io_source().is_some());
    }
    let whole = write(&header(), b"x", &stored()).0.len();
    let error = writer::write(&header(), &b"x"[..], FailingSink(whole - 1), &stored()).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error:?}");
}

#[test]
fn an_error_of_the_container_s_input_comes_out_of_the_reader() {
    let (container, _) = write(&header(), &mixed(3 * FRAME), &stored());
    for len in [0, 10, 100, 2 * FRAME] {
        struct ThenFails(io::Cursor<Vec<u8>>);
        impl Read for ThenFails {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
                    len => Ok(len),
                }
            }
        }
        let input = ThenFails(io::Cursor::new(container[..len].to_vec()));
        let error = match Reader::open(input) {
            Err(error) => error,
            Ok(mut reader) => Error::from_io(io::copy(&mut reader, &mut io::sink()).unwrap_err()).unwrap(),
        };
        assert!(matches!(error, Error::Read { at, .. } if at == len as u64), "{error:?}");
        assert_eq!(error.class(), Class::Unreachable);
    }
}

#[test]
fn an_error_within_an_error_keeps_its_class() {
    // A container in a container: what the inner reader says comes through the outer writer.
    let (mut inner, _) = write(&header(), &mixed(2 * FRAME), &stored());
    inner.truncate(FRAME);
    let reader = Reader::open(io::Cursor::new(inner)).unwrap();
    let error = writer::write(&header(), reader, io::sink(), &stored()).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Corrupt);
    assert_eq!(cowsnap::Error::container("send", "x")(error).class(), Class::Corrupt);
    assert!(Error::within(&io::Error::other("another")).is_none());
    assert!(Error::from_io(io::Error::other("another")).is_err());
}

/// Counts what goes through.
struct Counted<T>(T, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.0.read(buffer)?;
        self.1.fetch_add(len as u64, Ordering::SeqCst);
        Ok(len)
    }
}

#[test]
fn the_writer_reads_ahead_of_a_slow_output_by_a_bounded_amount() {
    struct Slow<'a> {
        read: &'a AtomicU64,
        written: u64,
        most: u64,
    }
    impl Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            std::thread::sleep(std::time::Duration::from_millis(2));
            self.most = self.most.max(self.read.load(Ordering::SeqCst).saturating_sub(self.written));
            self.written += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let read = Arc::new(AtomicU64::new(0));
    let source = Counted(io::repeat(7).take(60 * FRAME as u64), read.clone());
    let mut slow = Slow { read: &read, written: 0, most: 0 };
    let options = writer::Options { level: None, threads: 2 };
    writer::write(&header(), source, &mut slow, &options).unwrap();
    assert!((2 * FRAME as u64..=10 * FRAME as u64).contains(&slow.most), "{} bytes read ahead", slow.most);
}

#[test]
fn the_reader_reads_ahead_by_a_bounded_amount_and_stops_when_it_is_dropped() {
    let (container, _) = write(&header(), &mixed(60 * FRAME), &stored());
    let total = container.len() as u64;
    let read = Arc::new(AtomicU64::new(0));
    let mut reader = Reader::open_with(Counted(io::Cursor::new(container), read.clone()), 2).unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let ahead = read.load(Ordering::SeqCst);
    assert!(ahead < 12 * FRAME as u64, "{ahead} bytes of {total} were read for 10");
    drop(reader);
    while Arc::strong_count(&read) > 1 {
        std::thread::sleep(std::time::Duration::from_millis(5)); // Its thread lets go of the input.
    }
    assert!(read.load(Ordering::SeqCst) < total);
}

#[test]
fn the_reader_gives_the_same_bytes_however_it_is_asked() {
    use std::io::BufRead;
    let stream = mixed(2 * FRAME + 1000);
    let (container, sealed) = write(&header(), &stream, &zstd());
    let mut reader = Reader::open(io::Cursor::new(container)).unwrap();
    let (mut got, mut step) = (Vec::<u8>::new(), 1);
    while !reader.fill_buf().unwrap().is_empty() {
        let mut piece = vec![0; step];
        let len = reader.read(&mut piece).unwrap();
        got.extend(&piece[..len]);
        step = step * 3 % 100_003 + 1;
    }
    assert!(got == stream);
    assert_eq!(reader.verified(), stream.len() as u64);
    assert_eq!(reader.verify(|_| {}).unwrap(), sealed);
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
}
