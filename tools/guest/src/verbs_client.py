# SPDX-License-Identifier: MIT OR Apache-2.0
"""A verbs client that does what it is told, one JSON object a line on stdin, one reply a line on stdout.

The same process leases the file, maps it, registers it, transfers over RDMA and tries to change the
file's layout: it is the lease's holder in every sense. See protocol.rs for the requests.
"""
import array
import ctypes
import errno as E
import fcntl
import json
import os
import socket as sockets
import signal
import struct
import sys
import threading
import time

import pyverbs.enums as e
from pyverbs.addr import AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR, MW, MWBindInfo
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsError, PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

DEVICE, GID_INDEX = sys.argv[1], int(sys.argv[2])
F_SETLEASE, F_GETLEASE = 1024, 1025
SYS_PIDFD_GETFD = 438
FICLONERANGE = 0x4020940D
CHUNK = 1 << 18

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                      ctypes.c_int64]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libc.ftruncate.argtypes = [ctypes.c_int, ctypes.c_int64]
libc.truncate.argtypes = [ctypes.c_char_p, ctypes.c_int64]


def pattern(seed, length):
    words = (length + 7) // 8
    return array.array('Q', range(seed << 32, (seed << 32) + words)).tobytes()[:length]


class Refused(Exception):
    def __init__(self, errno, text='', ns=0):
        super().__init__(text)
        self.errno, self.text, self.ns = errno, text, ns


def timed(call, *args):
    """A libc call: (value, nanoseconds), or Refused with its errno."""
    begin = time.perf_counter_ns()
    value = call(*args)
    ns = time.perf_counter_ns() - begin
    if value == -1:
        raise Refused(ctypes.get_errno(), ns=ns)
    return value, ns


def timed_python(call, *args):
    """The same for a call of Python's own that raises OSError."""
    begin = time.perf_counter_ns()
    try:
        value = call(*args)
    except OSError as error:
        raise Refused(error.errno, str(error), time.perf_counter_ns() - begin) from None
    return value, time.perf_counter_ns() - begin


class Link:
    """Two RC queue pairs of this process, connected with each other through the device."""

    def __init__(self, context, pd):
        self.cq = CQ(context, 64)
        cap = QPCap(max_send_wr=32, max_recv_wr=1, max_send_sge=1, max_recv_sge=1)
        self.pair = [QP(pd, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=cap))
                     for _ in range(2)]
        gid = context.query_gid(1, GID_INDEX)
        for near, far in (self.pair, reversed(self.pair)):
            attr = QPAttr(port_num=1)
            attr.qp_access_flags = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE
            attr.path_mtu = e.IBV_MTU_1024
            attr.max_rd_atomic = attr.max_dest_rd_atomic = 1
            attr.min_rnr_timer, attr.timeout, attr.retry_cnt, attr.rnr_retry = 12, 14, 7, 7
            attr.dest_qp_num = far.qp_num
            attr.ah_attr = AHAttr(gr=GlobalRoute(dgid=gid, sgid_index=GID_INDEX), is_global=1, port_num=1)
            near.to_rts(attr)

    def write(self, source, target, length):
        """RDMA WRITE, in chunks, each waited for."""
        for at in range(0, length, CHUNK):
            size = min(CHUNK, length - at)
            request = SendWR(num_sge=1, sg=[SGE(source.address + at, size, source.mr.lkey)],
                             opcode=e.IBV_WR_RDMA_WRITE, send_flags=e.IBV_SEND_SIGNALED)
            request.set_wr_rdma(target.mr.rkey, target.address + at)
            self.pair[0].post_send(request)
            self.wait()

    def wait(self):
        deadline = time.monotonic() + 15
        while True:
            count, done = self.cq.poll(1)
            if count:
                if done[0].status != e.IBV_WC_SUCCESS:
                    raise Refused(E.EIO, f'work completion status {done[0].status}')
                return
            if time.monotonic() > deadline:
                raise Refused(E.ETIMEDOUT, 'no work completion')
            time.sleep(0.0002)

    def close(self):
        for qp in self.pair:
            qp.close()
        self.cq.close()


class Region:
    def __init__(self, pd, address, length, access):
        self.address, self.length = address, length
        self.mr = MR(pd, length, access, address=address)


class Stream(threading.Thread):
    def __init__(self, link, source, target, length):
        super().__init__(daemon=True)
        self.link, self.source, self.target, self.length = link, source, target, length
        self.bytes, self.error, self.stopping = 0, None, False

    def run(self):
        try:
            while not self.stopping:
                self.link.write(self.source, self.target, self.length)
                self.bytes += self.length
        except Exception as error:  # reported by stream_stop
            self.error = error


class Client:
    def __init__(self):
        self.context = Context(name=DEVICE)
        self.pd = PD(self.context)
        self.files, self.maps, self.regions, self.windows = {}, {}, {}, {}
        self.link = self.streaming = None

    # Files and leases
    def open(self, name, path, flags):
        fd, ns = timed_python(os.open, path, flags, 0o644)
        os.set_inheritable(fd, True)
        self.files[name] = fd
        return fd, ns

    def close(self, name):
        return 0, timed_python(os.close, self.files.pop(name))[1]

    def dup(self, name, new):
        self.files[new] = os.dup(self.files[name])
        return self.files[new], 0

    def number(self, name):
        return self.files[name], 0

    def take(self, pid, fd, name):
        pidfd = os.pidfd_open(pid)
        try:
            self.files[name], ns = timed(libc.syscall, SYS_PIDFD_GETFD, pidfd, fd, 0)
        finally:
            os.close(pidfd)
        return self.files[name], ns

    def set_lease(self, name, argument):
        return timed_python(fcntl.fcntl, self.files[name], F_SETLEASE, argument)

    def get_lease(self, name):
        return timed_python(fcntl.fcntl, self.files[name], F_GETLEASE)

    def fsync(self, name):
        return 0, timed_python(os.fsync, self.files[name])[1]

    # Mappings
    def map(self, map, name, offset, length, prot, flags, inside):
        fd = -1 if name is None else self.files[name]
        where = None
        if inside is not None:
            where = self.maps[inside[0]][0] + inside[1]
            flags |= 0x10  # MAP_FIXED
        address, ns = timed(self._mmap, where, length, prot, flags, fd, offset)
        self.maps[map] = (address, length)
        return 0, ns

    @staticmethod
    def _mmap(*args):
        address = libc.mmap(*args)
        return -1 if address in (None, ctypes.c_void_p(-1).value) else address

    def unmap(self, map):
        return timed(libc.munmap, *self.maps.pop(map))

    def remap(self, map):
        """Moves a mapping over one that is made for the purpose, so that its address changes."""
        old, length = self.maps[map]
        new, _ = timed(self._mmap, None, length, 0, 0x22, -1, 0)  # MAP_PRIVATE | MAP_ANONYMOUS
        address, ns = timed(self._mremap, old, length, length, 3, new)  # MAYMOVE | FIXED
        self.maps[map] = (address, length)
        return 0, ns

    @staticmethod
    def _mremap(*args):
        address = libc.mremap(*args)
        return -1 if address in (None, ctypes.c_void_p(-1).value) else address

    def fork(self):
        """A child with copies of everything that sleeps until it is killed."""
        pid = os.fork()
        if pid == 0:
            os.close(0)
            os.close(1)
            signal.alarm(60)
            while True:
                signal.pause()
        return pid, 0

    def fill(self, map, offset, length, seed):
        ctypes.memmove(self.maps[map][0] + offset, pattern(seed, length), length)
        return 0, 0

    def compare(self, map, offset, length, seed):
        found = ctypes.string_at(self.maps[map][0] + offset, length)
        return int(found == pattern(seed, length)), 0

    # Verbs
    def reg(self, mr, map, offset, length, access):
        address = self.maps[map][0] + offset
        begin = time.perf_counter_ns()
        try:
            self.regions[mr] = Region(self.pd, address, length, access)
        except PyverbsRDMAError as error:
            ns = time.perf_counter_ns() - begin
            raise Refused(abs(error.error_code), str(error), ns) from None
        return 0, time.perf_counter_ns() - begin

    def dereg(self, mr):
        begin = time.perf_counter_ns()
        try:
            self.regions[mr].mr.close()
        except PyverbsRDMAError as error:
            ns = time.perf_counter_ns() - begin
            raise Refused(abs(error.error_code), str(error), ns) from None
        del self.regions[mr]
        return 0, time.perf_counter_ns() - begin

    def window(self, mw):
        self.windows[mw] = MW(self.pd, e.IBV_MW_TYPE_2)
        return 0, 0

    def bind(self, mw, mr):
        region = self.regions[mr]
        request = SendWR(opcode=e.IBV_WR_BIND_MW, send_flags=e.IBV_SEND_SIGNALED)
        request.set_bind_wr(self.windows[mw], MWBindInfo(region.mr, region.address, region.length,
                                                         e.IBV_ACCESS_REMOTE_WRITE))
        link = self._link()
        link.pair[0].post_send(request)
        link.wait()
        return 0, 0

    def drop_window(self, mw):
        self.windows.pop(mw).close()
        return 0, 0

    def _link(self):
        if self.link is None:
            self.link = Link(self.context, self.pd)
        return self.link

    def rdma_write(self, **args):
        begin = time.perf_counter_ns()
        self._link().write(self.regions[args['from']], self.regions[args['to']], args['length'])
        return args['length'], time.perf_counter_ns() - begin

    def stream(self, **args):
        self.streaming = Stream(Link(self.context, self.pd), self.regions[args['from']],
                                    self.regions[args['to']], args['length'])
        self.streaming.start()
        return 0, 0

    def stream_stop(self):
        thread, self.streaming = self.streaming, None
        thread.stopping = True
        thread.join(20)
        if thread.error is not None:
            raise thread.error
        thread.link.close()
        return thread.bytes, 0

    def reset(self):
        if self.streaming is not None:
            self.stream_stop()
        for mw in list(self.windows):
            self.drop_window(mw)
        for mr in list(self.regions):
            self.dereg(mr)
        for map in list(self.maps):
            self.unmap(map)
        for name in list(self.files):
            self.close(name)
        return 0, 0

    def send_owner(self, socket):
        fds = [int(fd) for fd in os.listdir('/proc/self/fd')
               if os.path.exists(f'/proc/self/fd/{fd}')
               and os.readlink(f'/proc/self/fd/{fd}').startswith('/dev/infiniband/uverbs')]
        with sockets.socket(sockets.AF_UNIX) as end:
            end.connect(socket)
            sockets.send_fds(end, [b'.'], fds)
        return len(fds), 0

    def undumpable(self):
        return timed(libc.prctl, 4, 0, 0, 0, 0)

    def swarm(self, map, length, processes):
        address, _ = self.maps[map]
        children, registered = [], 0
        for index in range(processes):
            pid = os.fork()
            if pid == 0:
                done = 1
                try:
                    pd = PD(Context(name=DEVICE))
                    region = Region(pd, address + index * length, length, e.IBV_ACCESS_LOCAL_WRITE)
                    time.sleep(0.02)
                    done = int(region.address == 0)
                finally:
                    # As any process may end: without giving anything back itself.
                    os._exit(done)
            children.append(pid)
            if len(children) == 8 or index == processes - 1:
                for child in children:
                    registered += os.waitpid(child, 0)[1] == 0
                children = []
        return registered, 0

    # Changes of a file's layout, and additive ones
    def do(self, call, **args):
        return getattr(self, 'do_' + call)(**args)

    def _on(self, path, action, flags=0):
        fd, _ = timed_python(os.open, path, os.O_RDWR | flags)
        try:
            return action(fd)
        finally:
            os.close(fd)

    def do_ftruncate(self, path, size, flags=0):
        return self._on(path, lambda fd: timed(libc.ftruncate, fd, size), flags)

    def do_truncate(self, path, size):
        return timed(libc.truncate, os.fsencode(path), size)

    def do_open_truncate(self, path):
        fd, ns = timed_python(os.open, path, os.O_RDWR | os.O_TRUNC)
        os.close(fd)
        return 0, ns

    def do_fallocate(self, path, mode, offset, length, flags=0):
        return self._on(path, lambda fd: timed(libc.fallocate, fd, mode, offset, length), flags)

    def do_clone_range(self, **args):
        def clone(source):
            what = struct.pack('qQQQ', source, args['from_offset'], args['length'], args['to_offset'])
            return self._on(args['to'], lambda fd: (0, timed_python(fcntl.ioctl, fd, FICLONERANGE, what)[1]))
        return self._on(args['from'], clone)

    def do_ioctl(self, path, request, argument, others, status, flags=0):
        buffer, opened = bytearray(argument), []
        try:
            for other in others:
                opened.append(timed_python(os.open, other['path'], os.O_RDWR | flags)[0])
                at, width = other['at'], other['width']
                buffer[at:at + width] = opened[-1].to_bytes(width, 'little')
            _, ns = self._on(path, lambda fd: timed_python(fcntl.ioctl, fd, request, buffer), flags)
        finally:
            for fd in opened:
                os.close(fd)
        said = 0 if status is None else struct.unpack_from('i', buffer, status)[0]
        if said < 0:
            raise Refused(-said, ns=ns)
        return said, ns

    def do_pwrite(self, path, offset, length):
        data = pattern(1, length)
        return self._on(path, lambda fd: timed_python(os.pwrite, fd, data, offset))


def main():
    client = Client()
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop('cmd')
        if command == 'exit':
            break
        try:
            value, ns = getattr(client, command)(**request)
            reply = {'errno': 0, 'value': value, 'ns': ns}
        except Refused as refused:
            reply = {'errno': refused.errno, 'text': refused.text, 'ns': refused.ns}
        except PyverbsError as error:
            reply = {'errno': E.EIO, 'text': f'{command}: {error}'}
        except Exception as error:
            reply = {'errno': E.EPROTO, 'text': f'{command}: {type(error).__name__}: {error}'}
        print(json.dumps(reply), flush=True)
    # The kernel takes everything back at once, as it would from any program that ends.
    os._exit(0)


main()
