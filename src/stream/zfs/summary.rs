//! What a whole stream holds, counted.

use std::collections::BTreeMap;
use std::io::Read;

use super::begin::Begin;
use super::error::Result;
use super::nvlist::List;
use super::record::Record;
use super::walker::{Located, Walker};

/// How many records of one kind there are, and how much data stands behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Records.
    pub records: u64,
    /// Bytes of data behind them, not counting the records themselves.
    pub data_bytes: u64,
}

/// A stream that was read to its end and found undamaged.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// What it is.
    pub begin: Begin,
    /// The list behind BEGIN.
    pub list: Option<List>,
    /// By the records' names. BEGIN is not counted.
    pub counts: BTreeMap<&'static str, Count>,
    /// Bytes that the blocks have when decompressed: of WRITE, WRITE_EMBEDDED and SPILL.
    pub block_bytes: u64,
    /// Length of the whole stream.
    pub stream_bytes: u64,
    /// fletcher-4 of all before END, as END says it.
    pub checksum: [u64; 4],
}

impl Summary {
    /// Reads a stream to its end.
    ///
    /// # Errors
    /// Those of [`Walker::open`] and [`Walker::next_record`].
    pub fn of(input: impl Read) -> Result<Self> {
        let mut walker = Walker::open(input)?;
        let mut counts = BTreeMap::<_, Count>::new();
        let mut block_bytes = 0_u64;
        while let Some(Located { record, data_len, .. }) = walker.next_record()? {
            let count = counts.entry(record.name()).or_default();
            count.records += 1;
            count.data_bytes += data_len;
            block_bytes = block_bytes.saturating_add(block_len(&record));
        }
        Ok(Self {
            begin: walker.begin().clone(),
            list: walker.list().cloned(),
            counts,
            block_bytes,
            stream_bytes: walker.offset(),
            checksum: walker.total().expect("after the last record"),
        })
    }

    /// How many objects it makes or changes.
    pub fn objects(&self) -> u64 {
        self.counts.get("OBJECT").map_or(0, |count| count.records)
    }
}

fn block_len(record: &Record) -> u64 {
    match *record {
        Record::Write { len, .. } | Record::Spill { len, .. } => len,
        Record::WriteEmbedded { block_len, .. } => block_len.into(),
        _ => 0,
    }
}
