//! A tar becomes files below one directory, which no path leads out of. What an archive of ours says of itself is held against what
//! came: until then, nobody sees any of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat,
    chownat, linkat, lsetxattr, makedev, mkdirat, mknodat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::pack::Hashed;
use super::{Headers, digest};
use crate::endpoint::{Error, Result, beneath};
use crate::model::files::{
    About, End, FORMAT, KIND, MAX_DESCRIPTION, OWN_DIR, is_own_path, manifest_line, path_text,
};
use crate::stream::tar::{self, Member, Reader, Type};
use crate::sys::interrupt;

/// What may follow the end of a tar of ours, all zeros: others fill up to what a tape takes at once.
const MAX_PADDING: usize = 1 << 20;

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// What it said of itself; `None` of a tar of somebody else's.
    pub said: Option<(About, End)>,
    /// How many entries it had.
    pub entries: u64,
    /// How many bytes its files have, holes included.
    pub bytes: u64,
    /// How many entries lost set-user-id bits or capabilities.
    pub n_dropped: u64,
}

/// How an archive is taken.
pub struct Request<'a> {
    /// A tar of somebody else's is taken too, unless it leads out of its directory.
    pub unverified: bool,
    /// Devices are made, and set-user-id bits and capabilities kept: whoever wrote it may do here what root may.
    pub privileged: bool,
    /// Hears how many bytes of files were written so far.
    pub told: &'a dyn Fn(u64),
}

/// Reads `input`, a tar, to its end and makes its files below `root`, which is empty.
///
/// # Errors
/// [`Error::Corrupt`] for what is cut off, damaged, or leads out of `root`; [`Error::Refused`] for a tar of somebody else's that was not asked
/// for; what can not be made. What was made until then stays below `root`.
pub fn unpack(root: BorrowedFd<'_>, input: &mut dyn Read, request: &Request<'_>) -> Result<Unpacked> {
    let mut reader = Reader::new(Headers::new(input));
    let first = next(&mut reader)?;
    let about = match &first {
        Some(member) if is_own(member, "about.json") => Some(about(&mut reader, member)?),
        _ if request.unverified => None,
        _ => return Err(refused("it does not say of itself whether it is whole")),
    };
    let is_ours = about.is_some();
    let mut unpack = Unpack {
        root,
        about,
        request,
        dirs: Vec::new(),
        manifest: Vec::new(),
        entries: 0,
        bytes: 0,
        stored: 0,
        n_dropped: 0,
        buffer: vec![0; 1 << 20],
    };
    let mut entry = if is_ours { next(&mut reader)? } else { first };
    let mut end = None;
    while let Some(member) = entry {
        if interrupt::pending().is_some() {
            return Err(interrupted(io::ErrorKind::Interrupted.into()));
        }
        if is_ours && is_own_path(&member.path) {
            end = Some(unpack.end(&mut reader, &member)?);
            break;
        }
        unpack.entry(&mut reader, member)?;
        entry = next(&mut reader)?;
    }
    unpack.finish(reader, end)
}

fn refused(why: &str) -> Error {
    Error::Refused {
        op: "import",
        subject: "the archive".into(),
        why: why.into(),
        hint: Some("--unverified, if you know from elsewhere that it is what it should be".into()),
    }
}

fn interrupted(_: io::Error) -> Error {
    Error::Interrupted { op: "import", subject: "an archive".into() }
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::Corrupt { what: "archive", why: why.into(), source: None }
}

fn damaged(error: tar::Error) -> Error {
    match error {
        tar::Error::Read { at, source } if source.kind() == io::ErrorKind::UnexpectedEof => {
            corrupt(format!("it is cut off at byte {at} of its tar"))
        }
        tar::Error::Read { at, source } => {
            Error::io("read", format!("the archive at byte {at} of its tar"))(source)
        }
        bad => corrupt(bad.to_string()),
    }
}

fn next<R: Read>(reader: &mut Reader<Headers<R>>) -> Result<Option<Member>> {
    reader.entry().map_err(damaged)
}

fn is_own(member: &Member, name: &str) -> bool {
    member.path == format!("{OWN_DIR}/{name}").as_bytes()
        && member.kind == Type::File
        && member.ranges.is_none()
}

fn whole<R: Read>(reader: &mut Reader<R>, member: &Member, max: u64) -> Result<Vec<u8>> {
    if member.size > max {
        let name = path_text(&member.path);
        return Err(corrupt(format!("{name} has {} bytes, and {max} are possible", member.size)));
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(Error::io("read", "the archive"))?;
    match bytes.len() as u64 == member.size {
        true => Ok(bytes),
        false => Err(corrupt("it is cut off")),
    }
}

fn about<R: Read>(reader: &mut Reader<R>, member: &Member) -> Result<About> {
    let bytes = whole(reader, member, MAX_DESCRIPTION)?;
    let none = |error| Error::Corrupt {
        what: "archive",
        why: "what it says of itself is none of this format".into(),
        source: Some(Box::new(error)),
    };
    let about: About = serde_json::from_slice(&bytes).map_err(none)?;
    match about.kind == KIND && about.format == FORMAT {
        true => Ok(about),
        false => Err(Error::Refused {
            op: "import",
            subject: "the archive".into(),
            why: format!("it is of the kind {:?}, format {}", about.kind, about.format),
            hint: Some("a later version of cowsnap may know it".into()),
        }),
    }
}

/// Takes away by what a file lets others do what its owner, or root, may; whether there was something.
fn drop_privileges(member: &mut Member) -> Result<bool> {
    const SET_ID: u32 = 0o6000;
    match member.kind {
        Type::Char | Type::Block => Err(Error::Refused {
            op: "import",
            subject: "the archive".into(),
            why: format!("{} is a device, which stands for one of this machine's", path_text(&member.path)),
            hint: Some("--privileged, if you trust whoever wrote it as you trust root".into()),
        }),
        // Of a directory, the bit says whose the new files in it are.
        Type::Dir => Ok(false),
        _ => {
            let had = member.mode & SET_ID != 0;
            member.mode &= !SET_ID;
            Ok(member.xattrs.remove(b"security.capability".as_slice()).is_some() || had)
        }
    }
}

struct Unpack<'a> {
    root: BorrowedFd<'a>,
    about: Option<About>,
    request: &'a Request<'a>,
    /// The attributes of directories: they get them last, since a directory may forbid what is made in it.
    dirs: Vec<(Vec<u8>, Member)>,
    /// What the archive's manifest should be.
    manifest: Vec<u8>,
    entries: u64,
    bytes: u64,
    stored: u64,
    n_dropped: u64,
    buffer: Vec<u8>,
}

impl Unpack<'_> {
    fn entry<R: Read>(&mut self, reader: &mut Reader<Headers<R>>, mut member: Member) -> Result<()> {
        let path = self.path_of(&member)?;
        if member.kind == Type::Hard {
            member.link = self.path_of(&Member::new(Type::File, member.link.as_slice()))?;
        }
        self.count(&member)?;
        if !self.request.privileged {
            self.n_dropped += u64::from(drop_privileges(&mut member)?);
        }
        if path.is_empty() {
            return match member.kind {
                Type::Dir => {
                    self.dirs.push((path, member));
                    Ok(())
                }
                _ => Err(corrupt("its root is no directory")),
            };
        }
        let (dir, name) = beneath::split(&path);
        let dir = self.dir(dir)?;
        match self.make(&dir, name, &member, reader, &path) {
            Err(Made::There) => {
                self.take_away(&dir, name, &member, &path)?;
                self.make(&dir, name, &member, reader, &path).map_err(|made| made.error(&path))?;
            }
            other => other.map_err(|made| made.error(&path))?,
        }
        match member.kind {
            Type::Hard => Ok(()),
            Type::Dir => {
                self.dirs.push((path, member));
                Ok(())
            }
            _ => dress(dir.as_fd(), name, &member).map_err(|undressed| undressed.error(&path)),
        }
    }

    /// The path of an entry below the root, which is empty for the root itself.
    fn path_of(&self, member: &Member) -> Result<Vec<u8>> {
        let mut path = member.path.as_slice();
        if path == b"." {
            return Ok(Vec::new());
        }
        while let (true, Some(rest)) = (self.about.is_none(), path.strip_prefix(b"./")) {
            path = rest.trim_ascii_start();
            if path.is_empty() {
                return Ok(Vec::new());
            }
        }
        beneath::check(path).map_err(|why| corrupt(format!("{}: {why}", path_text(&member.path))))?;
        Ok(path.to_vec())
    }

    fn count(&mut self, member: &Member) -> Result<()> {
        self.entries += 1;
        let add = |sum: u64, more: u64| sum.checked_add(more).ok_or_else(|| corrupt("its files have no end"));
        if member.kind == Type::File {
            self.bytes = add(self.bytes, member.size)?;
            self.stored = add(self.stored, member.stored())?;
        }
        let Some(about) = &self.about else { return Ok(()) };
        match self.entries <= about.entries && self.bytes <= about.bytes && self.stored <= about.stored {
            true => Ok(()),
            false => Err(corrupt(format!("{}: there is more in it than it says", path_text(&member.path)))),
        }
    }

    /// The directory that an entry is in. A tar of somebody else's need not have named it.
    fn dir(&mut self, path: &[u8]) -> Result<OwnedFd> {
        match beneath::open_dir(self.root, path) {
            Err(Errno::NOENT) if self.about.is_none() => {
                let (above, name) = beneath::split(path);
                let above = self.dir(above)?;
                match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(Error::io("create", path_text(path))(errno)),
                }
                beneath::open_dir(self.root, path).map_err(|errno| led_out(errno, path))
            }
            other => other.map_err(|errno| led_out(errno, path)),
        }
    }

    /// Of a tar that was appended to, the later entry counts.
    fn take_away(&self, dir: &OwnedFd, name: &[u8], member: &Member, path: &[u8]) -> Result<()> {
        if self.about.is_some() {
            return Err(corrupt(format!("{} stands in it twice", path_text(path))));
        }
        let flags = if member.kind == Type::Dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(dir, name, flags) {
            Ok(()) => Ok(()),
            // A directory that has something in it stays, and is described anew.
            Err(_) if member.kind == Type::Dir => Ok(()),
            Err(errno) => Err(Error::io("exchange", path_text(path))(errno)),
        }
    }

    fn make<R: Read>(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        member: &Member,
        reader: &mut Reader<Headers<R>>,
        path: &[u8],
    ) -> Result<(), Made> {
        let mode = Mode::RUSR | Mode::WUSR;
        let device = makedev(member.device.0, member.device.1);
        let node = |kind, device| mknodat(dir, name, kind, mode, device);
        match member.kind {
            Type::Symbolic => symlinkat(member.link.as_slice(), dir, name)?,
            Type::Fifo => node(FileType::Fifo, 0)?,
            Type::Socket => node(FileType::Socket, 0)?,
            Type::Char => node(FileType::CharacterDevice, device)?,
            Type::Block => node(FileType::BlockDevice, device)?,
            Type::Dir => match mkdirat(dir, name, Mode::RWXU) {
                Err(Errno::EXIST) if self.about.is_none() && is_dir(dir, name) => {}
                other => other?,
            },
            Type::Hard => {
                let (from, old) = beneath::split(&member.link);
                let from =
                    beneath::open_dir(self.root, from).map_err(|errno| Made::Error(led_out(errno, path)))?;
                if is_dir(&from, old) || old.is_empty() {
                    let why = format!("{} is a link to a directory", path_text(path));
                    return Err(Made::Error(corrupt(why)));
                }
                match linkat(&from, old, dir, name, AtFlags::empty()) {
                    Err(Errno::NOENT) => return Err(Made::Error(led_out(Errno::NOENT, &member.link))),
                    other => other?,
                }
            }
            Type::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let file = File::from(beneath::open(dir.as_fd(), name, flags)?);
                self.fill(&file, member, reader, path).map_err(Made::Error)?;
            }
        }
        Ok(())
    }

    fn fill<R: Read>(
        &mut self,
        file: &File,
        member: &Member,
        reader: &mut Reader<Headers<R>>,
        path: &[u8],
    ) -> Result<()> {
        reader.get_mut().data(true);
        let whole = 0..member.size;
        let ranges = member.ranges.as_deref().unwrap_or(std::slice::from_ref(&whole));
        if member.ranges.is_some() {
            // A length that no file has here is refused before anybody hashes that many zeros.
            file.set_len(member.size).map_err(Error::io("write", path_text(path)))?;
        }
        let mut hashed = Hashed::default();
        let before = self.stored - member.stored();
        let mut done = 0;
        for range in ranges {
            if self.about.is_some() {
                hashed.zeros(range.start).map_err(interrupted)?;
            }
            let mut at = range.start;
            while at < range.end {
                let len = (range.end - at).min(self.buffer.len() as u64) as usize;
                let got = reader.read(&mut self.buffer[..len]).map_err(Error::io("read", "the archive"))?;
                if got == 0 {
                    return Err(corrupt(format!("it is cut off within {}", path_text(path))));
                }
                hashed.data(&self.buffer[..got]);
                file.write_all_at(&self.buffer[..got], at).map_err(Error::io("write", path_text(path)))?;
                (at, done) = (at + got as u64, done + got as u64);
                (self.request.told)(before + done);
            }
        }
        if self.about.is_some() {
            hashed.zeros(member.size).map_err(interrupted)?;
            self.manifest.extend(manifest_line(&hashed.hasher.finalize(), path));
        }
        reader.get_mut().data(false);
        Ok(())
    }

    /// Reads what the archive says of itself behind its files, and holds it against what came.
    fn end<R: Read>(&mut self, reader: &mut Reader<Headers<R>>, member: &Member) -> Result<End> {
        if !is_own(member, "manifest") {
            return Err(corrupt(format!("{} stands where its manifest belongs", path_text(&member.path))));
        }
        if let Some(about) = self.about.as_ref().filter(|about| about.entries != self.entries) {
            return Err(corrupt(format!("it has {} entries of {}", self.entries, about.entries)));
        }
        let manifest = whole(reader, member, self.manifest.len() as u64 + MAX_DESCRIPTION)?;
        if let Some(why) = difference(&manifest, &self.manifest) {
            return Err(corrupt(why));
        }
        reader.pass().map_err(damaged)?;
        let headers = reader.get_mut().digest();
        let last = next(reader)?.filter(|member| is_own(member, "end.json"));
        let last = last.ok_or_else(|| corrupt("it ends behind its manifest"))?;
        let end = serde_json::from_slice(&whole(reader, &last, 4096)?);
        let end: End = end.map_err(|error| Error::Corrupt {
            what: "archive",
            why: "what it says of its end is none of this format".into(),
            source: Some(Box::new(error)),
        })?;
        if end.manifest != digest(blake3::hash(&manifest)) {
            return Err(corrupt("its manifest is not the one that it names"));
        }
        if end.headers != headers {
            return Err(corrupt("names, owners, modes, times or attributes in it are not what was written"));
        }
        expect_zeros(reader, last.size)?;
        match next(reader)? {
            None => Ok(end),
            Some(member) => Err(corrupt(format!("{} stands behind its end", path_text(&member.path)))),
        }
    }

    fn finish<R: Read>(self, reader: Reader<Headers<R>>, end: Option<End>) -> Result<Unpacked> {
        // What follows is a tar's padding; a container or a compressed file says at its end whether all was read.
        let mut rest = reader.into_inner();
        rest.data(true);
        let (mut buffer, mut padding) = (self.buffer, 0);
        loop {
            match rest.read(&mut buffer).map_err(Error::io("read", "the archive"))? {
                0 => break,
                len if buffer[..len].iter().all(|&byte| byte == 0) && padding < MAX_PADDING => padding += len,
                _ if end.is_none() => {}
                _ => return Err(corrupt("something follows its end")),
            }
        }
        for (path, member) in self.dirs.iter().rev() {
            let (dir, name) = beneath::split(path);
            let name = if name.is_empty() { b"." } else { name };
            let dir = beneath::open_dir(self.root, dir).map_err(|errno| led_out(errno, path))?;
            dress(dir.as_fd(), name, member).map_err(|undressed| undressed.error(path))?;
        }
        let said = match (self.about, end) {
            (Some(about), Some(end)) => Some((about, end)),
            (Some(_), None) => return Err(corrupt("it has no manifest")),
            (None, _) => None,
        };
        Ok(Unpacked { said, entries: self.entries, bytes: self.bytes, n_dropped: self.n_dropped })
    }
}

/// What fills the last block of the end up is hashed by nobody: it is zeros.
fn expect_zeros<R: Read>(reader: &mut Reader<Headers<R>>, len: u64) -> Result<()> {
    const BLOCK: usize = 512;
    let mut expected = reader.get_mut().hasher.clone();
    expected.update(&[0; BLOCK][..(len.next_multiple_of(BLOCK as u64) - len) as usize]);
    reader.pass().map_err(damaged)?;
    match reader.get_mut().digest() == digest(expected.finalize()) {
        true => Ok(()),
        false => Err(corrupt("something stands behind its end")),
    }
}

/// Why something could not be made.
enum Made {
    /// Its name is taken.
    There,
    Error(Error),
    Errno(Errno),
}

impl From<Errno> for Made {
    fn from(errno: Errno) -> Self {
        if errno == Errno::EXIST { Self::There } else { Self::Errno(errno) }
    }
}

impl Made {
    fn error(self, path: &[u8]) -> Error {
        match self {
            Self::There => corrupt(format!("{} stands in it twice", path_text(path))),
            Self::Error(error) => error,
            Self::Errno(Errno::PERM) => Error::Denied {
                op: "import",
                subject: path_text(path),
                lacking: "only root can make devices".into(),
                hint: Some("import it as root".into()),
            },
            Self::Errno(errno) => Error::io("create", path_text(path))(errno),
        }
    }
}

/// What it means that a path could not be walked.
fn led_out(errno: Errno, path: &[u8]) -> Error {
    let why = match errno {
        Errno::LOOP => "a symbolic link stands in its way",
        Errno::XDEV => "it leads out of the directory",
        Errno::NOENT => "what it is in, or a link to, does not come before it",
        Errno::NOTDIR => "what it is in is no directory",
        errno => return Error::io("open", path_text(path))(errno),
    };
    corrupt(format!("{}: {why}", path_text(path)))
}

fn is_dir(dir: &OwnedFd, name: &[u8]) -> bool {
    let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// The first line of the archive's manifest that is another one than that of what came.
fn difference(said: &[u8], came: &[u8]) -> Option<String> {
    if said == came {
        return None;
    }
    let lines = |text| <[u8]>::split(text, |byte: &u8| *byte == b'\n');
    let mut pairs = lines(said).zip(lines(came));
    let differs = pairs.find(|(said, came)| said != came).map(|(_, came)| came);
    let name = differs.and_then(|line| line.splitn(3, |byte| *byte == b' ').nth(2)).unwrap_or_default();
    match name.is_empty() {
        true => Some("its manifest is of other files".into()),
        false => Some(format!("{}: its bytes are not what the manifest says", path_text(name))),
    }
}

/// Why something could not be given what its entry says.
enum Undressed {
    /// An attribute.
    Attribute(Vec<u8>, Errno),
    /// Anything else.
    Io(io::Error),
}

impl From<Errno> for Undressed {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl Undressed {
    fn error(self, path: &[u8]) -> Error {
        match self {
            // ZFS keeps none unless it is told to; others lack what they were not made with.
            Self::Attribute(attribute, Errno::OPNOTSUPP) => {
                let is_acl = attribute.starts_with(b"system.posix_acl_");
                let hint = match is_acl {
                    true => "a place that keeps ACLs; on ZFS: zfs set acltype=posix of what it is made below",
                    false => "choose a filesystem that keeps it",
                };
                Error::Denied {
                    op: "import",
                    subject: path_text(path),
                    lacking: format!("the filesystem keeps no attribute {}", path_text(&attribute)),
                    hint: Some(hint.into()),
                }
            }
            Self::Attribute(attribute, errno) => {
                let errno = io::Error::from(errno);
                let why = format!("its attribute {}: {errno}", path_text(&attribute));
                Error::io("write", path_text(path))(io::Error::new(errno.kind(), why))
            }
            Self::Io(error) => Error::io("write", path_text(path))(error),
        }
    }
}

/// Gives something the owner, attributes, mode and time of its entry, in the order in which none takes another away.
fn dress(dir: BorrowedFd<'_>, name: &[u8], member: &Member) -> Result<(), Undressed> {
    let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    for (attribute, value) in &member.xattrs {
        lsetxattr(&path, attribute.as_slice(), value, XattrFlags::empty())
            .map_err(|errno| Undressed::Attribute(attribute.clone(), errno))?;
    }
    if member.kind != Type::Symbolic {
        chmodat(dir, name, Mode::from_raw_mode(member.mode), AtFlags::empty())?;
    }
    let (seconds, nanos) =
        (member.mtime_ns.div_euclid(1_000_000_000), member.mtime_ns.rem_euclid(1_000_000_000));
    let seconds = i64::try_from(seconds).map_err(|_| Undressed::Io(io::ErrorKind::InvalidData.into()))?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos as i64 },
    };
    Ok(utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
