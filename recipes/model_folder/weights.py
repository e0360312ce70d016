"""The weights of a model's folder: which files hold them, and each tensor's place."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.json_files import read_json
from recipes.model_folder.config import CONFIG, ModelConfig, parse_config, read_values
from recipes.model_folder.safetensors_file import SafetensorsFile, StoredTensor, read_header

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
# transformers' second name of the tied embedding, which a folder may hold a second time
TIED_EMBEDDING = "lm_head.weight"
_FILE_NAME = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
_ADAPTER = "adapter_config.json"
# what Granite models are trained in
_DTYPES = ("BF16", "F16", "F32")


def weight_files(folder: Path) -> tuple[SafetensorsFile, ...]:
    """Return the safetensors files that hold the weights: ``model.safetensors``, or those that the
    index names. There must be no other ones, of which another program may take.

    Raises:
        UserError: there are none, two sets of weights, or a file or the index is damaged.
    """
    _require_whole_model(folder)

    # an index names the files, without one there is a single file
    index = folder / INDEX
    file_of_tensor = {}
    names = {WEIGHTS}
    if index.is_file():
        file_of_tensor = _read_index(index)
        names = set(file_of_tensor.values())

    found = {path.name for path in folder.glob("*.safetensors")}
    _require_one_set(folder, names, found, has_index=index.is_file())
    files = tuple(read_header(folder / name) for name in sorted(names))

    # transformers takes what is in the files, other programs what the index says
    stored: dict[str, str] = {}
    for file in files:
        for tensor in file.tensors:
            if tensor.name in stored:
                raise UserError(
                    f"{folder}: {stored[tensor.name]} and {file.path.name} both hold "
                    f"{tensor.name!r:.100}; download the folder again"
                )
            stored[tensor.name] = file.path.name

    # a name in only one of the two is harmless: required ones are looked for later
    for name, file_name in stored.items():
        file_in_index = file_of_tensor.get(name, file_name)
        if file_in_index != file_name:
            raise UserError(
                f"{index}: says that {name!r:.100} is in {file_in_index!r}, but {file_name} holds "
                f"it; download the folder again"
            )
    return files


def _read_index(index: Path) -> dict[str, str]:
    remedy = "download the folder again"
    file_of_tensor = read_json(index, remedy).get("weight_map")
    if not isinstance(file_of_tensor, dict) or not file_of_tensor:
        raise UserError(f"{index}: damaged, it has no weight_map; {remedy}")
    for name in file_of_tensor.values():
        # an index may not lead out of its folder
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise UserError(
                f"{index}: damaged, {name!r:.60} is not the name of a safetensors file beside it; "
                f"{remedy}"
            )
    return file_of_tensor


def _require_whole_model(folder: Path) -> None:
    # transformers would load the model that the adapter was trained on, and add it
    if (folder / _ADAPTER).is_file():
        raise UserError(
            f"{folder / _ADAPTER}: this folder holds an adapter, not a model; merge it into its "
            f"model first (peft's merge_and_unload), and name that folder"
        )


def _require_one_set(folder: Path, names: set[str], found: set[str], has_index: bool) -> None:
    if names == found:
        return
    missing = sorted(names - found)
    others = sorted(found - names)
    if missing and has_index:
        problem = f"{folder / missing[0]}: not found, but {INDEX} names it"
    elif missing and others:
        problem = (
            f"{folder}: holds {_words(others)}, but neither {WEIGHTS} nor {INDEX}, which says what "
            f"is in which file"
        )
    elif missing:
        raise UserError(
            f"{folder / WEIGHTS}: not found; only safetensors are read (a .bin file can run code "
            f"when it is loaded), so name a folder with them"
        )
    else:
        raise UserError(
            f"{folder}: holds two sets of weights, {_words(sorted(names))} and {_words(others)}"
            f"{f' ({INDEX} names the former)' if has_index else ''}; keep one of them"
        )
    raise UserError(f"{problem}; download the folder again")


def _words(names: list[str]) -> str:
    """Return the first name, and how many there are beside it."""
    if len(names) == 1:
        return names[0]
    return f"{names[0]} and {len(names) - 1} more"


def granite_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Granite model in transformers: name -> shape."""
    hidden = config.hidden_size
    ffn = config.intermediate_size
    query = config.num_attention_heads * config.head_dim
    key_value = config.num_key_value_heads * config.head_dim
    in_layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, query),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        for name, shape in in_layer.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    shapes[FINAL_NORM] = (hidden,)
    return shapes


def _check_tensors(folder: Path, config: ModelConfig, tensors: dict[str, StoredTensor]) -> None:
    shapes = granite_shapes(config)
    # names first, as most of what does not belong together shows there
    missing = sorted(shapes.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - shapes.keys() - {TIED_EMBEDDING})
    if missing or unknown:
        problem = f"lacks the tensor {missing[0]}" if missing else ""
        problem = problem or f"has the tensor {unknown[0]!r:.100}, not Granite's"
        raise UserError(
            f"{folder}: {problem} ({len(missing)} missing, {len(unknown)} unknown), so {CONFIG} "
            f"and weights do not belong together; download the folder again"
        )
    for name, expected in shapes.items():
        tensor = tensors[name]
        if tensor.shape != expected:
            raise UserError(
                f"{folder}: {name} has shape {tensor.shape}, but {CONFIG} asks for {expected}, so "
                f"they do not belong together; put the model's own {CONFIG} there"
            )
        if tensor.dtype not in _DTYPES:
            raise UserError(
                f"{folder}: {name} is {tensor.dtype}, expected one of {', '.join(_DTYPES)}; name a "
                f"model that is not quantized"
            )


def _check_vocabulary(folder: Path, config: ModelConfig) -> None:
    """Raise where the tokenizer, if there is one, has a token without a row of the embedding."""
    # a twentieth of a second to import
    from recipes.common.tokenizer_files import TOKENIZER, TokenizerFolder

    if (folder / TOKENIZER).is_file():
        TokenizerFolder(folder).check_rows(config.vocab_size)


def _check_tied_head(folder: Path, tensors: dict[str, StoredTensor]) -> None:
    """Raise where the output head is there and is not the embedding, which replaces it."""
    embedding = tensors[EMBEDDING]
    head = tensors.get(TIED_EMBEDDING)
    if head is None:
        return
    problem = None
    if (head.dtype, head.shape) != (embedding.dtype, embedding.shape):
        problem = (
            f"{head.dtype} {list(head.shape)} beside {embedding.dtype} {list(embedding.shape)}"
        )
    elif any(one != other for one, other in zip(head.read(), embedding.read(), strict=True)):
        problem = "other numbers"
    if problem:
        raise UserError(
            f"{folder}: {TIED_EMBEDDING} is not {EMBEDDING} ({problem}), but {CONFIG} ties them "
            f"(tie_word_embeddings); remove it, or name a model that was trained with tied ones"
        )


@dataclass(frozen=True)
class OpenedFolder:
    """A model's folder.

    Attributes:
        folder: the folder.
        values: config.json in the form of transformers 4.
        files: those that hold the weights.
    """

    folder: Path
    values: dict[str, Any]
    files: tuple[SafetensorsFile, ...]

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """Name -> tensor, of all files."""
        found = {}
        for file in self.files:
            for tensor in file.tensors:
                found[tensor.name] = tensor
        return found


@dataclass(frozen=True)
class GraniteFolder(OpenedFolder):
    """A Granite model's folder, whose tensors are those that its config asks for.

    Attributes:
        config: the numbers of config.json.
    """

    config: ModelConfig


def open_folder(folder: Path) -> OpenedFolder:
    """Open a folder of any kind of model.

    Raises:
        UserError: as :func:`recipes.model_folder.config.read_values` and :func:`weight_files`; of a
            Granite model as :func:`open_granite`.
    """
    values = read_values(folder)
    if values["model_type"] == "granite":
        return open_granite(folder)
    return OpenedFolder(folder, values, weight_files(folder))


def open_granite(folder: Path) -> GraniteFolder:
    """Open the folder of a Granite model.

    Raises:
        UserError: as :func:`recipes.model_folder.config.parse_config` and :func:`weight_files`; a
            tensor is missing, unknown, of another shape or of a type that no Granite model is
            trained in; the output head is another one than the embedding; or the tokenizer has more
            tokens than the embedding has rows.
    """
    values = read_values(folder)
    config = parse_config(values, folder / CONFIG)
    opened = GraniteFolder(folder, values, weight_files(folder), config)
    _check_tensors(folder, config, opened.tensors)
    _check_tied_head(folder, opened.tensors)
    _check_vocabulary(folder, config)
    return opened
