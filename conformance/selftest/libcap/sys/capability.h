/* As much of libcap as Linux's iommu selftests use, so that they build where libcap-dev is not installed. */
#ifndef VIOMMU_SYS_CAPABILITY_H
#define VIOMMU_SYS_CAPABILITY_H

#include <linux/capability.h>

typedef struct cap_state *cap_t;
typedef int cap_value_t;
typedef enum { CAP_EFFECTIVE, CAP_PERMITTED, CAP_INHERITABLE } cap_flag_t;
typedef enum { CAP_CLEAR, CAP_SET } cap_flag_value_t;

cap_t cap_get_proc(void);
int cap_set_flag(cap_t caps, cap_flag_t flag, int count, const cap_value_t *values, cap_flag_value_t to);
int cap_set_proc(cap_t caps);
int cap_free(void *caps);

#endif
