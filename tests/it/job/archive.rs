//! Archives in jobs.

use super::Lab;
use crate::ground::ground;
use crate::s3::{Fault, Server};

const NODE: &str = "
[job.node]
datasets = [\"FS/node\"]
crash_consistent = true
[job.node.retention]
last = 1
[[job.node.archive]]
to = \"file://FS/archive\"
level = 1
[job.node.archive.retention]
last = 2
[job.node.check]
warn_verify_age = \"1d\"
";

#[test]
fn a_job_fills_its_archive_prunes_it_and_tells_of_it() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    // There is no archive yet: the snapshot is taken, and the run failed in part.
    let (_, said) = lab.ends(7, "job run node");
    assert!(
        said.contains("there is no archive at file://FS/archive") && said.contains("archive add"),
        "{said}"
    );
    lab.ends(0, "archive add file://FS/archive FS/node");
    let mut names = Vec::new();
    for n in 0..4 {
        std::fs::write(lab.fs.path().join("node/height"), n.to_string()).expect("written");
        let run = lab.json(0, "job run node");
        let archived = &run["jobs"][0]["archived"];
        assert_eq!(archived.as_array().map(Vec::len), Some(1), "{run}");
        let is_full = archived[0]["base"].is_null();
        assert_eq!(is_full, n == 0, "what changed alone is sent: {run}");
        names.push(archived[0]["snapshot"].as_str().expect("a name").to_owned());
    }
    // The newest two stay, and what they build upon.
    let list = lab.json(0, "archive list file://FS/archive");
    let there: Vec<_> =
        list["versions"].as_array().expect("versions").iter().map(|v| v["name"].clone()).collect();
    assert_eq!(there.len(), 4, "one chain: nothing can go: {list}");
    // Here, its base is held, and so the last one stays, whatever its own retention says.
    let held = lab.json(0, "holds FS/node");
    assert!(held.to_string().contains("cowsnap:to:archive-"), "{held}");
    let status = lab.json(0, "status node").to_string();
    assert!(status.contains("file://") && status.contains("archive"), "{status}");
    let (text, _) = lab.ends(1, "check node");
    assert!(text.contains("never compared with file://FS/archive: cowsnap archive verify"), "{text}");
    lab.ends(0, "archive verify file://FS/archive");
    let (text, _) = lab.ends(0, "check node");
    assert!(text.starts_with("COWSNAP OK"), "{text}");
    let metrics = lab.ends(0, "metrics node").0;
    assert!(
        metrics.contains("cowsnap_target_up_to_timestamp_seconds")
            && metrics.contains("target=\"file://FS/archive\""),
        "{metrics}"
    );
    assert!(metrics.contains("cowsnap_target_base_state"), "{metrics}");
    // Damage is found, and not forgotten by a look at less.
    let parts = lab.fs.path().join("archive/parts");
    let group = std::fs::read_dir(parts).expect("parts").next().expect("one").expect("one").path();
    let part = std::fs::read_dir(group).expect("a part").next().expect("one").expect("one").path();
    let mut bytes = std::fs::read(&part).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).expect("written");
    lab.ends(4, "archive verify file://FS/archive");
    lab.ends(0, "archive verify file://FS/archive --quick");
    let (text, _) = lab.ends(2, "check node");
    assert!(
        text.starts_with("COWSNAP CRITICAL")
            && text.contains("verify-content of FS/node against file://FS/archive"),
        "{text}"
    );
    let explained = lab.ends(0, "job explain node").0;
    assert!(explained.contains("pushes the newest snapshot of FS/node to file://FS/archive"), "{explained}");
}

#[test]
fn a_job_ends_chains_as_it_is_told_so_that_what_is_old_can_go() {
    ground!("btrfs");
    let lab = Lab::new(&NODE.replace("level = 1", "max_chain = 2"));
    lab.ends(0, "create FS/node");
    lab.ends(0, "archive add file://FS/archive FS/node");
    for n in 0..6 {
        std::fs::write(lab.fs.path().join("node/height"), n.to_string()).expect("written");
        lab.ends(0, "job run node");
    }
    let list = lab.json(0, "archive list file://FS/archive");
    let chains: Vec<_> =
        list["versions"].as_array().expect("versions").iter().map(|v| v["chain"].clone()).collect();
    assert_eq!(chains, [1, 2], "two are kept: a full one, and what builds upon it: {list}");
}

#[test]
fn a_rehearsal_of_an_archive_whose_store_does_not_answer_is_given_up_in_time() {
    ground!("btrfs", "loop", "root");
    let server = Server::start();
    let (url, env) = (server.url("node"), server.env());
    let node = NODE.replace("file://FS/archive\"", &format!("{url}\"\nallow_http = true"));
    let drill = format!(
        "[job.node.drill]\nfrom = \"{url}\"\ninto = \"FS\"\nreceive_within = \"5s\"\ncommand = [\"/bin/true\"]\n"
    );
    let lab = Lab::new(&format!("{node}{drill}"));
    lab.ends(0, "create FS/node");
    lab.ends_in(&env, 0, &format!("archive add {url} --allow-http FS/node"));
    std::fs::write(lab.fs.path().join("node/height"), "1").expect("written");
    lab.ends_in(&env, 0, "job run node");
    server.forget();
    let home = lab.fs.outside().join("home").display().to_string();
    let line = format!("drill node --home {home}");
    lab.ends_in(&env, 0, &line);
    let part =
        server.requests().iter().position(|asked| asked.method == "GET" && asked.key.contains("/parts/"));
    server.forget();
    server.fault(part.expect("a part was fetched") as u64 + 1, Fault::Hang);
    let (_, said) = lab.ends_in(&env, 5, &line);
    assert!(said.contains("it was not all there after 5s"), "{said}");
    assert!(!lab.fs.path().join("cowsnap-drill-node").exists());
}

#[test]
fn what_is_in_an_archive_is_rehearsed_and_nothing_of_it_stays() {
    ground!("btrfs", "loop", "root");
    let check = |what: &str| {
        format!(
            "[job.node.drill]\nfrom = \"file://FS/archive\"\ninto = \"FS\"\ncommand = [\"/bin/sh\", \"-c\", \"{what}\"]\n"
        )
    };
    let lab = Lab::new(&format!(
        "{NODE}{}",
        check("grep 2 $COWSNAP_DRILL_DIR/height && echo mine > $COWSNAP_DRILL_DIR/height")
    ));
    lab.ends(0, "create FS/node");
    lab.ends(0, "archive add file://FS/archive FS/node");
    for n in 0..3 {
        std::fs::write(lab.fs.path().join("node/height"), n.to_string()).expect("written");
        lab.ends(0, "job run node");
    }
    std::fs::write(lab.fs.path().join("node/height"), "later").expect("written");
    let (text, _) = lab.ends(0, "drill node --dry-run");
    assert!(text.contains("would receive all of file://FS/archive@") && text.contains("requests"), "{text}");
    let home = lab.fs.outside().join("home").display().to_string();
    let (text, said) = lab.ends(0, &format!("drill node --home {home}"));
    assert!(
        text.starts_with("file://FS/archive@") && said.contains("by 3 containers, verified"),
        "{text}{said}"
    );
    let left = || {
        let names = |dir: &str| std::fs::read_dir(lab.fs.path().join(dir)).into_iter().flatten().flatten();
        let all = names("").chain(names(".cowsnap/datasets")).chain(names(".cowsnap/staging"));
        all.filter(|entry| entry.file_name().to_string_lossy().contains("cowsnap-drill")).count()
    };
    assert_eq!(left(), 0);
    assert_eq!(std::fs::read_to_string(lab.fs.path().join("node/height")).expect("there"), "later");
    assert!(lab.ends(0, "metrics node").0.contains("target=\"file://FS/archive\""));
    // What is not good is exit 4, and so is what is damaged on the way.
    lab.write(&format!("{NODE}{}", check("exit 1")));
    lab.ends(4, &format!("drill node --home {home}"));
    let claims = std::fs::read_dir(lab.fs.path().join("archive/claims")).map_or(0, |left| left.count());
    assert_eq!((left(), claims), (0, 0));
    let parts = lab.fs.path().join("archive/parts");
    for group in std::fs::read_dir(parts).expect("parts").flatten() {
        for part in std::fs::read_dir(group.path()).expect("a part").flatten() {
            let mut bytes = std::fs::read(part.path()).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(part.path(), bytes).expect("written");
        }
    }
    lab.write(&format!("{NODE}{}", check("true")));
    let (_, said) = lab.ends(4, &format!("drill node --home {home}"));
    assert!(said.contains("file://FS/archive"), "{said}");
    assert_eq!(left(), 0);
    // A target that is none of its archives, and a pool that is not said.
    for (more, why) in [
        (
            "[job.node.drill]\nfrom = \"file:///elsewhere\"\ninto = \"FS\"\ncommand = [\"/bin/true\"]\n",
            "none of the job's targets or archives",
        ),
        ("[job.node.drill]\nfrom = \"file://FS/archive\"\ncommand = [\"/bin/true\"]\n", "into: is missing"),
        (
            "[job.node.drill]\nidentity = [\"/k\"]\ncommand = [\"/bin/true\"]\n",
            "is for a `from` that is an archive",
        ),
    ] {
        lab.write(&format!("{NODE}{more}"));
        let (_, said) = lab.ends(2, "job check");
        assert!(said.contains(why), "{said}");
    }
}

/// Flips a bit in the midst of each part.
fn damage(archive: &std::path::Path) {
    for group in std::fs::read_dir(archive.join("parts")).expect("parts").flatten() {
        for part in std::fs::read_dir(group.path()).expect("a part").flatten() {
            let mut bytes = std::fs::read(part.path()).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(part.path(), bytes).expect("written");
        }
    }
}

#[test]
fn check_status_and_metrics_know_what_a_restore_from_an_archive_would_take() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "archive add file://FS/archive FS/node");
    let target = || lab.json(0, "status node")["jobs"][0]["targets"][0].clone();
    assert!(target()["chain"].is_null());
    for n in 1..=3_u64 {
        std::fs::write(lab.fs.path().join("node/height"), n.to_string()).expect("written");
        lab.ends(0, "job run node");
        let (target, list) = (target(), lab.json(0, "archive list file://FS/archive"));
        let said = list["versions"].as_array().and_then(|all| all.last()).expect("a version").clone();
        let chain = &target["chain"];
        assert_eq!(chain["containers"], n, "{target}");
        assert_eq!((&chain["containers"], &chain["requests"]), (&said["chain"], &(2 * n).into()), "{said}");
        let foretold = lab.ends(0, "restore file://FS/archive --to FS/back --dry-run").0;
        assert!(foretold.contains(&format!("in {} requests", 2 * n)), "{foretold}");
    }
    assert!(target()["verified_up_to"].is_null());
    lab.ends(0, "archive verify file://FS/archive");
    assert_eq!(target()["verified_up_to"], target()["up_to"]);
    let check = lab.json(0, "check node");
    assert_eq!(check["jobs"][0]["targets"][0]["chain"]["containers"], 3);
    let text = lab.ends(0, "check node").0;
    assert!(text.contains("archive chain'=3;;;0") && text.contains("archive requests'=6;;;0"), "{text}");
    assert!(text.contains("archive restore'="), "{text}");
    // A chain may be as long as somebody says, and no longer.
    lab.ends(0, "check node --warn-chain 3 --warn-restore 1G");
    let text = lab.ends(1, "check node --warn-chain 2").0;
    assert!(text.contains("takes 3 containers") && text.contains("chain'=3;2;;0"), "{text}");
    lab.ends(2, "check node --warn-chain 1 --crit-chain 2");
    lab.ends(2, "check node --crit-restore 1K");
    // What each archive exceeds is no limit, as in the configuration; and nothing that is critical.
    for option in ["--warn-chain", "--crit-chain", "--warn-restore", "--crit-restore"] {
        let (said, _) = lab.ends(3, &format!("check node {option} 0"));
        assert!(said.contains("0 is exceeded by each archive") && said.contains(option), "{said}");
    }
    let metrics = lab.ends(0, "metrics node").0;
    for name in ["chain_length", "restore_bytes", "restore_requests", "verified_up_to_timestamp_seconds"] {
        assert!(
            metrics.contains(&format!("\ncowsnap_archive_{name}{{job_name=\"node\"")),
            "{name}: {metrics}"
        );
    }
    // One that is there already is known, too.
    let (name, _) = lab.snapshots("node").pop().expect("a snapshot");
    let again = lab.json(0, &format!("archive push FS/node@{name} file://FS/archive"));
    assert_eq!((&again["was_there"], &again["restore"]["containers"]), (&true.into(), &3.into()), "{again}");
}

#[test]
fn what_is_pushed_in_full_by_hand_ends_the_warning_of_a_chain_that_is_too_long() {
    ground!("btrfs");
    let lab = Lab::new(&NODE.replace("warn_verify_age = \"1d\"", "warn_chain = 2"));
    lab.ends(0, "create FS/node");
    lab.ends(0, "archive add file://FS/archive FS/node");
    for n in 1..=3_u64 {
        std::fs::write(lab.fs.path().join("node/height"), n.to_string()).expect("written");
        lab.ends(0, "job run node");
    }
    let chain = || lab.json(0, "status node")["jobs"][0]["targets"][0]["chain"]["containers"].clone();
    lab.ends(1, "check node");
    // Whoever does not know the job says nothing of it.
    lab.ends(0, "archive push FS/node file://FS/archive --full --config FS/none.toml");
    assert_eq!(chain(), 3);
    lab.ends(0, "archive push FS/node file://FS/archive --full");
    assert_eq!(chain(), 1);
    lab.ends(0, "check node");
    let metrics = lab.ends(0, "metrics node").0;
    let pushed = "op=\"replicate\",dataset=\"FS/node\",target=\"file://FS/archive\",result=\"success\"} 3\n";
    assert!(metrics.contains(pushed), "it was no run: {metrics}");
}

#[test]
fn a_job_reads_some_of_its_archive_after_each_run_until_all_was_read() {
    ground!("btrfs");
    let lab = Lab::new(&NODE.replace("level = 1", "verify = \"50%\""));
    lab.ends(0, "create FS/node");
    lab.ends(0, "archive add file://FS/archive FS/node");
    let (said, _) = lab.ends(0, "job run node");
    assert!(said.contains("run 1 of 2"), "{said}");
    let target = || lab.json(0, "status node")["jobs"][0]["targets"][0].clone();
    let first = target()["up_to"].clone();
    assert!(target()["verified_up_to"].is_null());
    // Nobody else has to.
    let (text, _) = lab.ends(0, "check node");
    assert!(text.contains("archive verified'="), "{text}");
    std::fs::write(lab.fs.path().join("node/height"), "1").expect("written");
    let (said, _) = lab.ends(0, "job run node");
    assert!(said.contains("run 2 of 2"), "{said}");
    assert_eq!(target()["verified_up_to"], first, "what was there when the first of them began");
    let explained = lab.ends(0, "job explain node").0;
    assert!(explained.contains("reads a part in 2 of it, others each time"), "{explained}");
    // What is damaged fails the run, and stays until all was read and is well.
    lab.write(&NODE.replace("level = 1", "verify = \"full\""));
    damage(&lab.fs.path().join("archive"));
    let (_, said) = lab.ends(7, "job run node");
    assert!(said.contains("verify of file://FS/archive") && said.contains("damaged"), "{said}");
    let (text, _) = lab.ends(2, "check node");
    assert!(text.contains("verify-content of FS/node against file://FS/archive"), "{text}");
    // The next one is not due before its time, whatever came of the last.
    lab.write(&NODE.replace("level = 1", "verify = \"full\"\nverify_every = \"1d\""));
    lab.ends(0, "job run node");
    let explained = lab.ends(0, "job explain node").0;
    assert!(explained.contains("reads all of it, once in 1d"), "{explained}");
}
