//! A stream on its way to the kernel: what it is told is whole and undamaged, and the END record is withheld.
//!
//! The kernel makes a snapshot when it reads END, whatever follows. So END is the one record that is not passed on before
//! the stream has ended behind it without an error, which for a container means that its root was verified.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;

use crate::endpoint::zfs::notes::{Note, Notes};
use crate::stream::container::ResumePoint;
use crate::stream::zfs::nvlist::Value;
use crate::stream::zfs::{self, Begin, Error, Located, RECORD_LEN, Record, Rest, Walker, is_before};

/// A whole record without the data behind it.
pub(super) type RecordBytes = [u8; RECORD_LEN];

/// Why a stream did not get to its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// It failed, or is none.
    Stream(Error),
    /// Who was to take it did not.
    Output(io::Error),
}

/// A stream, of which the beginning has been read.
pub(super) struct Feed<R> {
    walker: Walker<Tee<R>>,
    tee: Tee<R>,
    begin: RecordBytes,
    next: Option<Located>,        // What has been read, and not passed on.
    passed: u64,                  // How much of the stream was taken off `tee`.
    reached: Option<ResumePoint>, // The furthest place of the records that were read.
    rest: Option<Rest>,
}

impl<R: Read> Feed<R> {
    /// Reads the BEGIN record, and the one behind it, which shows that the first is undamaged.
    pub fn open(input: R) -> Result<Self, Error> {
        let tee = Tee::new(input);
        let mut walker = Walker::open(tee.clone())?;
        let next = walker.next_record()?;
        let begin = tee.record();
        Ok(Self::of(walker, tee, begin, next, RECORD_LEN as u64, None))
    }

    /// Goes on in the midst of a stream of which `input` is what [`Note::stream_at`] says.
    pub fn behind(mut input: R, note: &Note) -> Result<Self, Error> {
        let begin = note.begin();
        let said = Begin::parse(&begin)?;
        let read_again = |source| Error::Io { offset: note.at(), source };
        io::copy(&mut (&mut input).take(note.at() - note.stream_at()), &mut io::sink())
            .map_err(read_again)?;
        let tee = Tee::new(input);
        let mut walker = Walker::behind(tee.clone(), said, note.sums(), note.at());
        let next = walker.next_record()?;
        Ok(Self::of(walker, tee, begin, next, note.at(), Some(note.reached())))
    }

    fn of(
        walker: Walker<Tee<R>>,
        tee: Tee<R>,
        begin: RecordBytes,
        next: Option<Located>,
        passed: u64,
        reached: Option<ResumePoint>,
    ) -> Self {
        let mut feed = Self { walker, tee, begin, next, passed, reached, rest: None };
        feed.reach();
        feed
    }

    /// Takes note of the record that was read last.
    fn reach(&mut self) {
        let at = self.next.and_then(|next| zfs::saved_at(&next.record));
        self.reached = match (self.reached, at) {
            (Some(before), Some(at)) if is_before(at, before) => Some(before),
            (before, at) => at.or(before),
        };
    }

    /// From now on, only what follows `point` is passed on, as the rest of the stream, of which [there is one](Rest::is_possible).
    pub fn pass_the_rest_from(&mut self, point: ResumePoint) {
        let rest = Rest::of(self.begin(), &self.begin, point);
        self.rest = Some(rest.expect("whoever asks has looked"));
    }

    /// What the stream is.
    pub fn begin(&self) -> &Begin {
        self.walker.begin()
    }

    /// The BEGIN record, which is not passed on.
    pub fn begin_bytes(&self) -> &RecordBytes {
        self.rest.as_ref().map_or(&self.begin, Rest::begin)
    }

    /// A number that the list behind BEGIN says.
    pub fn number_in_list(&self, name: &str) -> Option<u64> {
        match self.walker.list()?.get(name)? {
            Value::Uint(number) => Some(*number),
            _ => None,
        }
    }

    /// What it is read from.
    pub fn input(&self) -> Ref<'_, R> {
        Ref::map(self.tee.0.borrow(), |kept| &kept.input)
    }

    /// Passes on to `out` all between BEGIN and END, each byte once a checksum behind it was right. Answers END, once the
    /// stream has ended. `notes` take down where it goes on.
    pub fn pass_all_but_end(
        &mut self,
        out: &mut impl Write,
        notes: Option<&mut Notes>,
    ) -> Result<RecordBytes, Broken> {
        let mut notes = notes.filter(|_| Rest::is_possible(self.begin()));
        let mut before = None;
        while let Some(located) = self.next {
            // Checked so far: up to this record, whose checksum is of all before it.
            self.pass(before.as_ref(), located.offset - self.passed, out)?;
            self.passed = located.offset;
            before = Some(located.record);
            self.next = self.walker.next_record().map_err(Broken::Stream)?;
            self.reach();
            if let (Some(notes), Some(reached)) = (notes.as_deref_mut(), self.reached) {
                notes.take_down(&self.begin, self.walker.offset(), self.walker.sums(), reached);
            }
        }
        let end = self.tee.record(); // The last is END, which has no data.
        match &mut self.rest {
            None => Ok(end),
            Some(rest) => rest.end(end).map_err(Broken::Stream),
        }
    }

    /// Passes on the next bytes, which are `record` and the data behind it; `None`: the list behind BEGIN, if there is one.
    fn pass(&mut self, record: Option<&Record>, len: u64, out: &mut impl Write) -> Result<(), Broken> {
        let kept = &mut *self.tee.0.borrow_mut();
        match (&mut self.rest, record) {
            (None, _) => kept.pass(len, out),
            (Some(rest), Some(record)) => match rest.wants(record).map_err(Broken::Stream)? {
                true => rest.pass(&mut kept.take(len), out),
                false => {
                    kept.drop_next(len);
                    Ok(())
                }
            },
            (Some(_), None) => Ok(()), // What has a list has no rest.
        }
        .map_err(Broken::Output)
    }
}

/// A reader that keeps what it gave.
struct Tee<R>(Rc<RefCell<Kept<R>>>);

struct Kept<R> {
    input: R,
    bytes: VecDeque<u8>, // What was read and not passed on.
}

impl<R> Clone for Tee<R> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let kept = &mut *self.0.borrow_mut();
        let len = kept.input.read(buf)?;
        kept.bytes.extend(&buf[..len]);
        Ok(len)
    }
}

impl<R> Tee<R> {
    fn new(input: R) -> Self {
        Self(Rc::new(RefCell::new(Kept { input, bytes: VecDeque::new() })))
    }

    fn record(&self) -> RecordBytes {
        let mut record = [0; RECORD_LEN];
        self.0.borrow_mut().bytes.read_exact(&mut record).expect("the walker has read it");
        record
    }
}

impl<R> Kept<R> {
    fn take(&mut self, len: u64) -> Vec<u8> {
        let all = usize::try_from(len).expect("no longer than what is kept");
        let (front, back) = self.bytes.as_slices();
        let first = front.len().min(all);
        let taken = [&front[..first], &back[..all - first]].concat();
        self.drop_next(len);
        taken
    }

    fn drop_next(&mut self, len: u64) {
        self.bytes.drain(..usize::try_from(len).expect("no longer than what is kept"));
    }

    fn pass(&mut self, len: u64, out: &mut impl Write) -> io::Result<()> {
        let mut len = usize::try_from(len).expect("no longer than what is kept");
        while len > 0 {
            let (front, _) = self.bytes.as_slices();
            let part = front.len().min(len);
            out.write_all(&front[..part])?;
            self.bytes.drain(..part);
            len -= part;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::stream::zfs::encode::Encoder;
    use crate::stream::zfs::nvlist::List;
    use crate::stream::zfs::{ByteOrder, Feature, Features, Flags, Kind, Record};
    use proptest::prelude::*;

    /// What is sent: full, or upon the guid `from`.
    pub fn begin(from: u64) -> Begin {
        Begin {
            order: ByteOrder::Little,
            features: Features::default().with(Feature::EmbedData).with(Feature::LargeBlocks),
            kind: Kind::Filesystem,
            flags: Flags(0),
            to_guid: 7,
            from_guid: from,
            to_name: "tank/my data@a:1 b".into(),
            creation: 1_780_000_000,
            payload_len: 0,
        }
    }

    /// A stream with a write of each of these lengths.
    fn stream(lens: &[u64]) -> Vec<u8> {
        let mut out = Encoder::new(&begin(0));
        for (n, &len) in lens.iter().enumerate() {
            let (object, offset) = (1, n as u64 * len);
            let write = Record::Write {
                object,
                kind: 19,
                offset,
                len,
                checksum: 7,
                flags: 0,
                compression: 0,
                compressed_len: 0,
            };
            out.push(&write, &vec![n as u8 + 1; len as usize]);
        }
        out.finish()
    }

    /// Gives pieces of these lengths again and again, then fails or ends.
    struct Pieces<'a> {
        bytes: &'a [u8],
        lens: std::iter::Cycle<std::slice::Iter<'a, usize>>,
        fails: bool,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.bytes.is_empty() && self.fails {
                return Err(io::Error::other("the root is another"));
            }
            let len = buf.len().min(*self.lens.next().expect("they repeat"));
            self.bytes.read(&mut buf[..len])
        }
    }

    /// What is passed on, and END or what is told.
    fn fed(bytes: &[u8], lens: &[usize], fails: bool) -> (Vec<u8>, Result<RecordBytes, String>) {
        let mut passed = Vec::new();
        let pieces = Pieces { bytes, lens: lens.iter().cycle(), fails };
        let mut feed = match Feed::open(pieces) {
            Ok(feed) => feed,
            Err(error) => return (passed, Err(error.to_string())),
        };
        passed.extend(feed.begin_bytes());
        let end = feed.pass_all_but_end(&mut passed, None);
        let said = |broken| match broken {
            Broken::Stream(Error::Io { source, .. }) => source.to_string(),
            Broken::Stream(error) => error.to_string(),
            Broken::Output(error) => error.to_string(),
        };
        (passed, end.map_err(said))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn all_but_the_last_record_is_passed_on_however_it_comes(
            writes in prop::collection::vec((1..3000u64).prop_map(|n| n * 8), 0..12),
            lens in prop::collection::vec(1..100_000usize, 1..8),
        ) {
            let stream = stream(&writes);
            let (passed, end) = fed(&stream, &lens, false);
            let (most, last) = stream.split_at(stream.len() - RECORD_LEN);
            prop_assert!(passed == most);
            prop_assert!(end.expect("whole") == last);
        }

        #[test]
        fn without_a_good_end_no_end_is_handed_out_and_nothing_more_than_came(
            writes in prop::collection::vec((1..300u64).prop_map(|n| n * 8), 1..6),
            lens in prop::collection::vec(1..10_000usize, 1..8),
            cut: prop::sample::Index,
            fails: bool,
        ) {
            let whole = stream(&writes);
            // Also with all bytes there, if the input then fails: as the root of a container does.
            let at = if fails { cut.index(whole.len() + 1) } else { cut.index(whole.len()) };
            let (passed, end) = fed(&whole[..at], &lens, fails);
            prop_assert!(end.is_err());
            prop_assert!(passed.len() <= whole.len() - RECORD_LEN && whole.starts_with(&passed));
        }

        #[test]
        fn no_byte_behind_a_changed_bit_is_passed_on(
            lens in prop::collection::vec(1..10_000usize, 1..8),
            at: prop::sample::Index,
            bit in 0..8u32,
        ) {
            let whole = stream(&[4096, 8, 512]);
            let at = at.index(whole.len());
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            let (passed, end) = fed(&changed, &lens, false);
            prop_assert!(end.is_err());
            prop_assert!(passed.len() <= at && whole.starts_with(&passed));
        }
    }

    #[test]
    fn bytes_behind_the_end_are_noticed_before_it_is_handed_out() {
        let mut two = stream(&[8]);
        two.extend(stream(&[16]));
        let (passed, end) = fed(&two, &[1 << 20], false);
        assert_eq!(passed.len(), stream(&[8]).len() - RECORD_LEN);
        let said = end.expect_err("a second stream follows");
        assert!(said.starts_with("bytes follow the end"), "{said}");
    }

    #[test]
    fn the_output_s_failure_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let stream = stream(&[8]);
        let mut feed = Feed::open(&stream[..]).expect("a stream");
        assert!(matches!(feed.pass_all_but_end(&mut Full, None), Err(Broken::Output(_))));
    }

    #[test]
    fn where_the_rest_of_a_stream_goes_on_is_in_the_list_behind_its_beginning() {
        let list: List =
            [("resume_object", Value::Uint(7)), ("resume_offset", Value::Uint(8))].into_iter().collect();
        let stream = Encoder::with_list(&begin(3), &list).finish();
        let feed = Feed::open(&stream[..]).expect("a stream");
        let said = ["resume_object", "resume_offset", "other"].map(|name| feed.number_in_list(name));
        assert_eq!(said, [Some(7), Some(8), None]);
        assert_eq!(feed.begin().from_guid, 3);
    }
}
