//! Which default names were given to a dataset in this second: one that was freed by a prune is not given again.
//!
//! A target may have the snapshot that had it, and another of the same name would clash with that. What was given before this second is no
//! matter: its names are of another time.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Given {
    /// Of which second, in seconds since 1970.
    second: i64,
    /// How many names were given, by dataset.
    names: BTreeMap<String, u32>,
}

/// A job may wait for its name while what it saves stands still.
const PATIENCE: Duration = Duration::from_secs(1);

/// A clock that was set back by more is believed.
const SET_BACK: i64 = 3600;

/// The second and the number in it of the next name for all of `datasets`, which are told by their identities; 1 is the first. Noted below
/// `state_dir`, it is nobody else's. The second is that of `clock`, which is read once nobody else asks, or that of a later name.
///
/// # Errors
/// A state directory that can not be written to, or in which somebody else is at work for longer than a moment.
pub fn next(
    state_dir: &Path,
    datasets: &[Vec<u8>],
    clock: impl FnOnce() -> Timestamp,
) -> io::Result<(Timestamp, u32)> {
    let dir = state_dir.join("locks");
    std::fs::create_dir_all(&dir)?;
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(dir.join("names"))?;
    lock(&file)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    // Cut by whoever died as it wrote it, it says nothing.
    let mut given: Given = serde_json::from_str(&text).unwrap_or_default();
    let nth = given.next(datasets, clock().as_second());
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec(&given).expect("its keys are texts"))?;
    let second = Timestamp::from_second(given.second).map_err(io::Error::other)?;
    Ok((second, nth))
}

fn lock(file: &File) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            locked => return Ok(locked?),
        }
    }
}

impl Given {
    /// The number of the next name; of [`Given::second`] then, which does not go back.
    fn next(&mut self, datasets: &[Vec<u8>], second: i64) -> u32 {
        if second > self.second || self.second.saturating_sub(second) > SET_BACK {
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
            let (of, nth) = next(state.path(), &ids, || at(second)).expect("written");
            assert_eq!(of, at(second));
            nth
        };
        assert_eq!([given(&["a"], 7), given(&["a"], 7), given(&["b"], 7)], [1, 2, 1]);
        // A set has one name, which is new to all of them.
        assert_eq!([given(&["b", "a"], 7), given(&["b"], 7)], [3, 4]);
        assert_eq!([given(&["a"], 8), given(&["a"], 8)], [1, 2]);
        std::fs::write(state.path().join("locks/names"), "{\"second\":8,\"na").expect("written");
        assert_eq!(given(&["a"], 8), 1);
        assert!(next(Path::new("/proc/nowhere"), &[], || at(8)).is_err());
    }

    #[test]
    fn a_second_that_is_over_does_not_come_again() {
        let state = tempfile::tempdir().expect("a directory");
        let given = |second| {
            let clock = || Timestamp::from_second(second).expect("a time");
            let (of, nth) = next(state.path(), &[b"a".to_vec()], clock).expect("written");
            (of.as_second(), nth)
        };
        assert_eq!([given(10_007), given(10_006), given(10_007)], [(10_007, 1), (10_007, 2), (10_007, 3)]);
        // Nobody lives in the future for long because of a clock that was wrong once.
        assert_eq!([given(6_407), given(6_406), given(10_008)], [(10_007, 4), (6_406, 1), (10_008, 1)]);
    }

    #[test]
    fn who_holds_the_memory_is_not_waited_for_long() {
        let state = tempfile::tempdir().expect("a directory");
        let ask = || next(state.path(), &[b"a".to_vec()], || Timestamp::UNIX_EPOCH);
        ask().expect("written");
        let held = File::open(state.path().join("locks/names")).expect("it is there");
        held.lock().expect("nobody has it");
        assert_eq!(ask().expect_err("it is held").kind(), io::ErrorKind::WouldBlock);
        drop(held);
        ask().expect("nobody has it");
    }

    #[test]
    fn two_at_once_get_two_names() {
        let state = tempfile::tempdir().expect("a directory");
        let now = Timestamp::from_second(7).expect("a time");
        let ids = [b"a".to_vec()];
        let ask = || next(state.path(), &ids, || now);
        // On a machine that has much else to do, a moment may be too short.
        let asked = || loop {
            match ask() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                given => break given.expect("written").1,
            }
        };
        let one = || (0..50).map(|_| asked()).collect::<Vec<_>>();
        let mut all: Vec<u32> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            running.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
        });
        all.sort_unstable();
        assert_eq!(all, (1..=200).collect::<Vec<_>>());
    }
}
