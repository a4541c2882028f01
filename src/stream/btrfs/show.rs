//! A command as one line of text, its bytes escaped.

use std::fmt::{self, Display, Formatter};

use super::command::{Command, Compression, Time};
use crate::model::Guid;

/// Bytes between quotes, with everything escaped that would not print or would end the line.
struct Quoted<'a>(&'a [u8]);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// The first bytes of data that may be long.
struct Glimpse<'a>(&'a [u8]);

impl Display for Glimpse<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 64;
        match self.0.len() {
            ..=SHOWN => Quoted(self.0).fmt(f),
            len => write!(f, "{}…({len} bytes)", Quoted(&self.0[..SHOWN])),
        }
    }
}

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.sec, self.nsec)
    }
}

impl Display for Compression {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zlib => f.write_str("zlib"),
            Self::Zstd => f.write_str("zstd"),
            Self::Lzo { sector } => write!(f, "lzo/{sector}"),
        }
    }
}

/// `name "path" key=value …`
impl Display for Command<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())?;
        if let Some(path) = self.path() {
            write!(f, " {}", Quoted(path))?;
        }
        match *self {
            Self::Subvol { .. } | Self::Snapshot { .. } => self.fmt_first(f),
            Self::Write { .. } | Self::Clone { .. } | Self::EncodedWrite { .. } | Self::Fallocate { .. } => {
                self.fmt_data(f)
            }
            _ => self.fmt_rest(f),
        }
    }
}

impl Command<'_> {
    /// The command's name, as `btrfs receive --dump` prints it.
    pub fn name(&self) -> &'static str {
        self.code().name()
    }

    fn fmt_first(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Subvol { uuid, ctransid, .. } => write!(f, " uuid={} ctransid={ctransid}", Guid(uuid)),
            Self::Snapshot { uuid, ctransid, clone_uuid, clone_ctransid, .. } => {
                write!(f, " uuid={} ctransid={ctransid}", Guid(uuid))?;
                write!(f, " base={} base_ctransid={clone_ctransid}", Guid(clone_uuid))
            }
            _ => Ok(()),
        }
    }

    fn fmt_data(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Write { offset, data, .. } => write!(f, " offset={offset} len={}", data.len()),
            Self::Fallocate { mode, offset, size, .. } => {
                write!(f, " mode={mode:#x} offset={offset} len={size}")
            }
            Self::Clone { offset, len, uuid, ctransid, from, from_offset, .. } => {
                write!(f, " offset={offset} len={len} from={} from_offset={from_offset}", Quoted(from))?;
                write!(f, " from_uuid={} from_ctransid={ctransid}", Guid(uuid))
            }
            Self::EncodedWrite {
                offset,
                unencoded_file_len,
                unencoded_len,
                unencoded_offset,
                compression,
                encryption,
                data,
                ..
            } => {
                write!(f, " offset={offset} len={unencoded_file_len} compression={compression}")?;
                write!(f, " encoded_len={} unencoded_len={unencoded_len}", data.len())?;
                write!(f, " unencoded_offset={unencoded_offset} encryption={encryption}")
            }
            _ => Ok(()),
        }
    }

    fn fmt_rest(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Mkfile { inode, .. }
            | Self::Mkdir { inode, .. }
            | Self::Mkfifo { inode, .. }
            | Self::Mksock { inode, .. } => write!(f, " inode={inode}"),
            Self::Mknod { mode, rdev, .. } => write!(f, " mode={mode:o} rdev={rdev:#x}"),
            Self::Symlink { target, .. } | Self::Link { target, .. } => {
                write!(f, " target={}", Quoted(target))
            }
            Self::Rename { to, .. } => write!(f, " to={}", Quoted(to)),
            Self::SetXattr { name, data, .. } => write!(f, " name={} data={}", Quoted(name), Glimpse(data)),
            Self::RemoveXattr { name, .. } => write!(f, " name={}", Quoted(name)),
            Self::Truncate { size, .. } => write!(f, " size={size}"),
            Self::Chmod { mode, .. } => write!(f, " mode={mode:o}"),
            Self::Chown { uid, gid, .. } => write!(f, " uid={uid} gid={gid}"),
            Self::Utimes { atime, mtime, ctime, otime, .. } => {
                write!(f, " atime={atime} mtime={mtime} ctime={ctime}")?;
                otime.map_or(Ok(()), |otime| write!(f, " otime={otime}"))
            }
            Self::UpdateExtent { offset, size, .. } => write!(f, " offset={offset} len={size}"),
            Self::Fileattr { flags, .. } => write!(f, " flags={flags:#x}"),
            Self::EnableVerity { verity, .. } => {
                write!(f, " algorithm={} block_size={}", verity.algorithm, verity.block_size)?;
                write!(f, " salt={} signature={}", Glimpse(verity.salt), Glimpse(verity.signature))
            }
            _ => Ok(()),
        }
    }
}
