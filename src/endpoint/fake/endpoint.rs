//! The fake sends and receives: its stream says, as JSON, what is new and what is gone since its base. Upon another base it would become
//! something else, and who applies it does not look: that is for who plans.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::{Content, Fake, State, Stored, bytes_in};
use crate::endpoint::{Endpoint, Error, Outgoing, ReceiveRequest, Result, SendRequest};
use crate::model::{Guid, Partial, Version, VersionRef};

#[derive(Serialize, Deserialize)]
struct Stream {
    version: Version,
    base: Option<Guid>,
    new: Content,
    gone: Vec<String>,
}

impl Endpoint for Fake {
    fn send(&self, request: &SendRequest) -> Result<Outgoing> {
        let mut state = self.store.lock();
        let base = match &request.base {
            Some(base) => self.marked(&mut state, base)?.1,
            None => Content::new(),
        };
        let Stored { version, content, .. } = self.stored(&mut state, &request.version)?.clone();
        let gone = base.keys().filter(|file| !content.contains_key(*file)).cloned().collect();
        let new = content.into_iter().filter(|(file, bytes)| base.get(file) != Some(bytes)).collect();
        let stream = Stream { version, base: request.base.as_ref().map(|base| base.guid), new, gone };
        let bytes = serde_json::to_vec(&stream).expect("keys are text");
        let estimate = Some(bytes.len() as u64);
        Ok(Outgoing {
            stream: Box::new(io::Cursor::new(bytes)),
            estimate,
            properties: Default::default(),
            zfs: None,
            place: None,
        })
    }

    fn receive(&self, request: &ReceiveRequest, stream: &mut dyn Read) -> Result<Version> {
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes).map_err(Error::io("receive", self.at(&request.name)));
        let state = &mut *self.store.lock();
        let applied = read.and_then(|_| self.apply(state, request, &bytes));
        match (&applied, request.guid) {
            (Err(_), Some(guid)) if request.keep.is_some() => {
                let token = format!("{} bytes", bytes.len());
                let (name, bytes) = (request.name.clone(), Some(bytes.len() as u64));
                let partial = Partial { name, guid, token, live: false, since: None, bytes, base: None };
                state.partials.insert(self.name.clone(), partial);
            }
            _ => drop(state.partials.remove(&self.name)),
        }
        applied
    }
}

impl Fake {
    fn apply(&self, state: &mut State, request: &ReceiveRequest, bytes: &[u8]) -> Result<Version> {
        let Stream { version, base, new, gone } = self.parse(request, bytes)?;
        self.check_free(state, &request.name)?;
        let mut content = match base {
            Some(base) => self.content_of_base(state, base)?,
            None => Content::new(),
        };
        content.retain(|file, _| !gone.contains(file));
        let room = state.capacity.unwrap_or(u64::MAX).saturating_sub(state.used_without(&Default::default()));
        if bytes_in(std::iter::once(&new)) > room {
            let full = io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(Error::io("receive", self.at(&request.name))(full));
        }
        content.extend(new);
        state.transaction += 1;
        let id = VersionRef { name: request.name.clone(), ..version.id };
        let version = Version { id, order: state.transaction, ..version };
        let stored = Stored {
            version: version.clone(),
            content,
            labels: Default::default(),
            holds: Default::default(),
        };
        state.snapshots.insert((self.name.clone(), request.name.clone()), stored);
        Ok(version)
    }

    fn parse(&self, request: &ReceiveRequest, bytes: &[u8]) -> Result<Stream> {
        let corrupt = |why: String| Error::Corrupt { what: "stream", why, source: None };
        let stream: Stream = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        match request.guid.is_none_or(|guid| guid == stream.version.id.guid) {
            true => Ok(stream),
            false => Err(corrupt(format!("it is of {}", stream.version.id))),
        }
    }

    fn content_of_base(&self, state: &State, base: Guid) -> Result<Content> {
        let mut mine = state.snapshots.iter().filter(|((of, _), _)| *of == self.name);
        let found = mine.find(|(_, stored)| stored.version.id.guid == base);
        let absent = || Error::NotFound { what: "base", subject: format!("{base} in {self}"), hint: None };
        found.map(|(_, stored)| stored.content.clone()).ok_or_else(absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::fake::FakeStore;
    use crate::endpoint::{Backend, History, SnapshotRequest, btrfs, zfs};

    fn sending(version: &Version, base: Option<&Version>) -> SendRequest {
        SendRequest {
            version: version.id.clone(),
            base: base.map(|base| base.id.clone()),
            clone_sources: Vec::new(),
            stream_version: 0,
            compressed: false,
            zfs: zfs::SendOptions::default(),
        }
    }

    fn receiving(version: &Version) -> ReceiveRequest {
        let keep = Some(btrfs::Keeping { marks: Default::default(), every: 1 });
        ReceiveRequest { guid: Some(version.id.guid), keep, ..ReceiveRequest::named(version.id.name.clone()) }
    }

    fn take(dataset: &Fake, name: &str) -> Version {
        let request = SnapshotRequest::named(name.parse().expect("a name"));
        Backend::snapshot(std::slice::from_ref(dataset), &request).expect("taken").versions.remove(0)
    }

    #[test]
    fn what_arrives_is_what_was_sent_and_a_stream_that_breaks_off_is_no_version() {
        let (from, to) = (FakeStore::default().dataset("a"), FakeStore::default().dataset("b"));
        from.create().expect("created");
        from.write("f", b"one").expect("written");
        from.write("g", b"one").expect("written");
        let one = take(&from, "one");
        from.write("f", b"two").expect("written");
        from.remove("g").expect("removed");
        let two = take(&from, "two");
        let full = from.send(&sending(&one, None)).expect("sent");
        let mut cut = full.stream.take(full.estimate.expect("known") / 2);
        assert!(to.receive(&receiving(&one), &mut cut).is_err());
        let seen = to.inventory().expect("something is there");
        assert_eq!((seen.versions().len(), seen.partials[0].guid), (0, one.id.guid));
        let upon = |version: &Version, base| from.send(&sending(version, base)).expect("sent").stream;
        let early = to.receive(&receiving(&two), &mut upon(&two, Some(&one))).unwrap_err();
        assert!(matches!(early, Error::NotFound { what: "base", .. }), "{early}");
        to.receive(&receiving(&one), &mut upon(&one, None)).expect("received");
        to.receive(&receiving(&two), &mut upon(&two, Some(&one))).expect("received");
        for version in [&one, &two] {
            assert_eq!(to.content_of(&version.id).ok(), from.content_of(&version.id).ok());
        }
        assert!(to.inventory().expect("there").partials.is_empty());
        let other = to.receive(&receiving(&one), &mut upon(&two, None)).unwrap_err();
        assert!(matches!(other, Error::Corrupt { .. }), "{other}");
    }

    #[test]
    fn what_does_not_fit_is_received_in_part() {
        let (from, store) = (FakeStore::default().dataset("a"), FakeStore::default());
        let to = store.dataset("b");
        from.create().expect("created");
        from.write("f", &[1; 100]).expect("written");
        let version = take(&from, "one");
        store.set_capacity(99);
        let receive = || {
            let mut stream = from.send(&sending(&version, None)).expect("sent").stream;
            to.receive(&receiving(&version), &mut stream)
        };
        let full = receive().unwrap_err();
        assert_eq!(full.class(), crate::Class::Conflict, "{full}");
        assert_eq!(to.inventory().expect("there").partials.len(), 1);
        store.set_capacity(100);
        assert_eq!(receive().expect("received").id, version.id);
    }
}
