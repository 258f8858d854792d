"""What takes a pipeline says so where the name of a model is given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pochade.errors import PochadeError
from pochade.evaluation.grid import evaluate_grid
from pochade.evaluation.report import evaluate
from pochade.export.bundle import export_bundle
from pochade.export.site import export_site
from pochade.runtime.manifest import Model


@pytest.mark.parametrize(
    "call",
    [
        lambda model, out: evaluate(model, "openmoji", out=out),
        lambda model, out: evaluate_grid(model, "openmoji", [4], out=out),
        lambda model, out: export_bundle(model, out, Model("toy")),
        lambda model, out: export_site(model, out, Model("toy")),
    ],
    ids=["evaluate", "evaluate_grid", "export_bundle", "export_site"],
)
@pytest.mark.parametrize("model", ["open-drawings", Path("open-drawings")])
def test_a_name_is_no_pipeline(call: Callable[[Any, Path], object], model: str | Path, tmp_path: Path) -> None:
    message = r"^pipe(line)?: .*'open-drawings'.* TextToImagePipeline\.from_pretrained\('open-drawings'\)$"
    with pytest.raises(PochadeError, match=message):
        call(model, tmp_path / "out")
    assert not any(tmp_path.iterdir())
