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

#define SAME(function, ...) \
	_Static_assert(__builtin_types_compatible_p(__typeof__(&function), __VA_ARGS__), #function)
#define IS(constant, value) _Static_assert((constant) == (value), #constant)

/* libnvpair.so.3 */
SAME(nvlist_alloc, int (*)(nvlist_t **, unsigned int, int));
SAME(nvlist_free, void (*)(nvlist_t *));
SAME(nvlist_empty, boolean_t (*)(nvlist_t *));
SAME(nvlist_exists, boolean_t (*)(nvlist_t *, char *));
SAME(nvlist_next_nvpair, nvpair_t *(*)(nvlist_t *, nvpair_t *));
SAME(nvpair_name, char *(*)(nvpair_t *));
SAME(nvpair_type, data_type_t (*)(nvpair_t *));
SAME(nvlist_add_boolean, int (*)(nvlist_t *, char *));
SAME(nvlist_add_boolean_value, int (*)(nvlist_t *, char *, boolean_t));
SAME(nvlist_add_string, int (*)(nvlist_t *, char *, char *));
SAME(nvlist_add_nvlist, int (*)(nvlist_t *, char *, nvlist_t *));
SAME(nvlist_lookup_boolean, int (*)(nvlist_t *, char *));
SAME(nvlist_lookup_boolean_value, int (*)(nvlist_t *, char *, boolean_t *));
SAME(nvlist_lookup_string, int (*)(nvlist_t *, char *, char **));
SAME(nvpair_value_boolean_value, int (*)(nvpair_t *, boolean_t *));
SAME(nvpair_value_string, int (*)(nvpair_t *, char **));
SAME(nvpair_value_nvlist, int (*)(nvpair_t *, nvlist_t **));
SAME(nvlist_add_int8, int (*)(nvlist_t *, char *, int8_t));
SAME(nvlist_lookup_int8, int (*)(nvlist_t *, char *, int8_t *));
SAME(nvpair_value_int8, int (*)(nvpair_t *, int8_t *));
SAME(nvlist_add_uint8, int (*)(nvlist_t *, char *, uint8_t));
SAME(nvlist_lookup_uint8, int (*)(nvlist_t *, char *, uint8_t *));
SAME(nvpair_value_uint8, int (*)(nvpair_t *, uint8_t *));
SAME(nvlist_add_int16, int (*)(nvlist_t *, char *, int16_t));
SAME(nvlist_lookup_int16, int (*)(nvlist_t *, char *, int16_t *));
SAME(nvpair_value_int16, int (*)(nvpair_t *, int16_t *));
SAME(nvlist_add_uint16, int (*)(nvlist_t *, char *, uint16_t));
SAME(nvlist_lookup_uint16, int (*)(nvlist_t *, char *, uint16_t *));
SAME(nvpair_value_uint16, int (*)(nvpair_t *, uint16_t *));
SAME(nvlist_add_int32, int (*)(nvlist_t *, char *, int32_t));
SAME(nvlist_lookup_int32, int (*)(nvlist_t *, char *, int32_t *));
SAME(nvpair_value_int32, int (*)(nvpair_t *, int32_t *));
SAME(nvlist_add_uint32, int (*)(nvlist_t *, char *, uint32_t));
SAME(nvlist_lookup_uint32, int (*)(nvlist_t *, char *, uint32_t *));
SAME(nvpair_value_uint32, int (*)(nvpair_t *, uint32_t *));
SAME(nvlist_add_int64, int (*)(nvlist_t *, char *, int64_t));
SAME(nvlist_lookup_int64, int (*)(nvlist_t *, char *, int64_t *));
SAME(nvpair_value_int64, int (*)(nvpair_t *, int64_t *));
SAME(nvlist_add_uint64, int (*)(nvlist_t *, char *, uint64_t));
SAME(nvlist_lookup_uint64, int (*)(nvlist_t *, char *, uint64_t *));
SAME(nvpair_value_uint64, int (*)(nvpair_t *, uint64_t *));
SAME(nvlist_add_int8_array, int (*)(nvlist_t *, char *, int8_t *, unsigned int));
SAME(nvlist_lookup_int8_array, int (*)(nvlist_t *, char *, int8_t **, unsigned int *));
SAME(nvlist_add_uint8_array, int (*)(nvlist_t *, char *, uint8_t *, unsigned int));
SAME(nvlist_lookup_uint8_array, int (*)(nvlist_t *, char *, uint8_t **, unsigned int *));
SAME(nvlist_add_int16_array, int (*)(nvlist_t *, char *, int16_t *, unsigned int));
SAME(nvlist_lookup_int16_array, int (*)(nvlist_t *, char *, int16_t **, unsigned int *));
SAME(nvlist_add_uint16_array, int (*)(nvlist_t *, char *, uint16_t *, unsigned int));
SAME(nvlist_lookup_uint16_array, int (*)(nvlist_t *, char *, uint16_t **, unsigned int *));
SAME(nvlist_add_int32_array, int (*)(nvlist_t *, char *, int32_t *, unsigned int));
SAME(nvlist_lookup_int32_array, int (*)(nvlist_t *, char *, int32_t **, unsigned int *));
SAME(nvlist_add_uint32_array, int (*)(nvlist_t *, char *, uint32_t *, unsigned int));
SAME(nvlist_lookup_uint32_array, int (*)(nvlist_t *, char *, uint32_t **, unsigned int *));
SAME(nvlist_add_int64_array, int (*)(nvlist_t *, char *, int64_t *, unsigned int));
SAME(nvlist_lookup_int64_array, int (*)(nvlist_t *, char *, int64_t **, unsigned int *));
SAME(nvlist_add_uint64_array, int (*)(nvlist_t *, char *, uint64_t *, unsigned int));
SAME(nvlist_lookup_uint64_array, int (*)(nvlist_t *, char *, uint64_t **, unsigned int *));

/* libzfs_core.so.3 */
SAME(libzfs_core_init, int (*)(void));
SAME(lzc_exists, boolean_t (*)(char *));
SAME(lzc_create, int (*)(char *, enum lzc_dataset_type, nvlist_t *, uint8_t *, unsigned int));
SAME(lzc_clone, int (*)(char *, char *, nvlist_t *));
SAME(lzc_promote, int (*)(char *, char *, int));
SAME(lzc_rename, int (*)(char *, char *));
SAME(lzc_destroy, int (*)(char *));
SAME(lzc_rollback_to, int (*)(char *, char *));
SAME(lzc_snapshot, int (*)(nvlist_t *, nvlist_t *, nvlist_t **));
SAME(lzc_destroy_snaps, int (*)(nvlist_t *, boolean_t, nvlist_t **));
SAME(lzc_snaprange_space, int (*)(char *, char *, uint64_t *));
SAME(lzc_bookmark, int (*)(nvlist_t *, nvlist_t **));
SAME(lzc_get_bookmarks, int (*)(char *, nvlist_t *, nvlist_t **));
SAME(lzc_destroy_bookmarks, int (*)(nvlist_t *, nvlist_t **));
SAME(lzc_hold, int (*)(nvlist_t *, int, nvlist_t **));
SAME(lzc_release, int (*)(nvlist_t *, nvlist_t **));
SAME(lzc_get_holds, int (*)(char *, nvlist_t **));
SAME(lzc_load_key, int (*)(char *, boolean_t, uint8_t *, unsigned int));
SAME(lzc_unload_key, int (*)(char *));
SAME(lzc_send, int (*)(char *, char *, int, enum lzc_send_flags));
SAME(lzc_send_resume, int (*)(char *, char *, int, enum lzc_send_flags, uint64_t, uint64_t));
SAME(lzc_send_space, int (*)(char *, char *, enum lzc_send_flags, uint64_t *));
SAME(lzc_receive_with_cmdprops, int (*)(char *, nvlist_t *, nvlist_t *, uint8_t *, unsigned int, char *, boolean_t, boolean_t, boolean_t, int, struct dmu_replay_record *, int, uint64_t *, uint64_t *, uint64_t *, nvlist_t **));
SAME(lzc_channel_program, int (*)(char *, char *, uint64_t, uint64_t, nvlist_t *, nvlist_t **));
SAME(lzc_channel_program_nosync, int (*)(char *, char *, uint64_t, uint64_t, nvlist_t *, nvlist_t **));

/* Constants and sizes. */
IS(LZC_DATSET_TYPE_ZFS, 2);
IS(LZC_DATSET_TYPE_ZVOL, 3);
IS(LZC_SEND_FLAG_EMBED_DATA, 1);
IS(LZC_SEND_FLAG_LARGE_BLOCK, 2);
IS(LZC_SEND_FLAG_COMPRESS, 4);
IS(LZC_SEND_FLAG_RAW, 8);
IS(LZC_SEND_FLAG_SAVED, 16);
IS(DATA_TYPE_DONTCARE, -1);
IS(DATA_TYPE_UNKNOWN, 0);
IS(DATA_TYPE_BOOLEAN, 1);
IS(DATA_TYPE_INT16, 3);
IS(DATA_TYPE_UINT16, 4);
IS(DATA_TYPE_INT32, 5);
IS(DATA_TYPE_UINT32, 6);
IS(DATA_TYPE_INT64, 7);
IS(DATA_TYPE_UINT64, 8);
IS(DATA_TYPE_STRING, 9);
IS(DATA_TYPE_NVLIST, 19);
IS(DATA_TYPE_BOOLEAN_VALUE, 21);
IS(DATA_TYPE_INT8, 22);
IS(DATA_TYPE_UINT8, 23);
IS(NV_UNIQUE_NAME, 1);
IS(B_FALSE, 0);
IS(B_TRUE, 1);
IS(sizeof (boolean_t), 4);
IS(sizeof (data_type_t), 4);
IS(sizeof (enum lzc_send_flags), 4);
IS(sizeof (enum lzc_dataset_type), 4);
#ifdef HAVE_RECORD
IS(sizeof (dmu_replay_record_t), 312);
#endif

/* Errors of OpenZFS' own: prototypes.sh defines HAVE_… for those that the header has. */
#ifdef HAVE_ZFS_ERR_CHECKPOINT_EXISTS
IS(ZFS_ERR_CHECKPOINT_EXISTS, 1024);
#endif
#ifdef HAVE_ZFS_ERR_DISCARDING_CHECKPOINT
IS(ZFS_ERR_DISCARDING_CHECKPOINT, 1025);
#endif
#ifdef HAVE_ZFS_ERR_NO_CHECKPOINT
IS(ZFS_ERR_NO_CHECKPOINT, 1026);
#endif
#ifdef HAVE_ZFS_ERR_DEVRM_IN_PROGRESS
IS(ZFS_ERR_DEVRM_IN_PROGRESS, 1027);
#endif
#ifdef HAVE_ZFS_ERR_VDEV_TOO_BIG
IS(ZFS_ERR_VDEV_TOO_BIG, 1028);
#endif
#ifdef HAVE_ZFS_ERR_IOC_CMD_UNAVAIL
IS(ZFS_ERR_IOC_CMD_UNAVAIL, 1029);
#endif
#ifdef HAVE_ZFS_ERR_IOC_ARG_UNAVAIL
IS(ZFS_ERR_IOC_ARG_UNAVAIL, 1030);
#endif
#ifdef HAVE_ZFS_ERR_IOC_ARG_REQUIRED
IS(ZFS_ERR_IOC_ARG_REQUIRED, 1031);
#endif
#ifdef HAVE_ZFS_ERR_IOC_ARG_BADTYPE
IS(ZFS_ERR_IOC_ARG_BADTYPE, 1032);
#endif
#ifdef HAVE_ZFS_ERR_WRONG_PARENT
IS(ZFS_ERR_WRONG_PARENT, 1033);
#endif
#ifdef HAVE_ZFS_ERR_FROM_IVSET_GUID_MISSING
IS(ZFS_ERR_FROM_IVSET_GUID_MISSING, 1034);
#endif
#ifdef HAVE_ZFS_ERR_FROM_IVSET_GUID_MISMATCH
IS(ZFS_ERR_FROM_IVSET_GUID_MISMATCH, 1035);
#endif
#ifdef HAVE_ZFS_ERR_SPILL_BLOCK_FLAG_MISSING
IS(ZFS_ERR_SPILL_BLOCK_FLAG_MISSING, 1036);
#endif
#ifdef HAVE_ZFS_ERR_UNKNOWN_SEND_STREAM_FEATURE
IS(ZFS_ERR_UNKNOWN_SEND_STREAM_FEATURE, 1037);
#endif
#ifdef HAVE_ZFS_ERR_EXPORT_IN_PROGRESS
IS(ZFS_ERR_EXPORT_IN_PROGRESS, 1038);
#endif
#ifdef HAVE_ZFS_ERR_BOOKMARK_SOURCE_NOT_ANCESTOR
IS(ZFS_ERR_BOOKMARK_SOURCE_NOT_ANCESTOR, 1039);
#endif
#ifdef HAVE_ZFS_ERR_STREAM_TRUNCATED
IS(ZFS_ERR_STREAM_TRUNCATED, 1040);
#endif
#ifdef HAVE_ZFS_ERR_STREAM_LARGE_BLOCK_MISMATCH
IS(ZFS_ERR_STREAM_LARGE_BLOCK_MISMATCH, 1041);
#endif
#ifdef HAVE_ZFS_ERR_RESILVER_IN_PROGRESS
IS(ZFS_ERR_RESILVER_IN_PROGRESS, 1042);
#endif
#ifdef HAVE_ZFS_ERR_REBUILD_IN_PROGRESS
IS(ZFS_ERR_REBUILD_IN_PROGRESS, 1043);
#endif
#ifdef HAVE_ZFS_ERR_BADPROP
IS(ZFS_ERR_BADPROP, 1044);
#endif
#ifdef HAVE_ZFS_ERR_VDEV_NOTSUP
IS(ZFS_ERR_VDEV_NOTSUP, 1045);
#endif
#ifdef HAVE_ZFS_ERR_NOT_USER_NAMESPACE
IS(ZFS_ERR_NOT_USER_NAMESPACE, 1046);
#endif
#ifdef HAVE_ZFS_ERR_RESUME_EXISTS
IS(ZFS_ERR_RESUME_EXISTS, 1047);
#endif
#ifdef HAVE_ZFS_ERR_CRYPTO_NOTSUP
IS(ZFS_ERR_CRYPTO_NOTSUP, 1048);
#endif
#ifdef HAVE_ZFS_ERR_RAIDZ_EXPAND_IN_PROGRESS
IS(ZFS_ERR_RAIDZ_EXPAND_IN_PROGRESS, 1049);
#endif
#ifdef HAVE_ZFS_ERR_ASHIFT_MISMATCH
IS(ZFS_ERR_ASHIFT_MISMATCH, 1050);
#endif
#ifdef HAVE_ZFS_ERR_STREAM_LARGE_MICROZAP
IS(ZFS_ERR_STREAM_LARGE_MICROZAP, 1051);
#endif
#ifdef HAVE_ZFS_ERR_TOO_MANY_SITOUTS
IS(ZFS_ERR_TOO_MANY_SITOUTS, 1052);
#endif
#ifdef HAVE_ZFS_ERR_NO_USER_NS_SUPPORT
IS(ZFS_ERR_NO_USER_NS_SUPPORT, 1053);
#endif
