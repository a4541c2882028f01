//! Programs that are particular about their files, on mode fuse: what they wrote is sound, also once they were killed, and a reset gives the base back.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::lab::{Lab, Process, text, utf8};
use crate::ground::{self, ground};

const FUSE: [&str; 2] = ["--mode", "fuse"];

/// Runs a script in `dir` and panics unless it succeeds; its standard output.
fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("bash").args(["-euc", script]).current_dir(dir).output().expect("bash runs");
    assert!(output.status.success(), "{script}\n{}", text(&output));
    String::from_utf8(output.stdout).expect("utf-8").trim().to_owned()
}

/// Asks until the script succeeds.
fn until(dir: &Path, script: &str) {
    for _ in 0..1200 {
        let asked = Command::new("bash").args(["-euc", script]).current_dir(dir).output();
        if asked.expect("bash runs").status.success() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("it does not come to be so: {script}");
}

#[test]
fn git_clones_commits_collects_garbage_and_finds_nothing_wrong() {
    ground!("fuse", "root", "git");
    let lab = Lab::new();
    let setup = "export HOME=$PWD GIT_CONFIG_NOSYSTEM=1; git config --global user.name a; git config --global user.email a@b
        git config --global safe.directory '*'; git config --global init.defaultBranch main; git config --global gc.autoDetach false";
    sh(&lab.base(), &format!("{setup}
        git init -q origin; cd origin
        for n in $(seq 40); do mkdir -p dir$((n % 5)); seq $((n * 50)) > dir$((n % 5))/$n; git add .; git commit -qm \"number $n\"; done"));
    let at = lab.create("ci", &FUSE);
    let script = format!("{setup}
        git clone -q origin clone; cd clone
        test -z \"$(git status --porcelain)\"
        echo changed > dir1/1; git mv dir2/2 dir3/moved; rm dir4/4
        git status --porcelain | sort
        git add -A; git commit -qm changed; git checkout -q -b other HEAD~3; git merge -q -m merged main; git stash list
        git gc -q --aggressive --prune=now; git fsck --strict --full
        git repack -adfq; git fsck --strict; git -C ../origin gc -q; git -C ../origin fsck
        git push -q origin other; git log --oneline other | wc -l");
    let said = sh(&at, &script);
    assert!(
        said.starts_with("D dir4/4\n M dir1/1\nR  dir2/2 -> dir3/moved")
            || said.contains("R  dir2/2 -> dir3/moved"),
        "{said}"
    );
    lab.ok(&["reset", "ci"]);
    assert_eq!(
        sh(
            &at,
            &format!(
                "{setup}; cd origin; git fsck --strict --full; git log --oneline | wc -l; test ! -e ../clone"
            )
        ),
        "40"
    );
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

/// A database of the base, which is copied block by block, with a log and a mapping that readers and writers share.
#[test]
fn sqlite_keeps_what_was_committed_when_its_writer_is_killed() {
    ground!("fuse", "root", "sqlite3");
    let lab = Lab::new();
    let made = "PRAGMA journal_mode=WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) INSERT INTO t SELECT i, randomblob(300) FROM n;";
    sh(&lab.base(), &format!("sqlite3 db '{made}' > /dev/null"));
    let count = |at: &Path| -> u64 {
        let said = sh(at, "sqlite3 db 'PRAGMA integrity_check; SELECT count(*) FROM t'");
        said.strip_prefix("ok\n").unwrap_or_else(|| panic!("{said}")).parse().expect("a number")
    };
    for journal in ["WAL", "DELETE"] {
        let at = lab.create("ci", &FUSE);
        sh(&at, &format!("sqlite3 db 'PRAGMA journal_mode={journal}' > /dev/null"));
        let mut before = count(&at);
        for round in 0..4 {
            // It commits ten rows at a time and says so; the last transaction is never finished.
            let script = format!(
                "exec 2>&1; {{ for n in $(seq 5); do
                     echo 'BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10) INSERT INTO t SELECT NULL, randomblob(3000) FROM n; COMMIT; SELECT 7;'
                 done; echo 'BEGIN; UPDATE t SET body = randomblob(2000); DELETE FROM t WHERE id % 3 = 0;'; sleep 600; }} | stdbuf -oL sqlite3 db > ../said-{journal}-{round}"
            );
            let mut command = Command::new("bash");
            let mut writer = Process::new(command.args(["-c", &script]).current_dir(&at).process_group(0));
            let said = lab.at(&format!("said-{journal}-{round}"));
            until(&at, &format!("test $(grep -c 7 {}) = 5", utf8(&said)));
            std::thread::sleep(Duration::from_millis(20 * round));
            let group = rustix::process::Pid::from_raw(writer.pid() as i32).expect("a pid");
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("killed");
            writer.end();
            let now = count(&at);
            assert_eq!(now, before + 50, "{journal}, round {round}");
            before = now;
        }
        lab.ok(&["reset", "ci", "--force"]);
        assert_eq!(count(&at), 3000, "{journal}");
        lab.ok(&["destroy", "ci", "--force"]);
    }
    lab.assert_nothing_left();
}

/// A server that goes with the value: the process group of what is started.
struct Server(std::process::Child);

impl Server {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.process_group(0).spawn().expect("it starts"))
    }

    fn kill(&mut self) {
        let group = rustix::process::Pid::from_raw(self.0.id() as i32).expect("a pid");
        // Whoever is gone already needs no killing.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The programs of the newest PostgreSQL that is installed.
fn postgres_bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("installed").flatten();
    versions.map(|entry| entry.path().join("bin")).max().expect("a version")
}

/// Its tables are files of 1 GiB at most, of which it writes pages of 8 KiB; what is committed outlives `kill -9`.
#[test]
fn postgresql_recovers_on_it_and_is_reset() {
    ground!("fuse", "root", "setpriv", "pg_ctlcluster");
    let lab = Lab::new();
    let (bin, socket) = (postgres_bin(), lab.root().join("socket"));
    let mut open = vec![lab.root().to_owned(), lab.base()];
    open.push(lab.at(""));
    for dir in open {
        fs::create_dir_all(&dir).expect("mkdir");
        ground::run("chmod", &["o+rx", utf8(&dir)]);
    }
    let as_postgres = format!(
        "run() {{ setpriv --reuid postgres --regid postgres --init-groups \"$@\"; }}; PATH={}:$PATH; export PGHOST={} PGUSER=postgres PGDATABASE=postgres",
        utf8(&bin),
        utf8(&socket)
    );
    sh(
        lab.root(),
        &format!(
            "{as_postgres}; install -d -o postgres socket; install -d -o postgres -m 700 base/data
        run initdb -A trust -N -D $PWD/base/data"
        ),
    );
    sh(&lab.base(), "chmod o+rx ..");
    let at = lab.create("ci", &FUSE);
    let sql = |query: &str| sh(lab.root(), &format!("{as_postgres}; psql -qAtc \"{query}\""));
    let serve = || {
        // It is this process' own child, so that it is gone once it was waited for; its children are in groups of their own.
        let data = at.join("data");
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            "postgres",
            "--regid",
            "postgres",
            "--init-groups",
            utf8(&bin.join("postgres")),
            "-D",
            utf8(&data),
            "-h",
            "",
            "-k",
            utf8(&socket),
        ]);
        let mut server = Server::start(command.current_dir("/"));
        let asks = format!("{as_postgres}; psql -qAtc 'select 1'");
        for _ in 0..1200 {
            if Command::new("bash").args(["-euc", &asks]).output().expect("bash runs").status.success() {
                return server;
            }
            // As long as children of the one that was killed are there, it does not start.
            if server.0.try_wait().expect("waited for").is_some() {
                server = Server::start(&mut command);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("it does not start");
    };
    let mut server = serve();
    sh(lab.root(), &format!("{as_postgres}; pgbench -q -i -s 2"));
    let totals = "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), \
        (select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0) from pgbench_history)";
    for round in 0..2 {
        let mut load = Server::start(
            Command::new("bash")
                .args(["-c", &format!("{as_postgres}; pgbench -n -c 4 -T 600 > /dev/null 2>&1")]),
        );
        until(
            lab.root(),
            &format!(
                "{as_postgres}; test $(psql -qAtc 'select count(*) from pgbench_history') -gt {}",
                50 * (round + 1)
            ),
        );
        let committed: u64 = sql("select count(*) from pgbench_history").parse().expect("a number");
        server.kill();
        load.kill();
        server = serve();
        let now = sql("select count(*) from pgbench_history").parse::<u64>().expect("a number");
        assert!(now >= committed, "{now} of {committed} that were committed");
        let sums: Vec<_> = sql(totals).split('|').map(str::to_owned).collect();
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    }
    sql("checkpoint");
    sh(
        lab.root(),
        &format!(
            "{as_postgres}; run pg_ctl -D {} -m fast -w stop; run pg_controldata {0} | grep -q 'shut down'",
            utf8(&at.join("data"))
        ),
    );
    server.kill();
    lab.ok(&["reset", "ci", "--force"]);
    server = serve();
    assert_eq!(sql("select count(*) from pg_class where relname like 'pgbench%'"), "0");
    sh(lab.root(), &format!("{as_postgres}; run pg_ctl -D {} -m fast -w stop", utf8(&at.join("data"))));
    server.kill();
    lab.ok(&["destroy", "ci", "--force"]);
    lab.assert_nothing_left();
}

/// LevelDB and block files that are allocated ahead.
#[test]
fn litecoind_mines_and_is_at_the_height_of_the_base_again() {
    ground!("fuse", "root", "litecoind");
    let lab = Lab::new();
    let port = 20_000 + std::process::id() % 10_000;
    let cli = |dir: &Path| format!("litecoin-cli -regtest -datadir={} -rpcport={port}", utf8(dir));
    let start = |dir: &Path| {
        let args = format!(
            "-regtest -datadir={} -listen=0 -dnsseed=0 -connect=0 -disablewallet -server -rpcbind=127.0.0.1 -rpcallowip=127.0.0.1 \
             -rpcport={port} -printtoconsole=0 -checkblocks=0 -checklevel=4",
            utf8(dir)
        );
        let node = Server::start(Command::new("litecoind").args(args.split_whitespace()));
        until(lab.root(), &format!("{} getblockcount", cli(dir)));
        node
    };
    let stop = |mut node: Server, dir: &Path| {
        sh(lab.root(), &format!("{} stop", cli(dir)));
        node.0.wait().expect("it ends");
    };
    let mine = |dir: &Path, n: u32| {
        sh(lab.root(), &format!("{} generatetodescriptor {n} 'raw(51)' > /dev/null", cli(dir)))
    };
    let height = |dir: &Path| sh(lab.root(), &format!("{} getblockcount", cli(dir)));
    let (base, data) = (lab.base().join("node"), lab.at("ci").join("node"));
    fs::create_dir(&base).expect("mkdir");
    let node = start(&base);
    mine(&base, 10);
    let tip = sh(lab.root(), &format!("{} getbestblockhash", cli(&base)));
    stop(node, &base);
    lab.create("ci", &FUSE);
    for _ in 0..2 {
        let mut node = start(&data);
        assert_eq!(height(&data), "10");
        mine(&data, 120);
        assert_eq!(height(&data), "130");
        assert_eq!(sh(lab.root(), &format!("{} verifychain 4 0", cli(&data))), "true");
        stop(node, &data);
        node = start(&data);
        assert_eq!(height(&data), "130");
        // Killed, it goes on from what it had written.
        node.kill();
        node = start(&data);
        assert_eq!(sh(lab.root(), &format!("{} verifychain 4 0", cli(&data))), "true");
        node.kill();
        lab.ok(&["reset", "ci", "--force"]);
    }
    let node = start(&data);
    assert_eq!(
        (height(&data), sh(lab.root(), &format!("{} getbestblockhash", cli(&data)))),
        ("10".into(), tip)
    );
    stop(node, &data);
    lab.ok(&["destroy", "ci", "--force"]);
    lab.assert_nothing_left();
}
