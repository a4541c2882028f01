//! `cowsnap stream verify`

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{len_of, name_of, open};
use crate::cli::Context;
use crate::cli::progress::Progress;
use crate::exec::{Event, Observe};
use crate::stream::container::Sealed;
use crate::stream::reader::Reader;
use crate::{Error, Result};

/// Read containers to their end and check every byte
///
/// Prints the blake3 of each stream, as `b3sum` of the unwrapped stream would. Damage is named with its frame, its offset in the
/// stream and its offset in the file; the exit code is then 4.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The containers; - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the subcommand: all files are checked, and the first error is the answer.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let mut first = Ok(());
    for file in &args.files {
        if let Err(error) = verify(file, context).and_then(|sealed| print(file, &sealed, context)) {
            match first {
                Ok(()) => first = Err(error),
                Err(_) => crate::cli::report(&error, context),
            }
        }
    }
    first
}

fn verify(path: &Path, context: &Context) -> Result<Sealed> {
    let name = name_of(path);
    let input = open(path)?;
    let progress = Progress::new(context);
    progress.observe(Event::Started { op: "verify", subject: name.clone(), total: len_of(&input.0) });
    let mut reader = Reader::open(input).map_err(Error::container("verify", &name))?;
    let sealed = reader.verify(|bytes| progress.observe(Event::Progress { bytes }));
    progress.observe(Event::Finished { bytes: reader.verified() });
    sealed.map_err(Error::container("verify", &name))
}

fn print(path: &Path, sealed: &Sealed, context: &Context) -> Result<()> {
    let root = sealed.root.to_hex();
    let value = json!({
        "file": path.to_string_lossy(), "blake3": root.as_str(), "stream_bytes": sealed.len,
        "frames": sealed.frames, "container_bytes": sealed.container_len,
    });
    context.print(&value, format!("{root}  {}", path.display()))
}
