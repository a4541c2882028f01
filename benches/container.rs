//! How fast containers are written and read, beside the tools that would do it otherwise.
//!
//! `cargo bench --bench container [-- MIB]`: mixed data (a third each: text, random, binary records) of that many MiB,
//! 1,024 by default, in a file in `$TMPDIR` that has been read once. Each round runs everything; the best of three rounds counts.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cowsnap::stream::container::{Backend, Header};
use cowsnap::stream::crypt::{Encryption, Identity};
use cowsnap::stream::reader::{Keys, Reader};
use cowsnap::stream::sign::SigningKey;
use cowsnap::stream::writer::{self, Options, Protection};

const ROUNDS: usize = 3;

/// A name, and what is timed.
type Case<'a> = (&'static str, Box<dyn Fn() -> io::Result<()> + 'a>);

fn main() -> io::Result<()> {
    let mib = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1024);
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let (plain, stored, zstd, closed) = (at("plain"), at("stored"), at("zstd"), at("closed"));
    let identity = Identity::generate();
    let encryption = Encryption::to(&[identity.recipient()]).map_err(io::Error::other)?;
    let protection = Protection { encryption: Some(encryption), signers: vec![SigningKey::generate()] };
    let keys = Keys { identities: vec![identity], trusted: None };
    fill(&plain, mib)?;
    let mut cases: Vec<Case> = vec![
        ("read it", Box::new(|| read_all(&mut File::open(&plain)?))),
        ("container, stored, to nowhere", Box::new(|| write(&plain, io::sink(), None))),
        ("container, zstd 3, to nowhere", Box::new(|| write(&plain, io::sink(), Some(3)))),
        ("container, stored, to a file", Box::new(|| write(&plain, File::create(&stored)?, None))),
        ("container, zstd 3, to a file", Box::new(|| write(&plain, File::create(&zstd)?, Some(3)))),
        ("encrypted, stored, to nowhere", Box::new(|| close(&plain, io::sink(), None, &protection))),
        (
            "encrypted, zstd 3, to a file",
            Box::new(|| close(&plain, File::create(&closed)?, Some(3), &protection)),
        ),
        ("decrypt and verify it", Box::new(|| open(&closed, &keys))),
        ("verify its seals", Box::new(|| open(&closed, &Keys::default()))),
        ("verify the stored one", Box::new(|| verify(&stored))),
        ("verify the zstd one", Box::new(|| verify(&zstd))),
    ];
    for (name, line) in TOOLS {
        if available(line) {
            cases.push((name, Box::new(|| shell(line, &plain))));
        }
    }
    let mut best = vec![Duration::MAX; cases.len()];
    for _ in 0..ROUNDS {
        for ((_, run), best) in cases.iter().zip(&mut best) {
            let since = Instant::now();
            run()?;
            *best = since.elapsed().min(*best);
        }
    }
    println!("{mib} MiB, best of {ROUNDS}:");
    for ((name, _), best) in cases.iter().zip(best) {
        let seconds = best.as_secs_f64();
        println!("{name:<44} {seconds:>7.3} s {:>8.0} MiB/s", mib as f64 / seconds);
    }
    println!("stored {} bytes, zstd {} bytes", stored.metadata()?.len(), zstd.metadata()?.len());
    Ok(())
}

const TOOLS: [(&str, &str); 3] = [
    ("b3sum", "b3sum --no-mmap < \"$1\""),
    ("zstd -T0 -3", "zstd -q -T0 -3 -c < \"$1\""),
    ("tee >(b3sum) | zstd -T0 -3", "tee >(b3sum > /dev/null) < \"$1\" | zstd -q -T0 -3 -c"),
];

fn available(line: &str) -> bool {
    ["b3sum", "zstd"]
        .iter()
        .all(|tool| !line.contains(tool) || Command::new(tool).arg("--version").output().is_ok())
}

fn shell(line: &str, plain: &Path) -> io::Result<()> {
    let status =
        Command::new("bash").arg("-c").arg(line).arg("-").arg(plain).stdout(Stdio::null()).status()?;
    status.success().then_some(()).ok_or_else(|| io::Error::other(line))
}

fn read_all(input: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    while input.read(&mut buffer)? > 0 {}
    Ok(())
}

fn write(plain: &Path, out: impl Write + Send, level: Option<i32>) -> io::Result<()> {
    writer::write(&header(), File::open(plain)?, out, &Options { level, threads: 0 })?;
    Ok(())
}

fn close(plain: &Path, out: impl Write + Send, level: Option<i32>, by: &Protection) -> io::Result<()> {
    writer::write_protected(&header(), File::open(plain)?, out, &Options { level, threads: 0 }, by)?;
    Ok(())
}

fn open(container: &Path, keys: &Keys) -> io::Result<()> {
    Reader::outline(File::open(container)?, keys, |_| {})?;
    Ok(())
}

fn verify(container: &Path) -> io::Result<()> {
    Reader::open(File::open(container)?)?.verify(|_| {})?;
    Ok(())
}

fn header() -> Header {
    Header {
        backend: Backend::Btrfs,
        dataset: "bench".into(),
        snapshot: "bench".parse().expect("a name"),
        guid: cowsnap::model::Guid([7; 16]),
        base: None,
        created: jiff::Timestamp::UNIX_EPOCH,
        stream_version: 1,
        compressed: false,
        properties: Default::default(),
        zfs: None,
        place: None,
    }
}

/// Pieces of 8 MiB: text, random, records of little-endian counters with some noise.
fn fill(path: &Path, mib: usize) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 ^ (state >> 11) as u32
    };
    const WORDS: [&str; 16] = [
        "block ", "chain ", "state ", "height=", "0x00ff", "peer ", "the ", "of ", "synced\n", "coin ",
        "sat ", "hash ", "tip ", "node ", "verify ", "utxo ",
    ];
    for piece in 0..mib.div_ceil(8) {
        let mut left = (mib - piece * 8).min(8) << 20;
        let mut counter = 0u32;
        while left > 0 {
            counter += 1;
            let bytes: &[u8] = match piece % 3 {
                0 => WORDS[random() as usize % 16].as_bytes(),
                1 => &random().to_le_bytes(),
                _ => &[counter, random() % 256, 7, counter / 3].map(u32::to_le_bytes).concat(),
            };
            let len = bytes.len().min(left);
            out.write_all(&bytes[..len])?;
            left -= len;
        }
    }
    out.flush()?;
    drop(out);
    read_all(&mut BufReader::with_capacity(1 << 20, File::open(path)?))
}
