//! As the first process of a container of a real Podman, whose filesystem has nothing but the host's `/usr`.

use super::first::SERVICE;
use super::*;

/// Podman's engine, in a mount namespace of its own: its runtime wants to see cgroups of version 2 alone.
const ENGINE: &str = r#"
umount -R /sys/fs/cgroup 2>/dev/null; umount -l /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup || exit 1
exec "$@"
"#;

/// The service is there once, and what starts it again is a daemon.
const INSIDE: &str = r#"cd "$0" || exit 1; [ -e begun ] || sh service; exec "$@""#;

struct Podman<'a> {
    lab: &'a Lab,
    /// Podman takes no path of more than 50 characters for it.
    run: tempfile::TempDir,
}

impl<'a> Podman<'a> {
    /// With the container `cowsnap`, which does not run.
    fn new(lab: &'a Lab) -> Self {
        let run = tempfile::Builder::new().prefix("cowsnap-").tempdir_in("/run").expect("a folder");
        let (root, rootfs) = (lab.fs.outside(), file(lab, "rootfs"));
        for name in ["usr", "etc", "proc", "sys", "dev", "run", "tmp", "var", "root"] {
            fs::create_dir_all(rootfs.join(name)).expect("made");
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), rootfs.join(name)).expect("made");
        }
        fs::copy(env!("CARGO_BIN_EXE_cowsnap"), file(lab, "cowsnap")).expect("copied");
        let podman = Self { lab, run };
        let place = root.to_str().expect("utf-8").to_owned();
        let (volume, program) = (format!("{place}:{place}:rslave"), format!("{place}/cowsnap"));
        let (state, config, socket) =
            (format!("{place}/state"), format!("{place}/config.toml"), format!("{place}/socket"));
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--cgroups=disabled"];
        let first = ["create", "--name", "cowsnap", "--privileged", "--network", "none"];
        let volumes = ["-v", "/usr:/usr:ro", "-v", &volume, "--rootfs", rootfs.to_str().expect("utf-8")];
        let line = ["/bin/sh", "-c", INSIDE, &place, &program, "--state-dir", &state];
        let daemon = ["daemon", "--config", &config, "--listen", &socket];
        podman.does(&[&first[..], &limits, &volumes, &line, &daemon].concat());
        podman
    }

    fn command(&self, words: &[&str]) -> Command {
        let how = ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"];
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", ENGINE, "sh", "podman"]).args(how);
        command.arg("--root").arg(file(self.lab, "storage")).arg("--tmpdir").arg(file(self.lab, "tmp"));
        command.arg("--runroot").arg(self.run.path()).args(words).stdin(Stdio::null());
        command
    }

    fn does(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {words:?}: {said}");
        format!("{}{said}", String::from_utf8_lossy(&output.stdout)).trim().to_owned()
    }

    /// It runs, and its daemon answers.
    fn begins(&self) {
        self.does(&["start", "cowsnap"]);
        waits("the daemon", || self.ask("GET", "/livez").is_some_and(|(status, _)| status == 200));
    }

    fn ask(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let stream = UnixStream::connect(file(self.lab, "socket")).ok()?;
        stream.set_read_timeout(Some(LONG)).expect("set");
        Some(exchange(stream, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")))
    }

    fn said(&self) -> String {
        self.does(&["logs", "cowsnap"])
    }

    fn code(&self) -> String {
        self.does(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "cowsnap"])
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--force", "--time", "0", "--all"]).output();
    }
}

#[test]
fn in_a_container_of_podman_what_is_stopped_is_started_by_the_guard_or_by_the_next_daemon() {
    ground!("btrfs", "podman");
    let lab = lab(first::STOPPED);
    fs::write(file(&lab, "service"), SERVICE).expect("written");
    let podman = Podman::new(&lab);
    podman.begins();
    waits("the service", || file(&lab, "pid").exists());
    let is_at_work =
        || podman.ask("GET", "/jobs/node").is_none_or(|(_, told)| told.contains("\"is_at_work\":true"));
    let ask = |what: &str| {
        waits("the end of the run before", || !is_at_work());
        assert_eq!(podman.ask("POST", "/jobs/node/run").map(|(status, _)| status), Some(202), "{what}");
    };
    let n_begun = || first::n_begun(&lab);
    ask("a run");
    waits("its snapshot", || lab.snapshots("node").len() == 1);
    waits("its end", || !file(&lab, "state/leases/node.json").exists());
    assert_eq!(n_begun(), 2);
    // It ends in the midst: not before the service, which does not end so soon, was started again.
    fs::write(file(&lab, "slow"), "").expect("written");
    let _ = fs::remove_file(file(&lab, "ending"));
    ask("one that waits for the service");
    waits("the stop", || file(&lab, "ending").exists());
    podman.does(&["kill", "--signal", "TERM", "cowsnap"]);
    waits("what it waits for", || podman.said().contains("waits for the start of the process"));
    fs::write(file(&lab, "go"), "").expect("written");
    waits("its end", || podman.code() == "exited 0");
    assert_eq!(n_begun(), 3, "{}", podman.said());
    // The engine does not wait: the next daemon starts it, with whatever configuration.
    fs::remove_file(file(&lab, "go")).expect("removed");
    fs::remove_file(file(&lab, "begun")).expect("removed");
    fs::remove_file(file(&lab, "ending")).expect("removed");
    fs::remove_file(file(&lab, "pid")).expect("removed");
    podman.begins();
    waits("the service", || n_begun() == 1);
    waits("it writes", || fs::read_to_string(file(&lab, "pid")).is_ok_and(|pid| pid.ends_with('\n')));
    ask("one that waits for the service");
    waits("the stop", || file(&lab, "ending").exists());
    podman.does(&["kill", "--signal", "KILL", "cowsnap"]);
    waits("its end", || podman.code() == "exited 137");
    assert!(file(&lab, "state/leases/node.json").exists() && n_begun() == 1);
    lab.write("[job.node]\nlost = 3\n");
    podman.begins();
    waits("the service", || n_begun() == 2);
    waits("the lease's end", || !file(&lab, "state/leases/node.json").exists());
    assert!(podman.said().contains("jobs are called by a copy"), "{}", podman.said());
    fs::write(file(&lab, "go"), "").expect("written");
}
