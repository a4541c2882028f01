//! A real node of a chain as a unit of systemd.

use super::*;
use crate::chain::{self, Chain};

#[test]
fn a_node_s_unit_is_stopped_for_its_snapshot_and_its_wrecked_data_is_back_by_a_clone_that_is_mounted() {
    ground!("systemd", "btrfs", "litecoind");
    let mut lab = Lab::new("", "");
    let chain = Chain::of(&lab.root().join("mnt/node"));
    let unit = lab.unit().replace(".service", "-node.service");
    let line = format!("{} {}", chain::program().display(), chain.words().join(" "));
    lab.add(
        &unit,
        &format!("[Unit]\nDefaultDependencies=no\n[Service]\nExecStart={line}\nTimeoutStopSec=600\n"),
    );
    lab.write(&format!("probe = {{ tcp = \"127.0.0.1:{}\" }}", chain.port()), &[&unit]);
    let (start, stop) = (|| systemctl(&["start", &unit]), || systemctl(&["stop", &unit]));
    start();
    chain.waits_until_it_answers();
    chain.mine(20);
    let before = property(&unit, "MainPID");
    let done: Value = serde_json::from_str(&lab.ends(0, "job run node --json")).expect("one object");
    chain.waits_until_it_answers();
    assert_ne!(property(&unit, "MainPID"), before);
    chain.mine(5);
    assert_eq!(chain.height(), Some(25));
    let packed = chain.packed(&stop, &start, &lab.root().join("node.tar.zst"));
    let downtime = done["jobs"][0]["quiesce"]["downtime_ms"].as_u64().expect("a number");
    println!(
        "down for {downtime} ms with cowsnap job run, for {packed} ms with systemctl stop; tar | zstd; systemctl start"
    );
    stop();
    chain.wreck();
    let name = done["jobs"][0]["snapshots"][0]["name"].as_str().expect("a name");
    lab.ends(0, &format!("clone ROOT/mnt/node@{name} ROOT/mnt/back"));
    let [back, data] = ["ROOT/mnt/back", "ROOT/mnt/node"].map(|path| lab.placed(path));
    ground::run("mount", &["--bind", &back, &data]);
    start();
    chain.waits_until_it_answers();
    assert_eq!((chain.height(), chain.is_sound()), (Some(20), true));
}
