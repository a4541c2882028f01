//! What a stream says of itself before anything of it is applied.

use jiff::Timestamp;
use serde::Serialize;

use crate::endpoint;
use crate::model::{Guid, SnapshotName};
use crate::stream::btrfs::{Command, MAGIC, Parser};
use crate::stream::container::Backend;
use crate::stream::zfs;
use crate::{Error, Result};

/// Bytes that tell which kind of stream begins with them.
pub const KIND_LEN: u64 = 16;

/// What arrives, as far as its beginning tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Announced {
    /// A container, or the filesystem's own stream.
    pub container: bool,
    /// Which filesystem's stream it is.
    pub backend: Backend,
    /// How the source calls the dataset; raw streams do not say.
    pub dataset: Option<String>,
    /// The name that the version gets here.
    pub snapshot: SnapshotName,
    /// Its identity.
    pub guid: Guid,
    /// What it builds upon; `None` if it is full.
    pub base: Option<Guid>,
    /// When it was made; raw streams do not say.
    pub created: Option<Timestamp>,
}

/// Whose raw stream begins with `first`; `None` if it is none.
pub fn raw_kind(first: &[u8]) -> Option<Backend> {
    let is_btrfs = !first.is_empty() && (first.starts_with(MAGIC) || MAGIC.starts_with(first));
    match is_btrfs {
        true => Some(Backend::Btrfs),
        false => zfs::Begin::is_at_start_of(first).then_some(Backend::Zfs),
    }
}

/// How many bytes more tell what a raw stream of that kind brings.
pub fn first_len(kind: Backend) -> u64 {
    match kind {
        Backend::Btrfs => 64 << 10, // More than the header and the first command: a path and two uuids.
        Backend::Overlay => 0,      // Never raw.
        Backend::Zfs => zfs::RECORD_LEN as u64 - KIND_LEN,
    }
}

impl Announced {
    /// What the beginning of a raw stream says. `name` goes before what it says.
    ///
    /// # Errors
    /// A beginning that is cut off or makes no sense; a snapshot's name that can not be one here.
    pub fn by_raw(kind: Backend, first: &[u8], source: &str, name: Option<SnapshotName>) -> Result<Self> {
        match kind {
            Backend::Zfs => by_zfs(first, source, name),
            // What is no stream is told by btrfs's parser.
            Backend::Btrfs | Backend::Overlay => by_btrfs(first, source, name),
        }
    }
}

/// What a btrfs stream's first command says.
fn by_btrfs(first: &[u8], source: &str, name: Option<SnapshotName>) -> Result<Announced> {
    let corrupt = |why: String| corrupt("btrfs stream", source, why);
    let mut parser = Parser::new(first);
    let command = parser.next_command().map_err(|error| corrupt(error.to_string()))?;
    let (path, uuid, base) = match command.map(|item| item.command) {
        Some(Command::Subvol { path, uuid, .. }) => (path, uuid, None),
        Some(Command::Snapshot { path, uuid, clone_uuid, .. }) => (path, uuid, Some(Guid(clone_uuid))),
        _ => return Err(corrupt("it begins with no subvolume".into())),
    };
    let last = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    Ok(Announced {
        container: false,
        backend: Backend::Btrfs,
        dataset: None,
        snapshot: name.map_or_else(|| name_from(last, source), Ok)?,
        guid: Guid(uuid),
        base,
        created: None,
    })
}

/// What a ZFS stream's first record says.
fn by_zfs(first: &[u8], source: &str, name: Option<SnapshotName>) -> Result<Announced> {
    let corrupt = |why: String| corrupt("ZFS stream", source, why);
    let record = first.first_chunk().ok_or_else(|| corrupt("it ends within its first record".into()))?;
    let begin = zfs::Begin::parse(record).map_err(|error| match error {
        zfs::Error::Compound => Error::Usage {
            what: format!("{source} is a package of ZFS streams (zfs send -R or -p)"),
            hint: Some(
                "zfs send without -R and -p makes a stream; -p: cowsnap's containers carry properties".into(),
            ),
        },
        error => corrupt(error.to_string()),
    })?;
    let (dataset, snapshot) = begin.names();
    Ok(Announced {
        container: false,
        backend: Backend::Zfs,
        dataset: Some(dataset.to_owned()),
        snapshot: name.map_or_else(|| name_from(snapshot.as_bytes(), source), Ok)?,
        guid: Guid::of_zfs(begin.to_guid),
        base: (!begin.is_full()).then(|| Guid::of_zfs(begin.from_guid)),
        created: begin.created(),
    })
}

fn name_from(text: &[u8], source: &str) -> Result<SnapshotName> {
    let name = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    name.ok_or_else(|| Error::Usage {
        what: format!("the snapshot in {source} is called {}, which is no name here", text.escape_ascii()),
        hint: Some("give it one: cowsnap receive TARGET --name NAME".into()),
    })
}

fn corrupt(what: &'static str, source: &str, why: String) -> Error {
    endpoint::Error::Corrupt { what, why: format!("{source}: {why}"), source: None }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;
    use crate::stream::zfs::{Begin, ByteOrder, Features, Flags, Kind, encode};

    fn record(to_name: &str, from_guid: u64) -> [u8; zfs::RECORD_LEN] {
        encode::begin(&Begin {
            order: ByteOrder::Little,
            features: Features::default(),
            kind: Kind::Filesystem,
            flags: Flags(0),
            to_guid: 7,
            from_guid,
            to_name: to_name.into(),
            creation: 1_800_000_000,
            payload_len: 0,
        })
    }

    #[test]
    fn the_first_bytes_tell_whose_stream_it_is() {
        assert_eq!(raw_kind(b"btrfs-stream\0\x01\0\0"), Some(Backend::Btrfs));
        assert_eq!(raw_kind(b"btrfs-st"), Some(Backend::Btrfs), "cut off, but nothing else begins like this");
        assert_eq!(raw_kind(&record("a@b", 0)), Some(Backend::Zfs));
        for other in [&b""[..], b"\x89COWSNAP\r\n\x1a\n\0\0\0\0", b"neither of them all", &[0; 16]] {
            assert_eq!(raw_kind(other), None);
        }
    }

    #[test]
    fn a_zfs_stream_says_what_it_brings_in_its_first_record() {
        let read = |record: &[u8], name| Announced::by_raw(Backend::Zfs, record, "x", name);
        let full = read(&record("tank/a b@one", 0), None).unwrap();
        assert_eq!((full.dataset.as_deref(), full.snapshot.as_str()), (Some("tank/a b"), "one"));
        assert_eq!((full.guid, full.base, full.container), (Guid::of_zfs(7), None, false));
        let renamed = read(&record("tank/a@one", 5), Some("two".parse().unwrap())).unwrap();
        assert_eq!((renamed.snapshot.as_str(), renamed.base), ("two", Some(Guid::of_zfs(5))));
        assert_eq!(read(&record("tank/a@a/b", 0), None).unwrap_err().class(), Class::Usage);
        assert_eq!(read(&record("tank/a@one", 0)[..300], None).unwrap_err().class(), Class::Corrupt);
        let mut package = record("tank/a@one", 0);
        package[16] = 2;
        let error = read(&package, None).unwrap_err();
        assert!(error.class() == Class::Usage && error.to_string().contains("-R"), "{error}");
    }
}
