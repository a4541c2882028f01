//! Properties that travel: read at the source, and what of them a new dataset gets.

use std::collections::BTreeMap;

use crate::endpoint::zfs::dataset::{Dataset, get};
use crate::endpoint::zfs::flags::CHAIN;
use crate::endpoint::zfs::known;
use crate::endpoint::zfs::restoring::RESTORING;
use crate::endpoint::zfs::{list, program};
use crate::endpoint::{Error, ReceiveRequest, Result};
use crate::stream::container::{ZfsFlags, ZfsKind};
use crate::sys::lzc::Prop;

/// Values longer than this do not travel: ZFS allows up to 8 KiB, all together must fit into a container's header.
const MAX_VALUE_LEN: usize = 8 << 10;
const MAX_LEN: usize = 128 << 10;

/// What was set on `dataset` itself, or received by it, without what is cowsnap's own.
pub(super) fn collect(dataset: &Dataset) -> Result<BTreeMap<String, String>> {
    let name = dataset.name().as_str();
    let failed = |failure: program::Failure| failure.into_error("read the properties of", dataset);
    let args = ["get", "-Hp", "-s", "local,received", "-o", "property", "all", name];
    let text = program::zfs(&args).map_err(failed)?;
    let mut found = BTreeMap::new();
    let mut len = 0;
    for [property] in list::rows::<1>(&text)? {
        // The programs would take a hyphen for an option.
        if property.starts_with("cowsnap:") || property.starts_with('-') {
            continue;
        }
        // One at a time: a value may hold tabs and newlines.
        let value = get(name, property).map_err(failed)?;
        len += property.len() + value.len();
        if value.len() > MAX_VALUE_LEN || len > MAX_LEN {
            tracing::warn!("the property {property} of {dataset} is too long to travel");
            continue;
        }
        found.insert(property.to_owned(), value);
    }
    Ok(found)
}

/// The properties of a receive, as the call wants them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// As the source had them: what `zfs inherit -S` goes back to.
    pub received: Vec<(String, Prop)>,
    /// Over those.
    pub local: Vec<(String, Prop)>,
    /// What of the source's is left out, and why.
    pub left: Vec<String>,
}

/// What a dataset gets that is made by receiving: it can be neither written to nor mounted by anybody who does not ask for
/// it by name, and says how the streams of its chain are made.
///
/// # Errors
/// [`Error::Refused`] for what was asked and can not be.
pub(super) fn of_new(
    target: &Dataset,
    request: &ReceiveRequest,
    kind: ZfsKind,
    flags: Option<ZfsFlags>,
) -> Result<Given> {
    let mut given = of_old(target, request, kind)?;
    let mut own = vec![("readonly", Prop::Number(1))];
    if kind == ZfsKind::Filesystem {
        own.push(("canmount", Prop::Number(NOAUTO)));
    }
    own.retain(|(name, _)| !request.zfs.set.contains_key(*name) && !request.zfs.leave.contains(*name));
    given.local.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
    if request.zfs.restoring {
        given.local.push((RESTORING.to_owned(), Prop::Text("yes".into())));
    }
    given.local.extend(flags.map(|flags| (CHAIN.to_owned(), Prop::Text(flags.to_string()))));
    if request.zfs.take_properties {
        take(request, kind, &mut given);
    }
    Ok(given)
}

const NOAUTO: u64 = 2;

/// What a dataset that is there gets: only what was asked by name. Whatever else its admin has set stays.
///
/// # Errors
/// As [`of_new`].
pub(super) fn of_old(target: &Dataset, request: &ReceiveRequest, kind: ZfsKind) -> Result<Given> {
    let mut given = Given::default();
    for (name, value) in &request.zfs.set {
        let value = known::to_call(name, value, kind).map_err(|why| {
            let hint = Some("set it afterwards with zfs set".into());
            Error::Refused { op: "receive", subject: target.to_string(), why, hint }
        })?;
        given.local.push((name.clone(), value));
    }
    Ok(given)
}

fn take(request: &ReceiveRequest, kind: ZfsKind, given: &mut Given) {
    for (name, value) in &request.properties {
        if request.zfs.leave.contains(name) || !known::comes_along(name, kind) {
            continue;
        }
        if let Some(why) = known::why_not_so(name, value) {
            given.left.push(format!("the source's {name}={value} is left out: {why}"));
            continue;
        }
        match known::to_call(name, value, kind) {
            Ok(value) => given.received.push((name.clone(), value)),
            Err(why) => given.left.push(format!("the source's {name} is left out: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(came: &[(&str, &str)], set: &[(&str, &str)], leave: &[&str]) -> ReceiveRequest {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let mut request = ReceiveRequest::named("s".parse().expect("a name"));
        request.properties = map(came);
        request.zfs.set = map(set);
        request.zfs.leave = leave.iter().map(|name| (*name).to_owned()).collect();
        request
    }

    fn shown(given: &Given) -> String {
        let part = |props: &[(String, Prop)]| {
            let mut words: Vec<_> = props
                .iter()
                .map(|(name, value)| match value {
                    Prop::Number(number) => format!("{name}={number}"),
                    Prop::Text(text) => format!("{name}={text:?}"),
                    Prop::Exclude => format!("-{name}"),
                })
                .collect();
            words.sort();
            words.join(" ")
        };
        format!(
            "local: {}; received: {}; {}",
            part(&given.local),
            part(&given.received),
            given.left.join(", ")
        )
    }

    fn target() -> Dataset {
        Dataset::by_name("tank/a b:c".parse().expect("a name"))
    }

    #[test]
    fn a_new_dataset_is_readonly_and_not_mounted_and_a_volume_gets_nothing_of_mounts() {
        let flags = Some(ZfsFlags::default());
        let of = |kind| {
            shown(&of_new(&target(), &request(&[("atime", "off")], &[], &[]), kind, flags).expect("sound"))
        };
        assert_eq!(
            of(ZfsKind::Filesystem),
            r#"local: canmount=2 cowsnap:flags="plain" readonly=1; received: ; "#
        );
        assert_eq!(of(ZfsKind::Volume), r#"local: cowsnap:flags="plain" readonly=1; received: ; "#);
    }

    #[test]
    fn properties_of_the_source_come_only_if_asked_and_never_what_could_do_harm() {
        let came = [
            ("compression", "zstd-7"),
            ("mountpoint", "/etc"),
            ("setuid", "on"),
            ("com.example:note", "a\tb"),
            ("recordsize", "131072"),
            ("checksum", "newest"),
        ];
        let mut request =
            request(&came, &[("readonly", "off"), ("quota", "1G")], &["canmount", "recordsize"]);
        let none = shown(&of_new(&target(), &request, ZfsKind::Filesystem, None).expect("sound"));
        assert_eq!(none, "local: quota=1073741824 readonly=0; received: ; ");
        request.zfs.take_properties = true;
        let some = shown(&of_new(&target(), &request, ZfsKind::Filesystem, None).expect("sound"));
        let wanted = concat!(
            r#"local: quota=1073741824 readonly=0; received: com.example:note="a\tb" compression=912; "#,
            r#"the source's checksum is left out: checksum can not be "newest""#
        );
        assert_eq!(some, wanted);
    }

    #[test]
    fn what_weakens_the_target_or_has_systemd_act_is_left_out_and_told_unless_it_is_set_here() {
        let requires = "org.openzfs.systemd:requires";
        let came = [("checksum", "off"), ("sync", "disabled"), (requires, "evil.service"), ("-r:x", "y")];
        let mut request = request(&came, &[], &["canmount", "readonly"]);
        request.zfs.take_properties = true;
        let some = of_new(&target(), &request, ZfsKind::Filesystem, None).expect("sound");
        assert_eq!((some.received.len(), some.left.len()), (0, 3), "{some:?}");
        for name in ["checksum=off is left out", "sync=disabled is left out", requires] {
            assert!(some.left.iter().any(|left| left.contains(name)), "{name}: {some:?}");
        }
        request.properties = [("sync", "always"), ("checksum", "sha256")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        request.zfs.set.insert(requires.into(), "mine.service".into());
        let given = of_new(&target(), &request, ZfsKind::Filesystem, None).expect("sound");
        let wanted = concat!(
            r#"local: org.openzfs.systemd:requires="mine.service"; "#,
            "received: checksum=8 sync=1; "
        );
        assert_eq!(shown(&given), wanted);
    }

    #[test]
    fn an_increment_sets_only_what_was_asked_by_name() {
        let mut request = request(&[("compression", "lz4")], &[("quota", "none")], &[]);
        request.zfs.take_properties = true;
        let given = of_old(&target(), &request, ZfsKind::Filesystem).expect("sound");
        assert_eq!(shown(&given), "local: quota=0; received: ; ");
        request.zfs.set.insert("encryption".into(), "off".into());
        let error = of_old(&target(), &request, ZfsKind::Filesystem).expect_err("not while receiving");
        assert_eq!(error.to_string(), "cannot receive tank/a b:c: encryption can not be set while receiving");
    }
}
