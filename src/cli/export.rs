//! `cowsnap export`

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::send::size;
use crate::cli::store::StoreArgs;
use crate::cli::table::printable_lines;
use crate::cli::{Context, place};
use crate::endpoint;
use crate::endpoint::store::Error as StoreError;
use crate::exec::files::away::Away;
use crate::exec::files::export::{Export, Exported, Request, Said, said_by};
use crate::exec::keys;
use crate::model::StoreUrl;
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
    /// A file that is not there yet, a directory in which it is called DATASET-VERSION-DATE, the same in a store (s3://BUCKET/FILE,
    /// s3://BUCKET/FOLDER/, gs://, az://, file:///), or - for standard output [default: .]
    #[arg(value_name = "FILE|URL")]
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
    #[command(flatten)]
    store: StoreArgs,
}

/// Where the archive goes.
enum Place {
    /// To standard output.
    Stdout,
    /// To a file of this machine.
    File(PathBuf),
    /// To a store.
    Away(Away),
}

/// What stands beside an archive: how its name goes on, and its bytes.
type Beside = Vec<(&'static str, Vec<u8>)>;

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
    let url = url(args)?;
    let (dataset, version) = place::version(&args.snapshot, context)?;
    let keys = keys::signing_keys(&args.sign)?;
    let says =
        args.version_command.as_deref().map(|command| said_by("--version-command", command)).transpose()?;
    let said = if args.public { said(args)? } else { Said::default() };
    let name = file_name(&dataset.to_string(), says.as_deref(), version.created, args.format.ending());
    let to = destination(args, url.as_ref(), name)?;
    to.expect_free(args)?;
    let options = Options {
        level: (args.format == Format::TarZst).then_some(args.level),
        threads: 0,
        pieces: args.public,
    };
    let choice = Choice::new(&args.exclude, &args.include, !args.no_default_excludes);
    let export = Export::plan(Request { dataset, version, says, choice, options })?;
    if args.dry_run {
        return foretell(export.about(), &to, context);
    }
    tell_what_is_left_out(export.about(), context);
    let progress = Progress::new(context);
    let done = match &to {
        Place::Stdout | Place::File(_) => {
            let mut output = Output::open(to.file())?;
            let done = export.write(&mut output, &progress)?;
            output.commit()?;
            done
        }
        Place::Away(away) => away.write(|output| export.write(output, &progress))?,
    };
    to.describe(|name| beside(args, name, &done, &said, &keys))?;
    if let Place::Stdout = to {
        context.notice(told(&to.to_string(), &done));
        return Ok(());
    }
    let value = json!({ "file": to.to_string(), "exported": done, "public": args.public });
    context.print(&value, told(&to.to_string(), &done))
}

/// The store's address, if it is one.
fn url(args: &Args) -> Result<Option<StoreUrl>> {
    let text = args.to.as_deref().unwrap_or(Path::new(".")).to_string_lossy();
    if StoreUrl::is_one(&text) {
        return Ok(Some(text.parse().map_err(StoreError::from)?));
    }
    args.store.refuse("this machine")?;
    match text.contains("://") {
        false => Ok(None),
        true => Err(Error::Usage {
            what: format!("{text} is an URL of nothing that an archive can be written to"),
            hint: Some("s3://BUCKET/FILE, gs://, az://, file:///FILE, or the name of a file".into()),
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

/// Where it goes, which is called `name` where that is not said.
fn destination(args: &Args, url: Option<&StoreUrl>, name: String) -> Result<Place> {
    let is_folder = args.to.as_ref().is_some_and(|to| to.as_os_str().as_bytes().ends_with(b"/"));
    let file = match url {
        Some(url) => match url.dir() {
            Some(file) => {
                args.store.refuse("this machine")?;
                file
            }
            None if is_folder || url.parent().is_none() => {
                return Ok(Place::Away(Away::below(url, name, &args.store.options())?));
            }
            None => return Ok(Place::Away(Away::at(url, &args.store.options())?)),
        },
        None => match &args.to {
            None => return Ok(Place::File(name.into())),
            Some(to) if to.as_os_str() == "-" => return Ok(Place::Stdout),
            Some(to) => to,
        },
    };
    Ok(Place::File(if file.is_dir() { file.join(name) } else { file.to_owned() }))
}

fn with(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

impl Place {
    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(file) => Some(file),
            Self::Stdout | Self::Away(_) => None,
        }
    }

    /// Before hours of work, not behind them.
    fn expect_free(&self, args: &Args) -> Result<()> {
        let mut all = vec!["", ".manifest.json"];
        all.extend(args.public.then_some(".json"));
        all.extend((!args.sign.is_empty()).then_some(".json.sig"));
        match self {
            Self::Stdout if args.public => {
                let what = "what is published stands beside a file, and standard output has none".into();
                Err(Error::Usage { what, hint: Some("name a file or a directory".into()) })
            }
            Self::Stdout => Ok(()),
            Self::File(file) => all.iter().try_for_each(|ending| expect_no_file(&with(file, ending))),
            Self::Away(away) => all.iter().try_for_each(|ending| away.with(ending).expect_free()),
        }
    }

    /// Puts beside the archive what says what it is: last of all what says that it is there. In a store, what nothing says anything of is
    /// taken away again.
    fn describe(&self, beside: impl FnOnce(&str) -> Beside) -> Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(file) => {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                beside(&name).iter().try_for_each(|(ending, bytes)| write(&with(file, ending), bytes))
            }
            Self::Away(away) => {
                let mut put = vec![away.clone()];
                for (ending, bytes) in beside(away.name()) {
                    let next = away.with(ending);
                    if let Err(error) = next.put(bytes) {
                        put.iter().for_each(Away::take_away);
                        return Err(error);
                    }
                    put.push(next);
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(file) => file.display().fmt(f),
            Self::Away(away) => f.write_str(&away.url()),
        }
    }
}

fn expect_no_file(path: &Path) -> Result<()> {
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_file() || meta.is_symlink()) {
        return Ok(());
    }
    let hint = Some("remove it first, or choose another name".into());
    Err(endpoint::Error::Exists { what: "file", subject: path.display().to_string(), hint }.into())
}

/// What stands beside the archive `name`, in the order in which it is put there.
fn beside(args: &Args, name: &str, done: &Exported, said: &Said, keys: &[SigningKey]) -> Beside {
    let mut all = vec![(".manifest.json", json_of(&done.beside(name, args.format == Format::TarZst)))];
    if args.public {
        let public = json_of(&done.public(name, said));
        if !keys.is_empty() {
            let lines = keys.iter().map(|key| format!("{}\n", key.sign(SIGN_CONTEXT, &public)));
            // First: who finds what is signed finds the signature.
            all.push((".json.sig", lines.collect::<String>().into_bytes()));
        }
        all.push((".json", public));
    }
    all
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

fn foretell(about: &About, to: &Place, context: &Context) -> Result<()> {
    let to = to.to_string();
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
