//! A container behind its first frames: what a receive that was broken off has of it already need not be fetched again.
//!
//! Where a frame begins in the container is known to who has read it. So each reader notes down, part for part, which frame begins there; who
//! goes on begins with the last part whose frames are all wanted. What was noted wrongly is found out by the frames' own numbers.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::endpoint::archive::{Archive, Manifest};
use crate::exec::archive::Fetch;
use crate::model::archive::PART_LEN;
use crate::stream::container::header::check_prelude;
use crate::stream::container::record::HEAD_LEN;
use crate::stream::container::{HASH_LEN, Head, Kind, PRELUDE_LEN};

/// Where frames begin: a number and a place in the container for each part that was read.
#[derive(Debug)]
pub(super) struct Marks {
    file: PathBuf,
    known: Vec<(u64, u64)>, // Invariant: ordered by places, and none is of the same part as another.
    written: Option<File>,
}

impl Marks {
    /// Those of one container, kept below `state_dir`.
    pub(super) fn of(state_dir: &Path, archive: &Archive, manifest: &Manifest) -> Self {
        let name = format!("{}.{}.marks", archive.charter().id, manifest.digest());
        let file = state_dir.join("archives").join(name);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let mark = |line: &str| {
            let (frame, at) = line.split_once(' ')?;
            Some((frame.parse().ok()?, at.parse().ok()?))
        };
        // What is written last may be cut.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut known: Vec<(u64, u64)> = whole.lines().filter_map(mark).collect();
        known.sort_unstable_by_key(|(frame, at)| (*at, *frame));
        known.dedup_by_key(|(_, at)| *at / PART_LEN);
        Self { file, known, written: None }
    }

    /// The last place at which a frame up to `frame` is known to begin.
    fn before(&self, frame: u64, len: u64) -> Option<(u64, u64)> {
        self.known.iter().copied().filter(|(known, at)| *known <= frame && *at < len).max()
    }

    /// Notes where the first frame of a part begins. Nothing depends on that.
    fn note(&mut self, frame: u64, at: u64) {
        let part = |at: u64| at / PART_LEN;
        // There are as many of them as parts, and a frame asks for each.
        let place = self.known.partition_point(|(_, known)| part(*known) < part(at));
        if part(at) == 0 || self.known.get(place).is_some_and(|(_, known)| part(*known) == part(at)) {
            return;
        }
        self.known.insert(place, (frame, at));
        if let Err(error) = self.write(frame, at) {
            tracing::debug!(%error, "where frames begin is not noted");
        }
    }

    fn write(&mut self, frame: u64, at: u64) -> io::Result<()> {
        if self.written.is_none() {
            fs::create_dir_all(self.file.parent().expect("it is in a directory"))?;
            let file = File::options().create(true).append(true).open(&self.file)?;
            let _ = file.try_lock(); // As `left` looks for it.
            self.written = Some(file);
        }
        match &mut self.written {
            Some(file) => file.write_all(format!("{frame} {at}\n").as_bytes()),
            None => Ok(()),
        }
    }

    /// Where it is noted how the stream in the container goes on.
    pub(super) fn of_stream(&self) -> PathBuf {
        self.file.with_extension("notes")
    }

    /// Nobody needs them any more.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.file); // It is small, and of no harm.
        let _ = fs::remove_file(self.of_stream());
    }
}

/// Hands on a container without the frames before a number: prelude, header, the other frames, the trailer.
pub(super) struct Behind {
    archive: Archive,
    manifest: Manifest,
    input: Fetch,
    marks: Marks,
    skip: u64,
    at: u64,
    state: State,
    ready: Vec<u8>,
    taken: usize,
    /// How much of the input is handed on behind that as it comes.
    passing: u64,
    until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Records,
    /// What is left is no frame, or nothing that is known: it is for the reader to say.
    Rest,
}

impl Behind {
    /// The container that `manifest` tells of, without its first `skip` frames; nothing of it is waited for after `until`.
    pub(super) fn new(
        archive: &Archive,
        manifest: Manifest,
        marks: Marks,
        skip: u64,
        until: Option<Instant>,
    ) -> Self {
        // With what is to be skipped known, no more than the header is read of the first part.
        let input = match marks.before(skip, manifest.len()) {
            Some(_) => Fetch::between(archive, &manifest, 0, 1),
            None => Fetch::new(archive, &manifest),
        };
        let (state, archive, input) = (State::Header, archive.clone(), input.until(until));
        Self {
            archive,
            manifest,
            input,
            marks,
            skip,
            at: 0,
            state,
            ready: Vec::new(),
            taken: 0,
            passing: 0,
            until,
        }
    }

    fn step(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.taken = 0;
        match self.state {
            State::Header => self.header(),
            State::Records => self.record(),
            State::Rest => {
                self.passing = u64::MAX;
                Ok(())
            }
        }
    }

    fn header(&mut self) -> io::Result<()> {
        self.state = State::Rest;
        if self.take(PRELUDE_LEN)?
            && let Ok(len) = check_prelude(self.ready[..].try_into().expect("as long as a prelude"))
            && self.take(len + HASH_LEN)?
        {
            self.state = State::Records;
            self.jump()?;
        }
        Ok(())
    }

    /// Goes to the last known place before what is wanted.
    fn jump(&mut self) -> io::Result<()> {
        let Some((_, at)) = self.marks.before(self.skip, self.manifest.len()) else { return Ok(()) };
        let first = at / PART_LEN;
        let input = Fetch::between(&self.archive, &self.manifest, first as usize, usize::MAX);
        self.input = input.until(self.until);
        let passed = io::copy(&mut (&mut self.input).take(at % PART_LEN), &mut io::sink())?;
        self.at = first * PART_LEN + passed;
        Ok(())
    }

    fn record(&mut self) -> io::Result<()> {
        let begin = self.at;
        self.state = State::Rest;
        if !self.take(HEAD_LEN)? {
            return Ok(());
        }
        let head = Head::from_bytes(self.ready[..].try_into().expect("as long as a head"));
        let (kind, len) = (head.kind(), head.payload_len());
        if kind == Kind::Trailer || len > kind.max_payload_len() {
            return Ok(());
        }
        self.state = State::Records;
        self.marks.note(head.number(), begin);
        if head.number() < self.skip {
            self.at += io::copy(&mut (&mut self.input).take(len as u64), &mut io::sink())?;
            self.ready.clear();
        } else {
            self.passing = len as u64;
        }
        Ok(())
    }

    /// Makes so many more bytes ready; whether there were as many.
    fn take(&mut self, len: usize) -> io::Result<bool> {
        let read = (&mut self.input).take(len as u64).read_to_end(&mut self.ready)?;
        self.at += read as u64;
        Ok(read == len)
    }
}

impl Read for Behind {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = &self.ready[self.taken..];
            if !ready.is_empty() {
                let len = ready.read(buffer)?;
                self.taken += len;
                return Ok(len);
            }
            if self.passing > 0 {
                let most = self.passing.min(buffer.len() as u64) as usize;
                let len = self.input.read(&mut buffer[..most])?;
                self.at += len as u64;
                self.passing -= len as u64;
                if len == 0 && most > 0 {
                    (self.passing, self.state) = (0, State::Rest);
                }
                return Ok(len);
            }
            self.step()?;
        }
    }
}
