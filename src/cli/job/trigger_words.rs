//! What makes a job due besides its schedule, in words.

use crate::cli::job::words;
use crate::cli::table::size;
use crate::config::Overlap;
use crate::plan::trigger::{Combined, Source, Thresholds, Trigger};

/// When it is due; `schedule` is what there is to say of its schedule, if it has one.
pub(super) fn when(schedule: Option<String>, trigger: &Trigger) -> Vec<String> {
    let mut all = Vec::new();
    let conditions = conditions(&trigger.thresholds, trigger.number.as_ref());
    let rest = rest(trigger.at_most_every);
    match (schedule, trigger.combined) {
        (schedule, _) if trigger.thresholds.is_empty() => all.extend(schedule),
        (None, _) => all.push(format!("is due when {conditions}{rest}")),
        (Some(schedule), Combined::Either) => {
            all.extend([schedule, format!("between these times is due when {conditions}{rest}")]);
        }
        (Some(schedule), Combined::Both(None)) => {
            all.push(format!("{schedule}; but from then on only when {conditions}{rest}"));
        }
        (Some(schedule), Combined::Both(Some(window))) => {
            all.push(format!("{schedule}; but only if, within {window:#} from then, {conditions}{rest}"));
        }
    }
    all.extend(trigger.emergency.as_ref().map(|emergency| {
        let conditions = self::conditions(&emergency.thresholds, trigger.number.as_ref());
        let retention = emergency.retention.as_ref().map(|retention| {
            format!("; kept then are {}, instead of what is kept else", words::kept(retention))
        });
        format!(
            "in an emergency, when {conditions}, is due whatever the clock says{}, and waits for a run that is at work{}",
            self::rest(emergency.at_most_every),
            retention.unwrap_or_default()
        )
    }));
    all
}

fn conditions(thresholds: &Thresholds, number: Option<&Source>) -> String {
    let written =
        thresholds.written.map(|bytes| format!("{} were written since its last snapshot", size(bytes)));
    let age = thresholds.age.map(|age| format!("its last snapshot is {age:#} old"));
    let number = number.zip(thresholds.number).map(|(source, least)| format!("{source} is {least} or more"));
    [written, age, number].into_iter().flatten().collect::<Vec<_>>().join(", or ")
}

fn rest(rest: jiff::SignedDuration) -> String {
    match rest.is_zero() {
        true => String::new(),
        false => format!(", {rest:#} after its last snapshot at the earliest"),
    }
}

/// What becomes of a run while another one is at work on a dataset; nothing of what is usual.
pub(super) fn overlap(overlap: Overlap) -> Option<String> {
    match overlap {
        Overlap::Skip => None,
        Overlap::Queue(limit) => Some(format!(
            "waits up to {} for another run that is at work on one of its datasets",
            words::time(limit)
        )),
    }
}
