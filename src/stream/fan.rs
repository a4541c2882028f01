//! One container for several readers: the stream is read, hashed and compressed once, and each reader gets all of it, or the rest that
//! it has not got yet.

use std::io::{self, Read};
use std::sync::Arc;

use super::container::error::Result;
use super::container::tree::Tree;
use super::container::{Header, Prefix, Sealed};
use super::writer::{self, Options, Parts};

/// Takes the parts of a container for one reader.
pub trait Taker {
    /// Takes the next part; `false` once it wants no more, and then it is asked no more.
    fn take(&mut self, part: &Arc<[u8]>) -> bool;
    /// Is told that this was the last part.
    fn end(&mut self);
    /// Is told that the stream does not begin with what its reader has of it: nothing was taken, and nothing comes.
    fn other_beginning(&mut self);
}

/// A reader.
#[derive(Debug)]
pub struct Branch<T> {
    /// What it has of the stream already, in whole frames: what was passed behind them is not looked at.
    pub behind: Option<Prefix>,
    /// What takes the rest for it.
    pub taker: T,
}

/// Writes `stream` as a container to each of `branches`. Each gets the same bytes as if it were written to alone, and no branch's end is the
/// others'; whoever takes slowly is waited for.
///
/// # Errors
/// As [`writer::write`]; [`Error::Write`](super::container::Error::Write) with a broken pipe once no branch wants more, and if none begins.
pub fn write<T: Taker + Send>(
    header: &Header,
    stream: impl Read + Send,
    branches: Vec<Branch<T>>,
    options: &Options,
) -> Result<Sealed> {
    let frames = |branch: &Branch<T>| branch.behind.as_ref().map_or(0, Prefix::frames);
    let skipped = branches.iter().map(frames).min().unwrap_or(0);
    let branches =
        branches.into_iter().map(|Branch { behind, taker }| State { behind, taker, is: Is::Waiting });
    writer::write_parts(
        header,
        stream,
        skipped,
        Fan { head: Arc::from([]), branches: branches.collect() },
        options,
    )
}

struct State<T> {
    behind: Option<Prefix>,
    taker: T,
    is: Is,
}

#[derive(PartialEq)]
enum Is {
    Waiting,
    Taking,
    Gone,
}

impl<T: Taker> State<T> {
    fn take(&mut self, part: &Arc<[u8]>) {
        if self.is == Is::Taking && !self.taker.take(part) {
            self.is = Is::Gone;
        }
    }

    /// Begins if `before` is all that the reader has. If it never will be, the reader is told.
    fn begin(&mut self, head: &Arc<[u8]>, before: &Tree, is_all: bool) {
        let frames = self.behind.as_ref().map_or(0, Prefix::frames);
        if self.is != Is::Waiting || before.frames() < frames && !is_all {
            return;
        }
        if self.behind.as_ref().is_some_and(|behind| !behind.is_of(before)) {
            self.taker.other_beginning();
            self.is = Is::Gone;
            return;
        }
        self.is = Is::Taking;
        self.take(head);
    }
}

struct Fan<T> {
    head: Arc<[u8]>,
    branches: Vec<State<T>>,
}

impl<T: Taker> Fan<T> {
    fn pass_on(&mut self, part: &[u8], before: &Tree, is_all: bool) -> io::Result<()> {
        for branch in &mut self.branches {
            branch.begin(&self.head, before, is_all);
        }
        if self.branches.iter().any(|branch| branch.is == Is::Taking) {
            let part = Arc::from(part);
            self.branches.iter_mut().for_each(|branch| branch.take(&part));
        }
        match self.branches.iter().all(|branch| branch.is == Is::Gone) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

impl<T: Taker> Parts for Fan<T> {
    fn head(&mut self, head: &[u8]) -> io::Result<()> {
        self.head = Arc::from(head);
        Ok(())
    }

    fn frame(&mut self, record: &[u8], before: &Tree) -> io::Result<()> {
        self.pass_on(record, before, false)
    }

    fn trailer(&mut self, trailer: &[u8], before: &Tree) -> io::Result<()> {
        self.pass_on(trailer, before, true)?;
        let taking = self.branches.iter_mut().filter(|branch| branch.is == Is::Taking);
        taking.for_each(|branch| branch.taker.end());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::stream::container::tree::Leaf;
    use crate::stream::container::{Backend, Error, FRAME_LEN};

    /// What a reader got, and of how many parts it takes no more.
    #[derive(Default)]
    struct Got {
        bytes: Vec<u8>,
        parts: usize,
        most: Option<usize>,
        is_other: bool,
        has_ended: bool,
    }

    impl Taker for &Mutex<Got> {
        fn take(&mut self, part: &Arc<[u8]>) -> bool {
            let mut got = self.lock().unwrap();
            if got.most == Some(got.parts) {
                return false;
            }
            got.parts += 1;
            got.bytes.extend_from_slice(part);
            true
        }

        fn end(&mut self) {
            self.lock().unwrap().has_ended = true;
        }

        fn other_beginning(&mut self) {
            self.lock().unwrap().is_other = true;
        }
    }

    fn header() -> Header {
        Header {
            backend: Backend::Btrfs,
            dataset: "d".into(),
            snapshot: "s".parse().unwrap(),
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

    fn stream(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n / 5 % 251) as u8).collect()
    }

    /// What the first frames of `stream` hash to.
    fn prefix(stream: &[u8], frames: usize) -> Prefix {
        let mut tree = Tree::default();
        for (number, frame) in stream.chunks_exact(FRAME_LEN).take(frames).enumerate() {
            tree.push(&Leaf::of(number as u64, frame));
        }
        tree.prefix()
    }

    fn fan(stream: &[u8], readers: &[(Option<Prefix>, Mutex<Got>)], level: Option<i32>) -> Result<Sealed> {
        let branch = |(behind, got)| Branch { behind: Option::clone(behind), taker: got };
        let branches = readers.iter().map(|(behind, got)| branch((behind, got))).collect();
        write(&header(), stream, branches, &Options { level, threads: 2 })
    }

    fn alone(stream: &[u8], behind: &Option<Prefix>, level: Option<i32>) -> Vec<u8> {
        let (mut out, options) = (Vec::new(), Options { level, threads: 2 });
        match behind {
            Some(prefix) => writer::write_rest(&header(), stream, prefix, &mut out, &options),
            None => writer::write(&header(), stream, &mut out, &options),
        }
        .unwrap();
        out
    }

    #[test]
    fn each_reader_gets_what_it_would_get_alone() {
        for len in [0, 5, FRAME_LEN, 5 * FRAME_LEN, 6 * FRAME_LEN + 77] {
            let stream = stream(len);
            let counts = [0, 1, 3, 5, 6].into_iter().filter(|frames| frames * FRAME_LEN <= len);
            let prefixes: Vec<_> = counts.map(|n| (n > 0).then(|| prefix(&stream, n))).collect();
            for level in [None, Some(1)] {
                for skip in 0..prefixes.len() {
                    let readers: Vec<_> =
                        prefixes[skip..].iter().map(|behind| (behind.clone(), Mutex::default())).collect();
                    let sealed = fan(&stream, &readers, level).unwrap();
                    assert_eq!((sealed.root, sealed.len), (blake3::hash(&stream), len as u64));
                    for (behind, got) in &readers {
                        let got = got.lock().unwrap();
                        assert!(got.bytes == alone(&stream, behind, level), "{len} {level:?} {behind:?}");
                        assert!(got.has_ended && !got.is_other);
                    }
                }
            }
        }
    }

    #[test]
    fn who_wants_no_more_ends_nobody_elses_and_once_nobody_does_the_writing_ends() {
        let stream = stream(9 * FRAME_LEN);
        for most in 0..11 {
            let gone = || Mutex::new(Got { most: Some(most), ..Got::default() });
            let readers = [(None, gone()), (None, Mutex::default()), (Some(prefix(&stream, 2)), gone())];
            fan(&stream, &readers, None).unwrap();
            assert!(readers[1].1.lock().unwrap().bytes == alone(&stream, &None, None));
            assert_eq!(readers[0].1.lock().unwrap().parts, most);
            let error = fan(&stream, &[(None, gone()), (None, gone())], Some(1)).unwrap_err();
            let Error::Write { source, .. } = error else { panic!("{error:?}") };
            assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
        }
        let error = fan(&stream, &[], None).unwrap_err();
        assert!(matches!(error, Error::Write { .. }), "{error:?}");
    }

    #[test]
    fn who_has_another_beginning_is_told_and_gets_nothing() {
        let (stream, other) = (stream(4 * FRAME_LEN), vec![9; 6 * FRAME_LEN]);
        for frames in [1, 3, 4, 6] {
            let readers = [(Some(prefix(&other, frames)), Mutex::default()), (None, Mutex::default())];
            fan(&stream, &readers, None).unwrap();
            let told = readers[0].1.lock().unwrap();
            assert!(told.is_other && !told.has_ended && told.bytes.is_empty(), "{frames}");
            assert!(readers[1].1.lock().unwrap().bytes == alone(&stream, &None, None));
            let only = [(Some(prefix(&other, frames)), Mutex::default())];
            assert!(fan(&stream, &only, None).is_err());
            assert!(only[0].1.lock().unwrap().is_other, "{frames}");
        }
    }
}
