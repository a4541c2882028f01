//! Databases bring their files up to date before a snapshot, and go on.
//!
//! What is written after that is not lost: a snapshot is what a power cut would have left, of which they recover. It is that there is little to recover.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::model::flush::Method;
use crate::model::{Flush, Flushed};
use crate::quiesce::postgres::OWN;
use crate::quiesce::{Error, Result, Session, command};

/// Asks the databases, and waits until they have done it. They lie below `roots`. What is answered stays open until there is the snapshot, and is ended then.
///
/// # Errors
/// [`Error::Flush`]: one has not, or lies elsewhere.
pub fn flush(flush: &Flush, roots: &[PathBuf]) -> Result<Option<Session>> {
    let until = Instant::now() + flush.within;
    let failed = |what: String| move |why| Error::Flush { what, why };
    match &flush.what {
        Flushed::Sqlite(files) => files
            .iter()
            .try_for_each(|file| {
                sqlite(file, roots, command::left(until)).map_err(failed(file.display().to_string()))
            })
            .map(|()| None),
        Flushed::Postgres { connection, user, method } => {
            let asked = postgres(connection, user, *method, roots, until);
            asked.map_err(failed(flush.what.to_string()))
        }
    }
}

/// Where it lies in truth, if that is below one of these.
fn root_of(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, String> {
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    let path = path.canonicalize().map_err(told)?;
    let is_below = |root: &&PathBuf| root.canonicalize().is_ok_and(|root| path.starts_with(root));
    let none = || format!("{} lies in no dataset of the job", path.display());
    let root = roots.iter().filter(is_below).max_by_key(|root| root.components().count()).ok_or_else(none)?;
    // A dataset within it, or what else is mounted there, is not in its snapshot.
    match path.metadata().map_err(told)?.dev() == root.metadata().map_err(told)?.dev() {
        true => Ok(root.clone()),
        false => Err(none()),
    }
}

/// Brings its log into the database. As the owner of the file: what root makes beside it, its owner could not write to.
fn sqlite(file: &Path, roots: &[PathBuf], within: Duration) -> Result<(), String> {
    root_of(file, roots)?;
    let meta = file.metadata().map_err(|error| error.to_string())?;
    let name = percent(file)?;
    // So that it can still say that it has not.
    let timeout = format!(".timeout {}", (within / 2).as_millis().min(i32::MAX as u128));
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE);";
    let user =
        [format!("--reuid={}", meta.uid()), format!("--regid={}", meta.gid()), "--clear-groups".into()];
    let name = format!("file:{name}?mode=rw"); // It is not made if it is gone.
    let words = ["sqlite3", "-batch", "-bail", "-init", "/dev/null", "-cmd", &timeout, &name, checkpoint];
    let said = said(meta.uid() != 0, &user, &words, within)?;
    // busy|pages in the log|pages brought over; -1 where there is no log.
    match said.trim().split('|').next() {
        Some("0") => Ok(()),
        Some("1") => Err(format!("somebody reads or writes it all the time: {within:?} were not enough")),
        _ => Err(format!("sqlite3 answers {:?}", said.trim())),
    }
}

/// As an address has it.
fn percent(file: &Path) -> Result<String, String> {
    let file = file.canonicalize().map_err(|error| error.to_string())?;
    let bytes = file.as_os_str().as_encoded_bytes();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let one = |&byte: &u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    Ok(bytes.iter().map(one).collect())
}

/// A checkpoint, if all that the server has lies in one dataset and is brought to the disk; backup mode if that is wanted, or it lies in several.
fn postgres(
    connection: &str,
    user: &str,
    method: Option<Method>,
    roots: &[PathBuf],
    until: Instant,
) -> Result<Option<Session>, String> {
    let as_user = [format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".into()];
    let mut words = vec!["psql", "-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1"];
    if !connection.is_empty() {
        words.extend(["-d", connection]);
    }
    let asked = |questions: &[&str]| {
        let all: Vec<_> = words.iter().copied().chain(questions.iter().flat_map(|q| ["-c", *q])).collect();
        said(true, &as_user, &all, command::left(until))
    };
    let places = "SELECT pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace \
                  WHERE pg_catalog.pg_tablespace_location(oid) <> ''";
    let facts = [OWN, "SHOW fsync", "SHOW full_page_writes", "SHOW data_directory", places];
    let facts = asked(&facts)?;
    let mut lines = facts.lines();
    match (lines.next(), lines.next()) {
        (Some("on"), Some("on")) => {}
        _ => {
            return Err(
                "fsync or full_page_writes is off: it does not recover from what a power cut leaves".into()
            );
        }
    }
    let data = PathBuf::from(lines.next().unwrap_or_default());
    let root = root_of(&data, roots)?;
    let mut method = method;
    for place in lines.map(PathBuf::from).chain([data.join("pg_wal")]) {
        if root_of(&place, roots)? != root {
            if method == Some(Method::Checkpoint) {
                let why = "which need not be of one instant: method = \"backup\", or name it under quiesce, so that it is stopped";
                return Err(format!("{} and {} lie in two datasets, {why}", place.display(), data.display()));
            }
            method = Some(Method::Backup);
        }
    }
    match method {
        Some(Method::Backup) => {
            let words = as_it(true, &as_user, &words);
            Session::begin(&words, &data, command::left(until)).map(Some)
        }
        Some(Method::Checkpoint) | None => asked(&["CHECKPOINT"]).map(|_| None),
    }
}

/// What a command prints that ends well; as that user if this is root.
fn said(switches: bool, user: &[String], words: &[&str], within: Duration) -> Result<String, String> {
    let all = as_it(switches, user, words);
    match command::output(&all, within)? {
        None => Err(format!("{} took longer than {within:?}", words[0])),
        Some((status, said)) if status.success() => Ok(said),
        Some((status, _)) => Err(format!("{}: {status}", words[0])),
    }
}

/// The words of a command; as that user if this is root.
fn as_it(switches: bool, user: &[String], words: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    if switches && rustix::process::geteuid().is_root() {
        all.push("setpriv".into());
        all.extend(user.iter().cloned());
        all.push("--".into());
    }
    all.extend(words.iter().map(|word| (*word).to_owned()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_within_a_dataset_lies_in_none() {
        let root = || vec![PathBuf::from("/")];
        assert_eq!(root_of(Path::new("/"), &root()), Ok(PathBuf::from("/")));
        assert!(root_of(Path::new("/proc/self"), &root()).is_err());
        let both = [PathBuf::from("/"), PathBuf::from("/proc")];
        assert_eq!(root_of(Path::new("/proc/version"), &both), Ok(PathBuf::from("/proc")));
    }
}
