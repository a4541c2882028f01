//! Who is at work: claims, put before and taken away afterwards (docs/FORMAT-archive.md, *Claims*).
//!
//! Who uses something says so first and looks then whether somebody destroys it; who destroys says so first and looks then
//! whether somebody uses it. Since a store lists what was put before, one of two sees the other.

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Archive, Error, Result};
use crate::endpoint::store::{Bytes, Store};
use crate::error::Class;
use crate::model::archive::{CLAIMS, Claim as Key, Group, Stored, Use};
use crate::sys::clock;

/// How many claims are put at once.
const AT_ONCE: usize = 8;
/// How old a claim is, by the store's clock, when nobody is behind it any more.
pub const GRACE: SignedDuration = SignedDuration::from_hours(1);
/// How often it is said again.
const AGAIN: Duration = Duration::from_secs(600);
/// How long it may be said last before it is not believed by oneself: less than others wait.
const LAPSED: Duration = Duration::from_secs(2700);

/// That this process is at work with something. Said again as long as it lives; taken away when dropped.
pub struct Claim {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    store: Store,
    lapsed: Duration,
    keys: Vec<Key>,
    url: String,
    said: Mutex<Said>,
    over: Condvar,
}

/// How it stands.
struct Said {
    /// For how long the machine ran when it was said last; `None` before the first time.
    at: Option<Duration>,
    /// Whether it was not said for so long that others may have ceased to believe it: saying it again does not help.
    is_lapsed: bool,
    is_over: bool,
    /// Whether it could be said at all: a reader may have no right to.
    is_there: bool,
}

/// What others do in an archive, at one time.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// What is going on.
    pub fresh: Vec<Key>,
    /// What nobody is behind any more: to be swept.
    pub stale: Vec<Key>,
    /// The store's clock: `None` if nothing of one's own is among them.
    pub now: Option<Timestamp>,
}

impl Claims {
    /// Whether somebody is about to destroy what is stored in that way.
    pub fn is_going(&self, group: Group) -> bool {
        self.fresh.iter().any(|claim| claim.to == Use::Destroy && claim.group == group)
    }
}

impl Archive {
    /// Says that `chain` is read, which [`plan::archive`](crate::plan::archive) made of a listing: nothing of it is destroyed as long as the answer
    /// lives. Who has no right to say so is not heard, and reads on his own risk: [`Claim::is_there`].
    ///
    /// # Errors
    /// [`Error::Going`] if somebody destroys some of it; what the store says.
    pub fn claim(&self, chain: &[&Stored]) -> Result<Claim> {
        let last = chain.last().map(|last| Key { to: Use::Read, group: last.group(), nonce: [0; 16] });
        let claim = match Claim::put(self, last.into_iter().collect()) {
            Err(Error::Store(error)) if error.class() == Class::Denied => return Ok(Claim::of_nothing(self)),
            claim => claim?,
        };
        let others = self.claims(&claim)?;
        match chain.iter().find(|stored| others.is_going(stored.group())) {
            Some(going) => Err(Error::Going { url: self.url(), version: going.version.clone() }),
            None => Ok(claim),
        }
    }

    /// Says that a version is pushed upon its base.
    ///
    /// # Errors
    /// What the store says.
    pub fn claim_push(&self, group: Group) -> Result<Claim> {
        Claim::put(self, vec![Key { to: Use::Push, group, nonce: [0; 16] }])
    }

    /// Says that these are about to be destroyed.
    ///
    /// # Errors
    /// What the store says.
    pub fn claim_destroy(&self, groups: &[Group]) -> Result<Claim> {
        Claim::put(
            self,
            groups.iter().map(|group| Key { to: Use::Destroy, group: *group, nonce: [0; 16] }).collect(),
        )
    }

    /// What others do. How old that is, is seen beside `own`.
    ///
    /// # Errors
    /// What the store says.
    pub fn claims(&self, own: &Claim) -> Result<Claims> {
        let all = self.all_claims()?;
        let is_own = |key: &Key| own.shared.keys.contains(key);
        let now = all.iter().filter(|(key, _)| is_own(key)).map(|(_, at)| *at).max();
        Ok(Claims::at(now, all.into_iter().filter(|(key, _)| !is_own(key))))
    }

    /// What others do, `now` by the store's clock. Without it, all of it goes on.
    pub(super) fn claims_at(&self, now: Option<Timestamp>) -> Result<Claims> {
        Ok(Claims::at(now, self.all_claims()?.into_iter()))
    }

    fn all_claims(&self) -> Result<Vec<(Key, Timestamp)>> {
        let objects = self.store().list(CLAIMS)?.into_iter();
        Ok(objects.filter_map(|object| Some((Key::parse(&object.key).ok()?, object.modified))).collect())
    }
}

impl Claims {
    fn at(now: Option<Timestamp>, all: impl Iterator<Item = (Key, Timestamp)>) -> Self {
        let mut claims = Self { now, ..Self::default() };
        for (key, at) in all {
            match now.is_some_and(|now| now.duration_since(at) > GRACE) {
                true => claims.stale.push(key),
                false => claims.fresh.push(key),
            }
        }
        claims
    }
}

impl Claim {
    fn put(archive: &Archive, keys: Vec<Key>) -> Result<Self> {
        Self::put_for(archive, keys, LAPSED)
    }

    /// One that is no longer believed when it was not said again for as long as `lapsed`.
    fn put_for(archive: &Archive, mut keys: Vec<Key>, lapsed: Duration) -> Result<Self> {
        let nonce = random()?;
        keys.iter_mut().for_each(|key| key.nonce = nonce);
        let said = Said { at: None, is_lapsed: false, is_over: false, is_there: true };
        let shared = Arc::new(Shared {
            store: archive.store().clone(),
            lapsed,
            keys,
            url: archive.url(),
            said: Mutex::new(said),
            over: Condvar::new(),
        });
        let mut claim = Self { shared, thread: None };
        claim.shared.say()?;
        let shared = Arc::clone(&claim.shared);
        let thread = std::thread::Builder::new().name("claim".into()).spawn(move || shared.go_on());
        claim.thread = Some(thread.map_err(Error::Random)?);
        Ok(claim)
    }

    fn of_nothing(archive: &Archive) -> Self {
        let said = Said { at: None, is_lapsed: false, is_over: true, is_there: false };
        let shared = Shared {
            store: archive.store().clone(),
            lapsed: LAPSED,
            keys: Vec::new(),
            url: archive.url(),
            said: Mutex::new(said),
            over: Condvar::new(),
        };
        Self { shared: Arc::new(shared), thread: None }
    }

    /// Whether others can see it.
    pub fn is_there(&self) -> bool {
        self.shared.said().is_there
    }

    /// That others still believe it.
    ///
    /// # Errors
    /// [`Error::Lapsed`] if at any time it could not be said again for so long that they might not.
    pub fn check(&self) -> Result<()> {
        match self.shared.is_lapsed(since_boot()) {
            true => Err(Error::Lapsed { url: self.shared.url.clone(), key: self.shared.keys[0].to_string() }),
            false => Ok(()),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.said().is_over = true;
        self.shared.over.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let keys: Vec<String> = self.shared.keys.iter().map(ToString::to_string).collect();
        // What stays is not believed for longer than the grace period, and swept by whoever prunes.
        if let Err(error) = self.shared.store.destroy_at_last(&keys) {
            tracing::debug!(%error, "a claim stays");
        }
    }
}

impl Shared {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether others may have ceased to believe it by now, or had before.
    fn is_lapsed(&self, now: Duration) -> bool {
        let mut said = self.said();
        said.is_lapsed |= said.is_there && said.at.is_some_and(|at| now.saturating_sub(at) > self.lapsed);
        said.is_lapsed
    }

    fn say(&self) -> Result<()> {
        let at = since_boot();
        if self.is_lapsed(at) {
            return Ok(());
        }
        let put =
            |keys: &[Key]| keys.iter().try_for_each(|key| self.store.put(&key.to_string(), Bytes::new()));
        let share = self.keys.len().div_ceil(AT_ONCE).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.keys.chunks(share).map(|keys| scope.spawn(move || put(keys))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a store's calls do not panic"))
        })?;
        self.said().at = Some(at);
        Ok(())
    }

    /// Says it again and again, until it is over.
    fn go_on(&self) {
        let mut said = self.said();
        while !said.is_over {
            let (back, wait) = self.over.wait_timeout(said, AGAIN).unwrap_or_else(PoisonError::into_inner);
            said = back;
            if wait.timed_out() && !said.is_over {
                drop(said);
                if let Err(error) = self.say() {
                    tracing::warn!(%error, "a claim could not be said again");
                }
                said = self.said();
            }
        }
    }
}

fn since_boot() -> Duration {
    clock::since_boot().unwrap_or_default()
}

/// Numbers that nobody else has.
pub(super) fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map(|()| bytes).map_err(Error::Random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::archive::{Charter, Writers};
    use crate::endpoint::store::Options;
    use crate::model::{Guid, StoreUrl};

    #[test]
    fn who_was_silent_for_too_long_does_not_believe_himself_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreUrl::directory(folder.path()).unwrap(), &Options::default()).unwrap();
        let archive = Archive::create(store, Charter::new(String::new(), Writers::Many).unwrap()).unwrap();
        let group = Group { guid: Guid([1; 16]), base: None };
        let key = || vec![Key { to: Use::Push, group, nonce: [0; 16] }];
        let lapsed = Claim::put_for(&archive, key(), Duration::from_millis(200)).unwrap();
        let other = Claim::put(&archive, key()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        // As the thread does after a machine was asleep.
        lapsed.shared.say().unwrap();
        assert!(matches!(lapsed.check(), Err(Error::Lapsed { .. })));
        assert!(matches!(lapsed.check(), Err(Error::Lapsed { .. })));
        other.shared.say().unwrap();
        other.check().unwrap();
        drop((lapsed, other));
        assert_eq!(archive.store().list(CLAIMS).unwrap(), []);
    }
}
