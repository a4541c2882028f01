use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::accelerator::{self, EMULATION, KVM};
use crate::channel::PORT;
use crate::volatile::SECTOR;
use crate::{Error, Guest, Image, Payload, Result};

/// Emulated, on a busy host, with other guests beside it.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// Without `cmpxchg16b`, which the kernel then does without: QEMU 7.2 was seen to leave rubbish in the flags behind it, so that
/// a guest that was interrupted there died of a double fault, once in a while. Without five levels of page tables.
const EMULATED: &str = "max,-cx16,-la57";

/// A disk that outlives its guest: `/dev/disk/by-id/virtio-NAME` there.
#[derive(Clone, Debug)]
pub struct Drive {
    name: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// A raw file.
    File(PathBuf),
    /// The socket of an NBD server.
    Socket(PathBuf),
}

impl Drive {
    /// A new sparse file of that many bytes at `file`.
    ///
    /// # Errors
    /// If it can not be made.
    pub fn create(name: &str, file: &Path, bytes: u64) -> Result<Self> {
        let made = fs::File::create(file).and_then(|f| f.set_len(bytes));
        made.map_err(Error::host(format!("make the drive {}", file.display())))?;
        Ok(Self { name: name.into(), place: Place::File(file.into()) })
    }

    /// One with a volatile cache behind that socket.
    pub(crate) fn served(name: &str, socket: &Path) -> Self {
        Self { name: name.into(), place: Place::Socket(socket.into()) }
    }

    fn plug_into(&self, qemu: &mut Command) {
        match &self.place {
            Place::File(file) => drive(qemu, file, &self.name, "virtio-blk-pci", ""),
            Place::Socket(socket) => {
                let name = &self.name;
                let socket = socket.display().to_string().replace(',', ",,");
                // The guest is told that there is a cache, and how much is written as a whole.
                let blocks = format!("logical_block_size={SECTOR},physical_block_size={SECTOR}");
                qemu.arg("-drive").arg(format!(
                    "file.driver=nbd,file.server.type=unix,file.server.path={socket},if=none,id={name},format=raw,\
                     cache=writeback"
                ));
                qemu.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name},{blocks}")]);
            }
        }
    }

    /// Where the guest sees it.
    pub fn device(&self) -> String {
        format!("/dev/disk/by-id/virtio-{}", self.name)
    }
}

/// A machine that is off: what is plugged into it.
#[derive(Clone, Debug)]
pub struct Machine {
    image: Image,
    payload: Payload,
    drives: Vec<Drive>,
    memory_mib: u32,
    qemu: OsString,
    /// Found out when it is first needed, if `None`.
    accelerator: Option<&'static str>,
    boot_limit: Duration,
    /// A root disk of its own, if it does not forget.
    root: Option<PathBuf>,
}

impl Machine {
    /// Two processors, 2 GiB of memory, no network, and a root disk that forgets.
    pub fn new(image: Image, payload: Payload) -> Self {
        Self {
            image,
            payload,
            drives: Vec::new(),
            memory_mib: 2048,
            qemu: "qemu-system-x86_64".into(),
            accelerator: None,
            boot_limit: BOOT_LIMIT,
            root: None,
        }
    }

    /// Gives it a root disk that remembers, at `file`: each boot finds what the one before has left there.
    ///
    /// # Errors
    /// If the image's disk can not be copied.
    pub fn that_remembers(mut self, file: &Path) -> Result<Self> {
        let copied = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .args([&self.image.disk(), file])
            .status()
            .map_err(Error::host("start cp"))?;
        if !copied.success() {
            let words = format!("the image was not copied to {}", file.display());
            return Err(Error::Program { program: "cp".into(), words });
        }
        self.root = Some(file.into());
        Ok(self)
    }

    /// Plugs a drive in.
    #[must_use]
    pub fn with(mut self, drive: &Drive) -> Self {
        self.drives.push(drive.clone());
        self
    }

    /// Starts it in a folder of its own below the temporary directory, and waits until it answers. It ends with the
    /// thread that called this.
    ///
    /// # Errors
    /// If QEMU is missing, or the guest ends or hangs before it answers; what its console said is in the error.
    pub fn boot(&self) -> Result<Guest> {
        let accelerator = self.accelerator.unwrap_or_else(|| accelerator::known_or_probed(&self.image));
        match self.boot_under(accelerator) {
            // An emulated clock may fail a kernel on a busy host; and what booted by itself need not do so with all that is
            // plugged in here.
            Err(error @ Error::NoBoot { .. }) => {
                eprintln!("{error}\nit is tried once more");
                let again = if accelerator::is_set() { accelerator } else { EMULATION };
                if accelerator != again {
                    accelerator::give_up_kvm();
                }
                self.boot_under(again)
            }
            booted => booted,
        }
    }

    fn boot_under(&self, accelerator: &str) -> Result<Guest> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("cowsnap-vm-{}-{number}", std::process::id()));
        self.prepare(&folder)?;
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL"]).arg(&self.qemu);
        let child = self.start(qemu, accelerator, &folder)?;
        Guest::of_child(child, folder, &self.payload, self.boot_limit)
    }

    /// Starts it in `folder` so that it outlives this process; it powers off when nobody spoke to it for hours.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn boot_and_leave(&self, folder: &Path) -> Result<Guest> {
        self.prepare(folder)?;
        let mut qemu = Command::new("setsid");
        qemu.arg(&self.qemu);
        let child = self.start(qemu, accelerator::known_or_probed(&self.image), folder)?;
        fs::write(folder.join("pid"), child.id().to_string()).map_err(Error::host("note QEMU's process"))?;
        drop(child); // It goes on.
        Guest::kept(folder, &self.payload, BOOT_LIMIT)
    }

    fn prepare(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(Error::host(format!("make {}", folder.display())))?;
        self.payload.write(&folder.join("payload.img"))
    }

    fn start(&self, mut qemu: Command, accelerator: &str, folder: &Path) -> Result<std::process::Child> {
        let processor = if accelerator == KVM { "host" } else { EMULATED };
        let memory = self.memory_mib.to_string();
        qemu.args(["-M", "q35", "-smp", "2", "-m", &memory, "-accel", accelerator, "-cpu", processor]);
        qemu.args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-nic",
            "none",
            "-device",
            "virtio-rng-pci",
        ]);
        qemu.arg("-kernel").arg(self.image.kernel()).arg("-append").arg(KERNEL_LINE);
        // On NVMe, whose driver is built into the kernel: no initial RAM disk is needed.
        match &self.root {
            Some(root) => drive(&mut qemu, root, "root", "nvme", ""),
            None => drive(&mut qemu, &self.image.disk(), "root", "nvme", ",snapshot=on"),
        }
        let payload = folder.join("payload.img");
        // It is written anew while the guest has it unmounted, hence no lock.
        drive(&mut qemu, &payload, "payload", "virtio-blk-pci", ",readonly=on,file.locking=off");
        for d in &self.drives {
            d.plug_into(&mut qemu);
        }
        qemu.args(["-device", "virtio-serial-pci", "-chardev"]);
        qemu.arg(format!("socket,id=agent,server=on,wait=off,path={}", folder.join("agent").display()));
        qemu.args(["-device", &format!("virtserialport,chardev=agent,name={PORT}")]);
        qemu.arg("-serial").arg(format!("file:{}", folder.join("console").display()));
        let words = fs::File::create(folder.join("qemu.log")).map_err(Error::host("make QEMU's log"))?;
        let child = qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(words).spawn();
        child.map_err(|_| Error::Missing {
            what: "qemu-system-x86_64".into(),
            hint: "apt-get install --no-install-recommends qemu-system-x86".into(),
        })
    }
}

const KERNEL_LINE: &str = "console=ttyS0 root=/dev/nvme0n1 rw quiet loglevel=4 panic=-1 mitigations=off nokaslr audit=0 \
    no_timer_check apparmor=0 systemd.show_status=0 random.trust_cpu=on";

fn drive(qemu: &mut Command, file: &Path, name: &str, device: &str, options: &str) {
    let file = file.display().to_string().replace(',', ",,");
    qemu.args(["-drive", &format!("file={file},if=none,id={name},format=raw{options}")]);
    qemu.args(["-device", &format!("{device},drive={name},serial={name}")]);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What comes of booting with a stand-in for QEMU that runs `script`; `$console` is the file of its console.
    fn booted(name: &str, script: &str) -> String {
        let folder = std::env::temp_dir().join(format!("cowsnap-boot-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("mkdir");
        let (program, agent) = (folder.join("qemu"), folder.join("agent"));
        let finds = "for word; do case $word in file:*) console=${word#file:} ;; esac; done";
        fs::write(&program, format!("#!/bin/sh\n{finds}\n{script}\n")).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::write(&agent, "").expect("write");
        let machine = Machine {
            qemu: program.into(),
            accelerator: Some(EMULATION),
            boot_limit: Duration::from_millis(1500),
            ..Machine::new(Image::of_folder(&folder), Payload::new(&agent))
        };
        let error = machine.boot().err().expect("it does not boot").to_string();
        let prefix = format!("cowsnap-vm-{}-", std::process::id());
        let left = fs::read_dir(std::env::temp_dir()).expect("list").flatten();
        let left: Vec<_> =
            left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).collect();
        fs::remove_dir_all(&folder).expect("clean");
        assert!(left.is_empty(), "it left {left:?}");
        error
    }

    #[test]
    fn a_guest_that_does_not_boot_is_told_with_its_console_and_leaves_nothing() {
        if !Command::new("mkfs.ext4").arg("-V").output().is_ok_and(|output| output.status.success()) {
            println!("SKIP a_guest_that_does_not_boot: no mkfs.ext4");
            return;
        }
        let hangs = booted("hangs", "echo 'Probing EDD' >$console; exec sleep 100000");
        assert!(hangs.starts_with("the guest did not boot: no answer within 1 s\n"), "{hangs}");
        assert!(hangs.contains("Probing EDD"), "{hangs}");
        let ends = booted("ends", "echo 'Kernel panic' >$console; echo 'no such disk' >&2; exit 3");
        assert!(ends.starts_with("the guest did not boot: QEMU ended (exit status: 3)\n"), "{ends}");
        assert!(ends.contains("Kernel panic") && ends.contains("no such disk"), "{ends}");
    }
}
