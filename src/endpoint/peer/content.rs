//! What another machine wrote down of its snapshots, and what is in them: digests travel, and names; no content.

use super::client::Peer;
use super::message::Request;
use crate::endpoint::Result;
use crate::endpoint::content::{Page, Summary, escaped};
use crate::model::{Recorded, VersionRef};

impl Peer {
    /// What is written down there of each snapshot; `None` if there is no such dataset.
    ///
    /// # Errors
    /// What the peer says.
    pub fn recorded(&self) -> Result<Option<Vec<Recorded>>> {
        self.ask(&Request::Recorded { target: self.target() })
    }

    /// Has the peer find out what `version` holds; `all` of it is read if that is wanted.
    ///
    /// # Errors
    /// What the peer says.
    pub fn manifest(&self, version: &VersionRef, all: bool) -> Result<Summary> {
        self.ask(&Request::Manifest { target: self.target(), version: version.clone(), all })
    }

    /// What of the manifest that was made last is in the directory `dir`, behind `after`. As the peer says it: not checked.
    ///
    /// # Errors
    /// What the peer says.
    pub fn entries(&self, version: &VersionRef, dir: &[u8], after: Option<&[u8]>) -> Result<Page> {
        self.ask(&Request::Entries {
            target: self.target(),
            version: version.clone(),
            dir: escaped(dir),
            after: after.map(escaped),
        })
    }
}
