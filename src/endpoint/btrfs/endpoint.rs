//! A btrfs dataset as an endpoint: what the traits ask for, in the words of [`super::send`] and [`super::receive`].

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::dataset::Dataset;
use super::kept::{self, Begun, Keeper, Kept, Origins};
use super::receive::{Ground, Midway, Origin, apply, seal};
use super::roots::Root;
use super::staging::Staged;
use super::{grounded, prefetch, send};
use crate::endpoint::{Endpoint, Error, History, Outgoing, ReceiveRequest, Result, SendRequest, Verified};
use crate::model::{Digest, Guid, Version, VersionRef, quoted};
use crate::sys::btrfs::{self, SendOptions, SubvolInfo};
use crate::sys::interrupt::Bell;

impl Endpoint for Dataset {
    fn send(&self, request: &SendRequest) -> Result<Outgoing> {
        let subject = self.name_of(&request.version);
        let version = stream_version(request, &subject)?;
        let (subvolume, info) = self.open_to_send(&request.version)?;
        let mut options = SendOptions { version, compressed: request.compressed, ..SendOptions::default() };
        let mut since = 0;
        if let Some(base) = &request.base {
            let (_, base) = self.open_unaltered(base)?;
            since = last_change(&base);
            options.base = Some(base.id);
            options.clone_sources.push(base.id);
        }
        for source in &request.clone_sources {
            options.clone_sources.push(self.open_unaltered(source)?.1.id);
        }
        options.clone_sources.sort_unstable();
        options.clone_sources.dedup();
        let estimate = prefetch::estimate(subvolume.as_fd(), info.id, since, request.compressed);
        let stream = send::stream(send::Source { subvolume, subject, options, since })?;
        let place = self.is_of_this_place(request).then(|| Digest::of_place(&self.place_id()));
        Ok(Outgoing { stream: Box::new(stream), estimate, properties: BTreeMap::new(), zfs: None, place })
    }

    fn receive(&self, request: &ReceiveRequest, stream: &mut dyn Read) -> Result<Version> {
        let mut stream = stream;
        self.receive_checked(request, None, &mut stream, |_| None)
    }
}

/// The transaction behind which everything is new to who has it.
fn last_change(base: &SubvolInfo) -> u64 {
    base.ctransid.max(base.otransid)
}

impl Dataset {
    /// About how many bytes the stream would be that `request` asks for; `None` where it takes long to find out.
    ///
    /// # Errors
    /// A version or a base that can not be sent from.
    pub fn estimate(&self, request: &SendRequest) -> Result<Option<u64>> {
        let (subvolume, info) = self.open_to_send(&request.version)?;
        let since = match &request.base {
            Some(base) => last_change(&self.open_unaltered(base)?.1),
            None => 0,
        };
        Ok(prefetch::estimate(subvolume.as_fd(), info.id, since, request.compressed))
    }

    /// Whether what the receiver has of the base came from here, if it came from this dataset: one that was never sent came, where it is
    /// known by this name, from what was here before it was destroyed and came again. Who can not tell says that it did not.
    fn is_of_this_place(&self, request: &SendRequest) -> bool {
        let was_sent = |base: &VersionRef| {
            self.sent().is_ok_and(|sent| sent.get(base).is_some_and(|streams| !streams.is_empty()))
        };
        request.base.as_ref().is_none_or(was_sent)
    }

    /// As [`Endpoint::receive`]; what `verified` answers once `stream` has been read is on disk before the version is. With
    /// `kept`, `stream` begins behind its prefix.
    ///
    /// If the request says how to keep what has come, and the stream breaks off, it stays for [`Dataset::kept`].
    ///
    /// # Errors
    /// As [`Endpoint::receive`].
    pub fn receive_checked<R: Read>(
        &self,
        request: &ReceiveRequest,
        kept: Option<Kept>,
        stream: &mut R,
        verified: impl FnOnce(&R) -> Option<Verified>,
    ) -> Result<Version> {
        // Another receive that was broken off will not go on once this one has been begun.
        self.give_up_kept(None)?;
        let (staged, begun, tail) = match kept {
            None => {
                let origins = Origins { from: request.place, ..Origins::default() };
                let begun = Begun { origins, ..Begun::default() };
                (self.stage(&request.name, request.guid)?, begun, Vec::new())
            }
            Some(kept) => {
                if !kept.passes_over(stream).map_err(Error::io("read", "the stream"))? {
                    kept.give_up()?;
                    return Err(self.another_stream(&request.name));
                }
                kept.take_up(self)?
            }
        };
        match self.apply_and_seal(request, &staged, begun, &mut tail.as_slice().chain(&mut *stream)) {
            Ok(Origins { ungrounded, from, upon }) => staged.commit(&request.name, |meta| {
                let upon = upon.flatten();
                let whole = |digest| Verified { grounded: !ungrounded, from, upon, ..digest };
                meta.verified = verified(stream).map(whole);
                meta.created = request.created;
            }),
            // What the stream itself says can not be done will be no better next time; a line, a disk or a sender may.
            Err(error @ (Error::Corrupt { what: "btrfs stream", .. } | Error::Exists { .. })) => {
                kept::forget(staged.staging().fd())?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// What tells it from every other dataset, on this machine and others.
    pub fn place_id(&self) -> String {
        let fsid: String = self.store().fsid().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("btrfs {fsid} {}", self.path().as_os_str().as_encoded_bytes().escape_ascii())
    }

    fn another_stream(&self, name: &crate::model::SnapshotName) -> Error {
        Error::Refused {
            op: "go on with",
            subject: self.at_name(name),
            why: "the stream is not the one that was broken off; what there was of that is given up".into(),
            hint: Some("run it again: it begins from the start".into()),
        }
    }

    /// Answers where all that it builds upon came from.
    fn apply_and_seal(
        &self,
        request: &ReceiveRequest,
        staged: &Staged,
        begun: Begun,
        mut stream: &mut dyn Read,
    ) -> Result<Origins> {
        let Begun { midway, number, mut origins } = begun;
        // Another place may go on with what one has begun.
        origins.from = origins.from.filter(|_| origins.from == request.place);
        let offset = midway.as_ref().map_or(0, |midway| midway.offset);
        let keeper = request.keep.clone().map(|keeping| Keeper::new(staged, keeping, number, offset));
        let mut here = Here { dataset: self, staged, request, keeper, origins };
        let applied = apply(&mut stream, &mut here, staged.name(), midway)?;
        seal(&applied, request.created)?;
        Ok(here.origins)
    }

    fn name_of(&self, version: &VersionRef) -> String {
        format!("{self}@{}", version.name)
    }

    /// Opens a version to be sent: a read-only one that is what its stream will call it.
    fn open_to_send(&self, version: &VersionRef) -> Result<(OwnedFd, SubvolInfo)> {
        let (subvolume, info) = self.open_readonly(version)?;
        // The kernel calls it what it was received from, which it no longer is.
        match info.received_uuid != [0; 16] && Root::from(info.clone()).is_altered() {
            true => Err(self.uncertain(version)),
            false => Ok((subvolume, info)),
        }
    }

    /// Opens a version that the receiver is to have too: one that never changed.
    fn open_unaltered(&self, version: &VersionRef) -> Result<(OwnedFd, SubvolInfo)> {
        let (subvolume, info) = self.open_readonly(version)?;
        match Root::from(info.clone()).is_altered() {
            true => Err(self.uncertain(version)),
            false => Ok((subvolume, info)),
        }
    }

    fn open_readonly(&self, version: &VersionRef) -> Result<(OwnedFd, SubvolInfo)> {
        let subvolume = self.open_version(version)?;
        let info =
            btrfs::get_subvol_info(subvolume.as_fd()).map_err(Error::io("read", self.name_of(version)))?;
        match info.readonly {
            true => Ok((subvolume, info)),
            false => Err(self.uncertain(version)),
        }
    }

    fn uncertain(&self, version: &VersionRef) -> Error {
        Error::Refused {
            op: "send",
            subject: self.name_of(version),
            why: format!("@{} was made writable, so its content is no longer certain", version.name),
            hint: Some(format!("cowsnap snapshot {}, and send that in full", quoted(self))),
        }
    }

    /// Takes a snapshot of the live dataset that is destroyed with the answer: its root, read-only.
    ///
    /// # Errors
    /// As [`Dataset::open`] and [`Dataset::stage`].
    pub fn fleeting_snapshot(&self) -> Result<Fleeting> {
        const NAME: &str = "fleeting";
        let live = self.open()?;
        let staged = self.stage(&NAME.parse().expect("a constant that is a name"), None)?;
        btrfs::snap_create(staged.dir(), staged.name(), live.as_fd(), true)
            .map_err(Error::io("snapshot", self))?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let root = rustix::fs::openat(staged.dir(), staged.name(), flags, rustix::fs::Mode::empty())
            .map_err(Error::io("open", self))?;
        Ok(Fleeting { root, _staged: staged })
    }
}

/// A snapshot without a name that goes with its owner.
#[derive(Debug)]
pub struct Fleeting {
    root: OwnedFd,
    _staged: Staged,
}

impl AsFd for Fleeting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The version to ask the kernel for; 0 for the first, which even kernels write that know of no versions.
fn stream_version(request: &SendRequest, subject: &str) -> Result<u32> {
    let wanted = request.stream_version.max(if request.compressed { 2 } else { 1 });
    let newest = send::newest_stream_version();
    if wanted <= newest {
        return Ok(if wanted == 1 { 0 } else { wanted });
    }
    Err(Error::Denied {
        op: "send",
        subject: subject.into(),
        lacking: format!("version {wanted} of the stream is needed, this kernel writes up to {newest}"),
        hint: Some(format!("leave out --compressed-data, or give --proto {newest}")),
    })
}

/// Where a stream is applied: the dataset's staging place, with the whole filesystem's subvolumes as sources.
struct Here<'a> {
    dataset: &'a Dataset,
    staged: &'a Staged,
    request: &'a ReceiveRequest,
    keeper: Option<Keeper<'a>>,
    /// What is known of it and of the snapshots here of which anything was taken.
    origins: Origins,
}

impl Ground for Here<'_> {
    fn staging(&self) -> BorrowedFd<'_> {
        self.staged.dir()
    }

    fn accept(&mut self, origin: &Origin) -> Result<()> {
        let is = (Guid(origin.uuid), origin.base.map(|(uuid, _)| Guid(uuid)));
        let said = self.request.guid.map_or(is, |guid| (guid, self.request.base));
        if said != is {
            let words = |(guid, base): (Guid, Option<Guid>)| match base {
                Some(base) => format!("{guid} upon {base}"),
                None => format!("{guid} in full"),
            };
            let why = format!("it was announced as {} and is {}", words(said), words(is));
            return Err(Error::Corrupt { what: "btrfs stream", why, source: None });
        }
        if let Some(there) = self.dataset.inventory()?.by_guid(Guid(origin.uuid)) {
            return Err(Error::Exists {
                what: "snapshot",
                subject: self.dataset.name_of(&there.id),
                hint: None,
            });
        }
        match origin.base {
            Some((uuid, ctransid)) if self.find(uuid, ctransid)?.is_none() => Err(self.without_base(uuid)),
            _ => Ok(()),
        }
    }

    fn find(&mut self, uuid: [u8; 16], ctransid: u64) -> Result<Option<OwnedFd>> {
        let found = self.dataset.store().find_received(Guid(uuid), ctransid)?;
        let Some(found) = found.filter(|found| found.info.readonly) else { return Ok(None) };
        let known = grounded::known(self.dataset.store(), &found.info);
        self.origins.add(known);
        if self.request.base == Some(Guid(uuid)) {
            self.origins.add_base(known);
        }
        Ok(Some(found.fd))
    }

    fn wants_to_keep(&mut self, offset: u64) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.is_due(offset))
    }

    fn keep(&mut self, subvolume: BorrowedFd<'_>, midway: Midway) -> Result<()> {
        self.keeper.as_mut().map_or(Ok(()), |keeper| keeper.keep(subvolume, midway, self.origins))
    }

    fn done(&self) {
        self.request.bell.iter().for_each(Bell::ring);
    }
}

impl Here<'_> {
    fn without_base(&self, base: [u8; 16]) -> Error {
        let newest = self.dataset.inventory().ok().and_then(|i| i.newest().map(|v| v.id.name.clone()));
        let from = newest.map_or(String::new(), |name| {
            format!(", or from one that is here: --from {}", quoted(format!("@{name}")))
        });
        Error::Refused {
            op: "receive",
            subject: format!("{}@{}", self.dataset, self.request.name),
            why: format!("it builds upon the snapshot {}, which is not here unchanged", Guid(base)),
            hint: Some(format!("cowsnap send SNAP without --from, in full{from}")),
        }
    }
}
