//! Merged listings of directories.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;

use super::root::Root;
use super::stack::{Stack, Where, is_whiteout};
use super::{Errno, Fallible};

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: OsString,
    /// Its type, as the topmost layer that has it says.
    pub kind: FileType,
    /// The inode number there.
    pub ino: u64,
    /// Whether the upper layer has it.
    pub upper: bool,
}

impl Stack {
    /// All entries of a directory, of each name the one that shows, in the order in which they are found.
    pub fn list(&self, dir: &Where) -> Fallible<Vec<Listed>> {
        if let (Some(upper), []) = (&dir.upper, &*dir.lowers) {
            let all = read(&self.upper, upper, true)?;
            return Ok(all
                .into_iter()
                .filter_map(|(listed, whiteout)| (!whiteout).then_some(listed))
                .collect());
        }
        let mut seen: HashMap<OsString, ()> = HashMap::new();
        let mut merged = Vec::new();
        let mut take = |entries: Vec<(Listed, bool)>| {
            for (listed, whiteout) in entries {
                if seen.insert(listed.name.clone(), ()).is_none() && !whiteout {
                    merged.push(listed);
                }
            }
        };
        if let Some(upper) = &dir.upper {
            take(read(&self.upper, upper, true)?);
        }
        for piece in dir.lowers.iter() {
            take(read(&self.lowers[piece.layer].root, &piece.path, false)?);
        }
        Ok(merged)
    }
}

/// The entries of one layer's directory, and whether each is a whiteout.
fn read(root: &Root, dir: &Path, upper: bool) -> Fallible<Vec<(Listed, bool)>> {
    let mut entries = Vec::new();
    for entry in root.list(dir)? {
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_os_string();
        let mut kind = entry.file_type();
        let mut whiteout = false;
        if matches!(kind, FileType::CharacterDevice | FileType::Unknown) {
            let stat = match root.stat(&dir.join(&name)) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            whiteout = is_whiteout(&stat);
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        entries.push((Listed { name, kind, ino: entry.ino(), upper }, whiteout));
    }
    Ok(entries)
}
