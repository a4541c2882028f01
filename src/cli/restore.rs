//! `cowsnap restore`

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::json;

use crate::cli::archive::{Way, is_url};
use crate::cli::keys::ReadArgs;
use crate::cli::progress::Progress;
use crate::cli::{Context, place, rollback};
use crate::exec::restore::plain::{self, Streams};
use crate::exec::restore::{self, Request, Restored, Source, Wanted};
use crate::model::{SnapshotName, Target, quoted};
use crate::{Error, Result};

mod archive;

/// Bring data back, from a snapshot, from stream files or from an archive, by cloning
///
/// From stream files: they are verified and received, bases first, and the last version (or --name) is put in place.
/// A live dataset is never overwritten: --replace keeps what it holds as a snapshot and exchanges it atomically.
///
/// Streams of btrfs can be restored to a directory of any other filesystem: that is a plain tree then, and no dataset.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TARGET@NAME, containers in files, in any order, or URL@NAME of an archive (the newest without a name)
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
    #[command(flatten)]
    way: Way,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    if args.sources.iter().any(|source| is_url(source)) {
        return archive::run(&args, context);
    }
    let source = source(&args, context)?;
    check(&args, &source)?;
    if let (Source::Files(files), Target::Path(path)) = (&source, Target::parse(&args.to)?)
        && plain::is_elsewhere(&path)?
        && restore::are_of_btrfs(files, &args.keys.keys()?)?
    {
        let streams = plain::Files::open(files.clone(), &path, args.keys.keys()?)?;
        return to_plain(&streams, &args, path, context);
    }
    let to = match &source {
        Source::Snapshot(from, _) => place::dataset_for(from, &Target::parse(&args.to)?, context)?,
        Source::Files(_) | Source::Streams(_) => place::dataset(&Target::parse(&args.to)?, context)?,
    };
    if matches!(source, Source::Snapshot(..)) && !args.keys.is_empty() {
        let what = "a snapshot is neither encrypted nor signed: --identity and --verify-key are for containers in files";
        return Err(Error::Usage { what: what.into(), hint: None });
    }
    let keys = args.keys.keys()?;
    let wanted = wanted(args.name);
    let request = Request { source, to, wanted, replace: args.replace, recursive: args.recursive, keys };
    if args.dry_run {
        let steps = restore::explain(&request)?;
        let text = steps.iter().map(|step| format!("would {step}\n")).collect::<String>();
        return context.print(&json!({ "dry_run": true, "steps": steps }), text);
    }
    let done = restore::restore(&request, &Progress::new(context))?;
    report(&request, &done, context)
}

/// That nothing is asked for beside `source` that is not done then.
fn check(args: &Args, source: &Source) -> Result<()> {
    let what = match source {
        Source::Snapshot(_, version) if args.name.as_ref().is_some_and(|name| *name != version.name) => {
            two_names(&version.name, args.name.as_ref())
        }
        Source::Files(_) if args.copy => {
            "streams in files are received, which copies no files: --copy does not fit".into()
        }
        Source::Files(_) if args.recursive => "a stream in a file is of one dataset: -r does not fit".into(),
        _ => return Ok(()),
    };
    Err(Error::Usage { what, hint: None })
}

fn two_names(first: &SnapshotName, second: Option<&SnapshotName>) -> String {
    let second = second.map(|name| format!(", and --name {name}")).unwrap_or_default();
    format!("two versions are named, of which one can be restored: @{first}{second}")
}

fn wanted(name: Option<SnapshotName>) -> Wanted {
    name.map_or(Wanted::Last, Wanted::Named)
}

/// Restores to a directory that no stream can be received into.
fn to_plain(streams: &dyn Streams, args: &Args, to: PathBuf, context: &Context) -> Result<()> {
    let request = plain::Request { to, wanted: wanted(args.name.clone()), replace: args.replace };
    if args.dry_run {
        let steps = plain::explain(streams, &request)?;
        let text = steps.iter().map(|step| format!("would {step}\n")).collect::<String>();
        return context.print(&json!({ "dry_run": true, "plain": true, "steps": steps }), text);
    }
    let done = plain::restore(streams, &request, &Progress::new(context))?;
    report_plain(&done, context)
}

fn report_plain(done: &plain::Restored, context: &Context) -> Result<()> {
    let path = done.path.display().to_string();
    if let Some(version) = &done.went_on_from {
        context.notice(format!("went on from @{}, which an earlier run had applied", version.name));
    }
    for version in &done.received {
        context.notice(format!("applied @{}", version.name));
    }
    for lack in &done.lacks {
        let times =
            if lack.times == 1 { String::new() } else { format!(" and {} more times", lack.times - 1) };
        context.warn(format!(
            "its filesystem does not hold {} (of {}{times})",
            lack.what,
            quoted(&lack.first)
        ));
    }
    if let Some(kept) = &done.kept {
        context.notice(format!("what was there is kept as {}", kept.display()));
    }
    context.notice(format!(
        "{path} is a plain tree, no dataset: it has no snapshots, and no increment can be received into it"
    ));
    let kept = done.kept.as_ref().map(|path| path.display().to_string());
    let object = json!({ "path": path, "plain": true, "kept": kept, "restored": {
        "version": done.version, "received": done.received, "went_on_from": done.went_on_from, "lacks": done.lacks,
    } });
    context.print(&object, &path)
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
