//! The recipes: each page is run from its top to its end, with programs of Debian in place of those that can not be had here (`recipes/setup`).

use crate::docs::run_page_placed;
use crate::ground::ground;

/// Runs a page whose programs answer at these addresses, or at others that nobody else has.
fn run(name: &str, addresses: &[&'static str]) {
    let listeners: Vec<_> =
        addresses.iter().map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let placed = addresses.iter().zip(&listeners).map(|(address, listener)| {
        let port = listener.local_addr().expect("bound").port().to_string();
        // Also by itself, as an option's value.
        [(*address, format!("127.0.0.1:{port}")), (&address["127.0.0.1:".len()..], port)]
    });
    let places = placed.flatten().collect();
    drop(listeners);
    let stand_ins = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/recipes");
    run_page_placed(&format!("docs/recipes/{name}.md"), &[("STAND_INS", stand_ins)], places);
}

#[test]
fn every_day_is_as_it_is_told() {
    ground!("btrfs", "jq");
    run("daily", &[]);
}

#[test]
fn a_stacks_node_is_kept_and_brought_back() {
    ground!("btrfs", "sqlite3", "curl", "jq", "/usr/bin/python3");
    run("stacks", &["127.0.0.1:20443"]);
}

#[test]
fn a_loom_node_is_kept_and_brought_back() {
    ground!("btrfs", "litecoind", "jq");
    run("loom", &["127.0.0.1:46658"]);
}

#[test]
fn a_stellar_validator_is_kept_and_brought_back() {
    ground!("btrfs", "pg_ctlcluster", "setpriv", "curl", "jq", "/usr/bin/python3");
    run("stellar", &["127.0.0.1:11626"]);
}

#[test]
fn an_ipfs_archive_is_kept_and_brought_back() {
    ground!("btrfs", "curl", "jq", "/usr/bin/python3");
    run("ipfs-archive", &["127.0.0.1:5001"]);
}

#[test]
fn a_staged_network_is_given_back_to_each_suite() {
    ground!("btrfs", "litecoind", "jq");
    run("staged-network", &[]);
}
