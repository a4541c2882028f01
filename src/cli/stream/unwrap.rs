//! `cowsnap stream unwrap`

use std::io;
use std::path::PathBuf;

use super::{Watched, name_of, open, read_error};
use crate::cli::Context;
use crate::cli::keys::ReadArgs;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::stream::reader::Reader;
use crate::{Error, Result};

/// Take the filesystem's own stream out of a container, byte for byte
///
/// Every byte is verified before it is written; a file given with -o exists only if all of them are sound.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container; - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Where to write the stream; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    keys: ReadArgs,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let name = name_of(&args.file);
    let keys = args.keys.keys()?;
    let reader = Reader::open_by(open(&args.file)?, &keys, 0).map_err(Error::container("unwrap", &name))?;
    let mut output = Output::open(args.output.as_deref())?;
    let progress = Progress::new(context);
    let mut reader = Watched::new(reader, "unwrap", &name, None, &progress);
    copy(&mut reader, &mut output, &name)?;
    output.commit()
}

/// As `io::copy`, but telling an error of the container from one of the output.
fn copy(reader: &mut impl io::Read, output: &mut impl io::Write, name: &str) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer).map_err(|error| read_error("unwrap", name, error))? {
            0 => return Ok(()),
            len => output.write_all(&buffer[..len]).map_err(Error::io("write the stream of", name))?,
        }
    }
}
