/* As much of libuuid as Linux's VFIO selftests use, so that they build where uuid-dev is not installed. */
#ifndef VIOMMU_UUID_H
#define VIOMMU_UUID_H

typedef unsigned char uuid_t[16];

/* 0, or -1 where the text is no UUID. */
int uuid_parse(const char *text, uuid_t uuid);

#endif
