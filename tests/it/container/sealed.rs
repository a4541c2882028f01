//! Encrypted containers: who reads them, what anybody can check, and what an attacker without the key can do, which is nothing unnoticed.

use std::io::{Cursor, Read};
use std::path::PathBuf;
use std::process::Command;

use cowsnap::Class;
use cowsnap::stream::container::record::HEAD_LEN;
use cowsnap::stream::container::{Error, Head, Header, HeaderHash, Kind, Sealed};
use cowsnap::stream::crypt::{Encryption, Identity, MAX_ENVELOPE_LEN, Recipient};
use cowsnap::stream::reader::{Frames, Keys, Reader, Step};
use cowsnap::stream::sign::SigningKey;
use cowsnap::stream::writer::{self, Options, Protection};

use super::craft::{Craft, fields_with};
use super::{FRAME, header, mixed, stored, zstd};

/// For whom the golden containers are: a key that guards nothing.
const GOLDEN: &str = "AGE-SECRET-KEY-178EL8HKR2Q5HPZGP4RXDM7Z3DND9AR7E0388THCA4TK6KU8WCHYS8FRELR";

pub fn golden_identity() -> Identity {
    GOLDEN.parse().expect("a key of age's")
}

pub fn encryption(identities: &[&Identity]) -> Encryption {
    let all: Vec<_> = identities.iter().map(|identity| identity.recipient()).collect();
    Encryption::to(&all).expect("few recipients")
}

pub fn write_with(
    header: &Header,
    stream: &[u8],
    options: &Options,
    encryption: Option<&Encryption>,
    signers: &[SigningKey],
) -> (Vec<u8>, Sealed) {
    let mut out = Vec::new();
    let protection = Protection { encryption: encryption.cloned(), signers: signers.to_vec() };
    let sealed = writer::write_protected(header, stream, &mut out, options, &protection);
    (out, sealed.expect("a Vec takes everything"))
}

pub fn keys(identities: &[&Identity]) -> Keys {
    Keys { identities: identities.iter().map(|&identity| identity.clone()).collect(), trusted: None }
}

/// Reads with both readers, which must agree.
pub fn read_with(container: &[u8], keys: &Keys) -> Result<(Vec<u8>, Sealed), Error> {
    let ahead = Reader::open_by(Cursor::new(container.to_vec()), keys, 2).and_then(|mut reader| {
        let mut stream = Vec::new();
        let read = reader.read_to_end(&mut stream);
        read.map_err(|error| Error::from_io(error).expect("a container's error"))?;
        Ok((stream, *reader.sealed().expect("the end was reached")))
    });
    let one_by_one = frames_with(container, keys);
    match (ahead, one_by_one) {
        (Ok(ahead), Ok(frames)) => {
            assert!(ahead == frames);
            Ok(ahead)
        }
        (Err(ahead), Err(frames)) => {
            assert_eq!(format!("{ahead:?}"), format!("{frames:?}"));
            Err(ahead)
        }
        (ahead, frames) => panic!("{:?} but {:?}", ahead.map(drop), frames.map(drop)),
    }
}

pub fn frames_with(container: &[u8], keys: &Keys) -> Result<(Vec<u8>, Sealed), Error> {
    let mut frames = Frames::open_by(container, keys)?;
    let mut stream = Vec::new();
    loop {
        match frames.step()? {
            Step::End(sealed) => return Ok((stream, sealed)),
            Step::Frame(frame) => {
                stream.extend(frame.bytes());
                frames.recycle(frame);
            }
        }
    }
}

/// What anybody finds without a key.
pub fn outline(container: &[u8]) -> Result<cowsnap::stream::reader::Outline, Error> {
    Reader::outline(Cursor::new(container.to_vec()), &Keys::default(), |_| {}).map(|(_, outline)| outline)
}

#[test]
fn what_was_encrypted_is_read_by_each_recipient_and_by_nobody_else() {
    let (one, two, other) = (Identity::generate(), Identity::generate(), Identity::generate());
    let encryption = encryption(&[&one, &two]);
    assert_eq!(encryption.envelope().recipients(), 2);
    for len in [0, 1, FRAME - 1, FRAME, FRAME + 1, 3_654_321] {
        for options in [stored(), zstd()] {
            let bytes = mixed(len);
            let (container, sealed) = write_with(&header(), &bytes, &options, Some(&encryption), &[]);
            assert_eq!((sealed.root, sealed.container_len), (blake3::hash(&bytes), container.len() as u64));
            for identities in [&[&one][..], &[&two], &[&other, &two]] {
                let (back, again) = read_with(&container, &keys(identities)).expect("it is for them");
                assert!(back == bytes && again == sealed, "length {len}");
            }
            let error = read_with(&container, &keys(&[&other])).expect_err("it is not");
            assert!(matches!(error, Error::Encrypted { recipients: 2, tried: 1 }), "{error:?}");
            assert_eq!(error.class(), Class::Denied);
            let error = read_with(&container, &Keys::default()).expect_err("without a key");
            assert_eq!((error.class(), error.hint().is_some()), (Class::Usage, true));
            let outline = outline(&container).expect("its seals are sound");
            let frames = len.div_ceil(FRAME) as u64;
            assert_eq!((outline.len, outline.frames, outline.root), (len as u64, frames, None));
            assert_eq!(outline.container_len, container.len() as u64);
        }
    }
}

#[test]
fn nothing_of_the_stream_nor_its_digests_is_in_the_container() {
    let identity = Identity::generate();
    let stream = b"a secret of twenty-seven by".repeat(5000);
    let root = blake3::hash(&stream);
    let (container, _) = write_with(&header(), &stream, &stored(), Some(&encryption(&[&identity])), &[]);
    let leaf = cowsnap::stream::container::tree::Leaf::of(0, &stream).chaining_value;
    for needle in [&b"a secret of"[..], &root.as_bytes()[..16], &leaf[..16]] {
        assert!(!container.windows(needle.len()).any(|window| window == needle), "{needle:02x?}");
    }
}

#[test]
fn the_same_secret_makes_the_same_container_and_another_stream_shares_no_cipher_with_it() {
    let encryption = encryption(&[&Identity::generate()]);
    let again = Encryption::from_secret_bytes(&encryption.to_secret_bytes()).expect("it was one");
    assert!(again == encryption && !format!("{again:?}").contains("secret"));
    let stream = mixed(2 * FRAME + 100);
    let write = |stream: &[u8], threads, by: &Encryption| {
        write_with(&header(), stream, &Options { level: None, threads }, Some(by), &[]).0
    };
    let one = write(&stream, 1, &encryption);
    assert!(one == write(&stream, 7, &again), "a push goes on with the same bytes");
    // Another stream with the same secret and header: where a byte differs in the first frame, all of that frame does.
    let mut other = stream.clone();
    other[17] ^= 1;
    let two = write(&other, 1, &encryption);
    let from = one.iter().zip(&two).position(|(a, b)| a != b).expect("they differ");
    let differing = one[from..from + FRAME].iter().zip(&two[from..]).filter(|(a, b)| a != b).count();
    assert!(differing > FRAME * 99 / 100, "{differing}: a cipher stream was used twice");
    for cut in [0, 31, 32] {
        assert!(Encryption::from_secret_bytes(&encryption.to_secret_bytes()[..cut]).is_none());
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed_with_the_key_and_without() {
    let identity = Identity::generate();
    let signer = SigningKey::generate();
    let by = encryption(&[&identity]);
    let (container, _) = write_with(&header(), &mixed(300), &stored(), Some(&by), &[signer]);
    let keys = keys(&[&identity]);
    assert!(frames_with(&container, &keys).is_ok() && outline(&container).is_ok());
    for bit in 0..container.len() * 8 {
        let mut flipped = container.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(frames_with(&flipped, &keys).is_err(), "bit {bit}");
        if bit % 3 == 0 {
            assert!(outline(&flipped).is_err(), "bit {bit}, without the key");
        }
    }
    for len in 0..container.len() {
        let error = frames_with(&container[..len], &keys).expect_err("it is cut off");
        assert!(matches!(error, Error::Truncated { .. }), "{len}: {error:?}");
        assert!(len % 5 != 0 || outline(&container[..len]).is_err(), "{len}");
    }
}

/// An encrypted container taken apart, by whoever has no key: the hash that seals it is in it.
#[derive(Clone)]
struct Parts {
    head: Vec<u8>,
    hash: HeaderHash,
    frames: Vec<(Head, Vec<u8>)>,
    closed_root: Vec<u8>,
}

impl Parts {
    fn of(container: &[u8]) -> Self {
        let header_len = u32::from_le_bytes(container[16..20].try_into().unwrap()) as usize;
        let (head, mut rest) = container.split_at(32 + header_len + 32);
        let hash = head[head.len() - 32..].try_into().unwrap();
        let mut frames = Vec::new();
        loop {
            let (bytes, after) = rest.split_first_chunk::<HEAD_LEN>().unwrap();
            let head = Head::from_bytes(*bytes);
            let (payload, after) = after.split_at(head.payload_len());
            if head.kind() == Kind::Trailer {
                let closed_root = payload[6 + 32 + 6..][..48].to_vec();
                return Self { head: container[..32 + header_len + 32].to_vec(), hash, frames, closed_root };
            }
            frames.push((head, payload.to_vec()));
            rest = after;
        }
    }

    /// Puts it together with all that needs no key made right: seals, counts, the digest of the heads.
    fn join(&self) -> Vec<u8> {
        let mut heads = blake3::Hasher::new_derive_key("cowsnap encrypted container 1 heads");
        heads.update(&self.hash);
        let mut craft = Craft { bytes: self.head.clone(), key: self.hash };
        let mut len = 0;
        for (head, payload) in &self.frames {
            heads.update(head.seal(&self.hash, payload).as_bytes());
            craft = craft.record(*head, payload);
            len += head.len();
        }
        let fields = [(1, &self.hash[..]), (2, &self.closed_root[..])];
        craft.end(self.frames.len() as u64, len, heads.finalize().as_bytes(), &fields)
    }

    /// The same frame with another number.
    fn numbered(&self, from: usize, number: u64) -> (Head, Vec<u8>) {
        let (head, payload) = &self.frames[from];
        let head = Head::new(Kind::Encrypted, payload.len(), number, head.len(), &head.digest());
        (head, payload.clone())
    }
}

#[test]
fn without_the_key_nothing_can_be_changed_that_the_key_does_not_notice() {
    let identity = Identity::generate();
    let keys = keys(&[&identity]);
    let by = encryption(&[&identity]);
    let stream = mixed(4 * FRAME);
    let (container, _) = write_with(&header(), &stream, &zstd(), Some(&by), &[]);
    let parts = Parts::of(&container);
    assert!(parts.join() == container, "it is put together as it was");
    let refused = |what: &str, change: &dyn Fn(&mut Parts)| {
        let mut changed = parts.clone();
        change(&mut changed);
        let bytes = changed.join();
        assert!(outline(&bytes).is_ok(), "{what}: who has no key can not tell");
        let error = read_with(&bytes, &keys).expect_err(what);
        assert_eq!(error.class(), Class::Corrupt, "{what}: {error:?}");
        error
    };
    let error = refused("a byte", &|parts| parts.frames[2].1[5000] ^= 1);
    assert!(matches!(error, Error::FrameDecrypt { place } if place.frame == 2), "{error:?}");
    refused("a digest", &|parts| {
        let (head, payload) = &mut parts.frames[1];
        *head = Head::new(Kind::Encrypted, payload.len(), 1, head.len(), &[7; 32]);
    });
    refused("two swapped", &|parts| {
        (parts.frames[1], parts.frames[2]) = (parts.numbered(2, 1), parts.numbered(1, 2));
    });
    refused("one again", &|parts| parts.frames[3] = parts.numbered(2, 3));
    refused("the last one dropped", &|parts| drop(parts.frames.pop()));
    refused("all dropped", &|parts| parts.frames.clear());
    refused("a root", &|parts| parts.closed_root[3] ^= 1);
    let (other, _) = write_with(&header(), &mixed(4 * FRAME), &stored(), Some(&by), &[]);
    let other = Parts::of(&other);
    refused("the root of the same stream, made otherwise", &|parts| {
        parts.closed_root = other.closed_root.clone()
    });
    let another = encryption(&[&identity]);
    let foreign = Parts::of(&write_with(&header(), &stream, &zstd(), Some(&another), &[]).0);
    refused("a frame for the same recipient", &|parts| parts.frames[0] = foreign.frames[0].clone());
    refused("a length", &|parts| {
        let (head, payload) = &mut parts.frames[3];
        *head = Head::new(Kind::Encrypted, payload.len(), 3, head.len() - 1, &head.digest());
    });
}

#[test]
fn plain_and_encrypted_frames_do_not_stand_in_one_container() {
    let identity = Identity::generate();
    let (container, _) = write_with(&header(), b"stream", &stored(), Some(&encryption(&[&identity])), &[]);
    let parts = Parts::of(&container);
    let plain = Craft { bytes: parts.head.clone(), key: parts.hash }.stored(0, b"stream");
    let plain = plain.trailer(1, 6, &blake3::hash(b"stream"));
    let error = read_with(&plain, &keys(&[&identity])).expect_err("a plain frame");
    assert!(matches!(error, Error::FrameKind { found: "not encrypted", .. }), "{error:?}");
    assert!(outline(&plain).is_err());
    let empty = Craft { bytes: parts.head.clone(), key: parts.hash }.trailer(0, 0, &blake3::hash(b""));
    assert!(read_with(&empty, &keys(&[&identity])).is_err() && outline(&empty).is_err(), "a plain trailer");
    let (head, payload) = &parts.frames[0];
    let error = super::read(&Craft::new(&header()).record(*head, payload).bytes).expect_err("encrypted");
    assert!(matches!(error, Error::FrameKind { found: "encrypted", .. }), "{error:?}");
    let craft = Craft::new(&header());
    let (key, root) = (craft.key, [0; 48]);
    let error = super::read(&craft.end(0, 0, blake3::hash(b"").as_bytes(), &[(1, &key), (2, &root)]));
    assert!(matches!(error, Err(Error::Trailer { .. })), "an encrypted root of a plain container");
}

#[test]
fn envelopes_that_make_no_sense_are_refused_before_anything_is_made_of_them() {
    let identity = Identity::generate();
    let keys = keys(&[&identity]);
    let with = |value: &[u8]| {
        let value: &'static [u8] = value.to_vec().leak();
        let container = Craft::of_fields(&fields_with(16, Some(value))).bytes;
        read_with(&container, &keys).expect_err("senseless")
    };
    let senseless =
        |error: Error| assert!(matches!(error, Error::Field { field: "encryption", .. }), "{error:?}");
    senseless(with(b""));
    senseless(with(b"\x01"));
    senseless(with(b"\x01\x00"));
    senseless(with(b"\x01\x00age-encryption.org/v1\n"));
    senseless(with(&[&b"\x01\x00"[..], &vec![b'-'; MAX_ENVELOPE_LEN - 2]].concat()));
    senseless(with(&vec![1; MAX_ENVELOPE_LEN + 1]));
    assert!(matches!(with(b"\x02\x00age"), Error::NeedsNewer { .. }), "another scheme");
    // Sound age files that hold another thing than a key.
    let recipient: age::x25519::Recipient = identity.recipient().to_string().parse().unwrap();
    for inner in [&b""[..], b"short", &[7; 33], &[7; 100_000]] {
        let mut file = b"\x01\x00".to_vec();
        file.extend(age::encrypt(&recipient, inner).unwrap());
        match file.len() > MAX_ENVELOPE_LEN {
            true => assert!(matches!(with(&file), Error::Field { .. })),
            false => senseless(with(&file)),
        }
    }
    let sound = encryption(&[&identity]);
    let value = sound.envelope().as_bytes().to_vec();
    for at in 2..value.len() {
        let mut changed = value.clone();
        changed[at] ^= 1;
        assert_ne!(with(&changed).class(), Class::Internal, "byte {at}");
    }
}

#[test]
fn there_may_be_hundreds_of_recipients_and_not_more_than_a_header_holds() {
    let last = Identity::generate();
    let mut all: Vec<Recipient> = (0..200).map(|_| Identity::generate().recipient()).collect();
    all.push(last.recipient());
    let by = Encryption::to(&all).expect("a few hundred fit");
    let (container, _) = write_with(&header(), b"stream", &stored(), Some(&by), &[]);
    assert!(read_with(&container, &keys(&[&last])).expect("it is for the last one").0 == b"stream");
    all.extend(all.clone().into_iter().cycle().take(800));
    assert!(matches!(Encryption::to(&all), Err(Error::Recipients { count: 1001, .. })));
    assert!(matches!(Encryption::to(&[]), Err(Error::Recipients { count: 0, .. })));
}

/// Debian's `age` and `age-keygen` read and write the same keys.
#[test]
fn keys_are_those_of_age_itself() {
    let has_age = |name: &str| Command::new(name).arg("--version").output().is_ok();
    if !has_age("age") || !has_age("age-keygen") {
        return crate::ground::skip("sealed", "no age");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).current_dir(folder.path()).args(args).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run("age-keygen", &["-o", "theirs"]);
    let theirs = Identity::parse_file(&std::fs::read_to_string(path("theirs")).unwrap()).unwrap();
    assert_eq!(run("age-keygen", &["-y", "theirs"]).trim(), theirs[0].recipient().to_string());
    let made = cowsnap::exec::keys::generate(
        &path("ours"),
        cowsnap::exec::keys::Kind::Encrypt,
        jiff::Timestamp::UNIX_EPOCH,
    )
    .unwrap();
    assert_eq!(run("age-keygen", &["-y", "ours"]).trim(), made.public);
    std::fs::write(path("text"), "for ours").unwrap();
    run("age", &["-R", "ours.pub", "-o", "closed", "text"]);
    assert_eq!(run("age", &["-d", "-i", "ours", "closed"]), "for ours");
    // And `age` opens the envelope itself, in which the secret is.
    let by = encryption(&[&theirs[0]]);
    std::fs::write(path("envelope"), &by.envelope().as_bytes()[2..]).unwrap();
    run("age", &["-d", "-i", "theirs", "-o", "secret", "envelope"]);
    assert!(std::fs::read(path("secret")).unwrap() == by.to_secret_bytes()[..32]);
}
