//! `fetch` from a server that has faults.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use cowsnap::stream::sign::SigningKey;

use super::lab::{Lab, expect_same, names, noise, text};
use super::server::{Fault, Server};
use crate::ground::{cowsnap, ground, scratch};

/// Bytes, and what `export --public` says of them.
fn published(len: usize) -> (Vec<u8>, Vec<u8>) {
    let bytes = noise(len, 7);
    let pieces: Vec<_> =
        bytes.chunks(1 << 20).map(|piece| blake3::hash(piece).to_hex().to_string()).collect();
    let public = serde_json::json!({
        "format": 1, "kind": "cowsnap-public", "file": "a.bin", "bytes": len, "piece": 1 << 20, "pieces": pieces,
        "blake3": blake3::hash(&bytes).to_hex().to_string(), "created": "2026-11-20T02:00:00Z", "height": 350,
    });
    (bytes, serde_json::to_vec(&public).expect("its keys are texts"))
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(scratch())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("a.bin")
    }

    fn run(&self, url: &str, more: &[&str]) -> Output {
        let mut command = cowsnap(&self.0.path().join("state"));
        command.args(["fetch", url, text(&self.file()), "--json"]).args(more).output().expect("it starts")
    }

    fn good(&self, url: &str, more: &[&str]) -> serde_json::Value {
        let output = self.run(url, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn bad(&self, url: &str, more: &[&str]) -> (i32, String) {
        let output = self.run(url, more);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it went well");
        assert!(!self.file().exists(), "{said}");
        (output.status.code().expect("a code"), said)
    }
}

fn server(len: usize) -> (Server, Vec<u8>) {
    let (bytes, public) = published(len);
    (Server::new(&[("a.bin", bytes.clone()), ("a.bin.json", public)]), bytes)
}

#[test]
fn a_file_comes_in_parts_and_is_what_was_published() {
    for len in [0, 1, (1 << 20) - 1, 1 << 20, (5 << 20) + 77] {
        let (server, bytes) = server(len);
        let place = Place::new();
        let said = place.good(&server.url("a.bin"), &[]);
        assert!(fs::read(place.file()).expect("there") == bytes);
        assert_eq!(said["fetched"]["verified"], true, "{said}");
        assert_eq!(said["described"]["height"], 350);
        assert_eq!(names(place.0.path()), ["a.bin"], "{len}");
        assert_eq!(place.run(&server.url("a.bin"), &[]).status.code(), Some(3), "it is there already");
    }
}

#[test]
fn what_fails_for_a_while_is_tried_again() {
    for fault in
        [Fault::Status(500), Fault::Status(503), Fault::Status(429), Fault::Cut, Fault::Reset, Fault::Damage]
    {
        let (server, bytes) = server(4 << 20);
        server.state().faults = vec![(fault, 2)];
        let place = Place::new();
        place.good(&server.url("a.bin"), &["--jobs", "2"]);
        assert!(fs::read(place.file()).expect("there") == bytes, "{fault:?}");
    }
}

#[test]
fn each_request_may_be_the_one_that_fails() {
    for nth in 0..6 {
        for fault in [Fault::Status(500), Fault::Cut, Fault::Reset, Fault::Damage] {
            let (server, bytes) = server(4 << 20);
            let mut faults = vec![(Fault::Slow(0), nth)];
            faults.retain(|(_, n)| *n > 0);
            faults.push((fault, 1));
            server.state().faults = faults;
            let place = Place::new();
            place.good(&server.url("a.bin"), &["--jobs", "1"]);
            assert!(fs::read(place.file()).expect("there") == bytes, "{fault:?} {nth}");
        }
    }
}

#[test]
fn what_stays_wrong_has_its_exit_code() {
    let url = |server: &Server| server.url("a.bin");
    let (gone, _) = server(1 << 20);
    let place = Place::new();
    let (code, said) = place.bad(&gone.url("nothing.bin"), &["--unverified"]);
    assert!(code == 2 && said.contains("404"), "{code} {said}");
    for (fault, expected) in [
        (Fault::Status(500), 5),
        (Fault::Reset, 5),
        (Fault::Cut, 5),
        (Fault::Status(403), 6),
        (Fault::Status(404), 2),
        (Fault::Damage, 4),
        (Fault::OtherPart, 4),
    ] {
        let (server, _) = server(3 << 20);
        server.state().faults = vec![(fault, usize::MAX)];
        let (code, said) = Place::new().bad(&url(&server), &["--patience", "1"]);
        assert_eq!(code, expected, "{fault:?}: {said}");
    }
    let (slow, _) = server(1 << 20);
    slow.state().faults = vec![(Fault::Slow(30_000), usize::MAX)];
    let began = Instant::now();
    assert_eq!(Place::new().bad(&url(&slow), &["--patience", "1"]).0, 5);
    assert!(began.elapsed() < Duration::from_secs(25));
}

#[test]
fn a_file_that_is_not_what_was_published_is_corrupt_whatever_the_server_can() {
    for no_ranges in [false, true] {
        let (server, bytes) = server(3 << 20);
        server.state().no_ranges = no_ranges;
        let mut other = bytes.clone();
        other[2 << 20] ^= 1;
        server.state().files.insert("/a.bin".into(), other);
        assert_eq!(Place::new().bad(&server.url("a.bin"), &[]).0, 4);
        server.state().files.insert("/a.bin".into(), bytes[..bytes.len() - 1].to_vec());
        assert_eq!(Place::new().bad(&server.url("a.bin"), &[]).0, 4);
        server.state().files.insert("/a.bin".into(), [&bytes[..], b"x"].concat());
        assert_eq!(Place::new().bad(&server.url("a.bin"), &[]).0, 4);
    }
}

#[test]
fn a_server_without_ranges_or_lengths_gives_it_at_once() {
    for (no_ranges, no_length) in [(true, false), (true, true)] {
        let (server, bytes) = server(3 << 20);
        (server.state().no_ranges, server.state().no_length) = (no_ranges, no_length);
        let place = Place::new();
        place.good(&server.url("a.bin"), &[]);
        assert!(fs::read(place.file()).expect("there") == bytes);
        server.state().faults = vec![(Fault::Cut, 1)];
        server.state().no_length = false;
        let place = Place::new();
        place.good(&server.url("a.bin"), &[]);
        assert!(fs::read(place.file()).expect("there") == bytes);
    }
}

#[test]
fn redirects_are_followed_and_a_circle_of_them_is_an_error() {
    let (server, bytes) = server(2 << 20);
    server.state().moved.insert("/b.bin".into(), "/a.bin".into());
    server.state().moved.insert("/b.bin.json".into(), "/a.bin.json".into());
    let place = Place::new();
    place.good(&server.url("b.bin"), &[]);
    assert!(fs::read(place.file()).expect("there") == bytes);
    server.state().moved.insert("/c.bin".into(), "/c.bin".into());
    assert_eq!(Place::new().bad(&server.url("c.bin"), &["--unverified"]).0, 2);
}

#[test]
fn a_file_that_changes_meanwhile_is_not_put_together_of_two() {
    let (server, _) = server(4 << 20);
    server.state().changes = true;
    let place = Place::new();
    let (code, said) = place.bad(&server.url("a.bin"), &["--jobs", "1"]);
    assert!(code == 3 && said.contains("another one"), "{code} {said}");
}

#[test]
fn what_nobody_says_anything_of_is_taken_unverified_only_or_by_its_digest() {
    let bytes = noise(100_000, 1);
    let server = Server::new(&[("a.bin", bytes.clone())]);
    let (code, said) = Place::new().bad(&server.url("a.bin"), &[]);
    assert!(code == 2 && said.contains("--unverified"), "{said}");
    let place = Place::new();
    assert_eq!(place.good(&server.url("a.bin"), &["--unverified"])["fetched"]["verified"], false);
    let digest = blake3::hash(&bytes).to_hex().to_string();
    assert_eq!(Place::new().good(&server.url("a.bin"), &["--blake3", &digest])["fetched"]["verified"], true);
    let other = blake3::hash(b"other").to_hex().to_string();
    let place = Place::new();
    assert_eq!(place.bad(&server.url("a.bin"), &["--blake3", &other]).0, 4);
    assert_eq!(names(place.0.path()), [""; 0]);
}

#[test]
fn a_description_that_is_none_is_as_one_that_is_not_there_if_nobody_needs_it() {
    let bytes = noise(100_000, 1);
    let server = Server::new(&[("a.bin", bytes.clone())]);
    let digest = blake3::hash(&bytes).to_hex().to_string();
    for (absent, code) in [(403, 6), (401, 6), (200, 4)] {
        server.state().absent = absent;
        assert_eq!(Place::new().bad(&server.url("a.bin"), &[]).0, code, "{absent}");
        let key = SigningKey::from_seed([7; 32]).public().to_string();
        let key = ["--verify-key", &key, "--blake3", &digest];
        assert!(matches!(Place::new().bad(&server.url("a.bin"), &key).0, 4 | 6), "{absent}");
        for more in [["--blake3", &digest].as_slice(), &["--unverified"]] {
            let place = Place::new();
            place.good(&server.url("a.bin"), more);
            assert!(fs::read(place.file()).expect("there") == bytes);
        }
    }
    // Beside a description, nobody needs its signature but who asks for it.
    let (bytes, public) = published(1 << 20);
    let server = Server::new(&[("a.bin", bytes), ("a.bin.json", public)]);
    server.state().absent = 403;
    Place::new().good(&server.url("a.bin"), &[]);
}

#[test]
fn a_length_that_no_file_has_is_corrupt_and_nothing_is_made_for_it() {
    let server = Server::new(&[("a.bin", noise(1000, 1))]);
    for len in [u64::MAX, 1 << 60] {
        server.state().says_length = len;
        let place = Place::new();
        let (code, said) = place.bad(&server.url("a.bin"), &["--unverified"]);
        assert!(code == 4 && said.contains("no file has that many"), "{code} {said}");
        assert_eq!(names(place.0.path()), [""; 0]);
    }
}

#[test]
fn patience_is_with_a_server_from_which_something_new_comes() {
    for no_ranges in [false, true] {
        let (server, bytes) = server(1 << 20);
        server.state().no_ranges = no_ranges;
        // Each time another 64 KiB come, after a while: longer in all than patience lasts.
        server.state().faults = vec![(Fault::After(64 << 10), 15)];
        server.state().delay = 100;
        let place = Place::new();
        let began = Instant::now();
        place.good(&server.url("a.bin"), &["--jobs", "1", "--patience", "3"]);
        assert!(fs::read(place.file()).expect("there") == bytes);
        assert!(began.elapsed() > Duration::from_secs(3), "it was over too soon to say anything");
        if !no_ranges {
            assert_eq!(server.given("a.bin"), 64 << 10, "it goes on where it stood");
        }
    }
}

#[test]
fn what_has_no_length_is_fetched_once() {
    let bytes = noise(3 << 20, 1);
    let server = Server::new(&[("a.bin", bytes.clone())]);
    (server.state().no_ranges, server.state().no_length) = (true, true);
    let place = Place::new();
    let said = place.good(&server.url("a.bin"), &["--unverified"]);
    assert_eq!(said["fetched"]["bytes"], 3 << 20);
    assert!(fs::read(place.file()).expect("there") == bytes);
    assert_eq!(server.state().n_whole, 1);
}

#[test]
fn after_a_kill_what_had_come_is_not_fetched_again() {
    let (server, bytes) = server(12 << 20);
    server.state().delay = 60;
    let place = Place::new();
    let url = server.url("a.bin");
    let mut command = cowsnap(&place.0.path().join("state"));
    let mut child =
        command.args(["fetch", &url, text(&place.file()), "--jobs", "1"]).spawn().expect("it starts");
    let noted = place.0.path().join("a.bin.part.json");
    let done = || {
        let bytes = fs::read(&noted).unwrap_or_default();
        let noted: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
        noted.and_then(|noted| Some(noted["done"].as_array()?.len())).unwrap_or(0)
    };
    crate::ground::waits("four parts have come", || done() >= 4);
    child.kill().expect("it is ours");
    child.wait().expect("a child");
    assert!(!place.file().exists());
    let had = done() as u64;
    server.state().given.clear();
    server.state().delay = 0;
    let said = place.good(&url, &[]);
    assert!(fs::read(place.file()).expect("there") == bytes);
    assert_eq!(server.given("a.bin"), (12 - had) << 20);
    assert_eq!(said["fetched"]["fetched_bytes"], (12 - had) << 20);
    assert_eq!(names(place.0.path()), ["a.bin"]);
}

#[test]
fn what_had_come_and_was_changed_since_is_fetched_again() {
    let (server, bytes) = server(4 << 20);
    server.state().faults = vec![(Fault::Slow(0), 3), (Fault::Status(403), usize::MAX)];
    let place = Place::new();
    place.bad(&server.url("a.bin"), &["--jobs", "1"]);
    let part = place.0.path().join("a.bin.part");
    let mut came = fs::read(&part).expect("it stays");
    assert!(came[..3 << 20] == bytes[..3 << 20]);
    came[1_500_000] ^= 1;
    fs::write(&part, came).expect("write");
    server.state().faults.clear();
    server.state().given.clear();
    place.good(&server.url("a.bin"), &[]);
    assert!(fs::read(place.file()).expect("there") == bytes);
    assert_eq!(server.given("a.bin"), 2 << 20);
}

#[test]
fn of_another_file_nothing_is_gone_on_with() {
    let (server, _) = server(4 << 20);
    server.state().faults = vec![(Fault::Slow(0), 2), (Fault::Status(403), usize::MAX)];
    let place = Place::new();
    place.bad(&server.url("a.bin"), &["--jobs", "1"]);
    server.state().faults.clear();
    let (bytes, public) = {
        let bytes = noise(4 << 20, 8);
        let len = bytes.len();
        let pieces: Vec<_> = bytes.chunks(1 << 20).map(|p| blake3::hash(p).to_hex().to_string()).collect();
        let public = serde_json::json!({ "format": 1, "kind": "cowsnap-public", "file": "a.bin", "bytes": len, "piece": 1 << 20, "pieces": pieces, "blake3": blake3::hash(&bytes).to_hex().to_string(), "created": null });
        (bytes, serde_json::to_vec(&public).expect("JSON"))
    };
    server.state().files.insert("/a.bin".into(), bytes.clone());
    server.state().files.insert("/a.bin.json".into(), public);
    server.state().etag = "\"other\"".into();
    server.state().given.clear();
    place.good(&server.url("a.bin"), &[]);
    assert!(fs::read(place.file()).expect("there") == bytes);
    assert_eq!(server.given("a.bin"), 4 << 20);
}

#[test]
fn two_at_once_do_not_write_to_one_file() {
    let (server, _) = server(4 << 20);
    server.state().delay = 300;
    let place = Place::new();
    let url = server.url("a.bin");
    let mut command = cowsnap(&place.0.path().join("state"));
    let mut child =
        command.args(["fetch", &url, text(&place.file()), "--jobs", "1"]).spawn().expect("it starts");
    crate::ground::waits("it has begun", || place.0.path().join("a.bin.part").exists());
    let other = place.run(&url, &[]);
    assert_eq!(other.status.code(), Some(5), "{}", String::from_utf8_lossy(&other.stderr));
    assert!(child.wait().expect("it ends").success());
    assert_eq!(names(place.0.path()), ["a.bin"]);
}

#[test]
fn a_rate_is_kept_by_all_parts_together() {
    let (server, _) = server(3 << 20);
    let place = Place::new();
    let began = Instant::now();
    place.good(&server.url("a.bin"), &["--bandwidth", "2M", "--jobs", "4"]);
    // 3 MiB at 2 MiB a second, but for the bursts.
    assert!(began.elapsed() > Duration::from_millis(700), "{:?}", began.elapsed());
}

#[test]
fn the_simple_server_of_python_has_no_ranges_and_will_do() {
    ground!("python3");
    let (bytes, public) = published(2 << 20);
    let folder = scratch();
    fs::write(folder.path().join("a.bin"), &bytes).expect("write");
    fs::write(folder.path().join("a.bin.json"), public).expect("write");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
    let mut command = std::process::Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]).current_dir(folder.path());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("it starts");
    crate::ground::waits("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let place = Place::new();
    place.good(&format!("http://127.0.0.1:{port}/a.bin"), &[]);
    child.kill().expect("it is ours");
    child.wait().expect("a child");
    assert!(fs::read(place.file()).expect("there") == bytes);
}

/// What an export publishes, served.
fn exported(lab: &Lab, more: &[&str]) -> Server {
    let file = lab.export(
        "a.tar.zst",
        &[&["--public", "--chain", "regtest", "--height-command", "echo 350"], more].concat(),
    );
    let names = ["a.tar.zst", "a.tar.zst.json", "a.tar.zst.json.sig"];
    let read = |name: &'static str| Some((name, fs::read(file.with_file_name(name)).ok()?));
    Server::new(&names.into_iter().filter_map(read).collect::<Vec<_>>())
}

#[test]
fn what_was_published_becomes_a_dataset_elsewhere() {
    ground!("btrfs", "setfacl");
    let lab = Lab::filled();
    let server = exported(&lab, &["--client", "litecoind 0.21"]);
    let public: serde_json::Value =
        serde_json::from_slice(&server.state().files["/a.tar.zst.json"]).expect("JSON");
    assert_eq!((&public["chain"], &public["height"]), (&"regtest".into(), &350.into()));
    let to = lab.ground.path().join("new");
    server.state().faults = vec![(Fault::Cut, 1)];
    lab.good(&["fetch", &server.url("a.tar.zst"), "--to", text(&to), "--snapshot", "first", "--privileged"]);
    expect_same(&lab.live(), &to);
    assert_eq!(names(&lab.out("state/fetch")), [""; 0]);
    assert_eq!(lab.bad(&["fetch", &server.url("a.tar.zst"), "--to", text(&to)]).0, 3);
    lab.expect_nothing_left(&["new"]);
}

#[test]
fn what_lies_in_the_spool_and_is_not_what_was_published_is_fetched_again() {
    ground!("btrfs");
    let lab = Lab::new();
    fs::write(lab.ground.subvolume("chain").join("f"), "1").expect("write");
    lab.snapshot("s");
    let server = exported(&lab, &[]);
    let (url, spool) = (server.url("a.tar.zst"), lab.out("spool"));
    let fetch = |to: &str, url: &str, more: &[&str]| {
        let to = lab.ground.path().join(to);
        let args = ["fetch", url, "--to", text(&to), "--spool", text(&spool)];
        lab.run(&[&args[..], more].concat()).status.code()
    };
    let key = &blake3::hash(cowsnap::endpoint::files::http::shown(&url).as_bytes()).to_hex()[..16];
    let old = spool.join(key).join("a.tar.zst");
    for (to, more) in [("one", [].as_slice()), ("two", &["--unverified"])] {
        if to == "two" {
            server.state().files.remove("/a.tar.zst.json");
        }
        fs::create_dir_all(old.parent().expect("one")).expect("mkdir");
        fs::write(&old, "an older one").expect("write");
        assert_eq!(fetch(to, &url, more), Some(0));
        assert_eq!(fs::read(lab.ground.path().join(to).join("f")).expect("there"), b"1");
    }
    // Behind the question mark is another file.
    fs::create_dir_all(old.parent().expect("one")).expect("mkdir");
    fs::write(&old, "of another").expect("write");
    assert_eq!(fetch("three", &format!("{url}?id=3"), &["--unverified"]), Some(0));
    assert_eq!(fs::read(&old).expect("it stays"), b"of another");
}

#[test]
fn what_is_signed_is_believed_by_its_key_alone() {
    ground!("btrfs");
    let lab = Lab::new();
    fs::write(lab.ground.subvolume("chain").join("f"), "1").expect("write");
    lab.snapshot("s");
    let key = SigningKey::from_seed([7; 32]);
    fs::write(lab.out("key"), key.to_secret_text()).expect("write");
    let server = exported(&lab, &["--sign", text(&lab.out("key"))]);
    let url = server.url("a.tar.zst");
    let fetch = |file: &str, key: &SigningKey| {
        lab.run(&["fetch", &url, text(&lab.out(file)), "--verify-key", &key.public().to_string()])
            .status
            .code()
    };
    assert_eq!(fetch("one", &key), Some(0));
    assert_eq!(fetch("two", &SigningKey::from_seed([8; 32])), Some(6));
    let mut public = server.state().files["/a.tar.zst.json"].clone();
    public.push(b'\n');
    server.state().files.insert("/a.tar.zst.json".into(), public);
    assert_eq!(fetch("three", &key), Some(4));
    server.state().files.remove("/a.tar.zst.json.sig");
    assert_eq!(fetch("four", &key), Some(6));
    assert!(!lab.out("two").exists() && !lab.out("three").exists() && !lab.out("four").exists());
}
