//! Keys on the command line: what they open, what they refuse, and that a refusal leaves nothing.

use std::process::Stdio;

use serde_json::Value;

use super::{FRAME, header, mixed, stored, write};
use crate::ground::cowsnap;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = cowsnap(self.0.path());
        let output = command.current_dir(self.0.path()).args(args).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn done(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    }

    /// With this exit code, and these words on standard error.
    fn refused(&self, code: i32, words: &str, args: &[&str]) {
        let (found, _, err) = self.run(args);
        assert_eq!((found, err.contains(words)), (code, true), "{args:?}: {err}");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

/// A folder with the keys `sign`, `other`, `id`, `stranger`, and the container `closed` of `raw`.
fn folder() -> Folder {
    let folder = Folder::new();
    for (key, kind) in [("sign", "sign"), ("other", "sign"), ("id", "encrypt"), ("stranger", "encrypt")] {
        let public = folder.done(&["keygen", key, "--kind", kind]);
        assert_eq!(std::fs::read_to_string(folder.path(&format!("{key}.pub"))).unwrap(), public);
    }
    std::fs::write(folder.path("raw"), super::program::raw()).unwrap();
    let wrap = ["stream", "wrap", "raw", "-o", "closed", "--encrypt-to", "id.pub", "--sign", "sign"];
    folder.done(&wrap);
    folder
}

#[test]
fn what_was_wrapped_for_somebody_is_unwrapped_verified_and_inspected_by_him() {
    let folder = folder();
    let root = blake3::hash(&super::program::raw()).to_hex().to_string();
    folder.done(&[
        "stream",
        "unwrap",
        "closed",
        "-o",
        "back",
        "--identity",
        "id",
        "--verify-key",
        "sign.pub",
    ]);
    assert!(std::fs::read(folder.path("back")).unwrap() == super::program::raw());
    let of = |args: &[&str]| folder.done(&[&["stream", "verify", "closed"], args].concat());
    assert_eq!(of(&[]), "encrypted  closed\n");
    assert_eq!(of(&["--identity", "id"]), format!("{root}  closed\n"));
    let value: Value = serde_json::from_str(&of(&["--json", "--verify-key", "sign.pub"])).unwrap();
    let signer = std::fs::read_to_string(folder.path("sign.pub")).unwrap();
    assert_eq!((value["signed_by"][0].as_str(), value["blake3"].is_null()), (Some(signer.trim()), true));
    let shown = folder.done(&["stream", "inspect", "closed"]);
    assert!(shown.contains(signer.trim()) && shown.contains("for 1 recipients"), "{shown}");
    assert!(
        !shown.contains(&root)
            && folder.done(&["stream", "inspect", "closed", "--identity", "id"]).contains(&root)
    );
    let ops = folder.done(&["stream", "inspect", "--ops", "closed", "--identity", "id"]);
    assert!(ops.contains("mkfile"), "{ops}");
    folder.refused(2, "--identity", &["stream", "inspect", "--ops", "closed"]);
}

#[test]
fn who_it_is_not_for_and_who_trusts_another_gets_no_file() {
    let folder = folder();
    let before = std::fs::read_dir(folder.0.path()).unwrap().count();
    let unwrap = |args: &[&'static str]| [&["stream", "unwrap", "closed", "-o", "back"], args].concat();
    folder.refused(2, "hint: give the file of an identity", &unwrap(&[]));
    folder.refused(6, "none of them is among", &unwrap(&["--identity", "stranger"]));
    let both = ["--identity", "id", "--verify-key", "other.pub"];
    folder.refused(4, "none of the keys that are trusted signed it", &unwrap(&both));
    folder.refused(2, "it is a secret key", &unwrap(&["--identity", "id", "--verify-key", "sign"]));
    folder.refused(2, "AGE-SECRET-KEY-1", &unwrap(&["--identity", "id.pub"]));
    folder.refused(2, "cannot read", &unwrap(&["--identity", "absent"]));
    std::fs::write(folder.path("plain"), write(&header(), &mixed(FRAME), &stored()).0).unwrap();
    folder.refused(4, "it is not signed", &["stream", "verify", "plain", "--verify-key", "sign.pub"]);
    std::fs::remove_file(folder.path("plain")).unwrap();
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), before);
    folder.refused(3, "sign", &["keygen", "sign"]);
    folder.refused(3, "sign", &["keygen", "sign", "--dry-run"]);
    folder.done(&["keygen", "new", "--dry-run"]);
    assert!(!folder.path("new").exists());
}
