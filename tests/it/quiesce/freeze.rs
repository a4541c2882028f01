//! A filesystem on a disk's image that lies in the dataset: frozen while the snapshot is taken, and thawed whatever happens.

use super::*;

/// ext4 on an image in the dataset `node`, or elsewhere, mounted beside it.
pub(super) struct Inner {
    at: PathBuf,
}

impl Inner {
    fn new(lab: &Lab, image: &str, at: &str) -> Self {
        let (image, at) = (lab.placed(image), lab.root().join(at));
        ground::run("truncate", &["-s", "32M", &image]);
        ground::run("mkfs.ext4", &["-q", "-F", &image]);
        fs::create_dir(&at).expect("made");
        ground::run("mount", &["-o", "loop", &image, at.to_str().expect("utf-8")]);
        Self { at }
    }

    /// In the dataset, with a job that freezes it.
    pub(super) fn within(lab: &Lab) -> Self {
        let inner = Self::new(lab, "ROOT/mnt/node/disk", "inner");
        lab.write(&config("ROOT/inner"));
        inner
    }

    fn word(&self, option: &str) -> bool {
        Command::new("fsfreeze").arg(option).arg(&self.at).output().expect("it starts").status.success()
    }

    /// The kernel freezes nothing twice.
    pub(super) fn is_thawed(&self) -> bool {
        self.word("-f") && self.word("-u")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.word("-u");
        let _ = Command::new("umount").arg(&self.at).output();
    }
}

fn config(place: &str) -> String {
    format!(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.flush]\nwithin = \"20s\"\nfsfreeze = [\"{place}\"]\n"
    )
}

#[test]
fn the_filesystem_on_a_disk_s_image_is_whole_in_the_snapshot_and_written_to_again_afterwards() {
    ground!("btrfs", "ext4", "fsfreeze", "dumpe2fs");
    let lab = Lab::new("");
    let inner = Inner::within(&lab);
    let is_whole = |name: &str, copy: &str| {
        lab.ends(0, &format!("clone ROOT/mnt/node@{name} ROOT/mnt/{copy}"));
        let image = lab.root().join("mnt").join(copy).join("disk");
        let told = ground::run("dumpe2fs", &[Path::new("-h"), &image]).stdout;
        !String::from_utf8_lossy(&told).contains("needs_recovery")
    };
    fs::write(inner.at.join("written"), "not synced").expect("written");
    lab.ends(0, "snapshot ROOT/mnt/node --name torn");
    assert!(!is_whole("torn", "torn"), "a mounted ext4 is to be recovered");
    let done = lab.json(0, "job run node");
    assert!(done["jobs"][0]["quiesce"]["downtime_ms"].is_u64(), "{done}");
    let name = done["jobs"][0]["snapshots"][0]["name"].as_str().expect("a name");
    assert!(is_whole(name, "copy"));
    let at = lab.root().join("seen");
    fs::create_dir(&at).expect("made");
    let (image, at) = (lab.placed("ROOT/mnt/copy/disk"), at.to_str().expect("utf-8").to_owned());
    // As it is, without its journal.
    ground::run("mount", &["-o", "loop,ro,noload", &image, &at]);
    let seen = fs::read(Path::new(&at).join("written"));
    ground::run("umount", &[&at]);
    assert_eq!(seen.expect("it is in the image"), b"not synced");
    assert!(inner.is_thawed() && !lab.lease().exists());
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("inner was frozen for "), "{text}");
    let (explained, _) = lab.ends(0, "job explain");
    assert!(
        explained.contains("freezes the filesystem at ") && explained.contains("after 40s at the latest"),
        "{explained}"
    );
}

#[test]
fn what_would_have_the_run_wait_for_itself_is_not_frozen_nor_what_somebody_else_has_frozen_thawed() {
    ground!("btrfs", "ext4", "fsfreeze");
    let lab = Lab::new("");
    let inner = Inner::within(&lab);
    let outer = Inner::new(&lab, "ROOT/disk", "outer");
    let refused = |place: &str, why: &str| {
        lab.write(&config(place));
        let (_, said) = lab.ends(5, "job run node");
        assert!(said.contains(why) && !lab.lease().exists(), "{place}: {said}");
    };
    refused("ROOT/mnt", "it lies in no dataset of the job");
    refused("ROOT/outer", "it lies in no dataset of the job");
    refused("ROOT/inner/lost+found", "nothing is mounted there");
    refused("ROOT/none", "No such file");
    assert!(inner.is_thawed() && outer.is_thawed());
    assert!(inner.word("-f"));
    refused("ROOT/inner", "somebody else has frozen it already");
    assert!(inner.word("-u"), "somebody else's was thawed");
    assert_eq!(lab.n_snapshots(), 0);
    // The state directory on it could not be written to.
    let output = ground::cowsnap(&inner.at.join("state"))
        .args(["job", "run", "node"])
        .env("COWSNAP_CONFIG", lab.root().join("config.toml"))
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(5) && said.contains("state lies in it"), "{said}");
    assert!(inner.is_thawed());
}

#[test]
fn what_a_killed_run_has_left_frozen_is_thawed_before_a_hook_is_called_and_before_it_is_forgotten() {
    ground!("btrfs", "ext4", "fsfreeze");
    let lab = Lab::new("");
    let inner = Inner::within(&lab);
    lab.dies("Snapshot", "both");
    assert!(!inner.is_thawed(), "it is left frozen");
    // Touching it would wait for ever.
    let hooks =
        "[job.node.hooks]\nwithin = \"20s\"\nbefore_snapshot = [\"/bin/touch\", \"ROOT/inner/hook\"]\n";
    lab.write(&(config("ROOT/inner") + hooks));
    lab.ends(0, "job run node");
    assert!(inner.at.join("hook").exists() && inner.is_thawed() && !lab.lease().exists());
    lab.dies("Snapshot", "both");
    assert!(!inner.is_thawed(), "it is left frozen");
    lab.ends(0, "job recover --forget node");
    assert!(inner.is_thawed() && !lab.lease().exists());
}

#[test]
fn what_somebody_else_has_frozen_is_not_thawed_for_a_run_that_was_killed() {
    ground!("btrfs", "ext4", "fsfreeze");
    let lab = Lab::new("");
    let inner = Inner::within(&lab);
    let number = std::os::unix::fs::MetadataExt::dev(&inner.at.metadata().expect("there"));
    let mark = lab.root().join("mark");
    fs::write(&mark, "").expect("written");
    assert!(inner.word("-f"));
    lab.ends(3, &format!("job freeze -- ROOT/inner {number} ROOT/mark"));
    let refused = fs::read(&mark).expect("read");
    assert!(inner.word("-u"));
    fs::write(&mark, "").expect("written");
    lab.ends(0, &format!("job freeze -- ROOT/inner {number} ROOT/mark"));
    let begun = fs::read(&mark).expect("read");
    assert!(inner.word("-u") && refused != begun && !begun.is_empty());
    // As a run leaves it that is killed before the other process has begun, and after it was told that it is another's.
    for said in [Vec::new(), refused] {
        lab.dies("Snapshot", "both");
        assert!(inner.word("-u") && inner.word("-f"), "frozen by somebody else");
        let marks = fs::read_dir(lab.root().join("state/leases/services")).expect("read").flatten();
        let marks: Vec<_> = marks.map(|entry| entry.path()).collect();
        let marks = marks.iter().filter(|path| path.extension().is_some_and(|extension| extension == "stop"));
        marks.for_each(|path| fs::write(path, &said).expect("written"));
        lab.ends(0, "job recover");
        assert!(!lab.lease().exists());
        assert!(inner.word("-u"), "somebody else's was thawed");
    }
}

/// What a transaction with these datasets and that state says of a filesystem.
fn said(place: &Path, roots: &[PathBuf], state: &Path) -> String {
    let wanted = Quiesce {
        services: vec![Service::Frozen { place: place.into() }],
        stop_within: Duration::from_secs(5),
        start_within: Duration::from_secs(5),
        snapshot_within: None,
        probe: None,
        max_downtime: None,
    };
    let program = Path::new(env!("CARGO_BIN_EXE_cowsnap"));
    let ground = Ground {
        state_dir: state,
        job: "node",
        quiesce: &wanted,
        roots,
        program: Some(program),
        config: None,
    };
    let done = quiesce::quiesced(ground, Nothing, &mut |_| ()).expect("begun");
    done.snapshot.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn nothing_is_frozen_that_another_dataset_or_the_state_lies_on_however_deep() {
    ground!("btrfs", "ext4", "fsfreeze");
    let lab = Lab::new("");
    let inner = Inner::within(&lab);
    let (node, state) = (lab.root().join("mnt/node"), lab.root().join("state"));
    assert_eq!(said(&inner.at, std::slice::from_ref(&node), &state), "");
    let found = said(&inner.at, &[node.clone(), inner.at.clone()], &state);
    assert!(found.contains("inner lies in it, of which a snapshot"), "{found}");
    // The image is not in a folder because its filesystem is that folder's.
    let folder = lab.root().join("folder");
    fs::create_dir(&folder).expect("made");
    let outer = Inner::new(&lab, "ROOT/disk", "outer");
    let found = said(&outer.at, &[folder], &state);
    assert!(found.contains("it lies in no dataset of the job"), "{found}");
    // A btrfs, whose number says nothing of its disks.
    let (image, deep) = (lab.placed("ROOT/inner/image"), lab.root().join("deep"));
    ground::run("truncate", &["-s", "200M", &image]);
    ground::run("mkfs.btrfs", &["-q", "-f", "-m", "single", &image]);
    fs::create_dir(&deep).expect("made");
    ground::run("mount", &["-o", "loop", &image, deep.to_str().expect("utf-8")]);
    let found = said(&inner.at, &[node], &deep);
    ground::run("umount", &[deep.to_str().expect("utf-8")]);
    assert!(found.contains("deep lies in it, to which has to be written"), "{found}");
    assert!(inner.is_thawed());
}

#[test]
fn nothing_is_frozen_to_which_the_run_s_own_output_goes() {
    ground!("btrfs", "ext4", "fsfreeze");
    let lab = Lab::new("");
    let inner = Inner::within(&lab);
    let log = fs::File::create(inner.at.join("log")).expect("made");
    let output = ground::cowsnap(&lab.root().join("state"))
        .args(["job", "run", "node"])
        .env("COWSNAP_CONFIG", lab.root().join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log)
        .output()
        .expect("the program starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(5) && told.contains("this run's output goes there"), "{told}");
    assert!(inner.is_thawed() && lab.n_snapshots() == 0);
}
