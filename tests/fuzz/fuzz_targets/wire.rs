//! What a peer says, on any bytes: frames, the JSON in them, addresses and rights. Nothing is allocated before its length was
//! checked, and what is accepted is what it must be.

#![no_main]

use cowsnap::endpoint::peer::message::{Ready, Refusal, Request, Said, Sending, Taken};
use cowsnap::endpoint::peer::{Rights, Under, Verb};
use cowsnap::model::PeerAddress;
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
        let rights = Rights { verbs: Verb::ALL.to_vec(), under: vec![under], append_only: true };
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
    let _ = serde_json::from_slice::<Ready>(json);
    let _ = serde_json::from_slice::<Sending>(json);
    let _ = serde_json::from_slice::<Taken>(json);
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
