//! What is known of jobs: the record of their runs.

mod record;
