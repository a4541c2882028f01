//! What the staging directory says of itself.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::endpoint::dir::read_at;
use crate::endpoint::plain::STATE;
use crate::endpoint::{Error, Result};
use crate::model::{Guid, VersionRef};

/// How many kinds of things are told that a filesystem can not hold.
const KINDS: usize = 64;

/// Something that the filesystem can not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    /// What: an attribute, a flag.
    pub what: String,
    /// How often it was to be set.
    pub times: u64,
    /// Where first.
    pub first: String,
}

/// How far a restore is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// What the tree has the content of, if nothing is being applied.
    pub(super) holds: Option<VersionRef>,
    /// What is being applied to it.
    pub(super) applying: Option<Guid>,
    /// The tree's root. What has another inode was there before, and was exchanged for it.
    pub(super) inode: u64,
    /// What is to be kept under which name: its bytes.
    pub(super) keep_as: Option<Vec<u8>>,
    /// All that was applied was signed by one of these keys; `None` if nobody looked.
    #[serde(default)]
    pub(super) signed: Option<Vec<String>>,
    /// What the filesystem can not hold.
    pub(super) lacks: Vec<Lack>,
}

impl State {
    /// What is written in `staging`; `None` if nothing is.
    pub(super) fn read(staging: BorrowedFd<'_>) -> Result<Option<Self>> {
        let stat = match rustix::fs::statat(staging, STATE, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.map_err(Error::io("examine", "the state of a restore"))?,
        };
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || !is_own(&stat) {
            return Err(Error::Refused {
                op: "go on with",
                subject: "what was restored so far".into(),
                why: "what says how far it is was written by somebody else, or others may write to it".into(),
                hint: None,
            });
        }
        let Some(bytes) = read_at(staging, STATE)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Corrupt {
            what: "state of a restore",
            why: "it is not what was written".into(),
            source: Some(Box::new(error)),
        })
    }
}

/// Whether it belongs to who runs this, and nobody else may write to it.
pub(super) fn is_own(stat: &Stat) -> bool {
    stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o022 == 0
}

/// Adds `more` to `lacks`.
pub(super) fn add(lacks: &mut Vec<Lack>, more: Vec<Lack>) {
    for new in more {
        match lacks.iter().position(|lack| lack.what == new.what) {
            Some(at) => lacks[at].times += new.times,
            None if lacks.len() < KINDS => lacks.push(new),
            None => lacks[KINDS - 1].times += new.times,
        }
    }
}
