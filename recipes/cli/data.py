"""The commands ``granite41 data ...``: one function per command, each importing what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from recipes.common.errors import UserError
from recipes.common.multi_value import MultiValueCommand
from recipes.spec.pretraining import LCE_512K
from recipes.spec.sizes import SIZES

data_app = typer.Typer(help="Prepare training data.", no_args_is_help=True, rich_markup_mode=None)


@data_app.command("tiny")
def data_tiny(
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    vocab_size: Annotated[int, typer.Option(help="Entries of the tokenizer.")] = SIZES[
        "tiny"
    ].vocab_size.value,
    text: Annotated[
        Path | None, typer.Option(help="A folder of your own text instead of this machine's.")
    ] = None,
) -> None:
    """Prepare real text of this machine, or your own, for size tiny: tokenizer and Megatron files."""
    from data_prep.tiny import prepare

    prepare(output, vocab_size=vocab_size, text=text, say=typer.echo)


@data_app.command("tokenize", cls=MultiValueCommand)
def data_tokenize(
    tokenizer: Annotated[Path, typer.Option(help="The folder of a Hugging Face tokenizer.")],
    output: Annotated[Path, typer.Option(help="The folder to write, or to continue.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="FILE...",
            help="JSON lines, parquet, text, also .gz or .zst; hf:NAME.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Instead of --input: a source that `data sources` lists."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes  [default: one for each core]")
    ] = None,
    text_field: Annotated[
        str, typer.Option(help="The field with the text; a+b joins two, a[] a list.")
    ] = "text",
    licence: Annotated[
        str | None, typer.Option(help="The text's licence, for the manifests.")
    ] = None,
    skip_bad_records: Annotated[
        bool, typer.Option("--skip-bad-records", help="Leave out, name and count what is no text.")
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="Shards at most  [default: one for every 32 MiB, at most 1,000]"),
    ] = None,
    shard: Annotated[
        int | None, typer.Option(help="Do only the shard of this number, as in a job array.")
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            "--on", metavar="local|CLUSTER", help="This machine, or a job array on a Slurm cluster."
        ),
    ] = "local",
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Of a cluster's jobs, for their logs  [default: in the cluster's folder]"
        ),
    ] = None,
    dryrun: Annotated[
        bool, typer.Option("--dryrun", help="Say what would be done, and do nothing.")
    ] = False,
) -> None:
    """Tokenize documents into shards of Megatron's .bin/.idx files; continue if it was interrupted."""
    import os

    from data_prep.catalog.catalog import get_loading
    from data_prep.tokenization import tokenize

    if bool(inputs) == bool(source):
        raise UserError(
            "--input and --source: expected one of the two; name files, or a source of the catalog"
        )
    if source:
        loading, known_licence = get_loading(source)
        inputs, text_field, licence = (
            list(loading.inputs),
            loading.text_field,
            licence or known_licence,
        )
    if on != "local":
        from recipes.launch.on_slurm import tokenize_on_cluster

        if shard is not None:
            raise UserError(
                f"--shard {shard}: --on {on} does every shard, each in its job; leave one of the two out"
            )
        options = [f"--text-field={text_field}", *([f"--licence={licence}"] if licence else [])]
        options += ["--skip-bad-records"] if skip_bad_records else []
        tokenize_on_cluster(
            on,
            run_dir,
            inputs or [],
            output,
            tokenizer,
            shards,
            workers,
            options,
            dryrun,
            say=typer.echo,
        )
        return
    tokenize(
        inputs or [],
        output,
        tokenizer,
        text_field=text_field,
        licence=licence,
        skip_bad_records=skip_bad_records,
        workers=workers or os.cpu_count() or 1,
        shards_wanted=shards,
        only=shard,
        dryrun=dryrun,
        say=typer.echo,
        warn=lambda note: typer.echo(note, err=True),
    )


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
        Path, typer.Option(help="The folder of the tokenizer that encoded all of them.")
    ],
) -> None:
    """Join tokenized components into a folder for `granite41 train --data`; their files stay where they are."""
    from data_prep.assemble import assemble, parse_components

    manifest = assemble(output, tokenizer, parse_components(components))
    for name, part in manifest["components"].items():
        typer.echo(
            f"{name}: {len(part['shards'])} shards, {part['documents']:,} documents, {part['tokens']:,} tokens"
        )


@data_app.command("sources")
def data_sources(
    phase: Annotated[
        str | None, typer.Option(metavar="N", help="1 to 5, or a stage such as lce_32k.")
    ] = None,
    mixture: Annotated[
        Path | None, typer.Option(help="Your own mixture file  [default: the recipe's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the catalog: what IBM disclosed and how to load it; with --phase, the sources by component."""
    import json

    from data_prep.catalog.catalog import load_catalog
    from data_prep.mixtures import show
    from data_prep.mixtures.mixture import load_mixture, phase_stages

    if phase is None:
        if mixture is not None:
            raise UserError(
                f"--mixture {mixture}: the catalog needs no mixture; add --phase N or leave --mixture out"
            )
        sources = load_catalog().values()
        if as_json:
            typer.echo(
                json.dumps(
                    [show.source_json(source) for source in sources], indent=2, ensure_ascii=False
                )
            )
        else:
            show.print_sources(sources)
        return
    mixtures = [load_mixture(stage, mixture) for stage in phase_stages(phase)]
    for warning in (warning for one in mixtures for warning in one.warnings):
        typer.echo(f"granite41: {warning}", err=True)
    if as_json:
        typer.echo(
            json.dumps([show.mixture_json(one) for one in mixtures], indent=2, ensure_ascii=False)
        )
        return
    for one in mixtures:
        show.print_mixture(one)


@data_app.command("plan")
def data_plan(
    phase: Annotated[str, typer.Option(metavar="N", help="1 to 5, or a stage such as lce_32k.")],
    tokens: Annotated[
        str | None, typer.Option(help="Of a stage: 2T, 500B, 1e12, ...  [default: the recipe's]")
    ] = None,
    mixture: Annotated[
        Path | None, typer.Option(help="Your own mixture file  [default: the recipe's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Plan a phase's data: tokens wanted of each source, tokens it has, how often it would be read."""
    import json

    from data_prep.mixtures import show
    from data_prep.mixtures.mixture import load_mixture, parse_tokens, phase_stages, plan

    budget = parse_tokens(tokens) if tokens is not None else None
    plans = [plan(load_mixture(stage, mixture), budget) for stage in phase_stages(phase)]
    for one in plans:
        for warning in show.plan_warnings(one):
            typer.echo(f"granite41: {warning}", err=True)
    if as_json:
        typer.echo(json.dumps([show.plan_json(one) for one in plans], indent=2, ensure_ascii=False))
        return
    for one in plans:
        show.print_plan(one)


@data_app.command("repositories", cls=MultiValueCommand)
def data_repositories(
    tokenizer: Annotated[
        Path, typer.Option(help="The folder of the Hugging Face tokenizer that counts.")
    ],
    output: Annotated[Path, typer.Option(help="The folder to write, or to continue.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="FILE...",
            help="Records, one for each file of a repository; hf:NAME.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Instead of --input: each direct sub-folder is a repository."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(help="Of a document, end-of-text included.")
    ] = LCE_512K.sequence_length.value,
    repository_field: Annotated[
        str, typer.Option(help="The field that holds the repository's name.")
    ] = "repo",
    path_field: Annotated[str, typer.Option(help="The field that holds the file's path.")] = "path",
    text_field: Annotated[str, typer.Option(help="The field that holds the file's text.")] = "text",
    files_field: Annotated[
        str | None,
        typer.Option(help="Where a record is a whole repository: its field that lists the files."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes  [default: one for each core]")
    ] = None,
) -> None:
    """Pack the files of each code repository into long documents; continue if it was interrupted."""
    import os

    from data_prep.repositories import prepare

    prepare(
        output,
        tokenizer,
        inputs,
        folder,
        max_tokens=max_tokens,
        repository_field=repository_field,
        path_field=path_field,
        text_field=text_field,
        files_field=files_field,
        workers=workers or os.cpu_count() or 1,
        say=typer.echo,
        warn=lambda note: typer.echo(note, err=True),
    )


@data_app.command("lengths")
def data_lengths(
    data: Annotated[
        Path,
        typer.Option(help="A data folder, a tokenized folder, or the prefix of one .idx file."),
    ],
    stage: Annotated[
        str, typer.Option(help="A stage that `granite41 list` names.")
    ] = LCE_512K.name,
    size: Annotated[str, typer.Option(help="3b, 8b, 30b or tiny.")] = "8b",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Report how long documents are against a stage's sequence length; warn where they are too short for it."""
    from data_prep.lengths import report

    report(
        data,
        stage,
        size,
        as_json=as_json,
        warn=lambda warning: typer.echo(f"granite41: {warning}", err=True),
    )


@data_app.command("filter", cls=MultiValueCommand)
def data_filter(
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="FILE...",
            help="JSON lines, parquet, text, also .gz or .zst; hf:NAME.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The folder to write, or to continue.")],
    normalise: Annotated[
        bool,
        typer.Option(
            "--normalise",
            help="Unicode NFC, \\n line ends, no control characters, encoding repaired.",
        ),
    ] = False,
    min_characters: Annotated[
        int | None, typer.Option(min=1, help="Remove shorter documents.")
    ] = None,
    max_characters: Annotated[
        int | None, typer.Option(min=1, help="Remove longer documents.")
    ] = None,
    exact_duplicates: Annotated[
        bool, typer.Option("--exact-duplicates", help="Keep the first of equal texts.")
    ] = False,
    near_duplicates: Annotated[
        bool,
        typer.Option(
            "--near-duplicates", help="Keep the first of similar texts (MinHash of word 5-grams)."
        ),
    ] = False,
    jaccard: Annotated[
        float, typer.Option(min=0.5, max=1, help="The similarity of near duplicates.")
    ] = 0.8,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC...",
            help="Remove what shares words with evaluation texts: files, task:NAME, task:FILE.yaml.",
        ),
    ] = None,
    ngram_words: Annotated[
        int, typer.Option(min=1, help="Words in a row that must not be shared.")
    ] = 13,
    text_field: Annotated[
        str, typer.Option(help="The field of a record that holds the text.")
    ] = "text",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes  [default: one for each core]")
    ] = None,
) -> None:
    """Pass documents through the quality steps asked for, and say what each removed; continue if it was interrupted."""
    import os

    from data_prep.quality import filter
    from recipes.common.tables import print_table

    steps = filter.Steps(
        normalise=normalise,
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
        workers=workers or os.cpu_count() or 1,
        say=typer.echo,
    )
    print_table(["step", "removed", "changed", "remaining"], filter.table(manifest))
