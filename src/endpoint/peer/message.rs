//! What is said between a client and `cowsnap serve` (docs/FORMAT-wire.md): JSON, read as what comes from outside.

use serde::{Deserialize, Serialize};

use crate::error::Class;
use crate::model::{Caps, Guid, HoldTag, Inventory, Partial, SnapshotName, Version, VersionRef};
use crate::stream::container::{Backend, Prefix, ZfsFlags};

/// The first thing that each side says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version of the protocol that it speaks.
    pub protocol: u32,
    /// The oldest one.
    pub oldest: u32,
    /// Which program it is, to be shown.
    pub program: String,
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What is there of a dataset: answered by [`Said`], or by nothing if there is no such dataset.
    Inventory {
        /// The dataset.
        target: String,
    },
    /// The datasets inside, parents first: answered by their names behind the target's, `/` between components.
    Inside {
        /// The dataset.
        target: String,
    },
    /// Keep a version: answered by nothing.
    Hold {
        /// The dataset.
        target: String,
        /// Which version.
        version: VersionRef,
        /// Who keeps it.
        tag: HoldTag,
    },
    /// Keep it no longer: answered by nothing.
    Release {
        /// The dataset.
        target: String,
        /// Which version.
        version: VersionRef,
        /// Who kept it.
        tag: HoldTag,
    },
    /// Destroy a version: answered by nothing.
    Destroy {
        /// The dataset.
        target: String,
        /// Which version.
        version: VersionRef,
    },
    /// Send a version: answered by [`Sending`], the stream, and [`Sent`].
    Send {
        /// The dataset.
        target: String,
        /// Which version.
        version: VersionRef,
        /// Upon which one.
        #[serde(default)]
        base: Option<VersionRef>,
        /// zstd's level; none stores.
        #[serde(default)]
        level: Option<i32>,
        /// What ZFS is asked for; none leaves it to the chain.
        #[serde(default)]
        zfs_flags: Option<ZfsFlags>,
        /// A ZFS receive's token, to go on with.
        #[serde(default)]
        token: Option<String>,
        /// What the client has of the stream already.
        #[serde(default)]
        behind: Option<Prefix>,
    },
    /// Receive a version: answered by [`Ready`]; the client says [`Request::Stream`], the stream follows, answered by [`Taken`].
    Receive {
        /// The dataset.
        target: String,
        /// Which version it will be, by the name that it is to have there.
        version: VersionRef,
        /// Upon which one.
        #[serde(default)]
        base: Option<Guid>,
    },
    /// What is written down of the streams of its snapshots: answered by a list of [`Recorded`](crate::model::Recorded), or by nothing if
    /// there is no such dataset.
    Recorded {
        /// The dataset.
        target: String,
    },
    /// Find out what a snapshot holds: answered by a [`Summary`](crate::endpoint::content::Summary).
    Manifest {
        /// The dataset.
        target: String,
        /// Which version.
        version: VersionRef,
        /// Read all of it, whatever was read before.
        #[serde(default)]
        all: bool,
    },
    /// Tell what is in a directory of the manifest that was made last: answered by a [`Page`](crate::endpoint::content::Page).
    Entries {
        /// The dataset.
        target: String,
        /// Which version.
        version: VersionRef,
        /// The directory, as paths stand in manifests.
        dir: String,
        /// Those that come behind this path.
        #[serde(default)]
        after: Option<String>,
    },
    /// The stream of a [`Request::Receive`] begins.
    Stream {
        /// Whether it begins behind what [`Ready`] said.
        behind: bool,
    },
}

/// What is there of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// How the peer calls it.
    pub dataset: String,
    /// Whose streams it sends and receives.
    pub backend: Backend,
    /// Its versions.
    pub versions: Vec<Version>,
    /// Who keeps which.
    pub holds: Vec<(VersionRef, HoldTag)>,
    /// What was received in part.
    pub partials: Vec<Partial>,
    /// What the place can do.
    pub caps: Caps,
}

impl Said {
    /// What `inventory` says.
    pub fn of(inventory: &Inventory, backend: Backend) -> Self {
        Self {
            dataset: inventory.dataset.clone(),
            backend,
            versions: inventory.versions().to_vec(),
            holds: inventory.holds().to_vec(),
            partials: inventory.partials.clone(),
            caps: inventory.caps,
        }
    }

    /// It in order, whatever order the peer gave; the dataset is called `dataset` here.
    pub fn into_inventory(self, dataset: String) -> Inventory {
        let mut inventory = Inventory::new(dataset, self.versions, self.holds);
        inventory.partials = self.partials;
        inventory.caps = self.caps;
        inventory
    }
}

/// A stream is about to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sending {
    /// Whether it begins behind what the client has.
    pub behind: bool,
    /// About how many bytes the whole stream will be.
    #[serde(default)]
    pub estimate: Option<u64>,
}

/// A stream may come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// What of it is here already, from a transfer that was broken off.
    #[serde(default)]
    pub prefix: Option<Prefix>,
}

/// A stream was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The length of the whole stream in bytes.
    pub stream_bytes: u64,
    /// Its blake3.
    pub blake3: String,
    /// The length of the container that travelled.
    pub written_bytes: u64,
}

/// A stream was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// What it became.
    pub version: Version,
    /// The length of the whole stream in bytes.
    pub stream_bytes: u64,
    /// Its blake3, as it was checked there.
    pub blake3: String,
    /// What the user should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What it means.
    pub class: Class,
    /// A sentence.
    pub message: String,
    /// What caused it, one by one.
    #[serde(default)]
    pub causes: Vec<String>,
    /// The command that would help there.
    #[serde(default)]
    pub hint: Option<String>,
}

impl Refusal {
    /// `error`, which means `class`, to be told to the other side.
    pub fn of(error: &dyn std::error::Error, class: Class, hint: Option<String>) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        Self { class, message: error.to_string(), causes, hint }
    }

    /// The sentence and its causes, in one line without control characters.
    pub fn told(&self) -> String {
        let all = std::iter::once(&self.message).chain(&self.causes);
        let all: Vec<_> = all.map(|text| text.escape_debug().to_string()).collect();
        all.join(": ")
    }
}

impl Request {
    /// The dataset that it is about; none in the midst of a transfer.
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Inventory { target }
            | Self::Inside { target }
            | Self::Hold { target, .. }
            | Self::Release { target, .. }
            | Self::Destroy { target, .. }
            | Self::Send { target, .. }
            | Self::Recorded { target }
            | Self::Manifest { target, .. }
            | Self::Entries { target, .. }
            | Self::Receive { target, .. } => Some(target),
            Self::Stream { .. } => None,
        }
    }

    /// The name of the version that it is about.
    pub fn name(&self) -> Option<&SnapshotName> {
        match self {
            Self::Hold { version, .. }
            | Self::Release { version, .. }
            | Self::Destroy { version, .. }
            | Self::Send { version, .. }
            | Self::Manifest { version, .. }
            | Self::Entries { version, .. }
            | Self::Receive { version, .. } => Some(&version.name),
            Self::Inventory { .. } | Self::Inside { .. } | Self::Recorded { .. } | Self::Stream { .. } => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_the_format_says() {
        let version = r#"{"guid":"00112233-4455-6677-8899-aabbccddeeff","name":"s"}"#;
        for (json, verb) in [
            (r#"{"verb":"inventory","target":"tank/a"}"#.to_owned(), "inventory"),
            (r#"{"verb":"inside","target":"tank/a"}"#.to_owned(), "inside"),
            (format!(r#"{{"verb":"hold","target":"tank/a","version":{version},"tag":"t"}}"#), "hold"),
            (format!(r#"{{"verb":"receive","target":"tank/a","version":{version}}}"#), "receive"),
            (r#"{"verb":"stream","behind":false}"#.to_owned(), "stream"),
            (r#"{"verb":"recorded","target":"tank/a"}"#.to_owned(), "recorded"),
            (
                format!(r#"{{"verb":"manifest","target":"tank/a","version":{version},"all":true}}"#),
                "manifest",
            ),
            (format!(r#"{{"verb":"entries","target":"tank/a","version":{version},"dir":"."}}"#), "entries"),
        ] {
            let request: Request = serde_json::from_str(&json).unwrap();
            let again = serde_json::to_value(&request).unwrap();
            assert_eq!(again["verb"], verb);
            assert_eq!(serde_json::from_value::<Request>(again).unwrap(), request);
        }
    }

    #[test]
    fn a_request_that_is_none_is_refused() {
        let version = r#"{"guid":"00112233-4455-6677-8899-aabbccddeeff","name":"../s"}"#;
        for json in [
            r#"{"verb":"format","target":"tank/a"}"#.to_owned(),
            r#"{"verb":"inventory"}"#.to_owned(),
            r#"{"verb":"inventory","target":"a","force":true}"#.to_owned(),
            format!(r#"{{"verb":"destroy","target":"tank/a","version":{version}}}"#),
        ] {
            assert!(serde_json::from_str::<Request>(&json).is_err(), "{json}");
        }
    }
}
