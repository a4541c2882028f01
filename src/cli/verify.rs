//! `cowsnap verify`

use std::ffi::OsString;
use std::time::Duration;

use serde_json::json;

use crate::cli::progress::Progress;
use crate::cli::send::size;
use crate::cli::{Context, place};
use crate::endpoint::content::Summary;
use crate::endpoint::peer::{Patience, Peer, Ssh};
use crate::exec::transfer::Place;
use crate::exec::verify::{Checked, Contents, Outcome, Report, Request, verify};
use crate::model::{PeerAddress, SnapshotName, SnapshotRef, Target};
use crate::plan::verify::Digests;
use crate::{Error, Result};

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
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let (source, name) = source(&args)?;
    let from = find(&source, &args, context)?;
    let to = find(&Target::parse(&args.against)?, &args, context)?;
    let request = Request { name, content: args.content, read_all: args.read_all };
    let report = verify(&from, &to, &request, context.state_dir(), &Progress::new(context))?;
    context.print(&json!({ "verified": report }), told(&report))?;
    report.outcome()
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

fn find(target: &Target, args: &Args, context: &Context) -> Result<Place> {
    let Target::Remote(address) = target else { return Ok(Place::Here(place::dataset(target, context)?)) };
    let usage = |what: String, hint: Option<String>| Error::Usage { what, hint };
    let address: PeerAddress = address.parse().map_err(|error: crate::model::BadAddress| {
        usage(error.to_string(), Some("ssh://[USER@]HOST[:PORT]/TARGET".into()))
    })?;
    let program: Vec<_> = args.ssh.split_whitespace().map(str::to_owned).collect();
    if program.is_empty() {
        return Err(usage("--ssh names no program".into(), None));
    }
    let patience = Patience { stall: Some(Duration::from_secs(args.stall)), ..Patience::default() };
    let ssh = Ssh { program, remote: args.remote_command.clone(), patience, hear: super::progress::say };
    Ok(Place::There(Peer::connect(&address, &ssh)?))
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
