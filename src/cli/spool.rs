//! Where a file lies while it comes, before it becomes a dataset: what came of it is gone on with after a kill.

use std::path::{Path, PathBuf};

use crate::cli::Context;
use crate::endpoint::files::http::{query_digest, shown};
use crate::exec::files::fetch::digest_of;
use crate::model::Digest;
use crate::{Class, Error, Result};

/// The place of what is at `url`, below `spool`, or else in the state directory; no other address has the same.
pub(super) fn file(url: &str, spool: Option<&Path>, context: &Context) -> Result<PathBuf> {
    let (name, url_shown) = (name(url)?, shown(url));
    let spool = spool.map_or_else(|| context.state_dir().join("fetch"), Path::to_owned);
    let key = match query_digest(url) {
        None => blake3::hash(url_shown.as_bytes()).to_hex(),
        Some(query) => blake3::hash(format!("{url_shown}?{query}").as_bytes()).to_hex(),
    };
    Ok(spool.join(&key[..16]).join(name))
}

/// How an address calls the file.
pub(super) fn name(url: &str) -> Result<String> {
    let url = shown(url);
    let name = url.splitn(4, '/').nth(3).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    if matches!(name, "" | "." | "..") {
        let what = format!("{url} does not say how the file is called");
        return Err(Error::Usage { what, hint: Some("name a file behind it".into()) });
    }
    Ok(name.to_owned())
}

/// Makes the folder of `file`.
pub(super) fn make_room(file: &Path) -> Result<()> {
    let folder = file.parent().unwrap_or(file);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder.display()))
}

/// Whether the file lies there as it should be. What lies there otherwise is taken away: it is fetched anew.
pub(super) fn has_come(file: &Path, expected: Option<Digest>) -> Result<bool> {
    if !file.is_file() {
        return Ok(false);
    }
    if let Some(expected) = expected
        && digest_of(file)? == expected
    {
        return Ok(true);
    }
    std::fs::remove_file(file).map_err(Error::io("remove", file.display()))?;
    Ok(false)
}

/// Takes the file away, unless it can be of use to the next try.
pub(super) fn leave<T>(file: &Path, done: &Result<T>) {
    if !matches!(done, Err(error) if error.class() != Class::Corrupt) {
        // What it was is a dataset now, or is worth nothing.
        let _ = std::fs::remove_file(file);
        let _ = file.parent().map(std::fs::remove_dir);
    }
}
