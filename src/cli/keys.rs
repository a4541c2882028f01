//! The options that name keys.

use std::path::PathBuf;

use crate::Result;
use crate::exec::keys;
use crate::stream::crypt::Recipient;
use crate::stream::reader::Keys;
use crate::stream::sign::SigningKey;
use crate::stream::writer::Protection;

/// With what a container is signed and encrypted.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct WriteArgs {
    /// Sign with the secret key in this file (`cowsnap keygen FILE`); may be given several times
    #[arg(long, value_name = "KEY")]
    sign: Vec<PathBuf>,
    /// Encrypt for this recipient of age's (age1…), or for those in this file; may be given several times
    #[arg(long, value_name = "RECIPIENT|FILE")]
    encrypt_to: Vec<String>,
}

impl WriteArgs {
    /// Reads the keys.
    pub fn protection(&self) -> Result<Protection> {
        let encryption = keys::encryption(&self.encrypt_to)?;
        Ok(Protection { encryption, signers: keys::signing_keys(&self.sign)? })
    }
}

impl WriteArgs {
    /// Reads the keys that sign.
    pub fn signers(&self) -> Result<Vec<SigningKey>> {
        keys::signing_keys(&self.sign)
    }

    /// Reads for whom is encrypted; none if everybody may read.
    pub fn recipients(&self) -> Result<Vec<Recipient>> {
        keys::recipients(&self.encrypt_to)
    }
}

/// What decrypts a container, and whose it must be.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ReadArgs {
    /// Decrypt with the identities of age's in this file; may be given several times
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Believe only what this key signed, or one of those in this file; may be given several times
    #[arg(long, value_name = "KEY|FILE")]
    verify_key: Vec<String>,
}

impl ReadArgs {
    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.identity.is_empty() && self.verify_key.is_empty()
    }

    /// Reads the keys.
    pub fn keys(&self) -> Result<Keys> {
        Ok(Keys { identities: keys::identities(&self.identity)?, trusted: keys::trusted(&self.verify_key)? })
    }
}
