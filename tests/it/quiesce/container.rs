//! A service in a container of a real Podman, asked over its socket. Its storage is below the test's directory.

use std::os::unix::process::CommandExt;
use std::process::Child;

use super::*;

/// An engine, in a mount namespace of its own: its runtime wants to see cgroups of version 2 alone.
pub(super) const ENGINE: &str = r#"
umount -R /sys/fs/cgroup 2>/dev/null; umount -l /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup || exit 1
exec "$@"
"#;

/// What runs in it: it writes to the dataset, and is slow to end if there is a file `slow`, which says how slow.
pub(super) const INSIDE: &str = r#"exec 9>>/data/log; trap '[ -e /data/slow ] && { read -r n < /data/slow; sleep "${n:-3}"; }; exit 0' TERM; while :; do echo x >&9; sleep 0.05; done"#;

/// What is to be an image: a shell.
pub(super) fn shell_inside(lab: &Lab) {
    let image = lab.root().join("inside/bin");
    fs::create_dir_all(&image).expect("made");
    fs::copy("/bin/busybox", image.join("busybox")).expect("busybox-static");
    ["sh", "sleep", "echo"].iter().for_each(|name| {
        std::os::unix::fs::symlink("busybox", image.join(name)).expect("made");
    });
}

pub(super) struct Engine<'a> {
    lab: &'a Lab,
    /// Podman takes no path of more than 50 characters for it.
    run: tempfile::TempDir,
    service: Option<Child>,
}

impl<'a> Engine<'a> {
    /// One that has nothing and does not run. What is in ROOT/inside is to be its image.
    pub(super) fn on(lab: &'a Lab) -> Self {
        let run = tempfile::Builder::new().prefix("cowsnap-").tempdir_in("/run").expect("a folder");
        Self { lab, run, service: None }
    }

    /// One that runs, with the container `node`, which does not: a shell that writes.
    fn new(lab: &'a Lab) -> Self {
        shell_inside(lab);
        Self::on(lab).with_container("none", &["/bin/sh", "-c", INSIDE])
    }

    /// It runs, with the container `node` of ROOT/inside, which does not, with its data at /data.
    pub(super) fn with_container(mut self, network: &str, line: &[&str]) -> Self {
        let tar = self.lab.placed("ROOT/image.tar");
        ground::run("tar", &["-C", &self.lab.placed("ROOT/inside"), "-cf", &tar, "."]);
        self.podman(&["import", &tar, "node-image"]);
        let volume = self.lab.placed("ROOT/mnt/node:/data");
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--cgroups=disabled"];
        let first = ["create", "--name", "node", "--network", network, "-v", &volume];
        self.podman(&[&first[..], &limits, &["node-image"], line].concat());
        self.serve();
        self
    }

    fn command(&self, words: &[&str]) -> Command {
        let root = self.lab.root();
        let storage = ["--root", "ROOT/storage", "--storage-driver", "vfs"];
        let how = ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--tmpdir", "ROOT/tmp"];
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", ENGINE, "sh", "podman"]);
        command.args(storage.iter().chain(&how).map(|word| self.lab.placed(word)));
        command.arg("--runroot").arg(self.run.path()).args(words);
        command.current_dir(root).stdin(Stdio::null());
        command
    }

    pub(super) fn podman(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn serve(&mut self) {
        let socket = self.lab.placed("unix://ROOT/engine");
        let mut command = self.command(&["system", "service", "--time", "0", &socket]);
        self.service = Some(
            command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().expect("it starts"),
        );
        waits("the engine", || {
            std::os::unix::net::UnixStream::connect(self.lab.root().join("engine")).is_ok()
        });
    }

    fn end_service(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill().and_then(|()| service.wait()).expect("killed");
            let _ = fs::remove_file(self.lab.root().join("engine"));
        }
    }

    fn is_up(&self) -> bool {
        self.podman(&["inspect", "--format", "{{.State.Status}}", "node"]) == "running"
    }

    fn started(&self) -> String {
        self.podman(&["inspect", "--format", "{{.State.StartedAt}}", "node"])
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--force", "--time", "0", "--all"]).output();
        self.end_service();
    }
}

#[test]
fn a_container_is_stopped_by_its_engine_and_started_again_by_the_guard_too() {
    ground!("btrfs", "podman", "busybox");
    let lab = Lab::new("");
    let mut engine = Engine::new(&lab);
    let config = "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\nstop_within = \"TIME\"\n\
         [[job.node.quiesce.service]]\ncontainer = \"node\"\nengine = \"podman\"\nsocket = \"ROOT/engine\"\n";
    lab.write(&config.replace("TIME", "60s"));
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("container node was down, and stays down") && !engine.is_up(), "{text}");
    engine.podman(&["start", "node"]);
    let before = engine.started();
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("container node stopped for "), "{text}");
    assert!(engine.is_up() && engine.started() != before);
    assert_eq!(lab.n_snapshots(), 2);
    // It takes longer than it has: it is not killed, and its guard starts it when it has stopped.
    fs::write(lab.root().join("mnt/node/slow"), "").expect("written");
    lab.write(&config.replace("TIME", "300ms"));
    let before = engine.started();
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("container node did not stop within 300ms"), "{said}");
    waits("the lease's end", || !lab.lease().exists());
    assert!(engine.is_up() && engine.started() != before);
    assert_eq!(lab.n_snapshots(), 2);
    // Neither yes nor no stops nothing.
    fs::remove_file(lab.root().join("mnt/node/slow")).expect("removed");
    lab.write(&config.replace("TIME", "60s").replace("\"node\"\nengine", "\"none\"\nengine"));
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("its engine answers 404: ") && said.contains("none"), "{said}");
    engine.end_service();
    lab.write(&config.replace("TIME", "60s"));
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("ROOT/engine".trim_start_matches("ROOT")), "{said}");
    assert!(engine.is_up() && lab.n_snapshots() == 2);
}
