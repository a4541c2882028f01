//! Where a stream goes on: noted while it is received, so that what was applied need not be read again after the receive was broken off.
//!
//! ZFS keeps what was applied, and says with its token up to which write. It does not say where in the stream that write stands, and has no use for the
//! stream's rest as it is. So its reader notes now and then, at the end of a record: how many bytes came before, their checksums (ZFS's, and that
//! of the container's frames), and the last write among them. Whoever goes on begins with the last note before the token. A note is never
//! believed for more than where to begin: what follows it is still proven by both checksums.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::endpoint::zfs::feed::RecordBytes;
use crate::stream::container::{FRAME_LEN, Prefix, ResumePoint};
use crate::stream::reader::Marks;
use crate::stream::zfs::{RECORD_LEN, is_before};

/// After how many bytes of stream the next note is made, at least.
const EVERY: u64 = 16 << 20;
/// And after which part of what came: so a TiB has 1,700 notes, of some KiB each.
const SHARE: u64 = 256;
/// The longest file of notes that is read, in bytes.
const MAX_LEN: u64 = 256 << 20;

/// The end of a record within a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    begin: String,
    at: u64,
    sums: [u64; 4],
    last_write: ResumePoint,
    prefix: Prefix,
}

impl Note {
    /// How many bytes of the stream come before it.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The last frames' end before it: from there on the stream is read.
    pub fn stream_at(&self) -> u64 {
        self.prefix.stream_len()
    }

    /// What the frames before it hash to.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    pub(super) fn sums(&self) -> [u64; 4] {
        self.sums
    }

    pub(super) fn begin(&self) -> RecordBytes {
        bytes_of(&self.begin).expect("it was looked at when it was read")
    }

    /// The note in a line, if it is one.
    fn read(line: &str) -> Option<Self> {
        let note: Self = serde_json::from_str(line).ok()?;
        let behind = note.at.checked_sub(note.stream_at())?;
        (bytes_of(&note.begin).is_some() && behind < FRAME_LEN as u64).then_some(note)
    }
}

/// The notes of one stream, in a file.
#[derive(Debug)]
pub struct Notes {
    file: PathBuf,
    marks: Marks,
    last: u64,
    every: u64,
    written: Option<File>,
}

impl Notes {
    /// To be made of a stream that begins at `at`, whose frames `marks` knows.
    pub fn new(file: &Path, marks: Marks, at: u64) -> Self {
        Self { file: file.to_owned(), marks, last: at, every: EVERY, written: None }
    }

    /// The last of those in `file` from which a receive goes on that was broken off at `point`. What makes no sense is passed over.
    pub fn before(file: &Path, point: ResumePoint) -> Option<Note> {
        let is_sane = fs::metadata(file).is_ok_and(|about| about.len() <= MAX_LEN);
        let text = if is_sane { File::open(file).ok()? } else { return None };
        let lines = io::BufRead::lines(io::BufReader::new(text)).map_while(Result::ok);
        let notes = lines.filter_map(|line| Note::read(&line));
        notes.filter(|note| is_before(note.last_write, point)).max_by_key(|note| note.at)
    }

    /// Makes a note if it is time: all up to `at` has been read, in the order of the stream that begins with `begin`. Nothing depends on it.
    pub(super) fn take_down(
        &mut self,
        begin: &RecordBytes,
        at: u64,
        sums: [u64; 4],
        last_write: ResumePoint,
    ) {
        if at < self.last.saturating_add(self.every.max(at / SHARE)) {
            return;
        }
        // What the reader no longer knows is for the next record.
        let Some(prefix) = self.marks.at(at / FRAME_LEN as u64) else { return };
        self.last = at;
        let note = Note { begin: hex(begin), at, sums, last_write, prefix };
        if let Err(error) = self.write(&note) {
            tracing::debug!(%error, "where the stream goes on is not noted");
        }
    }

    fn write(&mut self, note: &Note) -> io::Result<()> {
        let file = match &mut self.written {
            Some(file) => file,
            none => {
                fs::create_dir_all(self.file.parent().expect("it is in a directory"))?;
                none.insert(File::options().create(true).append(true).open(&self.file)?)
            }
        };
        // With a line's end before it, too: what was written last may be cut.
        file.write_all(format!("\n{}\n", serde_json::to_string(note)?).as_bytes())
    }
}

fn hex(bytes: &RecordBytes) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Option<RecordBytes> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|&[a, b]| Some((digit(a)? << 4 | digit(b)?) as u8)).collect();
    bytes.filter(|bytes| rest.is_empty() && bytes.len() == RECORD_LEN)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::zfs::feed::Feed;
    use crate::endpoint::zfs::feed::tests::begin;
    use crate::stream::container::{Backend, Header};
    use crate::stream::reader::Reader;
    use crate::stream::writer;
    use crate::stream::zfs::encode::Encoder;
    use crate::stream::zfs::{Begin, Record, Walker};

    const OPTIONS: writer::Options = writer::Options { level: Some(1), threads: 1 };
    const WRITES: u64 = 90;
    const LEN: u64 = 100_000; // Not a part of a frame.

    /// Some MiB that compress badly enough.
    fn stream() -> Vec<u8> {
        let mut out = Encoder::new(&begin(0));
        for n in 0..WRITES {
            let (object, offset) = (1 + n / 10, n % 10 * LEN);
            let write = Record::Write {
                object,
                kind: 19,
                offset,
                len: LEN,
                checksum: 7,
                flags: 0,
                compression: 0,
                compressed_len: 0,
            };
            let data: Vec<u8> = (0..LEN).map(|at| (at * (n + 3) / 7 % 251) as u8).collect();
            out.push(&write, &data);
        }
        out.finish()
    }

    fn contained(stream: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        writer::write(&header(), stream, &mut out, &OPTIONS).expect("written");
        out
    }

    fn header() -> Header {
        Header {
            backend: Backend::Btrfs,
            dataset: "d".into(),
            snapshot: "s".parse().expect("a name"),
            guid: crate::model::Guid([7; 16]),
            base: None,
            created: jiff::Timestamp::UNIX_EPOCH,
            stream_version: 1,
            compressed: false,
            properties: Default::default(),
            zfs: None,
            place: None,
        }
    }

    fn noted(container: Vec<u8>, file: &Path) {
        let reader = Reader::open(io::Cursor::new(container)).expect("a container");
        let mut notes = Notes { every: 1 << 20, ..Notes::new(file, reader.marks(), 0) };
        let mut feed = Feed::open(reader).expect("a stream");
        feed.pass_all_but_end(&mut io::sink(), Some(&mut notes)).map_err(|_| ()).expect("all of it");
    }

    #[test]
    fn from_each_place_the_last_note_before_it_leads_to_the_same_rest() {
        let (stream, folder) = (stream(), tempfile::tempdir().expect("a folder"));
        let file = folder.path().join("a/notes");
        noted(contained(&stream), &file);
        for n in 0..WRITES {
            let point = ResumePoint { object: 1 + n / 10, offset: n % 10 * LEN };
            let mut expected = Vec::new();
            let mut all = Feed::open(&stream[..]).expect("a stream");
            assert!(all.pass_the_rest_from(point));
            let expected_end =
                all.pass_all_but_end(&mut expected, None).map_err(|_| ()).expect("it has the point");
            let note = Notes::before(&file, point);
            let Some(note) = note else {
                assert!(n < 22, "after 2 MiB there is a note before {n}");
                continue;
            };
            assert!(
                note.at() <= RECORD_LEN as u64 + n * (RECORD_LEN as u64 + LEN),
                "what follows the token is read"
            );
            assert!(note.at() + (3 << 20) > n * LEN, "it is not far before it");
            let mut rest = Vec::new();
            writer::write_rest(&header(), &stream[..], note.prefix(), &mut rest, &OPTIONS).expect("written");
            let reader = Reader::resume(io::Cursor::new(rest), note.prefix()).expect("a container");
            let mut feed = Feed::behind(reader, &note).expect("it goes on");
            assert!(feed.pass_the_rest_from(point));
            let mut got = Vec::new();
            let end = feed.pass_all_but_end(&mut got, None).map_err(|_| ()).expect("all of it");
            assert!(got == expected && end == expected_end, "from {n} on");
            let bytes = [&all.begin_bytes()[..], &got, &end].concat();
            let mut walker = Walker::open(&bytes[..]).expect("a stream");
            while walker.next_record().expect("its checksums are right").is_some() {}
            assert_eq!(feed.input().sealed().map(|sealed| sealed.len), Some(stream.len() as u64));
        }
    }

    #[test]
    fn a_line_that_is_cut_or_makes_no_sense_is_passed_over() {
        let (stream, folder) = (stream(), tempfile::tempdir().expect("a folder"));
        let file = folder.path().join("notes");
        let last = ResumePoint { object: u64::MAX, offset: 0 };
        assert_eq!(Notes::before(&file, last), None);
        noted(contained(&stream), &file);
        let sound = Notes::before(&file, last).expect("a note");
        let text = fs::read_to_string(&file).expect("read");
        let far = text.lines().last().expect("one").replace("\"at\":", "\"at\":9");
        for more in [&text[..40], "{}", "\u{1}", &far] {
            fs::write(&file, format!("{text}{more}\n")).expect("written");
            assert_eq!(Notes::before(&file, last), Some(sound.clone()), "{more}");
        }
        let cut = text.trim_end();
        fs::write(&file, &cut[..cut.len() - 5]).expect("written");
        let before = Notes::before(&file, last).expect("those before it");
        assert!(before.at() < sound.at());
        assert!(Begin::parse(&before.begin()).is_ok());
    }
}
