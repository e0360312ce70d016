"""Write the arrays of a small batch and what TRL's ``GRPOTrainer`` makes of them: ``trl_losses.py
FILE``, run by the Python of an environment with TRL.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

WORDS = 64
PROMPT = 3
LENGTHS = [6, 4, 2, 5]
FORMS = [
    ("token", "k3", {"loss_type": "dapo", "use_bias_correction_kl": False}),
    ("token", "k3_ratio", {"loss_type": "dapo", "use_bias_correction_kl": True}),
    ("sequence", "k3", {"loss_type": "grpo", "use_bias_correction_kl": False}),
]


def _tokenizer():
    vocabulary = {f"t{number}": number for number in range(WORDS)}
    vocabulary |= {"<eos>": WORDS, "<pad>": WORDS + 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def _model(folder: Path):
    config = GraniteConfig(
        vocab_size=WORDS + 2,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=WORDS + 1,
        eos_token_id=WORDS,
        bos_token_id=WORDS,
    )
    # TRL reads the model's folder again
    GraniteForCausalLM(config).float().save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return GraniteForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _trainer(model, folder: Path, **settings):
    config = GRPOConfig(
        output_dir=str(folder / "output"),
        per_device_train_batch_size=len(LENGTHS),
        num_generations=len(LENGTHS),
        max_completion_length=8,
        epsilon=0.2,
        epsilon_high=0.28,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        **settings,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **others: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["t1 t2"] * 8}),
        processing_class=_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def main(output: Path, folder: Path) -> None:
    torch.manual_seed(time.time_ns() % 2**31)
    model = _model(folder)
    shape = (len(LENGTHS), max(LENGTHS))
    prompts = torch.randint(WORDS, (len(LENGTHS), PROMPT))
    answers = torch.randint(WORDS, shape)
    mask = (torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]).long()
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": answers,
        "completion_mask": mask,
        "advantages": torch.randn(len(LENGTHS)),
        "num_items_in_batch": mask.sum().float(),
    }
    with torch.no_grad():
        logits = model(
            torch.cat([prompts, answers], 1),
            attention_mask=torch.cat([inputs["prompt_mask"], mask], 1),
        ).logits
    chosen = logits[:, PROMPT - 1 : -1].log_softmax(-1).gather(-1, answers[..., None]).squeeze(-1)
    inputs["old_per_token_logps"] = chosen + 0.35 * torch.randn(shape)
    inputs["ref_per_token_logps"] = chosen + 0.5 * torch.randn(shape)

    losses = []
    for reduction, estimator, settings in FORMS:
        for beta in (0.0, 0.05, 0.09):
            trainer = _trainer(model, folder, beta=beta, **settings)
            trainer.model.train()
            loss = trainer._compute_loss(trainer.model, dict(inputs)).item()
            case = {"reduction": reduction, "kl_estimator": estimator, "kl_beta": beta}
            losses.append({**case, "loss": loss})

    arrays = {
        "log_probabilities": chosen.tolist(),
        "old": inputs["old_per_token_logps"].tolist(),
        "reference": inputs["ref_per_token_logps"].tolist(),
        "advantages": inputs["advantages"].tolist(),
        "mask": mask.tolist(),
        "losses": losses,
    }
    output.write_text(json.dumps(arrays))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]), Path(folder))
