//! That what stops a service, asks for it and starts it again can be called: what can not is found before the stop.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::model::Service;
use crate::quiesce::{Error, Result};

/// As much of a script as the kernel reads of its first line.
const MAX_LINE: u64 = 256;

/// That its programs are there and can be run.
///
/// # Errors
/// [`Error::NotCallable`].
pub fn is_callable(service: &Service) -> Result<()> {
    let called = |words: &[String]| words.first().map_or(Ok(()), |program| can_be_called(Path::new(program)));
    let all = match service {
        Service::Process { start, .. } => vec![("start", called(start))],
        Service::Program { exe, start, .. } => {
            vec![("process.exe", can_be_run(exe)), ("start", called(start))]
        }
        Service::Commands { status, stop, start } => {
            vec![("status", called(status)), ("stop", called(stop)), ("start", called(start))]
        }
        Service::Unit { .. } | Service::Container { .. } | Service::Hook { .. } | Service::Frozen { .. } => {
            Vec::new()
        }
    };
    let wrong = all.into_iter().find_map(|(key, found)| Some((key, found.err()?)));
    match wrong {
        None => Ok(()),
        Some((key, why)) => Err(Error::NotCallable { service: service.to_string(), key, why }),
    }
}

/// That somebody may run it, whoever that is: of what can not be looked at, nothing is known.
fn can_be_run(program: &Path) -> Result<(), String> {
    let is_so = |what: &str| Err(format!("{} {what}", program.display()));
    match fs::metadata(program) {
        Err(error) if is_absent(&error) => is_so("is not there"),
        Err(_) => Ok(()),
        Ok(meta) if !meta.is_file() => is_so("is no file"),
        Ok(meta) if meta.mode() & 0o111 == 0 => is_so("is not executable"),
        Ok(_) => Ok(()),
    }
}

/// That this process may run it, and what its first line names is there.
///
/// # Errors
/// What is wrong, with its name.
pub fn can_be_called(program: &Path) -> Result<(), String> {
    can_be_run(program)?;
    if access(program, Access::EXEC_OK) == Err(Errno::ACCESS) {
        return Err(format!("{} may not be executed by this user, or there", program.display()));
    }
    let mut line = Vec::new();
    // Who may run it need not be allowed to read it.
    let _ = File::open(program).and_then(|file| file.take(MAX_LINE).read_to_end(&mut line));
    let Some(rest) = line.strip_prefix(b"#!") else { return Ok(()) };
    let rest = rest.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    let interpreter = rest.split(|&byte| byte == b' ' || byte == b'\t').next().unwrap_or_default();
    let interpreter = Path::new(OsStr::from_bytes(interpreter));
    let found = if interpreter.is_absolute() { fs::metadata(interpreter).err() } else { None };
    match found.filter(is_absent) {
        None => Ok(()),
        Some(_) => Err(format!("{} names {}, which is not there", program.display(), interpreter.display())),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_is_not_there_no_file_not_executable_or_a_script_of_nobody_can_not_be_called() {
        let folder = tempfile::tempdir().expect("a folder");
        let start = folder.path().join("start");
        let words = |path: &Path| vec![path.display().to_string(), "argument".into()];
        let why = |path: &Path| {
            let service = Service::Process { pidfile: "/run/node.pid".into(), start: words(path) };
            is_callable(&service).err().map(|error| {
                assert_eq!(error.class(), crate::Class::Usage);
                error.to_string()
            })
        };
        let said = |path: &Path, what: &str| {
            let why = why(path);
            assert!(why.as_ref().is_some_and(|why| why.contains(what) && why.contains("start: ")), "{why:?}");
        };
        said(&start, "is not there");
        said(folder.path(), "is no file");
        fs::write(&start, "#!/bin/sh -e\n").expect("written");
        fs::set_permissions(&start, Permissions::from_mode(0o644)).expect("set");
        said(&start, "is not executable");
        fs::set_permissions(&start, Permissions::from_mode(0o755)).expect("set");
        assert_eq!(why(&start), None);
        fs::write(&start, "#! /no/such/shell -e\n").expect("written");
        said(&start, "names /no/such/shell, which is not there");
        assert_eq!(why(Path::new("/bin/sh")), None);
        let commands = |status: &str, stop: &str, start: &str| {
            let [status, stop, start] = [status, stop, start].map(|word| vec![word.to_owned()]);
            is_callable(&Service::Commands { status, stop, start }).err().map(|error| error.to_string())
        };
        assert_eq!(commands("/bin/sh", "/bin/sh", "/bin/sh"), None);
        assert!(commands("/bin/sh", "/nothere", "/bin/sh").is_some_and(|why| why.contains("stop: /nothere")));
        assert!(
            commands("/nothere", "/bin/sh", "/bin/sh").is_some_and(|why| why.contains("status: /nothere"))
        );
        let program = Service::Program {
            exe: PathBuf::from("/nothere"),
            argument: None,
            user: None,
            start: vec!["/bin/sh".into()],
        };
        let error = is_callable(&program).expect_err("it could not be told again");
        assert!(error.to_string().contains("process.exe: /nothere is not there"), "{error}");
    }
}
