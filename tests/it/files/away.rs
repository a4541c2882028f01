//! Archives of files in a store: written there, imported and fetched from there, whatever goes wrong on the way.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::lab::{Lab, expect_same, names, noise, text};
use crate::ground::{cowsnap, ground};
use crate::s3::{Asked, Fault, Server};

/// A dataset, and a server.
struct Away {
    lab: Lab,
    server: Server,
}

impl Away {
    fn new(lab: Lab) -> Self {
        Self { lab, server: Server::start() }
    }

    /// One whose archive goes in two parts.
    fn long() -> Self {
        let lab = Lab::new();
        let live = lab.ground.subvolume("chain");
        (0..4).for_each(|n| fs::write(live.join(format!("f{n}")), noise(5 << 20, n)).expect("write"));
        lab.snapshot("s");
        Self::new(lab)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = cowsnap(&self.lab.out("state"));
        command.args(args).envs(self.server.env());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("it starts")
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn bad(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} went well");
        (output.status.code().expect("a code"), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn snapshot(&self) -> String {
        format!("{}@s", text(&self.lab.live()))
    }

    fn export(&self, url: &str, more: &[&str]) -> String {
        self.good(&[&["export", &self.snapshot(), url], more].concat())
    }

    /// What is in the bucket, be it an object or a part of none.
    fn held(&self) -> Vec<String> {
        let files = self.server.files();
        let parts = names(files.parent().expect("a ground")).into_iter();
        names(&files).into_iter().chain(parts.filter(|name| name.starts_with(".upload_id-"))).collect()
    }

    fn objects(&self) -> Vec<String> {
        let objects = self.server.store("").list("").expect("a list");
        objects.into_iter().map(|object| object.key).collect()
    }

    fn to(&self) -> PathBuf {
        self.lab.ground.path().join("to")
    }

    /// Imports it, and takes the result away again if it is the same.
    fn expect_imports(&self, url: &str) {
        self.good(&["import", url, "--to", text(&self.to())]);
        expect_same(&self.lab.live(), &self.to());
        self.good(&["destroy", text(&self.to())]);
    }
}

#[test]
fn an_archive_goes_to_a_store_and_comes_back_from_it() {
    ground!("btrfs");
    let away = Away::new(Lab::filled());
    let url = away.server.url("a/chain.tar.zst");
    let said = away.export(&url, &["--dry-run"]);
    assert!(said.contains(&format!("to {url}")), "{said}");
    assert_eq!(away.objects(), [""; 0]);
    let said: serde_json::Value = serde_json::from_str(&away.export(&url, &["--json"])).expect("JSON");
    assert_eq!(said["file"], url);
    assert_eq!(away.objects(), ["a/chain.tar.zst", "a/chain.tar.zst.manifest.json"]);
    let puts: Vec<_> = away.server.requests().into_iter().filter(|asked| asked.method == "PUT").collect();
    assert_eq!(puts.last().map(|put| put.key.as_str()), Some("a/chain.tar.zst.manifest.json"));
    away.server.forget();
    away.expect_imports(&url);
    let gets = away.server.requests();
    assert!(gets.iter().any(|asked| asked.range.is_some()), "{gets:?}");
    // The same file as here.
    let here = away.lab.export("chain.tar.zst", &[]);
    assert!(
        fs::read(away.server.files().join("a/chain.tar.zst")).expect("read") == fs::read(here).expect("read")
    );
    let (code, said) = away.bad(&["export", &away.snapshot(), &url]);
    assert!(code == 3 && said.contains("exists already"), "{code} {said}");
    // Called as its dataset and date are.
    let folder = format!("{}/", away.server.url("folder"));
    away.export(&folder, &["--format", "tar"]);
    let named = away.objects().into_iter().find(|key| key.starts_with("folder/")).expect("an object");
    assert!(named.starts_with("folder/chain-") && named.ends_with(".tar"), "{named}");
    away.expect_imports(&away.server.url(&named));
    away.lab.expect_nothing_left(&[]);
}

#[test]
fn a_directory_named_as_a_store_is_that_directory() {
    ground!("btrfs");
    let away = Away::new(Lab::filled());
    let file = away.lab.out("x.tar.zst");
    let url = format!("file://{}", text(&file));
    away.export(&url, &[]);
    assert!(file.exists() && away.lab.out("x.tar.zst.manifest.json").exists());
    away.expect_imports(&url);
    let (code, said) = away.bad(&["export", &away.snapshot(), &url]);
    assert!(code == 3 && said.contains("exists already"), "{code} {said}");
}

#[test]
fn a_long_archive_goes_in_parts_and_is_fetched_by_ranges_with_what_was_published() {
    ground!("btrfs");
    let away = Away::long();
    let url = away.server.url("p/chain.tar.zst");
    let key = away.lab.out("key");
    away.good(&["keygen", text(&key)]);
    away.export(&url, &["--public", "--chain", "regtest", "--height", "350", "--sign", text(&key)]);
    assert!(away.server.requests().iter().any(|asked| asked.query.contains("partNumber=2")));
    let beside = ["", ".json", ".json.sig", ".manifest.json"].map(|more| format!("p/chain.tar.zst{more}"));
    assert_eq!(away.objects(), beside);
    let public = format!("{}.pub", text(&key));
    let file = away.lab.out("copy.tar.zst");
    let fetch = ["fetch", &url, text(&file), "--verify-key", &public];
    let said = away.good(&fetch);
    assert!(said.contains("regtest, height 350"), "{said}");
    let there = fs::read(away.server.files().join("p/chain.tar.zst")).expect("read");
    assert!(fs::read(&file).expect("read") == there);
    away.good(&["fetch", &url, "--to", text(&away.to()), "--verify-key", &public]);
    expect_same(&away.lab.live(), &away.to());
    away.good(&["destroy", text(&away.to())]);
    away.expect_imports(&url);
    // What is damaged there is noticed, and nothing of it is left here.
    let mut other = there.clone();
    other[18 << 20] ^= 1;
    away.server.store("").put("p/chain.tar.zst", other.into()).expect("put");
    for args in [["import", &url, "--to", text(&away.to())], ["fetch", &url, "--to", text(&away.to())]] {
        let (code, said) = away.bad(&args);
        assert_eq!(code, 4, "{args:?}: {said}");
        away.lab.expect_nothing_left(&[]);
    }
    let (code, said) = away.bad(&["import", &away.server.url("p/none"), "--to", text(&away.to())]);
    assert!(code == 2 && said.contains("does not exist"), "{code} {said}");
    let (code, said) = away.bad(&["fetch", &away.server.url("p/none"), "--unverified"]);
    assert!(code == 2 && said.contains("does not exist"), "{code} {said}");
}

#[test]
fn a_download_from_a_store_goes_on_where_it_was_killed() {
    ground!("btrfs");
    let away = Away::long();
    let url = away.server.url("a.tar.zst");
    away.export(&url, &["--public"]);
    away.server.forget();
    let file = away.lab.out("copy");
    let fetch = ["fetch", &url, text(&file), "--jobs", "1", "--json"];
    // The second piece never comes.
    let hung = Arc::new(AtomicBool::new(false));
    let sees = hung.clone();
    away.server.fault(
        7,
        Fault::Before(Arc::new(move || {
            sees.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(20));
        })),
    );
    let mut child = away.command(&fetch).stdout(Stdio::null()).spawn().expect("it starts");
    let since = Instant::now();
    while !hung.load(Ordering::SeqCst) && since.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.try_wait().expect("a child").is_none(), "it ended: {:?}", away.server.requests());
    child.kill().expect("it is ours");
    child.wait().expect("a child");
    assert!(!file.exists());
    let said: serde_json::Value = serde_json::from_str(&away.good(&fetch)).expect("JSON");
    let (bytes, now) = (&said["fetched"]["bytes"], &said["fetched"]["fetched_bytes"]);
    assert!(now.as_u64() < bytes.as_u64(), "{said}");
    assert_eq!(said["fetched"]["verified"], true);
}

#[test]
fn each_request_of_an_export_may_fail_and_nothing_is_left_that_is_not_whole() {
    ground!("btrfs");
    let away = Away::long();
    let url = away.server.url("a.tar.zst");
    let clear = || away.server.store("").destroy(&away.objects()).expect("destroyed");
    away.server.forget();
    away.export(&url, &[]);
    let n_requests = away.server.requests().len() as u64;
    assert!(n_requests > 5, "{:?}", away.server.requests());
    let read = || fs::read(away.server.files().join("a.tar.zst")).expect("read");
    let whole = read();
    clear();
    let mut n_failed = 0;
    for nth in 1..=n_requests {
        for fault in [Fault::Status(403), Fault::Status(503), Fault::ResetAfter] {
            away.server.forget();
            away.server.fault(nth, fault);
            let output = away.run(&["export", &away.snapshot(), &url]);
            away.server.forget();
            match output.status.code() {
                // The same snapshot gives the same bytes.
                Some(0) => {
                    assert!(read() == whole, "request {nth}");
                    assert_eq!(away.objects(), ["a.tar.zst", "a.tar.zst.manifest.json"]);
                }
                code => {
                    n_failed += 1;
                    assert_eq!(code, Some(6), "{nth}: {}", String::from_utf8_lossy(&output.stderr));
                    assert_eq!(away.held(), [""; 0], "request {nth}");
                }
            }
            clear();
        }
    }
    assert!(n_failed > 2, "only {n_failed} failed");
    away.export(&url, &[]);
    away.expect_imports(&url);
}

#[test]
fn a_signal_in_the_midst_of_an_upload_leaves_no_object_and_no_part_and_neither_does_a_failure_of_who_writes()
{
    ground!("btrfs");
    let away = Away::long();
    let url = away.server.url("a.tar.zst");
    let export = ["export", &away.snapshot(), &url];
    away.server.forget();
    away.good(&export);
    let parts = away.server.requests().iter().position(|asked| asked.query.contains("partNumber"));
    let first_part = parts.expect("a part") as u64 + 1;
    away.server.store("").destroy(&away.objects()).expect("destroyed");
    away.server.forget();
    let came = Arc::new(AtomicBool::new(false));
    let sees = came.clone();
    away.server.fault(first_part, Fault::Hang);
    away.server.fault(first_part + 1, Fault::After(Arc::new(move || sees.store(true, Ordering::SeqCst))));
    let mut child = away.command(&export).stderr(Stdio::piped()).spawn().expect("it starts");
    let since = Instant::now();
    while !came.load(Ordering::SeqCst) && since.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.try_wait().expect("a child").is_none(), "it ended: {:?}", away.server.requests());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = away.server.requests();
    assert!(
        asked.iter().any(|asked| asked.method == "DELETE" && asked.query.contains("uploadId")),
        "{asked:?}"
    );
    assert_eq!(away.held(), [""; 0]);
    // Killed, it leaves no object either; its parts are the store's to clear away.
    away.server.forget();
    away.server.fault(first_part, Fault::Hang);
    let mut child = away.command(&export).spawn().expect("it starts");
    let since = Instant::now();
    let has_begun = || away.server.requests().iter().any(|asked| asked.query.contains("partNumber"));
    while !has_begun() && since.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("it is ours");
    child.wait().expect("a child");
    away.server.forget();
    assert_eq!(away.objects(), [""; 0]);
    away.good(&export);
    away.expect_imports(&url);
}

#[test]
fn who_is_faster_keeps_the_name_and_what_is_put_anew_while_it_is_read_is_not_believed() {
    ground!("btrfs");
    let away = Away::long();
    let url = away.server.url("a.tar.zst");
    let export = ["export", &away.snapshot(), &url];
    away.good(&export);
    let there = fs::read(away.server.files().join("a.tar.zst")).expect("read");
    away.server.store("").destroy(&away.objects()).expect("destroyed");
    away.server.forget();
    let at = away.server.files().join("a.tar.zst");
    let put = move || fs::write(&at, "somebody else's").expect("written");
    let begins = |asked: &Asked| asked.method == "POST" && asked.query.starts_with("uploads");
    away.server.fault_on(begins, Fault::Before(Arc::new(put)));
    let (code, said) = away.bad(&export);
    assert!(code == 3 && said.contains("exists already"), "{code} {said}");
    assert_eq!(away.held(), ["a.tar.zst"]);
    assert_eq!(fs::read(away.server.files().join("a.tar.zst")).expect("read"), b"somebody else's");
    // A tar that says nothing of itself, of two halves.
    let plain = away.lab.out("plain");
    fs::write(&plain, &there).expect("written");
    let tar = away.lab.out("plain.tar");
    let status = Command::new("tar").args(["-C", text(&away.lab.live()), "-cf", text(&tar), "."]).status();
    assert!(status.expect("tar").success());
    let store = away.server.store("");
    store.put("plain.tar", fs::read(&tar).expect("read").into()).expect("put");
    let (from, to) = (away.server.url("plain.tar"), away.to());
    let import = ["import", &from, "--to", text(&to), "--unverified"];
    away.server.forget();
    away.good(&import);
    away.good(&["destroy", text(&away.to())]);
    let last = away.server.requests().len() as u64;
    let at = away.server.files().join("plain.tar");
    away.server.forget();
    let put = move || {
        let bytes = fs::read(&at).expect("read");
        fs::write(&at, &bytes).expect("written");
        let later = std::time::SystemTime::now() + Duration::from_secs(5);
        fs::File::options().write(true).open(&at).and_then(|file| file.set_modified(later)).expect("a time");
    };
    away.server.fault(last, Fault::Before(Arc::new(put)));
    let (code, said) = away.bad(&import);
    assert!(code == 3 && said.contains("put anew"), "{code} {said}");
    away.lab.expect_nothing_left(&[]);
}

#[test]
fn options_of_stores_are_refused_where_there_is_none() {
    ground!("btrfs");
    let away = Away::new(Lab::filled());
    let (file, to) = (away.lab.out("x.tar"), away.to());
    for args in [
        ["export", &away.snapshot(), text(&file), "--region", "r"].as_slice(),
        &["import", text(&file), "--to", text(&to), "--bandwidth", "1M"],
        &["fetch", "https://127.0.0.1:1/x", "--profile", "p"],
        &["export", &away.snapshot(), "ssh://host/x"],
        &["export", &away.snapshot(), "s3://bkt/../x"],
        &["fetch", "file:///x", "--unverified"],
    ] {
        let (code, said) = away.bad(args);
        assert_eq!(code, 2, "{args:?}: {said}");
    }
    assert!(!file.exists());
}

#[test]
fn an_import_that_spools_goes_on_after_a_kill_with_what_had_come() {
    ground!("btrfs");
    let away = Away::new({
        let lab = Lab::new();
        let live = lab.ground.subvolume("chain");
        (0..10).for_each(|n| fs::write(live.join(format!("f{n}")), noise(5 << 20, n)).expect("write"));
        lab.snapshot("s");
        lab
    });
    let url = away.server.url("chain.tar.zst");
    away.export(&url, &[]);
    let to = away.to();
    let import = ["import", &url, "--to", text(&to), "--spool"];
    // Behind the first 16 MiB nothing comes.
    let is_behind = |asked: &Asked| {
        let first = asked
            .range
            .as_deref()
            .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
        first.is_some_and(|first: u64| first >= 16 << 20)
    };
    away.server.forget();
    away.server.fault_on(is_behind, Fault::Hang);
    let mut child =
        away.command(&import).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let spool = away.lab.out("state").join("fetch");
    let noted = || {
        let mut folders = fs::read_dir(&spool).into_iter().flatten().flatten();
        folders.any(|folder| {
            let text = fs::read_to_string(folder.path().join("chain.tar.zst.part.json")).unwrap_or_default();
            serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|noted| noted["done"][0].is_array())
        })
    };
    crate::ground::waits("the first piece", noted);
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(!to.exists());
    away.server.forget();
    away.good(&import);
    let asked = away.server.requests();
    let again = asked.iter().filter(|asked| asked.range.is_some() && !is_behind(asked)).count();
    assert_eq!(again, 0, "what had come does not come again: {asked:?}");
    expect_same(&away.lab.live(), &to);
    assert_eq!(names(&spool), [""; 0], "the file is not kept");
    // Of what is here already there is nothing to spool.
    let (code, said) = away.bad(&["import", "here.tar", "--to", text(&away.lab.out("x")), "--spool"]);
    assert!(code == 2 && said.contains("--spool"), "{code} {said}");
}
