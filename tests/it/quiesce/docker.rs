//! A service in a container of a real Docker, asked over its socket. Its storage is below the test's directory, and nothing of it is left.

use std::process::Child;

use super::container::{ENGINE, shell_inside};
use super::*;

/// Docker's daemon, which has a containerd of its own. It touches no network, and reads nothing of the machine's.
const DAEMON: &str = "dockerd --config-file ROOT/daemon.json --ip-forward=false --host unix://ROOT/engine --data-root ROOT/docker --exec-root RUN/exec --pidfile RUN/pid --iptables=false \
     --ip6tables=false --bridge=none --storage-driver=vfs --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /GROUP";

/// What runs in a container: it writes to the dataset, and if there is a file `slow`, it ends that many seconds late, or once that file is gone.
const INSIDE: &str = r#"exec 9>>/data/log; trap '[ -e /data/slow ] && { read -r n < /data/slow; while [ -e /data/slow ] && [ "$n" -gt 0 ]; do sleep 1; n=$((n - 1)); done; }; exit 0' TERM; while :; do echo x >&9; sleep 0.05; done"#;

/// Its /etc and /run are its own, but for its folder there: it writes keys and plugins to fixed places.
const APART: &str = r#"
run=$1; shift
mkdir "$run/etc" "$run/run" || exit 1
mount -t tmpfs none "$run/etc" && cp -a /etc/. "$run/etc" && rm -rf "$run/etc/docker" || exit 1
mount -t tmpfs none "$run/run" && mkdir "$run/run/${run##*/}" && mount --bind "$run" "$run/run/${run##*/}" || exit 1
mount --bind "$run/etc" /etc && mount --rbind "$run/run" /run || exit 1
"#;

struct Engine<'a> {
    lab: &'a Lab,
    /// A socket's path has no more than 107 characters.
    run: tempfile::TempDir,
    daemon: Option<Child>,
    /// What it might change of the machine, as it was.
    before: String,
}

/// What a daemon of Docker changes of the machine that it has for itself.
fn machine() -> String {
    let listing = |place: &str| {
        let found =
            Command::new("find").args([place, "-printf", "%p %i %s %T@\n"]).output().expect("it starts");
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("read");
    format!("ip_forward {forward}{}{}", listing("/etc/docker"), listing("/run/docker"))
}

impl<'a> Engine<'a> {
    /// One that runs, with the container `node`, which does not: a shell that writes.
    fn new(lab: &'a Lab) -> Self {
        shell_inside(lab);
        let run = tempfile::Builder::new().prefix("cowsnap-").tempdir_in("/run").expect("a folder");
        let mut engine = Self { lab, run, daemon: None, before: machine() };
        fs::write(lab.root().join("daemon.json"), "{}").expect("written");
        engine.serve();
        let tar = lab.placed("ROOT/image.tar");
        ground::run("tar", &["-C", &lab.placed("ROOT/inside"), "-cf", &tar, "."]);
        engine.docker(&["import", &tar, "node-image"]);
        let volume = lab.placed("ROOT/mnt/node:/data");
        let line = ["/bin/sh", "-c", INSIDE];
        let first = ["create", "--name", "node", "--network", "none", "-v", &volume, "node-image"];
        engine.docker(&[&first[..], &line].concat());
        engine
    }

    fn serve(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.lab.root().join("docker.log"));
        let log = log.expect("made");
        let run = self.run.path().to_str().expect("utf-8");
        let line = self.lab.placed(DAEMON).replace("RUN", run).replace("GROUP", &self.group());
        let mut command = Command::new("unshare");
        command
            .args([
                "-n",
                "-m",
                "--propagation",
                "private",
                "sh",
                "-c",
                &format!("{APART}{ENGINE}"),
                "sh",
                run,
            ])
            .args(line.split_whitespace());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("open")).stderr(log);
        self.daemon = Some(command.spawn().expect("it starts"));
        waits("the engine", || {
            let log = fs::read_to_string(self.lab.root().join("docker.log")).unwrap_or_default();
            assert!(!log.contains("failed to start"), "{log}");
            self.command(&["version"]).output().expect("it starts").status.success()
        });
    }

    /// The control group of its containers.
    fn group(&self) -> String {
        self.run.path().file_name().expect("a name").to_string_lossy().into_owned()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.lab.placed("unix://ROOT/engine")]).args(words).stdin(Stdio::null());
        command.env("DOCKER_CONFIG", self.lab.root().join("docker-config"));
        command
    }

    fn docker(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// SIGTERM, which it waits for its containerd with; killed if it does not hear.
    fn end(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        kill(i32::try_from(daemon.id()).expect("a number"), rustix::process::Signal::TERM);
        let ended = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            matches!(daemon.try_wait(), Ok(Some(_)))
        });
        if !ended {
            let _ = daemon.kill();
            let _ = daemon.wait();
            if let Some(containerd) = alive(&self.run.path().join("exec/containerd/containerd.pid")) {
                kill(containerd, rustix::process::Signal::KILL);
            }
        }
    }

    /// It runs, or did.
    fn leaves_the_machine_alone(&self) {
        assert_eq!(machine(), self.before);
    }

    fn said(&self, what: &str) -> String {
        self.docker(&["inspect", "--format", what, "node"])
    }

    fn is_up(&self) -> bool {
        self.said("{{.State.Status}}") == "running"
    }

    fn started(&self) -> String {
        self.said("{{.State.StartedAt}}")
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--force", "node"]).output();
        self.end();
        // Of version 2, wherever that is.
        for place in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let _ = fs::remove_dir(Path::new(place).join(self.group()));
        }
    }
}

fn config(within: &str) -> String {
    format!(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\nstop_within = \"{within}\"\n\
         [[job.node.quiesce.service]]\ncontainer = \"node\"\nengine = \"docker\"\nsocket = \"ROOT/engine\"\n"
    )
}

#[test]
fn a_container_of_docker_is_stopped_by_its_engine_and_started_again_by_the_guard_too() {
    ground!("btrfs", "dockerd", "docker", "busybox");
    let lab = Lab::new("");
    let mut engine = Engine::new(&lab);
    lab.write(&config("60s"));
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("container node was down, and stays down") && !engine.is_up(), "{text}");
    engine.docker(&["start", "node"]);
    let before = engine.started();
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("container node stopped for "), "{text}");
    assert!(engine.is_up() && engine.started() != before);
    assert_eq!(lab.n_snapshots(), 2);
    // It takes longer than it has: it is not killed, and its guard starts it when it has stopped.
    fs::write(lab.root().join("mnt/node/slow"), "3\n").expect("written");
    lab.write(&config("300ms"));
    let before = engine.started();
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("container node did not stop within 300ms"), "{said}");
    waits("the lease's end", || !lab.lease().exists());
    assert!(engine.is_up() && engine.started() != before);
    assert_eq!((lab.n_snapshots(), engine.said("{{.State.ExitCode}}").as_str()), (2, "0"));
    fs::remove_file(lab.root().join("mnt/node/slow")).expect("removed");
    // Neither yes nor no stops nothing.
    lab.write(&config("60s").replace("\"node\"\nengine", "\"none\"\nengine"));
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("its engine answers 404: ") && said.contains("none"), "{said}");
    engine.docker(&["pause", "node"]);
    lab.write(&config("60s"));
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("it is paused"), "{said}");
    engine.docker(&["unpause", "node"]);
    assert!(engine.is_up() && lab.n_snapshots() == 2);
    engine.leaves_the_machine_alone();
    engine.docker(&["rm", "--force", "node"]);
    engine.end();
    engine.leaves_the_machine_alone();
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains(&lab.placed("ROOT/engine")), "{said}");
}

#[test]
fn a_container_of_docker_whose_run_was_killed_runs_afterwards_whether_it_was_told_or_not() {
    ground!("btrfs", "dockerd", "docker", "busybox");
    let lab = Lab::new("");
    let engine = Engine::new(&lab);
    fs::write(lab.root().join("contained"), "").expect("written");
    engine.docker(&["start", "node"]);
    for (step, whom) in [("Verify", "both"), ("Snapshot", "one"), ("Start(0)", "both")] {
        let before = engine.started();
        lab.dies(step, whom);
        if whom == "both" {
            assert!(!engine.is_up() && lab.lease().exists(), "{step}");
            lab.ends(0, "job recover");
        }
        waits(&format!("the lease's end: {step}"), || !lab.lease().exists());
        assert!(engine.is_up() && engine.started() != before, "{step} {whom}");
    }
    let pid = || engine.said("{{.State.Pid}}").parse::<i32>().expect("a number");
    // Killed right before it asked: the engine tells of no signal, and the container is left as it is.
    let before = engine.started();
    lab.dies("Stop(0)", "both");
    lab.about_to_tell(pid(), 1);
    lab.ends(0, "job recover");
    assert!(!lab.lease().exists() && engine.started() == before);
    // Killed right after: the engine tells of the signal, and the container is waited for however long it takes.
    fs::write(lab.root().join("mnt/node/slow"), "3600\n").expect("written");
    lab.dies("Stop(0)", "both");
    lab.about_to_tell(pid(), 1);
    let mut stops =
        engine.command(&["stop", "--time", "-1", "node"]).stdout(Stdio::null()).spawn().expect("it starts");
    waits("the signal", || {
        let since = "{{.State.StartedAt}}";
        let since = engine.said(since);
        let until = engine.docker(&["info", "--format", "{{.SystemTime}}"]);
        let of = ["--filter", "event=kill", "--since", &since, "--until", &until];
        engine.docker(&[&["events"][..], &of].concat()).contains("kill")
    });
    lab.ends(5, "job recover");
    assert!(lab.lease().exists());
    fs::remove_file(lab.root().join("mnt/node/slow")).expect("removed");
    stops.wait().expect("it has ended");
    lab.ends(0, "job recover");
    assert!(!lab.lease().exists() && engine.is_up() && engine.started() != before);
}
