"""RULER's prompts: as long as asked by an independent count, and what each task says they are."""

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from data_prep import tokenizer as bpe
from evaluation.ruler import corpora, counting, generation, metrics
from evaluation.ruler.fallback import made_up_questions
from evaluation.ruler.generation import generate, read_metadata, samples_file
from evaluation.ruler.settings import NEEDLE_TASKS, TASKS
from recipes.common.encoder import EncoderMismatch
from recipes.common.errors import UserError
from recipes.common.files import atomic_write

pytestmark = pytest.mark.slow

LENGTHS = (256, 512, 1024, 4096)
LONG = 32768
ESSAYS = corpora.load(None).essays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ruler")


@pytest.fixture(scope="module")
def good(folder: Path) -> Path:
    """A tokenizer that knows the words and the numbers of the prompts, as one with 100,000 entries does."""
    words = " ".join(corpora.load(None).pool("wonderwords"))
    numbers = " ".join(f"{number}. {number % 1000:03}" for number in range(1000))
    letters = " ".join(first + second for first in ascii_uppercase for second in ascii_uppercase)
    questions = str(made_up_questions.single()) + str(made_up_questions.double())
    bpe.train([ESSAYS, questions, *([words, numbers, letters, letters] * 2)], 8000, folder / "good")
    return folder / "good"


@pytest.fixture(scope="module")
def poor(folder: Path) -> Path:
    """A tokenizer trained on code: under three characters a token."""
    sources = [
        path.read_text()
        for path in sorted(Path(generation.__file__).parents[2].glob("recipes/**/*.py"))
    ]
    bpe.train(sources, 2048, folder / "poor")
    return folder / "poor"


@pytest.fixture(scope="module")
def made(folder: Path, good: Path) -> Path:
    generate(good, LENGTHS, 3, folder / "made", workers=1, say=lambda line: None)
    generate(good, [LONG], 1, folder / "made", workers=1, say=lambda line: None)
    return folder / "made"


def read(output: Path, task: str, length: int) -> list[dict]:
    return [
        json.loads(line) for line in samples_file(output, task, length).read_text().splitlines()
    ]


def check_lengths(output: Path, folder: Path, length: int) -> None:
    """No prompt is too long, none wastes more than 5 %, by the reference library on the whole prompt."""
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for task in TASKS:
        found = read(output, task, length)
        metadata = read_metadata(output, task, length)
        fills = []
        for index, sample in enumerate(found):
            tokens = len(reference.encode(sample["input"], add_special_tokens=True).ids)
            assert (sample["task"], sample["length"], sample["index"]) == (task, length, index)
            assert sample["tokens"] == tokens
            fills.append((tokens + sample["budget"]) / length)
            assert 0.95 <= fills[-1] <= 1, (task, index)
            assert sample["input"].endswith(sample["answer_prefix"])
            assert sample["settings"] == metadata.settings["name"]
            # the answer has room
            answer = " ".join(
                sample["outputs"][:1] if task.startswith("qa_") else sample["outputs"]
            )
            assert (
                len(reference.encode(answer).ids) <= sample["budget"] == metadata.settings["budget"]
            ), task
        assert metadata.count == len(found)
        assert metadata.fill_min == min(fills)
        assert metadata.fill_mean == pytest.approx(np.mean(fills))


@pytest.mark.parametrize("length", [*LENGTHS, LONG])
def test_lengths(made: Path, good: Path, length: int) -> None:
    check_lengths(made, good, length)
    if length >= 4096:
        for task in TASKS:
            assert read_metadata(made, task, length).fill_min >= 0.99, task
            assert read_metadata(made, task, length).settings["name"] == "published", task


def test_lengths_with_a_poor_tokenizer(poor: Path, tmp_path: Path) -> None:
    lengths = (256, 300)
    generate(poor, lengths, 4, tmp_path, workers=1, say=lambda line: None)
    for length in lengths:
        check_lengths(tmp_path, poor, length)
    assert read_metadata(tmp_path, "cwe", 256).settings["name"] != "published"


def test_tokens_that_the_tokenizer_adds(good: Path, tmp_path: Path) -> None:
    (tmp_path / "bos").mkdir()
    found = Tokenizer.from_file(str(good / "tokenizer.json"))
    found.post_processor = processors.TemplateProcessing(
        single=f"{bpe.END_OF_TEXT} $A {bpe.END_OF_TEXT}", special_tokens=[(bpe.END_OF_TEXT, 0)]
    )
    found.save(str(tmp_path / "bos" / "tokenizer.json"))
    generate(tmp_path / "bos", [512], 3, tmp_path / "out", workers=1, say=lambda line: None)
    check_lengths(tmp_path / "out", tmp_path / "bos", 512)


def test_tokenizer_whose_pieces_do_not_add_up(tmp_path: Path) -> None:
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    # the words are not split before the model sees them: any piece depends on what stands beside it
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    words = " ".join(
        f"{number}. {word}" for number, word in enumerate(corpora.load(None).pool("wonderwords"))
    )
    texts = [
        text[n : n + 200] for text in (ESSAYS[:6000], words[:6000]) for n in range(0, 6000, 200)
    ]
    unigram.train_from_iterator(texts, trainer)
    (tmp_path / "unigram").mkdir()
    unigram.save(str(tmp_path / "unigram" / "tokenizer.json"))
    generate(tmp_path / "unigram", [700], 2, tmp_path / "out", workers=1, say=lambda line: None)
    check_lengths(tmp_path / "out", tmp_path / "unigram", 700)


PUBLISHED = {
    "one": (
        "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {kind} afterwards.\n",
        "\nWhat is the special magic {kind} for {query} mentioned in the provided text?",
        " The special magic {kind} for {query} mentioned in the provided text is",
    ),
    "several": (
        "Some special magic numbers are hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the numbers afterwards.\n",
        "\nWhat are all the special magic numbers for {query} mentioned in the provided text?",
        " The special magic numbers for {query} mentioned in the provided text are",
    ),
    "vt": (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
        "\nQuestion: Find all variables that are assigned the value {query} in the text above.",
        " Answer: According to the chain(s) of variable assignment in the text above, 5 variables are assigned the "
        "value {query}, they are: ",
    ),
    "cwe": (
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
        "appear most often.\n",
        "\nQuestion: What are the 10 most common words in the above list?",
        " Answer: The top 10 words that appear most often in the list are:",
    ),
    "fwe": (
        "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
        "appeared coded words. ",
        "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
        "appeared words in the above coded text?",
        " Answer: According to the coded text above, the three most frequently appeared words are:",
    ),
    "qa": (
        "Answer the question based on the given documents. Only give me the answer and do not output any other words."
        "\n\nThe following are given documents.\n\n",
        "\n\nAnswer the question based on the given documents. Only give me the answer and do not output any other "
        "words.\n\nQuestion: {query}",
        " Answer:",
    ),
}
BUDGETS = {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}  # the needle tasks have 128


def context(sample: dict, name: str, **values: str) -> str:
    """Return the prompt between its template's parts, which must be the published ones."""
    head, tail, prefix = (part.format(**values) for part in PUBLISHED[name])
    assert sample["answer_prefix"] == prefix
    assert sample["input"].startswith(head)
    assert sample["input"].endswith(tail + prefix)
    return sample["input"][len(head) : -len(tail + prefix)]


@pytest.mark.parametrize("length", [4096, LONG])
@pytest.mark.parametrize("task", NEEDLE_TASKS)
def test_needles(made: Path, task: str, length: int) -> None:
    uuids = task in ("niah_single_3", "niah_multikey_3")
    keys = 4 if task in ("niah_multikey_1", "niah_multiquery") else 1
    values = 4 if task == "niah_multivalue" else 1
    value = (
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        if uuids
        else r"\d{7}"
    )
    kind = "uuid" if uuids else "number"
    several = task in ("niah_multivalue", "niah_multiquery")
    for sample in read(made, task, length):
        assert sample["budget"] == 128
        query = re.search(
            r"for (.*) mentioned in the provided text (?:is|are)$", sample["answer_prefix"]
        )[1]
        text = context(sample, "several" if several else "one", kind=kind, query=query)
        needles = re.findall(
            rf"One of the special magic {kind}s for ([^.:\n]+) is: ({value})\.", text
        )
        asked = re.split(r", and |, ", query)
        assert len(asked) == (4 if task == "niah_multiquery" else 1)
        # exactly the answers stand in the text for what is asked
        assert sorted(v for k, v in needles if k in asked) == sorted(sample["outputs"])
        assert len(sample["outputs"]) == len(set(sample["outputs"])) == len(asked) * values
        if task in ("niah_multikey_2", "niah_multikey_3"):
            assert len(needles) > length / 100
            assert len(text.splitlines()) - len(needles) <= 1  # the last one is cut
            continue
        assert len(needles) == keys * values
        haystack = re.sub(
            rf"\s*One of the special magic {kind}s for [^.:\n]+ is: {value}\.", "", text
        ).strip()
        if task == "niah_single_1":
            noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
            lines = haystack.splitlines()
            assert set(lines[:-1]) == {noise}
            assert noise.startswith(lines[-1])
        else:
            # the essays from their beginning, again and again
            assert (f"{ESSAYS} " * 8).startswith(haystack)


def test_needle_places_vary(good: Path, tmp_path: Path) -> None:
    generate(
        good,
        [1024],
        20,
        tmp_path,
        tasks=["niah_single_1", "niah_single_2"],
        workers=1,
        say=lambda line: None,
    )
    for task in ("niah_single_1", "niah_single_2"):
        samples = read(tmp_path, task, 1024)
        places = {round(10 * s["input"].index(s["outputs"][0]) / len(s["input"])) for s in samples}
        assert len(places) >= 5


def chain_of(text: str) -> list[str]:
    """Return the variables of the chain in ``text``, which must be one."""
    found = re.findall(r"^VAR (\w+) = (?:VAR )?(\w+) ?$", text, flags=re.MULTILINE)
    assert found[0][1].isdigit()
    for (before, _), (_, source) in pairwise(found):
        assert source == before
    return [name for name, _ in found]


@pytest.mark.parametrize("length", [4096, LONG])
def test_variable_tracking(made: Path, length: int) -> None:
    for sample in read(made, "vt", length):
        assert sample["budget"] == 30
        head = PUBLISHED["vt"][0]
        empty, example, main = sample["input"].split(head)
        assert empty == ""
        value = re.search(r"the value (\d{5}), they", sample["answer_prefix"])[1]
        text = context({**sample, "input": head + main}, "vt", query=value)
        assert chain_of(text) == sample["outputs"]
        assert [len(name) for name in sample["outputs"]] == [5] * 5
        assert f"VAR {sample['outputs'][0]} = {value}\n" in text
        # the example is solved, of other variables and another value
        shown = chain_of(example)
        assert example.endswith(f", they are:  {' '.join(shown)}\n\n")
        assert [len(name) for name in shown] == [3] * 5
        assert not {value, *sample["outputs"]} & set(re.findall(r"\w+", example))
        assert example.count("The grass is green.") >= 5


@pytest.mark.parametrize(
    ("length", "times"),
    [(1024, (6, 1, 3, 1, 20)), (4096, (30, 3, 10, 3, 40)), (LONG, (30, 3, 10, 3, 40))],
)
def test_common_words(made: Path, length: int, times: tuple[int, ...]) -> None:
    common, other, example_common, example_other, example_words = times

    def listed(text: str) -> Counter:
        entries = re.split(r"(?:^| )(\d+)\. ", text)
        assert [int(number) for number in entries[1::2]] == list(range(1, len(entries) // 2 + 1))
        return Counter(entries[2::2])

    for sample in read(made, "cwe", length):
        assert sample["settings"] == "published"
        assert sample["budget"] == 120
        head, tail, prefix = PUBLISHED["cwe"]
        empty, example, main = sample["input"].split(head)
        assert empty == ""
        counts = listed(context({**sample, "input": head + main}, "cwe"))
        assert len(sample["outputs"]) == 10
        assert {word: counts.pop(word) for word in sample["outputs"]} == dict.fromkeys(
            sample["outputs"], common
        )
        assert set(counts.values()) == {other}
        shown, answer = example.split(f"{tail}{prefix} ")
        shown_counts, answers = listed(shown), listed(answer.removesuffix("\n"))
        assert len(shown_counts) == example_words
        assert len(answers) == 10
        assert {shown_counts.pop(word) for word in answers} == {example_common}
        assert set(shown_counts.values()) == {example_other}
        assert not set(sample["outputs"]) & {*shown_counts, *answers}


@pytest.mark.parametrize("length", [4096, LONG])
def test_frequent_coded_words(made: Path, length: int) -> None:
    for sample in read(made, "fwe", length):
        assert sample["budget"] == 50
        counts = Counter(context(sample, "fwe").split(" "))
        ranked = counts.most_common()
        assert ranked[0][0] == "..."
        assert [word for word, _ in ranked[1:4]] == sample["outputs"]
        assert ranked[3][1] > ranked[4][1]
        assert all(re.fullmatch("[a-z]{6}", word) for word, _ in ranked[1:])
        assert len(counts) <= (length - 50) // 50
        # the exponent is 2
        assert ranked[1][1] / ranked[3][1] == pytest.approx(4, rel=0.1)
        assert ranked[0][1] / ranked[1][1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("length", [256, 512])
def test_frequent_coded_words_when_they_are_few(made: Path, length: int) -> None:
    for sample in read(made, "fwe", length):
        head = PUBLISHED["fwe"][0] if sample["settings"] == "published" else "A coded text: "
        counts = Counter(sample["input"].removeprefix(head).split("\nQuestion")[0].split(" "))
        noise = counts.pop("...")
        answers = [counts.pop(word) for word in sample["outputs"]]
        assert noise > answers[0] >= answers[1] >= answers[2] > max(counts.values(), default=0)


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
@pytest.mark.parametrize("length", [4096, LONG])
def test_questions(made: Path, task: str, length: int) -> None:
    known = corpora.load(None).questions(task)
    for sample in read(made, task, length):
        assert sample["budget"] == 32
        question = known.items[sample["index"]]
        text = context(sample, "qa", query=question.query)
        parts = re.split(r"(?:^|\n\n)Document (\d+):\n", text)
        assert parts[0] == ""
        assert [int(number) for number in parts[1::2]] == list(range(1, len(parts) // 2 + 1))
        documents = parts[2::2]
        assert sample["outputs"] == list(question.outputs)
        gold = [known.documents[number] for number in question.gold]
        assert all(document in documents for document in gold)
        whole = Counter(document for document in documents if document in set(known.documents))
        assert len(documents) - whole.total() <= 1  # one is cut
        # all documents are there as often as each other, or one time more or less; the gold ones once more at most
        assert set(whole) == set(known.documents)
        assert max(whole.values()) - min(whole.values()) <= 2


def test_question_that_does_not_fit_is_passed_over(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made_up_questions.single()
    data["data"][0]["paragraphs"][0]["context"] += " It is a long story." * 100
    monkeypatch.setattr(made_up_questions, "single", lambda: data)
    generate(good, [512], 2, tmp_path, tasks=["qa_1"], workers=1, say=lambda line: None)
    # the first paragraph had two questions
    assert "Question: What is Aldermoor known for?" in read(tmp_path, "qa_1", 512)[0]["input"]


def test_hotpot_keeps_what_supports_the_answer_when_short(made: Path, good: Path) -> None:
    known = corpora.load(None).questions("qa_2")
    assert read_metadata(made, "qa_2", 256).settings["gold"] == "supporting"
    for sample in read(made, "qa_2", 256):
        question = known.items[sample["index"]]
        assert len(question.supporting) == 2
        assert all(known.documents[number] in sample["input"] for number in question.supporting)


def test_samples_depend_on_nothing_else(
    made: Path, good: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(
        generation, "_CHUNK_TOKENS", 1 << 10
    )  # so that there is work for two processes
    tasks = ["qa_1", "cwe", "niah_multikey_2", "niah_single_2"]
    generate(good, [1024, 256], 8, tmp_path, tasks=tasks, workers=2, say=lambda line: None)
    for task in tasks:
        for length in (1024, 256):
            more = samples_file(tmp_path, task, length).read_bytes()
            few = samples_file(made, task, length).read_bytes()
            assert more.startswith(few)
            assert more.count(b"\n") == 8
            assert len(set(more.splitlines())) == 8
    generate(good, [256], 3, tmp_path, tasks=["vt"], seed=43, workers=1, say=lambda line: None)
    assert (
        samples_file(tmp_path, "vt", 256).read_bytes() != samples_file(made, "vt", 256).read_bytes()
    )


def test_kept_and_made_again(good: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def run(samples: int = 2, folder: Path = good) -> bytes:
        said.clear()
        generate(
            folder,
            [300],
            samples,
            tmp_path / "out",
            tasks=["vt", "fwe"],
            workers=1,
            say=said.append,
        )
        return path.read_bytes()

    path = samples_file(tmp_path / "out", "vt", 300)
    first = run()
    assert all("filled" in line for line in said)
    assert len(said) == 2
    written = path.stat().st_mtime_ns
    assert run() == first
    assert said == ["vt@300: 2 samples, kept", "fwe@300: 2 samples, kept"]
    assert path.stat().st_mtime_ns == written

    path.write_bytes(first[:-10])
    with pytest.raises(UserError, match=r"300\.jsonl: has [\d,]+ bytes, expected"):
        read_metadata(tmp_path / "out", "vt", 300)
    assert run() == first
    assert re.search(r"vt/300\.jsonl: has [\d,]+ bytes, expected [\d,]+; made again", said[0])
    path.write_bytes(first.replace(b"grass", b"glass", 1))
    assert run() == first
    assert "was changed" in said[0]
    path.with_suffix(".json").write_text("{")
    assert run() == first
    assert "is damaged; made again" in said[0]
    path.unlink()
    assert run() == first

    assert run(3).startswith(first)
    assert "kept" not in "".join(said)
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text(
        json.dumps(json.loads((good / "tokenizer.json").read_text()))
    )
    run(3, other)
    assert "kept" not in "".join(said)
    assert not list(path.parent.glob(".*"))


def test_settings_and_texts_are_marked(made: Path) -> None:
    kinds = {task: read_metadata(made, task, 4096).kind for task in TASKS}
    without = {"niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe"}
    assert kinds == {task: None if task in without else "fallback" for task in TASKS}
    metadata = read_metadata(made, "cwe", 4096)
    assert metadata.settings == {
        "name": "published",
        "budget": 120,
        "common": 10,
        "frequency": 30,
        "other": 3,
        "example": [40, 10, 3],
        "words": "wonderwords",
    }
    assert dataclasses.asdict(metadata)["generator"] == generation.GENERATOR


def test_pairs_of_words_where_words_are_too_few(good: Path, tmp_path: Path) -> None:
    generate(good, [200_000], 1, tmp_path, tasks=["cwe"], workers=1, say=lambda line: None)
    assert read_metadata(tmp_path, "cwe", 200_000).settings["words"] == "pairs"
    (sample,) = read(tmp_path, "cwe", 200_000)
    assert all("-" in word for word in sample["outputs"])


def test_refusals(good: Path, tmp_path: Path) -> None:
    def refused(
        message: str,
        lengths: tuple[int, ...] = (256,),
        samples: int = 1,
        tasks: tuple[str, ...] = TASKS,
    ) -> None:
        with pytest.raises(UserError, match=message):
            generate(
                good,
                lengths,
                samples,
                tmp_path / "out",
                tasks=tasks,
                workers=1,
                say=lambda line: None,
            )
        assert not (tmp_path / "out").exists()

    refused(
        r"niah_single_1: 20 tokens are too few for its smallest settings, which needs \d+ tokens",
        (20,),
    )
    refused("qa_2: 60 tokens are too few", (60,), tasks=("qa_2",))
    refused(
        "task 'niah_singl_1': expected one of .* \\(did you mean 'niah_single_1'",
        tasks=("niah_singl_1",),
    )
    refused("expected numbers of 1 or more", samples=0)
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        generate(tmp_path, [256], 1, tmp_path / "out", workers=1, say=lambda line: None)
    with pytest.raises(UserError, match=r"256\.json"):
        read_metadata(tmp_path, "vt", 256)


def test_full_disk(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        with atomic_write(path) as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")  # takes no byte
            yield temporary

    generate(good, [256], 1, tmp_path, tasks=["vt"], workers=1, say=lambda line: None)
    monkeypatch.setattr(generation, "atomic_write", full)
    with pytest.raises(UserError, match="no space left on the device, finished files are kept"):
        generate(good, [256], 1, tmp_path, tasks=["vt", "fwe"], workers=1, say=lambda line: None)
    assert read_metadata(tmp_path, "vt", 256).count == 1
    assert [path.name for path in (tmp_path / "fwe").iterdir()] == []


def test_reference_counts_where_the_fast_encoder_differs(
    made: Path, good: Path, tmp_path: Path, monkeypatch
) -> None:
    made_by: list[bool] = []

    class Wrong(counting.Encoder):
        def __init__(self, folder: Path, reference_only: bool = False, *settings: float) -> None:
            made_by.append(reference_only)
            super().__init__(folder, reference_only, *settings)

        def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            if self.name.startswith("gigatoken"):
                raise EncoderMismatch(1)
            return super().encode(texts)

    monkeypatch.setattr(counting, "Encoder", Wrong)
    generate(good, [256], 3, tmp_path, tasks=["fwe"], workers=1, say=lambda line: None)
    assert made_by == [False, True]
    assert (
        samples_file(tmp_path, "fwe", 256).read_bytes()
        == samples_file(made, "fwe", 256).read_bytes()
    )


@pytest.mark.parametrize(
    ("task", "prediction", "references", "percent"),
    [
        ("vt", " ABC, DEF", ["ABC", "DEF"], 100),
        ("vt", "abc and xyz", ["ABC", "DEF"], 50),
        ("cwe", "", ["apple", "pear"], 0),
        ("niah_single_1", "It is 1234567.", ["1234567"], 100),
        ("qa_1", "In the year 1066.", ["1067", "1066", "the 1066"], 100),
        ("qa_1", "\x00 the\x07river ", ["the\nriver"], 100),
        ("qa_2", "no idea", ["yes"], 0),
    ],
)
def test_metrics(task: str, prediction: str, references: list[str], percent: float) -> None:
    assert metrics.score(task, prediction, references) == percent


def test_import_is_light() -> None:
    code = (
        "import sys, evaluation.ruler.generation, evaluation.ruler.metrics, evaluation.ruler.corpora\n"
        "print([n for n in ('torch', 'transformers', 'lm_eval', 'numpy', 'nltk', 'tokenizers') if n in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
