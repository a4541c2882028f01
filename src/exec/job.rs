//! What a job needs of its datasets: to be the only one at work on them, and to know when it was done last.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::endpoint::{self, Dataset, Prunable};
use crate::model::Version;
use crate::sys::interrupt;
use crate::{Error, Result};

/// Held while a job is at work: no other one touches these datasets. The kernel lets go of it whatever ends the process.
pub struct Locks(#[expect(dead_code, reason = "held, never read")] Vec<File>);

impl Locks {
    /// Takes one for each of `datasets`, below `state_dir`. Who names a dataset in another way meets the same lock.
    ///
    /// # Errors
    /// [`Error::Busy`] if another job has one of them; a directory that can not be written to.
    pub fn take(state_dir: &Path, datasets: &[Dataset]) -> Result<Self> {
        let dir = state_dir.join("locks");
        std::fs::create_dir_all(&dir).map_err(Error::io("make", dir.display()))?;
        // Who can open a lock can hold it.
        let private = std::fs::set_permissions(&dir, Permissions::from_mode(0o700));
        private.map_err(Error::io("close to others", dir.display()))?;
        // Each once: a second time, it would wait for itself.
        let all: BTreeMap<_, _> = datasets.iter().map(|dataset| (dataset.identity(), dataset)).collect();
        let take = |(identity, dataset): (Vec<u8>, &Dataset)| {
            let path = dir.join(format!("job-{}", &blake3::hash(&identity).to_hex()[..32]));
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(Error::io("open", path.display()))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(file),
                Err(Errno::WOULDBLOCK) => {
                    let what = format!("run a job on {dataset}");
                    Err(Error::Busy { what, hint: "run it again when that is done" })
                }
                Err(error) => Err(Error::io("lock", path.display())(error.into())),
            }
        };
        Ok(Self(all.into_iter().map(take).collect::<Result<_>>()?))
    }

    /// As [`Locks::take`], which has made their directory; waits up to `limit` for whoever has one. One run of `job` waits, no second one: there may be one every
    /// minute.
    ///
    /// # Errors
    /// [`Error::Busy`] if one waits already, or the time is over; an interruption.
    pub fn wait(state_dir: &Path, job: &str, datasets: &[Dataset], limit: Duration) -> Result<Self> {
        let path = state_dir.join("locks").join(format!("queue-{job}"));
        let place = File::options().create(true).truncate(false).write(true).open(&path);
        let place = place.map_err(Error::io("open", path.display()))?;
        match rustix::fs::flock(&place, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let what = format!("run job {job}, and waits for its turn");
                return Err(Error::Busy { what, hint: "run it again when that is done" });
            }
            Err(error) => return Err(Error::io("lock", path.display())(error.into())),
        }
        let begin = Instant::now();
        loop {
            match Self::take(state_dir, datasets) {
                Err(Error::Busy { .. }) if begin.elapsed() < limit => {}
                other => return other,
            }
            interrupt::check().map_err(Error::io("wait for the run of another job than", job))?;
            // Who waits in the kernel hears no signal, and may wait for one lock with another in hand.
            thread::sleep(PIECE.min(limit.saturating_sub(begin.elapsed())));
        }
    }
}

/// How often who waits looks again.
const PIECE: Duration = Duration::from_millis(250);

/// When the newest snapshot of `dataset` was taken that has `label` and is known to be good; by the order of snapshots, not by the clock.
///
/// # Errors
/// A dataset that can not be read.
pub fn last_taken(dataset: &impl Prunable, label: (&str, &str)) -> endpoint::Result<Option<Timestamp>> {
    Ok(newest_taken(dataset, label)?.map(|version| version.created))
}

/// The newest snapshot of `dataset` that has `label`; by the order of snapshots, not by the clock.
///
/// # Errors
/// A dataset that can not be read.
pub fn newest_taken(dataset: &impl Prunable, label: (&str, &str)) -> endpoint::Result<Option<Version>> {
    let (key, value) = label;
    let has_it = |details: &endpoint::Details| details.labels.get(key).is_some_and(|found| found == value);
    let details = dataset.described()?;
    Ok(details
        .into_iter()
        .rev()
        .find(|details| has_it(details) && !details.version.id.name.is_unconfirmed())
        .map(|details| details.version))
}
