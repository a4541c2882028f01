//! Which default names were given to a dataset in this second: one that was freed by a prune is not given again.
//!
//! A target may have the snapshot that had it, and another of the same name would clash with that. What was given before this second is no
//! matter: its names are of another time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Given {
    /// Of which second, in seconds since 1970.
    second: i64,
    /// How many names were given, by dataset.
    names: BTreeMap<String, u32>,
}

/// The number of the next name of the second of `now` for all of `datasets`, which are told by their identities; 1 is the first. Noted below
/// `state_dir`, it is nobody else's.
///
/// # Errors
/// A state directory that can not be written to.
pub fn next(state_dir: &Path, datasets: &[Vec<u8>], now: Timestamp) -> io::Result<u32> {
    let dir = state_dir.join("locks");
    std::fs::create_dir_all(&dir)?;
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(dir.join("names"))?;
    file.lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    // Cut by whoever died as it wrote it, it says nothing.
    let mut given: Given = serde_json::from_str(&text).unwrap_or_default();
    let nth = given.next(datasets, now.as_second());
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec(&given).expect("its keys are texts"))?;
    Ok(nth)
}

impl Given {
    fn next(&mut self, datasets: &[Vec<u8>], second: i64) -> u32 {
        if self.second != second {
            *self = Self { second, names: BTreeMap::new() };
        }
        let keys: Vec<_> = datasets.iter().map(|id| blake3::hash(id).to_hex()[..32].to_owned()).collect();
        let most = keys.iter().filter_map(|key| self.names.get(key)).max().copied().unwrap_or(0);
        let nth = most.saturating_add(1);
        self.names.extend(keys.into_iter().map(|key| (key, nth)));
        nth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_second_is_given_twice_to_a_dataset() {
        let state = tempfile::tempdir().expect("a directory");
        let at = |second| Timestamp::from_second(second).expect("a time");
        let given = |datasets: &[&str], second| {
            let ids: Vec<_> = datasets.iter().map(|name| name.as_bytes().to_vec()).collect();
            next(state.path(), &ids, at(second)).expect("written")
        };
        assert_eq!([given(&["a"], 7), given(&["a"], 7), given(&["b"], 7)], [1, 2, 1]);
        // A set has one name, which is new to all of them.
        assert_eq!([given(&["b", "a"], 7), given(&["b"], 7)], [3, 4]);
        assert_eq!([given(&["a"], 8), given(&["a"], 8)], [1, 2]);
        std::fs::write(state.path().join("locks/names"), "{\"second\":8,\"na").expect("written");
        assert_eq!(given(&["a"], 8), 1);
        assert!(next(Path::new("/proc/nowhere"), &[], at(8)).is_err());
    }

    #[test]
    fn two_at_once_get_two_names() {
        let state = tempfile::tempdir().expect("a directory");
        let now = Timestamp::from_second(7).expect("a time");
        let ids = [b"a".to_vec()];
        let mut all: Vec<u32> = std::thread::scope(|scope| {
            let one = || (0..50).map(|_| next(state.path(), &ids, now).expect("written")).collect::<Vec<_>>();
            let running: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            running.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
        });
        all.sort_unstable();
        assert_eq!(all, (1..=200).collect::<Vec<_>>());
    }
}
