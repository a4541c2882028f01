//! Layers of overlays: made of what one changed, found by name, put below one.

use super::diff::{copy_of, native_look, no_changes_apart, stack};
use super::{Before, Step, Survivors, deal_with_users, lower, opened, server};
use crate::endpoint::overlay::kernel::MAX_LOWER;
use crate::endpoint::overlay::layer::{self, CommitRequest, DiffRequest, Layer};
use crate::endpoint::overlay::survivors::Survivor;
use crate::endpoint::overlay::{Entry, Generation, Home, Locked, Place, Swapped, native};
use crate::endpoint::{Error, Result};
use crate::model::layer::LayerRef;
use crate::model::overlay::{Base, Copy, LayerId, LayerName, Mode, OverlayName, Record, Xattrs};
use crate::model::quoted;

/// What is to be committed.
#[derive(Debug, Clone)]
pub struct Commit {
    /// What the layer is called.
    pub layer: LayerName,
    /// Of which copy; `None`: the one that there is.
    pub copy: Option<u32>,
    /// What to do with processes that use the tree: they are left with one that nobody can write to, or, in mode native, let alone.
    pub survivors: Survivors,
    /// The time that the layer is said to be made at.
    pub now: jiff::Timestamp,
}

/// What was committed.
#[derive(Debug)]
pub struct Committed {
    /// The layer.
    pub layer: Layer,
    /// Who used the tree: ended, or let alone, as was asked.
    pub survivors: Vec<Survivor>,
    /// False if for an instant nothing showed.
    pub atomic: bool,
    /// Whether the overlay lies on it now: in mode native, it goes on upon its base.
    pub is_below: bool,
    /// What keeps the old tree from being torn down.
    pub old: Vec<std::os::fd::OwnedFd>,
}

/// Makes a layer of what an overlay changed. It shows the same tree afterwards, and lies on that layer.
///
/// Killed anywhere, it was not done, or the overlay shows a new generation already: then whoever opens the overlay next finishes it.
/// What was frozen when this was killed is thawed by whoever opens or reaps it next.
///
/// # Errors
/// [`Error::Refused`] while something uses it or has a file in it open for writing, or if the overlay has several copies or too many
/// layers; [`Error::Exists`] if it has a layer of that name. Nothing was changed then.
pub fn commit(
    home: &Home,
    name: &OverlayName,
    wanted: &Commit,
    before: &mut Before<'_>,
) -> Result<Committed> {
    let (locked, mut record) = opened(home, name)?;
    let copy = check(&record, wanted.copy)?;
    if let Some(there) = Layer::that_has(home, name, &wanted.layer)? {
        return finished(&locked, &record, &copy, there);
    }
    let survivors = deal_with_users(&record, &[&copy], wanted.survivors, "commit overlay")
        .map_err(|error| with_layer(error, &record, &wanted.layer))?;
    if record.mode == Mode::Native {
        let layer = commit_native(&locked, &record, &copy, wanted, before)?;
        return Ok(Committed { layer, survivors, atomic: true, is_below: false, old: Vec::new() });
    }
    before(Step::Freeze)?;
    let server = server(&record)?;
    let generation = locked.generation(copy.number, copy.generation);
    let below = lower(&locked, &record, server)?;
    let was = record.clone();
    let place = Place { overlay: &locked, record: &was, lower: &below, copy: &copy };
    if !record.options.volatile && !server.is_shown(&place)? {
        return Err(not_shown(&record));
    }
    generation.mark_frozen()?;
    let frozen = server.freeze(&place, &generation);
    let made = frozen.and_then(|()| build_upon(&place, &mut record, (&locked, &generation, wanted), before));
    match made {
        Ok((layer, swapped)) => {
            let old = swapped.old.into_iter().collect();
            Ok(Committed { layer, survivors, atomic: swapped.atomic, is_below: true, old })
        }
        Err(error) => {
            if generation.is_frozen()
                && let Err(frozen) =
                    server.thaw(&place, &generation).and_then(|()| generation.unmark_frozen())
            {
                tracing::warn!(overlay = %name, error = %frozen, "nobody can write to it until it is reset");
            }
            Err(error)
        }
    }
}

/// It is frozen where it shows.
fn not_shown(record: &Record) -> Error {
    Error::Refused {
        op: "commit overlay",
        subject: record.name.to_string(),
        why: "it does not show".into(),
        hint: Some(format!("cowsnap overlay mount {}", quoted(&record.name))),
    }
}

/// Makes a layer of what makes the clone another tree than the base: it is written out as it is at one instant.
fn commit_native(
    locked: &Locked,
    record: &Record,
    copy: &Copy,
    wanted: &Commit,
    before: &mut Before<'_>,
) -> Result<Layer> {
    let of_copy = lies_on(locked, record, copy)?;
    check_room(&of_copy)?;
    before(Step::Freeze)?;
    let look = native_look(locked, &of_copy, copy)?;
    before(Step::Layer)?;
    layer::commit_apart(locked.home(), look.stack(), &request(&of_copy, wanted), &mut || before(Step::Name))
}

/// The record with the layers that this one copy lies on: after a reset that did not reach all copies, others than the record says.
fn lies_on(locked: &Locked, record: &Record, copy: &Copy) -> Result<Record> {
    let generation = locked.generation(copy.number, copy.generation);
    let layers = generation.layers()?.unwrap_or_else(|| record.layers.clone());
    match native::is_made_of(locked, &generation, layers.last().copied())? {
        true => Ok(Record { layers, ..record.clone() }),
        false => Err(Error::Refused {
            op: "commit overlay",
            subject: format!("copy {} of {}", copy.number, record.name),
            why: "it was made of another tree than that of the layers that it is said to lie on".into(),
            hint: Some(format!("cowsnap overlay reset {}", quoted(&record.name))),
        }),
    }
}

/// What a commit that was killed has done, if it is the one that is asked for and nothing was changed since.
fn finished(locked: &Locked, record: &Record, copy: &Copy, layer: Layer) -> Result<Committed> {
    let shown = locked.generation(copy.number, copy.generation);
    // A clone never lies on its own layer.
    let was_killed = record.mode != Mode::Native
        && shown.layers()?.is_some_and(|layers| layers.last() == Some(&layer.id()));
    if !was_killed || !layer::diff(&stack(locked, record, &shown)?, 1, DiffRequest::default())?.is_empty() {
        return Err(layer.exists());
    }
    locked.write(record)?;
    shown.forget_layers()?;
    Ok(Committed { layer, survivors: Vec::new(), atomic: true, is_below: true, old: Vec::new() })
}

/// Whether a commit can be done, and of which copy. Changes nothing.
fn check(record: &Record, copy: Option<u32>) -> Result<Copy> {
    if !record.mode.has_layers() {
        return Err(no_changes_apart(record));
    }
    let copy = copy.map(|number| copy_of(record, number)).transpose()?;
    let refused = |why: String, hint: &str| Error::Refused {
        op: "commit overlay",
        subject: record.name.to_string(),
        why,
        hint: Some(hint.into()),
    };
    let n_copies = record.copies.len();
    let copy = match (record.copies.as_slice(), copy) {
        ([only], _) => only,
        // Its clones go on upon what they were made of, each by itself.
        (_, Some(copy)) if record.mode == Mode::Native => copy,
        _ if record.mode == Mode::Native => {
            let hint = format!("cowsnap overlay commit {} LAYER --copy N", quoted(&record.name));
            return Err(refused(format!("it has {n_copies} copies, and each is another tree"), &hint));
        }
        _ => {
            let why = format!("it has {n_copies} copies, and a layer would lie below all of them");
            let hint = "commit from an overlay of one copy, and make the others upon that layer";
            return Err(refused(why, hint));
        }
    };
    if record.mode != Mode::Native {
        check_room(record)?;
    }
    Ok(copy.clone())
}

/// Whether there may be one layer more.
fn check_room(record: &Record) -> Result<()> {
    // The new layer, and the base.
    match record.layers.len() + 2 > MAX_LOWER {
        false => Ok(()),
        true => Err(Error::Refused {
            op: "commit overlay",
            subject: record.name.to_string(),
            why: format!("it has {} layers, and {} are possible", record.layers.len(), MAX_LOWER - 1),
            hint: Some("make an overlay upon a layer further below: overlay list --layers".into()),
        }),
    }
}

fn with_layer(error: Error, record: &Record, layer: &LayerName) -> Error {
    let forced = match record.mode {
        Mode::Native => "takes what there is at one instant, and lets them go on",
        _ => "leaves them with a tree that nobody can write to",
    };
    match error {
        Error::Refused { op, subject, why, hint: Some(_) } => {
            let hint = format!(
                "cowsnap overlay commit --kill {} {} ends them, --force {forced}",
                quoted(&record.name),
                quoted(layer)
            );
            Error::Refused { op, subject, why, hint: Some(hint) }
        }
        other => other,
    }
}

/// Shows a new generation upon the frozen one, and only then makes a layer of that: if this is killed before, what is frozen may be
/// written to again.
fn build_upon(
    place: &Place<'_>,
    record: &mut Record,
    (locked, frozen, wanted): (&Locked, &Generation, &Commit),
    before: &mut Before<'_>,
) -> Result<(Layer, Swapped)> {
    let (home, copy, server) = (locked.home(), place.copy, server(record)?);
    before(Step::Layer)?;
    layer::complete_links(&stack(locked, record, frozen)?, frozen)?;
    let described = layer::describe(frozen, &request(record, wanted))?;
    // Until the record says so too, nobody may take its name or destroy it.
    let lock = home.lock()?;
    described.check_name(home)?;
    before(Step::Generation)?;
    let number = locked.generations(copy.number)?.pop().unwrap_or(0).max(copy.generation) + 1;
    let next = locked.make_generation(copy.number, number, &frozen.upper())?;
    record.layers.push(described.id());
    next.write_layers(&record.layers, !record.options.volatile)?;
    before(Step::Swap)?;
    let lower: Vec<_> = std::iter::once(frozen.upper()).chain(place.lower.iter().cloned()).collect();
    let swapped = server.swap(&Place { record: &*record, lower: &lower, ..*place }, &next)?;
    before(Step::Name)?;
    let layer = described.publish(home)?;
    before(Step::Record)?;
    record.copies.iter_mut().filter(|c| c.number == copy.number).for_each(|c| c.generation = number);
    locked.write(record)?;
    drop(lock);
    next.forget_layers()?;
    Ok((layer, swapped))
}

fn request(record: &Record, wanted: &Commit) -> CommitRequest {
    CommitRequest {
        name: wanted.layer.clone(),
        overlay: record.name.clone(),
        base: record.base.clone(),
        parent: record.layers.last().copied(),
        xattrs: record.options.xattrs,
        now: wanted.now,
    }
}

/// Lets what a killed commit froze be written to again.
pub(super) fn thaw_killed_commit(locked: &Locked, record: &Record) -> Result<()> {
    for copy in &record.copies {
        let generation = locked.generation(copy.number, copy.generation);
        if !generation.is_frozen() {
            continue;
        }
        let server = server(record)?;
        let below = lower(locked, record, server)?;
        let place = Place { overlay: locked, record, lower: &below, copy };
        if server.is_shown(&place)? {
            server.thaw(&place, &generation)?;
        }
        generation.unmark_frozen()?;
    }
    Ok(())
}

/// Finishes commits that were killed after they showed a generation upon the one that was to become a layer: it is made one.
pub(super) fn finish_killed_commit(locked: &Locked, record: &Record) -> Result<()> {
    for copy in &record.copies {
        let shown = locked.generation(copy.number, copy.generation);
        let Some(&top) = shown.layers()?.as_deref().and_then(<[_]>::last) else { continue };
        if locked.home().layer(top).exists() {
            continue;
        }
        for number in locked.generations(copy.number)?.into_iter().filter(|&n| n < copy.generation) {
            let generation = locked.generation(copy.number, number);
            if let Some(described) = layer::described(&generation)?.filter(|found| found.id() == top) {
                let _lock = locked.home().lock()?;
                described.with_free_name(locked.home())?.publish(locked.home())?;
            }
        }
    }
    Ok(())
}

/// The layers that the copies of an overlay lie on as they show, the lowest first; `None` if that is what the record says, or they
/// differ: a commit was killed, or a reset to other layers.
pub(super) fn shown(entry: &Entry, record: &Record) -> Result<Option<Vec<LayerId>>> {
    let mut all: Option<Vec<LayerId>> = None;
    for copy in &record.copies {
        let Some(layers) = entry.generation(copy.number, copy.generation).layers()? else { return Ok(None) };
        if all.as_ref().is_some_and(|others| *others != layers) {
            return Ok(None);
        }
        all = Some(layers);
    }
    Ok(all)
}

/// A layer and those that it builds on, the lowest first.
fn ids(home: &Home, layer: &Layer) -> Result<Vec<LayerId>> {
    Ok(layer.chain(home)?.iter().rev().map(Layer::id).collect())
}

/// Whether a layer means something where it is to lie: upon this base, with marks that are understood there.
pub(super) fn check_fits(record: &Record, layer: &Layer) -> Result<()> {
    let found = layer.record();
    let why = if !record.mode.has_layers() {
        format!("mode {} has none", record.mode)
    } else if found.base.identity != record.base.identity {
        format!("it was made upon another base, {}", found.base.path.as_path().display())
    } else if found.xattrs != record.options.xattrs {
        format!(
            "its marks are {}…, and {}… are read here",
            found.xattrs.prefix(),
            record.options.xattrs.prefix()
        )
    } else {
        return Ok(());
    };
    Err(unfit(record, layer, why, None))
}

fn unfit(record: &Record, layer: &Layer, why: String, hint: Option<String>) -> Error {
    let subject = format!("layer {} below overlay {}", layer.label(), record.name);
    Error::Refused { op: "put", subject, why, hint }
}

/// Whether the overlay's mode follows what is renamed in the layers that it is to lie on.
pub(super) fn check_followed(entry: &Entry, record: &Record) -> Result<()> {
    if record.mode == Mode::Fuse || record.options.xattrs == Xattrs::Trusted {
        return Ok(());
    }
    for &id in &record.layers {
        let layer = Layer::open(entry.home(), id)?;
        if layer.has_redirects()? {
            let why =
                "in it, directories of what lies below were renamed, which overlayfs follows for root only";
            return Err(unfit(record, &layer, why.into(), Some("use --mode fuse".into())));
        }
    }
    Ok(())
}

/// Makes of the layers below what the overlay's mode needs to lie on them: files whole of which they have parts, or in mode native a tree of all.
/// The caller has not the home's lock.
pub(super) fn make_whole(entry: &Entry, record: &Record) -> Result<()> {
    match record.mode {
        Mode::Fuse => return Ok(()),
        Mode::Native => return put_together(entry, record),
        _ => {}
    }
    for &id in &record.layers {
        let layer = Layer::open(entry.home(), id)?;
        if layer.record().blocks {
            check_fits(record, &layer)?;
            layer::make_whole(entry.home(), &layer, &server(record)?.base(entry, record)?)?;
        }
    }
    Ok(())
}

/// Makes the tree of the layers of which the clones of an overlay of mode native are made.
pub(super) fn put_together(entry: &Entry, record: &Record) -> Result<()> {
    for &id in &record.layers {
        check_fits(record, &Layer::open(entry.home(), id)?)?;
    }
    native::put_together(entry, record)
}

/// What a layer lies on, and it with those between, the lowest first: what an overlay is made with.
///
/// # Errors
/// [`Error::NotFound`] if there is no such layer, or one below it is not here.
pub fn upon(home: &Home, layer: &LayerRef) -> Result<(Base, Vec<LayerId>)> {
    let layer = named(home, &layer.overlay, &layer.layer)?;
    Ok((layer.record().base.clone(), ids(home, &layer)?))
}

/// The layer that a user calls `text`: `LAYER` of this overlay, or any as `OVERLAY@LAYER`; with those below it, the lowest first.
///
/// # Errors
/// [`Error::NotFound`] if there is none of that name.
pub fn stack_to(home: &Home, overlay: &OverlayName, text: &LayerOf) -> Result<Vec<LayerId>> {
    match text {
        LayerOf::Any(layer) => ids(home, &named(home, &layer.overlay, &layer.layer)?),
        LayerOf::This(layer) => {
            let (_locked, record) = opened(home, overlay)?;
            stack_of(home, &record, layer)
        }
    }
}

/// The layer of that name that an overlay lies on, or that was committed from it; with those below it, the lowest first.
pub(super) fn stack_of(home: &Home, record: &Record, name: &LayerName) -> Result<Vec<LayerId>> {
    let below = record.layers.iter().rev().map(|&id| Layer::open(home, id)).collect::<Result<Vec<_>>>()?;
    let layer = match below.into_iter().find(|below| below.record().name == *name) {
        Some(below) => below,
        None => named(home, &record.name, name)?,
    };
    ids(home, &layer)
}

/// A layer as a command names it that also names an overlay.
#[derive(Debug, Clone)]
pub enum LayerOf {
    /// One below that overlay, or committed from it.
    This(LayerName),
    /// Any.
    Any(LayerRef),
}

impl std::str::FromStr for LayerOf {
    type Err = crate::model::name::Error;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        match text.contains('@') {
            true => text.parse().map(Self::Any),
            false => text.parse().map(Self::This),
        }
    }
}

/// A layer of an overlay; the overlay itself need not be there any more.
///
/// # Errors
/// [`Error::NotFound`].
pub fn named(home: &Home, overlay: &OverlayName, layer: &LayerName) -> Result<Layer> {
    Layer::named(home, overlay, layer)
}
