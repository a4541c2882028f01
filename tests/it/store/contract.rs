//! What every store does: on a directory, on an S3 server, on one that speaks as Google's does, and on Azure's emulator where it is installed.

use std::sync::atomic::{AtomicUsize, Ordering};

use cowsnap::Class;
use cowsnap::endpoint::store::{Bytes, Error, Options, Put, Store};
use cowsnap::model::StoreUrl;

use crate::s3::Server;

/// A store, and what it lives on.
struct Ground {
    store: Store,
    _server: Option<Server>,
    _dir: tempfile::TempDir,
}

fn directory() -> Ground {
    let dir = tempfile::tempdir().unwrap();
    let url = StoreUrl::directory(&dir.path().join("not yet/there")).unwrap();
    Ground { store: Store::open(&url, &Options::default()).unwrap(), _server: None, _dir: dir }
}

fn s3() -> Ground {
    let server = Server::start();
    Ground { store: server.store("a/b c"), _server: Some(server), _dir: tempfile::tempdir().unwrap() }
}

fn google() -> Ground {
    let server = Server::google();
    Ground { store: server.store("a/b c"), _server: Some(server), _dir: tempfile::tempdir().unwrap() }
}

fn keys(store: &Store, prefix: &str) -> Vec<String> {
    store.list(prefix).unwrap().into_iter().map(|object| object.key).collect()
}

fn what_is_put_can_be_read_listed_and_destroyed(store: &Store) {
    assert_eq!(store.get("a", 10).unwrap(), None);
    assert_eq!(store.head("x/a").unwrap(), None);
    assert_eq!(keys(store, ""), [""; 0]);
    for (key, text) in [("x/b", "bee"), ("a", "hello"), ("x/y/c", ""), ("x-", "dash"), ("x/b c!_", "odd")] {
        store.put(key, Bytes::from_static(text.as_bytes())).unwrap();
    }
    assert_eq!(store.get("a", 5).unwrap().unwrap(), b"hello");
    assert_eq!(store.get("x/y/c", 0).unwrap().unwrap(), b"");
    assert_eq!(keys(store, ""), ["a", "x-", "x/b", "x/b c!_", "x/y/c"]);
    assert_eq!(keys(store, "x/"), ["x/b", "x/b c!_", "x/y/c"]);
    assert_eq!(keys(store, "x/y/"), ["x/y/c"]);
    assert_eq!(keys(store, "z/"), [""; 0]);
    store.put("a", Bytes::from_static(b"other bytes")).unwrap();
    let head = store.head("a").unwrap().unwrap();
    assert_eq!((head.key.as_str(), head.len), ("a", 11));
    assert!(head.modified.as_second() > 1_700_000_000);
    let listed = store.list("").unwrap().into_iter().find(|object| object.key == "a").unwrap();
    assert_eq!(listed.len, 11);
    store.destroy(&["a".into(), "x/b".into(), "nothing/there".into()]).unwrap();
    assert_eq!(keys(store, ""), ["x-", "x/b c!_", "x/y/c"]);
    assert_eq!(store.get("a", 10).unwrap(), None);
}

fn a_range_is_all_of_it_or_an_error(store: &Store) {
    store.put("r", Bytes::from_static(b"0123456789")).unwrap();
    assert_eq!(store.get_range("r", 0..10).unwrap(), b"0123456789");
    assert_eq!(store.get_range("r", 3..5).unwrap(), b"34");
    assert_eq!(store.get_range("r", 9..10).unwrap(), b"9");
    assert_eq!(store.get_range("r", 7..7).unwrap(), b"");
    for range in [5..11, 10..11, 100..200] {
        let error = store.get_range("r", range.clone()).unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{range:?}: {error}");
    }
    let error = store.get_range("nothing", 0..1).unwrap_err();
    assert!(error.is_not_found() && error.class() == Class::Usage, "{error}");
}

fn what_is_longer_than_wanted_is_not_read(store: &Store) {
    store.put("l", Bytes::from(vec![7; 1000])).unwrap();
    match store.get("l", 999).unwrap_err() {
        Error::TooLong { len: 1000, max: 999, .. } => {}
        error => panic!("{error:?}"),
    }
    assert_eq!(store.get("l", 1000).unwrap().unwrap().len(), 1000);
}

fn one_of_many_gets_a_free_key_and_nobody_a_taken_one(store: &Store) {
    assert_eq!(store.put_new("n", Bytes::from_static(b"first")).unwrap(), Put::Done);
    assert_eq!(store.put_new("n", Bytes::from_static(b"other")).unwrap(), Put::Taken);
    assert_eq!(store.put_new("n", Bytes::from_static(b"first")).unwrap(), Put::Taken);
    assert_eq!(store.get("n", 10).unwrap().unwrap(), b"first");
    for round in 0..10 {
        let (key, won) = (format!("race/{round}"), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for n in 0..6u8 {
                let (key, won, store) = (&key, &won, store.clone());
                scope.spawn(move || {
                    if store.put_new(key, Bytes::from(vec![n; 100])).unwrap() == Put::Done {
                        won.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(won.into_inner(), 1, "round {round}");
        let bytes = store.get(&key, 100).unwrap().unwrap();
        assert!(bytes.len() == 100 && bytes.iter().all(|byte| *byte == bytes[0]));
    }
}

fn a_stream_of_any_length_becomes_one_object(store: &Store) {
    for len in [0, 1, 100_000, 16 << 20, (16 << 20) + 1, 40_000_000] {
        let bytes: Vec<u8> = (0..len).map(|n: usize| (n * 31 / 7 % 251) as u8).collect();
        let mut moved = 0;
        let sent = store.upload("u", &mut bytes.as_slice(), &mut |more| moved += more).unwrap();
        assert_eq!((sent, moved), (len as u64, len as u64));
        assert!(store.get("u", len as u64).unwrap().unwrap() == bytes, "{len}");
    }
}

fn a_stream_that_breaks_off_leaves_what_was_there(store: &Store) {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let len = buf.len().min(self.0);
            self.0 -= len;
            if len == 0 { Err(std::io::ErrorKind::InvalidData.into()) } else { Ok(len) }
        }
    }
    store.put("broken", Bytes::from_static(b"before")).unwrap();
    for len in [1000, 40_000_000] {
        let error = store.upload("broken", &mut Broken(len), &mut |_| {}).unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
        assert_eq!(store.get("broken", 100).unwrap().unwrap(), b"before");
    }
}

fn no_key_leads_out_of_a_store(store: &Store) {
    let long = "a".repeat(256);
    for key in
        ["", "/", "/etc/passwd", "../a", "a/../b", "a/./b", "a//b", "a/", "a\0b", "a\nb", "a\\b", "..", &long]
    {
        let error = store.put(key, Bytes::new()).unwrap_err();
        assert_eq!(error.class(), Class::Usage, "{key:?}");
        assert!(
            store.get(key, 1).is_err() && store.head(key).is_err() && store.get_range(key, 0..1).is_err()
        );
        assert!(store.put_new(key, Bytes::new()).is_err() && store.destroy(&[key.into()]).is_err());
        assert!(store.upload(key, &mut &b""[..], &mut |_| {}).is_err());
    }
}

fn many_objects_are_listed_in_order_and_destroyed_together(store: &Store) {
    let all: Vec<String> = (0..1100).map(|n| format!("many/{n:05}")).collect();
    for key in &all {
        store.put(key, Bytes::from_static(b"x")).unwrap();
    }
    assert_eq!(keys(store, "many/"), all);
    store.destroy(&all).unwrap();
    assert_eq!(keys(store, "many/"), [""; 0]);
}

/// All of it but what only takes long, on a store that is empty.
pub(super) fn all(store: &Store) {
    what_is_put_can_be_read_listed_and_destroyed(store);
    a_range_is_all_of_it_or_an_error(store);
    what_is_longer_than_wanted_is_not_read(store);
    one_of_many_gets_a_free_key_and_nobody_a_taken_one(store);
    a_stream_of_any_length_becomes_one_object(store);
    a_stream_that_breaks_off_leaves_what_was_there(store);
    no_key_leads_out_of_a_store(store);
}

/// Everything, on one ground.
macro_rules! contract {
    ($($ground:ident),*; $tests:tt) => { $(contract! { @one $ground $tests })* };
    (@one $ground:ident { $($test:ident),* $(,)? }) => {
        mod $ground {
            $(#[test]
            fn $test() {
                let ground = super::$ground();
                super::$test(&ground.store);
            })*
        }
    };
}

contract! {
    directory, s3, google; {
        what_is_put_can_be_read_listed_and_destroyed,
        a_range_is_all_of_it_or_an_error,
        what_is_longer_than_wanted_is_not_read,
        one_of_many_gets_a_free_key_and_nobody_a_taken_one,
        a_stream_of_any_length_becomes_one_object,
        a_stream_that_breaks_off_leaves_what_was_there,
        no_key_leads_out_of_a_store,
        many_objects_are_listed_in_order_and_destroyed_together,
    }
}
