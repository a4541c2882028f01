//! `cowsnap receive`

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;

use serde_json::json;

use crate::cli::progress::Progress;
use crate::cli::send::{rate, size};
use crate::cli::{Context, place, stream};
use crate::endpoint::{self, Dataset, History};
use crate::exec::announced::Announced;
use crate::exec::receive::{Incoming, Received};
use crate::model::{SnapshotName, Target, quoted};
use crate::sys::interrupt::Bell;
use crate::sys::pipe;
use crate::{Error, Result};

/// Receive a container or a raw btrfs stream into a dataset
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
    /// Read the beginning and say what would happen
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let target = place::dataset(&Target::parse(&args.target)?, context)?;
    let input = stream::open(&args.file)?;
    pipe::enlarge(input.0.as_fd(), pipe::STREAM_PIPE);
    let bell = Bell::new().map_err(Error::io("wait for", stream::name_of(&args.file)))?;
    let incoming = Incoming::open(input.until(&bell), &stream::name_of(&args.file), args.name)?.until(bell);
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
    let same_guid = inventory.by_guid(announced.guid);
    let Some(there) = same_guid.or_else(|| inventory.by_name(&announced.snapshot)) else { return Ok(()) };
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
    format!(
        "received {}@{}: {} in {:.1} s ({}), blake3 {}{}{aside}",
        received.dataset,
        received.version.id.name,
        size(received.stream_bytes),
        received.seconds,
        rate(received.stream_bytes, received.seconds),
        received.blake3,
        if received.verified { " verified" } else { "; a raw stream brings no proof" },
    )
}
