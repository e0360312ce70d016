"""The run's report: one Markdown table over the stages, from their manifests."""

from pathlib import Path

from recipes.spec import STAGES
from recipes.spec.files import write_text
from recipes.training.stage_folder import read_manifest

COLUMNS = (
    "stage",
    "status",
    "tokens",
    "validation loss",
    "unigram entropy",
    "below entropy",
    "seconds",
    "checkpoint",
    "Hugging Face folder",
)


def write_report(run_folder: Path) -> Path:
    """Write ``report.md`` for what the run has done so far and return its path.

    Losses and entropies are in nats per token. The unigram entropy is that of the training blend's token counts: what
    a model that knows how often each token occurs, and nothing else, would score.
    """
    lines = [f"# Run {run_folder.name}", "", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    for stage in STAGES:
        manifest = read_manifest(run_folder / stage)
        if not manifest:
            continue
        loss, entropy = manifest.get("validation_loss"), manifest.get("unigram_entropy")
        exported = run_folder / stage / "hf"
        lines.append(
            _row(
                [
                    stage,
                    manifest["status"],
                    f"{manifest['tokens']:,}",
                    f"{loss:.3f}" if loss else "-",
                    f"{entropy:.3f}" if entropy else "-",
                    f"{1 - loss / entropy:.1%}" if loss and entropy else "-",
                    f"{manifest['seconds']:.0f}",
                    f"{stage}/{manifest['checkpoint']}" if manifest.get("checkpoint") else "-",
                    f"{stage}/hf" if exported.is_dir() else "-",
                ]
            )
        )
    lines += ["", "Losses and entropies in nats per token; the unigram entropy is that of the training blend.", ""]
    path = run_folder / "report.md"
    write_text(path, "\n".join(lines))
    return path


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
