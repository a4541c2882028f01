//! Sizes as people write them: powers of 1024.

const UNITS: [(&str, u32); 5] = [("T", 40), ("G", 30), ("M", 20), ("K", 10), ("", 0)];

/// The bytes that `text` means: `20G`, `512M`, `1.5T`, `4096`; `GiB` and `GB` are read as `G`.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
    let (_, shift) = UNITS.iter().find(|(name, _)| *name == unit)?;
    match number.split_once('.') {
        None => number.parse::<u64>().ok()?.checked_mul(1 << shift),
        Some((whole, part)) => {
            let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
            let part =
                (part.len() <= 9).then(|| part.parse::<u64>().ok().map(|p| (p, part.len() as u32)))??;
            let part = u128::from(part.0) * (1u128 << shift) / 10u128.pow(part.1);
            whole.checked_add(u64::try_from(part).ok()?)
        }
    }
}

/// `bytes` for a person: `1.5 GiB`.
pub fn human(bytes: u64) -> String {
    let (unit, shift) = UNITS.into_iter().find(|(_, shift)| bytes >> shift > 0).unwrap_or(("", 0));
    match shift {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {unit}iB", bytes as f64 / (1u64 << shift) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_powers_of_1024() {
        assert_eq!(parse("20G"), Some(20 << 30));
        assert_eq!(parse("1.5T"), Some(3 << 39));
        assert_eq!(parse("512MiB"), Some(512 << 20));
        assert_eq!(parse("4096"), Some(4096));
        for wrong in ["", "G", "-1G", "20X", "99999999999T", "1.2.3G", "1.G", "٣G"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown_with_one_digit() {
        assert_eq!((human(0), human(1023), human(1536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
        assert_eq!(human(20 << 30), "20.0 GiB");
    }
}
