//! Manifests on disk (docs/FORMAT-content.md). What is damaged is as good as not there, but said.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Content, Summary, bytes, digest};
use crate::endpoint::overlay::layer::manifest::{parse, to_text};
use crate::endpoint::record::replace_file;
use crate::endpoint::{Error, Result};
use crate::model::{Guid, Inventory, SnapshotName, Version};

const FORMAT: u32 = 1;
const CONTEXT: &str = "cowsnap content manifest 1";
const SUFFIX: &str = "manifest";
/// `seal `, 64 digits, a newline.
const SEAL_LEN: usize = 70;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    guid: Guid,
    name: SnapshotName,
    order: u64,
    state: u64,
    at: jiff::Timestamp,
    upon: Option<SnapshotName>,
}

fn path_of(folder: &Path, guid: Guid) -> PathBuf {
    folder.join(format!("{guid}.{SUFFIX}"))
}

/// Writes what is known of `version`, whose [state](crate::endpoint::Dataset::content_state) that is; on disk, whole, when it returns.
///
/// # Errors
/// What the kernel says.
pub(super) fn write(folder: &Path, version: &Version, state: u64, content: &Content) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(Error::io("make", folder.display()))?;
    let Summary { at, upon, .. } = &content.summary;
    let head = Head {
        format: FORMAT,
        guid: version.id.guid,
        name: version.id.name.clone(),
        order: version.order,
        state,
        at: *at,
        upon: upon.clone(),
    };
    let mut text = serde_json::to_string(&head).expect("its keys are texts");
    text.push('\n');
    text.push_str(&to_text(&content.lines));
    let seal = seal_of(text.as_bytes());
    text.push_str(&format!("seal {seal}\n"));
    replace_file(&path_of(folder, version.id.guid), text.as_bytes())
}

fn seal_of(bytes: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(bytes);
    hasher.finalize()
}

/// What was written of `version` in that state; `None` if nothing was, or of another one of that identity or before it was changed, or if it is
/// damaged, which is said.
pub(super) fn read(folder: &Path, version: &Version, state: u64, notes: &mut Vec<String>) -> Option<Content> {
    let path = path_of(folder, version.id.guid);
    let text = match fs::read(&path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return None;
        }
        Err(error) => Err(error.to_string()),
        Ok(text) => Ok(text),
    };
    match text.and_then(|text| parsed(&text)) {
        Ok((head, content)) => {
            let known = (head.guid, head.order, head.state);
            (known == (version.id.guid, version.order, state)).then_some(content)
        }
        Err(why) => {
            let name = &version.id.name;
            notes.push(format!(
                "the manifest of @{name} is damaged, and made anew: {why} ({})",
                path.display()
            ));
            None
        }
    }
}

fn parsed(text: &[u8]) -> Result<(Head, Content), String> {
    let (sealed, seal) = text.split_at(text.len().saturating_sub(SEAL_LEN));
    if seal != format!("seal {}\n", seal_of(sealed)).as_bytes() {
        return Err("its seal does not fit".into());
    }
    let end = sealed.iter().position(|&byte| byte == b'\n').ok_or("it has no lines")?;
    let head: Head = serde_json::from_slice(&sealed[..end]).map_err(|error| error.to_string())?;
    if head.format != FORMAT {
        return Err(format!("it is of format {}, this program reads {FORMAT}", head.format));
    }
    let lines = parse(&sealed[end + 1..]).map_err(|bad| bad.to_string())?;
    let summary = Summary {
        blake3: digest(&lines),
        entries: lines.len() as u64,
        bytes: bytes(&lines),
        read_bytes: 0,
        at: head.at,
        upon: head.upon.clone(),
        kept: true,
        notes: Vec::new(),
    };
    Ok((head, Content { lines, summary }))
}

/// As many bytes of manifests are kept of a dataset, but for the newest one, however long that is.
pub(super) const MOST_BYTES: u64 = 1 << 30;

/// Removes what is known of versions that are gone, and of the oldest ones if all take more than `most` bytes, and what a process left that
/// was killed as it wrote.
pub(super) fn sweep(folder: &Path, inventory: &Inventory, most: u64) {
    let len = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let newest_first = inventory.versions().iter().rev().map(|version| path_of(folder, version.id.guid));
    let mut there: HashSet<PathBuf> = HashSet::new();
    let mut taken = 0;
    for path in newest_first {
        if taken == 0 || there.contains(&path) || taken + len(&path) <= most {
            taken += if there.contains(&path) { 0 } else { len(&path) };
            there.insert(path);
        }
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let left = extension.strip_prefix("tmp").is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        let gone = extension == SUFFIX && !there.contains(&path);
        if left || gone {
            // What stays is looked at the next time.
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::content::Line;
    use crate::endpoint::overlay::layer::manifest::{Data, Kind, Size};
    use crate::model::{VersionKind, VersionRef};

    fn version(byte: u8) -> Version {
        let id = VersionRef { guid: Guid([byte; 16]), name: "s 1".parse().expect("a name") };
        Version { id, kind: VersionKind::Snapshot, order: 7, created: jiff::Timestamp::UNIX_EPOCH }
    }

    fn content() -> Content {
        let root = Line {
            kind: Kind::Dir,
            data: Data::Plain,
            opaque: false,
            redirect: false,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime_ns: 3,
            size: Size::None,
            hash: None,
            xattrs: None,
            group: None,
            path: Vec::new(),
        };
        let file = Line {
            kind: Kind::File,
            size: Size::Bytes(3),
            hash: Some(blake3::hash(b"abc")),
            path: b"a\nb".to_vec(),
            ..root.clone()
        };
        let lines = vec![root, file];
        let summary = Summary {
            blake3: digest(&lines),
            entries: 2,
            bytes: 3,
            read_bytes: 0,
            at: jiff::Timestamp::UNIX_EPOCH,
            upon: None,
            kept: true,
            notes: Vec::new(),
        };
        Content { lines, summary }
    }

    #[test]
    fn what_was_written_is_read_back_of_that_version_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("deep/down");
        let mut notes = Vec::new();
        assert_eq!(read(&folder, &version(1), 9, &mut notes), None);
        write(&folder, &version(1), 9, &content()).expect("written");
        assert_eq!(read(&folder, &version(1), 9, &mut notes), Some(content()));
        assert_eq!(read(&folder, &version(2), 9, &mut notes), None);
        // The same identity, received a second time, is another thing on disk.
        assert_eq!(read(&folder, &Version { order: 8, ..version(1) }, 9, &mut notes), None);
        assert_eq!(read(&folder, &version(1), 10, &mut notes), None, "it was changed since");
        assert_eq!(notes, [""; 0]);
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed_and_said() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &version(1), 9, &content()).expect("written");
        let path = path_of(folder.path(), version(1).id.guid);
        let whole = fs::read(&path).expect("read");
        let damaged = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("written");
            let mut notes = Vec::new();
            assert_eq!(read(folder.path(), &version(1), 9, &mut notes), None);
            assert!(notes.len() == 1 && notes[0].contains("is damaged, and made anew"), "{notes:?}");
        };
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parsed(&bytes).is_err(), "bit {bit}");
        }
        (0..whole.len()).for_each(|len| assert!(parsed(&whole[..len]).is_err(), "cut at {len}"));
        damaged(&whole[1..]);
        damaged(b"");
    }

    #[test]
    fn of_too_many_the_oldest_go_and_never_the_newest() {
        let folder = tempfile::tempdir().expect("a folder");
        let all: Vec<_> =
            (1..=4).map(|byte| Version { order: 10 - u64::from(byte), ..version(byte) }).collect();
        all.iter().for_each(|version| write(folder.path(), version, 9, &content()).expect("written"));
        let len = fs::metadata(path_of(folder.path(), all[0].id.guid)).expect("it is there").len() + 1;
        let inventory = Inventory::new("x", all.clone(), Vec::new());
        for (most, left) in [(4 * len, 4), (2 * len, 2), (0, 1)] {
            sweep(folder.path(), &inventory, most);
            let is_there = |version: &&Version| path_of(folder.path(), version.id.guid).exists();
            let kept: Vec<_> = all.iter().filter(is_there).collect();
            assert_eq!(kept, all.iter().take(left).collect::<Vec<_>>(), "{most}: by order, not by name");
        }
    }

    #[test]
    fn what_is_known_of_versions_that_are_gone_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        (1..=2).for_each(|byte| write(folder.path(), &version(byte), 9, &content()).expect("written"));
        fs::write(folder.path().join("x.tmp4294967295"), b"").expect("written");
        fs::write(folder.path().join("somebody's"), b"").expect("written");
        sweep(folder.path(), &Inventory::new("x", vec![version(1)], Vec::new()), MOST_BYTES);
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("utf-8"))
            .collect();
        left.sort();
        assert_eq!(left, ["01010101-0101-0101-0101-010101010101.manifest", "somebody's"]);
    }
}
