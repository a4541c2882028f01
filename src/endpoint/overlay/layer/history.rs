//! The layers that were committed from one overlay, as versions: listed, held and destroyed as snapshots are.

use std::collections::HashMap;

use super::store::Layer;
use crate::endpoint::overlay::home::Home;
use crate::endpoint::{Error, History, Result};
use crate::model::overlay::{LayerId, OverlayName};
use crate::model::{HoldTag, Inventory, Version, VersionKind, VersionRef};

/// What one overlay's name has for layers, whether the overlay is there or not.
#[derive(Debug, Clone)]
pub struct Layers {
    home: Home,
    overlay: OverlayName,
}

impl Layers {
    /// Those of `overlay`.
    pub fn of(home: &Home, overlay: &OverlayName) -> Self {
        Self { home: home.clone(), overlay: overlay.clone() }
    }

    fn find(&self, version: &VersionRef) -> Result<Layer> {
        let (layers, damaged) = Layer::all_and_damaged(&self.home)?;
        if let Some(damaged) = damaged.into_iter().find(|damaged| damaged.id.0 == version.guid) {
            return Err(damaged.error);
        }
        let ours = || layers.iter().filter(|layer| layer.record().overlay == self.overlay);
        let subject = format!("{}@{}", self.overlay, version.name);
        match ours().find(|layer| layer.id().0 == version.guid) {
            Some(layer) => Ok(layer.clone()),
            None => match ours().find(|layer| layer.record().name.as_str() == version.name.as_str()) {
                Some(other) => Err(Error::Reused { subject, expected: version.guid, found: other.id().0 }),
                None => Err(Error::NotFound { what: "layer", subject, hint: None }),
            },
        }
    }
}

/// The order of layers of which each comes after those that it builds on: by when they were made, and never before those, whatever the
/// clock said.
fn orders(layers: &[Layer]) -> HashMap<LayerId, u64> {
    let mut orders = HashMap::new();
    for layer in layers {
        let record = layer.record();
        let made = u64::try_from(record.created.as_nanosecond()).unwrap_or(0);
        let after = record.parent.and_then(|parent| orders.get(&parent)).map_or(0, |order| order + 1);
        orders.insert(layer.id(), made.max(after));
    }
    orders
}

impl History for Layers {
    /// One comes after what it builds on, and else in the order of the times. Those of which can not be read what they are are left out.
    fn inventory(&self) -> Result<Inventory> {
        let (layers, _) = Layer::all_and_damaged(&self.home)?;
        let orders = orders(&layers);
        let (mut versions, mut holds) = (Vec::new(), Vec::new());
        for layer in layers.iter().filter(|layer| layer.record().overlay == self.overlay) {
            let name = layer
                .record()
                .name
                .as_str()
                .parse()
                .map_err(|error| layer.corrupt(format!("its name is none of a version: {error}")))?;
            let id = VersionRef { guid: layer.id().0, name };
            holds.extend(layer.holds()?.into_iter().map(|tag| (id.clone(), tag)));
            let (order, created) = (orders[&layer.id()], layer.record().created);
            versions.push(Version { id, kind: VersionKind::Snapshot, order, created });
        }
        Ok(Inventory::new(self.overlay.as_str(), versions, holds))
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.find(version)?.hold(&self.home, tag)
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.find(version)?.release(&self.home, tag)
    }

    fn destroy(&self, version: &VersionRef) -> Result<()> {
        self.find(version)?.destroy(&self.home)
    }
}
