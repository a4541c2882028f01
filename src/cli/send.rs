//! `cowsnap send`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use indicatif::HumanBytes;

use crate::cli::keys::WriteArgs;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::{Context, place};
use crate::endpoint::zfs::SendOptions;
use crate::endpoint::{self, Dataset, History, SendRequest};
use crate::exec::send::{Form, Job, Sent, send_protected};
use crate::exec::sent::note_sent;
use crate::model::{Inventory, SnapshotName, SnapshotRef, Target, VersionKind, VersionRef, quoted};
use crate::stream::container::ZfsFlags;
use crate::stream::writer::{DEFAULT_LEVEL, Options};
use crate::{Error, Result};

/// Write a snapshot to standard output as a container or a raw stream
///
/// A container is compressed and carries a digest of every mebibyte; `cowsnap receive` believes nothing that does not match.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot: TARGET@NAME; with --resume the dataset alone will do
    snapshot: OsString,
    /// Send what changed since this snapshot, which the receiver must have: @NAME or TARGET@NAME; on ZFS also one of the
    /// dataset that TARGET was cloned from, and with # instead of @ a bookmark; NAME alone is the snapshot, else the bookmark
    #[arg(long, value_name = "BASE", conflicts_with = "incremental")]
    from: Option<OsString>,
    /// Send what changed since the newest older snapshot
    #[arg(short, long)]
    incremental: bool,
    /// Another snapshot that the receiver has, to share extents with; may be given several times
    #[arg(long, value_name = "SNAP")]
    clone_source: Vec<OsString>,
    /// Write the filesystem's own stream, byte for byte, for `btrfs receive` or `zfs receive`
    #[arg(long, conflicts_with_all = ["level", "no_compress", "sign", "encrypt_to"])]
    raw: bool,
    /// zstd's level: 1 is fastest, 19 smallest
    #[arg(long, default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Store the stream as it is
    #[arg(long, conflicts_with = "level")]
    no_compress: bool,
    /// The version of the filesystem's stream format; the first, which every receiver reads, by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3))]
    proto: Option<u32>,
    /// Leave compressed data compressed as it lies on disk (needs version 2)
    #[arg(long)]
    compressed_data: bool,
    /// Send only what a ZFS receive lacks that was broken off: with the token that `cowsnap list` shows there
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["from", "incremental", "clone_source"])]
    resume: Option<String>,
    /// How a ZFS stream is made: plain, or of raw, large-blocks, embedded and compressed with + between them
    #[arg(long, value_name = "FLAGS")]
    zfs_flags: Option<ZfsFlags>,
    #[command(flatten)]
    keys: WriteArgs,
    /// Write to this file, which must not exist and appears when it is complete
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Say what would be sent
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    check_versions(&args)?;
    let (dataset, inventory, request) = wanted(&args, context)?;
    let backend = dataset.backend("send")?;
    let protection = args.keys.protection()?;
    if args.dry_run {
        return foretell(&dataset, &request, context);
    }
    let mut output = Output::open(args.output.as_deref())?;
    let job = Job { inventory: &inventory, backend, request: &request, form: form(&args), behind: None };
    let progress = Progress::new(context);
    let sent = send_protected(&dataset, &job, &protection, &mut output, &progress)?;
    output.commit()?;
    if !args.raw {
        note_sent(&dataset, &sent, &progress);
    }
    match &args.output {
        Some(path) if path.as_os_str() != "-" => context.print(&sent, told(&sent)),
        // Standard output is the stream.
        _ if context.json => {
            context.notice(serde_json::to_string(&sent).expect("its keys are texts"));
            Ok(())
        }
        _ => {
            context.notice(told(&sent));
            Ok(())
        }
    }
}

fn check_versions(args: &Args) -> Result<()> {
    if args.compressed_data && args.proto == Some(1) {
        let what = "version 1 of the stream format can not carry compressed data".into();
        return Err(Error::Usage { what, hint: Some("leave out --proto 1".into()) });
    }
    Ok(())
}

fn form(args: &Args) -> Form {
    match args.raw {
        true => Form::Raw,
        false => Form::Container(Options { level: (!args.no_compress).then_some(args.level), threads: 0 }),
    }
}

fn wanted(args: &Args, context: &Context) -> Result<(Dataset, Inventory, SendRequest)> {
    let Some(token) = &args.resume else {
        let snapshot = SnapshotRef::parse(&args.snapshot)?;
        let dataset = place::dataset(&snapshot.target, context)?;
        let inventory = dataset.inventory()?;
        let request = request(args, &dataset, &inventory, &snapshot, context)?;
        return Ok((dataset, inventory, request));
    };
    let (target, name) = match SnapshotRef::parse(&args.snapshot) {
        Ok(snapshot) => (snapshot.target, Some(snapshot.name)),
        Err(_) => (Target::parse(&args.snapshot)?, None),
    };
    let dataset = place::dataset(&target, context)?;
    let mut request = dataset.to_resume(token)?;
    request.zfs.flags = args.zfs_flags;
    if let Some(name) = name.filter(|name| *name != request.version.name) {
        return Err(Error::Usage {
            what: format!("the token is of {dataset}@{}, not of @{name}", request.version.name),
            hint: None,
        });
    }
    Ok((dataset.clone(), dataset.inventory()?, request))
}

fn request(
    args: &Args,
    dataset: &Dataset,
    inventory: &Inventory,
    snapshot: &SnapshotRef,
    context: &Context,
) -> Result<SendRequest> {
    let find = |name: &SnapshotName| find(inventory, dataset, name);
    let version = find(&snapshot.name)?;
    let base = match &args.from {
        Some(base) => Some(find_base(&Base::parse(base), dataset, inventory, snapshot, context)?),
        None if args.incremental => Some(predecessor(inventory, dataset, &version)?),
        None => None,
    };
    let sources = args.clone_source.iter().map(|source| find(&name_within(source, snapshot)?));
    Ok(SendRequest {
        base,
        clone_sources: sources.collect::<Result<_>>()?,
        stream_version: args.proto.unwrap_or(0),
        compressed: args.compressed_data,
        zfs: SendOptions { flags: args.zfs_flags, ..SendOptions::default() },
        version,
    })
}

/// A base as it was given.
struct Base {
    /// The same with `@`, which says its name.
    text: OsString,
    /// The kind that it must be of; either if neither `@` nor `#` says it.
    kind: Option<VersionKind>,
}

impl Base {
    fn parse(text: &OsStr) -> Self {
        let bytes = text.as_bytes();
        if bytes.contains(&b'@') {
            return Self { text: text.to_owned(), kind: Some(VersionKind::Snapshot) };
        }
        let Some(mark) = bytes.iter().rposition(|&byte| byte == b'#') else {
            return Self { text: text.to_owned(), kind: None };
        };
        let mut bytes = bytes.to_vec();
        bytes[mark] = b'@';
        Self { text: OsString::from_vec(bytes), kind: Some(VersionKind::Bookmark) }
    }

    fn find(&self, inventory: &Inventory, dataset: &Dataset, name: &SnapshotName) -> Result<VersionRef> {
        let Some(kind) = self.kind else { return find(inventory, dataset, name) };
        let found = inventory.by_name_and_kind(name, kind).map(|version| version.id.clone());
        let (what, mark) = match kind {
            VersionKind::Snapshot => ("snapshot", '@'),
            VersionKind::Bookmark => ("bookmark", '#'),
        };
        found.ok_or_else(|| not_found(what, format!("{dataset}{mark}{name}"), dataset))
    }
}

fn find_base(
    base: &Base,
    dataset: &Dataset,
    inventory: &Inventory,
    snapshot: &SnapshotRef,
    context: &Context,
) -> Result<VersionRef> {
    match name_within(&base.text, snapshot) {
        // What it was cloned from is another dataset, and only ZFS sends what changed since then.
        Err(Error::Usage { .. }) if matches!(dataset, Dataset::Zfs(_)) => {
            let full = SnapshotRef::parse(&base.text)?;
            let origin = place::dataset(&full.target, context)?;
            base.find(&origin.inventory()?, &origin, &full.name)
        }
        name => base.find(inventory, dataset, &name?),
    }
}

fn find(inventory: &Inventory, dataset: &Dataset, name: &SnapshotName) -> Result<VersionRef> {
    let found = inventory.by_name(name).map(|version| version.id.clone());
    found.ok_or_else(|| not_found("snapshot", format!("{dataset}@{name}"), dataset))
}

fn not_found(what: &'static str, subject: String, dataset: &Dataset) -> Error {
    let hint = Some(format!("cowsnap list {}", quoted(dataset)));
    Error::Endpoint(endpoint::Error::NotFound { what, subject, hint })
}

fn predecessor(inventory: &Inventory, dataset: &Dataset, version: &VersionRef) -> Result<VersionRef> {
    let found = inventory.predecessor(version).map(|version| version.id.clone());
    found.ok_or_else(|| {
        Error::Endpoint(endpoint::Error::NotFound {
            what: "base",
            subject: format!("older than {dataset}@{}", version.name),
            hint: Some(format!("cowsnap send {}, in full", quoted(format!("{dataset}@{}", version.name)))),
        })
    })
}

/// The version's name in `@NAME`, `#NAME`, `NAME` or `TARGET@NAME` of the same target.
pub(super) fn name_within(text: &OsStr, of: &SnapshotRef) -> Result<SnapshotName> {
    let bytes = text.as_bytes();
    let short = bytes.strip_prefix(b"@").or(bytes.strip_prefix(b"#")).unwrap_or(bytes);
    if !short.contains(&b'@') && !short.contains(&b'/') {
        return Ok(OsStr::from_bytes(short).to_string_lossy().parse()?);
    }
    let full = SnapshotRef::parse(text)?;
    if full.target == of.target {
        return Ok(full.name);
    }
    Err(Error::Usage {
        what: format!("{full} is a snapshot of another dataset than {of}"),
        hint: Some(format!("cowsnap list {}", quoted(&of.target))),
    })
}

fn foretell(dataset: &Dataset, request: &SendRequest, context: &Context) -> Result<()> {
    let name = format!("{dataset}@{}", request.version.name);
    let base = match &request.base {
        _ if request.zfs.resume.is_some() => "the rest of what was received in part".into(),
        Some(base) => format!("what changed since {base}"),
        None => "in full".into(),
    };
    let base_json = request.base.as_ref();
    context.print(
        &serde_json::json!({ "would": "send", "snapshot": request.version, "base": base_json }),
        format!("would send {name} ({}), {base}", request.version.guid),
    )
}

fn told(sent: &Sent) -> String {
    let ratio = sent.stream_bytes as f64 / sent.written_bytes.max(1) as f64;
    format!(
        "sent {}@{}: {} as {} (ratio {ratio:.2}) in {:.1} s ({}), blake3 {}",
        sent.dataset,
        sent.snapshot,
        size(sent.stream_bytes),
        size(sent.written_bytes),
        sent.seconds,
        rate(sent.stream_bytes, sent.seconds),
        sent.blake3,
    )
}

/// Bytes as a person reads them.
pub(super) fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// Bytes per second as a person reads them.
pub(super) fn rate(bytes: u64, seconds: f64) -> String {
    format!("{}/s", HumanBytes((bytes as f64 / seconds.max(1e-6)) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_says_by_its_mark_what_it_is() {
        for (text, name, kind) in [
            ("d", "d", None),
            ("@d", "@d", Some(VersionKind::Snapshot)),
            ("#d", "@d", Some(VersionKind::Bookmark)),
            ("tank/a b#d", "tank/a b@d", Some(VersionKind::Bookmark)),
            ("/srv/a#b@d", "/srv/a#b@d", Some(VersionKind::Snapshot)),
            ("/srv/a#b#d", "/srv/a#b@d", Some(VersionKind::Bookmark)),
        ] {
            let base = Base::parse(OsStr::new(text));
            assert_eq!((base.text.as_os_str(), base.kind), (OsStr::new(name), kind), "{text}");
        }
    }
}
