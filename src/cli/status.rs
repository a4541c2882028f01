//! `cowsnap status`

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::cli::facts::{self, All, Which};
use crate::cli::table::{Table, printable_lines, size};
use crate::cli::{Context, watched};
use crate::model::run::{Op, Subject};
use crate::plan::health::{self, Facts, Verdict, exactly, roughly};
use crate::sys::interrupt;
use crate::{Error, Result};

/// Say how jobs are doing: when each ran last and runs next, what failed, and how old its targets are
///
/// Exit code 0 whatever there is to say; `cowsnap check` has one for each state.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// What snapshots take, too: slow, as all extents are looked at
    #[arg(short, long)]
    sizes: bool,
    /// Say it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=86400))]
    watch: Option<u64>,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let looked =
        |before: &str| watched::or_late(args.which.timeout(), context, || show(args, context, before));
    let Some(seconds) = args.watch else { return looked("") };
    expect_no_number(&args.which)?;
    // The cursor goes to the first line, and what was there before goes.
    let clear = if std::io::stdout().is_terminal() && !context.json { "\u{1b}[H\u{1b}[2J" } else { "" };
    loop {
        match looked(clear) {
            _ if interrupt::check().is_err() => return Ok(ExitCode::SUCCESS),
            Ok(code) if code == ExitCode::SUCCESS => {}
            other => return other,
        }
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            if interrupt::check().is_err() {
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What stands behind `--watch` with a blank between is a job's name.
fn expect_no_number(which: &Which) -> Result<()> {
    let is_number = |name: &&String| name.parse::<u64>().is_ok();
    let Some(number) = which.names().iter().find(is_number) else { return Ok(()) };
    match which.config()?.job(number) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Usage {
            what: error.to_string(),
            hint: Some(format!("cowsnap status --watch={number} says it again every {number} seconds")),
        }),
    }
}

fn show(args: &Args, context: &Context, before: &str) -> Result<()> {
    let all = facts::all(&args.which, args.sizes, context)?;
    let now = Timestamp::now();
    let text = format!("{before}{}", text(&all, args.sizes, now));
    let objects: Vec<_> = all.facts.iter().map(|facts| object(facts, now)).collect();
    context.print(&json!({ "now": now, "jobs": objects, "stale": all.stale }), text)
}

fn text(all: &All, sizes: bool, now: Timestamp) -> String {
    let mut columns = vec!["JOB", "VERDICT", "LAST", "NEXT", "TOOK", "DOWN", "SNAPSHOTS", "FREE"];
    columns.extend(if sizes { &["REFERENCED", "EXCLUSIVE"][..] } else { &[] });
    columns.push("TARGETS");
    let mut table = Table::new(&columns);
    let mut notes = String::new();
    for facts in &all.facts {
        let findings = health::findings(facts, now);
        table.row(row(facts, health::verdict(&findings).0, sizes, now));
        for finding in &findings {
            notes += &format!("{}: {}: {}\n", finding.job, finding.state, finding.what);
        }
    }
    for job in &all.stale {
        notes += &format!("{job}: there is a record of its runs, and it is not configured any more\n");
    }
    for job in &all.stopped {
        notes += &format!(
            "{job}: it is not configured any more, and has left services stopped: cowsnap job recover\n"
        );
    }
    if all.facts.is_empty() {
        notes += "no job is configured\n";
    }
    let notes = printable_lines(&notes);
    let gap = if notes.is_empty() || all.facts.is_empty() { "" } else { "\n" };
    format!("{table}{gap}{notes}")
}

fn row(facts: &Facts, verdict: Verdict, sizes: bool, now: Timestamp) -> Vec<String> {
    let dash = || "-".to_owned();
    let ago = |time: Timestamp| format!("{} ago", roughly(now.duration_since(time)));
    let next = match health::next_run(facts, now) {
        _ if facts.is_at_work => "at work".into(),
        None => dash(),
        Some(next) if next <= now => "now".into(),
        Some(next) => format!("in {}", roughly(next.duration_since(now))),
    };
    let record = facts.record.as_ref().ok().and_then(Option::as_ref);
    let tally = |op| record.and_then(|record| record.tally(&Subject::of_job(op)));
    let took = |ms: u64| exactly(SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)));
    let seen = || facts.datasets.iter().filter_map(|(_, seen)| seen.as_ref().ok());
    let snapshots = seen().map(|seen| seen.snapshots).max();
    let free = seen().filter_map(|seen| seen.space.and_then(health::percent_free));
    let free = free.min_by(f64::total_cmp);
    let mut cells = vec![
        facts.job.clone(),
        verdict.to_string(),
        health::oldest_of_newest(facts).map_or_else(dash, ago),
        next,
        tally(Op::Run)
            .filter(|tally| tally.done + tally.failed > 0)
            .map_or_else(dash, |tally| took(tally.last_ms)),
        health::downtime(facts).map_or_else(dash, exactly),
        snapshots.map_or_else(dash, |n| n.to_string()),
        free.map_or_else(dash, |percent| format!("{percent:.0} %")),
    ];
    if sizes {
        let usage = || seen().filter_map(|seen| seen.usage);
        let told = |sum: u64| usage().next().map_or_else(dash, |_| size(sum));
        cells.push(told(usage().map(|usage| usage.0).sum()));
        cells.push(told(usage().map(|usage| usage.1).sum()));
    }
    cells.push(targets(facts, now));
    cells
}

fn targets(facts: &Facts, now: Timestamp) -> String {
    let told = |target: &health::Target| {
        let to = &target.to;
        match (&target.up_to, health::lag(target, facts)) {
            (Err(_), _) => format!("{to}: not known"),
            (Ok(None), _) => format!("{to}: never"),
            (Ok(Some(_)), Some(SignedDuration::ZERO)) => format!("{to}: all"),
            (Ok(Some(up_to)), _) => format!("{to}: as of {} ago", roughly(now.duration_since(*up_to))),
        }
    };
    match facts.targets.as_slice() {
        [] => "-".into(),
        all => all.iter().map(told).collect::<Vec<_>>().join(", "),
    }
}

/// What `--json` says of a job.
pub(super) fn object(facts: &Facts, now: Timestamp) -> Value {
    let findings = health::findings(facts, now);
    let (verdict, why) = health::verdict(&findings);
    let told = |is_nested: bool| {
        move |(name, seen): &(String, Result<health::Seen, String>)| match seen {
            Ok(seen) => json!({
                "dataset": name, "is_nested": is_nested, "newest": seen.newest, "snapshots": seen.snapshots, "stuck": seen.stuck,
                "receiving": seen.live, "free_bytes": seen.space.map(|s| s.0), "size_bytes": seen.space.map(|s| s.1),
                "referenced_bytes": seen.usage.map(|u| u.0), "exclusive_bytes": seen.usage.map(|u| u.1),
            }),
            Err(why) => json!({ "dataset": name, "is_nested": is_nested, "error": why }),
        }
    };
    let nested = facts.nested.iter().map(told(true));
    let datasets: Vec<_> = facts.datasets.iter().map(told(false)).chain(nested).collect();
    let targets: Vec<_> = facts
        .targets
        .iter()
        .map(|target| {
            let error = target.seen.as_ref().and_then(|seen| seen.as_ref().err());
            json!({
                "dataset": target.dataset, "to": target.to, "up_to": target.known_up_to(), "is_looked_at": target.is_looked_at(),
                "lag_seconds": health::lag(target, facts).map(|lag| lag.as_secs()), "base": target.base, "base_days": target.base_days,
                "chain": target.archive.as_ref().and_then(|archive| archive.chain),
                "verified_up_to": target.archive.as_ref().and_then(|archive| archive.verified_up_to),
                "asked": target.asked.as_ref().map(|asked| asked.at),
                "error": error.or(target.up_to.as_ref().err()).or(target.asked.as_ref().and_then(|it| it.answer.as_ref().err())),
            })
        })
        .collect();
    json!({
        "job": facts.job, "verdict": verdict, "why": why, "findings": findings, "is_at_work": facts.is_at_work,
        "last": health::oldest_of_newest(facts), "next": health::next_run(facts, now), "datasets": datasets,
        "targets": targets, "record": facts.record.as_ref().ok(), "record_error": facts.record.as_ref().err(),
        "stopped": facts.stopped.as_ref().ok(),
    })
}
