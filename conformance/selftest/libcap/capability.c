#include <errno.h>
#include <stdlib.h>
#include <sys/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

struct cap_state {
	struct __user_cap_data_struct words[_LINUX_CAPABILITY_U32S_3];
};

cap_t cap_get_proc(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	cap_t caps = calloc(1, sizeof(*caps));

	if (caps && syscall(SYS_capget, &header, caps->words)) {
		free(caps);
		return NULL;
	}
	return caps;
}

static __u32 *word_of(cap_t caps, cap_flag_t flag, cap_value_t value)
{
	struct __user_cap_data_struct *data = &caps->words[CAP_TO_INDEX(value)];

	if (flag == CAP_EFFECTIVE)
		return &data->effective;
	return flag == CAP_PERMITTED ? &data->permitted : &data->inheritable;
}

int cap_set_flag(cap_t caps, cap_flag_t flag, int count, const cap_value_t *values, cap_flag_value_t to)
{
	for (int i = 0; i < count; i++) {
		if (values[i] < 0 || values[i] > CAP_LAST_CAP) {
			errno = EINVAL;
			return -1;
		}
		if (to == CAP_SET)
			*word_of(caps, flag, values[i]) |= CAP_TO_MASK(values[i]);
		else
			*word_of(caps, flag, values[i]) &= ~CAP_TO_MASK(values[i]);
	}
	return 0;
}

int cap_set_proc(cap_t caps)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

	return syscall(SYS_capset, &header, caps->words);
}

int cap_free(void *caps)
{
	free(caps);
	return 0;
}
