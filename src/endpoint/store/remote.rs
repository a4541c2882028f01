//! A store over a network: each request tried again while that may help.

use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use jiff::Timestamp;
use object_store::client::HttpClient;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload,
};
use tokio::runtime::Handle;

use super::judge::Fate;
use super::wire::{self, Trouble, watched};
use super::{Bytes, Cause, Error, Object, Options, Put, Result, runtime};
use crate::model::{StoreKind, StoreUrl};
use crate::sys::interrupt;

/// The first pause between two tries, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A store that was never reached may be named wrongly: it is not waited for longer.
const NEVER_REACHED: Duration = Duration::from_secs(10);
/// How often waits look for signals.
const NAP: Duration = Duration::from_millis(100);
/// How long what is to be left behind orderly may take.
const AT_LAST: Duration = Duration::from_secs(5);
/// How many objects are destroyed by one request.
const AT_ONCE: usize = 1000;
/// How many are destroyed at once where each is a request.
const EACH: usize = 8;

/// What a kind of store can.
#[derive(Debug)]
pub struct Backing {
    store: Arc<dyn ObjectStore>,
    pages: Option<Pages>,
    pub(super) multipart: Option<Parts>,
    pub(super) web: Option<Web>,
    /// How objects are destroyed by a request each, where `store` does it by one for many.
    singly: Option<Arc<dyn ObjectStore>>,
}

/// A web server: what is asked of it without `object_store`.
#[derive(Debug)]
pub struct Web {
    pub client: HttpClient,
    pub base: String,
}

#[derive(Clone)]
struct Pages(Arc<dyn PaginatedListStore>);

#[derive(Clone)]
pub(super) struct Parts(pub Arc<dyn MultipartStore>);

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages")
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

impl Backing {
    /// A bucket.
    pub fn new<S: ObjectStore + PaginatedListStore + MultipartStore>(store: Arc<S>) -> Self {
        Self {
            store: store.clone(),
            pages: Some(Pages(store.clone())),
            multipart: Some(Parts(store)),
            web: None,
            singly: None,
        }
    }

    /// One that destroys objects by a request each, for those that can not do it otherwise.
    pub fn destroying_by(self, singly: Arc<dyn ObjectStore>) -> Self {
        Self { singly: Some(singly), ..self }
    }

    /// A web server.
    pub fn web(store: Arc<dyn ObjectStore>, client: HttpClient, base: String) -> Self {
        Self { store, pages: None, multipart: None, web: Some(Web { client, base }), singly: None }
    }
}

#[derive(Debug)]
pub struct Remote {
    pub(super) url: StoreUrl,
    pub(super) backing: Backing,
    handle: Handle,
    patience: Duration,
    pub(super) parallel: usize,
    storage_class: Option<String>,
    reached: AtomicBool, // Whether it ever answered.
}

/// How long one thing is tried.
pub(super) struct Patience<'a> {
    remote: &'a Remote,
    op: &'static str,
    key: &'a str,
    start: Instant,
    pub tries: u32,
}

impl Patience<'_> {
    /// Waits for the next try.
    ///
    /// # Errors
    /// Once it was tried for long enough; a signal.
    pub fn again(&mut self, source: Cause) -> Result<()> {
        let (first, longest) = PAUSES;
        let pause = (first * 2u32.saturating_pow(self.tries.min(16))).min(longest);
        self.tries += 1;
        // Those who failed together do not come back together.
        let pause = pause.mul_f64(0.5 + (random() % 1000) as f64 / 2000.0);
        let reached = self.remote.reached.load(Ordering::Relaxed);
        let patience = self.remote.patience.min(if reached { Duration::MAX } else { NEVER_REACHED });
        if self.start.elapsed() + pause > patience {
            let (subject, seconds) = (self.remote.url.with_key(self.key), self.start.elapsed().as_secs());
            return Err(Error::Unreachable { op: self.op, subject, tries: self.tries, seconds, source });
        }
        tracing::info!(op = self.op, key = self.key, cause = %source, "trying again in {} ms", pause.as_millis());
        let until = Instant::now() + pause;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            interrupt::check().map_err(|error| self.remote.interrupted(self.op, self.key, error))?;
            std::thread::sleep(left.min(NAP));
        }
        Ok(())
    }
}

/// Any number.
pub(super) fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

impl Remote {
    pub fn new(url: StoreUrl, backing: Backing, handle: Handle, options: &Options) -> Self {
        Self {
            url,
            backing,
            handle,
            patience: options.patience,
            parallel: options.parallel.max(1),
            storage_class: options.storage_class.clone(),
            reached: AtomicBool::new(false),
        }
    }

    fn interrupted(&self, op: &'static str, key: &str, source: io::Error) -> Error {
        Error::Interrupted { op, subject: self.url.with_key(key), source }
    }

    pub(super) fn corrupt(&self, op: &'static str, key: &str, why: impl Into<String>) -> Error {
        Error::Corrupt { op, subject: self.url.with_key(key), why: why.into() }
    }

    pub(super) fn absent(&self, op: &'static str, key: &str, what: &'static str) -> Error {
        Error::NotFound { op, subject: self.url.with_key(key), what }
    }

    pub(super) fn path(&self, key: &str) -> Result<Path> {
        let full = match self.url.prefix() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        };
        // It would be put under another name, without the dot.
        if self.url.kind() == StoreKind::Azure && full.split('/').any(|part| part.ends_with('.')) {
            let why = "Azure takes the dot away that a part of it ends with";
            return Err(Error::Key { key: full, why });
        }
        Path::parse(full)
            .map_err(|_| Error::Key { key: key.into(), why: "the store can not have such a key" })
    }

    pub(super) fn patience<'a>(&'a self, op: &'static str, key: &'a str) -> Patience<'a> {
        Patience { remote: self, op, key, start: Instant::now(), tries: 0 }
    }

    pub(super) fn attributes(&self) -> Attributes {
        let class = self.storage_class.clone().filter(|_| self.backing.web.is_none());
        class.map(|class| (Attribute::StorageClass, class)).into_iter().collect()
    }

    /// Tries something once.
    ///
    /// # Errors
    /// A signal; all else is a [`Fate`].
    pub(super) fn once<T>(
        &self,
        op: &'static str,
        key: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Result<T, Fate>> {
        let done = runtime::wait(&self.handle, watched(work));
        let (output, trouble) = done.map_err(|error| self.interrupted(op, key, error))?;
        if output.is_ok() || matches!(trouble, Some(Trouble::Answer { .. })) {
            self.reached.store(true, Ordering::Relaxed);
        }
        Ok(output.map_err(|error| self.judge(op, key, error, trouble)))
    }

    /// Tries something once, signal or not, for a short time: to leave nothing behind.
    pub(super) fn at_last<T>(&self, work: impl Future<Output = object_store::Result<T>>) -> Option<T> {
        self.handle.block_on(async { tokio::time::timeout(AT_LAST, work).await.ok()?.ok() })
    }

    /// Tries something until it is done, or will not be.
    pub(super) fn persist<T, F>(
        &self,
        op: &'static str,
        key: &str,
        mut work: impl FnMut() -> F,
    ) -> Result<Result<T, Fate>>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut patience = self.patience(op, key);
        loop {
            match self.once(op, key, work())? {
                Err(Fate::Again(cause)) => patience.again(cause)?,
                done => return Ok(done),
            }
        }
    }

    /// The same, where nothing but success will do.
    pub(super) fn surely<T, F>(&self, op: &'static str, key: &str, work: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.persist(op, key, work)?.map_err(|fate| self.fatal(op, key, fate))
    }

    pub fn get(&self, key: &str, max: u64, buffer: Vec<u8>) -> Result<Option<Vec<u8>>> {
        match self.fetch(key, None, max, buffer) {
            Err(error) if error.is_not_found() => Ok(None),
            fetched => fetched.map(Some),
        }
    }

    pub fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.fetch(key, Some(range), u64::MAX, Vec::new())
    }

    /// Reads an object, or a range of it, into the memory of `bytes`, going on from where it was cut off.
    fn fetch(&self, key: &str, range: Option<Range<u64>>, max: u64, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        bytes.clear();
        let op = "read";
        let path = self.path(key)?;
        let mut patience = self.patience(op, key);
        let whole = range.is_none();
        let mut fetch = Fetch { range, whole, max, etag: None, bytes, wrong: None };
        loop {
            let before = fetch.bytes.len();
            let outcome = self.once(op, key, fetch.go_on(&*self.backing.store, &path))?;
            match fetch.wrong.take() {
                Some(Wrong::TooLong(len)) => {
                    return Err(Error::TooLong { op, subject: self.url.with_key(key), len, max });
                }
                Some(Wrong::Length(why)) => return Err(self.corrupt(op, key, why)),
                Some(Wrong::Changed) => {
                    fetch.forget();
                    patience.again(Cause("it was put anew while it was read".into()))?;
                    continue;
                }
                None => {}
            }
            match outcome {
                Ok(()) => return Ok(fetch.bytes),
                Err(Fate::Again(cause)) => {
                    if fetch.bytes.len() > before {
                        patience = self.patience(op, key);
                    }
                    patience.again(cause)?;
                }
                // It was put anew while it was read.
                Err(Fate::Taken(_)) if fetch.etag.is_some() => {
                    fetch.forget();
                    patience.again(Cause("it was put anew while it was read".into()))?;
                }
                Err(fate) => return Err(self.fatal(op, key, fate)),
            }
        }
    }

    pub fn head(&self, key: &str) -> Result<Option<Object>> {
        let op = "look at";
        let path = self.path(key)?;
        match self.persist(op, key, || self.backing.store.head(&path))? {
            Ok(meta) => Ok(Some(Object { key: key.into(), ..object(&meta, "") })),
            Err(Fate::NotFound("the object")) => Ok(None),
            Err(fate) => Err(self.fatal(op, key, fate)),
        }
    }

    pub fn put(&self, key: &str, bytes: &Bytes) -> Result<()> {
        let path = self.path(key)?;
        self.surely("write", key, || {
            let options = PutOptions { attributes: self.attributes(), ..PutOptions::default() };
            self.backing.store.put_opts(&path, PutPayload::from(bytes.clone()), options)
        })
        .map(drop)
    }

    pub fn put_new(&self, key: &str, bytes: &Bytes) -> Result<Put> {
        let op = "write";
        let path = self.path(key)?;
        let mut patience = self.patience(op, key);
        loop {
            let outcome = match &self.backing.web {
                Some(web) => self.put_new_on_web(web, key, bytes)?,
                None => {
                    let options = PutOptions {
                        mode: PutMode::Create,
                        attributes: self.attributes(),
                        ..PutOptions::default()
                    };
                    let put = self.backing.store.put_opts(&path, PutPayload::from(bytes.clone()), options);
                    self.once(op, key, put)?.map(drop)
                }
            };
            match outcome {
                Ok(()) => return Ok(Put::Done),
                Err(Fate::Again(cause)) => patience.again(cause)?,
                // An earlier try may have come through without an answer.
                Err(Fate::Taken(_)) if patience.tries > 0 => {
                    let there = self.get(key, bytes.len() as u64, Vec::new());
                    return match there {
                        Ok(Some(there)) if there == *bytes => Ok(Put::Done),
                        Ok(None) => continue,
                        Ok(Some(_)) | Err(Error::TooLong { .. }) => Ok(Put::Taken),
                        // Who may only write may list.
                        Err(Error::Denied { .. }) if self.is_listed(key)? => Ok(Put::Taken),
                        Err(error) => Err(error),
                    };
                }
                Err(Fate::Taken(_)) => return Ok(Put::Taken),
                Err(fate) => return Err(self.fatal(op, key, fate)),
            }
        }
    }

    fn is_listed(&self, key: &str) -> Result<bool> {
        let folder = key.rfind('/').map_or("", |at| &key[..=at]);
        let mut found = false;
        self.list_each(folder, &mut |object| {
            found |= object.key == key;
            Ok(())
        })?;
        Ok(found)
    }

    pub fn list_each(&self, prefix: &str, each: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        let op = "list";
        let below = match self.url.prefix() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let Some(Pages(pages)) = &self.backing.pages else { return self.list_web(&below, prefix, each) };
        let full = format!("{below}{prefix}");
        let mut token = None;
        loop {
            let wanted = Some(full.as_str()).filter(|full| !full.is_empty());
            let page = self.surely(op, prefix, || {
                pages.list_paginated(
                    wanted,
                    PaginatedListOptions { page_token: token.clone(), ..Default::default() },
                )
            })?;
            for meta in page.result.objects.iter().filter(|meta| meta.location.as_ref().starts_with(&below)) {
                each(object(meta, &below))?;
            }
            match page.page_token {
                Some(next) if Some(&next) != token.as_ref() => token = Some(next),
                Some(_) => return Err(self.corrupt(op, prefix, "its pages have no end")),
                None => return Ok(()),
            }
        }
    }

    /// The objects below a folder of a web server, ordered by key.
    fn list_web(&self, below: &str, prefix: &str, each: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        let mut folders = vec![format!("{below}{prefix}")];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            let path = Path::parse(&folder)
                .map_err(|_| Error::Key { key: folder.clone(), why: "it is no folder" })?;
            let listed =
                self.persist("list", prefix, || self.backing.store.list_with_delimiter(Some(&path)))?;
            let listed = match listed {
                Err(Fate::NotFound(_)) => continue,
                listed => listed.map_err(|fate| self.fatal("list", prefix, fate))?,
            };
            let inside =
                |found: &Path| found.as_ref().starts_with(&folder) && found.as_ref().len() > folder.len();
            folders.extend(listed.common_prefixes.iter().filter(|p| inside(p)).map(|p| format!("{p}/")));
            found.extend(listed.objects.iter().filter(|o| inside(&o.location)).map(|o| object(o, below)));
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.into_iter().try_for_each(each)
    }

    pub fn destroy(&self, keys: &[String]) -> Result<()> {
        match self.url.kind() {
            StoreKind::S3 | StoreKind::Azure => self.destroy_in_bulk(keys),
            _ => self.destroy_each(keys),
        }
    }

    /// Whatever signal came, for a short time.
    pub fn destroy_at_last(&self, keys: &[String]) -> Result<()> {
        let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>>>()?;
        let paths = futures_util::stream::iter(paths.into_iter().map(Ok)).boxed();
        self.at_last(async {
            self.singly().delete_stream(paths).for_each(|_| std::future::ready(())).await;
            Ok(())
        });
        Ok(())
    }

    fn singly(&self) -> &Arc<dyn ObjectStore> {
        self.backing.singly.as_ref().unwrap_or(&self.backing.store)
    }

    /// One request each, several at once. What one try has destroyed is not there at the next, and that is no error of the others.
    fn destroy_each(&self, keys: &[String]) -> Result<()> {
        let op = "destroy";
        let one = |key: &String| -> Result<()> {
            let path = self.path(key)?;
            match self.persist(op, key, || self.singly().delete(&path))? {
                Ok(()) | Err(Fate::NotFound("the object")) => Ok(()),
                Err(fate) => Err(self.fatal(op, key, fate)),
            }
        };
        let share = keys.len().div_ceil(EACH).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                keys.chunks(share).map(|some| scope.spawn(move || some.iter().try_for_each(one))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a store's calls do not panic"))
        })
    }

    fn destroy_in_bulk(&self, keys: &[String]) -> Result<()> {
        let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>>>()?;
        for (some, named) in paths.chunks(AT_ONCE).zip(keys.chunks(AT_ONCE)) {
            let what = named.first().map(String::as_str).unwrap_or_default();
            let outcome = self.persist("destroy", what, || {
                let some = some.to_vec();
                let mut stream = self
                    .backing
                    .store
                    .delete_stream(futures_util::stream::iter(some.into_iter().map(Ok)).boxed());
                async move {
                    let mut failed = Ok(());
                    while let Some(destroyed) = stream.next().await {
                        match destroyed {
                            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                            Err(error) => failed = Err(error),
                        }
                    }
                    failed
                }
            })?;
            match outcome {
                // Not all of what speaks S3 knows how to destroy many at once.
                Err(Fate::Final(Error::Refused { .. })) if self.backing.singly.is_some() => {
                    return self.destroy_each(keys);
                }
                outcome => outcome.map_err(|fate| self.fatal("destroy", what, fate))?,
            }
        }
        Ok(())
    }
}

/// What is known of an object that is being read.
struct Fetch {
    range: Option<Range<u64>>,
    whole: bool, // Whether all of it is wanted, however long it is.
    max: u64,
    etag: Option<String>,
    bytes: Vec<u8>,
    wrong: Option<Wrong>,
}

enum Wrong {
    TooLong(u64),
    Length(String),
    Changed,
}

impl Fetch {
    /// Begins again.
    fn forget(&mut self) {
        self.etag = None;
        self.bytes.clear();
        if self.whole {
            self.range = None;
        }
    }

    /// Reads what is left.
    async fn go_on(&mut self, store: &dyn ObjectStore, path: &Path) -> object_store::Result<()> {
        let have = self.bytes.len() as u64;
        let left = self.range.clone().map(|range| range.start + have..range.end);
        if left.as_ref().is_some_and(Range::is_empty) {
            return Ok(());
        }
        let options = GetOptions {
            range: left.clone().map(GetRange::Bounded),
            if_match: self.etag.clone().filter(|_| have > 0),
            ..GetOptions::default()
        };
        let got = store.get_opts(path, options).await?;
        let (len, etag) = (got.meta.size, got.meta.e_tag.clone());
        if have > 0 && self.etag.is_some() && etag != self.etag {
            return self.fail(Wrong::Changed);
        }
        if self.range.is_none() && len > self.max {
            return self.fail(Wrong::TooLong(len));
        }
        let all = self.range.get_or_insert(0..len).clone();
        if left.as_ref().is_some_and(|left| got.range != *left) {
            return self.fail(Wrong::Length(format!(
                "it is {len} bytes long, of which {}..{} are needed",
                all.start, all.end
            )));
        }
        self.etag = etag;
        self.bytes.reserve_exact((all.end - all.start - have) as usize);
        // On the thread that all connections live on: what comes is not handed from thread to thread piece by piece, each time with a wait for both.
        let collecting =
            wire::collect(got.into_stream(), std::mem::take(&mut self.bytes), all.end - all.start);
        let collected = tokio::spawn(watched(collecting)).await;
        let ((bytes, done), trouble) =
            collected.map_err(|error| object_store::Error::Generic { store: "", source: Box::new(error) })?;
        self.bytes = bytes;
        wire::remember(trouble);
        if !done? {
            return self.fail(Wrong::Length("more bytes came than were asked for".into()));
        }
        match self.bytes.len() as u64 == all.end - all.start {
            true => Ok(()),
            false => self.fail(Wrong::Length("fewer bytes came than were announced".into())),
        }
    }

    fn fail(&mut self, wrong: Wrong) -> object_store::Result<()> {
        self.wrong = Some(wrong);
        Err(object_store::Error::Generic { store: "", source: "see `wrong`".into() })
    }
}

/// What is listed, its key without what stands before.
fn object(meta: &ObjectMeta, below: &str) -> Object {
    let full = meta.location.as_ref();
    let modified = (meta.last_modified.timestamp(), meta.last_modified.timestamp_subsec_nanos() as i32);
    Object {
        key: full.strip_prefix(below).unwrap_or(full).into(),
        len: meta.size,
        modified: Timestamp::new(modified.0, modified.1).unwrap_or_default(),
        etag: meta.e_tag.clone(),
    }
}
