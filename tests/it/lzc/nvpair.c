/*
 * A stand-in for libnvpair.so.3: lists of named values, as far as the tests need them.
 *
 * Every function that crates/nvpair-sys looks up is here; arrays are refused.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BOOLEAN = 1, INT16 = 3, UINT16, INT32, UINT32, INT64, UINT64, STRING, NVLIST = 19, BOOLEAN_VALUE = 21, INT8, UINT8 };

typedef struct pair pair;
typedef struct { pair *first; } list;
struct pair {
	pair *next;
	char *name;
	int type;
	uint64_t number;
	char *text;
	list *inner;
};

int nvlist_alloc(list **made, unsigned flags, int kmflag)
{
	(void) flags, (void) kmflag;
	*made = calloc(1, sizeof (list));
	return *made ? 0 : ENOMEM;
}

void nvlist_free(list *l)
{
	if (!l)
		return;
	while (l->first) {
		pair *p = l->first;
		l->first = p->next;
		nvlist_free(p->inner);
		free(p->text);
		free(p->name);
		free(p);
	}
	free(l);
}

static pair *find(list *l, const char *name, int type)
{
	for (pair *p = l->first; p; p = p->next)
		if (strcmp(p->name, name) == 0 && (type == 0 || p->type == type))
			return p;
	return NULL;
}

/* The last one of a name counts. */
static void drop(list *l, const char *name)
{
	for (pair **at = &l->first; *at; at = &(*at)->next)
		if (strcmp((*at)->name, name) == 0) {
			list gone = { *at };
			list *only = malloc(sizeof (list));
			*at = (*at)->next;
			gone.first->next = NULL;
			*only = gone;
			nvlist_free(only);
			return;
		}
}

static pair *add(list *l, const char *name, int type, uint64_t number)
{
	pair **at = &l->first, *p = calloc(1, sizeof (pair));
	drop(l, name);
	while (*at)
		at = &(*at)->next;
	*at = p;
	p->name = strdup(name);
	p->type = type;
	p->number = number;
	return p;
}

static list *copy(const list *l)
{
	list *made = calloc(1, sizeof (list));
	for (const pair *p = l->first; p; p = p->next) {
		pair *q = add(made, p->name, p->type, p->number);
		q->text = p->text ? strdup(p->text) : NULL;
		q->inner = p->inner ? copy(p->inner) : NULL;
	}
	return made;
}

int nvlist_empty(list *l) { return !l || !l->first; }
int nvlist_exists(list *l, const char *name) { return find(l, name, 0) != NULL; }
pair *nvlist_next_nvpair(list *l, pair *p) { return p ? p->next : l->first; }
char *nvpair_name(pair *p) { return p->name; }
int nvpair_type(pair *p) { return p->type; }

int nvlist_add_boolean(list *l, const char *name) { add(l, name, BOOLEAN, 1); return 0; }
int nvlist_lookup_boolean(list *l, const char *name) { return find(l, name, BOOLEAN) ? 0 : ENOENT; }

int nvlist_add_string(list *l, const char *name, const char *value)
{
	char *text = strdup(value);
	add(l, name, STRING, 0)->text = text;
	return 0;
}

int nvpair_value_string(pair *p, char **value) { *value = p->text; return 0; }

int nvlist_lookup_string(list *l, const char *name, char **value)
{
	pair *p = find(l, name, STRING);
	return p ? nvpair_value_string(p, value) : ENOENT;
}

int nvlist_add_nvlist(list *l, const char *name, list *value)
{
	list *inner = copy(value);
	add(l, name, NVLIST, 0)->inner = inner;
	return 0;
}

int nvpair_value_nvlist(pair *p, list **value) { *value = p->inner; return 0; }

#define NUMBER(word, ctype, kind) \
	int nvlist_add_##word(list *l, const char *name, ctype value) { add(l, name, kind, (uint64_t) value); return 0; } \
	int nvpair_value_##word(pair *p, ctype *value) { *value = (ctype) p->number; return 0; } \
	int nvlist_lookup_##word(list *l, const char *name, ctype *value) { \
		pair *p = find(l, name, kind); \
		return p ? nvpair_value_##word(p, value) : ENOENT; \
	}
#define NUMBER_AND_ARRAY(word, ctype, kind) \
	NUMBER(word, ctype, kind) \
	int nvlist_add_##word##_array(void) { return ENOTSUP; } \
	int nvlist_lookup_##word##_array(void) { return ENOTSUP; }

NUMBER(boolean_value, int, BOOLEAN_VALUE)
NUMBER_AND_ARRAY(int8, int8_t, INT8)
NUMBER_AND_ARRAY(uint8, uint8_t, UINT8)
NUMBER_AND_ARRAY(int16, int16_t, INT16)
NUMBER_AND_ARRAY(uint16, uint16_t, UINT16)
NUMBER_AND_ARRAY(int32, int32_t, INT32)
NUMBER_AND_ARRAY(uint32, uint32_t, UINT32)
NUMBER_AND_ARRAY(int64, int64_t, INT64)
NUMBER_AND_ARRAY(uint64, uint64_t, UINT64)
