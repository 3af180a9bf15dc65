"""Small models of many architectures, of four decoder layers each, and inputs for them."""

import torch
import transformers

LAYERS = 4
SMALL = {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
LLAMA_LIKE = {
    **SMALL,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
MODELS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA_LIKE),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**LLAMA_LIKE, "sliding_window": 8}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**LLAMA_LIKE, "head_dim": 16}),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            **LLAMA_LIKE,
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {**SMALL, "n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 128},
    ),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"},
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**LLAMA_LIKE, "num_local_experts": 4}),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {**SMALL, "hidden_size": 64, "num_hidden_layers": LAYERS, "state_size": 8},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": 96,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 96,
            "num_layers": LAYERS,
            "num_decoder_layers": LAYERS,
            "num_heads": 4,
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": None,
        },
    ),
}


def built(name):
    """The model ``name`` of the table, with weights from a seed."""
    kind, config, settings = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings)).eval()
    model.generation_config.eos_token_id = None
    return model


def tokens_and_mask():
    """Tokens of shape [2, 20]; the first of one row are padding, so that masks matter."""
    tokens = torch.randint(2, 96, (2, 20), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    return tokens, mask
