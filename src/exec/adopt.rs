//! Moves a plain directory into a dataset, verified, resumable, the old copy kept.
