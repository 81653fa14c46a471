"""Send a trained model to the Hub together with its evaluation.

    hf auth login
    python examples/push_to_hub.py outputs/sft me/my-model --benchmarks gsm8k --n 16

Training with `--push_to_hub` sends a model with its card. This script is for a model that is in a
folder already. It evaluates the model and writes the results into the card. Then it sends the
weights, the card, and the graded samples as a data set, which the card links. The repositories are
private.
"""

import argparse

from huggingface_hub import HfApi
from shaped_eval import evaluate_model
from shaped_eval.publish import PublishOptions, publish

# the files of a model, without those that name folders of this machine
MODEL_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"]
TOKENIZER_FILES = ["tokenizer*", "special_tokens_map.json", "chat_template.jinja"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("repository", help="such as me/my-model")
    parser.add_argument("--benchmarks", default="gsm8k", help="names or files, with commas")
    parser.add_argument("--n", type=int, default=16, help="samples of each problem")
    parser.add_argument("--limit", type=int, help="take the first problems only")
    parser.add_argument("--max_new_tokens", type=int, default=512)
    parser.add_argument("--out", default="outputs/push_to_hub", help="folder of the evaluation")
    given = parser.parse_args(argv)
    # a mistake in the names, or a missing login, ends the script here
    options = PublishOptions(publish_to=given.model, push_to_hub=given.repository, private=True)
    evaluate_model(
        given.model,
        given.benchmarks,
        given.out,
        n=given.n,
        limit=given.limit,
        max_new_tokens=given.max_new_tokens,
    )
    hub = HfApi(library_name="shaped-trl")
    hub.create_repo(given.repository, private=True, exist_ok=True)
    hub.upload_folder(
        repo_id=given.repository,
        folder_path=given.model,
        ignore_patterns="checkpoint-*/**",
        allow_patterns=MODEL_FILES + TOKENIZER_FILES,
        commit_message="Weights",
    )
    publish([given.out], options)


if __name__ == "__main__":
    main()
