//! Where a store is, and that nothing leads out of it.

use std::os::unix::fs::symlink;

use cowsnap::Class;
use cowsnap::endpoint::store::{Bytes, Options, Put, Store};
use cowsnap::model::StoreUrl;

fn directory(dir: &std::path::Path) -> Store {
    Store::open(&StoreUrl::directory(dir).unwrap(), &Options::default()).unwrap()
}

#[test]
fn a_link_in_a_directory_leads_nowhere() {
    let ground = tempfile::tempdir().unwrap();
    let (dir, outside) = (ground.path().join("store"), ground.path().join("outside"));
    std::fs::create_dir_all(dir.join("x")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "s").unwrap();
    symlink(&outside, dir.join("out")).unwrap();
    symlink(outside.join("secret"), dir.join("x/link")).unwrap();
    let store = directory(&dir);
    store.put("x/a", Bytes::from_static(b"a")).unwrap();
    assert!(!matches!(store.get("out/secret", 10), Ok(Some(_))));
    assert!(store.get("x/link", 10).is_err() && store.put("out/new", Bytes::new()).is_err());
    let _ = store.destroy(&["out/secret".into()]);
    assert_eq!(store.list("").unwrap().into_iter().map(|o| o.key).collect::<Vec<_>>(), ["x/a"]);
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"s");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(store.put_new("x/link", Bytes::from_static(b"a")).unwrap(), Put::Taken);
    store.put("x/link", Bytes::from_static(b"file")).unwrap();
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"s");
}

#[test]
fn what_a_killed_writer_left_is_swept_and_what_another_writes_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = directory(dir.path());
    store.put("a", Bytes::from_static(b"a")).unwrap();
    let writing = dir.path().join(".writing");
    std::fs::write(writing.join("1-1-1"), "half").unwrap();
    let mine = std::fs::File::create(writing.join("2-2-2")).unwrap();
    rustix::fs::flock(&mine, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(store.list("").unwrap().len(), 1);
    store.put("b", Bytes::from_static(b"b")).unwrap();
    let left: Vec<_> = std::fs::read_dir(&writing).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["2-2-2"]);
    assert!(store.put(".writing/x", Bytes::new()).is_err());
}

#[test]
fn folders_that_hold_nothing_any_more_are_gone_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = directory(dir.path());
    std::thread::scope(|scope| {
        for n in 0..3 {
            let store = store.clone();
            scope.spawn(move || {
                for round in 0..30 {
                    let key = format!("deep/er/{n}");
                    store.put(&key, Bytes::from(vec![round; 10])).unwrap();
                    assert_eq!(store.get(&key, 10).unwrap().unwrap(), [round; 10]);
                    store.destroy(&[key]).unwrap();
                }
            });
        }
    });
    assert!(!dir.path().join("deep").exists() && dir.path().exists());
}

#[test]
fn keys_that_a_listing_should_not_hold_lead_nowhere() {
    let server = crate::s3::Server::start();
    let store = server.store("p");
    store.put("good", Bytes::from_static(b"x")).unwrap();
    for name in ["back\\slash", "a\u{85}b"] {
        std::fs::write(server.files().join("p").join(name), "x").unwrap();
    }
    let keys: Vec<_> = store.list("").unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["good"]);
}

#[test]
fn in_the_clear_is_only_talked_to_this_machine_unless_allowed() {
    let open = |endpoint: &str, allow_http| {
        let options = Options { endpoint: Some(endpoint.into()), allow_http, ..Options::default() };
        Store::open(&"s3://b/p".parse().unwrap(), &options).map(drop)
    };
    for endpoint in ["http://127.0.0.1:9", "http://localhost:9/", "http://[::1]:9"] {
        open(endpoint, false).unwrap();
    }
    for endpoint in
        ["http://h.example", "http://10.0.0.1:9000", "http://127.0.0.1.example", "http://localhost@h.example"]
    {
        let error = open(endpoint, false).unwrap_err();
        assert_eq!(error.class(), Class::Usage, "{endpoint}: {error}");
    }
    open("http://h.example", true).unwrap();
    assert!(open("h.example:9000", true).is_err() && open("ftp://h", true).is_err());
    let plain = Store::open(&"http://h.example/x".parse().unwrap(), &Options::default()).unwrap_err();
    assert!(plain.hint().unwrap().contains("--allow-http"), "{plain}");
    let ca = Options {
        ca: Some("/nothing/ca.pem".into()),
        endpoint: Some("https://h".into()),
        ..Options::default()
    };
    assert!(Store::open(&"s3://b/p".parse().unwrap(), &ca).unwrap_err().to_string().contains("certificates"));
}

#[test]
fn azures_emulator_is_talked_to_in_the_clear_on_this_machine_only_and_by_no_other_endpoint() {
    let open = |more: &[(&str, &str)]| {
        let set = more.iter().chain(&[("AZURE_STORAGE_USE_EMULATOR", "true")]);
        let options = Options::from_variables(set.map(|(name, value)| ((*name).into(), (*value).into())));
        Store::open(&"az://b/p".parse().unwrap(), &options).map(drop)
    };
    open(&[]).unwrap();
    open(&[("AZURITE_BLOB_STORAGE_URL", "http://127.0.0.1:9")]).unwrap();
    for (name, value, hint) in [
        ("AZURITE_BLOB_STORAGE_URL", "http://h.example:10000", "--allow-http"),
        ("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9/account", "AZURITE_BLOB_STORAGE_URL"),
    ] {
        let error = open(&[(name, value)]).unwrap_err();
        assert!(error.hint().is_some_and(|said| said.contains(hint)), "{error}");
        assert_eq!(error.class(), Class::Usage);
    }
    let nobody = Store::open(&"az://b/p".parse().unwrap(), &Options::default()).unwrap_err();
    assert!(nobody.hint().is_some_and(|said| said.contains("AZURE_STORAGE_ACCOUNT_NAME")), "{nobody}");
}
