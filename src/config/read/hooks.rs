//! What a job calls at which moment of its run.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Reader, Text, Texts};
use crate::config::{Hooks, value};

/// How long each may take, where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHooks {
    before_snapshot: Option<Texts>,
    after_snapshot: Option<Texts>,
    after_replication: Option<Texts>,
    on_failure: Option<Texts>,
    within: Option<Text>,
}

impl Reader<'_> {
    pub(super) fn hooks(&mut self, raw: Spanned<RawHooks>, has_targets: bool) -> Hooks {
        let span = raw.span();
        let RawHooks { before_snapshot, after_snapshot, after_replication, on_failure, within } =
            raw.into_inner();
        self.key.push("hooks".into());
        if let (Some(words), false) = (&after_replication, has_targets) {
            self.problem(words.span(), "after_replication", "says nothing without a target");
        }
        let mut of = |key: &str, words: Option<Texts>| words.and_then(|words| self.command(key, words));
        let is_empty = [&before_snapshot, &after_snapshot, &after_replication, &on_failure]
            .iter()
            .all(|words| words.is_none());
        let hooks = Hooks {
            before_snapshot: of("before_snapshot", before_snapshot),
            after_snapshot: of("after_snapshot", after_snapshot),
            after_replication: of("after_replication", after_replication),
            on_failure: of("on_failure", on_failure),
            within: within.and_then(|text| self.parsed("within", text, value::duration)).unwrap_or(PATIENCE),
        };
        if is_empty {
            let what = "calls nothing: at least one of before_snapshot, after_snapshot, after_replication, on_failure";
            self.problem(span, "", what);
        }
        self.key.pop();
        hooks
    }
}
