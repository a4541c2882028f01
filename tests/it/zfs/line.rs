//! The program on a pool of a test's own, told by lines in which `POOL` is that, and `OUT` a directory beside it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::ground::{Pool, zfs};
use crate::ground;

pub struct Line {
    pub pool: Pool,
    /// Where it keeps what it knows: of another machine, if that is another directory.
    pub state: PathBuf,
    /// What reaches other machines.
    pub ssh: String,
}

impl Line {
    pub fn new() -> Self {
        let pool = Pool::new();
        Self { state: pool.outside().join("state"), pool, ssh: "/bin/false".into() }
    }

    fn outside(&self) -> &str {
        self.pool.outside().to_str().expect("utf-8")
    }

    pub fn placed(&self, text: &str) -> String {
        text.replace("POOL", &self.pool.name).replace("OUT", self.outside())
    }

    /// The configuration from now on.
    pub fn configure(&self, text: &str) {
        fs::write(self.pool.outside().join("config.toml"), self.placed(text)).expect("written");
    }

    fn command(&self, line: &str) -> Command {
        let mut command = ground::cowsnap(&self.state);
        command.args(line.split(' ').map(|word| self.placed(word))).env("COWSNAP_SSH", &self.ssh);
        command.env("COWSNAP_CONFIG", self.pool.outside().join("config.toml")).stdin(Stdio::null());
        command
    }

    /// Runs, expects that exit code, and answers what was printed and what was said, with the names of the line.
    pub fn ends(&self, code: i32, line: &str) -> (String, String) {
        let output = self.command(line).output().expect("the program starts");
        let [out, err] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b).into_owned());
        assert_eq!(output.status.code(), Some(code), "cowsnap {line}\n{out}{err}");
        let named = |text: &str| text.replace(self.outside(), "OUT").replace(&self.pool.name, "POOL");
        (named(out.trim_end()), named(&err))
    }

    pub fn run(&self, line: &str) -> String {
        self.ends(0, line).0
    }

    pub fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{line} --json"))).expect("one JSON object")
    }

    /// Starts it, for one that kills it.
    pub fn start(&self, line: &str) -> Child {
        let mut command = self.command(line);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    /// Writes a file of a dataset that is mounted.
    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.pool.path(file), bytes).expect("written");
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.pool.path(file)).expect("read")
    }

    /// The names of all datasets and snapshots in the pool, as the oracle says them.
    pub fn all(&self) -> Vec<String> {
        let listed = zfs(&["list", "-H", "-r", "-t", "filesystem,snapshot", "-o", "name", &self.pool.name]);
        listed.lines().map(|name| name.replace(&self.pool.name, "POOL")).collect()
    }
}
