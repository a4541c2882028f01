//! From the text of files to jobs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;

use jiff::tz::TimeZone;
use serde::Deserialize;
use toml::Spanned;

use crate::config::{Job, Place, Problem, Replica, value};
use crate::model::{PeerAddress, Target};
use crate::plan::retain::{Period, Retention};
use crate::plan::schedule::Schedule;

mod archive;
mod check;
mod drill;
mod flush;
mod hooks;
mod notify;
mod parser;
mod quiesce;
mod trigger;

type Text = Spanned<String>;
type Texts = Spanned<Vec<Text>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    time_zone: Option<Text>,
    notify: Option<Spanned<notify::RawNotify>>,
    #[serde(default)]
    job: BTreeMap<Text, Spanned<RawJob>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJob {
    datasets: Option<Texts>,
    #[serde(default)]
    recursive: bool,
    #[serde(default)]
    not_atomic: bool,
    #[serde(default)]
    copy: bool,
    crash_consistent: Option<Spanned<bool>>,
    quiesce: Option<Spanned<quiesce::RawQuiesce>>,
    notify: Option<Spanned<notify::RawNotify>>,
    flush: Option<Spanned<flush::RawFlush>>,
    #[serde(default)]
    labels: BTreeMap<Text, String>,
    schedule: Option<Text>,
    time_zone: Option<Text>,
    trigger: Option<Spanned<trigger::RawTrigger>>,
    overlap: Option<Text>,
    queue_for: Option<Text>,
    retention: Option<Spanned<RawRetention>>,
    #[serde(default)]
    target: Vec<Spanned<RawTarget>>,
    #[serde(default)]
    archive: Vec<Spanned<archive::RawArchive>>,
    drill: Option<Spanned<drill::RawDrill>>,
    hooks: Option<Spanned<hooks::RawHooks>>,
    check: Option<Spanned<check::RawCheck>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRetention {
    last: Option<Spanned<Count>>,
    hourly: Option<Spanned<Count>>,
    daily: Option<Spanned<Count>>,
    weekly: Option<Spanned<Count>>,
    monthly: Option<Spanned<Count>>,
    yearly: Option<Spanned<Count>>,
    within: Option<Text>,
    #[serde(default)]
    labels: Vec<Text>,
    #[serde(default)]
    names: Vec<Text>,
    min_age: Option<Text>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number is needed, or the word \"all\"")]
enum Count {
    Number(u32),
    Word(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    to: Option<Text>,
    dataset: Option<Text>,
    #[serde(default)]
    intermediates: bool,
    bandwidth: Option<Text>,
    level: Option<Spanned<i64>>,
    zfs_flags: Option<Text>,
}

/// The jobs of all files, of which `main` comes first if it is there, by their names. What is wrong is put to `problems`; jobs of which something is wrong may be missing.
pub(super) fn jobs(main: &Path, files: &[(&Path, &str)], problems: &mut Vec<Problem>) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut zone = TimeZone::UTC;
    let mut notify = None;
    for (file, text) in files {
        let mut reader = Reader { file, text, key: Vec::new(), problems: &mut *problems };
        let raw = match parser::raw(text) {
            Ok(raw) => raw,
            Err(misread) => {
                misread.into_iter().for_each(|wrong| reader.problem(wrong.span, &wrong.key, wrong.what));
                continue;
            }
        };
        let of_file = reader.zone(raw.time_zone).unwrap_or_else(|| zone.clone());
        if *file == main {
            zone.clone_from(&of_file); // That of all jobs.
        }
        let told = raw.notify.map(|raw| reader.notify(raw)).or_else(|| notify.clone());
        if *file == main {
            notify.clone_from(&told);
        }
        let mut found: Vec<Job> = Vec::new();
        for (name, raw) in raw.job {
            found.extend(reader.job(&name, raw, &of_file, &jobs));
        }
        found.iter_mut().for_each(|job| job.notify = job.notify.take().or_else(|| told.clone()));
        jobs.extend(found);
    }
    jobs.sort_by(|a, b| a.name.cmp(&b.name));
    jobs
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    key: Vec<String>,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        Place { file: self.file.into(), line: 1 + before.iter().filter(|&&byte| byte == b'\n').count() }
    }

    fn problem(&mut self, span: Range<usize>, key: &str, what: impl Into<String>) {
        let mut keys = self.key.clone();
        keys.extend((!key.is_empty()).then(|| key.to_owned()));
        self.problems.push(Problem { place: self.place(&span), key: keys.join("."), what: what.into() });
    }

    /// The value that `read` makes of a text.
    fn parsed<T, E: ToString>(
        &mut self,
        key: &str,
        text: Text,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        match read(text.get_ref()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(text.span(), key, error.to_string());
                None
            }
        }
    }

    fn zone(&mut self, text: Option<Text>) -> Option<TimeZone> {
        let read = |text: &str| value::zone(text).map_err(|why| format!("{text:?}: {why}"));
        self.parsed("time_zone", text?, read)
    }

    fn job(&mut self, name: &Text, raw: Spanned<RawJob>, zone: &TimeZone, known: &[Job]) -> Option<Job> {
        let span = name.span();
        let name = name.get_ref();
        self.key = vec!["job".into(), name.clone()];
        if let Some(other) = known.iter().find(|job| job.name == *name) {
            self.problem(span.clone(), "", format!("another job is called so: {}", other.place));
        }
        if !is_name(name) {
            self.problem(
                span.clone(),
                "",
                "a job's name is of letters, digits and _ . -, begins with a letter or digit, and is no longer than 64",
            );
        }
        let n_problems = self.problems.len();
        let job = self.fields(name, &span, raw.into_inner(), zone);
        self.key.clear();
        (n_problems == self.problems.len()).then_some(job)
    }

    fn fields(&mut self, name: &str, span: &Range<usize>, raw: RawJob, zone: &TimeZone) -> Job {
        match (&raw.crash_consistent, &raw.quiesce, &raw.flush) {
            (Some(stated), Some(_), _) => {
                let what = "contradicts quiesce, which stops what writes: leave one of them out";
                self.problem(stated.span(), "crash_consistent", what);
            }
            (_, Some(_), Some(flush)) => {
                let what =
                    "contradicts quiesce: what is stopped has nothing in memory; leave one of them out";
                self.problem(flush.span(), "flush", what);
            }
            (Some(stated), None, _) if *stated.get_ref() => {}
            (Some(stated), None, _) => self.problem(stated.span(), "crash_consistent", CRASH_CONSISTENT),
            (None, Some(_), None) | (None, None, Some(_)) => {}
            (None, None, None) => {
                self.problem(span.clone(), "crash_consistent", format!("is missing: {CRASH_CONSISTENT}"));
            }
        }
        let spans = raw.quiesce.as_ref().map(|raw| raw.get_ref().spans()).unwrap_or_default();
        let service_places = spans.iter().map(|span| self.place(span)).collect();
        let mut quiesce = raw.quiesce.map(|raw| self.quiesce(raw));
        let notify = raw.notify.map(|raw| self.notify(raw));
        let flush = match raw.flush.and_then(|raw| self.flush(raw)) {
            Some(flush::Told::Flush(flush)) => Some(flush),
            Some(flush::Told::Hook(hook)) => {
                quiesce = quiesce.or(Some(hook));
                None
            }
            None => None,
        };
        if let (Some(text), None, None) = (&raw.time_zone, &raw.schedule, &raw.retention) {
            self.problem(text.span(), "time_zone", "says nothing without schedule or retention");
        }
        let zone = self.zone(raw.time_zone).unwrap_or_else(|| zone.clone());
        let schedule = raw
            .schedule
            .and_then(|text| self.parsed("schedule", text, |text| Schedule::new(text, zone.clone())));
        let datasets = match raw.datasets {
            Some(texts) => self.datasets("datasets", texts),
            None => {
                self.problem(span.clone(), "datasets", "is missing: [\"POOL/NAME\"] or [\"/absolute/path\"]");
                Vec::new()
            }
        };
        let retention = raw.retention.map(|raw| self.retention(raw));
        let has_targets = !raw.target.is_empty() || !raw.archive.is_empty();
        let has = (has_targets, !raw.archive.is_empty(), raw.drill.is_some());
        let check = raw.check.map(|raw_check| self.check(raw_check, has));
        let targets: Vec<_> = raw.target.into_iter().filter_map(|raw| self.target(raw, &datasets)).collect();
        let archives: Vec<_> =
            raw.archive.into_iter().filter_map(|raw| self.archive(raw, &datasets)).collect();
        let recursive = raw.recursive;
        let drill = raw.drill.and_then(|raw| self.drill(raw, &targets, &archives, &datasets, recursive));
        let hooks = raw.hooks.map(|raw| self.hooks(raw, has_targets));
        let trigger = raw.trigger.map(|raw| self.trigger(raw, schedule.as_ref(), retention.as_ref()));
        Job {
            name: name.into(),
            place: self.place(span),
            datasets,
            recursive: raw.recursive,
            not_atomic: raw.not_atomic,
            copy: raw.copy,
            quiesce,
            service_places,
            notify,
            flush,
            labels: self.labels(raw.labels),
            schedule,
            trigger,
            overlap: self.overlap(raw.overlap, raw.queue_for),
            zone,
            retention,
            targets,
            archives,
            drill,
            hooks,
            check,
        }
    }

    fn datasets(&mut self, key: &str, texts: Texts) -> Vec<String> {
        let span = texts.span();
        let mut found = Vec::new();
        for text in texts.into_inner() {
            let span = text.span();
            let Some(dataset) = self.parsed(key, text, dataset) else { continue };
            if found.contains(&dataset) {
                self.problem(span, key, format!("{dataset} is named twice"));
            }
            found.push(dataset);
        }
        if found.is_empty() {
            self.problem(span, key, "names nothing: [\"POOL/NAME\"] or [\"/absolute/path\"]");
        }
        found
    }

    fn labels(&mut self, raw: BTreeMap<Text, String>) -> Vec<(String, String)> {
        for key in raw.keys().filter(|key| matches!(key.get_ref().as_str(), "" | "job")) {
            self.problem(
                key.span(),
                "labels",
                "every snapshot of a job has the label job=NAME; others need another key",
            );
        }
        raw.into_iter().map(|(key, value)| (key.into_inner(), value)).collect()
    }

    fn retention(&mut self, raw: Spanned<RawRetention>) -> Retention {
        let span = raw.span();
        let raw = raw.into_inner();
        self.key.push("retention".into());
        let counts = [raw.hourly, raw.daily, raw.weekly, raw.monthly, raw.yearly];
        let per = Period::ALL.into_iter().zip(counts);
        let per = per.filter_map(|(period, count)| Some((period, self.count(period.rule(), count?)?)));
        let per = per.collect();
        let retention = Retention {
            last: raw.last.and_then(|count| self.count("last", count)).unwrap_or(0),
            per,
            within: raw.within.and_then(|text| self.parsed("within", text, value::age)),
            labels: raw
                .labels
                .into_iter()
                .filter_map(|text| self.parsed("labels", text, str::parse))
                .collect(),
            names: raw.names.into_iter().filter_map(|text| self.parsed("names", text, str::parse)).collect(),
            min_age: raw.min_age.and_then(|text| self.parsed("min_age", text, value::age)),
        };
        if retention.is_empty()
            && !self.problems.iter().any(|problem| problem.key.starts_with(&self.key.join(".")))
        {
            self.problem(
                span,
                "",
                "keeps nothing: at least one of last, hourly, daily, weekly, monthly, yearly, within, labels, names",
            );
        }
        self.key.pop();
        retention
    }

    fn count(&mut self, key: &str, count: Spanned<Count>) -> Option<usize> {
        let what = match count.get_ref() {
            Count::Number(0) => "0 keeps nothing: leave the key out",
            Count::Number(n) => return usize::try_from(*n).ok(),
            Count::Word(word) if word == "all" => return Some(usize::MAX),
            Count::Word(_) => "a number is needed, or the word \"all\"",
        };
        self.problem(count.span(), key, what);
        None
    }

    fn target(&mut self, raw: Spanned<RawTarget>, datasets: &[String]) -> Option<Replica> {
        let span = raw.span();
        let raw = raw.into_inner();
        self.key.push("target".into());
        let target = self.target_fields(&span, raw, datasets);
        self.key.pop();
        target
    }

    fn target_fields(&mut self, span: &Range<usize>, raw: RawTarget, datasets: &[String]) -> Option<Replica> {
        let dataset = self.source(span, raw.dataset, datasets);
        let level = self.level(raw.level);
        let bandwidth = raw.bandwidth.and_then(|text| self.parsed("bandwidth", text, value::bandwidth));
        let zfs_flags = raw.zfs_flags.and_then(|text| self.parsed("zfs_flags", text, str::parse));
        let Some(to) = raw.to else {
            self.problem(
                span.clone(),
                "to",
                "is missing: \"POOL/NAME\", \"/absolute/path\" or \"ssh://[USER@]HOST[:PORT]/TARGET\"",
            );
            return None;
        };
        let at = to.span();
        let to = self.parsed("to", to, replica)?;
        if datasets.contains(&to) {
            self.problem(at, "to", format!("{to} is one of the job's own datasets"));
            return None;
        }
        Some(Replica { dataset: dataset?, to, intermediates: raw.intermediates, bandwidth, level, zfs_flags })
    }

    fn level(&mut self, level: Option<Spanned<i64>>) -> Option<i32> {
        let level = level?;
        let valid = i32::try_from(*level.get_ref()).ok().filter(|level| (1..=22).contains(level));
        if valid.is_none() {
            self.problem(level.span(), "level", "zstd's levels are 1 to 22");
        }
        valid
    }

    /// Which of the job's datasets a target is for.
    fn source(&mut self, span: &Range<usize>, named: Option<Text>, datasets: &[String]) -> Option<String> {
        match (named, datasets) {
            (None, [only]) => Some(only.clone()),
            (None, []) => None,
            (None, _) => {
                let what = format!("is missing, as the job has several: one of {}", datasets.join(", "));
                self.problem(span.clone(), "dataset", what);
                None
            }
            (Some(text), _) if datasets.contains(text.get_ref()) => Some(text.into_inner()),
            (Some(text), _) => {
                let what = format!("{} is not of this job: one of {}", text.get_ref(), datasets.join(", "));
                self.problem(text.span(), "dataset", what);
                None
            }
        }
    }
}

const CRASH_CONSISTENT: &str = "crash_consistent = true states that nothing is stopped, and that a snapshot may be what a power cut would have left; \
     [job.NAME.quiesce] names what is stopped instead, [job.NAME.flush] what is told to write down what it has in memory";

/// Whether a job can be called so.
pub fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    text.len() <= 64 && text.chars().all(allowed) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn dataset(text: &str) -> Result<String, String> {
    match Target::parse(OsStr::new(text)) {
        Ok(Target::Remote(_)) => Err(format!(
            "{text} is on another machine, which takes its snapshots itself; here, POOL/NAME or an absolute path"
        )),
        Ok(_) => Ok(text.into()),
        Err(error) => Err(error.to_string()),
    }
}

fn replica(text: &str) -> Result<String, String> {
    match Target::parse(OsStr::new(text)) {
        Ok(Target::Remote(address)) => match address.parse::<PeerAddress>() {
            Ok(_) => Ok(text.into()),
            Err(error) => Err(format!("{error}; valid is ssh://[USER@]HOST[:PORT]/TARGET")),
        },
        Ok(_) => Ok(text.into()),
        Err(error) => Err(error.to_string()),
    }
}
