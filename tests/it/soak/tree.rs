//! A directory that changes at random, and what there is to see of one.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    CWD, FallocateFlags, FileType, Mode, XattrFlags, fallocate, lgetxattr, llistxattr, mknodat, setxattr,
};

use super::dice::Dice;

/// No more bytes than this in all files, about.
const MOST: u64 = 20 << 20;
/// Parts of names that are hard on who reads names as text.
const WORDS: [&[u8]; 6] = [b"f", b"two words", b"new\nline", b"\xff\xfe", b"%s '\"$(x)`", b"-rf"];

/// Changes something below `root`, once. Says what.
pub fn change(root: &Path, dice: &mut Dice) -> &'static str {
    let (files, dirs) = (of_kind(root, fs::FileType::is_file), with_root(root));
    let size: u64 = files.iter().filter_map(|file| Some(fs::symlink_metadata(file).ok()?.len())).sum();
    let dir = dice.one_of(&dirs).expect("the root is one").clone();
    let kind = if size > MOST { 11 } else { dice.below(18) };
    let Some(file) = dice.one_of(&files).cloned().filter(|_| kind > 3) else {
        return match kind {
            0..3 => made(&dir.join(name(dice)), dice),
            _ => does("mkdir", || fs::create_dir(dir.join(name(dice)))),
        };
    };
    let to = dir.join(name(dice));
    match kind {
        4 => overwritten(&file, dice),
        5 => does("append", || {
            let bytes = noise(dice, 200_000);
            File::options().append(true).open(&file)?.write_all(&bytes)
        }),
        6 => does("truncate", || {
            let len = dice.below(2 * fs::metadata(&file)?.len() + 1).min(2 << 20);
            File::options().write(true).open(&file)?.set_len(len)
        }),
        7 => does("rename", || fs::rename(&file, &to)),
        8 => does("link", || fs::hard_link(&file, &to)),
        9 => does("symlink", || symlink(&file, &to)),
        10 => does("rename directory", || fs::rename(&dir, root.join(name(dice)))),
        11 => does("remove", || fs::remove_file(&file)),
        12 if dice.percent(20) && dir != root => does("remove directory", || fs::remove_dir_all(&dir)),
        12 | 13 => does("clone", || only_a_file(&to).and_then(|()| fs::copy(&file, &to))),
        14 => does("owner and mode", || {
            let any = dice.roll();
            chown(&file, Some(any as u32 % 3), Some((any >> 8) as u32 % 3))?;
            fs::set_permissions(&file, fs::Permissions::from_mode((any >> 16) as u32 & 0o7777))
        }),
        15 => does("attribute", || {
            let value = noise(dice, 300);
            Ok(setxattr(&file, format!("user.{}", dice.below(3)), &value, XattrFlags::empty())?)
        }),
        16 => does("hole", || {
            let at = dice.below(100_000);
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(File::options().write(true).open(&file)?, hole, at, 50_000)?)
        }),
        _ => does("times, and a pipe", || {
            let then = SystemTime::UNIX_EPOCH + Duration::new(dice.below(2_000_000_000), 123_456_789);
            File::options().write(true).open(&file)?.set_modified(then)?;
            Ok(mknodat(CWD, &to, FileType::Fifo, Mode::from_raw_mode(0o640), 0)?)
        }),
    }
}

/// What can not be done to what chance has chosen is not done: a directory into itself, a name that is taken.
fn does<T>(what: &'static str, mut change: impl FnMut() -> std::io::Result<T>) -> &'static str {
    change().map_or("nothing", |_| what)
}

/// To open a pipe is to wait for somebody at its other end.
fn only_a_file(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => Err(std::io::ErrorKind::AlreadyExists.into()),
        _ => Ok(()),
    }
}

fn made(path: &Path, dice: &mut Dice) -> &'static str {
    let most = if dice.percent(30) { 1 << 20 } else { 30_000 };
    does("write", || only_a_file(path).and_then(|()| fs::write(path, noise(dice, most))))
}

fn overwritten(path: &Path, dice: &mut Dice) -> &'static str {
    does("overwrite", || {
        let mut file = File::options().write(true).open(path)?;
        file.seek(SeekFrom::Start(dice.below(file.metadata()?.len() + 1)))?;
        file.write_all(&noise(dice, 300_000))
    })
}

/// Bytes that do not compress.
fn noise(dice: &mut Dice, most: u64) -> Vec<u8> {
    let mut bytes = vec![0; dice.below(most) as usize];
    blake3::Hasher::new().update(&dice.roll().to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn name(dice: &mut Dice) -> PathBuf {
    let word = dice.one_of(&WORDS).expect("there are some");
    let mut bytes = word.to_vec();
    bytes.extend(format!(" {}", dice.below(40)).into_bytes());
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn with_root(root: &Path) -> Vec<PathBuf> {
    let mut dirs = of_kind(root, fs::FileType::is_dir);
    dirs.push(root.to_owned());
    dirs
}

fn of_kind(root: &Path, is_it: fn(&fs::FileType) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<_> = below(root).into_iter().filter(|(_, meta)| is_it(&meta.file_type())).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.into_iter().map(|(path, _)| path).collect()
}

fn below(dir: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry")) {
        let meta = fs::symlink_metadata(entry.path()).expect("it is there");
        if meta.is_dir() {
            all.extend(below(&entry.path()));
        }
        all.push((entry.path(), meta));
    }
    all
}

/// All that there is to see below `root`, a line for each name: kind, mode, owners, size, time, attributes, what it is one file with, bytes.
pub fn manifest(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = below(root);
    all.push((root.to_owned(), fs::symlink_metadata(root).expect("it is there")));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let mut first_of: HashMap<u64, PathBuf> = HashMap::new();
    let mut lines = BTreeMap::new();
    for (path, meta) in all {
        let within = path.strip_prefix(root).expect("it is below").to_owned();
        let first = first_of.entry(meta.ino()).or_insert_with(|| within.clone());
        let kind = meta.file_type();
        let content = match kind {
            kind if kind.is_file() => blake3::hash(&fs::read(&path).expect("read")).to_string(),
            kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).expect("read")),
            _ => String::new(),
        };
        let size = if kind.is_file() { meta.len() } else { 0 };
        let line = format!(
            "{:o} {}:{} {size} {}.{:09} {first:?} {content} {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            attributes(&path)
        );
        lines.insert(within, line);
    }
    lines
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let len = llistxattr(path, &mut names[..]).expect("attributes are listed");
    let mut all = Vec::new();
    for name in names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; 4096];
        let len = lgetxattr(path, name, &mut value[..]).expect("an attribute is read");
        value.truncate(len);
        all.push((name.to_string_lossy().into_owned(), value));
    }
    all.sort();
    all
}

/// The lines that differ, a few of them.
pub fn difference(one: &BTreeMap<PathBuf, String>, other: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differs = paths.into_iter().filter(|path| one.get(*path) != other.get(*path));
    differs
        .map(|path| format!("{path:?}:\n  {:?}\n  {:?}", one.get(path), other.get(path)))
        .take(10)
        .collect()
}

#[test]
fn what_differs_is_seen_and_what_is_equal_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = super::dice::Said::new("soak::tree", 0).dice();
    let mut seen = manifest(dir.path());
    let mut changed = 0;
    for _ in 0..200 {
        let what = change(dir.path(), &mut dice);
        let now = manifest(dir.path());
        assert_eq!(manifest(dir.path()), now);
        // What is written may be what was there.
        changed += usize::from(what != "nothing" && !difference(&seen, &now).is_empty());
        seen = now;
    }
    assert!(changed > 120, "{changed} of 200 changes are seen");
}
