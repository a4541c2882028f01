//! What a dataset had before it was set aside, to be had again if it gets its place back.

use std::collections::BTreeMap;

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::endpoint::Result;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::{intent, mounted, program, props};
use crate::model::{DatasetName, quoted};

/// The property that says, of what was set aside, whose place it had.
pub(super) const ASIDE: &str = "cowsnap:aside";
/// Space that is reserved for the dataset in place, and not for the one aside too.
const RESERVATIONS: [&str; 2] = ["reservation", "refreservation"];

/// What was set on a dataset itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Was {
    of: DatasetName,
    canmount: Option<String>,
    #[serde(default)]
    reserved: BTreeMap<String, String>,
}

impl Was {
    /// Writes down what `aside`, once called `of`, had, and takes the space from it that is reserved for it. Done again, it
    /// answers the same.
    pub(super) fn write_down(aside: &str, of: &DatasetName, canmount: Option<&str>) -> Result<Self> {
        if let Some(before) =
            Self::read(aside)?.filter(|before| before.of == *of && before.is_believed(aside))
        {
            before.take_space(aside)?;
            return Ok(before);
        }
        let mut reserved = BTreeMap::new();
        for property in RESERVATIONS {
            if let Some(value) = props::local(aside, property)?.filter(|value| value != "0") {
                reserved.insert(property.to_owned(), value);
            }
        }
        let was = Self { of: of.clone(), canmount: canmount.map(str::to_owned), reserved };
        props::set(aside, ASIDE, &serde_json::to_string(&was).expect("its keys are texts"))?;
        was.take_space(aside)?;
        Ok(was)
    }

    fn read(name: &str) -> Result<Option<Self>> {
        Ok(props::set_here(name, ASIDE)?.and_then(|text| Self::of_text(&text)))
    }

    /// What can be believed whoever wrote it: who may write the property could name any other here, and have root set it.
    ///
    /// `canmount` can be: it says only whether the dataset is mounted, where properties say that this one can not write.
    fn of_text(text: &str) -> Option<Self> {
        let was: Self = intent::read(text)?;
        let is_number = |value: &String| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let are_reservations = was.reserved.keys().all(|property| RESERVATIONS.contains(&property.as_str()));
        let are_numbers = was.reserved.values().all(is_number);
        let is_word = was.canmount.as_deref().is_none_or(|word| ["on", "off", "noauto"].contains(&word));
        (are_reservations && are_numbers && is_word).then_some(was)
    }

    /// Whether the space that it says was reserved for the dataset, which `name` is the name of now, can be reserved again. What
    /// only root can have written is believed; and whoever is not root can set no more than what the kernel lets them. Else who has
    /// the right `userprop` alone would have root give them the space of others: that is told, and left alone.
    fn is_believed(&self, name: &str) -> bool {
        let is_believed = self.reserved.is_empty() || !geteuid().is_root() || only_root_writes(name);
        if !is_believed {
            let set: Vec<_> =
                self.reserved.iter().map(|(property, value)| format!("{property}={value}")).collect();
            let (set, name) = (set.join(" "), quoted(name));
            tracing::warn!(
                "{ASIDE} of {name} says that it had {set}, and others than root can write it: if it is so, zfs set {set} {name}"
            );
        }
        is_believed
    }

    fn take_space(&self, aside: &str) -> Result<()> {
        self.reserved.keys().try_for_each(|property| props::set(aside, property, "none"))
    }

    /// Reserves the space for `name`. What can not be reserved is told.
    pub(super) fn reserve(&self, name: &str) -> Vec<(String, crate::endpoint::Error)> {
        let set = |(property, value): (&String, &String)| {
            Some((property.clone(), props::set(name, property, value).err()?))
        };
        self.reserved.iter().filter_map(set).collect()
    }
}

/// Sets again what was set on a dataset before it was set aside, if it has its old name now, and mounts it.
pub(super) fn take_back_in(dataset: &Dataset) -> Result<()> {
    let name = dataset.name().as_str();
    let Some(was) = Was::read(name)?.filter(|was| was.of == *dataset.name()) else { return Ok(()) };
    if was.is_believed(name) {
        was.reserved.iter().try_for_each(|(property, value)| props::set(name, property, value))?;
    }
    if !dataset.is_volume()? {
        set_canmount(name, was.canmount.as_deref())?;
    }
    props::clear(name, ASIDE)?;
    mounted::mount_if_meant(dataset)
}

/// Whether nobody else has the right to write user properties of the dataset: granted on it, or on one that it is in, or to who
/// is root in a container that it was given to. Where that can not be read, others may have it.
fn only_root_writes(name: &str) -> bool {
    let says = |args: &[&str]| program::zfs(args).map(|text| String::from_utf8_lossy(&text).into_owned());
    says(&["allow", name]).is_ok_and(|granted| !granted.contains("userprop"))
        && says(&["get", "-Hp", "-o", "value", "zoned", name]).is_ok_and(|zoned| zoned.trim_end() != "on")
}

/// It is not inherited: what was not set is on.
pub(super) fn set_canmount(name: &str, was: Option<&str>) -> Result<()> {
    props::set(name, "canmount", was.unwrap_or("on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cowsnap_would_not_have_written_is_not_believed() {
        let text = |canmount: &str, reserved: &str| {
            Was::of_text(&format!(r#"{{"of":"tank/u","canmount":{canmount},"reserved":{{{reserved}}}}}"#))
        };
        let sound = text(r#""noauto""#, r#""reservation":"1048576","refreservation":"0""#).expect("sound");
        assert_eq!(Was::of_text(&serde_json::to_string(&sound).expect("json")), Some(sound));
        assert!(text("null", "").is_some());
        for reserved in
            [r#""mountpoint":"/etc""#, r#""setuid":"1""#, r#""reservation":"none -x""#, r#""reservation":"""#]
        {
            assert_eq!(text("null", reserved), None, "{reserved}");
        }
        assert_eq!(text(r#""on mountpoint=/etc""#, ""), None);
    }
}
