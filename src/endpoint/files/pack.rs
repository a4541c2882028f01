//! A snapshot's files become a tar: in the order of their paths, hashed as they are read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, readlinkat};

use super::{Headers, digest};
use crate::endpoint::content::scan::{Found, Scan, scan_as};
use crate::endpoint::each::each;
use crate::endpoint::overlay::layer::manifest::{Kind, Line, Size};
use crate::endpoint::overlay::layer::{Ranges, attributes, data_ranges, type_of};
use crate::endpoint::{Error, Result, beneath};
use crate::model::files::{
    About, Choice, End, FORMAT, KEY_IN_CONFIG, KIND, LeftOut, MAX_CONFIG, MAX_DESCRIPTION, OWN_DIR,
    is_own_path, manifest_line, named, path_text,
};
use crate::model::{SnapshotName, Version};
use crate::stream::tar::{Member, Type, Writer};
use crate::sys::interrupt;

/// From this many bytes of holes on, a file is archived as a sparse one.
const HOLES_MATTER: u64 = 64 << 10;
/// Attributes that say something to one kind of filesystem: how bytes lie on btrfs' disks, what XFS shows of ACLs a second time.
const OF_A_FILESYSTEM: [&[u8]; 2] = [b"btrfs.", b"trusted.SGI_ACL_"];
/// What is read in one go.
const BLOCK: usize = 1 << 20;

/// What will be in an archive.
pub struct Plan {
    found: Vec<Found>,
    /// Where sparse files have data, by their place in `found`.
    sparse: HashMap<usize, Vec<Range<u64>>>,
    /// What the archive says first of itself.
    pub about: About,
}

/// Of what an archive is.
pub struct Subject<'a> {
    /// What the dataset is called.
    pub dataset: String,
    /// Its snapshot.
    pub version: &'a Version,
    /// What the version command said.
    pub says: Option<String>,
}

impl Subject<'_> {
    fn name(&self) -> String {
        format!("{}@{}", self.dataset, self.version.id.name)
    }

    fn snapshot(&self) -> SnapshotName {
        self.version.id.name.clone()
    }
}

/// Looks at all that stands below `root`, and says what of it will be in the archive.
///
/// # Errors
/// What can not be read; [`Error::Interrupted`].
pub fn plan(root: BorrowedFd<'_>, subject: &Subject<'_>, choice: &Choice) -> Result<Plan> {
    let Scan { found, nested } = scan_as(root, subject.name())?;
    let (mut found, mut left_out) = chosen(root, found, choice)?;
    left_out.extend(nested.iter().map(|path| left(path, "a nested dataset, which is no part of it")));
    left_out.sort_by(|a, b| a.path.cmp(&b.path));
    let (left_out, n_left_out_more) = named(left_out);
    number_links_anew(&mut found);
    let sparse = sparse(root, &found)?;
    let mut first = BTreeSet::new();
    let (mut stored, mut bytes) = (0, 0);
    for (at, Found { line, .. }) in found.iter().enumerate() {
        let (Kind::File, Size::Bytes(size)) = (line.kind, line.size) else { continue };
        if line.group.is_none_or(|group| first.insert(group)) {
            bytes += size;
            stored += sparse.get(&at).map_or(size, |ranges| total(ranges));
        }
    }
    let about = About {
        format: FORMAT,
        kind: KIND.into(),
        dataset: subject.dataset.clone(),
        snapshot: subject.snapshot(),
        guid: subject.version.id.guid,
        created: subject.version.created,
        version: subject.says.clone(),
        entries: found.len() as u64,
        stored,
        bytes,
        left_out,
        n_left_out_more,
    };
    Ok(Plan { found, sparse, about })
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

fn left(path: &[u8], why: impl Into<String>) -> LeftOut {
    LeftOut { path: path_text(path), why: why.into() }
}

fn chosen(root: BorrowedFd<'_>, found: Vec<Found>, choice: &Choice) -> Result<(Vec<Found>, Vec<LeftOut>)> {
    let why_not = |line: &Line| match line.kind {
        _ if line.path.is_empty() => None,
        _ if is_own_path(&line.path) => Some("what an archive says of itself is there".to_owned()),
        Kind::Socket => Some("a socket".to_owned()),
        _ => choice.why_not(&line.path),
    };
    let why_not = |line: &Line| match why_not(line) {
        None if has_key(root, line, choice)? => {
            Ok(Some(format!("default: it holds {}", KEY_IN_CONFIG.escape_ascii())))
        }
        why => Ok(why),
    };
    let whys = found.iter().map(|found| why_not(&found.line)).collect::<Result<Vec<_>>>()?;
    // What is wanted in spite of its directory brings that along.
    let mut needed = BTreeSet::new();
    for (found, _) in found.iter().zip(&whys).filter(|(_, why)| why.is_none()) {
        let path = &found.line.path;
        let dirs = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
        needed.extend(dirs.map(<[u8]>::to_vec));
    }
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    let mut above: Option<Vec<u8>> = None;
    for (entry, why) in found.into_iter().zip(whys) {
        let path = &entry.line.path;
        match why.filter(|_| !needed.contains(path)) {
            None => kept.push(entry),
            // Of a directory that is left out with all that is in it, only the directory is named.
            Some(_) if above.as_ref().is_some_and(|dir| is_inside(path, dir)) => {}
            Some(why) => {
                left_out.push(left(path, why));
                above = (entry.line.kind == Kind::Dir).then(|| path.clone());
            }
        }
    }
    Ok((kept, left_out))
}

/// Whether it is a configuration with a key in it.
fn has_key(root: BorrowedFd<'_>, line: &Line, choice: &Choice) -> Result<bool> {
    match line.size {
        Size::Bytes(size) if line.kind == Kind::File && choice.looks_into(&line.path, size) => {
            let mut bytes = Vec::new();
            open(root, &line.path)?.take(MAX_CONFIG).read_to_end(&mut bytes).map_err(failed(&line.path))?;
            Ok(bytes.windows(KEY_IN_CONFIG.len()).any(|window| window == KEY_IN_CONFIG))
        }
        _ => Ok(false),
    }
}

fn is_inside(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Of names of one file, those that are left out are none.
fn number_links_anew(found: &mut [Found]) {
    let mut names: BTreeMap<u32, u32> = BTreeMap::new();
    found.iter().filter_map(|found| found.line.group).for_each(|group| *names.entry(group).or_default() += 1);
    for Found { line, .. } in found {
        line.group = line.group.filter(|group| names[group] > 1);
    }
}

fn sparse(root: BorrowedFd<'_>, found: &[Found]) -> Result<HashMap<usize, Vec<Range<u64>>>> {
    let holds = |found: &Found| match found.line.size {
        Size::Bytes(size) if found.line.kind == Kind::File => size.saturating_sub(found.allocated),
        _ => 0,
    };
    let candidates: Vec<_> = found
        .iter()
        .enumerate()
        .filter(|(_, found)| holds(found) >= HOLES_MATTER)
        .map(|(at, _)| at)
        .collect();
    let ranges = each(&candidates, |&at| {
        let line = &found[at].line;
        let Size::Bytes(size) = line.size else { return Ok(Vec::new()) };
        let file = open(root, &line.path)?;
        let ranges = data_ranges(&file, size).map_err(failed(&line.path))?;
        let member = Member { size, ranges: Some(ranges), ..Member::new(Type::File, b"x".as_slice()) };
        Ok(member.coarse().ranges.unwrap_or_default())
    })?;
    // What is compressed on the disk, or as small as to stand among what is known of it, has no holes.
    let has_holes = |at: usize, ranges: &[Range<u64>]| match found[at].line.size {
        Size::Bytes(size) => size - total(ranges) >= HOLES_MATTER,
        _ => false,
    };
    Ok(candidates.into_iter().zip(ranges).filter(|(at, ranges)| has_holes(*at, ranges)).collect())
}

fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    beneath::open(root, path, flags).map(File::from).map_err(failed(path))
}

fn failed<E: Into<io::Error>>(path: &[u8]) -> impl Fn(E) -> Error {
    move |error| Error::io("read", path_text(path))(error)
}

/// Writes what was planned, the content of `root`, to `out` as a tar. `told` hears how many bytes of files were read so far.
///
/// # Errors
/// What can not be read, or is not what was planned; what the output says; [`Error::Interrupted`].
pub fn pack(root: BorrowedFd<'_>, plan: &Plan, out: &mut dyn Write, told: &dyn Fn(u64)) -> Result<End> {
    let about = description(&plan.about)?;
    let mut pack = Pack {
        root,
        plan,
        writer: Writer::new(Headers::new(out)),
        first: HashMap::new(),
        dir: None,
        manifest: Vec::new(),
        buffer: vec![0; BLOCK],
        read: 0,
        told,
    };
    pack.own("about.json", &about)?;
    for at in 0..plan.found.len() {
        if interrupt::pending().is_some() {
            return Err(Error::Interrupted { op: "export", subject: plan.about.dataset.clone() });
        }
        pack.entry(at)?;
    }
    let manifest = std::mem::take(&mut pack.manifest);
    pack.own("manifest", &manifest)?;
    let headers = pack.writer.get_mut().digest();
    let end = End { manifest: digest(blake3::hash(&manifest)), headers };
    let text = serde_json::to_vec(&end).expect("its keys are texts");
    pack.own("end.json", &[&text[..], b"\n"].concat())?;
    pack.writer.finish().map_err(written)?;
    Ok(end)
}

/// What stands first in the archive. Nothing is written that could not be read again.
fn description(about: &About) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(about).expect("its keys are texts");
    bytes.push(b'\n');
    match bytes.len() as u64 <= MAX_DESCRIPTION {
        true => Ok(bytes),
        false => Err(Error::Refused {
            op: "export",
            subject: format!("{}@{}", about.dataset, about.snapshot),
            why: format!(
                "what it would say of itself has {} bytes, {MAX_DESCRIPTION} are possible",
                bytes.len()
            ),
            hint: None,
        }),
    }
}

fn written(error: io::Error) -> Error {
    Error::io("write", "the archive")(error)
}

struct Pack<'a> {
    root: BorrowedFd<'a>,
    plan: &'a Plan,
    writer: Writer<Headers<&'a mut dyn Write>>,
    /// The first name of each file that has several.
    first: HashMap<u32, &'a [u8]>,
    /// The directory of the entry before, opened.
    dir: Option<(&'a [u8], OwnedFd)>,
    manifest: Vec<u8>,
    buffer: Vec<u8>,
    read: u64,
    told: &'a dyn Fn(u64),
}

impl<'a> Pack<'a> {
    /// Something that the archive says of itself.
    fn own(&mut self, name: &str, mut bytes: &[u8]) -> Result<()> {
        let path = format!("{OWN_DIR}/{name}");
        let member = Member { size: bytes.len() as u64, mode: 0o644, ..Member::new(Type::File, path) };
        self.writer.append(&member, &mut bytes).map_err(written)
    }

    fn entry(&mut self, at: usize) -> Result<()> {
        let line = &self.plan.found[at].line;
        let (dir, name) = beneath::split(&line.path);
        if self.dir.as_ref().is_none_or(|(open, _)| *open != dir) {
            self.dir = Some((dir, beneath::open_dir(self.root, dir).map_err(failed(dir))?));
        }
        let fd = self.dir.as_ref().expect("it was opened a moment ago").1.as_fd();
        let mut member = member_of(line);
        if let Some(first) = line.group.and_then(|group| self.first.get(&group)) {
            let member = Member { kind: Type::Hard, link: first.to_vec(), size: 0, ..member };
            return self.writer.append(&member, &mut io::empty()).map_err(written);
        }
        if let Some(group) = line.group {
            self.first.insert(group, &line.path);
        }
        let name = if name.is_empty() { b"." } else { name };
        if line.xattrs.is_some() {
            member.xattrs = attributes(fd, name).map_err(failed(&line.path))?;
            member.xattrs.retain(|name, _| !OF_A_FILESYSTEM.iter().any(|own| name.starts_with(own)));
        }
        if line.kind == Kind::Link {
            let to = readlinkat(fd, name, Vec::new()).map_err(failed(&line.path))?;
            member.link = to.into_bytes();
        }
        if line.kind == Kind::File {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = File::from(beneath::open(fd, name, flags).map_err(failed(&line.path))?);
            member.ranges = self.plan.sparse.get(&at).cloned();
            return self.file(&line.path, &member, file);
        }
        self.writer.append(&member, &mut io::empty()).map_err(written)
    }

    fn file(&mut self, path: &[u8], member: &Member, file: File) -> Result<()> {
        let padding = self.writer.begin(member).map_err(written)?;
        self.writer.get_mut().data(true);
        let whole = std::iter::once(0..member.size).collect();
        let ranges = member.ranges.clone().unwrap_or(whole);
        let mut hashed = Hashed::default();
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            hashed.zeros(range.start).map_err(|_| self.interrupted())?;
            let mut data = Ranges::of(file.try_clone().map_err(failed(path))?, vec![range.clone()]);
            self.copy(path, &mut data, range.end - range.start, &mut hashed)?;
        }
        hashed.zeros(member.size).map_err(|_| self.interrupted())?;
        self.manifest.extend(manifest_line(&hashed.hasher.finalize(), path));
        self.writer.get_mut().data(false);
        self.writer.end(padding).map_err(written)
    }

    fn interrupted(&self) -> Error {
        Error::Interrupted { op: "export", subject: self.plan.about.dataset.clone() }
    }

    fn copy(&mut self, path: &[u8], data: &mut Ranges, len: u64, hashed: &mut Hashed) -> Result<()> {
        let mut left = len;
        while left > 0 {
            let room = left.min(BLOCK as u64) as usize;
            let got = data.read(&mut self.buffer[..room]).map_err(failed(path))?;
            if got == 0 {
                return Err(failed(path)(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            interrupt::check().map_err(|_| self.interrupted())?;
            hashed.data(&self.buffer[..got]);
            self.writer.get_mut().write_all(&self.buffer[..got]).map_err(written)?;
            left -= got as u64;
            self.read += got as u64;
            (self.told)(self.read);
        }
        Ok(())
    }
}

/// The plain blake3 of a file with holes, from its data alone.
#[derive(Default)]
pub(super) struct Hashed {
    pub(super) hasher: blake3::Hasher,
}

impl Hashed {
    /// The next bytes.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Up to there, all is zeros.
    ///
    /// # Errors
    /// A signal: holes have no end that anybody could wait for.
    pub(super) fn zeros(&mut self, to: u64) -> io::Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut left = to.saturating_sub(self.hasher.count());
        while left > 0 {
            interrupt::check()?;
            let mut some = left.min(64 << 20);
            left -= some;
            while some > 0 {
                let len = some.min(ZEROS.len() as u64);
                self.hasher.update(&ZEROS[..len as usize]);
                some -= len;
            }
        }
        Ok(())
    }
}

fn member_of(line: &Line) -> Member {
    let path = if line.path.is_empty() { b".".to_vec() } else { line.path.clone() };
    let (size, device) = match line.size {
        Size::Bytes(size) if line.kind == Kind::File => (size, (0, 0)),
        Size::Device(major, minor) => (0, (major, minor)),
        _ => (0, (0, 0)),
    };
    Member {
        mode: line.mode,
        uid: line.uid,
        gid: line.gid,
        mtime_ns: line.mtime_ns,
        size,
        device,
        ..Member::new(type_of(line.kind), path)
    }
}
