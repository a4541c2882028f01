//! What goes on while its snapshot is taken: databases that write down what they have in memory, and whatever a command tells.

use super::*;

#[test]
fn the_log_of_a_real_sqlite_is_in_the_database_in_the_snapshot() {
    ground!("btrfs", "sqlite3", "setpriv");
    let lab = Lab::new("");
    let dir = lab.root().join("mnt/node/a b");
    fs::create_dir(&dir).expect("made");
    let file = dir.join("x%?.db");
    // Who has the database open keeps its log from being brought over when another one closes it.
    let mut open = Command::new("sqlite3")
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = open.stdin.take().expect("piped");
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(open.stdout.take().expect("piped")));
    // Until it has done all of it: a log is there before.
    let mut does = |what: &str| {
        std::io::Write::write_all(&mut input, format!("{what}\n.print done\n").as_bytes()).expect("asked");
        assert!(said.any(|line| line.expect("read") == "done"), "{what}");
    };
    does(
        "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(x); INSERT INTO t VALUES (7);",
    );
    let log = dir.join("x%?.db-wal");
    let length = || log.metadata().map_or(0, |meta| meta.len());
    assert!(length() > 0);
    let config = |file: &Path| {
        format!(
            "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.flush]\nwithin = \"2s\"\nsqlite = [{:?}]\n",
            file.display().to_string()
        )
    };
    // As another user's, it is not to be made root's.
    for path in [&dir, &file, &log, &dir.join("x%?.db-shm")] {
        std::os::unix::fs::chown(path, Some(64321), Some(64321)).expect("given away");
    }
    lab.write(&config(&file));
    let (text, _) = lab.ends(0, "job run node");
    assert_eq!(length(), 0, "{text}");
    assert!(lab.ends(0, "job explain").0.contains("brings the log of "));
    // A reader that stays keeps the log where it is.
    does("INSERT INTO t VALUES (8); BEGIN; SELECT * FROM t;");
    assert!(length() > 0);
    let mut writer = Command::new("sqlite3");
    let written = writer.arg(&file).arg("PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES (9);").output();
    assert!(written.expect("it starts").status.success());
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("reads or writes it all the time"), "{said}");
    assert_eq!(lab.n_snapshots(), 1);
    lab.write(&config(&lab.root().join("elsewhere.db")));
    fs::write(lab.root().join("elsewhere.db"), "").expect("written");
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("lies in no dataset of the job"), "{said}");
    drop(input);
    open.wait().expect("it ends");
}

/// A server of PostgreSQL with its data in the dataset.
struct Server<'a> {
    lab: &'a Lab,
    bin: PathBuf,
}

impl Server<'_> {
    fn pg(&self, program: &str, words: &[&str]) -> std::process::Output {
        let switch = ["--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
        let mut command = Command::new("setpriv");
        command.args(switch).arg(self.bin.join(program)).args(words.iter().map(|word| self.lab.placed(word)));
        command.current_dir("/").stdin(Stdio::null()).output().expect("it starts")
    }

    fn must(&self, program: &str, words: &[&str]) -> String {
        let output = self.pg(program, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn start(&self, data: &str) {
        let options =
            "-c listen_addresses='' -c unix_socket_directories=ROOT/mnt/node/socket -c checkpoint_timeout=1d";
        self.must("pg_ctl", &["start", "-w", "-s", "-D", data, "-l", "ROOT/mnt/node/log", "-o", options]);
    }

    /// Somebody who may little has functions of the names of the server's own, and his schema is looked through first.
    fn shadowed(&self) {
        let shadow = |function: &str, answers: &str| {
            let does = "LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''this is not the server''; END'";
            format!("CREATE FUNCTION public.{function} RETURNS {answers} {does};")
        };
        let all = [
            ("convert_to(text, text)", "bytea"),
            ("encode(bytea, text)", "text"),
            ("pg_tablespace_location(oid)", "text"),
            ("pg_backup_start(text, boolean)", "pg_lsn"),
        ];
        let all: String = all.iter().map(|(function, answers)| shadow(function, answers)).collect();
        self.asked("CREATE ROLE mallory");
        self.asked("GRANT CREATE ON SCHEMA public TO mallory");
        self.asked(&format!("SET ROLE mallory; {all}"));
        self.asked("ALTER DATABASE postgres SET search_path = public, pg_catalog");
    }

    fn asked(&self, question: &str) -> String {
        self.must(
            "psql",
            &["-X", "-A", "-t", "-d", "host=ROOT/mnt/node/socket dbname=postgres", "-c", question],
        )
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        for data in ["ROOT/mnt/node/data", "ROOT/mnt/copy/data"] {
            self.pg("pg_ctl", &["stop", "-s", "-m", "immediate", "-D", data]);
        }
    }
}

/// Whose user may come here.
fn open(path: &Path) {
    ground::run("chown", &["postgres:postgres", path.to_str().expect("utf-8")]);
}

/// One that does not run, and has nothing.
fn server(lab: &Lab) -> Server<'_> {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Debian's").flatten();
    let bin = versions.map(|entry| entry.path().join("bin")).max().expect("a version");
    let server = Server { lab, bin };
    // Who is not root has to come through.
    ground::run("chmod", &["755", lab.placed("ROOT").as_str()]);
    ["socket", "data"].iter().for_each(|name| {
        let path = lab.root().join("mnt/node").join(name);
        fs::create_dir(&path).expect("made");
        open(&path);
    });
    open(&lab.root().join("mnt/node"));
    server.must("initdb", &["-D", "ROOT/mnt/node/data", "-A", "trust", "-N"]);
    server
}

/// Its log is in a dataset of its own from here on.
fn move_log(lab: &Lab) {
    lab.ends(0, "create ROOT/mnt/wal");
    open(&lab.root().join("mnt/wal"));
    let (here, there) = (lab.root().join("mnt/node/data/pg_wal"), lab.root().join("mnt/wal/log"));
    ground::run("mv", &[&here, &there]);
    std::os::unix::fs::symlink(&there, &here).expect("made");
}

#[test]
fn a_real_postgresql_recovers_from_a_snapshot_that_was_taken_after_a_checkpoint() {
    ground!("btrfs", "pg_ctlcluster", "setpriv");
    let lab = Lab::new("");
    let server = server(&lab);
    server.start("ROOT/mnt/node/data");
    server.asked("CREATE TABLE t AS SELECT generate_series(1, 1000) AS x");
    let point = || server.asked("SELECT redo_lsn FROM pg_control_checkpoint()");
    let before = point();
    let config = "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.flush]\npostgres = { connection = \"host=ROOT/mnt/node/socket dbname=postgres\" }\n";
    lab.write(config);
    let done = lab.json(0, "job run node");
    assert_ne!(point(), before, "there was no checkpoint");
    let name = done["jobs"][0]["snapshots"][0]["name"].as_str().expect("a name").to_owned();
    // Its log elsewhere is not of the same instant.
    server.asked("INSERT INTO t VALUES (1001)");
    server.must("pg_ctl", &["stop", "-s", "-w", "-D", "ROOT/mnt/node/data"]);
    move_log(&lab);
    server.start("ROOT/mnt/node/data");
    lab.ends(5, "job run node");
    // Also if that is the job's: btrfs takes them back to back, which a checkpoint is not enough for.
    let config = config.replace("dbname=postgres\" }", "dbname=postgres\", method = \"checkpoint\" }");
    lab.write(&config.replace("\"ROOT/mnt/node\"]", "\"ROOT/mnt/node\", \"ROOT/mnt/wal\"]"));
    let (_, said) = lab.ends(0, "job check");
    assert!(said.contains("job node: the data directory of PostgreSQL"), "{said}");
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("lie in two datasets"), "{said}");
    server.must("pg_ctl", &["stop", "-s", "-w", "-D", "ROOT/mnt/node/data"]);
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("cannot flush PostgreSQL"), "{said}");
    assert_eq!(lab.n_snapshots(), 1);
    lab.write(&config);
    lab.ends(0, &format!("clone ROOT/mnt/node@{name} ROOT/mnt/copy"));
    let _ = fs::remove_file(lab.root().join("mnt/copy/data/postmaster.pid"));
    server.start("ROOT/mnt/copy/data");
    assert_eq!(server.asked("SELECT count(*) FROM t"), "1000");
}

#[test]
fn a_real_postgresql_in_several_datasets_recovers_by_what_is_kept_beside_its_snapshot() {
    ground!("btrfs", "pg_ctlcluster", "setpriv");
    let lab = Lab::new("");
    let server = server(&lab);
    move_log(&lab);
    lab.ends(0, "create ROOT/mnt/space");
    open(&lab.root().join("mnt/space"));
    server.start("ROOT/mnt/node/data");
    server.asked(&lab.placed("CREATE TABLESPACE far LOCATION 'ROOT/mnt/space'"));
    server.asked("CREATE TABLE t (x bigint primary key)");
    server.asked("CREATE TABLE u (x bigint primary key) TABLESPACE far");
    server.shadowed();
    let config = "[job.node]\nnot_atomic = true\ndatasets = [\"ROOT/mnt/node\", \"ROOT/mnt/wal\", \"ROOT/mnt/space\"]\n[job.node.flush]\n\
         postgres = { connection = \"host=ROOT/mnt/node/socket dbname=postgres\" }\n";
    lab.write(config);
    assert!(!lab.ends(0, "job check").1.contains("PostgreSQL"), "there is nothing to warn of");
    assert!(lab.ends(0, "job explain").0.contains("it is in backup mode meanwhile"));
    // Both or none of each number.
    let load = "DO $$ BEGIN FOR i IN 1..100000000 LOOP INSERT INTO t VALUES (i); INSERT INTO u VALUES (i); COMMIT; END LOOP; END $$";
    let switch = ["--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    let mut load = Command::new("setpriv")
        .args(switch)
        .arg(server.bin.join("psql"))
        .args(["-X", "-q", "-d", &lab.placed("host=ROOT/mnt/node/socket dbname=postgres"), "-c", load])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let n = || server.asked("SELECT count(*) FROM t").parse::<u64>().expect("a number");
    waits("the load", || n() > 100);
    // What is kept for a snapshot goes once that is gone.
    let done = lab.json(0, "job run node");
    let first = PathBuf::from(done["jobs"][0]["backup"].as_str().expect("where it is"));
    let name = done["jobs"][0]["snapshots"][0]["name"].as_str().expect("a name");
    assert!(first.join("backup_label").exists());
    for dataset in ["node", "wal", "space"] {
        lab.ends(0, &format!("destroy ROOT/mnt/{dataset}@{name}"));
    }
    let before = n();
    let done = lab.json(0, "job run node");
    assert!(!first.exists());
    let kept = PathBuf::from(done["jobs"][0]["backup"].as_str().expect("where it is"));
    let name = done["jobs"][0]["snapshots"][0]["name"].as_str().expect("a name").to_owned();
    assert_eq!(done["jobs"][0]["snapshots"].as_array().map(Vec::len), Some(3));
    assert_eq!(server.asked("SELECT count(*) FROM pg_stat_activity WHERE query ILIKE '%pg_backup_st%' AND pid <> pg_backend_pid()"), "0");
    let after = n();
    // What is kept stays as long as there is one of its snapshots, whichever dataset is named first.
    lab.write(&config.replace("\"ROOT/mnt/node\", \"ROOT/mnt/wal\"", "\"ROOT/mnt/wal\", \"ROOT/mnt/node\""));
    let done = lab.json(0, "job run node");
    let other = PathBuf::from(done["jobs"][0]["backup"].as_str().expect("where it is"));
    lab.write(config);
    lab.ends(0, "job run node");
    assert!(kept.join("backup_label").exists() && other.join("backup_label").exists());
    server.must("pg_ctl", &["stop", "-s", "-w", "-m", "immediate", "-D", "ROOT/mnt/node/data"]);
    load.wait().expect("it has ended");
    rehearsed(&lab, config, &server.bin, &name);
    // As docs/jobs.md has it.
    for (dataset, copy) in [("node", "copy"), ("wal", "copy-wal"), ("space", "copy-space")] {
        lab.ends(0, &format!("clone ROOT/mnt/{dataset}@{name} ROOT/mnt/{copy}"));
    }
    let data = lab.root().join("mnt/copy/data");
    let _ = fs::remove_file(data.join("postmaster.pid"));
    fs::remove_file(data.join("pg_wal")).expect("removed");
    std::os::unix::fs::symlink(lab.root().join("mnt/copy-wal/log"), data.join("pg_wal")).expect("made");
    fs::copy(kept.join("backup_label"), data.join("backup_label")).expect("copied");
    let map = fs::read_to_string(kept.join("tablespace_map")).expect("there is one");
    fs::write(data.join("tablespace_map"), map.replace("mnt/space", "mnt/copy-space")).expect("written");
    for entry in fs::read_dir(kept.join("pg_wal")).expect("read").flatten() {
        fs::copy(entry.path(), data.join("pg_wal").join(entry.file_name())).expect("copied");
    }
    ground::run(
        "chown",
        &["-R", "postgres:postgres", data.to_str().expect("utf-8"), &lab.placed("ROOT/mnt/copy-wal")],
    );
    server.start("ROOT/mnt/copy/data");
    let now = n();
    assert!(before <= now && now <= after, "{before} <= {now} <= {after}");
    assert_eq!(
        server.asked("SELECT count(*) FROM t FULL JOIN u USING (x) WHERE t.x IS NULL OR u.x IS NULL"),
        "0"
    );
    assert_eq!(server.asked("SELECT max(x) FROM u").parse(), Ok(now));
    assert!(!data.join("backup_label").exists(), "it was not read");
    server.must("pg_ctl", &["stop", "-s", "-w", "-m", "fast", "-D", "ROOT/mnt/copy/data"]);
}

/// By who may read nothing of what is kept.
fn rehearsed(lab: &Lab, config: &str, bin: &Path, name: &str) {
    let data = "ROOT/mnt/node/data";
    let counted = "SELECT count(*) FROM t FULL JOIN u USING (x) WHERE t.x IS NULL OR u.x IS NULL";
    let script = format!(
        "set -e; test $COWSNAP_DRILL_BACKUP = {data}; test -e {data}/backup_label; test ! -e {data}/postmaster.pid
         pg_ctl start -w -s -D {data} -l /tmp/log -o \"-c listen_addresses= -c unix_socket_directories=/tmp\"
         test ! -e {data}/backup_label; grep -q \"consistent recovery state reached\" /tmp/log
         echo they differ in $(psql -h /tmp -d postgres -AXtc \"{counted}\")"
    );
    let script = format!("PATH={}:$PATH\n{script}", bin.display());
    let drill = format!(
        "[job.node.drill]\nuser = \"postgres\"\nexpect = \"they differ in 0\"\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\n"
    );
    lab.write(&format!("{config}{drill}"));
    let done = lab.json(0, &format!("drill node --snapshot {name}"));
    assert_eq!(done["drills"][0]["passed"], true, "{done}");
    lab.write(config);
}

#[test]
fn a_command_is_called_before_the_snapshot_and_another_one_after_it_whatever_happens() {
    ground!("btrfs");
    let lab = Lab::new("");
    let before = lab.start();
    let config = |first: &str| {
        format!(
            "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.flush]\nwithin = \"5s\"\n\
             command = [\"/bin/sh\", \"-c\", \"echo before >> ROOT/order; {first}\"]\n\
             after = [\"/bin/sh\", \"-c\", \"echo after >> ROOT/order; [ ! -e ROOT/fails ]\"]\n"
        )
    };
    let order = || {
        let order = fs::read_to_string(lab.root().join("order")).unwrap_or_default();
        let _ = fs::remove_file(lab.root().join("order"));
        order.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    lab.write(&config("true"));
    lab.ends(0, "job run node");
    assert_eq!((order().as_str(), lab.n_snapshots(), lab.pid()), ("before after", 1, Some(before)));
    let (said, _) = lab.ends(0, "job explain");
    assert!(said.contains("calls /bin/sh -c echo before") && said.contains("whatever has failed"), "{said}");
    lab.write(&config("exit 1"));
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("exit status: 1"), "{said}");
    assert_eq!((order().as_str(), lab.n_snapshots()), ("before after", 1));
    // The run kills itself in the midst: its guard calls the other one.
    lab.write(&config("kill -9 $PPID"));
    assert_eq!(lab.runs("job run node").0, None);
    waits("the lease's end", || !lab.lease().exists());
    assert_eq!((order().as_str(), lab.n_snapshots()), ("before after", 1));
    fs::write(lab.root().join("fails"), "").expect("written");
    lab.write(&config("true"));
    let (_, said) = lab.ends(1, "job run node");
    assert!(said.contains("exit status: 1"), "{said}");
    assert_eq!(lab.n_snapshots(), 2);
    fs::remove_file(lab.root().join("fails")).expect("removed");
    waits("a recovery", || lab.runs("job recover").0 == Some(0) && !lab.lease().exists());
}

#[test]
fn what_a_command_leaves_running_keeps_the_other_one_from_nothing() {
    ground!("btrfs");
    let lab = Lab::new("");
    for (end, code) in [("exit 0", 0), ("exit 1", 5)] {
        lab.write(&format!(
            "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.flush]\nwithin = \"5s\"\n\
             command = [\"/bin/sh\", \"-c\", \"setsid sleep 600 2>/dev/null & echo $! > ROOT/left; {end}\"]\n\
             after = [\"/bin/sh\", \"-c\", \"echo after >> ROOT/order\"]\n"
        ));
        let (found, _, said) = lab.runs("job run node");
        let left = fs::read_to_string(lab.root().join("left")).expect("it was called");
        let is_left = alive(&lab.root().join("left")).is_some();
        kill(left.trim().parse().expect("a number"), rustix::process::Signal::KILL);
        assert!(is_left, "nothing was left: {said}");
        assert_eq!((found, lab.lease().exists()), (Some(code), false), "{said}");
        assert_eq!(fs::read_to_string(lab.root().join("order")).expect("it was called"), "after\n");
        fs::remove_file(lab.root().join("order")).expect("removed");
    }
}

/// Run by a copy of the shell: a worker that outlives it, until there is a file `enough`.
const LINGERS: &str = r#"
cd "$(dirname "$0")" || exit 1
(trap "" TERM; while [ ! -e enough ]; do sleep 0.1; done) &
trap "exit 0" TERM
echo $$ > main
while :; do sleep 0.1; done
"#;

#[test]
fn a_worker_that_outlives_its_process_is_not_taken_for_it() {
    ground!("btrfs");
    let lab = Lab::new("");
    fs::copy("/bin/sh", lab.root().join("node")).expect("copied");
    fs::write(lab.root().join("lingers"), LINGERS).expect("written");
    let start = "setsid ROOT/node ROOT/lingers >/dev/null 2>&1 &";
    lab.write(&format!(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\nstop_within = \"1s\"\n\
         [[job.node.quiesce.service]]\nprocess = {{ exe = \"ROOT/node\" }}\nstart = [\"/bin/sh\", \"-c\", \"{start}\"]\n"
    ));
    ground::run("sh", &["-c", &lab.placed(start)]);
    let main = || alive(&lab.root().join("main"));
    waits("the service", || main().is_some());
    let before = main();
    let (found, _, said) = lab.runs("job run node");
    let after = main();
    fs::write(lab.root().join("enough"), "").expect("written");
    waits("the lease's end", || !lab.lease().exists());
    let running = || ground::run("pidof", &[&lab.root().join("node")]).stdout;
    waits("the workers' end", || String::from_utf8_lossy(&running()).split_whitespace().count() == 1);
    let (again, _, twice) = lab.runs("job run node");
    let last = main();
    last.into_iter().for_each(|pid| kill(pid, rustix::process::Signal::KILL));
    assert!(found == Some(5) && said.contains("did not stop within 1s"), "{found:?}: {said}");
    assert!(after.is_some() && after != before, "it is down: {said}");
    assert!(again == Some(0) && last != after, "{again:?}: {twice}");
    assert_eq!(lab.n_snapshots(), 1);
}

#[test]
fn a_program_that_is_not_here_is_not_taken_for_a_service_that_is_down() {
    ground!("btrfs");
    let lab = Lab::new("");
    let first = lab.start();
    let text = fs::read_to_string(lab.root().join("config.toml")).expect("read");
    let node = lab.root().join("node");
    let service =
        "[[job.node.quiesce.service]]\nprocess = { exe = \"ROOT/node\" }\nstart = [\"/bin/true\"]\n";
    lab.write(&format!("{text}{service}"));
    let is_told =
        |said: &str| said.contains(&format!("there is no file {}, and no process runs it", node.display()));
    for line in ["job check", "job run node", "job run --due node"] {
        if line.contains("--due") {
            lab.ends(0, "job request node");
        }
        let (_, said) = lab.ends(2, line);
        assert!(is_told(&said), "{line}: {said}");
    }
    let (_, said) = lab.ends(2, "job check");
    assert!(said.contains("config.toml:8: job.node.quiesce.service.process.exe: "), "{said}");
    assert!(lab.pid() == Some(first) && !lab.lease().exists(), "something was stopped");
    assert_eq!(lab.n_snapshots(), 0);
    // Nobody runs what is there: it is down.
    fs::copy("/bin/sleep", &node).expect("copied");
    lab.ends(0, "job check");
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("was down, and stays down"), "{text}");
    assert_eq!(lab.n_snapshots(), 1);
}

#[test]
fn a_service_is_known_by_its_program() {
    ground!("btrfs");
    let lab = Lab::new("");
    let node = lab.root().join("node");
    fs::copy("/bin/sleep", &node).expect("copied");
    let service = |argument: &str| {
        format!(
            "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[[job.node.quiesce.service]]\n\
             process = {{ exe = \"ROOT/node\"{argument} }}\nstart = [\"/bin/sh\", \"-c\", \"setsid ROOT/node 601 >/dev/null 2>&1 &\"]\n"
        )
    };
    lab.write(&service(""));
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("was down, and stays down"), "{text}");
    let other = Command::new(&node).arg("602").stdin(Stdio::null()).spawn().expect("it starts");
    let (text, _) = lab.ends(0, "job run node");
    assert!(text.contains("node stopped for "), "{text}");
    let ended = |mut child: std::process::Child| child.wait().expect("it has ended");
    assert!(!ended(other).success());
    let other = Command::new(&node).arg("602").stdin(Stdio::null()).spawn().expect("it starts");
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("name an argument that one of them alone has"), "{said}");
    lab.write(&service(", argument = \"601\""));
    lab.ends(0, "job run node");
    assert_eq!(lab.n_snapshots(), 3);
    let mut other = other;
    assert!(other.try_wait().expect("asked").is_none(), "another one was stopped");
    other.kill().and_then(|()| other.wait()).expect("killed");
    // The one that was started.
    let pidof = ground::run("pidof", &[&node]).stdout;
    let pid = String::from_utf8_lossy(&pidof).trim().parse().expect("one");
    kill(pid, rustix::process::Signal::KILL);
}
