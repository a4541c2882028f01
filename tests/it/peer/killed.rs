//! Replication by the program, killed before and after each of its calls that change a filesystem, on either side; then one more run gets there.

use std::process::{Command, Stdio};

use cowsnap::endpoint::History;
use cowsnap::model::{HoldTag, Inventory, VersionRef};
use libc::{SYS_ioctl, SYS_openat, SYS_renameat, SYS_renameat2, SYS_unlinkat, c_long};

use super::lab::{Lab, cut, noise};
use crate::ground::{self, ground};
use crate::traced::{self, Death, Ended, When};

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// `cowsnap replicate`.
    Here,
    /// `cowsnap serve`, on another machine or beside it here: it receives, or sends where the copy is fetched.
    There,
}

/// How the copy comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Pushed,
    Pulled,
    Local,
}

/// A source that changes, a target, and what replicates.
struct Replica {
    lab: Lab,
    way: Way,
    made: usize,
    /// What is run on the other side; `cowsnap serve` if that is not said.
    remote: Option<String>,
}

impl Replica {
    fn new(way: Way) -> Self {
        let mut replica = Self { lab: Lab::new(), way, made: 0, remote: None };
        replica.snapshot();
        replica
    }

    /// A new snapshot, with something made, changed, renamed and taken away since the one before.
    fn snapshot(&mut self) {
        self.made += 1;
        let (n, data) = (self.made, self.lab.source.path().join("data"));
        self.lab.write("changes", format!("{n}").repeat(1000).as_bytes());
        self.lab.write(&format!("new {n}"), &[n as u8; 100]);
        let _ = std::fs::rename(data.join(format!("new {}", n - 1)), data.join("renamed"));
        self.lab.snapshot(&format!("s{n}"));
    }

    fn replicate(&self) -> Command {
        let mut command = ground::cowsnap(&self.lab.source.outside().join("state"));
        let (source, target) = (self.lab.source.path().join("data"), self.lab.target.path().join("copy"));
        let url = |path: &std::path::Path| format!("ssh://there/{}", path.display());
        let [from, to] = match self.way {
            Way::Local => [source.display().to_string(), target.display().to_string()],
            Way::Pushed => [source.display().to_string(), url(&target)],
            Way::Pulled => [url(&source), target.display().to_string()],
        };
        let program = env!("CARGO_BIN_EXE_cowsnap");
        let folder = std::path::Path::new(program).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", folder.display())).env("COWSNAP_SSH", self.lab.shim());
        command.args(["--quiet", "replicate", &from, &to]);
        command.args(self.remote.iter().flat_map(|remote| ["--remote-command", remote]));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn killed(&self, victim: Victim, nth: usize, when: When) -> Ended {
        let is_victim = match victim {
            Victim::Here => traced::replicates,
            Victim::There => traced::serves,
        };
        traced::run(self.replicate(), Death { is_victim, nth, when, counts: traced::any })
    }

    fn inventories(&self) -> [Inventory; 2] {
        let target = self.lab.to().inventory().unwrap_or_else(|error| match error {
            cowsnap::endpoint::Error::NotFound { .. } => Inventory::default(),
            error => panic!("{error}"),
        });
        [self.lab.from().inventory().expect("it is there"), target]
    }

    /// A new snapshot, in which some MiB are new.
    fn large_snapshot(&mut self) {
        self.forget_the_old();
        self.lab.write("large", &noise(self.made as u64, 3_500_000));
        self.snapshot();
    }

    fn tags(&self) -> [HoldTag; 2] {
        self.kept().map(|kept| match &kept[..] {
            [(_, tag)] => tag.clone(),
            other => panic!("{other:?}"),
        })
    }

    /// By which tags what is kept, here and there.
    fn kept(&self) -> [Vec<(VersionRef, HoldTag)>; 2] {
        self.inventories().map(|inventory| inventory.holds().to_vec())
    }

    /// Once more, with nobody to kill it: everything is as a single run leaves it.
    fn converges(&self, tags: &[HoldTag; 2], told: &str) {
        let output = self.replicate().stderr(Stdio::piped()).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{told}: {said}");
        assert!(!said.contains("is given up"), "what was kept is sound wherever it died, {told}: {said}");
        let [source, target] = self.inventories();
        let newest = source.newest().expect("there is one").clone();
        assert!(target.partials.is_empty() && source.partials.is_empty(), "{told}: {:?}", target.partials);
        let wanted = [0, 1].map(|side| vec![(newest.id.clone(), tags[side].clone())]);
        assert_eq!(self.kept(), wanted, "{told}");
        assert_eq!(self.lab.left(), Vec::<String>::new(), "{told}");
        self.lab.expect_same(&newest);
    }

    /// Forgets what is older than the newest, on both sides: lists stay short.
    fn forget_the_old(&self) {
        for (dataset, inventory) in [self.lab.from(), self.lab.to()].into_iter().zip(self.inventories()) {
            let (_, old) = inventory.versions().split_last().expect("there is one");
            old.iter().for_each(|version| dataset.destroy(&version.id).expect("nobody keeps it"));
        }
    }

    /// As if nothing had ever been brought.
    fn forget_the_copy(&self) {
        for (dataset, inventory) in [self.lab.from(), self.lab.to()].into_iter().zip(self.inventories()) {
            inventory
                .holds()
                .iter()
                .for_each(|(version, tag)| dataset.release(version, tag).expect("released"));
        }
        let all = cowsnap::endpoint::DestroyDataset { snapshots: true };
        self.lab.to().destroy_dataset(all).expect("destroyed");
    }

    fn expect_healthy(&self) {
        for fs in [&self.lab.source, &self.lab.target] {
            let mut doctor = ground::cowsnap(&self.lab.source.outside().join("state"));
            let said = doctor.arg("doctor").arg(fs.path()).output().expect("it starts");
            assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stdout));
        }
    }
}

/// Kills the next run before its first call, the one after that after it, and so on until one is done before; `begin` makes what is to be brought.
fn at_each_call(replica: &mut Replica, victim: Victim, least: usize, mut begin: impl FnMut(&mut Replica)) {
    assert_eq!(replica.replicate().status().expect("it starts").code(), Some(0));
    let tags = replica.tags();
    for when in [When::Before, When::After] {
        let mut calls = Vec::new();
        for nth in 1.. {
            begin(replica);
            let ended = replica.killed(victim, nth, when);
            let told = format!("{:?}, {victim:?} killed {when:?} {nth}: {}", replica.way, ended.last);
            match ended.killed {
                true => assert_ne!(ended.code, Some(0), "{told}"),
                false => assert_eq!(ended.code, Some(0), "{told}"),
            }
            replica.converges(&tags, &told);
            if !ended.killed {
                break;
            }
            calls.push(ended.last);
        }
        eprintln!("{:?}, {victim:?} killed {when:?} each of {} calls", replica.way, calls.len());
        assert!(calls.len() >= least, "{:?}, {victim:?}, {when:?}: {calls:?}", replica.way);
    }
    replica.expect_healthy();
}

fn increments(way: Way, victim: Victim, least: usize) {
    let mut replica = Replica::new(way);
    at_each_call(&mut replica, victim, least, |replica| {
        replica.forget_the_old();
        replica.snapshot();
    });
}

/// The calls by which a receiver makes, names and removes files and snapshots, and not those by which it writes into files.
fn is_of_keeping(call: u64, second: u64) -> bool {
    makes_a_snapshot(call, second)
        || destroys_a_snapshot(call, second)
        || [SYS_openat, SYS_renameat, SYS_renameat2, SYS_unlinkat].contains(&(call as c_long))
}

fn makes_a_snapshot(call: u64, second: u64) -> bool {
    call as c_long == SYS_ioctl && second as u16 == 0x9417
}

fn destroys_a_snapshot(call: u64, second: u64) -> bool {
    call as c_long == SYS_ioctl && matches!(second as u16, 0x940f | 0x943f)
}

/// Kills who receives some MiB by `remote` before and after each of its calls of keeping, with one more run each time. Answers at which.
fn while_it_keeps(remote: impl Fn(&Lab) -> String) -> Vec<(u64, u64)> {
    let mut replica = Replica::new(Way::Pushed);
    assert_eq!(replica.replicate().status().expect("it starts").code(), Some(0));
    let tags = replica.tags();
    let mut killed = Vec::new();
    for when in [When::Before, When::After] {
        for nth in 1.. {
            replica.large_snapshot();
            replica.remote = Some(remote(&replica.lab));
            let death = Death { is_victim: traced::serves, nth, when, counts: is_of_keeping };
            let ended = traced::run(replica.replicate(), death);
            replica.remote = None;
            replica.converges(&tags, &format!("killed {when:?} {nth}: {}", ended.last));
            if !ended.killed {
                break;
            }
            killed.push(ended.last_call);
        }
    }
    replica.expect_healthy();
    killed
}

/// How many of them are such.
fn count(killed: &[(u64, u64)], is_it: fn(u64, u64) -> bool) -> usize {
    killed.iter().filter(|(call, second)| is_it(*call, *second)).count()
}

/// From the snapshot of what has come to the removal of the one before.
#[test]
fn a_receiver_that_is_killed_while_it_makes_a_checkpoint_is_gone_on_with() {
    ground!("btrfs");
    let killed = while_it_keeps(|lab| lab.serve("--checkpoint 1M"));
    // Before and after: the one in the making, and of three checkpoints at least two; the first of these goes.
    assert!(count(&killed, makes_a_snapshot) >= 6, "{killed:x?}");
    assert!(count(&killed, destroys_a_snapshot) >= 2, "{killed:x?}");
    assert!(count(&killed, |call, _| call as c_long == SYS_unlinkat) >= 2, "{killed:x?}");
}

/// What had come when the line ended is kept whole, or not at all.
#[test]
fn a_receiver_that_is_killed_while_it_keeps_what_had_come_is_gone_on_with() {
    ground!("btrfs");
    let killed = while_it_keeps(|lab| format!("{} | {}", cut(2_500_000), lab.serve("")));
    // Before and after: the one in the making, and what is kept of it.
    assert!(count(&killed, makes_a_snapshot) >= 4, "{killed:x?}");
}

#[test]
fn a_push_whose_source_is_killed_at_any_call_is_done_by_the_next_run() {
    ground!("btrfs");
    increments(Way::Pushed, Victim::Here, 3);
}

#[test]
fn a_push_whose_receiver_is_killed_at_any_call_is_done_by_the_next_run() {
    ground!("btrfs");
    increments(Way::Pushed, Victim::There, 10);
}

#[test]
fn a_pull_that_is_killed_at_any_call_on_either_side_is_done_by_the_next_run() {
    ground!("btrfs");
    increments(Way::Pulled, Victim::Here, 2);
    increments(Way::Pulled, Victim::There, 10);
}

#[test]
fn a_copy_on_this_machine_that_is_killed_at_any_call_is_done_by_the_next_run() {
    ground!("btrfs");
    increments(Way::Local, Victim::Here, 3);
    increments(Way::Local, Victim::There, 10);
}

#[test]
fn a_first_copy_that_is_killed_at_any_call_on_either_side_is_done_by_the_next_run() {
    ground!("btrfs");
    for (victim, least) in [(Victim::Here, 3), (Victim::There, 10)] {
        let mut replica = Replica::new(Way::Pushed);
        at_each_call(&mut replica, victim, least, |replica| replica.forget_the_copy());
    }
}
