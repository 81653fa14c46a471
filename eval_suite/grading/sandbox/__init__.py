"""The sandbox for generated code: the tests on one side, the code on the other, nothing but literals between them.

Three processes. The checker (`checker`; trusted) holds the tests and makes the verdict. The fork server (`zygote`), a
fresh interpreter that never sees a test, starts one process for each piece of code. That process (`candidate`;
untrusted) holds the code and nothing else: it is sent arguments and sends back replies, of which the checker makes
objects of exact builtin types. So neither an object with an ``__eq__`` of its own nor a walk over frames, objects or
memory finds anything to forge or to steal; what the process writes, to whatever descriptor, is at most another reply;
and a process that ends has not passed.

What confines the process (`confine`, `filters`), in this order:

    limits            CPU time (SIGKILL), address space, size of a file, open files, stack, no core, no other process
    user              nobody, where the grader is root and nobody can read the library; no capability in any case
    Landlock          of all files only Python's library, numpy, and shared libraries can be read; nothing is executed
    seccomp           of all system calls only those a Python program needs; not fork, thread, socket, kill or chmod
    namespaces        *  user, process ids (all ends with the first), network (without a device), IPC, host name
    root directory    *  a new one, read-only, that holds the library alone, and a folder of 16 MiB in memory

Landlock and seccomp must be there, and are tried out on a process before any code is run: without them no code is run,
unless the user allows it with ``SHAPED_TRL_ALLOW_WEAK_SANDBOX=1``. Those marked * are entered where the kernel allows
it, as Docker's default does not; without them the code's folder is one in which nothing can be made. Needs Linux 5.13
on x86_64 or aarch64 (the numbers of aarch64 come from Linux's headers and have not been run).

What it does not stop:

- A hole in the kernel. For programs that aim at one, use a virtual machine.
- Answers learnt by heart, or worked out from the arguments: a program that knows the data set's answers passes.
- The tests themselves. They are trusted, and run with the user's rights: take them from sources that you trust.
- Work within the limits: each piece of code may use `Limits.cpu_s` of one core and `Limits.memory_mb` of memory, and
  one that waits holds its grading process for `Limits.wall_s`.
- Side channels of the processor, and reading of the clock, of the kernel's version, of the host's load and memory.
- Where there are no namespaces: learning by ``stat`` and ``readlink`` that a file exists, its size and times, and
  learning process ids. Its content stays closed.
- Threads, subprocesses, asyncio, sockets and symbolic links do not work, not even for good; numpy is the only
  package beside the standard library. A program that needs them fails.
- With a weak sandbox: anything that the missing protection would have stopped, such as reading and deleting the user's
  files and connecting to the network. On macOS only the limits and the separate processes are left.
"""
