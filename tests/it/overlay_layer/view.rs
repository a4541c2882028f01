//! What the merge rules say a stack shows is what the kernel shows.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cowsnap::endpoint::overlay::layer::merge::{Layers, Part, Shown, joined, lookup, root};
use cowsnap::endpoint::overlay::layer::{Content, Node, Stack, Tree};
use cowsnap::model::overlay::Xattrs;
use rustix::fs::FileType;

use super::lab::{Lab, Made, Random};
use crate::ground::ground;

pub type View = BTreeMap<Vec<u8>, String>;

/// A line for everything that `stack` shows.
pub fn of_stack(stack: &Stack) -> View {
    let mut view = View::new();
    let top = root(stack.count(), 0);
    let node = stack.node(&top[0]).expect("reads").expect("a root");
    view.insert(Vec::new(), line(&node, None, None));
    walk(stack, &top, b"", &mut view);
    view
}

fn walk(stack: &Stack, dir: &[Part], at: &[u8], view: &mut View) {
    for name in stack.names(dir).expect("lists") {
        let path = joined(at, &name);
        let shown = lookup(stack, dir, &name).expect("looks up");
        let Some(first) = shown.first() else { continue };
        let node = stack.node(first).expect("reads").expect("it shows");
        let data = match &shown {
            Shown::File(parts) => Some(read(stack, parts, node.size())),
            _ => None,
        };
        let link = (node.file_type() == FileType::Symlink)
            .then(|| stack.tree(first.layer).link(&first.path).expect("a link"));
        view.insert(path.clone(), line(&node, data, link));
        if let Shown::Dir(parts) = &shown {
            walk(stack, parts, &path, view);
        }
    }
}

fn read(stack: &Stack, parts: &[Part], size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    let content = Content::open(stack, parts, size).expect("opens");
    assert_eq!(content.read_at(0, &mut bytes).expect("reads"), bytes.len());
    bytes
}

/// A line for everything in a directory, as the kernel shows it.
pub fn of_kernel(dir: &Path) -> View {
    let tree = Tree::base(dir, Xattrs::Trusted).expect("opens");
    let mut view = View::new();
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let node = tree.node(&path).expect("reads").expect("listed");
        let data = match node.file_type() {
            FileType::RegularFile => {
                Some(std::fs::read(dir.join(std::ffi::OsStr::from_bytes(&path))).expect("reads"))
            }
            FileType::Directory => {
                let names = tree.names(&path).expect("lists");
                waiting.extend(names.into_iter().map(|(name, _)| joined(&path, &name)));
                None
            }
            _ => None,
        };
        let link = (node.file_type() == FileType::Symlink).then(|| tree.link(&path).expect("a link"));
        view.insert(path, line(&node, data, link));
    }
    view
}

fn line(node: &Node, data: Option<Vec<u8>>, link: Option<Vec<u8>>) -> String {
    let data = data.map(|bytes| (bytes.len(), blake3::hash(&bytes).to_hex()[..16].to_owned()));
    let xattrs: Vec<_> =
        node.shown().into_iter().map(|(n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii())).collect();
    let (uid, gid) = (node.stat.st_uid, node.stat.st_gid);
    let link = link.map(|link| link.escape_ascii().to_string());
    format!(
        "{:?} {:o} {uid}:{gid} {} {data:?} {link:?} {xattrs:?}",
        node.file_type(),
        node.mode(),
        node.mtime_ns()
    )
}

/// Panics with what differs.
pub fn assert_same(wanted: &View, found: &View, context: &str) {
    let mut out = String::new();
    for (path, line) in wanted.iter().filter(|(path, line)| found.get(*path) != Some(*line)) {
        out += &format!("- {} {line}\n", path.escape_ascii());
    }
    for (path, line) in found.iter().filter(|(path, line)| wanted.get(*path) != Some(*line)) {
        out += &format!("+ {} {line}\n", path.escape_ascii());
    }
    assert!(out.is_empty(), "{context}: - wanted, + found:\n{out}");
    assert!(wanted.len() > 3, "{context}: nothing to compare");
}

fn check(kind: &str, options: &str, seeds: std::ops::Range<u64>) {
    let lab = Lab::new(kind);
    for seed in seeds {
        let made = Made::new(&lab, &seed.to_string(), 3, options, &mut Random(seed * 7919 + 1));
        for from in 0..3 {
            let mounted = made.mount(&lab, from);
            let context = format!("{kind} {options} seed {seed} from {from}");
            assert_same(&of_kernel(mounted.path()), &of_stack(&made.stack(from)), &context);
        }
    }
}

#[test]
fn a_stack_shows_what_the_kernel_shows_of_it() {
    ground!("overlay", "loop", "mkfs.ext4");
    check("ext4", "redirect_dir=on,metacopy=off,index=off", 0..4);
}

#[test]
fn a_stack_with_files_whose_data_is_below_shows_what_the_kernel_shows() {
    ground!("overlay", "loop", "mkfs.ext4");
    check("ext4", "redirect_dir=on,metacopy=on,index=on", 10..14);
}

#[test]
fn a_stack_in_the_user_namespace_of_attributes_shows_what_the_kernel_shows() {
    ground!("overlay", "loop", "mkfs.xfs");
    check("xfs", "userxattr", 20..23);
}
