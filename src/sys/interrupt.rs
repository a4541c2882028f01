//! SIGINT and SIGTERM as a flag that long work looks at.
