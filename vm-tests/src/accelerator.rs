use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Image;
use crate::image::cache;

/// A machine under KVM is through its kernel in less than a second; one that hangs is not seen again.
const LIMIT: Duration = Duration::from_secs(6);

pub(crate) const KVM: &str = "kvm";
pub(crate) const EMULATION: &str = "tcg,thread=multi,tb-size=512";

/// QEMU's `-accel`: `COWSNAP_VM_ACCEL`, else KVM if a machine boots under it, else emulation on all cores.
pub(crate) fn known_or_probed(image: &Image) -> &'static str {
    match std::env::var("COWSNAP_VM_ACCEL").as_deref() {
        Ok("kvm") => KVM,
        Ok("tcg") => EMULATION,
        _ if Probe::of_this_host().kvm_works(image) => KVM,
        _ => EMULATION,
    }
}

/// Whether somebody has decided it.
pub(crate) fn is_set() -> bool {
    matches!(std::env::var("COWSNAP_VM_ACCEL").as_deref(), Ok("kvm" | "tcg"))
}

/// Until the host boots again.
pub(crate) fn give_up_kvm() {
    Probe::of_this_host().keep("tcg");
}

/// Whether KVM works on this host.
///
/// `/dev/kvm` alone says nothing: where it is there and stock kernels hang under it, only booting one tells.
struct Probe {
    device: PathBuf,
    qemu: OsString,
    cache: PathBuf,
    /// What tells this boot of the host from others; empty if nothing does.
    boot: String,
    limit: Duration,
}

impl Probe {
    fn of_this_host() -> Self {
        Self {
            device: "/dev/kvm".into(),
            qemu: "qemu-system-x86_64".into(),
            cache: cache(),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into(),
            limit: LIMIT,
        }
    }

    fn kept(&self) -> PathBuf {
        self.cache.join("accelerator")
    }

    /// Once it booted something, the answer is kept until the host boots again.
    fn kvm_works(&self, image: &Image) -> bool {
        // Not kept: it costs nothing, and a module may be loaded at any time.
        if OpenOptions::new().read(true).write(true).open(&self.device).is_err() {
            return false;
        }
        let known = fs::read_to_string(self.kept()).unwrap_or_default();
        match known.lines().collect::<Vec<_>>().as_slice() {
            [boot, answer] if !self.boot.is_empty() && *boot == self.boot => *answer == KVM,
            _ => {
                let works = self.boots(image);
                self.keep(if works { KVM } else { "tcg" });
                works
            }
        }
    }

    /// Whole or not at all: others may be asking.
    fn keep(&self, answer: &str) {
        let new = self.kept().with_extension(std::process::id().to_string());
        if fs::write(&new, format!("{}\n{answer}\n", self.boot)).is_ok() {
            let _ = fs::rename(&new, self.kept());
        }
    }

    fn boots(&self, image: &Image) -> bool {
        let console = self.cache.join(format!("probe.{}", std::process::id()));
        let disk = format!("file={},if=none,id=root,format=raw,snapshot=on", image.disk().display());
        let machine = "-M q35 -m 512 -accel kvm -cpu host -nodefaults -display none -no-reboot";
        let probe = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.qemu)
            .args(machine.split(' '))
            .args(["-drive", &disk, "-device", "nvme,drive=root,serial=root"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-kernel")
            .arg(image.kernel())
            .args(["-append", "console=ttyS0 quiet no_timer_check root=/dev/nvme0n1 rw init=/usr/sbin/probe"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut probe) = probe else { return false };
        let began = Instant::now();
        while began.elapsed() < self.limit && matches!(probe.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = probe.kill();
        let _ = probe.wait();
        let said = fs::read_to_string(&console).unwrap_or_default();
        let _ = fs::remove_file(&console);
        said.contains("accelerator-works")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder with a stand-in for QEMU, of which each call leaves a line.
    fn probe(name: &str, qemu: &str) -> Probe {
        let folder = std::env::temp_dir().join(format!("cowsnap-probe-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("mkdir");
        let program = folder.join("qemu");
        let script = format!("#!/bin/sh\necho call >>{}/calls\n{qemu}\n", folder.display());
        fs::write(&program, script).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::write(folder.join("kvm"), "").expect("write");
        Probe {
            device: folder.join("kvm"),
            qemu: program.into(),
            cache: folder,
            boot: "this-boot".into(),
            limit: Duration::from_millis(700),
        }
    }

    /// What two questions of a boot and one of the next are answered, and how often QEMU was called.
    fn asked(mut probe: Probe) -> ([bool; 3], usize) {
        let image = Image::of_folder(&probe.cache);
        let first = [probe.kvm_works(&image), probe.kvm_works(&image)];
        probe.boot = "the-next-boot".into();
        let next = probe.kvm_works(&image);
        let calls = fs::read_to_string(probe.cache.join("calls")).unwrap_or_default().lines().count();
        let left: Vec<_> = fs::read_dir(&probe.cache).expect("list").flatten().collect();
        assert!(left.len() <= 4, "nothing else is left: {left:?}");
        fs::remove_dir_all(&probe.cache).expect("clean");
        ([first[0], first[1], next], calls)
    }

    /// A shell's word for the file that the console goes to.
    const SAYS: &str = "for word; do case $word in file:*) console=${word#file:} ;; esac; done; echo accelerator-works >$console";

    #[test]
    fn kvm_that_boots_a_kernel_is_used_and_asked_once_a_boot() {
        assert_eq!(asked(probe("works", SAYS)), ([true; 3], 2));
    }

    #[test]
    fn kvm_that_hangs_is_not_used_and_asked_once_a_boot() {
        assert_eq!(asked(probe("hangs", "exec sleep 100000")), ([false; 3], 2));
    }

    #[test]
    fn a_qemu_that_refuses_kvm_is_no_kvm() {
        assert_eq!(asked(probe("refuses", "exit 1")), ([false; 3], 2));
    }

    #[test]
    fn where_there_is_no_device_nothing_is_booted() {
        let mut probe = probe("none", SAYS);
        probe.device = probe.cache.join("missing");
        assert_eq!(asked(probe), ([false; 3], 0));
    }

    #[test]
    fn what_was_kept_half_is_asked_again() {
        let probe = probe("half", SAYS);
        fs::write(probe.cache.join("accelerator"), "this-boot\n").expect("write");
        assert_eq!(asked(probe), ([true; 3], 2));
    }
}
