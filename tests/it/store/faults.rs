//! Each fault at each request of a piece of work: it converges, or ends with an error that says so, and never with wrong bytes.

use std::io::Read;
use std::time::{Duration, Instant};

use cowsnap::Class;
use cowsnap::endpoint::store::{Bytes, Error, Options, Probed, Put, Store};

use crate::s3::{Fault, Server};

/// Bytes that tell places apart.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 / 7 % 251) as u8).collect()
}

/// A store that waits for no longer than a test may.
fn hasty(server: &Server) -> Store {
    let options =
        Options { patience: Duration::from_secs(20), stall: Duration::from_millis(500), ..server.options() };
    Store::open(&server.url("p").parse().unwrap(), &options).unwrap()
}

fn faults() -> [(&'static str, Fault); 9] {
    [
        ("500", Fault::Status(500)),
        ("503", Fault::Status(503)),
        ("429", Fault::Status(429)),
        ("500 after", Fault::StatusAfter(500)),
        ("hang", Fault::Hang),
        ("reset before", Fault::ResetBefore),
        ("reset after", Fault::ResetAfter),
        ("truncate", Fault::Truncate),
        ("stall", Fault::Stall),
    ]
}

/// What a push does, more or less.
fn work(store: &Store) {
    let part = bytes(300_000);
    store.put("parts/1", part.clone().into()).unwrap();
    assert_eq!(store.put_new("manifest", Bytes::from_static(b"it is there")).unwrap(), Put::Done);
    assert_eq!(store.put_new("manifest", Bytes::from_static(b"another")).unwrap(), Put::Taken);
    assert_eq!(store.list("parts/").unwrap().len(), 1);
    assert_eq!(store.head("manifest").unwrap().unwrap().len, 11);
    assert!(store.get("parts/1", 300_000).unwrap().unwrap() == part);
    assert!(store.get_range("parts/1", 1000..200_000).unwrap() == part[1000..200_000]);
    assert_eq!(store.get("manifest", 100).unwrap().unwrap(), b"it is there");
    store.destroy(&["parts/1".into(), "manifest".into()]).unwrap();
    assert_eq!(store.list("").unwrap(), []);
}

#[test]
fn every_fault_that_passes_is_overcome_at_each_request() {
    let server = Server::start();
    let store = hasty(&server);
    work(&store);
    let requests = server.requests().len() as u64;
    assert!(requests > 8, "{:?}", server.requests());
    for (name, fault) in faults() {
        for nth in 1..=requests {
            server.forget();
            server.fault(nth, fault.clone());
            eprintln!("{name} at request {nth}");
            work(&store);
        }
    }
}

#[test]
fn an_upload_in_parts_overcomes_every_fault_too() {
    let server = Server::start();
    let store = hasty(&server);
    let sent = bytes(17_000_000);
    let send = || {
        assert_eq!(store.upload("long", &mut sent.as_slice(), &mut |_| {}).unwrap(), sent.len() as u64);
        assert!(store.get("long", sent.len() as u64).unwrap().unwrap() == sent);
    };
    send();
    let requests = server.requests().len() as u64;
    for (name, fault) in
        faults().into_iter().filter(|(name, _)| !matches!(*name, "500" | "503" | "429" | "stall"))
    {
        for nth in 1..=requests {
            server.forget();
            server.fault(nth, fault.clone());
            eprintln!("{name} at request {nth}");
            send();
        }
    }
}

#[test]
fn a_read_that_is_cut_off_goes_on_from_where_it_stood() {
    let server = Server::start();
    let store = hasty(&server);
    let sent = bytes(4_000_000);
    store.put("o", sent.clone().into()).unwrap();
    server.forget();
    server.fault(1, Fault::Truncate);
    assert!(store.get("o", sent.len() as u64).unwrap().unwrap() == sent);
    let asked = server.requests();
    assert_eq!((asked.len(), asked[0].range.as_deref()), (2, None));
    let from: usize =
        asked[1].range.as_deref().unwrap()["bytes=".len()..].split('-').next().unwrap().parse().unwrap();
    assert!(from > 0 && from <= sent.len() / 2, "{from}");
}

#[test]
fn a_body_of_another_length_than_asked_is_an_error_not_a_result() {
    let server = Server::start();
    let store = hasty(&server);
    store.put("o", bytes(1000).into()).unwrap();
    for fault in [Fault::Shorter, Fault::Longer] {
        server.forget();
        server.fault_always(Some(fault));
        let error = store.get_range("o", 100..500).unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error:?}");
    }
}

#[test]
fn a_store_that_stays_away_is_unreachable_and_is_not_waited_for_longer_than_said() {
    let server = Server::start();
    let options = Options { patience: Duration::from_millis(700), ..server.options() };
    let store = Store::open(&server.url("").parse().unwrap(), &options).unwrap();
    server.fault_always(Some(Fault::Status(503)));
    let error = store.put("a", Bytes::new()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { tries: 2.., .. }), "{error:?}");
    assert_eq!(error.class(), Class::Unreachable);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "the store answers 503: SlowDown: made to fail");
    let address = server.options();
    drop(server);
    let gone = Options { patience: Duration::from_millis(300), ..address };
    let error = Store::open(&"s3://bkt/a".parse().unwrap(), &gone).unwrap().list("").unwrap_err();
    assert_eq!(error.class(), Class::Unreachable, "{error:?}");
}

#[test]
fn what_is_final_is_not_tried_again() {
    let server = Server::start();
    let store = hasty(&server);
    server.fault_always(Some(Fault::Status(403)));
    assert_eq!(store.put("a", Bytes::new()).unwrap_err().class(), Class::Denied);
    assert_eq!(server.requests().len(), 1);
    server.forget();
    let error = Store::open(&"s3://no-such-bucket/a".parse().unwrap(), &server.options())
        .unwrap()
        .list("")
        .unwrap_err();
    assert_eq!((error.class(), server.requests().len()), (Class::Usage, 1), "{error:?}");
    assert!(error.to_string().contains("the bucket does not exist"), "{error}");
}

#[test]
fn wrong_credentials_are_denied_and_none_is_ever_shown() {
    let server = Server::start();
    let mut env = server.env();
    env[2].1 = "not that secret".into();
    let options = Options::from_variables(env);
    let store = Store::open(&server.url("x").parse().unwrap(), &options).unwrap();
    let error = store.put("a", Bytes::from_static(b"x")).unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error:?}");
    assert!(error.hint().unwrap().contains("AWS_SECRET_ACCESS_KEY"), "{:?}", error.hint());
    let shown = format!("{error} {error:?} {store:?} {options:?}");
    assert!(!shown.contains("not that secret"), "{shown}");
}

#[test]
fn a_server_that_answers_two_that_each_was_first_is_found_out() {
    assert_eq!(Server::start().store("p").probe().unwrap(), Probed::Conditional);
    for _ in 0..5 {
        let server = Server::stock();
        let store = server.store("p");
        match store.probe().unwrap() {
            Probed::NotConditional { why } => assert!(why.contains("at once"), "{why}"),
            Probed::Conditional => panic!("its conditional writes are not atomic, and it passed"),
        }
        assert_eq!(store.list("").unwrap(), []);
    }
    let dir = tempfile::tempdir().unwrap();
    let url = cowsnap::model::StoreUrl::directory(dir.path()).unwrap();
    let store = Store::open(&url, &Options::default()).unwrap();
    assert_eq!(store.probe().unwrap(), Probed::Conditional);
    assert_eq!(store.list("").unwrap(), []);
}

#[test]
fn no_more_goes_than_the_bandwidth_allows_up_and_down() {
    let server = Server::start();
    let options = Options { bandwidth: Some(4_000_000), ..server.options() };
    let store = Store::open(&server.url("").parse().unwrap(), &options).unwrap();
    let start = Instant::now();
    store.put("a", bytes(2_000_000).into()).unwrap();
    // Half a second, of which a burst and the last piece are not waited for.
    assert!(start.elapsed() > Duration::from_millis(250), "{:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(store.get("a", 2_000_000).unwrap().unwrap().len(), 2_000_000);
    assert!(start.elapsed() > Duration::from_millis(250), "{:?}", start.elapsed());
}

#[test]
fn an_upload_holds_a_few_parts_in_memory_however_long_it_is() {
    /// Zeros, and how much of them was read but is not there yet.
    struct Ahead<'a>(u64, &'a std::cell::Cell<u64>, u64);
    impl Read for Ahead<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let len = (buf.len() as u64).min(self.0);
            (self.0, self.2) = (self.0 - len, self.2 + len);
            assert!(self.2 - self.1.get() <= 7 * (16 << 20), "{} bytes ahead", self.2 - self.1.get());
            buf[..len as usize].fill(0);
            Ok(len as usize)
        }
    }
    let server = Server::start();
    let there = std::cell::Cell::new(0);
    let len = 160 << 20;
    let sent =
        server.store("m").upload("a", &mut Ahead(len, &there, 0), &mut |more| there.set(there.get() + more));
    assert_eq!((sent.unwrap(), there.get()), (len, len));
}

#[test]
fn an_object_that_is_put_anew_while_it_is_read_is_read_anew() {
    let server = Server::start();
    let store = hasty(&server);
    store.put("o", vec![1; 1_000_000].into()).unwrap();
    server.forget();
    server.fault(1, Fault::Truncate);
    let other = store.clone();
    let anew = move || {
        drop(
            std::thread::spawn({
                let other = other.clone();
                move || other.put("o", vec![2; 900_000].into())
            })
            .join(),
        )
    };
    server.fault(2, Fault::Before(std::sync::Arc::new(anew)));
    let got = store.get("o", 2_000_000).unwrap().unwrap();
    assert!(got.iter().all(|byte| *byte == got[0]), "two objects were mixed");
}

#[test]
fn a_storage_class_is_asked_for_in_one_piece_and_in_parts() {
    let server = Server::start();
    let options = Options { storage_class: Some("REDUCED_REDUNDANCY".into()), ..server.options() };
    let store = Store::open(&server.url("").parse().unwrap(), &options).unwrap();
    store.put("a", Bytes::from_static(b"x")).unwrap();
    store.put_new("b", Bytes::from_static(b"x")).unwrap();
    store.upload("c", &mut bytes(17_000_000).as_slice(), &mut |_| {}).unwrap();
    let asked = server.requests();
    let begun = |asked: &&crate::s3::Asked| {
        (asked.method == "PUT" && asked.query.is_empty())
            || asked.query == "uploads"
            || asked.query == "uploads="
    };
    let classes: Vec<_> = asked.iter().filter(begun).map(|asked| asked.class.as_deref()).collect();
    assert_eq!(classes, [Some("REDUCED_REDUNDANCY"); 3], "{asked:?}");
}

#[test]
fn a_store_that_can_not_destroy_many_at_once_destroys_them_one_by_one() {
    let server = Server::start();
    let store = hasty(&server);
    for code in [501, 400, 405] {
        let keys: Vec<String> = (0..20).map(|n| format!("o/{n}")).collect();
        keys.iter().for_each(|key| store.put(key, Bytes::from_static(b"x")).unwrap());
        server.forget();
        server
            .fault_on(|asked| asked.method == "POST" && asked.query.contains("delete"), Fault::Status(code));
        store.destroy(&keys).unwrap();
        let asked = server.requests();
        assert_eq!(asked.iter().filter(|asked| asked.method == "DELETE").count(), 20, "{code}: {asked:?}");
        store.put("last", Bytes::from_static(b"x")).unwrap();
        store.destroy_at_last(&["last".into()]).unwrap();
        server.forget();
        assert_eq!(store.list("").unwrap(), []);
    }
    // Who may not is told so.
    store.put("mine", Bytes::from_static(b"x")).unwrap();
    server.fault_on(|asked| asked.query.contains("delete"), Fault::Status(403));
    assert_eq!(store.destroy(&["mine".into()]).unwrap_err().class(), Class::Denied);
}
