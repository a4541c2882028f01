//! An endpoint in memory, for tests of what uses endpoints.
