//! A source that is snapshotted and sent in every way, and a target that receives with ours.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cowsnap::endpoint::btrfs::receive::{Applied, Ground, Origin, apply, seal};
use cowsnap::endpoint::{Error, Result};
use cowsnap::sys::btrfs::get_subvol_info;

use crate::ground::{Btrfs, run};
use crate::tree_compare::{Also, assert_same};

/// How a stream is made.
pub const WAYS: [(&str, &[&str]); 3] = [
    ("v1", &["--proto", "1"]),
    ("v2", &["--proto", "2"]),
    ("v2-compressed", &["--proto", "2", "--compressed-data"]),
];

/// The name of what is not finished.
const STAGED: &str = "%staged";

/// A directory of received snapshots, and of what is on its way to be one.
pub struct Shelf {
    path: PathBuf,
    directory: OwnedFd,
}

impl Shelf {
    pub fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("mkdir");
        let directory = File::open(&path).expect("opens").into();
        Self { path, directory }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where an unfinished receive is.
    pub fn staged(&self) -> PathBuf {
        self.path.join(STAGED)
    }

    /// The names of all that is finished.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).expect("lists").map(|e| e.expect("an entry").file_name());
        let mut names: Vec<_> = entries.map(|n| n.into_string().expect("utf-8")).collect();
        names.retain(|name| name != STAGED);
        names.sort();
        names
    }

    /// Applies `stream`; what an earlier one left is cleared away.
    pub fn apply(&mut self, mut stream: impl Read) -> Result<Applied> {
        self.clear();
        apply(&mut stream, self, OsStr::new(STAGED), None)
    }

    pub fn receive(&mut self, stream: impl Read, name: &str) -> Result<PathBuf> {
        let applied = self.apply(stream)?;
        seal(&applied, None)?;
        fs::rename(self.staged(), self.path.join(name)).expect("renames");
        Ok(self.path.join(name))
    }

    fn clear(&self) {
        if self.staged().exists() {
            run("btrfs", &["-q", "subvolume", "delete", self.staged().to_str().expect("utf-8")]);
        }
    }
}

impl Ground for Shelf {
    fn staging(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn accept(&mut self, _: &Origin) -> Result<()> {
        Ok(())
    }

    fn find(&mut self, uuid: [u8; 16], ctransid: u64) -> Result<Option<OwnedFd>> {
        let below = fs::read_dir(&self.path).expect("lists").map(|entry| entry.expect("an entry").path());
        let mut other_transaction = None;
        for path in below {
            let fd: OwnedFd = File::open(&path).map_err(Error::io("open", path.display()))?.into();
            let Ok(info) = get_subvol_info(fd.as_fd()) else { continue };
            let transaction = match (info.received_uuid == uuid, info.uuid == uuid) {
                (true, _) => info.stransid,
                (false, true) => info.ctransid,
                _ => continue,
            };
            if transaction == ctransid {
                return Ok(Some(fd));
            }
            other_transaction = Some(fd); // What was sent onward carries its middle man's transaction.
        }
        Ok(other_transaction)
    }
}

/// A source filesystem with the subvolume `s`, and a target filesystem.
pub struct Lab {
    pub source: Btrfs,
    pub target: Btrfs,
    also: Also,
    n_snapshots: usize,
}

impl Lab {
    pub fn new(options: &str, also: Also) -> Self {
        let source = Btrfs::with("2G", &[], options);
        source.subvolume("s");
        Self { source, target: Btrfs::with("2G", &[], ""), also, n_snapshots: 0 }
    }

    pub fn live(&self) -> PathBuf {
        self.source.path().join("s")
    }

    pub fn snapshot_path(&self, n: usize) -> PathBuf {
        self.source.path().join(format!("s{n}"))
    }

    /// Snapshots `s` as `s1`, `s2` …
    pub fn snapshot(&mut self) -> usize {
        self.n_snapshots += 1;
        let to = self.snapshot_path(self.n_snapshots);
        let (from, to) = (self.live().into_os_string(), to.into_os_string());
        run(
            "btrfs",
            &["-q".as_ref(), "subvolume".as_ref(), "snapshot".as_ref(), "-r".as_ref(), &*from, &*to],
        );
        self.n_snapshots
    }

    /// The stream of snapshot `n`, as progs makes it.
    pub fn send(&self, n: usize, base: Option<usize>, way: &[&str], more: &[&str]) -> Vec<u8> {
        let file = self.source.outside().join("stream");
        let mut words =
            vec!["send".to_owned(), "-q".into(), "-f".into(), file.to_str().expect("utf-8").into()];
        words.extend(way.iter().chain(more).map(|&word| word.to_owned()));
        if let Some(base) = base {
            words.extend(["-p".into(), self.snapshot_path(base).to_str().expect("utf-8").to_owned()]);
        }
        words.push(self.snapshot_path(n).to_str().expect("utf-8").into());
        run("btrfs", &words);
        let bytes = fs::read(&file).expect("reads");
        fs::remove_file(file).expect("removes");
        bytes
    }

    pub fn shelf(&self, name: &str) -> Shelf {
        Shelf::new(self.target.path().join(name))
    }

    /// Runs each step on the live subvolume, snapshots after it, sends in full (the first and the last) and as an
    /// increment, in every way, receives with ours, and compares.
    pub fn check(&mut self, steps: &[&dyn Fn(&Path)]) {
        let mut shelves: Vec<_> = WAYS.iter().map(|(name, _)| self.shelf(name)).collect();
        for (at, step) in steps.iter().enumerate() {
            step(&self.live());
            let n = self.snapshot();
            for (shelf, (way, words)) in shelves.iter_mut().zip(WAYS) {
                let base = (n > 1).then(|| n - 1);
                let stream = self.send(n, base, words, &[]);
                self.receive_and_compare(shelf, &stream, n, &format!("s{n}"), way);
                if at > 0 && at + 1 == steps.len() {
                    let full = self.send(n, None, words, &[]);
                    let name = format!("{way}-full");
                    self.receive_and_compare(&mut self.shelf(&name), &full, n, "full", &name);
                }
            }
        }
    }

    fn receive_and_compare(&self, shelf: &mut Shelf, stream: &[u8], n: usize, name: &str, way: &str) {
        let found = shelf.receive(stream, name).unwrap_or_else(|e| panic!("{way}, s{n}: {}", words_of(&e)));
        assert_same(&self.snapshot_path(n), &found, self.also, &format!("{way}, s{n}"));
    }
}

/// The error and its causes.
pub fn words_of(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words += &format!(": {cause}");
        next = cause.source();
    }
    words
}
