"""The system calls that an ordinary Python program needs, by name, with their numbers. All others
are refused.

Numbers are those of the kernel's unistd.h; - or None if an architecture never had the call. Calls
in `ALWAYS` may have any arguments. Calls in `rules` need certain arguments, because they could
otherwise reach other processes or the network. Missing on purpose, among others:
processes (fork, execve), sockets, other processes' memory, limits and signals (ptrace,
process_vm_*, pidfd_*), memory without an owner (memfd_create, shm*, mq_*), owners, modes and times
of files, mounts, namespaces, keys, io_uring, userfaultfd, perf, bpf.
"""

from __future__ import annotations

MACHINES = ("x86_64", "aarch64")
"""The machines of the two numbers in a pair, in this order."""

_TABLE = """
# files that are open
read 0 63
write 1 64
readv 19 65
writev 20 66
pread64 17 67
pwrite64 18 68
preadv 295 69
pwritev 296 70
preadv2 327 286
pwritev2 328 287
lseek 8 62
fstat 5 80
close 3 57
close_range 436 436
dup 32 23
dup2 33 -
dup3 292 24
pipe 22 -
pipe2 293 59
sendfile 40 71
copy_file_range 326 285
ftruncate 77 46
fallocate 285 47
fsync 74 82
fdatasync 75 83
flock 73 32
fadvise64 221 223
getdents64 217 61

# files by name: Landlock decides which
openat 257 56
open 2 -
newfstatat 262 79
stat 4 -
lstat 6 -
statx 332 291
access 21 -
faccessat 269 48
faccessat2 439 439
readlink 89 -
readlinkat 267 78
getcwd 79 17
chdir 80 49
fchdir 81 50
mkdir 83 -
mkdirat 258 34
rmdir 84 -
unlink 87 -
unlinkat 263 35
rename 82 -
renameat 264 38
renameat2 316 276
truncate 76 45
umask 95 166

# memory
mmap 9 222
munmap 11 215
mprotect 10 226
mremap 25 216
madvise 28 233
msync 26 227
brk 12 214
mseal 462 462
map_shadow_stack 453 453

# threads (starting one is in `rules`) and the end
futex 202 98
set_robust_list 273 99
set_tid_address 218 96
rseq 334 293
sched_yield 24 124
sched_getaffinity 204 123
exit 60 93
exit_group 231 94
restart_syscall 219 128
wait4 61 260
waitid 247 95

# signals to itself (sending one is in `rules`)
rt_sigaction 13 134
rt_sigprocmask 14 135
rt_sigreturn 15 139
rt_sigpending 127 136
rt_sigsuspend 130 133
rt_sigtimedwait 128 137
sigaltstack 131 132
pause 34 -
alarm 37 -
setitimer 38 103
getitimer 36 102

# time
clock_gettime 228 113
clock_getres 229 114
clock_nanosleep 230 115
nanosleep 35 101
gettimeofday 96 169
time 201 -
times 100 153

# waiting for several files
poll 7 -
ppoll 271 73
select 23 -
pselect6 270 72
epoll_create 213 -
epoll_create1 291 20
epoll_ctl 233 21
epoll_wait 232 -
epoll_pwait 281 22
epoll_pwait2 441 441
eventfd2 290 19

# facts about itself and the machine
getpid 39 172
getppid 110 173
gettid 186 178
getuid 102 174
geteuid 107 175
getgid 104 176
getegid 108 177
getresuid 118 148
getresgid 120 150
getgroups 115 158
getpgrp 111 -
getpgid 121 155
getsid 124 156
getrlimit 97 163
getrusage 98 165
getrandom 318 278
getcpu 309 168
uname 63 160
sysinfo 99 179

# a pair of connected sockets, which asyncio wakes itself with (making one is in `rules`)
recvfrom 45 207
getsockname 51 204
"""


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)


def _parse(table: str) -> dict[str, tuple[int | None, int | None]]:
    """The numbers of each call by its name, from lines of NAME X86_64 AARCH64."""
    numbers = {}
    for line in table.splitlines():
        if line and not line.startswith("#"):
            name, x86_64, aarch64 = line.split()
            numbers[name] = (_number(x86_64), _number(aarch64))
    return numbers


ALWAYS = _parse(_TABLE)


class ArgumentRule:
    """A call that is allowed if `argument` (counted from 0), cut to the bits of `mask`, is one of
    `values`.

    The kernel reads these arguments as 32 bits, and so does the filter; a `pointer` is compared in
    full.
    """

    def __init__(
        self,
        numbers: tuple[int | None, int | None],
        argument: int,
        values: tuple[int, ...],
        mask: int = 0xFFFFFFFF,
        pointer: bool = False,
    ) -> None:
        self.numbers = numbers
        self.argument = argument
        self.values = values
        self.mask = mask
        self.pointer = pointer


_THREAD = 0x00010000
_NAMESPACES = 0x7E020000
_FILE_COMMANDS = (
    0,  # F_DUPFD
    1,  # F_GETFD
    2,  # F_SETFD
    3,  # F_GETFL
    4,  # F_SETFL
    5,  # F_GETLK
    6,  # F_SETLK
    7,  # F_SETLKW
    1030,  # F_DUPFD_CLOEXEC
)
_DEVICE_COMMANDS = (
    0x5401,  # TCGETS
    0x5413,  # TIOCGWINSZ
    0x541B,  # FIONREAD
    0x5421,  # FIONBIO
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX
    0x802C542A,  # TCGETS2
)
_NAME_COMMANDS = (15, 16)
_UNIX = 1


def rules(pid: int) -> dict[str, ArgumentRule]:
    """The calls that depend on an argument, for the process with this id."""
    return {
        # a thread of this process; not a process, not a namespace
        "clone": ArgumentRule((56, 220), 0, (_THREAD,), mask=_THREAD | _NAMESPACES),
        # not F_SETOWN, which could send a signal to any process
        "fcntl": ArgumentRule((72, 25), 1, _FILE_COMMANDS),
        # whether a file is a terminal; nothing that writes to one or sets an owner
        "ioctl": ArgumentRule((16, 29), 1, _DEVICE_COMMANDS),
        # signals to this process only
        "kill": ArgumentRule((62, 129), 0, (pid,)),
        "tgkill": ArgumentRule((234, 131), 0, (pid,)),
        "tkill": ArgumentRule((200, 130), 0, (pid,)),
        # a thread's name
        "prctl": ArgumentRule((157, 167), 0, _NAME_COMMANDS),
        # its own limits; 0 means itself
        "prlimit64": ArgumentRule((302, 261), 0, (0, pid)),
        # two connected ends, and no address to send to
        "socketpair": ArgumentRule((53, 199), 0, (_UNIX,)),
        "sendto": ArgumentRule((44, 206), 4, (0,), pointer=True),
    }


CLONE3 = (435, 435)
"""Its flags are in memory, which a filter cannot read. It is answered with "does not exist", so
that the C library uses clone.
"""
