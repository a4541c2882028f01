//! Whole copies: by several threads at a time, and it is told how far they are.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use cowsnap::endpoint::overlay::{Home, base, plain};
use cowsnap::endpoint::tree::{CopyWhole, Watch, copy_whole};
use cowsnap::exec::overlay::{New, create, destroy};
use cowsnap::exec::overlay::{Survivors, unhindered};
use cowsnap::model::overlay::Mode;

use super::lab::Lab;
use crate::ground::ground;

/// How far it was, who said so, and whether nobody waits any more.
type Heard = (Vec<(u64, u64)>, HashSet<ThreadId>, bool);

/// What was told, and by whom. Whoever tells something first waits for another thread that does.
#[derive(Default)]
struct Told {
    all: Mutex<Heard>,
    another: Condvar,
}

impl Told {
    fn watch(self: Arc<Self>) -> Watch {
        Watch::new(move |done, total| {
            let mut all = self.all.lock().expect("nobody panics");
            all.0.push((done, total));
            all.1.insert(thread::current().id());
            self.another.notify_all();
            if !all.2 {
                let limit = Duration::from_secs(60);
                let waited = self.another.wait_timeout_while(all, limit, |all| all.1.len() < 2 && !all.2);
                // Nobody came, or somebody did: no further one waits.
                waited.expect("nobody panics").0.2 = true;
            }
        })
    }

    /// Asserts that at least two threads were at work at a time, and that each of `n_files` was told of, up to all of `bytes`.
    fn assert_so(&self, n_files: usize, bytes: u64) {
        let all = self.all.lock().expect("nobody panics");
        let mut done: Vec<u64> = all.0.iter().map(|(done, _)| *done).collect();
        done.sort_unstable();
        assert!(all.1.len() >= 2, "all of it was told by one thread");
        assert!(all.0.iter().all(|(_, total)| *total == bytes), "of all");
        assert!(done.len() >= n_files, "{} files, told of {} times", n_files, done.len());
        assert!(done[0] < bytes / 2 && done.last() == Some(&bytes), "from little to all: {done:?}");
        assert!(done.windows(2).all(|two| two[0] <= two[1]), "{done:?}");
    }
}

/// Fills a directory with files, some of which have two names; how many there are, and with how many bytes.
fn fill(dir: &Path) -> (usize, u64) {
    for n in 0..120_usize {
        fs::create_dir_all(dir.join(format!("{}", n % 5))).expect("mkdir");
        fs::write(dir.join(format!("{}/{n}", n % 5)), vec![7; 1000 + n]).expect("written");
    }
    fs::hard_link(dir.join("0/0"), dir.join("name")).expect("linked");
    std::os::unix::fs::symlink("somewhere", dir.join("link")).expect("linked");
    (120, (0..120).map(|n| 1000 + n).sum())
}

fn is_alone() -> bool {
    let alone = thread::available_parallelism().map_or(1, usize::from) < 2;
    if alone {
        println!("SKIP overlay::copying: one processor");
    }
    alone
}

#[test]
fn a_whole_copy_is_made_by_several_threads_which_tell_how_far_it_is() {
    if is_alone() {
        return;
    }
    let folder = crate::ground::scratch();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    [&from, &to].into_iter().for_each(|dir| fs::create_dir(dir).expect("mkdir"));
    let (n_files, bytes) = fill(&from);
    let told = Arc::new(Told::default());
    let watch = Arc::clone(&told).watch();
    let [opened, target] = [&from, &to].map(|dir| File::open(dir).expect("opened"));
    let how = CopyWhole { label: "it", copying: true, watch: &watch };
    copy_whole(opened.as_fd(), target.as_fd(), &how).expect("copied");
    told.assert_so(n_files, bytes);
}

fn new(lab: &Lab) -> New {
    New {
        name: "ci".parse().expect("a name"),
        base: base::of_dir(&lab.base()).expect("a base"),
        at: lab.at("ci"),
        copies: 1,
        mode: Some(Mode::Copy),
        owner: None,
        durable: false,
        layers: Vec::new(),
        more: std::collections::BTreeMap::new(),
    }
}

#[test]
fn mode_copy_has_several_threads_and_tells_how_far_it_is() {
    ground!("overlay");
    if is_alone() {
        return;
    }
    let lab = Lab::new();
    fs::remove_dir_all(lab.base()).expect("removed");
    fs::create_dir(lab.base()).expect("mkdir");
    let (n_files, bytes) = fill(&lab.base());
    let told = Arc::new(Told::default());
    let (watched, place) = (Arc::clone(&told), lab.at("ci"));
    plain::watch(move |at| {
        assert_eq!(at, place);
        Arc::clone(&watched).watch()
    });
    let home = Home::open(&lab.home_dir()).expect("made");
    create(&home, &new(&lab), &mut unhindered).expect("created");
    told.assert_so(n_files, bytes);
    destroy(&home, &"ci".parse().expect("a name"), Survivors::Refuse, &mut unhindered).expect("destroyed");
    lab.assert_nothing_left();
}

/// A copy of one large file is somewhere in the middle for long.
#[test]
fn how_far_a_large_file_is_copied_is_told_while_it_is() {
    ground!("overlay", "ext4");
    let lab = Lab::on("ext4", &["-q", "-F"]);
    let (from, to) = (lab.root().join("from"), lab.root().join("to"));
    [&from, &to].into_iter().for_each(|dir| fs::create_dir(dir).expect("mkdir"));
    fs::write(from.join("large"), vec![7; 64 << 20]).expect("written");
    let told = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&told);
    let watch = Watch::new(move |done, total| noted.lock().expect("nobody panics").push((done, total)));
    let [opened, target] = [&from, &to].map(|dir| File::open(dir).expect("opened"));
    copy_whole(opened.as_fd(), target.as_fd(), &CopyWhole { label: "it", copying: true, watch: &watch })
        .expect("copied");
    let told = told.lock().expect("nobody panics").clone();
    let wanted: Vec<_> = (1..=4).map(|n| (n << 24, 64 << 20)).collect();
    assert_eq!(told, wanted);
    assert!(fs::read(to.join("large")).expect("read") == fs::read(from.join("large")).expect("read"));
}
