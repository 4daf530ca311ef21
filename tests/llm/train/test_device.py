import pytest
import torch

from llm.train.config import LoopConfig
from llm.train.device import choose_device, choose_dtype, has_fast_bfloat16


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 avx512f", False), ("avx512f avx512_bf16", True), ("amx_tile amx_bf16", True), ("avx512_bf16x", False)],
)
def test_fast_bfloat16_is_read_from_the_cpu_flags(flags, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert has_fast_bfloat16(tmp_path / "cpuinfo") is expected
    assert has_fast_bfloat16(tmp_path / "absent") is False  # macOS


def test_precision():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype(LoopConfig(precision="float32"), cuda) == torch.float32
    assert choose_dtype(LoopConfig(precision="bfloat16"), cpu) == torch.bfloat16
    assert choose_dtype(LoopConfig(), cuda) == torch.bfloat16


def test_the_number_of_threads_is_set():
    assert choose_device(LoopConfig(device="cpu", n_threads=2)).type == "cpu"
    assert torch.get_num_threads() == 2


def test_a_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but PyTorch finds no GPU"):
        choose_device(LoopConfig(device="cuda", n_threads=1))
