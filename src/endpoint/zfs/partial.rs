//! What was received in part: of what it is, and how it is given up.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::lock::{Work, try_lock};
use crate::endpoint::zfs::props;
use crate::endpoint::zfs::restoring::RESTORING;
use crate::endpoint::{Error, Result};
use crate::model::Guid;
use crate::stream::container::ResumePoint;
use crate::stream::zfs::resume::Token;
use crate::sys::lzc::Errno;

/// What a receive that was broken off has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenOff {
    /// It is of the version that was asked for, and goes on from here.
    OfIt(ResumePoint),
    /// It is of something else, in a dataset that a restore was making, which nobody else uses.
    OfARestore,
    /// It is of something else.
    OfAnother,
}

impl Dataset {
    /// As [`crate::endpoint::Dataset::broken_off`].
    ///
    /// # Errors
    /// As there.
    pub fn broken_off(&self, guid: Guid, base: Option<Guid>) -> Result<Option<BrokenOff>> {
        let name = self.name().as_str();
        if !self.settled()?.exists(name) {
            return Ok(None);
        }
        let token = self.get("receive_resume_token")?;
        if token == "-" {
            return Ok(None);
        }
        let is_it = |token: &Token| {
            let from = base.and_then(|base| base.as_zfs()).unwrap_or(0);
            (Guid::of_zfs(token.to_guid), token.from_guid) == (guid, from) && !token.saved
        };
        if let Some(token) = Token::decode(&token).ok().filter(is_it) {
            return Ok(Some(BrokenOff::OfIt(ResumePoint { object: token.object, offset: token.offset })));
        }
        let is_restoring = props::set_here(name, RESTORING)?.is_some();
        Ok(Some(if is_restoring { BrokenOff::OfARestore } else { BrokenOff::OfAnother }))
    }

    /// Destroys what was received in part and nothing else: the hidden clone that an increment is applied to, or the dataset
    /// that a first stream was making.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is nothing; [`Error::Refused`] while it is being received.
    pub fn give_up_partial(&self) -> Result<()> {
        let lzc = self.settled()?;
        let name = self.name().as_str();
        let Some(_lock) = try_lock(Work::Receive, name)? else { return Err(self.is_received_now()) };
        let hidden = format!("{name}/%recv");
        let victim = if lzc.exists(&hidden) {
            hidden
        } else if lzc.exists(name) && self.is_begun()? && self.get("receive_resume_token")? != "-" {
            name.to_owned()
        } else {
            let subject = format!("{self}@%partial");
            return Err(Error::NotFound { what: "partial receive", subject, hint: None });
        };
        lzc.destroy(&victim).map_err(|failed| match failed.errno {
            Errno::Busy => self.is_received_now(),
            _ => self.failed("destroy what was received in part of", &[("destroy,mount", name)])(failed),
        })
    }

    fn is_received_now(&self) -> Error {
        self.refused("destroy what was received in part of", "it is being received now".into(), None)
    }
}
