//! The filesystem without a kernel does to a tree what a plain directory does to a copy of it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use cowsnap::endpoint::overlay::fuse::{
    Attr, Caller, Errno, Fallible, Layers, Lower, New, Opened, Options, Prefix, SetAttr, Tree,
};
use rustix::fs::{RenameFlags, XattrFlags};

use super::ops::{Answer, Dice, Op, apply, base, brief};

/// A base, an upper layer with all that belongs to it, and a copy of the base to compare with.
pub struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for name in ["base", "plain", "upper", "work", "blocks", "mnt"] {
            std::fs::create_dir(folder.path().join(name)).expect("mkdir");
        }
        base(&folder.path().join("base"));
        base(&folder.path().join("plain"));
        Self { folder }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub fn layers(&self) -> Layers {
        Layers {
            upper: self.path("upper"),
            work: self.path("work"),
            blocks: self.path("blocks"),
            lowers: vec![Lower { tree: self.path("base"), blocks: None }],
            prefix: prefix(),
        }
    }

    /// Makes another generation of the upper layer, and says where all is then.
    pub fn next(&self, name: &str) -> Layers {
        let part = |part: &str| {
            let path = self.path(&format!("{name}-{part}"));
            std::fs::create_dir(&path).expect("mkdir");
            path
        };
        Layers { upper: part("upper"), work: part("work"), blocks: part("blocks"), ..self.layers() }
    }
}

pub fn prefix() -> Prefix {
    if rustix::process::geteuid().is_root() { Prefix::Trusted } else { Prefix::User }
}

pub fn me() -> Caller {
    Caller { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw(), umask: 0 }
}

/// Small files are copied in blocks, too, so that these are what is tested.
pub fn blocks_only() -> Options {
    Options { whole_up_to: 0, block_shift: 12, ..Options::default() }
}

/// Walks to a node, as a kernel would.
pub fn walk(tree: &Tree, path: &Path) -> Fallible<Attr> {
    let mut at = tree.attr(1)?;
    for name in path.iter() {
        check_dir(&at)?;
        at = tree.lookup(at.number, name)?;
    }
    Ok(at)
}

fn is_dir(attr: &Attr) -> bool {
    attr.mode & libc::S_IFMT == libc::S_IFDIR
}

/// A link leads nowhere here: all that there are dangle.
fn check_dir(attr: &Attr) -> Fallible<()> {
    match attr.mode & libc::S_IFMT {
        libc::S_IFDIR => Ok(()),
        libc::S_IFLNK => Err(Errno::NOENT),
        _ => Err(Errno::NOTDIR),
    }
}

fn parent<'a>(tree: &Tree, path: &'a Path) -> Fallible<(u64, &'a OsStr)> {
    let dir = walk(tree, path.parent().expect("a relative path"))?;
    check_dir(&dir)?;
    Ok((dir.number, path.file_name().expect("a name")))
}

fn file(tree: &Tree, path: &Path, writable: bool) -> Fallible<Attr> {
    let attr = walk(tree, path)?;
    match attr.mode & libc::S_IFMT {
        libc::S_IFLNK => Err(Errno::LOOP),
        libc::S_IFDIR if writable => Err(Errno::ISDIR),
        _ => Ok(attr),
    }
}

/// Does an operation as a kernel does it: what it refuses itself is refused here.
fn apply_core(tree: &Tree, op: &Op) -> Answer {
    let none = |()| String::new();
    let on_file = |path: &Path, writable: bool, act: &dyn Fn(&Opened) -> Answer| {
        let attr = file(tree, path, writable)?;
        if is_dir(&attr) {
            return Err(Errno::ISDIR);
        }
        let opened = tree.open_file(attr.number, writable)?;
        let answer = act(&opened);
        tree.release(&opened);
        answer
    };
    match op {
        Op::Create(path, mode) => {
            let (dir, name) = parent(tree, path)?;
            let (_, opened) = tree.change().create(dir, name, *mode, &me())?;
            tree.release(&opened);
            Ok(String::new())
        }
        Op::Mkdir(path, mode) => make(tree, path, &New::Dir(*mode)),
        Op::Symlink(target, path) => make(tree, path, &New::Link(target.into())),
        Op::Write(path, offset, data) => on_file(path, true, &|opened| {
            tree.change().write(opened, data, *offset)?;
            Ok(data.len().to_string())
        }),
        Op::Read(path, offset, len) => on_file(path, false, &|opened| {
            let mut buffer = vec![0; *len];
            let len = tree.read(opened, &mut buffer, *offset)?;
            Ok(brief(&buffer[..len]))
        }),
        Op::Truncate(path, len) => {
            let number = file(tree, path, true)?.number;
            tree.change()
                .set_attr(number, &SetAttr { size: Some(*len), ..SetAttr::default() })
                .map(|_| String::new())
        }
        Op::Allocate(path, mode, offset, len) => {
            on_file(path, true, &|opened| tree.change().allocate(opened, *mode, *offset, *len).map(none))
        }
        Op::Seek(path, offset, data) => {
            on_file(path, false, &|opened| match tree.seek(opened, *offset, *data) {
                Err(Errno::NXIO) => {
                    let size = file(tree, path, false)?.stat.st_size as u64;
                    if *offset < size { Ok(String::new()) } else { Err(Errno::NXIO) }
                }
                sought => sought.map(|_| String::new()),
            })
        }
        Op::CopyRange(..) => Ok(String::new()),
        Op::Unlink(path) => {
            let (dir, name) = parent(tree, path)?;
            tree.change().unlink(dir, name).map(none)
        }
        Op::Rmdir(path) => {
            let (dir, name) = parent(tree, path)?;
            tree.change().rmdir(dir, name).map(none)
        }
        Op::Rename(from, to, flags) => rename(tree, from, to, RenameFlags::from_bits_retain(*flags)),
        Op::Link(from, to) => {
            let attr = walk(tree, from)?;
            let (dir, name) = parent(tree, to)?;
            if walk(tree, to).is_ok() {
                return Err(Errno::EXIST);
            }
            if is_dir(&attr) {
                return Err(Errno::PERM);
            }
            tree.change().link(attr.number, dir, name).map(|_| String::new())
        }
        Op::Unnamed(dir, mode, data, name) => {
            let dir = walk(tree, dir)?;
            check_dir(&dir)?;
            let (made, opened) = tree.change().create_unnamed(dir.number, *mode, &me())?;
            tree.change().write(&opened, data, 0)?;
            let linked = name.as_ref().map_or(Ok(made), |name| {
                let (dir, entry) = parent(tree, name)?;
                if walk(tree, name).is_ok() {
                    return Err(Errno::EXIST);
                }
                tree.change().link(made.number, dir, entry)
            });
            let line = linked.and_then(|_| tree.attr(made.number)).map(|attr| line_of(&attr));
            tree.release(&opened);
            line
        }
        Op::Chmod(path, mode) => {
            let set = SetAttr { mode: Some(*mode), ..SetAttr::default() };
            tree.change().set_attr(file(tree, path, false)?.number, &set).map(|_| String::new())
        }
        Op::SetXattr(path, value) => {
            let number = file(tree, path, false)?.number;
            tree.change().set_xattr(number, OsStr::new("user.x"), value, XattrFlags::empty()).map(none)
        }
        Op::RemoveXattr(path) => {
            tree.change().remove_xattr(file(tree, path, false)?.number, OsStr::new("user.x")).map(none)
        }
        Op::List(path) => {
            let dir = walk(tree, path)?;
            if !is_dir(&dir) {
                return Err(Errno::NOTDIR);
            }
            let mut names: Vec<_> = tree.list(dir.number)?.into_iter().map(|listed| listed.name).collect();
            names.extend([".".into(), "..".into()]);
            names.sort();
            Ok(format!("{names:?}"))
        }
        Op::Stat(path) => Ok(line_of(&walk(tree, path)?)),
    }
}

fn line_of(attr: &Attr) -> String {
    let (links, size) = if is_dir(attr) { (0, 0) } else { (attr.nlink, attr.stat.st_size) };
    format!("{:o} {}:{} x{links} {size}", attr.mode, attr.stat.st_uid, attr.stat.st_gid)
}

fn make(tree: &Tree, path: &Path, new: &New) -> Answer {
    let (dir, name) = parent(tree, path)?;
    tree.change().make(dir, name, new, &me()).map(|_| String::new())
}

fn rename(tree: &Tree, from: &Path, to: &Path, flags: RenameFlags) -> Answer {
    let (dir, name) = parent(tree, from)?;
    let (to_dir, to_name) = parent(tree, to)?;
    walk(tree, from)?;
    if walk(tree, to).is_ok() && flags.contains(RenameFlags::NOREPLACE) {
        return Err(Errno::EXIST);
    }
    if flags.contains(RenameFlags::EXCHANGE) {
        walk(tree, to)?;
    }
    let into_itself = to != from && to.starts_with(from);
    if into_itself || (flags.contains(RenameFlags::EXCHANGE) && from != to && from.starts_with(to)) {
        return Err(Errno::INVAL);
    }
    if from != to && from.starts_with(to) {
        return Err(Errno::NOTEMPTY);
    }
    tree.change().rename((dir, name), (to_dir, to_name), flags).map(|()| String::new())
}

fn same_answers(seed: u64, count: usize, options: Options) {
    let ground = Ground::new();
    let plain: OwnedFd =
        rustix::fs::open(ground.path("plain"), rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
            .expect("open");
    let mut tree = Tree::open(&ground.layers(), options).expect("open");
    let before = super::ops::dump(&ground.path("base"));
    let mut dice = Dice::new(seed);
    let mut done = Vec::new();
    for at in 0..count {
        let op = dice.op();
        if matches!(op, Op::CopyRange(..)) {
            continue;
        }
        let (expected, found) = (apply(&plain, &op), apply_core(&tree, &op));
        done.push(op.brief());
        let last = &done[done.len().saturating_sub(25)..];
        assert_eq!(expected, found, "seed {seed}, operation {at}: {}\nafter {last:#?}", op.brief());
        if at % 97 == 96 {
            drop(tree);
            tree = Tree::open(&ground.layers(), options).expect("open again");
        }
    }
    compare(&tree, 1, &plain, Path::new(""));
    assert_eq!(before, super::ops::dump(&ground.path("base")), "the base was changed");
}

/// Each entry of one tree is in the other, with the same attributes and data.
fn compare(tree: &Tree, number: u64, plain: &OwnedFd, dir: &Path) {
    let list = Op::List(if dir.as_os_str().is_empty() { ".".into() } else { dir.to_path_buf() });
    let Op::List(path) = &list else { return };
    let path = if dir.as_os_str().is_empty() { Path::new("") } else { path };
    assert_eq!(apply(plain, &list), apply_core(tree, &Op::List(path.to_path_buf())), "{}", dir.display());
    for listed in tree.list(number).expect("list") {
        let path = dir.join(&listed.name);
        let attr = walk(tree, &path).expect("walk");
        for op in [Op::Stat(path.clone()), Op::Read(path.clone(), 0, 1 << 20)] {
            let directory = is_dir(&attr) && matches!(op, Op::Read(..));
            if !directory {
                assert_eq!(apply(plain, &op), apply_core(tree, &op), "{}", path.display());
            }
        }
        if is_dir(&attr) {
            compare(tree, attr.number, plain, &path);
        }
    }
}

#[test]
fn random_operations_do_what_they_do_to_a_plain_directory() {
    for seed in 1..=6 {
        same_answers(seed, 400, blocks_only());
    }
}

#[test]
fn random_operations_on_files_copied_whole_do_the_same() {
    for seed in 101..=103 {
        same_answers(seed, 400, Options { whole_up_to: 1 << 30, ..Options::default() });
    }
}

#[test]
fn a_byte_written_to_a_large_file_takes_one_block() {
    let ground = Ground::new();
    let big = std::fs::File::create(ground.path("base").join("huge")).expect("create");
    big.set_len(10 << 30).expect("sparse");
    let tree = Tree::open(&ground.layers(), Options::default()).expect("open");
    let number = walk(&tree, Path::new("huge")).expect("walk").number;
    let file = tree.open_file(number, true).expect("open");
    tree.change().write(&file, b"x", 5 << 30).expect("write");
    let stat = rustix::fs::stat(ground.path("upper").join("huge")).expect("stat");
    assert_eq!(stat.st_size, 10 << 30);
    assert!(stat.st_blocks * 512 <= 128 << 10, "{} bytes", stat.st_blocks * 512);
    let mut buffer = [1; 3];
    tree.read(&file, &mut buffer, (5 << 30) - 1).expect("read");
    assert_eq!(&buffer, b"\0x\0");
}

#[test]
fn names_of_a_lower_file_stay_names_of_one_file() {
    let ground = Ground::new();
    let tree = Tree::open(&ground.layers(), blocks_only()).expect("open");
    let number = walk(&tree, Path::new("big")).expect("walk").number;
    let file = tree.open_file(number, true).expect("open");
    tree.change().write(&file, b"changed", 3).expect("write");
    let other = walk(&tree, Path::new("links")).expect("walk");
    assert_eq!((other.number, other.nlink), (number, 2));
    drop(tree);
    let tree = Tree::open(&ground.layers(), blocks_only()).expect("open again");
    let (one, other) = (walk(&tree, Path::new("big")), walk(&tree, Path::new("links")));
    let (one, other) = (one.expect("walk"), other.expect("walk"));
    assert_eq!((one.number, one.nlink), (other.number, 2));
}

#[test]
fn copying_up_changes_no_time() {
    let ground = Ground::new();
    let tree = Tree::open(&ground.layers(), blocks_only()).expect("open");
    let times = |path: &str| {
        let stat = walk(&tree, Path::new(path)).expect("walk").stat;
        (stat.st_mtime, stat.st_mtime_nsec)
    };
    let before = ["", "a", "a/b", "a/b/a"].map(times);
    let number = walk(&tree, Path::new("a/b/a")).expect("walk").number;
    tree.change().set_attr(number, &SetAttr { mode: Some(0o640), ..SetAttr::default() }).expect("chmod");
    assert_eq!(before, ["", "a", "a/b", "a/b/a"].map(times));
}

/// An access list as the kernel keeps it: version, then tag, rights and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |(tag, rights, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
}

/// What is remembered of a directory, and of a file that was made here, is forgotten when it changes.
#[test]
fn rights_that_are_given_later_count() {
    const NOBODY: u32 = u32::MAX;
    let ground = Ground::new();
    let tree = Tree::open(&ground.layers(), Options::default()).expect("open");
    let caller = Caller { umask: 0o077, ..me() };
    let make = |dir: u64, name: &str, new: &New| {
        tree.change().make(dir, OsStr::new(name), new, &caller).expect("made")
    };
    let set = |number: u64, name: &str, value: &[u8]| {
        tree.change().set_xattr(number, OsStr::new(name), value, XattrFlags::empty()).expect("set");
    };
    let dir = make(1, "rights", &New::Dir(0o777)).number;
    let file = make(dir, "one", &New::File(0o666));
    assert_eq!(file.mode & 0o7777, 0o600);
    let rights = OsStr::new("system.posix_acl_access");
    assert_eq!(tree.xattr(file.number, rights), Err(Errno::NODATA));
    let list = acl(&[(1, 6, NOBODY), (2, 6, 1), (4, 0, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY)]);
    set(file.number, "system.posix_acl_access", &list);
    assert_eq!(tree.xattr(file.number, rights), Ok(list));

    set(dir, "system.posix_acl_default", &acl(&[(1, 7, NOBODY), (4, 7, NOBODY), (0x20, 7, NOBODY)]));
    assert_eq!(make(dir, "two", &New::File(0o666)).mode & 0o7777, 0o666, "no mask where rights are given on");
    tree.change().remove_xattr(dir, OsStr::new("system.posix_acl_default")).expect("removed");
    assert_eq!(make(dir, "three", &New::File(0o666)).mode & 0o7777, 0o600);

    let is_root = caller.uid == 0;
    let gid = is_root.then_some(7);
    let given = SetAttr { mode: Some(0o2777), gid, ..SetAttr::default() };
    tree.change().set_attr(dir, &given).expect("set");
    let below = make(dir, "four", &New::Dir(0o777));
    assert_eq!(below.mode & 0o7777, 0o2700);
    assert_eq!(below.stat.st_gid, gid.unwrap_or(caller.gid));
}

/// A kernel walks name by name, so that a path may be as long as it likes.
#[test]
fn a_path_longer_than_the_kernel_takes_at_once_is_like_any_other() {
    let ground = Ground::new();
    let tree = Tree::open(&ground.layers(), Options::default()).expect("open");
    let name = OsStr::new("a long name of which there are many, one within the other");
    let mut dir = 1;
    for _ in 0..120 {
        dir = tree.change().make(dir, name, &New::Dir(0o755), &me()).expect("made").number;
    }
    let (made, opened) = tree.change().create(dir, OsStr::new("file"), 0o644, &me()).expect("made");
    tree.change().write(&opened, b"data", 0).expect("written");
    tree.release(&opened);
    let (number, mark) = (made.number, OsStr::new("user.test"));
    tree.change().set_xattr(number, mark, b"value", XattrFlags::empty()).expect("set");
    assert_eq!(tree.xattr(number, mark), Ok(b"value".to_vec()));
    assert_eq!(tree.xattrs(number), Ok(vec![b"user.test".to_vec()]));
    tree.change().remove_xattr(number, mark).expect("removed");
    assert_eq!(tree.xattrs(number), Ok(vec![]));
    assert_eq!(tree.lookup(dir, OsStr::new("file")).expect("found").stat.st_size, 4);
    tree.change()
        .rename((dir, OsStr::new("file")), (1, OsStr::new("file")), RenameFlags::empty())
        .expect("renamed");
}

#[test]
fn a_reset_shows_the_base_and_leaves_open_files_alone() {
    let ground = Ground::new();
    let tree = Tree::open(&ground.layers(), blocks_only()).expect("open");
    let number = walk(&tree, Path::new("a/big")).expect("walk").number;
    let file = tree.open_file(number, true).expect("open");
    tree.change().write(&file, b"old", 0).expect("write");
    let (dir, name) = parent(&tree, Path::new("a/b")).expect("walk");
    tree.change().rename((dir, name), (1, OsStr::new("moved")), RenameFlags::empty()).expect("rename");
    tree.change().unlink(1, OsStr::new("big")).expect("unlink");
    let outdated = tree.reset(&ground.next("2")).expect("reset");
    assert!(!outdated.names.is_empty());

    let fresh = walk(&tree, Path::new("a/big")).expect("walk").number;
    assert_ne!(fresh, number, "who still writes the old file must not reach the new one's cache");
    let new = tree.open_file(fresh, false).expect("open");
    tree.change().write(&file, b"older", 0).expect("the old file is still written to");
    let (mut old_bytes, mut new_bytes) = ([0; 5], [0; 5]);
    tree.read(&file, &mut old_bytes, 0).expect("read");
    tree.read(&new, &mut new_bytes, 0).expect("read");
    assert_eq!(&old_bytes, b"older");
    assert_eq!(new_bytes[..], std::fs::read(ground.path("base").join("a/big")).expect("read")[..5]);
    assert_eq!(walk(&tree, Path::new("moved")).err(), Some(Errno::NOENT));
    assert!(walk(&tree, Path::new("a/b/a")).is_ok());
    assert!(walk(&tree, Path::new("big")).is_ok());
}

#[test]
fn a_damaged_map_is_an_error_and_not_other_data() {
    let ground = Ground::new();
    let tree = Tree::open(&ground.layers(), blocks_only()).expect("open");
    let number = walk(&tree, Path::new("big")).expect("walk").number;
    let file = tree.open_file(number, true).expect("open");
    tree.change().write(&file, b"x", 9).expect("write");
    drop((file, tree));
    let map =
        std::fs::read_dir(ground.path("blocks")).expect("list").next().expect("a map").expect("entry").path();
    let whole = std::fs::read(&map).expect("read");
    for damaged in
        [&whole[..23], b"", &[&[0; 8], &whole[8..]].concat(), &[&whole[..8], &[77], &whole[9..]].concat()]
    {
        std::fs::write(&map, damaged).expect("write");
        let tree = Tree::open(&ground.layers(), blocks_only()).expect("open");
        let number = walk(&tree, Path::new("big")).expect("walk").number;
        assert_eq!(tree.open_file(number, false).err(), Some(Errno::IO));
    }
}

#[test]
fn a_descriptor_of_a_lower_file_can_not_be_opened_anew_to_write() {
    crate::ground::ground!("root");
    let ground = Ground::new();
    let before = std::fs::read(ground.path("base").join("big")).expect("read");
    let tree = Tree::open(&ground.layers(), blocks_only()).expect("open");
    let number = walk(&tree, Path::new("big")).expect("walk").number;
    let file = tree.open_file(number, false).expect("open");
    let lower = file.whole(|fd| fd.try_clone_to_owned().expect("a descriptor")).expect("all of it is below");
    // What is handed to the kernel for passthrough, it opens anew as a process can through /proc.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&lower));
    let mut write = std::fs::File::options();
    for options in [write.write(true), std::fs::File::options().read(true).write(true).truncate(true)] {
        let refused = options.open(&path).expect_err("it lies on a mount that is only read");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{refused}");
    }
    assert_eq!(std::fs::read(ground.path("base").join("big")).expect("read"), before);
}
