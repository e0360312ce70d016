"""Plans: GPUs, prices, shares and failures out of range, layouts that do not fit."""

from tests.bad_inputs.row import Row

PLAN = "plan phase1 --size 8b"

# what is wrong, the words after plan phase1 --size 8b, what the sentence says
CASES = [
    ("an unknown GPU", "--gpu a100", "unknown GPU 'a100' (did you mean 'h100'?); known are h100"),
    ("no GPUs", "--gpus 0", "--gpus is 0, expected 1 to 1e+06"),
    (
        "GPUs that its layout does not divide",
        "--gpus 1000",
        "the nearest counts that do are 512 and 1,024",
    ),
    ("an MFU above 1", "--mfu 1.1", "--mfu is 1.1, expected 0.01 to 1"),
    ("an MFU in percent", "--mfu 40", "--mfu is 40, expected 0.01 to 1"),
    ("an MFU that is no number", "--mfu nan", "--mfu is nan, expected 0.01 to 1"),
    ("a price below zero", "--price=-1", "--price is -1, expected 0 to 1000"),
    ("a job of minutes", "--time-limit 0.1", "--time-limit is 0.1, expected 0.5 to 720"),
    ("a GPU that always fails", "--failure-hours 1", "--failure-hours is 1, expected 100 to"),
    ("an unknown network", "--network ndrr", "unknown network 'ndrr' (did you mean 'ndr'?)"),
    (
        "memory that does not fit",
        "--gpu h100 --gpus 256 parallelism.micro_batch_size=8",
        "exceed the 72.0 GB that a h100 can give by ",
    ),
    (
        "failures within every interval",
        "--failure-hours 100 checkpoint_every_tokens=5000000000000",
        "no interval of ",
    ),
    ("a picture of another kind", "--picture p.pdf", "ends in '.pdf', expected .svg or .html"),
    ("a file for no search", "--write layout", "writes the best layout of --search"),
    ("an override of another name", "tokns=3", "unknown key 'tokns'"),
    ("a GPU that the size does not run on", "--gpu cpu", "size 8b is split for h100"),
]

ROWS = [Row(f"a plan with {name}", f"{PLAN} {words}", [says]) for name, words, says in CASES]
ROWS += [
    Row(
        "a plan of a stage that the size does not have",
        "plan lce_512k --size 3b",
        ["lce_512k: 3b does not go through it, only 8b, 30b, tiny"],
    ),
    Row("a plan without a size", "plan phase1", ["Missing option '--size'"]),
    Row("a plan of an unknown size", "plan --size 7b", ["unknown size '7b'"]),
    Row("a plan of an unknown stage", "plan phase9 --size 8b", ["unknown stage 'phase9'"]),
    Row(
        "a search on too few GPUs",
        "plan phase1 --size 30b --gpu h100 --gpus 4 --search",
        ["none of ", "layouts of 4 h100 fits", "GB too many"],
    ),
    Row(
        "a layout of two stages",
        "plan phase1..phase2 --size 8b --search --write layout",
        ["--write layout: one stage's layout"],
    ),
]
