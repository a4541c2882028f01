//! A pattern of cron in the words of systemd's `OnCalendar=`.

use croner::{Cron, CronComponent};

/// Monday first, as systemd counts them.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// The times of `cron`, whose text is `text`, on the clocks of `zone`, or of the machine.
pub(super) fn lines(cron: &Cron, text: &str, zone: Option<&str>) -> Option<Vec<String>> {
    let pattern = &cron.pattern;
    let is_last_day = text.split_whitespace().nth(2) == Some("L");
    if pattern.days_of_week.has_modifiers() || (pattern.days.has_modifiers() && !is_last_day) {
        return None;
    }
    let weekdays = match pattern.is_dow_wildcard() {
        true => String::new(),
        false => format!("{} ", self::weekdays(&pattern.days_of_week)),
    };
    let day = match (pattern.is_dom_wildcard(), is_last_day) {
        (true, _) => "-*".to_owned(),
        (false, true) => "~01".into(),
        (false, false) => format!("-{}", field(&pattern.days)),
    };
    // Cron takes a day that either of them names, systemd one that both do.
    let is_either =
        !pattern.is_dom_wildcard() && !pattern.is_dow_wildcard() && !pattern.matches_dom_and_dow();
    let days = match is_either {
        true => vec![(String::new(), day), (weekdays, "-*".into())],
        false => vec![(weekdays, day)],
    };
    let (month, hour, minute) = (field(&pattern.months), field(&pattern.hours), field(&pattern.minutes));
    let zone = zone.map(|zone| format!(" {zone}")).unwrap_or_default();
    let line = |(weekdays, day)| format!("{weekdays}*-{month}{day} {hour}:{minute}:00{zone}");
    Some(days.into_iter().map(line).collect())
}

/// `*`, `00/15`, or what there is: `01,08..18`.
fn field(component: &CronComponent) -> String {
    let values: Vec<_> = component.values();
    if values.len() == usize::from(component.max - component.min) + 1 {
        return "*".into();
    }
    if let [first, second, .., last] = values[..]
        && values.len() > 2
        && second - first > 1
        && values.windows(2).all(|pair| pair[1] - pair[0] == second - first)
        && last + (second - first) > component.max
    {
        return format!("{first:02}/{}", second - first);
    }
    runs(&values, |value| format!("{value:02}"))
}

fn weekdays(component: &CronComponent) -> String {
    let mut values: Vec<_> = component.values().into_iter().map(|day| (day + 6) % 7).collect();
    values.sort_unstable();
    runs(&values, |day| DAYS[usize::from(day)].to_owned())
}

fn runs(values: &[u16], name: impl Fn(u16) -> String) -> String {
    let runs = values.chunk_by(|a, b| a + 1 == *b);
    let shown = runs.map(|run| match run {
        [first, _, .., last] if run.len() > 2 => format!("{}..{}", name(*first), name(*last)),
        few => few.iter().map(|&value| name(value)).collect::<Vec<_>>().join(","),
    });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use crate::plan::schedule::Schedule;

    #[test]
    fn what_cron_says_systemd_says() {
        let table: [(&str, &[&str]); 14] = [
            ("0 2 * * *", &["*-*-* 02:00:00 Europe/Berlin"]),
            ("*/15 * * * *", &["*-*-* *:00/15:00 Europe/Berlin"]),
            ("5-59/15 8-18 * * *", &["*-*-* 08..18:05/15:00 Europe/Berlin"]),
            ("30 4 * * SUN", &["Sun *-*-* 04:30:00 Europe/Berlin"]),
            ("0 0 * * 1-5", &["Mon..Fri *-*-* 00:00:00 Europe/Berlin"]),
            ("0 0 * * 6,7", &["Sat,Sun *-*-* 00:00:00 Europe/Berlin"]),
            ("0 4 L * *", &["*-*~01 04:00:00 Europe/Berlin"]),
            ("0 0 1,15 * *", &["*-*-01,15 00:00:00 Europe/Berlin"]),
            ("0 0 1 JAN,JUL *", &["*-01,07-01 00:00:00 Europe/Berlin"]),
            ("0 0 13 * FRI", &["*-*-13 00:00:00 Europe/Berlin", "Fri *-*-* 00:00:00 Europe/Berlin"]),
            ("@hourly", &["*-*-* *:00:00 Europe/Berlin"]),
            ("@daily", &["*-*-* 00:00:00 Europe/Berlin"]),
            ("@weekly", &["Sun *-*-* 00:00:00 Europe/Berlin"]),
            ("@yearly", &["*-01-01 00:00:00 Europe/Berlin"]),
        ];
        for (text, wanted) in table {
            let zone = TimeZone::get("Europe/Berlin").expect("a zone");
            let schedule = Schedule::new(text, zone).expect(text);
            assert_eq!(schedule.on_calendar().expect(text), wanted, "{text}");
        }
        for beyond in ["0 0 15W * *", "0 0 LW * *", "0 0 * * 5L", "0 0 * * MON#2", "0 0 1,L * *"] {
            let schedule = Schedule::new(beyond, TimeZone::UTC).expect(beyond);
            assert_eq!(schedule.on_calendar(), None, "{beyond}");
        }
    }
}
