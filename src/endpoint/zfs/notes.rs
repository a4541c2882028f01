//! Where a stream goes on: noted while it is received, so that what was applied need not be read again after the receive was broken off.
//!
//! ZFS keeps what was applied, and says with its token up to which write. It does not say where in the stream that write stands, and has no use for the
//! stream's rest as it is. So its reader notes now and then, at the end of a record: how many bytes came before, their checksums (ZFS's, and that
//! of the container's frames), and how far the records before it would have moved a token. Whoever goes on begins with the last note that is before
//! the token, so that the record which the token names is still to come ([`Rest`](crate::stream::zfs::Rest) looks for it). A note is sealed with the digest of its
//! container: one that was damaged, or is of another, is passed over.

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
    reached: ResumePoint,
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

    /// How far the records before it would have moved a token.
    pub(super) fn reached(&self) -> ResumePoint {
        self.reached
    }

    pub(super) fn sums(&self) -> [u64; 4] {
        self.sums
    }

    pub(super) fn begin(&self) -> RecordBytes {
        bytes_of(&self.begin).expect("it was looked at when it was read")
    }

    /// The note in a line, if it is one of that container.
    fn read(line: &str, container: &str) -> Option<Self> {
        let (seal, text) = line.split_once(' ')?;
        if seal != sealed(text, container) {
            return None;
        }
        let note: Self = serde_json::from_str(text).ok()?;
        let behind = note.at.checked_sub(note.stream_at())?;
        (bytes_of(&note.begin).is_some() && behind < FRAME_LEN as u64).then_some(note)
    }
}

fn sealed(text: &str, container: &str) -> String {
    blake3::hash(format!("{container} {text}").as_bytes()).to_hex().to_string()
}

/// The notes of one stream, in a file.
#[derive(Debug)]
pub struct Notes {
    file: PathBuf,
    container: String,
    is_anew: bool,
    marks: Marks,
    last: u64,
    every: u64,
    written: Option<File>,
}

impl Notes {
    /// To be made of the stream in that container, which is read from `at` on, and whose frames `marks` knows. From the beginning, they are made anew.
    pub fn new(file: &Path, container: &str, marks: Marks, at: u64) -> Self {
        let (file, container) = (file.to_owned(), container.to_owned());
        Self { file, container, is_anew: at == 0, marks, last: at, every: EVERY, written: None }
    }

    /// The last of those in `file` from which a receive of that container goes on that was broken off at `point`. What makes no sense is passed over.
    pub fn before(file: &Path, container: &str, point: ResumePoint) -> Option<Note> {
        let is_sane = fs::metadata(file).is_ok_and(|about| about.len() <= MAX_LEN);
        let text = if is_sane { File::open(file).ok()? } else { return None };
        let lines = io::BufRead::split(io::BufReader::new(text), b'\n').map_while(Result::ok);
        let notes = lines.filter_map(|line| Note::read(&String::from_utf8_lossy(&line), container));
        notes.filter(|note| is_before(note.reached, point)).max_by_key(|note| note.at)
    }

    /// Makes a note if it is time: all up to `at` has been read, in the order of the stream that begins with `begin`. Nothing depends on it.
    pub(super) fn take_down(&mut self, begin: &RecordBytes, at: u64, sums: [u64; 4], reached: ResumePoint) {
        if at < self.last.saturating_add(self.every.max(at / SHARE)) {
            return;
        }
        // What the reader no longer knows is for the next record.
        let Some(prefix) = self.marks.at(at / FRAME_LEN as u64) else { return };
        self.last = at;
        let note = Note { begin: hex(begin), at, sums, reached, prefix };
        if let Err(error) = self.write(&note) {
            tracing::debug!(%error, "where the stream goes on is not noted");
        }
    }

    fn write(&mut self, note: &Note) -> io::Result<()> {
        let file = match &mut self.written {
            Some(file) => file,
            none => {
                fs::create_dir_all(self.file.parent().expect("it is in a directory"))?;
                if self.is_anew {
                    match fs::remove_file(&self.file) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                let file = File::options().create(true).append(true).open(&self.file)?;
                let _ = file.try_lock(); // Who takes old notes away looks for it; where there are no locks, they are young.
                none.insert(file)
            }
        };
        let text = serde_json::to_string(note)?;
        // With a line's end before it, too: what was written last may be cut.
        file.write_all(format!("\n{} {text}\n", sealed(&text, &self.container)).as_bytes())
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
    const CONTAINER: &str = "a container's digest";
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
        let mut notes = Notes { every: 1 << 20, ..Notes::new(file, CONTAINER, reader.marks(), 0) };
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
            all.pass_the_rest_from(point);
            let expected_end =
                all.pass_all_but_end(&mut expected, None).map_err(|_| ()).expect("it has the point");
            let note = Notes::before(&file, CONTAINER, point);
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
            feed.pass_the_rest_from(point);
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
        assert_eq!(Notes::before(&file, CONTAINER, last), None);
        noted(contained(&stream), &file);
        let sound = Notes::before(&file, CONTAINER, last).expect("a note");
        let text = fs::read_to_string(&file).expect("read");
        let far = text.lines().last().expect("one").replace("\"at\":", "\"at\":9");
        for more in [&text.as_bytes()[..40], b"{}", b"\xff\x01", far.as_bytes()] {
            fs::write(&file, [more, b"\n", text.as_bytes()].concat()).expect("written");
            assert_eq!(Notes::before(&file, CONTAINER, last), Some(sound.clone()), "{more:?}");
        }
        let cut = text.trim_end();
        fs::write(&file, &cut[..cut.len() - 5]).expect("written");
        assert_eq!(Notes::before(&file, "another one's", last), None);
        let before = Notes::before(&file, CONTAINER, last).expect("those before it");
        assert!(before.at() < sound.at());
        assert!(Begin::parse(&before.begin()).is_ok());
    }
}
