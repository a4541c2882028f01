//! What is told before a job's snapshot, and goes on.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::quiesce::absolute;
use super::{Reader, Text, Texts};
use crate::config::value;
use crate::model::flush::Method;
use crate::model::{Flush, Flushed, Quiesce, Service};

/// How long it may take, where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFlush {
    sqlite: Option<Texts>,
    postgres: Option<RawPostgres>,
    command: Option<Texts>,
    after: Option<Texts>,
    fsfreeze: Option<Texts>,
    within: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPostgres {
    connection: Option<Text>,
    user: Option<Text>,
    method: Option<Text>,
}

/// What a job is told to do.
pub(super) enum Told {
    /// A database is asked.
    Flush(Flush),
    /// A command is called, and another one whatever happens; or a filesystem is frozen, and thawed.
    Hook(Quiesce),
}

const FLUSH: &str = "one of sqlite = [\"/path/of/a.db\"], postgres = { connection = \"port=5432\" }, fsfreeze = [\"/mnt/of/a/disk\"], command = [\"/PROGRAM\", \"ARGUMENT\"] with after";

impl Reader<'_> {
    pub(super) fn flush(&mut self, raw: Spanned<RawFlush>) -> Option<Told> {
        let span = raw.span();
        let RawFlush { sqlite, postgres, command, after, fsfreeze, within } = raw.into_inner();
        self.key.push("flush".into());
        let within = within.and_then(|text| self.parsed("within", text, value::duration)).unwrap_or(PATIENCE);
        let told = match (sqlite, postgres, fsfreeze, command, after) {
            (Some(files), None, None, None, None) => self.files(files).map(Flushed::Sqlite),
            (None, Some(raw), None, None, None) => self.server(raw),
            (None, None, Some(places), None, None) => {
                let frozen = self.frozen(places);
                self.key.pop();
                return frozen.map(|services| Told::Hook(told(services, within)));
            }
            (None, None, None, Some(before), after) => {
                let before = self.command("command", before);
                let after = after.map(|words| self.command("after", words));
                let hook =
                    before.map(|before| Service::Hook { before, after: after.flatten().unwrap_or_default() });
                self.key.pop();
                return hook.map(|hook| Told::Hook(told(vec![hook], within)));
            }
            _ => {
                self.problem(span, "", FLUSH);
                None
            }
        };
        self.key.pop();
        told.map(|what| Told::Flush(Flush { what, within }))
    }

    fn files(&mut self, texts: Texts) -> Option<Vec<PathBuf>> {
        let span = texts.span();
        let texts = texts.into_inner();
        if texts.is_empty() {
            self.problem(span, "sqlite", "names no database");
            return None;
        }
        texts.into_iter().map(|text| self.parsed("sqlite", text, absolute)).collect()
    }

    /// Places where something is mounted.
    fn frozen(&mut self, texts: Texts) -> Option<Vec<Service>> {
        let span = texts.span();
        let mut services = Vec::new();
        for text in texts.into_inner() {
            let span = text.span();
            let service = Service::Frozen { place: self.parsed("fsfreeze", text, absolute)? };
            if services.contains(&service) {
                self.problem(span, "fsfreeze", "is there twice");
            }
            services.push(service);
        }
        if services.is_empty() {
            self.problem(span, "fsfreeze", "names no filesystem: [\"/mnt/of/a/disk\"]");
            return None;
        }
        Some(services)
    }

    fn server(&mut self, raw: RawPostgres) -> Option<Flushed> {
        let RawPostgres { connection, user, method } = raw;
        let connection = match connection {
            Some(text) => self.parsed("postgres.connection", text, connects)?,
            None => String::new(),
        };
        let user = match user {
            Some(text) => self.parsed("postgres.user", text, named)?,
            None => "postgres".into(),
        };
        let method = match method {
            Some(text) => Some(self.parsed("postgres.method", text, method_of)?),
            None => None,
        };
        Some(Flushed::Postgres { connection, user, method })
    }
}

fn told(services: Vec<Service>, within: Duration) -> Quiesce {
    Quiesce {
        services,
        stop_within: within,
        start_within: within,
        snapshot_within: None,
        probe: None,
        max_downtime: None,
    }
}

fn connects(text: &str) -> Result<String, String> {
    match text.contains("password") || text.contains('\0') || text.starts_with('-') {
        true => {
            Err("a connection as psql has it, without a password: that belongs to ~/.pgpass of the user"
                .into())
        }
        false => Ok(text.into()),
    }
}

fn method_of(text: &str) -> Result<Method, String> {
    match text {
        "checkpoint" => Ok(Method::Checkpoint),
        "backup" => Ok(Method::Backup),
        _ => Err(format!("{text:?} is neither \"checkpoint\" nor \"backup\"")),
    }
}

fn named(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(is_plain) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is no user's name")),
    }
}
