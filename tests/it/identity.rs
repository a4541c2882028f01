//! What a version is called and what it holds belong together: increments meet nothing else than what they were made upon.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;

use cowsnap::stream::container::Header;
use cowsnap::stream::reader::Reader;
use cowsnap::stream::writer::{Options, write};
use cowsnap::sys::btrfs::{subvol_set_readonly, sync};

use crate::ground::{self, Btrfs, ground};

/// Two filesystems with a dataset `d` each; the first one's is live.
struct Places {
    here: Btrfs,
    there: Btrfs,
}

impl Places {
    fn new() -> Self {
        let places = Self { here: Btrfs::new(), there: Btrfs::new() };
        fs::write(places.here.subvolume("d").join("f"), b"one").expect("writes");
        places.cowsnap(&["snapshot", &d(&places.here, ""), "--name", "one"], 0);
        fs::write(places.here.path().join("d/f"), b"two").expect("writes");
        places.cowsnap(&["snapshot", &d(&places.here, ""), "--name", "two"], 0);
        places
    }

    /// Runs it and expects that exit code; answers what was said.
    fn cowsnap(&self, args: &[&str], code: i32) -> String {
        let output = ground::cowsnap(self.here.outside()).args(args).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        said
    }

    fn file(&self, name: &str) -> String {
        self.here.outside().join(name).to_str().expect("utf-8").into()
    }

    /// Sends a snapshot from one place to the other, all of it or what is not in `base`.
    fn carry(&self, from: &Btrfs, to: &Btrfs, name: &str, base: Option<&str>) {
        let (snapshot, file) = (d(from, &format!("@{name}")), self.file("carried"));
        let mut args = vec!["send", &snapshot, "-o", &file];
        args.extend(base.iter().flat_map(|base| ["--from", *base]));
        self.cowsnap(&args, 0);
        self.cowsnap(&["receive", &d(to, ""), &file], 0);
        fs::remove_file(file).expect("removes");
    }
}

fn d(ground: &Btrfs, suffix: &str) -> String {
    format!("{}/d{suffix}", ground.path().display())
}

fn kept(ground: &Btrfs, name: &str) -> PathBuf {
    ground.path().join(".cowsnap/datasets/d/snap").join(name)
}

/// Changes a snapshot behind everybody's back, and makes it look untouched.
fn alter(ground: &Btrfs, name: &str) {
    let root = File::open(kept(ground, name)).expect("opens");
    subvol_set_readonly(root.as_fd(), false).expect("writable");
    fs::write(kept(ground, name).join("altered"), b"evil").expect("writes");
    sync(root.as_fd()).expect("commits");
    subvol_set_readonly(root.as_fd(), true).expect("read-only");
}

#[test]
fn an_increment_is_not_applied_to_a_received_base_that_was_altered() {
    ground!("btrfs");
    let places = Places::new();
    places.carry(&places.here, &places.there, "one", None);
    alter(&places.there, "one");
    let file = places.file("two");
    places.cowsnap(&["send", &d(&places.here, "@two"), "--from", "@one", "-o", &file], 0);
    let said = places.cowsnap(&["receive", &d(&places.there, ""), &file], 3);
    assert!(said.contains("not here unchanged"), "{said}");
    assert!(!kept(&places.there, "two").exists());
}

#[test]
fn what_was_altered_is_neither_a_base_to_send_from_nor_sent_under_the_name_of_what_it_was() {
    ground!("btrfs");
    let places = Places::new();
    places.carry(&places.here, &places.there, "one", None);
    alter(&places.here, "one");
    let file = places.file("two");
    for option in ["--from", "--clone-source"] {
        let said = places.cowsnap(&["send", &d(&places.here, "@two"), option, "@one", "-o", &file], 3);
        assert!(said.contains("@one was made writable"), "{said}");
    }
    alter(&places.there, "one");
    places.cowsnap(&["send", &d(&places.there, "@one"), "-o", &file], 3);
    assert!(!fs::exists(file).expect("looks"));
}

#[test]
fn increments_come_back_to_where_their_base_was_made() {
    ground!("btrfs");
    let places = Places::new();
    places.carry(&places.here, &places.there, "one", None);
    // The disaster: work goes on from what was received.
    places.cowsnap(&["clone", &d(&places.there, "@one"), &d(&places.there, "")], 0);
    fs::write(places.there.path().join("d/f"), b"three").expect("writes");
    places.cowsnap(&["snapshot", &d(&places.there, ""), "--name", "three"], 0);
    places.carry(&places.there, &places.here, "three", Some("@one"));
    assert_eq!(fs::read(kept(&places.here, "three").join("f")).expect("reads"), b"three");
}

#[test]
fn a_snapshot_that_is_being_sent_is_in_use_and_not_a_matter_of_privilege() {
    ground!("btrfs");
    let places = Places::new();
    fs::write(places.here.path().join("d/big"), vec![7; 8 << 20]).expect("writes");
    places.cowsnap(&["snapshot", &d(&places.here, ""), "--name", "big"], 0);
    let mut send = ground::cowsnap(places.here.outside())
        .args(["send", "--raw", &d(&places.here, "@big")])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    // The first byte says that it has begun; the rest does not fit into any pipe.
    let out = send.stdout.as_mut().expect("piped");
    std::io::Read::read_exact(out, &mut [0]).expect("a byte");
    let said = places.cowsnap(&["destroy", &d(&places.here, "@big")], 3);
    assert!(said.contains("being sent"), "{said}");
    std::io::copy(out, &mut std::io::sink()).expect("the rest");
    assert!(send.wait().expect("ends").success());
    places.cowsnap(&["destroy", &d(&places.here, "@big")], 0);
}

#[test]
fn a_header_that_calls_an_increment_a_full_stream_is_not_believed() {
    ground!("btrfs");
    let places = Places::new();
    places.carry(&places.here, &places.there, "one", None);
    let (honest, wrong) = (places.file("honest"), places.file("wrong"));
    places.cowsnap(&["send", &d(&places.here, "@two"), "--from", "@one", "-o", &honest], 0);
    let reader = Reader::open(File::open(&honest).expect("opens")).expect("a container");
    let header = Header { base: None, ..reader.header().clone() };
    let out = File::create(&wrong).expect("creates");
    write(&header, reader, out, &Options::default()).expect("writes");
    let said = places.cowsnap(&["receive", &d(&places.there, ""), &wrong], 4);
    assert!(said.contains("in full and is"), "{said}");
    places.cowsnap(&["receive", &d(&places.there, ""), &honest], 0);
}
