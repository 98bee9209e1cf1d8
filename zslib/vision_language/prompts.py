"""Learned prompts: 16 vectors before every class name, learned by a frozen CLIP (CoOp; simbaseline §4).

They are learned on true regions of seen classes, which seen labels tell, and serve any class name.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from zslib.artifacts.maps import LabelMaps
from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.datasets.decode import ImageFile
from zslib.datasets.views import BatchOrder, loader
from zslib.embeddings.table import ClassVectors
from zslib.errors import ArtifactError, InputError
from zslib.params.training import ComputeParams
from zslib.params.vision_language import PromptTraining
from zslib.training import Checkpoint, Curves, Losses, Runtime, TrainState, train
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.pools import RegionViews

PROMPTS = Schema("prompts/1", "prompts (simbaseline)")

SCALE = 100.0
"""Of cosines; a constant, not CLIP's learned one (simbaseline §2.1)."""
PADDING = 0
"""Token id after the end; nothing before it looks there."""


def prompt_tokens(
    tokenizer: CLIPTokenizer, name: str, *, tokens: int, length: int
) -> tuple[list[int], int]:
    """Return the ids of start, `tokens` placeholders, name, full stop, end, and padding to `length`;
    and where the end stands, which is where the text is read out.

    Raises:
        InputError: the name is too long for the model.
    """
    (stop,) = tokenizer(".", add_special_tokens=False)["input_ids"]
    words = tokenizer(name.strip(), add_special_tokens=False)["input_ids"]
    ids = [tokenizer.bos_token_id, *[stop] * tokens, *words, stop, tokenizer.eos_token_id]
    if len(ids) > length:
        raise InputError(
            f"class '{name}': with {tokens} learned tokens it is {len(ids)} tokens long, the model "
            f"takes {length}; lower vision_language.prompts.tokens or shorten the name"
        )
    return ids + [PADDING] * (length - len(ids)), len(ids) - 1


class Prompts(nn.Module):
    """The learned vectors, and how a frozen CLIP reads class names behind them."""

    def __init__(self, model: VisionLanguageModel, tokens: int) -> None:
        super().__init__()
        width = model.clip.config.text_config.hidden_size
        self.context = nn.Parameter(torch.empty(tokens, width).normal_(std=0.02))
        self._model = model

    def forward(self, names: Int64[Tensor, "k l"]) -> Float[Tensor, "k d"]:
        """Return unit text vectors of names, given as rows of `ids`."""
        with _context_in_place(self._model, self.context):
            output = self._model.clip.get_text_features(names)
        return F.normalize(output.pooler_output, dim=-1)

    def ids(self, names: Sequence[str]) -> Int64[Tensor, "k l"]:
        """Return the names as rows of token ids, no longer than the longest needs."""
        length = self._model.clip.config.text_config.max_position_embeddings
        tokenizer, tokens = self._model.tokenizer, len(self.context)
        found = [prompt_tokens(tokenizer, name, tokens=tokens, length=length) for name in names]
        used = max(end for _, end in found) + 1
        return torch.tensor([row[:used] for row, _ in found], device=self.context.device)

    def class_vectors(self, names: Sequence[str]) -> ClassVectors:
        """Return the text vectors of class names."""
        with torch.no_grad():
            rows = self(self.ids(names)).cpu().numpy()
        made_from = {"templates": "learned", "model": self._model.key}
        return ClassVectors("clip-learned", tuple(names), rows, made_from)

    def save(self, path: Path, *, meta: dict[str, object]) -> None:
        """Publish the learned vectors; `meta` says how they were learned."""
        arrays = {"context": self.context.detach().cpu().numpy()}
        described = meta | {"model": self._model.key}
        save_tensors(path, arrays, schema=PROMPTS, meta=described)

    @classmethod
    def load(cls, path: Path, model: VisionLanguageModel) -> "Prompts":
        """Open and verify prompts. Raises ArtifactError, also where another CLIP learned them."""
        arrays, meta = load_tensors(path, schema=PROMPTS)
        if meta["model"] != model.key:
            raise ArtifactError(f"{path}: was learned with another CLIP; {PROMPTS.remedy}")
        prompts = cls(model, len(arrays["context"]))
        prompts.context.data = torch.from_numpy(arrays["context"])
        return prompts


@contextmanager
def _context_in_place(model: VisionLanguageModel, context: Float[Tensor, "t w"]) -> Iterator[None]:
    """Put learned vectors where the placeholders are: the text tower takes ids alone (note 8)."""

    def replace(module: nn.Module, _: object, tokens: Tensor) -> Tensor:
        learned = context.expand(len(tokens), -1, -1)
        return torch.cat([tokens[:, :1], learned, tokens[:, 1 + len(context) :]], dim=1)

    hook = model.clip.text_model.embeddings.token_embedding.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def learning_rate(step: int, params: PromptTraining) -> float:
    """Return the cosine's rate at a step; the first ones are taken at a constant one (simbaseline §4)."""
    if step < params.warmup_steps:
        return params.warmup_lr
    return params.lr * (1 + math.cos(math.pi * step / params.steps)) / 2


def fit(
    model: VisionLanguageModel,
    images: Sequence[ImageFile],
    label_maps: LabelMaps,
    classes: Sequence[int],
    names: Sequence[str],
    params: PromptTraining,
    *,
    seed: int,
    compute: ComputeParams,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> Prompts:
    """Learn prompts for the seen `classes` (values in the label maps) of these `names`.

    Raises:
        InputError: the pool holds fewer regions than a batch.
    """
    side = model.image_size
    views = RegionViews(images, label_maps, classes, params, params.size or (side, side), seed=seed)
    order = BatchOrder(
        len(views),
        params.batch_size,
        section="vision_language.prompts",
        of="regions of seen classes",
        seed=seed,
    )
    torch.manual_seed(seed)
    model.clip.to(runtime.device)
    prompts = Prompts(model, params.tokens).to(runtime.device)
    optimiser = _optimiser(prompts, params)
    state, ids = TrainState({"prompts": prompts}, {"prompts": optimiser}), prompts.ids(names)

    def step(batch: Sequence[Tensor]) -> Losses:
        regions, labels = (tensor.to(runtime.device) for tensor in batch)
        optimiser.param_groups[0]["lr"] = learning_rate(state.step, params)
        logits = SCALE * model.embed_images(regions) @ prompts(ids).T
        loss = F.cross_entropy(logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([prompts.context], params.gradient_clip)
        optimiser.step()
        right = (logits.argmax(1) == labels).float().mean()
        return {"loss": loss.detach(), "accuracy": right}

    train(
        state,
        step,
        lambda start: iter(loader(views, order, start, params.steps, workers=compute.workers)),
        steps=params.steps,
        seed=seed,
        name="prompts",
        runtime=runtime,
        checkpoint=checkpoint,
        curves=curves,
    )
    model.clip.cpu()
    return prompts.cpu()


def _optimiser(prompts: Prompts, params: PromptTraining) -> torch.optim.Optimizer:
    """Return SGD whose rate the training loop leaves alone: the schedule is `learning_rate`."""
    optimiser = torch.optim.SGD(
        [prompts.context],
        lr=params.lr,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
    )
    optimiser.param_groups[0] |= {"initial_lr": params.lr, "power": 0.0, "decay": None}
    return optimiser
