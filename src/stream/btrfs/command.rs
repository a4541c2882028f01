//! What a command says: its attributes, typed and borrowed from the stream's buffer.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::wire::{ATTRIBUTES, Attribute, Code, Version};

/// A point in time: seconds since 1970 (negative before) and nanoseconds below 10^9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Time {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
}

/// How an encoded extent is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// A zlib stream.
    Zlib,
    /// A zstd frame.
    Zstd,
    /// btrfs's LZO segments; none crosses a block of this many bytes (4096 to 65536).
    Lzo {
        /// The sender's sector size.
        sector: u32,
    },
}

impl Compression {
    /// Its number in the stream and in the kernel's interface.
    pub fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Zlib => 1,
            Self::Zstd => 2,
            Self::Lzo { sector } => 3 + (sector >> 12).trailing_zeros(),
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Zlib),
            2 => Some(Self::Zstd),
            3..=7 => Some(Self::Lzo { sector: 4096 << (number - 3) }),
            _ => None,
        }
    }
}

/// How a file's fs-verity tree is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verity<'a> {
    /// 1 sha256, 2 sha512.
    pub algorithm: u8,
    /// Bytes in a block of the tree.
    pub block_size: u32,
    /// Salt, maybe empty.
    pub salt: &'a [u8],
    /// A PKCS#7 signature, maybe empty.
    pub signature: &'a [u8],
}

/// One command. Paths are relative to the subvolume's root, which itself is the empty path.
#[expect(missing_docs, reason = "the fields are those of the format")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// A full stream begins. `path` is the source's name.
    Subvol { path: &'a [u8], uuid: [u8; 16], ctransid: u64 },
    /// An increment begins, on top of the base `clone_uuid` at `clone_ctransid`.
    Snapshot { path: &'a [u8], uuid: [u8; 16], ctransid: u64, clone_uuid: [u8; 16], clone_ctransid: u64 },
    /// Makes an empty regular file.
    Mkfile { path: &'a [u8], inode: u64 },
    /// Makes a directory.
    Mkdir { path: &'a [u8], inode: u64 },
    /// Makes a device node; `mode` holds its type, `rdev` its number as `stat` gives it.
    Mknod { path: &'a [u8], inode: u64, mode: u64, rdev: u64 },
    /// Makes a FIFO.
    Mkfifo { path: &'a [u8], inode: u64 },
    /// Makes a socket.
    Mksock { path: &'a [u8], inode: u64 },
    /// Makes a symbolic link to `target`.
    Symlink { path: &'a [u8], inode: u64, target: &'a [u8] },
    /// Renames, replacing what is there.
    Rename { path: &'a [u8], to: &'a [u8] },
    /// Makes `path` another name of `target`.
    Link { path: &'a [u8], target: &'a [u8] },
    /// Takes a name of something other than a directory away.
    Unlink { path: &'a [u8] },
    /// Removes an empty directory.
    Rmdir { path: &'a [u8] },
    /// Sets an extended attribute.
    SetXattr { path: &'a [u8], name: &'a [u8], data: &'a [u8] },
    /// Removes an extended attribute.
    RemoveXattr { path: &'a [u8], name: &'a [u8] },
    /// Writes bytes.
    Write { path: &'a [u8], offset: u64, data: &'a [u8] },
    /// Shares a range with another file, of the subvolume `uuid` at `ctransid`.
    Clone {
        path: &'a [u8],
        offset: u64,
        len: u64,
        uuid: [u8; 16],
        ctransid: u64,
        from: &'a [u8],
        from_offset: u64,
    },
    /// Sets a file's size.
    Truncate { path: &'a [u8], size: u64 },
    /// Sets the permission bits.
    Chmod { path: &'a [u8], mode: u64 },
    /// Sets the owners.
    Chown { path: &'a [u8], uid: u64, gid: u64 },
    /// Sets the times; the filesystem chooses `ctime` itself.
    Utimes { path: &'a [u8], atime: Time, mtime: Time, ctime: Time, otime: Option<Time> },
    /// The stream is complete.
    End,
    /// Says that a range changed, in streams without data.
    UpdateExtent { path: &'a [u8], offset: u64, size: u64 },
    /// Allocates, zeroes or punches a range; `mode` as in fallocate(2).
    Fallocate { path: &'a [u8], mode: u32, offset: u64, size: u64 },
    /// Sets the inode's flags, as btrfs stores them.
    Fileattr { path: &'a [u8], flags: u64 },
    /// Writes an extent as it lies on disk: of its `unencoded_len` decoded bytes, those from `unencoded_offset`
    /// appear as `unencoded_file_len` bytes at `offset`.
    EncodedWrite {
        path: &'a [u8],
        offset: u64,
        unencoded_file_len: u64,
        unencoded_len: u64,
        unencoded_offset: u64,
        compression: Compression,
        encryption: u32,
        data: &'a [u8],
    },
    /// Makes the file's bytes immutable and provable.
    EnableVerity { path: &'a [u8], verity: Verity<'a> },
}

/// A command whose bytes are whole and whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) offset: u64, // Of the payload, in the stream.
    pub(super) version: Version,
    pub(super) code: Code,
    pub(super) payload: &'a [u8],
}

/// The attributes of one command, by number.
struct Attributes<'a> {
    frame: Frame<'a>,
    slots: [Option<&'a [u8]>; ATTRIBUTES],
}

impl<'a> Attributes<'a> {
    fn parse(frame: Frame<'a>) -> Result<Self> {
        let mut slots = [None; ATTRIBUTES];
        let command = frame.code.name();
        let mut rest = frame.payload;
        while !rest.is_empty() {
            let offset = frame.offset + (frame.payload.len() - rest.len()) as u64;
            let overrun = Error::Overrun { offset, command };
            let Some((number, tail)) = rest.split_first_chunk() else { return Err(overrun) };
            let code = u16::from_le_bytes(*number);
            let Some(attribute) = Attribute::from_number(code) else {
                return Err(Error::UnknownAttribute { offset, command, code });
            };
            let (len, tail) = match (attribute, frame.version) {
                // From version 2 on, data has no length and runs to the command's end.
                (Attribute::Data, Version::V2 | Version::V3) => (tail.len(), tail),
                _ => match tail.split_first_chunk() {
                    Some((len, tail)) => (usize::from(u16::from_le_bytes(*len)), tail),
                    None => return Err(overrun),
                },
            };
            let Some((value, tail)) = tail.split_at_checked(len) else { return Err(overrun) };
            if slots[code as usize].replace(value).is_some() {
                return Err(Error::RepeatedAttribute { offset, command, attribute: attribute.name() });
            }
            rest = tail;
        }
        Ok(Self { frame, slots })
    }

    fn malformed(&self, attribute: Attribute, why: &'static str) -> Error {
        let Frame { offset, code, .. } = self.frame;
        Error::Malformed { offset, command: code.name(), attribute: attribute.name(), why }
    }

    fn optional(&self, attribute: Attribute) -> Option<&'a [u8]> {
        self.slots[attribute as usize]
    }

    fn bytes(&self, attribute: Attribute) -> Result<&'a [u8]> {
        let Frame { offset, code, .. } = self.frame;
        self.optional(attribute).ok_or(Error::Missing {
            offset,
            command: code.name(),
            attribute: attribute.name(),
        })
    }

    fn array<const N: usize>(&self, attribute: Attribute) -> Result<[u8; N]> {
        self.bytes(attribute)?.try_into().map_err(|_| self.malformed(attribute, "has the wrong length"))
    }

    fn u64(&self, attribute: Attribute) -> Result<u64> {
        self.array(attribute).map(u64::from_le_bytes)
    }

    fn u32(&self, attribute: Attribute) -> Result<u32> {
        self.array(attribute).map(u32::from_le_bytes)
    }

    fn u64_or_zero(&self, attribute: Attribute) -> Result<u64> {
        self.optional(attribute).map_or(Ok(0), |_| self.u64(attribute))
    }

    fn u32_or_zero(&self, attribute: Attribute) -> Result<u32> {
        self.optional(attribute).map_or(Ok(0), |_| self.u32(attribute))
    }

    fn time(&self, attribute: Attribute) -> Result<Time> {
        let bytes: [u8; 12] = self.array(attribute)?;
        let (sec, nsec) = bytes.split_at(8);
        let time = Time {
            sec: i64::from_le_bytes(sec.try_into().expect("eight bytes")),
            nsec: u32::from_le_bytes(nsec.try_into().expect("four bytes")),
        };
        match time.nsec {
            ..1_000_000_000 => Ok(time),
            _ => Err(self.malformed(attribute, "has a second or more of nanoseconds")),
        }
    }

    /// A path or name: no NUL, and no longer than the kernel could take.
    fn path(&self, attribute: Attribute) -> Result<&'a [u8]> {
        let path = self.bytes(attribute)?;
        match path.contains(&0) {
            false => Ok(path),
            true => Err(self.malformed(attribute, "holds a NUL")),
        }
    }

    fn compression(&self) -> Result<Compression> {
        Compression::from_number(self.u32_or_zero(Attribute::Compression)?)
            .ok_or_else(|| self.malformed(Attribute::Compression, "is an unknown one"))
    }

    fn verity(&self) -> Result<Verity<'a>> {
        Ok(Verity {
            algorithm: self.array::<1>(Attribute::VerityAlgorithm)?[0],
            block_size: self.u32(Attribute::VerityBlockSize)?,
            salt: self.optional(Attribute::VeritySalt).unwrap_or_default(),
            signature: self.optional(Attribute::VeritySignature).unwrap_or_default(),
        })
    }
}

impl<'a> Command<'a> {
    pub(super) fn parse(frame: Frame<'a>) -> Result<Self> {
        let a = Attributes::parse(frame)?;
        match frame.code {
            Code::End => Ok(Self::End),
            Code::Subvol | Code::Snapshot => Self::parse_first(&a),
            Code::Mkfile | Code::Mkdir | Code::Mknod | Code::Mkfifo | Code::Mksock | Code::Symlink => {
                Self::parse_make(&a)
            }
            Code::Rename | Code::Link | Code::Unlink | Code::Rmdir => Self::parse_name(&a),
            Code::SetXattr
            | Code::RemoveXattr
            | Code::Chmod
            | Code::Chown
            | Code::Utimes
            | Code::Fileattr => Self::parse_meta(&a),
            _ => Self::parse_data(&a),
        }
    }

    fn parse_first(a: &Attributes<'a>) -> Result<Self> {
        let path = a.path(Attribute::Path)?;
        let (uuid, ctransid) = (a.array(Attribute::Uuid)?, a.u64(Attribute::Ctransid)?);
        if a.frame.code == Code::Subvol {
            return Ok(Self::Subvol { path, uuid, ctransid });
        }
        let (clone_uuid, clone_ctransid) = (a.array(Attribute::CloneUuid)?, a.u64(Attribute::CloneCtransid)?);
        Ok(Self::Snapshot { path, uuid, ctransid, clone_uuid, clone_ctransid })
    }

    fn parse_make(a: &Attributes<'a>) -> Result<Self> {
        let (path, inode) = (a.path(Attribute::Path)?, a.u64(Attribute::Inode)?);
        Ok(match a.frame.code {
            Code::Mkfile => Self::Mkfile { path, inode },
            Code::Mkdir => Self::Mkdir { path, inode },
            Code::Mkfifo => Self::Mkfifo { path, inode },
            Code::Mksock => Self::Mksock { path, inode },
            Code::Symlink => Self::Symlink { path, inode, target: a.path(Attribute::PathLink)? },
            _ => Self::Mknod { path, inode, mode: a.u64(Attribute::Mode)?, rdev: a.u64(Attribute::Rdev)? },
        })
    }

    fn parse_name(a: &Attributes<'a>) -> Result<Self> {
        let path = a.path(Attribute::Path)?;
        Ok(match a.frame.code {
            Code::Rename => Self::Rename { path, to: a.path(Attribute::PathTo)? },
            Code::Link => Self::Link { path, target: a.path(Attribute::PathLink)? },
            Code::Unlink => Self::Unlink { path },
            _ => Self::Rmdir { path },
        })
    }

    fn parse_meta(a: &Attributes<'a>) -> Result<Self> {
        let path = a.path(Attribute::Path)?;
        Ok(match a.frame.code {
            Code::SetXattr => Self::SetXattr {
                path,
                name: a.path(Attribute::XattrName)?,
                data: a.bytes(Attribute::XattrData)?,
            },
            Code::RemoveXattr => Self::RemoveXattr { path, name: a.path(Attribute::XattrName)? },
            Code::Chmod => Self::Chmod { path, mode: a.u64(Attribute::Mode)? },
            Code::Chown => Self::Chown { path, uid: a.u64(Attribute::Uid)?, gid: a.u64(Attribute::Gid)? },
            Code::Fileattr => Self::Fileattr { path, flags: a.u64(Attribute::Fileattr)? },
            _ => Self::Utimes {
                path,
                atime: a.time(Attribute::Atime)?,
                mtime: a.time(Attribute::Mtime)?,
                ctime: a.time(Attribute::Ctime)?,
                otime: a.optional(Attribute::Otime).map(|_| a.time(Attribute::Otime)).transpose()?,
            },
        })
    }

    fn parse_data(a: &Attributes<'a>) -> Result<Self> {
        let path = a.path(Attribute::Path)?;
        Ok(match a.frame.code {
            Code::Write => {
                Self::Write { path, offset: a.u64(Attribute::FileOffset)?, data: a.bytes(Attribute::Data)? }
            }
            Code::Clone => Self::Clone {
                path,
                offset: a.u64(Attribute::FileOffset)?,
                len: a.u64(Attribute::CloneLen)?,
                uuid: a.array(Attribute::CloneUuid)?,
                ctransid: a.u64(Attribute::CloneCtransid)?,
                from: a.path(Attribute::ClonePath)?,
                from_offset: a.u64(Attribute::CloneOffset)?,
            },
            Code::Truncate => Self::Truncate { path, size: a.u64(Attribute::Size)? },
            Code::UpdateExtent => Self::UpdateExtent {
                path,
                offset: a.u64(Attribute::FileOffset)?,
                size: a.u64(Attribute::Size)?,
            },
            Code::Fallocate => Self::Fallocate {
                path,
                mode: a.u32(Attribute::FallocateMode)?,
                offset: a.u64(Attribute::FileOffset)?,
                size: a.u64(Attribute::Size)?,
            },
            Code::EnableVerity => Self::EnableVerity { path, verity: a.verity()? },
            _ => Self::EncodedWrite {
                path,
                offset: a.u64(Attribute::FileOffset)?,
                unencoded_file_len: a.u64(Attribute::UnencodedFileLen)?,
                unencoded_len: a.u64(Attribute::UnencodedLen)?,
                unencoded_offset: a.u64_or_zero(Attribute::UnencodedOffset)?,
                compression: a.compression()?,
                encryption: a.u32_or_zero(Attribute::Encryption)?,
                data: a.bytes(Attribute::Data)?,
            },
        })
    }
}
