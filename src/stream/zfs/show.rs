//! A record as one line of text.

use std::fmt::{self, Display, Formatter};

use super::record::Record;

/// `NAME key=value …`
impl Display for Record {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match *self {
            Self::Object { .. } => self.fmt_object(f),
            Self::FreeObjects { first, count } => write!(f, " first={first} count={count}"),
            Self::Write { object, offset, len, compressed_len, compression, kind, .. } => {
                write!(f, " object={object} offset={offset} len={len} kind={kind}")?;
                compressed(f, compression, compressed_len)
            }
            Self::Free { object, offset, len } | Self::Redact { object, offset, len } => {
                write!(f, " object={object} offset={offset}")?;
                match len {
                    u64::MAX => write!(f, " len=all"),
                    _ => write!(f, " len={len}"),
                }
            }
            Self::End { checksum: [a, b, c, d], to_guid } => {
                write!(f, " checksum={a:x}/{b:x}/{c:x}/{d:x} guid={to_guid:016x}")
            }
            Self::WriteByRef { object, offset, len, from_guid, from_object, from_offset } => {
                write!(f, " object={object} offset={offset} len={len}")?;
                write!(f, " from={from_guid:016x}/{from_object}/{from_offset}")
            }
            Self::Spill { object, len, compression, compressed_len, .. } => {
                write!(f, " object={object} len={len}")?;
                compressed(f, compression, compressed_len)
            }
            Self::WriteEmbedded { object, offset, len, compression, stored_len, .. } => {
                write!(f, " object={object} offset={offset} len={len}")?;
                compressed(f, compression, stored_len.into())
            }
            Self::ObjectRange { first, count, .. } => write!(f, " first={first} count={count}"),
        }
    }
}

impl Record {
    fn fmt_object(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self::Object {
            object,
            kind,
            bonus_kind,
            block_len,
            bonus_len,
            dnode_slots,
            raw_bonus_len,
            levels,
            max_block,
            ..
        } = *self
        else {
            return Ok(());
        };
        write!(
            f,
            " object={object} kind={kind} block={block_len} bonus={bonus_len} bonus_kind={bonus_kind}"
        )?;
        if dnode_slots > 1 {
            write!(f, " slots={dnode_slots}")?;
        }
        if raw_bonus_len > 0 {
            write!(f, " raw_bonus={raw_bonus_len} levels={levels} max_block={max_block}")?;
        }
        Ok(())
    }
}

fn compressed(f: &mut Formatter<'_>, how: u8, len: u64) -> fmt::Result {
    match how {
        0 => Ok(()),
        _ => write!(f, " compression={how} compressed={len}"),
    }
}
