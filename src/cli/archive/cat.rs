//! `cowsnap archive cat`

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::{Way, split};
use crate::cli::Context;
use crate::cli::keys::ReadArgs;
use crate::cli::output::Output;
use crate::exec::archive::pull::Chain;
use crate::exec::restore::plain::Streams;
use crate::model::Inventory;
use crate::stream::reader::Reader;
use crate::{Error, Result};

/// Write a version's container to standard output, as `cowsnap send` made it
///
/// Each part is checked before a byte of it is written. A file given with -o exists only if all of it is sound.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The archive, and which version: URL@NAME; the newest without a name
    #[arg(value_name = "URL[@NAME]")]
    source: OsString,
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    keys: ReadArgs,
    /// Write the filesystem's own stream
    #[arg(long)]
    raw: bool,
    /// Where to write it; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let (url, name) = split(&args.source)?;
    let keys = args.keys.keys()?;
    let chain = Chain::find(
        args.way.archive(&url)?.with_keys(keys.clone()),
        name.as_ref(),
        &Inventory::default(),
        context.state_dir(),
    )?
    .claimed()?;
    let last = chain.all().len().checked_sub(1).expect("what is nowhere yet needs a container");
    let (_, container) = chain.container(last)?;
    let subject = chain.label(last);
    let mut output = Output::open(args.output.as_deref())?;
    match args.raw {
        true => {
            let reader = Reader::open_by(container, &keys, 0).map_err(Error::container("read", &subject))?;
            copy(reader, &mut output, &subject)?;
        }
        false => copy(container, &mut output, &subject)?,
    }
    output.commit()
}

/// As `io::copy`, but telling what was read wrong from what could not be written.
fn copy(mut from: impl Read, to: &mut impl Write, subject: &str) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer).map_err(|error| read_error(subject, error))? {
            0 => return Ok(()),
            len => to.write_all(&buffer[..len]).map_err(Error::io("write what was read of", subject))?,
        }
    }
}

fn read_error(subject: &str, error: io::Error) -> Error {
    match crate::stream::container::Error::from_io(error) {
        Ok(error) => Error::container("read", subject)(error),
        Err(error) => Error::io("read", subject)(error),
    }
}
