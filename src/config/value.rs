//! Values as people write them, on the command line and in the configuration alike. What is wrong is said with what would be right.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span};

use crate::pool::size;

/// How many: a number, or `all`.
///
/// # Errors
/// What a count is.
pub fn count(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        _ => text.parse().map_err(|_| "a number is needed, or the word all".into()),
    }
}

/// In how many runs all is read, if each reads so many percent.
///
/// # Errors
/// What a share is.
pub fn sample(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    match number {
        Ok(percent) if percent > 0.0 && percent <= 100.0 && (100.0 / percent).ceil() <= 1e6 => {
            Ok((100.0 / percent).ceil() as u64)
        }
        _ => Err(format!("{text} is no share between 0.0001% and 100%")),
    }
}

/// A time of more than nothing.
///
/// # Errors
/// What a time is.
pub fn span(text: &str) -> Result<Span, String> {
    match text.parse::<Span>() {
        Ok(span) if span.is_positive() => Ok(span),
        Ok(_) => Err("a time of more than nothing is needed".into()),
        Err(_) => Err("a time is a number and h, d, w, mo or y: 36h, 7d, 1y 6mo".into()),
    }
}

/// A time on a clock, of seconds to hours.
///
/// # Errors
/// What a time is.
pub fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok()) {
        Some(duration) if !duration.is_zero() && duration <= DAY => Ok(duration),
        _ => {
            Err("a time is a number and ms, s, m or h, of more than 0 and up to 24h: 30s, 10m, 1h30m".into())
        }
    }
}

/// A time between two things, of minutes to a year.
///
/// # Errors
/// What such a time is.
pub fn interval(text: &str) -> Result<SignedDuration, String> {
    let most = SignedDuration::from_hours(366 * 24);
    match text.parse::<SignedDuration>() {
        Ok(time) if time >= SignedDuration::from_mins(1) && time <= most && time.as_secs() % 60 == 0 => {
            Ok(time)
        }
        _ => Err("a time here is a number and m or h, of 1m to 8784h: 15m, 6h, 36h".into()),
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How old a snapshot may be: `6m` would be six minutes, and who writes it means months.
///
/// # Errors
/// What an age is.
pub fn age(text: &str) -> Result<Span, String> {
    let span = span(text)?;
    let below_hours = Span::new()
        .minutes(span.get_minutes())
        .seconds(span.get_seconds())
        .milliseconds(span.get_milliseconds())
        .microseconds(span.get_microseconds())
        .nanoseconds(span.get_nanoseconds());
    match below_hours.is_zero() {
        true => Ok(span),
        false => Err("hours are the least here; m is minutes, and mo is months: 36h, 7d, 6mo".into()),
    }
}

/// A share of 100, with or without its sign.
///
/// # Errors
/// What a share is.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok();
    number
        .filter(|number| (0.0..=100.0).contains(number))
        .ok_or_else(|| "a number of 0 to 100 is needed".into())
}

/// A zone of the IANA database by its name, or `local` for this machine's.
///
/// # Errors
/// What a zone is.
pub fn zone(text: &str) -> Result<TimeZone, String> {
    match text {
        "local" => TimeZone::try_system().map_err(|_| "this machine's zone can not be found out".into()),
        _ => TimeZone::get(text)
            .map_err(|_| "no such zone is known; one is called CONTINENT/CITY, or UTC".into()),
    }
}

/// Bytes, in powers of 1024.
///
/// # Errors
/// What a size is.
pub fn bytes(text: &str) -> Result<u64, String> {
    size::parse(text).ok_or_else(|| "a size is a number and K, M, G or T: 20G".into())
}

/// As [`bytes`], and more than none.
///
/// # Errors
/// What a size is.
pub fn some_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("0 is always reached: leave the key out, and use schedule".into()),
        bytes => Ok(bytes),
    }
}

/// As [`bytes`]: the most that bringing an archive's newest version back may take.
///
/// # Errors
/// What a size is; a limit that each archive exceeds.
pub fn most_bytes(text: &str) -> Result<u64, String> {
    most(bytes(text)?)
}

/// How many containers that may take at most.
///
/// # Errors
/// What a number is; a limit that each archive exceeds.
pub fn most_containers(text: &str) -> Result<u64, String> {
    most(text.parse().map_err(|_| "a number of containers is needed")?)
}

fn most(limit: u64) -> Result<u64, String> {
    match limit {
        0 => Err(NO_LIMIT.into()),
        limit => Ok(limit),
    }
}

/// What is wrong with a limit of nothing.
pub const NO_LIMIT: &str = "0 is exceeded by each archive: leave it out, or name more";

/// Bytes per second that a transfer may take.
///
/// # Errors
/// What a size is; a rate at which nothing ends.
pub fn bandwidth(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0..4096 => Err("less than 4K per second brings nothing to its end".into()),
        rate => Ok(rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_of_hours_or_longer_as_m_is_minutes() {
        for wrong in [
            "6m",
            "90m",
            "1h 30m",
            "1h30m",
            "0.5h",
            "30s",
            "500ms",
            "5us",
            "7ns",
            "PT6M",
            "PT1H1S",
            "P1DT5M",
            "6min",
            "6 minutes",
            "1y 6m",
            "00:30:00",
        ] {
            let said = age(wrong).expect_err(wrong);
            assert!(said.contains("mo is months"), "{wrong}: {said}");
        }
        for right in ["36h", "7d", "2w", "3mo", "1y", "1y 6mo", "PT36H", "P6M", "P1Y", "6 months", "1d 12h"] {
            assert!(age(right).is_ok(), "{right}");
        }
        for nothing in ["", "6", "0d", "-3d", "6 fortnights"] {
            assert!(age(nothing).is_err(), "{nothing}");
        }
        assert!(span("6m").is_ok(), "for --every");
    }

    #[test]
    fn a_share_is_of_a_hundred() {
        assert_eq!((percent("20"), percent("5.5%")), (Ok(20.0), Ok(5.5)));
        for wrong in ["", "-1", "101", "NaN", "inf", "x"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_on_a_clock_is_of_up_to_a_day() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("1h30m", 5400), ("24h", 86400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in ["", "10", "0s", "-1s", "25h", "1d", "1mo", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
