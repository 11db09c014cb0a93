"""Scores on disk: found by what made them, whole after a kill, and shared by several writers."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from srpo.evaluation.images import Cell, make_design
from srpo.evaluation.journal import ImageScores, ScoreJournal
from srpo.prompts import Prompt

DESIGN = make_design([Prompt("a dog"), Prompt("a cat: \"ünïcode\" 'quoted'")], [0, 1], 2, seed=0)
SCORES = ImageScores({"reward": 0.1 + 0.2, "relative": -math.pi}, bytes(range(256)))


def fill(journal: ScoreJournal, cells: list[Cell], image_key: str = "model", score_key: str = "reward") -> None:
    for cell in cells:
        journal.gallery(image_key).add(cell, torch.zeros(3, 8, 8))
    journal.add(image_key, score_key, dict.fromkeys(cells, SCORES))


def test_what_was_written_is_found_again_to_the_last_bit(tmp_path: Path) -> None:
    fill(ScoreJournal(tmp_path), DESIGN[:3])
    assert ScoreJournal(tmp_path).find("model", "reward", DESIGN) == dict.fromkeys(DESIGN[:3], SCORES)


def test_another_model_another_reward_and_another_noise_are_not_found(tmp_path: Path) -> None:
    journal = ScoreJournal(tmp_path)
    fill(journal, DESIGN)
    assert journal.find("other", "reward", DESIGN) == {}
    assert journal.find("model", "other", DESIGN) == {}
    assert journal.find("model", "reward", make_design([Prompt("a dog")], [0], 2, seed=1)) == {}


def test_a_score_without_its_picture_does_not_count(tmp_path: Path) -> None:
    journal = ScoreJournal(tmp_path)
    fill(journal, DESIGN)
    journal.gallery("model").find(DESIGN[1]).unlink()
    assert list(journal.find("model", "reward", DESIGN)) == [DESIGN[0], *DESIGN[2:]]


def write_many(folder: Path, rank: int) -> None:
    """An evaluation of another model."""
    journal = ScoreJournal(folder)
    for cell in DESIGN * 5:
        fill(journal, [cell], f"model {rank}")


def test_two_evaluations_may_write_at_the_same_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write_many, [tmp_path] * 2, range(2)))
    assert all(len(ScoreJournal(tmp_path).find(f"model {rank}", "reward", DESIGN)) == len(DESIGN) for rank in range(2))
