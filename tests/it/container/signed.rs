//! Signed containers: whose they are, and that nobody else's get to their end.

use std::io::{Cursor, Read};

use cowsnap::Class;
use cowsnap::stream::container::Error;
use cowsnap::stream::container::record::{MAX_SIGNATURES, SIGNED_AS};
use cowsnap::stream::crypt::Identity;
use cowsnap::stream::reader::{Keys, Reader};
use cowsnap::stream::sign::{PublicKey, Signature, SigningKey, Trusted, Untrusted};
use cowsnap::stream::writer::{self, Protection};

use super::craft::Craft;
use super::sealed::{encryption, outline, read_with, write_with};
use super::{FRAME, header, mixed, stored, write, zstd};

fn key(byte: u8) -> SigningKey {
    SigningKey::from_seed([byte; 32])
}

fn trusting(keys: &[&SigningKey]) -> Keys {
    Keys { identities: Vec::new(), trusted: Some(Trusted::new(keys.iter().map(|key| key.public()))) }
}

#[test]
fn one_of_the_trusted_must_have_signed() {
    let (one, two, other) = (key(1), key(2), key(3));
    let stream = mixed(2 * FRAME + 5);
    for options in [stored(), zstd()] {
        let (container, _) = write_with(&header(), &stream, &options, None, &[one.clone(), two.clone()]);
        for trusted in [&[&one][..], &[&two], &[&other, &two]] {
            assert!(read_with(&container, &trusting(trusted)).expect("one of them signed").0 == stream);
        }
        let error = read_with(&container, &trusting(&[&other])).expect_err("another");
        let Error::Untrusted(Untrusted::Others { by }) = &error else { panic!("{error:?}") };
        assert_eq!((by, error.class()), (&vec![one.public(), two.public()], Class::Corrupt));
        assert!(super::read(&container).expect("who asks for no signature needs none").1 == stream);
        assert_eq!(outline(&container).unwrap().signers, [one.public(), two.public()]);
    }
    let (unsigned, _) = write(&header(), &stream, &stored());
    let error = read_with(&unsigned, &trusting(&[&one])).expect_err("unsigned");
    assert!(matches!(error, Error::Untrusted(Untrusted::Unsigned)), "{error:?}");
    assert_eq!(error.class(), Class::Corrupt);
}

#[test]
fn the_same_container_is_signed_encrypted_and_known_without_decrypting_it() {
    let (signer, identity) = (key(1), Identity::generate());
    let by = encryption(&[&identity]);
    let (container, _) =
        write_with(&header(), &mixed(FRAME + 9), &zstd(), Some(&by), std::slice::from_ref(&signer));
    let known = Reader::outline(Cursor::new(container.clone()), &trusting(&[&signer]), |_| {}).unwrap().1;
    assert_eq!((known.signers, known.root), (vec![signer.public()], None));
    let foreign = Reader::outline(Cursor::new(container.clone()), &trusting(&[&key(2)]), |_| {});
    assert!(matches!(foreign, Err(Error::Untrusted(_))));
    let both = Keys { identities: vec![identity], ..trusting(&[&signer]) };
    assert!(read_with(&container, &both).unwrap().0 == mixed(FRAME + 9));
}

/// Whoever commits what he reads when the end is there commits nothing of it.
#[test]
fn the_end_is_not_told_before_the_signature_was_found_right() {
    let (container, _) = write_with(&header(), &mixed(FRAME), &stored(), None, &[key(1)]);
    let mut reader = Reader::open_by(Cursor::new(container), &trusting(&[&key(2)]), 0).unwrap();
    let mut stream = vec![0; FRAME];
    reader.read_exact(&mut stream).expect("its bytes are sound");
    let error = reader.read(&mut [0]).expect_err("and nobody's who is trusted");
    assert!(matches!(Error::within(&error), Some(Error::Untrusted(_))), "{error:?}");
    assert!(reader.sealed().is_none() && reader.signers().is_empty());
}

#[test]
fn a_signature_of_another_container_is_no_signature() {
    let root = blake3::hash(b"");
    let crafted = |field: &[u8]| {
        let craft = Craft::new(&header());
        let key = craft.key;
        craft.end(0, 0, root.as_bytes(), &[(1, &key), (0x8001, field)])
    };
    let signed = |seed: u8, len: u64| {
        let hash = Craft::new(&header()).key;
        let bytes = [&hash[..], &0u64.to_le_bytes(), &len.to_le_bytes(), root.as_bytes()].concat();
        key(seed).sign(SIGNED_AS, &bytes)
    };
    let right = signed(1, 0).to_bytes();
    let (by_writer, _) = write_with(&header(), b"", &stored(), None, &[key(1)]);
    assert!(crafted(&right) == by_writer, "it is signed as docs/FORMAT.md says");
    assert!(super::read(&crafted(&right)).is_ok());
    let wrong = |field: &[u8]| super::read(&crafted(field)).expect_err("wrong");
    let of_another = wrong(&signed(1, 1).to_bytes());
    assert!(matches!(&of_another, Error::Trailer { why, .. } if why.contains("signature")), "{of_another:?}");
    let stolen = Signature { by: PublicKey([9; 32]), ..signed(1, 0) };
    assert!(matches!(wrong(&stolen.to_bytes()), Error::Trailer { .. }));
    for senseless in
        [&right[..0], &right[..95], &right.repeat(MAX_SIGNATURES + 1), &[&right[..], b"x"].concat()]
    {
        assert!(matches!(wrong(senseless), Error::Field { field: "signature", .. }), "{}", senseless.len());
    }
    assert!(super::read(&crafted(&right.repeat(MAX_SIGNATURES))).is_ok());
}

#[test]
fn there_are_not_more_signatures_than_a_trailer_holds() {
    let signers: Vec<_> = (0..=MAX_SIGNATURES as u8).map(key).collect();
    let (container, _) = write_with(&header(), b"x", &stored(), None, &signers[1..]);
    assert!(read_with(&container, &trusting(&[&signers[MAX_SIGNATURES]])).is_ok());
    let mut out = Vec::new();
    let protection = Protection { encryption: None, signers };
    let error = writer::write_protected(&header(), &b"x"[..], &mut out, &stored(), &protection);
    assert!(matches!(error, Err(Error::TooLong { .. })) && out.is_empty());
}
