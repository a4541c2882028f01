//! What is known before a byte is applied: whether a stream is what was announced, and where in the target it belongs.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::endpoint::kind;
use crate::endpoint::zfs::feed::Feed;
use crate::endpoint::zfs::{conflict, flags, list, partial, parts, program};
use crate::endpoint::{Error, History, ReceiveRequest, Result};
use crate::model::{Guid, Inventory, SnapshotName, Version, VersionKind, quoted};
use crate::stream::container::{ResumePoint, ZfsFlags, ZfsStream};
use crate::stream::zfs::resume::Token;
use crate::stream::zfs::{Begin, Feature, Rest};
use crate::sys::lzc::Lzc;

/// Where a stream belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// It makes the dataset.
    New,
    /// It makes the dataset as a clone of this snapshot of another one: DATASET@NAME.
    CloneOf(String),
    /// It goes on after what is there.
    Upon,
    /// It goes on with what was received in part, which was checked like this: all of it, or what of it is behind this point.
    Rest(parts::Before, Option<ResumePoint>),
    /// It makes a dataset that will take the place of the one that is there, beginning as this snapshot of it.
    Beside(Option<Version>),
}

/// What a stream is, as far as the receiver goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said<'a> {
    pub begin: &'a Begin,
    /// Where the list behind BEGIN says that it goes on.
    pub resumes: Option<ResumePoint>,
}

impl<'a> Said<'a> {
    pub fn by<R: std::io::Read>(feed: &'a Feed<R>) -> Self {
        let at = |name| feed.number_in_list(name);
        let resumes = feed.begin().features.has(Feature::Resuming).then(|| ResumePoint {
            object: at("resume_object").unwrap_or(0),
            offset: at("resume_offset").unwrap_or(0),
        });
        Self { begin: feed.begin(), resumes }
    }

    fn base(&self) -> Option<Guid> {
        (!self.begin.is_full()).then(|| Guid::of_zfs(self.begin.from_guid))
    }

    fn guid(&self) -> Guid {
        Guid::of_zfs(self.begin.to_guid)
    }

    fn is_raw(&self) -> bool {
        self.begin.features.has(Feature::Raw)
    }
}

/// Compares a stream with what was announced.
///
/// # Errors
/// [`Error::Corrupt`] if it is another; [`Error::Denied`] if it needs what no known receiver has.
pub(super) fn cross_check(target: &Dataset, request: &ReceiveRequest, said: &Said<'_>) -> Result<()> {
    said.begin.check_receivable().map_err(|error| Error::Denied {
        op: "receive",
        subject: target.to_string(),
        lacking: error.to_string(),
        hint: None,
    })?;
    let words = |(guid, base): (Guid, Option<Guid>)| match base {
        Some(base) => format!("{guid} upon {base}"),
        None => format!("{guid} in full"),
    };
    let is = (said.guid(), said.base());
    let announced = request.guid.map_or(is, |guid| (guid, request.base));
    if announced != is {
        return Err(corrupt(format!("it was announced as {} and is {}", words(announced), words(is))));
    }
    check_date(target, request, said.begin)?;
    let Some(header) = &request.stream else { return Ok(()) };
    let announced = shown(header.kind, header.features, header.flags.raw, header.resumes);
    let is = shown(kind(said.begin), said.begin.features.bits(), said.is_raw(), said.resumes);
    match announced == is {
        true => Ok(()),
        false => Err(corrupt(format!("it was announced as {announced} and is {is}"))),
    }
}

/// The date of what arrives is the one in the stream, whatever its container says.
fn check_date(target: &Dataset, request: &ReceiveRequest, begin: &Begin) -> Result<()> {
    let Some(dates) = &request.dates else { return Ok(()) };
    let created =
        begin.created().ok_or_else(|| corrupt(format!("{} seconds are no date", begin.creation)))?;
    dates.check(created).map_err(|undue| Error::Refused {
        op: "receive",
        subject: target.at_name(&request.name),
        why: format!("{undue}, and retention here goes by that"),
        hint: Some(
            "compare the clocks of both machines; a key that is not --append-only can bring it".into(),
        ),
    })
}

fn shown(
    kind: crate::stream::container::ZfsKind,
    features: u64,
    raw: bool,
    resumes: Option<ResumePoint>,
) -> String {
    let raw = if raw { "a raw stream" } else { "a stream" };
    let rest =
        resumes.map_or(String::new(), |at| format!(", from object {} offset {} on", at.object, at.offset));
    format!("{raw} of a {kind} with the features {features:#x}{rest}")
}

fn corrupt(why: String) -> Error {
    Error::Corrupt { what: "ZFS stream", why, source: None }
}

/// Finds where a stream belongs.
///
/// # Errors
/// What speaks against receiving it, with the evidence.
pub(super) fn place(target: &Dataset, lzc: &Lzc, request: &ReceiveRequest, said: &Said<'_>) -> Result<Place> {
    if !lzc.exists(target.name().as_str()) {
        let place = of_absent(target, said)?;
        if let Place::CloneOf(origin) = &place {
            let own = Own::of_name(origin.split('@').next().unwrap_or_default())?;
            check_kind(target, &own, said)?;
            check_alike(target, &own, request.stream.as_ref(), said)?;
        }
        return Ok(place);
    }
    let inventory = target.inventory()?;
    check_free(target, &inventory, &request.name, said.guid())?;
    if let Some(partial) = inventory.partials.first() {
        let before = || parts::before(target, &partial.token);
        if said.resumes.is_some() {
            goes_on(target, &partial.token, said)?;
            return before().map(|before| Place::Rest(before, None));
        }
        return match lacking(target, &partial.token, request, said)? {
            Some(point) => before().map(|before| Place::Rest(before, Some(point))),
            None => Err(conflict::partial_there(target, partial)),
        };
    }
    if said.resumes.is_some() {
        return Err(nothing_to_go_on_with(target));
    }
    let own = Own::of(target)?;
    if own.is_begun {
        let why = "a first stream is being received into it, or was and can not go on".into();
        return Err(target.refused("receive", why, Some(format!("cowsnap destroy {}", quoted(target)))));
    }
    let Some(base) = said.base() else {
        return match request.zfs.keep_conflict {
            true => Ok(Place::Beside(None)),
            false => Err(conflict::dataset_there(target, &inventory)),
        };
    };
    let Some(base) = snapshot_of(&inventory, base) else {
        return Err(conflict::without_base(target, &inventory, base));
    };
    check_kind(target, &own, said)?;
    check_alike(target, &own, request.stream.as_ref(), said)?;
    let diverged = || Ok::<_, Error>(conflict::since(target, &inventory, base)?.is_one(said.is_raw()));
    match request.zfs.keep_conflict && diverged()? {
        true => Ok(Place::Beside(Some(base.clone()))),
        false => Ok(Place::Upon),
    }
}

fn of_absent(target: &Dataset, said: &Said<'_>) -> Result<Place> {
    match (said.resumes, said.base()) {
        (Some(_), _) => Err(nothing_to_go_on_with(target)),
        // One of the same history would make a second dataset out of a misspelt name.
        (None, Some(base)) if said.begin.flags.is_clone() => origin_of(target, base),
        (None, Some(base)) => Err(conflict::without_base(target, &Inventory::default(), base)),
        (None, None) => Ok(Place::New),
    }
}

/// The snapshot `base`, of whichever dataset of the pool: of several, the one whose name is most like the target's.
fn origin_of(target: &Dataset, base: Guid) -> Result<Place> {
    let args = ["list", "-Hp", "-t", "snapshot", "-s", "createtxg", "-o", "name,guid", "-r", target.pool()];
    let text = program::zfs(&args).map_err(|failure| failure.into_error("list", target.pool()))?;
    let mut found = Vec::new();
    for [name, guid] in list::rows::<2>(&text)? {
        if Guid::of_zfs(list::number(guid)?) == base {
            found.push(name);
        }
    }
    match found.into_iter().min_by_key(|name| std::cmp::Reverse(alike(name, target.name().as_str()))) {
        Some(name) => Ok(Place::CloneOf(name.to_owned())),
        None => Err(conflict::without_origin(target, base)),
    }
}

/// How many parts two names have in common.
fn alike(one: &str, other: &str) -> usize {
    one.split('/').zip(other.split('/')).take_while(|(one, other)| one == other).count()
}

fn nothing_to_go_on_with(target: &Dataset) -> Error {
    let why = "it is the rest of a stream, and nothing of the stream was received here".into();
    target.refused("receive", why, Some("send it anew, without --resume".into()))
}

fn check_free(target: &Dataset, inventory: &Inventory, name: &SnapshotName, guid: Guid) -> Result<()> {
    let there = snapshot_of(inventory, guid).or_else(|| {
        let same_name =
            |version: &&Version| version.kind == VersionKind::Snapshot && version.id.name == *name;
        inventory.versions().iter().find(same_name)
    });
    match there {
        Some(there) => {
            Err(Error::Exists { what: "snapshot", subject: target.at_name(&there.id.name), hint: None })
        }
        None => Ok(()),
    }
}

/// The snapshot of that identity; a bookmark of it has no content to build upon.
fn snapshot_of(inventory: &Inventory, guid: Guid) -> Option<&Version> {
    inventory
        .versions()
        .iter()
        .find(|version| version.kind == VersionKind::Snapshot && version.id.guid == guid)
}

/// Whether the rest of a stream goes on where what is there stopped. The kernel compares the place.
fn goes_on(target: &Dataset, token: &str, said: &Said<'_>) -> Result<()> {
    let token = Token::decode(token).map_err(|error| corrupt_token(&error))?;
    if (token.to_guid, token.from_guid) == (said.begin.to_guid, said.begin.from_guid) {
        return Ok(());
    }
    let why =
        format!("what was received in part is {}, and this is the rest of another stream", token.to_name);
    let hint = format!("cowsnap list {} shows the token to send with", quoted(target));
    Err(target.refused("receive", why, Some(hint)))
}

/// From where on the whole stream has what the receive lacks whose token it is; `None` if that is of another container, or the rest can not be cut out.
fn lacking(
    target: &Dataset,
    token: &str,
    request: &ReceiveRequest,
    said: &Said<'_>,
) -> Result<Option<ResumePoint>> {
    let Some(go_on) = request.zfs.go_on.as_ref().filter(|_| Rest::is_possible(said.begin)) else {
        return Ok(None);
    };
    let token = Token::decode(token).map_err(|error| corrupt_token(&error))?;
    if (token.to_guid, token.from_guid) != (said.begin.to_guid, said.begin.from_guid) {
        return Ok(None);
    }
    partial::point(target, &token, &go_on.container)
}

fn corrupt_token(error: &crate::stream::zfs::resume::Error) -> Error {
    Error::Corrupt { what: "resume token", why: error.to_string(), source: None }
}

/// What the target says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Own {
    kind: String,
    is_begun: bool,
    chain: Option<ZfsFlags>, // How the streams before this one were made, if that is known.
}

impl Own {
    fn of(target: &Dataset) -> Result<Self> {
        Self::of_name(target.name().as_str())
    }

    fn of_name(name: &str) -> Result<Self> {
        let wanted = format!("type,inconsistent,{}", flags::CHAIN);
        let args = ["get", "-Hp", "-o", "property,source,value", &wanted, name];
        let text = program::zfs(&args).map_err(|failure| failure.into_error("read", name))?;
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let mut own = Self::default();
        for [property, source, value] in list::rows_with_text::<3>(text)? {
            match property {
                "type" => own.kind = value.to_owned(),
                "inconsistent" => own.is_begun = value == "1",
                // What it inherits is of another chain.
                _ if !source.starts_with("inherited") => own.chain = value.parse().ok(),
                _ => {}
            }
        }
        Ok(own)
    }
}

fn check_kind(target: &Dataset, own: &Own, said: &Said<'_>) -> Result<()> {
    let (is, stream) = (&own.kind, kind(said.begin));
    match *is == stream.to_string() {
        true => Ok(()),
        false => {
            Err(target.refused("receive", format!("it is a {is} and the stream is of a {stream}"), None))
        }
    }
}

/// Whether the stream is made like those before it. Of one without a container only raw is known.
fn check_alike(target: &Dataset, own: &Own, header: Option<&ZfsStream>, said: &Said<'_>) -> Result<()> {
    let Some(chain) = own.chain else { return Ok(()) };
    let stream = header.map_or(ZfsFlags { raw: said.is_raw(), ..chain }, |header| header.flags);
    flags::check_chain(target, Some(chain), stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::zfs::feed::tests::begin;
    use crate::stream::container::ZfsKind;
    use crate::stream::zfs::Features;

    fn target() -> Dataset {
        Dataset::by_name("tank/a b:c".parse().expect("a name"))
    }

    fn request() -> ReceiveRequest {
        let mut request = ReceiveRequest::named("s".parse().expect("a name"));
        request.guid = Some(Guid::of_zfs(7));
        request.base = Some(Guid::of_zfs(3));
        request.stream = Some(ZfsStream {
            kind: ZfsKind::Filesystem,
            flags: "large-blocks+embedded+compressed".parse().expect("flags"),
            features: begin(3).features.bits(),
            resumes: None,
            release: String::new(),
        });
        request
    }

    fn check(request: &ReceiveRequest, begin: &Begin, resumes: Option<ResumePoint>) -> String {
        match cross_check(&target(), request, &Said { begin, resumes }) {
            Ok(()) => "is so".into(),
            Err(error) => format!("{:?}: {error}", error.class()),
        }
    }

    #[test]
    fn a_stream_that_is_what_was_announced_is_accepted() {
        assert_eq!(check(&request(), &begin(3), None), "is so");
        let unannounced = ReceiveRequest { guid: None, base: None, stream: None, ..request() };
        assert_eq!(check(&unannounced, &begin(3), None), "is so");
        assert_eq!(check(&unannounced, &begin(0), None), "is so");
    }

    #[test]
    fn a_stream_that_is_another_than_announced_is_corrupt() {
        let full = check(&request(), &begin(0), None);
        assert!(full.starts_with("Corrupt: corrupt ZFS stream: it was announced as 0000"), "{full}");
        let other = ReceiveRequest { guid: Some(Guid::of_zfs(8)), ..request() };
        assert!(check(&other, &begin(3), None).starts_with("Corrupt"));
        let mut volume = request();
        volume.stream.as_mut().expect("announced").kind = ZfsKind::Volume;
        let said = check(&volume, &begin(3), None);
        assert!(
            said.contains("a stream of a volume") && said.contains("is a stream of a filesystem"),
            "{said}"
        );
        let mut raw = request();
        raw.stream.as_mut().expect("announced").flags.raw = true;
        assert!(check(&raw, &begin(3), None).contains("announced as a raw stream"));
        let at = Some(ResumePoint { object: 5, offset: 8 });
        assert!(check(&request(), &begin(3), at).ends_with("from object 5 offset 8 on"));
        let more = Begin { features: begin(3).features.with(Feature::Zstd), ..begin(3) };
        assert!(check(&request(), &more, None).starts_with("Corrupt"));
    }

    #[test]
    fn a_date_that_is_made_up_is_refused_where_the_stream_says_it() {
        let at = |seconds| jiff::Timestamp::from_second(seconds).expect("a time");
        let begin = Begin { creation: 1_000_000, ..begin(3) };
        let id = crate::model::VersionRef { guid: Guid::of_zfs(3), name: "b".parse().expect("a name") };
        let there =
            |seconds| Version { id: id.clone(), kind: VersionKind::Snapshot, order: 1, created: at(seconds) };
        for (newest, now, expected) in [
            (999_000, 1_000_500, "is so"),
            (1_000_200, 1_000_500, "is so"),
            (1_002_000, 1_003_000, "before the newest"),
            (1, 990_000, "here it is"),
        ] {
            let dates = Some(crate::model::Dates::upon(&[there(newest)], at(now)));
            let said = check(&ReceiveRequest { dates, ..request() }, &begin, None);
            assert!(said.contains(expected), "{newest} {now}: {said}");
        }
        assert_eq!(check(&request(), &begin, None), "is so", "who may do anything is believed");
    }

    #[test]
    fn how_the_chain_is_made_is_the_dataset_s_own_and_not_inherited() {
        let parse = |source: &str| {
            let text =
                format!("type\t-\tfilesystem\ninconsistent\t-\t0\ncowsnap:flags\t{source}\traw+compressed\n");
            Own::parse(text.as_bytes()).expect("rows")
        };
        assert_eq!(parse("local").chain, "raw+compressed".parse().ok());
        assert_eq!(parse("received").chain, "raw+compressed".parse().ok());
        assert_eq!(parse("inherited from tank/a b").chain, None);
        let none = Own::parse(b"type\t-\tvolume\ninconsistent\t-\t1\ncowsnap:flags\t-\t-\n").expect("rows");
        assert_eq!(none, Own { kind: "volume".into(), is_begun: true, chain: None });
    }

    #[test]
    fn what_no_receiver_takes_is_refused_by_name() {
        let features = Features::default().with(Feature::Dedup);
        let said = check(&request(), &Begin { features, ..begin(3) }, None);
        assert!(said.starts_with("Denied: cannot receive tank/a b:c: ") && said.contains("dedup"), "{said}");
    }
}
