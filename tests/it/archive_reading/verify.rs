//! `archive verify`: quick, by samples, in full.

use std::fs;

use super::lab::{Lab, code, errors, json, parts};
use crate::ground::ground;

#[test]
fn what_is_sound_is_found_sound_and_each_damage_is_named() {
    ground!("btrfs");
    let lab = Lab::new(3, 17 << 20);
    let archive = lab.archive(3);
    let url = lab.url();
    for words in [&["--quick"][..], &["--sample", "50%"], &[]] {
        let found = json(&lab.good(&[&["archive", "verify", &url, "--json"], words].concat()));
        assert_eq!(
            (&found["found"]["versions"], &found["found"]["damaged"]),
            (&3.into(), &serde_json::json!([])),
            "{found}"
        );
    }
    let all = parts(&archive);
    let (part, len) =
        all.iter().find(|(part, _)| part.group.base.is_some()).expect("an increment's").to_owned();
    let file = lab.dir().join(part.to_string());
    let good = fs::read(&file).expect("reads");
    // Of the same length: only who reads it finds out.
    let mut bad = good.clone();
    bad[len as usize / 3] ^= 0x10;
    fs::write(&file, &bad).expect("writes");
    assert_eq!(code(&lab.run(&["archive", "verify", &url, "--quick"])), Some(0));
    let full = lab.run(&["archive", "verify", &url, "--json"]);
    assert_eq!(code(&full), Some(4), "{}", errors(&full));
    assert_eq!(json(&full)["found"]["damaged"].as_array().map(Vec::len), Some(1));
    assert!(errors(&full).contains("@s2") || errors(&full).contains("@s3"), "{}", errors(&full));
    // Shorter, or gone: quick is enough.
    for short in [true, false] {
        if short {
            fs::write(&file, &good[1..]).expect("writes");
        } else {
            fs::remove_file(&file).expect("removes");
        }
        for words in [&["--quick"][..], &["--sample", "5%"], &[]] {
            let found = lab.run(&[&["archive", "verify", &url, "--json"], words].concat());
            assert_eq!(code(&found), Some(4), "{words:?}: {}", errors(&found));
            assert!(
                json(&found)["found"]["damaged"].to_string().contains(&part.digest.to_string()),
                "{words:?}"
            );
        }
    }
    fs::write(&file, &good).expect("writes");
    // A manifest that was changed, and one that is gone.
    let full = archive
        .listing()
        .expect("lists")
        .stored
        .into_iter()
        .find(|stored| stored.base.is_none())
        .expect("a full one");
    let file = lab.dir().join(full.to_string());
    let good = fs::read(&file).expect("reads");
    let mut bad = good.clone();
    bad[40] ^= 1;
    fs::write(&file, bad).expect("writes");
    let found = lab.run(&["archive", "verify", &url, "--quick", "--json"]);
    assert_eq!(code(&found), Some(4), "{}", errors(&found));
    fs::remove_file(&file).expect("removes");
    let found = lab.run(&["archive", "verify", &url, "--quick", "--json"]);
    assert_eq!(code(&found), Some(4), "{}", errors(&found));
    assert_eq!(
        json(&found)["found"]["damaged"].as_array().map(Vec::len),
        Some(2),
        "what builds upon it can not come back"
    );
}

#[test]
fn samples_read_every_part_within_as_many_runs_as_they_say() {
    ground!("btrfs");
    let lab = Lab::new(3, 20 << 20);
    let archive = lab.archive(3);
    let (url, n_parts) = (lab.url(), parts(&archive).len() as u64);
    let mut read = 0;
    for run in 1..=4 {
        let found = json(&lab.good(&["archive", "verify", &url, "--sample", "25%", "--json"]));
        assert_eq!(found["found"]["run"], serde_json::json!([run, 4]));
        read += found["found"]["parts_read"].as_u64().expect("a number");
    }
    assert_eq!(read, n_parts, "each once");
    // The same in another order: damage of one part is found within as many runs, whichever comes first.
    let (part, _) = parts(&archive)[1];
    let file = lab.dir().join(part.to_string());
    let mut bad = fs::read(&file).expect("reads");
    bad[1000] ^= 1;
    fs::write(&file, bad).expect("writes");
    let codes: Vec<_> =
        (0..4).map(|_| code(&lab.run(&["archive", "verify", &url, "--sample", "25"]))).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(4)).count(), 1, "{codes:?}");
    assert_eq!(code(&lab.run(&["archive", "verify", &url, "--sample", "0"])), Some(2));
}
