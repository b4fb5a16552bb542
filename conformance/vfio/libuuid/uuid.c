#include "uuid/uuid.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

int uuid_parse(const char *text, uuid_t uuid)
{
	int at = 0;

	if (strlen(text) != sizeof(form) - 1)
		return -1;
	for (int i = 0; form[i]; i++)
		if (form[i] == '-' ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
			return -1;
	for (int i = 0; text[i]; i += 2) {
		char byte[3];

		if (text[i] == '-')
			i++;
		byte[0] = text[i];
		byte[1] = text[i + 1];
		byte[2] = 0;
		uuid[at++] = strtoul(byte, NULL, 16);
	}
	return 0;
}
