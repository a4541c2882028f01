//! A file of the base, served in blocks or whole, holds the bytes that a file of ext4 holds after the same calls: fsx makes its file
//! anew, and so is served past the process, or cuts it to nothing first.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cowsnap::endpoint::overlay::fuse::Options;
use rustix::fs::{Advice, FallocateFlags};

use super::lab::{Lab, utf8};
use crate::ground::ground;
use crate::mapped::Mapped;
use crate::overlay_fuse::core::{Ground, blocks_only};
use crate::overlay_fuse::mounted::Apart;
use crate::overlay_fuse::ops::Dice;

/// The files of the base, and how long each is: copied whole when it is first written to, in blocks, with holes, and one that ends
/// within a block.
const FILES: [(&str, u64); 4] =
    [("small", 100_000), ("large", 3 << 20), ("holes", 2 << 20), ("odd", 1_234_567)];
/// No file becomes longer.
const MOST: u64 = 4 << 20;

/// A call that is made of both files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Read(u64, usize),
    Write(u64, usize, u8),
    /// Through a mapping of its own, unmapped at once.
    MapRead(u64, usize),
    /// The same, and written back before it is unmapped if so.
    MapWrite(u64, usize, u8, bool),
    /// Through the mapping that is kept while other calls are made.
    KeptRead(u64, usize),
    KeptWrite(u64, usize, u8),
    Truncate(u64),
    Punch(u64, u64),
    Zero(u64, u64),
    Allocate(u64, u64),
    Copy(u64, u64, usize),
    Sync,
    Forget,
    /// Closed and opened: to read only first, if so, and again to write beside that.
    Reopen(bool),
}

/// One that makes sense of a file of that length.
fn call(dice: &mut Dice, len: u64) -> Call {
    let at = dice.below(MOST);
    let within = dice.below(len.max(1));
    let size = 1 + if dice.below(4) == 0 { dice.below(300_000) } else { dice.below(9_000) };
    let (n, fill) = (size as usize, dice.below(256) as u8);
    let inside = size.min(len.saturating_sub(within)) as usize;
    match dice.below(36) {
        0..5 => Call::Read(at, n),
        5..11 => Call::Write(at.min(MOST - size), n, fill),
        11..15 => Call::MapRead(within, inside),
        15..20 => Call::MapWrite(within, inside, fill, dice.below(2) == 0),
        20..22 => Call::KeptRead(within, inside),
        22..24 => Call::KeptWrite(within, inside, fill),
        24 => Call::Truncate(within),
        25 => Call::Truncate(len.max(at)),
        26..28 => Call::Punch(at, size * 4),
        28 => Call::Zero(at.min(MOST - size), size),
        29 => Call::Allocate(at.min(MOST - size), size),
        30..32 => Call::Copy(within, at.min(MOST - size), n),
        32 => Call::Sync,
        33 => Call::Forget,
        _ => Call::Reopen(dice.below(2) == 0),
    }
}

/// A file with calls made of it.
struct Tried {
    path: PathBuf,
    file: File,
    reader: Option<File>,
    kept: Option<Mapped>,
}

impl Tried {
    fn new(path: PathBuf) -> Self {
        let file = open(&path, true);
        Self { path, file, reader: None, kept: None }
    }

    fn len(&self) -> u64 {
        self.file.metadata().expect("examined").len()
    }

    /// What was read, or how many bytes were dealt with.
    fn done(&mut self, call: &Call) -> io::Result<Vec<u8>> {
        let fd = self.file.as_fd();
        let keep = FallocateFlags::KEEP_SIZE;
        match *call {
            Call::Read(at, n) => {
                let mut buffer = vec![0; n];
                let n = self.reader.as_ref().unwrap_or(&self.file).read_at(&mut buffer, at)?;
                buffer.truncate(n);
                return Ok(buffer);
            }
            Call::Write(at, n, fill) => self.file.write_all_at(&pattern(fill, n), at)?,
            Call::MapRead(at, n) => return Ok(Mapped::new(&self.file)?.read(at, n)),
            Call::MapWrite(at, n, fill, syncs) => {
                let map = Mapped::new(&self.file)?;
                map.write(at, &pattern(fill, n));
                if syncs {
                    map.sync()?;
                }
            }
            Call::KeptRead(at, n) => return Ok(self.kept()?.read(at, n)),
            Call::KeptWrite(at, n, fill) => self.kept()?.write(at, &pattern(fill, n)),
            Call::Truncate(len) => self.resize(|file| file.set_len(len))?,
            Call::Punch(at, len) => rustix::fs::fallocate(fd, FallocateFlags::PUNCH_HOLE | keep, at, len)?,
            Call::Zero(at, len) => {
                self.resize(|file| Ok(rustix::fs::fallocate(file, FallocateFlags::ZERO_RANGE, at, len)?))?;
            }
            Call::Allocate(at, len) => {
                self.resize(|file| Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), at, len)?))?;
            }
            Call::Copy(mut from, mut to, n) => self.resize(|file| {
                let mut left = n;
                while left > 0 {
                    match rustix::fs::copy_file_range(file, Some(&mut from), file, Some(&mut to), left)? {
                        0 => break,
                        done => left -= done,
                    }
                }
                Ok(())
            })?,
            Call::Sync => self.file.sync_all()?,
            Call::Forget => rustix::fs::fadvise(fd, 0, None, Advice::DontNeed)?,
            Call::Reopen(reads_first) => {
                self.kept = None;
                self.reader = None;
                self.file = open(&self.path, !reads_first);
                if reads_first {
                    let reader = std::mem::replace(&mut self.file, open(&self.path, true));
                    self.reader = Some(reader);
                }
            }
        }
        Ok(self.len().to_le_bytes().to_vec())
    }

    /// What is mapped must be there: a mapping goes before the file may become shorter, and does not grow with it.
    fn resize(&mut self, act: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        self.kept = None;
        act(&self.file)
    }

    fn kept(&mut self) -> io::Result<&Mapped> {
        let len = self.len();
        if self.kept.as_ref().is_none_or(|kept| kept.len() as u64 != len) {
            self.kept = Some(Mapped::new(&self.file)?);
        }
        Ok(self.kept.as_ref().expect("just made"))
    }
}

fn open(path: &Path, writes: bool) -> File {
    File::options()
        .read(true)
        .write(writes)
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Bytes that tell where they were meant to be.
fn pattern(fill: u8, n: usize) -> Vec<u8> {
    (0..n).map(|at| fill.wrapping_add((at / 7) as u8)).collect()
}

fn make_files(dir: &Path) {
    for (name, len) in FILES {
        let file = File::create(dir.join(name)).expect("made");
        file.set_len(len).expect("set");
        let step = if name == "holes" { 300_000 } else { 1 << 16 };
        for at in (0..len).step_by(step) {
            let n = (len - at).min(1 << 16) as usize;
            file.write_all_at(&pattern((at >> 16) as u8 + 1, n), at).expect("written");
        }
    }
}

/// Makes the same calls of the files in `at`, which shows them as they are made, and of others in `plain`.
fn same_bytes(plain: &Path, at: &Path, seed: u64, calls: usize) {
    fs::create_dir_all(plain).expect("made");
    make_files(plain);
    let mut dice = Dice::new(seed);
    for (name, _) in FILES {
        let (mut expected, mut found) = (Tried::new(plain.join(name)), Tried::new(at.join(name)));
        let mut last = Vec::new();
        for n in 0..calls {
            let call = call(&mut dice, expected.len());
            // The kernel says of a mapping of nothing that it can not be.
            let nothing = matches!(
                &call,
                Call::MapRead(_, 0)
                    | Call::MapWrite(_, 0, ..)
                    | Call::KeptRead(_, 0)
                    | Call::KeptWrite(_, 0, _)
            );
            if nothing {
                continue;
            }
            let [expected, found] =
                [&mut expected, &mut found].map(|file| file.done(&call).map_err(|e| e.raw_os_error()));
            last.push(call);
            let began = last.len().saturating_sub(12);
            assert!(
                expected == found,
                "seed {seed}, {name}, call {n}: {}\nthe last ones: {:#?}",
                difference(&expected, &found),
                &last[began..]
            );
        }
        drop((expected, found));
        let both = [plain, at].map(|dir| fs::read(dir.join(name)).expect("read"));
        assert!(
            both[0] == both[1],
            "seed {seed}, {name}: {}",
            difference(&Ok(both[0].clone()), &Ok(both[1].clone()))
        );
    }
}

type Answer = Result<Vec<u8>, Option<i32>>;

fn difference(expected: &Answer, found: &Answer) -> String {
    match (expected, found) {
        (Ok(a), Ok(b)) => {
            let at = a.iter().zip(b).position(|(a, b)| a != b);
            format!("{} and {} bytes, the first that differs is {at:?}", a.len(), b.len())
        }
        (a, b) => format!("{:?} and {:?}", a.as_ref().map(Vec::len), b.as_ref().map(Vec::len)),
    }
}

/// `COWSNAP_BYTES_SEEDS` many seeds, or 2.
#[test]
fn a_file_of_the_base_holds_what_one_of_ext4_holds() {
    ground!("fuse", "ext4");
    let lab = Lab::on("ext4", &["-q"]);
    make_files(&lab.base());
    let before = FILES.map(|(name, _)| fs::read(lab.base().join(name)).expect("read"));
    let seeds = std::env::var("COWSNAP_BYTES_SEEDS").map_or(2, |text| text.parse().expect("a number"));
    for seed in 1..=seeds {
        let at = lab.create("ci", &["--mode", "fuse"]);
        same_bytes(&lab.root().join("plain"), &at, seed, 400);
        lab.ok(&["destroy", "ci"]);
    }
    let after = FILES.map(|(name, _)| fs::read(lab.base().join(name)).expect("read"));
    assert!(before == after, "the base was changed: {}", utf8(&lab.base()));
    lab.assert_nothing_left();
}

/// As an ordinary user has it: all data goes through the process, and the kernel holds back what was written.
#[test]
fn without_passthrough_it_holds_the_same() {
    ground!("fuse");
    let small = Options { whole_up_to: 200_000, ..Options::default() };
    for (seed, options) in [(21, small), (22, blocks_only())] {
        let ground = Ground::new();
        make_files(&ground.path("base"));
        let apart = Apart::new(&ground, options);
        same_bytes(&ground.path("beside"), &ground.path("mnt"), seed, 400);
        apart.end();
    }
}
