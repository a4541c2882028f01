//! What overlays there are.

use super::reap;
use crate::endpoint::Result;
use crate::endpoint::overlay::{EXCHANGED, Entry, Home, Place, fuse, ours};
use crate::model::overlay::{Copy, Mode, OverlayName, Record};
use crate::plan::overlay::reap::{Verdict, Written};

/// An overlay, as it is found.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What it is called.
    pub name: OverlayName,
    /// What is written down of it; `None` if that is nothing, or can not be read.
    pub record: Option<Record>,
    /// Why it can not be read, if that is so.
    pub damage: Option<String>,
    /// Whether the next reap takes it, and why.
    pub verdict: Verdict,
    /// The numbers of its copies that show.
    pub mounted: Vec<u32>,
}

/// All overlays of the home, by name. Waits for nobody: one that is being changed is shown as it is written down.
pub fn list(home: &Home) -> Result<Vec<Listed>> {
    let mounts = ours::all(home)?;
    let mut listed = Vec::new();
    for entry in home.entries()? {
        let seen = reap::seen(&entry)?;
        let verdict = crate::plan::overlay::reap::verdict(&seen, &reap::here_for(&seen)?);
        let (record, damage) = match seen.record {
            Written::Nothing => (None, None),
            Written::Unreadable(why) => (None, Some(why)),
            Written::Record(record) => (Some(*record), None),
        };
        let is_fuse = record.as_ref().is_some_and(|record| record.mode == Mode::Fuse);
        let answers = !is_fuse || fuse::serve::is_served(&entry);
        let answering = mounts.iter().filter(|m| answers && m.source.name == seen.name);
        let mut mounted: Vec<_> = answering.map(|m| m.source.copy).collect();
        if let Some(record) = record.as_ref().filter(|record| record.options.more.contains_key(EXCHANGED)) {
            mounted = shown(&entry, record);
        }
        mounted.sort_unstable();
        mounted.dedup();
        listed.push(Listed { name: seen.name, record, damage, verdict, mounted });
    }
    Ok(listed)
}

/// The copies of an overlay that show without being mounted.
fn shown(entry: &Entry, record: &Record) -> Vec<u32> {
    let is_shown = |copy: &&Copy| {
        let place = Place { overlay: entry, record, lower: &[], copy };
        super::server(record).is_ok_and(|server| server.is_shown(&place).unwrap_or(false))
    };
    record.copies.iter().filter(is_shown).map(|copy| copy.number).collect()
}
