//! The applying thread: one command after another onto the staging subvolume.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::data::Sources;
use super::fault::Fault;
use super::feed::Batches;
use super::frozen::{Frozen, thaw_root};
use super::make::{Guess, Node, Pending, disinherit_root};
use super::open::Open;
use super::tree::Tree;
use super::{Applied, Ground, Midway, Origin};
use crate::endpoint::{Error, Result};
use crate::model::Guid;
use crate::stream::btrfs::{Command, Time, Version};
use crate::sys::{btrfs, file};

/// A subvolume in the making.
pub(super) struct Applier<'g> {
    pub(super) ground: &'g mut dyn Ground,
    pub(super) origin: Origin,
    pub(super) tree: Tree,
    pub(super) open: Option<Open>,
    pub(super) pending: Option<Pending>,
    pub(super) sources: Sources,
    pub(super) frozen: Frozen,
    pub(super) guess: Guess,
    /// Who owns what this thread makes: user and group.
    pub(super) owner: (u32, u32),
    /// What the root's times are to be at the end: the base's, until the stream says others.
    pub(super) root_times: Option<(Time, Time)>,
    pub(super) encoded_writes_work: bool,
    /// Whether the stream has kept any file from copy-on-write.
    pub(super) has_set_nocow: bool,
    /// Whether it is a plain tree, on whatever filesystem.
    pub(super) plain: bool,
    /// The root's inode, which gets no flags that would be in the way.
    pub(super) root_inode: u64,
}

/// Applies all of `batches`, which is the stream of one subvolume, or with `midway` the rest of it.
pub(super) fn run(
    batches: &mut Batches,
    ground: &mut dyn Ground,
    name: &OsStr,
    midway: Option<Midway>,
) -> Result<Applied> {
    let (subvolume, mut applier) = match midway {
        None => {
            let origin = first(batches)?;
            ground.accept(&origin)?;
            let subvolume = make_subvolume(ground, name, &origin)?;
            let applier = Applier::begun(ground, &subvolume, origin)?;
            (subvolume, applier)
        }
        Some(midway) => {
            ground.accept(&midway.origin)?;
            let subvolume = open_subvolume(ground, name)?;
            let applier = Applier::resumed(ground, &subvolume, midway)?;
            (subvolume, applier)
        }
    };
    loop {
        let (item, more) = match batches.next_run() {
            Ok(Some(run)) => run,
            Ok(None) => break,
            Err(error) => {
                applier.keep_at_a_cut(batches.place(), &subvolume, &error);
                return Err(error);
            }
        };
        if item.command == Command::End {
            let end = item.offset;
            // It may still be cut behind its last command: what that does is not done before all is there.
            match batches.next_command() {
                Ok(None) => {}
                Ok(Some(second)) => return Err(second_subvolume(second.offset)),
                Err(error) => {
                    let place = batches.place().map(|(_, version)| (end, version));
                    applier.keep_at_a_cut(place, &subvolume, &error);
                    return Err(error);
                }
            }
            applier.end(end)?;
            return Ok(Applied { subvolume, name: name.to_owned(), origin: applier.origin });
        }
        applier.command(item.offset, &item.command)?;
        if !more.is_empty() {
            let written = applier.write_on(&item.command, &more);
            written.map_err(|fault| applier.failed(fault, item.offset, &item.command))?;
        }
        applier.keep_if_wanted(batches, &subvolume)?;
    }
    // The framer lets no stream end without its end command.
    Err(Error::Corrupt { what: "btrfs stream", why: "it has no end".into(), source: None })
}

fn first(batches: &mut Batches) -> Result<Origin> {
    let Some(item) = batches.next_command()? else {
        return Err(Error::Corrupt { what: "btrfs stream", why: "it is empty".into(), source: None });
    };
    match item.command {
        Command::Subvol { path, uuid, ctransid } => {
            Ok(Origin { uuid, ctransid, path: path.to_vec(), base: None })
        }
        Command::Snapshot { path, uuid, ctransid, clone_uuid, clone_ctransid } => {
            Ok(Origin { uuid, ctransid, path: path.to_vec(), base: Some((clone_uuid, clone_ctransid)) })
        }
        other => Err(Fault::Hostile("the stream does not begin with a subvolume").at(item.offset, &other)),
    }
}

fn second_subvolume(offset: u64) -> Error {
    Error::Refused {
        op: "receive",
        subject: "the stream".into(),
        why: format!("a second subvolume begins at byte {offset}; one is received at a time"),
        hint: Some("send each snapshot by a call of its own".into()),
    }
}

fn missing_base(guid: Guid, ctransid: u64) -> Error {
    Error::Refused {
        op: "receive",
        subject: "the increment".into(),
        why: format!("its base {guid} (transaction {ctransid}) is not here"),
        hint: Some(format!("receive snapshot {guid} first, or send in full")),
    }
}

/// Makes the staging subvolume, empty or as a writable snapshot of the base.
fn make_subvolume(ground: &mut dyn Ground, name: &OsStr, origin: &Origin) -> Result<OwnedFd> {
    if ground.is_plain() {
        if origin.base.is_none() {
            mkdirat(ground.staging(), name, Mode::RWXU)
                .map_err(Error::io("make", "the staging directory"))?;
        }
        return open_subvolume(ground, name);
    }
    match origin.base {
        None => btrfs::subvol_create(ground.staging(), name),
        Some((uuid, ctransid)) => {
            let base = ground.find(uuid, ctransid)?.ok_or_else(|| missing_base(Guid(uuid), ctransid))?;
            btrfs::snap_create(ground.staging(), name, base.as_fd(), false)
        }
    }
    .map_err(Error::io("make", "the staging subvolume"))?;
    open_subvolume(ground, name)
}

fn open_subvolume(ground: &dyn Ground, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(ground.staging(), name, flags, Mode::empty()).map_err(Error::io("open", "the staging subvolume"))
}

/// When it was read and written to last.
fn times_of(directory: BorrowedFd<'_>) -> Result<(Time, Time), Errno> {
    let stat = fstat(directory)?;
    let time = |sec, nsec| Time { sec, nsec: nsec as u32 };
    Ok((time(stat.st_atime, stat.st_atime_nsec), time(stat.st_mtime, stat.st_mtime_nsec)))
}

impl<'g> Applier<'g> {
    fn new(ground: &'g mut dyn Ground, subvolume: &OwnedFd, origin: Origin) -> Result<Self> {
        let io = |error| Error::io("prepare", "the staging subvolume")(error);
        file::clear_umask_of_this_thread().map_err(io)?;
        thaw_root(subvolume.as_fd()).map_err(Error::io("prepare", "the staging subvolume"))?;
        let root = subvolume.try_clone().map_err(io)?;
        let plain = ground.is_plain();
        Ok(Self {
            ground,
            origin,
            tree: Tree::new(root, plain).map_err(Error::io("read", "the staging subvolume"))?,
            open: None,
            pending: None,
            sources: Sources::default(),
            frozen: Frozen::default(),
            guess: Guess::default(),
            owner: (geteuid().as_raw(), getegid().as_raw()),
            root_times: None,
            encoded_writes_work: !plain,
            has_set_nocow: false,
            plain,
            root_inode: fstat(subvolume).map_err(Error::io("read", "the staging subvolume"))?.st_ino,
        })
    }

    /// Begins with what is there: nothing, or the base.
    fn begun(ground: &'g mut dyn Ground, subvolume: &OwnedFd, origin: Origin) -> Result<Self> {
        let root_times = match origin.base {
            Some(_) => times_of(subvolume.as_fd()).map(Some),
            None => disinherit_root(subvolume.as_fd(), ground.is_plain()).map(|()| None),
        }
        .map_err(Error::io("prepare", "the staging subvolume"))?;
        Ok(Self { root_times, ..Self::new(ground, subvolume, origin)? })
    }

    /// Goes on with what was kept.
    fn resumed(ground: &'g mut dyn Ground, subvolume: &OwnedFd, midway: Midway) -> Result<Self> {
        let Midway { origin, frozen, root_times, has_set_nocow, .. } = midway;
        let new = Self::new(ground, subvolume, origin)?;
        Ok(Self { frozen: Frozen::from_bits(frozen), root_times, has_set_nocow, ..new })
    }

    /// Lets the ground keep what there is, if it wants to and nothing waits for the next command.
    fn keep_if_wanted(&mut self, batches: &Batches, subvolume: &OwnedFd) -> Result<()> {
        let Some((offset, version)) = batches.place() else { return Ok(()) };
        if self.pending.is_some() || !self.ground.wants_to_keep(offset) {
            return Ok(());
        }
        self.keep(subvolume, offset, version)
    }

    /// Lets the ground keep all that has come of a stream that was cut: who goes on need not send it again. What speaks against that is
    /// nothing beside the cut itself.
    fn keep_at_a_cut(&mut self, place: Option<(u64, Version)>, subvolume: &OwnedFd, error: &Error) {
        let is_cut = matches!(error, Error::Io { .. } | Error::Interrupted { .. });
        let Some((offset, version)) = place.filter(|_| is_cut) else { return };
        let made = self.pending.take().map_or(Ok(()), |pending| self.make_pending(&pending));
        if let Err(error) = made.and_then(|()| self.keep(subvolume, offset, version)) {
            tracing::debug!(%error, offset, "what was received so far is not kept");
        }
    }

    fn keep(&mut self, subvolume: &OwnedFd, offset: u64, version: Version) -> Result<()> {
        self.leave().map_err(|fault| fault.at(offset, &Command::End))?;
        let midway = Midway {
            offset,
            stream_version: version.number(),
            origin: self.origin.clone(),
            frozen: self.frozen.to_bits(),
            root_times: self.root_times,
            has_set_nocow: self.has_set_nocow,
        };
        self.ground.keep(subvolume.as_fd(), midway)
    }

    /// Applies one command; one that makes something waits for the next, which mostly renames it.
    fn command(&mut self, offset: u64, command: &Command<'_>) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            if let Command::Rename { path, to } = *command
                && path == pending.path
            {
                let made = self.retrying(command, |a| a.make_renamed(&pending, to));
                return made.map_err(|fault| self.failed_to(pending.is_uncommon(), fault, offset, command));
            }
            self.make_pending(&pending)?;
        }
        if let Some(pending) = Pending::of(offset, command) {
            self.pending = Some(pending);
            return Ok(());
        }
        let done = self.retrying(command, |a| a.dispatch(command));
        done.map_err(|fault| self.failed(fault, offset, command))
    }

    fn make_pending(&mut self, pending: &Pending) -> Result<()> {
        let command = pending.command();
        let made = self.retrying(&command, |a| a.make(&pending.node, &pending.path));
        made.map_err(|fault| self.failed(fault, pending.offset, &command))
    }

    /// The whole receive's error.
    fn failed(&self, fault: Fault, offset: u64, command: &Command<'_>) -> Error {
        self.failed_to(is_uncommon(command), fault, offset, command)
    }

    /// The same, where it is known whether all of this can be had on any filesystem.
    fn failed_to(&self, uncommon: bool, fault: Fault, offset: u64, command: &Command<'_>) -> Error {
        match self.plain {
            // Who may do all is told so for what can not be.
            true => fault.at_plain(offset, command, uncommon && self.owner.0 == 0),
            false => fault.at(offset, command),
        }
    }

    /// Runs `act`, and once more if an immutable flag was in the way: the flag comes back at the end.
    pub(super) fn retrying(
        &mut self,
        command: &Command<'_>,
        mut act: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        match act(self) {
            Err(fault) if fault.is_not_permitted() && self.thaw(command)? => act(self),
            done => done,
        }
    }

    fn dispatch(&mut self, command: &Command<'_>) -> Result<(), Fault> {
        match *command {
            Command::Rename { path, to } => self.rename(path, to),
            Command::Link { path, target } => self.link(path, target),
            Command::Unlink { path } => self.unlink(path),
            Command::Rmdir { path } => self.rmdir(path),
            Command::SetXattr { path, name, data } => self.set_xattr(path, name, data),
            Command::RemoveXattr { path, name } => self.remove_xattr(path, name),
            Command::Chmod { path, mode } => self.chmod(path, mode),
            Command::Chown { path, uid, gid } => self.chown(path, uid, gid),
            Command::Utimes { path, atime, mtime, .. } => self.utimes(path, atime, mtime),
            Command::Fileattr { path, flags } => self.fileattr(path, flags),
            Command::Subvol { .. } | Command::Snapshot { .. } => {
                Err(Fault::Hostile("a second subvolume begins within the first"))
            }
            _ => self.dispatch_data(command),
        }
    }

    fn dispatch_data(&mut self, command: &Command<'_>) -> Result<(), Fault> {
        match *command {
            Command::Write { path, offset, data } => self.write(path, offset, data),
            Command::Clone { .. } => self.clone_range(command),
            Command::Truncate { path, size } => self.truncate(path, size),
            Command::Fallocate { path, mode, offset, size } => self.fallocate(path, mode, offset, size),
            Command::EncodedWrite { .. } => self.encoded_write(command),
            Command::EnableVerity { path, verity } => self.enable_verity(path, &verity),
            Command::UpdateExtent { .. } => {
                Err(Fault::Hostile("the stream was made without data and can not be received"))
            }
            _ => match Node::of(command) {
                Some((node, path)) => self.make(&node, path),
                None => Ok(()),
            },
        }
    }

    /// Finishes what commands left open.
    fn end(&mut self, offset: u64) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            self.make_pending(&pending)?;
        }
        let ended = self.leave().and_then(|()| self.set_root_times()).and_then(|()| self.freeze_again());
        ended.map_err(|fault| fault.at(offset, &Command::End))
    }
}

/// Whether it asks for what not every filesystem can have.
fn is_uncommon(command: &Command<'_>) -> bool {
    matches!(
        command,
        Command::Symlink { .. }
            | Command::Mkfifo { .. }
            | Command::Mksock { .. }
            | Command::Mknod { .. }
            | Command::Link { .. }
            | Command::Chown { .. }
    )
}
