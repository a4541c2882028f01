//! Referenced and exclusive bytes without qgroups.
