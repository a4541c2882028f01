//! `archive pull` and `archive cat`.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use super::lab::{Lab, code, errors, json, parts};
use crate::ground::ground;

#[test]
fn what_is_missing_of_a_chain_is_pulled_and_nothing_else() {
    ground!("btrfs");
    let lab = Lab::new(3, 100_000);
    lab.archive(3);
    let (url, to) = (lab.url(), lab.to());
    let dry = json(&lab.good(&["archive", "pull", &format!("{url}@s2"), &to, "--dry-run", "--json"]));
    assert_eq!(
        (dry["chain"].as_array().map(Vec::len), &dry["cost"]["requests"]),
        (Some(2), &4.into()),
        "{dry}"
    );
    assert!(lab.snapshots().is_empty());
    let pulled = json(&lab.good(&["archive", "pull", &format!("{url}@s2"), &to, "--json"]));
    assert_eq!(pulled["received"].as_array().map(Vec::len), Some(2), "{pulled}");
    assert_eq!(lab.snapshots(), ["s1", "s2"]);
    // The newest, of which one container is missing here.
    let pulled = json(&lab.good(&["archive", "pull", &url, &to, "--json"]));
    assert_eq!(
        (pulled["received"].as_array().map(Vec::len), &pulled["received"][0]["name"]),
        (Some(1), &"s3".into()),
        "{pulled}"
    );
    let again = lab.good(&["archive", "pull", &url, &to]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("is there already"), "{}", errors(&again));
    let unknown = lab.run(&["archive", "pull", &format!("{url}@s9"), &to]);
    assert_eq!(code(&unknown), Some(2), "{}", errors(&unknown));
}

#[test]
fn a_part_that_is_damaged_gone_or_another_is_named_and_becomes_no_snapshot() {
    ground!("btrfs");
    let lab = Lab::new(2, 20 << 20);
    let archive = lab.archive(2);
    let all = parts(&archive);
    assert!(all.len() >= 4, "the case is about several parts: {all:?}");
    let (url, to) = (lab.url(), lab.to());
    let mut whole = 0;
    for (n, (part, _)) in all.iter().enumerate() {
        let file = lab.dir().join(part.to_string());
        let good = fs::read(&file).expect("it is there");
        let other = fs::read(lab.dir().join(all[(n + 1) % all.len()].0.to_string())).expect("it is there");
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [Some(flipped), Some(good[..good.len() - 1].to_vec()), Some(other), None] {
            match bad {
                Some(bad) => fs::write(&file, bad).expect("writes"),
                None => fs::remove_file(&file).expect("removes"),
            }
            let failed = lab.run(&["archive", "pull", &url, &to]);
            assert_eq!(code(&failed), Some(4), "{}", errors(&failed));
            let words = errors(&failed);
            assert!(words.contains(&part.digest.to_string()), "the part is named: {words}");
            whole = lab.snapshots().len();
            assert!(whole < 2);
            fs::write(&file, &good).expect("writes");
        }
    }
    assert_eq!(whole, 1, "the first one was sound at last, and is not pulled again");
    lab.good(&["archive", "pull", &url, &to]);
    assert_eq!(lab.snapshots(), ["s1", "s2"]);
}

#[test]
fn a_pull_that_is_killed_goes_on_after_the_last_snapshot() {
    ground!("btrfs");
    let lab = Lab::new(3, 20 << 20);
    lab.archive(3);
    let (url, to) = (lab.url(), lab.to());
    for n in 0..25u64 {
        let mut child = lab
            .command(&["archive", "pull", &url, &to])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        std::thread::sleep(Duration::from_millis(10 + 12 * n));
        let _ = child.kill();
        if child.wait().expect("it ends").success() {
            break;
        }
    }
    lab.good(&["archive", "pull", &url, &to]);
    assert_eq!(lab.snapshots(), ["s1", "s2", "s3"]);
    assert!(fs::read_dir(lab.dir().join("claims")).map_or(true, |left| left.count() < 30));
}

#[test]
fn cat_gives_the_container_as_it_was_sent_and_the_stream_within() {
    ground!("btrfs");
    let lab = Lab::new(2, 20 << 20);
    let archive = lab.archive(2);
    let source = format!("{}@s2", lab.url());
    assert_eq!(lab.good(&["archive", "cat", &source]).stdout, fs::read(lab.file(2)).expect("reads"));
    let raw = lab.good(&["archive", "cat", &source, "--raw"]).stdout;
    assert_eq!(raw, lab.good(&["stream", "unwrap", &lab.file(2)]).stdout);
    let out = lab.source.outside().join("out");
    let (last, _) = *parts(&archive).iter().rfind(|(part, _)| part.group.base.is_some()).expect("a part");
    fs::write(lab.dir().join(last.to_string()), b"damaged").expect("writes");
    let failed = lab.run(&["archive", "cat", &source, "-o", out.to_str().expect("utf-8")]);
    assert_eq!(code(&failed), Some(4), "{}", errors(&failed));
    assert!(!out.exists());
}

#[test]
fn a_pull_that_broke_off_within_a_container_goes_on_there_without_the_parts_before() {
    ground!("btrfs");
    let lab = Lab::new(1, 80 << 20);
    let archive = lab.archive(1);
    let all = parts(&archive);
    assert!(all.len() >= 5, "{all:?}");
    let file = |n: usize| lab.dir().join(all[n].0.to_string());
    let (url, to) = (lab.url(), lab.to());
    let fourth = fs::read(file(3)).expect("reads");
    fs::write(file(3), b"damaged").expect("writes");
    assert_eq!(code(&lab.run(&["archive", "pull", &url, &to])), Some(4));
    assert!(lab.snapshots().is_empty());
    // What has come is not fetched again: it is not even there. Nor is it given up because a later part is still damaged.
    let second = fs::read(file(1)).expect("reads");
    fs::remove_file(file(1)).expect("removes");
    let failed = lab.run(&["archive", "pull", &url, &to]);
    assert_eq!(code(&failed), Some(4));
    assert!(!errors(&failed).contains("begins anew"), "{}", errors(&failed));
    fs::write(file(3), fourth).expect("writes");
    lab.good(&["archive", "pull", &url, &to]);
    assert_eq!(lab.snapshots(), ["s1"]);
    fs::write(file(1), second).expect("writes");
    lab.good(&["restore", &url, "--to", &to]);
    lab.assert_is(1, std::path::Path::new(&to));
    let left = fs::read_dir(lab.source.outside().join("archives")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing is noted of what is done");
}

#[test]
fn what_was_noted_of_pulls_that_nobody_goes_on_with_goes_after_30_days() {
    ground!("btrfs");
    let lab = Lab::new(1, 10_000);
    lab.archive(1);
    let folder = lab.source.outside().join("archives");
    let name = |container: u8, kind: &str| {
        format!("{}.{}.{kind}", cowsnap::model::Guid([9; 16]), cowsnap::model::Digest([container; 32]))
    };
    let noted = |name: &str, days: u64| {
        fs::create_dir_all(&folder).expect("mkdir");
        let file = fs::File::create(folder.join(name)).expect("a file");
        let age = std::time::Duration::from_secs(days * 24 * 60 * 60);
        file.set_modified(std::time::SystemTime::now() - age).expect("a time");
    };
    let left = || {
        let entries = fs::read_dir(&folder).expect("a folder").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().expect("utf-8")).collect();
        names.sort();
        names
    };
    noted(&name(1, "notes"), 31);
    noted(&name(1, "marks"), 31);
    noted(&name(2, "notes"), 29);
    noted("mine", 31);
    let kept = [name(2, "notes"), "mine".to_owned()];
    lab.good(&["archive", "pull", &lab.url(), &lab.to()]);
    assert_eq!(left(), kept);
    // Where nobody pulls, doctor says so.
    noted(&name(3, "notes"), 31);
    let said = lab.run(&["doctor"]);
    assert!(
        String::from_utf8_lossy(&said.stdout).contains("nobody has gone on with for 30 days"),
        "{said:?}"
    );
    assert_eq!(left().len(), 3);
    lab.run(&["doctor", "--fix"]);
    assert_eq!(left(), kept);
}

#[test]
fn what_was_noted_wrongly_of_a_container_only_costs_time() {
    ground!("btrfs");
    let lab = Lab::new(1, 80 << 20);
    let archive = lab.archive(1);
    let all = parts(&archive);
    let file = lab.dir().join(all[3].0.to_string());
    let fourth = fs::read(&file).expect("reads");
    let (url, to) = (lab.url(), lab.to());
    fs::write(&file, b"damaged").expect("writes");
    assert_eq!(code(&lab.run(&["archive", "pull", &url, &to])), Some(4));
    fs::write(&file, fourth).expect("writes");
    let mut noted = 0;
    for entry in fs::read_dir(lab.source.outside().join("archives")).expect("something is noted") {
        fs::write(entry.expect("an entry").path(), "1 33554433\n2 50000000\n").expect("writes");
        noted += 1;
    }
    assert_eq!(noted, 1);
    lab.good(&["archive", "pull", &url, &to]);
    assert_eq!(lab.snapshots(), ["s1"]);
}
