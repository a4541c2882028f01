//! Test suites for filesystems, made by others: what fails on an overlay of mode fuse, and not on the ext4 below it, is ours.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::lab::{Lab, text, utf8};
use crate::ground::ground;
use crate::overlay_fuse::core::{Ground, blocks_only};
use crate::overlay_fuse::mounted::Apart;

/// Two accounts that every system has; features of POSIX that the suite asks for; remounting, for what a read-only filesystem says.
const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = true
[dummy_auth]
entries = [["daemon", "daemon"], ["bin", "bin"]]
"#;

/// What the cases of pjdfstest came to in `dir`: those that passed, and those that failed with what was said.
struct Cases {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    said: String,
}

fn pjdfstest(lab: &Lab, dir: &Path) -> Cases {
    let (config, other) = (lab.at("pjdfstest.toml"), lab.at("elsewhere"));
    fs::create_dir_all(&other).expect("mkdir");
    fs::write(&config, PJDFSTEST).expect("written");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("set");
    // It has mount(8) remount, which would look for a helper of FUSE filesystems, which knows nothing of that.
    let mount = other.join("mount");
    fs::write(&mount, "#!/bin/sh\nPATH=${PATH#*:}\nexec mount -i \"$@\"\n").expect("written");
    fs::set_permissions(&mount, fs::Permissions::from_mode(0o755)).expect("set");
    let path = std::env::var("PATH").expect("a path");
    let output = Command::new("pjdfstest")
        .args(["-c", utf8(&config), "-s", utf8(&other), "-p", utf8(dir)])
        .env("PATH", format!("{}:{path}", utf8(&other)))
        .env("RUST_BACKTRACE", "0")
        .env("NO_COLOR", "1")
        .output()
        .expect("pjdfstest runs");
    let said = text(&output);
    let ended = |how: &str| {
        let cases = said.lines().filter_map(|line| line.strip_suffix(how)?.split_whitespace().next());
        cases.map(str::to_owned).collect()
    };
    Cases { passed: ended(" ok"), failed: ended(" FAILED"), said }
}

/// pjdfstest has about 400 cases of what POSIX says of names, modes, owners, times and errors.
#[test]
fn pjdfstest_finds_nothing_that_it_does_not_find_on_ext4() {
    ground!("fuse", "ext4", "pjdfstest");
    let lab = Lab::on("ext4", &["-q"]);
    // Other accounts enter all of it.
    for dir in [lab.at(""), lab.at("").join(".."), lab.root().to_owned(), lab.base()] {
        fs::create_dir_all(&dir).expect("mkdir");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("set");
    }
    let plain = lab.root().join("plain");
    fs::create_dir(&plain).expect("mkdir");
    let on_ext4 = pjdfstest(&lab, &plain);
    assert!(on_ext4.passed.len() > 300, "it does not run: {}", on_ext4.said);
    let at = lab.create("ci", &["--mode", "fuse"]);
    let here = pjdfstest(&lab, &at);
    let ours: Vec<_> = here.failed.difference(&on_ext4.failed).collect();
    assert!(ours.is_empty(), "these fail here, and not on ext4: {ours:#?}\n{}", here.said);
    // The C library tells how many links a file may have for filesystems that it knows only.
    let untold = "link::link_count_max";
    let lacking = on_ext4.passed.difference(&here.passed).filter(|case| *case != untold);
    let lacking: Vec<_> = lacking.collect();
    assert!(lacking.is_empty(), "these were run on ext4 alone: {lacking:#?}\n{}", here.said);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// Reads, writes, both through a mapping, and all else that moves data in one file.
const FSX: &str = "
flen = 1048576
[opsize]
max = 131072
[weights]
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 2
fsync = 1
fdatasync = 1
posix_fallocate = 2
punch_hole = 2
sendfile = 2
posix_fadvise = 1
copy_file_range = 5
";

/// Runs fsx, which holds every byte that it reads against what it wrote, on a new file in `at` and on a large one of its base, for
/// `COWSNAP_FSX_SECONDS`, or 10 s; what it leaves is put into `dir`. Both are emptied as it begins; the first is closed and opened meanwhile.
fn fsx(at: &Path, dir: &Path, after_each: impl Fn()) {
    let configs = ["new", "large"].map(|name| dir.join(name));
    fs::write(&configs[0], format!("{FSX}close_open = 1\n")).expect("written");
    fs::write(&configs[1], FSX).expect("written");
    let seconds = std::env::var("COWSNAP_FSX_SECONDS").map_or(10, |text| text.parse().expect("seconds"));
    let began = std::time::Instant::now();
    let mut runs = 0;
    while runs < 2 || began.elapsed().as_secs() < seconds {
        for config in &configs {
            runs += 1;
            let (seed, file) = (runs.to_string(), at.join(config.file_name().expect("a name")));
            let args = ["-q", "-q", "-N", "4000", "-S", &seed, "-f", utf8(config), "-P", utf8(dir)];
            let output = Command::new("fsx").args(args).arg(&file).output().expect("fsx runs");
            assert!(output.status.success(), "seed {seed}, {}: {}", file.display(), text(&output));
        }
        after_each();
    }
    println!("{runs} runs of 4,000 operations in {} s", began.elapsed().as_secs());
}

/// They are read and written past the process.
#[test]
fn fsx_reads_what_it_wrote() {
    ground!("fuse", "ext4", "fsx");
    let lab = Lab::on("ext4", &["-q"]);
    fs::write(lab.base().join("large"), vec![7; 1 << 20]).expect("written");
    let at = lab.create("ci", &["--mode", "fuse"]);
    fsx(&at, lab.root(), || _ = lab.ok(&["reset", "ci"]));
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// As an ordinary user has it.
#[test]
fn fsx_reads_what_it_wrote_where_all_goes_through_the_process() {
    ground!("fuse", "fsx");
    let ground = Ground::new();
    fs::create_dir_all(ground.path("base")).expect("made");
    fs::write(ground.path("base").join("large"), vec![7; 1 << 20]).expect("written");
    let apart = Apart::new(&ground, blocks_only());
    let dir = tempfile::tempdir().expect("a directory");
    fsx(&ground.path("mnt"), dir.path(), || ());
    apart.end();
}
