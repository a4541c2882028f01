//! `cowsnap keygen`

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use crate::cli::Context;
use crate::exec::keys::{self, Kind, Made};
use crate::{Error, Result};

/// Make a key to sign with, or to encrypt for
///
/// The secret half is written to FILE, which only you may read, the public half to FILE.pub. Neither may be there already.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file of the secret half
    file: PathBuf,
    /// sign: for --sign and --verify-key; encrypt: an identity of age's, for --encrypt-to and --identity
    #[arg(long, value_enum, default_value = "sign")]
    kind: For,
    /// Say what would be written
    #[arg(long)]
    dry_run: bool,
}

/// What the key is for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum For {
    /// To sign
    Sign,
    /// To encrypt
    Encrypt,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let kind = match args.kind {
        For::Sign => Kind::Sign,
        For::Encrypt => Kind::Encrypt,
    };
    if args.dry_run {
        let public = keys::public_path(&args.file);
        for path in [&args.file, &public] {
            if path.symlink_metadata().is_ok() {
                let there = std::io::Error::from_raw_os_error(libc::EEXIST);
                return Err(Error::io("create", path.display())(there));
            }
        }
        let (secret, public) = (args.file.display().to_string(), public.display().to_string());
        let text = format!("would write {secret} and {public}");
        let value = json!({ "would": "keygen", "kind": kind, "secret_file": secret, "public_file": public });
        return context.print(&value, text);
    }
    let made = keys::generate(&args.file, kind, Timestamp::now())?;
    context.notice(told(&made));
    context.print(&made, &made.public)
}

fn told(made: &Made) -> String {
    let Made { secret_file, public_file, .. } = made;
    match made.kind {
        Kind::Sign => format!("{secret_file} signs (--sign), {public_file} verifies (--verify-key)"),
        Kind::Encrypt => format!(
            "{secret_file} decrypts (--identity), {public_file} is encrypted for (--encrypt-to); without {secret_file} nothing is decrypted: keep a copy of it elsewhere"
        ),
    }
}
