import pytest
import torch

from pochade.device import (
    Memory,
    check_memory,
    describe_device,
    device_memory,
    precision_name,
    present_devices,
    resolve_device,
    resolve_precision,
)
from pochade.errors import PochadeError
from processes import python

CPU = torch.device("cpu")


def test_auto_is_the_first_device_present() -> None:
    assert resolve_device().type == present_devices()[0]
    assert present_devices()[-1] == "cpu"


@pytest.mark.parametrize("name", ["cpu", CPU])
def test_a_named_device(name: str | torch.device) -> None:
    assert resolve_device(name) == CPU


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu:1", "CUDA"])
def test_an_unknown_device_names_the_allowed(name: str) -> None:
    with pytest.raises(PochadeError, match=r"device: .* given, allowed are auto, cpu, cuda, mps"):
        resolve_device(name)


def test_an_absent_device_names_the_present() -> None:
    absent = next((name for name in ("mps", "cuda") if name not in present_devices()), None)
    if absent is None:
        pytest.skip("this machine has every device")
    with pytest.raises(PochadeError, match=f"device: '{absent}' given, which is not here"):
        resolve_device(absent)


def test_an_index_past_the_last_device() -> None:
    with pytest.raises(PochadeError, match="cuda:99"):
        resolve_device("cuda:99")


def test_precisions() -> None:
    assert resolve_precision("auto", CPU) is torch.float32
    assert resolve_precision("auto", torch.device("mps")) is torch.bfloat16
    for name in ("fp32", "bf16", "fp16"):
        assert precision_name(resolve_precision(name, CPU)) == name
    with pytest.raises(PochadeError, match="precision: 'half' given, allowed are auto, fp32, bf16, fp16"):
        resolve_precision("half", CPU)


def test_memory() -> None:
    memory = device_memory(CPU)
    assert memory is not None
    assert 0 < memory.free <= memory.total
    check_memory(1, CPU, "a picture")
    with pytest.raises(PochadeError, match=r"the model: .* GB needed, cpu has .* GB free of"):
        check_memory(memory.total + 1, CPU, "the model")
    assert isinstance(memory, Memory)
    assert describe_device(CPU).startswith("cpu (")


def test_names_are_checked_without_torch() -> None:
    code = "import sys; from pochade.device import check_device; check_device('auto'); sys.exit('torch' in sys.modules)"
    assert python("-c", code).returncode == 0
