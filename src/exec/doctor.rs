//! Finds what an interrupted run left behind, and removes it when asked.
