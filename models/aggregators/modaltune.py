"""ModalTune: Modal Adapters around a frozen slide encoder (Ramanathan et al., ICCV 2025)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_utils.cases.case import Case
from models.aggregators.registry import EVERY_OBJECTIVE, DataSpec, register
from models.configuration import from_mapping
from models.encoders import slide_encoders
from models.frozen import freeze
from models.layers.linear_readout import LinearReadout
from models.lora import LoRAConfig, add_lora
from models.modalities import Modality, ModalityEncoder, all_modalities, modality
from models.slide_backbone import SlideBackbone, build_backbone
from models.vitadapter.interaction import InteractionStage, build_prompt_selfattention, init_linear

logger = logging.getLogger(__name__)

NUM_EXTRA_EXTRACTORS = 2
# Float32 activations a transformer block keeps for its backward pass, in multiples of the width
# (measured on GigaPath; half of it under bfloat16).
_SAVED_PER_BLOCK = 20
# Name of the task token among the spans of the modality tokens.
TASK = "task"
# Of the patches among the parts of the linear readout.
IMAGES = "images"


@dataclass(frozen=True)
class ModalTuneConfig:
    """The keys of ``model_configs/modaltune_*.json``.

    Attributes:
        slide_encoder: arguments of the slide encoder.
        interaction_indexes: first and last block of every interaction stage.
        num_heads: heads of the adapter's attention layers.
        cffn_ratio: compression of the adapter's attention layers and FFNs.
        init_values: initial gate of the injectors.
        drop_path_rate: on the FFN of the extractors.
        use_prompt_sa: self-attention over the modality tokens between the stages.
        use_extra_extractor: two more extractors in the last stage.
        prompt_agg: ``avg`` takes the mean of the gene tokens, ``cls`` a learned token before them.
        token_agg: ``sum`` or ``cat`` of the aggregated tokens.
        output_dim: width of the output.
        gene_encoder: arguments of the gene encoder.
        modalities: arguments of the encoders of other modalities, by name.
        with_cffn: the extractors have a feed-forward network.
        freeze_vit: the slide encoder stays as it is; false trains all of it together with the adapter.
        lora: low-rank updates of the frozen slide encoder (:class:`models.lora.LoRAConfig`); none where empty.
        prompt_dropout: dropout on the modality tokens before the first stage.
        global_pool: the image token is the mean of the patch tokens instead of what the slide encoder pools.
        task_token: there is a task token; a model of one task can do without.
        add_prompt_feature: the modality tokens join the output beside the image and the task.
        text_targets: arguments of the text distillation: ``centred`` and ``temperature`` (see
            :class:`utils.training.objectives.TextDistillation`).
        linear_readout: a linear model of the mean patch and of the numbers of every modality joins the output. It is
            fitted before the training, which starts there: the adapter adds nothing at first.
        readout_products: products of two modalities join the linear readout where they predict patients that are
            left out.
    """

    slide_encoder: dict[str, Any]
    interaction_indexes: Sequence[Sequence[int]]
    num_heads: int = field(default=12, metadata={"least": 1})
    cffn_ratio: float = 0.25
    init_values: float = 0.0
    drop_path_rate: float = 0.1
    use_prompt_sa: bool = True
    use_extra_extractor: bool = True
    prompt_agg: str = "avg"
    token_agg: str = "sum"
    output_dim: int = field(default=256, metadata={"least": 1})
    gene_encoder: dict[str, Any] = field(default_factory=dict)
    modalities: dict[str, dict[str, Any]] = field(default_factory=dict)
    with_cffn: bool = True
    freeze_vit: bool = True
    lora: dict[str, Any] = field(default_factory=dict)
    prompt_dropout: float = 0.0
    global_pool: bool = False
    task_token: bool = True
    add_prompt_feature: bool = True
    text_targets: dict[str, Any] = field(default_factory=dict)
    linear_readout: bool = False
    readout_products: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.prompt_dropout < 1:
            raise ValueError(f"model config: prompt_dropout is {self.prompt_dropout}, should be in [0, 1)")
        if self.lora and not self.freeze_vit:
            raise ValueError("model config: lora adapts a frozen slide encoder, freeze_vit is false")
        if self.readout_products and not self.linear_readout:
            raise ValueError("model config: readout_products belong to linear_readout, which is false")
        for name, value, allowed in (
            ("prompt_agg", self.prompt_agg, ("avg", "cls")),
            ("token_agg", self.token_agg, ("sum", "cat")),
        ):
            if value not in allowed:
                raise ValueError(f"model config: {name} is {value!r}, should be one of {allowed}")
        sections = {name: entry.config_section for name, entry in all_modalities().items()}
        if unknown := sorted(name for name in self.modalities if sections.get(name, "") is not None):
            own = [f"{name} are {sections[name]}" for name in unknown if name in sections]
            known = [name for name, section in sections.items() if section is None]
            hint = ", ".join(own) or f"there are {known}"
            raise ValueError(f"model config, modalities: unknown {unknown}; {hint}")

    def arguments_of(self, entry: Modality) -> Mapping[str, Any]:
        """The section of a modality."""
        if entry.config_section is None:
            return self.modalities.get(entry.name, {})
        return getattr(self, entry.config_section)


class ModalTune(nn.Module):
    """Maps a case to one output vector per task.

    All tasks run as one batch through the stages. The modality tokens ``c`` are ordered: tokens of
    every modality but genes, task token, (gene CLS,) gene tokens. Any of them may be left out.

    Args:
        backbone: the slide encoder; it is frozen here.
        modalities: encoders by name, in the order of their tokens.
        config: see :class:`ModalTuneConfig`.
        num_tasks: ``T``.
        learn_absent: a learned token stands for the tokens of a modality that a case lacks; without,
            such a case is an error.
    """

    def __init__(
        self,
        backbone: SlideBackbone,
        modalities: Mapping[str, ModalityEncoder],
        config: ModalTuneConfig,
        num_tasks: int,
        learn_absent: bool = False,
    ) -> None:
        super().__init__()
        dim = backbone.embed_dim
        self.declared = {name: modality(name) for name in modalities}
        # Whose tokens follow the task token; the published order has the genes there.
        self.behind = next((name for name, entry in self.declared.items() if entry.after_task), None)
        self.config, self.num_tasks = config, num_tasks
        self.activation_checkpointing = "auto"
        self.backbone = freeze(backbone) if config.freeze_vit else backbone
        if config.lora:
            add_lora(backbone.vit, from_mapping(LoRAConfig, config.lora, "model config, lora"))
        self.modality_encoders = nn.ModuleDict(modalities)
        self.stages = check_stages(config.interaction_indexes, len(backbone.blocks))

        if config.task_token:
            self.task_weight = nn.Sequential(nn.Linear(num_tasks, dim), nn.LayerNorm(dim))
        elif num_tasks != 1:
            raise ValueError(
                f"model config: {num_tasks} tasks need task_token, without one they are all alike"
            )
        elif not modalities:
            raise ValueError(
                "model config: without modalities and task_token nothing adapts the slide encoder"
            )
        num_tokens = int(config.task_token) + sum(encoder.num_tokens for encoder in modalities.values())
        if config.prompt_agg == "cls":
            if self.behind is None:
                raise ValueError("model config: prompt_agg cls needs genes, whose token it learns")
            self.gene_cls = nn.Parameter(torch.zeros(1, 1, dim))
            nn.init.trunc_normal_(self.gene_cls, std=0.02)
            num_tokens += 1
        self.gene_pe = nn.Parameter(torch.empty(num_tokens, dim))
        nn.init.trunc_normal_(self.gene_pe, std=0.02)

        last = len(self.stages) - 1
        self.interactions = nn.ModuleList(
            InteractionStage(
                dim,
                config.num_heads,
                config.cffn_ratio,
                config.init_values,
                config.drop_path_rate,
                NUM_EXTRA_EXTRACTORS if config.use_extra_extractor and stage == last else 0,
                config.with_cffn,
            )
            for stage in range(len(self.stages))
        )
        if config.use_prompt_sa:
            self.prompt_selfattention = build_prompt_selfattention(
                dim, config.num_heads, config.cffn_ratio, len(self.stages)
            )

        read = 1 + int(config.task_token) + (len(modalities) if config.add_prompt_feature else 0)
        joined = dim if config.token_agg == "sum" else dim * read
        self.final_norm = nn.LayerNorm(joined)
        self.final_project = nn.Linear(joined, config.output_dim)
        if config.task_token:
            self.task_weight.apply(init_linear)
        self.final_project.apply(init_linear)
        self.readout: LinearReadout | None = None
        if config.linear_readout:
            widths = {name: encoder.width for name, encoder in modalities.items()}
            widths = {
                n: width for n, width in {IMAGES: backbone.feature_dim, **widths}.items() if width is not None
            }
            self.readout = LinearReadout(widths, num_tasks, config.output_dim, config.readout_products)
            nn.init.zeros_(self.final_project.weight)
        # Last, so that all other parameters start alike with and without these.
        absent = {
            name: nn.Parameter(torch.empty(1, 1, dim))
            for name, entry in self.declared.items()
            if learn_absent and entry.may_be_absent
        }
        for token in absent.values():
            nn.init.trunc_normal_(token, std=0.02)
        self.absent_tokens = nn.ParameterDict(absent)

    @property
    def output_dim(self) -> int:
        return self.config.output_dim

    def forward(self, case: Case, tasks: Sequence[int] | None = None) -> Tensor:
        """Outputs ``[len(tasks), O]`` of a case, for all tasks unless told otherwise."""
        tasks = range(self.num_tasks) if tasks is None else tasks
        cls, patches, context = self.backbone.embed(case, len(tasks))
        c, spans = self.modality_tokens(case, tasks)
        c = F.dropout(c, self.config.prompt_dropout, self.training)
        for index, stage in enumerate(self.interactions):
            if index and self.config.use_prompt_sa:
                c = self.prompt_selfattention[str(index)](c, self.gene_pe)
            run = partial(self._run_stage, stage, self.stages[index], context)
            if self._checkpoints_activations(patches):
                cls, patches, c = checkpoint(run, cls, patches, c, use_reentrant=False)
            else:
                cls, patches, c = run(cls, patches, c)
        pooled = patches.mean(dim=1, keepdim=True) if self.config.global_pool else None
        image = (self.backbone.pool(cls, patches, context) if pooled is None else pooled)[:, 0]  # [T, E]
        out = self.final_project(self.final_norm(self._aggregate(image, c, spans)))
        return out if self.readout is None else out + self.readout(self.vectors(case), tasks)

    def vectors(self, case: Case) -> dict[str, Tensor]:
        """What the linear readout sees of a case: the mean patch, and the numbers of every modality it has."""
        found = {IMAGES: case.features.mean(dim=0)}
        for name, encoder in self.modality_encoders.items():
            if encoder.width is not None and name in case.inputs:
                found[name] = encoder.vector(case.inputs[name])
        return found

    def modality_tokens(self, case: Case, tasks: Sequence[int]) -> tuple[Tensor, dict[str, slice]]:
        """The modality tokens ``[T, M, E]`` and where in ``M`` each modality and the task lie."""
        count = len(tasks)
        before = [name for name in self.modality_encoders if name != self.behind]
        groups = {name: self._encode(name, case, count) for name in before}
        if self.config.task_token:
            one_hot = torch.eye(self.num_tasks, dtype=self.gene_pe.dtype)[list(tasks)]
            groups[TASK] = self.task_weight(one_hot.to(self.gene_pe.device, non_blocking=True)).unsqueeze(1)
        if self.behind is not None:
            tokens = self._encode(self.behind, case, count)
            if self.config.prompt_agg == "cls":
                tokens = torch.cat([self.gene_cls.expand(count, -1, -1), tokens], dim=1)
            groups[self.behind] = tokens
        spans, start = {}, 0
        for name, tokens in groups.items():
            spans[name] = slice(start, start + tokens.shape[1])
            start += tokens.shape[1]
        return torch.cat(list(groups.values()), dim=1), spans

    def _encode(self, name: str, case: Case, count: int) -> Tensor:
        """``[T, n, E]`` of one modality, or the learned token ``n`` times where the case lacks it."""
        encoder = self.modality_encoders[name]
        if name in self.absent_tokens and name not in case.inputs:
            return self.absent_tokens[name].expand(count, encoder.num_tokens, -1)
        return encoder(self.declared[name].input_of(case), count, case.case_id)

    def _run_stage(
        self,
        stage: InteractionStage,
        blocks: range,
        context: Any,
        cls: Tensor,
        patches: Tensor,
        c: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        def run_blocks(tokens: Tensor) -> Tensor:
            for index in blocks:
                tokens = self.backbone.run(self.backbone.blocks[index], tokens, context)
            return tokens

        return stage(cls, patches, c, self.gene_pe, run_blocks)

    def _aggregate(self, image: Tensor, c: Tensor, spans: Mapping[str, slice]) -> Tensor:
        """``[T, E]`` (sum) or ``[T, n * E]`` (cat in the order image, task, genes, others)."""
        tokens = [image]
        if TASK in spans:
            tokens.append(c[:, spans[TASK]].squeeze(1))
        if not self.config.add_prompt_feature:
            spans = {}
        elif self.behind is not None:
            genes = c[:, spans[self.behind]]
            tokens.append(genes[:, 0] if self.config.prompt_agg == "cls" else genes.mean(dim=1))
        others = [span for name, span in spans.items() if name not in (TASK, self.behind)]
        tokens += [c[:, span].mean(dim=1) for span in others]
        return sum(tokens[1:], tokens[0]) if self.config.token_agg == "sum" else torch.cat(tokens, dim=-1)

    def _checkpoints_activations(self, patches: Tensor) -> bool:
        """Whether stages are computed again in the backward pass; changes memory and time only."""
        if not torch.is_grad_enabled() or self.activation_checkpointing == "off":
            return False
        if self.activation_checkpointing == "on":
            return True
        size = 2 if torch.is_autocast_enabled(patches.device.type) else 4
        saved = patches.numel() * size * _SAVED_PER_BLOCK * len(self.backbone.blocks)
        return saved > 0.5 * _free_memory(patches.device)


def check_stages(indexes: Sequence[Sequence[int]], num_blocks: int) -> list[range]:
    """Blocks of every stage.

    Raises:
        ValueError: the stages do not cover all blocks once and in order.
    """
    stages = [range(first, last + 1) for first, last in indexes]
    if [block for stage in stages for block in stage] != list(range(num_blocks)):
        raise ValueError(
            f"interaction_indexes {list(map(list, indexes))} must cover the {num_blocks} blocks of the slide "
            "encoder once and in order"
        )
    return stages


def _free_memory(device: torch.device) -> int:
    """Bytes that are free now on ``device``."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )  # by PyTorch, for reuse
        return torch.cuda.mem_get_info(device)[0] + kept
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def build_modaltune(
    encoder: str, modalities: Sequence[str], config: Mapping[str, Any], spec: DataSpec
) -> ModalTune:
    """ModalTune on the slide encoder ``encoder`` with the modalities named."""
    parsed = from_mapping(ModalTuneConfig, config, "model config")
    declared = {name: modality(name) for name in modalities}
    try:
        backbone = build_backbone(encoder, parsed.slide_encoder)
        encoders = {
            name: entry.build(backbone.embed_dim, spec.structures.get(name), **parsed.arguments_of(entry))
            for name, entry in declared.items()
        }
    except TypeError as error:  # an argument the encoder does not know
        raise ValueError(f"model config, slide_encoder, gene_encoder or modalities: {error}") from error
    return ModalTune(backbone, encoders, parsed, spec.num_tasks, spec.missing == "learned")


def _register_all() -> None:
    """One model for every slide encoder and every set of modalities.

    Names are ``{prefix}[_{word of a modality}...]_adapter``, genes first, the others in the order of the
    alphabet.
    """
    known = all_modalities()
    # Tokens that follow the task token come last.
    order = sorted(known, key=lambda name: known[name].after_task)
    for encoder in slide_encoders().values():
        for count in range(len(known) + 1):
            for chosen in combinations(known, count):
                words = [encoder.prefix, *(known[name].word for name in chosen), "adapter"]
                modalities = [name for name in order if name in chosen]
                build = partial(build_modaltune, encoder.name, modalities)
                register("_".join(words), modalities, EVERY_OBJECTIVE, encoder.name)(build)


_register_all()
