// SPDX-License-Identifier: GPL-2.0-only
/*
 * The operations that the layout of a file matters to, and some that it does
 * not, with a look at the files before and afterwards.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "layout-lease.h"

#ifndef FALLOC_FL_WRITE_ZEROES
#define FALLOC_FL_WRITE_ZEROES	0x80
#endif

/* What is not refused at once has been waited for. */
#define AT_ONCE_MS	10000
#define FS_BLOCK	4096
#define MAX_EXTENTS	256

/* From fs/ext4/ext4.h, and fs/xfs/libxfs/xfs_fs.h: not everywhere installed. */
struct move_extent {
	uint32_t reserved;
	uint32_t donor_fd;
	uint64_t orig_start;
	uint64_t donor_start;
	uint64_t len;
	uint64_t moved_len;
};

struct xfs_exchange_range {
	int32_t file1_fd;
	uint32_t pad;
	uint64_t file1_offset;
	uint64_t file2_offset;
	uint64_t length;
	uint64_t flags;
};

struct xfs_bstat {
	uint64_t before_times[5];
	struct {
		int64_t tv_sec;
		int32_t tv_nsec;
	} atime, mtime, ctime;
	uint64_t after_times[6];
};

struct xfs_swapext {
	int64_t version;
	int64_t target;
	int64_t tmp;
	int64_t offset;
	int64_t length;
	char pad[16];
	struct xfs_bstat stat;
};

#define EXT4_IOC_MOVE_EXT	_IOWR('f', 15, struct move_extent)
#define EXT4_IOC_SWAP_BOOT	_IO('f', 17)
#define XFS_IOC_SWAPEXT		_IOWR('X', 109, struct xfs_swapext)
#define XFS_IOC_EXCHANGE_RANGE	_IOW('X', 129, struct xfs_exchange_range)

/* Everything about a file that a refused operation must leave alone. */
struct snapshot {
	struct stat stat;
	unsigned int nr_extents;
	struct {
		uint64_t logical, physical, length;
		uint32_t flags;
	} extents[MAX_EXTENTS];
	uint64_t digest;
};

/* An open file and its range, and the other one. */
struct target {
	const struct files *files;
	int fd;
	int partner;
	struct range at;
};

struct op {
	const char *name;
	int (*run)(const struct target *t);
	/* It opens the file itself. */
	bool by_path;
	bool two;
};

static int result(int ret)
{
	return ret < 0 ? -errno : 0;
}

static int run_truncate(const struct target *t)
{
	return result(truncate(t->files->file, t->at.offset));
}

static int run_ftruncate(const struct target *t)
{
	return result(ftruncate(t->fd, t->at.offset));
}

static int run_open_trunc(const struct target *t)
{
	int fd = open(t->files->file, O_RDWR | O_TRUNC);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

#define FALLOCATE(op, mode)						\
static int run_##op(const struct target *t)				\
{									\
	return result(fallocate(t->fd, mode, t->at.offset,		\
				t->at.length));				\
}

FALLOCATE(punch, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
FALLOCATE(zero, FALLOC_FL_ZERO_RANGE)
FALLOCATE(write_zeroes, FALLOC_FL_WRITE_ZEROES)
FALLOCATE(collapse, FALLOC_FL_COLLAPSE_RANGE)
FALLOCATE(insert, FALLOC_FL_INSERT_RANGE)
FALLOCATE(unshare, FALLOC_FL_UNSHARE_RANGE)
FALLOCATE(allocate, 0)

static int reflink(int from, int to, const struct range *at)
{
	struct file_clone_range clone = {
		.src_fd = from,
		.src_offset = at->offset,
		.src_length = at->length,
		.dest_offset = at->offset,
	};

	return result(ioctl(to, FICLONERANGE, &clone));
}

static int run_reflink_from(const struct target *t)
{
	return reflink(t->fd, t->partner, &t->at);
}

static int run_reflink_to(const struct target *t)
{
	return reflink(t->partner, t->fd, &t->at);
}

static int dedupe(int from, int to, const struct range *at)
{
	struct {
		struct file_dedupe_range range;
		struct file_dedupe_range_info info;
	} arg = {
		.range = {
			.src_offset = at->offset,
			.src_length = at->length,
			.dest_count = 1,
		},
		.info = {
			.dest_fd = to,
			.dest_offset = at->offset,
		},
	};

	if (ioctl(from, FIDEDUPERANGE, &arg))
		return -errno;
	return arg.info.status == FILE_DEDUPE_RANGE_DIFFERS ? -EILSEQ :
							      arg.info.status;
}

static int run_dedupe_from(const struct target *t)
{
	return dedupe(t->fd, t->partner, &t->at);
}

static int run_dedupe_to(const struct target *t)
{
	return dedupe(t->partner, t->fd, &t->at);
}

static int exchange(int first, int second, const struct range *at)
{
	struct xfs_exchange_range arg = {
		.file1_fd = first,
		.file1_offset = at->offset,
		.file2_offset = at->offset,
		.length = at->length,
	};

	return result(ioctl(second, XFS_IOC_EXCHANGE_RANGE, &arg));
}

static int run_exchange_first(const struct target *t)
{
	return exchange(t->fd, t->partner, &t->at);
}

static int run_exchange_second(const struct target *t)
{
	return exchange(t->partner, t->fd, &t->at);
}

/* The whole of two files of one size, as xfs_fsr does it. */
static int swapext(int target, int tmp)
{
	struct xfs_swapext arg = { .target = target, .tmp = tmp };
	struct stat st;

	if (fstat(target, &st))
		return -errno;
	arg.length = st.st_size;
	/* So that the kernel sees that nothing has changed since. */
	arg.stat.mtime.tv_sec = st.st_mtim.tv_sec;
	arg.stat.mtime.tv_nsec = st.st_mtim.tv_nsec;
	arg.stat.ctime.tv_sec = st.st_ctim.tv_sec;
	arg.stat.ctime.tv_nsec = st.st_ctim.tv_nsec;
	return result(ioctl(target, XFS_IOC_SWAPEXT, &arg));
}

static int run_swapext_target(const struct target *t)
{
	return swapext(t->fd, t->partner);
}

static int run_swapext_tmp(const struct target *t)
{
	return swapext(t->partner, t->fd);
}

static int move_ext(int file, int donor, const struct range *at)
{
	struct move_extent arg = {
		.donor_fd = donor,
		.orig_start = at->offset / FS_BLOCK,
		.donor_start = at->offset / FS_BLOCK,
		.len = at->length / FS_BLOCK,
	};

	return result(ioctl(file, EXT4_IOC_MOVE_EXT, &arg));
}

static int run_move_ext(const struct target *t)
{
	return move_ext(t->fd, t->partner, &t->at);
}

static int run_move_ext_donor(const struct target *t)
{
	return move_ext(t->partner, t->fd, &t->at);
}

static int run_swap_boot(const struct target *t)
{
	return result(ioctl(t->fd, EXT4_IOC_SWAP_BOOT));
}

static const struct op changes[] = {
	{ "truncate", run_truncate, .by_path = true },
	{ "ftruncate", run_ftruncate },
	{ "open-trunc", run_open_trunc, .by_path = true },
	{ "punch", run_punch },
	{ "zero", run_zero },
	{ "write-zeroes", run_write_zeroes },
	{ "collapse", run_collapse },
	{ "insert", run_insert },
	{ "unshare", run_unshare },
	{ "reflink-from", run_reflink_from, .two = true },
	{ "reflink-to", run_reflink_to, .two = true },
	{ "dedupe-from", run_dedupe_from, .two = true },
	{ "dedupe-to", run_dedupe_to, .two = true },
	{ "exchange-first", run_exchange_first, .two = true },
	{ "exchange-second", run_exchange_second, .two = true },
	{ "swapext-target", run_swapext_target, .two = true },
	{ "swapext-tmp", run_swapext_tmp, .two = true },
	{ "move-ext", run_move_ext, .two = true },
	{ "move-ext-donor", run_move_ext_donor, .two = true },
	{ "swap-boot", run_swap_boot },
	{ NULL }
};

static int fill(int fd, off_t offset, size_t length)
{
	char *data = malloc(length);
	ssize_t ret;

	if (!data)
		return -ENOMEM;
	memset(data, 0x5a, length);
	ret = pwrite(fd, data, length, offset);
	free(data);
	return ret < 0 ? -errno : ret == (ssize_t)length ? 0 : -EIO;
}

static off_t size_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : st.st_size;
}

static int run_write(const struct target *t)
{
	return fill(t->fd, t->at.offset, t->at.length);
}

static int run_append(const struct target *t)
{
	return fill(t->fd, size_of(t->fd), t->at.length);
}

static int run_extend(const struct target *t)
{
	return result(ftruncate(t->fd, size_of(t->fd) + t->at.length));
}

static int run_same_size(const struct target *t)
{
	return result(truncate(t->files->file, size_of(t->fd)));
}

static int run_allocate_beyond(const struct target *t)
{
	return result(fallocate(t->fd, 0, size_of(t->fd) + t->at.length,
				t->at.length));
}

static int copy(int from, int to, const struct range *at)
{
	loff_t in = at->offset, out = at->offset;
	off_t left = at->length;
	ssize_t ret;

	for (; left; left -= ret) {
		ret = copy_file_range(from, &in, to, &out, left, 0);
		if (ret <= 0)
			return ret ? -errno : -EIO;
	}
	return 0;
}

static int run_copy_from(const struct target *t)
{
	return copy(t->fd, t->partner, &t->at);
}

static int run_copy_to(const struct target *t)
{
	return copy(t->partner, t->fd, &t->at);
}

static const struct op uses[] = {
	{ "write", run_write },
	{ "append", run_append },
	{ "extend", run_extend },
	{ "same-size", run_same_size },
	{ "allocate", run_allocate },
	{ "allocate-beyond", run_allocate_beyond },
	{ "copy-from", run_copy_from, .two = true },
	{ "copy-to", run_copy_to, .two = true },
	{ NULL }
};

static int digest(int fd, uint64_t *sum)
{
	static uint64_t block[8192];
	ssize_t got, i;

	*sum = 0xcbf29ce484222325ULL;
	for (;;) {
		memset(block, 0, sizeof(block));
		got = read(fd, block, sizeof(block));
		if (got <= 0)
			return got ? -errno : 0;
		for (i = 0; i < (got + 7) / 8; i++) {
			*sum = (*sum ^ block[i]) * 0x9e3779b97f4a7c15ULL;
			*sum = *sum << 23 | *sum >> 41;
		}
	}
}

static int take_snapshot(const char *path, struct snapshot *s)
{
	static struct {
		struct fiemap map;
		struct fiemap_extent extents[MAX_EXTENTS];
	} arg;
	unsigned int i;
	int fd, ret;

	memset(s, 0, sizeof(*s));
	if (!path)
		return 0;
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -errno;
	memset(&arg, 0, sizeof(arg));
	arg.map.fm_length = FIEMAP_MAX_OFFSET;
	arg.map.fm_extent_count = MAX_EXTENTS;
	if (fstat(fd, &s->stat) || ioctl(fd, FS_IOC_FIEMAP, &arg)) {
		ret = -errno;
		close(fd);
		return ret;
	}
	s->nr_extents = arg.map.fm_mapped_extents;
	for (i = 0; i < s->nr_extents; i++) {
		s->extents[i].logical = arg.extents[i].fe_logical;
		s->extents[i].physical = arg.extents[i].fe_physical;
		s->extents[i].length = arg.extents[i].fe_length;
		s->extents[i].flags = arg.extents[i].fe_flags;
	}
	ret = s->nr_extents < MAX_EXTENTS ? digest(fd, &s->digest) : -E2BIG;
	close(fd);
	return ret;
}

static bool differ(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec || a->tv_nsec != b->tv_nsec;
}

static void compare(const struct snapshot *a, const struct snapshot *b,
		    char *text, size_t size)
{
	snprintf(text, size, "%s%s%s%s%s%s%s",
		 a->stat.st_size != b->stat.st_size ? " size" : "",
		 a->stat.st_blocks != b->stat.st_blocks ? " blocks" : "",
		 a->stat.st_mode != b->stat.st_mode ? " mode" : "",
		 differ(&a->stat.st_mtim, &b->stat.st_mtim) ? " mtime" : "",
		 differ(&a->stat.st_ctim, &b->stat.st_ctim) ? " ctime" : "",
		 a->nr_extents != b->nr_extents ||
		 memcmp(a->extents, b->extents, sizeof(a->extents)) ?
		 " extents" : "",
		 a->digest != b->digest ? " data" : "");
}

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const struct op *find(const struct op *ops, const char *name)
{
	for (; ops->name; ops++)
		if (!strcmp(ops->name, name))
			return ops;
	return NULL;
}

static int run(const struct op *op, const struct files *files,
	       const struct range *at, int flags)
{
	struct target t = {
		.files = files, .fd = -1, .partner = -1, .at = *at,
	};
	int ret = 0;

	if (op->two && !files->partner)
		return -ENOENT;
	if (!op->by_path) {
		t.fd = open(files->file, O_RDWR | flags);
		if (t.fd < 0)
			return -errno;
	}
	if (op->two) {
		t.partner = open(files->partner, O_RDWR | flags);
		if (t.partner < 0)
			ret = -errno;
	}
	if (!ret)
		ret = op->run(&t);
	if (t.partner >= 0)
		close(t.partner);
	if (t.fd >= 0)
		close(t.fd);
	return ret;
}

bool change_layout(const char *name, const struct files *files,
		   const struct range *at, bool nonblock, char *answer,
		   size_t size)
{
	static struct snapshot before[2], after[2];
	const struct op *op = find(changes, name);
	char seen[2][64];
	int ret, error, i;
	long ms;

	if (!op)
		return false;
	ret = take_snapshot(files->file, &before[0]);
	if (!ret)
		ret = take_snapshot(files->partner, &before[1]);
	ms = now_ms();
	error = run(op, files, at, nonblock ? O_NONBLOCK : 0);
	ms = now_ms() - ms;
	if (!ret)
		ret = take_snapshot(files->file, &after[0]);
	if (!ret)
		ret = take_snapshot(files->partner, &after[1]);
	if (ret) {
		snprintf(answer, size, "cannot look at the files: %s",
			 words(ret));
		return true;
	}
	for (i = 0; i < 2; i++)
		compare(&before[i], &after[i], seen[i], sizeof(seen[i]));
	if (error && (*seen[0] || *seen[1]))
		snprintf(answer, size, "%s, and yet changed:%s%s%s",
			 words(error), seen[0], *seen[1] ? "; partner:" : "",
			 seen[1]);
	else if (error)
		snprintf(answer, size, "%s, unchanged%s", words(error),
			 error == -ETXTBSY && ms > AT_ONCE_MS ?
			 ", but not at once" : "");
	else
		snprintf(answer, size, "ok, %s",
			 *seen[0] || *seen[1] ? "changed" : "unchanged");
	return true;
}

bool change_only(const char *name, const struct files *files,
		 const struct range *at, int *error)
{
	const struct op *op = find(changes, name);

	if (op)
		*error = run(op, files, at, 0);
	return op != NULL;
}

bool use_file(const char *name, const struct files *files,
	      const struct range *at, char *answer, size_t size)
{
	const struct op *op = find(uses, name);

	if (!op)
		return false;
	snprintf(answer, size, "%s", words(run(op, files, at, 0)));
	return true;
}
