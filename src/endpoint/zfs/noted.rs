//! Properties of the user's on a dataset's snapshots, where a listing of versions can not tell them: a value in it holds a tab or a
//! newline, or the dataset itself has a value, which its snapshots then show.
//!
//! So they are asked for apart from what versions are known by, with where they come from, and what is read can at worst concern such
//! properties of snapshots that are known. A value that a snapshot has from its dataset says nothing of the snapshot.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::endpoint::Result;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::{program, props};

/// The values that were set on snapshots themselves, by full name and property.
pub(super) type Noted = HashMap<(String, String), String>;

/// What these `properties`, whose names must be valid, are on the snapshots of `dataset` that are `known` by their full names.
pub(super) fn read(dataset: &Dataset, known: &HashSet<String>, properties: &[&str]) -> Result<Noted> {
    let columns = "name,property,source,value";
    let (asked, name) = (properties.join(","), dataset.name().as_str());
    let args = ["get", "-Hp", "-t", "snapshot", "-d", "1", "-o", columns, &asked, name];
    let failed = |failure: program::Failure| failure.into_error("read the labels of", dataset);
    let text = String::from_utf8_lossy(&program::zfs(&args).map_err(failed)?).into_owned();
    let (table, doubtful) = table(&text, known, properties);
    let owned =
        |((of, property), value): (Key<'_>, &str)| ((of.to_owned(), property.to_owned()), value.to_owned());
    let mut noted: Noted = table.into_iter().map(owned).collect();
    for (of, property) in doubtful {
        match props::local(of, property)? {
            Some(value) => noted.insert((of.to_owned(), property.to_owned()), value),
            None => noted.remove(&(of.to_owned(), property.to_owned())),
        };
    }
    Ok(noted)
}

type Key<'a> = (&'a str, &'a str);

/// The rows of a listing, and of which of them another value may have been the author: those have to be read alone.
///
/// The listing has exactly one row for each snapshot and property. A value with a newline adds lines: such a line is no row,
/// or says again what another row says. Then what stands before it is doubtful, and what it says.
fn table<'a>(
    text: &'a str,
    known: &HashSet<String>,
    properties: &[&str],
) -> (HashMap<Key<'a>, &'a str>, BTreeSet<Key<'a>>) {
    let (mut table, mut doubtful) = (HashMap::new(), BTreeSet::new());
    let mut before: HashMap<Key<'_>, Option<Key<'_>>> = HashMap::new();
    let mut last = None;
    for line in text.split_terminator('\n') {
        let Some((key, source, value)) =
            row(line).filter(|(key, ..)| known.contains(key.0) && properties.contains(&key.1))
        else {
            doubtful.extend(last);
            continue;
        };
        if let Some(earlier) = before.insert(key, last) {
            doubtful.extend([Some(key), earlier, last].into_iter().flatten());
        }
        if ["local", "received"].contains(&source) {
            table.insert(key, value);
        }
        last = Some(key);
    }
    (table, doubtful)
}

fn row(line: &str) -> Option<(Key<'_>, &str, &str)> {
    let mut columns = line.splitn(4, '\t');
    Some(((columns.next()?, columns.next()?), columns.next()?, columns.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a listing of `p` and `q`, and what has to be read alone.
    fn read(text: &str) -> (String, String) {
        let known = ["tank/a b@s 1", "tank/a b@t"].map(str::to_owned).into();
        let (table, doubtful) = table(text, &known, &["p", "q"]);
        let mut rows: Vec<_> = table.iter().map(|((of, p), value)| format!("{of} {p}={value:?}")).collect();
        rows.sort();
        let doubtful: Vec<_> = doubtful.iter().map(|(of, p)| format!("{of} {p}")).collect();
        (rows.join("; "), doubtful.join("; "))
    }

    #[test]
    fn what_was_set_on_a_snapshot_itself_is_read_with_its_tabs() {
        let (rows, doubtful) = read(concat!(
            "tank/a b@s 1\tp\tlocal\ta\tb\n",
            "tank/a b@s 1\tq\t-\t-\n",
            "tank/a b@t\tp\tinherited from tank/a b\tx\n",
            "tank/a b@t\tq\treceived\t\n",
        ));
        assert_eq!(rows, r#"tank/a b@s 1 p="a\tb"; tank/a b@t q="""#);
        assert_eq!(doubtful, "");
    }

    #[test]
    fn whatever_a_newline_adds_is_read_again_alone_with_what_stands_before_it() {
        for (value, wanted) in [
            ("x\ny", "tank/a b@s 1 p"),
            ("x\ntank/a b@t\tp\tlocal\tforged", "tank/a b@s 1 p; tank/a b@s 1 q; tank/a b@t p"),
            ("x\ntank/a b@s 1\tp\tlocal\tforged", "tank/a b@s 1 p"),
            ("x\ntank/a b@unknown\tp\tlocal\tforged", "tank/a b@s 1 p"),
            ("x\ntank/a b@t\tguid\tlocal\t7", "tank/a b@s 1 p"),
        ] {
            let (_, doubtful) = read(&format!(
                "tank/a b@s 1\tp\tlocal\t{value}\ntank/a b@s 1\tq\t-\t-\ntank/a b@t\tp\t-\t-\ntank/a b@t\tq\t-\t-\n"
            ));
            assert_eq!(doubtful, wanted, "{value:?}");
        }
    }
}
