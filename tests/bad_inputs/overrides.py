"""Overrides of a recipe's values, ``key=value``: read by ``show`` and every command that trains."""

from tests.bad_inputs.row import Row

# what is wrong, the words after show, what the sentence says
CASES = [
    ("no equals sign", "phase1 --size 8b seed", "override 'seed' has no '='"),
    ("no key", "phase1 --size 8b =3", "unknown key ''"),
    (
        "a misspelled key",
        "phase1 --size 8b tokns=3",
        "unknown key 'tokns' in override 'tokns=3' (did you mean 'tokens'?); "
        "`granite41 show phase1 --size 8b` lists every key",
    ),
    ("a group of keys", "phase1 --size 8b schedule=3", "unknown key 'schedule'"),
    (
        "a misspelled key of a group",
        "phase1 --size 8b optimizer.beta=[0.9,0.99]",
        "did you mean 'optimizer.betas'",
    ),
    ("an open list", "phase1 --size 8b seed=[1,", "'[1,' cannot be read as YAML"),
    ("an open reference", "phase1 --size 8b 'seed=${x'", "'${x' cannot be read as YAML"),
    ("a reference to nothing", "phase1 --size 8b 'seed=${x}'", "seed is '${x}', expected an int"),
    ("a fraction of an integer", "phase1 --size 8b seed=1.5", "seed is 1.5, expected an integer"),
    ("true for an integer", "phase1 --size 8b seed=true", "seed is True, expected an integer"),
    ("nothing for an integer", "phase1 --size 8b seed=", "seed is None, expected an integer"),
    (
        "a word for a number",
        "phase1 --size 8b schedule.lr_max=high",
        "schedule.lr_max is 'high', expected a number",
    ),
    (
        "not a number",
        "phase1 --size 8b schedule.lr_max=.nan",
        "schedule.lr_max is nan, expected a positive number",
    ),
    (
        "a number beyond all bounds",
        "phase1 --size 8b tokens=1e30",
        "tokens is 1e+30, expected a number below 2^63",
    ),
    ("a number for text", "phase1 --size 8b split=3", "split is 3, expected text"),
    (
        "one for true",
        "phase1 --size 8b parallelism.sequence_parallel=1",
        "parallelism.sequence_parallel is 1, expected true or false",
    ),
    (
        "an unknown precision",
        "phase1 --size 8b precision=fp8",
        "precision is 'fp8', expected one of bf16-mixed, 32",
    ),
    (
        "an unknown state of the optimizer",
        "phase1 --size 8b optimizer_state=warm",
        "expected one of fresh, carry",
    ),
    (
        "all conversations held out",
        "sft --size 8b validation_share=1",
        "validation_share is 1, expected a part between 0 and 1",
    ),
    (
        "checkpoints between validations",
        "sft --size 8b checkpoint_every_steps=750",
        "validate_every_steps 500 does not divide checkpoint_every_steps 750",
    ),
    (
        "masking at a length that has none",
        "lce_512k --size 8b document_masking=full",
        "document_masking is 'full', expected one of none",
    ),
    (
        "one number for two",
        "phase1 --size 8b optimizer.betas=0.9",
        "optimizer.betas is 0.9, expected a list of 2 values",
    ),
    (
        "a list of one for two",
        "phase1 --size 8b optimizer.betas=[0.9]",
        "expected a list of 2 values",
    ),
    (
        "a word in a list of numbers",
        "phase1 --size 8b optimizer.betas=[0.9,x]",
        "optimizer.betas is 'x', expected a number",
    ),
    (
        "an average over all steps",
        "phase1 --size 8b optimizer.betas=[0.9,1.0]",
        "expected two numbers below 1",
    ),
    ("an empty list", "rl_math --size 8b domains=[]", "expected a list of one or more values"),
    ("no tokens", "phase1 --size 8b tokens=0", "tokens is 0, expected a positive number"),
    ("fewer steps than none", "phase1 --size 8b steps=-3", "steps is -3, expected a positive"),
    (
        "an empty batch",
        "phase1 --size 8b global_batch_size=0",
        "global_batch_size is 0, expected a positive number",
    ),
    ("a seed below zero", "phase1 --size 8b seed=-1", "seed is -1, expected zero or a positive"),
    (
        "no tensor parallelism",
        "phase1 --size 8b parallelism.tensor_model_parallel_size=0",
        "parallelism.tensor_model_parallel_size is 0, expected a positive number",
    ),
    (
        "heads that do not divide",
        "phase1 --size 8b parallelism.tensor_model_parallel_size=3",
        "does not divide model.num_attention_heads 32",
    ),
    (
        "groups that do not divide",
        "phase1 --size 8b parallelism.tensor_model_parallel_size=16",
        "does not divide model.num_query_groups 8",
    ),
    (
        "a vocabulary that does not divide",
        "phase1 --size 8b model.vocab_size=100353",
        "does not divide model.vocab_size 100353",
    ),
    (
        "layers that do not divide",
        "phase1 --size 8b parallelism.pipeline_model_parallel_size=3",
        "does not divide model.num_layers 40",
    ),
    (
        "a sequence that does not divide",
        "phase1 --size 8b parallelism.context_parallel_size=3",
        "cannot cut sequence_length 4096",
    ),
    (
        "a batch that does not divide",
        "phase1 --size 8b parallelism.micro_batch_size=3",
        "does not divide global_batch_size 1024",
    ),
    (
        "sequence parallelism of one rank",
        "phase1 --size 3b parallelism.sequence_parallel=true",
        "tensor_model_parallel_size is 1",
    ),
    (
        "a batch stated twice",
        "phase1 --size 8b tokens_per_batch=8 global_batch_size=4",
        "set only one of the two",
    ),
    (
        "a component of one's own without room for it",
        "phase1 --size 8b mixture.mine=10",
        "mixture sums to 110 percent, expected 100",
    ),
    (
        "a component of a stage without a mixture",
        "sft --size 8b mixture.mine=10",
        "unknown key 'mixture.mine'",
    ),
    (
        "a mixture of more than everything",
        "phase1 --size 8b mixture.code=25",
        "mixture sums to 105 percent, expected 100",
    ),
    (
        "a misspelled component",
        "phase1 --size 8b mixture.cod=25",
        "did you mean 'mixture.code'",
    ),
    (
        "warm-up to the end",
        "sft --size 8b warmup_fraction=1",
        "expected fewer than schedule.tokens",
    ),
    (
        "samples that do not divide",
        "rl_math --size 8b samples_per_prompt=15",
        "samples_per_prompt 15 does not divide train_batch_size 1024",
    ),
]

ROWS = [Row(f"an override with {name}", f"show {words}", [says]) for name, words, says in CASES]
ROWS += [
    Row(
        "an override of a check",
        "check --size 8b --stage phase1 tokns=3",
        ["unknown key 'tokns'"],
    ),
    Row(
        "an override of a run",
        "run phase1 --size tiny tokns=3 --run-dir run",
        ["unknown key 'tokns'"],
    ),
    Row(
        "an override of a stage that trains",
        "train phase1 --size tiny tokns=3 --run-dir run --data data",
        ["unknown key 'tokns'"],
    ),
]
