"""RULER's prompts: their length by an independent count, and the contents of each task."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from data_prep import tokenizer as bpe
from evaluation.ruler import corpora
from evaluation.ruler.fallback import made_up_questions
from evaluation.ruler.generation import generate, read_metadata
from evaluation.ruler.settings import NEEDLE_TASKS, TASKS
from tests.helpers.ruler_samples import ESSAYS, LENGTHS, LONG, check_lengths, read_samples

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("length", [*LENGTHS, LONG])
def test_lengths(made: Path, good: Path, length: int) -> None:
    check_lengths(made, good, length)
    if length >= 4096:
        for task in TASKS:
            assert read_metadata(made, task, length).fill_min >= 0.99, task
            assert read_metadata(made, task, length).settings["name"] == "published", task


def test_lengths_with_a_poor_tokenizer(poor: Path, tmp_path: Path) -> None:
    lengths = (256, 300)
    generate(poor, lengths, 4, tmp_path, workers=1)
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
    generate(tmp_path / "bos", [512], 3, tmp_path / "out", workers=1)
    check_lengths(tmp_path / "out", tmp_path / "bos", 512)


def test_tokenizer_whose_pieces_do_not_add_up(tmp_path: Path) -> None:
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    # the words are not split before the model sees them: any piece depends on its neighbors
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
    generate(tmp_path / "unigram", [700], 2, tmp_path / "out", workers=1)
    check_lengths(tmp_path / "out", tmp_path / "unigram", 700)


PUBLISHED = {
    "one": (
        "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {kind} afterwards.\n",
        "\nWhat is the special magic {kind} for {query} mentioned in the provided text?",
        " The special magic {kind} for {query} mentioned in the provided text is",
    ),
    "several": (
        "Some special magic numbers are hidden within the following text. "
        "Make sure to memorize it. I will quiz you about the numbers afterwards.\n",
        "\nWhat are all the special magic numbers for {query} mentioned in the provided text?",
        " The special magic numbers for {query} mentioned in the provided text are",
    ),
    "vt": (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
        "\nQuestion: Find all variables that are assigned the value {query} in the text above.",
        " Answer: According to the chain(s) of variable assignment in the text above, "
        "5 variables are assigned the value {query}, they are: ",
    ),
    "cwe": (
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n",
        "\nQuestion: What are the 10 most common words in the above list?",
        " Answer: The top 10 words that appear most often in the list are:",
    ),
    "fwe": (
        "Read the following coded text and track the frequency of each coded word. "
        "Find the three most frequently appeared coded words. ",
        "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. "
        "What are the three most frequently appeared words in the above coded text?",
        " Answer: According to the coded text above, the three most frequently appeared words are:",
    ),
    "qa": (
        "Answer the question based on the given documents. "
        "Only give me the answer and do not output any other words.\n\n"
        "The following are given documents.\n\n",
        "\n\nAnswer the question based on the given documents. "
        "Only give me the answer and do not output any other words.\n\nQuestion: {query}",
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
    for sample in read_samples(made, task, length):
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
            noise = (
                "The grass is green. The sky is blue. The sun is yellow. "
                "Here we go. There and back again."
            )
            lines = haystack.splitlines()
            assert set(lines[:-1]) == {noise}
            assert noise.startswith(lines[-1])
        else:
            # the essays from their beginning, again and again
            assert (f"{ESSAYS} " * 8).startswith(haystack)


def test_needle_places_vary(good: Path, tmp_path: Path) -> None:
    generate(good, [1024], 20, tmp_path, tasks=["niah_single_1", "niah_single_2"], workers=1)
    for task in ("niah_single_1", "niah_single_2"):
        samples = read_samples(tmp_path, task, 1024)
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
    for sample in read_samples(made, "vt", length):
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

    for sample in read_samples(made, "cwe", length):
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
    for sample in read_samples(made, "fwe", length):
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
    for sample in read_samples(made, "fwe", length):
        head = PUBLISHED["fwe"][0] if sample["settings"] == "published" else "A coded text: "
        counts = Counter(sample["input"].removeprefix(head).split("\nQuestion")[0].split(" "))
        noise = counts.pop("...")
        answers = [counts.pop(word) for word in sample["outputs"]]
        assert noise > answers[0] >= answers[1] >= answers[2] > max(counts.values(), default=0)


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
@pytest.mark.parametrize("length", [4096, LONG])
def test_questions(made: Path, task: str, length: int) -> None:
    known = corpora.load(None).questions(task)
    for sample in read_samples(made, task, length):
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
        # all documents come equally often, or once more or less; the gold ones once more at most
        assert set(whole) == set(known.documents)
        assert max(whole.values()) - min(whole.values()) <= 2


def test_question_that_does_not_fit_is_passed_over(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made_up_questions.squad_format()
    data["data"][0]["paragraphs"][0]["context"] += " It is a long story." * 100
    monkeypatch.setattr(made_up_questions, "squad_format", lambda: data)
    generate(good, [512], 2, tmp_path, tasks=["qa_1"], workers=1)
    # the first paragraph had two questions
    assert (
        "Question: What is Aldermoor known for?" in read_samples(tmp_path, "qa_1", 512)[0]["input"]
    )


def test_hotpot_keeps_what_supports_the_answer_when_short(made: Path, good: Path) -> None:
    known = corpora.load(None).questions("qa_2")
    assert read_metadata(made, "qa_2", 256).settings["gold"] == "supporting"
    for sample in read_samples(made, "qa_2", 256):
        question = known.items[sample["index"]]
        assert len(question.supporting) == 2
        assert all(known.documents[number] in sample["input"] for number in question.supporting)


def test_pairs_of_words_where_words_are_too_few(good: Path, tmp_path: Path) -> None:
    generate(good, [200_000], 1, tmp_path, tasks=["cwe"], workers=1)
    assert read_metadata(tmp_path, "cwe", 200_000).settings["words"] == "pairs"
    (sample,) = read_samples(tmp_path, "cwe", 200_000)
    assert all("-" in word for word in sample["outputs"])
