// SPDX-License-Identifier: GPL-2.0-only
/*
 * layout-lease - hold layout leases and pins of a file, and change files
 *
 *	layout-lease [-p PINNER] [FILE [PARTNER]]
 *
 * opens FILE for reading and writing and maps all of it, if it can, and carries
 * out commands from standard input, one a line. Each is answered by one line.
 *
 * lease WORD...	F_SETLEASE: read, write or unlock; layout, exclusive; a
 *			number. All of them or-ed together
 * getlease		F_GETLEASE, in the same words
 * open r|w|rw [PATH]	another open file instead, not mapped; PATH is FILE then
 * close		the open file; mappings stay
 * map [private] [read]	all of the open file, instead of what is mapped
 * unmap
 * pin OFFSET LENGTH [read]	of the mapped file
 * unpin		all
 * unown		end the owner of the pins
 * verify		compare what a device reads from all pins with the file
 * dma OFFSET LENGTH BYTE	have the device write to a pinned range
 * store OFFSET LENGTH BYTE	write to the mapping
 * touch OFFSET LENGTH	write to each page of the mapping, and say how many
 *			faults that took
 * fsync
 * signal SECONDS	wait for SIGIO
 * change OP OFFSET LENGTH [nonblock]	see change.c
 * use OP OFFSET LENGTH			see change.c
 * race OP OFFSET LENGTH COUNT	that change so many times, and how often it was
 *			refused is no matter
 * fork			go on as a child process; the parent waits for it
 * leave		go on as a child process; the parent exits
 * become UID		another user without capabilities
 * exit
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "layout-lease.h"

#define MAX_WORDS	8
#define MAX_PINS	64
#define ANSWER		256

static struct files files;
static int fd = -1;
static char *map;
static size_t map_size;
static const struct pinner *pinner;
static bool owner;
static struct range pins[MAX_PINS];
static unsigned int nr_pins;

const char *words(int error)
{
	return error ? strerror(-error) : "ok";
}

/* A number of bytes, or -1. */
static off_t bytes(const char *text)
{
	char *end;
	off_t value;

	if (!text)
		return -1;
	value = strtoll(text, &end, 0);
	switch (*end) {
	case 'g':
		value <<= 10;
		/* fall through */
	case 'm':
		value <<= 10;
		/* fall through */
	case 'k':
		value <<= 10;
		end++;
	}
	return *end || end == text ? -1 : value;
}

/* OFFSET LENGTH, and whether that is what was said. */
static bool get_range(char **argv, struct range *range)
{
	range->offset = bytes(argv[0]);
	range->length = argv[0] ? bytes(argv[1]) : -1;
	return range->offset >= 0 && range->length >= 0;
}

static const struct {
	const char *name;
	int value;
} lease_words[] = {
	{ "read", F_RDLCK },
	{ "write", F_WRLCK },
	{ "unlock", F_UNLCK },
	{ "layout", F_LAYOUT },
	{ "exclusive", F_EXCLUSIVE },
};

#define NR_LEASE_WORDS	(sizeof(lease_words) / sizeof(lease_words[0]))

static int set_lease(char **argv)
{
	int arg = 0, value;
	size_t i;

	for (; *argv; argv++) {
		value = bytes(*argv);
		for (i = 0; i < NR_LEASE_WORDS; i++)
			if (!strcmp(*argv, lease_words[i].name))
				value = lease_words[i].value;
		if (value < 0)
			return -ENOMSG;
		arg |= value;
	}
	return fcntl(fd, F_SETLEASE, arg) ? -errno : 0;
}

static void get_lease(char *answer)
{
	int value = fcntl(fd, F_GETLEASE), type = value & 0xff;

	if (value < 0)
		snprintf(answer, ANSWER, "%s", strerror(errno));
	else
		snprintf(answer, ANSWER, "%s%s%s",
			 type == F_RDLCK ? "read" :
			 type == F_WRLCK ? "write" :
			 type == F_UNLCK ? "unlock" : "unknown",
			 value & F_LAYOUT ? " layout" : "",
			 value & F_EXCLUSIVE ? " exclusive" : "");
}

static int open_file(const char *mode, const char *path)
{
	int new = open(path, !mode || !strcmp(mode, "rw") ? O_RDWR :
			     !strcmp(mode, "w") ? O_WRONLY : O_RDONLY);

	if (new < 0)
		return -errno;
	if (fd >= 0)
		close(fd);
	fd = new;
	return 0;
}

static int unmap_file(void)
{
	int ret = 0;

	if (map && munmap(map, map_size))
		ret = -errno;
	map = NULL;
	return ret;
}

static int map_file(char **argv)
{
	int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED;
	struct stat st;
	char *new;

	for (; *argv; argv++) {
		if (!strcmp(*argv, "private"))
			flags = MAP_PRIVATE;
		else if (!strcmp(*argv, "read"))
			prot = PROT_READ;
	}
	unmap_file();
	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) || !st.st_size)
		return -EINVAL;
	new = mmap(NULL, st.st_size, prot, flags, fd, 0);
	if (new == MAP_FAILED)
		return -errno;
	map = new;
	map_size = st.st_size;
	return 0;
}

static bool is_mapped(const struct range *r)
{
	return map && (size_t)(r->offset + r->length) <= map_size;
}

static int pin(char **argv)
{
	struct range r;
	int ret;

	if (!get_range(argv, &r) || !is_mapped(&r) || nr_pins == MAX_PINS)
		return -EINVAL;
	if (!owner) {
		ret = pinner->open();
		if (ret)
			return ret;
		owner = true;
	}
	ret = pinner->pin(map + r.offset, r.length, argv[2] != NULL);
	if (!ret)
		pins[nr_pins++] = r;
	return ret;
}

static int unpin(void)
{
	int ret = owner ? pinner->unpin() : -EINVAL;

	if (!ret)
		nr_pins = 0;
	return ret;
}

static int unown(void)
{
	if (!owner)
		return -EINVAL;
	pinner->close();
	owner = false;
	nr_pins = 0;
	return 0;
}

static int verify(void)
{
	char *device, *file;
	size_t length = 0, at = 0;
	unsigned int i;
	int ret, from;

	if (!owner || !nr_pins)
		return -EINVAL;
	if (!pinner->read)
		return -EOPNOTSUPP;
	for (i = 0; i < nr_pins; i++)
		length += pins[i].length;
	device = aligned_alloc(4096, length);
	file = malloc(length);
	/* The path may be gone, the open file not be there, or not be readable. */
	from = fd >= 0 ? dup(fd) : open(files.file, O_RDONLY);
	ret = device && file && from >= 0 ? pinner->read(device, length) :
					    -EIO;
	for (i = 0; i < nr_pins && !ret; i++) {
		if (pread(from, file + at, pins[i].length, pins[i].offset) !=
		    (ssize_t)pins[i].length)
			ret = -EIO;
		at += pins[i].length;
	}
	if (!ret && memcmp(device, file, length))
		ret = -EILSEQ;
	if (from >= 0)
		close(from);
	free(device);
	free(file);
	return ret;
}

static int write_memory(char **argv, bool by_device)
{
	struct range r;

	if (!get_range(argv, &r) || !argv[2] || !is_mapped(&r))
		return -EINVAL;
	if (!by_device) {
		memset(map + r.offset, strtol(argv[2], NULL, 0), r.length);
		return 0;
	}
	if (!owner || !pinner->write)
		return -EOPNOTSUPP;
	return pinner->write(map + r.offset, r.length,
			     strtol(argv[2], NULL, 0));
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static void touch(char **argv, char *answer)
{
	long before = faults();
	struct range r;
	off_t at;

	if (!get_range(argv, &r) || !is_mapped(&r)) {
		snprintf(answer, ANSWER, "usage: touch OFFSET LENGTH");
		return;
	}
	for (at = r.offset; at < r.offset + r.length; at += 4096)
		((volatile char *)map)[at] = 1;
	snprintf(answer, ANSWER, "%ld", faults() - before);
}

static const char *wait_for_signal(const char *seconds)
{
	struct timespec timeout = { .tv_sec = bytes(seconds) };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	return sigtimedwait(&set, NULL, &timeout) == SIGIO ? "SIGIO" : "none";
}

/* The rest of the commands is for the child. */
static int go_on_as_child(bool parent_waits)
{
	int status = 1;
	pid_t child = fork();

	if (child < 0)
		return -errno;
	if (child) {
		if (parent_waits)
			waitpid(child, &status, 0);
		_exit(parent_waits ? status : 0);
	}
	if (parent_waits)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return 0;
}

static int become(const char *user)
{
	uid_t uid = bytes(user);

	return setgroups(0, NULL) || setresgid(uid, uid, uid) ||
	       setresuid(uid, uid, uid) ? -errno : 0;
}

static void operate(char **argv, char *answer)
{
	bool change = !strcmp(argv[0], "change");
	struct range r;
	bool known;

	if (!argv[1] || !get_range(argv + 2, &r)) {
		snprintf(answer, ANSWER, "usage: %s OP OFFSET LENGTH", argv[0]);
		return;
	}
	known = change ? change_layout(argv[1], &files, &r, argv[4] != NULL,
				       answer, ANSWER) :
			 use_file(argv[1], &files, &r, answer, ANSWER);
	if (!known)
		snprintf(answer, ANSWER, "no such operation");
}

static void race(char **argv, char *answer)
{
	long count = argv[1] && argv[2] && argv[3] ? bytes(argv[4]) : -1;
	struct range r;
	int error = 0;

	if (count < 0 || !get_range(argv + 2, &r)) {
		snprintf(answer, ANSWER, "usage: race OP OFFSET LENGTH COUNT");
		return;
	}
	while (count-- && (!error || error == -ETXTBSY)) {
		if (!change_only(argv[1], &files, &r, &error)) {
			snprintf(answer, ANSWER, "no such operation");
			return;
		}
	}
	snprintf(answer, ANSWER, "%s",
		 words(error == -ETXTBSY ? 0 : error));
}

static void carry_out(char **argv, char *answer)
{
	const char *command = argv[0];
	int ret;

	if (!strcmp(command, "getlease")) {
		get_lease(answer);
		return;
	}
	if (!strcmp(command, "signal")) {
		snprintf(answer, ANSWER, "%s", wait_for_signal(argv[1]));
		return;
	}
	if (!strcmp(command, "change") || !strcmp(command, "use")) {
		operate(argv, answer);
		return;
	}
	if (!strcmp(command, "touch")) {
		touch(argv + 1, answer);
		return;
	}
	if (!strcmp(command, "race")) {
		race(argv, answer);
		return;
	}
	if (!strcmp(command, "lease")) {
		ret = set_lease(argv + 1);
	} else if (!strcmp(command, "open")) {
		if (argv[1] && argv[2])
			files.file = strdup(argv[2]);
		ret = open_file(argv[1], files.file);
	} else if (!strcmp(command, "close")) {
		ret = close(fd) ? -errno : 0;
		fd = -1;
	} else if (!strcmp(command, "map")) {
		ret = map_file(argv + 1);
	} else if (!strcmp(command, "unmap")) {
		ret = unmap_file();
	} else if (!strcmp(command, "pin")) {
		ret = pin(argv + 1);
	} else if (!strcmp(command, "unpin")) {
		ret = unpin();
	} else if (!strcmp(command, "unown")) {
		ret = unown();
	} else if (!strcmp(command, "verify")) {
		ret = verify();
	} else if (!strcmp(command, "dma")) {
		ret = write_memory(argv + 1, true);
	} else if (!strcmp(command, "store")) {
		ret = write_memory(argv + 1, false);
	} else if (!strcmp(command, "fsync")) {
		ret = fsync(fd) ? -errno : 0;
	} else if (!strcmp(command, "fork")) {
		ret = go_on_as_child(true);
	} else if (!strcmp(command, "leave")) {
		ret = go_on_as_child(false);
	} else if (!strcmp(command, "become")) {
		ret = become(argv[1]);
	} else if (!strcmp(command, "exit")) {
		exit(0);
	} else {
		snprintf(answer, ANSWER, "no such command");
		return;
	}
	snprintf(answer, ANSWER, "%s", words(ret));
}

int main(int argc, char **argv)
{
	char line[PATH_MAX + 64], answer[ANSWER], *none[] = { NULL };
	sigset_t set;
	int c;

	pinner = &gup_test_pinner;
	while ((c = getopt(argc, argv, "p:")) != -1) {
		pinner = c == 'p' ? find_pinner(optarg) : NULL;
		if (!pinner) {
			fprintf(stderr, "usage: %s [-p PINNER] [FILE [PARTNER]]\n",
				argv[0]);
			return 1;
		}
	}
	if (optind < argc)
		files.file = argv[optind];
	if (optind + 1 < argc)
		files.partner = argv[optind + 1];
	/* It is asked for by "signal", and must not end us. */
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* Whether that works is seen by what needs it. */
	if (files.file && !open_file("rw", files.file))
		map_file(none);

	while (fgets(line, sizeof(line), stdin)) {
		char *argv[MAX_WORDS + 1] = { NULL };
		char *word = strtok(line, " \n");
		int i;

		for (i = 0; word && i < MAX_WORDS; i++) {
			argv[i] = word;
			word = strtok(NULL, " \n");
		}
		if (!argv[0])
			continue;
		carry_out(argv, answer);
		puts(answer);
	}
	return 0;
}
