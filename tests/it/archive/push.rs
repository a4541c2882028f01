//! What is pushed, what that costs, and what becomes of it when it is broken off.

use std::time::Duration;

use rustix::process::Signal;

use super::{Ground, Victim, ended};
use crate::ground::{Plain, ground};
use crate::s3::{Asked, Fault, Server};

#[test]
fn a_full_version_and_ten_increments_come_back_from_s3_from_google_and_from_a_directory() {
    ground!("btrfs");
    for ground in [Ground::on_s3(), Ground::on_google(), Ground::on_dir()] {
        ground.run("archive add URL FS/d");
        ground.ends(3, "archive add URL FS/d");
        ground.take("s0", 20 << 20);
        ground.run("archive push FS/d@s0 URL --label height=12");
        for n in 1..=10 {
            ground.take(&format!("s{n}"), 100_000);
            let pushed = ground.json("archive push FS/d URL");
            assert_eq!(pushed["base"]["name"], format!("s{}", n - 1));
            assert!(pushed["sent_bytes"].as_u64().expect("bytes") < 200_000, "{pushed}");
        }
        assert_eq!(ground.json("archive push FS/d@s4 URL")["was_there"], true);
        let names: Vec<_> = (0..=10).map(|n| format!("s{n}")).collect();
        assert_eq!(ground.versions(), names);
        let list = ground.json("archive list URL");
        assert_eq!((&list["versions"][0]["chain"], &list["versions"][10]["chain"]), (&1.into(), &11.into()));
        let archive = ground.archive();
        let first = super::manifest(&archive, &archive.listing().expect("listed").stored[0]);
        assert_eq!(first.about().labels["height"], "12");
        ground.expect_whole("s10", "back");
        // What the next one builds upon is held here, and nothing else.
        let holds = ground.json("holds FS/d");
        let holds: Vec<_> =
            holds["holds"].as_array().expect("holds").iter().map(|hold| &hold["name"]).collect();
        assert_eq!(holds, ["s10"]);
        ground.take("s11", 10);
        let full = ground.json("archive push FS/d URL --max-chain 11");
        assert_eq!(
            (&full["base"], &full["full_because"]),
            (&().into(), &"the chain would be longer than it may be".into())
        );
        ground.expect_nothing_left();
    }
}

#[test]
fn what_has_nothing_in_common_is_sent_in_full_only_if_somebody_says_so() {
    ground!("btrfs");
    let ground = Ground::on_dir();
    ground.run("archive add URL");
    ground.take("s0", 1000);
    ground.run("archive push FS/d URL");
    ground.run("create FS/e");
    ground.run("snapshot FS/e --name other");
    let (_, said) = ground.ends(3, "archive push FS/e URL");
    assert!(said.contains("--full"), "{said}");
    assert_eq!(ground.json("archive push FS/e URL --full --dry-run")["would"], "push");
    assert_eq!(ground.versions(), ["s0"]);
    ground.run("archive push FS/e URL --full");
    assert_eq!(ground.versions(), ["s0", "other"]);
}

#[test]
fn an_increment_costs_what_changed() {
    ground!("btrfs");
    let ground = Ground::on_s3();
    ground.run("archive add URL FS/d");
    ground.take("s0", 60 << 20);
    ground.server().forget();
    ground.run("archive push FS/d URL");
    let put = |server: &Server| {
        let asked = server.requests();
        let bytes = asked.iter().filter(|asked| asked.method == "PUT").map(|asked| asked.bytes).sum::<u64>();
        (asked.len(), bytes)
    };
    let (_, full) = put(ground.server());
    ground.take("s1", (60 << 20) / 100);
    ground.server().forget();
    ground.run("archive push FS/d URL");
    let (requests, bytes) = put(ground.server());
    assert!(bytes * 50 < full, "{bytes} of {full} bytes");
    let read: Vec<_> =
        ground.server().requests().into_iter().filter(|asked| asked.key.contains("parts/")).collect();
    assert!(read.iter().all(|asked| asked.method == "PUT"), "{read:?}");
    // The description; versions, claims and parts listed; the base looked at; the claim put and taken away; a part and the manifest.
    assert!(requests <= 9, "{requests} requests: {:#?}", ground.server().requests());
}

#[test]
fn a_push_goes_well_whichever_request_goes_wrong_for_a_while() {
    ground!("btrfs");
    let mut ground = Ground::on_s3();
    ground.take("s0", 17 << 20);
    let faults = [Fault::Status(500), Fault::Status(503), Fault::ResetBefore, Fault::ResetAfter];
    for (number, fault) in faults.into_iter().enumerate() {
        for nth in 1.. {
            ground.elsewhere(&format!("{number}-{nth}"));
            ground.server().forget();
            ground.server().fault(nth, fault.clone());
            ground.run("archive push FS/d URL");
            let n_asked = ground.server().requests().len() as u64;
            ground.server().forget();
            assert_eq!(ground.versions(), ["s0"]);
            if n_asked < nth {
                assert!(nth > 8, "only {n_asked} requests");
                break;
            }
        }
    }
    ground.expect_whole("s0", "back");
}

#[test]
fn a_push_that_is_killed_at_any_request_is_finished_by_the_next_one_and_leaves_nothing() {
    ground!("btrfs");
    let mut ground = Ground::on_s3();
    ground.take("s0", 17 << 20);
    for is_after in [false, true] {
        for nth in 1.. {
            ground.elsewhere(&format!("{is_after}{nth}"));
            ground.server().forget();
            let victim = Victim::default();
            let kill = victim.signal(Signal::KILL);
            ground.server().fault(nth, if is_after { Fault::After(kill) } else { Fault::Before(kill) });
            let child = ground.start("archive push FS/d URL");
            victim.is(&child);
            let (code, said) = ended(child);
            ground.server().forget();
            assert!(matches!(code, None | Some(0)), "{said}");
            let pushed = ground.json("archive push FS/d URL");
            assert_eq!(ground.versions(), ["s0"], "{pushed}");
            ground.expect_nothing_left();
            if code == Some(0) {
                assert!(nth > 8, "only {nth} requests");
                break;
            }
        }
    }
    ground.expect_whole("s0", "back");
}

#[test]
fn parts_that_are_there_are_not_sent_again() {
    ground!("btrfs");
    let ground = Ground::on_s3();
    ground.run("archive add URL FS/d");
    ground.take("s0", 50 << 20);
    ground.server().forget();
    let victim = Victim::default();
    // Killed when the manifest is about to be put: all parts are there.
    ground.run("archive push FS/d URL");
    let asked = ground.server().requests();
    let nth = asked.iter().position(|asked| asked.if_free).expect("a manifest") as u64 + 1;
    let stored = ground.archive().listing().expect("listed").stored;
    ground.archive().destroy(&stored.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("destroyed");
    let last = ground.archive().parts(None).expect("listed").pop().expect("parts").1.key;
    ground.archive().destroy(&[last]).expect("destroyed");
    ground.server().forget();
    ground.server().fault(nth + 100, Fault::Before(victim.signal(Signal::KILL)));
    let pushed = ground.json("archive push FS/d URL");
    assert_eq!((&pushed["parts"], &pushed["sent_parts"]), (&4.into(), &1.into()), "{pushed}");
    ground.expect_whole("s0", "back");
}

#[test]
fn a_store_that_puts_over_what_is_there_is_refused_unless_one_writes_alone() {
    let server = Server::stock();
    let scratch = crate::ground::scratch();
    let run = |line: &[&str]| {
        let mut command = crate::ground::cowsnap(scratch.path());
        command.args(line).envs(server.env()).output().expect("the program starts")
    };
    let url = server.url("a");
    let refused = run(&["archive", "add", &url]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("who put an object at once") && said.contains("--single-writer"), "{said}");
    assert!(run(&["archive", "add", &url, "--single-writer"]).status.success());
    let list = run(&["archive", "list", &url, "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).expect("JSON");
    assert_eq!(list["writers"], "one");
}

#[test]
fn a_full_disk_breaks_a_push_off_and_the_next_one_goes_on() {
    ground!("btrfs");
    let mut ground = Ground::on_dir();
    let disk = Plain::ext4();
    ground.take("s0", 40 << 20);
    ground.url = format!("file://{}", disk.path().join("archive").display());
    ground.run("archive add URL FS/d");
    let filler = disk.path().join("filler");
    let free = rustix::fs::statvfs(disk.path()).expect("a filesystem");
    let len = free.f_bavail * free.f_frsize;
    std::fs::write(&filler, vec![1; usize::try_from(len.saturating_sub(20 << 20)).expect("small")])
        .expect("written");
    let (_, said) = ground.ends(3, "archive push FS/d URL");
    assert!(said.contains("No space left") || said.contains("space"), "{said}");
    assert_eq!(ground.versions(), [""; 0]);
    assert_eq!(ground.json("holds FS/d")["holds"], serde_json::json!([]));
    std::fs::remove_file(&filler).expect("removed");
    ground.run("archive push FS/d URL");
    assert_eq!(ground.versions(), ["s0"]);
    ground.expect_nothing_left();
}

#[test]
fn ten_thousand_versions_are_one_walk_over_their_keys() {
    let server = Server::start();
    let scratch = crate::ground::scratch();
    let run = |line: &[&str]| {
        let mut command = crate::ground::cowsnap(scratch.path());
        let output = command.args(line).envs(server.env()).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let url = server.url("a");
    run(&["archive", "add", &url]);
    let dir = server.files().join("a/versions");
    std::fs::create_dir_all(&dir).expect("a folder");
    for n in 1..=10_000_u128 {
        let base = if n % 100 == 1 { 0 } else { n - 1 };
        let key = format!("{:020}-{n:032x}-{base:032x}-0000000000001000-v{n}", n * 1_000_000_000);
        std::fs::write(dir.join(key), b"").expect("written");
    }
    server.forget();
    let list: serde_json::Value =
        serde_json::from_slice(&run(&["archive", "list", &url, "--json"])).expect("JSON");
    let versions = list["versions"].as_array().expect("versions");
    assert_eq!((versions.len(), &versions[9_999]["chain"]), (10_000, &100.into()));
    // The description, the holds, and a thousand keys each.
    assert!(server.requests().len() <= 13, "{}", server.requests().len());
    assert!(server.requests().iter().all(|asked| asked.method == "GET"));
}

#[test]
fn a_push_takes_less_memory_than_200_mib_whatever_its_size() {
    ground!("btrfs");
    let ground = Ground::on_dir();
    ground.run("archive add URL FS/d");
    ground.take("s0", 350 << 20);
    let most = peak(ground.start("archive push FS/d URL"));
    assert!(most > 0 && most < 200 << 10, "{most} KiB");
}

#[test]
fn a_signal_leaves_no_claim_behind() {
    ground!("btrfs");
    let ground = Ground::on_s3();
    ground.run("archive add URL FS/d");
    ground.take("s0", 40 << 20);
    ground.server().forget();
    let victim = Victim::default();
    // Its claim is there, and the first part.
    ground.server().fault(7, Fault::After(victim.signal(rustix::process::Signal::TERM)));
    let child = ground.start("archive push FS/d URL");
    victim.is(&child);
    let (code, said) = ended(child);
    assert_eq!(code, Some(5), "{said}");
    let asked = ground.server().requests();
    assert!(asked.iter().any(|asked| asked.method == "PUT" && asked.key.contains("claims/")), "{asked:?}");
    assert_eq!(ground.store().list("claims/").expect("listed"), []);
}

#[test]
fn what_is_damaged_is_pushed_again_when_it_is_asked_for() {
    ground!("btrfs");
    let ground = Ground::on_dir();
    ground.run("archive add URL FS/d");
    for name in ["s0", "s1", "s2"] {
        ground.take(name, 1 << 20);
        ground.run(&format!("archive push FS/d@{name} URL"));
    }
    // A part of the increment is changed: the same bytes are put over it.
    let parts = ground.archive().parts(None).expect("listed");
    let all = ground.archive().listing().expect("listed").stored;
    let of = |name: &str| all.iter().find(|stored| stored.version.name.as_str() == name).expect("there");
    let (part, object) = parts.iter().find(|(part, _)| part.group == of("s1").group()).expect("a part");
    ground.store().put(&part.to_string(), vec![7; object.len as usize].into()).expect("put");
    ground.ends(4, "archive verify URL");
    assert_eq!(ground.json("archive push FS/d@s1 URL")["was_there"], true);
    let pushed = ground.json("archive push FS/d@s1 URL --repair");
    assert_eq!(pushed["base"]["name"], "s0", "{pushed}");
    ground.run("archive verify URL");
    // A manifest is changed.
    ground.store().put(&of("s2").to_string(), b"no manifest".to_vec().into()).expect("put");
    ground.ends(4, "archive verify URL");
    ground.run("archive push FS/d@s2 URL --repair");
    ground.run("archive verify URL");
    // What s1 and s2 build upon is gone: neither can come back, until it is pushed again.
    ground.archive().destroy(&[of("s0").to_string()]).expect("destroyed");
    let pushed = ground.json("archive push FS/d@s2 URL");
    assert!(pushed["base"].is_null() && pushed["was_there"] == false, "{pushed}");
    assert_eq!(ground.json("archive push FS/d@s2 URL --full")["was_there"], true);
    ground.run("archive push FS/d@s0 URL --full");
    ground.run("archive verify URL");
    assert_eq!(ground.versions(), ["s0", "s1", "s2"]);
    ground.expect_whole("s2", "back");
}

#[test]
fn a_store_that_says_that_a_manifest_is_there_is_believed_if_it_is() {
    ground!("btrfs");
    let ground = Ground::on_s3();
    ground.run("archive add URL FS/d");
    ground.take("s0", 1 << 20);
    let is_manifest = |asked: &Asked| asked.method == "PUT" && asked.key.contains("/versions/");
    ground.server().forget();
    ground.server().fault_on(is_manifest, Fault::Status(412));
    let (_, said) = ground.ends(5, "archive push FS/d URL");
    assert!(said.contains("s0") && said.contains("hint:"), "{said}");
    ground.server().forget();
    assert!(ground.versions().is_empty());
    // It is, and somebody else may have put it.
    ground.server().fault_on(is_manifest, Fault::StatusAfter(412));
    let pushed = ground.json("archive push FS/d URL");
    assert_eq!((&pushed["was_there"], &pushed["sent_parts"]), (&false.into(), &0.into()), "{pushed}");
    ground.server().forget();
    assert_eq!(ground.versions(), ["s0"]);
    ground.run("archive verify URL");
}

#[test]
fn holding_twice_is_holding_once_and_what_is_not_there_can_not_be_held() {
    ground!("btrfs");
    let ground = Ground::on_s3();
    ground.run("archive add URL FS/d");
    ground.take("s0", 1 << 20);
    ground.run("archive push FS/d URL");
    let first = ground.run("archive hold keep URL s0");
    assert!(first.starts_with("held s3://bkt/a@s0 by keep"), "{first}");
    assert_eq!(ground.run("archive hold keep URL s0"), first);
    let tags = || ground.json("archive holds URL")["holds"].as_array().map(Vec::len);
    assert_eq!(tags(), Some(1));
    ground.run("archive hold other URL s0");
    assert_eq!(tags(), Some(2));
    let (_, said) = ground.ends(2, "archive hold keep URL s1");
    assert!(said.contains("@s1") && said.contains("cowsnap archive list"), "{said}");
    ground.run("archive release keep URL s0");
    let (_, said) = ground.ends(2, "archive release keep URL s0");
    assert!(said.contains("cowsnap archive holds"), "{said}");
    assert_eq!(tags(), Some(1));
}

/// The most memory that it took, in KiB; it must go well.
pub(super) fn peak(mut child: std::process::Child) -> u64 {
    let mut most = 0;
    while child.try_wait().expect("it is ours").is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(10));
    }
    let (code, said) = ended(child);
    assert_eq!(code, Some(0), "{said}");
    most
}

#[test]
fn what_goes_to_a_bucket_and_comes_back_takes_less_memory_than_200_mib() {
    ground!("btrfs");
    let ground = Ground::large_on_s3("6G");
    ground.run("archive add URL FS/d");
    ground.take("s0", 450 << 20);
    for line in [
        "archive push FS/d URL",
        "archive verify URL",
        "archive verify URL --sample 50%",
        "archive pull URL FS/pulled",
        "restore URL --to FS/back",
        "archive prune URL --keep-last 1",
        "export FS/d@s0 URL/files/a.tar.zst --public",
        "import URL/files/a.tar.zst --to FS/files",
        "import URL/files/a.tar.zst --to FS/spooled --spool",
        "fetch URL/files/a.tar.zst --to FS/fetched",
    ] {
        let most = peak(ground.start(line));
        assert!(most > 0 && most < 200 << 10, "{line}: {most} KiB");
    }
}
