//! What is stopped for a job's snapshot.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Reader, Text, Texts};
use crate::config::value;
use crate::model::{Probe, Quiesce, Service};

/// How long a service may take to stop or to start, where nothing else is said: nodes take minutes.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuiesce {
    #[serde(default)]
    service: Vec<Spanned<RawService>>,
    stop_within: Option<Text>,
    start_within: Option<Text>,
    probe: Option<Spanned<RawProbe>>,
    max_downtime: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    pidfile: Option<Text>,
    status: Option<Texts>,
    stop: Option<Texts>,
    start: Option<Texts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProbe {
    http: Option<Text>,
    tcp: Option<Text>,
    command: Option<Texts>,
}

const SERVICE: &str = "a service is pidfile and start, or status, stop and start";

impl Reader<'_> {
    pub(super) fn quiesce(&mut self, raw: Spanned<RawQuiesce>) -> Quiesce {
        let span = raw.span();
        let raw = raw.into_inner();
        self.key.push("quiesce".into());
        if raw.service.is_empty() {
            self.problem(span, "service", format!("is missing: {SERVICE}"));
        }
        let mut services = Vec::new();
        for raw in raw.service {
            let span = raw.span();
            let Some(service) = self.service(raw) else { continue };
            if services.contains(&service) {
                self.problem(span, "service", "is there twice");
            }
            services.push(service);
        }
        let mut time = |key: &str, text: Option<Text>| self.parsed(key, text?, value::duration);
        let (stop_within, start_within) =
            (time("stop_within", raw.stop_within), time("start_within", raw.start_within));
        let max_downtime = time("max_downtime", raw.max_downtime);
        let probe = raw.probe.and_then(|raw| self.probe(raw));
        self.key.pop();
        Quiesce {
            services,
            stop_within: stop_within.unwrap_or(PATIENCE),
            start_within: start_within.unwrap_or(PATIENCE),
            probe,
            max_downtime,
        }
    }

    fn service(&mut self, raw: Spanned<RawService>) -> Option<Service> {
        let span = raw.span();
        let RawService { pidfile, status, stop, start } = raw.into_inner();
        self.key.push("service".into());
        let start = start.and_then(|words| self.command("start", words));
        let service = match (pidfile, status, stop) {
            (Some(pidfile), None, None) => {
                let pidfile = self.parsed("pidfile", pidfile, absolute);
                pidfile.zip(start).map(|(pidfile, start)| Service::Process { pidfile, start })
            }
            (None, Some(status), Some(stop)) => {
                let (status, stop) = (self.command("status", status), self.command("stop", stop));
                status.zip(stop).zip(start).map(|((status, stop), start)| Service::Commands {
                    status,
                    stop,
                    start,
                })
            }
            _ => None,
        };
        if service.is_none() && !self.has_said(&span) {
            self.problem(span, "", SERVICE);
        }
        self.key.pop();
        service
    }

    fn has_said(&self, span: &Range<usize>) -> bool {
        let (first, keys) = (self.place(span), self.key.join("."));
        self.problems.iter().any(|problem| {
            problem.key.starts_with(&keys)
                && problem.place.file == first.file
                && problem.place.line >= first.line
        })
    }

    fn probe(&mut self, raw: Spanned<RawProbe>) -> Option<Probe> {
        let span = raw.span();
        match raw.into_inner() {
            RawProbe { http: Some(url), tcp: None, command: None } => self.parsed("probe", url, Probe::http),
            RawProbe { http: None, tcp: Some(address), command: None } => {
                self.parsed("probe", address, Probe::tcp)
            }
            RawProbe { http: None, tcp: None, command: Some(words) } => {
                self.command("probe", words).map(Probe::Command)
            }
            _ => {
                let what = "one of { http = \"http://HOST:PORT/PATH\" }, { tcp = \"HOST:PORT\" }, { command = [\"/PROGRAM\", \"ARGUMENT\"] }";
                self.problem(span, "probe", what);
                None
            }
        }
    }

    /// A program and its arguments: no shell reads them, and nobody's PATH.
    pub(super) fn command(&mut self, key: &str, words: Texts) -> Option<Vec<String>> {
        let span = words.span();
        let words: Vec<_> = words.into_inner().into_iter().map(Spanned::into_inner).collect();
        if !words.first().is_some_and(|program| Path::new(program).is_absolute()) {
            self.problem(
                span,
                key,
                "a command is a program's absolute path and its arguments: [\"/usr/bin/node\", \"-daemon\"]",
            );
            return None;
        }
        if words.iter().any(|word| word.contains('\0')) {
            self.problem(span, key, "no argument holds a NUL");
            return None;
        }
        Some(words)
    }
}

pub(super) fn absolute(text: &str) -> Result<PathBuf, String> {
    match Path::new(text).is_absolute() {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is a relative path: an absolute one is needed")),
    }
}
