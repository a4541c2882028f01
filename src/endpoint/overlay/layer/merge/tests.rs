//! The rules as tables. A stack is written top first, its layers divided by `|`, an entry a word: `a/b` a file, `a/` a directory,
//! `-a` a whiteout, `a/!` an opaque directory, `a/>x` one redirected to the name x, `a/>/x/y` to a path, `a~` a file whose data is
//! below, `a~>/x` redirected, `a=` something else. What shows is written `PATH@LAYER`, with `+LAYER` for each further part, and
//! `:PATH` behind a layer in which it is called otherwise.

use std::convert::Infallible;

use expect_test::{Expect, expect};

use super::*;

struct Notation(Vec<BTreeMap<Vec<u8>, Entry>>);

impl Notation {
    fn parse(text: &str) -> Self {
        Self(text.split('|').map(|layer| layer.split_whitespace().map(entry).collect()).collect())
    }

    fn listing(&self, dir: &Part) -> Vec<(Vec<u8>, bool)> {
        let in_dir = |path: &[u8]| match path.iter().rposition(|&b| b == b'/') {
            Some(slash) => path[..slash] == *dir.path,
            None => dir.path.is_empty(),
        };
        let name = |path: &[u8]| path.rsplit(|&b| b == b'/').next().expect("a name").to_vec();
        let layer = self.0[dir.layer].iter().filter(|(path, _)| in_dir(path));
        layer.map(|(path, entry)| (name(path), *entry == Entry::Whiteout)).collect()
    }

    /// Everything that shows in the directory of these parts.
    fn show(&self, dir: &[Part], at: &[u8], lines: &mut Vec<String>) {
        for name in names(dir.iter().map(|part| self.listing(part))).into_keys() {
            let path = joined(at, &name);
            let shown = lookup(self, dir, &name).expect("sound");
            assert_eq!(
                shown,
                resolve(self, 0, &path).expect("sound"),
                "both ways to {}",
                path.escape_ascii()
            );
            let parts = match &shown {
                Shown::Nothing => panic!("{} is listed and not there", path.escape_ascii()),
                Shown::Dir(parts) | Shown::File(parts) => parts.clone(),
                Shown::Other(part) => vec![part.clone()],
            };
            let part = |part: &Part| match part.path == path {
                true => part.layer.to_string(),
                false => format!("{}:{}", part.layer, part.path.escape_ascii()),
            };
            let slash = if matches!(shown, Shown::Dir(_)) { "/" } else { "" };
            let parts_text = parts.iter().map(part).collect::<Vec<_>>().join("+");
            lines.push(format!("{}{slash}@{parts_text}", path.escape_ascii()));
            if let Shown::Dir(parts) = &shown {
                self.show(parts, &path, lines);
            }
        }
    }
}

fn entry(word: &str) -> (Vec<u8>, Entry) {
    let (word, redirect) = match word.split_once('>') {
        Some((word, to)) => (word, Some(Redirect::parse(to.as_bytes()).expect("sound"))),
        None => (word, None),
    };
    let (path, entry) = if let Some(path) = word.strip_prefix('-') {
        (path, Entry::Whiteout)
    } else if let Some(path) = word.strip_suffix("/!") {
        (path, Entry::Dir { opaque: true, redirect })
    } else if let Some(path) = word.strip_suffix('/') {
        (path, Entry::Dir { opaque: false, redirect })
    } else if let Some(path) = word.strip_suffix('~') {
        (path, Entry::File { partial: true, redirect })
    } else if let Some(path) = word.strip_suffix('=') {
        (path, Entry::Other)
    } else {
        (word, Entry::File { partial: false, redirect })
    };
    (path.into(), entry)
}

impl Layers for Notation {
    type Error = Infallible;

    fn count(&self) -> usize {
        self.0.len()
    }

    fn entry(&self, at: &Part) -> Result<Entry, Infallible> {
        Ok(self.0[at.layer].get(&at.path).cloned().unwrap_or(Entry::Absent))
    }
}

#[track_caller]
fn check(stack: &str, wanted: Expect) {
    let stack = Notation::parse(stack);
    let mut lines = Vec::new();
    stack.show(&root(stack.count(), 0), b"", &mut lines);
    wanted.assert_eq(&lines.join(" "));
}

#[test]
fn what_is_above_shows() {
    check("| a", expect!["a@1"]);
    check("a | a", expect!["a@0"]);
    check("a | b", expect!["a@0 b@1"]);
    check("a= | a", expect!["a@0"]);
    check("| a= | a", expect!["a@1"]);
}

#[test]
fn a_whiteout_hides_what_is_below_it_and_not_what_is_above() {
    check("-a | a", expect![""]);
    check("-a | | a", expect![""]);
    check("a | -a | a", expect!["a@0"]);
    check("| -a | a | a", expect![""]);
    check("-a | a/ a/x", expect![""]);
    check("-nothing | a", expect!["a@1"]);
}

#[test]
fn directories_are_merged_down_to_what_is_none() {
    check("d/ d/x | d/ d/y", expect!["d/@0+1 d/x@0 d/y@1"]);
    check("d/ d/x | | d/ d/y", expect!["d/@0+2 d/x@0 d/y@2"]);
    check("d/ d/x | d | d/ d/y", expect!["d/@0 d/x@0"]);
    check("d/ d/x | -d | d/ d/y", expect!["d/@0 d/x@0"]);
    check("d/ d/x | d= | d/ d/y", expect!["d/@0 d/x@0"]);
    check("d/ | d/ -d/y | d/ d/y d/z", expect!["d/@0+1+2 d/z@2"]);
    check("d | d/ d/y", expect!["d@0"]);
}

#[test]
fn an_opaque_directory_ends_the_merge() {
    check("d/! d/x | d/ d/y", expect!["d/@0 d/x@0"]);
    check("d/ d/x | d/! d/y | d/ d/z", expect!["d/@0+1 d/x@0 d/y@1"]);
    check("d/! d/e/ d/e/x | d/ d/e/ d/e/y", expect!["d/@0 d/e/@0 d/e/x@0"]);
}

#[test]
fn a_redirect_merges_with_what_the_layers_below_show_there() {
    check("-a n/>a | a/ a/x", expect!["n/@0+1:a n/x@1:a/x"]);
    check("-a n/>/a n/y | a/ a/x", expect!["n/@0+1:a n/x@1:a/x n/y@0"]);
    check("d/ -d/a d/n/>a | d/ d/a/ d/a/x", expect!["d/@0+1 d/n/@0+1:d/a d/n/x@1:d/a/x"]);
    check("n/>/gone n/x | b", expect!["b@1 n/@0 n/x@0"]);
    check("n/>/b n/x | b", expect!["b@1 n/@0 n/x@0"]);
    check("n/> | b".replace("n/> ", "n/ ").as_str(), expect!["b@1 n/@0"]);
}

#[test]
fn redirects_of_several_layers_follow_one_another() {
    check("-b c/>/b | -a b/>/a b/y | a/ a/x", expect!["c/@0+1:b+2:a c/x@2:a/x c/y@1:b/y"]);
    check("-b c/>b | -a b/>a | a/ a/x", expect!["c/@0+1:b+2:a c/x@2:a/x"]);
    // The redirect goes through a directory that was itself renamed below.
    check(
        "n/>/b/s | -a b/>/a | a/ a/s/ a/s/x",
        expect!["b/@1+2:a b/s/@2:a/s b/s/x@2:a/s/x n/@0+2:a/s n/x@2:a/s/x"],
    );
    // … or that is opaque, or gone.
    check("n/>/a/s | a/! | a/ a/s/ a/s/x", expect!["a/@1 n/@0"]);
    check("n/>/a/s | -a | a/ a/s/ a/s/x", expect!["n/@0"]);
    check("n/>/a/s | a | a/ a/s/ a/s/x", expect!["a@1 n/@0"]);
    // A redirect from within an opaque directory leads out of it.
    check(
        "n/>/a/s | a/! a/s/>/o | o/ o/x",
        expect!["a/@1 a/s/@1+2:o a/s/x@2:o/x n/@0+1:a/s+2:o n/x@2:o/x o/@2 o/x@2"],
    );
}

#[test]
fn data_that_a_file_lacks_is_in_the_one_below() {
    check("f~ | f", expect!["f@0+1"]);
    check("f~ | f~ | f | f", expect!["f@0+1+2"]);
    check("-f n~>/f | f", expect!["n@0+1:f"]);
    check("d/ -d/f d/n~>f | d/ d/f", expect!["d/@0+1 d/n@0+1:d/f"]);
    check("-m n~>/m | -f m~>/f | f", expect!["n@0+1:m+2:f"]);
    check("f~ | f/ f/x", expect!["f@0"]);
    check("f~ | f= | f", expect!["f@0"]);
    check("f~ | -f | f", expect!["f@0"]);
}

#[test]
fn a_path_is_followed_to_where_it_is_below() {
    let below = |stack: &str, from: usize, path: &str| {
        let found = path_below(&Notation::parse(stack), from, path.as_bytes()).expect("sound");
        found.map_or("-".to_owned(), |path| String::from_utf8(path).expect("sound"))
    };
    assert_eq!(below("| a", 1, "a/b"), "a/b");
    assert_eq!(below("-a | a", 1, "a"), "-");
    assert_eq!(below("-a n/>/a | a/", 1, "n/x/y"), "a/x/y");
    assert_eq!(below("d/ d/n/>a | d/ d/a/", 1, "d/n/x"), "d/a/x");
    assert_eq!(below("c/>/b | b/>/a | a/", 2, "c/x"), "a/x");
    assert_eq!(below("c/>/b | b/>/a | a/", 1, "c/x"), "b/x");
    assert_eq!(below("n/! | n/", 1, "n/x"), "-");
    assert_eq!(below("n | n/", 1, "n/x"), "-");
    assert_eq!(below("n~>/m | m", 1, "n"), "m");
}

#[test]
fn the_cost_of_redirects_does_not_multiply() {
    // Each directory on the way is redirected in each layer: followed one by one they would be 12^12 questions.
    let deep: Vec<_> = (0..12).map(|n| vec!["d"; n + 1].join("/")).collect();
    let layer: String = deep.iter().map(|path| format!("{path}/>/{path} ")).collect();
    let stack = Notation::parse(&vec![layer; 12].join("|"));
    assert!(
        matches!(resolve(&stack, 0, deep[11].as_bytes()).expect("sound"), Shown::Dir(parts) if parts.len() == 12)
    );
}

#[test]
fn a_redirect_that_names_no_path_is_none() {
    for bad in ["", "/", "//", "/a//b", "/a/", "/../x", "..", ".", "a/b", "/a/./b", "a\0"] {
        assert_eq!(Redirect::parse(bad.as_bytes()), None, "{bad:?}");
    }
    assert_eq!(Redirect::parse(b"/a/b"), Some(Redirect::Path(b"a/b".to_vec())));
    assert_eq!(Redirect::parse(b"a b"), Some(Redirect::Name(b"a b".to_vec())));
}
