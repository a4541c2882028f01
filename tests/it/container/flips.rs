//! Every bit of a 1 MiB container, flipped one at a time, is noticed (docs/TESTING.md says what that proves).
//!
//! A flip in a record leaves what stands before it as it was. So the reader is stopped in front of each record, and from there
//! a clone of it reads on, once per bit of that record, over bytes of which that bit is flipped: the same code as everywhere.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use cowsnap::stream::reader::{Frames, Step};

use super::{FRAME, header, noise, stored, write, zstd};

/// Reads `bytes` with the bit that `flip` names flipped.
#[derive(Clone)]
struct Flipped<'a> {
    bytes: &'a [u8],
    at: usize,
    flip: &'a AtomicU64,
}

const NONE: u64 = u64::MAX;

impl Read for Flipped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.bytes.len() - self.at);
        buffer[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        let flip = self.flip.load(Ordering::Relaxed);
        let (byte, bit) = ((flip / 8) as usize, flip % 8);
        if (self.at..self.at + len).contains(&byte) {
            buffer[byte - self.at] ^= 1 << bit;
        }
        self.at += len;
        Ok(len)
    }
}

/// Flips those bits of the container for which `chosen` says so, on that many threads; how many that were.
fn flip_all(container: &[u8], threads: u64, chosen: impl Fn(u64) -> bool + Sync) -> u64 {
    std::thread::scope(|scope| {
        let works: Vec<_> = (0..threads)
            .map(|mine| {
                let chosen = &chosen;
                scope.spawn(move || flip_some(container, |bit| bit / 64 % threads == mine && chosen(bit)))
            })
            .collect();
        works.into_iter().map(|work| work.join().expect("all are noticed")).sum()
    })
}

fn flip_some(container: &[u8], chosen: impl Fn(u64) -> bool) -> u64 {
    let flip = AtomicU64::new(NONE);
    let input = Flipped { bytes: container, at: 0, flip: &flip };
    let mut frames = Frames::open(input.clone()).expect("it is sound");
    let mut at = header().encode().unwrap().0.len() as u64;
    let mut n_flipped = flips(0..at * 8, &flip, &chosen, || Frames::open(input.clone()).is_ok());
    loop {
        let before = frames.clone();
        let end = match frames.step().expect("it is sound") {
            Step::End(sealed) => sealed.container_len,
            Step::Frame(frame) => {
                at = frame.place.at;
                let end = at + 72 + frame.payload_len as u64;
                frames.recycle(frame);
                end
            }
        };
        n_flipped += flips(at * 8..end * 8, &flip, &chosen, || before.clone().step().is_ok());
        at = end;
        if at == container.len() as u64 {
            return n_flipped;
        }
    }
}

fn flips(
    bits: std::ops::Range<u64>,
    flip: &AtomicU64,
    chosen: impl Fn(u64) -> bool,
    passes: impl Fn() -> bool,
) -> u64 {
    let mut n_flipped = 0;
    for bit in bits.filter(|bit| chosen(*bit)) {
        flip.store(bit, Ordering::Relaxed);
        assert!(!passes(), "bit {} of byte {} was flipped unnoticed", bit % 8, bit / 8);
        n_flipped += 1;
    }
    flip.store(NONE, Ordering::Relaxed);
    n_flipped
}

/// A container of little over 1 MiB: some 170 compressed frames of about 6 KiB, and a stored one.
fn large() -> Vec<u8> {
    let mut stream = vec![0; 170 * FRAME];
    for (number, frame) in stream.chunks_mut(FRAME).enumerate() {
        (0..6000).for_each(|n| frame[n] = noise(number * FRAME + n));
    }
    stream.extend((0..6000).map(noise));
    let (container, sealed) = write(&header(), &stream, &zstd());
    assert_eq!(sealed.frames, 171);
    container
}

#[test]
fn every_bit_flip_in_a_container_of_1_mib_is_noticed() {
    let container = large();
    assert!((FRAME..FRAME + FRAME / 10).contains(&container.len()), "{} bytes", container.len());
    assert_eq!(flip_all(&container, 2, |_| true), container.len() as u64 * 8);
}

/// One whole stored frame takes as long to hash as 170 small ones: all of its bits with `COWSNAP_EXHAUSTIVE=1` (about an
/// hour of one core), otherwise its heads and one bit in 400 of its payload.
#[test]
fn bit_flips_in_a_stored_frame_of_1_mib_are_noticed() {
    let stream: Vec<u8> = (0..FRAME).map(noise).collect();
    let (container, _) = write(&header(), &stream, &stored());
    let (first, last) = (400 * 8, (container.len() as u64 - 400) * 8);
    let all = std::env::var_os("COWSNAP_EXHAUSTIVE").is_some();
    let sampled = |bit: u64| bit < first || bit >= last || noise_of(bit).is_multiple_of(400);
    let n_flipped = flip_all(&container, 2, |bit| all || sampled(bit));
    assert!(n_flipped > 20_000, "{n_flipped}");
}

fn noise_of(bit: u64) -> u64 {
    bit.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// From the first byte to the end, through the reader with threads too.
#[test]
fn every_bit_flip_in_a_small_container_is_noticed_by_both_readers() {
    for options in [stored(), zstd()] {
        let (mut container, _) = write(&header(), b"a small stream a small stream a small stream", &options);
        for bit in 0..container.len() * 8 {
            container[bit / 8] ^= 1 << (bit % 8);
            let error = super::read(&container).expect_err("a flipped bit");
            assert_eq!(error.class(), cowsnap::Class::Corrupt, "bit {bit}: {error}");
            container[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(super::read(&container).is_ok());
    }
}
