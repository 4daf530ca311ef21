import pytest
import torch

from llm.model.shape import GPTConfig
from llm.train.config import LoopConfig
from llm.train.throughput import flops_per_second, peak_flops, peak_flops_by_name

LOOP = LoopConfig(device="cpu", n_threads=1, micro_batch_size=2)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_peaks_are_dense_ones(name, teraflops):
    assert peak_flops_by_name(name) == teraflops * 1e12


@pytest.mark.parametrize("name", ["Tesla T4", "NVIDIA A1000", "AMD Instinct MI300X", ""])
def test_no_peak_is_made_up(name):
    assert peak_flops_by_name(name) is None


def test_a_cpu_has_no_peak():
    assert peak_flops(torch.device("cpu")) is None


def test_speed_counts_the_operations_of_the_model():
    """A model with more work to do has the same order of speed, not a speed in proportion to its size."""
    shapes = [{"n_layers": layers, "n_heads": 2, "d_model": 64} for layers in (1, 4)]
    configs = [GPTConfig(vocab_size=64, context_length=64, **shape) for shape in shapes]
    one, four = (flops_per_second(config, LOOP, seconds=0.2) for config in configs)
    assert 0.3 < four / one < 3
