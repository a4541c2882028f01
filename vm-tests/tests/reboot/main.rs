//! The machine goes down while a job has its service stopped, with all that would have started it again: cut off, or by an orderly reboot on a
//! real systemd. At the next boot the service runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vm_tests::{Drive, Guest, Image, Machine, Payload, Variant};

const GUEST: &str = include_str!("guest.sh");
/// One step, or one boot, emulated, on a busy host.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_service_that_a_job_had_stopped_runs_after_a_reboot() {
    let Some(image) = image() else { return };
    let lab = Lab::new(image);
    let mut guest = lab.boot();
    lab.ask(&mut guest, &format!("make '{}'", lab.program.display()));
    for (step, found) in
        [("Stop(0)", "active"), ("Verify", "inactive"), ("Start(0)", "inactive"), ("Answer", "active")]
    {
        lab.ask(&mut guest, &format!("dies '{}' '{step}' {found}", lab.tests.display()));
        guest.kill();
        guest = lab.boot();
        lab.ask(&mut guest, "runs");
        println!("killed before {step} and cut off: it runs after the boot");
    }
    lab.ask(&mut guest, "waits");
    guest.start("systemctl reboot").unwrap_or_else(|error| panic!("{error}"));
    guest.ends(LIMIT).unwrap_or_else(|error| panic!("{error}"));
    guest = lab.boot();
    lab.ask(&mut guest, "runs");
    println!("rebooted while it was told to end: it runs after the boot");
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
