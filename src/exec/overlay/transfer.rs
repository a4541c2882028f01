//! Layers from one home to another: exported as a container, imported from one.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::endpoint::overlay::layer::{self, ImportRequest, Layer, Onto};
use crate::endpoint::overlay::{Home, base, probe};
use crate::endpoint::{Dataset, Error, History as _, Result, path, zfs};
use crate::model::overlay::{Base, BaseKind, LayerId, LayerName, OverlayName};
use crate::stream::container::{self, Backend, Header, Sealed};
use crate::stream::reader::Reader;
use crate::stream::writer::{self, Protection};
use crate::sys::interrupt;
use crate::sys::pipe::pipe;

/// How many bytes of an archive wait to be put into a container.
const PIPE: usize = 1 << 20;

/// Writes a layer to `out` as a container, encrypted and signed as `protection` says. It is verified first: a damaged one is not exported.
///
/// # Errors
/// What is wrong with the layer, or with the output.
pub fn export(
    layer: &Layer,
    out: impl Write + Send,
    options: &writer::Options,
    protection: &Protection,
) -> Result<Sealed, crate::Error> {
    layer.verify()?;
    let record = layer.record();
    let header = Header {
        backend: Backend::Overlay,
        dataset: record.overlay.to_string(),
        snapshot: record.name.as_str().parse().map_err(crate::Error::Name)?,
        guid: record.id.0,
        base: record.parent.map(|parent| parent.0),
        created: record.created,
        stream_version: 1,
        compressed: false,
        properties: std::collections::BTreeMap::new(),
        zfs: None,
        place: None,
    };
    let (from, to) = pipe(PIPE).map_err(crate::Error::io("make", "a pipe"))?;
    let (from, to) = (File::from(from), File::from(to));
    std::thread::scope(|scope| {
        let archive = scope.spawn(move || layer::export(layer, io::BufWriter::with_capacity(1 << 20, to)));
        let stream = Whole { from, archive: Some(archive) };
        let written = writer::write_protected(&header, stream, out, options, protection);
        written.map_err(|error| failed("export", &layer.label(), error))
    })
}

/// A layer's archive on its way; its error comes out of `read`.
struct Whole<'scope> {
    from: File,
    archive: Option<std::thread::ScopedJoinHandle<'scope, Result<()>>>,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.from.read(buffer)? {
            0 if !buffer.is_empty() => match self.archive.take().map(std::thread::ScopedJoinHandle::join) {
                None | Some(Ok(Ok(()))) => Ok(0),
                Some(Ok(Err(error))) => Err(io::Error::other(error)),
                Some(Err(_)) => Err(io::Error::other("the archive's thread panicked")),
            },
            len => Ok(len),
        }
    }
}

/// Where a layer is put instead of where it was.
#[derive(Debug, Clone, Default)]
pub struct Destination {
    /// The overlay that it is said to be of.
    pub overlay: Option<OverlayName>,
    /// What it is called.
    pub name: Option<LayerName>,
    /// The base or the layer that it is put upon.
    pub onto: Option<Onto>,
}

/// Makes a layer of a container, all of which was verified before the layer is there.
///
/// # Errors
/// A container that is none of a layer, or damaged; [`Error::Refused`] for a layer whose base or parent is not here.
pub fn import(home: &Home, source: &str, mut reader: Reader, to: Destination) -> Result<Layer, crate::Error> {
    let header = reader.header();
    if header.backend != Backend::Overlay {
        let hint = Some("cowsnap receive TARGET".into());
        let (subject, wanted) = (source.to_owned(), "layer of an overlay");
        return Err(Error::Foreign {
            subject,
            wanted,
            why: format!("it was sent by {}", header.backend),
            hint,
        }
        .into());
    }
    let id = LayerId(header.guid);
    let request = ImportRequest {
        id: Some(id),
        xattrs: probe::xattrs(home)?,
        onto: to.onto,
        overlay: to.overlay,
        name: to.name,
    };
    layer::import(home, &mut reader, &request, &is_here).map_err(|error| match interrupt::pending() {
        Some(_) => Error::Interrupted { op: "import", subject: source.to_owned() }.into(),
        None => unwrapped(source, error),
    })
}

/// Whether a base is to be had on this machine, and is the one that was meant.
fn is_here(base: &Base) -> Result<bool> {
    match base.kind {
        BaseKind::None => Ok(true),
        BaseKind::Dir => match base::of_dir(base.path.as_path()) {
            Ok(found) => Ok(found.identity == base.identity),
            Err(Error::NotFound { .. } | Error::Foreign { .. }) => Ok(false),
            Err(error) => Err(error),
        },
        BaseKind::Snapshot => Ok(has_snapshot(base).unwrap_or(false)),
        BaseKind::Image => Ok(base.path.as_path().exists()),
    }
}

fn has_snapshot(base: &Base) -> Result<bool> {
    let at = base.path.as_path();
    let dataset: Dataset = match at.to_str().and_then(|name| name.parse().ok()) {
        Some(name) if !at.is_absolute() => zfs::Dataset::by_name(name).into(),
        _ => path::named(at)?,
    };
    let inventory = dataset.inventory()?;
    Ok(base.version.as_ref().is_some_and(|version| inventory.by_guid(version.guid).is_some()))
}

/// An error of the container that came through the archive's reader, as what it is.
fn unwrapped(source: &str, error: Error) -> crate::Error {
    match error {
        Error::Io { op, subject, source: cause } => match container::Error::from_io(cause) {
            Ok(of_the_container) => crate::Error::container("import", source)(of_the_container),
            Err(cause) => Error::Io { op, subject, source: cause }.into(),
        },
        other => other.into(),
    }
}

/// An error of the archive that came through the container's writer, as what it is.
fn failed(op: &'static str, subject: &str, error: container::Error) -> crate::Error {
    match error {
        container::Error::Read { at, source } => match source.downcast::<Error>() {
            Ok(of_the_layer) => of_the_layer.into(),
            Err(source) => crate::Error::container(op, subject)(container::Error::Read { at, source }),
        },
        other => crate::Error::container(op, subject)(other),
    }
}
