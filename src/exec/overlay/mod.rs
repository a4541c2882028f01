//! Overlays made, reset, destroyed. Each works on records and generations of a [`Home`]; the mode's own part is done by
//! [`Serve`].
//!
//! **Invariant:** what is made is written down before it is there, and what goes is written down until it is gone. A command that
//! is killed anywhere leaves what [`reap()`] finds.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::endpoint::overlay::layer::Layer;
use crate::endpoint::overlay::survivors::{self, Counts, Survivor, Users};
use crate::endpoint::overlay::{self, Entry, Home, Locked, Place, Serve};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Copy, Mode, OverlayName, Record, State};
use crate::model::quoted;

pub mod create;
pub mod destroy;
pub mod diff;
pub mod drill;
pub mod enter;
pub mod layers;
pub mod list;
pub mod mount;
pub mod prune;
pub mod reap;
pub mod reset;
mod room;
pub mod run;
pub mod sweep;
pub mod transfer;

pub use create::{Created, New, create};
pub use destroy::destroy;
pub use diff::diff;
pub use list::{Listed, list};
pub use reap::{Reaping, reap, reap_if_shown_nowhere};
pub use reset::{Reset, give, reset};

/// What is about to be done. Tests end the work, or the process, before each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write down what is about to be made.
    Announce,
    /// Make the directories where it is to show.
    Places,
    /// Reach the base.
    Base,
    /// Make the directory of a generation.
    Generation,
    /// Show it where nothing shows.
    Show,
    /// Show it instead of what shows.
    Swap,
    /// Take the old tree away before there is a new one, as the disk is too full for both.
    Room,
    /// Write down what shows now.
    Record,
    /// Let nobody write any more.
    Freeze,
    /// Describe what was written, as a layer.
    Layer,
    /// Make it the layer.
    Name,
    /// Take the old generation out of the way.
    Discard,
    /// Write down that it is about to be destroyed.
    Mark,
    /// Take a copy out of sight.
    TakeDown,
    /// Let the base go.
    BaseDown,
    /// Take the directories away where it showed.
    RemovePlaces,
    /// Take all of it out of the way.
    DiscardAll,
}

impl Step {
    /// The steps of [`create()`], in their order.
    pub const CREATE: [Self; 6] =
        [Self::Announce, Self::Places, Self::Base, Self::Generation, Self::Show, Self::Record];
    /// The steps of [`reset()`].
    pub const RESET: [Self; 5] = [Self::Base, Self::Generation, Self::Swap, Self::Record, Self::Discard];
    /// The steps of [`layers::commit()`].
    pub const COMMIT: [Self; 6] =
        [Self::Freeze, Self::Layer, Self::Generation, Self::Swap, Self::Name, Self::Record];
    /// The steps of [`destroy()`].
    pub const DESTROY: [Self; 5] =
        [Self::Mark, Self::TakeDown, Self::BaseDown, Self::RemovePlaces, Self::DiscardAll];
}

/// Called before each step; its error ends the work as any other.
pub type Before<'a> = dyn FnMut(Step) -> Result<()> + 'a;

/// What to do with processes that still use a tree that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    /// Refuse to take it from them.
    Refuse,
    /// Leave them with what they have of it.
    Leave,
    /// End them.
    Kill,
}

/// What is refused while somebody uses it.
const RESET: &str = "reset overlay";

/// Deals with whoever uses these copies, before anything of them is changed; who was ended, or is left with an old tree.
fn deal_with_users(
    record: &Record,
    copies: &[&Copy],
    survivors: Survivors,
    op: &'static str,
) -> Result<Vec<Survivor>> {
    // One mount shows all that a filesystem of ours ever showed: whoever was left with an old tree is no user of this one.
    let counts = if record.mode == Mode::Fuse && op == RESET { Counts::Named } else { Counts::All };
    let mut all = users_of(copies, counts)?;
    if record.mode == Mode::Fuse && op == RESET {
        // The filesystem exchanges its layers, wherever it shows.
        all.binds.clear();
    }
    match survivors {
        Survivors::Refuse if !all.is_empty() => return Err(still_used(record, &all, op)),
        // No process that could be ended has it.
        Survivors::Kill if !all.loops.is_empty() => {
            all.survivors.clear();
            return Err(still_used(record, &all, op));
        }
        Survivors::Kill => survivors::kill(&all.survivors)?,
        _ => {}
    }
    Ok(all.survivors)
}

/// Deals with what somebody made in what would go with these copies, before anything of them is changed.
///
/// # Errors
/// [`Error::Refused`], naming it, unless the users are left with what they have: who asks for that is told what goes.
fn deal_with_inside(
    entry: &Entry,
    record: &Record,
    copies: &[&Copy],
    survivors: Survivors,
    op: &'static str,
) -> Result<()> {
    let server = server(record)?;
    if survivors == Survivors::Leave {
        for name in server.give_up_inside(entry, copies)? {
            tracing::warn!("{name} goes with overlay {}", record.name);
        }
        return Ok(());
    }
    let inside = server.made_inside(entry, copies)?;
    if inside.is_empty() {
        return Ok(());
    }
    let named = inside.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match inside.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let command = op.split(' ').next().unwrap_or(op);
    Err(Error::Refused {
        op,
        subject: record.name.to_string(),
        why: format!("somebody made {named}{more} in it, which would go with it"),
        hint: Some(format!("cowsnap overlay {command} --force {}", quoted(&record.name))),
    })
}

/// Who uses these copies.
fn users_of(copies: &[&Copy], counts: Counts) -> Result<Users> {
    let mut all = Users::default();
    for copy in copies {
        let users = survivors::users(copy.at(), counts)?;
        all.survivors.extend(users.survivors);
        all.mounts.extend(users.mounts);
        all.binds.extend(users.binds);
        all.loops.extend(users.loops);
    }
    all.survivors.sort_by_key(|survivor| survivor.pid);
    all.survivors.dedup_by_key(|survivor| survivor.pid);
    Ok(all)
}

/// How many processes are named.
const NAMED: usize = 5;

fn still_used(record: &Record, users: &Users, op: &'static str) -> Error {
    let mut why: Vec<_> =
        users.survivors.iter().take(NAMED).map(|s| format!("{} ({}) {}", s.name, s.pid, s.how)).collect();
    if users.survivors.len() > NAMED {
        why.push(format!("{} more processes use it", users.survivors.len() - NAMED));
    }
    why.extend(
        users.mounts.iter().take(NAMED).map(|dir| format!("something is mounted at {}", dir.display())),
    );
    why.extend(users.binds.iter().take(NAMED).map(|dir| format!("it is bound at {}", dir.display())));
    let loops = users.loops.iter().take(NAMED);
    why.extend(loops.clone().map(|one| format!("{} has {} open", one.device.display(), one.file.display())));
    let (command, name) = (op.split(' ').next().unwrap_or(op), quoted(&record.name));
    let detach: Vec<_> = loops.map(|one| one.device.display().to_string()).collect();
    let hint = match detach.is_empty() {
        true => format!(
            "cowsnap overlay {command} --kill {name} ends them, --force leaves them with the old tree"
        ),
        // It lets go once nobody has it open: what is mounted of it goes first.
        false => format!(
            "losetup -d {} lets go, once nothing of it is mounted; cowsnap overlay {command} --force {name} leaves it with the old tree",
            detach.join(" ")
        ),
    };
    Error::Refused { op, subject: record.name.to_string(), why: why.join(", "), hint: Some(hint) }
}

/// The directory at which a copy is to show, made anew where it is not there: below /run or /tmp it went with the machine. One at
/// which a process was killed that showed something there can not be looked at, and is there.
fn make_place(at: &Path) -> Result<()> {
    match std::fs::create_dir_all(at) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && is_dead(at) => Ok(()),
        other => other.map_err(Error::io("make directory", at.display())),
    }
}

fn is_dead(at: &Path) -> bool {
    let dead = [ErrorKind::NotConnected, ErrorKind::ConnectionAborted];
    at.symlink_metadata().is_err_and(|error| dead.contains(&error.kind()))
}

/// The way to serve an overlay's mode.
fn server(record: &Record) -> Result<&'static dyn Serve> {
    overlay::served(record.mode).ok_or_else(|| no_such_mode(record.mode, &record.name))
}

fn no_such_mode(mode: Mode, name: &OverlayName) -> Error {
    Error::Foreign {
        subject: name.to_string(),
        wanted: "overlay that this version can serve",
        why: format!("its mode is {mode}"),
        hint: Some("use the version of cowsnap that made it".into()),
    }
}

/// The directories below the changes, the topmost first.
fn lower(entry: &Entry, record: &Record, server: &dyn Serve) -> Result<Vec<PathBuf>> {
    let mut lower = Vec::new();
    for &id in record.layers.iter().rev() {
        let layer = Layer::open(entry.home(), id)?;
        layers::check_fits(record, &layer)?;
        match record.mode {
            Mode::Fuse => lower.push(layer.tree_dir()),
            // They are in what its clones are made of.
            Mode::Native => {}
            _ => lower.extend(layer.kernel_dirs()?),
        }
    }
    lower.push(server.base(entry, record)?);
    Ok(lower)
}

/// The overlay of that name with its lock, as it shows: if a command was killed, what shows counts, and not what is written down.
///
/// # Errors
/// [`Error::NotFound`] if there is none; [`Error::Refused`] for one that was left half-made.
pub fn opened(home: &Home, name: &OverlayName) -> Result<(Locked, Record)> {
    let entry = home.entry(name);
    let Some(locked) = entry.lock()? else { return Err(none(home, name)) };
    let Some(mut record) = locked.record()? else { return Err(half_made(name)) };
    if record.state != State::Ready {
        return Err(half_made(name));
    }
    check_answers(&locked, &record)?;
    let (server, written) = (server(&record)?, record.clone());
    for (copy, was) in record.copies.iter_mut().zip(&written.copies) {
        let place = Place { overlay: &locked, record: &written, lower: &[], copy: was };
        let newest = || match locked.generation(was.number, was.generation).dir().exists() {
            true => Ok::<_, Error>(was.generation),
            // The machine crashed after a commit had made a layer of it, and before that was written down for good.
            false => Ok(locked.newest_generation(was.number)?.unwrap_or(was.generation)),
        };
        copy.generation = server.generation_shown(&place)?.map_or_else(newest, Ok)?;
    }
    layers::finish_killed_commit(&locked, &record)?;
    if let Some(layers) = layers::shown(&locked, &record)? {
        record.layers = layers;
    }
    if let Err(error) = layers::thaw_killed_commit(&locked, &record) {
        // A reset shows another tree, which can be written to.
        tracing::warn!(overlay = %name, %error, "nobody can write to it until it is reset");
    }
    if let Err(error) = overlay::native::forget_views(&locked, &record) {
        tracing::warn!(overlay = %name, %error, "a snapshot that a killed command looked at is still there");
    }
    Ok((locked, record))
}

/// See [`overlay::fuse::serve::check_answers`].
fn check_answers(entry: &Entry, record: &Record) -> Result<()> {
    match record.mode {
        Mode::Fuse => overlay::fuse::serve::check_answers(entry),
        _ => Ok(()),
    }
}

fn none(home: &Home, name: &OverlayName) -> Error {
    Error::NotFound {
        what: "overlay",
        subject: name.to_string(),
        hint: Some(format!("cowsnap overlay --home {} list", quoted(home.dir().display()))),
    }
}

fn half_made(name: &OverlayName) -> Error {
    Error::Refused {
        op: "use overlay",
        subject: name.to_string(),
        why: "a command that made or destroyed it was killed".into(),
        hint: Some("cowsnap overlay reap".into()),
    }
}

/// Whether it is lack of space that stood in the way.
fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
}

/// Does nothing before a step.
pub fn unhindered(_: Step) -> Result<()> {
    Ok(())
}
