/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
