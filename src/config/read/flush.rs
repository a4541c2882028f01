//! What is told before a job's snapshot, and goes on.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::quiesce::absolute;
use super::{Reader, Text, Texts};
use crate::config::value;
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
    fsfreeze: Option<Spanned<bool>>,
    within: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPostgres {
    connection: Option<Text>,
    user: Option<Text>,
}

/// What a job is told to do.
pub(super) enum Told {
    /// A database is asked.
    Flush(Flush),
    /// A command is called, and another one whatever happens.
    Hook(Quiesce),
}

const FLUSH: &str = "one of sqlite = [\"/path/of/a.db\"], postgres = { connection = \"port=5432\" }, command = [\"/PROGRAM\", \"ARGUMENT\"] with after";
const FREEZE: &str = "can not be: btrfs and ZFS take no snapshot of what is frozen, or freeze nothing, and need not, for theirs are of one instant";

impl Reader<'_> {
    pub(super) fn flush(&mut self, raw: Spanned<RawFlush>) -> Option<Told> {
        let span = raw.span();
        let RawFlush { sqlite, postgres, command, after, fsfreeze, within } = raw.into_inner();
        self.key.push("flush".into());
        let within = within.and_then(|text| self.parsed("within", text, value::duration)).unwrap_or(PATIENCE);
        let is_frozen = fsfreeze.is_some();
        if let Some(freeze) = fsfreeze {
            self.problem(freeze.span(), "fsfreeze", FREEZE);
        }
        let told = match (sqlite, postgres, command, after) {
            _ if is_frozen => None,
            (Some(files), None, None, None) => self.files(files).map(Flushed::Sqlite),
            (None, Some(raw), None, None) => self.server(raw),
            (None, None, Some(before), after) => {
                let before = self.command("command", before);
                let after = after.map(|words| self.command("after", words));
                let hook =
                    before.map(|before| Service::Hook { before, after: after.flatten().unwrap_or_default() });
                self.key.pop();
                return hook.map(|hook| Told::Hook(told(hook, within)));
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

    fn server(&mut self, raw: RawPostgres) -> Option<Flushed> {
        let RawPostgres { connection, user } = raw;
        let connection = match connection {
            Some(text) => self.parsed("postgres.connection", text, connects)?,
            None => String::new(),
        };
        let user = match user {
            Some(text) => self.parsed("postgres.user", text, named)?,
            None => "postgres".into(),
        };
        Some(Flushed::Postgres { connection, user })
    }
}

fn told(hook: Service, within: Duration) -> Quiesce {
    Quiesce {
        services: vec![hook],
        stop_within: within,
        start_within: within,
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

fn named(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(is_plain) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is no user's name")),
    }
}
