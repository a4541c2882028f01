//! Second opinions: servers that others wrote, where they are installed.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowsnap::endpoint::store::{Bytes, Options, Probed, Put, Store};

use crate::ground::skip;

/// A server that is ended with the test.
struct Running(Child);

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
