//! `cowsnap receive`

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;

use serde_json::json;

use crate::cli::keys::ReadArgs;
use crate::cli::progress::Progress;
use crate::cli::send::{rate, size};
use crate::cli::{Context, place, stream};
use crate::endpoint::zfs::ReceiveOptions;
use crate::endpoint::{self, Dataset, Earlier, History};
use crate::exec::announced::Announced;
use crate::exec::receive::{Incoming, Received};
use crate::model::{SnapshotName, Target, Version, VersionKind, quoted};
use crate::sys::interrupt::Bell;
use crate::sys::pipe;
use crate::{Error, Result};

/// Receive a container or a raw stream into a dataset
///
/// Nothing becomes visible before the last byte has been verified: what is damaged, cut off or interrupted leaves no
/// snapshot and no staging.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose history the snapshot joins: POOL/NAME or a path on btrfs; a live dataset is not needed
    target: OsString,
    /// The container or raw stream; - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The snapshot's name here; the one that it was sent with by default
    #[arg(long)]
    name: Option<SnapshotName>,
    /// ZFS: if the dataset went another way than the source, set it aside as TARGET.conflict-TIME and receive in its place
    #[arg(long)]
    keep_conflict: bool,
    /// ZFS: give a new dataset the properties of the source, but for those that could do harm here
    #[arg(long)]
    properties: bool,
    /// ZFS: set this property, over what the source had; may be given several times
    #[arg(short = 'o', long, value_name = "NAME=VALUE", value_parser = property)]
    set: Vec<(String, String)>,
    /// ZFS: leave this property as it is inherited, neither the source's nor cowsnap's; may be given several times
    #[arg(short = 'x', long, value_name = "NAME")]
    leave: Vec<String>,
    /// ZFS: keep nothing of a stream that is broken off, instead of what `send --resume` goes on from
    #[arg(long)]
    no_partial: bool,
    #[command(flatten)]
    keys: ReadArgs,
    /// Read the beginning and say what would happen
    #[arg(long)]
    dry_run: bool,
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is needed")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn options(args: &Args) -> ReceiveOptions {
    ReceiveOptions {
        restoring: false,
        take_properties: args.properties,
        set: args.set.iter().cloned().collect(),
        leave: args.leave.iter().cloned().collect(),
        keep_conflict: args.keep_conflict,
        keep_no_partial: args.no_partial,
        go_on: None,
    }
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let target = place::dataset(&Target::parse(&args.target)?, context)?;
    let keys = args.keys.keys()?;
    let input = stream::open(&args.file)?;
    pipe::enlarge(input.0.as_fd(), pipe::STREAM_PIPE);
    let bell = Bell::new().map_err(Error::io("wait for", stream::name_of(&args.file)))?;
    let options = options(&args);
    let name = stream::name_of(&args.file);
    let incoming = Incoming::open_by(input.until(&bell), &name, args.name, &keys)?.until(bell);
    let incoming = incoming.with(options);
    incoming.expect_for(&target)?;
    check_name(&target, incoming.announced())?;
    if args.dry_run {
        return foretell(&target, incoming.announced(), context);
    }
    let received = incoming.receive(&target, &Progress::new(context))?;
    context.print(&received, told(&received))
}

/// The likeliest conflict is told before anything is read on.
fn check_name(target: &Dataset, announced: &Announced) -> Result<()> {
    let inventory = match target.inventory() {
        Err(endpoint::Error::NotFound { .. }) => return Ok(()),
        other => other?,
    };
    let is_snapshot = |version: &&Version| version.kind == VersionKind::Snapshot;
    let same_guid = inventory.by_guid(announced.guid).filter(is_snapshot);
    let Some(there) = same_guid.or_else(|| inventory.by_name(&announced.snapshot).filter(is_snapshot)) else {
        return Ok(());
    };
    let subject = format!("{target}@{}", there.id.name);
    let hint = match same_guid {
        Some(_) => Some("it was received before; there is nothing to do".into()),
        None => Some(format!("cowsnap receive {} --name NAME", quoted(target))),
    };
    Err(Error::Endpoint(endpoint::Error::Exists { what: "snapshot", subject, hint }))
}

fn foretell(target: &Dataset, announced: &Announced, context: &Context) -> Result<()> {
    let form = if announced.container { "container" } else { "raw stream" };
    let from =
        announced.dataset.as_ref().map_or(String::new(), |name| format!(" from {}", name.escape_debug()));
    let base = match announced.base {
        Some(base) => format!("an increment upon {base}"),
        None => "in full".into(),
    };
    let text =
        format!("would receive {target}@{} ({}), {base}: a {form}{from}", announced.snapshot, announced.guid);
    context.print(&json!({ "would": "receive", "target": target.to_string(), "stream": announced }), text)
}

fn told(received: &Received) -> String {
    let aside =
        received.aside.as_ref().map_or(String::new(), |aside| format!("; what was there is {aside} now"));
    let earlier = match received.earlier {
        Some(Earlier::Verified) => "; this was the rest, and what came before it was verified, too",
        Some(Earlier::Unknown) => {
            "; this was the rest, and whether what came before it was verified is not known"
        }
        None => "",
    };
    let signed =
        received.signed_by.iter().map(|key| format!(", signed by {key}")).collect::<Vec<_>>().concat();
    let origin = received.origin.as_ref().map_or(String::new(), |origin| format!(", a clone of {origin}"));
    format!(
        "received {}@{}{origin}: {} in {:.1} s ({}), blake3 {}{}{signed}{earlier}{aside}",
        received.dataset,
        received.version.id.name,
        size(received.stream_bytes),
        received.seconds,
        rate(received.stream_bytes, received.seconds),
        received.blake3,
        if received.verified { " verified" } else { "; a raw stream brings no proof" },
    )
}
