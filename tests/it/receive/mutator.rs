//! Random changes to a tree, the same for the same seed.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use cowsnap::sys::file::clone_range;

/// splitmix64: a test must not change with a crate's version.
pub struct Mutator {
    state: u64,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    fn pick(&mut self, of: &[PathBuf]) -> PathBuf {
        of[self.next(of.len() as u64) as usize].clone()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = [10, 3000, 4096, 70_000, 300_000][self.next(5) as usize];
        let seed = self.next(u64::MAX);
        match self.next(2) {
            0 => seed.to_string().into_bytes().repeat(len / 10),
            _ => {
                let mut bytes = vec![0; len];
                blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
                bytes
            }
        }
    }

    /// Does `n` things below `root`. What can not be done (a directory into itself) is left.
    pub fn run(&mut self, root: &Path, n: usize) {
        for _ in 0..n {
            let (mut dirs, mut files, mut others) = (vec![root.to_owned()], Vec::new(), Vec::new());
            walk(root, &mut dirs, &mut files, &mut others);
            let name = self.pick(&dirs).join(format!("n{}", self.next(40)));
            let all: Vec<_> = dirs[1..].iter().chain(&files).chain(&others).cloned().collect();
            if all.is_empty() || files.is_empty() {
                let _ = fs::write(&name, self.bytes());
                let _ = fs::create_dir(root.join(format!("d{}", self.next(9))));
                continue;
            }
            let _ = self.change(&name, &all, &files, &dirs);
        }
    }

    fn change(
        &mut self,
        name: &Path,
        all: &[PathBuf],
        files: &[PathBuf],
        dirs: &[PathBuf],
    ) -> std::io::Result<()> {
        match self.next(17) {
            0 | 1 => fs::create_dir(name),
            2 | 3 => fs::write(name, self.bytes()),
            4 => symlink(self.pick(all), name),
            5 => fs::hard_link(self.pick(files), name),
            6..=8 => fs::rename(self.pick(all), name),
            9 => {
                let (a, b, t) = (self.pick(all), self.pick(all), dirs[0].join("t"));
                fs::rename(&a, &t).and_then(|()| fs::rename(&b, &a)).and_then(|()| fs::rename(&t, &b))
            }
            10 => fs::remove_file(self.pick(files)),
            11 if dirs.len() > 2 => fs::remove_dir_all(self.pick(&dirs[dirs.len() / 2..])),
            12 => {
                let (path, offset, data) = (self.pick(files), self.next(400_000), self.bytes());
                OpenOptions::new().write(true).open(path)?.write_all_at(&data, offset)
            }
            13 => OpenOptions::new().write(true).open(self.pick(files))?.set_len(self.next(500_000)),
            14 => lchown(self.pick(all), Some(self.next(5) as u32), Some(self.next(5) as u32)),
            15 => {
                fs::set_permissions(self.pick(files), fs::Permissions::from_mode(self.next(0o10000) as u32))
            }
            _ => {
                let (from, to) =
                    (File::open(self.pick(files))?, OpenOptions::new().write(true).open(self.pick(files))?);
                let (at, offset) = (self.next(20) * 4096, self.next(20) * 4096);
                clone_range(from.as_fd(), at, (1 + self.next(10)) * 4096, to.as_fd(), offset)
            }
        }
    }
}

fn walk(dir: &Path, dirs: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>, others: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            dirs.push(path.clone());
            walk(&path, dirs, files, others);
        } else if metadata.is_file() {
            files.push(path);
        } else {
            others.push(path);
        }
    }
}
