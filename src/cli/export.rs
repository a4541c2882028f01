//! `cowsnap export`

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::send::size;
use crate::cli::table::printable_lines;
use crate::cli::{Context, place};
use crate::endpoint;
use crate::exec::files::export::{Export, Exported, Request, Said, said_by};
use crate::exec::keys;
use crate::model::files::{About, Choice, SIGN_CONTEXT, file_name};
use crate::stream::sign::SigningKey;
use crate::stream::writer::DEFAULT_LEVEL;
use crate::stream::zst::Options;
use crate::{Error, Result};

/// How many of the paths that are left out are said on the terminal.
const MOST_SAID: usize = 20;

/// Write the files of a snapshot to one archive, which any tar reads
///
/// The dataset is used meanwhile. Beside the archive stands FILE.manifest.json with its digest and what was left out: keys of nodes and
/// wallets are, unless they are asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot: TARGET@NAME
    #[arg(value_name = "SNAP")]
    snapshot: OsString,
    /// A file that is not there yet, a directory in which it is called DATASET-VERSION-DATE, or - for standard output [default: .]
    #[arg(value_name = "FILE")]
    to: Option<PathBuf>,
    /// tar.zst, or tar
    #[arg(long, value_enum, default_value = "tar.zst")]
    format: Format,
    /// zstd's level: 1 is fastest, 19 smallest
    #[arg(long, default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// A command of the shell that prints the version of what wrote the data
    #[arg(long, value_name = "COMMAND")]
    version_command: Option<String>,
    /// Leave out what this pattern names; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Leave in what this pattern names though it would be left out; may be given several times
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave in keys and wallets
    #[arg(long)]
    no_default_excludes: bool,
    /// Write FILE.json too, which who downloads the archive checks
    #[arg(long)]
    public: bool,
    /// With --public: which chain it is of
    #[arg(long, requires = "public")]
    chain: Option<String>,
    /// With --public: how far the chain went
    #[arg(long, requires = "public", conflicts_with = "height_command")]
    height: Option<u64>,
    /// With --public: a command of the shell that prints that
    #[arg(long, requires = "public", value_name = "COMMAND")]
    height_command: Option<String>,
    /// With --public: what wrote the data
    #[arg(long, requires = "public", conflicts_with = "client_command")]
    client: Option<String>,
    /// With --public: a command of the shell that prints that
    #[arg(long, requires = "public", value_name = "COMMAND")]
    client_command: Option<String>,
    /// With --public: sign FILE.json with the secret key in this file, to FILE.json.sig; may be given several times
    #[arg(long, requires = "public", value_name = "KEY")]
    sign: Vec<PathBuf>,
    /// Say what would be written
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[value(name = "tar.zst")]
    TarZst,
    #[value(name = "tar")]
    Tar,
}

impl Format {
    fn ending(self) -> &'static str {
        match self {
            Self::TarZst => ".tar.zst",
            Self::Tar => ".tar",
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    refuse_url(args.to.as_deref())?;
    let (dataset, version) = place::version(&args.snapshot, context)?;
    let keys = keys::signing_keys(&args.sign)?;
    let says =
        args.version_command.as_deref().map(|command| said_by("--version-command", command)).transpose()?;
    let said = if args.public { said(args)? } else { Said::default() };
    let file = destination(args, &dataset.to_string(), says.as_deref(), version.created);
    if let Some(file) = &file {
        expect_free(file, args)?;
    } else if args.public {
        let what = "what is published stands beside a file, and standard output has none".into();
        return Err(Error::Usage { what, hint: Some("name a file or a directory".into()) });
    }
    let options = Options {
        level: (args.format == Format::TarZst).then_some(args.level),
        threads: 0,
        pieces: args.public,
    };
    let choice = Choice::new(&args.exclude, &args.include, !args.no_default_excludes);
    let export = Export::plan(Request { dataset, version, says, choice, options })?;
    if args.dry_run {
        return foretell(export.about(), file.as_deref(), context);
    }
    tell_what_is_left_out(export.about(), context);
    let mut output = Output::open(file.as_deref())?;
    let done = export.write(&mut output, &Progress::new(context))?;
    output.commit()?;
    let Some(file) = file else {
        context.notice(told("standard output", &done));
        return Ok(());
    };
    describe(args, &file, &done, &said, &keys)?;
    let value = json!({ "file": file.display().to_string(), "exported": done, "public": args.public });
    context.print(&value, told(&file.display().to_string(), &done))
}

fn refuse_url(to: Option<&Path>) -> Result<()> {
    match to.filter(|to| to.to_string_lossy().contains("://")) {
        None => Ok(()),
        Some(url) => Err(Error::Usage {
            what: format!("{} is an URL, and an archive is written to a file", url.display()),
            hint: Some("write it to a file or to standard output, and put that where it belongs".into()),
        }),
    }
}

fn said(args: &Args) -> Result<Said> {
    let by =
        |option, command: &Option<String>| command.as_deref().map(|line| said_by(option, line)).transpose();
    let height = by("--height-command", &args.height_command)?;
    let height = height.map(|text| {
        text.parse().map_err(|_| Error::Usage {
            what: format!("what --height-command printed is no number: {text:?}"),
            hint: None,
        })
    });
    Ok(Said {
        chain: args.chain.clone(),
        height: height.transpose()?.or(args.height),
        client: by("--client-command", &args.client_command)?.or(args.client.clone()),
    })
}

/// `None` for standard output.
fn destination(args: &Args, dataset: &str, says: Option<&str>, created: jiff::Timestamp) -> Option<PathBuf> {
    let name = || file_name(dataset, says, created, args.format.ending());
    match &args.to {
        None => Some(name().into()),
        Some(to) if to.as_os_str() == "-" => None,
        Some(to) if to.is_dir() => Some(to.join(name())),
        Some(to) => Some(to.clone()),
    }
}

fn with(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Before hours of work, not behind them.
fn expect_free(file: &Path, args: &Args) -> Result<()> {
    let mut all = vec![file.to_owned(), with(file, ".manifest.json")];
    all.extend(args.public.then(|| with(file, ".json")));
    all.extend((!args.sign.is_empty()).then(|| with(file, ".json.sig")));
    match all
        .iter()
        .find(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file() || meta.is_symlink()))
    {
        None => Ok(()),
        Some(taken) => {
            let hint = Some("remove it first, or choose another name".into());
            let subject = taken.display().to_string();
            Err(endpoint::Error::Exists { what: "file", subject, hint }.into())
        }
    }
}

fn describe(args: &Args, file: &Path, done: &Exported, said: &Said, keys: &[SigningKey]) -> Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = done.beside(&name, args.format == Format::TarZst);
    write(&with(file, ".manifest.json"), &json_of(&beside))?;
    if !args.public {
        return Ok(());
    }
    let public = json_of(&done.public(&name, said));
    if !keys.is_empty() {
        let lines = keys.iter().map(|key| format!("{}\n", key.sign(SIGN_CONTEXT, &public)));
        // First: who finds what is signed finds the signature.
        write(&with(file, ".json.sig"), lines.collect::<String>().as_bytes())?;
    }
    write(&with(file, ".json"), &public)
}

fn json_of(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("its keys are texts");
    bytes.push(b'\n');
    bytes
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut output = Output::open(Some(path))?;
    output.write_all(bytes).map_err(Error::io("write", path.display()))?;
    output.commit()
}

fn foretell(about: &About, file: Option<&Path>, context: &Context) -> Result<()> {
    let to = file.map_or_else(|| "standard output".to_owned(), |file| file.display().to_string());
    let mut text = format!(
        "would write {} entries of {}@{}, {} of data, to {to}\n",
        about.entries,
        about.dataset,
        about.snapshot,
        size(about.stored)
    );
    about.left_out.iter().for_each(|left| text += &format!("would leave out {} ({})\n", left.path, left.why));
    if about.n_left_out_more > 0 {
        text += &format!("would leave out {} more\n", about.n_left_out_more);
    }
    let text = printable_lines(&text);
    context.print(&json!({ "dry_run": true, "file": to, "would_export": about }), text)
}

fn tell_what_is_left_out(about: &About, context: &Context) {
    for left in about.left_out.iter().take(MOST_SAID) {
        context.notice(printable_lines(&format!("left out: {} ({})", left.path, left.why)));
    }
    let more = about.left_out.len().saturating_sub(MOST_SAID);
    match (more, about.n_left_out_more) {
        (0, 0) => {}
        (more, 0) => context.notice(format!("left out: {more} more, which the manifest names")),
        (more, others) => context.notice(format!(
            "left out: {more} more, which the manifest names, and {others} that it counts only"
        )),
    }
}

fn told(file: &str, done: &Exported) -> String {
    format!(
        "{file}\n{} entries of {}@{}: {} of data as {}, blake3 {}",
        done.about.entries,
        done.about.dataset,
        done.about.snapshot,
        size(done.about.stored),
        size(done.file_bytes),
        done.blake3
    )
}
