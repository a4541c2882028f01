//! `cowsnap fetch`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cli::import::{Source, imported, report};
use crate::cli::progress::Progress;
use crate::cli::send::size;
use crate::cli::store::StoreArgs;
use crate::cli::table::printable_lines;
use crate::cli::{Context, place, spool};
use crate::endpoint::files::http::shown;
use crate::endpoint::store::{Error as StoreError, Options};
use crate::endpoint::{self, Dataset};
use crate::exec::files::away::Away;
use crate::exec::files::fetch::{Fetched, Request, described, fetch};
use crate::exec::files::import::Expected;
use crate::exec::files::source::Origin;
use crate::exec::keys;
use crate::model::files::{Public, SIGN_CONTEXT};
use crate::model::{Digest, SnapshotName, StoreKind, StoreUrl, Target};
use crate::stream::sign::{Signature, Trusted, Untrusted};
use crate::{Class, Error, Result};

/// Download an archive that was published, and believe no byte of it that is not what was said
///
/// URL.json says what it is. Several parts come at a time; run again after it was ended, it goes on. With --to it becomes a dataset.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// http://… or https://…, or in a store: s3://BUCKET/FILE, gs://, az://
    url: String,
    /// A file that is not there yet [default: as the URL calls it]
    #[arg(value_name = "FILE", conflicts_with = "to")]
    file: Option<PathBuf>,
    /// Make a dataset of it that is not there yet: POOL/NAME, or a path
    #[arg(long, value_name = "TARGET")]
    to: Option<OsString>,
    /// With --to: take a snapshot of that name once it is there
    #[arg(long, value_name = "NAME", requires = "to")]
    snapshot: Option<SnapshotName>,
    /// With --to: where the file is while it comes [default: fetch in the state directory]
    #[arg(long, value_name = "DIR", requires = "to")]
    spool: Option<PathBuf>,
    /// What the file must hash to, if that is known from elsewhere
    #[arg(long, value_name = "DIGEST")]
    blake3: Option<Digest>,
    /// Believe URL.json only if one of these public keys signed it: a key, or a file of them; may be given several times
    #[arg(long, value_name = "KEYS", conflicts_with = "unverified")]
    verify_key: Vec<String>,
    /// Take it though nobody says what it is
    #[arg(long)]
    unverified: bool,
    /// With --to: make devices, and keep set-user-id bits and capabilities
    #[arg(long, requires = "to")]
    privileged: bool,
    /// How many parts come at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: u64,
    /// Give up when nothing new has come for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    patience: u64,
    /// Say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let from = origin(args)?;
    let to = args.to.as_ref().map(|to| place::dataset(&Target::parse(to)?, context)).transpose()?;
    to.iter().try_for_each(Dataset::expect_free)?;
    let file = file(args, context)?;
    let patience = Duration::from_secs(args.patience);
    let trusted = keys::trusted(&args.verify_key)?;
    let (public, signature) = match described(&from, patience, trusted.is_some()) {
        Err(error) if takes_undescribed(args) && is_none(&error) => {
            (told_of_none(args, &error, context), None)
        }
        other => other?,
    };
    if let Some(trusted) = &trusted {
        check_signature(args, trusted, public.as_deref(), signature.as_deref())?;
    }
    let public = match public.map(|bytes| read(args, &bytes)).transpose() {
        Err(error) if takes_undescribed(args) => told_of_none(args, &error, context),
        other => other?,
    };
    check(args, public.as_ref())?;
    if args.dry_run {
        return foretell(args, public.as_ref(), &file, context);
    }
    if args.to.is_some() {
        spool::make_room(&file)?;
    }
    let expected = public.as_ref().map(|public| public.blake3).or(args.blake3);
    let had_come = to.is_some() && spool::has_come(&file, expected)?;
    let fetched = match had_come {
        // It had come, and was not imported.
        true => None,
        _ => Some(fetch(&Request {
            limit: args.store.bandwidth.filter(|_| matches!(from, Origin::Web(_))),
            from,
            to: file.clone(),
            public: public.clone(),
            blake3: args.blake3,
            jobs: args.jobs as usize,
            patience,
            observe: &Progress::new(context),
        })?),
    };
    match (to, fetched) {
        (None, Some(fetched)) => told(&fetched, public.as_ref(), context),
        (None, None) => Ok(()),
        (Some(to), _) => take_in(args, &file, public.as_ref(), to, context),
    }
}

/// From where it comes.
fn origin(args: &Args) -> Result<Origin> {
    let url = &args.url;
    if url.starts_with("http://") || url.starts_with("https://") {
        args.store.refuse_but_bandwidth("a web server")?;
        return Ok(Origin::Web(url.clone()));
    }
    let refused =
        |why: &str, hint: Option<String>| Err(Error::Usage { what: format!("{} {why}", shown(url)), hint });
    if !StoreUrl::is_one(url) {
        return refused("is no URL that begins with http://, https://, s3://, gs:// or az://", None);
    }
    let url: StoreUrl = url.parse().map_err(StoreError::from)?;
    if url.kind() == StoreKind::Dir {
        return refused("is a file of this machine", Some("cowsnap import FILE --to TARGET".into()));
    }
    let options = Options { patience: Duration::from_secs(args.patience), ..args.store.options() };
    Ok(Origin::Store(Away::at(&url, &options)?))
}

/// Whether it is taken without a description, too.
fn takes_undescribed(args: &Args) -> bool {
    args.verify_key.is_empty() && (args.blake3.is_some() || args.unverified)
}

/// Whether what a server says means that there is no description: some say of what is not there that it is forbidden.
fn is_none(error: &Error) -> bool {
    matches!(error.class(), Class::Denied | Class::Usage | Class::Corrupt)
}

fn told_of_none<T>(args: &Args, error: &Error, context: &Context) -> Option<T> {
    let url = shown(&args.url);
    context.notice(printable_lines(&format!("taken without a description: {url}.json is none ({error})")));
    None
}

fn file(args: &Args, context: &Context) -> Result<PathBuf> {
    if let Some(file) = &args.file {
        return Ok(file.clone());
    }
    match args.to {
        None => spool::name(&args.url).map(Into::into),
        Some(_) => spool::file(&args.url, args.spool.as_deref(), context),
    }
}

fn read(args: &Args, bytes: &[u8]) -> Result<Public> {
    let corrupt = |why: String, source| endpoint::Error::Corrupt { what: "description", why, source };
    let what = || format!("{}.json is not what cowsnap export --public writes", shown(&args.url));
    let public: Public =
        serde_json::from_slice(bytes).map_err(|error| corrupt(what(), Some(Box::new(error))))?;
    public.check().map_err(|why| corrupt(format!("{}: {why}", what()), None))?;
    Ok(public)
}

fn check_signature(
    args: &Args,
    trusted: &Trusted,
    public: Option<&[u8]>,
    signature: Option<&[u8]>,
) -> Result<()> {
    let url = shown(&args.url);
    let Some(public) = public else {
        let what = format!("there is no {url}.json that could be signed");
        return Err(Error::Usage { what, hint: None });
    };
    let text = String::from_utf8_lossy(signature.unwrap_or_default());
    let signatures: Result<Vec<Signature>, _> = text.lines().map(str::parse).collect();
    let corrupt = |why: String| endpoint::Error::Corrupt { what: "signature", why, source: None };
    let signatures = signatures.map_err(|bad| corrupt(format!("{url}.json.sig: {bad}")))?;
    match trusted.check(SIGN_CONTEXT, public, &signatures) {
        Ok(_) => Ok(()),
        Err(forged @ Untrusted::Forged { .. }) => Err(corrupt(format!("{url}.json: {forged}")).into()),
        Err(other) => Err(endpoint::Error::Denied {
            op: "believe",
            subject: format!("{url}.json"),
            lacking: other.to_string(),
            hint: None,
        }
        .into()),
    }
}

fn check(args: &Args, public: Option<&Public>) -> Result<()> {
    match (public, args.blake3) {
        (Some(public), Some(digest)) if public.blake3 != digest => {
            let why =
                format!("{} is said to have the blake3 {}, not {digest}", shown(&args.url), public.blake3);
            Err(endpoint::Error::Corrupt { what: "description", why, source: None }.into())
        }
        (None, None) if !args.unverified => Err(Error::Usage {
            what: format!("there is no {}.json, so nobody says what the file is", shown(&args.url)),
            hint: Some("--blake3 DIGEST, or --unverified".into()),
        }),
        _ => Ok(()),
    }
}

fn foretell(args: &Args, public: Option<&Public>, file: &Path, context: &Context) -> Result<()> {
    let what = public.map_or_else(String::new, |public| format!(", {}", size(public.bytes)));
    let to =
        args.to.as_ref().map_or_else(|| file.display().to_string(), |to| to.to_string_lossy().into_owned());
    let value =
        json!({ "dry_run": true, "would_fetch": shown(&args.url), "to": to, "described": public.map(short) });
    context.print(&value, printable_lines(&format!("would download {}{what} to {to}", shown(&args.url))))
}

/// What was published, without the digests of all pieces.
fn short(public: &Public) -> Public {
    Public { pieces: Vec::new(), ..public.clone() }
}

fn told(fetched: &Fetched, public: Option<&Public>, context: &Context) -> Result<()> {
    if !fetched.verified {
        context.warn("nobody said what it is: it was taken as it came");
    }
    let height = public
        .and_then(|public| public.height)
        .map_or_else(String::new, |height| format!(", height {height}"));
    let chain = public
        .and_then(|public| public.chain.clone())
        .map_or_else(String::new, |chain| format!(", {}", chain.replace('\n', "\\n")));
    let text = format!(
        "{}\n{}, {} of it now{chain}{height}, blake3 {}",
        fetched.file.display(),
        size(fetched.bytes),
        size(fetched.fetched_bytes),
        fetched.blake3
    );
    // What was published is what somebody else wrote.
    context.print(&json!({ "fetched": fetched, "described": public.map(short) }), printable_lines(&text))
}

fn take_in(args: &Args, file: &Path, public: Option<&Public>, to: Dataset, context: &Context) -> Result<()> {
    let expected = public.map(|public| Expected { bytes: public.bytes, blake3: public.blake3 });
    let expected = match (expected, args.blake3) {
        (None, Some(blake3)) => {
            let len = file.metadata().map_err(Error::io("read", file.display()))?.len();
            Some(Expected { bytes: len, blake3 })
        }
        (expected, _) => expected,
    };
    let input = crate::cli::stream::open(file)?;
    let source = Source { name: shown(&args.url), expected, beside: None };
    let done =
        imported(input, source, to, (args.unverified, args.privileged, args.snapshot.clone()), context);
    spool::leave(file, &done);
    report(&done?, context)
}
