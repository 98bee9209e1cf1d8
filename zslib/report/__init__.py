"""The leaderboard and the report (DESIGN §7): a table to compute with, and one page to look at.

Everything here derives from stored confusion matrices, stored predictions and the scores beside
them; nothing is predicted again, so neither torch nor a GPU is needed.
"""

from zslib.report.leaderboard import aggregate, leaderboard_rows, read_leaderboard

__all__ = ["aggregate", "leaderboard_rows", "read_leaderboard"]
