//! `cowsnap archive add`

use std::ffi::OsString;

use serde_json::json;

use super::Reach;
use crate::Result;
use crate::cli::{Context, place};
use crate::exec::archive::add::{add, expect_none};
use crate::model::Target;

/// Make an archive: find out what its store can do, and say what it is
///
/// An archive holds the versions of one dataset. The store must put an object only if its key is free, also when two ask at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    at: Reach,
    /// The dataset whose versions it is to hold, for people to know; what is pushed need not be called so
    #[arg(value_name = "TARGET")]
    target: Option<OsString>,
    /// Take a store that puts objects over others, too: then only one machine may push, one push at a time
    #[arg(long)]
    single_writer: bool,
    /// Say what would be made; the store is not tried out
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let dataset = match &args.target {
        Some(target) => place::dataset(&Target::parse(target)?, context)?.to_string(),
        None => String::new(),
    };
    let store = args.at.store()?;
    if args.dry_run {
        expect_none(&store)?;
        let value = json!({ "would": "add", "archive": store.url().to_string(), "dataset": dataset });
        return context.print(&value, format!("would make an archive at {}", store.url()));
    }
    let archive = add(store, dataset, args.single_writer)?;
    let (charter, url) = (archive.charter(), archive.url());
    let value =
        json!({ "archive": url, "id": charter.id, "dataset": charter.dataset, "writers": charter.writers });
    let only_one = match args.single_writer {
        true => ": one machine may push, one push at a time",
        false => "",
    };
    context.print(&value, format!("made an archive at {url}{only_one}"))
}
