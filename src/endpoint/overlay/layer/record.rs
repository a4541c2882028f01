//! `layer.json`: what a layer is. Its last field seals the bytes before it, so that each changed bit is noticed.

use serde::{Deserialize, Serialize};

use crate::model::ids::Ids;
use crate::model::overlay::{Base, FORMAT, LayerId, LayerName, OverlayName, Xattrs};

/// What is written down of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The version of the format.
    pub format: u32,
    /// Its identity, the same wherever the layer is.
    pub id: LayerId,
    /// What it is called.
    pub name: LayerName,
    /// The layer that it builds on; `None` if that is the base.
    pub parent: Option<LayerId>,
    /// The overlay that it was committed from.
    pub overlay: OverlayName,
    /// The base below it and its parents.
    pub base: Base,
    /// When it was committed.
    pub created: jiff::Timestamp,
    /// The namespace of its marks.
    pub xattrs: Xattrs,
    /// The user namespace in which it was made: owners in its manifest are that one's. `None` for the one that has all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Ids>,
    /// It has files of which only some blocks are here: the kernel reads them once they were made whole.
    pub blocks: bool,
    /// How many entries it has, its root among them.
    pub entries: u64,
    /// How many bytes its files take on disk.
    pub bytes: u64,
    /// The blake3 of its manifest, 64 hexadecimal digits.
    pub manifest: String,
}

const SEAL: &str = r#","seal":""#;

/// Why a text is no `layer.json`.
#[derive(Debug, thiserror::Error)]
pub enum Bad {
    /// The bytes are not those that were written.
    #[error("its seal does not match")]
    Seal,
    /// They are, and make no sense.
    #[error("it is no record of a layer")]
    Json(#[source] serde_json::Error),
    /// They are of a newer version.
    #[error("it has format {0}, this program knows {FORMAT}")]
    Format(u32),
}

impl LayerRecord {
    /// As it is on disk.
    pub fn to_text(&self) -> String {
        let json = serde_json::to_string(self).expect("its keys are texts");
        let sealed = json.strip_suffix('}').expect("an object");
        format!("{sealed}{SEAL}{}\"}}\n", seal(sealed))
    }

    /// Reads what [`LayerRecord::to_text`] wrote.
    ///
    /// # Errors
    /// Bytes that were changed, or that are of a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Self, Bad> {
        let text = std::str::from_utf8(bytes).map_err(|_| Bad::Seal)?;
        let (sealed, rest) = text.rsplit_once(SEAL).ok_or(Bad::Seal)?;
        if rest != format!("{}\"}}\n", seal(sealed)) {
            return Err(Bad::Seal);
        }
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_str(text).map_err(Bad::Json)?;
        match format {
            FORMAT => serde_json::from_str(text).map_err(Bad::Json),
            other => Err(Bad::Format(other)),
        }
    }
}

fn seal(sealed: &str) -> String {
    let key = blake3::derive_key("cowsnap layer.json", sealed.as_bytes());
    blake3::Hash::from_bytes(key).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> LayerRecord {
        let text = r#"{"format":1,"id":"000102030405060708090a0b0c0d0e0f","name":"seeded","parent":null,
            "overlay":"ci","base":{"kind":"dir","path":"/srv/base","identity":"x"},"created":"2026-11-21T08:00:00Z",
            "xattrs":"trusted","blocks":false,"entries":12,"bytes":40960,"manifest":"00"}"#;
        serde_json::from_str(text).expect("a record")
    }

    #[test]
    fn a_record_reads_back_and_no_changed_bit_goes_unnoticed() {
        let text = sample().to_text().into_bytes();
        assert_eq!(LayerRecord::parse(&text).expect("sound"), sample());
        serde_json::from_slice::<serde_json::Value>(&text).expect("it is JSON");
        for bit in 0..text.len() * 8 {
            let mut changed = text.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(LayerRecord::parse(&changed).is_err(), "bit {bit}");
        }
        assert!((0..text.len()).all(|len| LayerRecord::parse(&text[..len]).is_err()));
    }

    #[test]
    fn a_newer_format_is_named() {
        let newer = LayerRecord { format: 9, ..sample() };
        assert!(matches!(LayerRecord::parse(newer.to_text().as_bytes()), Err(Bad::Format(9))));
    }
}
