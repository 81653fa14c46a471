"""Answers that run something where anything evaluates them, and answers that could change how the
next is graded."""

from __future__ import annotations

# to sympy a letter, with neither quotes nor dots
CHARACTER = "S(sstr(Function(sstr(ch)+sstr(r))({})))"


def evaluated(program: str) -> str:
    """A formula that makes the text of a program and has it evaluated by sympy."""
    return f"S({'+'.join(CHARACTER.format(ord(letter)) for letter in program)})"


def programs(touched: str) -> list[str]:
    """Answers that make this file, where anything evaluates them."""
    touch = f"__import__('os').system('touch {touched}')"
    opened = f"open('{touched}', 'w')"
    escaped = "".join(f"\\x{ord(letter):02x}" for letter in opened)
    return [
        touch,
        f"[{touch}]",
        opened,
        f"[{opened}]",
        f"[[{opened}]]",
        f"\uff4fpen('{touched}', 'w')",  # names are read after NFKC
        f"exec('{escaped}')",
        f"(lambda: {opened})()",
        f"[{opened} for x in [1]]",
        f"f'{{{opened}}}'".replace(f"'{touched}'", f'"{touched}"'),
        f"({opened}).\n\nclose()",
        f"1 if {touch} else 2",
        f"[[0, 1], [1, 0].#\nappend({touch})]",
        f"x + {evaluated(opened)}",
        evaluated(touch),
        f"Lambda(x, {evaluated(opened)})(1)",
        f"sympify({evaluated(opened)})",
        f'{{"a": {touch}}}',
        f"!!python/object/apply:os.system ['touch {touched}']",
        f"cos\nsystem\n(S'touch {touched}'\ntR.",
        f"\\boxed{{{touch}}}",
        f"$\\text{{{opened}}}$",
        f"$\\operatorname{{exec}}({opened})$",
        f"{{{{ {touch} }}}}",
        f"${{{touch}}}",
        f"`touch {touched}`; $(touch {touched})",
    ]


# Each would make its grader, were it evaluated or were state kept, take later answers for right, or
# fail at them.
CHANGES = [
    evaluated("setattr(__import__('builtins'),'float',lambda *a:1.0)"),
    evaluated("setattr(__import__('sympy'),'simplify',lambda *a:0)"),
    evaluated("setattr(__import__('json'),'dumps',lambda *a,**k:'{}')"),
    "[s.#\nclear for s in [globals()]]",
    "globals().#\nclear()",
    "x := 0",
    "Symbol('x', positive=True)",
    r"\boxed{x = 7}",
    r"\boxed{x \in \{7\}, \pi = 3, e = 2, i = 1}",
    r"\boxed{\text{pass}}",
    r"\boxed{5 = 6}",
    "9" * 4_000,
    "(" * 2_000,
    "\ud800",
]
