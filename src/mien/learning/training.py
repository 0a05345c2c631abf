"""The training loop that every stage shares, and supervised training.

A *task* holds the network and everything else that is learned or remembered, draws its own batches
and returns its losses; `fit` does the rest: schedule, average of the weights, progress, validation,
checkpoints. Every epoch draws from a generator of its own, so a run that was killed and goes on
ends with the same weights as an unbroken one.
"""

import ctypes
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tqdm import tqdm

from mien.data.augmentation import Augmentation
from mien.data.dataset import Faces, LabelledRows, Rows, to_tensor
from mien.errors import MienError
from mien.learning.checkpoint import Checkpoint
from mien.model.accnn import ACCNN, FaceNetwork
from mien.model.losses import balanced_cross_entropy
from mien.params.learning import ComputeSettings, ScheduleSettings, StartSettings, TrainingSettings

History = list[dict[str, float]]
Net = TypeVar("Net", bound=FaceNetwork)

_STATISTICS_FACES = 8192
"""At most about so many faces give the batch norms' statistics."""


class Task(nn.Module, Generic[Net]):
    """What `fit` trains: a network with its losses. State that must survive a kill is a buffer."""

    def __init__(self, net: Net, faces: Faces, labelled: LabelledRows) -> None:
        super().__init__()
        self.faces, self.labelled = faces, labelled
        self.net = net

    @abstractmethod
    def begin_epoch(
        self, epoch: int, steps: int, teacher: FaceNetwork, rng: torch.Generator
    ) -> dict[str, float]:
        """Draw the epoch's batches; the returned figures join the epoch's record."""

    @abstractmethod
    def forward(self, step: int, teacher: FaceNetwork, rng: torch.Generator) -> dict[str, Tensor]:
        """The losses of one step: ``loss``, which is minimised, and its terms.

        ``teacher`` is the running average of the network, in evaluation mode.
        """


class StartTask(Task[ACCNN]):
    """Learning from the faces at ``rows`` ``[n]`` of the store; ``labelled`` lends no labels."""

    def __init__(
        self,
        net: ACCNN,
        faces: Faces,
        labelled: LabelledRows,
        rows: Rows,
        settings: StartSettings,
        augmentation: Augmentation,
    ) -> None:
        super().__init__(net, faces, labelled)
        self.rows, self.settings, self.augmentation = rows, settings, augmentation

    def begin_epoch(
        self, epoch: int, steps: int, teacher: FaceNetwork, rng: torch.Generator
    ) -> dict[str, float]:
        batch = self.settings.batch_size
        self._batches = shuffled(len(self.rows), steps * batch, rng).view(steps, batch)
        return {}

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Places ``[B]`` of a step's faces among the rows, and the faces ``[B, 1, S, S]``."""
        device = next(self.net.parameters()).device
        places = self._batches[step]
        return places.to(device), to_tensor(self.faces[self.rows[places.numpy()]], device)


@dataclass(frozen=True)
class Fitted(Generic[Net]):
    """The averaged network, in evaluation mode on the CPU, and one record for each epoch."""

    model: Net
    history: History


def make_fabric(compute: ComputeSettings) -> lightning_fabric.Fabric:
    """Device and precision, from the settings; also sets the number of CPU threads.

    On a CPU without bfloat16, which torch would imitate, mixed precision means ``32-true``: there
    that takes two thirds of the time.

    Raises:
        MienError: there is no such device here, or it has no such precision.
    """
    _keep_freed_memory()
    if compute.threads:
        torch.set_num_threads(compute.threads)
    fabric = partial(lightning_fabric.Fabric, accelerator=compute.accelerator, devices=1)
    precision = compute.precision
    try:
        on_cpu = fabric().device.type == "cpu"
        if precision != "32-true" and on_cpu and not cpu_has_bfloat16():
            print(f"{precision}: this CPU has no bfloat16; 32-true is faster, and used", flush=True)
            precision = "32-true"
        return fabric(precision=precision)
    except (RuntimeError, ValueError) as error:  # Lightning's, of what is not there
        raise MienError(
            f"compute.accelerator: {compute.accelerator} with compute.precision: {precision} is "
            f"not to be had here ({error}); use auto or cpu, and 32-true"
        ) from None


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16, or torch would have to imitate it."""
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last: ARM's


def fit(
    task: Task[Net],
    settings: ScheduleSettings,
    *,
    epochs: int,
    seed: int,
    fabric: lightning_fabric.Fabric,
    checkpoint: Checkpoint,
    validate: Callable[[Net], dict[str, float]],
    title: str,
) -> Fitted[Net]:
    """Train ``task`` for ``epochs`` epochs with AdamW under a one-cycle schedule.

    Goes on from ``checkpoint`` where it holds an earlier state of the same run. ``validate``
    measures the averaged network after each epoch; its figures join the epoch's record.

    Raises:
        MienError: the loss is no number any more.
    """
    wrapped, optimizer = fabric.setup(task, _adamw(task, settings))
    average = AveragedModel(
        task.net, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True
    )
    modules = {"task": task, "average": average}
    teacher = cast(Net, average.module).eval().requires_grad_(False)

    history: History = []
    precision = fabric.strategy.precision  # of 16-mixed it knows how far losses are scaled up
    if progress := checkpoint.load(modules, optimizer):
        history = progress["history"]
        if progress["precision"]:  # empty where the run began in another one
            precision.load_state_dict(progress["precision"])
        print(f"{title}: going on after epoch {len(history)} of {epochs}", flush=True)

    steps = settings.steps_per_epoch
    for epoch in range(len(history), epochs):
        rng = generator(seed, epoch)
        record: dict[str, float] = {"epoch": epoch + 1}
        record |= task.begin_epoch(epoch, steps, teacher, rng)
        task.train()
        sums: dict[str, Tensor] = {}
        # in a pipe the bar would leave a line for each refresh; one line an epoch is printed below
        for step in tqdm(range(steps), f"{title} {epoch + 1}/{epochs}", leave=False, disable=None):
            rate = one_cycle((epoch * steps + step) / (epochs * steps))
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate
            losses = wrapped(step, teacher, rng)
            optimizer.zero_grad()
            fabric.backward(losses["loss"])
            optimizer.step()
            average.update_parameters(task.net)
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
        record |= {name: float(value) / steps for name, value in sums.items()}
        if not math.isfinite(record["loss"]):
            raise MienError(
                f"{title}: the loss of epoch {epoch + 1} is {record['loss']:g}: the training has "
                "run away; set a lower learning_rate"
            )
        renew_statistics(teacher, task.faces, task.labelled)
        record |= validate(teacher)
        history.append(record)
        progress = {"history": history, "precision": precision.state_dict()}
        checkpoint.save(modules, optimizer, progress)
        print(f"{title} {epoch + 1}/{epochs}: {in_words(record)}", flush=True)
    return Fitted(teacher.cpu(), history)


def renew_statistics(model: nn.Module, faces: Faces, labelled: LabelledRows) -> None:
    """Take the batch norms' statistics anew from the labelled faces as they are.

    What is classified is not augmented, but training is, and statistics of augmented faces are
    other ones: on FER2013 with 10% of the labels this alone is worth 1.6 points on validation.
    Where they are very many, every n-th of them says it as well.
    """
    rows = labelled.rows[:: -(-len(labelled) // _STATISTICS_FACES)]
    chunks = np.array_split(rows, -(-len(rows) // 512))
    device = next(model.parameters()).device
    update_bn((to_tensor(faces[rows], device) for rows in chunks), model)


def one_cycle(progress: float, warmup: float = 0.1) -> float:
    """Learning-rate factor at ``progress`` ∈ [0, 1) (Smith 2018): linear rise, cosine fall to 0."""
    if progress < warmup:
        return 0.05 + 0.95 * progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def class_log_prior(labels: np.ndarray[Any, Any], classes: int, strength: float) -> Tensor:
    """``strength · log(share)`` of each class, ``[classes]``; absent classes count as one face."""
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return torch.from_numpy(strength * np.log(counts / counts.sum())).float()


def shuffled(count: int, length: int, rng: torch.Generator) -> Tensor:
    """``length`` indices below ``count``: whole random orders, one after another."""
    orders = [torch.randperm(count, generator=rng) for _ in range(-(-length // count))]
    return torch.cat(orders)[:length]


class SupervisedTask(Task[Net]):
    """Balanced cross-entropy on the labelled faces."""

    log_prior: Tensor

    def __init__(
        self,
        net: Net,
        faces: Faces,
        labelled: LabelledRows,
        settings: TrainingSettings,
        augmentation: Augmentation,
    ) -> None:
        super().__init__(net, faces, labelled)
        self.settings, self.augmentation = settings, augmentation
        classes = net.head.out_features
        prior = class_log_prior(labelled.labels, classes, settings.class_balance)
        self.register_buffer("log_prior", prior)

    def begin_epoch(
        self, epoch: int, steps: int, teacher: FaceNetwork, rng: torch.Generator
    ) -> dict[str, float]:
        batch = self.settings.batch_size
        self._batches = shuffled(len(self.labelled), steps * batch, rng).view(steps, batch).numpy()
        return {}

    def forward(self, step: int, teacher: FaceNetwork, rng: torch.Generator) -> dict[str, Tensor]:
        views, labels = self.batch(step, rng)
        return {"loss": self.loss(self.net(views), labels)}

    def batch(self, step: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Strong views ``[B, 1, S, S]`` of the step's faces, and their labels ``[B]``."""
        chosen = self._batches[step]
        device = self.log_prior.device
        faces = to_tensor(self.faces[self.labelled.rows[chosen]], device)
        labels = torch.from_numpy(self.labelled.labels[chosen]).to(device)
        return self.augmentation.strong(faces, rng), labels

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Balanced, smoothed cross-entropy of ``[B, C]``."""
        return balanced_cross_entropy(logits, labels, self.log_prior, self.settings.label_smoothing)


def _adamw(task: Task[Net], settings: ScheduleSettings) -> torch.optim.AdamW:
    """AdamW that decays the network's matrices and filters, and nothing else that is learned."""
    decayed = [p for p in task.net.parameters() if p.ndim > 1]
    chosen = {id(p) for p in decayed}
    others = [p for p in task.parameters() if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": decayed},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay)


def _keep_freed_memory() -> None:
    """Have the C library keep what it frees: a quarter more faces a second in training on a CPU.

    Each step frees and asks for the same large maps; by default glibc gives them back to the system
    in between, which then has to clear every page anew. Other C libraries have no such switch.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # of mallopt(3)
        library.mallopt(mmap_threshold, 32 << 20)
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(top_pad, 64 << 20)


def generator(seed: int, part: int) -> torch.Generator:
    """Of what is drawn in one part of a run, such as an epoch."""
    state = np.random.SeedSequence([seed, part]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def in_words(record: dict[str, float]) -> str:
    """An epoch's figures, or others, as the progress line has them."""
    return ", ".join(
        f"{name} {value}" if isinstance(value, int) else f"{name} {value:.3f}"
        for name, value in record.items()
        if name != "epoch"
    )
