//! Names, whatever the text: what is valid survives, what is not is refused, nothing panics.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use cowsnap::model::name::{MAX_COMPONENT_LEN, MAX_DATASET_LEN};
use cowsnap::model::{DatasetName, Guid, HoldTag, SnapshotName, SnapshotRef, Target};
use proptest::prelude::*;

fn component() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.: -]{1,40}".prop_filter("neither . nor ..", |text| text != "." && text != "..")
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.:- ".contains(c)
}

proptest! {
    #[test]
    fn every_text_of_the_alphabet_is_a_name(text in component()) {
        let name: SnapshotName = text.parse().unwrap();
        prop_assert_eq!(name.as_str(), &text);
        prop_assert_eq!(text.parse::<HoldTag>().unwrap().to_string(), text);
    }

    #[test]
    fn a_name_is_accepted_exactly_when_it_keeps_the_rules(text in "\\PC{0,12}") {
        let keeps = !text.is_empty() && text != "." && text != ".." && text.chars().all(is_allowed);
        prop_assert_eq!(text.parse::<SnapshotName>().is_ok(), keeps);
        let keeps = text.split('/').all(|c| !c.is_empty() && c != "." && c != ".." && c.chars().all(is_allowed));
        prop_assert_eq!(text.parse::<DatasetName>().is_ok(), keeps);
    }

    #[test]
    fn a_name_is_accepted_exactly_up_to_its_length(len in 1_usize..300) {
        let text = "a".repeat(len);
        prop_assert_eq!(text.parse::<SnapshotName>().is_ok(), len <= MAX_COMPONENT_LEN);
        prop_assert_eq!(text.parse::<DatasetName>().is_ok(), len <= MAX_DATASET_LEN);
    }

    #[test]
    fn a_dataset_is_its_pool_and_the_rest(components in proptest::collection::vec(component(), 1..5)) {
        let text = components.join("/");
        let name: DatasetName = text.parse().unwrap();
        let again = match name.within_pool() {
            Some(rest) => format!("{}/{rest}", name.pool()),
            None => name.pool().to_owned(),
        };
        prop_assert_eq!(again, text);
    }

    #[test]
    fn a_snapshot_is_split_at_the_last_at(path in "/[a-z@/ ]{0,20}", name in component()) {
        let text = format!("{path}@{name}");
        let parsed = SnapshotRef::parse(OsStr::new(&text)).unwrap();
        prop_assert_eq!(&parsed.target, &Target::Path(path.into()));
        prop_assert_eq!(parsed.name.as_str(), &name);
        prop_assert_eq!(parsed.to_string(), text);
    }

    #[test]
    fn whatever_is_printed_is_read_back(text in "\\PC{0,30}") {
        if let Ok(target) = Target::parse(OsStr::new(&text)) {
            prop_assert_eq!(Target::parse(OsStr::new(&target.to_string())), Ok(target));
        }
        if let Ok(snapshot) = SnapshotRef::parse(OsStr::new(&text)) {
            prop_assert_eq!(SnapshotRef::parse(OsStr::new(&snapshot.to_string())), Ok(snapshot));
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = OsString::from_vec(bytes);
        let _ = SnapshotRef::parse(&text);
        match Target::parse(&text) {
            Ok(Target::Path(path)) => prop_assert_eq!(path.as_os_str().as_bytes(), text.as_bytes()),
            Ok(Target::Dataset(name)) => prop_assert_eq!(Some(name.as_str()), text.to_str()),
            Ok(Target::Remote(address)) => prop_assert_eq!(Some(address.as_str()), text.to_str()),
            Err(_) => {}
        }
    }

    #[test]
    fn guids_survive_text_and_json(bytes: [u8; 16]) {
        let guid = Guid(bytes);
        prop_assert_eq!(guid.to_string().parse::<Guid>(), Ok(guid));
        prop_assert_eq!(guid.to_string().replace('-', "").to_uppercase().parse::<Guid>(), Ok(guid));
        let json = serde_json::to_string(&guid).unwrap();
        prop_assert_eq!(serde_json::from_str::<Guid>(&json).unwrap(), guid);
    }

    #[test]
    fn json_carries_valid_names_only(text in "\\PC{0,12}") {
        let json = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(serde_json::from_str::<SnapshotName>(&json).ok(), text.parse().ok());
        prop_assert_eq!(serde_json::from_str::<DatasetName>(&json).ok(), text.parse().ok());
        if let Ok(name) = text.parse::<HoldTag>() {
            prop_assert_eq!(serde_json::to_string(&name).unwrap(), json);
        }
    }
}
