//! Overlays made.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Before, Step, layers, lower, server};
use crate::endpoint::each::each_by;
use crate::endpoint::overlay::layer::Layer;
use crate::endpoint::overlay::{self, Home, Locked, Place, probe};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{
    Base, BaseKind, Copy, FORMAT, LayerId, Mode, Options, OverlayName, Owner, Record, State, Xattrs,
    place_of_copy,
};
use crate::model::quoted;
use crate::plan::overlay::choose::{self, Choice, Facts};
use crate::sys::{mount, namespace};

/// What is to be made.
#[derive(Debug, Clone)]
pub struct New {
    /// What it is called.
    pub name: OverlayName,
    /// What it lies on.
    pub base: Base,
    /// Where it shows; several copies show in directories of this one.
    pub at: PathBuf,
    /// How many trees.
    pub copies: u32,
    /// How it is served; `None` chooses.
    pub mode: Option<Mode>,
    /// Whose it is; `None` keeps it until it is destroyed.
    pub owner: Option<Owner>,
    /// Whether its changes outlast a crash of the machine.
    pub durable: bool,
    /// The layers on the base, the lowest first.
    pub layers: Vec<LayerId>,
    /// What only its mode knows, by name.
    pub more: std::collections::BTreeMap<String, serde_json::Value>,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Created {
    /// As it is written down.
    pub record: Record,
    /// What the user should know before the tree is used.
    pub warnings: Vec<String>,
}

/// Makes an overlay and shows it. An error leaves nothing of it.
///
/// # Errors
/// [`Error::Exists`] for a name that is taken; [`Error::Refused`] for a place that is not free, or a base that the place or the home
/// lies in; [`Error::Denied`] if nothing here can serve it; [`Error::Foreign`] for a home that can hold no layers.
pub fn create(home: &Home, new: &New, before: &mut Before<'_>) -> Result<Created> {
    let (record, warnings) = plan(home, new)?;
    before(Step::Announce)?;
    let locked = home.announce(&record)?;
    match make(&locked, record.clone(), before) {
        Ok(record) => Ok(Created { record, warnings }),
        Err(error) => {
            // Whatever this can not undo, the next reap finds by the record.
            if let Err(left) = super::destroy::destroy_locked(locked, record, &mut super::unhindered) {
                tracing::warn!(overlay = %new.name, error = %left, "what was made of it stays until the next reap");
            }
            Err(error)
        }
    }
}

/// What would be made, and what there is to warn of. Changes nothing.
///
/// # Errors
/// As [`create`].
pub fn plan(home: &Home, new: &New) -> Result<(Record, Vec<String>)> {
    if home.entry(&new.name).dir().exists() {
        return Err(Error::Exists {
            what: "overlay",
            subject: new.name.to_string(),
            hint: Some(hint_at(home, &new.name)),
        });
    }
    let xattrs = probe::xattrs(home)?;
    let at = resolve(&new.at)?;
    check_apart(home, new, &at)?;
    let mut warnings = check_base(home, new, &at)?;
    let (choice, reflink) = choose_mode(home, new)?;
    let copies = (1..=new.copies).map(|number| {
        let at = place_of_copy(&at, number, new.copies);
        Copy { number, at: at.as_path().into(), generation: 1 }
    });
    let copies: Vec<_> = copies.collect();
    for copy in &copies {
        check_place(copy.at())?;
    }
    warnings.extend(choice.warnings);
    warnings.extend(to_be_made_whole(home, &new.layers, choice.mode)?);
    let mut more = new.more.clone();
    if matches!(choice.mode, Mode::Reflink | Mode::Copy | Mode::Recreate) && probe::may_mount().is_err() {
        more.insert(overlay::EXCHANGED.into(), true.into());
    }
    if choice.mode == Mode::Kernel && xattrs == Xattrs::Trusted && reflink == Some(false) {
        // A change of mode or owner then copies no data.
        more.insert("metacopy".into(), true.into());
    }
    if new.base.kind == BaseKind::Dir
        && let Some(born) = overlay::base::birth(new.base.path.as_path())
    {
        more.insert(overlay::base::BORN.into(), born.into());
    }
    let record = Record {
        format: FORMAT,
        name: new.name.clone(),
        mode: choice.mode,
        why: choice.why,
        uid: rustix::process::getuid().as_raw(),
        base: new.base.clone(),
        layers: new.layers.clone(),
        made: missing(copies.iter().map(Copy::at)),
        copies,
        owner: new.owner.clone(),
        options: Options { volatile: !new.durable, xattrs, more },
        created: jiff::Timestamp::now(),
        state: State::Making,
    };
    server(&record)?.check(home, &record)?;
    Ok((record, warnings))
}

/// What helps whoever finds the name taken.
fn hint_at(home: &Home, name: &OverlayName) -> String {
    let quoted = quoted(name);
    match super::reap::is_elsewhere(&home.entry(name)) {
        true => format!(
            "its owner is in another pid namespace, a container's say, which is not to be seen from here; if that is gone: \
             cowsnap overlay destroy {quoted}"
        ),
        false => format!("cowsnap overlay reset {quoted}, or cowsnap overlay destroy {quoted}"),
    }
}

fn make(locked: &Locked, mut record: Record, before: &mut Before<'_>) -> Result<Record> {
    before(Step::Places)?;
    for copy in &record.copies {
        fs::create_dir_all(copy.at()).map_err(Error::io("make directory", copy.at().display()))?;
    }
    let server = server(&record)?;
    before(Step::Base)?;
    layers::check_followed(locked, &record)?;
    layers::make_whole(locked, &record)?;
    let lower = lower(locked, &record, server)?;
    before(Step::Generation)?;
    let generations = each_by(server.at_once(), &record.copies, |copy| {
        locked.make_generation(copy.number, copy.generation, &lower[0])
    })?;
    before(Step::Show)?;
    let made: Vec<_> = record.copies.iter().zip(&generations).collect();
    each_by(server.at_once(), &made, |(copy, generation)| {
        server.show(&Place { overlay: locked, record: &record, lower: &lower, copy }, generation)
    })?;
    before(Step::Record)?;
    record.state = State::Ready;
    locked.write(&record)?;
    Ok(record)
}

/// What is to be said of the layers of which files have to be made whole first.
fn to_be_made_whole(home: &Home, layers: &[LayerId], mode: Mode) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for &id in layers.iter().filter(|_| mode != Mode::Fuse) {
        let layer = Layer::open(home, id)?;
        let bytes = layer.to_be_made_whole()?;
        if bytes > 0 {
            warnings.push(format!(
                "layer {} has only blocks of some files, which mode {mode} can not read: they are made whole first, {} MiB",
                layer.label(),
                bytes.div_ceil(1 << 20)
            ));
        }
    }
    Ok(warnings)
}

/// The mode, and whether what lies below can share blocks with the home's files as far as that is known.
fn choose_mode(home: &Home, new: &New) -> Result<(Choice, Option<bool>)> {
    let layers = new.layers.iter().map(|&id| Layer::open(home, id)).collect::<Result<Vec<_>>>()?;
    let facts = facts(home, new, &layers)?;
    let choice = choose::choose(&facts, new.mode).map_err(|no_mode| Error::Denied {
        op: "make overlay",
        subject: new.name.to_string(),
        lacking: no_mode.to_string(),
        hint: facts.no_mount.filter(|_| new.mode != Some(Mode::Fuse)).map(|_| {
            "run it as root; an ordinary user: cowsnap overlay run …, or all of the work within unshare -rm".into()
        }),
    })?;
    Ok((choice, facts.reflink))
}

/// What a mode is chosen by.
fn facts(home: &Home, new: &New, layers: &[Layer]) -> Result<Facts> {
    let base = &new.base;
    let served = Mode::ALL.into_iter().filter(|&mode| overlay::served(mode).is_some()).collect();
    let native = overlay::native::can_clone(base);
    let against_native = native.as_ref().ok().and_then(|_| overlay::native::against(base));
    let takes_clone = native.is_ok() && against_native.is_none() && layers.is_empty();
    let copies_up = match new.mode {
        None => !takes_clone,
        Some(mode) => matches!(mode, Mode::Kernel | Mode::Squashfs | Mode::Erofs),
    };
    let copied = match copies_up {
        true => copied(home, base, layers)?,
        false => Copied { reflink: None, files: probe::Files { largest: None, all: true } },
    };
    Ok(Facts {
        base: base.kind,
        image: match base.kind {
            BaseKind::Image => Some(overlay::image::of_file(base.path.as_path())?.1),
            _ => None,
        },
        served,
        native,
        against_native,
        no_mount: probe::may_mount().err(),
        against_overlayfs: probe::against_overlayfs(home)?,
        layers: !layers.is_empty(),
        blocks: layers.iter().any(|layer| layer.record().blocks),
        reflink: copied.reflink,
        largest: copied.files.largest.map(|(path, size)| (path.display().to_string(), size)),
        looked_at_all: copied.files.all,
        no_fuse: overlay::fuse::probe::unusable(),
    })
}

/// What a first write through overlayfs would copy.
struct Copied {
    /// Whether blocks are shared instead; `None` if that is not known.
    reflink: Option<bool>,
    /// The files of the trees that share none, as far as is known.
    files: probe::Files,
}

/// Looks at all that lies below: the largest file may be a layer's.
fn copied(home: &Home, base: &Base, layers: &[Layer]) -> Result<Copied> {
    let of_base = probe::Below::of_base(base);
    let mut files = probe::Files { largest: None, all: of_base.is_some() || base.kind == BaseKind::None };
    let mut shared = Vec::new();
    for below in of_base.into_iter().chain(layers.iter().map(probe::Below::of_layer)) {
        let shares = below.can_reflink(home)?;
        if shares != Some(true) {
            let found = below.largest_file();
            if found == (probe::Files { largest: None, all: true }) {
                continue;
            }
            let larger = [files.largest.take(), found.largest].into_iter().flatten();
            files.largest = larger.max_by_key(|(_, len)| *len);
            files.all &= found.all;
        }
        shared.push(shares);
    }
    let reflink = match shared.contains(&Some(false)) {
        true => Some(false),
        false => Some(true).filter(|_| files.all && !shared.is_empty() && !shared.contains(&None)),
    };
    Ok(Copied { reflink, files })
}

/// Nothing of the home is a place, as it would be taken for part of it; but an overlay may show in its own directory.
fn check_apart(home: &Home, new: &New, at: &Path) -> Result<()> {
    if !at.starts_with(home.dir()) || at.starts_with(home.entry(&new.name).dir()) {
        return Ok(());
    }
    Err(Error::Refused {
        op: "show an overlay at",
        subject: at.display().to_string(),
        why: format!("it lies in the home {}", home.dir().display()),
        hint: Some("choose a place outside of the home".into()),
    })
}

/// Refuses what would lie on itself; warns of what is mounted in the base, which an overlay does not show.
fn check_base(home: &Home, new: &New, at: &Path) -> Result<Vec<String>> {
    if new.base.kind != BaseKind::Dir {
        return Ok(Vec::new());
    }
    let base = new.base.path.as_path();
    let refused = |why: String, hint: Option<String>| Error::Refused {
        op: "make overlay",
        subject: new.name.to_string(),
        why,
        hint,
    };
    if home.dir().starts_with(base) {
        let why = format!("the home {} lies in the base {}", home.dir().display(), base.display());
        return Err(refused(why, Some("cowsnap overlay --home DIR …, with a DIR outside of it".into())));
    }
    if at.starts_with(base) || base.starts_with(at) {
        let why = format!("{} and the base {} lie in one another", at.display(), base.display());
        return Err(refused(why, Some("choose a place outside of the base".into())));
    }
    let mounts = mount::mounts().map_err(Error::io("read", "the table of mounts"))?;
    let inside = mounts.iter().filter(|mounted| mounted.dir != base && mounted.dir.starts_with(base));
    let places: Vec<_> = inside.map(|mounted| mounted.dir.display().to_string()).collect();
    let mut warnings = Vec::new();
    if !places.is_empty() {
        warnings
            .push(format!("what is mounted in the base does not show in the overlay: {}", places.join(", ")));
    }
    if let Some(path) = probe::somebody_elses(base) {
        warnings.push(format!(
            "{} is somebody else's or of another group: without root, such files can be read and replaced, not written to",
            path.display()
        ));
    }
    Ok(warnings)
}

/// An absolute path without symbolic links, of which the last components need not be there yet.
///
/// # Errors
/// A path that leads back up from what is not there.
pub fn resolve(at: &Path) -> Result<PathBuf> {
    let at = std::path::absolute(at).map_err(Error::io("find", at.display()))?;
    let there = at.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    let rest = at.strip_prefix(there).expect("an ancestor");
    if rest.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Error::NotFound { what: "directory", subject: at.display().to_string(), hint: None });
    }
    let real = there.canonicalize().map_err(Error::io("find", there.display()))?;
    Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
}

/// A copy's place is an empty directory on which nothing of an overlay is mounted, or nothing yet.
fn check_place(at: &Path) -> Result<()> {
    let refused = |why: &str| Error::Refused {
        op: "show an overlay at",
        subject: at.display().to_string(),
        why: why.into(),
        hint: None,
    };
    match fs::read_dir(at) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(refused("it is not a directory"))
        }
        Err(error) => Err(Error::io("list", at.display())(error)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(refused("it is not empty, and would be hidden")),
        },
    }
}

/// The directories that are not there yet of these and of what they lie in, the innermost first.
fn missing<'a>(places: impl Iterator<Item = &'a Path>) -> Vec<crate::model::PathText> {
    let mut missing = std::collections::BTreeSet::new();
    for place in places {
        missing.extend(place.ancestors().take_while(|path| !path.exists()).map(Path::to_owned));
    }
    missing.iter().rev().map(|path| path.as_path().into()).collect()
}

/// Whether this process is root, and not only of its own users.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root() && !namespace::has_users_of_its_own()
}
