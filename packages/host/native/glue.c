/* The module, and what its functions have in common. */
#include "viommu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ARGS_MAX 12

struct supervisor *glue_supervisor(napi_env env)
{
	void *data = NULL;

	napi_get_instance_data(env, &data);
	return data;
}

/* The arguments of a call; those not given are undefined. How many were given. */
int glue_args(napi_env env, napi_callback_info info, napi_value *argv, size_t max)
{
	size_t count = max;

	napi_get_cb_info(env, info, &count, argv, NULL, NULL);
	return (int)count;
}

int64_t glue_int(napi_env env, napi_value value)
{
	int64_t number = 0;
	bool truth = false;

	if (napi_get_value_int64(env, value, &number) == napi_number_expected &&
	    napi_get_value_bool(env, value, &truth) == napi_ok)
		return truth;
	return number;
}

uint64_t glue_u64(napi_env env, napi_value value)
{
	uint64_t number = 0;
	bool lossless;

	napi_get_value_bigint_uint64(env, value, &number, &lossless);
	return number;
}

uint8_t *glue_bytes(napi_env env, napi_value value, size_t *length)
{
	napi_typedarray_type type;
	void *data = NULL;

	*length = 0;
	napi_get_typedarray_info(env, value, &type, length, &data, NULL, NULL);
	return data;
}

static char *copy_of_bytes(napi_env env, napi_value value)
{
	size_t length;
	const uint8_t *bytes = glue_bytes(env, value, &length);
	char *text = malloc(length + 1);

	if (!text)
		return NULL;
	if (length)
		memcpy(text, bytes, length);
	text[length] = 0;
	return text;
}

char *glue_string(napi_env env, napi_value value)
{
	bool is_bytes = false;
	size_t length = 0;
	char *text;

	napi_is_typedarray(env, value, &is_bytes);
	if (is_bytes)
		return copy_of_bytes(env, value);
	if (napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok)
		return NULL;
	text = malloc(length + 1);
	if (text)
		napi_get_value_string_utf8(env, value, text, length + 1, &length);
	return text;
}

/* An array of strings, ended by NULL, with `before` empty places in front of them. NULL without memory. */
char **glue_strings(napi_env env, napi_value value, size_t before, uint32_t *count)
{
	char **strings;

	*count = 0;
	napi_get_array_length(env, value, count);
	strings = calloc(before + *count + 1, sizeof(char *));
	for (uint32_t i = 0; strings && i < *count; i++) {
		napi_value element;

		napi_get_element(env, value, i, &element);
		strings[before + i] = glue_string(env, element);
		if (!strings[before + i]) {
			glue_free_strings(strings + before);
			return NULL;
		}
	}
	return strings;
}

void glue_free_strings(char **strings)
{
	for (char **string = strings; string && *string; string++)
		free(*string);
	free(strings);
}

napi_value glue_number(napi_env env, double value)
{
	napi_value number;

	napi_create_double(env, value, &number);
	return number;
}

napi_value glue_result(napi_env env, int64_t result)
{
	napi_value number;
	int error = errno;

	napi_create_int64(env, result < 0 ? -error : result, &number);
	return number;
}

void glue_define(napi_env env, napi_value exports, const struct export *table, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		napi_value function;

		napi_create_function(env, table[i].name, NAPI_AUTO_LENGTH, table[i].function, NULL, &function);
		napi_set_named_property(env, exports, table[i].name, function);
	}
}

NAPI_MODULE_INIT()
{
	napi_run_register(env, exports);
	napi_files_register(env, exports);
	napi_memory_register(env, exports);
	return exports;
}
