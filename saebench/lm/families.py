"""Model families that the test suite builds and checks (imports nothing heavy)."""

from __future__ import annotations

FAMILIES: dict[str, str] = {
    "gpt2": "openai-community/gpt2",
    "gpt_neox": "EleutherAI/pythia-70m-deduped",
    "llama": "meta-llama/Llama-3.2-1B",
    "gemma2": "google/gemma-2-2b",
    "qwen2": "Qwen/Qwen2.5-0.5B",
}
"""``model_type`` of the Hugging Face config → an example model. Other decoder families work when the checks at load pass."""
