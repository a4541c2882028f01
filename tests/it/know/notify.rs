//! Who is told of runs, through the program: a listener of HTTP, a stand-in for sendmail, a command.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::ground::ground;
use crate::job::{Lab, NODE};

/// Answers each request with one of `answers` in turn, the last one for ever; tells the path and body of each.
fn listener(answers: &'static [&'static str]) -> (u16, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it has one").port();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for (nth, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { continue };
            let mut reader = BufReader::new(stream);
            let (mut first, mut len) = (String::new(), 0);
            if reader.read_line(&mut first).is_err() {
                continue;
            }
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a header");
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    len = value.trim().parse().expect("a length");
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; len];
            reader.read_exact(&mut body).expect("a body");
            let answer = answers[nth.min(answers.len() - 1)];
            let _ = reader.get_mut().write_all(
                format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes(),
            );
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            if sender.send((path, String::from_utf8_lossy(&body).into_owned())).is_err() {
                return;
            }
        }
    });
    (port, receiver)
}

fn told(receiver: &Receiver<(String, String)>) -> (String, String) {
    receiver.recv_timeout(Duration::from_secs(60)).expect("somebody is told")
}

/// A script that appends what it is told to `NAME.log`.
fn script(lab: &Lab, name: &str, lines: &str) -> (PathBuf, PathBuf) {
    let (path, log) = (lab.fs.outside().join(name), lab.fs.outside().join(format!("{name}.log")));
    fs::write(&path, format!("#!/bin/sh\nexec >>{} 2>/dev/null\n{lines}\n", log.display())).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    (path, log)
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Waits until a snapshot would be called otherwise than what was taken before, and pruned here but not at the target.
fn another_second() {
    let second = || jiff::Timestamp::now().as_second();
    let now = second();
    while second() == now {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_failure_is_told_once_its_end_too_and_each_run_is_pinged() {
    ground!("btrfs", "curl");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let (port, pings) = listener(&["200 OK"]);
    let (command, calls) =
        script(&lab, "tell", "echo \"$1 $COWSNAP_JOB $COWSNAP_RESULT $COWSNAP_CLASS\"; cat | head -1");
    let (sendmail, mails) = script(&lab, "sendmail", "echo \"arguments $*\"; cat");
    let notify = format!(
        "[notify]\nping = \"http://127.0.0.1:{port}/ping/1?x=y\"\nmail = \"root@localhost\"\nsendmail = \"{}\"\ncommand = [\"{}\", \"an argument\"]\n",
        sendmail.display(),
        command.display()
    );
    let good = format!("{notify}{NODE}");
    let bad = good.replace("FS/replica", "FS/no/such/place");
    lab.write(&good);
    lab.ends(0, "job run node --dry-run");
    lab.ends(0, "job run node");
    assert_eq!(told(&pings).0, "/ping/1/start?x=y");
    let (path, body) = told(&pings);
    assert!(
        path == "/ping/1?x=y" && body.contains("job node is done") && body.contains("bytes travelled"),
        "{body}"
    );
    assert_eq!((read(&calls), read(&mails)), (String::new(), String::new()), "of a success nobody is told");
    lab.write(&bad);
    for nth in 0..2 {
        lab.ends(7, "job run node");
        told(&pings);
        let (path, body) = told(&pings);
        assert!(path == "/ping/1/fail?x=y" && body.contains("no/such/place"), "{path} {body}");
        let call = read(&calls);
        assert_eq!(call.lines().count(), 2, "run {nth}: a failure is told once\n{call}");
        assert!(call.starts_with("an argument node failure "), "{call}");
    }
    let mail = read(&mails);
    assert_eq!(mail.matches("Subject: cowsnap on ").count(), 1, "{mail}");
    assert!(
        mail.starts_with("arguments -t -oi\nTo: root@localhost\n") && mail.contains(": job node FAILED\n"),
        "{mail}"
    );
    lab.write(&good);
    another_second();
    lab.ends(0, "job run node");
    assert!(read(&calls).contains("an argument node recovery "), "{}", read(&calls));
    assert!(read(&mails).contains(": job node is well again\n"));
    another_second();
    lab.ends(0, "job run node");
    assert_eq!(read(&calls).lines().count(), 4, "of the next success nobody is told");
    // What it was made of before it could be begun is told, too.
    lab.write(&good.replace("FS/node", "FS/gone"));
    lab.ends(2, "job run node");
    assert!(read(&mails).contains("it failed (usage)"), "{}", read(&mails));
}

#[test]
fn whoever_can_not_be_told_changes_nothing() {
    ground!("btrfs", "curl");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let (port, pings) = listener(&["503 Service Unavailable", "200 OK", "404 Not Found"]);
    let (failing, _) = script(&lab, "tell", "exec 2>&1; echo oh no >&2; exit 3");
    let notify = format!(
        "[job.node.notify]\nping = \"http://127.0.0.1:{port}/x\"\nmail = \"root\"\nsendmail = \"/no/such/program\"\ncommand = [\"{}\"]\non = [\"success\"]\n",
        failing.display()
    );
    lab.write(&format!("{NODE}{notify}"));
    let (out, said) = lab.ends(0, "job run node");
    assert!(out.contains("FS/node@"), "{out}");
    // It was tried again where the answer may be another one soon, and not where it is final.
    let paths: Vec<_> = (0..3).map(|_| told(&pings).0).collect();
    assert!(paths == ["/x/start", "/x/start", "/x"] || paths == ["/x/start", "/x", "/x/start"], "{paths:?}");
    for why in ["ping: ", "command: exit status: 3", "mail: /no/such/program: "] {
        assert!(said.contains(&format!("warning: job node: {why}")), "{why}: {said}");
    }
    assert_eq!(lab.json(0, "status")["jobs"][0]["verdict"], "OK");
}

#[test]
fn what_is_no_address_is_told_before_the_night() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    for (wrong, why) in [
        ("mail = \"a@b\\nBcc: c@d\"", "one address is needed"),
        ("mail = \"a@b, c@d\"", "one address is needed"),
        ("mail = \"-oQ/tmp\"", "one address is needed"),
        ("ping = \"file:///etc/shadow\"", "an address is https://HOST/PATH"),
        ("ping = \"http://x/{a,b}\"", "an address is https://HOST/PATH"),
        ("command = [\"tell\"]", "absolute path"),
        ("command = []", "absolute path"),
        ("mail = \"root\"\non = [\"failures\"]", "none of failure, recovery, success"),
        ("mail = \"root\"\non = []", "says nothing"),
        ("ping = \"http://x/\"\non = [\"failure\"]", "a ping is told of all"),
        ("on = [\"failure\"]", "tells nobody"),
    ] {
        fs::write(&config, format!("[notify]\n{wrong}\n")).expect("written");
        let output = crate::ground::cowsnap(folder.path())
            .args(["job", "check"])
            .env("COWSNAP_CONFIG", &config)
            .output();
        let output = output.expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(2) && said.contains(why) && said.contains("notify"),
            "{wrong}: {said}"
        );
    }
}

#[test]
fn a_program_that_nobody_could_call_is_warned_of_before_the_night() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, plain) = (folder.path().join("config.toml"), folder.path().join("plain"));
    fs::write(&plain, "").expect("written");
    let plain = plain.to_str().expect("utf-8");
    let warnings = |lines: &str| {
        let job = "[job.a]\ndatasets = [\"/srv/a\"]\ncrash_consistent = true\n";
        fs::write(&config, format!("{job}{lines}\n")).expect("written");
        let output = crate::ground::cowsnap(folder.path())
            .args(["job", "check", "--json"])
            .env("COWSNAP_CONFIG", &config)
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{lines}: {}", String::from_utf8_lossy(&output.stderr));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        said["warnings"].as_array().expect("a list").clone()
    };
    for (table, key, name) in [
        ("notify", "command = [\"PROGRAM\"]", "notify.command"),
        ("notify", "mail = \"root\"\nsendmail = \"PROGRAM\"", "notify.sendmail"),
        ("hooks", "on_failure = [\"PROGRAM\", \"x\"]", "hooks.on_failure"),
        ("hooks", "before_snapshot = [\"PROGRAM\"]", "hooks.before_snapshot"),
        ("trigger", "number = { command = [\"PROGRAM\"] }\nat_least = 5", "trigger.number"),
    ] {
        let with = |program: &str| warnings(&format!("[job.a.{table}]\n{}", key.replace("PROGRAM", program)));
        for (program, why) in
            [("/nothere", "is not there"), (plain, "is not executable"), ("/usr/bin", "is no file")]
        {
            let said = with(program);
            let text = said.first().and_then(|text| text.as_str()).unwrap_or_default();
            assert!(
                said.len() == 1 && text.contains(&format!("job.a.{name}: {program} {why}")),
                "{key}: {said:?}"
            );
        }
        assert!(with("/bin/true").is_empty(), "{key}");
    }
}

/// A script that does `lines`, with its own standard error.
fn loud(lab: &Lab, name: &str, lines: &str) -> PathBuf {
    let path = lab.fs.outside().join(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    path
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} never was");
}

#[test]
fn whoever_could_not_be_told_is_told_of_the_next_failure() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let down = lab.fs.outside().join("down");
    let (command, calls) = script(&lab, "tell", &format!("echo called; ! test -e {}", down.display()));
    let notify = format!("[notify]\ncommand = [\"{}\"]\n", command.display());
    lab.write(&format!("{notify}{}", NODE.replace("FS/replica", "FS/no/such/place")));
    fs::write(&down, "").expect("written");
    for n in 1..=2 {
        let (_, said) = lab.ends(7, "job run node");
        assert!(said.contains("job node: command: exit status: 1"), "{said}");
        assert_eq!(read(&calls).lines().count(), n);
    }
    fs::remove_file(&down).expect("removed");
    for _ in 0..2 {
        lab.ends(7, "job run node");
        assert_eq!(read(&calls).lines().count(), 3, "once it was heard, it is told once");
    }
}

#[test]
fn each_way_of_being_told_is_tried_again_until_it_was_heard() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let down = lab.fs.outside().join("down");
    let (command, calls) = script(&lab, "tell", &format!("echo called; ! test -e {}", down.display()));
    let (sendmail, mails) = script(&lab, "sendmail", "echo taken; cat >/dev/null");
    let notify = format!(
        "[notify]\ncommand = [\"{}\"]\nmail = \"root@localhost\"\nsendmail = \"{}\"\n",
        command.display(),
        sendmail.display()
    );
    lab.write(&format!("{notify}{}", NODE.replace("FS/replica", "FS/no/such/place")));
    fs::write(&down, "").expect("written");
    let n = |log: &PathBuf| read(log).lines().count();
    for n_calls in 1..=2 {
        lab.ends(7, "job run node");
        assert_eq!((n(&calls), n(&mails)), (n_calls, 1), "the mail was taken, and the command has failed");
    }
    fs::remove_file(&down).expect("removed");
    for _ in 0..2 {
        lab.ends(7, "job run node");
        assert_eq!((n(&calls), n(&mails)), (3, 1));
    }
}

#[test]
fn whoever_could_not_be_told_that_it_is_well_again_is_told_later_and_once() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let down = lab.fs.outside().join("down");
    let line = format!("echo $COWSNAP_RESULT $COWSNAP_CLASS; ! test -e {}", down.display());
    let (command, calls) = script(&lab, "tell", &line);
    let (sendmail, mails) = script(&lab, "sendmail", "grep Subject:");
    let notify = format!(
        "[notify]\ncommand = [\"{}\"]\nmail = \"root@localhost\"\nsendmail = \"{}\"\n",
        command.display(),
        sendmail.display()
    );
    let good = format!("{notify}{NODE}");
    lab.write(&good.replace("FS/replica", "FS/no/such/place"));
    lab.ends(7, "job run node");
    let n = || (read(&calls).lines().count(), read(&mails).lines().count());
    assert_eq!(n(), (1, 1));
    lab.write(&good);
    fs::write(&down, "").expect("written");
    another_second();
    lab.ends(0, "job run node");
    assert_eq!(n(), (2, 2));
    // It is not due, and told nonetheless, to who has not heard it.
    let (_, said) = lab.ends(0, "job run --due");
    assert!(said.contains("job node: command: exit status: 1"), "{said}");
    fs::remove_file(&down).expect("removed");
    for line in ["job run --due", "job run --due", "job run node"] {
        lab.ends(0, line);
        assert_eq!(n(), (4, 2), "{line}: {}", read(&calls));
    }
    let told = read(&calls);
    let told: Vec<_> = told.lines().collect();
    assert!(told[0].starts_with("failure ") && told[1].starts_with("recovery "), "{told:?}");
    assert_eq!((told[2], told[3]), (told[1], told[1]), "it is said as it was");
}

#[test]
fn who_does_not_answer_keeps_no_other_job_from_its_time() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let go = lab.fs.outside().join("go");
    let line = format!("while ! test -e {}; do sleep 0.05; done; echo heard", go.display());
    let (command, calls) = script(&lab, "tell", &line);
    let job = |name: &str| format!("[job.{name}]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n");
    let notify = format!("[job.first.notify]\ncommand = [\"{}\"]\non = [\"success\"]\n", command.display());
    let hooks = format!("[job.second.hooks]\nbefore_snapshot = [\"/bin/touch\", \"{}\"]\n", go.display());
    lab.write(&format!("{}{notify}{}{hooks}", job("first"), job("second")));
    let (_, said) = lab.ends(0, "job run first second");
    assert!(!said.contains("took longer") && read(&calls) == "heard\n", "{said}");
}

#[test]
fn nobody_waits_for_a_run_that_is_over_while_others_are_told_of_it() {
    ground!("btrfs");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let go = lab.fs.outside().join("go");
    let line = format!("echo called; while ! test -e {}; do sleep 0.05; done", go.display());
    let (command, calls) = script(&lab, "tell", &line);
    let job = |name: &str| format!("[job.{name}]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n");
    let notify = format!("[job.node.notify]\ncommand = [\"{}\"]\non = [\"success\"]\n", command.display());
    lab.write(&format!("{}{notify}{}", job("node"), job("other")));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lab.ends(0, "job run node"));
        wait_for("a call", || !read(&calls).is_empty() || first.is_finished());
        let at_work = lab.json(0, "status node")["jobs"][0]["is_at_work"].clone();
        let other = lab.json(0, "job run other");
        fs::write(&go, "").expect("written");
        first.join().expect("it ends");
        assert_eq!(at_work, false);
        assert!(other["jobs"][0]["snapshots"].is_array(), "{other}");
    });
}

#[test]
fn who_is_told_slowly_is_told_before_the_program_ends_and_before_another_job_stops_anything() {
    ground!("btrfs", "loop", "root");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let at = |name: &str| lab.fs.outside().join(name).to_str().expect("utf-8").to_owned();
    let (slow, log) = script(&lab, "slow", &format!("sleep 2; echo told; touch {}", at("told")));
    fs::write(at("up"), "").expect("written");
    let stop = format!(
        "[ -e {told} ] && touch {order}; rm {up}",
        told = at("told"),
        order = at("order"),
        up = at("up")
    );
    lab.write(&format!(
        "[job.first]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n\
         [job.first.notify]\ncommand = [\"{slow}\"]\non = [\"success\"]\n\
         [job.second]\ndatasets = [\"FS/node\"]\n[[job.second.quiesce.service]]\n\
         status = [\"/bin/sh\", \"-c\", \"[ -e {up} ]\"]\nstop = [\"/bin/sh\", \"-c\", \"{stop}\"]\n\
         start = [\"/bin/touch\", \"{up}\"]\n",
        slow = slow.display(),
        up = at("up"),
    ));
    lab.ends(0, "job run first second");
    assert!(fs::exists(at("order")).expect("looked"), "it was stopped while somebody was told");
    assert_eq!(read(&log), "told\n");
    // At the program's end, too.
    lab.ends(0, "job run first");
    assert_eq!(read(&log), "told\ntold\n");
}

#[test]
fn an_answer_that_sends_elsewhere_is_none_and_much_that_is_said_holds_nobody_up() {
    ground!("btrfs", "curl");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let (port, pings) = listener(&["301 Moved Permanently\r\nLocation: http://127.0.0.1:1/"]);
    let command = loud(&lab, "tell", "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo over > $0.log");
    let notify = format!(
        "[job.node.notify]\nping = \"http://127.0.0.1:{port}/x\"\ncommand = [\"{}\"]\non = [\"success\"]\n",
        command.display()
    );
    lab.write(&format!("{NODE}{notify}"));
    let (_, said) = lab.ends(0, "job run node");
    assert_eq!(said.matches("warning: job node: ping: the answer is 301").count(), 2, "{said}");
    assert!(!said.contains("command: "), "{said}");
    assert_eq!(read(&command.with_extension("log")), "over\n");
    assert_eq!([told(&pings).0, told(&pings).0], ["/x/start", "/x"]);
}

#[test]
fn a_run_that_is_left_to_another_minute_has_no_start() {
    ground!("btrfs", "curl");
    let lab = Lab::new("");
    lab.ends(0, "create FS/node");
    let (port, pings) = listener(&["200 OK"]);
    lab.write(&format!(
        "[job.node]\ndatasets = [\"FS/node\"]\nschedule = \"0 0 1 1 *\"\n[[job.node.quiesce.service]]\nstatus = [\"/bin/false\"]\nstop = [\"/bin/true\"]\nstart = [\"/bin/true\"]\n[job.node.notify]\nping = \"http://127.0.0.1:{port}/x\"\n"
    ));
    let leases = lab.fs.outside().join("state/leases");
    fs::create_dir_all(&leases).expect("made");
    let lock = fs::File::create(leases.join("node.lock")).expect("made");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let skipped = lab.json(0, "job run --due");
    assert!(skipped["jobs"][0]["skipped"].is_string(), "{skipped}");
    drop(lock);
    lab.ends(0, "job run --due");
    // One that was told of the first run would have been told before these.
    assert_eq!([told(&pings).0, told(&pings).0], ["/x/start", "/x"]);
}
