//! Power cuts: QEMU is killed while cowsnap works, its disks lose what was not flushed, and the next boot has to find all
//! that was reported and nothing that is half made. docs/TESTING.md, "Power cuts".
//!
//! `COWSNAP_POWER_CUTS=N` makes N cuts instead of eight, `COWSNAP_POWER_FIRST=K` from the Kth on, `COWSNAP_POWER_SEED=S` others.

mod account;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use account::{Found, Name, Told};
use vm_tests::{Drive, Guest, Image, Machine, Payload, Piece, Random, Running, Variant, VolatileDisk};

const GUEST: &str = include_str!("guest.sh");
const OPS: [&str; 4] = ["snapshot", "receive", "destroy", "clone"];
/// Each operation by itself, so that no other one commits for it, and all of them at once.
const CUTS: [&[&str]; 8] =
    [&["receive"], &["destroy"], &OPS, &["snapshot"], &["clone"], &OPS, &["replicate"], &["layer"]];
/// One step in the guest, emulated, on a busy host.
const LIMIT: Duration = Duration::from_secs(400);
/// For the write that a cut is aimed at; then it is cut where it is.
const STOP_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn what_was_reported_outlives_a_power_cut_and_nothing_half_made_passes_for_whole() {
    let Some(image) = image() else { return };
    let lab = Lab::new(image);
    let mut guest = lab.boot();
    lab.ask(&mut guest, "make");
    let mut unflushed = 0;
    for round in lab.first_cut..lab.first_cut + lab.n_cuts {
        let cut = lab.cut(guest, round, CUTS[(round as usize - 1) % CUTS.len()]);
        unflushed += cut.unflushed;
        guest = cut.guest;
    }
    lab.ask(&mut guest, "scrub");
    assert!(unflushed > 0, "whenever the power was cut, the disks had it all flushed: nothing was tested");
}

/// The disks and the machine that they are plugged into.
struct Lab {
    machine: Machine,
    zfs: VolatileDisk,
    btrfs: VolatileDisk,
    ext4: VolatileDisk,
    program: PathBuf,
    first_cut: u64,
    n_cuts: u64,
    seed: u64,
    _folder: Folder,
}

/// One cut, and the machine after it.
struct Cut {
    guest: Guest,
    unflushed: u64,
}

impl Lab {
    fn new(image: Image) -> Self {
        let agent = Path::new(env!("CARGO_BIN_EXE_vm-agent"));
        let program = cowsnap(agent);
        let folder = Folder::new();
        let disk = |name| VolatileDisk::create(name, &folder.0, 4 << 30).expect("a disk");
        let (zfs, btrfs, ext4) = (disk("z"), disk("b"), disk("e"));
        // What the streams are kept on is none of those that are tested: it loses nothing.
        let depot = Drive::create("depot", &folder.0.join("depot"), 1 << 30).expect("a drive");
        let payload = Payload::new(agent).with(&program);
        let machine = Machine::new(image, payload);
        let machine = machine.with(&zfs.drive()).with(&btrfs.drive()).with(&ext4.drive()).with(&depot);
        let set = |name, default| std::env::var(name).ok().map_or(default, |n| n.parse().expect("a number"));
        let (first_cut, n_cuts) =
            (set("COWSNAP_POWER_FIRST", 1), set("COWSNAP_POWER_CUTS", CUTS.len() as u64));
        let seed = set("COWSNAP_POWER_SEED", 20_261_121);
        Self { machine, zfs, btrfs, ext4, program, first_cut, n_cuts, seed, _folder: folder }
    }

    /// On a busy host a boot may take longer than its limit; the disks are not touched before `plug`.
    fn boot(&self) -> Guest {
        let tries = (0..3).map(|_| self.machine.boot().inspect_err(|error| println!("boot again: {error}")));
        tries.into_iter().find_map(Result::ok).expect("it boots at the third time at the latest")
    }

    fn script(&self, words: &str) -> String {
        let bin = self.program.parent().expect("a program is in a folder").display();
        format!("PATH='{bin}':$PATH; set -- {words}\n{GUEST}")
    }

    /// What the guest says to that; that it failed is the end of the test.
    fn ask(&self, guest: &mut Guest, words: &str) -> String {
        let done = guest.run(&self.script(words), LIMIT).unwrap_or_else(|error| panic!("{words}: {error}"));
        let text = done.text();
        assert!(done.code == 0 && !text.lines().any(|line| line.starts_with("failed")), "{words}: {text}");
        text
    }

    fn cut(&self, mut guest: Guest, round: u64, ops: &[&str]) -> Cut {
        let began = Instant::now();
        let mut random = Random(self.seed ^ round << 32);
        let words = format!("{round} {}", ops.join(" "));
        let mut lines = self.ask(&mut guest, &format!("prepare {words}"));
        let running = guest.start(&self.script(&format!("work {words}"))).expect("it starts");
        lines += &self.until_cut(guest, running, ops, &mut random);
        let disks = [&self.zfs, &self.btrfs, &self.ext4];
        let [zfs, btrfs, ext4] = disks.map(|disk| disk.cut(random.below(u64::MAX)));
        let told = Told::read(&lines);
        let in_flight: Vec<_> = told.in_flight().flat_map(|s| s.names.iter().map(|n| (&s.op, n))).collect();
        let of = in_flight.iter().map(|(op, name)| format!("{op} {name}")).collect::<Vec<_>>().join(", ");
        println!(
            "cut {round} (seed {}): {} commands reported; cut off: {of}; of {} unflushed sectors of zfs, {} of btrfs and {} of \
             ext4, {}, {} and {} lost",
            self.seed,
            told.n_done(),
            zfs.kept + zfs.lost,
            btrfs.kept + btrfs.lost,
            ext4.kept + ext4.lost,
            zfs.lost,
            btrfs.lost,
            ext4.lost
        );
        assert!(told.failed.is_empty(), "{:#?}", told.failed);
        let guest = self.after_cut(round, told, &lines);
        println!("cut {round}: as it must be, after {:.0} s in all", began.elapsed().as_secs_f32());
        let unflushed = [zfs, btrfs, ext4].iter().map(|cut| cut.kept + cut.lost).sum();
        Cut { guest, unflushed }
    }

    /// Lets it work until some commands were reported, and then on to some write within the next ones; cuts the power;
    /// and answers all that was told before.
    fn until_cut(&self, guest: Guest, mut running: Running, ops: &[&str], random: &mut Random) -> String {
        let wanted = (2 + random.below(4) * ops.len() as u64) as usize;
        let mut told = String::new();
        let mut until = |is_enough: &dyn Fn(&str) -> bool| {
            while !is_enough(&told) {
                match running.next(LIMIT).unwrap_or_else(|error| panic!("{error}\n{told}")) {
                    Piece::Output(bytes) => told += &String::from_utf8_lossy(&bytes),
                    Piece::Over(_) => panic!("it ended before its power was cut:\n{told}"),
                }
            }
            told.len()
        };
        let so_far = until(&|told| told.matches("\ndone ").count() >= wanted);
        if ops == ["replicate"] {
            // One is received of which there is a checkpoint: soon, before it is whole.
            until(&|told| has_checkpoint(&told[so_far..]));
        }
        // Aimed at a write of one of the disks, so that something is on its way; a filesystem at rest writes nothing.
        let (disk, writes) = match random.below(2) {
            _ if ops == ["layer"] => (&self.ext4, 60),
            _ if ops == ["replicate"] => (&self.btrfs, 4),
            0 => (&self.zfs, 60),
            _ => (&self.btrfs, 60),
        };
        disk.stop_after(1 + random.below(writes));
        disk.has_stopped(STOP_LIMIT);
        guest.kill();
        while let Ok(Piece::Output(bytes)) = running.next(LIMIT) {
            told += &String::from_utf8_lossy(&bytes);
        }
        told
    }

    /// Boots, looks, lets the interrupted commands run once more, sweeps, and looks again.
    fn after_cut(&self, round: u64, mut told: Told, lines: &str) -> Guest {
        let mut guest = self.boot();
        self.ask(&mut guest, "plug");
        let look = |guest: &mut Guest, told: &Told, when: &str| {
            let seen = self.ask(guest, &format!("look {round}"));
            let found = Found::read(&seen);
            let wrong = told.contradictions(&found);
            assert!(wrong.is_empty(), "cut {round}, {when}: {wrong:#?}\n--- told\n{lines}\n--- seen\n{seen}");
            found
        };
        let found = look(&mut guest, &told, "after the boot");
        let partials: Vec<_> = found.partials.keys().map(ToString::to_string).collect();
        println!("cut {round}: received in part: {}", partials.join(", "));
        // In turns: what was received in part goes on, or is swept and received anew.
        let goes_on = !round.is_multiple_of(2);
        if !goes_on {
            self.sweep(&mut guest, round);
        }
        for step in told.in_flight() {
            for name in &step.names {
                // A replication also marks what it brought.
                if found.has(name) == (step.op == "destroy") || step.op == "replicate" {
                    let token = found.partials.get(name).filter(|_| goes_on && name.fs == "zfs");
                    let token = token.map_or("", String::as_str);
                    let said = self.ask(&mut guest, &format!("again {} {name} {token}", step.op));
                    said.lines()
                        .filter(|line| line.starts_with("moved"))
                        .for_each(|line| println!("cut {round}: {line}"));
                    if let Some(bytes) = resumable(&found, name).filter(|_| goes_on && step.op == "replicate")
                    {
                        let resumed = resumed(&said, name);
                        assert!(resumed > 0, "cut {round}: {bytes} bytes of {name} were durable: {said}");
                    }
                }
            }
        }
        self.sweep(&mut guest, round);
        told.complete(&found);
        look(&mut guest, &told, "after the same commands again");
        guest
    }

    /// Puts right what was left, and sees that nothing is left then.
    fn sweep(&self, guest: &mut Guest, round: u64) {
        let swept = self.ask(guest, "sweep");
        assert!(!swept.lines().any(|line| line.starts_with("left")), "cut {round}: {swept}");
        swept.lines().for_each(|line| println!("cut {round}: {line}"));
    }
}

/// Whether something is being received of which there is a checkpoint.
fn has_checkpoint(told: &str) -> bool {
    let whole = told.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.rfind("checkpoint btrfs ").is_some_and(|at| whole.rfind("done replicate btrfs ") < Some(at))
}

/// How many bytes of it were safe on the disk as the power went, by which btrfs goes on. ZFS goes on by its token.
fn resumable(found: &Found, name: &Name) -> Option<u64> {
    found.kept.get(name).copied().filter(|_| name.fs == "btrfs")
}

/// How many bytes of it did not come again, as a replication said.
fn resumed(said: &str, name: &Name) -> u64 {
    let snapshot = name.name.split_once('@').map_or("", |(_, snapshot)| snapshot);
    let begins = format!("moved {} {snapshot}: ", name.fs);
    let mut of_it = said.lines().filter_map(|line| line.strip_prefix(&begins));
    of_it.next().and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Gone with its value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("cowsnap-power-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a new folder");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The guest's image; `None`, said aloud, if this machine can have none and `COWSNAP_REQUIRE` does not name `zfs`.
fn image() -> Option<Image> {
    let variant = match std::env::var("COWSNAP_VM_VARIANT").as_deref() {
        Ok("bpo") => Variant::Backports,
        _ => Variant::Stable,
    };
    let is_required = std::env::var("COWSNAP_REQUIRE").is_ok_and(|r| r.split(',').any(|r| r == "zfs"));
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    let lacking = match (qemu, Image::is_ready(variant)) {
        (Err(error), _) => Some(format!("qemu-system-x86_64: {error}")),
        // It is built for who requires it: that takes minutes, root, and a Debian mirror.
        (Ok(_), false) if !is_required => Some("the guest's image is not built (scripts/vm image)".into()),
        (Ok(_), _) => None,
    };
    match lacking {
        None => Some(Image::ready(variant).unwrap_or_else(|error| panic!("{error}"))),
        Some(reason) => {
            assert!(!is_required, "COWSNAP_REQUIRE names zfs: {reason}");
            println!("SKIP power_cut: {reason}");
            None
        }
    }
}

/// The program as it is now, built as this test was.
fn cowsnap(agent: &Path) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "cowsnap", "--bin", "cowsnap"]);
    if agent.parent().is_some_and(|folder| folder.ends_with("release")) {
        cargo.arg("--release");
    }
    let built =
        cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a checkout")).status();
    assert!(built.expect("cargo starts").success(), "cowsnap is not built");
    agent.with_file_name("cowsnap")
}
