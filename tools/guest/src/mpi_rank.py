# SPDX-License-Identifier: MIT OR Apache-2.0
"""A rank of an MPI program, of two: receives into its half of a file, what the other one sends.

It knows nothing of leases. With Open MPI over libfabric's verbs, a message of this size is read by the
receiver's device straight into the buffer, which is registered for it. "received" is printed when both
have it; both go on to hold their registrations until a line comes in.
"""
import mmap
import os
import sys

from mpi4py import MPI

world = MPI.COMM_WORLD
rank, other = world.Get_rank(), 1 - world.Get_rank()
fd = os.open(sys.argv[1], os.O_RDWR)
half = os.fstat(fd).st_size // 2
received = mmap.mmap(fd, half, offset=rank * half)
os.close(fd)
sent = bytes([ord("A") + rank]) * half
world.Sendrecv([sent, MPI.BYTE], other, 0, [received, MPI.BYTE], other, 0)
world.Barrier()
print("received", os.getpid(), flush=True)
if rank == 0:
    sys.stdin.readline()
world.Barrier()
