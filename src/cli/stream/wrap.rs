//! `cowsnap stream wrap`

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::{Watched, len_of, name_of, open, stream_error, zfs_error};
use crate::cli::Context;
use crate::cli::keys::WriteArgs;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::exec::announced::{KIND_LEN, first_len, raw_kind};
use crate::model::{Guid, SnapshotName};
use crate::stream::btrfs::{self, Command, Parser};
use crate::stream::container::{self, Backend, Header, Sealed};
use crate::stream::writer::{self, DEFAULT_LEVEL, Options};
use crate::stream::zfs::{self, Begin, Feature};
use crate::{Error, Result};

/// The version of ZFS's stream format: what is new in it are features, and they stand in the stream.
const ZFS_STREAM_VERSION: u32 = 1;

/// Put the raw stream of `btrfs send` or `zfs send` into a container
///
/// What the container's header says comes from the stream's first command or record. All of them are looked at: a stream that
/// is cut off or damaged is not wrapped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The raw stream; - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Where to write the container; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How the container's header calls the dataset; the subvolume's path, or what ZFS called it, by default
    #[arg(long)]
    dataset: Option<String>,
    /// How it calls the snapshot; the last part of the subvolume's path, or what ZFS called it, by default
    #[arg(long)]
    name: Option<SnapshotName>,
    /// zstd's level: 1 is fastest, 19 smallest
    #[arg(long, default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Store the stream as it is
    #[arg(long, conflicts_with = "level")]
    no_compress: bool,
    #[command(flatten)]
    keys: WriteArgs,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let name = name_of(&args.file);
    let protection = args.keys.protection()?;
    let mut input = open(&args.file)?;
    let (total, created) = (len_of(&input.0), created(&input.0));
    let mut first = Vec::new();
    let mut read_more = |len, first: &mut Vec<u8>| {
        (&mut input).take(len).read_to_end(first).map_err(Error::io("read", &name)).map(drop)
    };
    read_more(KIND_LEN, &mut first)?;
    // What is no stream is told by btrfs's parser.
    let backend = raw_kind(&first).unwrap_or(Backend::Btrfs);
    read_more(first_len(backend), &mut first)?;
    let header = match backend {
        Backend::Zfs => zfs_header(&first, &args, created)?,
        Backend::Btrfs | Backend::Overlay => btrfs_header(&first, &args, created)?,
    };
    let mut output = Output::open(args.output.as_deref())?;
    let progress = Progress::new(context);
    let input = Watched::new(Cursor::new(first).chain(input), "wrap", &name, total, &progress);
    let options = Options { level: (!args.no_compress).then_some(args.level), threads: 0 };
    let sealed = match backend {
        Backend::Zfs => {
            writer::write_protected(&header, zfs::Whole::new(input), &mut output, &options, &protection)
        }
        Backend::Btrfs | Backend::Overlay => {
            writer::write_protected(&header, btrfs::Whole::new(input), &mut output, &options, &protection)
        }
    }
    .map_err(|error| write_error(&name, error))?;
    output.commit()?;
    match &args.output {
        Some(path) if path.as_os_str() != "-" => print(path, &sealed, context),
        _ => Ok(()),
    }
}

/// The stream's error within the container's if there is one.
fn write_error(name: &str, error: container::Error) -> Error {
    match error {
        container::Error::Read { at, source } => {
            let source = match source.downcast() {
                Ok(of_btrfs) => return stream_error("wrap", name, of_btrfs),
                Err(source) => source,
            };
            match source.downcast() {
                Ok(of_zfs) => zfs_error("wrap", name, of_zfs),
                Err(source) => Error::container("wrap", name)(container::Error::Read { at, source }),
            }
        }
        error => Error::container("wrap", name)(error),
    }
}

/// A stream of btrfs does not say when its snapshot was taken: not later than the file was last written.
fn created(file: &std::fs::File) -> Timestamp {
    let modified = file.metadata().ok().filter(|meta| meta.is_file()).and_then(|meta| meta.modified().ok());
    modified.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_else(Timestamp::now)
}

fn btrfs_header(first: &[u8], args: &Args, created: Timestamp) -> Result<Header> {
    let name = name_of(&args.file);
    let mut parser = Parser::new(first);
    let command = match parser.next_command().map_err(|error| stream_error("wrap", &name, error))? {
        Some(located) => located.command,
        None => return Err(no_beginning(&name)),
    };
    let (path, guid, base) = match command {
        Command::Subvol { path, uuid, .. } => (path, Guid(uuid), None),
        Command::Snapshot { path, uuid, clone_uuid, .. } => (path, Guid(uuid), Some(Guid(clone_uuid))),
        _ => return Err(no_beginning(&name)),
    };
    let path = String::from_utf8_lossy(path).into_owned();
    let snapshot = match &args.name {
        Some(name) => name.clone(),
        None => snapshot_name(path.rsplit('/').next().unwrap_or_default(), "the subvolume's path")?,
    };
    let stream_version = parser.version().map_or(1, |version| version.number());
    Ok(Header {
        backend: Backend::Btrfs,
        dataset: args.dataset.clone().unwrap_or(path),
        snapshot,
        guid,
        base,
        created,
        stream_version,
        compressed: stream_version > 1,
        properties: BTreeMap::new(),
        zfs: None,
        place: None,
    })
}

fn no_beginning(name: &str) -> Error {
    Error::Endpoint(crate::endpoint::Error::Corrupt {
        what: "btrfs stream",
        why: format!("{name} does not begin with a subvolume"),
        source: None,
    })
}

fn zfs_header(first: &[u8], args: &Args, created: Timestamp) -> Result<Header> {
    let failed = |error| zfs_error("wrap", &name_of(&args.file), error);
    let cut_off = zfs::Error::Truncated { offset: first.len() as u64, what: "its BEGIN record" };
    let begin = first.first_chunk().map_or(Err(cut_off), Begin::parse).map_err(failed)?;
    let (dataset, snapshot) = begin.names();
    Ok(Header {
        backend: Backend::Zfs,
        dataset: args.dataset.clone().unwrap_or_else(|| dataset.to_owned()),
        snapshot: match &args.name {
            Some(name) => name.clone(),
            None => snapshot_name(snapshot, "the stream's BEGIN record")?,
        },
        guid: Guid::of_zfs(begin.to_guid),
        base: (!begin.is_full()).then(|| Guid::of_zfs(begin.from_guid)),
        created: begin.created().unwrap_or(created),
        stream_version: ZFS_STREAM_VERSION,
        compressed: [Feature::Compressed, Feature::Raw].into_iter().any(|one| begin.features.has(one)),
        properties: BTreeMap::new(),
        zfs: None, // How it was asked for is not to be seen; what came of it stands in the stream.
        place: None,
    })
}

fn snapshot_name(name: &str, giver: &str) -> Result<SnapshotName> {
    name.parse().map_err(|error| Error::Usage {
        what: format!("{giver} gives no snapshot name: {error}"),
        hint: Some("cowsnap stream wrap --name NAME".into()),
    })
}

fn print(path: &Path, sealed: &Sealed, context: &Context) -> Result<()> {
    let root = sealed.root.to_hex();
    let value = json!({
        "file": path.to_string_lossy(), "blake3": root.as_str(), "stream_bytes": sealed.len,
        "frames": sealed.frames, "container_bytes": sealed.container_len,
    });
    context.print(&value, format!("{root}  {}", path.display()))
}
