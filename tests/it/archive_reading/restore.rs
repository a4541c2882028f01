//! `restore URL@NAME --to TARGET`: onto a machine that never saw the source, onto another filesystem, after kills and faults.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::lab::{Lab, code, errors, json, put, text};
use crate::ground::{Plain, ground};
use crate::s3::{self, Fault};

#[test]
fn any_version_is_restored_to_a_fresh_filesystem_and_is_live() {
    ground!("btrfs");
    let lab = Lab::new(3, 300_000);
    lab.archive(3);
    for n in [2, 3] {
        let (source, to) = (format!("{}@s{n}", lab.url()), format!("{}{n}", lab.to()));
        let dry = json(&lab.good(&["restore", &source, "--to", &to, "--dry-run", "--json"]));
        assert_eq!(dry["cost"]["requests"], serde_json::json!(2 * n), "{dry}");
        let done = json(&lab.good(&["restore", &source, "--to", &to, "--json"]));
        assert_eq!(done["restored"]["version"]["name"], format!("s{n}"), "{done}");
        lab.assert_is(n, Path::new(&to));
    }
    let two = lab.run(&["restore", &format!("{}@s2", lab.url()), "--name", "s3", "--to", &lab.to()]);
    assert_eq!(code(&two), Some(2), "{}", errors(&two));
    let refused = lab.run(&["restore", &lab.url(), "--to", &format!("{}3", lab.to())]);
    assert_eq!(code(&refused), Some(3), "{}", errors(&refused));
    // The newest, over what is live: that is kept.
    lab.good(&["restore", &lab.url(), "--to", &format!("{}2", lab.to()), "--replace"]);
    lab.assert_is(3, Path::new(&format!("{}2", lab.to())));
}

#[test]
fn a_version_is_restored_to_a_filesystem_of_another_kind_as_a_plain_tree() {
    ground!("btrfs", "ext4");
    let lab = Lab::new(3, 300_000);
    lab.archive(3);
    let other = Plain::ext4();
    let to = other.path().join("node");
    let done = lab.good(&["restore", &format!("{}@s3", lab.url()), "--to", &text(&to), "--json"]);
    assert_eq!(json(&done)["plain"], true);
    assert!(errors(&done).contains("a plain tree, no dataset"), "{}", errors(&done));
    lab.assert_is(3, &to);
}

#[test]
fn of_two_versions_of_one_name_the_one_that_is_meant_comes_back() {
    ground!("btrfs", "ext4");
    let lab = Lab::new(2, 50_000);
    let archive = lab.archive(2);
    lab.good(&["destroy", &format!("{}@s1", lab.live())]);
    fs::write(lab.source.path().join("s/height"), "3").expect("writes");
    lab.good(&["snapshot", &lab.live(), "--name", "s1"]);
    let again = text(&lab.source.outside().join("again.cow"));
    lab.good(&["send", &format!("{}@s1", lab.live()), "--from", "s2", "-o", &again]);
    put(&archive, Path::new(&again));
    let other = Plain::ext4();
    let restore = |source: &str, to: &str| {
        let to = other.path().join(to);
        let output = lab.run(&["restore", source, "--to", &text(&to), "--json"]);
        (output, fs::read_to_string(to.join("height")).unwrap_or_default())
    };
    // The newest builds upon the other one of its name.
    let (newest, height) = restore(&lab.url(), "newest");
    assert_eq!(height, "3", "{}", errors(&newest));
    let (refused, _) = restore(&format!("{}@s1", lab.url()), "which");
    assert_eq!(code(&refused), Some(3), "{}", errors(&refused));
    let guid = json(&newest)["restored"]["version"]["guid"].as_str().expect("a guid").to_owned();
    assert!(errors(&refused).contains(&format!("{}@", lab.url())), "{}", errors(&refused));
    assert!(errors(&refused).contains(&guid), "{}", errors(&refused));
    for (n, name) in [&guid, &guid[..13], &guid.to_uppercase()].iter().enumerate() {
        let (output, height) = restore(&format!("{}@{name}", lab.url()), &n.to_string());
        assert_eq!(height, "3", "{name}: {}", errors(&output));
    }
    // A dataset has no two snapshots of one name: that is said before anything is fetched.
    let refused = lab.run(&["restore", &lab.url(), "--to", &lab.to()]);
    assert_eq!(code(&refused), Some(3), "{}", errors(&refused));
    assert!(lab.snapshots().is_empty());
}

#[test]
fn a_restore_that_is_killed_is_done_by_the_next_one_and_fetches_no_stream_twice() {
    ground!("btrfs");
    let lab = Lab::new(3, 20 << 20);
    let archive = lab.archive(3);
    let (url, to) = (lab.url(), lab.to());
    for n in 0..20u64 {
        let mut child = lab
            .command(&["restore", &url, "--to", &to])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        std::thread::sleep(Duration::from_millis(15 * n));
        let _ = child.kill();
        if child.wait().expect("it ends").success() {
            break;
        }
        // What was received is not read again: it is not even there any more.
        if lab.snapshots().len() == 1 {
            let all = archive.parts(None).expect("lists");
            for (part, _) in all.iter().filter(|(part, _)| part.group.base.is_none()) {
                fs::remove_file(lab.dir().join(part.to_string())).expect("removes");
            }
            break;
        }
    }
    if !Path::new(&to).exists() {
        lab.good(&["restore", &url, "--to", &to]);
    }
    lab.assert_is(3, Path::new(&to));
}

#[test]
fn a_full_disk_is_said_and_leaves_room_for_the_next_try() {
    ground!("btrfs", "ext4");
    let lab = Lab::new(2, 30 << 20);
    lab.archive(2);
    let small = Plain::with("ext4", "mkfs.ext4", &["-q", "-F"], "50M");
    let to = small.path().join("node");
    let full = lab.run(&["restore", &lab.url(), "--to", &text(&to)]);
    assert_eq!(code(&full), Some(3), "{}", errors(&full));
    assert!(!to.exists());
    lab.good(&["restore", &format!("{}@s1", lab.url()), "--to", &text(&to)]);
    lab.assert_is(1, &to);
}

#[test]
fn faults_at_each_request_are_ridden_out_or_said_and_the_next_restore_converges() {
    ground!("btrfs");
    let lab = Lab::new(2, 20 << 20);
    let server = s3::Server::start();
    let url = server.url("a");
    lab.fill(&server.store("a"), 2);
    let restore = |to: &str| {
        let mut command = lab.command(&["restore", &url, "--to", to]);
        command.envs(server.env()).output().expect("runs")
    };
    server.forget();
    let first = restore(&format!("{}0", lab.to()));
    assert_eq!(code(&first), Some(0), "{}", errors(&first));
    let n_requests = server.requests().len() as u64;
    let faults = [
        Fault::Status(503),
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::Truncate,
        Fault::Shorter,
        Fault::Longer,
    ];
    for nth in 1..=n_requests {
        server.forget();
        server.fault(nth, faults[nth as usize % faults.len()].clone());
        let to = format!("{}{nth}", lab.to());
        let output = restore(&to);
        if code(&output) != Some(0) {
            assert!(matches!(code(&output), Some(4 | 5)), "request {nth}: {}", errors(&output));
            server.forget();
            let again = restore(&to);
            assert_eq!(code(&again), Some(0), "request {nth}, again: {}", errors(&again));
        }
        lab.assert_is(2, Path::new(&to));
    }
}
