"""The sandbox for generated code: tests and code in separate processes that exchange literals.

Each piece of code has two processes, started by two fork servers (`zygote`), which are fresh
interpreters that never see a piece of work themselves. One process (`candidate`) holds only the
code: it is sent arguments and sends back replies. The other (`examiner`) holds the tests, and turns
the replies into objects of exact builtin types. So neither an object with its own ``__eq__`` nor a
walk over frames, objects or memory finds anything to forge or to steal. Whatever the code writes,
to whatever descriptor, is at most another reply. The checker (`checker`), which is trusted, runs
neither. It takes the first message of the tests' process: that the code has failed, as soon as that
is known, so that no ``except`` in the tests can suppress it; or that it passes, at the end of all
tests. A process that ends without such a message has not passed.

Tests are untrusted too: they come with data sets, answers files and other people's runs. Their
process is confined like the code's, except that it may have threads. No option changes that.

A program that reads standard input (`script`) has no tests' process. It gets its input and an empty
file for its output, and has a process for each input. The trusted side (`runner`) reads the file
when that process is gone, and compares it with the expected output, which is in no other process.

Where a process only needs to be confined and holds no tests, as for tasks of reasoning-gym,
`server` can be used alone.

A process is confined (`confine`, `filters`, `root`) by:

    limits            CPU time (SIGKILL), address space, file size, open files, stack; no core
                      dump, no other process
    user              nobody, if the grader is root and nobody can read the library; in any case
                      no capability
    namespaces      * user, process ids (all end with the first one), network (without a device),
                      IPC, host name
    private root    * a root directory that is read-only and has only the files that Landlock allows
                      to read, and a folder of 16 MiB in memory; no /proc
    Landlock        * only Python's library, numpy and shared libraries can be read; nothing can
                      be executed
    seccomp           only the system calls that a Python program needs; not fork, exec, thread,
                      socket, kill, mount or chmod

Seccomp is required, and so is Landlock or the private root. Landlock alone is what remains with
Docker's defaults; the private root alone is for kernels before 5.13, and for those where Landlock
is off. Both are used where the kernel allows both. What holds is tried out on a process before any
code is run, and is recorded in run.json. If that is not enough, no code is run, unless the user
allows it with ``SHAPED_TRL_ALLOW_WEAK_SANDBOX=1``. No other variable changes the choice. Without a
private root the code's folder is one in which nothing can be created. The sandbox needs Linux on
x86_64 or aarch64. (The system call numbers of aarch64 come from Linux's headers and have not been
run.)

What it does not prevent:

- Exploits of the kernel. For programs that try them, use a virtual machine.
- Memorized answers, or answers that are deduced from the arguments: a program that knows the data
  set's answers passes.
- Tests that pass anything: they determine the verdict, so take them from sources that you trust. An
  empty list passes numpy's ``testing.assert_allclose(f(x), 5.0)``, for example, and any object
  passes ``assert f(x)``.
- Work within the limits: each piece of code may use `Limits.cpu_s` of one core and
  `Limits.memory_mb` of memory, its tests may use `Limits.tests_cpu_s`, and code that waits occupies
  its grading process for `Limits.wall_s`.
- Threads of tests: up to 64 in namespaces, and up to 1,024 of all tests together if they run as
  nobody without namespaces. With neither of these there is no such limit, and there is none for
  root either: such tests can use up the machine's process ids while they run.
- Side channels of the processor, and reading the clock, the kernel's version, and the host's load
  and memory.
- Without a private root: learning by ``stat`` and ``readlink`` that a file exists, its size and
  times, and learning process ids. The file's content stays inaccessible.
- Without Landlock: a flaw of the kernel in mounts or user namespaces. Nothing else then keeps the
  code from the user's files.
- With a weak sandbox: anything that the missing protection would have prevented, such as reading
  and deleting the user's files and connecting to the network. On macOS only the limits and the
  separate processes remain.

What does not work, even for legitimate programs: threads, subprocesses, asyncio, sockets, symbolic
links, and packages other than numpy and the standard library. A program that needs them fails.
Tests have threads. If they need more, such as files, they get the status ``error`` if they ask for
it before the first reply of the code, and otherwise ``fail``.
"""
