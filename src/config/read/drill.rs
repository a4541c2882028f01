//! How a restore of a job is rehearsed.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::quiesce::absolute;
use super::{Reader, Text, Texts};
use crate::config::{Drill, Received, Replica, value};
use crate::model::Target;

/// How long a rehearsal may take, where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrill {
    command: Option<Texts>,
    expect: Option<Text>,
    within: Option<Text>,
    from: Option<Text>,
    into: Option<Text>,
    receive_within: Option<Text>,
    user: Option<Text>,
    #[serde(default)]
    network: bool,
    #[serde(default)]
    scratch: Vec<Text>,
}

impl Reader<'_> {
    pub(super) fn drill(
        &mut self,
        raw: Spanned<RawDrill>,
        targets: &[Replica],
        datasets: &[String],
        recursive: bool,
    ) -> Option<Drill> {
        let span = raw.span();
        let raw = raw.into_inner();
        self.key.push("drill".into());
        if raw.command.is_none() {
            let what = "is missing: what says whether the data is good: [\"/usr/bin/sqlite3\", \"state.sqlite\", \"PRAGMA integrity_check\"]";
            self.problem(span.clone(), "command", what);
        }
        let command = raw.command.and_then(|words| self.command("command", words));
        let expect = raw.expect.and_then(|text| self.parsed("expect", text, line));
        let within = raw.within.and_then(|text| self.parsed("within", text, value::duration));
        let is_from_elsewhere = raw.from.as_ref().is_some_and(|from| is_elsewhere(from.get_ref()));
        let from = raw.from.and_then(|text| self.source_of_drill(text, targets, datasets, recursive));
        let into = self.received(span, is_from_elsewhere, raw.into, raw.receive_within);
        let user = raw.user.and_then(|text| self.parsed("user", text, user));
        let scratch =
            raw.scratch.into_iter().filter_map(|text| self.parsed("scratch", text, absolute)).collect();
        self.key.pop();
        let within = within.unwrap_or(PATIENCE);
        Some(Drill { command: command?, expect, within, from, into, user, network: raw.network, scratch })
    }

    /// Into what that is received which is on another machine.
    fn received(
        &mut self,
        drill: std::ops::Range<usize>,
        is_from_elsewhere: bool,
        into: Option<Text>,
        within: Option<Text>,
    ) -> Option<Received> {
        if !is_from_elsewhere {
            for (key, text) in [("into", into), ("receive_within", within)] {
                if let Some(text) = text {
                    self.problem(text.span(), key, "is for a `from` on another machine: ssh://…");
                }
            }
            return None;
        }
        let within = within.and_then(|text| self.parsed("receive_within", text, value::duration));
        let Some(into) = into else {
            let what = "is missing: in which pool, dataset or directory here that is received which is rehearsed: \"tank\"";
            self.problem(drill, "into", what);
            return None;
        };
        let into = self.parsed("into", into, local)?;
        Some(Received { into, within })
    }

    fn source_of_drill(
        &mut self,
        text: Text,
        targets: &[Replica],
        datasets: &[String],
        recursive: bool,
    ) -> Option<String> {
        let what = match text.get_ref() {
            _ if datasets.len() > 1 || recursive => {
                "a job of several datasets is rehearsed from its own snapshots"
            }
            to if !targets.iter().any(|replica| replica.to == *to) => {
                "is none of the job's targets, as it stands there"
            }
            to => return Some(to.clone()),
        };
        self.problem(text.span(), "from", format!("{:?}: {what}", text.get_ref()));
        None
    }
}

/// A place on this machine.
fn local(text: &str) -> Result<String, String> {
    match Target::parse(text.as_ref()) {
        Ok(Target::Remote(_)) => Err(format!("{text} is on another machine")),
        Ok(_) => Ok(text.into()),
        Err(error) => Err(error.to_string()),
    }
}

fn is_elsewhere(from: &str) -> bool {
    from.starts_with("ssh://")
}

fn line(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("is empty: every output has such a line, or none".into()),
        line if line.contains('\n') => Err("is more than one line".into()),
        line => Ok(line.into()),
    }
}

pub(super) fn user(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if is_name { Ok(text.into()) } else { Err(format!("{text:?} is no user's name")) }
}
