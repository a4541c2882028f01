//! Between when a version may say that it was made, where whoever says so is not believed.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::Version;

/// By so much two clocks may differ, and one may be set back.
pub const SKEW: Duration = Duration::from_secs(300);

/// The dates that are believed of who may add and take nothing away: retention destroys by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dates {
    newest: Option<Timestamp>,
    now: Timestamp,
}

/// Why a date is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undue {
    /// It is still to come.
    #[error("it says that it was made at {said}, and here it is {now}")]
    Future {
        /// The date.
        said: Timestamp,
        /// The time.
        now: Timestamp,
    },
    /// It is from before what it comes after.
    #[error("it says that it was made at {said}, before the newest that is here, of {newest}")]
    Past {
        /// The date.
        said: Timestamp,
        /// That of the newest version that is there.
        newest: Timestamp,
    },
}

impl Dates {
    /// Of a version that comes `now` to where `versions` are: what is there has its place in the calendar.
    pub fn upon(versions: &[Version], now: Timestamp) -> Self {
        // One from the future bounds nothing that is made before then.
        let newest = versions.iter().map(|version| version.created.min(now)).max();
        Self { newest, now }
    }

    /// Whether `said` is one of them.
    ///
    /// # Errors
    /// [`Undue`] with what speaks against it.
    pub fn check(&self, said: Timestamp) -> Result<(), Undue> {
        let Self { newest, now } = *self;
        let later = |time: Timestamp| time.checked_add(SKEW).unwrap_or(Timestamp::MAX);
        match newest {
            _ if said > later(now) => Err(Undue::Future { said, now }),
            Some(newest) if later(said) < newest => Err(Undue::Past { said, newest }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Guid, VersionKind, VersionRef};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn made(seconds: i64) -> Version {
        let id = VersionRef { guid: Guid([1; 16]), name: "s".parse().unwrap() };
        Version { id, kind: VersionKind::Snapshot, order: 1, created: at(seconds) }
    }

    #[test]
    fn a_date_lies_between_the_newest_that_is_there_and_now_but_for_what_clocks_differ() {
        let dates = Dates::upon(&[made(5_000), made(10_000), made(7_000)], at(20_000));
        for (said, verdict) in [
            (-1, "before the newest"),
            (9_699, "before the newest"),
            (9_700, ""),
            (15_000, ""),
            (20_300, ""),
            (20_301, "and here it is"),
            (253_402_207_200, "and here it is"),
        ] {
            let error = dates.check(at(said)).err().map(|undue| undue.to_string()).unwrap_or_default();
            assert_eq!(error.is_empty(), verdict.is_empty(), "{said}: {error}");
            assert!(error.contains(verdict), "{said}: {error}");
        }
    }

    #[test]
    fn what_is_first_may_be_old_and_what_is_from_the_future_bounds_nothing_before_it() {
        assert_eq!(Dates::upon(&[], at(20_000)).check(at(-5)), Ok(()));
        assert_eq!(Dates::upon(&[made(90_000)], at(20_000)).check(at(19_999)), Ok(()));
    }
}
