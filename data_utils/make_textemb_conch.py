"""Writes the label sentences and their embeddings: ``python -m data_utils.make_textemb_conch --onco BRCA``.

Reads the split files, builds the sentences of the task file (``--tasks``; four, as published) and embeds each
different sentence once with CONCH's text tower. Beside the embeddings lie the sentences (``sentences_{onco}.csv``),
the quartile edges of survival they were written with (``survival_edges_{onco}.json``), the tasks
(``text_{onco}.tasks.json``, which the training compares with its own) and the embedded candidate sentences of zero-
shot evaluation (``candidates_{onco}.pt``: ``{cohort: {class_<i>: [k, 512], other: [k, 512], died: [4, 512], censored:
[4, 512]}}``, where ``other`` are the diagnoses of class -1 that occur; a task with classes of its own adds
``task:<name>:<class>``). A sentence that a case does not have (its class or survival is not known) is a row of NaN,
and no token learns from it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data_utils.tables.ajcc import AJCC_COLUMNS
from data_utils.tables.cohorts import cohort_name, load_cohort, read_cohort
from data_utils.tables.gdc import read_split_cases, split_paths
from data_utils.tables.label_sentences import (
    build_sentences,
    candidate_sentences,
    survival_edges,
    words_of,
)
from data_utils.tables.sentence_table import read_sentence_vectors, tasks_file
from data_utils.tables.tasks import MADE_FIELDS, TaskSet, read_tasks
from models.conch.open_clip_text import encode_text, load_open_clip
from models.conch.text_tower import encode_tokens, load_text_tower, read_text_config
from models.conch.tokenizer import ConchTokenizer
from utils import constants
from utils.configuration.protocol import PROTOCOLS
from utils.devices import pick_device
from utils.files import FileError, atomic_path, check_output, setup_logging, write_json
from utils.tensor_files import write_tensors

logger = logging.getLogger(__name__)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--onco", required=True, type=cohort_name, help="cohort, such as BRCA")
    parser.add_argument("--features_encoder", default="gigapath", help="which split files to read")
    parser.add_argument("--cohort_json", type=Path, help="cohort definition (default: constants)")
    parser.add_argument("--splits_dir", type=Path, help="folder of the split files (default: constants)")
    parser.add_argument("--output", type=Path, help="{case_id: [rows, width]} (default: constants)")
    parser.add_argument(
        "--tasks",
        type=Path,
        default=constants.TASK_FILE,
        help="task file: which sentences there are; pass the same to the training",
    )
    parser.add_argument(
        "--protocol",
        choices=("published", "strict"),
        default="published",
        help="quartile edges from all cases (published) or from the training split (strict)",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--list_sentences", type=Path, help="write the different sentences (JSON list), then stop"
    )
    other.add_argument(
        "--text_vectors",
        type=Path,
        help="{sentence: vector} of any text model, written with torch.save, for CONCH",
    )
    other.add_argument(
        "--open_clip",
        type=Path,
        metavar="FOLDER",
        help="another text model for CONCH: folder of an open_clip model with open_clip_config.json and weights",
    )
    parser.add_argument("--conch_config", type=Path, help="sizes of the tower (default: conch_text.json)")
    parser.add_argument("--conch_checkpoint", type=Path, help="conch.pt (default: constants)")
    parser.add_argument("--conch_tokenizer", type=Path, help="tokeniser JSON (default: constants)")
    parser.add_argument("--batch_size", type=int, default=64, help="sentences at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or the index of a GPU")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    setup_logging()
    output = args.output or constants.text_table(args.onco)
    cohort = read_cohort(args.cohort_json) if args.cohort_json else load_cohort(args.onco)

    splits = split_paths(args.onco, args.features_encoder, args.splits_dir)
    check_output(output, (*splits.values(), *(v for name, v in vars(args).items() if name != "output")))
    cases = read_split_cases(splits)
    learned_from = cases[cases["split"] == "train"] if PROTOCOLS[args.protocol].training_only else cases
    times = learned_from["durations"].dropna().tolist()
    edges = survival_edges(times) if times else None
    _report_strange_texts(cases)
    tasks = read_tasks(args.tasks)
    _check_columns(tasks, cases, args.tasks)
    case_rows: list[dict[str, Any]] = cases.to_dict("records")  # type: ignore[assignment] # columns are str
    sentences = pd.DataFrame(
        [build_sentences(row, cohort.site, edges, tasks) for row in case_rows], dtype=object
    )
    for name, count in sentences.isna().sum().items():
        if count:
            logger.info("%d of %d cases have no %s sentence: it is not trained on", count, len(cases), name)

    candidates = candidate_sentences(cohort, edges, _diagnoses(cases), tasks)
    written = {sentence for sentence in sentences.to_numpy().ravel() if sentence is not None}
    different = sorted({*written, *(s for group in candidates.values() for s in group)})
    if args.list_sentences is not None:
        write_json(args.list_sentences, different)
        logger.info(
            "%d different sentences -> %s; embed them, then pass --text_vectors",
            len(different),
            args.list_sentences,
        )
        return
    if args.text_vectors is not None:
        embeddings = read_sentence_vectors(args.text_vectors, different)
    else:
        tokenizer, tower, encode = _text_model(args)
        device = pick_device(args.device)
        tower = tower.to(device)
        embeddings = embed(different, tokenizer, lambda ids: encode(tower, ids), device, args.batch_size)
    row_of = {sentence: row for row, sentence in enumerate(different)}
    # One row more, of NaN, for sentences that a case does not have.
    embeddings = torch.cat([embeddings, embeddings.new_full((1, embeddings.shape[1]), torch.nan)])
    rows = torch.tensor(
        [[row_of.get(sentence, len(different)) for sentence in case] for case in sentences.to_numpy()]
    )
    of_cases = zip(cases["case_id"], rows, strict=True)
    write_tensors(output, {case: embeddings[row] for case, row in of_cases})
    write_json(tasks_file(output), tasks.plain())
    embedded = {name: embeddings[[row_of[s] for s in group]] for name, group in candidates.items()}
    write_tensors(output.with_name(f"candidates_{args.onco.lower()}.pt"), {args.onco: embedded})
    readable = pd.concat([cases[["case_id", "case_submitter_id", "split"]], sentences], axis=1)
    with atomic_path(output.with_name(f"sentences_{args.onco.lower()}.csv")) as temporary:
        readable.to_csv(temporary, index=False)
    write_json(
        output.with_name(f"survival_edges_{args.onco.lower()}.json"),
        {"protocol": args.protocol, "cases": len(times), "edges_months": edges},
    )
    logger.info(
        "%d cases, %d different sentences (%s protocol) -> %s",
        len(cases),
        len(different),
        args.protocol,
        output,
    )


def _text_model(
    args: argparse.Namespace,
) -> tuple[Callable[[Sequence[str]], Tensor], nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    """Tokeniser, text tower, and how the one's ids go through the other."""
    if args.open_clip is not None:
        return *load_open_clip(args.open_clip), encode_text
    config = read_text_config(args.conch_config or constants.CONFIGS_ROOT / "conch_text.json")
    path = args.conch_tokenizer or constants.CONCH_TOKENIZER
    tokenizer = ConchTokenizer(path, config.context_length, config.vocab_size)
    return (
        tokenizer,
        load_text_tower(config, args.conch_checkpoint or constants.CONCH_CHECKPOINT),
        encode_tokens,
    )


def _check_columns(tasks: TaskSet, cases: pd.DataFrame, path: Path) -> None:
    """Refuses fields that no split row has; the message lists what there is."""
    if unknown := sorted(set(tasks.fields) - set(cases.columns)):
        raise FileError(
            path,
            f"uses {unknown}, which the split files lack; they hold {sorted(cases.columns)}",
            f"keep the columns (make_dataset --tasks FILE), or use one of {', '.join(MADE_FIELDS)}",
        )
    used = {name for task in tasks.entries for name in task.fields}
    if double := sorted(used & set(MADE_FIELDS) & set(cases.columns) - {"site"}):
        raise FileError(
            path,
            f"uses {double}, which the split files hold and which are words made from others (survival, AJCC columns)",
            "rename the columns of your table",
        )


def _diagnoses(cases: pd.DataFrame) -> set[tuple[int, str]]:
    """Class and diagnosis of the cases that have both."""
    if "primary_class" not in cases:
        return set()
    known = cases[["primary_class", "primary_diagnosis"]].dropna()
    return {(int(label), str(diagnosis)) for label, diagnosis in known.itertuples(index=False)}


def _report_strange_texts(cases: pd.DataFrame) -> None:
    """Names the AJCC texts that the sentences have no words for and leave out."""
    for column in AJCC_COLUMNS:
        strange = [text for text in cases[column].dropna() if words_of(text, column) is None]
        if strange:
            logger.warning(
                "%s of %d cases names no category and is left out of their sentences: %s",
                column,
                len(strange),
                sorted(set(strange)),
            )


def embed(
    sentences: Sequence[str],
    tokenizer: Callable[[Sequence[str]], Tensor],
    encode: Callable[[Tensor], Tensor],
    device: torch.device,
    batch_size: int,
) -> Tensor:
    """L2-normalised embeddings ``[n, output_dim]`` on the CPU, float32."""
    starts = range(0, len(sentences), batch_size)
    return torch.cat(
        [
            encode(tokenizer(sentences[start : start + batch_size]).to(device)).cpu()
            for start in tqdm(starts, desc="sentences", disable=None)
        ]
    )


if __name__ == "__main__":
    main()
