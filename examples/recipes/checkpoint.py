"""The model that a recipe works on: a checkpoint in a folder, or a tiny random one that needs no download."""

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def parser(description):
    """A command line that takes a checkpoint."""
    arguments = argparse.ArgumentParser(description=description.partition("\n")[0])
    arguments.add_argument("checkpoint", nargs="?", help="a folder with a model and its tokenizer; else a random model")
    return arguments


def load(folder=None):
    """Return a model, ``encode(text)`` (tokens, [1, n]) and ``decode(tokens)``, of the checkpoint in ``folder``."""
    if folder is None:
        return tiny().to(DEVICE), spell, read
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto").eval().to(DEVICE)
    return model, lambda text: tokenizer(text, return_tensors="pt").input_ids.to(DEVICE), tokenizer.decode


def tiny():
    """A Llama of 6 small layers with random weights, which knows 95 characters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        vocab_size=95,
        initializer_range=0.2,  # an edit changes the text
    )
    return LlamaForCausalLM(config).eval()


def spell(text):
    """A token for each character of a plain English text."""
    return torch.tensor([[(ord(character) - 32) % 95 for character in text]], device=DEVICE)


def read(tokens):
    """The characters of ``tokens`` ([n])."""
    return "".join(chr(32 + token) for token in tokens.tolist())
