"""Scoring: which tasks there are (`tasks`), their files (`task_files`), the harness, the scores.

The modules are imported by name, so that task names can be read without pandas and lm_eval.
"""
