//! What is asked to write down what it has in memory before a snapshot, and goes on.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A database that brings its files up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flush {
    /// Which.
    pub what: Flushed,
    /// How long it may take.
    pub within: Duration,
}

/// What can be asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flushed {
    /// Databases of SQLite: each one's log is brought into it.
    Sqlite(Vec<PathBuf>),
    /// A server of PostgreSQL.
    Postgres {
        /// As psql has it.
        connection: String,
        /// As whom psql is run.
        user: String,
        /// What it is asked for; if nothing is said, what where its files lie needs.
        method: Option<Method>,
    },
}

/// What a server of PostgreSQL is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A checkpoint: all of it lies in one dataset, and is of one instant.
    Checkpoint,
    /// That it is in backup mode while the snapshot is taken: it may lie in several.
    Backup,
}

impl fmt::Display for Flushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(files) => {
                let all: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
                write!(f, "the log of {}", all.join(", "))
            }
            Self::Postgres { connection, .. } if connection.is_empty() => write!(f, "PostgreSQL"),
            Self::Postgres { connection, .. } => write!(f, "PostgreSQL at {connection}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_called_by_its_files_or_its_server() {
        let postgres = |connection: &str| Flushed::Postgres {
            connection: connection.into(),
            user: "postgres".into(),
            method: None,
        };
        let all = [
            Flushed::Sqlite(vec!["/srv/a.db".into()]),
            Flushed::Sqlite(vec!["/srv/a.db".into(), "/srv/b.db".into()]),
            postgres(""),
            postgres("host=/run port=5433"),
        ];
        let told = all.map(|flushed| flushed.to_string());
        let expected = [
            "the log of /srv/a.db",
            "the log of /srv/a.db, /srv/b.db",
            "PostgreSQL",
            "PostgreSQL at host=/run port=5433",
        ];
        assert_eq!(told, expected);
    }
}
