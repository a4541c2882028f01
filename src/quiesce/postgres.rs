//! A server of PostgreSQL that is in backup mode while its snapshot is taken: for one whose files lie in several datasets, which need not be of one instant.
//!
//! What the server says when that is over, and the log from the one to the other, is kept beside the snapshot: with these it recovers from files of several instants.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::quiesce::{Error, Result};
use crate::sys::child;
use crate::sys::interrupt::Timely;

/// What psql prints once it has done what it was asked.
const HEARD: &str = "cowsnap: that was all";
/// What is asked first: this is a superuser, and nobody else's functions and operators are to be meant by any name. It has no answer.
pub(super) const OWN: &str = "SET search_path = pg_catalog, pg_temp";
/// In what is kept: where the server's data is.
const DATA: &str = "data_directory";
/// The first version whose functions are called so.
const NEW: u32 = 150_000;

/// A session that has to stay open. Dropped before it has ended well, the server leaves backup mode by itself, and nothing of it counts.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    lines: BufReader<Timely<File>>,
    /// Where the server's data is.
    data: PathBuf,
    version: u32,
}

impl Session {
    /// Begins: the server brings to the disk what it has in memory.
    pub(super) fn begin(words: &[String], data: &Path, within: Duration) -> Result<Self, String> {
        let told = |error: io::Error| format!("{}: {error}", words[0]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        child::own_session(&mut command);
        let mut child = command.spawn().map_err(told)?;
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let lines = BufReader::new(Timely::new(File::from(OwnedFd::from(output)), Some(within)));
        let mut session = Self { child, input, lines, data: data.to_owned(), version: 0 };
        session.asked(OWN)?;
        let version = session.asked("SHOW server_version_num")?;
        session.version = version.first().and_then(|line| line.parse().ok()).unwrap_or(0);
        session.asked(match session.version {
            NEW.. => "SELECT pg_catalog.pg_backup_start('cowsnap', true)",
            _ => "SELECT pg_catalog.pg_start_backup('cowsnap', true, false)",
        })?;
        Ok(session)
    }

    fn asked(&mut self, question: &str) -> Result<Vec<String>, String> {
        let input = self.input.as_mut().ok_or("its session has ended")?;
        let said = format!("{question};\n\\echo {HEARD}\n");
        input.write_all(said.as_bytes()).and_then(|()| input.flush()).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) => return Err(format!("psql has ended, asked {question}")),
                Ok(_) if line.trim_end() == HEARD => return Ok(all),
                Ok(_) => all.push(line.trim_end().to_owned()),
                Err(error) => return Err(format!("psql: {error}")),
            }
        }
    }

    /// Ends, and puts what a restore needs into a folder below `base`: `backup_label`, `tablespace_map` if there are any, `data_directory`, which says where the data is, and the log in `pg_wal`. All of it is on the
    /// disk then, with the names of all folders down from `base`, which is there.
    ///
    /// # Errors
    /// [`Error::Flush`]: nothing counts of it, nor of the snapshot.
    pub fn end(mut self, into: &Path, base: &Path) -> Result<()> {
        self.ended(into, base).map_err(|why| Error::Flush { what: "PostgreSQL".into(), why })
    }

    fn ended(&mut self, into: &Path, base: &Path) -> Result<(), String> {
        let function = match self.version {
            NEW.. => "pg_catalog.pg_backup_stop(false)",
            _ => "pg_catalog.pg_stop_backup(false, false)",
        };
        let hex = |what: &str| {
            let encoding = "pg_catalog.current_setting('server_encoding')::pg_catalog.name";
            format!("pg_catalog.encode(pg_catalog.convert_to({what}, {encoding}), 'hex')")
        };
        let size = "(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size')";
        let stop = format!(
            "SELECT {}, {}, pg_catalog.pg_walfile_name(lsn), {size} FROM {function}",
            hex("labelfile"),
            hex("coalesce(spcmapfile, '')"),
        );
        let said = self.asked(&stop)?;
        let ended = said.iter().find_map(|line| Ended::read(line));
        let ended = ended.ok_or_else(|| format!("it answers {said:?}"))?;
        ended.store(&self.data, into, base, &mut synced)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        // Whose session is gone is in backup mode no more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the server said when it was over.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    label: Vec<u8>,
    places: Vec<u8>,
    segments: Vec<String>,
    /// Of each segment.
    size: u64,
}

impl Ended {
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split('|');
        let (label, places) = (unhex(fields.next()?)?, unhex(fields.next()?)?);
        let (last, size) = (fields.next()?, fields.next()?.parse().ok()?);
        let text = String::from_utf8_lossy(&label).into_owned();
        let first = text.lines().find_map(|line| {
            line.strip_prefix("START WAL LOCATION:")?.split_once("(file ")?.1.strip_suffix(')')
        })?;
        let segments = segments(first, last, size)?;
        Some(Self { label, places, segments, size })
    }

    /// Each is on the disk before this comes back.
    fn store(
        &self,
        data: &Path,
        into: &Path,
        base: &Path,
        synced: &mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> Result<(), String> {
        let wal = into.join("pg_wal");
        let told = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| format!("{path}: {error}")
        };
        fs::create_dir_all(&wal).map_err(told(&wal))?;
        fs::set_permissions(into, Permissions::from_mode(0o700)).map_err(told(into))?;
        let at =
            data.canonicalize().unwrap_or_else(|_| data.to_owned()).into_os_string().into_encoded_bytes();
        let mut files = vec![("backup_label", &self.label), (DATA, &at)];
        if !self.places.is_empty() {
            files.push(("tablespace_map", &self.places));
        }
        for (name, bytes) in files {
            let path = into.join(name);
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
            written.map_err(told(&path))?;
        }
        let from = data.join("pg_wal");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = rustix::fs::open(&from, flags, Mode::empty());
        let log = File::from(log.map_err(|error| told(&from)(error.into()))?);
        for segment in &self.segments {
            // One that is not there any more can not be made up for: there is no snapshot then.
            copied(&log, segment, self.size, &wal.join(segment)).map_err(told(&from.join(segment)))?;
        }
        // Whatever made the folders may have lost its power before their names were there for good.
        let mut up = wal.ancestors().take_while(|dir| dir.starts_with(base));
        up.try_for_each(|dir| synced(dir).map_err(told(dir)))
    }
}

fn synced(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Copies a segment of the log. Who owns the directory is not root: what is no file of that size is not read, nor waited for; nor counts what the server has given
/// another name meanwhile, to write over it.
fn copied(log: &File, segment: &str, size: u64, to: &Path) -> io::Result<()> {
    copied_then(log, segment, size, to, || Ok(()))
}

/// Calls `copied` between the copy and the look at what was copied.
fn copied_then(
    log: &File,
    segment: &str,
    size: u64,
    to: &Path,
    copied: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = File::from(rustix::fs::openat(log, segment, flags, Mode::empty())?);
    let meta = from.metadata()?;
    if !meta.is_file() || meta.len() != size {
        return Err(io::Error::other(format!("it is no file of {size} bytes")));
    }
    let mut to = File::create_new(to)?;
    let n = io::copy(&mut (&from).take(size), &mut to)?;
    to.sync_all()?;
    copied()?;
    let now = rustix::fs::statat(log, segment, AtFlags::SYMLINK_NOFOLLOW)?;
    match n == size && (now.st_dev, now.st_ino) == (meta.dev(), meta.ino()) {
        true => Ok(()),
        false => Err(io::Error::other("it has become another one")),
    }
}

/// The names of all segments of the log from one to another, of one timeline.
fn segments(first: &str, last: &str, size: u64) -> Option<Vec<String>> {
    const MOST: u64 = 4096;
    let per_log = (1u64 << 32).checked_div(size)?;
    let number = |name: &str| {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
        let whole = name.len() == 24 && name.bytes().all(is_digit);
        let part = |range| u64::from_str_radix(&name[range], 16).ok();
        whole.then(|| part(8..16)?.checked_mul(per_log)?.checked_add(part(16..24)?)).flatten()
    };
    let (from, to) = (number(first)?, number(last)?);
    let is_one = first[..8] == last[..8] && from <= to && to - from < MOST;
    let name = |n: u64| format!("{}{:08X}{:08X}", &first[..8], n / per_log, n % per_log);
    is_one.then(|| (from..=to).map(name).collect())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2))
        .collect()
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType};

    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/FF000028 (file 0000000100000000000000FF)\nLABEL: cowsnap\n";

    fn hexed(text: &str) -> String {
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_the_server_says_names_all_of_the_log_from_the_one_to_the_other() {
        let line = format!("{}||000000010000000100000001|16777216", hexed(LABEL));
        let ended = Ended::read(&line).expect("as it says it");
        assert_eq!((ended.label, ended.places.len()), (LABEL.as_bytes().to_vec(), 0));
        let expected = ["0000000100000000000000FF", "000000010000000100000000", "000000010000000100000001"];
        assert_eq!(ended.segments, expected);
        for wrong in
            ["", "zz||0|16777216", "41||000000010000000100000001|16777216", &line.replace("16777216", "0")]
        {
            assert_eq!(Ended::read(wrong), None, "{wrong}");
        }
        for wrong in ["../../../../../etc/shadow", "+00000010000000000000001", "0000000100000000000000ff"] {
            assert_eq!(segments(wrong, wrong, 1 << 24), None, "{wrong}");
        }
        // Another timeline, and one that ends before it begins.
        assert_eq!(segments(expected[0], "000000020000000100000001", 1 << 24), None);
        assert_eq!(segments(expected[1], expected[0], 1 << 24), None);
        assert_eq!(segments(expected[1], expected[1], 1 << 24).map(|all| all.len()), Some(1));
    }

    #[test]
    fn what_is_stored_is_whole_or_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, into) = (folder.path().join("data"), folder.path().join("kept/it"));
        let segment = "000000010000000000000002";
        let ended = Ended {
            label: b"label".to_vec(),
            places: b"1 /a\n".to_vec(),
            segments: vec![segment.into()],
            size: 3,
        };
        fs::create_dir_all(data.join("pg_wal")).expect("made");
        let file = data.join("pg_wal").join(segment);
        let fails = || {
            let why = ended.store(&data, &into, folder.path(), &mut synced).expect_err("it is not there");
            assert!(why.contains(segment), "{why}");
            let _ = fs::remove_file(&file);
            why
        };
        fails();
        // Whoever owns the directory has put something else there: what would be waited for, what only root may read, and what has another size.
        rustix::fs::mknodat(CWD, &file, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("made");
        assert!(fails().contains("it is no file of 3 bytes"));
        fs::write(folder.path().join("secret"), "key").expect("written");
        std::os::unix::fs::symlink(folder.path().join("secret"), &file).expect("made");
        fails();
        fs::write(&file, "logs").expect("written");
        assert!(fails().contains("it is no file of 3 bytes"));
        assert!(!into.join("pg_wal").join(segment).exists(), "nothing of it is kept");
        fs::write(&file, "log").expect("written");
        let mut seen = Vec::new();
        let mut note = |dir: &Path| {
            seen.push(dir.strip_prefix(folder.path()).expect("below it").display().to_string());
            synced(dir)
        };
        ended.store(&data, &into, folder.path(), &mut note).expect("stored");
        assert_eq!(seen, ["kept/it/pg_wal", "kept/it", "kept", ""]);
        let read = |name: &str| fs::read_to_string(into.join(name)).expect("read");
        assert_eq!([read("backup_label"), read("tablespace_map")], ["label", "1 /a\n"]);
        assert_eq!(read(&format!("pg_wal/{segment}")), "log");
    }

    #[test]
    fn a_segment_that_the_server_uses_again_while_it_is_copied_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, segment) = (folder.path().join("pg_wal"), "000000010000000000000002");
        let (file, to) = (log.join(segment), folder.path().join("copy"));
        fs::create_dir(&log).expect("made");
        fs::write(&file, "log").expect("written");
        let dir = File::open(&log).expect("open");
        let again = |dir: &Path| {
            fs::rename(dir.join(segment), dir.join("000000010000000000000009"))?;
            fs::write(dir.join(segment), "new")
        };
        let error = copied_then(&dir, segment, 3, &to, || again(&log)).expect_err("it is another one");
        assert!(error.to_string().contains("another one"), "{error}");
        fs::remove_file(&to).expect("removed");
        copied(&dir, segment, 3, &to).expect("copied");
        assert_eq!(fs::read_to_string(&to).expect("read"), "new");
    }

    #[test]
    fn a_session_hears_each_answer_and_that_it_has_ended() {
        let answers = "while read -r line; do case $line in \\\\echo*) echo \"${line#* }\";; SET*) ;; *version*) echo 150018;; \
                       *start*) echo 0/2000028;; *) exit 3;; esac; done";
        let words = ["sh".to_owned(), "-c".into(), answers.into()];
        let session = Session::begin(&words, Path::new("/"), Duration::from_secs(60)).expect("it begins");
        assert_eq!(session.version, 150_018);
        let folder = tempfile::tempdir().expect("a folder");
        let error =
            session.end(&folder.path().join("it"), folder.path()).expect_err("it has ended").to_string();
        assert!(error.contains("psql has ended"), "{error}");
        assert!(Session::begin(&["false".into()], Path::new("/"), Duration::from_secs(60)).is_err());
    }
}
