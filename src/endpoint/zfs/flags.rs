//! How streams are made, and that all streams of a chain are made alike.
//!
//! What was asked for is compared, not what the BEGIN record says: large blocks may be asked for and not occur yet.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::{SendOptions, program, props};
use crate::endpoint::{Error, Result};
use crate::model::{Guid, VersionRef, quoted};
use crate::stream::container::ZfsFlags;
use crate::sys::lzc::SendFlags;

/// The property of a receiving dataset: how the streams of its chain are made.
pub const CHAIN: &str = "cowsnap:flags";
/// The property of a snapshot that was sent otherwise than by default: how.
pub const SENT: &str = "cowsnap:sent";

/// How a dataset is sent unless somebody says otherwise.
pub fn default_of(encrypted: bool) -> ZfsFlags {
    ZfsFlags { raw: encrypted, large_blocks: true, embedded: !encrypted, compressed: true }
}

/// For the call of the kernel.
pub(super) fn to_call(flags: ZfsFlags) -> SendFlags {
    let ZfsFlags { raw, large_blocks, embedded, compressed } = flags;
    SendFlags { embedded, large_block: large_blocks, compressed, raw, saved: false }
}

impl Dataset {
    /// Whether it is encrypted.
    pub(in crate::endpoint) fn is_encrypted(&self) -> Result<bool> {
        Ok(!matches!(self.get("encryption")?.as_str(), "off" | "-"))
    }
}

/// How to send a version of `dataset`: as asked, else as it or its base, which `of` names with their datasets, was sent, else
/// by default. And what the default is.
///
/// # Errors
/// [`Error::Refused`] if what is asked can not be, or is not how they were sent; [`Error::Denied`] if it would go out readable and must not.
pub(super) fn choose(
    dataset: &Dataset,
    asked: &SendOptions,
    of: &[(&Dataset, &VersionRef)],
) -> Result<(ZfsFlags, ZfsFlags)> {
    let default = default_of(dataset.is_encrypted()?);
    let mut sent = None;
    for (its, version) in of {
        sent = sent.or(sent_as(its, version)?);
    }
    if default.raw && is_forbidden(asked) {
        return Err(Error::Denied {
            op: "send",
            subject: dataset.to_string(),
            lacking: "it is encrypted, and this key may not have it readable".into(),
            hint: Some("leave out --zfs-flags: it comes raw, and stays encrypted; --allow-plaintext of cowsnap serve, there, would allow it".into()),
        });
    }
    let chosen = decide(default, asked.flags, sent).map_err(|why| {
        let hint = sent.map(|sent| format!("send it as {sent}, or in full: without --from"));
        dataset.refused("send", why, hint)
    })?;
    Ok((chosen, default))
}

/// Whether what is encrypted would go out readable, and must not. What nobody asks for [is not done](decide) anyway.
fn is_forbidden(asked: &SendOptions) -> bool {
    asked.sealed && asked.flags.is_some_and(|flags| !flags.raw)
}

fn decide(default: ZfsFlags, asked: Option<ZfsFlags>, sent: Option<ZfsFlags>) -> Result<ZfsFlags, String> {
    let chosen = asked.or(sent).unwrap_or(default);
    if let Some(sent) = sent.filter(|sent| *sent != chosen) {
        return Err(format!(
            "the base was sent as {sent}: all streams of a chain must be made alike, and {chosen} is asked for"
        ));
    }
    if default.raw && !chosen.raw && asked.is_none() {
        return Err(format!(
            "it is encrypted, and what it holds goes out readable, as {chosen}, only if that is asked for"
        ));
    }
    if chosen.raw && !default.raw {
        return Err("it is not encrypted, so there is no raw stream of it".into());
    }
    if chosen.raw && chosen.embedded {
        return Err("a raw stream has no embedded blocks".into());
    }
    Ok(chosen)
}

/// How a snapshot was sent, if that was not by default. Of a bookmark nothing is known.
fn sent_as(dataset: &Dataset, version: &VersionRef) -> Result<Option<ZfsFlags>> {
    let name = dataset.full_name(&version.name);
    match program::zfs(&["get", "-Hp", "-o", "source,value", &format!("guid,{SENT}"), &name]) {
        Ok(text) => Ok(said_of(&text, version.guid)),
        Err(failure) => match failure.into_error("read", &name) {
            Error::NotFound { .. } => Ok(None),
            error => Err(error),
        },
    }
}

/// What a listing of a snapshot's guid and of [`SENT`] says of the version `meant`: nothing if the snapshot is another, which
/// only has the name of a bookmark, or if the dataset says it and not the snapshot itself.
fn said_of(text: &[u8], meant: Guid) -> Option<ZfsFlags> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().filter_map(|line| line.split_once('\t'));
    let (_, guid) = lines.next()?;
    let (source, sent) = lines.next()?;
    let is_meant = guid.parse().map(Guid::of_zfs) == Ok(meant);
    (is_meant && ["local", "received"].contains(&source)).then(|| sent.parse().ok())?
}

/// Takes down how a snapshot is sent, for the increments upon it. Who may not write that down can send all the same.
pub(super) fn take_down(dataset: &Dataset, version: &VersionRef, flags: ZfsFlags, default: ZfsFlags) {
    if flags == default {
        return;
    }
    let name = dataset.full_name(&version.name);
    if let Err(error) = props::set(&name, SENT, &flags.to_string()) {
        tracing::warn!("{name} does not say how it was sent: {error}");
    }
}

/// Compares how a stream was made with the chain that it joins.
///
/// # Errors
/// [`Error::Refused`] if they differ.
pub(super) fn check_chain(dataset: &Dataset, chain: Option<ZfsFlags>, stream: ZfsFlags) -> Result<()> {
    let Some(chain) = chain.filter(|chain| *chain != stream) else { return Ok(()) };
    let why = format!(
        "the streams before it were {chain} and this one is {stream}: all of a chain must be made alike"
    );
    let hint = format!("send it as {chain}, or in full into another dataset than {}", quoted(dataset));
    Err(dataset.refused("receive", why, Some(hint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const OPEN: &str = "large-blocks+embedded+compressed";
    const RAW: &str = "raw+large-blocks+compressed";

    #[test]
    fn the_default_is_raw_exactly_for_what_is_encrypted() {
        assert_eq!(default_of(false).to_string(), OPEN);
        assert_eq!(default_of(true).to_string(), RAW);
    }

    #[test]
    fn what_is_asked_goes_before_what_the_base_was_and_they_must_not_differ() {
        let mut table = String::new();
        for (default, asked, sent) in [
            (OPEN, "", ""),
            (OPEN, "plain", ""),
            (OPEN, "", "plain"),
            (OPEN, "plain", "plain"),
            (OPEN, OPEN, "plain"),
            (OPEN, RAW, ""),
            (RAW, "", ""),
            (RAW, "plain", ""),
            (RAW, "plain", RAW),
            (RAW, "", "plain"),
            (RAW, "plain", "plain"),
            (RAW, "raw+embedded", ""),
        ] {
            let flags = |text: &str| (!text.is_empty()).then(|| text.parse().expect("flags"));
            let said = match decide(flags(default).expect("some"), flags(asked), flags(sent)) {
                Ok(chosen) => chosen.to_string(),
                Err(why) => format!("refused: {why}"),
            };
            let of = if default == RAW { "encrypted" } else { "open" };
            table += &format!("{of}, asked {asked:?}, base {sent:?}: {said}\n");
        }
        expect![[r#"
            open, asked "", base "": large-blocks+embedded+compressed
            open, asked "plain", base "": plain
            open, asked "", base "plain": plain
            open, asked "plain", base "plain": plain
            open, asked "large-blocks+embedded+compressed", base "plain": refused: the base was sent as plain: all streams of a chain must be made alike, and large-blocks+embedded+compressed is asked for
            open, asked "raw+large-blocks+compressed", base "": refused: it is not encrypted, so there is no raw stream of it
            encrypted, asked "", base "": raw+large-blocks+compressed
            encrypted, asked "plain", base "": plain
            encrypted, asked "plain", base "raw+large-blocks+compressed": refused: the base was sent as raw+large-blocks+compressed: all streams of a chain must be made alike, and plain is asked for
            encrypted, asked "", base "plain": refused: it is encrypted, and what it holds goes out readable, as plain, only if that is asked for
            encrypted, asked "plain", base "plain": plain
            encrypted, asked "raw+embedded", base "": refused: a raw stream has no embedded blocks
        "#]].assert_eq(&table);
    }

    #[test]
    fn whoever_may_not_read_has_it_raw_or_not_at_all() {
        for (sealed, flags, forbidden) in [
            (true, "plain", true),
            (true, OPEN, true),
            (true, RAW, false),
            (true, "", false),
            (false, "plain", false),
        ] {
            let flags = (!flags.is_empty()).then(|| flags.parse().expect("flags"));
            let asked = SendOptions { flags, sealed, ..SendOptions::default() };
            assert_eq!(is_forbidden(&asked), forbidden, "{asked:?}");
        }
        let encrypted = RAW.parse().expect("flags");
        for sent in [None, Some(encrypted), Some(OPEN.parse().expect("flags"))] {
            assert!(
                decide(encrypted, None, sent).map_or(true, |chosen| chosen.raw),
                "by itself nothing goes"
            );
        }
    }

    #[test]
    fn how_it_was_sent_is_said_by_the_snapshot_that_is_meant_alone() {
        let said = |text: &str| said_of(text.as_bytes(), Guid::of_zfs(7)).map(|flags| flags.to_string());
        assert_eq!(said("-\t7\nlocal\tplain\n").as_deref(), Some("plain"));
        assert_eq!(said("-\t8\nlocal\tplain\n"), None, "another snapshot of a bookmark's name");
        assert_eq!(said("-\t7\ninherited from tank/a b\tplain\n"), None, "its dataset says it");
        assert_eq!(said("-\t7\n-\t-\n"), None);
        assert_eq!(said("-\t7\nlocal\tfoo\tplain\nlocal\tplain\n"), None, "words of somebody else");
    }

    #[test]
    fn the_call_gets_each_flag_that_is_set() {
        let flags = ZfsFlags { raw: true, large_blocks: true, ..ZfsFlags::default() };
        let wanted = SendFlags { raw: true, large_block: true, ..SendFlags::default() };
        assert_eq!(to_call(flags), wanted);
        let flags = ZfsFlags { embedded: true, compressed: true, ..ZfsFlags::default() };
        let wanted = SendFlags { embedded: true, compressed: true, ..SendFlags::default() };
        assert_eq!(to_call(flags), wanted);
    }
}
