"""The commands ``granite41 data ...``: one function per command, with late imports."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.common.cpus import usable_cpus
from recipes.common.errors import UserError
from recipes.common.multi_value import MultiValueCommand
from recipes.registry.stages import PRETRAIN_STAGES, STAGES
from recipes.spec.sizes import SIZES

if TYPE_CHECKING:
    from data_prep.tokenized_folder import TokenizedManifest

log = logging.getLogger(__name__)

# of the stages, the one with the longest sequences
LONGEST = max(PRETRAIN_STAGES, key=lambda name: PRETRAIN_STAGES[name].sequence_length.value)

data_app = typer.Typer(help="Prepare training data.", no_args_is_help=True, rich_markup_mode=None)

# flags that were spelled otherwise, and are still accepted
_OLD_SPELLINGS = {"licence": "license", "normalise": "normalize"}
_ACCEPT_OLD_SPELLINGS = {
    "token_normalize_func": lambda token: _OLD_SPELLINGS.get(token, token),
}

Output = Annotated[Path, typer.Option(help="The folder to write, or to continue.")]
Tokenizer = Annotated[Path, typer.Option(help="The folder of a Hugging Face tokenizer.")]
_INPUT = typer.Option(
    "--input",
    metavar="FILE...",
    help="JSON lines, parquet, text, also .gz, .zst, .xz, .bz2; hf:NAME.",
)
Inputs = Annotated[list[str], _INPUT]
OptionalInputs = Annotated[list[str] | None, _INPUT]
TextField = Annotated[
    str,
    typer.Option(help="The field with the text; a+b joins two, a[] a list."),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes  [default: one for each core]"),
]
Phase = Annotated[
    str,
    typer.Option(metavar="N", help="1 to 5, or a stage such as lce_32k."),
]
MixtureFile = Annotated[
    Path | None,
    typer.Option(help="Your own mixture file  [default: the recipe's]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@data_app.command("tiny")
def data_tiny(
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    vocab_size: Annotated[
        int,
        typer.Option(help="Entries of the tokenizer."),
    ] = SIZES["tiny"].vocab_size.value,
    text: Annotated[
        Path | None,
        typer.Option(help="A folder of your own text instead of this machine's."),
    ] = None,
) -> None:
    """Prepare text of this machine, or your own, for size tiny: tokenizer and Megatron files."""
    from data_prep.tiny import prepare

    prepare(output, vocab_size=vocab_size, text=text)


Source = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Instead of --input: a source that `data sources` lists."),
]
License = Annotated[str | None, typer.Option(help="The text's license, for the manifests.")]
SkipBadRecords = Annotated[
    bool,
    typer.Option("--skip-bad-records", help="Leave out, name and count what is no text."),
]
MaxShards = Annotated[
    int | None,
    typer.Option(min=1, help="Shards at most  [default: one for every 32 MiB, at most 1,000]"),
]
OneShard = Annotated[
    int | None,
    typer.Option(help="Do only the shard of this number, as in a job array."),
]
Where = Annotated[
    str,
    typer.Option(metavar="local|CLUSTER", help="This machine, or a job array on a Slurm cluster."),
]
RunDir = Annotated[
    Path | None,
    typer.Option(help="Of a cluster's jobs, for their logs  [default: in the cluster's folder]"),
]
Dryrun = Annotated[
    bool,
    typer.Option("--dryrun", help="Say what would be done, and do nothing."),
]


@data_app.command("tokenize", cls=MultiValueCommand, context_settings=_ACCEPT_OLD_SPELLINGS)
def data_tokenize(
    tokenizer: Tokenizer,
    output: Output,
    inputs: OptionalInputs = None,
    source: Source = None,
    workers: Workers = None,
    text_field: TextField = "text",
    license: License = None,
    skip_bad_records: SkipBadRecords = False,
    shards: MaxShards = None,
    shard: OneShard = None,
    on: Where = "local",
    run_dir: RunDir = None,
    dryrun: Dryrun = False,
) -> None:
    """Tokenize documents into shards of Megatron's .bin/.idx files; continue an interrupted run."""
    if bool(inputs) == bool(source):
        raise UserError(
            "--input and --source: expected one of the two; name files, or a source of the catalog"
        )
    if source:
        inputs, text_field, known_license = _read_catalog(source)
        license = license or known_license

    # a job for each shard, which runs this command with --shard
    if on != "local":
        from recipes.launch.on_slurm import tokenize_on_cluster
        from recipes.runs.commands import TokenizeOptions

        _require_no_shard(shard, on)
        options = TokenizeOptions(
            inputs=tuple(inputs or []),
            output=output,
            tokenizer=tokenizer,
            shards=shards,
            text_field=text_field,
            license=license,
            skip_bad_records=skip_bad_records,
            workers=workers,
        )
        tokenize_on_cluster(on, run_dir, options, dryrun)
        return

    from data_prep.tokenization import tokenize

    manifest = tokenize(
        inputs or [],
        output,
        tokenizer,
        text_field=text_field,
        license=license,
        skip_bad_records=skip_bad_records,
        workers=workers or usable_cpus(),
        max_shards=shards,
        only=shard,
        dryrun=dryrun,
    )
    # of a job array the last job has it
    if manifest:
        _print_tokenized(manifest)


def _require_no_shard(shard: int | None, on: str) -> None:
    if shard is not None:
        raise UserError(
            f"--shard {shard}: --on {on} does every shard, each in its job; "
            f"leave one of the two out"
        )


def _print_tokenized(manifest: "TokenizedManifest") -> None:
    from data_prep import summary

    read = manifest.documents + sum(manifest.left_out.values())
    kept = {"documents": manifest.documents, "tokens": manifest.tokens}
    summary.print_counts({"records": read}, manifest.left_out, kept)
    summary.print_passed_over(manifest.passed_over)


def _read_catalog(source: str) -> tuple[list[str], str, str | None]:
    """Return the inputs of a source, the field with its text, and its license where it is known."""
    from data_prep.catalog.catalog import get_loading

    loading, license = get_loading(source)
    return list(loading.inputs), loading.text_field, license


@data_app.command("assemble")
def data_assemble(
    components: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=DIR[:WEIGHT]...",
            help="Components of the mixture and their sources' folders.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The data folder to write.")],
    tokenizer: Annotated[
        Path,
        typer.Option(help="The folder of the tokenizer that encoded all of them."),
    ],
) -> None:
    """Join tokenized components into a folder for `granite41 train --data`; their files stay."""
    from data_prep.assemble import assemble, parse_components

    manifest = assemble(output, tokenizer, parse_components(components))
    for name, component in manifest.components.items():
        typer.echo(
            f"{name}: {len(component.shards)} shards, {component.documents:,} documents, "
            f"{component.tokens:,} tokens"
        )


@data_app.command("sources")
def data_sources(
    phase: Annotated[
        str | None,
        typer.Option(metavar="N", help="1 to 5, or a stage such as lce_32k."),
    ] = None,
    mixture: MixtureFile = None,
    as_json: AsJson = False,
) -> None:
    """List the catalog: what IBM disclosed and how to load it; with --phase, by component."""
    from data_prep.catalog.catalog import load_catalog
    from data_prep.mixtures import show
    from data_prep.mixtures.mixture import load_mixture, phase_stages

    # the whole catalog
    if phase is None:
        if mixture is not None:
            raise UserError(
                f"--mixture {mixture}: the catalog needs no mixture; "
                f"add --phase N or leave --mixture out"
            )
        sources = load_catalog().values()
        if as_json:
            _print_json([show.source_json(source) for source in sources])
        else:
            show.print_sources(sources)
        return

    # a phase may have several stages, such as the three of long-context extension
    mixtures = [load_mixture(stage, mixture) for stage in phase_stages(phase)]
    for stage_mixture in mixtures:
        for warning in stage_mixture.warnings:
            log.warning("%s", warning)
    if as_json:
        _print_json([show.mixture_json(stage_mixture) for stage_mixture in mixtures])
        return
    for stage_mixture in mixtures:
        show.print_mixture(stage_mixture)


@data_app.command("plan")
def data_plan(
    phase: Phase,
    tokens: Annotated[
        str | None,
        typer.Option(help="Of a stage: 2T, 500B, 1e12, ...  [default: the recipe's]"),
    ] = None,
    mixture: MixtureFile = None,
    as_json: AsJson = False,
) -> None:
    """Plan a phase's data: tokens needed and available of each source, and its epochs."""
    from data_prep.mixtures import show
    from data_prep.mixtures.mixture import load_mixture, parse_tokens, phase_stages, plan

    budget = parse_tokens(tokens) if tokens is not None else None
    plans = [plan(load_mixture(stage, mixture), budget) for stage in phase_stages(phase)]
    for stage_plan in plans:
        for warning in show.plan_warnings(stage_plan):
            log.warning("%s", warning)
    if as_json:
        _print_json([show.plan_json(stage_plan) for stage_plan in plans])
        return
    for stage_plan in plans:
        show.print_plan(stage_plan)


RepositoriesFolder = Annotated[
    Path | None,
    typer.Option(help="Instead of --input: each direct sub-folder is a repository."),
]
MaxTokens = Annotated[int, typer.Option(help="Of a document, end-of-text included.")]
RepositoryField = Annotated[str, typer.Option(help="The field that holds the repository's name.")]
PathField = Annotated[str, typer.Option(help="The field that holds the file's path.")]
FileTextField = Annotated[str, typer.Option(help="The field that holds the file's text.")]
FilesField = Annotated[
    str | None,
    typer.Option(help="Where a record is a whole repository: its field that lists the files."),
]


@data_app.command("repositories", cls=MultiValueCommand)
def data_repositories(
    tokenizer: Tokenizer,
    output: Output,
    inputs: OptionalInputs = None,
    folder: RepositoriesFolder = None,
    max_tokens: MaxTokens = PRETRAIN_STAGES[LONGEST].sequence_length.value,
    repository_field: RepositoryField = "repo",
    path_field: PathField = "path",
    text_field: FileTextField = "text",
    files_field: FilesField = None,
    workers: Workers = None,
) -> None:
    """Pack each code repository's files into long documents; continue if it was interrupted."""
    from data_prep import summary
    from data_prep.repositories import FieldNames, prepare

    manifest = prepare(
        output,
        tokenizer,
        inputs,
        folder,
        max_tokens=max_tokens,
        fields=FieldNames(repository_field, path_field, text_field, files_field),
        workers=workers or usable_cpus(),
    )
    kept = {name: manifest[name] for name in ("files", "repositories", "documents", "tokens")}
    summary.print_counts({}, manifest["left_out"], kept)
    summary.print_passed_over(manifest["passed_over"])


@data_app.command("lengths")
def data_lengths(
    data: Annotated[
        Path,
        typer.Option(help="A data folder, a tokenized folder, or the prefix of one .idx file."),
    ],
    stage: Annotated[
        str,
        typer.Option(help="A stage that `granite41 list` names."),
    ] = LONGEST,
    size: Annotated[str, typer.Option(help="3b, 8b, 30b or tiny.")] = "8b",
    as_json: AsJson = False,
) -> None:
    """Report the documents' lengths; warn where they are too short for a stage's sequences."""
    from data_prep.lengths import report

    report(data, stage, size, as_json=as_json)


Normalize = Annotated[
    bool,
    typer.Option(
        "--normalize",
        help="Unicode NFC, \\n line ends, no control characters, encoding repaired.",
    ),
]
MinCharacters = Annotated[int | None, typer.Option(min=1, help="Remove shorter documents.")]
MaxCharacters = Annotated[int | None, typer.Option(min=1, help="Remove longer documents.")]
ExactDuplicates = Annotated[
    bool,
    typer.Option("--exact-duplicates", help="Keep the first of equal texts."),
]
NearDuplicates = Annotated[
    bool,
    typer.Option(
        "--near-duplicates",
        help="Keep the first of similar texts (MinHash of word 5-grams).",
    ),
]
Jaccard = Annotated[
    float,
    typer.Option(min=0.5, max=1, help="The similarity of near duplicates."),
]
Decontaminate = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPEC...",
        help="Remove what shares words with evaluation texts: files, task:NAME, task:FILE.yaml.",
    ),
]
NgramWords = Annotated[
    int,
    typer.Option(min=1, help="Words in a row that must not be shared."),
]


@data_app.command("filter", cls=MultiValueCommand, context_settings=_ACCEPT_OLD_SPELLINGS)
def data_filter(
    inputs: Inputs,
    output: Output,
    normalize: Normalize = False,
    min_characters: MinCharacters = None,
    max_characters: MaxCharacters = None,
    exact_duplicates: ExactDuplicates = False,
    near_duplicates: NearDuplicates = False,
    jaccard: Jaccard = 0.8,
    decontaminate: Decontaminate = None,
    ngram_words: NgramWords = 13,
    text_field: TextField = "text",
    workers: Workers = None,
) -> None:
    """Pass documents through quality steps, print what each removed; continue if interrupted."""
    from data_prep import summary
    from data_prep.quality import filter
    from recipes.common.tables import print_table

    steps = filter.Steps(
        normalize=normalize,
        min_characters=min_characters,
        max_characters=max_characters,
        exact_duplicates=exact_duplicates,
        near_duplicates=jaccard if near_duplicates else None,
        decontaminate=tuple(decontaminate or ()),
        ngram_words=ngram_words,
    )
    manifest = filter.run(
        inputs,
        output,
        steps,
        text_field=text_field,
        workers=workers or usable_cpus(),
    )
    print_table(["step", "removed", "changed", "remaining"], filter.table(manifest))
    summary.print_passed_over(manifest["passed_over"])


SequenceLength = Annotated[int, typer.Option(min=2, help="The most tokens of a sequence.")]
SpecialTokens = Annotated[
    str,
    typer.Option(
        metavar="refuse|escape",
        help="What to do with special tokens that a text spells out.",
    ),
]


@data_app.command("pack", cls=MultiValueCommand)
def data_pack(
    inputs: Inputs,
    tokenizer: Tokenizer,
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    sequence_length: SequenceLength = STAGES["sft"].sequence_length.value,
    special_tokens: SpecialTokens = "refuse",
    skip_bad_records: SkipBadRecords = False,
    workers: Workers = None,
    dryrun: Dryrun = False,
    as_json: AsJson = False,
) -> None:
    """Pack conversations whole into sequences, with the mask of what is trained."""
    from data_prep import summary
    from data_prep.conversations.pack import Settings, pack

    if special_tokens not in ("refuse", "escape"):
        raise UserError(
            f"--special-tokens {special_tokens}: expected refuse or escape; choose one of them"
        )
    settings = Settings(
        tokenizer,
        sequence_length,
        escape=special_tokens == "escape",
        skip_bad_records=skip_bad_records,
    )
    manifest = pack(inputs, output, settings, workers=workers or usable_cpus(), dryrun=dryrun)
    if manifest is None:
        return
    if as_json:
        _print_json(asdict(manifest))
        return
    left_out = sum(manifest.left_out.values())
    kept = {
        "conversations": manifest.conversations,
        "sequences": manifest.sequences,
        "tokens": manifest.tokens,
        "trained tokens": manifest.trained_tokens,
    }
    escaped = {f"{name} escaped": count for name, count in manifest.special_tokens.items()}
    read = {"records": manifest.conversations + left_out}
    summary.print_counts(read, manifest.left_out, kept | escaped)
    summary.print_passed_over(manifest.passed_over)
    typer.echo(
        f"{manifest.trained_share:.1%} of the tokens are trained; tokens fill "
        f"{manifest.efficiency:.1%} of the sequences"
    )


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
