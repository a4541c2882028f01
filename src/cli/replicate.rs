//! `cowsnap replicate`

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::peer::Way;
use crate::cli::progress::Progress;
use crate::cli::send::{rate, size};
use crate::cli::table::printable_lines;
use crate::cli::{Context, peer, place};
use crate::config::value::bandwidth;
use crate::config::{Job, Replica};
use crate::endpoint::{Dataset, Error as EndpointError};
use crate::exec::replicate::{Foretold, Guard, LetGo, Replicated, Wanted, foretell, replicate};
use crate::exec::transfer::{Moved, Options, Place};
use crate::model::{SnapshotName, Target};
use crate::plan::fan::Turn;
use crate::plan::replicate::{Conflict, Plan, Step};
use crate::stream::container::ZfsFlags;
use crate::stream::writer::DEFAULT_LEVEL;
use crate::sys::interrupt;
use crate::{Class, Error, Result};

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
    /// At most so many bytes per second, to all DESTs together: 20M
    #[arg(long, value_name = "SIZE", value_parser = bandwidth)]
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

/// How much of a stream may have to come again.
pub(super) fn interval(text: &str) -> Result<u64, String> {
    super::pool::size(text).and_then(|size| match size {
        0..0x10_0000 => Err("1M is the least: a stream is verified in pieces of that size".into()),
        size => Ok(size),
    })
}

impl Args {
    fn way(&self) -> Way<'_> {
        Way { stall: self.stall, ssh: &self.ssh, remote: &self.remote_command, unattended: None }
    }

    /// How a job's dataset is brought to one of its targets.
    pub(super) fn of_job(job: &Job, replica: &Replica) -> Self {
        Self {
            source: (&replica.dataset).into(),
            dests: vec![(&replica.to).into()],
            intermediates: replica.intermediates,
            recursive: job.recursive,
            full: false,
            bandwidth: replica.bandwidth,
            level: replica.level.unwrap_or(DEFAULT_LEVEL),
            no_compress: false,
            zfs_flags: replica.zfs_flags,
            checkpoint: 256 << 20,
            no_wait: false,
            stall: 600,
            ssh: std::env::var("COWSNAP_SSH").unwrap_or_else(|_| "ssh".into()),
            remote_command: "cowsnap serve".into(),
            dry_run: false,
        }
    }
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let (value, text, outcome) = perform(args, context)?;
    context.print(&value, text)?;
    outcome
}

/// Does it; answers what there is to print, and how it went.
///
/// # Errors
/// A source that is not there or out of reach.
pub(super) fn perform(args: Args, context: &Context) -> Result<(Value, String, Result<()>)> {
    let (source, last) = source(&args)?;
    let from = args.way().to(&source, context)?;
    let inside = if args.recursive { from.inside()? } else { Vec::new() };
    let from = Side { place: from, here: None, is_broken: false, hangs: false };
    let wanted = wanted(&args, last);
    let mut run = Run { wanted, args, context, from, dests: Vec::new(), told: Told::default() };
    run.find_dests();
    let names = std::iter::once(None).chain(inside.into_iter().map(Some));
    let all = each_until(names, interrupt::check, |name| run.bring(name.as_deref()));
    if let Err(stopped) = all {
        let what = run.from.place.to_string();
        let error = Error::io("replicate all that is inside", &what)(stopped);
        run.told.failed.push((what, error));
    }
    let Run { args, wanted, told: Told { done, failed, streams }, .. } = run;
    // A parent may be there for what is inside it alone.
    let failed = match done.is_empty() {
        true => failed,
        false => failed.into_iter().filter(|(what, error)| !is_empty(what, error, context)).collect(),
    };
    let last = wanted.last.as_ref();
    let text = done.iter().map(|replicated| said(replicated, last)).chain(streams);
    let would = args.dry_run.then_some("replicate");
    let value = json!({
        "would": would,
        "replicated": done,
        "failed": failed.iter().map(|(what, error)| not_done(what, error)).collect::<Vec<_>>(),
    });
    let text = printable_lines(&text.collect::<Vec<_>>().join("\n"));
    Ok((value, text, outcome(done.len(), failed)))
}

/// What went wrong, and what was brought before that.
fn not_done(what: &str, error: &Error) -> Value {
    let moved = match error {
        Error::Behind(behind) => &behind.moved[..],
        _ => &[],
    };
    json!({ "what": what, "error": with_causes(error), "class": error.class(), "moved": moved })
}

/// Whether that has no snapshot at all, where others were brought; which is said.
fn is_empty(what: &str, error: &Error, context: &Context) -> bool {
    let Error::Replicate { source, .. } = error else { return false };
    let is_empty = **source == Conflict::Empty;
    if is_empty {
        context.warn(format!("{what}: {source}"));
    }
    is_empty
}

/// Does one after another; the error says that there is something left that was not begun any more.
fn each_until<T>(
    all: impl Iterator<Item = T>,
    check: impl Fn() -> std::io::Result<()>,
    mut bring: impl FnMut(T),
) -> std::io::Result<()> {
    for one in all {
        check()?;
        bring(one);
    }
    Ok(())
}

/// A run of the subcommand.
struct Run<'a> {
    args: Args,
    context: &'a Context,
    wanted: Wanted,
    from: Side,
    dests: Vec<Side>,
    told: Told,
}

/// What is to be said at the end.
#[derive(Default)]
struct Told {
    done: Vec<Replicated>,
    failed: Vec<(String, Error)>,
    streams: Vec<String>,
}

/// The source or a target, and whether its connection may have ended in the midst of something.
struct Side {
    place: Place,
    /// What it is here, if another process works on it.
    here: Option<Dataset>,
    is_broken: bool,
    /// A disk of this machine that hangs is gone for the rest of the run.
    hangs: bool,
}

impl Run<'_> {
    /// Each has a connection of its own: what ends one ends no other. So has each that is here, unless it is only looked at: nobody can take
    /// back what this process itself asked of a disk that hangs, nor end it then.
    fn find_dests(&mut self) {
        for dest in &self.args.dests {
            match self.side(dest) {
                Ok(side) => self.dests.push(side),
                Err(error) => self.told.failed.push((dest.to_string_lossy().into_owned(), error)),
            }
        }
    }

    fn side(&self, dest: &OsString) -> Result<Side> {
        let way = self.args.way();
        let (is_broken, hangs, target) = (false, false, Target::parse(dest)?);
        let is_written_to = self.args.dests.len() > 1 || !self.args.dry_run;
        let is_aside = is_written_to && !matches!(target, Target::Remote(_));
        match is_aside.then(|| place::dataset_as_it_is(&target, self.context)).transpose()? {
            Some(here) => {
                let place = way.aside(&here, self.args.checkpoint, self.context)?;
                Ok(Side { place, here: Some(here), is_broken, hangs })
            }
            None => Ok(Side { place: way.to(&target, self.context)?, here: None, is_broken, hangs }),
        }
    }

    /// Brings one dataset to its counterparts: the source, or the one of that name inside it.
    fn bring(&mut self, name: Option<&Path>) {
        let inside = match self.from.own(name, self.context) {
            Ok(inside) => inside,
            Err(error) => {
                let called =
                    name.map_or(String::new(), |name| format!("/{}", name.to_string_lossy().escape_debug()));
                return self.told.failed.push((format!("{}{called}", self.from.place), error));
            }
        };
        let inside = &inside;
        let (mut places, mut of) = (Vec::new(), Vec::new());
        for (number, dest) in self.dests.iter_mut().enumerate() {
            match dest.at(name, self.context) {
                Ok(place) => {
                    places.push(place);
                    of.push(number);
                }
                Err(error) => self.told.failed.push((format!("{inside} to {}", dest.place), error)),
            }
        }
        let outcomes = match self.args.dry_run {
            true => self.foretell(inside, &places),
            false => {
                let guard = Guard { state_dir: self.context.state_dir(), wait: !self.args.no_wait };
                replicate(inside, &places, &self.wanted, guard, &Progress::new(self.context))
            }
        };
        for ((outcome, place), number) in outcomes.into_iter().zip(&places).zip(of) {
            match outcome {
                Ok(replicated) => self.told.done.push(replicated),
                Err(error) => {
                    self.told.failed.push((format!("{inside} to {place}"), error));
                    self.dests[number].is_broken = true;
                    self.dests[number].hangs |= place.hangs();
                    self.from.is_broken = true;
                }
            }
        }
    }

    fn foretell(&mut self, inside: &Place, places: &[Place]) -> Vec<Result<Replicated>> {
        match foretell(inside, places, &self.wanted) {
            Ok((outcomes, turns)) => {
                let shared = turns.iter().filter(|turn| turn.lanes.len() > 1);
                self.told.streams.extend(shared.map(|turn| sent_once(inside, turn, places)));
                outcomes
            }
            Err(error) => {
                self.told.failed.push((inside.to_string(), error));
                Vec::new()
            }
        }
    }
}

impl Side {
    /// It, or the dataset of that name inside; over a new connection if the old one may be of no use any more.
    fn at(&mut self, name: Option<&Path>, context: &Context) -> Result<Place> {
        if self.hangs {
            let (place, what) =
                (self.place.to_string(), "it hangs, and is left out for the rest of the run".into());
            return Err(EndpointError::Remote { place, what, class: Class::Unreachable, hint: None }.into());
        }
        if self.is_broken {
            self.place = self.place.again()?;
            self.is_broken = false;
        }
        match (name, &self.here, &self.place) {
            (None, ..) => Ok(self.place.clone()),
            (Some(name), Some(here), Place::There(peer)) => {
                Ok(peer::beside(peer, here.named_below(name)?, context))
            }
            (Some(name), ..) => self.place.below(name),
        }
    }

    /// As [`Side::at`], by a name that it has told itself.
    fn own(&mut self, name: Option<&Path>, context: &Context) -> Result<Place> {
        if let (Some(name), Place::There(peer)) = (name, &self.place) {
            peer.expect_printable(name)?;
        }
        self.at(name, context)
    }
}

fn sent_once(from: &Place, turn: &Turn, places: &[Place]) -> String {
    let names: Vec<_> = turn.lanes.iter().map(|&lane| places[lane].to_string()).collect();
    format!("{from}@{} would be sent once, to {}", turn.version.name, names.join(", "))
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

fn wanted(args: &Args, last: Option<SnapshotName>) -> Wanted {
    Wanted {
        intermediates: args.intermediates,
        last,
        full_again: args.full,
        options: Options {
            level: (!args.no_compress).then_some(args.level),
            bandwidth: args.bandwidth,
            zfs_flags: args.zfs_flags,
            keep_every: args.checkpoint,
        },
    }
}

/// What was done, where all up to `last` was wanted, or all.
fn said(replicated: &Replicated, last: Option<&SnapshotName>) -> String {
    let Replicated { source, target, plan, moved, foretold } = replicated;
    let has = match last {
        Some(last) => format!("{target} has {source}@{last}"),
        None => format!("{target} has all that {source} has"),
    };
    let would = foretold.as_ref().map_or_else(Vec::new, |foretold| would(plan, foretold));
    match foretold {
        Some(_) if !would.is_empty() => return format!("{source} to {target}:\n{}", would.join("\n")),
        _ if plan.steps.is_empty() => return has,
        _ => {}
    }
    if moved.is_empty() {
        return format!("{has}; what is kept on both sides was put right");
    }
    let lines: Vec<_> = moved.iter().map(|moved| line(source, target, moved)).collect();
    lines.join("\n")
}

/// What would be done, a line each.
fn would(plan: &Plan, foretold: &Foretold) -> Vec<String> {
    let mut to_send = foretold.to_send.iter();
    let mut about = |step: &Step| match step {
        Step::Transfer { .. } => match to_send.next().and_then(|to_send| to_send.bytes) {
            Some(bytes) => format!(", about {}", size(bytes)),
            None => ", nobody can tell how much beforehand".into(),
        },
        _ => String::new(),
    };
    // Only what makes the stream can tell, by making it.
    let upon = |step: &Step| match step {
        Step::Transfer { resume: true, .. } => ", if the source still sends the same",
        _ => "",
    };
    let steps = plan.steps.iter().map(|step| format!("  would {step}{}{}", about(step), upon(step)));
    let turned = foretold.turned.iter().map(|LetGo { at, version, tag }| {
        format!(
            "  would release @{} at the {at}, kept by {tag} since before the direction turned",
            version.name
        )
    });
    steps.chain(turned).collect()
}

fn line(source: &str, target: &str, moved: &Moved) -> String {
    let kind = if moved.base.is_some() { "increment" } else { "full" };
    let resumed = match moved.resumed_bytes {
        0 => String::new(),
        bytes => format!(", {} of it were there already", size(bytes)),
    };
    let shared = match moved.targets {
        0 | 1 => String::new(),
        targets => format!(", sent once to {targets}"),
    };
    format!(
        "{source}@{} to {target}: {kind}, {} as {}{resumed}{shared} in {:.1} s ({}), blake3 {} verified",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::interrupt::{Interrupted, is_interrupt};

    #[test]
    fn a_signal_between_two_of_several_is_no_success() {
        let (begun, mut brought) = (std::cell::Cell::new(0), Vec::new());
        let check = || match begun.replace(begun.get() + 1) {
            1 => Err(Interrupted { signal: 15 }.into()),
            _ => Ok(()),
        };
        let stopped = each_until(["a", "b", "c"].into_iter(), check, |name| brought.push(name)).unwrap_err();
        assert!(is_interrupt(&stopped) && brought == ["a"]);
        let error = Error::io("replicate all that is inside", "tank")(stopped);
        assert!(outcome(brought.len(), vec![("tank".into(), error)]).is_err());
        assert!(each_until(["a"].into_iter(), || Ok(()), drop).is_ok());
    }
}
