//! `[[job.NAME.archive]]`

use expect_test::expect;

use crate::model::archive::Depth;

use super::{check_job, job, load, wrong};

#[test]
fn an_archive_is_what_its_lines_say() {
    let text = job(r#"
[[job.a.archive]]
to = "s3://bucket/a"
endpoint = "https://store.example:9000"
region = "eu-central-1"
profile = "backup"
storage_class = "STANDARD_IA"
ca = "/etc/ssl/own.pem"
max_chain = 30
max_restore = "300%"
bandwidth = "20M"
level = 9
sign = "/etc/cowsnap/sign.key"
encrypt_to = ["age1qqqq", "/etc/cowsnap/recipients"]
verify_key = ["/etc/cowsnap/sign.pub"]
verify = "5%"
verify_every = "1d"
path_style = true
allow_http = true
[job.a.archive.retention]
daily = 30
weekly = 12
[[job.a.archive]]
to = "file:///mnt/usb/a"
"#);
    let config = load(&[("config.toml", &text)]).expect("a configuration");
    let [first, second] = config.jobs[0].archives.as_slice() else { panic!("two archives") };
    assert_eq!((first.dataset.as_str(), first.to.as_str()), ("tank/a", "s3://bucket/a"));
    assert_eq!(first.endpoint.as_deref(), Some("https://store.example:9000"));
    assert_eq!((first.region.as_deref(), first.profile.as_deref()), (Some("eu-central-1"), Some("backup")));
    assert_eq!((first.max_chain, first.max_restore, first.bandwidth), (Some(30), Some(300), Some(20 << 20)));
    assert_eq!((first.level, first.storage_class.as_deref()), (Some(9), Some("STANDARD_IA")));
    assert_eq!(first.sign.as_deref(), Some("/etc/cowsnap/sign.key".as_ref()));
    assert_eq!(first.encrypt_to, ["age1qqqq", "/etc/cowsnap/recipients"]);
    assert_eq!(first.verify_key, ["/etc/cowsnap/sign.pub"]);
    assert_eq!((first.verify, second.verify), (Some(Depth::Sample(20)), None));
    assert!(first.verify_every.is_some() && second.verify_every.is_none());
    assert_eq!((first.path_style, first.allow_http, second.path_style), (Some(true), true, None));
    assert_eq!(first.retention.as_ref().map(|retention| retention.per.len()), Some(2));
    assert!(first.ca.is_some() && second.ca.is_none() && second.retention.is_none());
}

#[test]
fn an_archive_that_can_not_be_is_an_error_with_its_place() {
    check_job(
        "[[job.a.archive]]\nretention = {}\n[[job.a.archive]]\nto = \"ssh://host/x\"",
        expect![[r#"
        config.toml:4: job.a.archive.to: is missing: "s3://BUCKET/PREFIX", "gs://BUCKET/PREFIX", "az://CONTAINER/PREFIX" or "file:///DIRECTORY"
        config.toml:5: job.a.archive.retention: keeps nothing: at least one of last, hourly, daily, weekly, monthly, yearly, within, labels, names
        config.toml:7: job.a.archive.to: "ssh://host/x" is no store's address: it begins with s3://, gs://, az://, https://, http:// or file:///; valid is "s3://BUCKET/PREFIX", "gs://BUCKET/PREFIX", "az://CONTAINER/PREFIX" or "file:///DIRECTORY"
    "#]],
    );
    check_job(
        "[[job.a.archive]]\nto = \"s3://b/a\"\nmax_chain = 0\nmax_restore = \"3\"\nlevel = 40\nsign = \"key\"\nencrypt_to = [\"bob\"]\nendpoint = \"https://me:secret@host\"",
        expect![[r#"
        config.toml:6: job.a.archive.max_chain: a chain has at least the full one: 1 or more
        config.toml:7: job.a.archive.max_restore: "3": in percent of the chain's full one, at least "100%"
        config.toml:8: job.a.archive.level: zstd's levels are 1 to 22
        config.toml:9: job.a.archive.sign: "key" is a relative path: an absolute one is needed
        config.toml:10: job.a.archive.encrypt_to: "bob" is neither a recipient (age1…) nor the absolute path of a file with recipients
        config.toml:11: job.a.archive.endpoint: credentials do not stand in an address
    "#]],
    );
    check_job(
        "[[job.a.archive]]\nto = \"https://me:secret@host/x\"\nverify_key = [\"bob\"]",
        expect![[r#"
        config.toml:5: job.a.archive.to: credentials do not stand in an address
        config.toml:6: job.a.archive.verify_key: it is neither a public key nor the absolute path of a file with some
    "#]],
    );
}

#[test]
fn what_is_read_of_an_archive_is_quick_full_or_a_share() {
    check_job(
        "[[job.a.archive]]\nto = \"s3://b/a\"\nverify = \"some\"\nverify_every = \"often\"\n\
         [[job.a.archive]]\nto = \"s3://b/b\"\nverify_every = \"1w\"",
        expect![[r#"
        config.toml:6: job.a.archive.verify: "some": valid is "quick", "full", or a share that is read each time, as "5%"
        config.toml:7: job.a.archive.verify_every: a time is a number and h, d, w, mo or y: 36h, 7d, 1y 6mo
        config.toml:10: job.a.archive.verify_every: says nothing without verify
    "#]],
    );
    for (text, depth) in [("quick", Depth::Quick), ("full", Depth::Full), ("30%", Depth::Sample(4))] {
        let text = job(&format!("[[job.a.archive]]\nto = \"s3://b/a\"\nverify = \"{text}\""));
        let config = load(&[("config.toml", &text)]).expect("a configuration");
        assert_eq!(config.jobs[0].archives[0].verify, Some(depth));
    }
}

#[test]
fn an_archive_is_of_one_dataset() {
    let twice = wrong(&job("[[job.a.archive]]\nto = \"s3://b/a\"\n[[job.a.archive]]\nto = \"s3://b/a/\""));
    assert!(twice.contains("s3://b/a is named twice: an archive is of one dataset"), "{twice}");
    let other = job("[[job.a.archive]]\nto = \"s3://b/a\"")
        + &job("[[job.a.archive]]\nto = \"s3://b/a\"").replace("job.a", "job.b").replace("tank/a", "tank/b");
    let two = wrong(&other);
    assert!(two.contains("job.b.archive: s3://b/a is an archive of job a"), "{two}");
}
