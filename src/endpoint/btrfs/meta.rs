//! The small files beside snapshots: labels, holds, digests.
