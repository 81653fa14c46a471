"""The root directory that confines where Landlock is missing: what it holds, and that all of it is
read-only."""

from __future__ import annotations

import json

import pytest
from sandboxes import needs_sandbox, run_without
from shaped_eval.grading.sandbox.root import _below, _unescaped
from shaped_eval.grading.sandbox.server import CANDIDATE, _settings

pytestmark = needs_sandbox

# A process of the test's own makes a folder with a mount in it, enters the root directory, and says
# what it finds there.
IN_ROOT = """
import ctypes, json, os, sys, tempfile
from shaped_eval.grading.sandbox import confine, root
outside = tempfile.mkdtemp(dir=os.getcwd())
shown, inner, hidden = outside + '/shown', outside + '/shown/in it', outside + '/not shown'
covered, again, under = (shown + name for name in ('/covered', '/covered/again', '/covered/under'))
for folder in (inner, hidden, again + '/deeper', under):
    os.makedirs(folder)
for folder in (shown, inner, hidden, covered, again):
    open(folder + '/file', 'w').write('text')
root.enter_namespaces()
child = os.fork()
if child:
    os.waitpid(child, 0)
    print(open('result').read())
    sys.exit()
result = open('result', 'w')
assert confine.libc().unshare(root._NEWNS) == 0
root._mount(None, '/', None, root._MS_REC | root._MS_PRIVATE)
for folder in (inner, under, again + '/deeper'):
    root._mount('tmpfs', folder, 'tmpfs', root._MS_NODEV | root._MS_NOEXEC)
open(inner + '/mounted', 'w').write('text')
paths = [again, shown, shown + '/file', outside + '/absent', '/dev/null']
root.enter_root(paths, [covered, hidden, outside + '/absent too'], '/sandbox')
found = {'shown': sorted(os.listdir(shown)), 'inner': os.listdir(inner), 'top': os.listdir('/')}
found['covered'], found['again'] = os.listdir(covered), os.listdir(again)
found['hidden'] = os.path.exists(hidden)
found['proc'] = os.path.exists('/proc')
def works(action):
    try:
        action()
        return True
    except OSError as error:
        return error.errno
def create(folder): return works(lambda: open(folder + '/new', 'x').close())
found['created'] = [create(folder) for folder in (
    '/', outside, shown, inner, covered, again, again + '/deeper', '/dev', '/sandbox')]
found['written'] = [
    works(lambda: open(path, 'r+').write('x'))
    for path in (shown + '/file', inner + '/mounted', '/dev/null')
]
found['kept'] = os.statvfs(inner).f_flag & 15
json.dump(found, result)
"""
READ_ONLY = 30  # EROFS


def test_a_root_holds_what_was_asked_for_and_nothing_of_it_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = json.loads(run_without("landlock", IN_ROOT))
    assert found["shown"] == ["covered", "file", "in it"]
    assert found["covered"] == ["again"]
    assert sorted(found["again"]) == ["deeper", "file"]
    assert found["inner"] == ["mounted"]
    assert not found["hidden"]
    assert not found["proc"]
    assert set(found["top"]) <= {"dev", "sandbox", *str(tmp_path).split("/"), "tmp"}
    assert found["created"] == [READ_ONLY] * 8 + [True]
    assert found["written"] == [READ_ONLY, READ_ONLY, True]
    assert found["kept"] == 1 | 2 | 4 | 8  # read-only, nosuid, nodev, noexec


def test_a_program_sees_the_files_that_landlock_would_let_it_read_and_no_others():
    readable = _settings(CANDIDATE, True)["readable"]
    program = f"""
import json, os
from shaped_eval.grading.sandbox import checker, server
sandbox = checker.Sandbox()
allowed = {[*readable, "/dev/null"]!r}
program = '''
import os
def f(allowed):
    allowed = set(allowed)
    others, count = [], 0
    for folder, _, files in os.walk('/'):
        for path in (os.path.join(folder, name) for name in files):
            count += 1
            above = path
            while above and above not in allowed:
                above = above.rpartition('/')[0]
            if not above:
                others.append(path)
    return [count > 100, others]
'''
tests = checker.Tests(f"found = f({{allowed!r}})\\nassert found == [True, []], found", ("f",))
print(checker.check(sandbox, [program], tests, checker.Limits()))
"""
    assert "status='pass'" in run_without("landlock", program)


@pytest.mark.parametrize(
    ("path", "plain"), [(r"/a\040b", "/a b"), (r"/a\134b\011", "/a\\b\t"), ("/a/b", "/a/b")]
)
def test_the_kernel_s_escapes_in_paths_are_undone(path, plain):
    assert _unescaped(path) == plain


def test_mounts_below_a_device_are_found_in_any_order_and_others_are_not():
    """As proc_pid_mountinfo(5) has it: number, number of the parent, device, root, mount point."""
    rows = """
30 1 8:1 / / rw - ext4 /dev/sda1 rw
44 42 8:1 /usr/lib /proc/usr/lib\\040x rw - ext4 /dev/sda1 rw
31 30 0:5 / /proc rw - proc proc rw
32 31 0:6 / /proc/sys rw - binfmt_misc none rw
43 41 8:1 /deep /proc/usr/deep rw - ext4 /dev/sda1 rw
42 41 0:99 / /proc/usr rw shared:3 - tmpfs tmpfs rw
41 31 0:77 / /proc rw - tmpfs tmpfs rw
45 41 8:1 / /proc/a\u2028\x85b rw - ext4 /dev/sda1 rw
""".lstrip()
    assert sorted(_below(77, rows)) == [
        "/proc",
        "/proc/a\u2028\x85b",  # which are line ends for Python, but not for the kernel
        "/proc/usr",
        "/proc/usr/deep",
        "/proc/usr/lib x",
    ]
