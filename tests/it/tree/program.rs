//! Trees through the program.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::lab::{content, made, text};
use crate::ground::{self, Btrfs, Plain, ground};

struct Program<'a> {
    outside: &'a Path,
}

impl Program<'_> {
    fn run(&self, args: &[&str]) -> Output {
        ground::cowsnap(&self.outside.join("state")).args(args).output().expect("it starts")
    }

    /// What it prints; it must go well.
    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The exit code and what it says.
    fn bad(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}");
        (output.status.code().expect("a code"), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn a_plain_directory_has_the_same_verbs() {
    ground!("xfs");
    let ground = Plain::xfs();
    let live = text(&ground.path().join("t"));
    made(Path::new(&live));
    let program = Program { outside: ground.outside() };
    let json = program.good(&["snapshot", &live, "--name", "s", "--label", "a=b", "--json"]);
    assert!(json.contains(r#""atomic":false"#) && json.contains(r#""spread_us":"#), "{json}");
    let notice = program.run(&["snapshot", &live, "--name", "second"]);
    let notice = String::from_utf8_lossy(&notice.stderr).into_owned();
    assert!(notice.contains("not of one instant") && notice.contains("adopt"), "{notice}");
    let listed = program.good(&["list", &live]);
    assert!(listed.contains(&format!("{live}@s ")) && listed.contains("a=b"), "{listed}");
    fs::write(Path::new(&live).join("f"), "two").expect("written");
    assert_eq!(program.good(&["diff", &format!("{live}@s")]), "M f");
    program.good(&["hold", "h", &format!("{live}@s")]);
    assert_eq!(program.bad(&["destroy", &format!("{live}@s")]).0, 3);
    program.good(&["release", "h", &format!("{live}@s")]);
    let clone = text(&ground.path().join("clone"));
    assert_eq!(program.good(&["clone", &format!("{live}@s"), &clone]), clone);
    assert_eq!(fs::read(Path::new(&clone).join("f")).expect("cloned"), b"one");
    let at = text(&ground.path().join("at"));
    fs::create_dir(&at).expect("mkdir");
    program.good(&["mount", &format!("{live}@s"), &at]);
    assert_eq!(fs::read(Path::new(&at).join("f")).expect("shown"), b"one");
    program.good(&["unmount", &at]);
    program.good(&["rename", &format!("{live}@second"), "third"]);
    program.good(&["rollback", &format!("{live}@s"), "--keep-as", "kept"]);
    assert_eq!(fs::read(Path::new(&live).join("f")).expect("it is back"), b"one");
    let kept = format!("{live}@kept");
    program.good(&["restore", &kept, "--to", &live, "--replace"]);
    assert_eq!(fs::read(Path::new(&live).join("f")).expect("and forth"), b"two");
    let elsewhere = text(&ground.path().join("elsewhere"));
    program.good(&["restore", &kept, "--to", &elsewhere]);
    assert_eq!(fs::read(Path::new(&elsewhere).join("f")).expect("and elsewhere"), b"two");
    program.good(&["destroy", &format!("{live}@third"), &kept]);
    assert!(!content(&ground.path(), "t", "third").exists());
}

#[test]
fn what_a_plain_directory_can_not_do_is_said_with_what_can() {
    ground!("xfs");
    let ground = Plain::xfs();
    let live = text(&ground.path().join("t"));
    made(Path::new(&live));
    let program = Program { outside: ground.outside() };
    program.good(&["snapshot", &live, "--name", "s"]);
    let (code, said) = program.bad(&["send", &format!("{live}@s"), "-o", &text(&ground.outside().join("x"))]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("has no stream") && said.contains("cowsnap adopt"), "{said}");
    let (code, said) = program.bad(&["create", &text(&ground.path().join("new"))]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("mkdir") && said.contains("cowsnap pool create"), "{said}");
    let (code, said) = program.bad(&["destroy", "--snapshots", &live]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("only its snapshots are cowsnap's"), "{said}");
    let (code, said) = program.bad(&["snapshot", &text(&ground.path().join("nowhere"))]);
    assert_eq!(code, 2, "{said}");
    let (code, said) = program.bad(&["clone", &format!("{live}@s"), &text(&ground.outside().join("far"))]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("is on another filesystem"), "{said}");
}

#[test]
fn without_copy_ext4_is_refused_and_with_it_taken() {
    ground!("ext4");
    let ground = Plain::ext4();
    let live = text(&ground.path().join("t"));
    made(Path::new(&live));
    let program = Program { outside: ground.outside() };
    let (code, said) = program.bad(&["snapshot", &live]);
    assert_eq!(code, 3, "{said}");
    assert!(
        said.contains("can not share blocks") && said.contains("hint: cowsnap snapshot --copy"),
        "{said}"
    );
    program.good(&["snapshot", &live, "--copy", "--name", "s"]);
    fs::write(Path::new(&live).join("f"), "two").expect("written");
    assert_eq!(program.bad(&["rollback", &format!("{live}@s")]).0, 3);
    program.good(&["rollback", &format!("{live}@s"), "--copy"]);
    assert_eq!(fs::read(Path::new(&live).join("f")).expect("it is back"), b"one");
}

#[test]
fn on_btrfs_a_subvolume_stays_one_and_a_directory_in_it_is_a_tree() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let sub = ground.subvolume("sub");
    made(&sub.join("t"));
    let program = Program { outside: ground.outside() };
    let json = program.good(&["snapshot", &text(&sub), "--name", "s", "--json"]);
    assert!(json.contains(r#""atomic":true"#), "{json}");
    let json = program.good(&["snapshot", &text(&sub.join("t")), "--name", "s", "--json"]);
    assert!(json.contains(r#""atomic":false"#), "{json}");
    program.good(&["clone", &format!("{}@s", text(&sub.join("t"))), &text(&sub.join("c"))]);
    assert_eq!(fs::read(sub.join("c/f")).expect("cloned"), b"one");
    let made = program.good(&["create", &text(&ground.path().join("new"))]);
    assert_eq!(made, text(&ground.path().join("new")), "what is not there yet is made as a subvolume");
    let (code, said) = program.bad(&["snapshot", "--copy", &text(&sub)]);
    assert_eq!(code, 3, "{said}");
    let (code, said) = program.bad(&["list", &text(&ground.path().join(".cowsnap/datasets"))]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("where snapshots are kept"), "{said}");
}
