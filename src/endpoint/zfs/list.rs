//! What `zfs list -Hp` and `zfs get -Hp` print, as rows.

use crate::endpoint::{Error, Result};

/// The rows of a listing: lines of exactly `N` fields with tabs between them.
///
/// Names and numbers hold no tab and no newline. Columns whose values may hold them are not asked for together with others.
///
/// # Errors
/// [`Error::Corrupt`] for a line that is none.
pub(super) fn rows<const N: usize>(text: &[u8]) -> Result<Vec<[&str; N]>> {
    lines(text)?
        .map(|line| line.split('\t').collect::<Vec<_>>().try_into().map_err(|_| strange(line)))
        .collect()
}

/// The rows of a listing whose last column, of `N`, may hold tabs.
///
/// # Errors
/// [`Error::Corrupt`] for a line with fewer columns.
pub(super) fn rows_with_text<const N: usize>(text: &[u8]) -> Result<Vec<[&str; N]>> {
    lines(text)?
        .map(|line| line.splitn(N, '\t').collect::<Vec<_>>().try_into().map_err(|_| strange(line)))
        .collect()
}

fn lines(text: &[u8]) -> Result<std::str::Lines<'_>> {
    let text = std::str::from_utf8(text).map_err(|_| strange(&String::from_utf8_lossy(text)))?;
    Ok(text.lines())
}

fn strange(line: &str) -> Error {
    let why = format!("{:?} is not what was asked for", line.chars().take(200).collect::<String>());
    Error::Corrupt { what: "listing by zfs", why, source: None }
}

/// A column that is a number.
///
/// # Errors
/// [`Error::Corrupt`] if it is none.
pub(super) fn number(field: &str) -> Result<u64> {
    field.parse().map_err(|_| strange(field))
}

/// A column in which `-` says that there is nothing.
pub(super) fn text(field: &str) -> Option<&str> {
    (field != "-").then_some(field)
}

/// A value that was asked for alone: all that is printed, less the newline at its end.
pub(super) fn value(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_split_at_tabs_and_names_may_hold_spaces_and_colons() {
        let text = b"tank/a b:c@s 1\t42\t-\ntank/a b:c#m\t43\t7\n";
        let wanted = [["tank/a b:c@s 1", "42", "-"], ["tank/a b:c#m", "43", "7"]];
        assert_eq!(rows::<3>(text).expect("rows"), wanted);
        assert_eq!(rows::<3>(b"").expect("none"), [[""; 3]; 0]);
    }

    #[test]
    fn a_row_of_another_width_is_no_row() {
        for text in [&b"a\tb\n"[..], b"a\tb\tc\td\n", b"\n", b"a\tb\t\xff\n"] {
            let error = rows::<3>(text).expect_err("not three");
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
    }

    #[test]
    fn a_text_in_the_last_column_may_hold_tabs() {
        let text = b"tank/a\t{\"x\":\t1}\ntank/b\t-\n";
        assert_eq!(rows_with_text::<2>(text).expect("rows"), [["tank/a", "{\"x\":\t1}"], ["tank/b", "-"]]);
        assert!(rows_with_text::<2>(b"tank/a\n").is_err());
    }

    #[test]
    fn numbers_and_nothing() {
        assert_eq!(number("18446744073709551615").expect("a number"), u64::MAX);
        assert!(number("-").is_err() && number("1.5K").is_err());
        assert_eq!((text("-"), text("x")), (None, Some("x")));
    }

    #[test]
    fn a_value_that_was_asked_for_alone_keeps_its_tabs_and_newlines() {
        assert_eq!(value(b"a\tb\nc\n"), "a\tb\nc");
        assert_eq!(value(b"\n"), "");
    }
}
