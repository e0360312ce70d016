"""The data catalog: IBM's part whole, additions joined to it; ``granite41 data sources``."""

import json
import re
import subprocess
import sys
from importlib import resources

import pytest
import yaml

from data_prep.catalog.catalog import BYTES_PER_TOKEN, get_loading, load_catalog
from recipes.cli import main as cli
from recipes.common.errors import UserError

FOLDER = resources.files("data_prep.catalog")
IBM = json.loads((FOLDER / "disclosed.json").read_text(encoding="utf-8"))
OURS = yaml.safe_load((FOLDER / "loading.yaml").read_text(encoding="utf-8"))
FIELDS = {
    *("name", "url", "description", "size_MB", "languages", "type", "source", "data_provenance"),
    *("user_data", "synthetic", "seed_data"),
}
CONFIRMED = {"dataset card", "repository page", "public code", "not checked"}
STAGES = {
    "base.pre_training",
    "base.post_training",
    "instruct.pre_training",
    "instruct.post_training",
}
EVERY_ADDITION = {**OURS["sources"], **OURS["not_disclosed"]}


@pytest.fixture
def run(capsys, monkeypatch):
    def granite41(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["granite41", "data", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return granite41


def test_every_disclosed_source_is_there_once() -> None:
    ids = [entry["id"] for entry in IBM["sources"]]
    names = [entry["disclosed"]["name"] for entry in IBM["sources"]]
    # counted in IBM's files of base and instruct: 128 and 131 in pre-training, 91 and 115 in
    # post-training
    assert len(ids) == len(set(ids)) == len(set(names)) == 152
    listed = [stage for entry in IBM["sources"] for stage in entry["stages"]]
    assert {stage: listed.count(stage) for stage in STAGES} == {
        "base.pre_training": 128,
        "base.post_training": 91,
        "instruct.pre_training": 131,
        "instruct.post_training": 115,
    }


def test_every_disclosed_entry_is_whole() -> None:
    for entry in IBM["sources"]:
        assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", entry["id"])
        assert set(entry["disclosed"]) - {"date_obtained"} == FIELDS, entry["id"]
        assert entry["disclosed"]["size_MB"] > 0, entry["id"]
        assert entry["stages"], entry["id"]
        assert set(entry["stages"]) <= STAGES, entry["id"]


def test_the_disclosure_names_its_origin_and_carries_its_license() -> None:
    assert IBM["license"] == "CDLA-Permissive-2.0"
    assert "IBM" in IBM["origin"]
    text = (FOLDER / IBM["license_text"]).read_text(encoding="utf-8")
    assert "Community Data License Agreement - Permissive" in text
    assert "5.4." in text


def test_ours_joins_ibms_by_id() -> None:
    ids = {entry["id"] for entry in IBM["sources"]}
    assert set(OURS["sources"]) <= ids
    assert not set(OURS["not_disclosed"]) & ids


def test_whatever_ibm_calls_public_or_gives_an_address_for_has_an_entry() -> None:
    public = {
        entry["id"]
        for entry in IBM["sources"]
        if entry["disclosed"]["url"]
        or entry["disclosed"]["data_provenance"].startswith("Publicly available")
    }
    assert len(public) == 83
    assert public <= set(OURS["sources"])


@pytest.mark.parametrize(("name", "addition"), EVERY_ADDITION.items(), ids=list(EVERY_ADDITION))
def test_an_addition_is_loaded_or_says_why_not(name: str, addition: dict) -> None:
    assert set(addition) <= {"name", "public", "license", "load", "reason", "note", "tokens"}
    assert isinstance(addition["public"], bool)
    assert ("load" in addition) != ("reason" in addition)
    assert addition["public"] or "reason" in addition
    if "load" in addition:
        load = addition["load"]
        allowed = {
            "dataset",
            "configurations",
            "split",
            "format",
            "files",
            "text",
            "fields",
            "messages",
            "confirmed",
        }
        assert set(load) <= allowed
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", load["dataset"])
        assert len({"text", "fields", "messages"} & set(load)) == 1
        assert ("format" in load) == ("files" in load)
        assert load["confirmed"] in CONFIRMED


@pytest.mark.parametrize(
    "name", [name for name, entry in EVERY_ADDITION.items() if "tokens" in entry]
)
def test_token_counts_say_where_they_come_from(name: str) -> None:
    tokens = EVERY_ADDITION[name]["tokens"]
    source = load_catalog()[name]
    if "quote" in tokens:
        assert tokens["quote"] in source.disclosed.description
        assert source.tokens.origin == "published"
    elif "published" in tokens:
        assert source.tokens.origin == "published"
        assert source.tokens.why == tokens["published"]
    else:
        assert source.tokens.origin == "assumed"
    assert isinstance(source.tokens.value, int)


def test_catalog_joins_the_two() -> None:
    catalog = load_catalog()
    assert len(catalog) == 156
    gneissweb = catalog["gneissweb"]
    assert (gneissweb.name, gneissweb.category, gneissweb.public) == ("GneissWeb", "web", True)
    assert gneissweb.loading is None
    assert "Bloom" in gneissweb.reason
    assert (gneissweb.tokens.value, gneissweb.tokens.origin) == (10**13, "published")
    finemath = catalog["finemath"].loading
    assert finemath.dataset == "HuggingFaceTB/finemath"
    assert finemath.configurations == ("finemath-3plus", "infiwebmath-3plus")
    assert (finemath.split, finemath.text, finemath.confirmed) == ("train", "text", "dataset card")
    assert catalog["cosmopedia-v2"].loading.configurations == ("cosmopedia-v2",)
    assert catalog["txt360-free-law"].loading.files == ("data/freelaw/**/*.jsonl",)
    assert len(catalog["culturax"].languages) == 10
    webhose = catalog["webhose"]
    assert (webhose.public, webhose.license, webhose.loading) == (False, None, None)
    assert webhose.reason == webhose.disclosed.data_provenance
    assert catalog["stack-v3-train"].disclosed is None
    assert catalog["stack-v3-train"].category == ""


def test_a_size_becomes_tokens_at_four_bytes() -> None:
    papers = load_catalog()["txt360-papers"]
    assert BYTES_PER_TOKEN.value == 4
    # 161,446 MB
    assert papers.tokens.value == 40_361_500_000
    assert papers.tokens.origin == "assumed"
    assert "4 bytes per token" in papers.tokens.why


def test_seeds_are_known() -> None:
    seeds = {source.id for source in load_catalog().values() if source.seed}
    assert len(seeds) == 19
    assert {"openmathreasoning", "openthoughts2-1m", "open-code-instruct"} <= seeds
    assert "opencodeinstruct" not in seeds


def test_sources_lists_all(run) -> None:
    status, out, err = run("sources")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()[:1]}
    assert set(load_catalog()) <= set(rows)
    assert rows["gneissweb"].split()[1:7] == ["web", "30.2", "TB", "en", "apache-2.0", "yes"]
    assert "and 148 more" in rows["granite-feedback"]
    assert rows["webhose"].split()[1:] == ["web", "170", "GB", "en", "unknown", "no"]
    assert (
        "HuggingFaceTB/finemath (finemath-3plus, infiwebmath-3plus), train: text; dataset card"
        in rows["finemath"]
    )
    assert "seed" in rows["openmathreasoning"].split()
    assert "152 sources disclosed by IBM: 78 public, 62 of them loaded by datasets; 4 others" in out


def test_sources_json(run) -> None:
    rows = json.loads(run("sources", "--json")[1])
    assert [row["id"] for row in rows] == list(load_catalog())
    assert rows[0]["disclosed"] == IBM["sources"][0]["disclosed"]
    assert rows[0]["tokens"]["origin"] == "published"
    assert rows[1]["license"] is None


def test_sources_of_a_phase(run) -> None:
    status, out, err = run("sources", "--phase", "3")
    assert (status, err) == (0, "")
    assert (
        "phase3: synthetic: no public source of IBM's; stands in: nemotron-cc, cosmopedia-v2" in out
    )
    assert (
        "phase3: long_cot: no public source of IBM's; "
        "stands in: llama-nemotron-post-training-dataset," in out
    )
    assert (
        "phase3: code: partly not public; "
        "stands in: stack-v3-train, starcoderdata, github-code-clean" in out
    )
    assert "phase3: math: partly" not in out
    components = {line.split()[0] for line in out.splitlines() if "train: text" in line}
    assert {"math", "technical", "multilingual"} <= components


def test_sources_of_a_phase_json(run) -> None:
    stages = json.loads(run("sources", "--phase", "5", "--json")[1])
    assert [stage["stage"] for stage in stages] == ["lce_32k", "lce_128k", "lce_512k"]
    books, repositories = stages[2]["components"]
    assert (books["component"], books["percent"], books["has_public_source"]) == ("books", 80, True)
    assert repositories["has_public_source"] is False
    assert [source["id"] for source in repositories["sources"]] == ["stack-v3-train"]
    assert repositories["sources"][0]["loading"]["fields"] == ["files[].content"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sources", "--phase", "6"), "no such phase"),
        (("sources", "--phase", "phse3"), "did you mean 'phase3'?"),
        (("sources", "--mixture", "mine.yaml"), "add --phase N"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(run, words: tuple[str, ...], says: str) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith("granite41: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("words", ["data sources --json", "data plan --phase 3"])
def test_heavy_libraries_stay_out(words: str) -> None:
    script = (
        "import sys\n"
        "from recipes.cli import main as cli\n"
        f"sys.argv = ['granite41', *{words.split()!r}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'datasets', 'numpy', 'pyarrow', 'nemo', 'transformers'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "sys.exit(f'imported {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "inputs", "text_field"),
    [
        ("open-web-math", ("hf:open-web-math/open-web-math::train",), "text"),
        (
            "finemath",
            (
                "hf:HuggingFaceTB/finemath:finemath-3plus:train",
                "hf:HuggingFaceTB/finemath:infiwebmath-3plus:train",
            ),
            "text",
        ),
        ("txt360-free-law", ("hf:LLM360/TxT360/data/freelaw/**/*.jsonl",), "text"),
        ("openmathreasoning", ("hf:nvidia/OpenMathReasoning::cot",), "problem+generated_solution"),
        ("openthoughts2-1m", ("hf:open-thoughts/OpenThoughts2-1M::train",), "conversations[]"),
        ("stack-v3-train", ("hf:HuggingFaceCode/stack-v3-train::train",), "files[].content"),
    ],
)
def test_what_tokenizing_a_source_reads(
    name: str, inputs: tuple[str, ...], text_field: str
) -> None:
    loading, _ = get_loading(name)
    assert (loading.inputs, loading.text_field) == (inputs, text_field)


def test_each_split_is_an_input_of_its_own() -> None:
    loading, license = get_loading("llama-nemotron-post-training-dataset")
    splits = ("code", "math", "science", "chat", "safety")
    assert loading.inputs == tuple(
        f"hf:nvidia/Llama-Nemotron-Post-Training-Dataset:SFT:{split}" for split in splits
    )
    assert license == load_catalog()["llama-nemotron-post-training-dataset"].license


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gneissweb",
            "gneissweb: `datasets` cannot load it: the address holds a card and figures, no text",
        ),
        ("webhose", "webhose: `datasets` cannot load it"),
        ("fine-math", r"fine-math: no such source \(did you mean 'finemath'\?\)"),
    ],
)
def test_a_source_that_cannot_be_tokenized(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_loading(name)
