//! Send: the kernel's stream, byte for byte, and what ends it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use cowsnap::endpoint::btrfs::send::{Source, newest_stream_version, stream};
use cowsnap::sys::btrfs::{self, SendOptions};

use crate::ground::{Btrfs, ground, run};

fn source(path: &Path, options: SendOptions) -> Source {
    let subvolume = File::open(path).expect("the snapshot is there").into();
    Source { subvolume, subject: path.display().to_string(), options, since: 0 }
}

fn id_of(path: &Path) -> u64 {
    btrfs::subvol_id(File::open(path).expect("it is there").as_fd()).expect("a subvolume")
}

fn bytes_of(source: Source) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream(source).expect("the send starts").read_to_end(&mut bytes).expect("the send ends well");
    bytes
}

fn snapshot(ground: &Btrfs, name: &str) -> std::path::PathBuf {
    let path = ground.path().join(name);
    let source = ground.path().join("data");
    run("btrfs", &["subvolume", "snapshot", "-r", source.to_str().unwrap(), path.to_str().unwrap()]);
    path
}

/// A file's worth of bytes that compress a little.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if state >> 63 == 0 { (state >> 33) as u8 } else { b'x' }
    };
    (0..len).map(|_| next()).collect()
}

fn populated() -> Btrfs {
    let ground = Btrfs::with("1G", &[], "compress-force=zstd");
    let data = ground.subvolume("data");
    for n in 0..200 {
        fs::write(data.join(format!("file {n} %\n")), content(n, 1 << (n % 18))).unwrap();
    }
    ground
}

#[test]
fn the_stream_is_what_btrfs_send_writes_full_and_incremental_in_every_version() {
    ground!("btrfs");
    let ground = populated();
    let first = snapshot(&ground, "first");
    fs::write(ground.path().join("data/file 7 %\n"), content(700, 300_000)).unwrap();
    fs::rename(ground.path().join("data/file 8 %\n"), ground.path().join("data/eight")).unwrap();
    let second = snapshot(&ground, "second");
    let (a, b) = (first.to_str().unwrap(), second.to_str().unwrap());
    let base =
        SendOptions { base: Some(id_of(&first)), clone_sources: vec![id_of(&first)], ..Default::default() };
    let mut cases =
        vec![(vec!["send", "-q", b], SendOptions::default()), (vec!["send", "-q", "-p", a, b], base.clone())];
    if newest_stream_version() >= 2 {
        let (version, compressed) = (2, true);
        cases.push((vec!["send", "-q", "--proto", "2", b], SendOptions { version, ..Default::default() }));
        let options = SendOptions { version, compressed, ..base };
        cases.push((vec!["send", "-q", "--proto", "2", "--compressed-data", "-p", a, b], options));
    }
    for (args, options) in cases {
        let oracle = run("btrfs", &args).stdout;
        assert!(oracle.len() > 1000, "{args:?} wrote next to nothing");
        assert!(bytes_of(source(&second, options)) == oracle, "{args:?}");
    }
}

#[test]
fn an_error_of_the_kernel_comes_out_of_read_and_names_what_was_sent() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let writable = ground.subvolume("data");
    let mut stream = stream(source(&writable, SendOptions::default())).unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains(writable.to_str().unwrap()), "{error}");
}

#[test]
fn a_reader_that_goes_away_ends_the_send_and_its_threads() {
    ground!("btrfs");
    let ground = populated();
    let snapshot = snapshot(&ground, "first");
    let mut stream = stream(source(&snapshot, SendOptions::default())).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    drop(stream);
    // The sender held the snapshot's root open: with it gone, the filesystem can be unmounted.
    run("umount", &[ground.path()]);
}
