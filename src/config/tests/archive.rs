//! `[[job.NAME.archive]]`

use expect_test::expect;

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
    assert_eq!(first.retention.as_ref().map(|retention| retention.per.len()), Some(2));
    assert!(first.ca.is_some() && second.ca.is_none() && second.retention.is_none());
}

#[test]
fn an_archive_that_can_not_be_is_an_error_with_its_place() {
    check_job("[[job.a.archive]]\nretention = {}\n[[job.a.archive]]\nto = \"ssh://host/x\"", expect![[""]]);
    check_job(
        "[[job.a.archive]]\nto = \"s3://b/a\"\nmax_chain = 0\nmax_restore = \"3\"\nlevel = 40\nsign = \"key\"\nencrypt_to = [\"bob\"]\nendpoint = \"https://me:secret@host\"",
        expect![[""]],
    );
}

#[test]
fn an_archive_is_of_one_dataset() {
    let twice = wrong(&job("[[job.a.archive]]\nto = \"s3://b/a\"\n[[job.a.archive]]\nto = \"s3://b/a\""));
    assert!(twice.contains("s3://b/a is named twice: an archive is of one dataset"), "{twice}");
    let other = job("[[job.a.archive]]\nto = \"s3://b/a\"")
        + &job("[[job.a.archive]]\nto = \"s3://b/a\"").replace("job.a", "job.b").replace("tank/a", "tank/b");
    let two = wrong(&other);
    assert!(two.contains("job.b.archive: s3://b/a is an archive of job a"), "{two}");
}
