"""The sandbox for generated code: the tests on one side, the code on the other, nothing but
literals between them.

Each piece of code has two processes, started by two fork servers (`zygote`): fresh interpreters
that never see a piece of work themselves. One process (`candidate`) holds the code and nothing
else: it is sent arguments and sends back replies, of which the other (`examiner`), which holds the
tests, makes objects of exact builtin types. So neither an object with an ``__eq__`` of its own nor
a walk over frames, objects or memory finds anything to forge or to steal; what the code writes, to
whatever descriptor, is at most another reply. The checker (`checker`; trusted) runs neither. It
takes the first thing that the tests' process says: that the code has failed, as soon as that is
known, so that no ``except`` of the tests holds it up; or that it passes, at the end of all tests. A
process that ends has not passed.

Tests are untrusted too: they come with data sets, with answers files and with other people's runs.
Their process is confined as the code's is, but that it may have threads. There is no option that
runs them otherwise.

Where a process is only to be confined, and holds no tests, `server` can be used alone, as for tasks
of reasoning-gym.

What confines a process (`confine`, `filters`), in this order:

    limits            CPU time (SIGKILL), address space, size of a file, open files, stack, no core, no other process
    user              nobody, where the grader is root and nobody can read the library; no capability in any case
    Landlock          of all files only Python's library, numpy, and shared libraries can be read; nothing is executed
    seccomp           of all system calls only those a Python program needs; not fork, thread, socket, kill or chmod
    namespaces        *  user, process ids (all ends with the first), network (without a device), IPC, host name
    root directory    *  a new one, read-only, that holds the library alone, and a folder of 16 MiB in memory

Landlock and seccomp must be there, and are tried out on a process before any code is run: without
them no code is run, unless the user allows it with ``SHAPED_TRL_ALLOW_WEAK_SANDBOX=1``. Those
marked * are entered where the kernel allows it, as Docker's default does not; without them the
code's folder is one in which nothing can be made. Needs Linux 5.13 on x86_64 or aarch64 (the
numbers of aarch64 come from Linux's headers and have not been run).

What it does not stop:

- A hole in the kernel. For programs that aim at one, use a virtual machine.
- Answers learnt by heart, or worked out from the arguments: a program that knows the data set's
  answers passes.
- Tests that pass whatever they like: what they say is the verdict, so take them from sources that
  you trust.
- Work within the limits: each piece of code may use `Limits.cpu_s` of one core and
  `Limits.memory_mb` of memory, its tests `Limits.tests_cpu_s`, and one that waits holds its grading
  process for `Limits.wall_s`.
- Threads of tests, up to 64 in namespaces and up to 1,024 of all tests together where they run as
  nobody without namespaces. Where neither is to be had there is no such limit, and for root there
  is none either: such tests can use up the machine's process ids for as long as they run.
- Side channels of the processor, and reading of the clock, of the kernel's version, of the host's
  load and memory.
- Where there are no namespaces: learning by ``stat`` and ``readlink`` that a file exists, its size
  and times, and learning process ids. Its content stays closed.
- Threads, subprocesses, asyncio, sockets and symbolic links do not work, not even for good; numpy
  is the only package beside the standard library. A program that needs them fails. Tests have
  threads; those that need more, such as files, get the status ``error`` where they ask for it
  before the first reply of the code, and else ``fail``.
- With a weak sandbox: anything that the missing protection would have stopped, such as reading and
  deleting the user's files and connecting to the network. On macOS only the limits and the separate
  processes are left.
"""
