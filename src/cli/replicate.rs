//! `cowsnap replicate`

use std::ffi::OsString;

use serde_json::json;

use crate::cli::progress::Progress;
use crate::cli::send::{rate, size};
use crate::cli::{Context, place};
use crate::endpoint::Dataset;
use crate::endpoint::peer::{Patience, Peer, Ssh};
use crate::exec::replicate::{Lock, Prepared, Replicated, Wanted};
use crate::exec::transfer::{Moved, Options, Place};
use crate::model::{PeerAddress, SnapshotName, Target};
use crate::stream::container::ZfsFlags;
use crate::stream::writer::DEFAULT_LEVEL;
use crate::sys::interrupt;
use crate::{Error, Result};

/// Bring a target up to its source: what is new, verified, and no more
///
/// SOURCE and DEST are datasets or directories here, or ssh://[USER@]HOST[:PORT]/TARGET where cowsnap is installed. What both have is
/// found by identity, kept on both sides, and never sent again. A run that is broken off goes on with the next one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose versions: TARGET, TARGET@NAME for all up to that one, or ssh://HOST/TARGET
    source: OsString,
    /// Where they are to be: TARGET or ssh://HOST/TARGET; may be several
    #[arg(required = true, value_name = "DEST")]
    dests: Vec<OsString>,
    /// Also every version between, not the newest alone
    #[arg(short = 'I', long)]
    intermediates: bool,
    /// Datasets inside the source too, each to its counterpart; one that fails does not stop the others
    #[arg(short, long)]
    recursive: bool,
    /// btrfs: send in full where the target has versions and none in common; nothing there is touched
    #[arg(long)]
    full: bool,
    /// At most so many bytes per second: 20M
    #[arg(long, value_name = "SIZE", value_parser = rate_limit)]
    bandwidth: Option<u64>,
    /// zstd's level: 1 is fastest, 19 smallest; between places on this machine nothing is compressed
    #[arg(long, default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Send the stream as it is
    #[arg(long, conflicts_with = "level")]
    no_compress: bool,
    /// How a ZFS stream is made: plain, or of raw, large-blocks, embedded and compressed with + between them
    #[arg(long, value_name = "FLAGS")]
    zfs_flags: Option<ZfsFlags>,
    /// btrfs: so much of a stream may have to come again after it was broken off, where the target is here
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = interval)]
    checkpoint: u64,
    /// Leave if another run does the same already, instead of waiting for it
    #[arg(long)]
    no_wait: bool,
    /// End a transfer in which nothing moves for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    stall: u64,
    /// The program that reaches peers, and its first arguments
    #[arg(long, value_name = "COMMAND", default_value = "ssh", env = "COWSNAP_SSH")]
    ssh: String,
    /// What is run there
    #[arg(long, value_name = "COMMAND", default_value = "cowsnap serve")]
    remote_command: String,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

fn rate_limit(text: &str) -> Result<u64, String> {
    super::pool::size(text).and_then(|rate| match rate {
        0..4096 => Err("less than 4K per second brings nothing to its end".into()),
        rate => Ok(rate),
    })
}

/// How much of a stream may have to come again.
pub(super) fn interval(text: &str) -> Result<u64, String> {
    super::pool::size(text).and_then(|size| match size {
        0..0x10_0000 => Err("1M is the least: a stream is verified in pieces of that size".into()),
        size => Ok(size),
    })
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let (source, last) = source(&args)?;
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for dest in &args.dests {
        // Each has connections of its own: what ends one ends no other.
        let pairs = find(&source, &args, context).and_then(|from| {
            let to = find(&Target::parse(dest)?, &args, context)?;
            pairs(&from, &to, args.recursive)
        });
        let pairs = pairs.unwrap_or_else(|error| {
            failed.push((dest.to_string_lossy().into_owned(), error));
            Vec::new()
        });
        for (from, to) in pairs {
            if interrupt::pending().is_some() {
                break;
            }
            match bring(&from, &to, last.clone(), !failed.is_empty(), &args, context) {
                Ok(replicated) => done.push(replicated),
                Err(error) => failed.push((format!("{from} to {to}"), error)),
            }
        }
    }
    let text: Vec<_> = done.iter().map(|replicated| told(replicated, args.dry_run)).collect();
    let would = args.dry_run.then_some("replicate");
    context.print(&json!({ "would": would, "replicated": done }), text.join("\n"))?;
    outcome(done.len(), failed)
}

/// One dataset; after another has failed, over a new connection: the failure may have ended that one.
fn bring(
    from: &Place,
    to: &Place,
    last: Option<SnapshotName>,
    after_failure: bool,
    args: &Args,
    context: &Context,
) -> Result<Replicated> {
    match to {
        Place::There(peer) if after_failure => {
            let again = Place::There(Peer::connect(peer.address(), &ssh(args)?)?);
            one(from, &again, last, args, context)
        }
        to => one(from, to, last, args, context),
    }
}

fn source(args: &Args) -> Result<(Target, Option<SnapshotName>)> {
    match place::names_a_snapshot(&args.source) {
        false => Ok((Target::parse(&args.source)?, None)),
        true => {
            let snapshot = crate::model::SnapshotRef::parse(&args.source)?;
            Ok((snapshot.target, Some(snapshot.name)))
        }
    }
}

fn find(target: &Target, args: &Args, context: &Context) -> Result<Place> {
    let Target::Remote(address) = target else { return Ok(Place::Here(place::dataset(target, context)?)) };
    let address: PeerAddress = address.parse().map_err(|error: crate::model::BadAddress| Error::Usage {
        what: error.to_string(),
        hint: Some("ssh://[USER@]HOST[:PORT]/TARGET".into()),
    })?;
    Ok(Place::There(Peer::connect(&address, &ssh(args)?)?))
}

fn ssh(args: &Args) -> Result<Ssh> {
    let stall = Some(std::time::Duration::from_secs(args.stall));
    let program: Vec<_> = args.ssh.split_whitespace().map(str::to_owned).collect();
    if program.is_empty() {
        return Err(Error::Usage { what: "--ssh names no program".into(), hint: None });
    }
    let patience = Patience { stall, ..Patience::default() };
    Ok(Ssh { program, remote: args.remote_command.clone(), patience })
}

/// Each dataset with its counterpart, parents first.
fn pairs(from: &Place, to: &Place, recursive: bool) -> Result<Vec<(Place, Place)>> {
    let mut pairs = vec![(from.clone(), to.clone())];
    if !recursive {
        return Ok(pairs);
    }
    let Place::Here(source) = from else {
        let what = format!("{from} is on another machine: its nested datasets can not be told from here");
        return Err(Error::Usage { what, hint: Some("run it there, or name each of them".into()) });
    };
    for inside in source.all_inside()? {
        let counterpart = match to {
            Place::Here(to) => Place::Here(inside.counterpart(source, to)),
            Place::There(peer) => Place::There(peer_counterpart(&inside, source, peer)?),
        };
        pairs.push((Place::Here(inside), counterpart));
    }
    Ok(pairs)
}

fn peer_counterpart(inside: &Dataset, source: &Dataset, peer: &Peer) -> Result<Peer> {
    let (inside, source) = (inside.to_string(), source.to_string());
    let relative = inside.strip_prefix(&source).unwrap_or(&inside);
    let target = format!("{}/{}", peer.address().target(), relative.trim_start_matches('/'));
    peer.with_target(&target).map_err(|error| Error::Usage { what: error.to_string(), hint: None })
}

fn one(
    from: &Place,
    to: &Place,
    last: Option<SnapshotName>,
    args: &Args,
    context: &Context,
) -> Result<Replicated> {
    let both_here = matches!((from, to), (Place::Here(_), Place::Here(_)));
    let wanted = Wanted {
        intermediates: args.intermediates,
        last,
        full_again: args.full,
        options: Options {
            level: (!args.no_compress && !both_here).then_some(args.level),
            bandwidth: args.bandwidth,
            zfs_flags: args.zfs_flags,
            keep_every: args.checkpoint,
        },
    };
    let progress = Progress::new(context);
    if args.dry_run {
        let plan = Prepared::new(from, to, &wanted)?.plan;
        return Ok(Replicated { source: from.to_string(), target: to.to_string(), plan, moved: Vec::new() });
    }
    let _lock = Lock::take(context.state_dir(), from, to, !args.no_wait, &progress)?;
    Prepared::new(from, to, &wanted)?.run(&wanted, &progress)
}

fn told(replicated: &Replicated, dry_run: bool) -> String {
    let Replicated { source, target, plan, moved } = replicated;
    if plan.steps.is_empty() {
        return format!("{target} has all that {source} has");
    }
    if dry_run {
        let steps: Vec<_> = plan.steps.iter().map(|step| format!("  would {step}")).collect();
        return format!("{source} to {target}:\n{}", steps.join("\n"));
    }
    if moved.is_empty() {
        return format!("{target} has all that {source} has; what is kept on both sides was put right");
    }
    let lines: Vec<_> = moved.iter().map(|moved| line(source, target, moved)).collect();
    lines.join("\n")
}

fn line(source: &str, target: &str, moved: &Moved) -> String {
    let kind = if moved.base.is_some() { "increment" } else { "full" };
    let resumed = match moved.resumed_bytes {
        0 => String::new(),
        bytes => format!(", {} of it were there already", size(bytes)),
    };
    format!(
        "{source}@{} to {target}: {kind}, {} as {}{resumed} in {:.1} s ({}), blake3 {} verified",
        moved.snapshot,
        size(moved.stream_bytes),
        size(moved.wire_bytes),
        moved.seconds,
        rate(moved.stream_bytes - moved.resumed_bytes, moved.seconds),
        moved.blake3,
    )
}

/// One failure alone is that failure, and so is the first of several of one kind, if nothing was done; else it is partial.
fn outcome(done: usize, mut failed: Vec<(String, Error)>) -> Result<()> {
    let Some(class) = failed.first().map(|(_, error)| error.class()) else { return Ok(()) };
    let all_alike = failed.iter().all(|(_, error)| error.class() == class);
    match (done, failed.len()) {
        (0, _) if all_alike => {
            let rest = failed.split_off(1);
            rest.iter().for_each(|(what, error)| tracing::warn!("{what}: {}", with_causes(error)));
            Err(failed.remove(0).1)
        }
        (done, n) => Err(Error::Partial {
            op: "replicate",
            failed: n,
            of: done + n,
            why: failed
                .iter()
                .map(|(what, error)| format!("{what}: {}", with_causes(error)))
                .collect::<Vec<_>>()
                .join("; "),
            hint: failed.iter().find_map(|(_, error)| error.hint()),
        }),
    }
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
