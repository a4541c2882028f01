//! The machine goes down while a job is at work on its service, with all that would have started it again: cut off, or by an orderly reboot on a
//! real systemd. At the next boot the service runs.
//!
//! `COWSNAP_REBOOTS=N` takes N rows of the table instead of all, `COWSNAP_REBOOT_FIRST=K` begins with the Kth.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vm_tests::{Drive, Guest, Image, Machine, Payload, Variant};

const GUEST: &str = include_str!("guest.sh");
/// One step, or one boot, emulated, on a busy host.
const LIMIT: Duration = Duration::from_secs(300);

/// How the machine goes down, and what is found right before.
enum Row {
    /// Before that step of a transaction the run is killed, its guard with it, and then the machine is cut off.
    Cut { before: &'static str, unit: &'static str, lease: Lease },
    /// It is told to reboot while the service takes its time to stop for a run.
    Reboot,
}

/// Who starts the service at the next boot.
#[derive(Clone, Copy)]
enum Lease {
    /// Nothing was written down yet, and nothing stopped: systemd, as the unit is enabled.
    None,
    /// What was written down says so; the unit is not enabled.
    Left,
}

/// Every step there is.
const ROWS: [Row; 13] = [
    Row::Cut { before: "Look", unit: "active", lease: Lease::None },
    Row::Cut { before: "Probe", unit: "active", lease: Lease::None },
    Row::Cut { before: "Lease", unit: "active", lease: Lease::None },
    Row::Cut { before: "Guard", unit: "active", lease: Lease::Left },
    Row::Cut { before: "Stop(0)", unit: "active", lease: Lease::Left },
    Row::Cut { before: "Verify", unit: "inactive", lease: Lease::Left },
    Row::Cut { before: "Snapshot", unit: "inactive", lease: Lease::Left },
    Row::Cut { before: "Confirm", unit: "inactive", lease: Lease::Left },
    Row::Cut { before: "Start(0)", unit: "inactive", lease: Lease::Left },
    Row::Cut { before: "Answer", unit: "active", lease: Lease::Left },
    Row::Cut { before: "Settle", unit: "active", lease: Lease::Left },
    Row::Cut { before: "Unlease", unit: "active", lease: Lease::Left },
    Row::Reboot,
];

#[test]
fn at_whichever_step_the_machine_goes_down_the_service_runs_after_the_boot() {
    let Some(image) = image() else { return };
    let set = |name, default| std::env::var(name).ok().map_or(default, |n| n.parse().expect("a number"));
    let (first, n): (usize, usize) = (set("COWSNAP_REBOOT_FIRST", 1), set("COWSNAP_REBOOTS", ROWS.len()));
    assert!(first > 0 && n > 0, "rows are counted from 1, and none tests nothing");
    let lab = Lab::new(image);
    let mut guest = lab.boot();
    lab.ask(&mut guest, &format!("make '{}'", lab.program.display()));
    for row in ROWS.iter().cycle().skip(first - 1).take(n) {
        guest = lab.goes_down(guest, row);
    }
    assert_eq!(lab.ask(&mut guest, "snapshots").lines().count(), 1);
}

struct Lab {
    machine: Machine,
    program: PathBuf,
    tests: PathBuf,
    folder: PathBuf,
}

impl Lab {
    fn new(image: Image) -> Self {
        let agent = Path::new(env!("CARGO_BIN_EXE_vm-agent"));
        let tests = tests();
        // What cargo has built the tests for lies there, too.
        let program = agent.with_file_name("cowsnap");
        let folder = std::env::temp_dir().join(format!("cowsnap-reboot-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a new folder");
        let drive = Drive::create("data", &folder.join("data"), 1 << 30).expect("a drive");
        let payload = Payload::new(agent).with(&program).with(&tests);
        let machine = Machine::new(image, payload).with(&drive).that_remembers(&folder.join("root"));
        Self { machine: machine.expect("a root disk"), program, tests, folder }
    }

    fn boot(&self) -> Guest {
        self.machine.boot().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The guest after its next boot, in which nobody but who is to has started the service, once.
    fn goes_down(&self, mut guest: Guest, row: &Row) -> Guest {
        let began = Instant::now();
        let told = match *row {
            Row::Cut { before, unit, lease } => {
                let lease = match lease {
                    Lease::None => "none",
                    Lease::Left => "left",
                };
                self.ask(&mut guest, &format!("dies '{}' '{before}' {unit} {lease}", self.tests.display()));
                guest.kill();
                format!("killed before {before} and cut off")
            }
            Row::Reboot => {
                self.ask(&mut guest, "waits");
                guest.start("systemctl reboot").unwrap_or_else(|error| panic!("{error}"));
                guest.ends(LIMIT).unwrap_or_else(|error| panic!("{error}"));
                "rebooted while the service was told to end".into()
            }
        };
        let down = Instant::now();
        let mut guest = self.boot();
        let booted = Instant::now();
        self.ask(&mut guest, "runs");
        println!(
            "{told}: it runs after the boot ({} s, of which {} s to boot)",
            began.elapsed().as_secs(),
            booted.duration_since(down).as_secs()
        );
        guest
    }

    /// What the guest says to that; that it failed is the end of the test.
    fn ask(&self, guest: &mut Guest, words: &str) -> String {
        let script = format!("set -- {words}\n{GUEST}");
        let done = guest.run(&script, LIMIT).unwrap_or_else(|error| panic!("{words}: {error}"));
        let text = done.text();
        assert!(
            done.code == 0 && !text.lines().any(|line| line.starts_with("failed")),
            "{words}: {}\n{text}",
            done.code
        );
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The program of tests as it is now, which builds the program that they run, too: one of them is the run that kills itself.
fn tests() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a checkout");
    let words =
        ["test", "--quiet", "--no-run", "--package", "cowsnap", "--test", "it", "--message-format=json"];
    let output = Command::new(env!("CARGO")).args(words).current_dir(root).output().expect("cargo starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = said.lines().filter(|line| line.contains(r#""name":"it""#)).find_map(|line| {
        let (_, rest) = line.split_once(r#""executable":""#)?;
        Some(rest.split_once('"')?.0.into())
    });
    found.unwrap_or_else(|| panic!("cargo names no program: {said}"))
}

/// The guest's image; `None`, said aloud, if this machine can have none and `COWSNAP_REQUIRE` does not name `zfs`.
fn image() -> Option<Image> {
    let is_required = std::env::var("COWSNAP_REQUIRE").is_ok_and(|r| r.split(',').any(|r| r == "zfs"));
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    let variant = match std::env::var("COWSNAP_VM_VARIANT").as_deref() {
        Ok("bpo") => Variant::Backports,
        _ => Variant::Stable,
    };
    let lacking = match (qemu, Image::is_ready(variant)) {
        (Err(error), _) => Some(format!("qemu-system-x86_64: {error}")),
        (Ok(_), false) if !is_required => Some("the guest's image is not built (scripts/vm image)".into()),
        (Ok(_), _) => None,
    };
    match lacking {
        None => Some(Image::ready(variant).unwrap_or_else(|error| panic!("{error}"))),
        Some(reason) => {
            assert!(!is_required, "COWSNAP_REQUIRE names zfs: {reason}");
            println!("SKIP reboot: {reason}");
            None
        }
    }
}
