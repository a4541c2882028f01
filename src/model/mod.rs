//! Nouns: names, versions and inventories.
//!
//! **Invariant:** values only. Nothing here reads a clock, opens a file, starts a process or touches the network.

pub mod address;
pub mod archive;
pub mod dates;
pub mod digests;
pub mod files;
pub mod flush;
pub mod ids;
pub mod inventory;
pub mod layer;
pub mod moved;
pub mod name;
pub mod notify;
pub mod overlay;
pub mod path_text;
pub mod quoted;
pub mod run;
pub mod service;
pub mod store;
pub mod version;

pub use address::{BadAddress, PeerAddress};
pub use dates::{Dates, Undue};
pub use digests::{Digest, ReceivedStream, Recorded, SentStream, StreamDigest};
pub use flush::{Flush, Flushed};
pub use inventory::{Caps, Inventory, Partial};
pub use moved::Moved;
pub use name::{DatasetName, HoldTag, SnapshotName, SnapshotRef, Target};
pub use notify::Notify;
pub use path_text::PathText;
pub use quoted::quoted;
pub use run::JobRecord;
pub use service::{Probe, Quiesce, Service};
pub use store::{BadStoreUrl, StoreKind, StoreUrl};
pub use version::{Guid, Version, VersionKind, VersionRef};
