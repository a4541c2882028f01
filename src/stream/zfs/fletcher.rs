//! fletcher-4: four running sums over 32-bit words.
//!
//! It finds every changed bit and most accidents. It is not a MAC: whoever can change a stream can make it fit.
//!
//! One word at a time takes four additions, as fast as a processor makes them (about 7 GiB/s): four interleaved lanes, as ZFS has
//! them for its vector units, were slower on x86-64, with AVX2 too.

use super::order::ByteOrder;

/// The sums so far. Words are read in the byte order of the stream's sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fletcher4(pub(super) [u64; 4]);

impl Fletcher4 {
    /// Goes on over `bytes`. One to three bytes after the last whole word do not count.
    pub(super) fn update(&mut self, bytes: &[u8], order: ByteOrder) {
        match order {
            ByteOrder::Little => self.update_words(bytes, u32::from_le_bytes),
            ByteOrder::Big => self.update_words(bytes, u32::from_be_bytes),
        }
    }

    fn update_words(&mut self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) {
        let [mut a, mut b, mut c, mut d] = self.0;
        let (words, _) = bytes.as_chunks::<4>();
        for &bytes in words {
            a = a.wrapping_add(u64::from(word(bytes)));
            b = b.wrapping_add(a);
            c = c.wrapping_add(b);
            d = d.wrapping_add(c);
        }
        self.0 = [a, b, c, d];
    }
}
