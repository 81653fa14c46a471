r"""Four worked examples for base models on MATH-style benchmarks, written for this project.

These data sets have no train split to take examples from, and the four that others use are theirs.
Together the four here show the forms of an answer: a fraction, an integer, a root, and scientific
notation.
"""

from __future__ import annotations

from shaped_eval.benchmarks.prompts import Question

SOURCE = "written for shaped-trl: eval_suite/shaped_eval/benchmarks/worked_examples.py"

MATH_EXAMPLES = (
    Question(
        "A jar holds red and blue marbles in the ratio $5:3$. When $6$ red marbles are taken "
        "out, the ratio becomes $4:3$. What fraction of the marbles that are left is blue?",
        r"\frac{3}{7}",
        solution=(
            "Let there be $5k$ red and $3k$ blue marbles at first. Then "
            "$\\frac{5k-6}{3k}=\\frac{4}{3}$, so $15k-18=12k$ and $k=6$. Left are $30-6=24$ red "
            "and $18$ blue marbles. The blue ones are "
            "$\\frac{18}{24+18}=\\frac{18}{42}=\\frac{3}{7}$ of them. The final answer is "
            "$\\boxed{\\frac{3}{7}}$."
        ),
    ),
    Question(
        "How many integers from $1$ to $200$ are divisible by $6$ or by $10$, but not by both?",
        "41",
        solution=(
            "There are $\\lfloor 200/6\\rfloor=33$ multiples of $6$ and $200/10=20$ multiples of "
            "$10$. Divisible by both are the multiples of $30$, of which there are $\\lfloor "
            "200/30\\rfloor=6$; each is in both counts and must be in neither. So there are "
            "$33+20-2\\cdot 6=41$. The final answer is $\\boxed{41}$."
        ),
    ),
    Question(
        "A rectangle has area $48$, and one of its sides is three times as long as the other. "
        "How long is its diagonal?",
        r"4\sqrt{10}",
        solution=(
            "Let the sides be $s$ and $3s$. From $3s^2=48$ follows $s=4$, so the sides are $4$ "
            "and $12$. By Pythagoras the diagonal is $\\sqrt{4^2+12^2}=\\sqrt{160}=4\\sqrt{10}$. "
            "The final answer is $\\boxed{4\\sqrt{10}}$."
        ),
    ),
    Question(
        "A pump lifts $250 \\mathrm{~kg}$ of water by $12 \\mathrm{~m}$ every minute. Take "
        "$g=9.8 \\mathrm{~m}/\\mathrm{s}^2$. How much work, in joules, does it do in one day? "
        "Give two significant figures.",
        r"4.2\times 10^{7}",
        solution=(
            "In a minute it does $mgh=250\\cdot 9.8\\cdot 12=29400$ joules of work. A day has "
            "$24\\cdot 60=1440$ minutes, so the work is $1440\\cdot 29400=42336000\\approx "
            "4.2\\times 10^{7}$ joules. The final answer is $\\boxed{4.2\\times 10^{7}}$."
        ),
    ),
)
