//! What is said on standard error, as objects.

use serde_json::Value;

use crate::ground::ground;
use crate::job::{Lab, NODE};

#[test]
fn every_line_is_one_object_with_its_time_and_level() {
    ground!("btrfs");
    let lab = Lab::new(&NODE.replace("FS/replica", "FS/no/such/place"));
    lab.ends(0, "create FS/node");
    let (_, said) = lab.ends(7, "-v -v --log-format json job run node");
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"))).collect();
    let (error, rest) = lines.split_last().expect("an error at least");
    assert_eq!(error["error"]["class"], "partial", "{said}");
    for line in rest {
        let time = line["timestamp"].as_str().expect("a time");
        assert!(time.parse::<jiff::Timestamp>().is_ok() && line["message"].is_string(), "{line}");
        assert!(
            ["WARN", "INFO", "DEBUG", "TRACE"].contains(&line["level"].as_str().unwrap_or_default()),
            "{line}"
        );
    }
    // What the program says itself is as what is traced.
    std::fs::write(lab.fs.outside().join("state/runs/node.json"), "{").expect("written");
    let (_, said) = lab.ends(7, "--log-format json job run node");
    let first: Value = serde_json::from_str(said.lines().next().expect("a line")).expect("an object");
    assert_eq!(first["level"], "WARN", "{said}");
    assert!(first["message"].as_str().is_some_and(|text| text.contains("begun anew")), "{said}");
    lab.ends(2, "--log-format xml list");
}
