//! Where a stream is applied that becomes a plain tree.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::endpoint::btrfs::receive::{Ground, Needs, Origin};
use crate::endpoint::plain::state::{self, Lack};
use crate::endpoint::plain::{BASE, expect};
use crate::endpoint::{Error, Result};
use crate::model::Guid;

/// The staging directory, with what was kept of the base in it.
pub(super) struct Here<'a> {
    staging: BorrowedFd<'a>,
    guid: Guid,
    held: Option<Guid>,
    /// Each has its place among all: what it is called where it is kept.
    numbers: HashMap<&'a Key, usize>,
    lacks: Vec<Lack>,
}

/// Of which version, which file.
type Key = (([u8; 16], u64), Vec<u8>);

impl<'a> Here<'a> {
    pub(super) fn new(staging: BorrowedFd<'a>, guid: Guid, held: Option<Guid>, needs: &'a Needs) -> Self {
        let numbers = needs.keys().enumerate().map(|(number, key)| (key, number)).collect();
        Self { staging, guid, held, numbers, lacks: Vec::new() }
    }

    pub(super) fn into_lacks(self) -> Vec<Lack> {
        self.lacks
    }
}

impl Ground for Here<'_> {
    fn staging(&self) -> BorrowedFd<'_> {
        self.staging
    }

    fn accept(&mut self, origin: &Origin) -> Result<()> {
        expect(origin, self.guid, self.held)
    }

    fn find(&mut self, _uuid: [u8; 16], _ctransid: u64) -> Result<Option<OwnedFd>> {
        Ok(None)
    }

    fn is_plain(&self) -> bool {
        true
    }

    fn kept(&mut self, uuid: [u8; 16], ctransid: u64, path: &[u8]) -> Result<Option<OwnedFd>> {
        let key = ((uuid, ctransid), path.to_vec());
        let Some(number) = self.numbers.get(&key) else { return Ok(None) };
        let name = Path::new(BASE).join(number.to_string());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.staging, &name, flags, Mode::empty())
            .map(Some)
            .map_err(Error::io("open", format!("what was kept of {}", path.escape_ascii())))
    }

    fn lacks(&mut self, what: &str, path: &[u8]) {
        let first = path.escape_ascii().to_string();
        state::add(&mut self.lacks, vec![Lack { what: what.into(), times: 1, first }]);
    }
}
