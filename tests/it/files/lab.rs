//! A dataset on btrfs with one of everything in it, and the program.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::ground::{Btrfs, cowsnap, run};

pub struct Lab {
    pub ground: Btrfs,
}

impl Lab {
    pub fn new() -> Self {
        Self { ground: Btrfs::new() }
    }

    /// A dataset with one of everything, and the snapshot `s` of it.
    pub fn filled() -> Self {
        let lab = Self::new();
        fill(&lab.ground.subvolume("chain"));
        lab.snapshot("s");
        lab
    }

    pub fn live(&self) -> PathBuf {
        self.ground.path().join("chain")
    }

    pub fn snapshot(&self, name: &str) {
        self.good(&["snapshot", text(&self.live()), "--name", name]);
    }

    /// A path beside the filesystem.
    pub fn out(&self, name: &str) -> PathBuf {
        self.ground.outside().join(name)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        cowsnap(&self.out("state")).args(args).output().expect("it starts")
    }

    /// What it prints; it must go well.
    pub fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The exit code and what it says.
    pub fn bad(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} went well");
        (output.status.code().expect("a code"), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Exports the snapshot `s` to a file of that name.
    pub fn export(&self, name: &str, more: &[&str]) -> PathBuf {
        let file = self.out(name);
        let snapshot = format!("{}@s", text(&self.live()));
        self.good(&[&["export", &snapshot, text(&file)], more].concat());
        file
    }

    /// What is left where it should not be: staged, or half made.
    pub fn expect_nothing_left(&self, but: &[&str]) {
        // Whoever looks sweeps what dead ones left.
        self.good(&["list", text(&self.live())]);
        let names = names(&self.ground.path());
        let expected = [&[".cowsnap", "chain"], but].concat();
        let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(names, expected);
        let staging = self.ground.path().join(".cowsnap/staging");
        assert_eq!(staging.read_dir().map_or(0, Iterator::count), 0, "something is staged");
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// One of everything that an archive can hold.
pub fn fill(at: &Path) {
    let path = |name: &[u8]| at.join(OsStr::from_bytes(name));
    fs::create_dir_all(path(b"blocks/index")).expect("mkdir");
    fs::create_dir(path(b"empty")).expect("mkdir");
    fs::write(path(b"blocks/blk0.dat"), noise(3 << 20, 1)).expect("write");
    fs::write(path(b"blocks/index/CURRENT"), "MANIFEST-000001\n").expect("write");
    fs::hard_link(path(b"blocks/blk0.dat"), path(b"blocks/again")).expect("link");
    fs::write(path(b"a line\nand \\ another"), "newline").expect("write");
    fs::write(path(b"bytes \xFF\xFE"), "no text").expect("write");
    fs::write(path(&[b'n'; 255]), "a long name").expect("write");
    let deep = [[b'd'; 200].as_slice(); 8].join(&b'/');
    fs::create_dir_all(path(&deep)).expect("mkdir");
    fs::write(path(&[&deep[..], b"/file"].concat()), "deep").expect("write");
    std::os::unix::fs::symlink("/etc/passwd", path(b"out")).expect("symlink");
    std::os::unix::fs::symlink(OsStr::from_bytes(&[b'x'; 300]), path(b"far")).expect("symlink");
    let sparse = fs::File::create(path(b"sparse")).expect("create");
    sparse.write_all_at(b"one", 0).expect("write");
    sparse.write_all_at(&noise(1 << 20, 2), 10 << 20).expect("write");
    sparse.set_len(256 << 20).expect("grow");
    fs::File::create(path(b"holes only")).expect("create").set_len(5 << 20).expect("grow");
    let t = |name: &[u8]| text(&path(name)).to_owned();
    run("setfattr", &["-n", "user.note", "-v", "a=value%", &t(b"blocks/index/CURRENT")]);
    run("setfattr", &["-n", "trusted.note", "-v", &"long".repeat(300), &t(b"empty")]);
    run("setfattr", &["-h", "-n", "trusted.link", "-v", "on a link", &t(b"out")]);
    run("setfacl", &["-m", "u:7:rwx,d:u:8:rx", &t(b"blocks")]);
    run("setfacl", &["-m", "u:9:r", &t(b"blocks/blk0.dat")]);
    run("chown", &["12345:3000000", &t(b"empty")]);
    run("chmod", &["4751", &t(b"blocks/index/CURRENT")]);
    run("mkfifo", &[&t(b"fifo")]);
    run("mknod", &[&t(b"device"), "b", "7", "300"]);
    run("touch", &["-h", "-d", "1969-12-31 23:59:58.123456789 UTC", &t(b"out")]);
    run("touch", &["-d", "2001-02-03 04:05:06.000000007 UTC", &t(b"blocks/index")]);
    run("chmod", &["500", &t(b"empty")]);
}

/// Bytes that no compressor makes shorter.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// All that is in a tree, in words: names, types, modes, owners, times, attributes, links, devices, bytes, holes.
pub fn described(at: &Path) -> String {
    let script = r#"cd "$1" && export LC_ALL=C
find . -path ./.cowsnap-export -prune -o -printf '%p %y %m %U %G %l ' \( -type d -printf '%T@\n' -o -type f -printf '%T@ %s %n\n' -o -printf '%T@ %n\n' \) | sort -z | sort
find . -path ./.cowsnap-export -prune -o -type b -print0 | xargs -0 -r stat -c '%n %t:%T'
find . -path ./.cowsnap-export -prune -o -type f -print0 | sort -z | xargs -0 -r sha256sum
find . -path ./.cowsnap-export -prune -o -print0 | sort -z | xargs -0 -r getfattr -h -d -m - | grep -v SGI_ACL
find . -path ./.cowsnap-export -prune -o ! -type l -print0 | sort -z | xargs -0 -r getfacl -n"#;
    let output = run("bash", &["-c", script, "bash", text(at)]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails, with the first line that differs, unless both trees are the same.
pub fn expect_same(one: &Path, other: &Path) {
    let (a, b) = (described(one), described(other));
    assert!(a.lines().count() > 5, "nothing is described: {a}");
    let differs = a.lines().zip(b.lines()).find(|(a, b)| a != b);
    assert!(a == b, "{differs:?}");
}
