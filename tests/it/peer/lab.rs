//! Two filesystems, and a connection between them: a program that does what `ssh` does, on this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cowsnap::endpoint::peer::{Peer, Ssh};
use cowsnap::endpoint::{Backend, Dataset, History, SnapshotRequest};
use cowsnap::exec::Silent;
use cowsnap::exec::transfer::{Moved, Options, Place, Transfer, transfer};
use cowsnap::model::Version;

use crate::ground::{Btrfs, run};

/// A source with data in it, a target, and how the target is reached.
pub struct Lab {
    pub source: Btrfs,
    pub target: Btrfs,
    shim: PathBuf,
}

/// Bytes that do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A command for a shell that passes on so many bytes at once, and ends.
pub fn cut(at: u64) -> String {
    format!(
        "perl -e '$n = {at}; while ($n && ($r = sysread STDIN, $b, $n < 65536 ? $n : 65536)) {{ syswrite STDOUT, $b; $n -= $r }}'"
    )
}

/// A command for a shell that passes on so many bytes at once, and no more for as long as the process that the file names lives.
pub fn stall(at: u64, pid: &Path) -> String {
    let cut = cut(at);
    let cut = cut.strip_suffix('\'').expect("it ends so");
    format!(
        "{cut}; open F, \"{}\"; $p = <F>; select undef, undef, undef, 0.01 while kill 0, $p'",
        pid.display()
    )
}

impl Lab {
    pub fn new() -> Self {
        let (source, target) = (Btrfs::new(), Btrfs::new());
        source.subvolume("data");
        let shim = source.outside().join("ssh");
        // As sshd does, it hands the last argument to a shell.
        fs::write(&shim, "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n").unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        Self { source, target, shim }
    }

    pub fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.source.path().join("data").join(file), bytes).unwrap();
    }

    /// The dataset that everything comes from.
    pub fn from(&self) -> Dataset {
        cowsnap::endpoint::path::named(&self.source.path().join("data")).unwrap()
    }

    /// The dataset that it goes to.
    pub fn to(&self) -> Dataset {
        cowsnap::endpoint::path::named(&self.target.path().join("copy")).unwrap()
    }

    pub fn snapshot(&self, name: &str) -> Version {
        let set = Dataset::snapshot(&[self.from()], &SnapshotRequest::named(name.parse().unwrap())).unwrap();
        set.versions[0].clone()
    }

    /// What serves, for the shell on the other side.
    pub fn serve(&self, arguments: &str) -> String {
        let state = self.source.outside().join("state");
        format!("'{}' --state-dir '{}' serve {arguments}", env!("CARGO_BIN_EXE_cowsnap"), state.display())
    }

    /// The program that does what `ssh` does.
    pub fn shim(&self) -> &Path {
        &self.shim
    }

    pub fn ssh(&self, remote: &str) -> Ssh {
        let program = vec![self.shim.to_str().unwrap().to_owned()];
        Ssh { program, remote: remote.into(), ..Ssh::default() }
    }

    /// The dataset at `path` through a connection to what `remote` says.
    pub fn peer(&self, path: &Path, remote: &str) -> Place {
        let address = format!("ssh://there/{}", path.display()).parse().unwrap();
        Place::There(Peer::connect(&address, &self.ssh(remote)).expect("it answers"))
    }

    pub fn source_peer(&self, remote: &str) -> Place {
        self.peer(&self.source.path().join("data"), remote)
    }

    pub fn target_peer(&self, remote: &str) -> Place {
        self.peer(&self.target.path().join("copy"), remote)
    }

    /// Whether the version is at the target what it is at the source, with the names, owners, modes and bytes of all files.
    pub fn expect_same(&self, version: &Version) {
        self.expect_same_at(&self.to(), version);
    }

    /// The same, at another target.
    pub fn expect_same_at(&self, to: &Dataset, version: &Version) {
        let there = to.inventory().unwrap();
        let there = there.by_guid(version.id.guid).expect("it arrived");
        assert_eq!(there.id, version.id);
        let (left, right) =
            (content(&self.from(), version, &self.source), content(to, version, &self.target));
        assert_eq!(left, right);
        assert!(left.lines().count() > 1, "{left}");
    }

    /// What a receive that is not done has left at the target: names in the store.
    pub fn left(&self) -> Vec<String> {
        let store = self.target.path().join(".cowsnap");
        let Ok(datasets) = fs::read_dir(store.join("datasets")) else { return Vec::new() };
        let snaps = datasets.flatten().map(|dataset| dataset.path().join("snap"));
        let all = snaps
            .chain([store.join("staging")])
            .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let of_a_receive = |name: &String| name.starts_with('%') || name.contains('-') && !name.contains('T');
        let mut names: Vec<_> = names.filter(of_a_receive).collect();
        names.sort();
        names
    }
}

fn content(dataset: &Dataset, version: &Version, ground: &Btrfs) -> String {
    let at = ground.outside().join("look");
    fs::create_dir_all(&at).unwrap();
    let mount = dataset.mount(&version.id, &at).unwrap();
    let script = "cd \"$1\" && find . -printf '%p %y %m %U %G %s %T@\\n' | sort && find . -type f -print0 | sort -z | xargs -0 cksum";
    let said = run("sh", &["-c", script, "-", at.to_str().unwrap()]).stdout;
    drop(mount);
    String::from_utf8(said).unwrap()
}

pub fn options() -> Options {
    Options { level: None, bandwidth: None, zfs_flags: None, keep_every: 1 << 20 }
}

pub fn full(version: &Version) -> Transfer {
    Transfer { version: version.id.clone(), base: None, token: None }
}

pub fn upon(version: &Version, base: &Version) -> Transfer {
    Transfer { version: version.id.clone(), base: Some(base.id.clone()), token: None }
}

pub fn bring(from: &Place, to: &Place, what: &Transfer) -> cowsnap::Result<Moved> {
    transfer(from, to, what, &options(), &Silent)
}
