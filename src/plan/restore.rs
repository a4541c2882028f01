//! Which streams, in which order, bring a version back.
