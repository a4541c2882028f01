//! What is stopped for a job's snapshot.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::drill::user;
use super::{Reader, Text, Texts};
use crate::config::value;
use crate::model::{Probe, Quiesce, Service};

/// How long a service may take to stop or to start, where nothing else is said: nodes take minutes.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// How long they may be down before they are started without a snapshot, where nothing else is said: it takes milliseconds.
const SNAPSHOT: Duration = Duration::from_secs(5 * 60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuiesce {
    #[serde(default)]
    service: Vec<Spanned<RawService>>,
    stop_within: Option<Text>,
    start_within: Option<Text>,
    snapshot_within: Option<Text>,
    probe: Option<Spanned<RawProbe>>,
    max_downtime: Option<Text>,
}

impl RawQuiesce {
    /// Where its services are.
    pub(super) fn spans(&self) -> Vec<Range<usize>> {
        self.service.iter().map(Spanned::span).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    unit: Option<Text>,
    pidfile: Option<Text>,
    process: Option<RawProcess>,
    container: Option<Text>,
    engine: Option<Text>,
    socket: Option<Text>,
    status: Option<Texts>,
    stop: Option<Texts>,
    start: Option<Texts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProcess {
    exe: Text,
    argument: Option<Text>,
    user: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProbe {
    http: Option<Text>,
    tcp: Option<Text>,
    command: Option<Texts>,
}

const SERVICE: &str = "a service is unit, or container and engine, or pidfile and start, or process and start, or status, stop and start";

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
        let snapshot_within = time("snapshot_within", raw.snapshot_within);
        let max_downtime = time("max_downtime", raw.max_downtime);
        let probe = raw.probe.and_then(|raw| self.probe(raw));
        self.key.pop();
        Quiesce {
            services,
            stop_within: stop_within.unwrap_or(PATIENCE),
            start_within: start_within.unwrap_or(PATIENCE),
            snapshot_within: Some(snapshot_within.unwrap_or(SNAPSHOT)),
            probe,
            max_downtime,
        }
    }

    fn service(&mut self, raw: Spanned<RawService>) -> Option<Service> {
        let span = raw.span();
        let RawService { unit, pidfile, process, container, engine, socket, status, stop, start } =
            raw.into_inner();
        self.key.push("service".into());
        let is_other = container.is_some() || engine.is_some() || socket.is_some();
        if let (Some(name), None, None, None, None, None, false) =
            (&unit, &pidfile, &process, &status, &stop, &start, is_other)
        {
            let service = self.parsed("unit", name.clone(), Service::of_unit);
            self.key.pop();
            return service;
        }
        if let (Some(name), None, None, None, None, None, None) =
            (&container, &unit, &pidfile, &process, &status, &stop, &start)
        {
            let service = self.container(name.clone(), engine, socket, &span);
            self.key.pop();
            return service;
        }
        let is_other = is_other || unit.is_some();
        let start = start.and_then(|words| self.command("start", words));
        let service = match (pidfile, status, stop) {
            _ if is_other => None,
            (None, None, None) => {
                process.zip(start).and_then(|(process, start)| self.program(process, start))
            }
            _ if process.is_some() => None,
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

    fn program(&mut self, raw: RawProcess, start: Vec<String>) -> Option<Service> {
        let exe = self.parsed("process.exe", raw.exe, absolute)?;
        let argument = match raw.argument {
            Some(text) => Some(self.parsed("process.argument", text, word)?),
            None => None,
        };
        let user = match raw.user {
            Some(text) => Some(self.parsed("process.user", text, user)?),
            None => None,
        };
        Some(Service::Program { exe, argument, user, start })
    }

    fn container(
        &mut self,
        name: Text,
        engine: Option<Text>,
        socket: Option<Text>,
        span: &Range<usize>,
    ) -> Option<Service> {
        let name = self.parsed("container", name, container_name);
        let Some(engine) = engine else {
            self.problem(span.clone(), "engine", ENGINE);
            return None;
        };
        let of_engine = self.parsed("engine", engine, engine_socket)?;
        let socket = match socket {
            Some(text) => self.parsed("socket", text, absolute)?,
            None => of_engine,
        };
        Some(Service::Container { name: name?, socket })
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

const ENGINE: &str = "is \"podman\" or \"docker\"";

fn engine_socket(text: &str) -> Result<PathBuf, String> {
    match text {
        "podman" => Ok("/run/podman/podman.sock".into()),
        "docker" => Ok("/run/docker.sock".into()),
        _ => Err(format!("{text:?}: {ENGINE}")),
    }
}

/// As both engines have it.
fn container_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let is_one = text.len() > 1 && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    match is_one && text.chars().all(is_plain) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is no container's name: letters, digits and _ . -")),
    }
}

fn word(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains('\0') {
        true => Err("an argument is a text without NUL".into()),
        false => Ok(text.into()),
    }
}

pub(super) fn absolute(text: &str) -> Result<PathBuf, String> {
    match Path::new(text).is_absolute() {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is a relative path: an absolute one is needed")),
    }
}
