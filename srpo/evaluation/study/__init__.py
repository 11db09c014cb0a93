"""Blind comparisons by people: one offline page that asks, and the merger of what it saved.

`pairs` finds what is compared, `page` writes the page and the key that tells which picture is whose, `votes` reads what
came back, `rates` says how sure it is.
"""

from srpo.evaluation.study.page import StudyKey, write_study
from srpo.evaluation.study.pairs import pairs_of_entries, pairs_of_folders
from srpo.evaluation.study.votes import merge_votes
