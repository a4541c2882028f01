//! What a run would do, and how much it would send.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;
use crate::exec::cursor::Left;
use crate::exec::replicate::{Prepared, Replicated, Source, Wanted, replicated};
use crate::exec::transfer::{Options, Place, Transfer, estimate};
use crate::model::{Guid, HoldTag, SnapshotName, VersionRef};
use crate::plan::fan::Turn;
use crate::plan::replicate::Step;

/// Nobody waits longer to be told how much it is: what was not estimated by then is not known.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of a run before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Foretold {
    /// The streams that would be sent, in this order.
    pub to_send: Vec<ToSend>,
    /// What both sides keep from before the direction turned, and that would be let go of in the end.
    pub turned: Vec<LetGo>,
}

/// A stream that would be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToSend {
    /// The name of its snapshot.
    pub snapshot: SnapshotName,
    /// The identity of that.
    pub guid: Guid,
    /// What it builds upon; `None` if it is full.
    pub base: Option<Guid>,
    /// About how many bytes it would be; `None` where nobody can tell without sending it.
    pub bytes: Option<u64>,
}

/// A hold that would be let go of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LetGo {
    /// At which side: `source` or `target`.
    pub at: &'static str,
    /// What it keeps.
    pub version: VersionRef,
    /// Its tag.
    pub tag: HoldTag,
}

/// What would be done: for each target, and the streams that it would take, whose lanes are the targets' numbers.
///
/// # Errors
/// A source that can not be read, or is not there.
pub fn foretell(from: &Place, to: &[Place], wanted: &Wanted) -> Result<(Vec<Result<Replicated>>, Vec<Turn>)> {
    let source = Source::look(from, wanted)?;
    let prepared: Vec<_> = to.iter().map(|to| source.plan(to, wanted)).collect();
    let (numbers, sound): (Vec<_>, Vec<_>) =
        prepared.iter().enumerate().filter_map(|(n, prepared)| Some((n, prepared.as_ref().ok()?))).unzip();
    let mut turns = source.turns(&sound);
    turns.iter_mut().flat_map(|turn| &mut turn.lanes).for_each(|lane| *lane = numbers[*lane]);
    let until = Instant::now() + PATIENCE;
    let told = |prepared: Prepared<'_>| {
        let foretold = Some(prepared.foretold(from, &wanted.options, until));
        Replicated { foretold, ..replicated(from, prepared, Vec::new()) }
    };
    Ok((prepared.into_iter().map(|prepared| prepared.map(told)).collect(), turns))
}

impl Prepared<'_> {
    fn foretold(&self, from: &Place, options: &Options, until: Instant) -> Foretold {
        let to_send = |step: &Step| match step {
            Step::Transfer { version, base, resume } => {
                let token = self.token(version);
                let what = Transfer { version: version.clone(), base: base.clone(), token };
                let may_ask = Instant::now() < until;
                let bytes = may_ask.then(|| estimate((from, self.to), &what, *resume, options)).flatten();
                let base = what.base_guid();
                Some(ToSend { snapshot: version.name.clone(), guid: version.guid, base, bytes })
            }
            _ => None,
        };
        let turned = [("source", &self.kept.turned_here), ("target", &self.kept.turned_there)];
        Foretold {
            to_send: self.plan.steps.iter().filter_map(to_send).collect(),
            turned: turned
                .into_iter()
                .flat_map(|(at, left)| left.iter().flat_map(move |left| let_go(at, left)))
                .collect(),
        }
    }
}

fn let_go<'a>(at: &'static str, left: &'a Left) -> impl Iterator<Item = LetGo> + 'a {
    let (held, tag) = left.held();
    held.iter().map(move |version| LetGo { at, version: version.clone(), tag: tag.clone() })
}
