// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Writes a file over RDMA into the region that dax-receive offers:
 *
 *	dax-send ADDRESS PORT FILE
 *
 * Any file will do: it is read into ordinary memory first.
 */
#include <endian.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "region.h"

#define CHUNK	(256u << 10)

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static char *contents(const char *path, size_t *len)
{
	FILE *file = fopen(path, "r");
	struct stat stat;
	char *data;

	if (!file || fstat(fileno(file), &stat))
		die(path);
	*len = stat.st_size;
	data = malloc(*len + 1);
	if (!data || fread(data, 1, *len, file) != *len)
		die(path);
	fclose(file);
	return data;
}

static struct rdma_cm_id *connected(const char *address, const char *port, struct region *region)
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
		.ai_flags = RAI_NUMERICHOST,
		.ai_port_space = RDMA_PS_TCP,
	}, *info;
	struct rdma_conn_param param = {
		.responder_resources = 1,
		.initiator_depth = 1,
		.retry_count = 7,
		.rnr_retry_count = 7,
	};
	struct rdma_cm_id *id;

	if (rdma_getaddrinfo(address, port, &hints, &info))
		die("rdma_getaddrinfo");
	if (rdma_create_ep(&id, info, NULL, &attr))
		die("rdma_create_ep");
	rdma_freeaddrinfo(info);
	if (rdma_connect(id, &param))
		die("rdma_connect");
	/* The private data may be padded. */
	if (id->event->param.conn.private_data_len < sizeof(*region)) {
		fprintf(stderr, "the receiver did not say where to write\n");
		exit(1);
	}
	memcpy(region, id->event->param.conn.private_data, sizeof(*region));
	return id;
}

static void done(struct rdma_cm_id *id, const char *what)
{
	struct ibv_wc wc;

	if (rdma_get_send_comp(id, &wc) != 1)
		die(what);
	if (wc.status != IBV_WC_SUCCESS) {
		fprintf(stderr, "%s: %s\n", what, ibv_wc_status_str(wc.status));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	struct rdma_cm_id *id;
	struct region region;
	struct ibv_mr *mr;
	uint64_t written;
	size_t len, at;
	char *data;

	if (argc != 4) {
		fprintf(stderr, "usage: %s ADDRESS PORT FILE\n", argv[0]);
		return 2;
	}
	data = contents(argv[3], &len);
	id = connected(argv[1], argv[2], &region);
	if (len > be64toh(region.length)) {
		fprintf(stderr, "%s is larger than the receiver's file\n", argv[3]);
		return 1;
	}
	mr = rdma_reg_msgs(id, data, len + 1);
	if (!mr)
		die("rdma_reg_msgs");
	for (at = 0; at < len; at += CHUNK) {
		size_t part = len - at < CHUNK ? len - at : CHUNK;

		if (rdma_post_write(id, NULL, data + at, part, mr, 0,
				    be64toh(region.address) + at, be32toh(region.rkey)))
			die("rdma_post_write");
		done(id, "write");
	}
	rdma_dereg_mr(mr);

	/* Comes behind the writes on the same connection. */
	written = htobe64(len);
	mr = rdma_reg_msgs(id, &written, sizeof(written));
	if (!mr || rdma_post_send(id, NULL, &written, sizeof(written), mr, 0))
		die("rdma_post_send");
	done(id, "send");
	rdma_disconnect(id);
	rdma_dereg_mr(mr);
	rdma_destroy_ep(id);
	free(data);
	return 0;
}
