//! Numbers of the format (fs/btrfs/send.h), the versions and the checksum.

/// What every stream begins with; the version follows as a little-endian u32.
pub const MAGIC: &[u8; 13] = b"btrfs-stream\0";
/// The length of a stream's header in bytes.
pub(super) const HEADER_LEN: usize = MAGIC.len() + 4;
/// The length of a command's header in bytes: u32 length, u16 command, u32 checksum.
pub(super) const COMMAND_LEN: usize = 10;

/// A version of the stream's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Linux 3.6.
    V1,
    /// Linux 6.0: compressed data as it lies on disk, file attributes, allocation.
    V2,
    /// Experimental: fs-verity.
    V3,
}

impl Version {
    /// The newest one.
    pub const NEWEST: Self = Self::V3;

    /// The version of that number, if it is known.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::V1, Self::V2, Self::V3].into_iter().find(|v| v.number() == number)
    }

    /// Its number in the stream's header.
    pub fn number(self) -> u32 {
        self as u32 + 1
    }

    /// The longest command in bytes, its header left out.
    ///
    /// Version 1: the kernel's buffer, 64 KiB with the header. Version 2 states no limit; the kernel's buffer is a
    /// compressed extent and 16 KiB, in whole pages (at most 192 KiB), and this reader takes 512 KiB.
    pub fn max_command_len(self) -> usize {
        match self {
            Self::V1 => (64 << 10) - COMMAND_LEN,
            Self::V2 | Self::V3 => (512 << 10) - COMMAND_LEN,
        }
    }
}

/// The checksum of a whole command whose checksum field is zero: crc32c seeded with 0 and not inverted at the end.
pub(super) fn checksum(command: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(!0, &command[..6]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    !crc32c::crc32c_append(crc, &command[COMMAND_LEN..])
}

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident: $($variant:ident = $number:literal $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        pub(super) enum $name { $($variant = $number,)* }

        impl $name {
            pub(super) fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

numbers! {
    /// What a command does.
    Code:
    Subvol = 1 "subvol", Snapshot = 2 "snapshot", Mkfile = 3 "mkfile", Mkdir = 4 "mkdir", Mknod = 5 "mknod",
    Mkfifo = 6 "mkfifo", Mksock = 7 "mksock", Symlink = 8 "symlink", Rename = 9 "rename", Link = 10 "link",
    Unlink = 11 "unlink", Rmdir = 12 "rmdir", SetXattr = 13 "set_xattr", RemoveXattr = 14 "remove_xattr",
    Write = 15 "write", Clone = 16 "clone", Truncate = 17 "truncate", Chmod = 18 "chmod", Chown = 19 "chown",
    Utimes = 20 "utimes", End = 21 "end", UpdateExtent = 22 "update_extent",
    Fallocate = 23 "fallocate", Fileattr = 24 "fileattr", EncodedWrite = 25 "encoded_write",
    EnableVerity = 26 "enable_verity",
}

impl Code {
    /// The version that brought it.
    pub(super) fn since(self) -> Version {
        match self as u16 {
            ..=22 => Version::V1,
            23..=25 => Version::V2,
            _ => Version::V3,
        }
    }
}

numbers! {
    /// What an attribute of a command means.
    Attribute:
    Uuid = 1 "uuid", Ctransid = 2 "ctransid", Inode = 3 "inode", Size = 4 "size", Mode = 5 "mode", Uid = 6 "uid",
    Gid = 7 "gid", Rdev = 8 "rdev", Ctime = 9 "ctime", Mtime = 10 "mtime", Atime = 11 "atime", Otime = 12 "otime",
    XattrName = 13 "xattr_name", XattrData = 14 "xattr_data", Path = 15 "path", PathTo = 16 "path_to",
    PathLink = 17 "path_link", FileOffset = 18 "file_offset", Data = 19 "data", CloneUuid = 20 "clone_uuid",
    CloneCtransid = 21 "clone_ctransid", ClonePath = 22 "clone_path", CloneOffset = 23 "clone_offset",
    CloneLen = 24 "clone_len", FallocateMode = 25 "fallocate_mode", Fileattr = 26 "fileattr",
    UnencodedFileLen = 27 "unencoded_file_len", UnencodedLen = 28 "unencoded_len",
    UnencodedOffset = 29 "unencoded_offset", Compression = 30 "compression", Encryption = 31 "encryption",
    VerityAlgorithm = 32 "verity_algorithm", VerityBlockSize = 33 "verity_block_size",
    VeritySalt = 34 "verity_salt", VeritySignature = 35 "verity_signature",
}

/// One more than the largest attribute.
pub(super) const ATTRIBUTES: usize = 36;
