//! Overlays given back as they were made: the next generation takes the place of the one that was changed.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::{Before, RESET, Step, Survivors, deal_with_users, is_full, layers, lower, opened, server};
use crate::endpoint::overlay::survivors::Survivor;
use crate::endpoint::overlay::{Generation, Home, Locked, Place, Serve, Swapped};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Copy, LayerId, OverlayName, Record};

/// What to reset, and to what.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which copies; `None`: all.
    pub copies: Option<Vec<u32>>,
    /// The layers that it has from now on; `None`: the same.
    pub layers: Option<Vec<LayerId>>,
    /// What to do with whoever still uses it.
    pub survivors: Survivors,
}

/// A copy that was reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetCopy {
    /// Its number.
    pub number: u32,
    /// Where it shows.
    pub at: PathBuf,
    /// Which generation shows now.
    pub generation: u64,
    /// False if for an instant nothing showed.
    pub atomic: bool,
}

/// What a reset did.
#[derive(Debug)]
pub struct Reset {
    /// Of which overlay.
    pub name: OverlayName,
    /// Its copies.
    pub copies: Vec<ResetCopy>,
    /// Who used it: ended, or left with the old tree, as was asked.
    pub survivors: Vec<Survivor>,
    /// What keeps the old trees from being torn down, which takes longer than the reset.
    pub old: Vec<OwnedFd>,
}

/// Gives the copies a new, unchanged tree. The old ones go when somebody sweeps.
///
/// # Errors
/// [`Error::NotFound`] if there is no such overlay or copy; [`Error::Refused`] while somebody uses it, and then nothing was changed.
pub fn reset(home: &Home, name: &OverlayName, request: &Request, before: &mut Before<'_>) -> Result<Reset> {
    let (locked, mut record) = opened(home, name)?;
    let copies = asked_for(&record, request)?;
    if let Some(layers) = &request.layers {
        record.layers.clone_from(layers);
        layers::check_followed(&locked, &record)?;
    }
    layers::make_whole(&locked, &record)?;
    let survivors = deal_with_users(&record, &copies.iter().collect::<Vec<_>>(), request.survivors, RESET)?;
    // Whoever destroys a layer asks under this lock for those that lie on it.
    let lock = request.layers.as_ref().map(|_| home.lock()).transpose()?;
    let mut done = Reset { name: name.clone(), copies: Vec::new(), survivors, old: Vec::new() };
    let server = server(&record)?;
    before(Step::Base)?;
    let lower = lower(&locked, &record, server)?;
    for copy in copies {
        let next = Next { locked: &locked, record: &record, lower: &lower, copy: &copy, server };
        let (generation, swapped) = next.show_or_make_room(request, &mut done.old, before)?;
        for written in record.copies.iter_mut().filter(|written| written.number == copy.number) {
            written.generation = generation.number;
        }
        done.old.extend(swapped.old);
        let (number, at) = (copy.number, copy.at().to_owned());
        done.copies.push(ResetCopy { number, at, generation: generation.number, atomic: swapped.atomic });
    }
    before(Step::Record)?;
    match locked.write_reset(&record) {
        // What shows is known without it as soon as nothing else is there.
        Err(error) if is_full(&error) => {
            done.old.clear();
            discard_older(&locked, &done.copies)?;
            home.make_room()?;
            locked.write_reset(&record)?;
        }
        written => written?,
    }
    drop(lock);
    before(Step::Discard)?;
    discard_older(&locked, &done.copies)?;
    for copy in &done.copies {
        locked.generation(copy.number, copy.generation).forget_layers()?;
    }
    Ok(done)
}

/// A copy that is about to show another generation.
#[derive(Clone, Copy)]
struct Next<'a> {
    locked: &'a Locked,
    record: &'a Record,
    lower: &'a [PathBuf],
    copy: &'a Copy,
    server: &'static dyn Serve,
}

impl Next<'_> {
    fn place(&self) -> Place<'_> {
        Place { overlay: self.locked, record: self.record, lower: self.lower, copy: self.copy }
    }

    /// Makes the next generation and shows it instead of what shows.
    fn show(&self, request: &Request, before: &mut Before<'_>) -> Result<(Generation, Swapped)> {
        let number = next_generation(self.locked, self.copy)?;
        before(Step::Generation)?;
        let generation = self.locked.make_generation(self.copy.number, number, &self.lower[0])?;
        if request.layers.is_some() {
            generation.write_layers(&self.record.layers, !self.record.options.volatile)?;
        }
        before(Step::Swap)?;
        let swapped = self.server.swap(&self.place(), &generation)?;
        Ok((generation, swapped))
    }

    /// As [`Next::show`]. On a full disk, what was discarded goes first, of which `old` may keep something; if that is not enough, the old
    /// tree goes before there is a new one.
    fn show_or_make_room(
        &self,
        request: &Request,
        old: &mut Vec<OwnedFd>,
        before: &mut Before<'_>,
    ) -> Result<(Generation, Swapped)> {
        let mut shown = self.show(request, before);
        if shown.as_ref().is_err_and(is_full) {
            old.clear();
            self.locked.home().make_room()?;
            shown = self.show(request, before);
        }
        if shown.as_ref().is_err_and(is_full) {
            before(Step::Room)?;
            self.server.take_down(&self.place())?;
            for number in self.locked.generations(self.copy.number)? {
                self.locked.discard(&self.locked.generation(self.copy.number, number))?;
            }
            self.locked.home().make_room()?;
            shown = self.show(request, before);
        }
        shown
    }
}

/// Who uses what would be reset, and which copies that is. Changes nothing.
///
/// # Errors
/// As [`reset`].
pub fn check(home: &Home, name: &OverlayName, request: &Request) -> Result<Vec<Copy>> {
    let (_locked, record) = opened(home, name)?;
    let copies = asked_for(&record, request)?;
    if request.survivors == Survivors::Refuse {
        deal_with_users(&record, &copies.iter().collect::<Vec<_>>(), request.survivors, RESET)?;
    }
    Ok(copies)
}

fn asked_for(record: &Record, request: &Request) -> Result<Vec<Copy>> {
    let Some(numbers) = &request.copies else { return Ok(record.copies.clone()) };
    let copy = |number: &u32| {
        record.copy(*number).cloned().ok_or_else(|| Error::NotFound {
            what: "copy",
            subject: format!("{number} of overlay {}, which has {}", record.name, record.copies.len()),
            hint: None,
        })
    };
    numbers.iter().map(copy).collect()
}

/// A number that no generation of the copy has had: also none that a killed reset began.
fn next_generation(locked: &Locked, copy: &Copy) -> Result<u64> {
    let last = locked.generations(copy.number)?.pop().unwrap_or(0);
    Ok(last.max(copy.generation) + 1)
}

fn discard_older(locked: &Locked, copies: &[ResetCopy]) -> Result<()> {
    for copy in copies {
        for number in locked.generations(copy.number)?.into_iter().filter(|&number| number != copy.generation)
        {
            locked.discard(&locked.generation(copy.number, number))?;
        }
    }
    Ok(())
}
