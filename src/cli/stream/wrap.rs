//! `cowsnap stream wrap`

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::{Watched, len_of, name_of, open, stream_error};
use crate::cli::Context;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::model::{Guid, SnapshotName};
use crate::stream::btrfs::{Command, Parser, Whole};
use crate::stream::container::{self, Backend, Header, Sealed};
use crate::stream::writer::{self, DEFAULT_LEVEL, Options};
use crate::{Error, Result};

/// Longer than a stream's header and its first command, which holds a path and two uuids.
const FIRST_LEN: u64 = 64 << 10;

/// Put the raw stream of `btrfs send` into a container
///
/// What the container's header says comes from the stream's first command. All commands are looked at: a stream that is cut
/// off or damaged is not wrapped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The raw stream; - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Where to write the container; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How the container's header calls the dataset; the subvolume's path by default
    #[arg(long)]
    dataset: Option<String>,
    /// How it calls the snapshot; the last part of the subvolume's path by default
    #[arg(long)]
    name: Option<SnapshotName>,
    /// zstd's level: 1 is fastest, 19 smallest
    #[arg(long, default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Store the stream as it is
    #[arg(long, conflicts_with = "level")]
    no_compress: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let name = name_of(&args.file);
    let mut input = open(&args.file)?;
    let (total, created) = (len_of(&input.0), created(&input.0));
    let mut first = Vec::new();
    (&mut input).take(FIRST_LEN).read_to_end(&mut first).map_err(Error::io("read", &name))?;
    let header = header(&first, &args, created)?;
    let mut output = Output::open(args.output.as_deref())?;
    let progress = Progress::new(context);
    let input = Watched::new(Cursor::new(first).chain(input), "wrap", &name, total, &progress);
    let options = Options { level: (!args.no_compress).then_some(args.level), threads: 0 };
    let sealed = writer::write(&header, Whole::new(input), &mut output, &options)
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
        container::Error::Read { at, source } => match source.downcast() {
            Ok(of_the_stream) => stream_error("wrap", name, of_the_stream),
            Err(source) => Error::container("wrap", name)(container::Error::Read { at, source }),
        },
        error => Error::container("wrap", name)(error),
    }
}

/// A raw stream does not say when its snapshot was taken: not later than the file was last written.
fn created(file: &std::fs::File) -> Timestamp {
    let modified = file.metadata().ok().filter(|meta| meta.is_file()).and_then(|meta| meta.modified().ok());
    modified.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_else(Timestamp::now)
}

fn header(first: &[u8], args: &Args, created: Timestamp) -> Result<Header> {
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
        None => snapshot_name(&path)?,
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
    })
}

fn no_beginning(name: &str) -> Error {
    Error::Endpoint(crate::endpoint::Error::Corrupt {
        what: "btrfs stream",
        why: format!("{name} does not begin with a subvolume"),
        source: None,
    })
}

fn snapshot_name(path: &str) -> Result<SnapshotName> {
    let last = path.rsplit('/').next().unwrap_or_default();
    last.parse().map_err(|error| Error::Usage {
        what: format!("the subvolume's path gives no snapshot name: {error}"),
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
