// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pinners that are in the kernel: gup_test, and registered buffers of
 * io_uring.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/types.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "layout-lease.h"

#define GUP_TEST_FILE	"/sys/kernel/debug/gup_test"

/* From mm/gup_test.h. */
struct pin_longterm_test {
	__u64 addr;
	__u64 size;
	__u32 flags;
};

#define PIN_LONGTERM_TEST_START	_IOW('g', 7, struct pin_longterm_test)
#define PIN_LONGTERM_TEST_STOP	_IO('g', 8)
#define PIN_LONGTERM_TEST_READ	_IOW('g', 9, __u64)

#define PIN_LONGTERM_TEST_FLAG_USE_WRITE	1
#define PIN_LONGTERM_TEST_FLAG_USE_OWNED	4

static int gup = -1;

static int gup_test_open(void)
{
	gup = open(GUP_TEST_FILE, O_RDWR);
	return gup < 0 ? -errno : 0;
}

static void gup_test_close(void)
{
	close(gup);
	gup = -1;
}

static int gup_test_pin(void *addr, size_t length, bool read_only)
{
	struct pin_longterm_test args = {
		.addr = (unsigned long)addr,
		.size = length,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_OWNED,
	};

	if (!read_only)
		args.flags |= PIN_LONGTERM_TEST_FLAG_USE_WRITE;
	return ioctl(gup, PIN_LONGTERM_TEST_START, &args) ? -errno : 0;
}

static int gup_test_unpin(void)
{
	return ioctl(gup, PIN_LONGTERM_TEST_STOP) ? -errno : 0;
}

static int gup_test_read(void *buf, size_t length)
{
	__u64 addr = (unsigned long)buf;

	return ioctl(gup, PIN_LONGTERM_TEST_READ, &addr) ? -errno : 0;
}

const struct pinner gup_test_pinner = {
	.name = "gup_test",
	.open = gup_test_open,
	.close = gup_test_close,
	.pin = gup_test_pin,
	.unpin = gup_test_unpin,
	.read = gup_test_read,
};

/* Of a ring with room for one request at a time. */
static struct {
	int fd;
	/* What the "device" reads from and writes to. */
	int other;
	char *sq;
	char *cq;
	struct io_uring_sqe *sqe;
	struct io_uring_params params;
	size_t sq_size;
	size_t cq_size;
} ring;

#define MAX_BUFFERS	64
static struct iovec buffers[MAX_BUFFERS];
static unsigned int nr_buffers;

static unsigned int *sq_word(unsigned int offset)
{
	return (unsigned int *)(ring.sq + offset);
}

static unsigned int *cq_word(unsigned int offset)
{
	return (unsigned int *)(ring.cq + offset);
}

static int ring_register(unsigned int what, const void *arg, size_t size)
{
	return syscall(SYS_io_uring_register, ring.fd, what, arg, size) < 0 ?
	       -errno : 0;
}

static void *ring_map(size_t size, off_t offset)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_POPULATE, ring.fd, offset);
}

static int ring_open(void)
{
	struct io_uring_rsrc_register table = {
		.nr = MAX_BUFFERS,
		.flags = IORING_RSRC_REGISTER_SPARSE,
	};
	struct io_uring_params *p = &ring.params;

	memset(p, 0, sizeof(*p));
	ring.fd = syscall(SYS_io_uring_setup, 1, p);
	if (ring.fd < 0)
		return -errno;
	ring.sq_size = p->sq_off.array + p->sq_entries * sizeof(__u32);
	ring.cq_size = p->cq_off.cqes +
		       p->cq_entries * sizeof(struct io_uring_cqe);
	ring.sq = ring_map(ring.sq_size, IORING_OFF_SQ_RING);
	ring.cq = ring_map(ring.cq_size, IORING_OFF_CQ_RING);
	ring.sqe = ring_map(p->sq_entries * sizeof(*ring.sqe), IORING_OFF_SQES);
	ring.other = memfd_create("layout-lease", 0);
	if (ring.sq == MAP_FAILED || ring.cq == MAP_FAILED ||
	    ring.sqe == MAP_FAILED || ring.other < 0)
		return -errno;
	return ring_register(IORING_REGISTER_BUFFERS2, &table, sizeof(table));
}

static void ring_close(void)
{
	munmap(ring.sq, ring.sq_size);
	munmap(ring.cq, ring.cq_size);
	munmap(ring.sqe, ring.params.sq_entries * sizeof(*ring.sqe));
	close(ring.other);
	close(ring.fd);
	nr_buffers = 0;
}

static int update(unsigned int slot, const struct iovec *iov)
{
	struct io_uring_rsrc_update2 args = {
		.offset = slot,
		.data = (unsigned long)iov,
		.nr = 1,
	};

	return ring_register(IORING_REGISTER_BUFFERS_UPDATE, &args,
			     sizeof(args));
}

static int ring_pin(void *addr, size_t length, bool read_only)
{
	int ret;

	if (read_only)
		return -EOPNOTSUPP;
	if (nr_buffers == MAX_BUFFERS)
		return -ENOSPC;
	buffers[nr_buffers].iov_base = addr;
	buffers[nr_buffers].iov_len = length;
	ret = update(nr_buffers, &buffers[nr_buffers]);
	if (!ret)
		nr_buffers++;
	return ret;
}

static int ring_unpin(void)
{
	static const struct iovec none;
	int ret = 0;

	while (!ret && nr_buffers)
		ret = update(--nr_buffers, &none);
	return ret;
}

/* One transfer between a registered buffer and the other file. */
static int transfer(int op, unsigned int slot, void *addr, size_t length)
{
	const struct io_sqring_offsets *sq = &ring.params.sq_off;
	const struct io_cqring_offsets *cq = &ring.params.cq_off;
	struct io_uring_cqe *cqes = (void *)(ring.cq + cq->cqes);
	unsigned int tail = *sq_word(sq->tail);
	unsigned int at = tail & *sq_word(sq->ring_mask);
	unsigned int head;
	int ret;

	memset(ring.sqe + at, 0, sizeof(*ring.sqe));
	ring.sqe[at].opcode = op;
	ring.sqe[at].fd = ring.other;
	ring.sqe[at].addr = (unsigned long)addr;
	ring.sqe[at].len = length;
	ring.sqe[at].buf_index = slot;
	sq_word(sq->array)[at] = at;
	__atomic_store_n(sq_word(sq->tail), tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS,
		    NULL, 0) < 0)
		return -errno;
	head = *cq_word(cq->head);
	if (head == __atomic_load_n(cq_word(cq->tail), __ATOMIC_ACQUIRE))
		return -EIO;
	ret = cqes[head & *cq_word(cq->ring_mask)].res;
	__atomic_store_n(cq_word(cq->head), head + 1, __ATOMIC_RELEASE);
	return ret < 0 ? ret : (size_t)ret == length ? 0 : -EIO;
}

static int ring_read(void *buf, size_t length)
{
	size_t done = 0, part;
	unsigned int i;
	int ret;

	for (i = 0; i < nr_buffers && done < length; i++, done += part) {
		part = buffers[i].iov_len;
		ret = transfer(IORING_OP_WRITE_FIXED, i, buffers[i].iov_base,
			       part);
		if (ret)
			return ret;
		if (pread(ring.other, (char *)buf + done, part, 0) !=
		    (ssize_t)part)
			return -EIO;
	}
	return 0;
}

static int ring_write(void *addr, size_t length, int byte)
{
	const char *to = addr;
	char *data = malloc(length);
	unsigned int i;
	int ret = -ENOENT;

	if (!data)
		return -ENOMEM;
	memset(data, byte, length);
	if (pwrite(ring.other, data, length, 0) != (ssize_t)length)
		ret = -EIO;
	for (i = 0; i < nr_buffers && ret == -ENOENT; i++) {
		const char *from = buffers[i].iov_base;

		if (to >= from && to + length <= from + buffers[i].iov_len)
			ret = transfer(IORING_OP_READ_FIXED, i, addr, length);
	}
	free(data);
	return ret;
}

const struct pinner io_uring_pinner = {
	.name = "io_uring",
	.open = ring_open,
	.close = ring_close,
	.pin = ring_pin,
	.unpin = ring_unpin,
	.read = ring_read,
	.write = ring_write,
};

const struct pinner *find_pinner(const char *name)
{
	static const struct pinner *const pinners[] = {
		&gup_test_pinner, &io_uring_pinner, &rdma_pinner,
	};
	size_t i;

	for (i = 0; i < sizeof(pinners) / sizeof(pinners[0]); i++)
		if (!strcmp(name, pinners[i]->name))
			return pinners[i];
	return NULL;
}
