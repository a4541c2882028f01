//! Overlays given back as they were made: the next generation takes the place of the one that was changed.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::diff::copy_of;
use super::room::{self, Room};
use super::{
    Before, RESET, Step, Survivors, deal_with_inside, deal_with_users, is_full, layers, lower, make_place,
    opened, server,
};
use crate::endpoint::Result;
use crate::endpoint::overlay::survivors::Survivor;
use crate::endpoint::overlay::{Generation, Home, Locked, Place, Serve, Swapped};
use crate::model::overlay::{Copy, LayerId, OverlayName, Owner, Record};

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
/// [`NotFound`](crate::endpoint::Error::NotFound) if there is no such overlay or copy; [`Refused`](crate::endpoint::Error::Refused) while somebody uses it, and then nothing was changed;
/// [`Halfway`](crate::endpoint::Error::Halfway) if the old tree had to go first on a full disk, and the new one could not be made all the same.
pub fn reset(home: &Home, name: &OverlayName, request: &Request, before: &mut Before<'_>) -> Result<Reset> {
    let (locked, mut record) = opened(home, name)?;
    let written = locked.record()?.map(|written| written.layers);
    let copies = asked_for(&record, request)?;
    if let Some(layers) = &request.layers {
        record.layers.clone_from(layers);
        layers::check_followed(&locked, &record)?;
    }
    layers::make_whole(&locked, &record)?;
    let these: Vec<_> = copies.iter().collect();
    deal_with_inside(&locked, &record, &these, request.survivors, RESET)?;
    let survivors = deal_with_users(&record, &these, request.survivors, RESET)?;
    // After a commit that was killed, only a generation that goes now says what the next one lies on.
    let relayered = request.layers.is_some() || written.as_ref() != Some(&record.layers);
    // Whoever destroys a layer asks under this lock for those that lie on it.
    let lock = relayered.then(|| home.lock()).transpose()?;
    let mut room = Room::of(home);
    let mut done = Reset { name: name.clone(), copies: Vec::new(), survivors, old: Vec::new() };
    let server = server(&record)?;
    before(Step::Base)?;
    let lower = lower(&locked, &record, server)?;
    for copy in copies {
        let next = Next { locked: &locked, record: &record, lower: &lower, copy: &copy, relayered, server };
        let (generation, swapped) =
            next.show_or_make_room(request.survivors, &mut room, &mut done.old, before)?;
        for written in record.copies.iter_mut().filter(|written| written.number == copy.number) {
            written.generation = generation.number;
        }
        done.old.extend(swapped.old);
        let (number, at) = (copy.number, copy.at().to_owned());
        done.copies.push(ResetCopy { number, at, generation: generation.number, atomic: swapped.atomic });
    }
    before(Step::Record)?;
    let mut written = locked.write_reset(&record);
    if written.as_ref().is_err_and(is_full) {
        // What shows is known without it as soon as nothing else is there, and says itself what it lies on.
        done.old.clear();
        let made = discard_older(&locked, &done.copies).and_then(|()| room.make());
        written = room::done_after(made, locked.write_reset(&record));
    }
    written?;
    drop((lock, room));
    before(Step::Discard)?;
    discard_older(&locked, &done.copies)?;
    for copy in &done.copies {
        locked.generation(copy.number, copy.generation).forget_layers()?;
    }
    Ok(done)
}

/// Makes the overlay another one's from now on, or nobody's; what is written down of it then.
///
/// # Errors
/// As [`opened`]; a record that can not be written.
pub fn give(home: &Home, name: &OverlayName, owner: Option<Owner>) -> Result<Record> {
    let (locked, mut record) = opened(home, name)?;
    if record.owner != owner {
        record.owner = owner;
        locked.write(&record)?;
    }
    Ok(record)
}

/// A copy that is about to show another generation.
#[derive(Clone, Copy)]
struct Next<'a> {
    locked: &'a Locked,
    record: &'a Record,
    lower: &'a [PathBuf],
    copy: &'a Copy,
    /// Whether the record may say other layers than those that it is to lie on.
    relayered: bool,
    server: &'static dyn Serve,
}

impl Next<'_> {
    fn place(&self) -> Place<'_> {
        Place { overlay: self.locked, record: self.record, lower: self.lower, copy: self.copy }
    }

    /// Makes the next generation and shows it instead of what shows.
    fn show(&self, before: &mut Before<'_>) -> Result<(Generation, Swapped)> {
        let number = next_generation(self.locked, self.copy)?;
        let shown = self.show_as(number, before);
        if shown.as_ref().is_err_and(is_full) {
            // Nobody is to take it for the one that shows. Where not even that can be done, the next reset does.
            let _ = self.locked.discard(&self.locked.generation(self.copy.number, number));
        }
        shown
    }

    fn show_as(&self, number: u64, before: &mut Before<'_>) -> Result<(Generation, Swapped)> {
        before(Step::Generation)?;
        let generation = self.locked.make_generation(self.copy.number, number, &self.lower[0])?;
        if self.relayered {
            generation.write_layers(&self.record.layers, !self.record.options.volatile)?;
        }
        before(Step::Swap)?;
        // Below /run or /tmp it went with the machine.
        make_place(self.copy.at())?;
        let swapped = self.server.swap(&self.place(), &generation)?;
        Ok((generation, swapped))
    }

    /// As [`Next::show`]. On a full disk, what was discarded goes first, of which `old` may keep something; if that is not enough, the old
    /// tree goes before there is a new one, where the mode allows that.
    fn show_or_make_room(
        &self,
        survivors: Survivors,
        room: &mut Room<'_>,
        old: &mut Vec<OwnedFd>,
        before: &mut Before<'_>,
    ) -> Result<(Generation, Swapped)> {
        let shown = self.show(before);
        if !shown.as_ref().is_err_and(is_full) {
            return shown;
        }
        old.clear();
        let made = room.make();
        let shown = self.show(before);
        let is_too_full = shown.as_ref().is_err_and(is_full);
        if !is_too_full || !room.is_ours() || !self.server.can_give_way(&self.place())? {
            return room::done_after(made, shown);
        }
        room::check_unused(&self.place(), survivors)?;
        before(Step::Room)?;
        self.server.give_way(&self.place())?;
        // From here on, nothing is a reason not to show the new tree but that this can not be done.
        let made = self.discard_all_trees().and_then(|()| room.make());
        room::done_after(made, self.show(before)).map_err(|error| room::nothing_shows(&self.place(), error))
    }

    /// What the generation that showed says of its layers stays, until the record says the same.
    fn discard_all_trees(&self) -> Result<()> {
        let copy = self.copy;
        for number in self.locked.generations(copy.number)? {
            let generation = self.locked.generation(copy.number, number);
            match number == copy.generation && self.record.mode.keeps_changes_apart() {
                true => self.locked.discard_tree(&generation)?,
                false => self.locked.discard(&generation)?,
            }
        }
        Ok(())
    }
}

/// Who uses what would be reset, and which copies that is. Changes nothing.
///
/// # Errors
/// As [`reset`].
pub fn check(home: &Home, name: &OverlayName, request: &Request) -> Result<Vec<Copy>> {
    let (locked, record) = opened(home, name)?;
    let copies = asked_for(&record, request)?;
    let these: Vec<_> = copies.iter().collect();
    if request.survivors != Survivors::Leave {
        deal_with_inside(&locked, &record, &these, request.survivors, RESET)?;
    }
    if request.survivors == Survivors::Refuse {
        deal_with_users(&record, &these, request.survivors, RESET)?;
    }
    Ok(copies)
}

fn asked_for(record: &Record, request: &Request) -> Result<Vec<Copy>> {
    let Some(numbers) = &request.copies else { return Ok(record.copies.clone()) };
    numbers.iter().map(|&number| copy_of(record, number).cloned()).collect()
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
