"""The paper's likelihood and exact-match benchmarks, with lm-eval's task definitions.

lm-eval (the extra ``lm-eval``) builds the prompt of each document with its worked examples, and
says which options are scored by likelihood. It is imported when one of these benchmarks is used.
Problems, samples, verdicts, statistics and resumption are those of this package.
"""
