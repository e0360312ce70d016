"""Hugging Face folders and checkpoints: ``import``, ``export``, ``merge``, ``generate``."""

from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Input, Row
from tests.helpers.model_folders import (
    EMBEDDING,
    Tensor,
    granite_tensors,
    tensor,
    write_model,
    write_shards,
    write_tensors,
)

IMPORT = "import --hf hf --output out"
GENERATE = "generate hf"
EVAL = "eval smoke --model hf --size tiny --output out"
MERGE = "merge --method linear --parents hf other --weights 0.5 0.5 --output out"
SINGLE = "hf/model.safetensors"
INDEX = "hf/model.safetensors.index.json"
K_PROJ = "model.layers.1.self_attn.k_proj.weight"
Tensors = dict[str, Tensor]


def config(**fields: Any) -> Input:
    """Write the model with other values in config.json; ``...`` removes a key."""
    return lambda folder: write_model(folder / "hf", **fields)


def tensors(change: Callable[[Tensors], Mapping[str, Tensor]]) -> Input:
    """Write the model with other tensors."""

    def write(folder: Path) -> None:
        write_model(folder / "hf")
        write_tensors(folder / SINGLE, change(granite_tensors()))

    return write


def shards(folder: Path) -> None:
    """Write the model in two files with an index."""
    write_model(folder / "hf")
    (folder / SINGLE).unlink()
    write_shards(folder / "hf", granite_tensors())


def removed(path: str) -> Input:
    """Remove a file that an input before this one wrote."""
    return lambda folder: (folder / path).unlink()


def only_pickle(folder: Path) -> None:
    """Write the model with its weights in a file that can run code."""
    write_model(folder / "hf")
    (folder / SINGLE).rename(folder / "hf" / "pytorch_model.bin")


def header(text: str) -> Input:
    """Write the model with another header of its safetensors file."""
    content = len(text).to_bytes(8, "little") + text.encode()
    return inputs.text(SINGLE, content)


def entry(dtype: str, shape: list[Any], offsets: list[Any]) -> str:
    """Return a header with one tensor."""
    return f'{{"a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}'


# what is wrong -> the input, and what each command says
FOLDERS: dict[str, tuple[list[Input], list[str]]] = {
    "a model of another kind of rotary embedding, transformers 4": (
        [config(rope_scaling={"rope_type": "linear", "factor": 2.0})],
        ["hf/config.json: rope_scaling is", "only an unscaled rotary embedding"],
    ),
    "a model of another kind of rotary embedding, transformers 5": (
        [config(rope_theta=..., rope_parameters={"rope_type": "yarn", "rope_theta": 1e7})],
        ["hf/config.json: rope_parameters is", "'yarn'", "only an unscaled rotary embedding"],
    ),
    "rotary embeddings by kind of layer": (
        [config(rope_theta=..., rope_parameters={"full_attention": {"rope_theta": 1e7}})],
        ["hf/config.json: rope_parameters is", "only an unscaled rotary embedding"],
    ),
    "rotary parameters that are a list": (
        [config(rope_parameters=[1e7])],
        ["hf/config.json: rope_parameters is [10000000.0]"],
    ),
    "two different thetas": (
        [config(rope_parameters={"rope_type": "default", "rope_theta": 1e6})],
        ["contradicts itself, rope_parameters.rope_theta is 1000000.0 but rope_theta 10000000.0"],
    ),
    "two different types": (
        [config(dtype="float32")],
        ["contradicts itself, dtype is 'float32' but torch_dtype 'bfloat16'"],
    ),
    "a type that is none": ([config(torch_dtype="int4")], ["dtype is 'int4', expected one of"]),
    "no theta": ([config(rope_theta=...)], ["hf/config.json: rope_theta is missing"]),
    "no theta in the form of transformers 5": (
        [config(rope_theta=..., rope_parameters={"rope_type": "default"})],
        ["hf/config.json: rope_theta is missing"],
    ),
    "a null for a number": (
        [config(residual_multiplier=None)],
        ["hf/config.json: residual_multiplier is missing"],
    ),
    "a boolean for a number": (
        [config(num_attention_heads=True)],
        ["num_attention_heads is True, expected a positive integer"],
    ),
    "a text for a number": (
        [config(intermediate_size="12")],
        ["intermediate_size is '12', expected a positive integer"],
    ),
    "a fraction for a number of layers": (
        [config(num_hidden_layers=2.5)],
        ["num_hidden_layers is 2.5, expected a positive integer"],
    ),
    "a negative size": ([config(vocab_size=-16)], ["vocab_size is -16, expected"]),
    "a theta of zero": ([config(rope_theta=0)], ["rope_theta is 0, expected a positive number"]),
    "a theta that is no number": ([config(rope_theta=float("nan"))], ["rope_theta is nan"]),
    "an infinite multiplier": ([config(logits_scaling=float("inf"))], ["logits_scaling is inf"]),
    "an integer beyond all floats": ([config(rope_theta=10**400)], ["rope_theta is 1000"]),
    "more layers than any model has": (
        [config(num_hidden_layers=10**9)],
        ["num_hidden_layers is 1000000000, expected at most"],
    ),
    "3 key-value heads under 5 heads": (
        [config(num_attention_heads=5, num_key_value_heads=3, head_dim=2)],
        ["num_attention_heads 5 is no multiple of num_key_value_heads 3"],
    ),
    "a width that the heads do not divide": (
        [config(num_attention_heads=3, num_key_value_heads=3)],
        ["hidden_size 8 is no multiple of num_attention_heads 3"],
    ),
    "an odd width of a head": ([config(head_dim=3)], ["head_dim is 3, but"]),
    "an untied output head": (
        [config(tie_word_embeddings=False)],
        ["tie_word_embeddings is False, but Granite 4.1 has True"],
    ),
    "a head that is untied by default": (
        [config(tie_word_embeddings=...)],
        ["tie_word_embeddings is False (as it is absent)"],
    ),
    "a quantized model": (
        [config(quantization_config={"quant_method": "fp8"})],
        ["quantization_config is {'quant_method': 'fp8'}"],
    ),
    "rotary embeddings of a part of each head": (
        [config(partial_rotary_factor=0.5)],
        ["partial_rotary_factor is 0.5"],
    ),
    "another activation": ([config(hidden_act="gelu")], ["hidden_act is 'gelu'"]),
    "a bias of attention": ([config(attention_bias=True)], ["attention_bias is True"]),
    "a padding token beyond the vocabulary": (
        [config(pad_token_id=16)],
        ["pad_token_id is 16, expected an id below vocab_size 16"],
    ),
    "an end token that is a text": (
        [config(eos_token_id=[2, "<end>"])],
        ["eos_token_id is [2, '<end>'], expected an id"],
    ),
    "a config without a kind": (
        [config(model_type=...)],
        ["hf/config.json: model_type is None, so this is not the config of a model"],
    ),
    "a kind that is a lone surrogate": (
        [config(model_type=["\ud800"])],
        ["hf/config.json: model_type is"],
    ),
    "a config that is cut off": (
        [config(), inputs.damaged("hf/config.json", inputs.cut)],
        ["hf/config.json: is not valid JSON"],
    ),
    "a config that is a list": (
        [config(), inputs.damaged("hf/config.json", inputs.a_list)],
        ["hf/config.json: holds a JSON list"],
    ),
    "a config that is not UTF-8": (
        [config(), inputs.damaged("hf/config.json", inputs.latin_1)],
        ["hf/config.json: is not UTF-8"],
    ),
    "two sets of weights, in one file and in several": (
        [config(), lambda folder: write_shards(folder / "hf", granite_tensors())],
        ["hf: holds two sets of weights", "model-00001-of-00002", "and model.safetensors"],
    ),
    "two sets of weights, the second with another name": (
        [config(), inputs.text("hf/consolidated.safetensors", b"")],
        ["hf: holds two sets of weights, model.safetensors and consolidated.safetensors"],
    ),
    "shards without their index": (
        [shards, removed(INDEX)],
        ["hf: holds model-00001-of-00002.safetensors and 1 more", "nor model.safetensors.index"],
    ),
    "a missing shard": (
        [shards, removed("hf/model-00002-of-00002.safetensors")],
        ["hf/model-00002-of-00002.safetensors: not found, but"],
    ),
    "an index that is cut off": (
        [shards, inputs.damaged(INDEX, inputs.cut)],
        [f"{INDEX}: is not valid JSON"],
    ),
    "an index without a map": (
        [shards, inputs.damaged(INDEX, inputs.no_keys)],
        [f"{INDEX}: damaged, it has no weight_map"],
    ),
    "an index that leads out of its folder": (
        [shards, inputs.with_values(INDEX, weight_map={K_PROJ: "../model.safetensors"})],
        [f"{INDEX}: damaged, '../model.safetensors' is not the name of a safetensors file"],
    ),
    "an index that names another file": (
        [
            shards,
            inputs.damaged(INDEX, lambda text: text.replace(b"1-of", b"9-of", 1)),
            lambda folder: write_tensors(folder / "hf" / "model-00009-of-00002.safetensors", {}),
        ],
        [f"{INDEX}: says that 'model.embed_tokens.weight' is in 'model-00009-of-00002"],
    ),
    "a tensor in two files": (
        [
            shards,
            lambda folder: write_tensors(
                folder / "hf" / "model-00001-of-00002.safetensors", granite_tensors()
            ),
        ],
        ["hf: model-00001-of-00002.safetensors and model-00002-of-00002.safetensors both hold"],
    ),
    "weights that can run code": (
        [only_pickle],
        ["model.safetensors: not found; only safetensors are read (a .bin file can run code"],
    ),
    "an adapter": (
        [config(), inputs.text("hf/adapter_config.json", "{}")],
        ["hf/adapter_config.json: this folder holds an adapter, not a model"],
    ),
    "weights that are cut off": (
        [config(), inputs.damaged(SINGLE, inputs.cut)],
        [f"{SINGLE}: damaged or cut short"],
    ),
    "weights without a header": (
        [config(), inputs.text(SINGLE, b"\x01")],
        [f"{SINGLE}: damaged or cut short"],
    ),
    "weights with a header of terabytes": (
        [config(), inputs.text(SINGLE, b"\0\0\0\0\0\1\0\0{}")],
        [f"{SINGLE}: damaged or cut short (a header of 1,099,511,627,776 bytes)"],
    ),
    "a header that is a list": ([config(), header("[]")], [f"{SINGLE}: damaged or cut short"]),
    "a header nested too deeply": (
        [config(), header("[" * 100_000)],
        [f"{SINGLE}: damaged or cut short"],
    ),
    "a header with a hole": (
        [config(), header(entry("F32", [0], [4, 4]))],
        [f"{SINGLE}: damaged or cut short ('a' does not begin where"],
    ),
    "a header with a negative length": (
        [config(), header(entry("F32", [-1], [0, -4]))],
        [f"{SINGLE}: damaged or cut short ('a' has the number -1)"],
    ),
    "a header with a boolean": (
        [config(), header(entry("F32", ["true"], [0, 4]).replace("'", ""))],
        [f"{SINGLE}: damaged or cut short ('a' has the number True)"],
    ),
    "a header with another size than its shape": (
        [config(), header(entry("F32", [2], [0, 4]))],
        [f"{SINGLE}: damaged or cut short ('a' has 4 bytes, expected 8)"],
    ),
    "a header with an unknown type": (
        [config(), header(entry("Q4", [0], [0, 0]))],
        [f"{SINGLE}: damaged or cut short ('a' has the type 'Q4')"],
    ),
    "a missing tensor": (
        [tensors(lambda all_: {name: one for name, one in all_.items() if name != K_PROJ})],
        [f"hf: lacks the tensor {K_PROJ}", "config.json and weights do not belong together"],
    ),
    "a tensor that no Granite has": (
        [tensors(lambda all_: all_ | {"model.norm.bias": tensor((8,))})],
        ["hf: has the tensor 'model.norm.bias', not Granite's"],
    ),
    "a tensor of another shape": (
        [tensors(lambda all_: all_ | {K_PROJ: tensor((4, 7))})],
        [f"{K_PROJ} has shape (4, 7), but config.json asks for (4, 8)"],
    ),
    "a tensor of another type": (
        [tensors(lambda all_: all_ | {K_PROJ: tensor((4, 8), "I8")})],
        [f"{K_PROJ} is I8, expected one of BF16, F16, F32"],
    ),
    "a tokenizer with more tokens than the model has rows": (
        [
            tensors(lambda all_: all_ | {EMBEDDING: tensor((15, 8))}),
            inputs.with_values("hf/config.json", vocab_size=15),
        ],
        ["hf: the tokenizer has ids up to 15 but the model only 15 rows"],
    ),
    "a tokenizer that is cut off": (
        [config(), inputs.damaged("hf/tokenizer.json", inputs.cut)],
        ["hf/tokenizer.json: is not valid JSON"],
    ),
    "an output head beside a tied embedding": (
        [tensors(lambda all_: all_ | {"lm_head.weight": tensor((16, 8), seed=99)})],
        [f"lm_head.weight is not {EMBEDDING} (other numbers)"],
    ),
    "an output head of another type than the embedding": (
        [tensors(lambda all_: all_ | {"lm_head.weight": tensor((16, 8), "F32")})],
        [f"lm_head.weight is not {EMBEDDING} (F32 [16, 8] beside BF16 [16, 8])"],
    ),
}


def folder_rows(name: str, written: list[Input], says: list[str]) -> list[Row]:
    """Return a row for each command that reads a model's folder."""

    def write_other(folder: Path) -> None:
        write_model(folder / "other")

    return [
        Row(f"{name}, imported", IMPORT, says, written),
        Row(f"{name}, generating", GENERATE, says, written),
        Row(f"{name}, evaluated", EVAL, says, written),
        Row(f"{name}, merged", MERGE, says, [*written, write_other], slow=True),
    ]


ROWS = [
    Row(
        "a model folder that is not there",
        "import --hf ./nowhere --output out",
        ["nowhere/config.json: not found"],
    ),
    Row(
        "a checkpoint that is not there",
        "export --checkpoint nowhere --output out",
        ["nowhere: not found", "NeMo 2 checkpoint"],
        slow=True,
    ),
    Row(
        "a merge without weights",
        "merge --method linear --parents a b --output out",
        ["--weights or --sweep"],
    ),
    Row(
        "a question to a model without a chat template",
        f"{GENERATE} --chat",
        ["hf: holds no chat_template.jinja"],
        [config(), removed("hf/chat_template.jinja")],
    ),
    Row(
        "a continuation by a model that is not there",
        "generate nowhere",
        ["nowhere: no config.json"],
    ),
    Row(
        "more tokens than the model has positions",
        "generate hf --tokens 100000",
        ["--tokens 100000", "beyond the 64 positions of hf", "at most 63"],
        [config()],
    ),
    Row(
        "a prompt and tokens beyond the model's positions",
        "generate hf --prompt 'w3 w4' --tokens 63",
        ["--tokens 63: with a prompt of 2 tokens", "at most 62"],
        [config()],
        slow=True,
    ),
    Row(
        "an empty prompt",
        "generate hf --prompt ''",
        ["--prompt '': has no tokens"],
        [config()],
        slow=True,
    ),
    Row(
        "a model of another kind",
        IMPORT,
        ["hf/config.json: model_type is 'llama', but only 'granite' is known"],
        [config(model_type="llama")],
    ),
    Row(
        "a tokenizer without a class",
        IMPORT,
        ["hf: transformers cannot load this tokenizer"],
        [config(), inputs.json_file("hf/tokenizer_config.json", {"eos_token": "<end>"})],
        slow=True,
    ),
    Row(
        "a model of another kind without a context",
        EVAL,
        ["hf/config.json: max_position_embeddings is missing"],
        [config(model_type="llama", max_position_embeddings=...)],
    ),
    *chain.from_iterable(
        folder_rows(name, written, says) for name, (written, says) in FOLDERS.items()
    ),
]
