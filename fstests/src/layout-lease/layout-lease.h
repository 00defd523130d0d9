/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A process that holds layout leases and pins of a file, and changes files, as
 * it is told on standard input. See main.c for the commands.
 *
 * Calls that may be refused return 0 or a negative errno.
 */
#ifndef LAYOUT_LEASE_H
#define LAYOUT_LEASE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* From <linux/fcntl.h>, which does not go together with <fcntl.h>. */
#ifndef F_LAYOUT
#define F_LAYOUT	0x100
#define F_EXCLUSIVE	0x200
#endif

/**
 * struct pinner - a way to have pages pinned for long
 * @name: what LAYOUT_PINNER calls it
 * @open: makes the owner of the pins
 * @close: ends it, and with it the pins
 * @pin: pins pages for writing, or only for reading
 * @unpin: releases all pins
 * @read: what a device would read from all pins, in the order they were made
 * @write: has the device write a byte all over a part of a pinned range
 *
 * A pinner that cannot do something has no function for it.
 */
struct pinner {
	const char *name;
	int (*open)(void);
	void (*close)(void);
	int (*pin)(void *addr, size_t length, bool read_only);
	int (*unpin)(void);
	int (*read)(void *buf, size_t length);
	int (*write)(void *addr, size_t length, int byte);
};

extern const struct pinner gup_test_pinner, io_uring_pinner, rdma_pinner;

/* The pinner of that name, NULL if there is none. */
const struct pinner *find_pinner(const char *name);

/* The files that operations are about: the file, and one for those on two. */
struct files {
	const char *file;
	const char *partner;
};

struct range {
	off_t offset;
	off_t length;
};

/*
 * Do an operation on the layout of a file and say in "answer" what became of it:
 * the error, and whether anything in either file is different now. With
 * "nonblock" by descriptors that do not want to wait. False: no such operation.
 */
bool change_layout(const char *name, const struct files *files,
		   const struct range *range, bool nonblock, char *answer,
		   size_t size);

/* The same without a look at the files, and only the error. */
bool change_only(const char *name, const struct files *files,
		 const struct range *range, int *error);

/* An operation that the layout does not matter to. */
bool use_file(const char *name, const struct files *files,
	      const struct range *range, char *answer, size_t size);

/* "ok", or the words for an error. */
const char *words(int error);

#endif /* LAYOUT_LEASE_H */
