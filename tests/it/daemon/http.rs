//! What it answers, to whom, and what does not bring it down.

use std::collections::BTreeSet;

use super::*;
use crate::know::metrics::parsed;

const TOKEN: &str = "0123456789abcdef0123";

/// Where it listens at a port.
fn port(daemon: &Daemon<'_>) -> String {
    let at =
        || daemon.said().lines().find_map(|line| line.strip_prefix("listens at http://").map(str::to_owned));
    waits("the address", || at().is_some());
    at().expect("it says so").replace("0.0.0.0", "127.0.0.1")
}

fn over_tcp(daemon: &Daemon<'_>, request: &str) -> (u16, String) {
    let stream = TcpStream::connect(port(daemon)).expect("it listens");
    stream.set_read_timeout(Some(LONG)).expect("set");
    exchange(stream, request)
}

fn get(daemon: &Daemon<'_>, path: &str, token: Option<&str>) -> u16 {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    over_tcp(daemon, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{token}\r\n")).0
}

fn post(daemon: &Daemon<'_>, path: &str, token: Option<&str>) -> u16 {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    over_tcp(daemon, &format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{token}\r\n")).0
}

fn token(lab: &Lab, text: &str, mode: u32) {
    fs::write(file(lab, "token"), text).expect("written");
    fs::set_permissions(file(lab, "token"), std::os::unix::fs::PermissionsExt::from_mode(mode))
        .expect("changed");
}

#[test]
fn over_tcp_a_run_takes_the_token_and_other_machines_need_it_for_all_but_health() {
    ground!("btrfs");
    let lab = lab(&YEARLY.replace("schedule = \"0 0 1 1 *\"\n", ""));
    let mode = |path: PathBuf| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).expect("there").permissions())
    };
    let daemon = Daemon::start(&lab, "--listen 127.0.0.1:0");
    assert_eq!(mode(file(&lab, "socket")) & 0o777, 0o600);
    assert_eq!(post(&daemon, "/jobs/node/run", None), 403);
    assert_eq!(post(&daemon, "/jobs/node/run", Some(TOKEN)), 403);
    assert_eq!((get(&daemon, "/metrics", None), get(&daemon, "/healthz", None)), (200, 200));
    drop(daemon);
    // Nothing is there from before that it could go by.
    fs::remove_dir_all(file(&lab, "state/daemon")).expect("removed");
    for (text, bits) in [(TOKEN, 0o644), ("short", 0o600), ("", 0o600)] {
        token(&lab, text, bits);
        let (_, said) = lab.ends(2, "daemon --listen 127.0.0.1:0 --token-file FS/../token");
        assert!(!said.contains(TOKEN), "{said}");
    }
    let (_, said) = lab.ends(2, "daemon --listen 0.0.0.0:0");
    assert!(said.contains("token"), "{said}");
    token(&lab, TOKEN, 0o600);
    let mut daemon = Daemon::start(&lab, "--listen 127.0.0.1:0 --token-file FS/../token");
    for wrong in [None, Some("0123456789abcdef0124"), Some("")] {
        assert_eq!(post(&daemon, "/jobs/node/run", wrong), 401);
        assert_eq!(post(&daemon, "/jobs/nobody/run", wrong), 401, "who may not know is told no names");
    }
    assert_eq!(daemon.n_snapshots(), 0);
    assert_eq!(post(&daemon, "/jobs/nobody/run", Some(TOKEN)), 404);
    assert_eq!(post(&daemon, "/jobs/node/run", Some(TOKEN)), 202);
    waits("the run", || daemon.n_snapshots() == 1);
    // Another token is taken up, and one that can not be used is not.
    token(&lab, &TOKEN.replace('0', "9"), 0o600);
    assert!(daemon.reload().ends_with("STATUS=1 job"));
    assert_eq!(post(&daemon, "/jobs/node/run", Some(TOKEN)), 401);
    token(&lab, TOKEN, 0o644);
    assert!(daemon.reload().contains("kept"));
    assert_eq!(post(&daemon, "/jobs/node/run", Some(TOKEN)), 401);
    assert_eq!(post(&daemon, "/jobs/nobody/run", Some(&TOKEN.replace('0', "9"))), 404);
    // Details are for who may know.
    let health = |token: &str| over_tcp(&daemon, &format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{token}\r\n"));
    assert!(!health("").1.contains("chmod") && !health("").1.contains("token:"));
    drop(daemon);
    // One that begins without a good one calls jobs, lets nobody in by any, and takes up a good one.
    let mut daemon = Daemon::start(&lab, "--listen 0.0.0.0:0 --token-file FS/../token");
    waits("the warning", || daemon.said().contains("nobody has the token"));
    for path in ["/metrics", "/jobs", "/jobs/node"] {
        assert_eq!((get(&daemon, path, None), get(&daemon, path, Some(TOKEN))), (403, 403), "{path}");
    }
    assert_eq!((get(&daemon, "/healthz", None), get(&daemon, "/livez", None)), (503, 200));
    daemon.runs("node");
    waits("a run", || daemon.n_snapshots() == 2);
    token(&lab, TOKEN, 0o600);
    assert!(daemon.reload().ends_with("STATUS=1 job"));
    assert_eq!((get(&daemon, "/metrics", Some(TOKEN)), get(&daemon, "/healthz", None)), (200, 200));
    drop(daemon);
    let daemon = Daemon::start(&lab, "--listen 0.0.0.0:0 --token-file FS/../token");
    for path in ["/metrics", "/jobs", "/jobs/node", "/nothing"] {
        assert_eq!(get(&daemon, path, None), 401, "{path}");
    }
    assert_eq!((get(&daemon, "/healthz", None), get(&daemon, "/metrics", Some(TOKEN))), (200, 200));
}

#[test]
fn what_it_measures_is_what_the_command_does() {
    ground!("btrfs");
    let lab = lab(crate::job::NODE);
    let daemon = Daemon::start(&lab, "");
    waits("the first run", || daemon.get("/jobs/node")["last_run"]["ended"].is_string());
    std::thread::sleep(Duration::from_secs(3)); // What was measured before counts no longer.
    let text = daemon.get("/metrics").as_str().expect("a text").to_owned();
    let (its, commands) = (parsed(&text), parsed(&format!("{}\n", lab.ends(0, "metrics").0)));
    let place = lab.placed("FS");
    let names = |samples: &std::collections::BTreeMap<String, f64>| -> BTreeSet<String> {
        samples.keys().map(|series| series.replace(&place, "FS")).collect()
    };
    // A daemon knows of itself, too.
    let (own, its): (Vec<_>, Vec<_>) =
        its.into_iter().partition(|(series, _)| series.starts_with("cowsnap_daemon_"));
    assert_eq!(
        own,
        [
            ("cowsnap_daemon_calls_failed{job_name=\"node\"}".to_owned(), 0.0),
            ("cowsnap_daemon_config_current".to_owned(), 1.0)
        ]
    );
    let its: std::collections::BTreeMap<_, _> = its.into_iter().collect();
    assert_eq!(names(&its), names(&commands));
    assert!(its.len() > 20);
    let known: BTreeSet<_> = cowsnap::plan::metrics::names().collect();
    assert!(its.keys().all(|series| known.contains(series.split('{').next().unwrap_or_default())));
}

#[test]
fn no_request_brings_it_down_or_holds_up_others() {
    ground!("btrfs");
    let lab = lab(YEARLY);
    let daemon = Daemon::start(&lab, "--listen 127.0.0.1:0");
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(over_tcp(&daemon, &long).0, 431);
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert_eq!(over_tcp(&daemon, &many).0, 431);
    assert_eq!(over_tcp(&daemon, "nonsense\r\n\r\n").0, 400);
    let body = "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n";
    assert_eq!(over_tcp(&daemon, body).0, 413);
    let pieces = format!("{}Transfer-Encoding: chunked\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: x\r\n");
    assert_eq!(over_tcp(&daemon, &format!("{pieces}2000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x2000))).0, 413);
    assert_eq!(over_tcp(&daemon, "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), (200, String::new()));
    assert_eq!(over_tcp(&daemon, "DELETE /jobs HTTP/1.1\r\nHost: x\r\n\r\n").0, 405);
    assert_eq!(over_tcp(&daemon, "GET /../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n").0, 404);
    // More than there are places for, each of which says a little, or nothing.
    let connect = || TcpStream::connect(port(&daemon)).expect("it listens");
    let mut idle: Vec<_> = (0..100).map(|_| connect()).collect();
    for stream in idle.iter_mut().step_by(2) {
        // One of the last may be closed already.
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ");
    }
    assert_eq!(daemon.get("/healthz")["ok"], true, "its other socket has places of its own");
    assert_eq!(get(&daemon, "/healthz", None), 200, "they are let go, one after another");
    drop(idle);
    assert_eq!(get(&daemon, "/healthz", None), 200);
    waits("the run", || daemon.n_snapshots() == 1);
}

#[test]
fn who_connects_and_asks_for_nothing_keeps_nobody_from_an_answer() {
    ground!("btrfs");
    let lab = lab(YEARLY);
    let daemon = Daemon::start(&lab, "--listen 127.0.0.1:0");
    let connect = || {
        let stream = TcpStream::connect(port(&daemon)).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("set");
        stream
    };
    // What a machine as slow as this one takes to let go of somebody who says nothing.
    let began = std::time::Instant::now();
    let _ = connect().read(&mut [0]);
    let patience = began.elapsed();
    let mut idle: Vec<_> = (0..300).map(|_| connect()).collect();
    for stream in idle.iter_mut().step_by(3) {
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ");
    }
    for stream in idle.iter_mut().skip(1).step_by(3) {
        let _ = stream.write_all(b"POST /jobs/node/run HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n");
    }
    let began = std::time::Instant::now();
    assert_eq!(get(&daemon, "/healthz", None), 200);
    assert!(began.elapsed() < patience, "{:?} of {patience:?}", began.elapsed());
    drop(idle);
}

#[test]
fn it_listens_at_several_addresses() {
    ground!("btrfs");
    let lab = lab(YEARLY);
    let daemon = Daemon::start(&lab, "--listen 127.0.0.1:0,FS/../other --listen 127.0.0.2:0");
    waits("all addresses", || daemon.said().matches("listens at ").count() == 4);
    let said = daemon.said();
    let places: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("listens at ")).collect();
    assert_eq!(places.len(), 4, "{said}");
    let request = "GET /jobs HTTP/1.1\r\nHost: x\r\n\r\n";
    for place in places {
        let (status, text) = match place.strip_prefix("http://") {
            Some(at) => exchange(TcpStream::connect(at).expect("it listens"), request),
            None => exchange(UnixStream::connect(place).expect("it listens"), request),
        };
        assert!(status == 200 && text.contains("\"node\""), "{place}: {status} {text}");
    }
    // One that is in use is told, and nothing is left of the others.
    let (_, said) = lab.ends(5, "daemon --state-dir FS/../second --listen FS/../third,FS/../other");
    assert!(said.contains("somebody does already") && !file(&lab, "third").exists(), "{said}");
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!file(&lab, "other").exists() && !file(&lab, "socket").exists());
}

#[test]
fn one_more_look_than_there_are_places_for_waits_for_its_turn() {
    ground!("btrfs");
    let lab = lab(&format!("{YEARLY}{SLOW}"));
    let daemon = Daemon::start(&lab, "");
    waits("the first run", || daemon.get("/jobs/node")["last_run"]["ended"].is_string());
    waits("no job is called", || daemon.children().is_empty());
    let record = file(&lab, "state/runs/slow.json");
    ground::run("mkfifo", &[record.to_str().expect("utf-8")]);
    std::thread::scope(|scope| {
        let hanging: Vec<_> = (0..4).map(|_| scope.spawn(|| daemon.ask("GET", "/jobs/slow").0)).collect();
        assert!(hanging.into_iter().all(|answer| answer.join().expect("answered") == 503));
        // Their threads are there still.
        let fifth = scope.spawn(|| daemon.ask("GET", "/jobs/node").0);
        std::thread::sleep(Duration::from_millis(500));
        let open = fs::File::options().read(true).write(true).open(&record).expect("opened");
        fs::remove_file(&record).expect("removed");
        drop(open);
        assert_eq!(fifth.join().expect("answered"), 200);
    });
}

#[test]
fn why_a_run_failed_is_told_to_who_may_know() {
    ground!("btrfs");
    let config = "[job.node]\ndatasets = [\"FS/node\"]\n[job.node.flush]\ncommand = [\"/no/such/secret\"]\nafter = [\"/bin/true\"]\n";
    let lab = lab(config);
    token(&lab, TOKEN, 0o600);
    let daemon = Daemon::start(&lab, "--listen 127.0.0.1:0 --token-file FS/../token");
    daemon.ask("POST", "/jobs/node/run");
    waits("its failure", || daemon.get("/jobs/node")["last_run"]["failure"].is_object());
    let ask = |token: &str| over_tcp(&daemon, &format!("GET /jobs/node HTTP/1.1\r\nHost: x\r\n{token}\r\n"));
    let (status, text) = ask("");
    assert!(status == 200 && text.contains("\"class\"") && !text.contains("secret"), "{text}");
    let (status, text) = ask(&format!("Authorization: Bearer {TOKEN}\r\n"));
    assert!(status == 200 && text.contains("secret"), "{text}");
    assert!(daemon.get("/jobs/node").to_string().contains("secret"));
    fs::write(file(&lab, "state/runs/node.json"), "{").expect("written");
    let (status, text) = ask("");
    assert!(status == 200 && text.contains("damaged") && !text.contains("node.json"), "{text}");
}

#[test]
fn a_disk_that_hangs_holds_up_what_is_measured_and_nothing_else() {
    ground!("btrfs");
    let lab = lab(&format!("{YEARLY}{SLOW}"));
    let daemon = Daemon::start(&lab, "");
    waits("the first run", || daemon.get("/jobs/node")["last_run"]["ended"].is_string());
    // Whoever opens it waits, as on a server of files that does not answer.
    let record = file(&lab, "state/runs/slow.json");
    ground::run("mkfifo", &[record.to_str().expect("utf-8")]);
    std::thread::scope(|scope| {
        let metrics: Vec<_> = (0..3).map(|_| scope.spawn(|| daemon.ask("GET", "/metrics"))).collect();
        let records: Vec<_> = (0..6).map(|_| scope.spawn(|| daemon.ask("GET", "/jobs/slow").0)).collect();
        assert_eq!(daemon.get("/healthz")["ok"], true);
        assert!(records.into_iter().all(|answer| answer.join().expect("answered") == 503));
        for answer in metrics {
            let (status, text) = answer.join().expect("answered");
            let samples = parsed(text.as_str().expect("a text"));
            let readable = |job: &str| {
                let is_its =
                    |series: &String| series.starts_with("cowsnap_dataset_readable") && series.contains(job);
                samples.iter().find(|(series, _)| is_its(series)).map(|(_, number)| *number)
            };
            assert_eq!((status, readable("\"slow\""), readable("\"node\"")), (200, Some(0.0), Some(1.0)));
        }
    });
    // It is told at once by now, and no more threads wait for it, however often it is asked for.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(3));
        daemon.get("/metrics");
    }
    assert!(threads(&daemon) < 16, "each request leaves a thread behind");
    // Who waited goes on when it answers again.
    let open = fs::File::options().read(true).write(true).open(&record).expect("opened");
    fs::remove_file(&record).expect("removed");
    drop(open);
    waits("what it reads", || daemon.ask("GET", "/jobs/slow").0 == 200);
}

fn threads(daemon: &Daemon<'_>) -> usize {
    fs::read_dir(format!("/proc/{}/task", daemon.pid().as_raw_nonzero())).expect("read").count()
}
