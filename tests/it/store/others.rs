//! Second opinions: servers that others wrote, where they are installed.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowsnap::Class;
use cowsnap::endpoint::store::{Bytes, Error, Options, Probed, Put, Store};

use super::contract;
use crate::ground::{self, Btrfs, ground, skip};

/// A server that is ended with the test.
struct Running(Child);

/// The account that Azure's emulator knows, and its key: both stand in its manual.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Makes a container there: its arguments are the endpoint, the account, its key and a name.
const MAKE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
endpoint, account, key, name = sys.argv[1:]
said = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
lines = "".join(f"{header}:{value}\n" for header, value in said.items())
text = "PUT" + "\n" * 12 + lines + f"/{account}/{account}/{name}\nrestype:container"
digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
said["Authorization"] = f"SharedKey {account}:{base64.b64encode(digest).decode()}"
url = f"{endpoint}/{name}?restype=container"
urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=said))
"#;

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a program that listens on a port; `None`, with a SKIP line, if there is no such program.
fn start(test: &str, port: u16, command: &mut Command) -> Option<Running> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut running = match spawned {
        Ok(child) => Running(child),
        Err(error) => {
            skip(test, &format!("{}: {error}", command.get_program().display()));
            return None;
        }
    };
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Ok(Some(status)) = running.0.try_wait() {
            skip(test, &format!("{} ends at once: {status}", command.get_program().display()));
            return None;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it does not listen");
        std::thread::sleep(Duration::from_millis(100));
    }
    Some(running)
}

/// What every store does, in short.
fn check(store: &Store) {
    store.put("x/a", Bytes::from_static(b"hello")).unwrap();
    store.put("x/b c", Bytes::from(vec![3; 300_000])).unwrap();
    store.put("y", Bytes::new()).unwrap();
    assert_eq!(store.get("x/a", 10).unwrap().unwrap(), b"hello");
    assert_eq!(store.get("x/none", 10).unwrap(), None);
    assert_eq!(store.get_range("x/b c", 1000..2000).unwrap(), [3; 1000]);
    assert_eq!(store.head("x/b c").unwrap().unwrap().len, 300_000);
    let keys = |prefix: &str| store.list(prefix).unwrap().into_iter().map(|o| o.key).collect::<Vec<_>>();
    assert_eq!(keys(""), ["x/a", "x/b c", "y"]);
    assert_eq!(keys("x/"), ["x/a", "x/b c"]);
    assert_eq!(keys("z/"), [""; 0]);
    store.destroy(&["x/a".into(), "x/none".into(), "y".into()]).unwrap();
    assert_eq!(keys(""), ["x/b c"]);
}

#[test]
fn moto_agrees() {
    let test = "moto_agrees";
    let port = free_port();
    let mut command = Command::new("moto_server");
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let Some(_running) = start(test, port, &mut command) else { return };
    let endpoint = format!("http://127.0.0.1:{port}");
    let bucket =
        std::process::Command::new("curl").args(["-sf", "-X", "PUT", &format!("{endpoint}/bkt")]).status();
    if !bucket.is_ok_and(|status| status.success()) {
        return skip(test, "no bucket could be made with curl");
    }
    let set =
        [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    let options = Options::from_variables(set.map(|(name, value)| (name.into(), value.into())));
    let store = Store::open(&"s3://bkt/p".parse().unwrap(), &options).unwrap();
    check(&store);
    assert_eq!(store.put_new("n", Bytes::from_static(b"1")).unwrap(), Put::Done);
    assert_eq!(store.put_new("n", Bytes::from_static(b"2")).unwrap(), Put::Taken);
    let long: Vec<u8> = (0..20_000_000).map(|n: u32| (n % 251) as u8).collect();
    store.upload("long", &mut long.as_slice(), &mut |_| {}).unwrap();
    assert!(store.get("long", 20_000_000).unwrap().unwrap() == long);
}

/// Azure's emulator with a container `bkt`, and what a program has to find in its environment to get there.
fn azurite(test: &str, dir: &std::path::Path) -> Option<(Running, Vec<(String, String)>)> {
    let port = free_port();
    let mut command = Command::new("azurite-blob");
    command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1"]);
    command.args(["--blobPort", &port.to_string(), "--location"]).arg(dir);
    let running = start(test, port, &mut command)?;
    let endpoint = format!("http://127.0.0.1:{port}/{ACCOUNT}");
    let made =
        Command::new("python3").args(["-c", MAKE_CONTAINER, &endpoint, ACCOUNT, ACCOUNT_KEY, "bkt"]).status();
    if !made.is_ok_and(|status| status.success()) {
        skip(test, "no container could be made with python3");
        return None;
    }
    let set = [
        ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
        ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
        ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY),
    ];
    Some((running, set.map(|(name, value)| (name.into(), value.into())).into()))
}

#[test]
fn azurite_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let Some((running, env)) = azurite("azurite_agrees", dir.path()) else { return };
    let options = Options::from_variables(env.clone());
    let open = |url: &str, options: &Options| Store::open(&url.parse().unwrap(), options).unwrap();
    contract::all(&open("az://bkt/a/b c+d%41", &options));
    assert_eq!(open("az://bkt/probed", &options).probe().unwrap(), Probed::Conditional);
    // More than one request destroys, some of what is not there.
    let store = open("az://bkt/ü", &options);
    let keys: Vec<String> = (0..300).map(|n| format!("many/{n:03} +%41ü")).collect();
    keys.iter().step_by(2).for_each(|key| store.put(key, Bytes::from_static(b"x")).unwrap());
    let listed: Vec<_> = store.list("many/").unwrap().into_iter().map(|object| object.key).collect();
    assert!(listed.iter().eq(keys.iter().step_by(2)), "{listed:?}");
    store.destroy(&keys).unwrap();
    assert_eq!(store.list("").unwrap(), []);
    // A class is said of what goes at once, and refused with what helps of what goes in parts.
    let cool = open("az://bkt/cool", &Options { storage_class: Some("Cool".into()), ..options.clone() });
    assert_eq!(cool.upload("s", &mut &b"short"[..], &mut |_| {}).unwrap(), 5);
    let error = cool.upload("l", &mut vec![0; 17 << 20].as_slice(), &mut |_| {}).unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("--storage-class")), "{error}");

    let missing = open("az://nothing/a", &options);
    for error in [missing.put("a", Bytes::new()).unwrap_err(), missing.head("a").unwrap_err()] {
        let what = matches!(error, Error::NotFound { what: "the container", .. });
        assert!(what && error.hint().is_some(), "{error:?}");
    }
    let wrong = env.iter().map(|(name, value)| match name.ends_with("_KEY") {
        true => (name.clone(), "aGFsbG8=".into()),
        false => (name.clone(), value.clone()),
    });
    let error = open("az://bkt/a", &Options::from_variables(wrong)).get("a", 1).unwrap_err();
    assert_eq!(error.class(), Class::Denied);
    assert!(error.hint().is_some_and(|hint| hint.contains("AZURE_STORAGE_ACCOUNT_KEY")), "{error}");
    drop(running);
    let hasty = Options { patience: Duration::from_millis(300), ..options };
    assert_eq!(open("az://bkt/a", &hasty).get("a", 1).unwrap_err().class(), Class::Unreachable);
}

#[test]
fn a_version_and_an_increment_come_back_from_azurite() {
    ground!("btrfs");
    let (fs, dir) = (Btrfs::new(), tempfile::tempdir().unwrap());
    let Some((_running, env)) = azurite("a_version_from_azurite", dir.path()) else { return };
    let run = |words: &[&str]| {
        let mut command = ground::cowsnap(&fs.outside().join("state"));
        let output = command.args(words).envs(env.iter().cloned()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (url, path) = ("az://bkt/a b+%41/chain", |name: &str| fs.path().join(name));
    let (set, back) = (path("d").display().to_string(), path("back").display().to_string());
    run(&["create", &set]);
    run(&["archive", "add", url, &set]);
    for (name, len) in [("one:", 20_000_000), ("two.", 1000)] {
        let bytes: Vec<u8> = (0..len).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(path("d").join(name.trim_end_matches(['.', ':'])), bytes).unwrap();
        run(&["snapshot", &set, "--name", name]);
        run(&["archive", "push", &set, url, "--max-chain", "2"]);
    }
    run(&["archive", "verify", url]);
    run(&["restore", &format!("{url}@two."), "--to", &back]);
    for name in ["one", "two"] {
        let read = |set: &str| std::fs::read(path(set).join(name)).unwrap();
        assert!(read("d") == read("back"));
    }
    run(&["archive", "prune", url, "--keep-last", "1"]);
}

#[test]
fn moto_knows_nothing_of_googles_conditions_and_that_is_found_out() {
    let (test, port) = ("moto_knows_nothing_of_google", free_port());
    let mut command = Command::new("moto_server");
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let Some(_running) = start(test, port, &mut command) else { return };
    let endpoint = format!("http://127.0.0.1:{port}");
    let bucket = Command::new("curl").args(["-sf", "-X", "PUT", &format!("{endpoint}/bkt")]).status();
    if !bucket.is_ok_and(|status| status.success()) {
        return skip(test, "no bucket could be made with curl");
    }
    let set = [("GOOGLE_BASE_URL", endpoint.as_str()), ("GOOGLE_BEARER_TOKEN", "a")];
    let options = Options::from_variables(set.map(|(name, value)| (name.into(), value.into())));
    let store = Store::open(&"gs://bkt/p".parse().unwrap(), &options).unwrap();
    check(&store);
    let long: Vec<u8> = (0..20_000_000).map(|n: u32| (n % 251) as u8).collect();
    store.upload("long", &mut long.as_slice(), &mut |_| {}).unwrap();
    assert!(store.get("long", 20_000_000).unwrap().unwrap() == long);
    assert!(matches!(store.probe().unwrap(), Probed::NotConditional { .. }));
}

fn web(port: u16) -> Store {
    let url = format!("http://127.0.0.1:{port}/some/folder").parse().unwrap();
    Store::open(&url, &Options::default()).unwrap()
}

#[test]
fn rclone_serves_objects_and_does_not_keep_the_promise_of_conditions() {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut command = Command::new("rclone");
    command
        .args(["serve", "webdav", "--addr", &format!("127.0.0.1:{port}"), "--config", "/dev/null"])
        .arg(dir.path());
    let Some(_running) = start("rclone_serves", port, &mut command) else { return };
    let store = web(port);
    check(&store);
    assert!(matches!(store.probe().unwrap(), Probed::NotConditional { .. }));
}

#[test]
fn wsgidav_serves_objects() {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut command = Command::new("wsgidav");
    command
        .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--auth", "anonymous", "--root"])
        .arg(dir.path());
    let Some(_running) = start("wsgidav_serves_objects", port, &mut command) else { return };
    let store = web(port);
    check(&store);
    println!("wsgidav: {:?}", store.probe().unwrap());
}
