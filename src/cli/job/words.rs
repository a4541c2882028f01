//! What a job does, in words.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::cli::job::{N_NEXT, check_words, trigger_words};
use crate::cli::table::size;
use crate::config::{Archive, Job, Replica};
use crate::exec::archive::verify::Depth;
use crate::model::flush::Method;
use crate::model::{Flush, Flushed, Notify, Quiesce, Service};
use crate::plan::retain::Retention;
use crate::plan::schedule::Schedule;

/// The job's name and place, and below that its sentences.
pub(super) fn explained(job: &Job, now: Timestamp) -> String {
    let sentences: String = sentences(job, now).iter().map(|sentence| format!("  {sentence}\n")).collect();
    format!("{} ({})\n{sentences}", job.name, job.place)
}

/// What happens when, in this order.
pub(super) fn sentences(job: &Job, now: Timestamp) -> Vec<String> {
    let clock = job.schedule.as_ref().map(|schedule| when(schedule, now));
    let mut all = match (&job.trigger, clock) {
        (Some(trigger), clock) => trigger_words::when(clock, trigger),
        (None, Some(clock)) => vec![clock],
        (None, None) => vec!["runs when it is named or asked for: it has no schedule".into()],
    };
    let lines = job.schedule.as_ref().and_then(Schedule::on_calendar).unwrap_or_default();
    all.extend(
        (!lines.is_empty())
            .then(|| format!("for systemd, that is OnCalendar={}", lines.join(" and OnCalendar="))),
    );
    all.extend(trigger_words::overlap(job.overlap));
    all.extend(before(job));
    all.extend(job.quiesce.as_ref().map(stops));
    all.extend(job.flush.as_ref().map(flushes));
    let is_split = job.datasets.len() > 1;
    all.extend(job.flush.as_ref().and_then(|flush| backs_up(&flush.what, is_split)));
    let inside = if job.recursive { " and all datasets inside" } else { "" };
    all.push(format!(
        "takes a snapshot of {}{inside}, with the label job={}",
        job.datasets.join(", "),
        job.name
    ));
    all.push(match &job.quiesce {
        None if job.flush.is_some() => {
            "goes on: what is written after that is in the snapshot as a power cut would have left it".into()
        }
        None => "stops nothing: the snapshot is what a power cut at that moment would have left".into(),
        Some(quiesce) => starts(quiesce),
    });
    all.extend(afterwards(job));
    all.extend(
        job.hooks
            .as_ref()
            .and_then(|hooks| hooks.on_failure.as_ref())
            .map(|words| format!("calls {} if something failed", words.join(" "))),
    );
    all.extend(job.notify.as_ref().map(told));
    all.extend(job.check.as_ref().map(check_words::check));
    all
}

/// Who is told.
fn told(notify: &Notify) -> String {
    let on: Vec<_> = notify.on.iter().map(|news| news.name()).collect();
    let mut all = Vec::new();
    all.extend(
        notify.command.as_ref().map(|words| format!("calls {} on {}", words.join(" "), on.join(", "))),
    );
    all.extend(notify.mail.as_ref().map(|mail| format!("writes to {mail} on {}", on.join(", "))));
    // Who knows the whole address can say that all is well.
    let host = |ping: &String| ping.split('/').nth(2).unwrap_or_default().to_owned();
    all.extend(notify.ping.as_ref().map(|ping| format!("tells {} of each run", host(ping))));
    all.join(", and ")
}

/// What is called first of all.
pub(super) fn before(job: &Job) -> Option<String> {
    let hooks = job.hooks.as_ref()?;
    let words = hooks.before_snapshot.as_ref()?.join(" ");
    let within = time(hooks.within);
    Some(format!(
        "calls {words}, for which there is {within}; if that fails nothing is stopped, and there is no snapshot"
    ))
}

/// What comes before the snapshot.
pub(super) fn stops(quiesce: &Quiesce) -> String {
    let services: Vec<_> = quiesce.services.iter().map(ToString::to_string).collect();
    if let [Service::Hook { before, .. }] = quiesce.services.as_slice() {
        return format!(
            "calls {}, for which there is {}; if that fails there is no snapshot",
            before.join(" "),
            time(quiesce.stop_within)
        );
    }
    if quiesce.goes_on() {
        return format!(
            "freezes {}, for which there is {} each; if that fails there is no snapshot",
            services.join(", then "),
            time(quiesce.stop_within)
        );
    }
    let probe = quiesce.probe.as_ref().map(|probe| format!("if {probe} answers, ")).unwrap_or_default();
    format!(
        "{probe}stops {}, for which there is {}, and makes sure that nobody has a file there open for writing; else there is no snapshot",
        services.join(", then "),
        time(quiesce.stop_within)
    )
}

/// How a database is kept whole whose files need not be of one instant.
fn backs_up(what: &Flushed, is_split: bool) -> Option<String> {
    const BACKUP: &str =
        "it is in backup mode meanwhile, and its backup_label and log are kept in the state directory";
    let Flushed::Postgres { method, .. } = what else { return None };
    match method {
        Some(Method::Backup) => Some(BACKUP.into()),
        Some(Method::Checkpoint) if is_split => Some(
            "takes none if its data directory, pg_wal and tablespaces do not lie in one of the datasets alone"
                .into(),
        ),
        None if is_split => Some(format!(
            "if its data directory, pg_wal and tablespaces do not lie in one of the datasets alone, {BACKUP}"
        )),
        Some(Method::Checkpoint) | None => None,
    }
}

/// What comes before the snapshot where nothing is stopped.
pub(super) fn flushes(flush: &Flush) -> String {
    format!(
        "brings {} to the disk, for which there is {}; if that fails there is no snapshot",
        flush.what,
        time(flush.within)
    )
}

/// `15m`
pub(super) fn time(time: Duration) -> String {
    SignedDuration::try_from(time).map_or_else(|_| format!("{time:?}"), |time| format!("{time:#}"))
}

fn starts(quiesce: &Quiesce) -> String {
    if let [Service::Hook { after, .. }] = quiesce.services.as_slice() {
        return match after.is_empty() {
            true => "stops nothing, and looks for nobody who writes".into(),
            false => format!("calls {}, whatever has failed", after.join(" ")),
        };
    }
    if quiesce.goes_on() {
        let most = time(quiesce.stop_within + quiesce.start_within);
        return format!("thaws what it froze, whatever has failed, after {most} at the latest");
    }
    let last = if quiesce.services.len() > 1 { ", the last one first" } else { "" };
    let probe =
        quiesce.probe.as_ref().map(|probe| format!(", and waits until {probe} answers")).unwrap_or_default();
    let max = quiesce
        .max_downtime
        .map(|max| format!("; more than {} without it is warned of", time(max)))
        .unwrap_or_default();
    format!("starts again what it stopped{last}, whatever has failed{probe}{max}")
}

/// What follows on the snapshot.
pub(super) fn afterwards(job: &Job) -> Vec<String> {
    let hook = |command: Option<&Vec<String>>, when: &str| {
        let within = job.hooks.as_ref().map(|hooks| time(hooks.within)).unwrap_or_default();
        command.map(|words| format!("calls {} {when}, for which there is {within}", words.join(" ")))
    };
    let hooks = job.hooks.as_ref();
    let mut all = Vec::new();
    all.extend(hook(hooks.and_then(|hooks| hooks.after_snapshot.as_ref()), "once there is the snapshot"));
    all.extend(job.targets.iter().map(replica));
    all.extend(job.archives.iter().map(|archive| archived(archive, &job.zone)));
    all.extend(hook(hooks.and_then(|hooks| hooks.after_replication.as_ref()), "once each target was tried"));
    all.push(match &job.retention {
        None => "destroys nothing".into(),
        Some(retention) => format!(
            "destroys of all snapshots of {} what no rule keeps, by the calendar of {}; kept are {}",
            job.datasets.join(", "),
            zone(&job.zone),
            kept(retention)
        ),
    });
    all
}

/// What a zone is called.
pub(super) fn zone(zone: &TimeZone) -> String {
    zone.iana_name().unwrap_or("this machine's zone").to_owned()
}

fn when(schedule: &Schedule, now: Timestamp) -> String {
    if schedule.every().is_some() {
        return format!(
            "is due {}, counted from its minute, whatever clocks show ({schedule})",
            schedule.describe()
        );
    }
    let next = schedule.upcoming(now, N_NEXT);
    let next: Vec<_> = next.iter().map(|time| time.strftime("%Y-%m-%d %H:%M %:z").to_string()).collect();
    let (zone, described) = (zone(schedule.zone()), schedule.describe());
    let mut described = described.trim_end_matches('.').to_owned();
    if let Some(first) = described.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    format!("is due {described} ({schedule}) in {zone}, next: {}", next.join(", "))
}

fn replica(replica: &Replica) -> String {
    let Replica { dataset, to, intermediates, bandwidth, .. } = replica;
    let which = if *intermediates { "every snapshot" } else { "the newest snapshot" };
    let rate = bandwidth.map(|rate| format!(", at most {}/s", size(rate))).unwrap_or_default();
    format!("brings {to} up to {dataset}, with {which}{rate}")
}

fn archived(archive: &Archive, calendar: &TimeZone) -> String {
    let Archive { dataset, to, bandwidth, sign, encrypt_to, retention, verify, verify_every, .. } = archive;
    let rate = bandwidth.map(|rate| format!(", at most {}/s", size(rate))).unwrap_or_default();
    let signed = sign.as_ref().map(|key| format!(", signed with {}", key.display())).unwrap_or_default();
    let encrypted = match encrypt_to.len() {
        0 => String::new(),
        _ => format!(", encrypted to {}", encrypt_to.join(" and ")),
    };
    let gone = match retention {
        None => "destroys nothing there".into(),
        Some(retention) => format!(
            "destroys there what no rule keeps and nothing kept builds upon, by the calendar of {}; kept are {}",
            zone(calendar),
            kept(retention)
        ),
    };
    let every = verify_every.map_or_else(String::new, |every| format!(", once in {every:#}"));
    let read = match verify {
        None => String::new(),
        Some(Depth::Quick) => format!("; sees that all is there, and reads the manifests{every}"),
        Some(Depth::Sample(of)) => format!("; reads a part in {of} of it, others each time{every}"),
        Some(Depth::Full) => format!("; reads all of it{every}"),
    };
    format!("pushes the newest snapshot of {dataset} to {to}{signed}{encrypted}{rate}, and {gone}{read}")
}

pub(super) fn kept(retention: &Retention) -> String {
    let mut all = Vec::new();
    match retention.last {
        0 => {}
        usize::MAX => all.push("all".into()),
        last => all.push(format!("the last {last}")),
    }
    for (period, count) in &retention.per {
        all.push(match *count {
            usize::MAX => format!("{} ones without end", period.rule()),
            count => format!("{count} {} ones", period.rule()),
        });
    }
    all.extend(retention.within.map(|within| format!("all within {within:#}")));
    all.extend(retention.labels.iter().map(|label| format!("those with the label {label}")));
    all.extend(retention.names.iter().map(|name| format!("those called {name}")));
    all.extend(retention.min_age.map(|age| format!("all younger than {age:#}")));
    all.join(", ")
}
