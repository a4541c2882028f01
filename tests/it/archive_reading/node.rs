//! A real chain: its node runs while versions of it go into an archive; the machine is lost, and every version that is there starts a node.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::lab::{code, errors, text};
use crate::chain::{self, Chain};
use crate::ground::{Btrfs, cowsnap, ground};

/// A node that ends with the test.
struct Node {
    chain: Chain,
    child: Child,
}

impl Node {
    fn start(data: &Path) -> Self {
        let chain = Chain::of(data);
        let child = Command::new(chain::program())
            .args(chain.words())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        chain.waits_until_it_answers();
        Self { chain, child }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_node_starts_on_every_version_that_an_archive_brings_back_to_a_machine_that_never_saw_it() {
    ground!("btrfs", "litecoind");
    let source = Btrfs::with("4G", &[], "");
    let (state, data) = (source.outside().to_owned(), source.subvolume("node"));
    let archive = crate::ground::scratch();
    let url = format!("file://{}", archive.path().display());
    let run = |words: &[&str]| {
        let output = cowsnap(&state).args(words).stdin(Stdio::null()).output().expect("runs");
        assert_eq!(code(&output), Some(0), "{words:?}: {}", errors(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let dataset = text(&data);
    run(&["archive", "add", &url, &dataset]);
    let node = Node::start(&data);
    let mut heights = Vec::new();
    for n in 0..=10 {
        node.chain.mine(20 + n);
        node.chain.flush();
        let height = node.chain.height().expect("it answers");
        // While it runs: what it has open was not closed, as after a power cut.
        run(&["snapshot", &dataset, "--name", &format!("h{height}")]);
        let pushed = run(&["archive", "push", &format!("{dataset}@h{height}"), &url, "--max-chain", "4"]);
        assert_eq!(pushed.contains("in full"), n % 4 == 0, "{pushed}");
        heights.push(height);
        // The first chain goes, and the second is still pushed upon; then nothing does, as the last of it builds upon the others.
        let keep = [(5, "2"), (7, "1")].into_iter().find(|(at, _)| *at == n);
        if let Some((_, keep)) = keep {
            run(&["archive", "prune", &url, "--keep-last", keep]);
            assert_eq!(versions(&run, &url), heights[4..]);
        }
    }
    run(&["archive", "prune", &url, "--keep-last", "3"]);
    let kept = versions(&run, &url);
    assert_eq!(kept, heights[8..]);
    // All that the machine had is gone.
    drop(node);
    drop(source);
    let fresh = Btrfs::with("4G", &[], "");
    for height in kept {
        let to = fresh.path().join(format!("node{height}"));
        let state = fresh.outside();
        let words = ["restore", &format!("{url}@h{height}"), "--to", &text(&to)];
        let output = cowsnap(state).args(words).stdin(Stdio::null()).output().expect("runs");
        assert_eq!(code(&output), Some(0), "{}", errors(&output));
        let node = Node::start(&to);
        assert!(node.chain.is_sound());
        assert_eq!(node.chain.height(), Some(height));
    }
}

/// The heights of the versions that an archive holds, oldest first; each must come back.
fn versions(run: &dyn Fn(&[&str]) -> String, url: &str) -> Vec<u64> {
    let list: serde_json::Value =
        serde_json::from_str(&run(&["archive", "list", url, "--json"])).expect("JSON");
    let versions = list["versions"].as_array().expect("versions");
    assert!(versions.iter().all(|version| version["restorable"] == true), "{list}");
    let height = |version: &serde_json::Value| version["name"].as_str()?.strip_prefix('h')?.parse().ok();
    versions.iter().map(|version| height(version).expect("a height")).collect()
}
