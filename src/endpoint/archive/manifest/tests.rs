use super::*;

fn sample(lens: &[u64]) -> Manifest {
    let about = About {
        backend: Backend::Btrfs,
        dataset: "tank/chain".into(),
        snapshot: "daily 2:a".parse().expect("sound"),
        guid: Guid([1; 16]),
        base: Some(Guid([2; 16])),
        created: "2026-11-20T02:00:00Z".parse().expect("sound"),
        stream: Stream { length: 5 << 20, blake3: Some(Digest([7; 32])) },
        labels: [("height".to_owned(), "12".to_owned())].into(),
        encryption: None,
        more: Map::new(),
    };
    let piece = |(number, len): (u8, &u64)| Piece { len: *len, digest: Digest([number; 32]) };
    Manifest::new(about, (0..).zip(lens).map(piece)).expect("sound")
}

/// The text with a digest that fits.
fn sealed(lines: &str) -> Vec<u8> {
    format!("{lines}blake3 {}\n", blake3::hash(lines.as_bytes()).to_hex()).into_bytes()
}

#[test]
fn a_manifest_is_these_lines() {
    let manifest = sample(&[PART_LEN, 10]);
    let text = String::from_utf8(manifest.to_bytes()).expect("sound");
    let expected = format!(
        "cowsnap-version 1\n\
         {{\"backend\":\"btrfs\",\"dataset\":\"tank/chain\",\"snapshot\":\"daily 2:a\",\
         \"guid\":\"01010101-0101-0101-0101-010101010101\",\"base\":\"02020202-0202-0202-0202-020202020202\",\
         \"created\":\"2026-11-20T02:00:00Z\",\"stream\":{{\"length\":5242880,\"blake3\":\"{}\"}},\
         \"labels\":{{\"height\":\"12\"}},\"encryption\":null}}\n\
         16777216 {}\n\
         10 {}\n",
        "07".repeat(32),
        "00".repeat(32),
        "01".repeat(32),
    );
    assert_eq!(text, String::from_utf8(sealed(&expected)).expect("sound"));
    assert_eq!(Manifest::parse(text.as_bytes()).expect("sound"), manifest);
    let stored = manifest.stored();
    assert_eq!(stored.len, PART_LEN + 10);
    manifest.expect_key(&Stored::parse(&stored.to_string()).expect("sound")).expect("sound");
    let keys: Vec<_> = manifest.parts().map(|(part, len)| (part.to_string(), len)).collect();
    let group = "parts/01010101010101010101010101010101.02020202020202020202020202020202/";
    assert_eq!(keys[1], (format!("{group}000001-{}", "01".repeat(32)), 10));
}

#[test]
fn each_flipped_bit_and_each_missing_end_is_noticed() {
    let mut manifest = sample(&[PART_LEN, 10]);
    for (number, flip) in (0..manifest.to_bytes().len()).flat_map(|n| (0..8).map(move |bit| (n, 1 << bit))) {
        let mut bytes = manifest.to_bytes();
        bytes[number] ^= flip;
        assert!(Manifest::parse(&bytes).is_err(), "byte {number}, {flip:#x}");
    }
    let key = SigningKey::from_seed([7; 32]);
    manifest.sign(&key).expect("sound");
    let bytes = manifest.to_bytes();
    let whole = manifest.signed().len();
    for len in (0..bytes.len()).filter(|len| *len != whole) {
        assert!(Manifest::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
    let read = Manifest::parse(&bytes).expect("sound");
    assert_eq!((read.signatures()[0].by, read.signed()), (key.public(), manifest.signed()));
    let of = |byte| Trusted::new([SigningKey::from_seed([byte; 32]).public()]);
    read.expect_signed(&of(7)).expect("sound");
    assert!(
        read.expect_signed(&of(8))
            .expect_err("refused")
            .to_string()
            .contains("none of the keys that are trusted")
    );
    let unsigned = Manifest::parse(&manifest.signed()).expect("sound");
    assert!(unsigned.expect_signed(&of(7)).expect_err("refused").to_string().contains("it is not signed"));
    // Of another manifest.
    let mut other = sample(&[PART_LEN, 11]);
    let line = String::from_utf8(bytes[whole..].to_vec()).expect("sound");
    let forged = [other.to_bytes(), line.into_bytes()].concat();
    let forged = Manifest::parse(&forged).expect("sound");
    assert!(forged.expect_signed(&of(7)).expect_err("refused").to_string().contains("does not match"));
    other.sign(&key).expect("sound");
    other.expect_signed(&of(7)).expect("sound");
    assert!(read == manifest);
}

#[test]
fn what_no_writer_writes_is_refused() {
    let whole = String::from_utf8(sample(&[PART_LEN, 10]).signed()).expect("sound");
    let lines = &whole[..whole.rfind("blake3").expect("sound")];
    Manifest::parse(&sealed(lines)).expect("sound");
    let wrong = [
        ("cowsnap-version 1", "cowsnap-version 2", "line 1: no manifest"),
        ("\n10 ", "\n0 ", "line 4: no length"),
        ("\n10 ", "\n010 ", "line 4: no length"),
        ("\n10 ", "\n+10 ", "line 4: no length"),
        ("\n10 ", "\n16777217 ", "line 4: no length"),
        ("\n10 ", "\n99999999999999999999 ", "line 4: no length"),
        ("16777216 ", "16777215 ", "line 4: behind a part that is shorter"),
        ("\n10 ", "\n10  ", "line 4: no digest"),
        ("\"encryption\":null", "\"encryption\":null,\"!keep\":1", "the field \"!keep\""),
        ("\"labels\"", "\"base\":null,\"labels\"", "line 2"),
        (
            "\"01010101-0101-0101-0101-010101010101\"",
            "\"00000000000000000000000000000000\"",
            "line 2: an identity",
        ),
        ("\"btrfs\"", "\"ext4\"", "line 2"),
    ];
    for (old, new, says) in wrong {
        let lines = lines.replacen(old, new, 1);
        let error = Manifest::parse(&sealed(&lines)).expect_err(new).to_string();
        assert!(error.contains(says), "{new}: {error}");
    }
    let without = &lines[..lines.find("16777216 ").expect("sound")];
    assert!(Manifest::parse(&sealed(without)).expect_err("refused").to_string().contains("no part"));
    let mut junk = whole.clone().into_bytes();
    junk.extend_from_slice(b"ed25519 short AAAA\n");
    assert!(Manifest::parse(&junk).expect_err("refused").to_string().contains("no signature"));
    let later = lines.replacen("\"encryption\":null", "\"encryption\":null,\"later\":[1]", 1);
    let read = Manifest::parse(&sealed(&later)).expect("sound");
    assert_eq!(read.about().more["later"], serde_json::json!([1]));
}

#[test]
fn a_manifest_under_another_key_is_noticed() {
    let manifest = sample(&[9]);
    let own = manifest.stored();
    let name: SnapshotName = "other".parse().expect("sound");
    let others = [
        (Stored { base: None, ..own.clone() }, "base"),
        (Stored { len: 10, ..own.clone() }, "length"),
        (Stored { created: Timestamp::UNIX_EPOCH, ..own.clone() }, "time"),
        (Stored { version: VersionRef { name, ..own.version.clone() }, ..own.clone() }, "name"),
        (
            Stored { version: VersionRef { guid: Guid([9; 16]), ..own.version.clone() }, ..own.clone() },
            "guid",
        ),
    ];
    for (stored, what) in others {
        let error = manifest.expect_key(&stored).expect_err(what);
        assert!(matches!(error, Flaw::OtherKey(other) if other == what), "{error}");
    }
}

#[test]
fn a_long_manifest_is_the_same_in_whatever_pieces_it_comes() {
    let key = SigningKey::from_seed([7; 32]);
    let mut manifest = sample(&[[PART_LEN; 250].as_slice(), &[10]].concat());
    let (about, short) = (manifest.about().clone(), manifest.pieces().collect::<Vec<_>>());
    let long = (0..3_000).map(|n| Piece { len: PART_LEN, ..short[n % 250] });
    manifest = Manifest::new(about, long.chain([short[250]])).expect("sound");
    manifest.sign(&key).expect("sound");
    let bytes = manifest.to_bytes();
    assert_eq!(manifest.len(), 3_000 * PART_LEN + 10);
    assert_eq!(manifest.pieces().len(), 3_001);
    assert!(bytes.len() > 2 * SOME && bytes.starts_with(&manifest.signed()));
    for piece in [1, 100, bytes.len()] {
        let read = Manifest::read(std::io::BufReader::with_capacity(piece, &bytes[..])).expect("sound");
        assert!(read == manifest && read.to_bytes() == bytes);
        read.expect_signed(&Trusted::new([key.public()])).expect("signed");
        assert_eq!(read.parts().last(), manifest.parts().last());
    }
    let mut lines = manifest.signed();
    lines[40_000] ^= 1;
    assert!(Manifest::read(&lines[..]).is_err());
}

#[test]
fn more_parts_than_a_manifest_has_room_for_are_refused() {
    let about = sample(&[1]).about().clone();
    let too_many = vec![Digest([1; 32]); MAX_PARTS as usize + 1];
    let error = Manifest::of(about.clone(), too_many, 1).expect_err("too many").to_string();
    assert!(error.contains("too many"), "{error}");
    assert!(Manifest::of(about, Vec::new(), 1).is_err());
}
