// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory regions of a software RDMA device, rxe, by the uverbs interface itself:
 * the verbs library is not needed for that.
 */
#include <errno.h>
#include <fcntl.h>
#include <rdma/ib_user_ioctl_cmds.h>
#include <rdma/ib_user_ioctl_verbs.h>
#include <rdma/ib_user_verbs.h>
#include <rdma/rdma_user_ioctl_cmds.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "layout-lease.h"

#define UVERBS_FILE	"/dev/infiniband/uverbs0"
/* IBV_ACCESS_LOCAL_WRITE, IBV_ACCESS_REMOTE_WRITE */
#define WRITE_ACCESS	3
#define REMOTE_READ	4
#define MAX_REGIONS	64

static int uverbs = -1;
static uint32_t pd;
static uint32_t regions[MAX_REGIONS];
static unsigned int nr_regions;

static void set(struct ib_uverbs_attr *attr, int id, const void *data,
		size_t length)
{
	attr->attr_id = id;
	attr->len = length;
	attr->flags = UVERBS_ATTR_F_MANDATORY;
	/* What is as short as a pointer is in its place. */
	if (length <= sizeof(attr->data))
		memcpy(&attr->data, data, length);
	else
		attr->data = (unsigned long)data;
}

/* Call a method of the device: input and output of rxe are empty. */
static int call(int method, const struct ib_uverbs_attr *attrs, int nr)
{
	struct {
		struct ib_uverbs_ioctl_hdr hdr;
		struct ib_uverbs_attr attrs[5];
	} arg;
	uint64_t in = 0, out[2];

	memset(&arg, 0, sizeof(arg));
	memcpy(arg.attrs, attrs, nr * sizeof(*attrs));
	set(&arg.attrs[nr], UVERBS_ATTR_UHW_IN, &in, sizeof(in));
	set(&arg.attrs[nr + 1], UVERBS_ATTR_UHW_OUT, out, sizeof(out));
	arg.hdr.length = sizeof(arg.hdr) + (nr + 2) * sizeof(*attrs);
	arg.hdr.object_id = UVERBS_OBJECT_DEVICE;
	arg.hdr.method_id = method;
	arg.hdr.num_attrs = nr + 2;
	arg.hdr.driver_id = RDMA_DRIVER_RXE;
	return ioctl(uverbs, RDMA_VERBS_IOCTL, &arg) ? -errno : 0;
}

/* Carry out a command of the older interface. */
static int invoke(uint64_t command, const void *in, size_t in_size, void *out,
		  size_t out_size)
{
	struct ib_uverbs_attr attrs[3];

	memset(attrs, 0, sizeof(attrs));
	set(&attrs[0], UVERBS_ATTR_WRITE_CMD, &command, sizeof(command));
	set(&attrs[1], UVERBS_ATTR_CORE_IN, in, in_size);
	/* Output has a pointer, however short it is. */
	set(&attrs[2], UVERBS_ATTR_CORE_OUT, &out, sizeof(out));
	attrs[2].len = out_size;
	return call(UVERBS_METHOD_INVOKE_WRITE, attrs, 3);
}

static int rdma_open(void)
{
	/* After the words for the response's address, which is not used. */
	struct ib_uverbs_alloc_pd in = { 0 };
	struct ib_uverbs_alloc_pd_resp out = { 0 };
	int ret;

	uverbs = open(UVERBS_FILE, O_RDWR);
	if (uverbs < 0)
		return -errno;
	ret = call(UVERBS_METHOD_GET_CONTEXT, NULL, 0);
	if (!ret)
		ret = invoke(IB_USER_VERBS_CMD_ALLOC_PD, &in, sizeof(in), &out,
			     sizeof(out));
	pd = out.pd_handle;
	return ret;
}

static void rdma_close(void)
{
	close(uverbs);
	uverbs = -1;
	nr_regions = 0;
}

static int rdma_pin(void *addr, size_t length, bool read_only)
{
	struct ib_uverbs_reg_mr in = {
		.start = (unsigned long)addr,
		.length = length,
		.hca_va = (unsigned long)addr,
		.pd_handle = pd,
		.access_flags = read_only ? REMOTE_READ : WRITE_ACCESS,
	};
	struct ib_uverbs_reg_mr_resp out;
	int ret;

	if (nr_regions == MAX_REGIONS)
		return -ENOSPC;
	ret = invoke(IB_USER_VERBS_CMD_REG_MR, &in, sizeof(in), &out,
		     sizeof(out));
	if (!ret)
		regions[nr_regions++] = out.mr_handle;
	return ret;
}

static int rdma_unpin(void)
{
	int ret = 0;

	while (!ret && nr_regions) {
		struct ib_uverbs_dereg_mr in = {
			.mr_handle = regions[--nr_regions],
		};
		struct ib_uverbs_attr attrs[2];
		uint64_t command = IB_USER_VERBS_CMD_DEREG_MR;

		memset(attrs, 0, sizeof(attrs));
		set(&attrs[0], UVERBS_ATTR_WRITE_CMD, &command,
		    sizeof(command));
		set(&attrs[1], UVERBS_ATTR_CORE_IN, &in, sizeof(in));
		ret = call(UVERBS_METHOD_INVOKE_WRITE, attrs, 2);
	}
	return ret;
}

const struct pinner rdma_pinner = {
	.name = "rdma",
	.open = rdma_open,
	.close = rdma_close,
	.pin = rdma_pin,
	.unpin = rdma_unpin,
};
