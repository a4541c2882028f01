//! `cowsnap archive`: versions in object storage.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use clap::Subcommand;

use crate::cli::Context;
use crate::model::{SnapshotName, StoreUrl};
use crate::{Error, Result};

mod add;
mod cat;
mod du;
mod hold;
mod job;
mod list;
mod prune;
mod pull;
mod push;
mod reach;
mod verify;

pub(in crate::cli) use job::{opened, opened_within, prune_of_job, push_of_job, verify_of_job};
pub use pull::cost_lines;
pub use reach::Reach;

pub use crate::cli::store::StoreArgs as Way;

/// Versions in object storage, full or as what changed: pushed while the service runs, restored on any machine
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(add::Args),
    Push(push::Args),
    List(list::Args),
    Pull(pull::Args),
    Verify(verify::Args),
    Cat(cat::Args),
    Hold(hold::Args),
    /// Take a hold off a version of an archive
    Release(hold::Args),
    Holds(hold::List),
    Du(du::Args),
    Prune(Box<prune::Args>),
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    match args.command {
        Command::Add(args) => add::run(&args, context),
        Command::Cat(args) => cat::run(&args, context),
        Command::Push(args) => push::run(&args, context),
        Command::Hold(args) => hold::hold(&args, context),
        Command::Release(args) => hold::release(&args, context),
        Command::Holds(args) => hold::list(&args, context),
        Command::Du(args) => du::run(&args, context),
        Command::Prune(args) => prune::run(&args, context),
        Command::List(args) => list::run(&args, context),
        Command::Pull(args) => pull::run(&args, context),
        Command::Verify(args) => verify::run(&args, context),
    }
}

/// An address of a store, or the absolute path of a directory.
fn url(text: &OsStr) -> Result<StoreUrl> {
    let bad = |error: crate::model::BadStoreUrl| Error::Usage { what: error.to_string(), hint: None };
    match text.to_str() {
        Some(text) if !text.starts_with('/') => text.parse().map_err(bad),
        _ => StoreUrl::directory(text.as_ref()).map_err(bad),
    }
}

/// Whether `text` is the address of an archive, with or without a version's name.
pub fn is_url(text: &OsStr) -> bool {
    text.to_str().is_some_and(StoreUrl::is_one)
}

/// An address, and the name of a version behind its last `@`, if there is one.
pub fn split(text: &OsStr) -> Result<(StoreUrl, Option<SnapshotName>)> {
    let at = text.as_bytes().iter().rposition(|&byte| byte == b'@' || byte == b'/');
    match at.filter(|at| text.as_bytes()[*at] == b'@') {
        None => Ok((url(text)?, None)),
        Some(at) => {
            let (address, name) = (&text.as_bytes()[..at], &text.as_bytes()[at + 1..]);
            let name = String::from_utf8_lossy(name).parse::<SnapshotName>()?;
            Ok((url(OsStr::from_bytes(address))?, Some(name)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_stands_behind_the_last_at_of_the_last_component() {
        let split = |text: &str| {
            let (url, name) = split(text.as_ref()).expect("an address");
            (url.to_string(), name.map(|name| name.to_string()))
        };
        assert_eq!(split("s3://bucket/a/b@daily 1"), ("s3://bucket/a/b".into(), Some("daily 1".into())));
        assert_eq!(split("/srv/archive@x"), ("file:///srv/archive".into(), Some("x".into())));
        assert!(super::split("s3://bucket/a@".as_ref()).is_err());
        assert!(
            is_url("s3://b/x@y".as_ref()) && !is_url("/srv/x@y".as_ref()) && !is_url("tank/x@y".as_ref())
        );
    }
}
