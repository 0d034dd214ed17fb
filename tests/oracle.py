"""ModalTune written down once more: slow, obvious, from the published parameter names.

Nothing here uses the modules under test. One task at a time, explicit softmax attention, loops over
pathways and heads; evaluation mode (no dropout).
"""

import math

import torch
import torch.nn.functional as F


def layer_norm(x, state, name, eps=1e-5):
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attention(q, k, v, num_heads):
    """Plain softmax attention over ``[N, C]`` inputs."""
    outs = []
    width = q.shape[1] // num_heads
    for h in range(num_heads):
        part = slice(h * width, (h + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        outs.append(scores.softmax(-1) @ v[:, part])
    return torch.cat(outs, dim=1)


def multihead(q_in, k_in, v_in, state, name, num_heads):
    width = q_in.shape[1]
    bias = state[f"{name}.in_proj_bias"]
    q = q_in @ state[f"{name}.q_proj_weight"].T + bias[:width]
    k = k_in @ state[f"{name}.k_proj_weight"].T + bias[width : 2 * width]
    v = v_in @ state[f"{name}.v_proj_weight"].T + bias[2 * width :]
    return linear(attention(q, k, v, num_heads), state, f"{name}.out_proj")


def cross_attention(x, memory, state, name, num_heads, query_pos=0.0, key_pos=0.0):
    query = linear(layer_norm(x, state, f"{name}.norm") + query_pos, state, f"{name}.q_proj")
    key = layer_norm(memory, state, f"{name}.norm_kq") + key_pos
    out = multihead(query, key, key, state, f"{name}.multihead_attn", num_heads)
    return x + linear(out, state, f"{name}.output_proj")


def self_attention(c, pos, state, name, num_heads):
    normed = layer_norm(c, state, f"{name}.norm")
    query = linear(normed + pos, state, f"{name}.q_proj")
    out = multihead(query, normed + pos, normed, state, f"{name}.self_attn", num_heads)
    return c + linear(out, state, f"{name}.output_proj")


def extract(c, patches, pos, state, name, num_heads):
    c = c + cross_attention(c, patches, state, f"{name}.attn", num_heads, query_pos=pos)
    if f"{name}.ffn.norm.weight" not in state:
        return c
    hidden = torch.relu(linear(layer_norm(c, state, f"{name}.ffn.norm"), state, f"{name}.ffn.linear1"))
    return c + linear(hidden, state, f"{name}.ffn.linear2")


def gene_tokens(genes, pathways, state, depth):
    vectors = []
    for i, members in enumerate(pathways):
        hidden = F.elu(linear(genes[list(members)], state, f"gene_encoder.gene_networks.{i}.0.0"))
        vectors.append(F.elu(linear(hidden, state, f"gene_encoder.gene_networks.{i}.1.0")))
    x = torch.stack(vectors)  # [P, H]
    for block in range(depth):
        name = f"gene_encoder.mlp_mixer.{block}"
        y = layer_norm(x, state, f"{name}.0.norm")
        first, second = (state[f"{name}.0.fn.{j}.weight"][:, :, 0] for j in (0, 3))
        y = gelu(first @ y + state[f"{name}.0.fn.0.bias"][:, None])
        x = x + second @ y + state[f"{name}.0.fn.3.bias"][:, None]
        y = gelu(linear(layer_norm(x, state, f"{name}.1.norm"), state, f"{name}.1.fn.0"))
        x = x + linear(y, state, f"{name}.1.fn.3")
    x = layer_norm(x, state, f"gene_encoder.mlp_mixer.{depth}")
    x = linear(x, state, f"gene_encoder.mlp_mixer.{depth + 1}")
    return linear(x.T, state, "gene_encoder.pathway_compression").T  # [G, E]


def position_code(cells, dim):
    """``cells [L, 2]`` (x, y): y in the first half, x in the second; sines, then cosines."""
    quarter = dim // 4
    rows = []
    for x, y in cells.tolist():
        row = []
        for value in (y, x):
            angles = [value * 10000 ** (-i / quarter) for i in range(quarter)]
            row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def longnet_block(x, state, name, num_heads, dilated, segments, ratios):
    normed = layer_norm(x, state, f"{name}.self_attn_layer_norm")
    q, k, v = (
        linear(normed, state, f"{name}.self_attn.{p}_proj").reshape(1, len(x), num_heads, -1) for p in "qkv"
    )
    out = dilated(q, k, v, segments, ratios).reshape(len(x), -1)
    out = layer_norm(out, state, f"{name}.self_attn.inner_attn_ln")
    x = x + linear(out, state, f"{name}.self_attn.out_proj")
    hidden = gelu(linear(layer_norm(x, state, f"{name}.final_layer_norm"), state, f"{name}.ffn.fc1"))
    hidden = layer_norm(hidden, state, f"{name}.ffn.ffn_layernorm")
    return x + linear(hidden, state, f"{name}.ffn.fc2")


class GigaPath:
    """The slide encoder with LongNet blocks; ``dilated`` is an attention function."""

    def __init__(self, state, vit, dilated):
        self.state, self.vit, self.dilated = state, vit, dilated

    def embed(self, case):
        patches = linear(case.features, self.state, "patch_embed.proj")
        return self.state["cls_token"][0], patches + position_code(case.coords // 256, self.vit["embed_dim"])

    def block(self, tokens, number):
        name, vit = f"encoder.layers.{number}", self.vit
        shape = (vit["num_heads"], self.dilated, vit["segment_lengths"], vit["dilated_ratios"])
        return longnet_block(tokens, self.state, name, *shape)

    def pool(self, tokens):
        return tokens[0]


def titan_slopes(num_heads):
    """One slope per head: a geometric series, completed from the finer one where it is too short."""
    power = 1
    while 2 * power <= num_heads:
        power *= 2
    slopes = [2 ** (-8 / power * (i + 1)) for i in range(power)]
    finer = [2 ** (-4 / power * (i + 1)) for i in range(2 * power)]
    return slopes + [finer[2 * i] for i in range(num_heads - power)]


def titan_grid(features, coords, patch_size):
    """Cells ``(x, y)`` in order and the sum of the features on each, background left out."""
    corner = [min(column) for column in coords.T.tolist()]
    summed = {}
    for feature, (x, y) in zip(features, coords.tolist(), strict=True):
        cell = ((x - corner[0]) // patch_size, (y - corner[1]) // patch_size)
        summed[cell] = summed.get(cell, 0) + feature
    cells = [cell for cell in sorted(summed) if summed[cell].abs().max() > 0]
    return cells, torch.stack([summed[cell] for cell in cells])


def alibi_attention(q, k, v, cells, num_heads):
    """Softmax attention over ``[1 + N, C]`` with biases; the first token is CLS, ``cells [N, 2]``."""
    outs = []
    width = q.shape[1] // num_heads
    cells = torch.as_tensor(cells, dtype=q.dtype)
    distance = torch.zeros(len(q), len(q), dtype=q.dtype)
    distance[1:, 1:] = ((cells[:, None] - cells[None]) ** 2).sum(-1).sqrt()
    for h, slope in enumerate(titan_slopes(num_heads)):
        part = slice(h * width, (h + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width) - slope * distance
        outs.append(scores.softmax(-1) @ v[:, part])
    return torch.cat(outs, dim=1)


class Titan:
    """The slide encoder with 2-D ALiBi blocks and an attentional pooler."""

    def __init__(self, state, vit):
        self.state, self.vit = state, vit

    def embed(self, case):
        self.cells, features = titan_grid(case.features, case.coords, case.patch_size_lv0)
        return self.state["cls_token"][0], gelu(linear(features, self.state, "patch_embed.0"))

    def block(self, tokens, number):
        name, state = f"blocks.modules_list.{number}", self.state
        qkv = linear(layer_norm(tokens, state, f"{name}.norm1", 1e-6), state, f"{name}.attn.qkv")
        read = alibi_attention(*qkv.chunk(3, dim=1), self.cells, self.vit["num_heads"])
        tokens = tokens + linear(read, state, f"{name}.attn.proj")
        hidden = linear(layer_norm(tokens, state, f"{name}.norm2", 1e-6), state, f"{name}.mlp.fc1")
        return tokens + linear(gelu(hidden), state, f"{name}.mlp.fc2")

    def pool(self, tokens):
        state, name = self.state, "attn_pool_contrastive"
        memory = layer_norm(layer_norm(tokens, state, "norm", 1e-6), state, f"{name}.ln_k", 1e-6)
        queries = layer_norm(state[f"{name}.query"], state, f"{name}.ln_q", 1e-6)
        weights = state[f"{name}.attn.in_proj_weight"].chunk(3)
        biases = state[f"{name}.attn.in_proj_bias"].chunk(3)
        inputs = (queries, memory, memory)
        q, k, v = (x @ w.T + b for x, w, b in zip(inputs, weights, biases, strict=True))
        read = attention(q, k, v, self.vit["pooler_heads"])
        return linear(read, state, f"{name}.attn.out_proj")[0]


def modaltune(encoder, state, config, case, pathways, num_tasks, clinical=False, others=(), genes=None):
    """Outputs ``[T, O]`` from a state dict in the published layout (all float64).

    ``encoder`` is one of the slide encoders above, on the same state dict. ``others`` are the tokens
    ``[n, E]`` of further modalities; ``genes`` are tokens that stand for those of the gene encoder.
    """
    others = list(others)
    if clinical:
        hidden = torch.relu(linear(case.inputs["clinical"][None], state, "clinical_mlp.0"))
        others.insert(0, layer_norm(linear(hidden, state, "clinical_mlp.2"), state, "clinical_mlp.3"))
    heads = config["num_heads"]
    pos = state["gene_pe"]
    outputs = []
    for task in range(num_tasks):
        token = pos[:0]
        if config.get("task_token", True):
            one_hot = torch.eye(num_tasks, dtype=torch.float64)[task : task + 1]
            token = layer_norm(linear(one_hot, state, "task_weight.0"), state, "task_weight.1")
        if genes is None:
            genes = gene_tokens(case.inputs["genes"], pathways, state, config["gene_encoder"]["depth"])
        c = torch.cat([*others, token, genes])

        cls, patches = encoder.embed(case)
        for stage, (first, last) in enumerate(config["interaction_indexes"]):
            name = f"interactions.{stage}"
            if stage > 0:
                c = self_attention(c, pos, state, f"prompt_selfattention.{stage}", heads)
            read = cross_attention(patches, c, state, f"{name}.injector.attn", heads, key_pos=pos)
            tokens = torch.cat([cls, patches + state[f"{name}.injector.gamma"] * read])
            for block in range(first, last + 1):
                tokens = encoder.block(tokens, block)
            cls, patches = tokens[:1], tokens[1:]
            c = extract(c, patches, pos, state, f"{name}.extractor", heads)
        for extra in range(2):
            c = extract(c, patches, pos, state, f"interactions.{stage}.extra_extractors.{extra}", heads)

        ends = [sum(map(len, others[: k + 1])) for k in range(len(others))]
        start = ends[-1] if others else 0
        image = encoder.pool(torch.cat([cls, patches]))
        parts = [patches.mean(0) if config.get("global_pool") else image, *c[start : start + len(token)]]
        if config.get("add_prompt_feature", True):
            if len(genes):
                parts.append(c[start + len(token) :].mean(0))
            parts += [c[end - len(group) : end].mean(0) for end, group in zip(ends, others, strict=True)]
        joined = sum(parts) if config["token_agg"] == "sum" else torch.cat(parts)
        outputs.append(linear(layer_norm(joined, state, "final_norm"), state, "final_project"))
    return torch.stack(outputs)
