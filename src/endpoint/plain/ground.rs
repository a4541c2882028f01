//! Where a stream is applied that becomes a plain tree.

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
    needs: &'a Needs,
    lacks: Vec<Lack>,
}

impl<'a> Here<'a> {
    pub(super) fn new(staging: BorrowedFd<'a>, guid: Guid, held: Option<Guid>, needs: &'a Needs) -> Self {
        Self { staging, guid, held, needs, lacks: Vec::new() }
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
        if !self.needs.contains_key(&key) {
            return Ok(None);
        }
        let name = Path::new(BASE).join(number_of(self.needs, &key).to_string());
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

/// Its place among all: what it is called where it is kept.
pub(super) fn number_of(needs: &Needs, key: &(([u8; 16], u64), Vec<u8>)) -> usize {
    needs.range(..key.clone()).count()
}
