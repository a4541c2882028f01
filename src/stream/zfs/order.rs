//! The byte order of a stream, and numbers read in it.

/// The order in which the machine that made something writes the bytes of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// The least byte first (x86, ARM).
    Little,
    /// The greatest byte first (SPARC, s390x).
    Big,
}

impl ByteOrder {
    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    pub(super) fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }

    pub(super) fn bytes_of_u32(self, number: u32) -> [u8; 4] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    pub(super) fn bytes_of_u64(self, number: u64) -> [u8; 8] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }
}

/// The numbers of one record by where they stand in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) order: ByteOrder,
    pub(super) bytes: &'a [u8; super::RECORD_LEN],
}

impl Fields<'_> {
    /// The `N` bytes at `at`, which is a constant of the format and so always within the record.
    pub(super) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes[at..at + N].try_into().expect("as many as were asked for")
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        self.order.u32(self.array(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        self.order.u64(self.array(at))
    }
}
