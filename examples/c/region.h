/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the receiver tells the sender in the private data of rdma_accept(). */
#ifndef REGION_H
#define REGION_H

#include <stdint.h>

struct region {			/* in network byte order */
	uint64_t address;
	uint64_t length;
	uint32_t rkey;
	uint32_t zero;
};

#endif
