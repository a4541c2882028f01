//! What a machine told before its power was cut, and what is there after it: whether the one follows from the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A snapshot, or a live dataset, of one of the filesystems.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// `zfs`, `btrfs`, or the mode of an overlay.
    pub fs: String,
    /// `dataset@snapshot` or `dataset`.
    pub name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fs, self.name)
    }
}

/// What one is; `-` where it is not known, or there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Is {
    digest: String,
    guid: String,
    said: String,
}

/// One command of the machine, from the moment on that it was about to run.
#[derive(Clone, Debug)]
pub struct Step {
    /// `snapshot`, `receive`, `destroy`, `clone`, `replicate` or `layer`.
    pub op: String,
    /// What it makes or destroys: all of one set, or one after another.
    pub names: Vec<Name>,
    /// Whether it was reported.
    pub is_done: bool,
    is: Vec<Is>,
}

/// What a machine told until its power was cut.
#[derive(Default)]
pub struct Told {
    had: BTreeMap<Name, Is>,
    steps: BTreeMap<(String, String, u32), Step>,
    /// Of what a checkpoint was on disk.
    checkpoints: BTreeSet<Name>,
    /// Commands that failed, in their words.
    pub failed: Vec<String>,
}

impl Told {
    /// From the lines that `have`, `begin`, `done`, `checkpoint` and `failed` begin. The last line counts only if it is whole.
    pub fn read(lines: &str) -> Self {
        let mut told = Self::default();
        let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["have", fs, name, digest, guid, said] => {
                    told.had.insert(name_of(fs, name), is(digest, guid, said));
                }
                ["begin", op, fs, n, name, digest, guid, said] => {
                    let step = told.steps.entry(key(op, fs, n)).or_insert_with(|| Step {
                        op: op.into(),
                        names: Vec::new(),
                        is_done: false,
                        is: Vec::new(),
                    });
                    step.names.push(name_of(fs, name));
                    step.is.push(is(digest, guid, said));
                }
                ["done", op, fs, n, ref guids @ ..] => {
                    let step = told.steps.get_mut(&key(op, fs, n)).expect("what is done was begun");
                    step.is_done = true;
                    for (is, guid) in step.is.iter_mut().zip(guids) {
                        is.guid = (*guid).into();
                    }
                }
                ["checkpoint", fs, name] => drop(told.checkpoints.insert(name_of(fs, name))),
                ["failed", ..] => told.failed.push(line.into()),
                _ => {}
            }
        }
        told
    }

    /// How many commands were reported.
    pub fn n_done(&self) -> usize {
        self.steps.values().filter(|step| step.is_done).count()
    }

    /// Those that were about to run, or ran, when the power went.
    pub fn in_flight(&self) -> impl Iterator<Item = &Step> {
        self.steps.values().filter(|step| !step.is_done)
    }

    /// The commands that had not been reported ran again, on what was `found`: all is done now.
    pub fn complete(&mut self, found: &Found) {
        for step in self.steps.values_mut().filter(|step| !step.is_done) {
            step.is_done = true;
            for (name, is) in step.names.iter().zip(&mut step.is) {
                if ["snapshot", "layer"].contains(&step.op.as_str()) && !found.has(name) {
                    // What is live by now was not told; and nothing is said of it.
                    *is = self::is(ANY, "-", "-");
                }
            }
        }
    }

    /// What can not be: each in a sentence.
    pub fn contradictions(&self, found: &Found) -> Vec<String> {
        let mut wrong = found.contradictions();
        let mut known: BTreeSet<&Name> = BTreeSet::new();
        for step in self.steps.values() {
            known.extend(&step.names);
            wrong.extend(match step.op.as_str() {
                "destroy" => self.of_destroyed(step, found),
                _ => of_made(step, found),
            });
        }
        for (name, had) in &self.had {
            if !known.contains(name) {
                wrong.extend(found.differs(name, had).map(|how| format!("{name} was never touched: {how}")));
            }
            known.insert(name);
        }
        let without =
            self.checkpoints.iter().filter(|name| !found.has(name) && !found.kept.contains_key(name));
        wrong.extend(without.map(|name| format!("{name} had a checkpoint on disk, and has none")));
        let strange = found.there.keys().filter(|name| !known.contains(name));
        wrong.extend(strange.map(|name| format!("{name} is there, and nobody made it")));
        wrong
    }

    fn of_destroyed(&self, step: &Step, found: &Found) -> Vec<String> {
        let one = |name: &Name| match (step.is_done, found.there.contains_key(name)) {
            (true, true) => Some(format!("{name} was reported as destroyed, and is there")),
            (false, true) => {
                let had = self.had.get(name).expect("what is destroyed was there");
                found.differs(name, had).map(|how| format!("{name} was being destroyed: {how}"))
            }
            (_, false) => None,
        };
        step.names.iter().filter_map(one).collect()
    }
}

fn of_made(step: &Step, found: &Found) -> Vec<String> {
    let n_there = step.names.iter().filter(|name| found.there.contains_key(name)).count();
    let mut wrong = Vec::new();
    for (name, is) in step.names.iter().zip(&step.is) {
        let how = found.differs(name, is);
        match (step.is_done, found.there.contains_key(name)) {
            (true, _) => wrong.extend(how.map(|how| format!("{name} was reported as made: {how}"))),
            (false, true) => wrong.extend(how.map(|how| format!("{name} was not reported: {how}"))),
            (false, false) => {}
        }
    }
    if n_there != 0 && n_there != step.names.len() {
        let all: Vec<_> = step.names.iter().map(ToString::to_string).collect();
        wrong.push(format!("of the set {}, {n_there} are there", all.join(", ")));
    }
    wrong
}

/// What is there, by the filesystems' own tools and by cowsnap.
#[derive(Debug, Default)]
pub struct Found {
    there: BTreeMap<Name, String>,
    listed: BTreeMap<Name, (String, String)>,
    /// Receives that are not finished, with their tokens.
    pub partials: BTreeMap<Name, String>,
    /// Of these, of those that have a checkpoint, how many bytes need not come again.
    pub kept: BTreeMap<Name, u64>,
    failed: Vec<String>,
}

impl Found {
    /// From the lines that `there`, `listed`, `partial`, `kept` and `failed` begin.
    pub fn read(lines: &str) -> Self {
        let mut found = Self::default();
        for line in lines.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["there", fs, name] => drop(found.there.insert(name_of(fs, name), "-".into())),
                ["there", fs, name, digest] => drop(found.there.insert(name_of(fs, name), digest.into())),
                ["listed", fs, name, guid, said] => {
                    found.listed.insert(name_of(fs, name), (guid.into(), said.into()));
                }
                ["partial", fs, name, token] => drop(found.partials.insert(name_of(fs, name), token.into())),
                ["kept", fs, name, bytes] => {
                    found.kept.extend(bytes.parse().ok().map(|bytes| (name_of(fs, name), bytes)));
                }
                ["failed", ..] => found.failed.push(line.into()),
                _ => {}
            }
        }
        found
    }

    /// Whether it is there.
    pub fn has(&self, name: &Name) -> bool {
        self.there.contains_key(name)
    }

    fn contradictions(&self) -> Vec<String> {
        let mut wrong = self.failed.clone();
        let snapshots = self.there.keys().filter(|name| name.name.contains('@'));
        let unlisted = snapshots.filter(|name| !self.listed.contains_key(name));
        wrong.extend(unlisted.map(|name| format!("{name} is there, and cowsnap does not list it")));
        let missing = self.listed.keys().filter(|name| !self.there.contains_key(name));
        wrong.extend(missing.map(|name| format!("{name} is listed, and not there")));
        let both = self.partials.keys().filter(|name| self.there.contains_key(name));
        wrong.extend(both.map(|name| format!("{name} is there, and partial")));
        let hollow = self.kept.iter().filter(|(_, bytes)| **bytes == 0);
        wrong.extend(
            hollow.map(|(name, _)| format!("{name} has a checkpoint, and what it names is not whole")),
        );
        wrong
    }

    /// In what way it is not as it `is`.
    fn differs(&self, name: &Name, is: &Is) -> Option<String> {
        let Some(digest) = self.there.get(name) else { return Some("it is not there".into()) };
        if *digest != is.digest && is.digest != ANY {
            return Some(format!("its content is {digest} and not {}", is.digest));
        }
        let (guid, said) = self.listed.get(name)?;
        if is.guid != "-" && *guid != is.guid {
            return Some(format!("its guid is {guid} and not {}", is.guid));
        }
        (*said != is.said && is.said != ANY).then(|| format!("{said} is said of it and not {}", is.said))
    }
}

/// As a digest: of whatever content. As what is said: whatever.
const ANY: &str = "?";

fn name_of(fs: &str, name: &str) -> Name {
    Name { fs: fs.into(), name: name.into() }
}

fn is(digest: &str, guid: &str, said: &str) -> Is {
    Is { digest: digest.into(), guid: guid.into(), said: said.into() }
}

fn key(op: &str, fs: &str, n: &str) -> (String, String, u32) {
    (op.into(), fs.into(), n.parse().expect("a step has a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(told: &str, found: &str, contradictions: &[&str]) {
        assert_eq!(
            Told::read(told).contradictions(&Found::read(found)),
            contradictions,
            "{told}---\n{found}"
        );
    }

    #[test]
    fn what_was_reported_as_made_must_be_there_as_it_was() {
        let told = "begin snapshot zfs 1 a@1 d1 - -\ndone snapshot zfs 1 g1\n";
        check(told, "there zfs a@1 d1\nlisted zfs a@1 g1 -\n", &[]);
        check(told, "", &["zfs a@1 was reported as made: it is not there"]);
        check(
            told,
            "there zfs a@1 d2\nlisted zfs a@1 g1 -\n",
            &["zfs a@1 was reported as made: its content is d2 and not d1"],
        );
        check(
            told,
            "there zfs a@1 d1\nlisted zfs a@1 g2 -\n",
            &["zfs a@1 was reported as made: its guid is g2 and not g1"],
        );
        check(
            told,
            "there zfs a@1 d1\nlisted zfs a@1 g1 keep\n",
            &["zfs a@1 was reported as made: keep is said of it and not -"],
        );
        check(told, "there zfs a@1 d1\n", &["zfs a@1 is there, and cowsnap does not list it"]);
        let marked = "begin replicate zfs 1 p@1 d1 g1 ?\ndone replicate zfs 1\n";
        check(marked, "there zfs p@1 d1\nlisted zfs p@1 g1 mark\n", &[]);
    }

    #[test]
    fn what_was_not_reported_is_whole_or_absent_and_a_set_is_whole() {
        let one = "begin receive btrfs 1 r@full d1 g1 -\n";
        check(one, "", &[]);
        check(one, "partial btrfs r@full 77-ab\n", &[]);
        let found =
            Found::read("partial btrfs r@full 77-ab\nkept btrfs r@full 1048576\nkept btrfs r@half -\n");
        assert_eq!(found.kept, BTreeMap::from([(name_of("btrfs", "r@full"), 1 << 20)]));
        check(
            one,
            "partial btrfs r@full 77-ab\nkept btrfs r@full 0\n",
            &["btrfs r@full has a checkpoint, and what it names is not whole"],
        );
        let durable = format!("{one}checkpoint btrfs r@full\n");
        check(&durable, "partial btrfs r@full 77-ab\nkept btrfs r@full 1048576\n", &[]);
        check(&durable, "there btrfs r@full d1\nlisted btrfs r@full g1 -\n", &[]);
        let lost = "btrfs r@full had a checkpoint on disk, and has none";
        check(&durable, "partial btrfs r@full 77-ab\n", &[lost]);
        check(&durable, "", &[lost]);
        check(one, "there btrfs r@full d1\nlisted btrfs r@full g1 -\n", &[]);
        check(
            one,
            "there btrfs r@full d0\nlisted btrfs r@full g1 -\n",
            &["btrfs r@full was not reported: its content is d0 and not d1"],
        );
        check(
            one,
            "there btrfs r@full d1\nlisted btrfs r@full g1 -\npartial btrfs r@full 7\n",
            &["btrfs r@full is there, and partial"],
        );
        let set = "begin snapshot zfs 2 a@2 d1 - -\nbegin snapshot zfs 2 b@2 d2 - -\n";
        check(set, "", &[]);
        check(set, "there zfs b@2 d2\nlisted zfs b@2 g -\n", &["of the set zfs a@2, zfs b@2, 1 are there"]);
        check("", "there zfs a@1 d\nlisted zfs a@1 g -\n", &["zfs a@1 is there, and nobody made it"]);
    }

    #[test]
    fn what_was_reported_as_destroyed_is_gone_and_the_rest_is_as_it_was() {
        let told = "have zfs d@1 d1 g1 -\nhave zfs d@2 d2 g2 -\nhave zfs d@3 d3 g3 -\n\
                    begin destroy zfs 1 d@1 - - -\ndone destroy zfs 1\nbegin destroy zfs 2 d@2 - - -\ndone dest";
        let third = "there zfs d@3 d3\nlisted zfs d@3 g3 -\n";
        check(told, third, &[]);
        check(told, &format!("{third}there zfs d@2 d2\nlisted zfs d@2 g2 -\n"), &[]);
        check(
            told,
            &format!("{third}there zfs d@1 d1\nlisted zfs d@1 g1 -\n"),
            &["zfs d@1 was reported as destroyed, and is there"],
        );
        check(
            told,
            &format!("{third}there zfs d@2 x\nlisted zfs d@2 g2 -\n"),
            &["zfs d@2 was being destroyed: its content is x and not d2"],
        );
        check(told, "", &["zfs d@3 was never touched: it is not there"]);
    }
}
