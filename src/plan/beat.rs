//! When a daemon calls jobs: once in every minute of the clock, as cron does.
//!
//! **Invariant:** no clock is trusted to go on evenly. Whoever waits no longer than he is told notices within that time that it was set, or that the machine has slept.

use std::time::Duration;

use jiff::Timestamp;

/// How long to wait at `now` before the clock is looked at again: until the next minute, and no longer than `most`.
pub fn wait(now: Timestamp, most: Duration) -> Duration {
    let into = now.as_nanosecond().rem_euclid(MINUTE.as_nanos() as i128);
    let left = MINUTE - Duration::from_nanos(into as u64);
    left.min(most)
}

/// Whether jobs are to be called at `now`, if they were called at `last`: it is another minute, later or earlier.
pub fn is_time(last: Option<Timestamp>, now: Timestamp) -> bool {
    let minute = |time: Timestamp| time.as_second().div_euclid(60);
    last.is_none_or(|last| minute(last) != minute(now))
}

const MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        time.parse().expect("a time")
    }

    #[test]
    fn jobs_are_called_once_a_minute_whatever_becomes_of_the_clock() {
        let last = Some(at("2026-11-20T02:00:00.5Z"));
        let table = [
            (None, "2026-11-20T02:00:00Z", true),
            (last, "2026-11-20T02:00:00.6Z", false),
            (last, "2026-11-20T02:00:59.999Z", false),
            (last, "2026-11-20T02:01:00Z", true),
            // It slept, or was set.
            (last, "2026-11-23T07:12:00Z", true),
            (last, "2026-11-20T01:59:59Z", true),
            (last, "2026-11-20T02:00:00Z", false),
            (Some(at("1969-12-31T23:59:30Z")), "1970-01-01T00:00:10Z", true),
        ];
        for (last, now, is_due) in table {
            assert_eq!(is_time(last, at(now)), is_due, "{last:?} {now}");
        }
    }

    #[test]
    fn a_wait_ends_with_the_minute_and_is_never_long() {
        let most = Duration::from_secs(5);
        let table = [
            ("2026-11-20T02:00:00Z", 5000),
            ("2026-11-20T02:00:57.25Z", 2750),
            ("2026-11-20T02:00:59.999Z", 1),
            ("1969-12-31T23:59:58Z", 2000),
        ];
        for (now, millis) in table {
            assert_eq!(wait(at(now), most), Duration::from_millis(millis), "{now}");
        }
        // Whoever wakes up then finds another minute.
        let now = at("2026-11-20T02:00:59.999999999Z");
        let then = now.checked_add(wait(now, most)).expect("a time");
        assert!(is_time(Some(now), then));
    }
}
