//! A real node of a chain as the service: as a process of this machine, and in a container. What is in the snapshot is what it had closed.

use super::container::Engine;
use super::*;
use crate::chain::{self, Chain};

/// As a process with a pidfile, which a test leaves behind if it fails.
struct Daemon<'a> {
    lab: &'a Lab,
    chain: Chain,
}

impl Daemon<'_> {
    fn line(&self) -> Vec<String> {
        let mut line = vec![chain::program().display().to_string(), "-daemon".into()];
        line.push(self.lab.placed("-pid=ROOT/node.pid"));
        line.extend(self.chain.words());
        line
    }

    fn start(&self) {
        let line = self.line();
        ground::run(&line[0], &line[1..]);
        self.chain.waits_until_it_answers();
    }

    fn pid(&self) -> Option<i32> {
        alive(&self.lab.root().join("node.pid"))
    }

    fn ends_by(&self, signal: rustix::process::Signal) {
        if let Some(pid) = self.pid() {
            kill(pid, signal);
            waits("its end", || !Path::new(&format!("/proc/{pid}")).exists() || self.pid().is_none());
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        self.ends_by(rustix::process::Signal::KILL);
    }
}

/// What a run said: the snapshot's full name, and for how long the node was away.
fn told(done: &Value) -> (String, u64) {
    let job = &done["jobs"][0];
    let name = job["snapshots"][0]["name"].as_str().unwrap_or_else(|| panic!("{done}"));
    let downtime = job["quiesce"]["downtime_ms"].as_u64().unwrap_or_else(|| panic!("{done}"));
    (format!("ROOT/mnt/node@{name}"), downtime)
}

#[test]
fn a_node_whose_database_is_wrecked_is_back_at_the_snapshot_s_height_by_a_clone_that_is_mounted() {
    ground!("btrfs", "litecoind");
    let lab = Lab::new("");
    let data = lab.root().join("mnt/node");
    let node = Daemon { lab: &lab, chain: Chain::of(&data) };
    lab.write(&format!(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\nprobe = {{ tcp = \"127.0.0.1:{}\" }}\n\
         [[job.node.quiesce.service]]\npidfile = \"ROOT/node.pid\"\nstart = {:?}\n",
        node.chain.port(),
        node.line()
    ));
    node.start();
    node.chain.mine(30);
    let before = node.pid();
    let (snapshot, downtime) = told(&lab.json(0, "job run node"));
    assert!(downtime > 0);
    node.chain.waits_until_it_answers();
    assert_ne!(node.pid(), before);
    node.chain.mine(5);
    assert_eq!(node.chain.height(), Some(35));
    let packed = node.chain.packed(
        &|| node.ends_by(rustix::process::Signal::TERM),
        &|| node.start(),
        &lab.root().join("node.tar.zst"),
    );
    println!("down for {downtime} ms with cowsnap job run, for {packed} ms with kill; tar | zstd; start");
    node.ends_by(rustix::process::Signal::KILL);
    node.chain.wreck();
    lab.ends(0, &format!("clone {snapshot} ROOT/mnt/back"));
    let log = fs::read_to_string(lab.root().join("mnt/back/regtest/debug.log")).expect("read");
    assert!(log.trim_end().ends_with("Shutdown: done"), "{log}");
    ground::run("mount", &["--bind", &lab.placed("ROOT/mnt/back"), &lab.placed("ROOT/mnt/node")]);
    node.start();
    assert_eq!((node.chain.height(), node.chain.is_sound()), (Some(30), true));
}

/// Puts the node and the libraries that it needs where they are here, below `root`.
fn bring(root: &Path) {
    let program = chain::program();
    let listed = ground::run("ldd", &[&program]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for file in libraries.chain([program]) {
        let to = root.join(file.strip_prefix("/").expect("absolute"));
        fs::create_dir_all(to.parent().expect("it has one")).expect("made");
        fs::copy(&file, &to).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    fs::create_dir_all(root.join("tmp")).expect("made");
}

#[test]
fn a_node_in_a_container_is_back_at_the_snapshot_s_height_by_a_clone_that_is_mounted_and_by_a_restore() {
    ground!("btrfs", "litecoind", "podman");
    let lab = Lab::new("");
    let chain = Chain::of(&lab.root().join("mnt/node"));
    let engine = Engine::on(&lab);
    bring(&lab.root().join("inside"));
    let words = chain.words_at("/data");
    let line: Vec<_> = words.iter().map(String::as_str).collect();
    let program = chain::program().display().to_string();
    // The node is asked from here, at a port of this machine.
    let engine = engine.with_container("host", &[&[program.as_str()][..], &line].concat());
    lab.write(&format!(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\nprobe = {{ tcp = \"127.0.0.1:{}\" }}\n\
         [[job.node.quiesce.service]]\ncontainer = \"node\"\nengine = \"podman\"\nsocket = \"ROOT/engine\"\n",
        chain.port()
    ));
    engine.podman(&["start", "node"]);
    chain.waits_until_it_answers();
    chain.mine(30);
    let (snapshot, downtime) = told(&lab.json(0, "job run node"));
    chain.waits_until_it_answers();
    chain.mine(5);
    assert_eq!(chain.height(), Some(35));
    let stop = || drop(engine.podman(&["stop", "--time", "60", "node"]));
    let start = || drop(engine.podman(&["start", "node"]));
    let packed = chain.packed(&stop, &start, &lab.root().join("node.tar.zst"));
    println!(
        "down for {downtime} ms with cowsnap job run, for {packed} ms with podman stop; tar | zstd; podman start"
    );
    stop();
    chain.wreck();
    // A clone in its place is what the engine mounts; below it is what was wrecked.
    lab.ends(0, &format!("clone {snapshot} ROOT/mnt/back"));
    let (back, data) = (lab.placed("ROOT/mnt/back"), lab.placed("ROOT/mnt/node"));
    ground::run("mount", &["--bind", &back, &data]);
    start();
    chain.waits_until_it_answers();
    assert_eq!((chain.height(), chain.is_sound()), (Some(30), true));
    stop();
    ground::run("umount", &["-l", &data]);
    lab.ends(0, &format!("restore {snapshot} --to ROOT/mnt/node --replace"));
    start();
    chain.waits_until_it_answers();
    assert_eq!((chain.height(), chain.is_sound()), (Some(30), true));
    // What was wrecked is kept, beside what was restored.
    assert_eq!(lab.n_snapshots(), 2);
}
