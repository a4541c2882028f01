//! Random operations on a small tree, what they answer, and what a tree holds afterwards, as text.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;

/// One operation. Paths are relative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Create(PathBuf, u32),
    Mkdir(PathBuf, u32),
    Symlink(String, PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Read(PathBuf, u64, usize),
    Truncate(PathBuf, u64),
    Allocate(PathBuf, u32, u64, u64),
    Seek(PathBuf, u64, bool),
    CopyRange(PathBuf, u64, PathBuf, u64, usize),
    Unlink(PathBuf),
    Rmdir(PathBuf),
    Rename(PathBuf, PathBuf, u32),
    Link(PathBuf, PathBuf),
    /// A file without a name in a directory: its mode, its data, the name that it is given then.
    Unnamed(PathBuf, u32, Vec<u8>, Option<PathBuf>),
    Chmod(PathBuf, u32),
    SetXattr(PathBuf, Vec<u8>),
    RemoveXattr(PathBuf),
    List(PathBuf),
    Stat(PathBuf),
}

impl Op {
    /// Whether the kernel answers this itself for any FUSE filesystem: EOPNOTSUPP.
    pub fn is_beyond_fuse(&self) -> bool {
        let moves = FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE;
        matches!(self, Self::Allocate(_, mode, ..) if mode & moves.bits() != 0)
    }

    /// Whether this makes a file without a name, which kernel overlayfs of Linux 6.1 can not.
    pub fn is_unnamed(&self) -> bool {
        matches!(self, Self::Unnamed(..))
    }

    /// The operation in a line.
    pub fn brief(&self) -> String {
        let mut text = format!("{self:?}");
        text.truncate(text.floor_char_boundary(100));
        text
    }
}

/// Numbers that are the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n.max(1)
    }

    /// A path of up to three names: few enough that they meet often.
    fn path(&mut self) -> PathBuf {
        let names = ["a", "b", "c", "d", "e with space", "big", "links"];
        (0..=self.below(3)).map(|_| names[self.below(names.len() as u64) as usize]).collect()
    }

    fn offset(&mut self) -> u64 {
        match self.below(3) {
            0 => self.below(400 << 10),
            1 => self.below(8) << 16,
            _ => self.below(5000),
        }
    }

    pub fn op(&mut self) -> Op {
        let (path, other) = (self.path(), self.path());
        let (offset, target) = (self.offset(), self.offset());
        let len = 1 + self.below(100_000) as usize;
        let byte = self.below(256) as u8;
        match self.below(28) {
            0 | 1 => Op::Create(path, 0o600 | self.below(0o200) as u32),
            2 | 3 => Op::Mkdir(path, 0o700 | self.below(0o100) as u32),
            4 => Op::Symlink(format!("to {byte}"), path),
            5..=8 => Op::Write(path, offset, vec![byte; len]),
            9 | 10 => Op::Read(path, offset, len),
            11 => Op::Truncate(path, offset),
            12 => {
                let punch = (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE).bits();
                let modes = [0, FallocateFlags::KEEP_SIZE.bits(), punch, FallocateFlags::ZERO_RANGE.bits()];
                Op::Allocate(path, modes[byte as usize % modes.len()], offset, len as u64)
            }
            13 => {
                let modes = [FallocateFlags::COLLAPSE_RANGE.bits(), FallocateFlags::INSERT_RANGE.bits()];
                Op::Allocate(path, modes[byte as usize % 2], offset & !4095, (len as u64 & !4095) + 4096)
            }
            14 => Op::Seek(path, offset, byte.is_multiple_of(2)),
            15 => Op::CopyRange(path, offset, other, target, len),
            16 | 17 => Op::Unlink(path),
            18 => Op::Rmdir(path),
            19 | 20 => {
                let flags = [
                    RenameFlags::empty(),
                    RenameFlags::empty(),
                    RenameFlags::NOREPLACE,
                    RenameFlags::EXCHANGE,
                ];
                Op::Rename(path, other, flags[byte as usize % flags.len()].bits())
            }
            21 => Op::Link(path, other),
            22 => Op::Chmod(path, 0o600 | self.below(0o200) as u32),
            23 => Op::SetXattr(path, vec![byte; byte as usize]),
            24 => Op::RemoveXattr(path),
            25 | 26 => {
                let name = (!byte.is_multiple_of(4)).then_some(other);
                Op::Unnamed(path, 0o600 | self.below(0o200) as u32, vec![byte; len], name)
            }
            _ if byte.is_multiple_of(2) => Op::List(path),
            _ => Op::Stat(path),
        }
    }
}

/// Makes the tree that all begin with: files of one block and of several, sparse ones, links of both kinds.
pub fn base(dir: &Path) {
    let write = |path: &str, len: usize, seed: u64| {
        let mut dice = Dice::new(seed);
        let data: Vec<u8> = (0..len).map(|_| dice.below(256) as u8).collect();
        std::fs::write(dir.join(path), data).expect("write");
    };
    for path in ["a/b/c", "b/a", "c", "d/e with space"] {
        std::fs::create_dir_all(dir.join(path)).expect("mkdir");
    }
    write("a/a", 1000, 1);
    write("a/b/a", 70_000, 2);
    write("a/big", 300_000, 3);
    write("b/big", 200_001, 4);
    write("big", 400_000, 5);
    write("d/a", 0, 6);
    std::fs::File::create(dir.join("c/big")).and_then(|file| file.set_len(350_000)).expect("sparse");
    std::fs::hard_link(dir.join("big"), dir.join("links")).expect("link");
    std::fs::hard_link(dir.join("a/a"), dir.join("b/links")).expect("link");
    std::os::unix::fs::symlink("to nowhere", dir.join("d/links")).expect("symlink");
    rustix::fs::setxattr(dir.join("b"), "user.b", b"of the base", XattrFlags::empty()).expect("xattr");
}

/// The answer of an operation: a number or bytes in short, or the error.
pub type Answer = Result<String, Errno>;

/// Does an operation in a directory by system calls.
pub fn apply(root: &OwnedFd, op: &Op) -> Answer {
    let open = |path: &Path, flags: OFlags| {
        rustix::fs::openat(root, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let none = |()| String::new();
    match op {
        Op::Create(path, mode) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            rustix::fs::openat(root, path, flags, Mode::from_raw_mode(*mode)).map(|_| String::new())
        }
        Op::Mkdir(path, mode) => rustix::fs::mkdirat(root, path, Mode::from_raw_mode(*mode)).map(none),
        Op::Symlink(target, path) => rustix::fs::symlinkat(target.as_str(), root, path).map(none),
        Op::Write(path, offset, data) => {
            Ok(rustix::io::pwrite(open(path, OFlags::WRONLY)?, data, *offset)?.to_string())
        }
        Op::Read(path, offset, len) => {
            let mut buffer = vec![0; *len];
            let len = rustix::io::pread(open(path, OFlags::RDONLY)?, &mut buffer, *offset)?;
            Ok(brief(&buffer[..len]))
        }
        Op::Truncate(path, len) => rustix::fs::ftruncate(open(path, OFlags::WRONLY)?, *len).map(none),
        Op::Allocate(path, mode, offset, len) => {
            let file = open(path, OFlags::WRONLY)?;
            rustix::fs::fallocate(file, FallocateFlags::from_bits_retain(*mode), *offset, *len).map(none)
        }
        Op::Seek(path, offset, data) => {
            let file = open(path, OFlags::RDONLY)?;
            kind(&file, libc::S_IFREG)?;
            seen_holes(&file, *offset, *data)
        }
        Op::CopyRange(from, at, to, target, len) => {
            let (from, to) = (open(from, OFlags::RDONLY)?, open(to, OFlags::WRONLY)?);
            let (mut at, mut target) = (*at, *target);
            let copied = rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut target), *len)?;
            Ok(copied.to_string())
        }
        Op::Unlink(path) => rustix::fs::unlinkat(root, path, AtFlags::empty()).map(none),
        Op::Rmdir(path) => rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR).map(none),
        Op::Rename(from, to, flags) => {
            rustix::fs::renameat_with(root, from, root, to, RenameFlags::from_bits_retain(*flags)).map(none)
        }
        Op::Link(from, to) => rustix::fs::linkat(root, from, root, to, AtFlags::empty()).map(none),
        Op::Unnamed(dir, mode, data, name) => {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let file = rustix::fs::openat(root, dir, flags, Mode::from_raw_mode(*mode))?;
            rustix::io::pwrite(&file, data, 0)?;
            if let Some(name) = name {
                let seen = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(rustix::fs::CWD, seen, root, name, AtFlags::SYMLINK_FOLLOW)?;
            }
            Ok(line_of(&rustix::fs::fstat(&file)?))
        }
        Op::Chmod(path, mode) => {
            let file = open(path, OFlags::RDONLY)?;
            rustix::fs::fchmod(file, Mode::from_raw_mode(*mode)).map(none)
        }
        Op::SetXattr(path, value) => {
            let file = open(path, OFlags::RDONLY)?;
            rustix::fs::fsetxattr(file, "user.x", value, XattrFlags::empty()).map(none)
        }
        Op::RemoveXattr(path) => rustix::fs::fremovexattr(open(path, OFlags::RDONLY)?, "user.x").map(none),
        Op::List(path) => {
            let dir = rustix::fs::Dir::new(open(path, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
            let mut names: Vec<_> =
                dir.filter_map(|entry| Some(entry.ok()?.file_name().to_owned())).collect();
            names.sort();
            Ok(format!("{names:?}"))
        }
        Op::Stat(path) => {
            let stat = rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(line_of(&stat))
        }
    }
}

fn kind(file: &OwnedFd, kind: u32) -> Result<(), Errno> {
    let mode = rustix::fs::fstat(file)?.st_mode;
    if mode & libc::S_IFMT == kind { Ok(()) } else { Err(Errno::ISDIR) }
}

/// What a search for data or holes must hold to whatever the granularity of the filesystem: between the answer and where it began
/// is nothing but zeros, or it is the end.
fn seen_holes(file: &OwnedFd, offset: u64, data: bool) -> Answer {
    let size = rustix::fs::fstat(file)?.st_size as u64;
    let whence = if data { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) };
    let found = match rustix::fs::seek(file, whence) {
        Err(Errno::NXIO) if offset < size => size,
        found => found?,
    };
    assert!(found >= offset && found <= size, "{found} sought from {offset} of {size}");
    if data {
        let mut skipped = vec![0; (found - offset) as usize];
        rustix::io::pread(file, &mut skipped, offset)?;
        assert!(skipped.iter().all(|byte| *byte == 0), "data in {offset}..{found} was called a hole");
    }
    Ok(String::new())
}

/// What of `stat` any filesystem says alike.
fn line_of(stat: &rustix::fs::Stat) -> String {
    let kind = stat.st_mode & libc::S_IFMT;
    let (links, size) = if kind == libc::S_IFDIR { (0, 0) } else { (stat.st_nlink, stat.st_size) };
    format!("{:o} {}:{} x{links} {size}", stat.st_mode, stat.st_uid, stat.st_gid)
}

pub fn brief(data: &[u8]) -> String {
    format!("{} {}", data.len(), &blake3::hash(data).to_hex()[..16])
}

/// All that a tree holds, a line for each entry.
pub fn dump(root: &Path) -> String {
    let mut text = String::new();
    dump_below(root, Path::new(""), &mut text);
    text
}

fn dump_below(root: &Path, dir: &Path, text: &mut String) {
    let mut names: Vec<_> = std::fs::read_dir(root.join(dir))
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    names.sort();
    for name in names {
        let path = dir.join(&name);
        let full = root.join(&path);
        let stat = rustix::fs::lstat(&full).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let content = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => brief(&std::fs::read(&full).expect("read")),
            libc::S_IFLNK => format!("{:?}", std::fs::read_link(&full).expect("readlink")),
            _ => String::new(),
        };
        let xattrs = xattrs(&full);
        writeln!(text, "{:?} {} {content}{xattrs}", path, line_of(&stat)).expect("text");
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            dump_below(root, &path, text);
        }
    }
}

fn xattrs(path: &Path) -> String {
    let mut buffer = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap_or(0);
    let mut names: Vec<&[u8]> =
        buffer[..len].split(|byte| *byte == 0).filter(|n| n.starts_with(b"user.")).collect();
    names.sort_unstable();
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap_or(0);
        brief(&value[..len])
    };
    names.into_iter().map(|name| format!(" {}={}", String::from_utf8_lossy(name), value(name))).collect()
}
