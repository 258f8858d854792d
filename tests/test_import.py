"""Importing pochade and printing its help import no torch."""

import pytest

from processes import python

HEAVY = ("torch", "diffusers", "transformers", "numpy")


@pytest.mark.parametrize(
    "code",
    [
        "import pochade",
        "import pochade.errors, pochade.pipelines.hub, pochade.pipelines.metadata",
        "import pochade.cli",
        "from pochade.cli import main; main(['generate', '--help'])",
        "from pochade.cli import main; main(['generate', 'x', '--steps', '0'])",
    ],
)
def test_no_heavy_import(code: str) -> None:
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
        f"sys.exit(repr([m for m in {HEAVY!r} if m in sys.modules] or ''))"
    )
    done = python("-c", script)
    assert done.stderr.strip().splitlines()[-1] == "''"


def test_public_names_load() -> None:
    import pochade

    assert set(pochade.__all__) <= set(dir(pochade))
    for name in pochade.__all__:
        assert getattr(pochade, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = pochade.Nothing  # pyright: ignore[reportAttributeAccessIssue]
