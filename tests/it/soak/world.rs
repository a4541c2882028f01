//! Two hosts, what is replicated between them, and everything that goes wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowsnap::endpoint::{Backend, Dataset, History};
use cowsnap::model::{Guid, HoldTag, Inventory, SnapshotName, Version, VersionRef};
use cowsnap::plan::replicate::{Policy, replicate};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::dice::Dice;
use super::tree::{change, difference, manifest};
use crate::ground::{self, Btrfs, run, waits};
use crate::net::Net;

/// What everything comes from, here.
const DATA: usize = 0;
/// Its copy on the other host: pushed.
const COPY: usize = 1;
/// A copy of the copy, here again: pulled.
const BACK: usize = 2;
const AUDIT: &str = "audit";
/// So slow that there is time for something to happen.
const SLOW: &str = "3M";

/// No run lasts so long.
const LONG: Duration = Duration::from_secs(120);

/// What befalls a run of the program.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    Nothing,
    /// SIGKILL here.
    KilledHere,
    /// SIGKILL of `cowsnap serve`.
    KilledThere,
    KilledBoth,
    /// SIGKILL of `ssh`.
    KilledBetween,
    /// SIGTERM here.
    Asked,
    /// No line for so many milliseconds.
    CutFor(u64),
    /// No line any more.
    Cut,
    /// No more room at the target than so many bytes.
    Full(u64),
}

/// How a run ended.
struct Ended {
    /// None if it was killed.
    code: Option<i32>,
    out: String,
    err: String,
}

/// Both hosts. What is said of them is checked by [`World::look`].
pub struct World {
    net: Net,
    here: Btrfs,
    there: Btrfs,
    dice: Dice,
    places: [Dataset; 3],
    /// What each snapshot must hold, wherever it is.
    truth: HashMap<Guid, Truth>,
    /// What was compared already, by place.
    compared: HashSet<(usize, VersionRef)>,
    /// What is in each place, as far as it is known: only some operations may take something away, or bring it.
    known: [Vec<VersionRef>; 3],
    made: usize,
    counts: BTreeMap<String, usize>,
}

struct Truth {
    name: SnapshotName,
    content: BTreeMap<PathBuf, String>,
}

impl World {
    pub fn new(mut dice: Dice) -> Self {
        let net = Net::new(1);
        let (here, there) = (Btrfs::new(), Btrfs::with("600M", &[], ""));
        let data = here.subvolume("data");
        for _ in 0..60 {
            change(&data, &mut dice);
        }
        let place = |path: PathBuf| cowsnap::endpoint::path::named(&path).expect("a dataset");
        let places = [place(data), place(there.path().join("copy")), place(here.path().join("back"))];
        for folder in ["pids", "look"] {
            fs::create_dir(here.outside().join(folder)).expect("mkdir");
        }
        let (truth, compared) = (HashMap::new(), HashSet::new());
        let known = [Vec::new(), Vec::new(), Vec::new()];
        Self { net, here, there, dice, places, truth, compared, known, made: 0, counts: BTreeMap::new() }
    }

    /// Does something, and says what.
    pub fn operate(&mut self) -> String {
        let what = match self.dice.below(100) {
            0..30 => self.write(),
            30..50 => self.snapshot(),
            50..66 => {
                let push = self.is_push();
                self.replicate(push, Mishap::Nothing)
            }
            66..84 => self.replicate_badly(),
            84..93 => self.prune(),
            93..96 => self.hold(),
            96..98 => self.destroy(),
            _ => self.give_up(),
        };
        let kind = what.split(':').next().unwrap_or_default().to_owned();
        *self.counts.entry(kind).or_default() += 1;
        what
    }

    /// How often what was done.
    pub fn counted(&self) -> String {
        self.counts.iter().map(|(what, n)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn mishap(&mut self) -> Mishap {
        match self.dice.below(18) {
            0..4 => Mishap::KilledHere,
            4..8 => Mishap::KilledThere,
            8 => Mishap::KilledBoth,
            9 | 10 => Mishap::KilledBetween,
            11 => Mishap::Asked,
            12..14 => Mishap::CutFor(20 + self.dice.below(400)),
            14 => Mishap::Cut,
            _ => Mishap::Full(self.dice.below(3 << 20)),
        }
    }

    fn write(&mut self) -> String {
        let root = self.here.path().join("data");
        let n = 1 + self.dice.below(8);
        let done: Vec<_> = (0..n).map(|_| change(&root, &mut self.dice)).collect();
        format!("write: {}", done.join(", "))
    }

    /// A snapshot, or the attempt.
    fn snapshot(&mut self) -> String {
        self.made += 1;
        let name = format!("s{:04}", self.made);
        let content = manifest(&self.here.path().join("data"));
        let data = self.path_of(DATA);
        let mut child = self.spawn(&["snapshot", &data, "--name", &name]);
        let killed = self.dice.percent(15);
        if killed {
            std::thread::sleep(Duration::from_millis(self.dice.below(40)));
            let _ = child.0.kill();
        }
        let ended = child.wait();
        assert!(killed || ended.code == Some(0), "{}", ended.err);
        let inventory = self.inventory(DATA);
        let taken = inventory.by_name(&name.parse().expect("a name")).cloned();
        assert!(taken.is_some() || ended.code != Some(0), "it was reported, and is not there");
        if let Some(Version { id, .. }) = &taken {
            self.truth.insert(id.guid, Truth { name: id.name.clone(), content });
            self.known[DATA].push(id.clone());
        }
        match (taken.is_some(), ended.code) {
            (true, Some(_)) => format!("snapshot: {name}"),
            (is_there, _) => {
                format!("killed snapshot: {name}, {}", if is_there { "taken" } else { "not taken" })
            }
        }
    }

    fn inventory(&self, place: usize) -> Inventory {
        match self.places[place].inventory() {
            Err(cowsnap::endpoint::Error::NotFound { .. }) => Inventory::default(),
            inventory => inventory.expect("it is read"),
        }
    }

    fn path_of(&self, place: usize) -> String {
        self.places[place].to_string()
    }

    fn place_arguments(&self, push: bool) -> [String; 2] {
        let copy = self.net.url(&self.there.path().join("copy"));
        match push {
            true => [self.path_of(DATA), copy],
            false => [copy, self.path_of(BACK)],
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.here.outside().join("pids/serve")
    }

    /// The pid of `cowsnap serve`, if it has begun and not ended.
    fn serving(&self) -> Option<Pid> {
        let pid: i32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).into_owned();
        (words.contains("cowsnap") && words.contains("serve")).then(|| Pid::from_raw(pid))?
    }

    fn spawn(&self, arguments: &[&str]) -> Running {
        let state = self.here.outside().join("state");
        let mut command = self.net.here(env!("CARGO_BIN_EXE_cowsnap"));
        command.env("COWSNAP_STATE_DIR", state).env_remove("RUST_LOG").args(arguments);
        Running::start(command, self.here.outside())
    }

    fn is_push(&mut self) -> bool {
        self.dice.percent(65) || self.known[COPY].is_empty()
    }

    /// Something happens while there is something to bring that takes a while.
    fn replicate_badly(&mut self) -> String {
        let mishap = self.mishap();
        let push = self.is_push();
        if self.dice.percent(85) {
            let len = (1 << 20) + self.dice.below(4 << 20);
            let mut bytes = vec![0; len as usize];
            blake3::Hasher::new().update(&self.dice.roll().to_le_bytes()).finalize_xof().fill(&mut bytes);
            let file = self.here.path().join("data/much");
            fs::write(file, bytes).expect("written");
            let taken = self.snapshot();
            eprintln!("     {taken}, with {len} new bytes");
            if !push {
                eprintln!("     {}", self.replicate(true, Mishap::Nothing));
            }
        }
        self.replicate(push, mishap)
    }

    /// Replicates, one leg or the other, while something happens.
    fn replicate(&mut self, push: bool, mishap: Mishap) -> String {
        let [from, to] = if push { [DATA, COPY] } else { [COPY, BACK] };
        let leg = if push { "push" } else { "pull" };
        if self.known[from].is_empty() {
            return format!("nothing: no snapshot to {leg}");
        }
        let ballast = match mishap {
            Mishap::Full(room) if push => Some(Ballast::leave(&self.there, room)),
            _ => None,
        };
        let ended = self.run(push, mishap);
        if matches!(mishap, Mishap::Cut) {
            self.net.set_line(true);
        }
        drop(ballast);
        self.wait_until_all_is_still();
        self.expect_in_order(mishap, &ended);
        self.expect_only_more(from, to);
        let name = |mishap: Mishap| format!("{mishap:?}").split('(').next().unwrap_or_default().to_owned();
        let what = match mishap {
            Mishap::Nothing => leg.to_owned(),
            mishap => format!("{leg} {}", name(mishap)),
        };
        if ended.code != Some(0) {
            let said = ended.err.lines().next().unwrap_or_default().to_owned();
            return format!("{what} broken off: {mishap:?}, exit {:?}, {said}", ended.code);
        }
        self.expect_settled(from, to);
        let done: Value = serde_json::from_str(&ended.out).expect("json");
        let moved = done["replicated"][0]["moved"].as_array().expect("a list").clone();
        if moved.iter().any(|moved| moved["resumed_bytes"].as_u64() != Some(0)) {
            self.count("transfers that went on");
        }
        let short = |moved: &Value| {
            format!(
                "{} {} of {} there already",
                moved["snapshot"].as_str().unwrap_or_default(),
                moved["resumed_bytes"],
                moved["stream_bytes"]
            )
        };
        format!("{what}: {mishap:?}: {}", moved.iter().map(short).collect::<Vec<_>>().join(", "))
    }

    fn run(&mut self, push: bool, mishap: Mishap) -> Ended {
        let _ = fs::remove_file(self.pid_file());
        let state = self.there.outside().join("state");
        let serve = format!(
            "echo $$ >'{}'; COWSNAP_STATE_DIR='{}' exec '{}' serve --checkpoint 1M",
            self.pid_file().display(),
            state.display(),
            env!("CARGO_BIN_EXE_cowsnap")
        );
        let ssh = format!("ssh {}", self.net.ssh_options().join(" "));
        let [from, to] = self.place_arguments(push);
        let mut words =
            vec!["replicate", "--json", "--ssh", &ssh, "--remote-command", &serve, "--checkpoint", "1M"];
        if self.dice.percent(30) {
            words.push("-I");
        }
        match mishap {
            Mishap::Nothing => {}
            Mishap::Cut => words.extend(["--bandwidth", SLOW, "--stall", "2"]),
            _ => words.extend(["--bandwidth", SLOW]),
        }
        words.extend([from.as_str(), to.as_str()]);
        let mut child = self.spawn(&words);
        self.befall(&mut child, mishap);
        child.wait()
    }

    /// Lets it happen: after a while, or once something is being received.
    fn befall(&mut self, child: &mut Running, mishap: Mishap) {
        if matches!(mishap, Mishap::Nothing | Mishap::Full(_)) {
            return;
        }
        let most = if self.dice.percent(30) {
            1500
        } else {
            let since = Instant::now();
            while child.lives() && !self.is_receiving() && since.elapsed() < LONG {
                std::thread::sleep(Duration::from_millis(5));
            }
            1200
        };
        std::thread::sleep(Duration::from_millis(self.dice.below(most)));
        let here = Pid::from_raw(child.0.id() as i32).expect("a pid");
        let kill = |pid: Option<Pid>, signal| pid.map_or(Ok(()), |pid| kill_process(pid, signal));
        // Who has ended already is not there any more.
        let _ = match mishap {
            Mishap::KilledHere => kill(Some(here), Signal::KILL),
            Mishap::KilledThere => kill(self.serving(), Signal::KILL),
            Mishap::KilledBoth => kill(self.serving(), Signal::KILL).and(kill(Some(here), Signal::KILL)),
            Mishap::KilledBetween => kill(child_of(here), Signal::KILL),
            Mishap::Asked => kill(Some(here), Signal::TERM),
            Mishap::CutFor(milliseconds) => {
                self.net.set_line(false);
                std::thread::sleep(Duration::from_millis(milliseconds));
                self.net.set_line(true);
                Ok(())
            }
            Mishap::Cut => {
                self.net.set_line(false);
                Ok(())
            }
            Mishap::Nothing | Mishap::Full(_) => Ok(()),
        };
    }

    /// Both stores' folders of what is being received.
    fn staged(&self) -> Vec<PathBuf> {
        let dirs = [&self.here, &self.there].map(|fs| fs.path().join(".cowsnap/staging"));
        dirs.iter()
            .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
            .map(|e| e.path())
            .collect()
    }

    /// The other side ends by itself, whatever became of this one.
    fn wait_until_all_is_still(&self) {
        waits("cowsnap serve to end by itself", || self.serving().is_none());
        waits("what was being received to be nobody's", || !self.is_receiving());
    }

    fn is_receiving(&self) -> bool {
        let live = |place| self.inventory(place).partials.iter().any(|partial| partial.live);
        live(COPY) || live(BACK)
    }

    /// An exit code fits what has happened.
    fn expect_in_order(&self, mishap: Mishap, ended: &Ended) {
        let codes: &[Option<i32>] = match mishap {
            Mishap::Nothing => &[Some(0)],
            Mishap::KilledHere | Mishap::KilledBoth => &[Some(0), None, Some(5)],
            Mishap::Full(_) => &[Some(0), Some(3)],
            _ => &[Some(0), Some(5)],
        };
        assert!(codes.contains(&ended.code), "{mishap:?}: {:?}\n{}{}", ended.code, ended.out, ended.err);
    }

    /// Replicating takes nothing away, and brings nothing to the source.
    fn expect_only_more(&mut self, from: usize, to: usize) {
        for place in [DATA, COPY, BACK] {
            let now: Vec<_> = ids(&self.inventory(place));
            let gone: Vec<_> = self.known[place].iter().filter(|id| !now.contains(id)).collect();
            assert!(gone.is_empty(), "{} lost {gone:?}", self.places[place]);
            assert!(place == to || now.len() == self.known[place].len(), "{} gained", self.places[place]);
            if place == to {
                let source = &self.known[from];
                let new = now.iter().filter(|id| !self.known[to].contains(id));
                new.for_each(|id| assert!(source.contains(id), "{id} is not the source's"));
            }
            self.known[place] = now;
        }
    }

    /// After a run that has ended well the newest version is in both, kept by replication in both, and no other is.
    fn expect_settled(&self, from: usize, to: usize) {
        let (source, target) = (self.inventory(from), self.inventory(to));
        let newest = source.newest().expect("there is one").id.clone();
        assert!(target.snapshot_of(newest.guid).is_some(), "{newest} did not arrive");
        assert_eq!(cursors(&source, "cowsnap:to:"), std::slice::from_ref(&newest), "{}", self.places[from]);
        assert_eq!(cursors(&target, "cowsnap:from:"), [newest], "{}", self.places[to]);
        assert!(target.partials.is_empty(), "{:?}", target.partials);
    }

    /// Prunes a place; what goes and what stays is known.
    fn prune(&mut self) -> String {
        let place = [DATA, DATA, COPY, COPY, BACK][self.dice.below(5) as usize];
        let before = self.inventory(place);
        if before.versions().is_empty() {
            return "nothing: no snapshot to prune".into();
        }
        let last = 1 + self.dice.below(5) as usize;
        let (path, rule) = (self.path_of(place), last.to_string());
        let mut child = self.spawn(&["prune", &path, "--keep-last", &rule]);
        let killed = self.dice.percent(35);
        if killed {
            std::thread::sleep(Duration::from_millis(self.dice.below(60)));
            let _ = child.0.kill();
        }
        let ended = child.wait();
        assert!(ended.code == Some(0) || killed && ended.code.is_none(), "{:?} {}", ended.code, ended.err);
        let after = ids(&self.inventory(place));
        let first = before.versions().len().saturating_sub(last);
        let stays = |(at, version): (usize, &Version)| {
            (at >= first || before.holds_of(&version.id).count() > 0).then(|| version.id.clone())
        };
        let stay: Vec<_> = before.versions().iter().enumerate().filter_map(stays).collect();
        assert!(stay.iter().all(|id| after.contains(id)), "{stay:?} must stay, {after:?} are left");
        assert!(after.iter().all(|id| self.known[place].contains(id)), "{after:?}");
        assert!(ended.code.is_none() || after == stay, "{after:?} are left, not {stay:?}");
        let n = self.known[place].len() - after.len();
        self.known[place] = after;
        let name = ["data", "copy", "back"][place];
        let killed = if ended.code.is_none() { "killed " } else { "" };
        format!("{killed}prune {name}: {n} of {} gone", before.versions().len())
    }

    /// Somebody keeps a snapshot of the source, or keeps it no longer.
    fn hold(&mut self) -> String {
        let Some(version) = self.dice.one_of(&self.known[DATA]).cloned() else {
            return "nothing: to hold".into();
        };
        let tag: HoldTag = AUDIT.parse().expect("a tag");
        let is_held = self.inventory(DATA).holds_of(&version).any(|held| *held == tag);
        let snapshot = format!("{}@{}", self.path_of(DATA), version.name);
        let verb = if is_held { "release" } else { "hold" };
        let ended = self.spawn(&[verb, AUDIT, &snapshot]).wait();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        format!("{verb}: {}", version.name)
    }

    /// Somebody destroys a snapshot somewhere: one that is held he does not get.
    fn destroy(&mut self) -> String {
        let place = self.dice.below(3) as usize;
        let Some(version) = self.dice.one_of(&self.known[place]).cloned() else {
            return "nothing: to destroy".into();
        };
        // Without a hold the newest of the source may go: then the next one is the newest.
        let is_held = self.inventory(place).holds_of(&version).count() > 0;
        let ended = self.spawn(&["destroy", &format!("{}@{}", self.path_of(place), version.name)]).wait();
        assert_eq!(ended.code, Some(if is_held { 3 } else { 0 }), "{}", ended.err);
        if !is_held {
            self.known[place].retain(|known| *known != version);
        }
        format!(
            "destroy {}: {} of {}",
            if is_held { "what is held" } else { "one" },
            version.name,
            self.places[place]
        )
    }

    /// Somebody gives up what was received in part.
    fn give_up(&mut self) -> String {
        if self.inventory(COPY).partials.is_empty() {
            return "nothing: to give up".into();
        }
        let ended = self.spawn(&["destroy", &format!("{}@%partial", self.path_of(COPY))]).wait();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(self.inventory(COPY).partials.is_empty());
        "give up: what was received in part".into()
    }

    /// Looks at everything that must hold at any time.
    pub fn look(&mut self) {
        for place in [DATA, COPY, BACK] {
            let inventory = self.inventory(place);
            assert_eq!(ids(&inventory), self.known[place], "{}", self.places[place]);
            self.expect_nothing_half(&inventory, place);
            for version in inventory.versions() {
                if self.compared.insert((place, version.id.clone())) {
                    self.compare(place, &version.id);
                }
            }
        }
        self.expect_base(DATA, COPY);
        self.expect_base(COPY, BACK);
    }

    /// What is in the store's folders is a version, or what was received in part and is told of.
    fn expect_nothing_half(&self, inventory: &Inventory, place: usize) {
        let fs = if place == COPY { &self.there } else { &self.here };
        let listed = self.spawn(&["--json", "list", &self.path_of(place)]).wait();
        if listed.code == Some(0) {
            let listed: Value = serde_json::from_str(&listed.out).expect("json");
            let snapshots = listed["datasets"][0]["snapshots"].as_array().expect("a list");
            assert_eq!(snapshots.len(), inventory.versions().len(), "{listed}");
        } else {
            assert!(inventory.versions().is_empty(), "{}", listed.err);
        }
        if self.inventory(COPY).partials.is_empty() && self.inventory(BACK).partials.is_empty() {
            let datasets = fs::read_dir(fs.path().join(".cowsnap/datasets")).into_iter().flatten().flatten();
            let snaps =
                datasets.flat_map(|dataset| fs::read_dir(dataset.path().join("snap")).into_iter().flatten());
            let half = snaps.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with('%'));
            assert!(half.is_none(), "{half:?} is nobody's");
        }
    }

    /// A snapshot holds what its source held when it was taken, to the last bit and attribute.
    fn compare(&self, place: usize, version: &VersionRef) {
        let at = self.here.outside().join("look");
        let mount = self.places[place].mount(version, &at).expect("it is mounted");
        let found = manifest(&at);
        drop(mount);
        let truth = self.truth.get(&version.guid).unwrap_or_else(|| panic!("{version} was never taken"));
        assert_eq!(truth.name, version.name);
        let differs = difference(&truth.content, &found);
        assert!(differs.is_empty(), "{version} of {}:\n{}", self.places[place], differs.join("\n"));
    }

    /// What was replicated once goes on as an increment.
    fn expect_base(&self, from: usize, to: usize) {
        let (source, target) = (self.inventory(from), self.inventory(to));
        if target.versions().is_empty() || cursors(&target, "cowsnap:from:").is_empty() {
            return;
        }
        let (here, there) = ("h".parse().expect("a tag"), "t".parse().expect("a tag"));
        let policy = Policy {
            intermediates: false,
            last: None,
            full_again: false,
            linear: false,
            here,
            marks: false,
            there,
        };
        let plan = replicate(&source, &target, &policy);
        let plan = plan.unwrap_or_else(|conflict| panic!("{from} to {to}: {conflict}"));
        assert!(plan.base.is_some(), "{from} to {to}: the next one would be full");
    }

    /// In the end all comes together: both legs are run, nothing is left, everything is compared again.
    pub fn settle_all(&mut self) {
        self.snapshot();
        while self.inventory(DATA).versions().is_empty() {
            self.snapshot();
        }
        for push in [true, false] {
            let ended = self.run(push, Mishap::Nothing);
            let [from, to] = if push { [DATA, COPY] } else { [COPY, BACK] };
            self.expect_in_order(Mishap::Nothing, &ended);
            self.wait_until_all_is_still();
            self.expect_only_more(from, to);
            self.expect_settled(from, to);
        }
        self.compared.clear();
        self.look();
        assert_eq!(self.staged(), Vec::<PathBuf>::new());
        for fs in [&self.here, &self.there] {
            self.expect_healthy(fs.path().to_str().expect("utf-8"));
        }
    }

    /// A prune that is killed may leave the notes on what it has destroyed: that is said, and is no problem.
    fn expect_healthy(&self, path: &str) {
        for fix in [&[][..], &["--fix"], &[]] {
            let found = self.spawn(&[&["doctor", path], fix].concat()).wait();
            assert_eq!(found.code, Some(0), "{}{}", found.out, found.err);
        }
    }
}

fn ids(inventory: &Inventory) -> Vec<VersionRef> {
    inventory.versions().iter().map(|version| version.id.clone()).collect()
}

/// What replication keeps, by that kind of tag.
fn cursors(inventory: &Inventory, kind: &str) -> Vec<VersionRef> {
    let of_kind = inventory.holds().iter().filter(|(_, tag)| tag.as_str().starts_with(kind));
    of_kind.map(|(version, _)| version.clone()).collect()
}

/// The first child of a process.
fn child_of(pid: Pid) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).ok()?.flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let text: String = children.collect();
    Pid::from_raw(text.split_whitespace().next()?.parse().ok()?)
}

/// A filesystem filled until so many bytes are left; emptied again with the value.
struct Ballast(PathBuf, PathBuf);

impl Ballast {
    fn leave(fs: &Btrfs, room: u64) -> Self {
        let (top, file) = (fs.path(), fs.path().join("ballast"));
        run("btrfs", &["filesystem", "sync", top.to_str().expect("utf-8")]);
        let opened = File::create(&file).expect("a file");
        let mut len = 0;
        let mut step = 256 << 20;
        while step >= 1 << 20 {
            match rustix::fs::fallocate(&opened, rustix::fs::FallocateFlags::empty(), len, step) {
                Ok(()) => len += step,
                Err(_) => step /= 2,
            }
        }
        rustix::fs::ftruncate(&opened, len.saturating_sub(room)).expect("shorter");
        Self(file, top)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = Command::new("btrfs").args(["filesystem", "sync"]).arg(&self.1).output();
    }
}

/// The program, ended with the value.
struct Running(Child, PathBuf);

impl Running {
    /// What it prints goes to files: nobody has to read while it runs.
    fn start(mut command: Command, scratch: &Path) -> Self {
        let file = |name: &str| File::create(scratch.join(name)).expect("a file");
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Self(command.spawn().expect("it starts"), scratch.to_owned())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().expect("waited for").is_none()
    }

    fn wait(mut self) -> Ended {
        let since = Instant::now();
        while self.lives() {
            assert!(since.elapsed() < LONG, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = self.0.wait().expect("waited for").code();
        let read =
            |name: &str| String::from_utf8_lossy(&fs::read(self.1.join(name)).expect("read")).into_owned();
        Ended { code, out: read("out"), err: read("err") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// The states of the program are beside the filesystems: nothing of the machine's is read.
#[test]
fn a_ballast_leaves_as_much_room_as_it_says() {
    ground::ground!("btrfs");
    let fs = Btrfs::with("600M", &[], "");
    let write = |len: usize| {
        let written = fs::write(fs.path().join("f"), vec![1; len])
            .and_then(|()| File::open(fs.path().join("f"))?.sync_all());
        let _ = fs::remove_file(fs.path().join("f"));
        written
    };
    {
        let _ballast = Ballast::leave(&fs, 3 << 20);
        assert!(write(8 << 20).is_err(), "there is room for more");
        assert!(write(1 << 20).is_ok());
    }
    assert!(write(8 << 20).is_ok());
}
