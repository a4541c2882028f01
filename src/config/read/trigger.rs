//! What makes a job due besides its schedule.

use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use toml::Spanned;

use super::{RawRetention, Reader, Text, Texts};
use crate::config::{Overlap, value};
use crate::model::Probe;
use crate::plan::retain::Retention;
use crate::plan::schedule::Schedule;
use crate::plan::trigger::{Ask, Combined, Emergency, Source, Thresholds, Trigger};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrigger {
    with_schedule: Option<Text>,
    window: Option<Text>,
    written: Option<Text>,
    age: Option<Text>,
    number: Option<Spanned<RawNumber>>,
    at_least: Option<Spanned<i64>>,
    at_most_every: Option<Text>,
    emergency: Option<Spanned<RawEmergency>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNumber {
    command: Option<Texts>,
    http: Option<Text>,
    path: Option<Text>,
    within: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEmergency {
    written: Option<Text>,
    age: Option<Text>,
    at_least: Option<Spanned<i64>>,
    at_most_every: Option<Text>,
    retention: Option<Spanned<RawRetention>>,
}

const NUMBER: &str = "one of { command = [\"/PROGRAM\", \"ARGUMENT\"] }, { http = \"http://HOST:PORT/PATH\", path = \"KEY.0.KEY\" }";
const WITH_SCHEDULE: &str = "\"either\": each makes the job due by itself; or \"both\": once its time has come, and a threshold is reached";

/// How long a number may take, where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(10);
/// A number may stay where it is after a snapshot.
const NUMBER_REST: SignedDuration = SignedDuration::from_hours(1);
const EMERGENCY_REST: SignedDuration = SignedDuration::from_mins(10);

/// How long a run waits for another one, where nothing else is said.
const QUEUE: Duration = Duration::from_secs(60 * 60);

impl Reader<'_> {
    pub(super) fn overlap(&mut self, overlap: Option<Text>, queue_for: Option<Text>) -> Overlap {
        let is_queue = match overlap.as_ref().map(|text| text.get_ref().as_str()) {
            None | Some("skip") => false,
            Some("queue") => true,
            Some(_) => {
                let span = overlap.as_ref().map(Spanned::span).unwrap_or_default();
                self.problem(
                    span,
                    "overlap",
                    "\"skip\": left to another minute; or \"queue\": waits for the other run",
                );
                true
            }
        };
        if let (Some(text), false) = (&queue_for, is_queue) {
            self.problem(text.span(), "queue_for", "says nothing without overlap = \"queue\"");
        }
        let limit = queue_for.and_then(|text| self.parsed("queue_for", text, value::duration));
        if is_queue { Overlap::Queue(limit.unwrap_or(QUEUE)) } else { Overlap::Skip }
    }

    pub(super) fn trigger(
        &mut self,
        raw: Spanned<RawTrigger>,
        schedule: Option<&Schedule>,
        retention: Option<&Retention>,
    ) -> Trigger {
        let span = raw.span();
        let raw = raw.into_inner();
        self.key.push("trigger".into());
        let combined = self.combined(&span, raw.with_schedule, raw.window, schedule);
        let has_number = raw.number.is_some();
        let number_span = raw.number.as_ref().map(Spanned::span);
        let number = raw.number.and_then(|raw| self.number(raw));
        let is_compared = raw.at_least.is_some()
            || raw.emergency.as_ref().is_some_and(|emergency| emergency.get_ref().at_least.is_some());
        if let (Some(span), false) = (number_span, is_compared) {
            self.problem(span, "at_least", "is missing: the number that is enough");
        }
        if !has_number
            && !is_compared
            && raw.written.is_none()
            && raw.age.is_none()
            && raw.emergency.is_none()
        {
            self.problem(
                span,
                "",
                "says nothing: at least one of written, age, number with at_least, emergency",
            );
        }
        let thresholds = self.thresholds(raw.written, raw.age, raw.at_least, has_number);
        let at_most_every = self.rest(raw.at_most_every, &thresholds, thresholds.number.map(|_| NUMBER_REST));
        let emergency = raw.emergency.map(|raw| {
            self.key.push("emergency".into());
            let emergency = self.emergency(raw, &thresholds, has_number, at_most_every, retention);
            self.key.pop();
            emergency
        });
        self.key.pop();
        Trigger { thresholds, number, combined, at_most_every, emergency }
    }

    fn combined(
        &mut self,
        span: &std::ops::Range<usize>,
        with_schedule: Option<Text>,
        window: Option<Text>,
        schedule: Option<&Schedule>,
    ) -> Combined {
        let is_both = match (&with_schedule, schedule) {
            (None, None) => false,
            (None, Some(_)) => {
                self.problem(
                    span.clone(),
                    "with_schedule",
                    format!("is missing, as the job has a schedule: {WITH_SCHEDULE}"),
                );
                false
            }
            (Some(text), None) => {
                self.problem(text.span(), "with_schedule", "says nothing without schedule");
                false
            }
            (Some(text), Some(_)) => match text.get_ref().as_str() {
                "either" => false,
                "both" => true,
                _ => {
                    self.problem(text.span(), "with_schedule", WITH_SCHEDULE);
                    false
                }
            },
        };
        if let (Some(text), false) = (&window, is_both) {
            self.problem(
                text.span(),
                "window",
                "says nothing without with_schedule = \"both\": how long after its time thresholds count",
            );
        } else if let (Some(text), Some(_)) = (&window, schedule.and_then(Schedule::every)) {
            self.problem(
                text.span(),
                "window",
                "never opens again, as @every counts from the last snapshot: use a time, or leave it out",
            );
        }
        let window = window.and_then(|text| self.parsed("window", text, value::interval));
        if is_both { Combined::Both(window) } else { Combined::Either }
    }

    fn thresholds(
        &mut self,
        written: Option<Text>,
        age: Option<Text>,
        at_least: Option<Spanned<i64>>,
        has_number: bool,
    ) -> Thresholds {
        if let (Some(at_least), false) = (&at_least, has_number) {
            self.problem(at_least.span(), "at_least", format!("says nothing without number: {NUMBER}"));
        }
        Thresholds {
            written: written.and_then(|text| self.parsed("written", text, value::some_bytes)),
            age: age.and_then(|text| self.parsed("age", text, value::interval)),
            number: at_least.map(Spanned::into_inner),
        }
    }

    /// How long no threshold counts after a snapshot: what is stated, or `usual`, but never longer than the age that is a threshold.
    fn rest(
        &mut self,
        stated: Option<Text>,
        thresholds: &Thresholds,
        usual: Option<SignedDuration>,
    ) -> SignedDuration {
        let age = thresholds.age.unwrap_or(SignedDuration::MAX);
        let Some(text) = stated else { return usual.unwrap_or(SignedDuration::ZERO).min(age) };
        let span = text.span();
        let rest = self.parsed("at_most_every", text, value::interval).unwrap_or(SignedDuration::ZERO);
        if rest > age {
            self.problem(
                span,
                "at_most_every",
                format!("is longer than age, {age:#}, which never counts then"),
            );
        }
        rest
    }

    fn number(&mut self, raw: Spanned<RawNumber>) -> Option<Source> {
        let span = raw.span();
        let raw = raw.into_inner();
        self.key.push("number".into());
        let ask = match (raw.command, raw.http, raw.path) {
            (Some(words), None, None) => self.command("command", words).map(Ask::Command),
            (None, Some(url), path) => {
                let url = self.parsed("http", url, Probe::http);
                let pointer = path.map_or(Some(String::new()), |path| self.parsed("path", path, pointer));
                match (url, pointer) {
                    (Some(Probe::Http { address, path }), Some(pointer)) => {
                        Some(Ask::Http { address, path, pointer })
                    }
                    _ => None,
                }
            }
            _ => {
                self.problem(span, "", NUMBER);
                None
            }
        };
        let within = raw.within.map_or(Some(PATIENCE), |text| self.parsed("within", text, value::duration));
        self.key.pop();
        Some(Source { ask: ask?, within: within? })
    }

    fn emergency(
        &mut self,
        raw: Spanned<RawEmergency>,
        usual: &Thresholds,
        has_number: bool,
        usual_rest: SignedDuration,
        retention: Option<&Retention>,
    ) -> Emergency {
        let span = raw.span();
        let raw = raw.into_inner();
        let rest_span = raw.at_most_every.as_ref().map(Spanned::span);
        if raw.written.is_none() && raw.age.is_none() && raw.at_least.is_none() {
            self.problem(span.clone(), "", "says nothing: at least one of written, age, at_least");
        }
        let thresholds = self.thresholds(raw.written, raw.age, raw.at_least, has_number);
        let lower = |key: &str, is_lower: bool| is_lower.then(|| key.to_owned());
        let lower = [
            lower("written", thresholds.written.zip(usual.written).is_some_and(|(a, b)| a <= b)),
            lower("age", thresholds.age.zip(usual.age).is_some_and(|(a, b)| a <= b)),
            lower("at_least", thresholds.number.zip(usual.number).is_some_and(|(a, b)| a <= b)),
        ];
        for key in lower.into_iter().flatten() {
            self.problem(span.clone(), &key, "is no more than what is enough without an emergency");
        }
        let at_most_every = self.rest(
            raw.at_most_every,
            &thresholds,
            thresholds.number.map(|_| EMERGENCY_REST.min(usual_rest.max(SignedDuration::from_mins(1)))),
        );
        if let (Some(span), true) =
            (rest_span, usual_rest > SignedDuration::ZERO && at_most_every > usual_rest)
        {
            self.problem(
                span,
                "at_most_every",
                format!("is longer than without an emergency, {usual_rest:#}"),
            );
        }
        if let (Some(raw), None) = (&raw.retention, retention) {
            self.problem(
                raw.span(),
                "retention",
                "says what else is kept in an emergency, and the job has no retention",
            );
        }
        let retention = raw.retention.map(|raw| self.retention(raw));
        Emergency { thresholds, at_most_every, retention }
    }
}

/// `KEY.0.KEY`, or a JSON pointer, which begins with `/`, as one.
fn pointer(text: &str) -> Result<String, String> {
    let wrong = || {
        format!("{text:?} leads nowhere: KEY.0.KEY, or /KEY/0/KEY with ~1 for a / and ~0 for a ~ in a KEY")
    };
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    if text.split('.').any(str::is_empty) {
        return Err(wrong());
    }
    Ok(text.split('.').map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect())
}
