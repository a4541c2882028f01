//! A ZFS dataset as an endpoint: what is sent, and the rest of what was broken off.

use std::io::{Cursor, Read};

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::send::{Source, Stream, stream};
use crate::endpoint::zfs::{SendOptions, carried, flags};
use crate::endpoint::{Endpoint, Error, History, Outgoing, ReceiveRequest, Result, SendRequest};
use crate::model::{Digest, Guid, Inventory, Version, VersionKind, VersionRef, quoted};
use crate::stream::container::{ResumePoint, ZfsFlags, ZfsKind, ZfsStream};
use crate::stream::zfs::resume::Token;
use crate::stream::zfs::{Begin, Feature, Kind, RECORD_LEN};
use crate::sys::lzc::Lzc;

impl Endpoint for Dataset {
    fn send(&self, request: &SendRequest) -> Result<Outgoing> {
        let lzc = self.settled()?;
        let asked = self.asked(request)?;
        let estimate = asked.estimate(lzc);
        let Asked { source, flags, default, token } = asked;
        let properties = carried::collect(self)?;
        flags::take_down(self, &request.version, flags, default);
        let mut stream = stream(self, lzc, source)?;
        let (first, begin) = self.begin(&mut stream)?;
        self.check_sent(request, flags, &begin)?;
        let zfs = ZfsStream {
            kind: kind(&begin),
            flags,
            features: begin.features.bits(),
            resumes: token.map(|Token { object, offset, .. }| ResumePoint { object, offset }),
            release: release(),
        };
        let stream = Box::new(Cursor::new(first).chain(stream));
        let place = self.place_id().ok().map(|id| Digest::of_place(&id));
        Ok(Outgoing { stream, estimate, properties, zfs: Some(zfs), place })
    }

    fn receive(&self, request: &ReceiveRequest, stream: &mut dyn Read) -> Result<Version> {
        let mut stream = stream;
        Ok(self.receive_checked(request, &mut stream, |_| None)?.version)
    }
}

/// What the kernel is to be asked for.
struct Asked {
    source: Source,
    flags: ZfsFlags,
    default: ZfsFlags,
    /// Where it goes on.
    token: Option<Token>,
}

impl Asked {
    /// About how many bytes it will be, or what is left of them.
    fn estimate(&self, lzc: &Lzc) -> Option<u64> {
        let before = self.token.as_ref().map_or(0, |token| token.bytes);
        self.source.estimate(lzc).map(|all| all.saturating_sub(before))
    }
}

/// What a stream builds upon.
struct Base {
    of: Dataset,
    full_name: String,
}

/// What kind of dataset a stream is of.
pub(super) fn kind(begin: &Begin) -> ZfsKind {
    match begin.kind {
        Kind::Filesystem => ZfsKind::Filesystem,
        Kind::Volume => ZfsKind::Volume,
    }
}

/// The release of the module, as it says it.
fn release() -> String {
    let text = std::fs::read_to_string("/sys/module/zfs/version").unwrap_or_default();
    text.trim().chars().filter(char::is_ascii_graphic).take(64).collect()
}

/// Whether the module that is loaded is of that release, or of a later one; none is of none.
pub fn release_is_at_least(major: u32, minor: u32) -> bool {
    is_at_least(&release(), (major, minor))
}

fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let found = numbers.next().map(|major| (major, numbers.next().unwrap_or(0)));
    found.is_some_and(|found| found >= wanted)
}

impl Dataset {
    /// About how many bytes the stream would be that `request` asks for; `None` where the kernel can not tell without reading for minutes.
    ///
    /// # Errors
    /// A version or a base that can not be sent from.
    pub fn estimate(&self, request: &SendRequest) -> Result<Option<u64>> {
        let lzc = self.settled()?;
        Ok(self.asked(request)?.estimate(lzc))
    }

    fn asked(&self, request: &SendRequest) -> Result<Asked> {
        self.check_no_clone_sources(request)?;
        let version = self.expect(&request.version)?;
        let snapshot = self.snapshot(&version, "send")?;
        let base = match &request.base {
            Some(base) => Some(self.base(&version, base)?),
            None => None,
        };
        let (flags, default, token) = self.how(request, base.as_ref().map(|base| &base.of))?;
        let source = Source {
            snapshot,
            base: base.map(|base| base.full_name),
            flags: flags::to_call(flags),
            resume: token.as_ref().map(|token| (token.object, token.offset)),
        };
        Ok(Asked { source, flags, default, token })
    }

    /// What is to be sent so that a receive which was broken off can go on: its snapshot and base, found by their guids among
    /// this dataset's, as the token says them.
    ///
    /// A token comes from the receiver, who may ask for what it should not get: [`Endpoint::send`] compares it with how the
    /// dataset is sent.
    ///
    /// # Errors
    /// [`Error::Refused`] for a text that is no token; [`Error::NotFound`] if this dataset has no such snapshot or base.
    pub fn to_resume(&self, token: &str) -> Result<SendRequest> {
        let read = self.read_token(token)?;
        let inventory = self.inventory()?;
        let version = self.found(&inventory, read.to_guid, "snapshot")?;
        let base = match read.from_guid {
            0 => None,
            guid => Some(self.found_base(&inventory, guid)?),
        };
        let zfs = SendOptions { resume: Some(token.to_owned()), ..SendOptions::default() };
        Ok(SendRequest {
            version,
            base,
            clone_sources: Vec::new(),
            stream_version: 0,
            compressed: false,
            zfs,
        })
    }

    fn read_token(&self, token: &str) -> Result<Token> {
        Token::decode(token).map_err(|error| {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let hint = Some("cowsnap list TARGET shows the token of what was received in part".into());
            self.refused("resume sending", format!("{error}{cause}"), hint)
        })
    }

    fn found_base(&self, inventory: &Inventory, guid: u64) -> Result<VersionRef> {
        let own = self.found(inventory, guid, "base");
        if own.is_ok() {
            return own;
        }
        for origin in self.cloned_from()? {
            if let Some(found) = origin.inventory()?.by_guid(Guid::of_zfs(guid)) {
                return Ok(found.id.clone());
            }
        }
        own
    }

    fn found(&self, inventory: &Inventory, guid: u64, what: &'static str) -> Result<VersionRef> {
        let found = inventory.by_guid(Guid::of_zfs(guid)).map(|version| version.id.clone());
        found.ok_or_else(|| Error::NotFound {
            what,
            subject: format!("of {self} with the guid {guid}, for which the token asks,"),
            hint: Some("cowsnap destroy TARGET@%partial where it was received in part, and send anew".into()),
        })
    }

    fn check_no_clone_sources(&self, request: &SendRequest) -> Result<()> {
        if request.clone_sources.is_empty() {
            return Ok(());
        }
        let why = "ZFS takes no clone sources: a stream builds upon its base alone".into();
        Err(self.refused("send", why, Some("leave out --clone-source".into())))
    }

    /// The base of `version`: the snapshot, or else the bookmark.
    fn base(&self, version: &Version, base: &VersionRef) -> Result<Base> {
        let (of, found) = self.expect_base(version, base)?;
        if found.order >= version.order {
            return Err(self.no_base(version, base, "is not older"));
        }
        let full_name = match found.kind {
            VersionKind::Snapshot => of.full_name(&base.name),
            VersionKind::Bookmark => format!("{}#{}", of.name(), base.name),
        };
        Ok(Base { of, full_name })
    }

    /// The version that is meant by `base`, of this dataset or of one that it was cloned from.
    fn expect_base(&self, version: &Version, base: &VersionRef) -> Result<(Self, Version)> {
        let of = |dataset: Self| match dataset.expect(base) {
            Ok(found) => Some(Ok((dataset, found))),
            Err(Error::NotFound { .. } | Error::Reused { .. }) => None,
            Err(error) => Some(Err(error)),
        };
        let own = self.expect(base);
        match own {
            Ok(found) => Ok((self.clone(), found)),
            Err(Error::NotFound { .. } | Error::Reused { .. }) => {
                let elsewhere = self.cloned_from()?.into_iter().find_map(of);
                elsewhere.unwrap_or_else(|| match own {
                    Err(Error::Reused { .. }) => own.map(|found| (self.clone(), found)),
                    _ => Err(self.no_base(
                        version,
                        base,
                        "is neither its own nor of a dataset that it was cloned from",
                    )),
                })
            }
            Err(error) => Err(error),
        }
    }

    fn no_base(&self, version: &Version, base: &VersionRef, why: &str) -> Error {
        let (subject, why) = (self.at_name(&version.id.name), format!("its base @{} {why}", base.name));
        let hint = Some(format!("cowsnap list {}", quoted(self)));
        Error::Refused { op: "send", subject, why, hint }
    }

    /// The datasets that it was cloned from, the nearest first.
    fn cloned_from(&self) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        let mut origin = self.get("origin")?;
        // What has a name that cowsnap can not say is not cowsnap's to work on.
        while let Some(Ok(name)) = origin.split_once('@').map(|(name, _)| name.parse()) {
            let dataset = Self::by_name(name);
            origin = dataset.get("origin")?;
            all.push(dataset);
        }
        Ok(all)
    }

    /// How to send upon a base of `based_on`, how that would be by default, and where to go on if that is asked for.
    fn how(
        &self,
        request: &SendRequest,
        based_on: Option<&Self>,
    ) -> Result<(ZfsFlags, ZfsFlags, Option<Token>)> {
        let (asked, base) = (&request.zfs, based_on.into_iter().zip(&request.base));
        let Some(token) = &request.zfs.resume else {
            let (chosen, default) = flags::choose(self, asked, &base.collect::<Vec<_>>())?;
            return Ok((chosen, default, None));
        };
        let token = self.read_token(token)?;
        // What was broken off is sent on as it was begun.
        let of: Vec<_> = [(self, &request.version)].into_iter().chain(base).collect();
        let (chosen, default) = flags::choose(self, asked, &of)?;
        check_token(request, &token, chosen)
            .map_err(|why| self.refused("resume sending", why, Some("send it anew".into())))?;
        Ok((chosen, default, Some(token)))
    }

    fn begin(&self, stream: &mut Stream) -> Result<(Vec<u8>, Begin)> {
        let first = stream.begin(RECORD_LEN)?;
        let record = first.first_chunk::<RECORD_LEN>().ok_or_else(|| strange("it ends at once".into()))?;
        let begin = Begin::parse(record).map_err(|error| strange(error.to_string()))?;
        Ok((first, begin))
    }

    /// Compares what the kernel sends with what was to be sent: a name may have been reused in between.
    fn check_sent(&self, request: &SendRequest, flags: ZfsFlags, begin: &Begin) -> Result<()> {
        let sent = (Guid::of_zfs(begin.to_guid), Guid::of_zfs(begin.from_guid));
        let base = request.base.as_ref().map_or(Guid::NIL, |base| base.guid);
        for (version, expected, found) in
            [(Some(&request.version), request.version.guid, sent.0), (request.base.as_ref(), base, sent.1)]
        {
            if expected != found {
                let name = version.map_or(&request.version.name, |version| &version.name);
                return Err(Error::Reused { subject: self.at_name(name), expected, found });
            }
        }
        match begin.features.has(Feature::Raw) == flags.raw {
            true => Ok(()),
            false => {
                Err(strange(format!("{flags} was asked for, and it has the features {}", begin.features)))
            }
        }
    }
}

fn strange(why: String) -> Error {
    Error::Corrupt { what: "ZFS stream", why, source: None }
}

/// Whether a token, which the receiver has made up as it liked, asks for what is to be sent, and no otherwise.
fn check_token(request: &SendRequest, token: &Token, chosen: ZfsFlags) -> Result<(), String> {
    if Guid::of_zfs(token.to_guid) != request.version.guid {
        return Err(format!(
            "the token is of a snapshot with the guid {}, not of @{}",
            token.to_guid, request.version.name
        ));
    }
    let base = request.base.as_ref().map_or(Guid::NIL, |base| base.guid);
    if Guid::of_zfs(token.from_guid) != base {
        return Err(format!("the token is of a stream upon the guid {}, not upon {base}", token.from_guid));
    }
    if token.saved || token.redact_snapshots.is_some() || token.redact_bookmark.is_some() {
        return Err("the token is of a redacted or saved stream, which cowsnap does not send".into());
    }
    // The token says what the stream turned out to hold: large and embedded blocks may be asked for and not occur.
    let asks = token.flags;
    let more = (asks.large_blocks && !chosen.large_blocks) || (asks.embedded && !chosen.embedded);
    if asks.raw != chosen.raw || asks.compressed != chosen.compressed || more {
        return Err(format!("the token asks for {asks}, and it is sent as {chosen}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(guid: u64, name: &str) -> VersionRef {
        VersionRef { guid: Guid::of_zfs(guid), name: name.parse().expect("a name") }
    }

    fn request(flags: Option<&str>) -> SendRequest {
        SendRequest {
            version: version(2, "two"),
            base: Some(version(1, "one")),
            clone_sources: Vec::new(),
            stream_version: 0,
            compressed: false,
            zfs: SendOptions {
                flags: flags.map(|flags| flags.parse().expect("flags")),
                ..SendOptions::default()
            },
        }
    }

    fn token() -> Token {
        let mut token = Token { to_guid: 2, from_guid: 1, object: 5, ..Token::default() };
        token.flags.large_blocks = true;
        token.flags.embedded = true;
        token.flags.compressed = true;
        token
    }

    fn check(request: &SendRequest, token: &Token, chosen: &str) -> String {
        match check_token(request, token, chosen.parse().expect("flags")) {
            Ok(()) => "agrees".into(),
            Err(why) => why,
        }
    }

    #[test]
    fn a_token_of_what_is_sent_agrees() {
        let open = "large-blocks+embedded+compressed";
        assert_eq!(check(&request(None), &token(), open), "agrees");
        assert_eq!(check(&request(Some(open)), &token(), open), "agrees");
        // No large block was in the stream so far.
        let mut few = token();
        few.flags.large_blocks = false;
        assert_eq!(check(&request(None), &few, open), "agrees");
        let full = SendRequest { base: None, ..request(None) };
        assert_eq!(check(&full, &Token { from_guid: 0, ..token() }, open), "agrees");
    }

    #[test]
    fn a_token_that_asks_for_anything_else_is_refused() {
        let (raw, open) = ("raw+large-blocks+compressed", "large-blocks+embedded+compressed");
        let other = Token { to_guid: 3, ..token() };
        assert_eq!(
            check(&request(None), &other, open),
            "the token is of a snapshot with the guid 3, not of @two"
        );
        let other = Token { from_guid: 0, ..token() };
        assert!(
            check(&request(None), &other, open)
                .starts_with("the token is of a stream upon the guid 0, not upon")
        );
        // The one that would have an encrypted dataset sent in the clear.
        let said = check(&request(None), &token(), raw);
        assert_eq!(said, format!("the token asks for {open}, and it is sent as {raw}"));
        let plain = check(&request(Some("plain")), &token(), "plain");
        assert_eq!(plain, format!("the token asks for {open}, and it is sent as plain"));
        let small = "embedded+compressed";
        assert_eq!(
            check(&request(None), &token(), small),
            format!("the token asks for {open}, and it is sent as {small}")
        );
        let mut saved = token();
        saved.saved = true;
        assert!(check(&request(None), &saved, open).contains("saved"));
        let redacted = Token { redact_snapshots: Some(Vec::new()), ..token() };
        assert!(check(&request(None), &redacted, open).contains("redacted"));
    }

    #[test]
    fn releases_are_compared_by_their_numbers() {
        let is = |release| is_at_least(release, (2, 2));
        assert!(["2.2.0", "2.2.2-1ubuntu1", "2.3.2-2~bpo12+2", "2.10.0", "3.0.0"].into_iter().all(is));
        assert!(!["2.1.11-1+deb12u1", "2.1", "0.8.6", "1.9", "", "unknown"].into_iter().any(is));
    }
}
