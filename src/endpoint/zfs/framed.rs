//! Listings with columns whose values anybody may have written, tabs and newlines too, so that nothing in them is believed
//! to be a row that is none.
//!
//! `zfs list -H` prints a record as its values with tabs between them and a newline at the end, and nothing is escaped. Here what
//! users write stands on both sides of the columns between, which hold neither tab nor newline:
//!
//! ```text
//! u1 … uk  f1 … fm  u1 … uk        N = k + m + k fields, N - 1 tabs
//! ```
//!
//! **If each line of the answer has N - 1 tabs, no value holds a tab or a newline**, and so each line is one record:
//!
//! - A record without a newline in its values is one line with N - 1 tabs and those of its values, each twice: there are none.
//! - Otherwise let `ui` be its first value with a newline, `p` what that has before its first one, and `uj` its last such value.
//!   The record's first line is `u1 … p`: all of its N - 1 tabs stand there. One line has `f1 … fm`, and goes on behind
//!   them, with a tab before, to the next newline: that is the one in `ui` again, so behind `fm` it has a tab and then `u1 … p` as it
//!   stood on the first line, with the same N - 1 tabs. These are N at least: this line is too long.
//!
//! Records begin at the beginning of a line, so none can make up for another.

/// What `zfs list` is asked for: `users`, between them the columns `fixed`.
pub(super) fn columns(users: &str, fixed: &str) -> String {
    format!("{users},{fixed},{users}")
}

/// A record: what users wrote, and the columns between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framed<'a, const USERS: usize, const FIXED: usize> {
    /// `-` for what is not set.
    pub(super) users: [&'a str; USERS],
    pub(super) fixed: [&'a str; FIXED],
}

/// The records of an answer; `None` if something that a user wrote holds a tab, a newline or bytes that are no text: then it can
/// not be told what is a record.
pub(super) fn read<const USERS: usize, const FIXED: usize>(
    answer: &[u8],
) -> Option<Vec<Framed<'_, USERS, FIXED>>> {
    let text = std::str::from_utf8(answer).ok()?;
    text.split_terminator('\n').map(record).collect()
}

fn record<const USERS: usize, const FIXED: usize>(line: &str) -> Option<Framed<'_, USERS, FIXED>> {
    let fields: Vec<_> = line.split('\t').collect();
    let (users, rest) = fields.split_first_chunk()?;
    let (fixed, again) = rest.split_first_chunk()?;
    (users == again).then_some(Framed { users: *users, fixed: *fixed })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Record = ([String; 2], [String; 3]);

    fn print(records: &[Record]) -> String {
        let line = |(users, fixed): &Record| {
            let all: Vec<_> = users.iter().chain(fixed).chain(users).map(String::as_str).collect();
            all.join("\t") + "\n"
        };
        records.iter().map(line).collect()
    }

    fn owned((users, fixed): ([&str; 2], [&str; 3])) -> Record {
        (users.map(str::to_owned), fixed.map(str::to_owned))
    }

    fn is_read_or_refused(records: &[Record]) -> Result<(), TestCaseError> {
        let text = print(records);
        let is_hostile =
            |(users, _): &Record| users.iter().any(|value| value.contains('\t') || value.contains('\n'));
        let found = read::<2, 3>(text.as_bytes());
        let wanted = records.iter().map(|(users, fixed)| Framed {
            users: [&users[0], &users[1]].map(String::as_str),
            fixed: [&fixed[0], &fixed[1], &fixed[2]].map(String::as_str),
        });
        let wanted = (!records.iter().any(is_hostile)).then(|| wanted.collect::<Vec<_>>());
        prop_assert_eq!(found, wanted, "{:?}", text);
        Ok(())
    }

    #[test]
    fn columns_stand_between_those_of_users() {
        assert_eq!(
            columns("cowsnap:a,cowsnap:b", "name,guid"),
            "cowsnap:a,cowsnap:b,name,guid,cowsnap:a,cowsnap:b"
        );
    }

    #[test]
    fn values_without_tabs_and_newlines_are_read_as_they_are() {
        let records =
            [(["-", "é \r=,"], ["tank/a b@s", "7", "-"]), (["", ""], ["tank/a", "", "8"])].map(owned);
        is_read_or_refused(&records).expect("read");
        assert_eq!(read::<2, 3>(b""), Some(Vec::new()));
        assert_eq!(read::<2, 3>(b"\xff\tb\t1\t2\t3\t\xff\tb\n"), None, "no text");
        assert_eq!(read::<2, 3>(b"a\tb\t1\t2\t3\ta\tc\n"), None, "no copy");
    }

    /// Those who know how it is asked for.
    #[test]
    fn whole_rows_in_a_value_are_not_believed() {
        let row = "a\tb\ttank/v@s\t7\t7\ta\tb";
        for value in [
            "x\ty",
            "x\ny",
            "\n",
            "\n\n",
            row,
            &format!("{row}\n{row}"),
            &format!("{row}\n{row}\n{row}"),
            // Its first line is as long as it should be, and the next, and the last with what follows.
            &format!("{row}\na"),
            &format!("a\tb\ttank/v@s\t7\t7\ta\n{row}\na\tb\ttank/v@s\t7\t7"),
        ] {
            for users in [[value, "-"], ["-", value], [value, value]] {
                is_read_or_refused(&[owned((users, ["tank/a@s", "1", "2"]))]).expect("refused");
            }
        }
    }

    /// Bits of rows, of which rows of the right length are made often.
    fn value() -> impl Strategy<Value = String> {
        let bit = prop_oneof![
            4 => Just("\t"),
            2 => Just("\n"),
            2 => Just("a"),
            1 => Just("a\tb\ttank/v@s\t7\t7\ta\tb"),
            1 => Just("\ttank/v@s\t7\t7\t"),
        ];
        prop_oneof![2 => prop::collection::vec(bit, 0..16).prop_map(|bits| bits.concat()), 1 => Just("-".to_owned())]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn no_value_forges_or_hides_a_row(
            records in prop::collection::vec([value(), value()], 1..4),
        ) {
            let name = |n: usize| [format!("tank/a b@{n}"), n.to_string(), "-".to_owned()];
            let records: Vec<_> = records.into_iter().enumerate().map(|(n, users)| (users, name(n))).collect();
            is_read_or_refused(&records)?;
        }
    }
}
