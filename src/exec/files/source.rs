//! Where a download comes from: a web server, or a store.

use std::ops::Range;
use std::time::Duration;

use super::away::{Away, changed, expect_same};
use crate::endpoint::Result;
use crate::endpoint::files::http::{Client, Head, State, shown};
use crate::endpoint::store::{Error as StoreError, Object};

/// How much of an object of a store is asked for at once, so that what came is told of.
const PIECE: u64 = 4 << 20;

/// From where.
#[derive(Debug, Clone)]
pub enum Origin {
    /// This URL of a web server.
    Web(String),
    /// An object of a store.
    Store(Away),
}

impl Origin {
    /// How it is shown.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Web(url) => shown(url),
            Self::Store(away) => away.url(),
        }
    }

    /// What tells it from others.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Web(url) => url.clone(),
            Self::Store(away) => away.url(),
        }
    }

    /// Who downloads from there; each thread needs one of its own.
    ///
    /// # Errors
    /// What a download can not be begun without.
    pub(super) fn client(&self, patience: Duration) -> Result<Source<'_>> {
        Ok(match self {
            Self::Web(url) => Source::Web(Client::new(patience)?, url),
            Self::Store(away) => Source::Store(away),
        })
    }
}

/// Who downloads.
pub(super) enum Source<'a> {
    Web(Client, &'a str),
    Store(&'a Away),
}

impl Source<'_> {
    /// All of what is beside the file, and is small; `None` if it is not there.
    pub(super) fn beside(&self, ending: &str, max: u64) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Web(client, url) => client.small(&beside(url, ending), max),
            Self::Store(away) => Ok(away.with(ending).small(max)?),
        }
    }

    /// What is said of the file.
    pub(super) fn head(&self) -> Result<Head> {
        match self {
            Self::Web(client, url) => client.head(url),
            Self::Store(away) => {
                let object = object(away)?;
                Ok(Head { len: Some(object.len), state: state(&object), has_ranges: true })
            }
        }
    }

    /// Hands the bytes of `range` to `take`, in order.
    pub(super) fn range(
        &self,
        range: Range<u64>,
        state: &State,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Web(client, url) => client.range(url, range, state, take),
            Self::Store(away) => {
                let mut at = range.start;
                while at < range.end {
                    let some = at..(at + PIECE).min(range.end);
                    at = some.end;
                    take(&away.range(some)?)?;
                }
                Ok(())
            }
        }
    }

    /// Hands all bytes of the file to `take`, in order.
    pub(super) fn whole(&self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self {
            Self::Web(client, url) => client.whole(url, take),
            Self::Store(away) => {
                let object = object(away)?;
                self.range(0..object.len, &state(&object), take)?;
                Ok(expect_same(away, &object)?)
            }
        }
    }

    /// The file is still of that `state`, where what came of it has not been asked for so.
    pub(super) fn expect_still(&self, before: &State) -> Result<()> {
        let Self::Store(away) = self else { return Ok(()) };
        match state(&object(away)?) == *before {
            true => Ok(()),
            false => Err(changed(away).into()),
        }
    }
}

fn object(away: &Away) -> Result<Object> {
    let none = || StoreError::NotFound { op: "read", subject: away.url(), what: "the object" };
    Ok(away.head()?.ok_or_else(none)?)
}

fn state(object: &Object) -> State {
    State { etag: object.etag.clone(), modified: Some(object.modified.to_string()) }
}

/// The URL of what is beside the file at `url`.
fn beside(url: &str, ending: &str) -> String {
    let at = url.find(['?', '#']).unwrap_or(url.len());
    format!("{}{ending}{}", &url[..at], &url[at..])
}
