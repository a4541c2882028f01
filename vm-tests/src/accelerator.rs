use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Image;
use crate::image::cache;

/// A machine under KVM is through its kernel in less than a second; one that hangs is not seen again.
const LIMIT: Duration = Duration::from_secs(6);

/// QEMU's `-accel`: `COWSNAP_VM_ACCEL`, else KVM if a machine boots under it, else emulation on all cores.
///
/// `/dev/kvm` alone says nothing: where it is there and stock kernels hang under it, only booting one tells. The answer is
/// kept until the host boots again.
pub(crate) fn accelerator(image: &Image) -> &'static str {
    let (kvm, emulation) = ("kvm", "tcg,thread=multi,tb-size=512");
    match std::env::var("COWSNAP_VM_ACCEL").as_deref() {
        Ok("kvm") => return kvm,
        Ok("tcg") => return emulation,
        _ => {}
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let kept = cache().join("accelerator");
    let known = fs::read_to_string(&kept).unwrap_or_default();
    let works = match known.strip_prefix(boot_id.as_str()) {
        Some(answer) if !boot_id.is_empty() => answer == kvm,
        _ => {
            let works = boots_under_kvm(image);
            let _ = fs::write(&kept, format!("{boot_id}{}", if works { kvm } else { "tcg" }));
            works
        }
    };
    if works { kvm } else { emulation }
}

fn boots_under_kvm(image: &Image) -> bool {
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let console = cache().join(format!("probe.{}", std::process::id()));
    let disk = format!("file={},if=none,id=root,format=raw,snapshot=on", image.disk().display());
    let probe = Command::new("qemu-system-x86_64")
        .args([
            "-M",
            "q35",
            "-m",
            "512",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-drive", &disk, "-device", "nvme,drive=root,serial=root"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(image.kernel())
        .args(["-append", "console=ttyS0 quiet root=/dev/nvme0n1 rw init=/usr/sbin/probe"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut probe) = probe else { return false };
    let began = Instant::now();
    while began.elapsed() < LIMIT && matches!(probe.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = probe.kill();
    let _ = probe.wait();
    let said = fs::read_to_string(&console).unwrap_or_default();
    let _ = fs::remove_file(&console);
    said.contains("accelerator-works")
}
