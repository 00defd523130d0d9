// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Receives data over RDMA straight into a file on persistent memory:
 *
 *	dax-receive ADDRESS PORT FILE
 *
 * takes the sole exclusive layout lease on FILE, registers all of it, waits for dax-send to write into it,
 * makes the data durable and lets go of the file. Nothing is copied: the file's pages are the buffer.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "region.h"

#ifndef F_LAYOUT		/* <linux/fcntl.h> of a kernel with layout leases */
#define F_LAYOUT	0x100
#define F_EXCLUSIVE	0x200
#endif

/* README: from here */
static struct ibv_mr *lease_and_register(struct ibv_pd *pd, int fd, size_t len)
{
	if (fcntl(fd, F_SETLEASE, F_WRLCK | F_LAYOUT | F_EXCLUSIVE))
		return NULL;	/* EOPNOTSUPP: no DAX; EINVAL: no such kernel */

	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return NULL;
	return ibv_reg_mr(pd, p, len, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
}

static int sync_and_release(struct ibv_mr *mr, int fd)
{
	void *p = mr->addr;
	size_t len = mr->length;

	if (fsync(fd))		/* what the peer wrote is durable now */
		return -1;
	if (ibv_dereg_mr(mr) || munmap(p, len))
		return -1;
	return fcntl(fd, F_SETLEASE, F_UNLCK);
}
/* README: to here */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static struct rdma_cm_id *bound(const char *address, const char *port)
{
	struct ibv_qp_init_attr attr = {
		.cap = {
			.max_send_wr = 1, .max_send_sge = 1,
			.max_recv_wr = 1, .max_recv_sge = 1,
		},
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
	};
	struct rdma_addrinfo hints = {
		.ai_flags = RAI_PASSIVE | RAI_NUMERICHOST,
		.ai_port_space = RDMA_PS_TCP,
	}, *info;
	struct rdma_cm_id *id;

	if (rdma_getaddrinfo(address, port, &hints, &info))
		die("rdma_getaddrinfo");
	if (rdma_create_ep(&id, info, NULL, &attr))
		die("rdma_create_ep");
	rdma_freeaddrinfo(info);
	if (!id->pd) {
		fprintf(stderr, "%s is not the address of an RDMA device\n", address);
		exit(1);
	}
	return id;
}

/* Waits for a peer, tells it where to write, and for the number of bytes it wrote. */
static uint64_t receive(struct rdma_cm_id *listener, struct ibv_mr *mr)
{
	struct region region = {
		.address = htobe64((uintptr_t)mr->addr),
		.length = htobe64(mr->length),
		.rkey = htobe32(mr->rkey),
	};
	struct rdma_conn_param param = {
		.private_data = &region,
		.private_data_len = sizeof(region),
		.responder_resources = 1,
		.initiator_depth = 1,
	};
	uint64_t written = 0;
	struct rdma_cm_event *event;
	struct rdma_cm_id *peer;
	struct ibv_mr *message;
	struct ibv_wc wc;

	if (rdma_get_request(listener, &peer))
		die("rdma_get_request");
	message = rdma_reg_msgs(peer, &written, sizeof(written));
	if (!message)
		die("rdma_reg_msgs");
	if (rdma_post_recv(peer, NULL, &written, sizeof(written), message))
		die("rdma_post_recv");
	if (rdma_accept(peer, &param))
		die("rdma_accept");
	if (rdma_get_recv_comp(peer, &wc) != 1 || wc.status != IBV_WC_SUCCESS) {
		fprintf(stderr, "the peer went away before it was done\n");
		exit(1);
	}
	/*
	 * The peer disconnects when it knows that all has arrived. If this side
	 * went first, the last acknowledgement could get lost, and the peer would
	 * go on sending to nobody.
	 */
	if (rdma_get_cm_event(peer->channel, &event))
		die("rdma_get_cm_event");
	rdma_ack_cm_event(event);
	rdma_disconnect(peer);
	rdma_dereg_mr(message);
	rdma_destroy_ep(peer);
	return be64toh(written);
}

int main(int argc, char **argv)
{
	struct rdma_cm_id *listener;
	struct ibv_mr *mr;
	struct stat stat;
	uint64_t written;
	int fd;

	if (argc != 4) {
		fprintf(stderr, "usage: %s ADDRESS PORT FILE\n", argv[0]);
		return 2;
	}
	listener = bound(argv[1], argv[2]);
	fd = open(argv[3], O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &stat))
		die(argv[3]);
	mr = lease_and_register(listener->pd, fd, stat.st_size);
	if (!mr)
		die(argv[3]);
	if (rdma_listen(listener, 1))
		die("rdma_listen");
	printf("ready for %zu bytes\n", mr->length);
	fflush(stdout);

	written = receive(listener, mr);
	if (sync_and_release(mr, fd))
		die(argv[3]);
	printf("received %llu bytes\n", (unsigned long long)written);
	rdma_destroy_ep(listener);
	return 0;
}
