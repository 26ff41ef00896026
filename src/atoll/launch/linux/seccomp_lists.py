"""Which system calls a sandbox may make: names, numbers and argument rules, as data.

The allow-list follows the default profiles of the container engines (moby/profiles and
containerd, as of 2026), so that what works in a container works here. Differences:

- process_vm_readv/writev: refused; debuggers fall back to ptrace.
- memfd_secret, modify_ldt: refused; nothing a sandbox runs needs them.
- adjtimex, clock_adjtime: allowed as there, since reading and setting differ only behind a
  pointer; to set, the kernel wants CAP_SYS_TIME in the first user namespace, which no sandbox has.
- mount, setns, unshare and so on: allowed by the outer filter, because the zygotes build sandboxes
  with it installed; the inner filter closes them before any client's code runs.
- socket, socketpair, ioctl, personality: allowed here; `seccomp.outer_filter` checks arguments.
"""

from __future__ import annotations

from types import MappingProxyType


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FILES = _names("""
access cachestat chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat
faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd
getdents getdents64 getxattr getxattrat ioctl lchown lgetxattr link linkat listmount listxattr
listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat
name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat
renameat2 rmdir sendfile setxattr setxattrat splice stat statfs statmount statx symlink symlinkat
sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write
writev
""")

WAITING = _names("""
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1
inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit poll ppoll
pselect6 select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
""")

MEMORY = _names("""
brk madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect
mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
remap_file_pages
""")

PROCESSES = _names("""
alarm arch_prctl capget capset chroot clone clone3 execve execveat exit exit_group fork futex
futex_requeue futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid
geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority getresgid getresuid
getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self pause personality pidfd_open pidfd_send_signal prctl
prlimit64 ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer
setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid sigaltstack tgkill
tkill uprobe uretprobe vfork wait4 waitid
""")

TIME_AND_SYSTEM = _names("""
adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep getrandom gettimeofday nanosleep
sysinfo time timer_create timer_delete timer_getoverrun timer_gettime timer_settime times uname
""")

SOCKETS_AND_IPC = _names("""
accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg
semctl semget semop semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown
socket socketpair
""")

BUILDERS = _names("""
fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree open_tree_attr pivot_root
setdomainname sethostname setns umount2 unshare
""")
"""What builds a sandbox: open to the zygotes, closed by the inner filter."""

ALLOWED = (*FILES, *WAITING, *MEMORY, *PROCESSES, *TIME_AND_SYSTEM, *SOCKETS_AND_IPC, *BUILDERS)

REFUSED = _names("""
_sysctl acct add_key bpf clock_settime create_module delete_module fanotify_init finit_module
get_kernel_syms get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm
iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind memfd_secret migrate_pages
modify_ldt move_pages nfsservctl open_by_handle_at perf_event_open pidfd_getfd process_madvise
process_vm_readv process_vm_writev query_module quotactl quotactl_fd reboot request_key
set_mempolicy set_mempolicy_home_node settimeofday swapoff swapon syslog userfaultfd uselib vhangup
""")
"""Known and refused with EPERM; every call in no list is answered with ENOSYS."""

NEWER = MappingProxyType(
    {
        "cachestat": 451,
        "fchmodat2": 452,
        "map_shadow_stack": 453,
        "futex_wake": 454,
        "futex_wait": 455,
        "futex_requeue": 456,
        "statmount": 457,
        "listmount": 458,
        "mseal": 462,
        "setxattrat": 463,
        "getxattrat": 464,
        "listxattrat": 465,
        "removexattrat": 466,
        "open_tree_attr": 467,
    }
)
"""Calls younger than the oldest libseccomp supported (2.5.3). From 424 on, a call has one number
on every architecture (Linux, scripts/syscall.tbl)."""

NEWER_X86 = MappingProxyType({"uretprobe": 335, "uprobe": 336})
"""x86-64 only (arch/x86/entry/syscalls/syscall_64.tbl)."""

NUMBERS = MappingProxyType(
    {
        "x86_64": MappingProxyType(
            {
                "ioctl": 16,
                "socket": 41,
                "socketpair": 53,
                "clone": 56,
                "personality": 135,
                "pivot_root": 155,
                "mount": 165,
                "umount2": 166,
                "sethostname": 170,
                "setdomainname": 171,
                "unshare": 272,
                "setns": 308,
            }
        ),
        "aarch64": MappingProxyType(
            {
                "ioctl": 29,
                "umount2": 39,
                "mount": 40,
                "pivot_root": 41,
                "personality": 92,
                "unshare": 97,
                "sethostname": 161,
                "setdomainname": 162,
                "socket": 198,
                "socketpair": 199,
                "clone": 220,
                "setns": 268,
            }
        ),
    }
)
"""Numbers that the hand-written parts need (asm/unistd_64.h; asm-generic/unistd.h)."""

COMMON_NUMBERS = MappingProxyType(
    {
        "open_tree": 428,
        "move_mount": 429,
        "fsopen": 430,
        "fsconfig": 431,
        "fsmount": 432,
        "fspick": 433,
        "clone3": 435,
        "mount_setattr": 442,
        "open_tree_attr": 467,
    }
)

CLONE_NEW_FLAGS = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET (<linux/sched.h>).
CLONE_NEWTIME is a signal number to clone(2): only unshare(2) and clone3(2) can ask for it."""

TERMINAL_INJECTION = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX type into the terminal of whoever watches (<asm-generic/ioctls.h>)."""

PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, each with UNAME26, and the query: what the container engines allow."""

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
NETLINK_ROUTE = 0
