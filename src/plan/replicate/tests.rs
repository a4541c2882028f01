use proptest::prelude::*;

use super::*;
use crate::model::{Guid, Partial};
use crate::plan::retain::{Retention, Surroundings, retain};

/// `a b #c d` with holds in brackets: `a[h]`. A name is its own guid; `d=x` is called `d` and has the guid of `x`.
fn inventory(notation: &str) -> Inventory {
    let (mut versions, mut holds) = (Vec::new(), Vec::new());
    for (order, word) in notation.split_whitespace().enumerate() {
        let (word, held) = word.split_once('[').unwrap_or((word, ""));
        let kind = if word.starts_with('#') { VersionKind::Bookmark } else { VersionKind::Snapshot };
        let word = word.trim_start_matches('#');
        let (name, guid) = word.split_once('=').unwrap_or((word, word));
        let id = reference(name, guid);
        for tag in held.trim_end_matches(']').split(',').filter(|tag| !tag.is_empty()) {
            holds.push((id.clone(), tag.parse().expect("it is sound")));
        }
        let created = jiff::Timestamp::UNIX_EPOCH;
        versions.push(Version { id, kind, order: order as u64 + 1, created });
    }
    Inventory::new("tank/a", versions, holds)
}

fn reference(name: &str, guid: &str) -> VersionRef {
    let mut bytes = [0; 16];
    bytes[..guid.len()].copy_from_slice(guid.as_bytes());
    VersionRef { guid: Guid(bytes), name: name.parse().expect("it is sound") }
}

fn policy() -> Policy {
    Policy {
        intermediates: false,
        last: None,
        full_again: false,
        linear: false,
        here: "h".parse().expect("it is sound"),
        marks: false,
        there: "t".parse().expect("it is sound"),
    }
}

fn all() -> Policy {
    Policy { intermediates: true, ..policy() }
}

fn up_to(name: &str) -> Policy {
    Policy { last: Some(name.parse().expect("it is sound")), ..policy() }
}

fn linear_up_to(name: &str) -> Policy {
    Policy { linear: true, ..up_to(name) }
}

const AHEAD: &str = "! the target is ahead of @a: it has @b of the source, which is newer";
const DIVERGED: &str = "! the target has gone on since @x, the newest before it that both have: it has @own";

fn linear() -> Policy {
    Policy { linear: true, ..policy() }
}

fn marking() -> Policy {
    Policy { marks: true, ..linear() }
}

/// As [`inventory`], where there are bookmarks; behind it the versions that are marked.
fn with_marks(notation: &str, marked: &[&str]) -> Inventory {
    let mut inventory = inventory(notation);
    for guid in marked {
        let of = inventory.by_guid(reference(guid, guid).guid).cloned().unwrap_or_else(|| Version {
            id: reference(guid, guid),
            kind: VersionKind::Bookmark,
            order: 0,
            created: jiff::Timestamp::UNIX_EPOCH,
        });
        let id = VersionRef { guid: of.id.guid, name: mark_of(&of, &marking()) };
        let mark = Version { id, kind: VersionKind::Bookmark, ..of };
        let versions = inventory.versions().iter().cloned().chain([mark]).collect();
        set_versions(&mut inventory, versions);
    }
    inventory.caps.bookmarks = true;
    inventory
}

/// The plan in one line, or the conflict.
fn told(source: &str, target: &str, policy: &Policy) -> String {
    told_of(&inventory(source), &inventory(target), policy)
}

fn told_of(source: &Inventory, target: &Inventory, policy: &Policy) -> String {
    match replicate(source, target, policy) {
        Ok(plan) => plan.steps.iter().map(short).collect::<Vec<_>>().join(" "),
        Err(conflict) => format!("! {conflict}"),
    }
}

fn short(step: &Step) -> String {
    match step {
        Step::HoldHere { version } => format!("+{}", version.name),
        Step::HoldThere { version } => format!("+{}'", version.name),
        Step::ReleaseHere { version } => format!("-{}", version.name),
        Step::ReleaseThere { version } => format!("-{}'", version.name),
        Step::MarkHere { version, .. } => format!("#{}", version.name),
        Step::UnmarkHere { bookmark } => format!("/{}", named_by(bookmark)),
        Step::Transfer { version, base, resume } => {
            let base = base.as_ref().map_or(String::new(), |base| match base.name.as_str().contains(':') {
                true => format!("#{}", named_by(base)),
                false => base.name.to_string(),
            });
            format!("{base}>{}{}", version.name, if *resume { "~" } else { "" })
        }
    }
}

/// The name that is its guid.
fn named_by(version: &VersionRef) -> String {
    String::from_utf8_lossy(&version.guid.0).trim_end_matches('\0').to_owned()
}

/// Whatever this target's cursors are, those of others stay: bookmarks and holds, also of versions whose snapshot is gone, also of a tag
/// that begins with this one's.
#[test]
fn no_step_lets_go_of_what_is_kept_for_another_target() {
    for (notation, marked, target) in [
        ("a[k,hh] b[k] c", &["a"][..], "a[t,z]"),
        ("b[k] c[hh]", &["a"], "a[t,z]"),
        ("a[h,k] b[h,k] c", &["a", "b"], "a[t,z] b"),
        ("a[k] b", &[], "a b[z]"),
    ] {
        let mut source = with_marks(notation, marked);
        let others: Vec<_> = ["k", "hh"].iter().flat_map(|tag| ["a", "b"].map(|guid| (*tag, guid))).collect();
        let marks = others.iter().map(|(tag, guid)| {
            let of = Version {
                id: reference(guid, guid),
                kind: VersionKind::Bookmark,
                order: 0,
                created: jiff::Timestamp::UNIX_EPOCH,
            };
            let policy = Policy { here: tag.parse().expect("it is sound"), ..marking() };
            Version { id: VersionRef { guid: of.id.guid, name: mark_of(&of, &policy) }, ..of }
        });
        let versions = source.versions().iter().cloned().chain(marks.collect::<Vec<_>>()).collect();
        set_versions(&mut source, versions);
        for policy in [marking(), Policy { intermediates: true, ..marking() }, policy(), all()] {
            let (mut here, mut there) = (source.clone(), inventory(target));
            let kept = |here: &Inventory, there: &Inventory| {
                let foreign = |(version, tag): &(VersionRef, HoldTag), own: &HoldTag| {
                    (tag != own).then(|| format!("{version} {tag}"))
                };
                let marks = here.versions().iter().filter(|version| {
                    ["k:", "hh:"].iter().any(|tag| version.id.name.as_str().starts_with(tag))
                });
                let holds = here.holds().iter().filter_map(|held| foreign(held, &policy.here));
                let theirs = there.holds().iter().filter_map(|held| foreign(held, &policy.there));
                marks.map(|mark| mark.id.to_string()).chain(holds).chain(theirs).collect::<Vec<_>>()
            };
            let before = kept(&here, &there);
            for step in replicate(&source, &there.clone(), &policy).expect("no conflict").steps {
                simulate(&step, &policy, &mut here, &mut there);
            }
            assert_eq!(kept(&here, &there), before, "{notation} {target} {policy:?}");
        }
    }
}

#[test]
fn where_there_are_bookmarks_the_cursor_is_one_and_the_snapshot_may_go() {
    for (source, marked, target, policy, plan) in [
        ("a", &[][..], "", marking(), "+a >a +a' #a -a"),
        ("a b", &["a"], "a[t]", marking(), "+b a>b +b' #b /a -a' -b"),
        // What was sent may be gone: its bookmark is the base.
        ("b", &["a"], "a[t]", marking(), "+b #a>b +b' #b /a -a' -b"),
        (
            "b c",
            &["a"],
            "a[t]",
            Policy { intermediates: true, ..marking() },
            "+b #a>b +b' #b /a -a' +c b>c +c' #c -b /b -b' -c",
        ),
        // Nothing is new.
        ("a", &["a"], "a[t]", marking(), ""),
        // What was broken off, and what was kept by a hold before, is put right.
        ("a[h]", &[], "a[t]", marking(), "#a -a"),
        ("a[h] b", &[], "a[t]", marking(), "+b a>b +b' #b -a -a' -b"),
        ("a[h]", &["a"], "a[t]", marking(), "-a"),
        ("a b[h]", &["a"], "a[t] b", marking(), "+b' #b -b -a' /a"),
        ("a b[h]", &["a", "b"], "a[t] b[t]", marking(), "-b -a' /a"),
        // Up to an older one than the target has.
        ("a b", &["b"], "a b[t]", Policy { last: up_to("a").last, ..marking() }, ""),
        ("a b", &["a"], "a[t] b", Policy { last: up_to("a").last, ..marking() }, "+b' #b -a' /a"),
        // Another's bookmark is there for as long as the other target needs it: it becomes one of this target's first.
        ("#x=a b", &[], "a[t]", marking(), "#x +b #a>b +b' #b /a -a' -b"),
        ("#x=a b", &["a"], "a[t]", marking(), "+b #a>b +b' #b /a -a' -b"),
        ("a #x=b", &[], "a b[t]", marking(), "#x"),
        // As is what nothing keeps for this target, which was brought there by another way.
        ("a b", &[], "a", marking(), "#a +b a>b +b' #b /a -b"),
        // Where there is the snapshot, others' bookmarks are not looked at.
        ("a #x=a b", &["a"], "a[t]", marking(), "+b a>b +b' #b /a -a' -b"),
        ("a", &["a"], "a[t]", linear(), "+a"),
    ] {
        let source_of = with_marks(source, marked);
        assert_eq!(told_of(&source_of, &inventory(target), &policy), plan, "{source} {marked:?} -> {target}");
    }
}

#[test]
fn what_can_not_be_marked_stays_held() {
    for (source, marked, target, policy, plan) in [
        ("a", &[][..], "", marking(), "+a >a +a'"),
        ("a b", &["a"], "a[t]", marking(), "+b a>b +b' /a -a'"),
        ("a[h] b", &[], "a[t]", marking(), "+b a>b +b' -a -a'"),
        (
            "b c",
            &["a"],
            "a[t]",
            Policy { intermediates: true, ..marking() },
            "+b #a>b +b' /a -a' +c b>c +c' -b -b'",
        ),
        ("a[h]", &[], "a[t]", marking(), ""),
        ("a", &[], "a[t]", marking(), "+a"),
        ("a b", &[], "a[t]", marking(), "+a +b a>b +b' -a'"),
        ("#x=a b", &[], "a[t]", marking(), "+b x>b +b' -a'"),
    ] {
        let source_of = with_marks(source, marked);
        let mut steps = replicate(&source_of, &inventory(target), &policy).expect("it is sound").steps;
        while let Some(at) = steps.iter().position(|step| matches!(step, Step::MarkHere { .. })) {
            held_instead(&mut steps, at, &source_of, &policy);
        }
        let told: Vec<_> = steps.iter().map(short).collect();
        assert_eq!(told.join(" "), plan, "{source} {marked:?} -> {target}");
    }
}

#[test]
fn plans() {
    for (source, target, policy, plan) in [
        ("a", "", policy(), "+a >a +a'"),
        ("a b c", "", policy(), "+c >c +c'"),
        ("a b c", "", all(), "+a >a +a' +b a>b +b' -a -a' +c b>c +c' -b -b'"),
        ("a[h] b c", "a[t]", policy(), "+c a>c +c' -a -a'"),
        ("a[h] b c", "a[t]", all(), "+b a>b +b' -a -a' +c b>c +c' -b -b'"),
        // Nothing is new.
        ("a[h]", "a[t]", policy(), ""),
        ("a b[h]", "a b[t]", all(), ""),
        // What was broken off is put right: a hold that is missing, one too many.
        ("a b[h]", "a b", policy(), "+b'"),
        ("a[h] b[h]", "a[t] b[t]", policy(), "-a -a'"),
        ("a b", "a b", policy(), "+b +b'"),
        ("a[h] b[h] c", "a[t]", policy(), "+c a>c +c' -a -a' -b"),
        // The target may have more: older ones that the source has pruned, its own ones.
        ("c[h] d", "a b c[t]", policy(), "+d c>d +d' -c -c'"),
        ("c[h] d", "c[t] own", policy(), "+d c>d +d' -c -c'"),
        // Names prove nothing.
        (
            "a[h] n=x d",
            "a[t] n=y",
            all(),
            "! the target has another version that is called @n: 79000000-0000-0000-0000-000000000000 there, 78000000-0000-0000-0000-000000000000 here",
        ),
        ("new=a[h] d", "old=a[t]", policy(), "+d new>d +d' -new -old'"),
        // Up to one that is named; that the target has a newer one already is not forgotten.
        ("a b[h]", "a b[t]", up_to("a"), ""),
        ("a b[h]", "b[t]", Policy { full_again: true, ..up_to("a") }, "+a >a +a' -a -a'"),
        ("a b c[h] d", "a c[t]", Policy { intermediates: true, ..up_to("b") }, "+b a>b +b' -b -b'"),
        ("a[h] b[h] c", "a[t] b", up_to("a"), "+b' -a -a'"),
        ("a[h] b c", "a[t]", up_to("b"), "+b a>b +b' -a -a'"),
        // A bookmark, where the source has them, is a base as good as its snapshot.
        (
            "#a b",
            "a",
            Policy { linear: true, ..policy() },
            "! @a is what both had, and the source has it no longer: the target has @a",
        ),
        ("", "a", policy(), "! there is nothing to send: the source has no snapshot"),
        // The target has newer ones of the source alone, or they stand in the way.
        ("a b", "b", up_to("a"), AHEAD),
        ("a b c", "x b", up_to("a"), AHEAD),
        ("a #b c", "b", up_to("a"), AHEAD),
        ("a b", "b", Policy { full_again: true, ..linear_up_to("a") }, AHEAD),
        ("x a b", "x b", linear_up_to("a"), AHEAD),
        ("x a b", "x[t] own", linear_up_to("a"), DIVERGED),
        ("x", "a b", policy(), "! source and target have no version in common: the target has @a, @b"),
        ("x", "a b", Policy { full_again: true, ..policy() }, "+x >x +x'"),
        (
            "x",
            "a b",
            Policy { full_again: true, ..linear() },
            "! source and target have no version in common: the target has @a, @b",
        ),
        (
            "a[h] b",
            "a[t] own",
            linear(),
            "! the target has gone on since @a, the newest before it that both have: it has @own",
        ),
        ("a b[h]", "a b[t] own", linear(), ""),
    ] {
        assert_eq!(told(source, target, &policy), plan, "{source} -> {target}");
    }
}

#[test]
fn a_bookmark_is_a_base_where_there_are_bookmarks() {
    let mut source = inventory("#a b");
    source.caps.bookmarks = true;
    assert_eq!(told_of(&source, &inventory("a[t]"), &linear()), "+b a>b +b' -a'");
    // A snapshot goes before its bookmark.
    let mut both = inventory("a[h] #a b");
    both.caps.bookmarks = true;
    assert_eq!(told_of(&both, &inventory("a[t]"), &linear()), "+b a>b +b' -a -a'");
}

#[test]
fn what_both_had_and_only_the_target_has_is_named() {
    const BOTH_HAD: &str = "! @a is what both had, and the source has it no longer: the target has";
    const NOTHING: &str = "! source and target have no version in common: the target has";
    for (source, target, policy, plan) in [
        // What the target keeps of this source proves it.
        ("b", "a[t]", policy(), format!("{BOTH_HAD} @a")),
        ("b c", "x a[t]", all(), format!("{BOTH_HAD} @x, @a")),
        ("b", "a[t] own", linear(), format!("{BOTH_HAD} @a, @own")),
        ("b", "x[t] a[t] own", policy(), format!("{BOTH_HAD} @x, @a, @own")),
        ("b", "a[t]", marking(), format!("{BOTH_HAD} @a")),
        // What it keeps of another, or for somebody, does not; nor what has the same name.
        ("b", "a[other]", policy(), format!("{NOTHING} @a")),
        ("b", "a", policy(), format!("{NOTHING} @a")),
        ("a=y b", "a=z", policy(), format!("{NOTHING} @a")),
        // Anything that both still have is a base; in full nothing is needed.
        ("b c", "a[t] b", policy(), "+c b>c +c' -a'".to_owned()),
        ("b", "a[t]", Policy { full_again: true, ..policy() }, "+b >b +b' -a'".to_owned()),
        ("b", "a[t]", Policy { full_again: true, ..linear() }, format!("{BOTH_HAD} @a")),
    ] {
        assert_eq!(told(source, target, &policy), plan, "{source} -> {target}");
    }
    let conflict = replicate(&inventory("b"), &inventory("a[t]"), &policy()).unwrap_err();
    let base = reference("a", "a");
    assert_eq!(conflict, Conflict::BaseOnlyThere { base: base.clone(), theirs: vec![base] });
    assert!(!conflict.is_transient());
    let hint = conflict.hint("/a b", "tank/c").expect("there is a way");
    let helps = ["cowsnap clone 'tank/c@a' NEW", "replicate --full '/a b' 'tank/c'"];
    assert!(helps.iter().all(|help| hint.contains(help)), "{hint}");
}

fn with_partial(target: &str, guid: &str, live: bool) -> Inventory {
    let VersionRef { guid, name } = reference(guid, guid);
    let mut target = inventory(target);
    target.partials.push(Partial {
        name,
        guid,
        token: "x".into(),
        live,
        since: None,
        bytes: None,
        base: None,
    });
    target
}

#[test]
fn what_was_broken_off_goes_on_first() {
    let source = inventory("a[h] b[h] c");
    let target = with_partial("a[t]", "b", false);
    assert_eq!(told_of(&source, &target, &policy()), "a>b~ +b' -a -a' +c b>c +c' -b -b'");
    // What is damaged is not gone on with, but on ZFS, which has its own word for what there is.
    let (mut damaged, mut sound) = (target.clone(), target.clone());
    (damaged.partials[0].bytes, sound.partials[0].bytes) = (Some(0), Some(5));
    assert_eq!(told_of(&source, &damaged, &policy()), "+c a>c +c' -a -a' -b");
    assert_eq!(told_of(&source, &damaged, &linear()), told_of(&source, &target, &linear()));
    assert_eq!(told_of(&source, &sound, &policy()), told_of(&source, &target, &policy()));
    let live = with_partial("a[t]", "b", true);
    assert_eq!(told_of(&source, &live, &policy()), "! the target has received @b in part, and still does");
    let foreign = with_partial("a[t]", "z", false);
    assert_eq!(told_of(&source, &foreign, &policy()), "+c a>c +c' -a -a' -b");
    let stands = told_of(&source, &foreign, &linear());
    assert_eq!(stands, "! the target has received @z in part, which is not of this source");
}

/// What builds upon something else is no beginning of what is to be sent: it neither goes on nor is it sent for its own sake.
#[test]
fn what_was_broken_off_upon_another_base_does_not_go_on() {
    let upon = |base: &str| {
        let mut target = with_partial("a[t]", "b", false);
        target.partials[0].base = Some(if base.is_empty() { Guid::NIL } else { reference(base, base).guid });
        target
    };
    let source = inventory("a[h] b[h] c");
    for (base, policy, plan) in [
        ("a", policy(), "a>b~ +b' -a -a' +c b>c +c' -b -b'"),
        ("", policy(), "+c a>c +c' -a -a' -b"),
        ("x", policy(), "+c a>c +c' -a -a' -b"),
        ("", all(), "a>b +b' -a -a' +c b>c +c' -b -b'"),
        ("a", all(), "a>b~ +b' -a -a' +c b>c +c' -b -b'"),
    ] {
        assert_eq!(told_of(&source, &upon(base), &policy), plan, "{base:?}");
    }
    // In full, to a target that has nothing else.
    let mut empty = inventory("");
    empty.partials = upon("").partials;
    assert_eq!(told_of(&inventory("b[h]"), &empty, &policy()), ">b~ +b'");
}

#[test]
fn a_plan_is_told_in_words() {
    let mut source = inventory("a[h] b[h] c");
    let target = with_partial("a[t]", "b", false);
    let plan = replicate(&source, &target, &policy()).expect("it is sound");
    let told: Vec<_> = plan.steps.iter().take(4).map(ToString::to_string).collect();
    let expected = [
        "go on with @b upon @a",
        "hold @b at the target",
        "release @a at the source",
        "release @a at the target",
    ];
    assert_eq!(told, expected);
    source = inventory("c");
    let full = replicate(&source, &inventory(""), &policy()).expect("it is sound");
    let told: Vec<_> = full.steps.iter().take(2).map(ToString::to_string).collect();
    assert_eq!(told, ["hold @c at the source", "send @c in full"]);
}

/// What goes out encrypted goes on where what is there is: elsewhere no increment of it is taken.
#[test]
fn what_is_encrypted_does_not_go_on_where_it_is_not() {
    const MISMATCH: &str = "! the source is encrypted and goes out as it is, and the target, which has @a of it, is not encrypted";
    for (ours, theirs, source, target, plan) in [
        (Some(true), Some(false), "a[h] b", "a[t]", MISMATCH),
        (Some(true), Some(true), "a[h] b", "a[t]", "+b a>b +b' -a -a'"),
        (Some(false), Some(true), "a[h] b", "a[t]", "+b a>b +b' -a -a'"),
        (Some(false), Some(false), "a[h] b", "a[t]", "+b a>b +b' -a -a'"),
        (Some(true), None, "a[h] b", "a[t]", "+b a>b +b' -a -a'"),
        (None, Some(false), "a[h] b", "a[t]", "+b a>b +b' -a -a'"),
        // In full it makes what it goes to, and of what is there nothing travels.
        (Some(true), Some(false), "a", "", "+a >a +a'"),
        (Some(true), Some(false), "a[h]", "a[t]", ""),
    ] {
        let (mut source, mut target) = (inventory(source), inventory(target));
        (source.caps.encrypted, target.caps.encrypted) = (ours, theirs);
        assert_eq!(told_of(&source, &target, &linear()), plan, "{ours:?} {theirs:?}");
    }
}

#[test]
fn streams_of_two_filesystems_are_unlike() {
    assert_eq!(expect_alike("btrfs", "btrfs"), Ok(()));
    let conflict = expect_alike("btrfs", "ZFS").unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "the source is on btrfs and the target on ZFS, which does not take its streams"
    );
    assert!(!conflict.is_transient());
    assert!(conflict.hint("from", "to").is_some_and(|hint| hint.contains("on the same filesystem")));
}

#[test]
fn each_conflict_says_what_would_help() {
    let hint = |source: &str, target: &Inventory, policy: &Policy| {
        let conflict = replicate(&inventory(source), target, policy).unwrap_err();
        assert_eq!(conflict.is_transient(), matches!(conflict, Conflict::ForeignPartial { live: true, .. }));
        conflict.hint("from", "to").unwrap_or_default()
    };
    for (source, target, policy, wanted) in [
        ("", inventory(""), policy(), "cowsnap snapshot 'from'"),
        ("x", inventory("a"), policy(), "cowsnap replicate --full 'from' 'to'"),
        ("a b", inventory("a own"), linear(), "cowsnap clone 'to@own' NEW"),
        ("a n=x", inventory("a n=y"), policy(), "cowsnap rename 'to@n' NEW"),
        ("a b", with_partial("a", "b", true), policy(), "wait until it is done"),
        ("a b", with_partial("a", "z", false), linear(), "cowsnap destroy 'to@%partial'"),
        ("#a b", inventory("a"), policy(), "cowsnap clone 'to@a' NEW"),
    ] {
        let said = hint(source, &target, &policy);
        assert!(said.contains(wanted) && said.is_empty() == wanted.is_empty(), "{said}");
    }
    let (mut encrypted, mut open) = (inventory("a b"), inventory("a"));
    (encrypted.caps.encrypted, open.caps.encrypted) = (Some(true), Some(false));
    let said = replicate(&encrypted, &open, &linear()).unwrap_err().hint("from", "to").expect("a hint");
    assert!(said.contains("--zfs-flags"), "{said}");
    let many = replicate(&inventory("x"), &inventory("a b c d e f g"), &policy()).unwrap_err();
    assert!(many.to_string().ends_with("@a, @b, @c, @d, @e, 2 more"), "{many}");
}

#[derive(Debug, Clone)]
enum Op {
    Snapshot,
    PruneHere(usize),
    PruneThere(usize),
    /// Plan anew, and do so many steps of it; up to the snapshot of that number, if it says one.
    Work(usize, Option<usize>),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::Snapshot),
        (0..20usize).prop_map(Op::PruneHere),
        (0..20usize).prop_map(Op::PruneThere),
        ((0..9usize), prop::option::of(0..20usize)).prop_map(|(steps, last)| Op::Work(steps, last)),
    ]
}

/// Destroys the `n`-th of those that retention lets go, or all of them.
fn prune(inventory: &mut Inventory, n: usize) {
    let (one, all) = (n.checked_sub(5), n + 1);
    let rules = Retention { last: if one.is_some() { 1 } else { all }, ..Retention::default() };
    let now = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
    let around = Surroundings::default();
    let verdicts = retain(inventory, &rules, &around, &now);
    let going =
        verdicts.iter().filter(|verdict| !verdict.is_kept()).map(|verdict| verdict.version.id.clone());
    let victims: HashSet<_> = match one {
        Some(nth) => going.skip(nth).take(1).collect(),
        None => going.collect(),
    };
    // Retention destroys no bookmarks.
    let stays = |v: &&Version| v.kind == VersionKind::Bookmark || !victims.contains(&v.id);
    let left = inventory.versions().iter().filter(stays).cloned().collect();
    set_versions(inventory, left);
}

proptest! {
    /// Whatever is pruned between any two steps, and wherever work is broken off: the next plan is an increment, what was
    /// planned can be done, and once it is all done both keep the newest version, and nothing else is kept.
    #[test]
    fn whatever_happens_the_next_increment_has_its_base(
        ops in prop::collection::vec(op(), 1..60),
        intermediates in any::<bool>(),
        linear in any::<bool>(),
        marks in any::<bool>(),
    ) {
        let policy = Policy { intermediates, linear, marks, ..policy() };
        let (mut source, mut target) = (inventory("first"), inventory(""));
        source.caps.bookmarks = marks;
        let mut made = 0;
        for op in ops.into_iter().chain([Op::Work(usize::MAX, None)]) {
            match op {
                Op::Snapshot => {
                    made += 1;
                    let id = reference(&format!("s{made}"), &format!("s{made}"));
                    let order = source.newest().map_or(1, |newest| newest.order + 1);
                    let version = Version { id, kind: VersionKind::Snapshot, order, created: jiff::Timestamp::UNIX_EPOCH };
                    let versions = source.versions().iter().cloned().chain([version]).collect();
                    set_versions(&mut source, versions);
                }
                Op::PruneHere(n) => prune(&mut source, n),
                Op::PruneThere(n) => prune(&mut target, n),
                Op::Work(steps, last) => {
                    let had_some = !target.versions().is_empty();
                    let last = last.and_then(|n| snapshots(&source).nth(n)).map(|version| version.id.name.clone());
                    let policy = Policy { last, ..policy.clone() };
                    let plan = match replicate(&source, &target, &policy) {
                        // Upon nothing, or to where the target has gone past it.
                        Err(_) if policy.last.is_some() => continue,
                        plan => plan.expect("no conflict comes of pruning"),
                    };
                    prop_assert!(plan.base.is_some() == had_some);
                    for step in plan.steps.iter().take(steps) {
                        if let Step::Transfer { version, base, .. } = step {
                            prop_assert!(source.snapshot_of(version.guid).is_some());
                            if let Some(base) = base {
                                prop_assert!(source.versions().iter().any(|version| version.id == *base));
                                prop_assert!(marks || source.snapshot_of(base.guid).is_some());
                                prop_assert!(target.snapshot_of(base.guid).is_some());
                            }
                        }
                        simulate(step, &policy, &mut source, &mut target);
                    }
                }
            }
        }
        let newest = snapshots(&source).next_back().expect("it is sound").id.clone();
        prop_assert!(target.snapshot_of(newest.guid).is_some());
        let kept: Vec<_> = super::marks(&source, &policy).iter().map(|mark| mark.id.guid).collect();
        match marks {
            true => prop_assert!(source.holds().is_empty() && kept == [newest.guid]),
            false => prop_assert_eq!(source.holds(), &[(newest.clone(), policy.here.clone())]),
        }
        prop_assert_eq!(target.holds(), &[(newest, policy.there.clone())]);
        prop_assert_eq!(replicate(&source, &target, &policy).expect("it is sound").steps, vec![]);
    }
}

/// What happens to one source and two targets.
#[derive(Debug, Clone)]
enum Both {
    Snapshot,
    PruneHere(usize),
    PruneThere(usize, usize),
    /// Bring both up to date, each until so many steps of it are done.
    Work([usize; 2]),
    /// Before that, the second gets what the first has, by another way.
    Seed([usize; 2]),
}

fn both() -> impl Strategy<Value = Both> {
    prop_oneof![
        Just(Both::Snapshot),
        (0..20usize).prop_map(Both::PruneHere),
        (0..2usize, 0..20usize).prop_map(|(target, n)| Both::PruneThere(target, n)),
        [0..12usize, 0..12usize].prop_map(Both::Work),
        [0..12usize, 0..12usize].prop_map(Both::Seed),
    ]
}

/// Does a step of a target's plan; a transfer that is cut leaves a part of it.
fn done(step: &Step, is_cut: bool, policy: &Policy, source: &mut Inventory, target: &mut Inventory) {
    match step {
        Step::Transfer { version, .. } if is_cut => {
            let VersionRef { guid, name } = version.clone();
            let (token, live, since, bytes) = ("x".into(), false, None, None);
            target.partials = vec![Partial { name, guid, token, live, since, bytes, base: None }];
        }
        step => simulate(step, policy, source, target),
    }
}

/// Brings both targets up to date as an executor does: what is marked first, then stream after stream, and what is before each.
fn work_on_both(
    source: &mut Inventory,
    lanes: &mut [(Policy, Inventory); 2],
    until: [usize; 2],
) -> Result<(), TestCaseError> {
    let plan = |(policy, target): &(Policy, Inventory)| replicate(source, target, policy);
    let plans = lanes.each_ref().map(|lane| plan(lane).expect("no conflict comes of pruning"));
    let turns = crate::plan::fan::turns(source, &plans.each_ref(), true);
    let mut next = [0; 2];
    let mut advance = |lane: usize, source: &mut Inventory, is_wanted: &dyn Fn(usize, &Step) -> bool| {
        let (policy, target) = &mut lanes[lane];
        while let Some(step) = plans[lane].steps.get(next[lane]).filter(|step| is_wanted(next[lane], step)) {
            if let Step::Transfer { base: Some(base), .. } = step {
                prop_assert!(source.versions().iter().any(|version| version.id == *base), "{step}");
                prop_assert!(target.snapshot_of(base.guid).is_some());
            }
            done(step, next[lane] + 1 == until[lane], policy, source, target);
            next[lane] += 1;
            if matches!(step, Step::Transfer { .. }) {
                break;
            }
        }
        Ok(())
    };
    let is_mark = |_: usize, step: &Step| matches!(step, Step::MarkHere { .. });
    for lane in 0..2 {
        advance(lane, source, &is_mark)?;
    }
    for (lane, until) in until.into_iter().enumerate() {
        advance(lane, source, &|n, step| n < until && !matches!(step, Step::Transfer { .. }))?;
    }
    for turn in turns {
        for &lane in &turn.lanes {
            advance(lane, source, &|n, step| n < until[lane] && matches!(step, Step::Transfer { .. }))?;
        }
        for &lane in &turn.lanes {
            advance(lane, source, &|n, step| n < until[lane] && !matches!(step, Step::Transfer { .. }))?;
        }
    }
    Ok(())
}

proptest! {
    /// Nothing that is done for one target takes away what another's next increment builds upon.
    #[test]
    fn of_two_targets_of_one_source_none_loses_its_base_to_the_other(
        ops in prop::collection::vec(both(), 1..60),
        intermediates in any::<bool>(),
    ) {
        let policy = |tag: &str| Policy { intermediates, here: tag.parse().expect("it is sound"), ..marking() };
        let mut source = with_marks("first", &[]);
        let mut lanes = [(policy("h"), inventory("")), (policy("k"), inventory(""))];
        let mut made = 0;
        for op in ops.into_iter().chain([Both::Work([usize::MAX; 2])]) {
            match op {
                Both::Snapshot => {
                    made += 1;
                    let id = reference(&format!("s{made}"), &format!("s{made}"));
                    let order = source.newest().map_or(1, |newest| newest.order + 1);
                    let version = Version { id, kind: VersionKind::Snapshot, order, created: jiff::Timestamp::UNIX_EPOCH };
                    let versions = source.versions().iter().cloned().chain([version]).collect();
                    set_versions(&mut source, versions);
                }
                Both::PruneHere(n) => prune(&mut source, n),
                Both::PruneThere(target, n) => prune(&mut lanes[target].1, n),
                Both::Work(until) => work_on_both(&mut source, &mut lanes, until)?,
                Both::Seed(until) => {
                    lanes[1].1 = Inventory::new("copy", lanes[0].1.versions().to_vec(), Vec::new());
                    work_on_both(&mut source, &mut lanes, until)?;
                }
            }
        }
        let newest = snapshots(&source).next_back().expect("it is sound").id.clone();
        for (policy, target) in &lanes {
            let kept: Vec<_> = super::marks(&source, policy).iter().map(|mark| mark.id.guid).collect();
            prop_assert!(source.holds().is_empty() && kept == [newest.guid]);
            prop_assert!(target.snapshot_of(newest.guid).is_some());
            prop_assert_eq!(replicate(&source, target, policy).expect("it is sound").steps, vec![]);
        }
    }
}
