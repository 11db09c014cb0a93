"""The one step of a scheduled run: the same command that a person would give, so that both do the same."""

import subprocess
import sys
import tempfile
from pathlib import Path

from zenml import step

from srpo.config import RunConfig

COMMAND_LINE = Path(__file__).parents[1] / "run_pipeline.py"


def retraining_command(stack: str | None, *options: str) -> list[str]:
    """`run --if-new-data` by this interpreter; `stack` None: the local one."""
    where = ["--stack", stack] if stack else []
    return [sys.executable, str(COMMAND_LINE), "run", "--if-new-data", *options, *where]


@step(enable_cache=False)
def retrain(config: RunConfig, stack: str | None) -> None:
    """Look for new data, on no GPU; where there is some, the pipeline runs on `stack`. Ends with its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(config.model_dump_json(), encoding="utf-8")  # JSON is YAML
        code = subprocess.run(retraining_command(stack, "--config", str(path)), check=False).returncode
    if code:
        sys.exit(code)  # 42 tells Kubernetes that trying again cannot help
