//! How a restore of a job is rehearsed.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::quiesce::absolute;
use super::{Reader, Text, Texts};
use crate::config::{Archive, Drill, Received, Replica, value};
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
    #[serde(default)]
    identity: Vec<Text>,
    #[serde(default)]
    verify_key: Vec<Text>,
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
        archives: &[Archive],
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
        let is_archive = |to: &String| archives.iter().any(|archive| archive.to == *to);
        let from_archive = raw.from.as_ref().is_some_and(|from| is_archive(from.get_ref()));
        let is_from_elsewhere =
            from_archive || raw.from.as_ref().is_some_and(|from| is_elsewhere(from.get_ref()));
        let is_known = |to: &String| is_archive(to) || targets.iter().any(|replica| replica.to == *to);
        let from = raw.from.and_then(|text| self.source_of_drill(text, &is_known, datasets, recursive));
        let keys = self.keys_of_drill(from_archive, raw.identity, raw.verify_key);
        let into = self.received(span, is_from_elsewhere, raw.into, raw.receive_within);
        let into = into.map(|into| Received { identity: keys.0, verify_key: keys.1, ..into });
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
                    self.problem(
                        text.span(),
                        key,
                        "is for a `from` on another machine (ssh://…), or an archive of the job's",
                    );
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
        Some(Received { into, within, identity: Vec::new(), verify_key: Vec::new() })
    }

    /// What reads an archive, and whose it must be.
    fn keys_of_drill(
        &mut self,
        from_archive: bool,
        identity: Vec<Text>,
        verify_key: Vec<Text>,
    ) -> (Vec<PathBuf>, Vec<String>) {
        if !from_archive {
            for (key, text) in [("identity", identity.first()), ("verify_key", verify_key.first())] {
                if let Some(text) = text {
                    self.problem(text.span(), key, "is for a `from` that is an archive of the job's");
                }
            }
        }
        let identity = identity.into_iter().filter_map(|text| self.parsed("identity", text, absolute));
        let identity = identity.collect();
        (identity, verify_key.into_iter().map(Spanned::into_inner).collect())
    }

    fn source_of_drill(
        &mut self,
        text: Text,
        is_known: &dyn Fn(&String) -> bool,
        datasets: &[String],
        recursive: bool,
    ) -> Option<String> {
        let what = match text.get_ref() {
            _ if datasets.len() > 1 || recursive => {
                "a job of several datasets is rehearsed from its own snapshots"
            }
            to if !is_known(to) => "is none of the job's targets or archives, as it stands there",
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
