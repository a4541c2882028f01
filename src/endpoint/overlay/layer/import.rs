//! An archive becomes a layer again. Each entry must be the one that the manifest names next, so what stands in the archive decides
//! about bytes alone; nothing is made outside the staging directory, and nothing has a layer's name before all of it was read back
//! and compared with the manifest.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat,
    chownat, linkat, lsetxattr, makedev, mkdirat, mknodat, symlinkat, utimensat,
};

use super::commit::sync_dir;
use super::export::{maps_of, type_of};
use super::manifest::{self, Data, Kind, Line, Size};
use super::map;
use super::owners;
use super::record::LayerRecord;
use super::scan::{Sparse, hash_attributes, scan, sync_filesystem};
use super::staging::Staging;
use super::store::{Layer, difference};
use super::tree::{Attributes, Tree};
use super::whole;
use crate::endpoint::overlay::home::Home;
use crate::endpoint::{Error, Result, beneath};
use crate::model::overlay::{Base, LayerId, LayerName, OverlayName, Xattrs};
use crate::stream::tar::{self, Member, Reader, Type};

/// The longest manifest that is imported, in bytes.
const MAX_MANIFEST: u64 = 512 << 20;

/// Holes of which all zeros are read: a file that has more was committed as a sparse one.
const MAX_READ_HOLES: u64 = 64 << 30;

/// What an import is told.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// The identity that it must turn out to have, where that is known beforehand.
    pub id: Option<LayerId>,
    /// The namespace that marks are put in here.
    pub xattrs: Xattrs,
    /// What it is put upon instead of its own base and parent.
    pub onto: Option<Onto>,
    /// The overlay that it is said to be of instead of its own.
    pub overlay: Option<OverlayName>,
    /// What it is called instead.
    pub name: Option<LayerName>,
}

/// What a layer is put upon.
#[derive(Debug, Clone)]
pub struct Onto {
    /// The base.
    pub base: Base,
    /// The layer, if there is one between.
    pub parent: Option<LayerId>,
}

/// Reads an archive to its end and makes a layer of it. `here` says whether a base is to be had on this machine.
///
/// # Errors
/// [`Error::Refused`] if the layer's base or parent is not here; [`Error::Exists`] if the layer is; [`Error::Corrupt`] for an archive that
/// is none of a layer; an error of `stream` as it is. Nothing of it is left then.
pub fn import(
    home: &Home,
    stream: impl Read,
    request: &ImportRequest,
    here: &dyn Fn(&Base) -> Result<bool>,
) -> Result<Layer> {
    let mut reader = Reader::new(stream);
    let mut record = read_record(&mut reader)?;
    let from = record.xattrs;
    if request.id.is_some_and(|id| id != record.id) {
        return Err(corrupt(format!(
            "layer.json is that of {}, which the container does not name",
            record.id
        )));
    }
    accept(home, &mut record, request, here)?;
    let text = read_whole(&mut reader, "manifest", MAX_MANIFEST)?;
    if blake3::hash(&text).to_hex().as_str() != record.manifest {
        return Err(corrupt("the manifest is not the one that layer.json names"));
    }
    let lines = manifest::parse(&text).map_err(|bad| corrupt(bad.to_string()))?;
    let staging = Staging::new(home)?;
    let mut unpack = Unpack::new(&staging, (from, record.xattrs), &lines)?;
    unpack.all(&mut reader)?;
    finish_reading(reader)?;
    unpack.finish_dirs()?;
    let write = |name: &str, bytes: &[u8]| {
        let path = staging.dir().join(name);
        File::create(&path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(Error::io("write", path.display()))
    };
    // What it needs here is what its entries say, and not what somebody wrote of them.
    record.blocks = whole::is_needed(&lines, record.xattrs);
    record.entries = lines.len() as u64;
    record.ids = owners::here()?;
    write("manifest", &text)?;
    write("layer.json", record.to_text().as_bytes())?;
    let tree = Tree::open(&staging.tree(), &staging.blocks(), record.xattrs)?;
    if let Some(why) = difference(&lines, &scan(&tree, Sparse::As(&lines))?) {
        return Err(corrupt(why));
    }
    if let Some(number) = unpack.maps.difference(&maps_of(&tree, &lines)?).next() {
        return Err(corrupt(format!("the map blocks/{number} belongs to no file")));
    }
    sync_filesystem(staging.dir())?;
    let _lock = home.lock()?;
    refuse_taken(home, &record)?;
    if let Some(parent) = record.parent {
        // It may have been destroyed meanwhile.
        Layer::open(home, parent)?;
    }
    staging.become_that(&home.layer(record.id))?;
    sync_dir(&home.layers())?;
    Layer::open(home, record.id)
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::Corrupt { what: "layer", why: why.into(), source: None }
}

fn damaged(error: tar::Error) -> Error {
    match error {
        tar::Error::Read { at, source } => {
            Error::io("read", format!("the layer's archive at byte {at}"))(source)
        }
        bad => Error::Corrupt { what: "layer", why: bad.to_string(), source: None },
    }
}

fn next<R: Read>(reader: &mut Reader<R>) -> Result<Option<Member>> {
    reader.entry().map_err(damaged)
}

/// Reads the next entry, which must be the file of that name.
fn read_whole<R: Read>(reader: &mut Reader<R>, name: &str, max: u64) -> Result<Vec<u8>> {
    let member = next(reader)?.filter(|member| member.path == name.as_bytes() && member.kind == Type::File);
    let member = member.ok_or_else(|| corrupt(format!("{name} is not where it belongs in the archive")))?;
    if member.size > max || member.ranges.is_some() {
        return Err(corrupt(format!("{name} has {} bytes, and {max} are possible", member.size)));
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(Error::io("read", "the layer's archive"))?;
    match bytes.len() as u64 == member.size {
        true => Ok(bytes),
        false => Err(corrupt(format!("{name} is cut off"))),
    }
}

fn read_record<R: Read>(reader: &mut Reader<R>) -> Result<LayerRecord> {
    let text = read_whole(reader, "layer.json", 1 << 20)?;
    LayerRecord::parse(&text).map_err(|bad| Error::Corrupt {
        what: "layer",
        why: format!("layer.json: {bad}"),
        source: Some(Box::new(bad)),
    })
}

/// Whether the layer can stand here; it is said to stand where the caller wants it.
fn accept(
    home: &Home,
    record: &mut LayerRecord,
    request: &ImportRequest,
    here: &dyn Fn(&Base) -> Result<bool>,
) -> Result<()> {
    record.xattrs = request.xattrs;
    record.overlay = request.overlay.clone().unwrap_or_else(|| record.overlay.clone());
    record.name = request.name.clone().unwrap_or_else(|| record.name.clone());
    refuse_taken(home, record)?;
    let label = format!("{}@{}", record.overlay, record.name);
    let refuse = |why| Error::Refused {
        op: "import",
        subject: label.clone(),
        why,
        hint: Some("import first what it builds on, or say with --onto what it is put upon".into()),
    };
    if let Some(onto) = &request.onto {
        (record.base, record.parent) = (onto.base.clone(), onto.parent);
    } else if let Some(parent) = record.parent {
        match Layer::open(home, parent) {
            Err(Error::NotFound { .. }) => {
                return Err(refuse(format!("the layer {parent} below it is not here")));
            }
            // What its parent stands upon here, it stands upon too.
            other => record.base = other?.record().base.clone(),
        }
    } else if !here(&record.base)? {
        let why = format!("its base {} is not here, or is another one", record.base.path.as_path().display());
        return Err(refuse(why));
    }
    Ok(())
}

fn refuse_taken(home: &Home, record: &LayerRecord) -> Result<()> {
    match Layer::open(home, record.id) {
        Err(Error::NotFound { .. }) => {}
        there => return Err(there?.exists()),
    }
    match Layer::that_has(home, &record.overlay, &record.name)? {
        Some(there) => Err(there.exists()),
        None => Ok(()),
    }
}

/// Reads on until the stream says that it ended well: a container does so once its trailer was verified.
fn finish_reading<R: Read>(mut reader: Reader<R>) -> Result<()> {
    if next(&mut reader)?.is_some() {
        return Err(corrupt("there is more in the archive than in the manifest"));
    }
    let rest = io::copy(&mut reader.into_inner(), &mut io::sink());
    rest.map(drop).map_err(Error::io("read", "the layer's archive"))
}

struct Unpack<'a> {
    staging: &'a Staging<'a>,
    root: OwnedFd,
    /// The namespace of the marks in the archive, and here.
    xattrs: (Xattrs, Xattrs),
    lines: &'a [Line],
    /// The first name of each file that has several.
    first: HashMap<u32, &'a [u8]>,
    /// The attributes of directories: they get them last, since a directory may forbid what is made in it.
    dirs: Vec<(&'a Line, Attributes)>,
    /// The numbers of the maps of blocks.
    maps: BTreeSet<u64>,
}

impl<'a> Unpack<'a> {
    fn new(staging: &'a Staging<'a>, xattrs: (Xattrs, Xattrs), lines: &'a [Line]) -> Result<Self> {
        let path = staging.tree();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(&path, flags, Mode::empty()).map_err(Error::io("open", path.display()))?;
        Ok(Self {
            staging,
            root,
            xattrs,
            lines,
            first: HashMap::new(),
            dirs: Vec::new(),
            maps: BTreeSet::new(),
        })
    }

    fn all<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<()> {
        let mut lines = self.lines.iter();
        let mut expected = lines.next();
        while let Some(line) = expected {
            crate::sys::interrupt::check().map_err(Error::io("import", "a layer"))?;
            let missing =
                || corrupt(format!("{} is missing from the archive", manifest::escaped(&line.path)));
            let member = next(reader)?.ok_or_else(missing)?;
            if line.path.is_empty() && member.path.starts_with(b"blocks/") {
                self.map(&member, reader)?;
                continue;
            }
            if member.path != archived_path(line) {
                return Err(corrupt(format!(
                    "{} stands in the archive where {} belongs",
                    member.path.escape_ascii(),
                    manifest::escaped(&line.path)
                )));
            }
            self.entry(line, member, reader)?;
            expected = lines.next();
        }
        Ok(())
    }

    fn map<R: Read>(&mut self, member: &Member, reader: &mut Reader<R>) -> Result<()> {
        let name = std::str::from_utf8(&member.path["blocks/".len()..]).unwrap_or("?");
        let number: u64 = name.parse().map_err(|_| corrupt("a map of blocks has no number for a name"))?;
        let is_new = self.maps.insert(number);
        let is_map = is_new
            && member.kind == Type::File
            && member.size <= map::MAX_LEN as u64
            && member.ranges.is_none();
        if !is_map || number.to_string() != name {
            return Err(corrupt(format!("blocks/{number} is no map of blocks")));
        }
        let path = self.staging.blocks().join(name);
        let mut create = || {
            let mut file = File::options().write(true).create_new(true).open(&path)?;
            io::copy(reader, &mut file)
        };
        create().map(drop).map_err(Error::io("write", path.display()))
    }

    fn entry<R: Read>(&mut self, line: &'a Line, member: Member, reader: &mut Reader<R>) -> Result<()> {
        let failed = |error: io::Error| match line.kind {
            Kind::Block | Kind::Char if error.raw_os_error() == Some(libc::EPERM) => Error::Denied {
                op: "import",
                subject: manifest::escaped(&line.path),
                lacking: "only root can make devices".into(),
                hint: Some("import it as root".into()),
            },
            _ => Error::io("import", manifest::escaped(&line.path))(error),
        };
        let (dir, name) = beneath::split(&line.path);
        let dir = beneath::open_dir(self.root.as_fd(), dir).map_err(|errno| failed(errno.into()))?;
        if !is_of_kind(&member, line) {
            return Err(corrupt(format!("{}: its type changed", manifest::escaped(&line.path))));
        }
        let attributes = self.attributes(line, &member)?;
        if let Some(first) = line.group.and_then(|group| self.first.get(&group).copied()) {
            let (from, old) = beneath::split(first);
            let from = beneath::open_dir(self.root.as_fd(), from).map_err(|errno| failed(errno.into()))?;
            return linkat(&from, old, &dir, name, AtFlags::empty()).map_err(|errno| failed(errno.into()));
        }
        if let Some(group) = line.group {
            self.first.insert(group, &line.path);
        }
        if line.kind == Kind::Dir {
            if !line.path.is_empty() {
                mkdirat(&dir, name, Mode::RWXU).map_err(|errno| failed(errno.into()))?;
            }
            self.dirs.push((line, attributes));
            return Ok(());
        }
        make(dir.as_fd(), name, line, &member, reader).map_err(failed)?;
        dress(dir.as_fd(), name, line, &attributes).map_err(failed)
    }

    /// The attributes of an entry as they are called here; they must be those of the manifest.
    fn attributes(&self, line: &Line, member: &Member) -> Result<Attributes> {
        if member.kind == Type::Hard {
            return Ok(Attributes::new());
        }
        let (from, to) = (self.xattrs.0.prefix(), self.xattrs.1.prefix().as_bytes());
        let changed = |why| corrupt(format!("{}: {why}", manifest::escaped(&line.path)));
        let mut kept = Attributes::new();
        for (name, value) in &member.xattrs {
            let name = match name.strip_prefix(from.as_bytes()) {
                Some(mark) => [b"overlay.", mark].concat(),
                None if name.starts_with(to) => return Err(changed("an attribute would become a mark here")),
                None => name.clone(),
            };
            kept.insert(name, value.clone());
        }
        if hash_attributes(&kept) != line.xattrs {
            return Err(changed("its extended attributes changed"));
        }
        let here = |name: Vec<u8>| match name.strip_prefix(b"overlay.") {
            Some(mark) => [to, mark].concat(),
            None => name,
        };
        Ok(kept.into_iter().map(|(name, value)| (here(name), value)).collect())
    }

    /// Gives directories what they are to have, the inner ones first.
    fn finish_dirs(&mut self) -> Result<()> {
        for (line, attributes) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let (dir, name) = beneath::split(&line.path);
            let name = if name.is_empty() { b"." } else { name };
            let dressed = beneath::open_dir(self.root.as_fd(), dir)
                .map_err(io::Error::from)
                .and_then(|dir| dress(dir.as_fd(), name, line, &attributes));
            dressed.map_err(Error::io("import", manifest::escaped(&line.path)))?;
        }
        Ok(())
    }
}

/// Whether an entry is of the type that the manifest says; another name of a file may be one of any.
fn is_of_kind(member: &Member, line: &Line) -> bool {
    match line.kind {
        _ if line.group.is_some() && member.kind == Type::Hard => true,
        Kind::Whiteout => member.kind == Type::Char && member.device == (0, 0),
        kind => member.kind == type_of(kind),
    }
}

fn archived_path(line: &Line) -> Vec<u8> {
    match line.path.is_empty() {
        true => b"tree".to_vec(),
        false => [&b"tree/"[..], &line.path].concat(),
    }
}

/// Makes what is no directory, with its data.
fn make<R: Read>(
    dir: std::os::fd::BorrowedFd<'_>,
    name: &[u8],
    line: &Line,
    member: &Member,
    reader: &mut Reader<R>,
) -> io::Result<()> {
    let node = |file_type, device| Ok(mknodat(dir, name, file_type, Mode::RUSR | Mode::WUSR, device)?);
    let device = match line.size {
        Size::Device(major, minor) => makedev(major, minor),
        _ => 0,
    };
    match line.kind {
        Kind::Link => Ok(symlinkat(member.link.as_slice(), dir, name)?),
        Kind::Fifo => node(FileType::Fifo, 0),
        Kind::Socket => node(FileType::Socket, 0),
        Kind::Char | Kind::Whiteout => node(FileType::CharacterDevice, device),
        Kind::Block => node(FileType::BlockDevice, device),
        Kind::Dir => Ok(()),
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let file = File::from(beneath::open(dir, name, flags)?);
            fill(&file, line, member, reader)
        }
    }
}

fn fill<R: Read>(file: &File, line: &Line, member: &Member, reader: &mut Reader<R>) -> io::Result<()> {
    let Size::Bytes(size) = line.size else { return Ok(()) };
    if member.kind != Type::File
        || member.size != size
        || (line.data == Data::Metacopy && member.stored() > 0)
        || (line.data == Data::Plain && size - member.stored() > MAX_READ_HOLES)
    {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is another file than the manifest's"));
    }
    let whole = 0..size;
    let ranges = member.ranges.as_deref().unwrap_or(std::slice::from_ref(&whole));
    let mut buffer = vec![0; 256 << 10];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(buffer.len() as u64) as usize;
            reader.read_exact(&mut buffer[..len])?;
            file.write_all_at(&buffer[..len], at)?;
            at += len as u64;
        }
    }
    file.set_len(size)
}

/// Gives something the owner, attributes, mode and time of its line, in the order in which none takes another away.
fn dress(
    dir: std::os::fd::BorrowedFd<'_>,
    name: &[u8],
    line: &Line,
    attributes: &Attributes,
) -> io::Result<()> {
    if line.kind == Kind::Whiteout {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(line.uid), Gid::from_raw(line.gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    for (attribute, value) in attributes {
        lsetxattr(&path, attribute.as_slice(), value, XattrFlags::empty())?;
    }
    if line.kind != Kind::Link {
        chmodat(dir, name, Mode::from_raw_mode(line.mode), AtFlags::empty())?;
    }
    let (seconds, nanos) = (line.mtime_ns.div_euclid(1_000_000_000), line.mtime_ns.rem_euclid(1_000_000_000));
    let time = Timespec { tv_sec: seconds as i64, tv_nsec: nanos as i64 };
    let times =
        Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: time };
    Ok(utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
