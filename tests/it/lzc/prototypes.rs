//! The functions as we declare them, in C, for a compiler to hold against OpenZFS' own headers (vm-tests/prototypes.sh).

use cowsnap::sys::lzc::{BEGIN_LEN, Errno};
use libzetta_zfs_core_sys::{self as zfs_core, lzc_dataset_type, lzc_send_flags};
use nvpair_sys::{self as nvpair, Prototype, data_type_t};

use crate::ground::{ground, run};

const HEAD: &str = "\
/*
 * Holds the functions that cowsnap looks up at run time against the headers of the OpenZFS that is installed.
 *
 * Made from the declarations in crates/ by the test lzc::prototypes, which says how to make it anew. Not to be edited.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <sys/types.h>

/* Releases differ in what they call const, which is the same to the call: nothing is const here. */
#define const
#include <libnvpair.h>
#include <libzfs_core.h>
#if __has_include(<sys/zfs_ioctl.h>)
#include <sys/zfs_ioctl.h>
#define HAVE_RECORD
#endif

#define SAME(function, ...) \\
\t_Static_assert(__builtin_types_compatible_p(__typeof__(&function), __VA_ARGS__), #function)
#define IS(constant, value) _Static_assert((constant) == (value), #constant)
";

/// What a type is called in C, without its consts.
fn c_type(rust: &str) -> String {
    if let Some(pointee) = rust.strip_prefix("*mut ").or_else(|| rust.strip_prefix("*const ")) {
        let pointee = c_type(pointee);
        return format!("{pointee}{}*", if pointee.ends_with('*') { "" } else { " " });
    }
    match rust {
        "" => "void",
        "c_char" => "char",
        "c_int" => "int",
        "c_uint" => "unsigned int",
        "u8" => "uint8_t",
        "i8" => "int8_t",
        "u16" => "uint16_t",
        "i16" => "int16_t",
        "u32" => "uint32_t",
        "i32" => "int32_t",
        "u64" => "uint64_t",
        "i64" => "int64_t",
        "nvlist_t" | "nvpair_t" => rust,
        "dmu_replay_record" => "struct dmu_replay_record",
        "boolean_t::Type" => "boolean_t",
        "data_type_t::Type" => "data_type_t",
        "lzc_dataset_type::Type" => "enum lzc_dataset_type",
        "lzc_send_flags::Type" => "enum lzc_send_flags",
        _ => panic!("{rust} has no name in C here"),
    }
    .to_owned()
}

fn c_line(Prototype { name, arguments, returns }: &Prototype) -> String {
    let arguments: Vec<_> = arguments.iter().map(|rust| c_type(rust)).collect();
    let arguments = if arguments.is_empty() { "void".to_owned() } else { arguments.join(", ") };
    let returns = c_type(returns);
    format!("SAME({name}, {returns}{}(*)({arguments}));\n", if returns.ends_with('*') { "" } else { " " })
}

/// The numbers of OpenZFS' own errors by their names in C, without the `ZFS_ERR_`.
const OWN_ERRORS: [(&str, Errno); 30] = [
    ("CHECKPOINT_EXISTS", Errno::CheckpointExists),
    ("DISCARDING_CHECKPOINT", Errno::DiscardingCheckpoint),
    ("NO_CHECKPOINT", Errno::NoCheckpoint),
    ("DEVRM_IN_PROGRESS", Errno::RemovingDevice),
    ("VDEV_TOO_BIG", Errno::DeviceTooBig),
    ("IOC_CMD_UNAVAIL", Errno::CallUnavailable),
    ("IOC_ARG_UNAVAIL", Errno::ArgumentUnavailable),
    ("IOC_ARG_REQUIRED", Errno::ArgumentRequired),
    ("IOC_ARG_BADTYPE", Errno::ArgumentBadType),
    ("WRONG_PARENT", Errno::WrongParent),
    ("FROM_IVSET_GUID_MISSING", Errno::BaseIvsetMissing),
    ("FROM_IVSET_GUID_MISMATCH", Errno::BaseIvsetMismatch),
    ("SPILL_BLOCK_FLAG_MISSING", Errno::SpillFlagMissing),
    ("UNKNOWN_SEND_STREAM_FEATURE", Errno::UnknownStreamFeature),
    ("EXPORT_IN_PROGRESS", Errno::ExportInProgress),
    ("BOOKMARK_SOURCE_NOT_ANCESTOR", Errno::BookmarkSourceNotAncestor),
    ("STREAM_TRUNCATED", Errno::StreamTruncated),
    ("STREAM_LARGE_BLOCK_MISMATCH", Errno::LargeBlockMismatch),
    ("RESILVER_IN_PROGRESS", Errno::Resilvering),
    ("REBUILD_IN_PROGRESS", Errno::Rebuilding),
    ("BADPROP", Errno::BadProperty),
    ("VDEV_NOTSUP", Errno::DeviceUnsupported),
    ("NOT_USER_NAMESPACE", Errno::NotUserNamespace),
    ("RESUME_EXISTS", Errno::ResumeExists),
    ("CRYPTO_NOTSUP", Errno::CryptoUnsupported),
    ("RAIDZ_EXPAND_IN_PROGRESS", Errno::ExpandingRaidz),
    ("ASHIFT_MISMATCH", Errno::AshiftMismatch),
    ("STREAM_LARGE_MICROZAP", Errno::LargeMicrozap),
    ("TOO_MANY_SITOUTS", Errno::TooManySitouts),
    ("NO_USER_NS_SUPPORT", Errno::NoUserNamespaces),
];

/// Every constant that stands on both sides.
fn constants() -> Vec<(String, i64)> {
    use {data_type_t::*, lzc_dataset_type::*, lzc_send_flags::*};
    macro_rules! these {
        ($($name:ident)*) => { [$((stringify!($name).to_owned(), i64::from($name))),*] };
    }
    let unsigned = these! {
        LZC_DATSET_TYPE_ZFS LZC_DATSET_TYPE_ZVOL LZC_SEND_FLAG_EMBED_DATA LZC_SEND_FLAG_LARGE_BLOCK
        LZC_SEND_FLAG_COMPRESS LZC_SEND_FLAG_RAW LZC_SEND_FLAG_SAVED
    };
    let types = these! {
        DATA_TYPE_DONTCARE DATA_TYPE_UNKNOWN DATA_TYPE_BOOLEAN DATA_TYPE_INT16 DATA_TYPE_UINT16 DATA_TYPE_INT32
        DATA_TYPE_UINT32 DATA_TYPE_INT64 DATA_TYPE_UINT64 DATA_TYPE_STRING DATA_TYPE_NVLIST DATA_TYPE_BOOLEAN_VALUE
        DATA_TYPE_INT8 DATA_TYPE_UINT8
    };
    let more = [
        ("NV_UNIQUE_NAME".to_owned(), i64::from(nvpair::NV_UNIQUE_NAME)),
        ("B_FALSE".to_owned(), i64::from(nvpair::boolean_t::B_FALSE)),
        ("B_TRUE".to_owned(), i64::from(nvpair::boolean_t::B_TRUE)),
        ("sizeof (boolean_t)".to_owned(), size_of::<nvpair::boolean_t::Type>() as i64),
        ("sizeof (data_type_t)".to_owned(), size_of::<data_type_t::Type>() as i64),
        ("sizeof (enum lzc_send_flags)".to_owned(), size_of::<lzc_send_flags::Type>() as i64),
        ("sizeof (enum lzc_dataset_type)".to_owned(), size_of::<lzc_dataset_type::Type>() as i64),
    ];
    [&unsigned[..], &types, &more].concat()
}

fn c_text() -> String {
    let mut text = HEAD.to_owned();
    for (library, prototypes) in
        [(nvpair::SONAME, nvpair::PROTOTYPES), (zfs_core::SONAME, zfs_core::PROTOTYPES)]
    {
        text += &format!("\n/* {library} */\n");
        text.extend(prototypes.iter().map(c_line));
    }
    text += "\n/* Constants and sizes. */\n";
    text.extend(constants().iter().map(|(name, value)| format!("IS({name}, {value});\n")));
    text += &format!("#ifdef HAVE_RECORD\nIS(sizeof (dmu_replay_record_t), {BEGIN_LEN});\n#endif\n");
    text += "\n/* Errors of OpenZFS' own: prototypes.sh defines HAVE_… for those that the header has. */\n";
    for (name, errno) in OWN_ERRORS {
        text += &format!("#ifdef HAVE_ZFS_ERR_{name}\nIS(ZFS_ERR_{name}, {});\n#endif\n", errno.raw());
    }
    text
}

#[test]
fn the_prototypes_in_c_are_those_of_the_declarations() {
    // UPDATE_EXPECT=1 cargo nextest run prototypes
    expect_test::expect_file!["../../../vm-tests/prototypes.c"].assert_eq(&c_text());
}

#[test]
fn the_installed_headers_agree() {
    ground!("cc", "zfs-headers");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let script = folder.path().join("prototypes.sh");
    std::fs::write(&script, include_str!("../../../vm-tests/prototypes.sh")).expect("write");
    std::fs::write(folder.path().join("prototypes.c"), c_text()).expect("write");
    let said = run("bash", &[script]).stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("declarations agree"), "{said}");
}

#[test]
fn every_error_of_openzfs_has_a_name_in_c() {
    let numbers: Vec<_> = OWN_ERRORS.iter().map(|(_, errno)| errno.raw()).collect();
    assert_eq!(numbers, (1024..=1053).collect::<Vec<_>>());
}

#[test]
fn what_changes_its_type_from_release_to_release_is_not_bound() {
    let all: Vec<_> = nvpair::PROTOTYPES.iter().chain(zfs_core::PROTOTYPES).map(|p| p.name).collect();
    assert!(all.len() > 80, "{}", all.len());
    for name in ["lzc_initialize", "lzc_send_progress", "libzfs_core_fini"] {
        assert!(!all.contains(&name), "{name}");
    }
}
