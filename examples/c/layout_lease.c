// SPDX-License-Identifier: MIT OR Apache-2.0
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef F_LAYOUT
# define F_LAYOUT     0x100
# define F_EXCLUSIVE  0x200
#endif

static void
child(const char *path)
{
    int  ret;

    ret = truncate(path, 0);
    printf("PID %d: truncate: %s\n", getpid(),
           strerror(ret == -1 ? errno : 0));
    exit(ret == -1 ? EXIT_FAILURE : EXIT_SUCCESS);
}

int
main(int argc, char *argv[])
{
    int       fd, flags, sig;
    pid_t     pid;
    sigset_t  set;

    flags = F_LAYOUT;
    if (argc == 3 && strcmp(argv[1], "-x") == 0)
        flags |= F_EXCLUSIVE;
    else if (argc != 2) {
        fprintf(stderr, "Usage: %s [-x] <file>\n", argv[0]);
        exit(EXIT_FAILURE);
    }

    fd = open(argv[argc - 1], O_RDWR);
    if (fd == -1)
        err(EXIT_FAILURE, "%s", argv[argc - 1]);

    /* Both signals are waited for below.  */

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGIO);
    if (sigprocmask(SIG_BLOCK, &set, NULL) == -1)
        err(EXIT_FAILURE, "sigprocmask");

    if (fcntl(fd, F_SETLEASE, F_RDLCK | flags) == -1)
        err(EXIT_FAILURE, "F_SETLEASE");
    printf("PID %d has lease %#x\n", getpid(), fcntl(fd, F_GETLEASE));
    fflush(stdout);

    pid = fork();
    if (pid == -1)
        err(EXIT_FAILURE, "fork");
    if (pid == 0)
        child(argv[argc - 1]);

    /* Give up the lease if asked for it, and wait for the child.  */

    while ((sig = sigwaitinfo(&set, NULL)) != SIGCHLD) {
        if (sig == -1)
            err(EXIT_FAILURE, "sigwaitinfo");
        printf("PID %d: %s\n", getpid(), strsignal(sig));
        fflush(stdout);
        if (fcntl(fd, F_SETLEASE, F_UNLCK) == -1)
            err(EXIT_FAILURE, "F_SETLEASE");
    }
    if (waitpid(pid, NULL, 0) == -1)
        err(EXIT_FAILURE, "waitpid");

    exit(EXIT_SUCCESS);
}
