//! `cowsnap restore`

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::json;

use crate::cli::keys::ReadArgs;
use crate::cli::progress::Progress;
use crate::cli::{Context, place, rollback};
use crate::exec::restore::{self, Request, Restored, Source};
use crate::model::{SnapshotName, Target};
use crate::{Error, Result};

/// Bring data back, from a snapshot or from stream files, by cloning
///
/// From stream files: they are verified and received, bases first, and the last version (or --name) is put in place.
/// A live dataset is never overwritten: --replace keeps what it holds as a snapshot and exchanges it atomically.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TARGET@NAME, or containers in files, in any order
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<OsString>,
    /// The dataset that gets the data
    #[arg(long, value_name = "TARGET")]
    to: OsString,
    /// Which version, when the files hold several
    #[arg(long)]
    name: Option<SnapshotName>,
    /// If the dataset is live, keep what it holds as a snapshot and put the restored content in its place
    #[arg(long)]
    replace: bool,
    /// Nested datasets that have a snapshot of the same name come along
    #[arg(short, long)]
    recursive: bool,
    /// Of a plain directory whose filesystem can not share blocks between files: copy all of its bytes
    #[arg(long)]
    copy: bool,
    #[command(flatten)]
    keys: ReadArgs,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let source = source(&args, context)?;
    let to = match &source {
        Source::Snapshot(from, _) => place::dataset_for(from, &Target::parse(&args.to)?, context)?,
        Source::Files(_) => place::dataset(&Target::parse(&args.to)?, context)?,
    };
    if matches!(source, Source::Snapshot(..)) && !args.keys.is_empty() {
        let what = "a snapshot is neither encrypted nor signed: --identity and --verify-key are for containers in files";
        return Err(Error::Usage { what: what.into(), hint: None });
    }
    let keys = args.keys.keys()?;
    let request =
        Request { source, to, name: args.name, replace: args.replace, recursive: args.recursive, keys };
    if args.dry_run {
        let steps = restore::explain(&request)?;
        let text = steps.iter().map(|step| format!("would {step}\n")).collect::<String>();
        return context.print(&json!({ "dry_run": true, "steps": steps }), text);
    }
    let done = restore::restore(&request, &Progress::new(context))?;
    report(&request, &done, context)
}

fn source(args: &Args, context: &Context) -> Result<Source> {
    let files: Vec<_> = args.sources.iter().map(PathBuf::from).filter(|path| path.is_file()).collect();
    if files.len() == args.sources.len() {
        return Ok(Source::Files(files));
    }
    match args.sources.as_slice() {
        [one] => {
            let (dataset, version) = place::version(one, context)?;
            let dataset = place::with_copies(dataset, args.copy, "restore", context)?;
            Ok(Source::Snapshot(dataset, version.id))
        }
        several => {
            let not_a_file =
                several.iter().find(|text| !PathBuf::from(text).is_file()).unwrap_or(&several[0]);
            Err(Error::Usage {
                what: format!(
                    "{} is no file: SOURCE is one snapshot, or stream files",
                    not_a_file.to_string_lossy()
                ),
                hint: None,
            })
        }
    }
}

fn report(request: &Request, done: &Restored, context: &Context) -> Result<()> {
    for version in &done.received {
        context.notice(format!("received {}@{}", request.to, version.name));
    }
    for nested in &done.nested {
        context.notice(format!("restored {nested}"));
    }
    if let Some(replaced) = &done.replaced {
        return rollback::report(
            &request.to.to_string(),
            &format!("{}@{}", request.to, done.version.name),
            replaced,
            context,
        );
    }
    let path = request.to.mountpoint()?.map(|path| path.display().to_string());
    let object = json!({ "dataset": request.to.to_string(), "restored": done, "path": path });
    context.print(&object, path.as_deref().unwrap_or_default())
}
