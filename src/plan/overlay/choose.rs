//! Which mode serves an overlay best, and why: the cheapest that is correct.

use crate::model::overlay::{BaseKind, Mode};

/// From this size on, a first write to a file that copies all of it is worth a warning: a fifth of a second on a fast disk.
pub const EXPENSIVE_COPY: u64 = 64 << 20;

/// What was found out about the machine, the base and the home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What sort of base it is.
    pub base: BaseKind,
    /// The mode that serves the image that the base is, if it is one.
    pub image: Option<Mode>,
    /// The modes that this program serves.
    pub served: Vec<Mode>,
    /// The filesystem that can clone the base in one call: `btrfs`, `ZFS`; else why there is none.
    pub native: Result<String, String>,
    /// Why that is done only if it is asked for; `None` if nothing speaks against it.
    pub against_native: Option<String>,
    /// Why overlayfs can not be mounted here; `None` if it can.
    pub no_mount: Option<String>,
    /// What overlayfs can not do with the home's filesystem; `None` if that has all that it needs.
    pub against_overlayfs: Option<String>,
    /// Whether it is to lie on layers.
    pub layers: bool,
    /// Whether one of these holds files of which only blocks are there.
    pub blocks: bool,
    /// Whether files of the base and of the layers can share blocks with the home's; `None` if there is none to try it with, or
    /// none that can be tried.
    pub reflink: Option<bool>,
    /// The largest file of the base and of the layers: its path for people, and its size in bytes.
    pub largest: Option<(String, u64)>,
    /// False if there are too many files to look at all of them, or if some can not be looked at.
    pub looked_at_all: bool,
    /// Why `/dev/fuse` can not be used; `None` if it can.
    pub no_fuse: Option<String>,
}

/// A mode with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The mode.
    pub mode: Mode,
    /// Why this one, and why not those before it.
    pub why: Vec<String>,
    /// What may turn out to be expensive.
    pub warnings: Vec<String>,
}

/// No mode can serve this overlay here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no mode can serve it: {}", why.join("; "))]
pub struct NoMode {
    /// Why none of them, one for each.
    pub why: Vec<String>,
}

/// The mode that was asked for, with what there is to warn of; or the cheapest one that is correct here.
///
/// # Errors
/// [`NoMode`] if none is, or the one that was asked for is not.
pub fn choose(facts: &Facts, asked: Option<Mode>) -> Result<Choice, NoMode> {
    if let Some(mode) = asked {
        impediment(facts, mode).map_or(Ok(()), |why| Err(NoMode { why: vec![why] }))?;
        let why = vec![format!("{mode} was asked for")];
        return Ok(Choice { mode, why, warnings: warnings(facts, mode) });
    }
    let of_image = [facts.image.unwrap_or(Mode::Kernel)];
    let order: &[Mode] = match copies_whole_files(facts) {
        _ if facts.image.is_some() => &of_image,
        // A suite that writes to a large file pays for all of it: by blocks it is cheaper.
        true => &[Mode::Native, Mode::Fuse, Mode::Kernel],
        // Others read such a layer once its files were made whole.
        false if facts.blocks => &[Mode::Native, Mode::Fuse, Mode::Kernel],
        false => &[Mode::Native, Mode::Kernel, Mode::Fuse],
    };
    let mut why_not = Vec::new();
    for &mode in order {
        match impediment(facts, mode).or_else(|| against(facts, mode)) {
            Some(why) => why_not.push(format!("not {mode}: {why}")),
            None => {
                let why = [vec![reason(facts, mode)], why_not].concat();
                return Ok(Choice { mode, why, warnings: warnings(facts, mode) });
            }
        }
    }
    Err(NoMode { why: why_not })
}

/// Why `mode` can not serve this; `None` if it can.
fn impediment(facts: &Facts, mode: Mode) -> Option<String> {
    if !facts.served.contains(&mode) {
        return Some("this version does not have it".into());
    }
    if facts.layers && !mode.has_layers() {
        return Some("it can not lie on layers".into());
    }
    match mode {
        Mode::Native => facts.native.clone().err(),
        Mode::Squashfs | Mode::Erofs => facts.no_mount.clone(),
        _ if facts.base == BaseKind::Image => Some("the base is an image".into()),
        Mode::Kernel => facts.no_mount.clone(),
        Mode::Fuse => facts.no_fuse.clone(),
        Mode::Disabled if facts.base != BaseKind::Dir => Some("the base is not a directory".into()),
        _ => None,
    }
}

/// Why `mode` is taken only if it is asked for; `None` if nothing speaks against it.
fn against(facts: &Facts, mode: Mode) -> Option<String> {
    match mode {
        Mode::Native if facts.layers => {
            Some("layers are put together for it first, as a tree of their own".into())
        }
        Mode::Native => facts.against_native.clone(),
        Mode::Kernel => facts.against_overlayfs.clone(),
        _ => None,
    }
}

fn reason(facts: &Facts, mode: Mode) -> String {
    match mode {
        Mode::Native => {
            format!(
                "the base is on {}, which clones it in one call",
                facts.native.as_deref().unwrap_or("another filesystem")
            )
        }
        Mode::Kernel if facts.reflink == Some(true) => {
            "overlayfs can be mounted, and a first write to a file shares its blocks with the base".into()
        }
        Mode::Kernel if !copies_whole_files(facts) => {
            "overlayfs can be mounted, and there are no large files that a first write would copy".into()
        }
        Mode::Kernel => "overlayfs can be mounted".into(),
        Mode::Fuse if facts.blocks => {
            "it reads layers that hold only some blocks of a file as they are".into()
        }
        Mode::Fuse if copies_whole_files(facts) => {
            let blocks = "a first write to a large file copies only the blocks it touches";
            match has_large_files(facts) {
                true => blocks.into(),
                false => format!("not all files were looked at, and there may be large ones: {blocks}"),
            }
        }
        Mode::Fuse => "it needs no privilege".into(),
        Mode::Squashfs | Mode::Erofs => format!("the base is an image of {mode}, which overlayfs can lie on"),
        other => format!("{other} can serve it"),
    }
}

/// Whether a first write through overlayfs may copy a large file.
fn copies_whole_files(facts: &Facts) -> bool {
    facts.reflink != Some(true) && (has_large_files(facts) || !facts.looked_at_all)
}

/// Whether one was found.
fn has_large_files(facts: &Facts) -> bool {
    facts.largest.as_ref().is_some_and(|(_, size)| *size >= EXPENSIVE_COPY)
}

fn warnings(facts: &Facts, mode: Mode) -> Vec<String> {
    let is_overlayfs = matches!(mode, Mode::Kernel | Mode::Squashfs | Mode::Erofs);
    let against = facts.against_overlayfs.clone().filter(|_| is_overlayfs);
    against.into_iter().chain(of_copies(facts, mode)).collect()
}

fn of_copies(facts: &Facts, mode: Mode) -> Option<String> {
    let copies = match mode {
        Mode::Kernel => copies_whole_files(facts),
        // An image shares blocks with nobody.
        Mode::Squashfs | Mode::Erofs => copies_whole_files(&Facts { reflink: Some(false), ..facts.clone() }),
        _ => false,
    };
    if !copies {
        return None;
    }
    let largest = match &facts.largest {
        // A small one is no reason, where others were not looked at.
        Some((path, size)) if has_large_files(facts) => format!("{path} has {} MiB", size >> 20),
        _ => "there may be large ones".into(),
    };
    let seen = if facts.looked_at_all { "" } else { " (not all files were looked at)" };
    let (copies, why) = match (mode, facts.reflink) {
        (Mode::Kernel, Some(false)) => ("copies", "as what it lies on and the home share no blocks"),
        (Mode::Kernel, _) => {
            ("may copy", "as it is not known whether what it lies on shares blocks with the home")
        }
        _ => ("copies", "as an image shares no blocks"),
    };
    let but = if mode == Mode::Kernel { "; on btrfs or XFS it would cost nothing" } else { "" };
    Some(format!("the first write to a file {copies} all of it, {why}: {largest}{seen}{but}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn facts() -> Facts {
        Facts {
            base: BaseKind::Dir,
            image: None,
            served: Mode::ALL.to_vec(),
            native: Err("the base is neither on btrfs nor on ZFS".into()),
            against_native: None,
            no_mount: None,
            against_overlayfs: None,
            reflink: Some(true),
            largest: Some(("db".into(), 3 << 30)),
            looked_at_all: true,
            no_fuse: None,
            layers: false,
            blocks: false,
        }
    }

    #[test]
    fn overlayfs_that_can_not_rename_is_taken_if_it_is_asked_for() {
        let poor = Facts { against_overlayfs: Some("nothing can be renamed".into()), ..facts() };
        check(
            &poor,
            None,
            expect![
                "fuse: it needs no privilege; not native: the base is neither on btrfs nor on ZFS; not kernel: nothing can be renamed"
            ],
        );
        check(
            &poor,
            Some(Mode::Kernel),
            expect![[r#"
                kernel: kernel was asked for
                warning: nothing can be renamed"#]],
        );
    }

    #[test]
    fn what_lies_on_layers_is_served_by_who_can_read_them() {
        let layers = Facts { layers: true, native: Ok("btrfs".into()), ..facts() };
        check(
            &layers,
            None,
            expect![
                "kernel: overlayfs can be mounted, and a first write to a file shares its blocks with the base; not native: layers are put together for it first, as a tree of their own"
            ],
        );
        check(&layers, Some(Mode::Copy), expect!["no mode can serve it: it can not lie on layers"]);
        let blocks = Facts { blocks: true, ..layers };
        check(
            &blocks,
            None,
            expect![
                "fuse: it reads layers that hold only some blocks of a file as they are; not native: layers are put together for it first, as a tree of their own"
            ],
        );
        let no_fuse = Facts { no_fuse: Some("there is no /dev/fuse".into()), ..blocks };
        check(
            &no_fuse,
            None,
            expect![
                "kernel: overlayfs can be mounted, and a first write to a file shares its blocks with the base; not native: layers are put together for it first, as a tree of their own; not fuse: there is no /dev/fuse"
            ],
        );
    }

    fn check(facts: &Facts, asked: Option<Mode>, expected: expect_test::Expect) {
        let text = match choose(facts, asked) {
            Ok(choice) => {
                let warnings: String = choice.warnings.iter().map(|w| format!("\nwarning: {w}")).collect();
                format!("{}: {}{warnings}", choice.mode, choice.why.join("; "))
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn an_image_is_served_as_what_it_is() {
        let facts = Facts {
            base: BaseKind::Image,
            image: Some(Mode::Squashfs),
            reflink: None,
            largest: None,
            looked_at_all: false,
            ..facts()
        };
        check(
            &facts,
            None,
            expect![[r#"
                squashfs: the base is an image of squashfs, which overlayfs can lie on
                warning: the first write to a file copies all of it, as an image shares no blocks: there may be large ones (not all files were looked at)"#]],
        );
        check(&facts, Some(Mode::Kernel), expect!["no mode can serve it: the base is an image"]);
        let facts = Facts { no_mount: Some("this process may not mount".into()), ..facts };
        check(&facts, None, expect!["no mode can serve it: not squashfs: this process may not mount"]);
    }

    #[test]
    fn a_native_clone_comes_first() {
        let facts = Facts { native: Ok("btrfs".into()), ..facts() };
        check(&facts, None, expect!["native: the base is on btrfs, which clones it in one call"]);
        let zfs = Facts { native: Ok("ZFS".into()), ..facts };
        check(&zfs, None, expect!["native: the base is on ZFS, which clones it in one call"]);
        let replica = Facts { against_native: Some("the base was received".into()), ..zfs };
        check(
            &replica,
            None,
            expect![
                "kernel: overlayfs can be mounted, and a first write to a file shares its blocks with the base; not native: the base was received"
            ],
        );
        check(&replica, Some(Mode::Native), expect!["native: native was asked for"]);
    }

    #[test]
    fn overlayfs_is_taken_where_a_copy_up_is_cheap() {
        check(
            &facts(),
            None,
            expect![
                "kernel: overlayfs can be mounted, and a first write to a file shares its blocks with the base; not native: the base is neither on btrfs nor on ZFS"
            ],
        );
        let small =
            Facts { reflink: Some(false), largest: Some(("x".into(), EXPENSIVE_COPY - 1)), ..facts() };
        check(
            &small,
            None,
            expect![
                "kernel: overlayfs can be mounted, and there are no large files that a first write would copy; not native: the base is neither on btrfs nor on ZFS"
            ],
        );
        let empty = Facts { reflink: None, largest: None, ..facts() };
        check(
            &empty,
            None,
            expect![
                "kernel: overlayfs can be mounted, and there are no large files that a first write would copy; not native: the base is neither on btrfs nor on ZFS"
            ],
        );
    }

    #[test]
    fn large_files_without_reflinks_are_served_by_blocks_or_warned_of() {
        let ext4 = Facts { reflink: Some(false), ..facts() };
        check(
            &ext4,
            None,
            expect![
                "fuse: a first write to a large file copies only the blocks it touches; not native: the base is neither on btrfs nor on ZFS"
            ],
        );
        let no_fuse = Facts { no_fuse: Some("there is no /dev/fuse".into()), ..ext4.clone() };
        check(
            &no_fuse,
            None,
            expect![[r#"
            kernel: overlayfs can be mounted; not native: the base is neither on btrfs nor on ZFS; not fuse: there is no /dev/fuse
            warning: the first write to a file copies all of it, as what it lies on and the home share no blocks: db has 3072 MiB; on btrfs or XFS it would cost nothing"#]],
        );
        let small = Some(("small".into(), 5 << 20));
        let partly_seen = Facts { looked_at_all: false, largest: small, ..ext4.clone() };
        check(
            &partly_seen,
            None,
            expect![
                "fuse: not all files were looked at, and there may be large ones: a first write to a large file copies only the blocks it touches; not native: the base is neither on btrfs nor on ZFS"
            ],
        );
        check(
            &Facts { no_fuse: Some("there is no /dev/fuse".into()), ..partly_seen },
            None,
            expect![[r#"
                kernel: overlayfs can be mounted; not native: the base is neither on btrfs nor on ZFS; not fuse: there is no /dev/fuse
                warning: the first write to a file copies all of it, as what it lies on and the home share no blocks: there may be large ones (not all files were looked at); on btrfs or XFS it would cost nothing"#]],
        );
        let unseen = Facts { looked_at_all: false, largest: None, ..no_fuse };
        check(
            &unseen,
            Some(Mode::Kernel),
            expect![[r#"
            kernel: kernel was asked for
            warning: the first write to a file copies all of it, as what it lies on and the home share no blocks: there may be large ones (not all files were looked at); on btrfs or XFS it would cost nothing"#]],
        );
    }

    #[test]
    fn what_is_not_known_of_large_files_is_not_taken_for_cheap() {
        let unknown = Facts { reflink: None, ..facts() };
        check(
            &unknown,
            None,
            expect![
                "fuse: a first write to a large file copies only the blocks it touches; not native: the base is neither on btrfs nor on ZFS"
            ],
        );
        check(
            &unknown,
            Some(Mode::Kernel),
            expect![[r#"
            kernel: kernel was asked for
            warning: the first write to a file may copy all of it, as it is not known whether what it lies on shares blocks with the home: db has 3072 MiB; on btrfs or XFS it would cost nothing"#]],
        );
        let unseen = Facts { looked_at_all: false, largest: None, ..unknown };
        check(
            &unseen,
            Some(Mode::Kernel),
            expect![[r#"
            kernel: kernel was asked for
            warning: the first write to a file may copy all of it, as it is not known whether what it lies on shares blocks with the home: there may be large ones (not all files were looked at); on btrfs or XFS it would cost nothing"#]],
        );
    }

    #[test]
    fn who_may_mount_nothing_gets_fuse_or_the_reasons_of_all() {
        let facts = Facts { no_mount: Some("this process may not mount".into()), ..facts() };
        check(
            &facts,
            None,
            expect![
                "fuse: it needs no privilege; not native: the base is neither on btrfs nor on ZFS; not kernel: this process may not mount"
            ],
        );
        let none = Facts { no_fuse: Some("there is no /dev/fuse".into()), ..facts.clone() };
        check(
            &none,
            None,
            expect![
                "no mode can serve it: not native: the base is neither on btrfs nor on ZFS; not kernel: this process may not mount; not fuse: there is no /dev/fuse"
            ],
        );
        check(&facts, Some(Mode::Kernel), expect!["no mode can serve it: this process may not mount"]);
    }

    #[test]
    fn a_mode_that_this_version_lacks_is_not_chosen() {
        let facts = Facts { served: vec![Mode::Disabled], ..facts() };
        check(&facts, Some(Mode::Fuse), expect!["no mode can serve it: this version does not have it"]);
        check(&facts, Some(Mode::Disabled), expect!["disabled: disabled was asked for"]);
    }
}
