"""The GSM8K grader: which number is the answer, and when two numbers are equal."""

from __future__ import annotations

import pytest
from shaped_eval.grading.text.gsm8k import grade

GOLD = "She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18"


@pytest.mark.parametrize(
    ("completion", "status", "answer"),
    [
        ("9 * 2 = 18\n#### 18", "pass", "18"),
        ("#### 17 is wrong, so\n#### 18", "pass", "18"),
        ("#### 18\n\nQuestion: 3 + 4?", "pass", "18"),
        ("#### $18.00", "pass", "18"),
        ("#### 18\n\nQuestion: next\nAnswer: 20 + 3\n#### 23", "pass", "18"),
        ("The answer is 18.\n\nQ: 5 trees. The answer is 5.", "pass", "18"),
        ("Question: it again.\nAnswer: 17 + 1\n#### 18", "pass", "18"),
        ("#### 18%", "pass", "18"),
        ("#### 18.", "pass", "18"),
        ("#### 18 dollars for 2 eggs", "pass", "18"),
        (r"#### \boxed{18}", "pass", "18"),
        (r"16 - 7 = 9, so \boxed{9 \times 2 = 18} after 3 days", "pass", "18"),
        ("The answer is 18.", "pass", "18"),
        ("A: 18", "pass", "18"),
        ("16 eggs, 18 dollars, 9 left", "fail", "9"),
        ("#### -18", "fail", "-18"),
        ("#### −18", "fail", "-18"),
        ("It loses -$18", "fail", "-18"),
        ("that is 36-18", "pass", "18"),
        ("#### 18.5", "fail", "37/2"),
        ("#### 1,800", "fail", "1800"),
        ("#### 1,8", "fail", "1"),
        ("The answer is 18. I used 3 steps.", "pass", "18"),
        ("The answer is $18$ after 3 days.", "pass", "18"),
        ("**Answer:** 18 (in 3 steps)", "pass", "18"),
        ("The answer is 9 * 2 = 18. That took 2 steps.", "pass", "18"),
        ("The answer is not 17, it is 18", "pass", "18"),
        ("#### 9 * 2 = 18", "pass", "18"),
        ("#### 16 + 2 = 18 dollars for 2 eggs", "pass", "18"),
        ("#### 18 - 1 = 17", "fail", "17"),
        ("#### –18", "fail", "-18"),
        ("The answer is –18.", "fail", "-18"),
        ("between 16–18", "pass", "18"),
        ("#### Step 2: multiply by 2\n9 * 2. The final answer is \\boxed{18}", "pass", "18"),
        ("#### 18\n\n#### Explanation\nwe used 2 steps", "pass", "18"),
        ("so \\boxed{18}\n\n#### Check 1: 18 / 2 = 9", "pass", "18"),
        ("#### 1. Eggs\n16 - 7\n#### 2) Dollars\n9 * 2 = 18", "pass", "18"),
        ("#### Answer: 18\nafter 3 days", "pass", "18"),
        ("#### **18**", "pass", "18"),
        ("####18", "pass", "18"),
        ("#### 18. So she makes 18 dollars a day, 7 days a week.", "pass", "18"),
        ("#### Total: $18 for 3 days", "pass", "18"),
        ("#### x = 18 (after 3 days)", "pass", "18"),
        ("#### She earns $18 per day, 7 days a week.", "pass", "18"),
        ("#### ~18 in 3 days", "pass", "18"),
        ("#### ₹18 in 3 days", "pass", "18"),
        ("#### `18` (2 steps)", "pass", "18"),
        ("#### 40 #### 18", "pass", "18"),
        ("so \\boxed{18}\n#### Step 2 is not needed", "pass", "18"),
        (r"#### \(\$18\)", "pass", "18"),
        ("#### .5", "fail", "1/2"),
        ("####\nno number", "unparsed", None),
        ("no idea", "unparsed", None),
        ("", "unparsed", None),
    ],
)
def test_grade(completion, status, answer):
    assert grade(completion, GOLD) == (status, answer)


def test_gold_without_marker_and_equal_decimals():
    assert grade("#### 1,234.50", "1234.5") == ("pass", "2469/2")
    assert grade("#### 0.5", "1/2") == ("pass", "1/2")
    assert grade("#### 3/4", "0.75") == ("pass", "3/4")
