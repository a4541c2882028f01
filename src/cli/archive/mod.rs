//! `cowsnap archive`: versions in object storage.

use std::ffi::OsStr;

use clap::Subcommand;

use crate::cli::Context;
use crate::{Error, Result};

mod list;
mod reach;

pub use reach::Reach;

/// Versions in object storage, full or as what changed: pushed while the service runs, restored on any machine
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    match args.command {
        Command::List(args) => list::run(&args, context),
    }
}

/// An address of a store, or the absolute path of a directory.
fn url(text: &OsStr) -> Result<crate::model::StoreUrl> {
    let bad = |error: crate::model::BadStoreUrl| Error::Usage { what: error.to_string(), hint: None };
    match text.to_str() {
        Some(text) if !text.starts_with('/') => text.parse().map_err(bad),
        _ => crate::model::StoreUrl::directory(text.as_ref()).map_err(bad),
    }
}
