"""Makes the pictures of the README from a finished run: `python -m tests.screenshots .srpo/runs/NAME/evaluation`."""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from srpo.evaluation.entries import load_entry
from srpo.evaluation.study import pairs_of_entries, write_study
from srpo.report.page import write_report
from tests.browser import browser

DOCS = Path(__file__).parent.parent / "docs"
DESKTOP = {"width": 1100, "height": 1900}
PHONE = {"width": 390, "height": 844, "phone": True}


def main(evaluation: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, browser(Path(scratch) / "profile") as tab:
        models = load_entry("base", evaluation, "base"), load_entry("candidate", evaluation)
        report, study = write_report(models[1].report, evaluation), Path(scratch) / "study.html"
        write_study(pairs_of_entries(*models), study, num_pairs=20, seed=0)
        for name, page, screen, top in (
            ("report", report, DESKTOP, "body"),
            ("report-phone", report, PHONE, "#pictures"),
            ("study", study, DESKTOP | {"height": 800}, "body"),
            ("study-phone", study, PHONE | {"dark": True}, "body"),
        ):
            tab.open(page, **screen)
            tab.run(f"document.querySelector({top!r}).scrollIntoView({{behavior: 'instant'}})")
            tab.run("Promise.all([...document.images].filter(image => image.src).map(image => image.decode()))")
            tab.screenshot(DOCS / f"{name}.png")
            Image.open(DOCS / f"{name}.png").convert("RGB").save(DOCS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
