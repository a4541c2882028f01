//! Buckets of the calendar.

use std::fmt;

use jiff::Zoned;
use jiff::civil::Date;

/// How long a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// An hour of the wall clock. Where the clock is put back, the hour that comes twice is two buckets.
    Hour,
    /// A date: of 23 or 25 hours where the clock is put forward or back.
    Day,
    /// A week of ISO 8601: it begins on Monday and belongs to the year that its Thursday is in.
    Week,
    /// A month.
    Month,
    /// A year of the calendar.
    Year,
}

impl Period {
    /// All of them, the shortest first.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// What the rule is called that keeps one snapshot in each.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// One bucket: what all snapshots have in common that were made within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// A date, an hour of it, and the offset from UTC in seconds.
    Hour(Date, i8, i32),
    /// A date.
    Day(Date),
    /// The year that the week belongs to, and its number there.
    Week(i16, i8),
    /// The year and the month.
    Month(i16, i8),
    /// The year.
    Year(i16),
}

impl Bucket {
    /// The one that `time` is in, by the calendar of its time zone.
    pub fn of(time: &Zoned, period: Period) -> Self {
        match period {
            Period::Hour => Self::Hour(time.date(), time.hour(), time.offset().seconds()),
            Period::Day => Self::Day(time.date()),
            Period::Week => {
                let week = time.date().iso_week_date();
                Self::Week(week.year(), week.week())
            }
            Period::Month => Self::Month(time.year(), time.month()),
            Period::Year => Self::Year(time.year()),
        }
    }

    /// How long it is.
    pub fn period(self) -> Period {
        match self {
            Self::Hour(..) => Period::Hour,
            Self::Day(_) => Period::Day,
            Self::Week(..) => Period::Week,
            Self::Month(..) => Period::Month,
            Self::Year(_) => Period::Year,
        }
    }
}

impl fmt::Display for Bucket {
    /// `2026-10-25T02+01:00`, `2026-10-25`, `2026-W43`, `2026-10`, `2026`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hour(date, hour, offset) => {
                let sign = if *offset < 0 { '-' } else { '+' };
                let minutes = offset.abs() / 60;
                write!(f, "{date}T{hour:02}{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
            Self::Day(date) => write!(f, "{date}"),
            Self::Week(year, week) => write!(f, "{year:04}-W{week:02}"),
            Self::Month(year, month) => write!(f, "{year:04}-{month:02}"),
            Self::Year(year) => write!(f, "{year:04}"),
        }
    }
}
