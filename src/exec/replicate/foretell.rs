//! What a run would do, and how much it would send.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;
use crate::exec::cursor::Left;
use crate::exec::replicate::{Prepared, Replicated, Source, Wanted, replicated};
use crate::exec::transfer::{Options, Place, Transfer, estimate};
use crate::model::{Guid, HoldTag, Inventory, SnapshotName, VersionRef};
use crate::plan::fan::Turn;
use crate::plan::replicate::Step;

/// How long streams of one dataset are estimated: none is begun any more after that, and how much the rest would be is not known.
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
    let until = Instant::now() + PATIENCE;
    let told = |prepared: Result<_>| {
        let prepared: Prepared<'_> = prepared?;
        let foretold = prepared.foretold(&source, &wanted.options, until)?;
        Ok((prepared, foretold))
    };
    let told: Vec<Result<_>> = to.iter().map(|to| told(source.plan(to, wanted))).collect();
    let (numbers, sound): (Vec<_>, Vec<_>) =
        told.iter().enumerate().filter_map(|(n, told)| Some((n, &told.as_ref().ok()?.0))).unzip();
    let mut turns = source.turns(&sound);
    turns.iter_mut().flat_map(|turn| &mut turn.lanes).for_each(|lane| *lane = numbers[*lane]);
    let would = |(prepared, foretold)| Replicated {
        foretold: Some(foretold),
        ..replicated(from, prepared, Vec::new())
    };
    Ok((told.into_iter().map(|told| told.map(would)).collect(), turns))
}

impl Prepared<'_> {
    fn foretold(&self, source: &Source<'_>, options: &Options, until: Instant) -> Result<Foretold> {
        let to_send = |step: &Step| match step {
            Step::Transfer { version, base, resume } => {
                let base = base.as_ref().map(|base| as_it_is_called(base, &source.inventory));
                let what = Transfer { version: version.clone(), base, token: self.token(version) };
                let all = match Instant::now() < until {
                    true => estimate(source.place, &what, options),
                    false => Ok(None),
                };
                let bytes = all.map(|all| Some(all?.saturating_sub(self.there_already(&what, *resume))));
                let told = |bytes| ToSend {
                    snapshot: version.name.clone(),
                    guid: version.guid,
                    base: what.base_guid(),
                    bytes,
                };
                Some(bytes.map(told))
            }
            _ => None,
        };
        let turned = [("source", &self.kept.turned_here), ("target", &self.kept.turned_there)];
        Ok(Foretold {
            to_send: self.plan.steps.iter().filter_map(to_send).collect::<Result<_>>()?,
            turned: turned
                .into_iter()
                .flat_map(|(at, left)| left.iter().flat_map(move |left| let_go(at, left)))
                .collect(),
        })
    }

    /// How much of the stream need not come again, unless the estimate knows by the token.
    fn there_already(&self, what: &Transfer, resume: bool) -> u64 {
        let partial = self.partial(&what.version).filter(|_| resume && what.token.is_none());
        partial.and_then(|partial| partial.bytes).unwrap_or(0)
    }
}

/// By which name `base` is to be found before anything is done: the bookmark that the run would build upon may not be made yet.
fn as_it_is_called(base: &VersionRef, source: &Inventory) -> VersionRef {
    let of_it = || source.versions().iter().filter(|version| version.id.guid == base.guid);
    let known = of_it().find(|version| version.id.name == base.name).or_else(|| of_it().next());
    known.map_or_else(|| base.clone(), |version| version.id.clone())
}

fn let_go<'a>(at: &'static str, left: &'a Left) -> impl Iterator<Item = LetGo> + 'a {
    let (held, tag) = left.held();
    held.iter().map(move |version| LetGo { at, version: version.clone(), tag: tag.clone() })
}
