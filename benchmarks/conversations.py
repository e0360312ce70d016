"""Packing by best fit: seconds and efficiency on a million lengths; and ``granite41 data pack``.

    python benchmarks/conversations.py [--lengths 1000000] [--conversations 2000]

Method: the lengths are drawn, by a seed, from a mixture of log-normal distributions like those of
public instruction data: short questions and answers (median 350 tokens), code and reasoning (1,500)
and long documents (6,000), in shares of 60, 30 and 10 %, cut at the sequence length of 16,384 as
conversations that are longer are left out. The peers are first fit in the order of the input within
a window of 1,000 open sequences, and no packing. Efficiency is tokens over the room of the
sequences.

``granite41 data pack`` is a whole process with 2 workers on conversations of several turns with
tools and documents, by the tokenizer of size tiny; its rate is conversations and tokens over its
wall time. Each conversation is rendered and encoded by both methods.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cli import report, wall_time

from data_prep import tokenizer
from data_prep.conversations.best_fit import best_fit
from data_prep.machine_text import collect_machine
from recipes.runs.packed_folder import PackedFolder

SEQUENCE_LENGTH = 16384
WORKERS = 2
# median in tokens, sigma of the logarithm, share
DISTRIBUTION = ((350, 0.8, 0.6), (1500, 0.8, 0.3), (6000, 0.6, 0.1))
WINDOW = 1000


def draw_lengths(count: int) -> np.ndarray:
    """Return lengths in tokens, shape (count,)."""
    generator = np.random.default_rng(7)
    medians, sigmas, shares = (np.array(column) for column in zip(*DISTRIBUTION, strict=True))
    kinds = generator.choice(len(shares), count, p=shares)
    lengths = generator.lognormal(np.log(medians[kinds]), sigmas[kinds])
    return np.clip(lengths, 8, SEQUENCE_LENGTH).astype(np.int64)


def first_fit(lengths: np.ndarray) -> int:
    """Return the sequences of first fit in the order of the input, with a window of open ones."""
    count = 0
    rooms: list[int] = []
    for length in lengths.tolist():
        for number, room in enumerate(rooms):
            if room >= length:
                rooms[number] -= length
                break
        else:
            count += 1
            rooms.append(SEQUENCE_LENGTH - length)
            # the oldest is closed
            del rooms[:-WINDOW]
    return count


def write_conversations(file: Path, count: int, texts: list[str]) -> None:
    """Write conversations of several turns, about half of them with tools and documents."""
    draw = random.Random(7)

    def text(longest: int) -> str:
        source = draw.choice(texts)
        start = draw.randrange(max(1, len(source) - longest))
        return source[start : start + draw.randint(20, longest)] + "."

    tool = {"type": "function", "function": {"name": "find", "description": "Finds a text."}}
    with file.open("w") as stream:
        for _ in range(count):
            messages = []
            record = {"messages": messages}
            if draw.random() < 0.5:
                record |= {"tools": [tool], "documents": [{"text": text(4000)}]}
            for _ in range(draw.randint(1, 4)):
                messages.append({"role": "user", "content": text(600)})
                if "tools" in record:
                    call = {"function": {"name": "find", "arguments": {"query": text(60)}}}
                    messages.append({"role": "assistant", "tool_calls": [call]})
                    messages.append({"role": "tool", "content": text(1000)})
                messages.append({"role": "assistant", "content": text(2000)})
            stream.write(json.dumps(record) + "\n")


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, default=1_000_000)
    parser.add_argument("--conversations", type=int, default=2000)
    options = parser.parse_args()

    lengths = draw_lengths(options.lengths)
    rows = []
    tokens = int(lengths.sum())
    start = time.perf_counter()
    ours = len(best_fit(lengths, SEQUENCE_LENGTH))
    seconds = time.perf_counter() - start
    # the slow peer on a part
    part = lengths[:20_000]
    share = tokens / SEQUENCE_LENGTH
    for name, count, fullest, took in (
        ("best fit, the longest first", ours, share, f"{seconds:.2f}"),
        ("first fit, 20,000 of them", first_fit(part), int(part.sum()) / SEQUENCE_LENGTH, "-"),
        ("one conversation a sequence", len(lengths), share, "-"),
    ):
        rows.append([name, f"{count:,}", f"{fullest / count:.2%}", took])
    columns = [f"{len(lengths):,} lengths", "sequences", "efficiency", "seconds"]
    report(columns, rows, f"mean {tokens / len(lengths):,.0f} tokens")

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        collection = collect_machine()
        texts = [item.text for items in collection.components.values() for item in items[:200]]
        tokenizer.train(texts, 2048, folder / "tokenizer")
        write_conversations(folder / "a.jsonl", options.conversations, texts)
        words = ["data", "pack", "--input", folder / "a.jsonl", "--output", folder / "out"]
        words += ["--tokenizer", folder / "tokenizer", "--workers", WORKERS]
        script = Path(sys.executable).with_name("granite41")
        seconds = wall_time([str(script), *map(str, words), "--skip-bad-records"])
        manifest = PackedFolder(folder / "out").manifest
    row = [
        f"{manifest.conversations:,}",
        f"{manifest.conversations / seconds:,.0f}",
        f"{manifest.tokens / seconds:,.0f}",
        f"{manifest.trained_share:.1%}",
        f"{manifest.efficiency:.1%}",
    ]
    columns = ["conversations", "a second", "tokens a second", "trained", "efficiency"]
    report(columns, [row], f"{WORKERS} workers", f"{seconds:.1f} s")


if __name__ == "__main__":
    main()
