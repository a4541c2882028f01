//! A download in part: the bytes that came, at their places, and beside them which of them are believed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::digest;
use crate::endpoint::files::http::State;
use crate::endpoint::{self};
use crate::model::Digest;
use crate::model::files::MAX_DESCRIPTION;
use crate::{Error, Result};

/// What tells the file that is downloaded from any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Of {
    pub(super) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) query: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) modified: Option<String>,
    pub(super) bytes: u64,
    pub(super) blake3: Option<Digest>,
    pub(super) piece: u64,
}

impl Of {
    pub(super) fn new(url: &str, state: &State, bytes: u64, blake3: Option<Digest>, piece: u64) -> Self {
        let (etag, modified) = (state.etag.clone(), state.modified.clone());
        let query = endpoint::files::http::query_digest(url);
        let url = endpoint::files::http::shown(url);
        Self { url, query, etag, modified, bytes, blake3, piece }
    }

    pub(super) fn pieces(&self) -> u64 {
        self.bytes.div_ceil(self.piece)
    }

    pub(super) fn range(&self, piece: u64) -> std::ops::Range<u64> {
        piece * self.piece..((piece + 1) * self.piece).min(self.bytes)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    #[serde(flatten)]
    of: Of,
    done: Vec<(u64, Digest)>,
}

/// A file that is not whole yet, for this process alone.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    to: PathBuf,
    of: Of,
    done: BTreeMap<u64, Digest>,
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Opens what is at `path`, or makes it, for this process alone.
fn locked(to: &Path, path: &Path) -> Result<File> {
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(Error::io("create", path.display()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let what = format!("download {}", to.display());
                return Err(Error::Busy { what, hint: "wait for it, or give another name" });
            }
            other => other.map_err(|errno| Error::io("lock", path.display())(errno.into()))?,
        }
        let own = file.metadata().map_err(Error::io("read", path.display()))?;
        // Whoever had it before may have given it its name meanwhile, or taken it away.
        if path.symlink_metadata().is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
            return Ok(file);
        }
        if to.symlink_metadata().is_ok() {
            return Err(exists(to));
        }
    }
}

impl Part {
    /// Opens what came so far for `to`; of another file than `of`, nothing is believed, and what is believed is hashed anew.
    ///
    /// # Errors
    /// A name that is taken; another process that downloads it; what the kernel says.
    pub(super) fn open(to: &Path, of: Of) -> Result<Self> {
        if to.symlink_metadata().is_ok() {
            return Err(exists(to));
        }
        let path = with(to, ".part");
        let file = locked(to, &path)?;
        let mut part = Self { file, to: to.to_owned(), done: BTreeMap::new(), path, of };
        let noted = part.noted()?;
        part.file.set_len(part.of.bytes).map_err(Error::io("write", part.path.display()))?;
        for (n, digest) in noted {
            let is_there = n < part.of.pieces() && part.hash(n)? == digest;
            if is_there {
                part.done.insert(n, digest);
            }
        }
        Ok(part)
    }

    fn noted(&self) -> Result<Vec<(u64, Digest)>> {
        let path = with(&self.path, ".json");
        let len = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", path.display()))?.len(),
        };
        if len > MAX_DESCRIPTION {
            return Ok(Vec::new());
        }
        let bytes = std::fs::read(&path).map_err(Error::io("read", path.display()))?;
        let noted: Option<Noted> = serde_json::from_slice(&bytes).ok();
        Ok(noted.filter(|noted| noted.of == self.of).map(|noted| noted.done).unwrap_or_default())
    }

    /// Which pieces are still to come.
    pub(super) fn missing(&self) -> Vec<u64> {
        (0..self.of.pieces()).filter(|n| !self.done.contains_key(n)).collect()
    }

    /// How many bytes are there.
    pub(super) fn have(&self) -> u64 {
        self.done.keys().map(|&n| self.of.range(n).end - self.of.range(n).start).sum()
    }

    /// Another handle to write by.
    pub(super) fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(Error::io("write", self.path.display()))
    }

    pub(super) fn of(&self) -> &Of {
        &self.of
    }

    /// The bytes of a piece are there, and that is their blake3.
    pub(super) fn done(&mut self, n: u64, digest: Digest) {
        self.done.insert(n, digest);
    }

    /// Writes down what is there, once that is on the disk.
    pub(super) fn note(&self) -> Result<()> {
        let failed = |error| Error::io("write", self.path.display())(error);
        self.file.sync_data().map_err(failed)?;
        let done = self.done.iter().map(|(&n, &digest)| (n, digest)).collect();
        let noted = Noted { of: self.of.clone(), done };
        let bytes = serde_json::to_vec(&noted).expect("its keys are texts");
        let (path, new) = (with(&self.path, ".json"), with(&self.path, ".json.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            io::Write::write_all(&mut file, &bytes)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(Error::io("write", path.display()))
    }

    /// Nothing of it is believed any more.
    pub(super) fn forget(&mut self) -> Result<()> {
        self.done.clear();
        self.note()
    }

    fn hash(&self, n: u64) -> Result<Digest> {
        let range = self.of.range(n);
        let hash = hash(&self.file, range).map_err(Error::io("read", self.path.display()))?;
        Ok(digest(&hash))
    }

    /// The blake3 of all that is there.
    pub(super) fn whole(&self) -> Result<Digest> {
        let hash = hash(&self.file, 0..self.of.bytes).map_err(Error::io("read", self.path.display()))?;
        Ok(digest(&hash))
    }

    /// It has so many bytes, as is known now that all came.
    pub(super) fn ends_at(&mut self, bytes: u64) -> Result<()> {
        self.of.bytes = bytes;
        self.file.set_len(bytes).map_err(Error::io("write", self.path.display()))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// A name that was taken meanwhile; what the kernel says.
    pub(super) fn finish(self) -> Result<()> {
        let failed = || Error::io("write", self.to.display());
        self.file.sync_all().map_err(failed())?;
        match rustix::fs::renameat_with(CWD, &self.path, CWD, &self.to, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Err(exists(&self.to)),
            other => other.map_err(|errno| failed()(errno.into()))?,
        }
        self.forget_notes();
        let folder =
            self.to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed())
    }

    /// Takes away what came, which nobody will go on with.
    pub(super) fn give_up(self) {
        let _ = std::fs::remove_file(&self.path);
        self.forget_notes();
    }

    fn forget_notes(&self) {
        // What stays is of a download that is over, and is not believed by another.
        let _ = std::fs::remove_file(with(&self.path, ".json"));
        let _ = std::fs::remove_file(with(&self.path, ".json.new"));
    }
}

pub(super) fn digest_of(path: &Path) -> Result<Digest> {
    let failed = || Error::io("read", path.display());
    let file = File::open(path).map_err(failed())?;
    let len = file.metadata().map_err(failed())?.len();
    hash(&file, 0..len).map(|hash| digest(&hash)).map_err(failed())
}

fn hash(file: &File, range: std::ops::Range<u64>) -> io::Result<blake3::Hash> {
    let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; 1 << 20], range.start);
    while at < range.end {
        crate::sys::interrupt::check()?;
        let len = (range.end - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..len], at)?;
        hasher.update(&buffer[..len]);
        at += len as u64;
    }
    Ok(hasher.finalize())
}

pub(super) fn exists(path: &Path) -> Error {
    let hint = Some("remove it first, or choose another name".into());
    endpoint::Error::Exists { what: "file", subject: path.display().to_string(), hint }.into()
}
