//! A command that is shut off from the machine.

use std::path::Path;
use std::process::{Command, Stdio};

use cowsnap::sys::sandbox::{Ids, Sandbox};

use crate::ground::{self, ground};

/// What a shell's script says in there, and whether it succeeded.
fn said(sandbox: &Sandbox, script: &str) -> (String, bool) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = sandbox.spawn(&mut command).expect("started");
    let output = child.wait_with_output().expect("it ends");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

#[test]
fn nothing_of_the_machine_can_be_written_to_and_what_is_shown_can() {
    ground!("root");
    let folder = tempfile::tempdir().expect("a folder");
    let (tree, live) = (folder.path().join("tree"), folder.path().join("live"));
    for (dir, text) in [(&tree, "copy"), (&live, "live")] {
        std::fs::create_dir(dir).expect("made");
        std::fs::write(dir.join("f"), text).expect("written");
    }
    let sandbox = Sandbox { shown: vec![(tree.clone(), live.clone())], ..Sandbox::default() };
    let at = live.display();
    let script = format!(
        "cat {at}/f; echo changed > {at}/f; echo x > /tmp/x && echo ' tmp'; touch /etc/x || touch /x || echo ' read'; \
         echo 1 > /proc/sys/vm/drop_caches || echo ' proc'"
    );
    let (text, _) = said(&sandbox, &script);
    assert_eq!(text, "copy tmp\n read\n proc\n");
    assert_eq!(std::fs::read_to_string(live.join("f")).expect("there"), "live");
    assert_eq!(std::fs::read_to_string(tree.join("f")).expect("there"), "changed\n");
    assert!(!Path::new("/tmp/x").exists());
}

#[test]
fn there_is_no_other_process_and_no_network_but_its_own() {
    ground!("root");
    let script = "ls -d /proc/[0-9]* | wc -l; grep -c lo: /proc/net/dev; echo $$";
    let (text, _) = said(&Sandbox::default(), script);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[1..], ["1", "1"], "a loopback; the first process");
    assert!(lines[0].parse::<u32>().is_ok_and(|n| n <= 3), "{text}");
    // This process can start others still, and sees what it saw.
    assert!(Command::new("/bin/true").status().expect("started").success());
    let machine = Sandbox { network: true, ..Sandbox::default() };
    let (text, _) = said(&machine, "readlink /proc/self/ns/net");
    assert_eq!(
        text.trim_end(),
        std::fs::read_link("/proc/self/ns/net").expect("read").to_str().expect("text")
    );
}

#[test]
fn what_it_starts_ends_with_it() {
    ground!("root");
    let folder = tempfile::tempdir().expect("a folder");
    let shown = folder.path().join("shown");
    std::fs::create_dir(&shown).expect("made");
    let sandbox = Sandbox { shown: vec![(shown.clone(), "/run/tree".into())], ..Sandbox::default() };
    // The child would write after a second.
    let script = "setsid sh -c 'sleep 1; echo late > /run/tree/late' & echo done > /run/tree/done";
    assert!(said(&sandbox, script).1);
    std::thread::sleep(std::time::Duration::from_millis(1300));
    assert!(shown.join("done").exists() && !shown.join("late").exists());
}

#[test]
fn it_is_the_user_that_it_is_told_to_be() {
    ground!("root");
    let daemon = Ids::of("daemon").expect("read").expect("there is such a user");
    assert_eq!(Ids::of("no-such-user-here").expect("read"), None);
    let user = String::from_utf8(ground::run("id", &["-u", "daemon"]).stdout).expect("a number");
    let sandbox = Sandbox { user: Some(daemon), ..Sandbox::default() };
    let (text, _) = said(&sandbox, "id -u");
    assert_eq!(text, user);
}

#[test]
fn services_of_the_machine_can_not_be_talked_to() {
    ground!("root");
    // Not below /tmp, which is hidden anyway.
    let folder = tempfile::Builder::new().prefix("cowsnap-test-").tempdir_in("/var/lib").expect("a folder");
    let path = folder.path().join("socket");
    let _service = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    let script =
        format!("test -c {0} && ! test -S {0} && ! touch {1}/x", path.display(), folder.path().display());
    for network in [false, true] {
        assert!(said(&Sandbox { network, ..Sandbox::default() }, &script).1, "network: {network}");
    }
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
}

#[test]
fn named_pipes_that_somebody_has_open_can_not_be_written_to() {
    ground!("root");
    let folder = tempfile::Builder::new().prefix("cowsnap-test-").tempdir_in("/var/lib").expect("a folder");
    let path = folder.path().join("a pipe");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o666));
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("made");
    // So that its own opening waits for nobody.
    let pipe = std::fs::File::options().read(true).write(true).open(&path).expect("opened");
    rustix::io::ioctl_fionbio(&pipe, true).expect("set");
    assert!(
        said(&Sandbox::default(), &format!("echo heard > '{}'", path.display())).1,
        "it is as if it were"
    );
    let heard = std::io::Read::read(&mut &pipe, &mut [0; 16]);
    assert_eq!(heard.expect_err("nothing is there").kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn what_is_empty_is_whose_it_was_wherever_it_is() {
    ground!("root");
    let folder = tempfile::Builder::new().prefix("cowsnap-test-").tempdir_in("/var/lib").expect("a folder");
    let (tree, live) = (folder.path().join("tree"), folder.path().join("live"));
    for dir in [&tree, &live] {
        std::fs::create_dir_all(dir.join("logs")).expect("made");
        std::fs::write(dir.join("logs/old"), "").expect("written");
    }
    let logs = live.join("logs");
    ground::run("chown", &["daemon", logs.to_str().expect("utf-8")]);
    let sandbox = Sandbox {
        shown: vec![(tree, live.clone())],
        scratch: vec![logs.clone(), "/run/app".into()],
        user: Ids::of("daemon").expect("read"),
        ..Sandbox::default()
    };
    let script = format!(
        "test ! -e {0}/old && touch {0}/new && test -d /run/app && ! touch {1}/x",
        logs.display(),
        live.display()
    );
    assert!(said(&sandbox, &script).1);
    assert!(!logs.join("new").exists());
}
