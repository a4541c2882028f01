//! What no listing shows: what overlays made for themselves ([`overlays`](super::overlays)), known by its name and its own mark.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::endpoint::Result;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::lzc;
use crate::endpoint::zfs::overlays::{FOLDER, IS_FOLDER, MARK, SNAPSHOT, mark_of};
use crate::endpoint::zfs::{list, program};
use crate::model::overlay::{MountSource, OverlayName};
use crate::model::quoted;

/// How long a clone that is called as an overlay's may be without a mark, in seconds: the kernel makes a clone in one transaction and gives it its
/// properties in the next one (`zfs_ioc_clone`).
const MAKING: i64 = 60;

/// The overlay whose clone is called `name`, if that is what such a one is called.
pub(super) fn overlay_of(name: &str) -> Option<OverlayName> {
    let last = name.strip_prefix(folder_of(name)?)?.strip_prefix('/')?;
    MountSource::parse_file_name(last).map(|source| source.name)
}

/// What depends on a snapshot, as people know it: a clone that an overlay shows by the name of that.
pub(super) fn told<'a>(clones: impl Iterator<Item = &'a str>) -> Vec<String> {
    let told =
        |clone: &str| overlay_of(clone).map_or_else(|| clone.to_owned(), |name| format!("overlay {name}"));
    clones.map(told).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What would take away what depends on a snapshot.
pub(super) fn how_to_destroy(clone: &str) -> String {
    match overlay_of(clone) {
        Some(name) => format!("cowsnap overlay destroy {}", quoted(&name)),
        None => format!("cowsnap destroy {}", quoted(clone)),
    }
}

/// The folder that `name` is, or is in, if it is called as such a one.
fn folder_of(name: &str) -> Option<&str> {
    let (pool, rest) = name.split_once('/')?;
    let is_folder = rest.split(['/', '@', '#']).next() == Some(FOLDER);
    is_folder.then(|| &name[..pool.len() + 1 + FOLDER.len()])
}

fn is_called_as_a_base(name: &str) -> bool {
    name.split_once('@').is_some_and(|(_, last)| last.starts_with(SNAPSHOT))
}

/// What no listing shows: what overlays made for themselves.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    names: HashSet<String>,
}

impl Hidden {
    /// What of these is an overlay's, by its name and its own mark. Starts a program only if something is called so. What went since it was
    /// listed is, if it was called so: nobody is to ask for it.
    ///
    /// # Errors
    /// What `zfs` says.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut asked: BTreeSet<_> = names.flat_map(asked_for).collect();
        let mut gone = HashSet::new();
        while !asked.is_empty() {
            let why = match marks(&asked) {
                Ok(text) => {
                    let mut hidden =
                        Self::read(&String::from_utf8_lossy(&text), jiff::Timestamp::now().as_second());
                    hidden.names.extend(gone);
                    return Ok(hidden);
                }
                Err(why) => why,
            };
            let lzc = lzc(FOLDER)?;
            let (there, went): (BTreeSet<_>, BTreeSet<_>) =
                asked.iter().copied().partition(|name| lzc.exists(name));
            if went.is_empty() {
                return Err(why.into_error("read", FOLDER));
            }
            gone.extend(went.into_iter().filter(|name| is_called_as_ours(name)).map(str::to_owned));
            asked = there;
        }
        Ok(Self { names: gone })
    }

    /// Of lines of a name, a property and its value, what is marked as what it is called. What was promoted has the history of what it was
    /// cloned from, and is shown.
    fn read(text: &str, now: i64) -> Self {
        let row = |line: &'_ str| {
            let (name, rest) = line.split_once('\t')?;
            let (property, value) = rest.split_once('\t')?;
            Some([name, property, value].map(str::to_owned))
        };
        let rows: Vec<_> = text.lines().filter_map(row).collect();
        let made: HashMap<_, u64> = rows
            .iter()
            .filter(|[_, property, _]| property == "createtxg")
            .filter_map(|[name, _, txg]| Some((name.as_str(), txg.parse().ok()?)))
            .collect();
        let is_older = |(inside, txg): (&&str, &u64)| {
            let (clone, _) = inside.split_once('@')?;
            (clone_of(clone) == Some(clone) && txg < made.get(clone)?).then(|| clone.to_owned())
        };
        let mut promoted: HashSet<_> = made.iter().filter_map(is_older).collect();
        // All of that history may be gone since.
        let is_no_clone = |[name, property, value]: &&[String; 3]| {
            clone_of(name) == Some(name) && property == "origin" && value == "-"
        };
        promoted.extend(rows.iter().filter(is_no_clone).map(|[name, ..]| name.clone()));
        let is_young = |name: &str| {
            let made = rows.iter().find(|[of, property, _]| of == name && property == "creation");
            made.and_then(|[.., made]| made.parse::<i64>().ok()).is_some_and(|made| made + MAKING >= now)
        };
        let is_being_made =
            |name: &str, mark: &str| mark == "-" && overlay_of(name).is_some() && is_young(name);
        let is_hidden = |[name, property, value]: &&[String; 3]| {
            let is_ours = || is_marked_as_called(name, value) || is_being_made(name, value);
            property == MARK && is_ours() && !promoted.contains(name)
        };
        Self { names: rows.iter().filter(is_hidden).map(|[name, ..]| name.clone()).collect() }
    }

    /// Whether `name` is one of these, or is in one.
    pub(super) fn has(&self, name: &str) -> bool {
        let own = clone_of(name).or_else(|| folder_of(name)).unwrap_or(name);
        self.names.contains(own)
    }
}

/// What tells of these whether they are an overlay's, and of clones whether they have an older history than they could have made themselves.
fn marks(names: &BTreeSet<&str>) -> Result<Vec<u8>, program::Failure> {
    let wanted = format!("{MARK},createtxg,creation,origin");
    let columns = ["-s", "local,none", "-o", "name,property,value"];
    let mut args =
        [&["get", "-Hp", "-d", "1", "-t", "filesystem,snapshot"], &columns[..], &[&wanted]].concat();
    args.extend(names);
    program::zfs(&args)
}

/// Whether a clone of an overlay is called so, or a snapshot that was taken for one.
fn is_called_as_ours(name: &str) -> bool {
    overlay_of(name).is_some() || is_called_as_a_base(name)
}

fn is_marked_as_called(name: &str, mark: &str) -> bool {
    match folder_of(name) {
        Some(folder) if folder == name => mark == IS_FOLDER,
        Some(_) => overlay_of(name).is_some() && mark == mark_of(name.rsplit('/').next().unwrap_or_default()),
        None => is_called_as_a_base(name) && mark.rsplit(':').next() == name.rsplit(':').next(),
    }
}

/// What has to be asked for its mark, to know of `name`.
fn asked_for(name: &str) -> Option<&str> {
    clone_of(name).or_else(|| folder_of(name)).or_else(|| is_called_as_a_base(name).then_some(name))
}

/// What directly in a folder `name` is, or is in.
fn clone_of(name: &str) -> Option<&str> {
    let folder = folder_of(name)?;
    let rest = name[folder.len()..].strip_prefix('/')?;
    let len = rest.find(['/', '@', '#']).unwrap_or(rest.len());
    Some(&name[..folder.len() + 1 + len])
}

impl Dataset {
    /// What was cloned from snapshots of it that were taken for overlays: no listing shows these.
    pub(super) fn clones_of_hidden(&self) -> Result<Vec<String>> {
        let name = self.name().as_str();
        let args = ["list", "-Hp", "-t", "snapshot", "-d", "1", "-o", "name,clones", name];
        let text = program::zfs(&args).map_err(|failure| failure.into_error("list", self))?;
        let rows = list::rows::<2>(&text)?;
        let hidden = Hidden::of(rows.iter().map(|[name, _]| *name).filter(|name| is_called_as_a_base(name)))?;
        let clones =
            rows.iter().filter(|[name, _]| hidden.has(name)).flat_map(|[_, clones]| clones.split(','));
        Ok(clones.filter(|clone| !clone.is_empty() && *clone != "-").map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLONE: &str = "tank/cowsnap-overlays/cowsnap:0123456789abcdef:ci:1:7:00000000000000ff";

    #[test]
    fn a_clone_without_a_mark_is_an_overlays_while_it_may_be_being_made() {
        let rows = |origin: &str, mark: &str| {
            format!("{CLONE}\t{MARK}\t{mark}\n{CLONE}\tcreation\t1000\n{CLONE}\torigin\t{origin}\n")
        };
        let hides = |text: &str, now: i64| Hidden::read(text, now).has(CLONE);
        assert!(hides(&rows("tank/base@s", "-"), 1000 + MAKING));
        assert!(!hides(&rows("tank/base@s", "-"), 1001 + MAKING), "it has been there too long");
        assert!(!hides(&rows("-", "-"), 1000), "it is no clone");
        assert!(!hides(&rows("tank/base@s", "x"), 1000), "it has another mark");
        assert!(!hides("tank/cowsnap-overlays/mine\tcowsnap:overlay\t-\n", 0), "somebody's");
    }

    #[test]
    fn a_clone_says_by_its_name_which_overlay_shows_it() {
        let name = |text| overlay_of(text).map(|name| name.to_string());
        assert_eq!(name(CLONE).as_deref(), Some("ci"));
        let deep = CLONE.replace("tank/", "tank/x/");
        for other in
            ["tank", "tank/cowsnap-overlays", "tank/cowsnap-overlays/x", &deep, "tank/cowsnap-overlaysx/y"]
        {
            assert_eq!(name(other), None, "{other}");
        }
        assert_eq!(how_to_destroy(CLONE), "cowsnap overlay destroy 'ci'");
        assert_eq!(how_to_destroy("tank/b"), "cowsnap destroy 'tank/b'");
    }

    #[test]
    fn many_copies_are_one_overlay_that_depends_on_a_snapshot() {
        let second = CLONE.replace(":1:7:", ":2:9:");
        assert_eq!(told([CLONE, "tank/b", &second].into_iter()), ["overlay ci", "tank/b"]);
    }

    #[test]
    fn what_is_marked_as_it_is_called_is_hidden_and_nothing_else() {
        let base = "tank/a b@cowsnap-overlay:00000000000000ff";
        let theirs = "tank/cowsnap-overlays/theirs";
        let stolen = CLONE.replace(":7:00000000000000ff", ":7:00000000000000aa");
        let promoted = CLONE.replace(":ci:", ":gone:");
        let marks = [
            ("tank/cowsnap-overlays", "folder"),
            (CLONE, "0123456789abcdef:ci:00000000000000ff"),
            (&promoted, "0123456789abcdef:gone:00000000000000ff"),
            (base, "x:ci:00000000000000ff"),
            (theirs, "folder"),
            (&stolen, "0123456789abcdef:ci:00000000000000ff"),
            ("other/cowsnap-overlays", "mine"),
        ];
        let lines = marks.map(|(name, mark)| {
            let origin = if name == CLONE { "tank/a@s" } else { "-" };
            format!("{name}\tcowsnap:overlay\t{mark}\n{name}\torigin\t{origin}\n")
        });
        // A clone of a clone that was promoted has an origin still, and is younger than what it was given.
        let (second, late) = (CLONE.replace(":1:7:", ":2:7:"), format!("{CLONE}@late"));
        let of_clones = [(&second[..], 100), (&format!("{second}@old"), 99), (CLONE, 100), (&late, 101)];
        let of_clones = of_clones.map(|(name, txg)| format!("{name}\tcreatetxg\t{txg}\n"));
        let mark = format!("{second}\tcowsnap:overlay\t0123456789abcdef:ci:00000000000000ff\n");
        let origin = format!("{second}\torigin\ttank/a@s\n");
        let text = lines.concat() + "no line\n" + &of_clones.concat() + &mark + &origin;
        let hidden = Hidden::read(&text, i64::MAX);
        let inside = format!("{CLONE}@theirs");
        for name in ["tank/cowsnap-overlays", CLONE, &inside, base] {
            assert!(hidden.has(name), "{name}");
        }
        for name in [
            "tank",
            "tank/a b",
            "other/cowsnap-overlays",
            "tank/b@cowsnap-overlay:01",
            "tank/cowsnap-overlays2",
            theirs,
            &stolen,
            &promoted,
            &format!("{promoted}@s"),
            &second,
            &format!("{second}@old"),
        ] {
            assert!(!hidden.has(name), "{name}");
        }
        assert!(!Hidden::default().has(CLONE), "nobody marked it");
        assert_eq!(asked_for(&inside), Some(CLONE));
        assert_eq!((asked_for("tank/a"), asked_for(base)), (None, Some(base)));
    }

    #[test]
    fn only_what_is_called_as_an_overlays_may_go_unnoticed() {
        assert!(is_called_as_ours(CLONE) && is_called_as_ours("tank/a@cowsnap-overlay:01"));
        for others in ["tank/cowsnap-overlays", "tank/cowsnap-overlays/mine", "tank/a", "tank/a@s"] {
            assert!(!is_called_as_ours(others), "{others}");
        }
    }
}
