//! `cowsnap check`: a plugin of Nagios, and of what speaks its language.

use std::process::ExitCode;

use jiff::{SignedDuration, Span, Timestamp};
use serde_json::{Value, json};

use crate::cli::asked::Asking;
use crate::cli::doctor::with_causes;
use crate::cli::facts::{self, All, Which};
use crate::cli::table::printable_lines;
use crate::cli::{Context, status, watched};
use crate::config::value;
use crate::model::run::{Op, Subject};
use crate::plan::health::{self, About, Facts, Finding, Pair, State, Thresholds};
use crate::{Error, Result};

/// Say in one line whether jobs are well, with the exit codes of Nagios: 0 ok, 1 warning, 2 critical, 3 unknown
///
/// What could not be looked at is unknown, never ok; targets on other machines and archives are asked. Below the first line stands each finding, and behind | what is measured.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    given: Given,
}

/// What the command line says goes before what a job says.
#[derive(Debug, clap::Args)]
struct Given {
    /// Warn of a newest snapshot that is older, instead of what the schedule says
    #[arg(long, value_name = "AGE", value_parser = value::span)]
    warn_age: Option<Span>,
    /// The same, critical
    #[arg(long, value_name = "AGE", value_parser = value::span)]
    crit_age: Option<Span>,
    /// Warn of what a target has if that is older; as snapshots by default
    #[arg(long, value_name = "AGE", value_parser = value::span)]
    warn_replica_age: Option<Span>,
    /// The same, critical
    #[arg(long, value_name = "AGE", value_parser = value::span)]
    crit_replica_age: Option<Span>,
    /// Warn of a last drill that went well if it is older, of jobs that have one; 35d by default
    #[arg(long, value_name = "AGE", value_parser = value::span)]
    warn_drill_age: Option<Span>,
    /// The same, critical
    #[arg(long, value_name = "AGE", value_parser = value::span)]
    crit_drill_age: Option<Span>,
    /// Warn of a last verify of a target that found nothing if it is older; never by default
    #[arg(long, value_name = "AGE", value_parser = value::span)]
    warn_verify_age: Option<Span>,
    /// The same, critical
    #[arg(long, value_name = "AGE", value_parser = value::span)]
    crit_verify_age: Option<Span>,
    /// Warn if retention lets go what a target's next increment builds upon in fewer days; 7 by default
    #[arg(long, value_name = "DAYS")]
    warn_base_days: Option<u32>,
    /// The same, critical; 1 by default
    #[arg(long, value_name = "DAYS")]
    crit_base_days: Option<u32>,
    /// Warn if bringing an archive's newest version back takes more containers; never by default
    #[arg(long, value_name = "N", value_parser = value::most_containers)]
    warn_chain: Option<u64>,
    /// The same, critical
    #[arg(long, value_name = "N", value_parser = value::most_containers)]
    crit_chain: Option<u64>,
    /// Warn if bringing an archive's newest version back takes more bytes: 200G; never by default
    #[arg(long, value_name = "SIZE", value_parser = value::most_bytes)]
    warn_restore: Option<u64>,
    /// The same, critical
    #[arg(long, value_name = "SIZE", value_parser = value::most_bytes)]
    crit_restore: Option<u64>,
    /// Warn if less is free where a dataset or target is, of 100; 20 by default
    #[arg(long, value_name = "PERCENT", value_parser = value::percent)]
    warn_free: Option<f64>,
    /// The same, critical; 10 by default
    #[arg(long, value_name = "PERCENT", value_parser = value::percent)]
    crit_free: Option<f64>,
}

impl Given {
    fn thresholds(&self) -> Thresholds {
        Thresholds {
            age: Pair { warn: self.warn_age, crit: self.crit_age },
            replica_age: Pair { warn: self.warn_replica_age, crit: self.crit_replica_age },
            drill_age: Pair { warn: self.warn_drill_age, crit: self.crit_drill_age },
            verify_age: Pair { warn: self.warn_verify_age, crit: self.crit_verify_age },
            base_days: Pair { warn: self.warn_base_days, crit: self.crit_base_days },
            chain: Pair { warn: self.warn_chain, crit: self.crit_chain },
            restore: Pair { warn: self.warn_restore, crit: self.crit_restore },
            free: Pair { warn: self.warn_free, crit: self.crit_free },
        }
    }

    /// Judges by this, and by what the job says where this says nothing.
    fn tell(&self, all: &mut All, now: Timestamp) {
        let given = self.thresholds();
        for (job, facts) in all.jobs.iter().zip(&mut all.facts) {
            facts.limits = given.or(&job.check.clone().unwrap_or_default()).limits(now);
        }
    }
}

/// Runs the subcommand. Whatever keeps it from finding out is unknown.
///
/// # Errors
/// Standard output that can not be written to.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    const MOST: u8 = 3; // More is no state: it died of something.
    let seconds = args.which.timeout();
    let why = match watched::in_time(seconds, context, || looked(args, context)) {
        Ok(Some(code)) if code <= MOST => return Ok(ExitCode::from(code)),
        Ok(Some(code)) => format!("who was to find out ended with {code}"),
        Ok(None) => watched::silence(seconds),
        Err(error) => with_causes(&error),
    };
    let (state, text, value) = unknown(&why);
    context.print(&value, printable_lines(&text))?;
    Ok(ExitCode::from(state.exit_code()))
}

/// Looks, prints, and answers the exit code.
fn looked(args: &Args, context: &Context) -> Result<u8> {
    let asking = Asking::begin(&args.which, context);
    let done = facts::all(&args.which, false, context);
    let now = Timestamp::now();
    let done = done.map(|mut all| {
        asking.tell(&mut all.facts);
        args.given.tell(&mut all, now);
        all
    });
    let (state, text, value) = match &done {
        Ok(all) => {
            let findings = judged(all, now);
            let state = if all.facts.is_empty() { State::Unknown } else { health::worst(&findings) };
            let jobs: Vec<_> = all.facts.iter().map(|facts| status::object(facts, now)).collect();
            let text = report(state, all, &findings, now);
            (state, text, json!({ "state": state, "findings": findings, "jobs": jobs }))
        }
        Err(error) => unknown(&with_causes(error)),
    };
    context.print(&value, printable_lines(&text))?;
    Ok(state.exit_code())
}

fn unknown(why: &str) -> (State, String, Value) {
    let value = json!({ "state": State::Unknown, "error": why, "findings": [], "jobs": [] });
    (State::Unknown, format!("COWSNAP UNKNOWN - {}", plain(why)), value)
}

/// What a line of arguments is that can not be read: unknown, as critical would be a lie.
pub fn unreadable(error: &Error) -> (ExitCode, String) {
    (ExitCode::from(State::Unknown.exit_code()), format!("COWSNAP UNKNOWN - {}", plain(&error.to_string())))
}

fn judged(all: &All, now: Timestamp) -> Vec<Finding> {
    let mut findings: Vec<_> = all.facts.iter().flat_map(|facts| health::findings(facts, now)).collect();
    for job in &all.stopped {
        findings.push(Finding {
            state: State::Critical,
            about: About::Failed,
            job: job.clone(),
            what: "it is not configured any more, and has left services stopped: cowsnap job recover".into(),
        });
    }
    findings.extend(of_units(all));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.state));
    findings
}

/// What systemd says of the units that call jobs. Those that jobs stop and start are theirs.
fn of_units(all: &All) -> Vec<Finding> {
    let finding = |state, about, what| Finding { state, about, job: "systemd".into(), what };
    match &all.failed_units {
        Err(why) => vec![finding(State::Unknown, About::Unseen, why.clone())],
        Ok(failed) => {
            let failed = failed.iter().flatten().filter(|unit| unit.starts_with("cowsnap"));
            failed.map(|unit| finding(State::Critical, About::Failed, format!("{unit} has failed"))).collect()
        }
    }
}

/// The summary with what is measured, then a line for each finding.
fn report(state: State, all: &All, findings: &[Finding], now: Timestamp) -> String {
    let names = || all.facts.iter().map(|facts| facts.job.as_str()).collect::<Vec<_>>().join(", ");
    let summary = match findings {
        [] if all.facts.is_empty() => "no job is configured".to_owned(),
        [] => format!("{} {} well", names(), if all.facts.len() == 1 { "is" } else { "are" }),
        [one] => format!("{}: {}", one.job, one.what),
        [first, rest @ ..] => format!("{}: {} (and {} more)", first.job, first.what, rest.len()),
    };
    let measured: Vec<_> = all.facts.iter().flat_map(|facts| measured(facts, now)).collect();
    let measured = if measured.is_empty() { String::new() } else { format!(" | {}", measured.join(" ")) };
    let mut text = format!("COWSNAP {state} - {}{measured}\n", plain(&summary));
    for finding in findings {
        text += &format!("{}: {}: {}\n", finding.state, plain(&finding.job), plain(&finding.what));
    }
    text
}

/// `'label'=value;warn;crit`, one for each thing that has a number.
fn measured(facts: &Facts, now: Timestamp) -> Vec<String> {
    let mut all = Vec::new();
    let limits = &facts.limits;
    let job = &facts.job;
    let age = |time: Timestamp| now.duration_since(time).as_secs().max(0);
    let set =
        |pair: Pair<SignedDuration>| [pair.warn, pair.crit].map(|limit| limit.map(|limit| limit.as_secs()));
    let between = |last: Timestamp, pair: Pair<SignedDuration>, patience| {
        if pair.is_set() {
            return set(pair);
        }
        let late = health::lateness(last, &facts.promise, patience);
        [late.map(|(warn, _)| warn), late.map(|(_, crit)| crit)]
            .map(|time| time.map(|time| time.duration_since(last).as_secs()))
    };
    let space = |all: &mut Vec<String>, name: &str, space: Option<(u64, u64)>| {
        if let Some(percent) = space.and_then(health::percent_free) {
            let (warn, crit) = (limits.warn_free, limits.crit_free);
            all.push(format!("{}={percent:.1}%;{warn}:;{crit}:;0;100", label(&[job, name, "free"])));
        }
    };
    let free = |all: &mut Vec<String>, name: &str, seen: &health::Seen| {
        space(all, name, seen.space);
        all.push(format!("{}={};0", label(&[job, name, "stuck"]), seen.stuck.len()));
    };
    let datasets = facts.datasets.iter().map(|(name, seen)| (name, seen, false));
    let nested = facts.nested.iter().map(|(name, seen)| (name, seen, true));
    for (name, seen, is_nested) in datasets.chain(nested) {
        let Ok(seen) = seen else { continue };
        if let Some(newest) = seen.newest {
            let [warn, crit] = between(newest, limits.age, 1).map(number);
            all.push(format!("{}={}s;{warn};{crit};0", label(&[job, name, "age"]), age(newest)));
        }
        if !is_nested {
            free(&mut all, name, seen);
        }
    }
    all.extend(health::downtime(facts).map(|last| {
        let max = facts.down.max.map(|max| max.as_secs_f64().to_string()).unwrap_or_default();
        format!("{}={:.3}s;{max};;0", label(&[job, "downtime"]), last.as_secs_f64())
    }));
    let record = facts.record.as_ref().ok().and_then(Option::as_ref);
    let drill = health::drilled(facts, now).map(|age| age.as_secs().max(0));
    let [warn, crit] = set(limits.drill_age).map(number);
    all.extend(drill.map(|age| format!("{}={age}s;{warn};{crit};0", label(&[job, "drill", "age"]))));
    for target in &facts.targets {
        let name = &target.to;
        if let Some(up_to) = target.known_up_to() {
            let [warn, crit] = between(up_to, limits.replica_age, 2).map(number);
            all.push(format!("{}={}s;{warn};{crit};0", label(&[job, name, "age"]), age(up_to)));
        }
        for (op, what) in [(Op::Verify, "verified"), (Op::VerifyContent, "verified-content")] {
            let tally =
                record.and_then(|record| record.tally(&Subject::of_target(op, &target.dataset, name)));
            let last = tally.and_then(|tally| tally.last_success);
            let [warn, crit] = set(limits.verify_age).map(number);
            all.extend(
                last.map(|last| format!("{}={}s;{warn};{crit};0", label(&[job, name, what]), age(last))),
            );
        }
        if let Some(chain) = target.archive.as_ref().and_then(|archive| archive.chain) {
            let label = |what| label(&[job, name, what]);
            let limit = |limit: Option<u64>| limit.map(|limit| limit.to_string()).unwrap_or_default();
            let of = |pair: Pair<u64>| format!("{};{}", limit(pair.warn), limit(pair.crit));
            all.push(format!("{}={};{};0", label("chain"), chain.containers, of(limits.chain)));
            all.push(format!("{}={}B;{};0", label("restore"), chain.bytes, of(limits.restore)));
            all.push(format!("{}={};;;0", label("requests"), chain.requests));
        }
        if let Some(days) = target.base_days {
            let (warn, crit) = (limits.warn_base_days, limits.crit_base_days);
            all.push(format!("{}={days};{warn}:;{crit}:;0", label(&[job, name, "base_days"])));
        }
        if let Some(lag) = health::lag(target, facts) {
            all.push(format!("{}={}s;;;0", label(&[job, name, "lag"]), lag.as_secs()));
        }
        if let Some(Ok(seen)) = &target.seen {
            free(&mut all, name, seen);
        }
    }
    facts.stores.iter().for_each(|store| space(&mut all, &store.to, store.space));
    all
}

fn number(limit: Option<i64>) -> String {
    limit.map(|limit| limit.to_string()).unwrap_or_default()
}

/// One word to whoever reads it: no quote, no equals sign, nothing that ends a line.
fn label(words: &[&str]) -> String {
    let text = words.join(" ");
    let text: String =
        text.chars().map(|c| if c.is_control() || "'=|".contains(c) { '_' } else { c }).collect();
    ["'", &text, "'"].concat()
}

/// Without what would end the text: a bar, or the end of a line.
fn plain(text: &str) -> String {
    text.replace('|', "/").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_holds_ends_neither_a_label_nor_the_text() {
        assert_eq!(label(&["a'b", "c=d|e\nf", "age"]), "'a_b c_d_e_f age'");
        assert_eq!(plain("a | b\nCOWSNAP OK\t- c"), "a / b COWSNAP OK - c");
    }
}
