"""The paper's likelihood and exact-match benchmarks, by lm-eval's task definitions.

lm-eval (the extra ``lm-eval``) assembles each document's prompt with its worked examples, and
scores options by likelihood; problems, samples, verdicts, statistics and resumption are the suite's
own. It is imported when asked for.
"""
