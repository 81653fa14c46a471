"""RL takes the folder of a LoRA adapter as its model."""

import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from shaped_trl import cli


def test_rl_goes_on_with_an_adapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    base = tiny_model().from_pretrained("model")
    get_peft_model(base, adapter).save_pretrained("lora")
    rows = [{"prompt": f"w{i}", "gold": "w1"} for i in range(8)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(
        "def even(completions, **columns):\n"
        "    return [float(len(text.split()) % 2 == 0) for text in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = {
        "dataset_name": "p.jsonl",
        "reward_funcs": "rewards.even",
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 4,
        "max_steps": 1,
        "save_strategy": "no",
        "learning_rate": 0.1,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
    }
    given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    argv = ["--model_name_or_path", "./lora", "--use_peft", "--output_dir", "rl"]
    assert cli.main(["rlvr", *given, *argv]) == 0
    before, after = (load_file(f"{name}/adapter_model.safetensors") for name in ("lora", "rl"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
