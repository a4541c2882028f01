//! `cowsnap import`

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cli::progress::Progress;
use crate::cli::send::size;
use crate::cli::store::StoreArgs;
use crate::cli::table::printable_lines;
use crate::cli::{Context, place, spool};
use crate::endpoint::Dataset;
use crate::endpoint::store::Error as StoreError;
use crate::exec::files::away::Away;
use crate::exec::files::fetch::{self, fetch};
use crate::exec::files::import::{self, Expected, Imported, import};
use crate::exec::files::source::Origin;
use crate::model::files::{Beside, MAX_DESCRIPTION};
use crate::model::{SnapshotName, StoreUrl, Target};
use crate::{Error, Result};

/// How many parts come at a time, and how long nothing new may come: as `fetch` has it.
const JOBS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

/// Make a new dataset of an archive of files, once all of it is proven
///
/// Reads what `cowsnap export` wrote, and with --unverified any tar, compressed with zstd or not. A dataset that is there is never written to.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The archive: a file, in a store (s3://BUCKET/FILE, gs://, az://, file:///FILE), or - for standard input
    #[arg(value_name = "FILE|URL")]
    file: PathBuf,
    /// What it becomes: POOL/NAME, or a path at which nothing is yet
    #[arg(long, value_name = "TARGET")]
    to: OsString,
    /// What stands beside it [default: FILE.manifest.json, if it is there]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Take a snapshot of that name once it is there
    #[arg(long, value_name = "NAME")]
    snapshot: Option<SnapshotName>,
    /// Take a tar that says nothing of itself, too
    #[arg(long)]
    unverified: bool,
    /// With --unverified: make devices, and keep set-user-id bits and capabilities
    #[arg(long)]
    privileged: bool,
    /// Say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Of a store: have the file on the disk first, in DIR or in the state directory; run again after it was ended or killed, it goes on
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    spool: Option<Option<PathBuf>>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Where an archive is.
enum Place {
    File(PathBuf),
    Away(Away),
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let to = place::dataset(&Target::parse(&args.to)?, context)?;
    let from = source(&args.file, &args.store)?;
    let name = from.to_string();
    if let (Place::File(_), Some(_)) = (&from, &args.spool) {
        let what = format!("{name} is here already: --spool is for what comes from a store");
        return Err(Error::Usage { what, hint: None });
    }
    to.expect_free()?;
    let beside = beside(args, &from)?;
    if args.dry_run {
        return foretell(&name, beside.as_ref(), &to, context);
    }
    let source = Source { name, expected: None, beside };
    // What says of itself whether it is whole is as privileged as whoever wrote it here.
    let privileged = args.privileged || !args.unverified;
    let how = (args.unverified, privileged, args.snapshot.clone());
    let done = match &from {
        Place::File(file) => imported(crate::cli::stream::open(file)?, source, to, how, context)?,
        Place::Away(away) => match &args.spool {
            None => imported(away.open()?, source, to, how, context)?,
            Some(spool) => {
                let file = fetched(away, spool.as_deref(), source.beside.as_ref(), context)?;
                let done = imported(crate::cli::stream::open(&file)?, source, to, how, context);
                spool::leave(&file, &done);
                done?
            }
        },
    };
    report(&done, context)
}

/// Has it on the disk, and answers where: what came before a kill does not come again. What is `beside` it says what it must be.
fn fetched(away: &Away, spool: Option<&Path>, beside: Option<&Beside>, context: &Context) -> Result<PathBuf> {
    let file = spool::file(&away.url(), spool, context)?;
    spool::make_room(&file)?;
    let blake3 = beside.map(|beside| beside.blake3);
    if !spool::has_come(&file, blake3)? {
        fetch(&fetch::Request {
            from: Origin::Store(away.clone()),
            to: file.clone(),
            public: None,
            blake3,
            jobs: JOBS,
            limit: None,
            patience: PATIENCE,
            observe: &Progress::new(context),
        })?;
    }
    Ok(file)
}

/// Where `file` is, which may be the address of a store.
fn source(file: &Path, store: &StoreArgs) -> Result<Place> {
    let text = file.to_string_lossy();
    let url = match StoreUrl::is_one(&text) {
        true => Some(text.parse::<StoreUrl>().map_err(StoreError::from)?),
        false => None,
    };
    match url {
        Some(url) if url.dir().is_none() => Ok(Place::Away(Away::at(&url, &store.options())?)),
        url => {
            store.refuse("this machine")?;
            Ok(Place::File(url.as_ref().and_then(StoreUrl::dir).unwrap_or(file).to_owned()))
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => f.write_str(&crate::cli::stream::name_of(file)),
            Self::Away(away) => f.write_str(&away.url()),
        }
    }
}

/// What is imported.
pub(super) struct Source {
    /// What it is called.
    pub(super) name: String,
    /// What it must turn out to be.
    pub(super) expected: Option<Expected>,
    /// What stands beside it.
    pub(super) beside: Option<Beside>,
}

pub(super) fn imported(
    input: impl Read + Send,
    source: Source,
    to: Dataset,
    (unverified, privileged, snapshot): (bool, bool, Option<SnapshotName>),
    context: &Context,
) -> Result<Imported> {
    let Source { name, expected, beside } = source;
    let observe = &Progress::new(context);
    import(input, &import::Request { name, expected, beside, to, unverified, privileged, snapshot, observe })
}

pub(super) fn report(done: &Imported, context: &Context) -> Result<()> {
    if !done.verified {
        context.warn("nothing said what is in it: it was taken as it came");
    }
    if done.n_dropped > 0 {
        let what = "set-user-id and set-group-id bits and capabilities of files were dropped";
        context.notice(format!("{what}: {}; --privileged keeps them", done.n_dropped));
    }
    if let Some(of) = &done.of {
        of.left_out.iter().take(20).for_each(|left| {
            context.notice(printable_lines(&format!("not in it: {} ({})", left.path, left.why)));
        });
        let more = (of.left_out.len() as u64).saturating_sub(20) + of.n_left_out_more;
        if more > 0 {
            context.notice(format!("not in it: {more} more"));
        }
    }
    let of = done.of.as_ref().map_or_else(String::new, |of| format!(", {}@{}", of.dataset, of.snapshot));
    let text = format!("{}: {} entries, {}{of}", done.dataset, done.entries, size(done.bytes));
    // What an archive says of itself is what somebody else wrote.
    context.print(&json!({ "imported": done }), printable_lines(&text))
}

fn beside(args: &Args, of: &Place) -> Result<Option<Beside>> {
    let at = match (&args.manifest, of) {
        (Some(manifest), _) => source(manifest, &args.store)?,
        (None, Place::File(file)) => {
            let mut name = file.as_os_str().to_owned();
            name.push(".manifest.json");
            let path = PathBuf::from(name);
            if file.as_os_str() == "-" || !path.exists() {
                return Ok(None);
            }
            Place::File(path)
        }
        (None, Place::Away(away)) => Place::Away(away.with(".manifest.json")),
    };
    let bytes = match &at {
        Place::File(path) => small(path)?,
        Place::Away(away) => match away.small(MAX_DESCRIPTION)? {
            Some(bytes) => bytes,
            None if args.manifest.is_none() => return Ok(None),
            None => return Err(Error::Usage { what: format!("there is no {at}"), hint: None }),
        },
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let why = format!("{at} is not what cowsnap export writes");
        let source = Some(Box::new(error) as Box<dyn std::error::Error + Send + Sync>);
        crate::endpoint::Error::Corrupt { what: "manifest", why, source }.into()
    })
}

/// All of a file that is not large.
pub(super) fn small(path: &Path) -> Result<Vec<u8>> {
    let failed = || Error::io("read", path.display());
    let file = std::fs::File::open(path).map_err(failed())?;
    let mut bytes = Vec::new();
    file.take(MAX_DESCRIPTION + 1).read_to_end(&mut bytes).map_err(failed())?;
    match bytes.len() as u64 > MAX_DESCRIPTION {
        false => Ok(bytes),
        true => Err(Error::Usage {
            what: format!("{} is longer than {MAX_DESCRIPTION} bytes", path.display()),
            hint: None,
        }),
    }
}

fn foretell(name: &str, beside: Option<&Beside>, to: &Dataset, context: &Context) -> Result<()> {
    let what = beside.map_or_else(String::new, |beside| {
        format!(": {} entries, {}", beside.about.entries, size(beside.about.bytes))
    });
    let value = json!({ "dry_run": true, "would_import": name, "to": to.to_string(), "manifest": beside });
    context.print(&value, printable_lines(&format!("would make {to} of {name}{what}")))
}
