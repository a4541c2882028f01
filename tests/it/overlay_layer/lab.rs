//! A filesystem on a loop device with overlays of the kernel on it, and random things done to them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cowsnap::endpoint::overlay::layer::{Stack, Tree};
use cowsnap::model::overlay::Xattrs;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::ground::{run, unmount_below};

/// A filesystem of the test's own, gone with it.
pub struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    /// A filesystem of that kind, of 400 MiB, sparse.
    pub fn new(kind: &str) -> Self {
        let prefix = format!("cowsnap-test-{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary directory");
        let image = folder.path().join("image");
        run("truncate", &["-s", "400M", text(&image)]);
        let mkfs = format!("mkfs.{kind}");
        let quiet = if kind == "xfs" { "-f" } else { "-F" };
        run(&mkfs, &["-q", quiet, text(&image)]);
        fs::create_dir(folder.path().join("mnt")).expect("mkdir");
        let lab = Self { folder };
        run("mount", &["-o", "loop", text(&image), text(&lab.path())]);
        lab
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// An empty directory on it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).expect("mkdir");
        path
    }

    /// Mounts the kernel's overlay of `lower`, the top one first, with or without an upper directory.
    pub fn mount(&self, lower: &[PathBuf], upper: Option<(&Path, &Path)>, options: &str) -> Mounted {
        let at = self.folder.path().join("at").join(lower.len().to_string());
        fs::create_dir_all(&at).expect("mkdir");
        let lower: Vec<_> = lower.iter().map(|path| text(path).to_owned()).collect();
        let mut all = format!("lowerdir={}", lower.join(":"));
        if let Some((upper, work)) = upper {
            all += &format!(",upperdir={},workdir={}", text(upper), text(work));
        }
        if !options.is_empty() {
            all += &format!(",{options}");
        }
        run("mount", &["-t", "overlay", "-o", &all, "overlay", text(&at)]);
        Mounted(at)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        unmount_below(self.folder.path());
    }
}

/// A mounted overlay.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[text(&self.0)]);
    }
}

/// A base and uppers that the kernel made upon it, one upon another.
pub struct Made {
    /// The top one first, the base last.
    pub trees: Vec<PathBuf>,
    pub xattrs: Xattrs,
    pub options: String,
}

impl Made {
    /// Fills a base in a directory of that name, and has the kernel make `n` uppers of random things done.
    pub fn new(lab: &Lab, name: &str, n: usize, options: &str, random: &mut Random) -> Self {
        let base = lab.dir(&format!("{name}/base"));
        let mut names = Vec::new();
        for _ in 0..60 {
            random.act(&base, &mut names);
        }
        let xattrs = if options.contains("userxattr") { Xattrs::User } else { Xattrs::Trusted };
        let mut trees = vec![base];
        for layer in 0..n {
            let (upper, work) =
                (lab.dir(&format!("{name}/{layer}/tree")), lab.dir(&format!("{name}/{layer}/work")));
            let mounted = lab.mount(&trees, Some((&upper, &work)), options);
            for _ in 0..40 {
                random.act(mounted.path(), &mut names);
            }
            drop(mounted);
            trees.insert(0, upper);
        }
        Self { trees, xattrs, options: options.into() }
    }

    /// As we read it, from the layer `from` on down.
    pub fn stack(&self, from: usize) -> Stack {
        let open = |path: &PathBuf| Tree::base(path, self.xattrs).expect("opens");
        Stack::new(self.trees[from..].iter().map(open).collect())
    }

    /// As the kernel shows it, from the layer `from` on down, read-only.
    pub fn mount(&self, lab: &Lab, from: usize) -> Mounted {
        let mut trees = self.trees[from..].to_vec();
        if trees.len() == 1 {
            trees.insert(0, lab.dir("empty"));
        }
        // What may be followed is what the uppers were made with; nothing is made any more.
        let options = match self.xattrs {
            Xattrs::User => "userxattr".to_owned(),
            Xattrs::Trusted => self.options.clone(),
        };
        lab.mount(&trees, None, &options)
    }
}

/// Numbers that look random and are the same each time.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn name(&mut self) -> &'static [u8] {
        let names: [&[u8]; 9] = [b"a", b"b", b"c", b"d", b"e f", b"g\nh", b"\xffi", b"j%2f\\", b"k"];
        names[self.below(names.len())]
    }

    /// A path below `root` that is there, or nearly.
    fn path(&mut self, root: &Path, known: &mut Vec<PathBuf>) -> PathBuf {
        if !known.is_empty() && self.below(3) > 0 {
            return root.join(&known[self.below(known.len())]);
        }
        let mut path = PathBuf::new();
        for _ in 0..=self.below(3) {
            path.push(OsStr::from_bytes(self.name()));
        }
        known.push(path.clone());
        root.join(path)
    }

    /// Does something; that it can not be done is fine.
    pub fn act(&mut self, root: &Path, known: &mut Vec<PathBuf>) {
        let (path, other) = (self.path(root, known), self.path(root, known));
        let number = self.below(1000);
        let open = || {
            // Opening a FIFO waits for its other end.
            let metadata = path.metadata()?;
            let is_file = if metadata.is_file() { Ok(()) } else { Err(std::io::ErrorKind::InvalidInput) };
            is_file?;
            File::options().append(number.is_multiple_of(2)).write(true).open(&path)
        };
        let is_fifo = || path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
        let mode = fs::Permissions::from_mode(0o600 | number as u32 & 0o177);
        let result = match self.below(22) {
            0..=3 if is_fifo() => fs::remove_file(&path),
            0..=3 => fs::write(&path, number.to_string().repeat(number % 50)),
            4..=6 => fs::create_dir_all(&path),
            7 => symlink(format!("to {number}"), &path),
            8 => fs::hard_link(&path, &other),
            9..=11 => fs::rename(&path, &other),
            12 => fs::remove_file(&path),
            13 => fs::remove_dir_all(&path),
            14 => fs::remove_dir_all(&path).and_then(|()| fs::create_dir(&path)),
            15 => plain(&path).and_then(|()| fs::set_permissions(&path, mode)),
            16 => std::os::unix::fs::lchown(&path, Some(number as u32), Some(7)),
            17 => plain(&path).and_then(|()| set_xattr(&path, number)),
            18 => open().and_then(|file| file.write_all_at(b"patched", number as u64 * 50)),
            19 => open().and_then(|file| file.set_len(number as u64)),
            20 => open().map(drop),
            _ => mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).map_err(Into::into),
        };
        drop(result);
    }
}

/// Not a link: what it leads to is none of ours.
fn plain(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path)?.is_symlink() {
        true => Err(std::io::ErrorKind::InvalidInput.into()),
        false => Ok(()),
    }
}

fn set_xattr(path: &Path, number: usize) -> std::io::Result<()> {
    let value = number.to_string();
    Ok(rustix::fs::setxattr(path, "user.test", value.as_bytes(), rustix::fs::XattrFlags::empty())?)
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("the lab's own paths are text")
}
