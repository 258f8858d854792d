"""What every family of denoisers keeps, at toy size."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from contracts.families import FAMILIES, Family, conditioning_for, inputs_for, make, stir
from pochade.denoisers import FAMILIES as REGISTERED
from pochade.denoisers import build, families_with, variants
from pochade.errors import PochadeError
from pochade.export.onnx import export_denoiser
from pochade.export.parity import random_inputs, run, session
from pochade.types import TASKS, Conditioning

DOCS = Path(__file__).parents[2] / "docs" / "families.md"
CASES = [(name, toy) for name, family in FAMILIES.items() for toy in family.toys]
CONTROLLED, IMAGE_PROMPT = ("iris", "controlled"), ("microforge", "image_prompt")
SIZES = ((4, 4), (8, 8), (4, 8))
TIGHT = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(params=CASES, ids=lambda c: f"{c[0]}-{c[1]}")
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def family(case: tuple[str, str]) -> Family:
    """With what some configurations of it alone can be given."""
    found = FAMILIES[case[0]]
    toy = found.toys[case[1]]
    own = ["source"] if toy.get("source", "none") != "none" or toy.get("tasks") else []
    own += ["control"] if toy.get("controlled") else []
    own += ["image_prompt"] if toy.get("image_prompt_dim") else []
    return replace(found, parts=(*found.parts, *own))


@pytest.fixture
def denoiser(case: tuple[str, str]) -> Any:
    return stir(make(*case))


def absent(conditioning: Conditioning, part: str) -> Conditioning:
    names = {"text": ("tokens", "mask", "pooled"), "source": ("source", "source_mask", "task")}
    names |= {"image_prompt": ("image_prompt", "image_prompt_scale")}
    return replace(conditioning, **dict.fromkeys(names.get(part, (part,))))


def present(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    values = {f.name: getattr(conditioning, f.name) for f in fields(conditioning)}
    return {k: v for k, v in values.items() if v is not None}


def test_every_registered_family_is_in_the_table() -> None:
    assert set(FAMILIES) == set(REGISTERED)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_resolutions(denoiser: Any, family: Family, size: tuple[int, int]) -> None:
    latents, t = inputs_for(denoiser, 2, size)
    out = denoiser(latents, t, conditioning_for(denoiser, family.parts, 2, size))
    assert out.velocity.shape == latents.shape
    assert out.velocity.dtype == latents.dtype
    assert torch.isfinite(out.velocity).all()
    assert out.velocity.std() > 1e-3


@torch.no_grad()
def test_transposed_input_is_not_mixed_up(denoiser: Any, family: Family) -> None:
    """Rows and columns: a change in one corner of a non-square input shows there the most."""
    size = (4, 8)
    latents, t = inputs_for(denoiser, 1, size)
    conditioning = conditioning_for(denoiser, family.parts, 1, size)
    other = latents.clone()
    other[0, :, 0, -1] += 0.1
    change = (denoiser(other, t, conditioning).velocity - denoiser(latents, t, conditioning).velocity).abs()[0].sum(0)
    assert int(change.flatten().argmax()) in {6, 7, 14, 15}


@torch.no_grad()
def test_before_training(case: tuple[str, str], family: Family) -> None:
    fresh = make(*case)
    latents, t = inputs_for(fresh, 2, (4, 4))
    velocity = fresh(latents, t, conditioning_for(fresh, family.parts, 2, (4, 4))).velocity
    assert torch.isfinite(velocity).all()
    if family.zero_at_init:
        assert velocity.eq(0).all()


@torch.no_grad()
def test_save_and_load_bit_equal(denoiser: Any, family: Family, tmp_path: Path) -> None:
    denoiser.save_pretrained(tmp_path)
    again = type(denoiser).from_pretrained(tmp_path).eval()
    assert {k: v for k, v in again.config.items() if k[0] != "_"} == {
        k: v for k, v in denoiser.config.items() if k[0] != "_"
    }
    latents, t = inputs_for(denoiser, 2, (4, 4))
    conditioning = conditioning_for(denoiser, family.parts, 2, (4, 4))
    assert torch.equal(again(latents, t, conditioning).velocity, denoiser(latents, t, conditioning).velocity)


def test_every_parameter_receives_a_gradient(denoiser: Any, family: Family) -> None:
    denoiser.train()
    latents, t = inputs_for(denoiser, 3, (4, 4))
    conditioning = conditioning_for(denoiser, family.parts, 3, (4, 4))
    # A state is what the parameters that take one in learn from; it is a constant, as in training.
    state = denoiser(latents, t, conditioning).state if family.stateful else None
    out = denoiser(latents, t, conditioning, state=None if state is None else state.detach())
    out.velocity.square().sum().backward()
    without = [n for n, p in denoiser.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    # Distributed training would copy it, step by step, and warn.
    assert [n for n, p in denoiser.named_parameters() if p.grad.stride() != p.stride()] == []


def test_no_parameter_is_left_out_where_there_is_no_source(case: tuple[str, str], denoiser: Any) -> None:
    """What distributed training requires of a task that does not override it (``Task.has_unused``)."""
    toy = FAMILIES[case[0]].toys[case[1]]
    if toy.get("source", "none") != "none" or {"tasks", "controlled", "image_prompt_dim"} & toy.keys():
        return
    denoiser.train()
    latents, t = inputs_for(denoiser, 3, (4, 4))
    conditioning = conditioning_for(denoiser, ("text", "class_label"), 3, (4, 4))
    state = denoiser(latents, t, conditioning).state
    out = denoiser(latents, t, conditioning, state=None if state is None else state.detach())
    out.velocity.square().sum().backward()
    assert [name for name, p in denoiser.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_under_autocast_the_stream_is_half_as_wide(denoiser: Any, family: Family) -> None:
    """No block takes or gives float32, and what comes out differs by the rounding of bfloat16, 2^-9, a few times."""
    latents, t = inputs_for(denoiser, 3, (4, 4))
    conditioning = conditioning_for(denoiser, family.parts, 3, (4, 4))
    expected = denoiser(latents, t, conditioning).velocity
    types: list[torch.dtype] = []
    for block in denoiser.modules():
        if type(block).__name__ in denoiser._repeated_blocks:
            block.register_forward_hook(lambda _, given, out: types.extend([given[0].dtype, out.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        found = denoiser(latents, t, conditioning).velocity
    assert set(types) == {torch.bfloat16}
    assert (found.float() - expected).norm() < 16 * 2**-9 * expected.norm()


@torch.no_grad()
def test_batch_invariance(denoiser: Any, family: Family) -> None:
    latents, t = inputs_for(denoiser, 3, (4, 8))
    conditioning = conditioning_for(denoiser, family.parts, 3, (4, 8))
    together = denoiser(latents, t, conditioning).velocity
    for i in range(3):
        alone = denoiser(latents[i : i + 1], t[i : i + 1], conditioning.map(lambda v, i=i: v[i : i + 1])).velocity
        torch.testing.assert_close(together[i : i + 1], alone, **TIGHT)


@torch.no_grad()
def test_nothing_is_remembered_and_no_input_changed(denoiser: Any, family: Family) -> None:
    latents, t = inputs_for(denoiser, 2, (4, 4))
    conditioning = conditioning_for(denoiser, family.parts, 2, (4, 4))
    kept = (latents.clone(), t.clone(), conditioning.map(torch.clone))
    first = denoiser(latents, t, conditioning).velocity
    denoiser(*inputs_for(denoiser, 2, (8, 8), seed=1), conditioning_for(denoiser, family.parts, 2, (8, 8), seed=1))
    assert torch.equal(denoiser(latents, t, conditioning).velocity, first)
    assert torch.equal(latents, kept[0])
    assert torch.equal(t, kept[1])
    for name, value in present(kept[2]).items():
        assert torch.equal(value, getattr(conditioning, name)), name


def test_features_are_what_the_blocks_give_and_lead_back_to_the_latents(denoiser: Any, family: Family) -> None:
    latents, t = inputs_for(denoiser, 2, (4, 8))
    conditioning = conditioning_for(denoiser, family.parts, 2, (4, 8))
    latents.requires_grad_(True)
    plain = denoiser(latents, t, conditioning).velocity
    for block in denoiser.trunk:
        block.compile(backend="eager")
    features = denoiser.features(latents, t, conditioning)
    assert len(features) == len(denoiser.trunk)
    assert all(tokens.shape[::2] == (2, denoiser.config.dim) for tokens in features)
    assert all(torch.autograd.grad(tokens.sum(), latents, retain_graph=True)[0].any() for tokens in features)
    assert all(block._compiled_call_impl is not None and not block._forward_hooks for block in denoiser.trunk)
    for block in denoiser.trunk:
        block._compiled_call_impl = None
    torch.testing.assert_close(denoiser(latents, t, conditioning).velocity, plain, **TIGHT)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, derived forward
def test_derivatives_forward_backward_and_second_ones_agree(denoiser: Any, family: Family) -> None:
    denoiser.double()
    latents, t = (v.double() for v in inputs_for(denoiser, 2, (4, 4)))
    conditioning = conditioning_for(denoiser, family.parts, 2, (4, 4))
    conditioning = conditioning.map(lambda v: v.double() if v.is_floating_point() else v)
    direction, weight = latents.cos(), latents.sin()

    def along(z: torch.Tensor) -> torch.Tensor:
        return (denoiser(z, t, conditioning).velocity * weight).sum()

    def slope(z: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(along(z), z, create_graph=True)
        return (gradient * direction).sum()

    leaf = latents.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # torch's other kernels of attention have neither
        backward = slope(leaf)
        (second,) = torch.autograd.grad(backward, leaf)
        forward = torch.func.jvp(along, (latents,), (direction,))[1]
        both = torch.func.jvp(torch.func.grad(along), (latents,), (direction,))[1]
        with torch.no_grad():
            without = torch.func.jvp(along, (latents,), (direction,))[1]
    step = 1e-5 * direction
    with torch.no_grad():
        difference = (along(latents + step) - along(latents - step)) / 2e-5
    for found in (forward, without, difference):
        torch.testing.assert_close(found, backward.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(both, second, rtol=1e-7, atol=1e-9)
    change = slope((leaf + step).detach().requires_grad_()) - slope((leaf - step).detach().requires_grad_())
    torch.testing.assert_close((second * direction).sum(), change / 2e-5, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of torch's attention
@torch.no_grad()
def test_mapped_over_an_axis_of_its_own(denoiser: Any, family: Family) -> None:
    latents, t = inputs_for(denoiser, 2, (4, 4))
    conditioning = conditioning_for(denoiser, family.parts, 2, (4, 4))
    many = torch.stack((latents, latents.cos()))
    mapped = torch.vmap(lambda z: denoiser(z, t, conditioning).velocity)(many)
    for found, z in zip(mapped, many, strict=True):
        torch.testing.assert_close(found, denoiser(z, t, conditioning).velocity, **TIGHT)
    tokens = torch.vmap(lambda v: denoiser(latents, t, replace(conditioning, tokens=v)).velocity)
    assert conditioning.tokens is not None
    found = tokens(torch.stack((conditioning.tokens, conditioning.tokens.cos())))
    torch.testing.assert_close(found[0], denoiser(latents, t, conditioning).velocity, **TIGHT)


@torch.no_grad()
def test_depth(denoiser: Any, family: Family) -> None:
    latents, t = inputs_for(denoiser, 2, (4, 4))
    conditioning = conditioning_for(denoiser, family.parts, 2, (4, 4))
    default = denoiser(latents, t, conditioning).velocity
    if family.depth is None:
        with pytest.raises(PochadeError, match="depth: "):
            denoiser(latents, t, conditioning, depth=1)
        return
    configured = denoiser.config[family.depth]
    assert torch.equal(denoiser(latents, t, conditioning, depth=configured).velocity, default)
    deeper = denoiser(latents, t, conditioning, depth=configured + 2).velocity
    assert torch.isfinite(deeper).all()
    assert (deeper - default).abs().max() > 1e-4
    for wrong in (0, -1):
        with pytest.raises(PochadeError, match="depth: "):
            denoiser(latents, t, conditioning, depth=wrong)


@torch.no_grad()
def test_state(denoiser: Any, family: Family) -> None:
    latents, t = inputs_for(denoiser, 2, (4, 4))
    conditioning = conditioning_for(denoiser, family.parts, 2, (4, 4))
    out = denoiser(latents, t, conditioning)
    if not family.stateful:
        assert out.state is None
        assert getattr(denoiser, "state_shape", None) is None
        with pytest.raises(PochadeError, match="state: "):
            denoiser(latents, t, conditioning, state=torch.zeros(2, 1))
        return
    assert out.state is not None
    assert out.state.shape == (2, *denoiser.state_shape)
    after = denoiser(latents, t, conditioning, state=out.state)
    assert after.state.shape == out.state.shape
    assert (after.velocity - out.velocity).abs().max() > 0


@torch.no_grad()
def test_dropped_equals_absent(denoiser: Any, family: Family) -> None:
    size = (4, 4)
    latents, t = inputs_for(denoiser, 3, size)
    conditioning = conditioning_for(denoiser, family.parts, 3, size)
    full = denoiser(latents, t, conditioning).velocity
    for part in family.parts:
        expected = denoiser(latents, t, absent(conditioning, part)).velocity
        torch.testing.assert_close(denoiser(latents, t, conditioning.drop(part)).velocity, expected, **TIGHT)
        assert (expected - full).abs().amax((1, 2, 3)).min() > 1e-4, f"{part} has no effect"
        dropped = torch.tensor([False, True, False])
        mixed = denoiser(latents, t, conditioning.drop(part, rows=dropped)).velocity
        torch.testing.assert_close(mixed[1], expected[1], **TIGHT)
        torch.testing.assert_close(mixed[[0, 2]], full[[0, 2]], **TIGHT)
    nothing = denoiser(latents, t, Conditioning()).velocity
    torch.testing.assert_close(denoiser(latents, t, conditioning.drop(*family.parts)).velocity, nothing, **TIGHT)


SOURCES = [(name, toy, way) for name, family in FAMILIES.items() for toy in family.toys for way in family.ways]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "toy", "way"), SOURCES, ids=lambda v: "-".join(v.values()) if isinstance(v, dict) else v
)
def test_a_source_is_added_to_a_trained_network(name: str, toy: str, way: dict[str, Any]) -> None:
    """Nothing changes without a source; the tasks are remembered, and the next ones join them."""
    base = stir(make(name, toy))
    tasks = list(base.config.tasks)
    has_one = bool(tasks) or getattr(base.config, "source", "none") != "none"
    way = {} if has_one else way
    with torch.random.fork_rng():
        editor = base.with_source(["inpaint"], **way)
    assert editor.config.tasks == [t for t in TASKS if t in {*tasks, "inpaint"}]
    assert list(base.config.tasks) == tasks
    assert editor.with_source(["edit"]).config.tasks == [t for t in TASKS if t in {*tasks, "edit", "inpaint"}]
    latents, t = inputs_for(base, 2, (4, 4))
    parts = ("text", "class_label", *(("control",) if base.config.get("controlled") else ()))
    conditioning = conditioning_for(base, parts, 2, (4, 4))
    expected = base(latents, t, conditioning).velocity
    assert torch.equal(editor(latents, t, conditioning).velocity, expected)
    source = conditioning_for(editor, ("source",), 2, (4, 4))
    shown = replace(conditioning, source=source.source, source_mask=source.source_mask, task=source.task)
    torch.testing.assert_close(editor(latents, t, shown.drop("source")).velocity, expected, **TIGHT)
    if not has_one and way.get("source") != "width":
        assert torch.equal(editor(latents, t, shown).velocity, expected)


def test_tasks_that_there_are_not() -> None:
    for name, family in FAMILIES.items():
        for wrong in (("generate",), ("edits",), "edit") if family.ways else ():
            with pytest.raises(PochadeError, match=r"tasks: .* allowed are some of edit, inpaint, super_resolution"):
                make(name, next(iter(family.toys))).with_source(wrong)
    with pytest.raises(PochadeError, match="source: 'width' given, allowed is channels"):
        make("microforge", "channels").with_source(["edit"], source="width")
    with pytest.raises(PochadeError, match="source: 'none' given, but tasks need one"):
        make("microforge", "scalar", tasks=("edit",))


@torch.no_grad()
def test_padding_of_text_does_not_matter(denoiser: Any, family: Family) -> None:
    if "text" not in family.parts:
        return
    latents, t = inputs_for(denoiser, 3, (4, 4))
    short = conditioning_for(denoiser, family.parts, 3, (4, 4))
    assert short.tokens is not None
    assert short.mask is not None
    expected = denoiser(latents, t, short).velocity
    mask = torch.nn.functional.pad(short.mask, (0, 4))
    tokens = torch.nn.functional.pad(short.tokens, (0, 0, 0, 4))
    for content in (tokens, tokens + 9.0 * ~mask[..., None]):
        longer = replace(short, tokens=content, mask=mask)
        torch.testing.assert_close(denoiser(latents, t, longer).velocity, expected, **TIGHT)


@torch.no_grad()
def test_bad_shapes(denoiser: Any, family: Family) -> None:
    size = (4, 4)
    latents, t = inputs_for(denoiser, 2, size)
    conditioning = conditioning_for(denoiser, family.parts, 2, size)
    multiple = denoiser.size_multiple
    wrong_latents = [latents[:, :1], latents[0], latents[..., None]]
    if multiple > 1:
        wrong_latents += [torch.zeros(2, latents.shape[1], 4 + multiple // 2, 4)]
    for wrong in wrong_latents:
        with pytest.raises(PochadeError, match=r"latents: .*allowed"):
            denoiser(wrong, t, conditioning)
    for wrong in (t[:1], t[:, None]):
        with pytest.raises(PochadeError, match=r"t: .*allowed"):
            denoiser(latents, wrong, conditioning)


@torch.no_grad()
def test_other_types_than_that_of_the_weights_are_refused(denoiser: Any, family: Family) -> None:
    latents, t = inputs_for(denoiser, 2, (4, 4))
    conditioning = conditioning_for(denoiser, family.parts, 2, (4, 4))
    for wrong in (latents.long(), (latents * 9).byte(), latents.double(), latents.half()):
        with pytest.raises(PochadeError, match=f"^latents: {wrong.dtype} given, allowed is torch.float32"):
            denoiser(wrong, t, conditioning)
        for name in {"source", "control"} & present(conditioning).keys():
            with pytest.raises(PochadeError, match=f"^{name}: {wrong.dtype} given, allowed is torch.float32"):
                denoiser(latents, t, replace(conditioning, **{name: wrong}))
    with pytest.raises(PochadeError, match=r"^t: torch.int64 given, allowed is a floating type"):
        denoiser(latents, (1000 * t).long(), conditioning)
    velocity = denoiser(latents, t, conditioning).velocity
    vectors = {n: v for n, v in present(conditioning).items() if n in ("tokens", "pooled", "image_prompt")}
    wide = replace(conditioning, **{name: vector.double() for name, vector in vectors.items()})
    torch.testing.assert_close(denoiser(latents, t.double(), wide).velocity, velocity, **TIGHT)
    with torch.autocast("cpu", torch.bfloat16):  # which settles the types itself
        assert denoiser(latents.bfloat16(), t, conditioning).velocity.shape == latents.shape


@torch.no_grad()
def test_bad_conditioning(denoiser: Any, family: Family) -> None:
    size = (4, 4)
    latents, t = inputs_for(denoiser, 2, size)
    conditioning = conditioning_for(denoiser, family.parts, 2, size)
    wrong: dict[str, dict[str, torch.Tensor]] = {}
    if "text" in family.parts:
        wrong["tokens"] = {"tokens": torch.zeros(2, 5, 99)}
        wrong["mask"] = {"mask": torch.ones(2, 4, dtype=torch.bool)}
        if denoiser.config.pooled_dim:
            wrong["pooled"] = {"pooled": torch.zeros(2, 99)}
    if "class_label" in family.parts:
        wrong["class_label"] = {"class_label": torch.zeros(3, dtype=torch.int64)}
    if "source" in family.parts:
        wrong["source"] = {"source": torch.zeros(2, latents.shape[1], 8, 8)}
        wrong["source_mask"] = {"source_mask": torch.zeros(2, 2, 4, 4)}
    wrong["control"] = {"control": torch.zeros(2, latents.shape[1], 8, 8)}
    wrong["image_prompt"] = {"image_prompt": torch.ones(2, 1, 99)}
    if "image_prompt" in family.parts:
        wrong["image_prompt_scale"] = {"image_prompt_scale": torch.ones(3)}
    for name, value in wrong.items():
        with pytest.raises(PochadeError, match=rf"{name}: .*allowed"):
            denoiser(latents, t, replace(conditioning, **value))


def documented() -> list[tuple[str, str, float, float]]:
    """Family, variant, parameters and tolerance of each row of the table in docs/families.md."""
    row = re.compile(r"^\| (\w+) \| (\w+) \| ([\d.]+) M \| (\d+) % \|", re.MULTILINE)
    found = row.findall(DOCS.read_text(encoding="utf-8"))
    return [
        (family, variant, float(millions) * 1e6, int(percent) / 100) for family, variant, millions, percent in found
    ]


def test_what_each_family_takes_is_documented() -> None:
    section = DOCS.read_text(encoding="utf-8").partition("### What each takes")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", section, re.M)]
    _, _, *names = rows[0]
    methods = {"`edit`": "with_source", "`control`": "with_control", "`image-prompt`": "with_image_prompt"}
    written = {
        recipe: [n for n, cell in zip(names, cells, strict=True) if cell == "yes"] for _, recipe, *cells in rows[2:]
    }
    assert written == {recipe: [n for n in names if n in families_with(m)] for recipe, m in methods.items()}
    assert set(names) == set(FAMILIES)


def test_every_variant_is_documented() -> None:
    assert {(f, v) for f, v, _, _ in documented()} == {(f, v) for f in REGISTERED for v in variants(f)}


@pytest.mark.parametrize(("name", "variant", "parameters", "tolerance"), documented())
def test_parameter_counts(name: str, variant: str, parameters: float, tolerance: float) -> None:
    assert tolerance <= 0.1
    with torch.device("meta"):
        count = sum(p.numel() for p in build(name, variant).parameters())
    assert count == pytest.approx(parameters, rel=tolerance)


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.parametrize(
    ("name", "toy", "more"),
    [
        # Without a source, LRF and LiRA are exported by tests/export/test_families.py.
        *((name, next(iter(family.toys)), {}) for name, family in FAMILIES.items() if name not in ("lrf", "lira")),
        ("lrf", "editor", {}),
        (*CONTROLLED, {"tasks": ("edit", "inpaint"), "iterations": 1}),
        (*IMAGE_PROMPT, {"source": "channels", "tasks": ("inpaint",)}),
        ("microforge", "regions", {}),
        ("lira", "plain", {"tasks": ("edit",)}),
    ],
)
@torch.no_grad()
def test_export_parity(name: str, toy: str, more: dict[str, Any], tmp_path: Path) -> None:
    """Three steps in a host that knows the graph alone; the first state is zeros, as None is to eager."""
    denoiser = stir(make(name, toy, **FAMILIES[name].smaller, **more))
    exported = export_denoiser(denoiser, tmp_path / "denoiser.onnx", latent_size=(4, 8), text_tokens=5, tolerance=5e-5)
    stateful = FAMILIES[name].stateful
    assert exported.outputs == ("velocity", "next_state")[: 1 + stateful]
    values, graph, state = random_inputs(exported.inputs, 4, seed=3), session(exported.path), None
    conditioning = Conditioning(**{k: v for k, v in values.items() if k not in {"latents", "t", "state"}})
    if stateful:
        values["state"] = torch.zeros_like(values["state"])
    for t in (1.0, 0.6, 0.3):
        values["t"] = torch.full((4,), t)
        out = denoiser(values["latents"], values["t"], conditioning, state=state)
        velocity, *new_state = run(graph, values)
        np.testing.assert_allclose(velocity, out.velocity, atol=5e-5)
        if stateful:
            np.testing.assert_allclose(new_state[0], out.state, atol=5e-5)
            values["state"], state = torch.from_numpy(new_state[0]), out.state
        values["latents"] = values["latents"] - 0.3 * out.velocity
    # The graph reads whatever else is shown.
    shown = {i.name for i in exported.inputs} & {"source", "source_mask", "task", "control", "image_prompt"}
    assert bool(denoiser.config.tasks) == (shown >= {"source", "source_mask", "task"})
    (velocity, *_) = run(graph, values)
    for other in shown:
        changed = (values[other] + 1) % len(TASKS) if other == "task" else values[other] + 1
        (moved, *_) = run(graph, {**values, other: changed})
        assert float(np.abs(moved - velocity).max()) > 1e-4, other


def test_the_input_spec_is_what_a_denoiser_takes(denoiser: Any, family: Family) -> None:
    """Each part is an input of the spec, changes the velocity where it is one, and is refused where it is not."""
    spec = denoiser.input_spec()
    assert (spec.latent_channels, spec.sample_size) == (denoiser.config.latent_channels, denoiser.config.sample_size)
    assert (spec.depth is None) == (family.depth is None)
    assert (spec.state_shape is not None) == family.stateful
    latents, t = inputs_for(denoiser, 2, (4, 4))
    taken = {
        "text": bool(spec.text_dim),
        "class_label": bool(spec.num_classes),
        "source": spec.source,
        "control": spec.control,
        "image_prompt": bool(spec.image_prompt_dim),
    }
    assert {part for part, takes in taken.items() if takes} == set(family.parts)
    assert spec.task == (conditioning_for(denoiser, family.parts, 2, (4, 4)).task is not None)
    for part in set(taken) - set(family.parts):
        given = Conditioning(**{part: torch.zeros(2, 1, 3) if part == "image_prompt" else latents})
        with pytest.raises(PochadeError, match=f"^{part}: a tensor given, but the network has no input for it"):
            denoiser(latents, t, given)
