//! The container's layout: header, frame, trailer (docs/FORMAT.md).
