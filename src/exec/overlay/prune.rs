//! Layers that a policy does not keep, destroyed.
//!
//! Nothing is written down about it: a run that was killed is gone on with by the next one, which reads what is there.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use jiff::Zoned;

use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::layer::{Damaged, Layer, Layers, User, Users};
use crate::endpoint::{Error, History, Result};
use crate::exec::prune::{Pruned, fit, uninterrupted};
use crate::model::overlay::OverlayName;
use crate::model::{Inventory, VersionRef};
use crate::plan::overlay::prune::{Stacking, judge};
use crate::plan::retain::{Retention, Surroundings, Verdict};

/// All that the verdicts on layers depend on, read at one time.
#[derive(Debug)]
pub struct Seen {
    names: Vec<OverlayName>,
    inventories: Vec<Inventory>,
    stacking: Stacking,
    nothing: Surroundings,
    layers: Vec<Layer>,
    /// Those of which can not be read what they are: nothing becomes of them.
    pub damaged: Vec<Damaged>,
}

impl Seen {
    /// Reads the layers of these overlays, or of all.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that neither an overlay nor a layer has; a home that can not be read.
    pub fn of(home: &Home, names: Option<&[OverlayName]>) -> Result<Self> {
        let (layers, damaged) = Layer::all_and_damaged(home)?;
        let there: BTreeSet<_> = layers.iter().map(|layer| layer.record().overlay.clone()).collect();
        let names: Vec<_> = match names {
            None => there.iter().cloned().collect(),
            Some(names) => names.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect(),
        };
        let is_unknown = |name: &&OverlayName| !there.contains(name) && !home.entry(name).dir().exists();
        if let Some(unknown) = names.iter().find(is_unknown) {
            return Err(Error::NotFound {
                what: "overlay",
                subject: unknown.to_string(),
                hint: Some("cowsnap overlay list --layers".into()),
            });
        }
        let inventories =
            names.iter().map(|name| Layers::of(home, name).inventory()).collect::<Result<_>>()?;
        let users = Users::read(home)?;
        // What lies below a layer that is needed stays, though nobody can tell any more what that is.
        let needed = damaged.iter().map(|damaged| Ok((damaged.may_need_any(&users)?, damaged.as_user())));
        let needed: Vec<_> = needed.collect::<Result<_>>()?;
        let perhaps = needed.iter().filter(|(needs, _)| *needs).map(|(_, user)| format!("perhaps {user}"));
        let perhaps: Vec<_> = perhaps.collect();
        let judged = || layers.iter().filter(|layer| names.contains(&layer.record().overlay));
        let labels: BTreeSet<_> = judged().map(Layer::label).collect();
        let mut stacking = Stacking::default();
        for layer in judged() {
            stacking.parents.extend(layer.record().parent.map(|parent| (layer.id().0, parent.0)));
            // A layer that is judged itself keeps it only if it stays.
            let is_judged = |user: &&User| matches!(user, User::Layer(label) if labels.contains(label));
            let others = users.of(layer.id()).filter(|user| !is_judged(user)).map(ToString::to_string);
            let others: Vec<_> = others.chain(perhaps.iter().cloned()).collect();
            if !others.is_empty() {
                stacking.users.insert(layer.id().0, others);
            }
        }
        Ok(Self { names, inventories, stacking, nothing: Surroundings::default(), layers, damaged })
    }

    /// The overlays, by name.
    pub fn names(&self) -> &[OverlayName] {
        &self.names
    }

    /// What becomes of each layer: by overlay, and oldest first.
    pub fn verdicts<'a>(&'a self, policy: &'a Retention, now: &Zoned) -> Vec<Vec<Verdict<'a>>> {
        judge(&self.inventories, policy, &self.nothing, &self.stacking, now)
    }

    /// That the rules, if they are of names alone, fit each overlay of which a layer would go.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn expect_word(&self, policy: &Retention, now: &Zoned) -> Result<()> {
        let verdicts = self.verdicts(policy, now);
        match self.names.iter().zip(&verdicts).find(|(_, verdicts)| !fit(verdicts, policy)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Refused {
                op: "prune layers of overlay",
                subject: name.to_string(),
                why: "no name that is to be kept is that of any of its layers, so none would be left but the newest"
                    .into(),
                hint: Some(
                    "cowsnap overlay list --layers shows the names; --keep-last 1 says that only the newest is to stay"
                        .into(),
                ),
            }),
        }
    }

    /// What the files of a layer take on disk.
    pub fn bytes_of(&self, id: &VersionRef) -> u64 {
        let found = self.layers.iter().find(|layer| layer.id().0 == id.guid);
        found.map_or(0, |layer| layer.record().bytes)
    }

    /// Destroys what goes, each layer before that which it lies on; what became of it, by overlay. One that something was put upon, or that is
    /// held since, stays, and keeps no other one.
    pub fn prune(&self, home: &Home, policy: &Retention, now: &Zoned) -> Vec<Pruned> {
        let mut pruned: Vec<Pruned> = self.names.iter().map(|_| Pruned::default()).collect();
        let verdicts = self.verdicts(policy, now);
        let mut going: Vec<_> = verdicts
            .iter()
            .enumerate()
            .flat_map(|(at, verdicts)| verdicts.iter().filter(|v| !v.is_kept()).map(move |v| (at, v.version)))
            .collect();
        going.sort_by_key(|(_, version)| Reverse(version.order));
        for (nth, &(at, version)) in going.iter().enumerate() {
            let destroyed = uninterrupted(&self.names[at])
                .and_then(|()| Layers::of(home, &self.names[at]).destroy(&version.id));
            if !pruned[at].note(&version.id, destroyed) {
                for &(other, _) in &going[nth + 1..] {
                    pruned[other].stopped.get_or_insert_with(|| not_reached(&self.names[other]));
                }
                break;
            }
        }
        pruned
    }
}

fn not_reached(name: &OverlayName) -> Error {
    Error::Interrupted { op: "prune", subject: name.to_string() }
}
