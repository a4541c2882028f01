//! A node of a chain that nobody mines but the test: litecoind on regtest, with LevelDB, block files that are allocated ahead, and minutes of
//! patience when it is told to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ground;

/// Where Debian has the program itself: what is called `litecoind` there is a script that writes to the caller's home first.
const PACKAGED: &str = "/usr/lib/litecoin/litecoind";

/// Where it is in a guest: beside cowsnap, where `scripts/vm` has put it with its libraries.
fn brought() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_cowsnap")).with_file_name("litecoin")
}

/// The node's program.
pub fn program() -> PathBuf {
    if Path::new(PACKAGED).exists() { PACKAGED.into() } else { brought().join("litecoind") }
}

fn client() -> PathBuf {
    if Path::new(PACKAGED).exists() { "litecoin-cli".into() } else { brought().join("litecoin-cli") }
}

/// Why there is no node to be had; `None` if there is.
pub fn lacking() -> Option<String> {
    (!program().exists()).then(|| format!("no {PACKAGED} (litecoind)"))
}

/// One node's data, and how it is asked.
pub struct Chain {
    data: PathBuf,
    port: u16,
}

impl Chain {
    /// In that directory, on a port of this machine that nobody else has at the moment.
    pub fn of(data: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        Self { data: data.into(), port: port.expect("a port").port() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it is started with if it sees its data at `data`. It talks to nobody, and looks through its last blocks when it starts.
    pub fn words_at(&self, data: &str) -> Vec<String> {
        let words = format!(
            "-regtest -datadir={data} -listen=0 -dnsseed=0 -connect=0 -disablewallet -server -rpcbind=127.0.0.1 -rpcallowip=127.0.0.1 -rpcport={} \
             -printtoconsole=0 -checkblocks=0 -checklevel=4 -dbcache=4 -par=1",
            self.port
        );
        words.split(' ').map(str::to_owned).collect()
    }

    pub fn words(&self) -> Vec<String> {
        self.words_at(self.data.to_str().expect("utf-8"))
    }

    fn asked(&self, question: &[&str]) -> Option<String> {
        let mut client = Command::new(client());
        client.arg("-regtest").arg(format!("-datadir={}", self.data.display()));
        client.arg(format!("-rpcport={}", self.port)).args(question).stdin(Stdio::null());
        let output = client.output().expect("it starts");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// `None` if it does not answer.
    pub fn height(&self) -> Option<u64> {
        self.asked(&["getblockcount"])?.parse().ok()
    }

    /// For minutes if need be, as it may be emulated.
    pub fn waits_until_it_answers(&self) {
        for _ in 0..1200 {
            if self.height().is_some() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        panic!("the node does not answer");
    }

    pub fn mine(&self, n: usize) {
        let made = self.asked(&["generatetodescriptor", &n.to_string(), "raw(51)"]);
        assert!(made.is_some(), "no blocks");
    }

    /// Has it write to its databases what it keeps in memory, as it does each hour.
    pub fn flush(&self) {
        assert!(self.asked(&["gettxoutsetinfo"]).is_some(), "it counts no outputs");
    }

    /// Whether it finds nothing wrong with any block that it has, and what it made of them.
    pub fn is_sound(&self) -> bool {
        self.asked(&["verifychain", "4", "0"]).as_deref() == Some("true")
    }

    /// Overwrites what its databases hold, so that it does not start any more.
    pub fn wreck(&self) {
        let databases = ["chainstate", "blocks/index"].map(|name| self.data.join("regtest").join(name));
        let files = databases.iter().flat_map(|folder| fs::read_dir(folder).expect("read").flatten());
        let holds_data = |file: &PathBuf| file.extension().is_some_and(|end| end == "ldb" || end == "log");
        for file in files.map(|entry| entry.path()).filter(holds_data) {
            let len = fs::metadata(&file).expect("there").len();
            fs::write(&file, vec![0x5a; len as usize]).expect("overwritten");
        }
        let ended = Command::new(program()).args(self.words()).output().expect("it starts");
        assert!(!ended.status.success(), "it runs with wrecked databases");
    }

    /// How long it is away while it is stopped, packed as a whole, and started, as one does it without snapshots; in milliseconds.
    pub fn packed(&self, stop: &dyn Fn(), start: &dyn Fn(), into: &Path) -> u128 {
        let began = std::time::Instant::now();
        stop();
        let line = format!("tar -C '{}' -c . | zstd -q -T0 -3 > '{}'", self.data.display(), into.display());
        ground::run("sh", &["-c", &line]);
        start();
        self.waits_until_it_answers();
        began.elapsed().as_millis()
    }
}
