/*
 * A stand-in for libzfs_core.so.3: each call writes what it was handed to the file that FAKE_ZFS_LOG names, a line each.
 *
 * How a call goes is in the names that it is given. `rcN` anywhere in a name: the call returns N. `errN` in a name of a
 * list: that name fails with N, and is in the list of errors. `moreN`: the list of errors says that N more failed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct nvlist nvlist;
typedef struct nvpair nvpair;
typedef struct { uint64_t bytes[39]; } record;

int nvlist_alloc(nvlist **, unsigned, int);
void nvlist_free(nvlist *);
nvpair *nvlist_next_nvpair(nvlist *, nvpair *);
const char *nvpair_name(nvpair *);
int nvpair_type(nvpair *);
int nvpair_value_uint64(nvpair *, uint64_t *);
int nvpair_value_string(nvpair *, char **);
int nvpair_value_nvlist(nvpair *, nvlist **);
int nvlist_add_int32(nvlist *, const char *, int32_t);
int nvlist_add_uint64(nvlist *, const char *, uint64_t);
int nvlist_add_nvlist(nvlist *, const char *, nvlist *);

static FILE *out;
static int rc;

static int number_behind(const char *name, const char *word)
{
	const char *at = name ? strstr(name, word) : NULL;
	return at ? atoi(at + strlen(word)) : 0;
}

static void begin(const char *call)
{
	const char *path = getenv("FAKE_ZFS_LOG");
	out = fopen(path ? path : "/dev/null", "a");
	fputs(call, out);
	rc = 0;
}

static int end(void)
{
	fputc('\n', out);
	fclose(out);
	return rc;
}

static void text(const char *value)
{
	fprintf(out, value ? " '%s'" : " null", value);
	if (rc == 0)
		rc = number_behind(value, "rc");
}

static void number(uint64_t value) { fprintf(out, " %llu", (unsigned long long) value); }

static void values(nvlist *l)
{
	const char *gap = "";
	fputc('{', out);
	for (nvpair *p = nvlist_next_nvpair(l, NULL); p; p = nvlist_next_nvpair(l, p)) {
		uint64_t n = 0;
		char *t = NULL;
		nvlist *inner = NULL;
		fprintf(out, "%s%s", gap, nvpair_name(p));
		gap = ", ";
		if (rc == 0)
			rc = number_behind(nvpair_name(p), "rc");
		switch (nvpair_type(p)) {
		case 1: break;
		case 8: nvpair_value_uint64(p, &n); fprintf(out, "=%llu", (unsigned long long) n); break;
		case 9: nvpair_value_string(p, &t); fprintf(out, "='%s'", t); break;
		case 19: nvpair_value_nvlist(p, &inner); fputc('=', out); values(inner); break;
		case 21: fputs("=true", out); break;
		default: fprintf(out, "=type %d", nvpair_type(p));
		}
	}
	fputc('}', out);
}

static void list(nvlist *l)
{
	fputc(' ', out);
	if (l)
		values(l);
	else
		fputs("null", out);
}

static void errors_of(nvlist *l, nvlist **errors)
{
	*errors = NULL;
	nvlist_alloc(errors, 1, 0);
	for (nvpair *p = l ? nvlist_next_nvpair(l, NULL) : NULL; p; p = nvlist_next_nvpair(l, p)) {
		int error = number_behind(nvpair_name(p), "err"), more = number_behind(nvpair_name(p), "more");
		if (error)
			nvlist_add_int32(*errors, nvpair_name(p), error);
		if (more)
			nvlist_add_int32(*errors, "N_MORE_ERRORS", more);
	}
}

int libzfs_core_init(void)
{
	const char *failure = getenv("FAKE_ZFS_INIT");
	return failure ? atoi(failure) : 0;
}

int lzc_exists(const char *name) { begin("exists"); text(name); end(); return strstr(name, "absent") == NULL; }

int lzc_create(const char *name, int kind, nvlist *props, uint8_t *key, unsigned len)
{
	begin("create"), text(name), number(kind), list(props), number(key != NULL), number(len);
	return end();
}

int lzc_clone(const char *name, const char *origin, nvlist *props)
{
	begin("clone"), text(name), text(origin), list(props);
	return end();
}

int lzc_promote(const char *name, char *conflict, int len)
{
	begin("promote"), text(name), number(len);
	if (rc == 17)
		snprintf(conflict, len, "taken");
	return end();
}

int lzc_rename(const char *a, const char *b) { begin("rename"), text(a), text(b); return end(); }
int lzc_destroy(const char *name) { begin("destroy"), text(name); return end(); }
int lzc_rollback_to(const char *a, const char *b) { begin("rollback_to"), text(a), text(b); return end(); }

int lzc_snapshot(nvlist *l, nvlist *props, nvlist **errors)
{
	begin("snapshot"), list(l), list(props), errors_of(l, errors);
	return end();
}

int lzc_destroy_snaps(nvlist *l, int defer, nvlist **errors)
{
	begin("destroy_snaps"), list(l), number(defer), errors_of(l, errors);
	return end();
}

int lzc_snaprange_space(const char *a, const char *b, uint64_t *used)
{
	begin("snaprange_space"), text(a), text(b);
	*used = 4096;
	return end();
}

int lzc_bookmark(nvlist *l, nvlist **errors) { begin("bookmark"), list(l), errors_of(l, errors); return end(); }

int lzc_destroy_bookmarks(nvlist *l, nvlist **errors)
{
	begin("destroy_bookmarks"), list(l), errors_of(l, errors);
	return end();
}

int lzc_get_bookmarks(const char *name, nvlist *props, nvlist **found)
{
	nvlist *bookmark;
	begin("get_bookmarks"), text(name), list(props);
	nvlist_alloc(found, 1, 0);
	nvlist_alloc(&bookmark, 1, 0);
	for (nvpair *p = nvlist_next_nvpair(props, NULL); p; p = nvlist_next_nvpair(props, p)) {
		nvlist *value;
		nvlist_alloc(&value, 1, 0);
		nvlist_add_uint64(value, "value", strlen(nvpair_name(p)));
		nvlist_add_nvlist(bookmark, nvpair_name(p), value);
		nvlist_free(value);
	}
	nvlist_add_nvlist(*found, "mark", bookmark);
	nvlist_free(bookmark);
	return end();
}

int lzc_hold(nvlist *l, int fd, nvlist **errors)
{
	begin("hold"), list(l), fprintf(out, fd == -1 ? " for good" : " for now"), errors_of(l, errors);
	return end();
}

int lzc_release(nvlist *l, nvlist **errors) { begin("release"), list(l), errors_of(l, errors); return end(); }

int lzc_get_holds(const char *name, nvlist **found)
{
	begin("get_holds"), text(name);
	nvlist_alloc(found, 1, 0);
	nvlist_add_uint64(*found, "a tag", 1700000000);
	nvlist_add_uint64(*found, "tag:2", 1700000001);
	return end();
}

int lzc_load_key(const char *name, int noop, uint8_t *key, unsigned len)
{
	begin("load_key"), text(name), number(noop);
	for (unsigned n = 0; n < len; n++)
		fprintf(out, " %d", key[n]);
	return end();
}

int lzc_unload_key(const char *name) { begin("unload_key"), text(name); return end(); }

/* Says so on the descriptor too, to show that it is the one that was passed. */
static void stream(int fd) { dprintf(fd, "stream"); }

int lzc_send(const char *snapshot, const char *from, int fd, int flags)
{
	begin("send"), text(snapshot), text(from), number(flags), stream(fd);
	return end();
}

int lzc_send_resume(const char *snapshot, const char *from, int fd, int flags, uint64_t object, uint64_t offset)
{
	begin("send_resume"), text(snapshot), text(from), number(flags), number(object), number(offset), stream(fd);
	return end();
}

int lzc_send_space(const char *snapshot, const char *from, int flags, uint64_t *space)
{
	begin("send_space"), text(snapshot), text(from), number(flags);
	*space = 1ULL << 40;
	return end();
}

int lzc_receive_with_cmdprops(const char *snapshot, nvlist *received, nvlist *local, uint8_t *key, unsigned len,
    const char *origin, int force, int resumable, int raw, int fd, const record *first, int cleanup, uint64_t *read_bytes,
    uint64_t *flags, uint64_t *handle, nvlist **errors)
{
	begin("receive"), text(snapshot), list(received), list(local), number(key != NULL), number(len), text(origin);
	fprintf(out, " force=%d resumable=%d raw=%d", force, resumable, raw);
	fprintf(out, " begin=%llx..%llx", (unsigned long long) first->bytes[0], (unsigned long long) first->bytes[38]);
	fprintf(out, "%s cleanup=%d", (uintptr_t) first % 8 ? " unaligned" : "", cleanup);
	for (char byte; read(fd, &byte, 1) == 1;)
		++*read_bytes;
	*flags = *handle = 0;
	errors_of(local, errors);
	return end();
}

int lzc_channel_program(void) { return 95; }
int lzc_channel_program_nosync(void) { return 95; }
