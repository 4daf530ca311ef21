"""One training run on one process or on many.

A process alone is a world of size 1, and then nothing here touches torch.distributed. `loop.parallel.n_processes`
starts several on one machine (launch.py). On several machines they are started by hand, with the same command, job
file and (shared) work directory on each:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m llm.train job.json

A step sees the same sequences in any world, and its gradient is that of their summed loss, so worlds of different
sizes learn the same up to rounding. (Dropout draws other numbers.)

The model file knows nothing of this. `ddp` (Li et al. 2020) and `fsdp` (Zhao et al. 2023; ZeRO, Rajbhandari et al.
2020) give each process a share of a step's sequences; `tensor` (Megatron-LM, Shoeybi et al. 2019, section 3) gives
each all of the sequences and a share of the heads and of the MLP's width.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ..model.gpt import GPT, GPTConfig
from .config import LoopConfig, ParallelConfig
from .device import choose_device
from .loss import Objective

MEETING_FILE = "SOURDOUGH_MEETING_FILE"
"""Names the variable with the file by which the processes of one machine find each other; without, they ask torchrun's
server, whose port is open to all machines."""


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them."""

    device: torch.device
    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    config: ParallelConfig = ParallelConfig()
    """How they share the work."""

    @classmethod
    def join(cls, loop: LoopConfig) -> World:
        """Returns the world that torchrun's environment variables speak of, once all of its processes are there.

        Raises ValueError when the strategy needs other processes or GPUs than there are.
        """
        device, size = choose_device(loop), int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            if loop.parallel.strategy != "ddp":
                raise ValueError(
                    f"parallel.strategy is {loop.parallel.strategy!r}, but this process trains alone: "
                    "set parallel.n_processes to 2 or more, or leave the strategy out"
                )
            return cls(device, config=loop.parallel)
        local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        backend = "gloo"
        if device.type == "cuda":
            device, backend = choose_gpu(local_rank, local_size), "cpu:gloo,cuda:nccl"
        elif loop.n_threads is None:
            torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
        if not dist.is_initialized():
            path, rank = os.environ.get(MEETING_FILE), int(os.environ["RANK"])
            meeting: dict[str, Any] = {}
            if path:
                store = dist.FileStore(path, size)  # type: ignore[attr-defined]
                meeting = {"store": store, "rank": rank, "world_size": size}
            dist.init_process_group(backend, timeout=timedelta(seconds=loop.parallel.timeout_seconds), **meeting)
        return cls(device, dist.get_rank(), size, loop.parallel)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and metrics."""
        return self.rank == 0

    @property
    def n_shares(self) -> int:
        """Parts that a step's sequences are cut into; with tensor parallelism every process sees all of them."""
        return 1 if self.config.strategy == "tensor" else self.size

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Returns this process's part of a step's sequences; ValueError when they cannot be shared out evenly."""
        if len(rows) % self.n_shares:
            raise ValueError(
                f"a step has {len(rows)} sequences, which {self.n_shares} processes cannot share evenly: make the "
                f"batch a multiple of {self.n_shares} sequences, or change parallel.n_processes"
            )
        return rows[self.rank % self.n_shares :: self.n_shares]

    def seed(self, seed: int, step: int) -> None:
        """Seeds the random generators, in each process that has a share of its own differently."""
        seeds = np.random.SeedSequence((seed, step, self.rank % self.n_shares))
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def total(self, value: Tensor) -> Tensor:
        """Returns the sum of `value` over the shares of a step, the same in each process."""
        if self.n_shares == 1:
            return value
        value = value.detach().clone()
        dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Returns whether any process says so; all of them get the same answer."""
        return bool(self._reduced(int(flag), dist.ReduceOp.MAX))

    def most(self, value: int) -> int:
        """Returns the largest of the processes' values, in all of them."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def from_first(self, value: int) -> int:
        """Returns the first process' value, in all of them."""
        return self._reduced(value if self.is_first else 0, dist.ReduceOp.SUM)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        self._reduced(0, dist.ReduceOp.SUM)

    def _reduced(self, value: int, operation: Any) -> int:
        if self.size == 1:
            return value
        number = torch.tensor(value)  # on the CPU, so that no process waits for its GPU
        dist.all_reduce(number, operation)
        return int(number)


def leave() -> None:
    """Ends the connections to the other processes, if this one has joined a world."""
    if dist.is_initialized():
        dist.destroy_process_group()


def choose_gpu(local_rank: int, local_size: int) -> torch.device:
    """Returns the GPU of a process, made the current one; ValueError when there are fewer than processes."""
    if local_size > torch.cuda.device_count():
        raise ValueError(
            f"{local_size} processes on this machine, but PyTorch finds {torch.cuda.device_count()} GPUs: set "
            "parallel.n_processes to that, or device to 'cpu'"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def distribute(objective: nn.Module, world: World) -> nn.Module:
    """Returns the objective as `world` trains it; it stays the owner of its parameters, some of which get sharded.

    Makes the optimizer's parameters: it comes before the optimizer. Raises ValueError when the strategy cannot work.
    """
    model = cast(Objective, objective).model
    if world.config.recompute:
        for block in model.blocks:
            recompute(block, keeps_random_state=model.config.dropout > 0)
    if world.size == 1:
        return objective
    if world.config.strategy == "tensor":
        return split_layers(objective, model, world)
    return shard(objective, model, world) if world.config.strategy == "fsdp" else replicate(objective, world)


def recompute(block: nn.Module, *, keeps_random_state: bool) -> None:
    """Makes a block keep only its input, and compute the rest again when gradients ask for it (Chen et al. 2016)."""
    forward = block.forward

    def checkpointed(*inputs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=keeps_random_state)

    block.forward = checkpointed  # on the instance: the names of its weights stay


def replicate(objective: nn.Module, world: World) -> nn.Module:
    """Keeps all weights in each process; gradients are summed while the backward pass still runs."""
    gpus = [world.device] if world.device.type == "cuda" else None
    replica = DistributedDataParallel(objective, device_ids=gpus, gradient_as_bucket_view=True)
    replica.register_comm_hook(
        None, lambda _, bucket: sum_gradients(bucket)
    )  # by itself DDP takes the mean over processes
    return replica


def sum_gradients(bucket: Any) -> torch.futures.Future[Tensor]:
    """Sums over processes a bucket of gradients (a `torch.distributed.GradBucket`)."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def shard(objective: nn.Module, model: GPT, world: World) -> nn.Module:
    """Shards each weight along its first axis; a block's weights are whole while it computes.

    The objective itself is the root: what lies outside of blocks (embeddings, last norm, head) stays whole from the
    beginning of its forward pass, where the head is used, to the end of the backward pass.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=world.config.reshard_after_forward)
    fully_shard(objective, mesh=mesh, reshard_after_forward=False)
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # by itself FSDP takes the mean
            module.set_force_sum_reduction_for_comms(True)
    return objective


def split_layers(objective: nn.Module, model: GPT, world: World) -> nn.Module:
    """Gives each process some heads and a part of each MLP's width; their outputs are summed after each projection.

    Embeddings, norms and head are whole in each process, and see the same numbers there.
    """
    require_divisible(model.config, world.size)
    mesh = init_device_mesh(world.device.type, (world.size,))
    by_column = ("attention.query", "attention.key", "attention.value", "mlp.gate", "mlp.expand")
    by_row = ("attention.projection", "mlp.projection")
    for block in model.blocks:
        present = {name for name, _ in block.named_modules()}
        plan = {name: ColwiseParallel() for name in by_column} | {name: RowwiseParallel() for name in by_row}
        parallelize_module(block, mesh, {name: style for name, style in plan.items() if name in present})
        for part in cast(tuple[nn.Module, ...], (block.attention, block.mlp)):
            part.register_forward_pre_hook(functools.partial(entering, mesh))
        for name, parameter in block.named_parameters():
            if name.endswith(("query_norm.weight", "key_norm.weight")):  # it sees the heads of this process only
                parameter.register_hook(added_up)  # type: ignore[no-untyped-call]
    return objective


def entering(mesh: DeviceMesh, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the inputs of attention or an MLP, of which the first is the same in each process.

    Told so here, its gradient is summed over processes once, and not for each of the layers that read it.
    """
    return DTensor.from_local(inputs[0], mesh, [Replicate()], run_check=False), *inputs[1:]


def added_up(gradient: Tensor) -> Tensor:
    """Returns the sum of a gradient over all processes."""
    gradient = gradient.clone()
    dist.all_reduce(gradient)
    return gradient


def require_divisible(config: GPTConfig, size: int) -> None:
    """Raises ValueError when tensor parallelism does not fit a model."""
    if config.architecture not in ("gpt2", "modern"):
        raise ValueError(
            f"parallel.strategy is 'tensor', which does not work for architecture {config.architecture!r}: "
            "use 'ddp' or 'fsdp'"
        )
    if config.dropout > 0:
        raise ValueError(
            f"parallel.strategy is 'tensor' and dropout is {config.dropout}: processes would drop different parts "
            "of what they share; set dropout to 0, or use 'ddp' or 'fsdp'"
        )
    for name in ("n_heads", "n_kv_heads", "d_mlp"):
        if getattr(config, name) % size:
            raise ValueError(
                f"{name} is {getattr(config, name)}, which {size} processes cannot share evenly with "
                "parallel.strategy 'tensor': change parallel.n_processes, or use 'ddp' or 'fsdp'"
            )


def accumulate(objective: nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Returns a context for the passes of one micro-batch: gradients are exchanged after the last of a step only."""
    if isinstance(objective, FSDPModule):
        objective.set_requires_gradient_sync(is_last)
    if isinstance(objective, DistributedDataParallel) and not is_last:
        return cast(contextlib.AbstractContextManager[None], objective.no_sync())
    return contextlib.nullcontext()


def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """Returns the global norm of the gradients, a scalar; scales them down to `max_norm` if they are larger."""
    limit = math.inf if max_norm is None else max_norm
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    sharded: list[Tensor] = [parameter for parameter in with_gradient if isinstance(parameter, DTensor)]
    if not sharded:
        return torch.nn.utils.clip_grad_norm_(with_gradient, limit)
    groups = [sharded, [parameter for parameter in with_gradient if not isinstance(parameter, DTensor)]]
    norms = [whole(torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])) for group in groups]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    for group in groups:
        torch.nn.utils.clip_grads_with_norm_(group, limit, norm)
    return norm


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor put together from the parts that processes hold; all of them must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_model(model: GPT, world: World) -> GPT | None:
    """Returns a model whose weights are not sharded, for sampling and files: in the first process; None in the others.

    All processes must ask for it. It is `model` itself where that is whole.
    """
    if world.size == 1 or world.config.strategy == "ddp":
        return model if world.is_first else None
    tensors = {}
    for name, tensor in model.state_dict().items():
        gathered = whole(tensor)
        if world.is_first:
            tensors[name] = gathered
    if not world.is_first:
        return None
    with torch.device("meta"):
        copy = GPT(model.config)
    copy.load_state_dict(tensors, assign=True)
    return copy.train(model.training)
