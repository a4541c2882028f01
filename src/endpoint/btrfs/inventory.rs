//! Reads all versions of a dataset in one search of the root tree.
