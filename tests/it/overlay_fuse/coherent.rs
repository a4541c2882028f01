//! Who has a file open where data goes past the process: he sees what others write, by whichever way.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::ground::ground;
use crate::mapped::Mapped;
use crate::overlay::lab::Lab;

const FUSE: [&str; 2] = ["--mode", "fuse"];
/// All of them are read through the process.
const SIZES: [usize; 3] = [5, 200_000, 1 << 20];

fn to_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("opened to write")
}

/// All of it, by a descriptor that is there already.
fn all(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    let mut len = 0;
    while let n @ 1.. = file.read_at(&mut bytes[len..], len as u64).expect("read") {
        len += n;
    }
    bytes.truncate(len);
    bytes
}

fn expected(size: usize, written: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![7; size];
    for (at, data) in written {
        bytes.resize(bytes.len().max(at + data.len()), 0);
        bytes[*at..at + data.len()].copy_from_slice(data);
    }
    bytes
}

#[test]
fn who_reads_a_file_of_the_base_stays_with_it_when_it_is_first_written_to() {
    ground!("fuse", "root");
    stays_with_it(&SIZES, &[]);
}

#[test]
fn with_coherent_that_is_so_of_large_files_too() {
    ground!("fuse", "root");
    stays_with_it(&[SIZES[1], 3 << 20], &["--coherent"]);
}

fn stays_with_it(sizes: &[usize], more: &[&str]) {
    let lab = Lab::new();
    for size in sizes {
        fs::write(lab.base().join(size.to_string()), vec![7; *size]).expect("written");
    }
    let at = lab.create("ci", &[&FUSE, more].concat());
    for &size in sizes {
        let path = at.join(size.to_string());
        let reader = File::open(&path).expect("opened");
        assert_eq!(all(&reader), expected(size, &[]));
        let number = reader.metadata().expect("examined").ino();
        flock(&reader, FlockOperation::NonBlockingLockShared).expect("locked");
        let writer = to_write(&path);
        let refused = flock(&writer, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(refused, Err(Errno::WOULDBLOCK), "{size}: the reader's lock holds");
        writer.write_all_at(b"new", 1).expect("written");
        assert!(all(&reader) == expected(size, &[(1, b"new")]), "{size}: the reader reads what was there");
        let end = format!("x{size}");
        writer.write_all_at(end.as_bytes(), size as u64).expect("written");
        let whole = expected(size, &[(1, b"new"), (size, end.as_bytes())]);
        assert!(all(&reader) == whole && fs::read(&path).expect("read") == whole, "{size}");
        let numbers = [&reader, &writer].map(|file| file.metadata().expect("examined").ino());
        let named = fs::metadata(&path).expect("examined").ino();
        assert_eq!((numbers, named), ([number; 2], number), "{size}");
        fs::write(&path, "short").expect("cut");
        assert_eq!((all(&reader), all(&writer)), (b"short".to_vec(), b"short".to_vec()), "{size}");
        drop((reader, writer));
        assert_eq!(fs::read(&path).expect("read"), b"short", "{size}");
    }
    lab.ok(&["reset", "ci"]);
    for &size in sizes {
        assert!(
            fs::read(at.join(size.to_string())).expect("read") == expected(size, &[]),
            "{size}: the base"
        );
    }
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// The kernel keeps in memory what was read through the process; what is written past it afterwards is not there.
#[test]
fn what_was_read_through_the_process_is_not_kept_over_what_is_written_past_it() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let (name, size) = ("data", 300_000);
    fs::write(lab.base().join(name), vec![7; size]).expect("written");
    let at = lab.create("ci", &FUSE);
    let path = at.join(name);
    for round in 0..3 {
        assert!(fs::read(&path).expect("read") == expected(size, &[]), "round {round}: as the base has it");
        let writer = to_write(&path);
        writer.write_all_at(b"past", 100_000).expect("written");
        let reader = File::open(&path).expect("opened");
        let now = expected(size, &[(100_000, b"past")]);
        assert!(all(&reader) == now, "round {round}: who opens it now reads what is there now");
        drop((writer, reader));
        assert!(fs::read(&path).expect("read") == now, "round {round}: afterwards");
        lab.ok(&["reset", "ci"]);
    }
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn a_store_through_a_mapping_moves_the_times_that_stat_tells() {
    ground!("fuse", "root");
    let lab = Lab::new();
    // Of a large one, only blocks are copied, and all data goes through the process: the times move once that has it.
    for (name, size) in [("of the base", 100_000), ("in blocks", 900_000)] {
        fs::write(lab.base().join(name), vec![7; size]).expect("written");
    }
    let at = lab.create("ci", &FUSE);
    fs::write(at.join("new"), vec![7; 900_000]).expect("written");
    for name in ["of the base", "in blocks", "new"] {
        let path = at.join(name);
        let modified = || fs::metadata(&path).expect("examined").modified().expect("told");
        let file = to_write(&path);
        file.set_modified(modified() - Duration::from_secs(1000)).expect("set");
        let before = modified();
        let mapped = Mapped::new(&file).expect("mapped");
        assert_eq!(modified(), before, "{name}: nothing was stored");
        mapped.write(90_000, b"stored");
        if name != "in blocks" {
            assert!(modified() > before, "{name}: while it is mapped");
        }
        drop((mapped, file));
        assert!(modified() > before, "{name}: once it is not");
        assert_eq!(fs::read(&path).expect("read")[90_000..90_006], *b"stored", "{name}");
    }
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}
