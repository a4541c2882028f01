//! What a peer says, on any bytes: frames, the JSON in them, addresses and rights. Nothing is allocated before its length was
//! checked, and what is accepted is what it must be.

#![no_main]

use cowsnap::endpoint::content::{Line, MOST_DIFFERENCES, Page, Summary, check, compare};
use cowsnap::endpoint::peer::message::{Ready, Refusal, Request, Said, Sending, Taken};
use cowsnap::endpoint::peer::{Rights, Under, Verb};
use cowsnap::model::{PeerAddress, Recorded};
use cowsnap::stream::container::Prefix;
use cowsnap::stream::wire::{self, Kind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    frames(bytes);
    message(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        texts(text);
    }
});

fn frames(mut input: &[u8]) {
    let mut payload = Vec::new();
    while let Ok(Some(kind)) = wire::read(&mut input, &mut payload) {
        assert!(payload.len() <= kind.max_payload_len());
        let mut again = Vec::new();
        wire::write(&mut again, kind, &payload).expect("what was read can be written");
        if kind != Kind::Data {
            message(&payload);
        }
    }
}

fn message(json: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(json) {
        let under: Under = "tank/backups".parse().expect("a constant");
        let rights = Rights { verbs: Verb::ALL.to_vec(), under: vec![under], append_only: true, plaintext: false };
        if rights.check(&request).is_ok() {
            assert!(!matches!(request, Request::Destroy { .. }));
            let inside = |target: &str| target == "tank/backups" || target.starts_with("tank/backups/");
            assert!(request.target().is_none_or(|target| inside(target) && no_dots(target)));
        }
    }
    if let Ok(refusal) = serde_json::from_slice::<Refusal>(json) {
        assert!(!refusal.told().chars().any(char::is_control));
    }
    if let Ok(said) = serde_json::from_slice::<Said>(json) {
        let inventory = said.into_inventory("x".into());
        assert!(inventory.versions().is_sorted_by_key(|version| version.order));
    }
    if let Ok(prefix) = serde_json::from_slice::<Prefix>(json) {
        let again = serde_json::to_vec(&prefix).expect("it can be written");
        assert_eq!(serde_json::from_slice::<Prefix>(&again).expect("what was written is read"), prefix);
    }
    if let Ok(page) = serde_json::from_slice::<Page>(json) {
        for (dir, after) in [(&b""[..], None), (b"", Some(&b""[..])), (b"d", None), (b"d/e", Some(b"d/e/f"))] {
            pages(&page, dir, after);
        }
    }
    if let Ok(recorded) = serde_json::from_slice::<Vec<Recorded>>(json) {
        let again = serde_json::to_vec(&recorded).expect("it can be written");
        assert_eq!(serde_json::from_slice::<Vec<Recorded>>(&again).expect("what was written is read"), recorded);
    }
    let _ = serde_json::from_slice::<Summary>(json);
    let _ = serde_json::from_slice::<Ready>(json);
    let _ = serde_json::from_slice::<Sending>(json);
    let _ = serde_json::from_slice::<Taken>(json);
}

/// What is accepted of a page is in the directory that was asked for, in order, and can be compared with anything.
fn pages(page: &Page, dir: &[u8], after: Option<&[u8]>) {
    let Ok(lines) = check(page, dir, after) else { return };
    for (line, _) in &lines {
        let inside = line.path.strip_prefix(dir).expect("it is in there");
        let name = inside.strip_prefix(b"/").unwrap_or(inside);
        assert!(!name.contains(&b'/') && name != b".." && name != b".");
        assert_eq!(Line::of_text(&line.text()).as_ref(), Ok(line));
    }
    assert!(lines.is_sorted_by(|a, b| a.0.path < b.0.path) && (!page.more || !lines.is_empty()));
    let mut asked = 0;
    let mut theirs = |_: &[u8], _: Option<&[u8]>| {
        asked += 1;
        assert!(asked < 100, "a peer keeps its client busy for ever");
        Ok(page.clone())
    };
    let mut ours = |_: &[u8], _: Option<&[u8]>| Ok(Page::default());
    if let Ok((differences, _)) = compare(&mut ours, &mut theirs) {
        assert!(differences.len() <= MOST_DIFFERENCES);
        assert!(!differences.iter().any(|difference| difference.to_string().chars().any(char::is_control)));
    }
}

fn no_dots(target: &str) -> bool {
    target.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn texts(text: &str) {
    if let Ok(address) = text.parse::<PeerAddress>() {
        assert!(!address.login().starts_with('-') && !address.login().contains([' ', '\'', '"', '$', '`', ';', '\n']));
        assert_eq!(address.to_string().parse::<PeerAddress>().as_ref(), Ok(&address));
    }
}
