"""The AC-CNN: a residual network of affinity convolutions, and its ordinary twin."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from mien.model.affinity import AffinityConv, Branches, conv_bn
from mien.params.learning import ModelSettings


class FaceNetwork(nn.Module):
    """Expression classifier: a linear head on an embedding.

    Shape: faces ``[B, 1, S, S]``, float32 grey in [0, 1]; embeddings ``[B, embedding_size]``;
    logits ``[B, classes]``.
    """

    embedding_size: int
    head: nn.Linear

    @abstractmethod
    def embed(self, faces: Tensor) -> Tensor:
        """Embeddings ``[B, embedding_size]``."""

    def forward(self, faces: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(faces))
        return logits

    def forward_both(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and logits of one pass."""
        embeddings = self.embed(faces)
        return embeddings, self.head(embeddings)


def channels_last(net: nn.Module) -> None:
    """Lay a network's filters out channels last: nearly twice as fast on CPUs."""
    # torch documents this keyword, its overloads leave it out
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ACCNN(FaceNetwork):
    """Expression classifier: stem, one residual stage for each width, pooling, linear head.

    Each stage halves the image in its first block. With ``settings.convolution == "ordinary"``
    every AC module becomes a dense 3×3 convolution of the same width: the twin that shows what AC
    saves.

    Shape: faces ``[B, 1, S, S]``, float32 grey in [0, 1]; logits ``[B, classes]``.
    """

    def __init__(self, settings: ModelSettings, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.embedding_size = settings.widths[-1]
        self.standardise = Standardise()
        self.stem = conv_bn(1, settings.stem, 3)
        blocks: list[nn.Module] = []
        inputs = settings.stem
        for width, depth in zip(settings.widths, settings.blocks, strict=True):
            for index in range(depth):
                blocks.append(
                    Residual(inputs, width, stride=2 if index == 0 else 1, settings=settings)
                )
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(self.embedding_size, classes)
        channels_last(self)

    def embed(self, faces: Tensor) -> Tensor:
        """Embeddings ``[B, embedding_size]``: the last maps, averaged over the image."""
        maps: Tensor = self.blocks(self.stem(self.standardise(faces)))
        return maps.mean(dim=(2, 3))

    def folded(self) -> "ACCNN":
        """The network that is served: one branch, saying the same in evaluation mode.

        Each `Branches` becomes a convolution and a batch norm that only adds a bias, so that what
        has been trained with branches is, once folded, like any network trained without. With one
        branch there is nothing to fold, and it returns itself.
        """
        if self.settings.branches == 1:
            return self
        settings = self.settings.model_copy(update={"branches": 1})
        network = ACCNN(settings, self.head.out_features).eval()
        state = network.state_dict()
        ours = self.state_dict()
        state.update({name: ours[name] for name in state.keys() & ours.keys()})
        for name, module in self.named_modules():
            if isinstance(module, Branches):
                # "….0" is the branches' place; there stands the convolution, and the norm at "….1"
                place = name.removesuffix("0")
                weight, bias = module.folded()
                norm = network.get_submodule(f"{place}1")
                assert isinstance(norm, nn.BatchNorm2d)
                state[f"{place}0.weight"] = weight
                state[f"{place}1.bias"] = bias
                state[f"{place}1.running_var"] = torch.full_like(bias, 1 - norm.eps)
        network.load_state_dict(state)
        return network.to(next(self.parameters()).device)


class Standardise(nn.Module):
    """Each face to zero mean and (nearly) unit deviation, so that light and contrast matter less.

    It is the network's first layer so that training, export and serving cannot disagree about it.
    """

    epsilon = 0.02  # of the grey range: keeps sensor noise in a flat picture from being blown up

    def forward(self, faces: Tensor) -> Tensor:
        centred = faces - faces.mean(dim=(1, 2, 3), keepdim=True)
        deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return centred / (deviation + self.epsilon)


class Residual(nn.Module):
    """``y = ReLU(second(first(x)) + shortcut(x))`` (He et al. 2016), of AC or ordinary modules."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, settings: ModelSettings) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride=stride, activate=True, settings=settings)
        self.second = _convolution(outputs, outputs, stride=1, activate=False, settings=settings)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            # averaging first lets every pixel count, which a strided 1×1 convolution would not
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride), *conv_bn(inputs, outputs, 1, activate=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def _convolution(
    inputs: int, outputs: int, *, stride: int, activate: bool, settings: ModelSettings
) -> nn.Module:
    if settings.convolution == "ordinary":
        return conv_bn(
            inputs, outputs, 3, stride=stride, activate=activate, branches=settings.branches
        )
    return AffinityConv(
        inputs,
        outputs,
        kernel=settings.kernel if stride == 1 else max(settings.kernel, 3),
        stride=stride,
        ratio=settings.ratio,
        transform=settings.transform,
        transform_kernel=settings.transform_kernel,
        activate=activate,
        branches=settings.branches,
    )
