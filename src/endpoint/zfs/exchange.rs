//! A dataset that was received beside another takes its place; the other is set aside under a name that says why, with all
//! that it holds but what is inside it.
//!
//! What is meant is written down as a property of the dataset that comes, and of the one that gives way, before the first
//! byte. Who finds both later, and what comes is whole and not in place, does the rest: what it takes the place of is lost
//! at no instant. What only one of them says is not believed: who may set properties of the one could write it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::above;
use crate::endpoint::zfs::flags::CHAIN;
use crate::endpoint::zfs::intent::{self, Seen, Strange, carriers, guid_of, is_beside};
use crate::endpoint::zfs::lock::{Locked, Work, is_locked, try_lock};
use crate::endpoint::zfs::was::ASIDE;
use crate::endpoint::zfs::{aside, keys, program, props};
use crate::endpoint::{Arrived, Error, Result};
use crate::model::{DatasetName, Guid};

/// The property of a dataset that comes: whose place it is to take.
pub(super) const INTENT: &str = "cowsnap:arriving";
/// The property of the dataset that gives way, which says the same.
pub(super) const GIVES_WAY: &str = "cowsnap:gives-way";

/// Who takes whose place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    dataset: DatasetName,
    /// What the dataset that gives way is known by under either name.
    was: Guid,
    aside: DatasetName,
    incoming: DatasetName,
}

/// How far an exchange has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// What comes is beside the dataset, or the name of the dataset is free for it.
    Beside,
    /// It has the name.
    InPlace,
    /// Only what came says so any more.
    Done,
}

impl Exchange {
    /// What can be believed of a text that was found on the dataset `name`.
    fn read(name: &str, text: &str) -> Option<Self> {
        let exchange: Self = intent::read(text)?;
        // Somebody may have copied the property to where it does not belong.
        let belongs = name == exchange.incoming.as_str() || name == exchange.dataset.as_str();
        let is_beside = |name, word| is_beside(name, &exchange.dataset, word);
        let is_ours = is_beside(&exchange.aside, "conflict") && is_beside(&exchange.incoming, "incoming");
        (belongs && is_ours).then_some(exchange)
    }

    /// How far it has come by what is there; `None` if that does not fit it.
    fn stage(&self) -> Result<Option<Stage>> {
        let seen = |name: &DatasetName, property| Seen::of(name.as_str(), property);
        let incoming = seen(&self.incoming, INTENT)?;
        let property = if incoming.is_some() { GIVES_WAY } else { INTENT };
        let (in_place, aside) = (seen(&self.dataset, property)?, seen(&self.aside, GIVES_WAY)?);
        Ok(self.stage_of(incoming.as_ref(), in_place.as_ref(), aside.as_ref()))
    }

    /// Of the dataset in place it is seen what it says as the one that gives way, or if nothing is incoming, as what came.
    fn stage_of(
        &self,
        incoming: Option<&Seen>,
        in_place: Option<&Seen>,
        aside: Option<&Seen>,
    ) -> Option<Stage> {
        let gives_way = |seen: &Seen| seen.guid == self.was && seen.says(self);
        match (incoming, in_place, aside) {
            (Some(new), Some(old), None) | (Some(new), None, Some(old)) => {
                (new.says(self) && gives_way(old)).then_some(Stage::Beside)
            }
            (None, Some(new), Some(old)) if new.says(self) => match &old.says {
                None => Some(Stage::Done),
                Some(_) => gives_way(old).then_some(Stage::InPlace),
            },
            _ => None,
        }
    }

    /// Chooses names that are free.
    ///
    /// # Errors
    /// [`Error::Refused`] for a pool, which can not be set aside, or a name that gets too long.
    pub(super) fn of(target: &Dataset) -> Result<Self> {
        if target.name().within_pool().is_none() {
            return Err(target.refused("set aside", "it is the pool itself".into(), None));
        }
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let free = |word: &str| -> Result<DatasetName> {
            let lzc = target.lzc()?;
            let number = |nth| if nth == 1 { String::new() } else { format!("-{nth}") };
            let mut names = (1..).map(|nth| format!("{}.{word}-{now}{}", target.name(), number(nth)));
            let name = names.find(|name| !lzc.exists(name)).expect("the numbers do not end");
            name.parse()
                .map_err(|why: crate::model::name::Error| target.refused("set aside", why.to_string(), None))
        };
        let was = guid_of(target.name().as_str())?;
        Ok(Self {
            dataset: target.name().clone(),
            was,
            aside: free("conflict")?,
            incoming: free("incoming")?,
        })
    }

    /// Whose place is taken.
    pub fn dataset(&self) -> &DatasetName {
        &self.dataset
    }

    /// The name under which what was there is, or will be, set aside.
    pub fn aside(&self) -> &DatasetName {
        &self.aside
    }

    /// Does what is left to do of one that died. Whether anything was changed; nothing is while a living process receives
    /// into the dataset.
    ///
    /// # Errors
    /// A step that fails.
    pub fn settle(&self) -> Result<bool> {
        let Some(lock) = try_lock(Work::Receive, self.dataset.as_str())? else { return Ok(false) };
        self.settle_alone(&lock)
    }

    fn settle_alone(&self, _lock: &Locked) -> Result<bool> {
        let mut warnings = Vec::new();
        match self.stage()? {
            None => return Ok(false),
            Some(Stage::Beside | Stage::InPlace) => self.complete(&mut warnings)?,
            Some(Stage::Done) => props::clear(self.dataset.as_str(), INTENT)?,
        }
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(true)
    }

    /// Writes down of the dataset that is there that it is to give way, before anything comes.
    ///
    /// # Errors
    /// A property that can not be set.
    pub(super) fn announce(&self) -> Result<()> {
        props::set(self.dataset.as_str(), GIVES_WAY, &self.to_text())
    }

    /// Nothing came.
    pub(super) fn call_off(&self) {
        if let Err(error) = props::clear(self.dataset.as_str(), GIVES_WAY) {
            tracing::warn!("{error}");
        }
    }

    /// What comes.
    pub(super) fn incoming(&self) -> Dataset {
        Dataset::by_name(self.incoming.clone())
    }

    /// As the value of a property.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("its keys are texts")
    }

    /// Puts what came, which is whole, in its place.
    ///
    /// # Errors
    /// A step that fails: the next receive, or whoever looks for the dataset, does the rest.
    pub(super) fn carry_out(&self, arrived: &mut Arrived) -> Result<()> {
        self.complete(&mut arrived.warnings)?;
        arrived.aside = Some(self.aside.to_string());
        Ok(())
    }

    /// What is left to do. Done again, it does what was not done.
    fn complete(&self, warnings: &mut Vec<String>) -> Result<()> {
        let (new, old) = (self.incoming(), Dataset::by_name(self.aside.clone()));
        let target = Dataset::by_name(self.dataset.clone());
        let [name, aside, incoming] = [&self.dataset, &self.aside, &self.incoming].map(DatasetName::as_str);
        let lzc = target.lzc()?;
        if lzc.exists(incoming) {
            let origin = new.get("origin")?;
            if [name, aside].iter().any(|of| origin.starts_with(&format!("{of}@"))) {
                // The older history goes along with the name.
                let rights = [("promote,mount", above(name))];
                let promote =
                    || lzc.promote(incoming).map_err(target.failed("promote what came for", &rights));
                warnings.extend(keys::kept_over(incoming, promote)?);
            }
            let rights = [("rename,mount,create", above(name))];
            if !lzc.exists(aside) {
                lzc.rename(name, aside).map_err(target.failed("set aside", &rights))?;
            }
            lzc.rename(incoming, name).map_err(target.failed("put in place what came for", &rights))?;
        }
        for inner in old.nested()? {
            let rest = inner.name().as_str().strip_prefix(aside).unwrap_or_default().to_owned();
            lzc.rename(inner.name().as_str(), &format!("{name}{rest}"))
                .map_err(inner.failed("move back", &[]))?;
        }
        for (property, why) in
            props::carry(aside, name, &["readonly", CHAIN, INTENT, GIVES_WAY, aside::INTENT, ASIDE])?
        {
            warnings.push(format!("{property} of {name} is not what it was: {why}"));
        }
        props::clear(aside, GIVES_WAY)?;
        props::clear(name, INTENT)
    }
}

/// Completes the exchange of `target` that was broken off, if there is one.
///
/// # Errors
/// A listing or a step that fails.
pub(super) fn settle(target: &Dataset, lock: &Locked) -> Result<()> {
    of(target)?.iter().try_for_each(|exchange| exchange.settle_alone(lock).map(drop))
}

/// The exchanges of all pools, or below the dataset `within`, that died when what comes was whole.
///
/// # Errors
/// A listing that fails.
pub fn exchanges(within: Option<&str>) -> Result<Vec<Exchange>> {
    let mut died = Vec::new();
    for exchange in everywhere(within)?.into_iter().filter_map(|(_, exchange)| exchange) {
        if exchange.stage()?.is_some()
            && !is_locked(Work::Receive, exchange.dataset.as_str())?
            && is_whole(&exchange)?
        {
            died.push(exchange);
        }
    }
    Ok(died)
}

/// What says so of an exchange, and is not one that could be completed: nobody acts on it.
///
/// # Errors
/// A listing that fails.
pub fn strange(within: Option<&str>) -> Result<Vec<Strange>> {
    let mut found = Vec::new();
    for (dataset, exchange) in everywhere(within)? {
        let is_sound = match exchange {
            Some(it) => is_locked(Work::Receive, it.dataset.as_str())? || it.stage()?.is_some(),
            None => false,
        };
        if !is_sound && Seen::of(&dataset, INTENT)?.is_some_and(|seen| seen.says.is_some()) {
            found.push(Strange { dataset, property: INTENT });
        }
    }
    Ok(found)
}

fn everywhere(within: Option<&str>) -> Result<Vec<(String, Option<Exchange>)>> {
    let mut args = vec!["-r"];
    args.extend(within);
    found(&args).map_err(|failure| failure.into_error("list", within.unwrap_or("ZFS")))
}

/// As [`settle`], of a dataset that is not there. Waits for one that is being done.
///
/// # Errors
/// As [`settle`].
pub(super) fn settle_absent(target: &Dataset) -> Result<()> {
    let (name, lzc) = (target.name().as_str(), target.lzc()?);
    if target.name().within_pool().is_none() || !lzc.exists(above(name)) || of(target)?.is_empty() {
        return Ok(());
    }
    for _ in 0..100 {
        if let Some(lock) = try_lock(Work::Receive, name)? {
            return settle(target, &lock);
        }
        if lzc.exists(name) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The exchanges of `target` that are not done, and could be.
fn of(target: &Dataset) -> Result<Vec<Exchange>> {
    let parent = above(target.name().as_str());
    let all = found(&["-d1", parent]).map_err(|failure| failure.into_error("list", parent))?;
    let mut mine = Vec::new();
    let all = all.into_iter().filter_map(|(_, exchange)| exchange);
    for exchange in all.filter(|exchange| exchange.dataset == *target.name()) {
        if exchange.stage()?.is_some() && is_whole(&exchange)? {
            mine.push(exchange);
        }
    }
    Ok(mine)
}

/// Whether what comes, or has come, is there with its snapshot.
fn is_whole(exchange: &Exchange) -> Result<bool> {
    let incoming = exchange.incoming();
    match incoming.is_begun() {
        Ok(begun) => Ok(!begun),
        Err(Error::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

fn found(which: &[&str]) -> Result<Vec<(String, Option<Exchange>)>, program::Failure> {
    let read = |(name, text): (String, String)| {
        let exchange = Exchange::read(&name, &text);
        (name, exchange)
    };
    Ok(carriers(INTENT, which)?.into_iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange() -> Exchange {
        Exchange {
            dataset: "tank/a b:c".parse().expect("a name"),
            was: Guid::of_zfs(7),
            aside: "tank/a b:c.conflict-20261120T020000Z".parse().expect("a name"),
            incoming: "tank/a b:c.incoming-20261120T020000Z".parse().expect("a name"),
        }
    }

    fn seen(guid: u64, says: Option<&Exchange>) -> Seen {
        Seen { guid: Guid::of_zfs(guid), origin: "-".into(), says: says.map(Exchange::to_text) }
    }

    #[test]
    fn what_is_meant_is_read_back_and_only_where_it_belongs() {
        let exchange = exchange();
        let text = exchange.to_text();
        assert!(!text.contains(['\t', '\n']) && text.len() < 8192);
        for name in [&exchange.incoming, &exchange.dataset] {
            assert_eq!(Exchange::read(name.as_str(), &text).as_ref(), Some(&exchange));
        }
        assert_eq!(Exchange::read("tank/x", &text), None);
        assert_eq!(Exchange::read("tank/y", "foreign words"), None);
    }

    #[test]
    fn a_text_that_names_what_cowsnap_would_not_make_is_not_believed() {
        let name = |text: &str| text.parse().expect("a name");
        let read = |forged: &Exchange| Exchange::read("tank/u", &forged.to_text());
        let victim = Exchange { dataset: name("tank/victim"), incoming: name("tank/u"), ..exchange() };
        assert_eq!(read(&victim), None);
        assert_eq!(read(&Exchange { aside: name("tank/victim.conflict-x"), ..victim }), None);
        let own = Exchange { dataset: name("tank/u"), incoming: name("tank/u.incoming-x"), ..exchange() };
        assert_eq!(read(&Exchange { aside: name("tank/victim"), ..own.clone() }), None);
        assert_eq!(read(&Exchange { aside: name("tank/u.conflict-x/victim"), ..own.clone() }), None);
        let sound = Exchange { aside: name("tank/u.conflict-x"), ..own };
        assert_eq!(read(&sound), Some(sound));
    }

    #[test]
    fn it_goes_on_only_if_both_say_so_and_the_one_that_gives_way_is_the_one_that_was_meant() {
        let exchange = exchange();
        let (old, new, mute) = (seen(7, Some(&exchange)), seen(9, Some(&exchange)), seen(7, None));
        let stage = |incoming, in_place, aside| exchange.stage_of(incoming, in_place, aside);
        assert_eq!(stage(Some(&new), Some(&old), None), Some(Stage::Beside));
        assert_eq!(stage(Some(&new), None, Some(&old)), Some(Stage::Beside));
        assert_eq!(stage(None, Some(&new), Some(&old)), Some(Stage::InPlace));
        assert_eq!(stage(None, Some(&new), Some(&mute)), Some(Stage::Done));
        let of_another = seen(6, Some(&exchange));
        for other in [&mute, &of_another] {
            assert_eq!(stage(Some(&new), Some(other), None), None, "{other:?}");
            assert_eq!(stage(Some(&new), None, Some(other)), None, "{other:?}");
            assert_eq!(stage(Some(other), Some(&mute), None), None, "{other:?}");
        }
        assert_eq!(stage(None, Some(&new), Some(&of_another)), None);
        assert_eq!(stage(None, Some(&mute), Some(&old)), None);
        assert_eq!(stage(Some(&new), Some(&old), Some(&old)), None);
        assert_eq!(stage(None, Some(&new), None), None);
    }
}
