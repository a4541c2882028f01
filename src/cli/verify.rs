//! `cowsnap verify`

use std::ffi::OsString;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::cli::doctor::with_causes;
use crate::cli::job::recorded::{self, Verified};
use crate::cli::peer::Way;
use crate::cli::progress::Progress;
use crate::cli::send::size;
use crate::cli::{Context, place};
use crate::endpoint;
use crate::endpoint::content::Summary;
use crate::exec::transfer::Place;
use crate::exec::verify::{Checked, Contents, Outcome, Report, Request, verify};
use crate::model::run::Depth;
use crate::model::{SnapshotName, SnapshotRef, Target};
use crate::plan::verify::Digests;
use crate::sys::interrupt;
use crate::{Class, Error, Result};

/// Prove that a replica holds what its source holds
///
/// Compares the digests that both sides wrote down of the stream between them; with --content also what is in the files of both, read
/// where they are. SOURCE and DEST are datasets here, or ssh://[USER@]HOST[:PORT]/TARGET where cowsnap is installed. Exit 0: all of it is
/// proven. Exit 4: something differs. Exit 7: nothing differs, and something is not proven.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose snapshots: TARGET for each that both have, TARGET@NAME for that one; here or ssh://HOST/TARGET
    source: OsString,
    /// What has to hold the same: TARGET or ssh://HOST/TARGET
    #[arg(long, value_name = "DEST")]
    against: OsString,
    /// The datasets inside SOURCE too, each with its counterpart; one that can not be looked at does not stop the others
    #[arg(short, long)]
    recursive: bool,
    /// Compare what is in them: names, types, modes, owners, times, attributes, sizes, bytes, links and devices
    #[arg(long)]
    content: bool,
    /// With --content: read all bytes, also what did not change since a snapshot that was read before
    #[arg(long, requires = "content")]
    read_all: bool,
    /// Give up if nothing is heard for so many seconds; an answer that needs reading may take 36 times as long
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    stall: u64,
    /// The program that reaches peers, and its first arguments
    #[arg(long, value_name = "COMMAND", default_value = "ssh", env = "COWSNAP_SSH")]
    ssh: String,
    /// What is run there
    #[arg(long, value_name = "COMMAND", default_value = "cowsnap serve")]
    remote_command: String,
    /// Where jobs are configured: what came of it is counted of those that bring SOURCE to DEST
    #[arg(long, env = "COWSNAP_CONFIG", default_value = "/etc/cowsnap/config.toml", value_name = "FILE")]
    config: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let (source, name) = source(args)?;
    let (against, began) = (Target::parse(&args.against)?, Instant::now());
    let is_one = name.is_some();
    let done = compared(args, &source, name, &against, context);
    let is_ended = matches!(done, Err(Error::Endpoint(endpoint::Error::Interrupted { .. })));
    if !is_ended && interrupt::check().is_ok() {
        let what = Verified {
            config: &args.config,
            source: &source,
            against: &against,
            is_one,
            depth: Depth { content: args.content, all: args.read_all, inside: args.recursive },
            took: began.elapsed(),
        };
        recorded::verified(&what, done.as_ref().err(), context);
    }
    done
}

fn compared(
    args: &Args,
    source: &Target,
    name: Option<SnapshotName>,
    against: &Target,
    context: &Context,
) -> Result<()> {
    let way = Way { stall: args.stall, ssh: &args.ssh, remote: &args.remote_command, unattended: None };
    let from = way.to(source, context)?;
    let to = way.to(against, context)?;
    let request = Request { name, content: args.content, read_all: args.read_all };
    let told_of =
        |from: &Place, to: &Place| verify(from, to, &request, context.state_dir(), &Progress::new(context));
    if !args.recursive {
        let report = told_of(&from, &to)?;
        context.print(&json!({ "verified": report }), told(&report))?;
        return report.outcome();
    }
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for name in iter::once(None).chain(from.inside()?.into_iter().map(Some)) {
        interrupt::check().map_err(Error::io("verify all that is inside", &from))?;
        match pair(&from, &to, name.as_deref()).and_then(|(from, to)| told_of(&from, &to)) {
            Ok(report) => reports.push(report),
            Err(error) => failed.push((called(&from, name.as_deref()), error)),
        }
    }
    let text: Vec<_> = reports.iter().map(told).filter(|text| !text.is_empty()).collect();
    let failures: Vec<_> = failed
        .iter()
        .map(|(dataset, error)| json!({ "dataset": dataset, "error": error.to_string() }))
        .collect();
    context.print(&json!({ "verified": reports, "failed": failures }), text.join("\n"))?;
    let Verdict { error, others } = verdict(&reports, failed);
    others.iter().for_each(|(name, error)| context.warn(format!("{name}: {}", with_causes(error))));
    error.map_or(Ok(()), Err)
}

/// Both places themselves, or their dataset of that name.
fn pair(from: &Place, to: &Place, name: Option<&Path>) -> Result<(Place, Place)> {
    let Some(name) = name else { return Ok((from.clone(), to.clone())) };
    if let Place::There(peer) = from {
        peer.expect_printable(name)?;
    }
    // Over connections of their own: one that ends in the midst of something ends no other.
    Ok((from.again()?.below(name)?, to.again()?.below(name)?))
}

fn called(from: &Place, name: Option<&Path>) -> String {
    match name {
        None => from.to_string(),
        Some(name) => format!("{from}/{}", name.to_string_lossy().escape_debug()),
    }
}

/// What the program ends with, and what it does not say of others.
struct Verdict {
    error: Option<Error>,
    others: Vec<(String, Error)>,
}

impl Verdict {
    fn of_one(mut all: Vec<(String, Error)>, at: usize) -> Self {
        Self { error: Some(all.remove(at).1), others: all }
    }
}

/// A difference is one whatever else there is; else nothing differs, and something is not proven. A pair without any snapshot says nothing,
/// unless all are.
fn verdict(reports: &[Report], failed: Vec<(String, Error)>) -> Verdict {
    let all_are_empty = failed.is_empty() && reports.iter().all(Report::is_empty);
    let counts = reports.iter().filter(|report| all_are_empty || !report.is_empty());
    let found: Vec<_> =
        counts.filter_map(|report| Some((report.source.clone(), report.outcome().err()?))).collect();
    let is_alike = failed.iter().all(|(_, error)| error.class() == failed[0].1.class());
    let different = found.iter().position(|(_, error)| error.class() == Class::Corrupt);
    let all: Vec<_> = found.into_iter().chain(failed).collect();
    match (different, all.len()) {
        (Some(at), _) => Verdict::of_one(all, at),
        (None, 0) => Verdict { error: None, others: all },
        // What keeps it from finding out anything has the code that it has elsewhere.
        (None, _) if reports.is_empty() && is_alike => Verdict::of_one(all, 0),
        (None, n) => {
            let why: Vec<_> =
                all.iter().map(|(name, error)| format!("{name}: {}", with_causes(error))).collect();
            let hint = all.iter().find_map(|(_, error)| error.hint());
            let of = reports.len().max(n);
            let why = why.join("; ");
            Verdict {
                error: Some(Error::Partial { op: "verify", failed: n, of, why, hint }),
                others: Vec::new(),
            }
        }
    }
}

fn source(args: &Args) -> Result<(Target, Option<SnapshotName>)> {
    match place::names_a_snapshot(&args.source) {
        false => Ok((Target::parse(&args.source)?, None)),
        true => {
            let snapshot = SnapshotRef::parse(&args.source)?;
            Ok((snapshot.target, Some(snapshot.name)))
        }
    }
}

fn told(report: &Report) -> String {
    let mut lines: Vec<_> = report.snapshots.iter().flat_map(|checked| lines(report, checked)).collect();
    for (names, which) in [(&report.only_source, &report.source), (&report.only_target, &report.target)] {
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(|name| format!("@{name}")).collect();
            lines.push(format!("not compared, only {which} has them: {}", names.join(", ")));
        }
    }
    if !report.altered_target.is_empty() {
        let names: Vec<_> = report.altered_target.iter().map(|name| format!("@{name}")).collect();
        lines.push(format!(
            "DIFFERENT, only {} has them, made writable: {}",
            report.target,
            names.join(", ")
        ));
    }
    if !report.content_compared && !report.snapshots.is_empty() {
        lines.push("not compared: what is on the disks since (--content)".into());
    }
    lines.join("\n")
}

fn lines(report: &Report, checked: &Checked) -> Vec<String> {
    let word = match checked.outcome {
        Outcome::Same => "same",
        Outcome::Different => "DIFFERENT",
        Outcome::Unproven => "not proven",
    };
    let aka = match checked.target_snapshot == checked.snapshot {
        true => String::new(),
        false => format!(" (there @{})", checked.target_snapshot),
    };
    let mut lines =
        vec![format!("{}@{} and {}{aka}: {word}", report.source, checked.snapshot, report.target)];
    lines.push(format!("  stream: {}", digests(&checked.digests)));
    lines.extend(checked.content.iter().flat_map(contents));
    lines
}

fn digests(digests: &Digests) -> String {
    match digests {
        Digests::Same { stream } => {
            let kind = if stream.base.is_some() { "increment" } else { "full" };
            format!("received as sent, {kind}, {}, blake3 {}", size(stream.len), stream.blake3)
        }
        Digests::Differ { sent, received } => format!(
            "{} bytes with blake3 {} were sent, {} with {} received",
            sent.len, sent.blake3, received.len, received.blake3
        ),
        Digests::Altered { side } => {
            format!("the snapshot at the {side} was made writable, and is not what it was")
        }
        Digests::Unknown { why } => format!("no proof: {why}"),
    }
}

fn contents(contents: &Contents) -> Vec<String> {
    match contents {
        Contents::Same { source, target } => {
            let first = format!(
                "  content: the same {} entries, {}, manifest blake3 {}",
                source.entries,
                size(source.bytes),
                source.blake3
            );
            [vec![first], reading("source", source), reading("target", target)].concat()
        }
        Contents::Different { source, target, differences, more } => {
            let mut lines = vec!["  content: differs".to_owned()];
            lines.extend(differences.iter().map(|difference| format!("    {difference}")));
            lines.extend(more.then(|| "    … and maybe at others".to_owned()));
            [lines, reading("source", source), reading("target", target)].concat()
        }
        Contents::Damaged { side, why } => vec![format!("  content: the {side} is damaged: {why}")],
        Contents::Unknown { side, why } => {
            vec![format!("  content: no proof, the {side} can not tell: {why}")]
        }
    }
}

/// How a side's content is known. What a peer says is shown, not believed to be text.
fn reading(side: &str, summary: &Summary) -> Vec<String> {
    let how = match (&summary.upon, summary.kept) {
        (Some(_), true) => format!("not read again, as it was on {} and later", summary.at),
        (None, true) => format!("not read again, as it was on {}", summary.at),
        (Some(base), false) => {
            format!(
                "{} read, the rest is as it was in @{base}, read on {} and later",
                size(summary.read_bytes),
                summary.at
            )
        }
        (None, false) => format!("{} read", size(summary.read_bytes)),
    };
    let mut lines = vec![format!("    {side}: {how}")];
    lines.extend(summary.notes.iter().map(|note| format!("    {side}: {}", note.escape_debug())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Error as EndpointError;

    fn report(source: &str, altered: &[&str], only_source: &[&str]) -> Report {
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        Report {
            source: source.into(),
            target: "b".into(),
            snapshots: Vec::new(),
            only_source: names(only_source),
            only_target: Vec::new(),
            altered_target: names(altered),
            content_compared: false,
        }
    }

    /// The exit code, what is said, and of how many others.
    fn found(reports: &[Report], failed: &[(&str, &str)]) -> (u8, String, usize) {
        let failed = failed.iter().map(|(name, why)| {
            let error = match *why {
                "corrupt" => EndpointError::Corrupt { what: "metadata", why: "so".into(), source: None },
                subject => EndpointError::NotFound { what: "dataset", subject: subject.into(), hint: None },
            };
            ((*name).to_owned(), error.into())
        });
        let Verdict { error, others } = verdict(reports, failed.collect());
        let code = error.as_ref().map_or(0, |error| error.class().exit_code());
        (code, error.map_or(String::new(), |error| error.to_string()), others.len())
    }

    #[test]
    fn only_what_differs_is_a_difference_and_a_pair_without_snapshots_says_nothing() {
        let (empty, other) = (report("a", &[], &[]), report("a/x", &["s"], &[]));
        let lacks = report("a/y", &[], &["s"]);
        // None has any: nothing was proven.
        assert_eq!(found(std::slice::from_ref(&empty), &[]).0, 7);
        let (code, why, others) = found(&[empty.clone(), lacks.clone()], &[]);
        assert!(code == 7 && others == 0 && why.contains("a/y: ") && !why.contains("a: "), "{why}");
        // What can not be looked at is no difference, whatever it says, and all of it is named.
        let (code, why, others) = found(std::slice::from_ref(&empty), &[("a/x", "corrupt"), ("a/y", "b/y")]);
        assert!(code == 7 && others == 0 && why.contains("a/x: ") && why.contains("a/y: "), "{why}");
        let (code, why, others) = found(&[other, lacks], &[("a/z", "corrupt")]);
        assert!((code, others) == (4, 2) && why.contains("@s"), "{why}");
        // Nothing at all could be looked at.
        assert_eq!(found(&[], &[("a", "b"), ("a/x", "b/x")]), (2, "dataset b does not exist".into(), 1));
        assert_eq!(found(&[], &[("a", "b"), ("a/x", "corrupt")]).0, 7);
    }
}
