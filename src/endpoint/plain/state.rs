//! What the staging directory says of itself.

use std::os::fd::BorrowedFd;

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
    /// What the filesystem can not hold.
    pub(super) lacks: Vec<Lack>,
}

impl State {
    /// What is written in `staging`; `None` if nothing is.
    pub(super) fn read(staging: BorrowedFd<'_>) -> Result<Option<Self>> {
        let Some(bytes) = read_at(staging, STATE)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Corrupt {
            what: "state of a restore",
            why: "it is not what was written".into(),
            source: Some(Box::new(error)),
        })
    }
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
