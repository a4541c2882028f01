//! How a layer is named: the overlay that it was committed from, and its own name.

use std::fmt;
use std::str::FromStr;

use crate::model::name::Error;
use crate::model::overlay::{LayerName, OverlayName};

/// `OVERLAY@LAYER`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayerRef {
    /// The overlay, which need not be there any more.
    pub overlay: OverlayName,
    /// The layer.
    pub layer: LayerName,
}

impl fmt::Display for LayerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.overlay, self.layer)
    }
}

impl FromStr for LayerRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (overlay, layer) = text.split_once('@').unwrap_or((text, ""));
        Ok(Self { overlay: overlay.parse()?, layer: layer.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_named_with_its_overlay() {
        let layer: LayerRef = "ci@seeded".parse().expect("a layer");
        assert_eq!((layer.overlay.as_str(), layer.layer.as_str()), ("ci", "seeded"));
        assert_eq!(layer.to_string(), "ci@seeded");
        for bad in ["ci", "ci@", "@x", "a/b@c", "a@b@c", ""] {
            assert!(bad.parse::<LayerRef>().is_err(), "{bad:?}");
        }
    }
}
