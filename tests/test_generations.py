"""Two generations of the demo: the second starts from the first, and is measured against it."""

from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from pipelines.outcome import Outcome
from pipelines.place import Place
from pipelines.runs import load_runs
from srpo.config import load_config
from srpo.registry import load_report
from srpo.shapes import seen_captions
from tests.conftest import CONFIG
from tests.runs import call, run

NAME = "generations"


def strip(folder: Path, update: int) -> Tensor:
    return pil_to_tensor(Image.open(folder / "samples" / f"update-{update:06d}.png")).int()


@pytest.mark.slow
def test_new_prompts_start_a_second_generation_from_the_champion(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "train.txt"
    captions = list(seen_captions())
    prompts.write_text("\n".join(captions[:-10]))
    settings = (f"registry.model_name={NAME}", f"prompts.train={prompts}")
    first: Outcome = run(place, load_config(CONFIG, settings))
    assert first.registered
    assert first.registered.alias == "champion"
    again = [word for change in (*settings, "train.num_updates=10") for word in ("--set", change)]
    command = ("run", "--if-new-data", "--config", str(CONFIG), *again)
    assert call(*command) == 0
    assert "nothing new" in capsys.readouterr().out

    prompts.write_text("\n".join(captions))
    assert call(*command) == 0
    record = load_runs(place)[0]
    assert record.config.train.start == f"models:/{NAME}/1"
    assert first.trained
    drawn = strip(Path(first.trained.output_dir), first.trained.best_update)
    begun = strip(record.path / "train", 0)  # both show the base's pictures above
    assert (drawn - begun).abs().max() <= 1
    height = begun.shape[1] // 2  # of a picture and one line of padding
    of_base = strip(Path(first.trained.output_dir), 0)
    assert (of_base - begun[:, : height + 1]).abs().max() <= 1
    assert (of_base - begun[:, height:]).abs().max() > 20

    report = load_report(place.mlflow_uri, f"{NAME}/2")
    assert report
    assert report.champion == f"models:/{NAME}/1"
    assert [contrast.reference for contrast in report.contrasts] == ["base", "champion"]
    capsys.readouterr()
    assert call(*command) == 0
    assert "nothing new" in capsys.readouterr().out  # whether it became champion or stayed a challenger
