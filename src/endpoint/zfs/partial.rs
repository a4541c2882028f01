//! What was received in part: of what it is, and how it is given up.

use std::collections::BTreeSet;

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::lock::{Work, try_lock};
use crate::endpoint::zfs::restoring::RESTORING;
use crate::endpoint::zfs::{begun, props};
use crate::endpoint::{Error, Result};
use crate::stream::container::{ResumePoint, ZfsFlags};
use crate::stream::zfs::resume::Token;
use crate::stream::zfs::{Begin, Feature};
use crate::sys::lzc::{Errno, Prop};

/// The property of a dataset: of which container a receive was begun that goes on with the container itself; which snapshot's guid that has, and how its
/// stream is made.
const PULLING: &str = "cowsnap:pulling";
/// Where a receive goes on that may have applied nothing, not even all of its properties.
const NOTHING: ResumePoint = ResumePoint { object: 1, offset: 0 };

/// What a receive that was broken off has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenOff {
    /// It is of the container that was asked for, and goes on from here.
    OfIt(ResumePoint),
    /// It is of another container, or of a restore: it can be had again from there, and nobody else uses it.
    OfOthers,
    /// It is somebody's, who may not be able to send it again.
    Somebodys,
}

/// What [`PULLING`] says.
fn said(container: &str, begin: &Begin) -> String {
    let has = |feature| begin.features.has(feature);
    let flags = ZfsFlags {
        raw: has(Feature::Raw),
        large_blocks: has(Feature::LargeBlocks),
        embedded: has(Feature::EmbedData),
        compressed: has(Feature::Compressed),
    };
    format!("{container} {:016x} {flags}", begin.to_guid)
}

/// The container of which the receive is whose token this is, as far as `known` tells.
fn container_of<'k>(known: &'k str, token: &Token) -> Option<&'k str> {
    let (container, rest) = known.split_once(' ')?;
    (rest == format!("{:016x} {}", token.to_guid, token.flags) && !token.saved).then_some(container)
}

/// What is set on the target while it receives the stream that begins so, out of a container with that digest.
pub(super) fn given(container: &str, begin: &Begin) -> (String, Prop) {
    (PULLING.to_owned(), Prop::Text(said(container, begin)))
}

/// Where the receive goes on whose token this is, with a stream out of that container; `None` if it is not to.
///
/// # Errors
/// A property that can not be read.
pub(super) fn point(target: &Dataset, token: &Token, container: &str) -> Result<Option<ResumePoint>> {
    let known = props::set_here(target.name().as_str(), PULLING)?.unwrap_or_default();
    Ok(point_by(&known, token, container))
}

fn point_by(known: &str, token: &Token, container: &str) -> Option<ResumePoint> {
    let point = ResumePoint { object: token.object, offset: token.offset };
    (container_of(known, token) == Some(container) && point != NOTHING).then_some(point)
}

/// Forgets of which container the receive was, once it is over.
pub(super) fn forget(target: &Dataset) {
    if let Err(error) = props::clear(target.name().as_str(), PULLING) {
        tracing::debug!("{error}");
    }
}

/// The containers of which something was received in part, on datasets of all pools that are here. Nothing where there is no ZFS.
///
/// # Errors
/// What can not be listed or read.
pub fn containers_in_part() -> Result<BTreeSet<String>> {
    let mut containers = BTreeSet::new();
    for dataset in begun()? {
        let known = props::set_here(dataset.name().as_str(), PULLING)?.unwrap_or_default();
        containers.extend(known.split_once(' ').map(|(container, _)| container.to_owned()));
    }
    Ok(containers)
}

impl Dataset {
    /// As [`crate::endpoint::Dataset::broken_off`].
    ///
    /// # Errors
    /// As there.
    pub fn broken_off(&self, container: &str) -> Result<Option<BrokenOff>> {
        let name = self.name().as_str();
        if !self.settled()?.exists(name) {
            return Ok(None);
        }
        let token = self.get("receive_resume_token")?;
        if token == "-" {
            return Ok(None);
        }
        let known = props::set_here(name, PULLING)?.unwrap_or_default();
        let token = Token::decode(&token).ok();
        if let Some(point) = token.as_ref().and_then(|token| point_by(&known, token, container)) {
            return Ok(Some(BrokenOff::OfIt(point)));
        }
        let is_ours = token.is_some_and(|token| container_of(&known, &token).is_some());
        Ok(Some(match is_ours || props::set_here(name, RESTORING)?.is_some() {
            true => BrokenOff::OfOthers,
            false => BrokenOff::Somebodys,
        }))
    }

    /// Destroys what was received in part and nothing else: the hidden clone that an increment is applied to, or the dataset
    /// that a first stream was making. Answers of which container that was, if it was of one.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is nothing; [`Error::Refused`] while it is being received.
    pub fn give_up_partial(&self) -> Result<Option<String>> {
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
        let pulling = props::set_here(name, PULLING).unwrap_or_default();
        lzc.destroy(&victim).map_err(|failed| match failed.errno {
            Errno::Busy => self.is_received_now(),
            _ => self.failed("destroy what was received in part of", &[("destroy,mount", name)])(failed),
        })?;
        if victim != name && pulling.is_some() {
            forget(self);
        }
        Ok(pulling.and_then(|known| Some(known.split_once(' ')?.0.to_owned())))
    }

    fn is_received_now(&self) -> Error {
        self.refused("destroy what was received in part of", "it is being received now".into(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::zfs::feed::tests::begin;

    #[test]
    fn only_what_was_begun_of_the_same_container_goes_on() {
        let known = said("c1", &begin(3));
        let token = Token {
            to_guid: 7,
            object: 5,
            flags: "large-blocks+embedded".parse().expect("flags"),
            ..Token::default()
        };
        let at = |token: &Token, container| point_by(&known, token, container);
        assert_eq!(at(&token, "c1"), Some(ResumePoint { object: 5, offset: 0 }));
        assert_eq!(at(&token, "c2"), None);
        for other in [
            Token { to_guid: 8, ..token.clone() },
            Token { flags: "large-blocks+embedded+compressed".parse().expect("flags"), ..token.clone() },
            Token { saved: true, ..token.clone() },
        ] {
            assert_eq!((at(&other, "c1"), container_of(&known, &other)), (None, None));
        }
        let begun = Token { object: 1, ..token };
        assert_eq!((at(&begun, "c1"), container_of(&known, &begun)), (None, Some("c1")));
        assert_eq!(container_of("", &begun), None);
    }
}
